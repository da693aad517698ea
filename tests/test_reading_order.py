"""From the README to the line that trains: the reading order leads there, file by file."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINE = "self.optimizer.step()"
"""What trains."""


def main_path() -> list[Path]:
    """The files of `search/` that the README gives in reading order, up to the training loop."""
    text = " ".join((ROOT / "README.md").read_text().split())
    _, _, after = text.partition("In reading order:")
    assert after, "the README must say `In reading order:`"
    given = re.findall(r"`(search/[\w/]+\.py)`", after.partition(";")[0])
    return [ROOT / name for name in given]


def module_of(path: Path) -> str:
    """As imports have it."""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__main__")


def names_in(path: Path) -> set[str]:
    """The modules that a file imports, or refers to in its opening docstring."""
    tree = ast.parse(path.read_text())
    found = set(re.findall(r"`([\w.]+)`", ast.get_docstring(tree) or ""))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_it_is_four_files_at_most() -> None:
    files = main_path()
    assert 2 <= len(files) <= 4
    assert files[0] == ROOT / "search" / "__main__.py", "the command that the README starts with"
    assert "python -m search" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("place", range(len(main_path()) - 1))
def test_each_file_names_the_next(place: int) -> None:
    file, following = main_path()[place : place + 2]
    assert module_of(following) in names_in(file), f"{file} does not lead to {following}"


def test_the_last_one_has_the_line_that_trains() -> None:
    tree = ast.parse(main_path()[-1].read_text())
    assert LINE in {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call)}
