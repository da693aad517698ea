"""`space.files`: what readers see is whole, whenever a writer is killed."""

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from space.files import (
    file_atomically,
    folder_atomically,
    remove_parts,
    require_writable,
    write_atomically,
)

ROOT = Path(__file__).parent.parent.parent
WRITER = """
import sys, time
from contextlib import suppress
from pathlib import Path
from space.files import file_atomically, folder_atomically
writer = {{"file": file_atomically, "folder": folder_atomically}}["{kind}"]
with writer(Path("{path}")) as part:
    (part if "{kind}" == "file" else part / "a").write_text("half")
    print("written", flush=True)
    time.sleep(60)
"""
TEMPORARY = re.compile(r"\b(mkstemp|mkdtemp|os\.replace|os\.rename)\(")
DIRECT = re.compile(r"\.(write_text|write_bytes)\(")
FORMATS = {"space/formats/__init__.py", "space/formats/executorch.py"}
INTO_PARTS = {"space/hf/tokenizer.py", "space/hf/write.py", *FORMATS}
"""Files that write into a folder which is not yet in its place."""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_was_there_stays_when_a_writer_is_killed(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "kept"
    old = path if kind == "file" else path / "a"
    old.parent.mkdir(exist_ok=True)
    old.write_text("whole")
    code = WRITER.format(kind=kind, path=path)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"written\n"
        writer.send_signal(signal.SIGKILL)
    assert old.read_text() == "whole"


def test_a_file_is_there_when_all_went_well_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with file_atomically(path) as part:
        part.write_text("text")
        assert not path.exists()
    assert path.read_text() == "text"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_stays_as_it_was_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "before")
    with suppress(ZeroDivisionError), file_atomically(path) as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_secret_can_be_read_by_its_user_alone(tmp_path: Path) -> None:
    write_atomically(tmp_path / "secret", "text", mode=0o600)
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_a_folder_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for name in ("first", "second"):
        with folder_atomically(folder) as part:
            (part / name).write_text(name)
    assert [path.name for path in folder.iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [folder]


def test_what_killed_writers_of_a_folder_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".folder-1" / "a").mkdir(parents=True)
    others = [tmp_path / "folder", tmp_path / ".other-1"]
    for other in others:
        other.mkdir()
    remove_parts(tmp_path / "folder")
    assert sorted(tmp_path.iterdir()) == sorted(others)


def in_files(found: Callable[[str], object]) -> set[str]:
    """Files of the packages in whose code something is found."""
    folders = ("space", "search", "ablations", "reports")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return {str(path.relative_to(ROOT)) for path in paths if found(path.read_text())}


def test_files_are_put_in_their_place_by_this_module_alone() -> None:
    assert in_files(TEMPORARY.search) == {"space/files.py"}
    assert in_files(DIRECT.search) - {"space/files.py"} == INTO_PARTS


def test_two_starts_can_look_at_once_whether_a_folder_can_be_written(tmp_path: Path) -> None:
    failed: list[ValueError] = []

    def look() -> None:
        try:
            for _ in range(200):
                require_writable(tmp_path, "runs")
        except ValueError as error:
            failed.append(error)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_what_is_written_beside_needs_the_folder_around_it(tmp_path: Path) -> None:
    require_writable(tmp_path / "new" / "a.json", "to", "file", whole=True)
    assert not [*tmp_path.iterdir()], "looking makes nothing"
    with pytest.raises(ValueError, match=r"to must be a file, but .* is a folder"):
        require_writable(tmp_path, "to", "file", whole=True)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"to must be a file that can be written.*/file nothing"):
        require_writable(tmp_path / "file" / "a.json", "to", "file", whole=True)
