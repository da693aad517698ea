"""Each kind of table, shown: files, and lines that are printed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from ablations.questions import QUESTIONS

if TYPE_CHECKING:
    from reports.weigh.table import Report


@dataclass(frozen=True)
class Shown:
    """What a view makes of a table."""

    files: dict[str, bytes]
    """By name."""
    lines: Sequence[str] = field(default=())
    """What is printed."""


class View(Protocol):
    """How a kind of table is shown. The same table gives the same bytes."""

    def show(self, report: "Report") -> Shown:
        """The files of a table, those that the question's `leaves` names, and what is printed."""
        ...


def view_of(question: str) -> View:
    """The view of a question, by the name that `study.json` has of it.

    Raises:
        ValueError: there is no such question, or it has no view.
    """
    view = QUESTIONS.load(question).view
    found = import_module(f"{__name__}.{view}").VIEW if isinstance(view, str) else view
    if not hasattr(found, "show"):
        raise ValueError(
            f"view of question {question} must be the name of a module of reports/views or have "
            f"a method show(report), but is {view!r}"
        )
    return cast(View, found)
