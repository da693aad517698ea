"""Versions of folders at a URL: a folder of this machine, a server of S3 and a store that fails."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from s3_fixtures import s3  # noqa: F401

from search.artifacts import Artifacts, Away
from space.seals import Damaged


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Artifacts]:
    """An empty store of either kind."""
    if request.param == "folder":
        yield Artifacts.at(str(tmp_path / "store"), wait_s=1)
    else:
        yield Artifacts.at(request.getfixturevalue("s3"), wait_s=5)


def written(folder: Path, **content: str) -> dict[str, Path]:
    """Files of a folder, by name."""
    folder.mkdir(exist_ok=True)
    for name, text in content.items():
        (folder / name).write_text(text)
    return {name: folder / name for name in content}


def names(store: Artifacts, place: str = "runs/k") -> set[str]:
    """Ends of the names that a place of the store has."""
    return {name.split(".", 3)[3] for name in store._list(place)}


def test_what_was_put_is_what_another_gets(store: Artifacts, tmp_path: Path) -> None:
    store.require()
    assert store.latest("runs/k") is None
    store.put("runs/k", written(tmp_path / "here", a="1", b="2"))
    found = store.latest("runs/k")
    assert found is not None
    store.get(found, tmp_path / "there", ["a", "b", "none"])
    assert {p.name: p.read_text() for p in (tmp_path / "there").iterdir()} == {"a": "1", "b": "2"}


def test_a_later_version_replaces_what_changed_and_keeps_the_rest(
    store: Artifacts, tmp_path: Path
) -> None:
    first = store.put("runs/k", written(tmp_path / "here", a="1", b="2"))
    second = store.put("runs/k", written(tmp_path / "here", a="1", b="3"), first)
    assert store.latest("runs/k") == second
    assert second.files["a"] == first.files["a"]
    assert second.files["b"] != first.files["b"]
    assert names(store) == {"a", "b", "version"}, "nothing of the first is left"
    assert set(store.drop(second, "b").files) == {"a"}
    assert names(store) == {"a", "version"}


def test_what_an_earlier_owner_sends_is_not_taken(store: Artifacts, tmp_path: Path) -> None:
    old = store.inherit("runs/k", None)
    old = store.put("runs/k", written(tmp_path / "old", state="of the old"), old)
    new = store.inherit("runs/k", store.latest("runs/k"))
    for text in ("later", "still later"):
        old = store.put("runs/k", written(tmp_path / "old", state=text, record="old"), old)
    assert store.latest("runs/k") == new
    store.get(new, tmp_path / "there", ["state"])
    assert (tmp_path / "there" / "state").read_text() == "of the old", "as it was taken over"
    new = store.put("runs/k", written(tmp_path / "new", state="of the new"), new)
    assert store.latest("runs/k") == new
    assert names(store) == {"state", "version"}


def test_a_fence_that_refuses_leaves_the_version_before(store: Artifacts, tmp_path: Path) -> None:
    first = store.put("runs/k", written(tmp_path / "here", a="1"))

    def refuse() -> None:
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        store.put("runs/k", written(tmp_path / "here", a="2"), first, fence=refuse)
    assert store.latest("runs/k") == first


def test_damage_on_the_way_is_noticed_and_what_was_there_stays(tmp_path: Path) -> None:
    store = Artifacts.at(str(tmp_path / "store"), wait_s=0.1)
    version = store.put("runs/k", written(tmp_path / "here", a="1"))
    (tmp_path / "store" / "runs" / "k" / version.files["a"]["at"]).write_text("2")
    there = written(tmp_path / "there", a="mine")["a"]
    with pytest.raises(Damaged, match="another digest"):
        store.get(version, tmp_path / "there", ["a"])
    assert there.read_text() == "mine"


def test_a_version_that_is_a_part_or_whose_writer_died_does_not_count(tmp_path: Path) -> None:
    store = Artifacts.at(str(tmp_path / "store"))
    version = store.put("runs/k", written(tmp_path / "here", a="1"))
    place = tmp_path / "store" / "runs" / "k"
    whole = (place / f"{version.name}.version").read_bytes()
    (place / f"{version.following()}.a").write_text("sent, and then killed")
    assert store.latest("runs/k") == version
    for part in (b"", whole[:20], whole[:-5], whole.replace(b'"a"', b'"b"')):
        (place / f"{version.following()}.version").write_bytes(part)
        assert store.latest("runs/k") == version


def failing(store: Artifacts, times: int) -> Artifacts:
    """The same store, whose every method fails so often before it answers."""
    left = [times]

    class Failing:
        def __getattr__(self, name: str) -> Any:
            found: Callable[..., Any] = getattr(store.fs, name)

            def call(*args: Any, **options: Any) -> Any:
                if left[0]:
                    left[0] -= 1
                    raise ConnectionError("connection reset by peer")
                return found(*args, **options)

            return call

    return replace(store, fs=Failing())


def test_passing_errors_are_waited_out_and_lasting_ones_end_in_one_line(tmp_path: Path) -> None:
    store = Artifacts.at(str(tmp_path / "store"), wait_s=5)
    files = written(tmp_path / "here", a="1")
    failing(store, 3).put("runs/k", files)
    assert (found := store.latest("runs/k")) is not None
    assert set(found.files) == {"a"}
    away = failing(replace(store, wait_s=0.5), 10**6)
    with pytest.raises(Away, match=f"artifacts={store.url} does not answer: connection reset"):
        away.latest("runs/k")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("abfs://container/x", "run: pip install adlfs"),
        ("nonsense://x", "must be a folder or a URL that fsspec knows"),
        ("sftp://me:secret@host/x", "without a password"),
    ],
)
def test_a_wrong_url_says_what_to_do(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        Artifacts.at(url)
    assert "secret" not in str(error.value)


def test_a_bucket_that_is_not_there_is_refused_at_the_start(s3: str) -> None:  # noqa: F811
    missing = Artifacts.at(s3.replace("s3://studies", "s3://nowhere"), wait_s=0.5)
    with pytest.raises(ValueError, match="must be a place that can be written"):
        missing.require()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="must be a place that can be written"):
        Artifacts.at(str(tmp_path / "store"), wait_s=0.5).require()
    shutil.rmtree(tmp_path, ignore_errors=True)
