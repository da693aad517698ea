"""Tables: what a column is, text in columns, Markdown; `reports.show.tables` has HTML and LaTeX."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Column:
    """A column of a printed table: where it comes from and how its cells read."""

    name: str
    """The value's name in a row."""
    heading: str
    text: Callable[[Any], str] = str
    hint: str = ""
    """What the heading means, for those who point at it."""
    numeric: bool = True
    """Whether it is sorted by number. Aligned text asks the values instead."""


def aligned(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]], style: str) -> str:
    """A table for people: aligned text, or Markdown that is aligned as well."""
    cells = [[c.heading for c in columns]]
    cells += [[c.text(row[c.name]) for c in columns] for row in rows]
    numeric = [not isinstance(rows[0][c.name], str) for c in columns]
    lines = _padded(cells, numeric)
    widths = [len(heading) for heading in lines[0]]
    if style == "table":
        return _lines_of([lines[0], ["-" * w for w in widths], *lines[1:]])
    rule = ["-" * (w - 1) + (":" if n else "-") for w, n in zip(widths, numeric, strict=True)]
    return _markdown_lines([lines[0], rule, *lines[1:]]).removesuffix("\n")


def in_columns(rows: Sequence[Sequence[str]]) -> str:
    """Text in columns, all to the left."""
    return _lines_of(_padded(rows, [False] * len(rows[0])))


def in_markdown(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    numeric: Sequence[bool],
    left: str = ":---",
) -> str:
    """A table in GitHub's Markdown, numeric columns to the right and the rule `left` under others;
    it ends with a line break."""
    rule = ["---:" if number else left for number in numeric]
    cells = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    return _markdown_lines([headings, rule, *cells])


def _padded(rows: Sequence[Sequence[str]], numeric: Sequence[bool]) -> list[list[str]]:
    """The cells of each column made equally wide."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        [t.rjust(w) if n else t.ljust(w) for t, w, n in zip(row, widths, numeric, strict=True)]
        for row in rows
    ]


def _lines_of(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("  ".join(row).rstrip() for row in rows)


def _markdown_lines(rows: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
