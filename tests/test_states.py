"""The page of states has those that there are."""

import re
from enum import StrEnum
from pathlib import Path

import pytest

from search.states import End, Kind, Role, State, Status

PAGE = (Path(__file__).parent.parent / "docs" / "states.md").read_text()
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
