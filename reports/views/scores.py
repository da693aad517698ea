"""Zero-shot scores as tables: the tasks and which of them can rank, then the arms by each measure.

What is said of them is `reports.weigh.scores`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from reports.show.tables import (
    NONE,
    Cell,
    csv_text,
    decimals,
    latex_float,
    latex_table,
    markdown_table,
    percent,
    slug,
    whole,
)
from reports.weigh.scores import LEVEL, power_to_rank
from space.tables import Column


@dataclass(frozen=True)
class Measure:
    """A measure of a task."""

    metric: str
    name: str
    hint: str
    text: Callable[[Any], str]


MEASURES = (
    Measure("bpb", "bits per byte", "of the right answer; lower is better", decimals(4)),
    Measure(
        "margin",
        "margin",
        "bits per byte of the best wrong answer less the right one's; higher is better",
        decimals(4),
    ),
    Measure("acc", "accuracy", "share of right answers; higher is better", percent(1)),
    Measure("exact_match", "exact match", "share of right answers; higher is better", percent(1)),
)


@dataclass(frozen=True)
class Section:
    """A table with its title and note."""

    title: str
    note: str
    columns: list[Column]
    rows: list[list[Cell]]


def sections(frames: Mapping[str, pd.DataFrame]) -> list[Section]:
    """The tables of `gather`'s frames, per comparison: the tasks, then the arms by each measure."""
    shown = []
    for name, frame in frames.items():
        if frame.empty:
            continue
        found = power_to_rank(frame)
        parts = [_tasks(frame, found)]
        parts += [_arms(frame, m) for m in MEASURES if (frame.metric == m.metric).any()]
        shown += [replace(p, title=f"{p.title}, {name}") if name else p for p in parts]
    return shown


def verdict(found: pd.DataFrame) -> str:
    """Which tasks can rank arms of this size, in a sentence."""
    if found.p_adjusted.isna().all():
        return "Which tasks can rank these arms is not known: that needs two seeds of two arms."
    by = {
        str(task): [_name(m) for m in rows.measure]
        for task, rows in found[found.ranks].groupby("task", sort=False)
    }
    able = ", ".join(f"{task} (by {' and '.join(names)})" for task, names in by.items())
    rest = [str(task) for task in found.task.unique() if task not in by]
    others = f" Not shown with these seeds: {', '.join(rest)}." if rest else ""
    return f"At this size these tasks can rank the arms: {able or 'none'}.{others}"


def _name(metric: str) -> str:
    return next(m.name for m in MEASURES if m.metric == metric)


def _tasks(frame: pd.DataFrame, found: pd.DataFrame) -> Section:
    """One row per task: what was scored, and its signal to noise by each measure."""
    shown = [m for m in MEASURES if (found.measure == m.metric).any()]
    columns = [
        Column("task", "task", str, numeric=False),
        Column("split", "scored on", str, "split, and where it came from", numeric=False),
        Column("n", "documents", whole),
    ]
    for m in shown:
        columns.append(Column(m.metric, m.name, m.text, f"{m.hint}; mean over all runs"))
        columns.append(
            Column(f"{m.metric}_ratio", "S/N", decimals(1), "signal to noise over seeds")
        )
    hint = f"measures by which the arms differ, p below {LEVEL} adjusted for all tasks and measures"
    columns.append(Column("ranks", "ranks by", str, hint, numeric=False))
    rows = []
    for task, of_task in frame.groupby("task", sort=False):
        first = of_task.iloc[0]
        mine = found[found.task == task].set_index("measure")
        cells = [
            _cell(str(task), None),
            _cell(f"{first.split} ({first.source})", None),
            _cell(whole(first.n), first.n),
        ]
        for m in shown:
            row = mine.reindex([m.metric])  # blank where the task has no such measure
            mean, ratio = float(row["mean"].iloc[0]), float(row.ratio.iloc[0])
            cells += [_number(mean, m.text), _number(ratio, decimals(1))]
        names = [_name(str(metric)) for metric in mine.index[mine.ranks]]
        cells.append(_cell(", ".join(names) or NONE, None))
        rows.append(cells)
    note = (
        f"{verdict(found)} Signal to noise (S/N) is the largest difference between two arms over "
        "the standard deviation between seeds (after arXiv:2508.13144); a task can rank if the F "
        "test of the arms is significant."
    )
    return Section("Zero-shot tasks", note, columns, rows)


def _arms(frame: pd.DataFrame, measure: Measure) -> Section:
    """One row per arm, one column per task: mean and standard deviation over seeds."""
    values = frame[frame.metric == measure.metric]
    tasks = list(values.task.unique())
    columns = [
        Column("arm", "arm", str, numeric=False),
        Column("runs", "n", whole, "seeds"),
        *(Column(task, task, measure.text, measure.hint) for task in tasks),
        Column("average", "average", measure.text, "of the tasks, unweighted"),
    ]
    rows = []
    for arm, of_arm in values.groupby("arm", sort=False):
        by_task = of_arm.groupby("task").value.agg(["mean", "std"]).reindex(tasks)
        keys = "runs " + " ".join(dict.fromkeys(of_arm.key))
        seeds = of_arm.seed.nunique()
        cells = [_cell(str(arm), None, keys), _cell(whole(seeds), seeds)]
        cells += [
            _number(mean, measure.text, keys, spread) for mean, spread in by_task.to_numpy(float)
        ]
        cells.append(_number(by_task["mean"].mean(skipna=False), measure.text, keys))
        rows.append(cells)
    note = f"{measure.hint[0].upper()}{measure.hint[1:]}. Mean ± standard deviation over seeds."
    return Section(f"Zero-shot {measure.name}", note, columns, rows)


def _cell(text: str, order: float | None, hint: str = "") -> Cell:
    return Cell(text, text if order is None else repr(float(order)), order is not None, hint)


def _number(
    value: float, text: Callable[[Any], str], hint: str = "", spread: float = np.nan
) -> Cell:
    if np.isnan(value):
        return Cell(NONE, "", True)
    around = "" if np.isnan(spread) else f" ± {text(spread)}"
    return Cell(text(value) + around, repr(float(value)), True, hint)


def files(frames: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    """`scores.md`, `scores.tex` and `scores.csv`; nothing if no run was scored."""
    shown = sections(frames)
    if not shown:
        return {}
    together = pd.concat([frame.assign(panel=name) for name, frame in frames.items()])
    return {
        "scores.md": "\n".join(
            f"**{s.title}.** {s.note}\n\n{markdown_table(s.columns, s.rows)}" for s in shown
        ),
        "scores.tex": latex(shown),
        "scores.csv": csv_text(together),
    }


def latex(shown: Sequence[Section]) -> str:
    """The sections for LaTeX, a booktabs tabular each, scaled to the line."""
    lines = ["% needs \\usepackage{booktabs,graphicx}"]
    for s in shown:
        tabular = latex_table(s.columns, s.rows)
        lines += latex_float(f"{s.title}. {s.note}", tabular, label=slug(s.title))
    return "\n".join(lines)
