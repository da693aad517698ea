"""Results of a search's best candidates over fresh seeds, as its own page quotes them."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from reports.show.tables import Cell
from reports.views.arm_columns import Digits
from reports.views.arms import VIEW, table_rows
from reports.weigh import table
from reports.weigh.table import Report
from search.states import Status
from space.tables import Column
from space.words import count

__all__ = ["VIEW", "Confirmation", "confirmed", "order"]


@dataclass(frozen=True)
class Confirmation:
    """Results of a search's best candidates over fresh seeds."""

    words: str
    table: tuple[list[Column], list[list[Cell]]] | None
    """None where the words say that it cannot be read."""


def confirmed(study: str, outputs: Path, runs: str | None) -> Confirmation | None:
    """The confirmation of a search (`table=confirm`), None if none of its runs has finished.

    One that cannot be read is a line and no error: the search's own report does not depend on it.
    """
    name = f"confirm_{study}"
    if not (outputs / "tables" / name / "study.json").is_file():
        return None
    try:
        report = table.read_table(name, outputs, runs)
    except ValueError as error:
        return Confirmation(f"The confirmation of this search cannot be read: {error}.", None)
    if not (report.cells.status == Status.FINISHED).any():
        return None
    return Confirmation(order(report), table_rows(report.panels[0]))


def order(report: Report) -> str:
    """The confirmed order, best first, each with its difference to the baseline and verdict."""
    rows = pd.concat([panel.rows for panel in report.panels]).dropna(subset="mean")
    base = rows.verdict == "baseline"
    digits, lower = Digits.of(report.panels[0]), report.criteria.lower_is_better
    shown = rows["diff"].map(digits.difference, na_action="ignore").astype(object)
    shown = shown.fillna("no seed in common")
    shown = shown.mask(base, rows["mean"].map(digits.value))
    rows = rows.assign(shown=shown, diff=rows["diff"].mask(base, 0.0))
    rows = rows.sort_values(["diff", "arm"], ascending=[lower, True])
    words = [f"{row['arm']} ({row['shown']}, {row['verdict']})" for row in rows.to_dict("records")]
    common, asked = _seeds_in_common(report), int(rows.asked.min())
    of, seeds = "" if common == asked else f"{common} of ", count(asked, "fresh seed")
    opening = f"Confirmed over {of}{seeds}" if common else f"None of {seeds} has a result of all"
    return f"{opening}, best first: {'; '.join(words)}."


def _seeds_in_common(report: Report) -> int:
    """Seeds with a result of the baseline and of every arm that has one."""
    done = report.cells.dropna(subset=report.metric)
    arms = {*done.arm, *(panel.baseline for panel in report.panels)}
    return int((done.groupby("seed").arm.nunique() == len(arms)).sum())
