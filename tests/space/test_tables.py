"""`space.tables`: text in columns, and Markdown as markdown-it reads it."""

import re
from html import unescape

import pytest
from markdown_it import MarkdownIt

from space.tables import Column, aligned, in_columns, in_markdown

COLUMNS = [Column("name", "name"), Column("value", "value", "{:.1f}".format)]
ROWS = [{"name": "a|b", "value": 10.0}, {"name": "longer", "value": -1.25}]


def read(markdown: str) -> list[list[tuple[str, str]]]:
    """Of each row of a table of Markdown the cells: (to which side, text)."""
    page = MarkdownIt().enable("table").render(markdown)
    cell = re.compile(r'<t[hd](?: style="text-align:(\w+)")?>(.*?)</t[hd]>')
    rows = re.findall(r"<tr>(.*?)</tr>", page, flags=re.DOTALL)
    return [[(side, unescape(text)) for side, text in cell.findall(row)] for row in rows]


@pytest.mark.parametrize(("left", "side"), [(":---", "left"), ("---", "")])
def test_markdown_is_read_as_the_cells_that_were_given(left: str, side: str) -> None:
    rows = [["a|b", "1"], ["c", "2"]]
    found = read(in_markdown(["name", "value"], rows, [False, True], left=left))
    assert found == [[(side, a), ("right", b)] for a, b in (["name", "value"], *rows)]


def test_aligned_markdown_is_read_as_its_cells() -> None:
    found = read(aligned(COLUMNS, ROWS[1:], "markdown"))
    assert [[text for _, text in row] for row in found] == [["name", "value"], ["longer", "-1.2"]]


def test_text_is_in_columns() -> None:
    lines = aligned(COLUMNS, ROWS, "table").splitlines()
    assert lines == ["name    value", "------  -----", "a|b      10.0", "longer   -1.2"]
    assert in_columns([["a", "b"], ["cc", ""]]) == "a   b\ncc"
