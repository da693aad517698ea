"""Tables: what a column is, and aligned text. Other forms are in `reports.show.tables`."""

from collections.abc import Callable, Mapping, Sequence
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
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [not isinstance(rows[0][c.name], str) for c in columns]
    lines = [
        [t.rjust(w) if n else t.ljust(w) for t, w, n in zip(line, widths, numeric, strict=True)]
        for line in cells
    ]
    if style == "table":
        lines.insert(1, ["-" * w for w in widths])
        return "\n".join("  ".join(line).rstrip() for line in lines)
    rule = ["-" * (w - 1) + (":" if n else "-") for w, n in zip(widths, numeric, strict=True)]
    lines.insert(1, rule)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
