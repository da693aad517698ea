"""The page of states has those that there are, and code names them by their enums."""

import ast
import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import pytest

from search.states import End, Kind, Role, State, Status

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "states.md").read_text()
DIAGRAM = PAGE.partition("```mermaid")[2].partition("```")[0]


def first_column(title: str) -> set[str]:
    """What stands first in the rows of the page's table of this title."""
    _, _, after = PAGE.partition(f"| {title} |")
    assert after, f"the page must have a table of {title}"
    return set(re.findall(r"^\| `(\w+)`", after.partition("\n\n")[0], flags=re.MULTILINE))


def test_the_diagram_has_every_state_and_no_other() -> None:
    ends = re.findall(r"^\s+(\S+) --> (\w+|\[\*\])", DIAGRAM, flags=re.MULTILINE)
    named = {name for pair in ends for name in pair} - {"[*]"}
    assert named == set(State)


def test_the_diagram_has_every_status_and_no_other() -> None:
    out = re.findall(r"RUNNING --> \w+: (.*)", DIAGRAM)
    assert {how for how in out if not how.startswith("no status")} == set(Status)


@pytest.mark.parametrize(
    ("title", "kind"),
    [("status", Status), ("role of a trial", Role), ("event", Kind), ("end", End)],
)
def test_each_table_has_every_member_and_no_other(title: str, kind: type[StrEnum]) -> None:
    assert first_column(title) == set(kind)


def compared(source: str) -> Iterator[str]:
    """Strings that others are compared with, alone or in a list of them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            for side in (node.left, *node.comparators):
                several = isinstance(side, ast.Tuple | ast.List | ast.Set)
                for one in side.elts if several else [side]:  # type: ignore[union-attr]
                    if isinstance(one, ast.Constant) and isinstance(one.value, str):
                        yield one.value


@pytest.mark.parametrize("folder", ["space", "search", "ablations", "reports", "benchmarks"])
def test_code_compares_with_members_of_the_enums(folder: str) -> None:
    others = {
        Kind.STEP,
        Kind.DONE,
        State.RUNNING,
    }  # fields have these names, jobs of Slurm this state
    members = {*State, *Status, *Role, *Kind, *End} - others
    for path in (ROOT / folder).rglob("*.py"):
        assert members.isdisjoint(compared(path.read_text())), f"{path} has one as a string"


def test_states_in_strings_are_found() -> None:
    source = 'x = 1 if a == "finished" != b or a in ("done", b) else "failed"'
    assert list(compared(source)) == ["finished", "done"]
