"""What all doors have in common: how implementations are found, and what is said of bad ones."""

import os
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Protocol

import pytest

import space.doors
from space.app import by_name, doors_of
from space.doors import Door, alike, label, members

FILE = """
class Shelf:
    title = "a shelf"

    def hold(self, weight):
        return weight < {limit}


FURNITURE = Shelf()
"""


class Furniture(Protocol):
    """What a room is furnished with."""

    title: str

    def hold(self, weight: float) -> bool: ...


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Door[Furniture]:
    """A door of a package of its own, with one implementation and one private module."""
    package = tmp_path / "furnishing"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "_wood.py").write_text("")
    (package / "shelf.py").write_text(FILE.format(limit=10))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield Door("furniture", "furnishing", Furniture)
    for name in [name for name in sys.modules if name.startswith("furnishing")]:
        del sys.modules[name]


def test_a_protocol_states_its_members() -> None:
    assert members(Furniture) == ["title", "hold"]


def test_modules_of_the_package_are_its_own(door: Door[Furniture]) -> None:
    assert door.names() == ["shelf"]
    assert door.load("shelf").hold(9)
    assert door.identity("shelf") == "shelf"


def test_a_file_is_loaded_and_known_by_its_content(door: Door[Furniture], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FILE.format(limit=5))
    (tmp_path / "yours.py").write_text(FILE.format(limit=6))
    assert not door.load("mine.py").hold(5)
    assert door.load("yours.py").hold(5)
    assert door.identity("mine.py").startswith("mine@")
    (tmp_path / "yours.py").write_text(FILE.format(limit=7))
    first = door.identity("yours.py")
    (tmp_path / "yours.py").write_text(FILE.format(limit=8))
    assert door.identity("yours.py") != first


@pytest.mark.parametrize("name", ["./mine.py", "sub/../mine.py", ".//mine.py"])
def test_a_file_has_one_name_however_its_path_is_spelt(
    door: Door[Furniture], tmp_path: Path, name: str
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "mine.py").write_text(FILE.format(limit=5))
    assert door.pinned(name) == door.pinned("mine.py")
    assert door.pinned(door.pinned(name)) == door.pinned("mine.py")


def test_names_of_one_source_are_alike_wherever_the_file_is(
    door: Door[Furniture], tmp_path: Path
) -> None:
    (tmp_path / "sub").mkdir()
    for place, limit in (("mine.py", 5), ("sub/mine.py", 5), ("yours.py", 5), ("sub/yours.py", 6)):
        (tmp_path / place).write_text(FILE.format(limit=limit))
    here = door.pinned("mine.py")
    assert alike(here, door.pinned(str(tmp_path / "mine.py")))
    assert alike(here, door.pinned("sub/mine.py"))
    assert not alike(here, door.pinned("yours.py")), "another name"
    assert not alike(door.pinned("yours.py"), door.pinned("sub/yours.py")), "another content"
    assert not alike("mine.py", "./mine.py"), "not pinned"
    assert alike(3, 3)
    assert not alike(3, "3")


def test_a_module_is_loaded_by_its_dotted_name(door: Door[Furniture], tmp_path: Path) -> None:
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "table.py").write_text(FILE.format(limit=100))
    assert door.load("lab.table").hold(99)


def test_an_entry_point_adds_a_name(
    door: Door[Furniture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bought.py").write_text(FILE.format(limit=50))
    point = EntryPoint(name="cupboard", value="bought", group="isoparam.furniture")
    monkeypatch.setattr(
        space.doors, "entry_points", lambda group: [point] if group == point.group else []
    )
    assert door.names() == ["cupboard", "shelf"]
    assert door.load("cupboard").hold(49)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must define FURNITURE, but does not"),
        ("class FURNITURE:\n    title = 1", "must have title, hold, but lacks hold"),
        ("import nothing_there", "could not be loaded: ModuleNotFoundError"),
        ("def", "could not be loaded: SyntaxError"),
    ],
)
def test_a_bad_file_is_refused_by_name(
    door: Door[Furniture], tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(ValueError, match=rf"bad\.py.*{said}"):
        door.load("bad.py")


def test_a_file_is_what_its_text_says_whatever_bytecode_there_is(
    door: Door[Furniture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's cache of bytecode knows a source by its size and its second."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "mine.py"
    path.write_text(FILE.format(limit=5))
    assert not door.load("mine.py").hold(6)
    written = path.stat().st_mtime
    path.write_text(FILE.format(limit=8))
    os.utime(path, (written, written))
    assert door.load("mine.py").hold(6)


def test_the_identity_of_a_module_is_that_of_the_code_that_runs(
    door: Door[Furniture], tmp_path: Path
) -> None:
    """A notebook goes on with what it imported, whatever is edited meanwhile."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "edited.py").write_text(FILE.format(limit=5))
    identity = door.identity("shop.edited")
    (tmp_path / "shop" / "edited.py").write_text(FILE.format(limit=8))
    assert not door.load("shop.edited").hold(6)
    assert door.identity("shop.edited") == identity


def test_implementations_have_folders_and_studies_of_their_own() -> None:
    names = ["wandb", "../my own.py", "lab.fast", "lab.slow"]
    assert [label(name) for name in names] == ["wandb", "my_own", "lab_fast", "lab_slow"]


@pytest.mark.parametrize(
    ("name", "files", "said"),
    [
        ("inner.bad", {"inner/bad.py": "1 / 0"}, "could not be loaded: ZeroDivisionError"),
        ("outer.bad", {"outer/__init__.py": "1 / 0"}, "could not be loaded: ZeroDivisionError"),
        ("empty.bad", {"empty/bad/notes.txt": ""}, "must be one of shelf, a module or a file"),
    ],
)
def test_a_bad_module_is_refused_by_name(
    door: Door[Furniture], tmp_path: Path, name: str, files: dict[str, str], said: str
) -> None:
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    with pytest.raises(ValueError, match=said) as raised:
        door.load(name)
    assert name in str(raised.value)


@pytest.mark.parametrize("name", ["shelv", "no.such.module", "absent.py"])
def test_an_unknown_name_is_refused_with_those_there_are(door: Door[Furniture], name: str) -> None:
    with pytest.raises(
        ValueError, match=r"furniture must be one of shelf, a module or a file, but"
    ):
        door.load(name)


def test_an_option_takes_files_modules_and_names_without_a_configuration_file(
    door: Door[Furniture], tmp_path: Path
) -> None:
    (tmp_path / "my own.py").write_text(FILE.format(limit=5))
    doors = {"sampler": door}  # the folder conf/sampler/ has a file tpe.yaml
    given = ["sampler=my own.py", "sampler='my own.py'", "sampler=shelf", "budget=1m"]
    named = 'sampler.name="my own.py"'
    assert by_name(given, doors) == [named, named, "sampler.name=shelf", "budget=1m"]
    left = ["sampler=tpe", "sampler=shelv", "sampler=", "sampler.name=shelf", "~sampler", "-c"]
    assert by_name(left, doors) == left


def test_an_option_refuses_a_file_that_is_none(door: Door[Furniture]) -> None:
    with pytest.raises(ValueError, match=r"sampler must be .* but got 'absent\.py'"):
        by_name(["sampler=absent.py"], {"sampler": door})


def test_fields_of_a_schema_are_filled_through_doors(door: Door[Furniture]) -> None:
    class Chosen:
        pass

    Chosen.door = door
    schema = dataclass(type("Schema", (), {"__annotations__": {"room": Chosen, "size": int}}))
    assert doors_of(schema) == {"room": door}
