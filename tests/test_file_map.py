"""CONTRIBUTING.md lists every file of the packages, and no other."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("space", "search", "ablations", "reports", "benchmarks")
LINE = re.compile(r"^( {4,})(\S+)  +\S")


def listed() -> Iterator[str]:
    """The paths of the map, folders with a slash at their end, as indentation nests them."""
    text = (ROOT / "CONTRIBUTING.md").read_text().split("## Where things are")[1].split("\n## ")[0]
    folders: list[str] = []
    for indent, name in (
        match.groups() for line in text.splitlines() if (match := LINE.match(line))
    ):
        del folders[(len(indent) - 4) // 2 :]
        yield "".join([*folders, name])
        if name.endswith("/"):
            folders.append(name)


def sources() -> set[str]:
    """Python, C++ and templates of the packages."""
    found = (path for package in PACKAGES for path in (ROOT / package).rglob("*"))
    paths = {str(path.relative_to(ROOT)) for path in found if path.suffix in (".py", ".cpp", ".j2")}
    return {path for path in paths if not path.endswith("__init__.py")}


def test_the_file_map_is_the_tree() -> None:
    paths = list(listed())
    assert len(paths) == len(set(paths))
    files = {path for path in paths if not path.endswith("/")}
    whole = [p for p in paths if p.endswith("/") and not any(f.startswith(p) for f in files)]
    covered = {path for path in sources() if path.startswith(tuple(whole))}
    assert files == sources() - covered, "CONTRIBUTING.md, Where things are"
    assert all((ROOT / folder).is_dir() for folder in whole)
