"""Loss against learning rate: the best rate of each shape, and its loss at a common rate."""

from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from ablations.stats.transfer import WANTED_COST, costs, described, verdicts
from reports.show.figures import SERIES, drawn
from reports.show.tables import (
    MINUS,
    NONE,
    csv_text,
    decimals,
    intervals,
    markdown_table,
    percent,
    printed_rows,
    rate,
    whole,
)
from reports.views import Shown, arms
from reports.weigh.table import NOT_RUN, Report
from space.tables import Column, in_markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def steps(value: Any) -> str:
    """How many rates up or down."""
    return f"{value:+.0f}".replace("-", MINUS).replace("+0", "0")


RULES = (
    Column("parametrisation", "parametrisation", str, numeric=False),
    Column("common", "common rate", rate, "the one with the smallest largest cost over the shapes"),
    Column(
        "steps",
        "farthest best",
        whole,
        "largest distance of a shape's best rate from it, in rates of the grid",
    ),
    Column("cost", "largest cost", percent(2), "of the common rate, over the shapes"),
    Column(
        "interval", "95% interval", str, "each bound the largest over the shapes", numeric=False
    ),
    Column(
        "near",
        "within a step",
        str,
        "holds if all rates that may be a shape's best lie within a step of the common one, fails "
        "if none of some shape does",
        numeric=False,
    ),
    Column(
        "cheap",
        f"costs ≤ {WANTED_COST:.1%}",
        str,
        "holds if all intervals end below it, fails if one begins above it",
        numeric=False,
    ),
)
SHAPES = (
    Column("parametrisation", "parametrisation", str, numeric=False),
    Column("shape", "shape", str, numeric=False),
    Column("best", "best rate", rate, "of those tried"),
    Column(
        "levels", "equivalent", str, "rates not significantly worse than the best", numeric=False
    ),
    Column("steps", "from common", steps, "rates up or down"),
    Column("cost", "cost", percent(2), "of the common rate, relative to the best rate's loss"),
    Column("interval", "95% interval", str, "of the cost", numeric=False),
    Column("n", "n", whole, "seeds of the common rate"),
    Column("flag", "flag", str, "edge: a better rate may lie beyond those tried", numeric=False),
)


def transfer_files(report: Report) -> dict[str, bytes]:
    """The further files of such a table, by name."""
    frame = read_rates(report)
    rows = costs(frame, report.level)
    return {
        "transfer.md": markdown(report, frame, rows).encode(),
        "transfer.csv": csv_text(rows.assign(about_looks=report.looks_in_words)).encode(),
        "transfer.png": picture(report, frame, rows),
    }


def read_rates(report: Report) -> pd.DataFrame:
    """The frame that `ablations.stats.transfer` reads."""
    recipes = {
        (panel["name"], arm["name"]): arm["recipe"]
        for panel in report.table["panels"]
        for arm in panel["arms"]
    }
    cells = report.cells.rename(columns={report.metric: "value"})
    cells = cells.assign(done=cells.status != NOT_RUN)
    own = [recipes[place] for place in zip(cells.panel, cells.arm, strict=True)]
    return described(cells, [r["parametrisation"] for r in own], [r["lr"] for r in own])


def markdown(report: Report, frame: pd.DataFrame, rows: pd.DataFrame) -> str:
    """The wanted properties and whether they hold, per shape, and the curves."""
    rules = _with_interval(verdicts(rows))
    shapes = _with_interval(rows).assign(
        levels=pd.Series(
            [", ".join(map(rate, x)) if isinstance(x, tuple) and x else None for x in rows.level],
            dtype=object,
        ),
        flag=pd.Series(["edge" if edge is True else None for edge in rows.edge], dtype=object),
    )
    looks = f"Looks: {said}.\n\n" if (said := report.looks_in_words) else ""
    notes = "".join(f"- **{c.heading}**: {c.hint}\n" for c in (*RULES, *SHAPES) if c.hint)
    return (
        f"{report.caption}\n\n{looks}{markdown_table(*printed_rows(rules, RULES))}\n"
        f"{markdown_table(*printed_rows(shapes, SHAPES))}\n"
        f"Means, with the number of seeds where it is not one:\n\n{_curves(frame)}\n{notes}"
    )


def _with_interval(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(interval=intervals(rows.cost_low, rows.cost_high, percent(2)))


def _curves(frame: pd.DataFrame) -> str:
    rates = sorted(frame.rate.unique())
    lines = []
    keys = ["parametrisation", "shape"]
    for (parametrisation, shape), cells in frame.groupby(keys, sort=False):
        found = cells.groupby("rate").value.agg(["mean", "count"]).reindex(rates)
        shown = [
            NONE if not n > 0 else decimals(4)(mean) + (f" ({n:.0f})" if n > 1 else "")
            for mean, n in zip(found["mean"], found["count"], strict=True)
        ]
        lines.append([str(parametrisation), str(shape), *shown])
    numeric = [False, False, *(True for _ in rates)]
    return in_markdown([*keys, *map(rate, rates)], lines, numeric)


def picture(report: Report, frame: pd.DataFrame, rows: pd.DataFrame) -> bytes:
    """One panel per parametrisation: each shape's loss against its rate, and the common rate."""
    draw = partial(_figure, report, frame, rows)
    return drawn(draw, "png", dpi=110, warning=report.warning)


def _figure(report: Report, frame: pd.DataFrame, rows: pd.DataFrame) -> "Figure":
    from matplotlib.figure import Figure

    rules, rates = list(frame.parametrisation.unique()), sorted(frame.rate.unique())
    figure = Figure(figsize=(0.7 + 2.6 * len(rules), 3.2), layout="constrained")
    grid = figure.subplots(1, len(rules), squeeze=False, sharey=True)[0]
    for axes, rule in zip(grid, rules, strict=True):
        mine = frame[frame.parametrisation == rule]
        for color, (shape, cells) in zip(SERIES, mine.groupby("shape", sort=False)):  # noqa: B905
            means = cells.groupby("rate").value.mean().dropna()
            axes.plot(cells.rate, cells.value, "o", ms=2.5, color=color, alpha=0.5)
            axes.plot(means.index, means, lw=1.3, color=color, label=str(shape))
        common = rows[rows.parametrisation == rule].common.iloc[0]
        if common == common:
            axes.axvline(common, color="#9a9da2", lw=0.8, ls="--", zorder=0)
        axes.set(xscale="log", xlabel="learning rate of the base shape", title=rule)
        axes.set_xticks(rates, [rate(r) for r in rates])
        axes.minorticks_off()
    grid[0].set_ylabel(f"validation {report.criteria.unit}")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def summary(report: Report) -> str:
    """The result, one line per parametrisation."""
    rows = verdicts(costs(read_rates(report), report.level))
    return "\n".join(
        f"{row['parametrisation']}: at the common rate {rate(row['common'])} the most expensive "
        f"shape costs {percent(2)(row['cost'])}; best rates within a step of it: {row['near']}; "
        f"costs at most {WANTED_COST:.1%}: {row['cheap']}"
        if row["common"] == row["common"]
        else f"{row['parametrisation']}: no rate has a result for all shapes"
        for row in rows.to_dict("records")
    )


class Transfer:
    """The view of learning rates: the arms', then the costs of a common rate."""

    def show(self, report: Report) -> Shown:
        common = arms.VIEW.show(report)
        lines = [summary(report), f"rates: {report.folder / 'transfer.md'}"]
        return Shown(common.files | transfer_files(report), [*lines, *common.lines])


VIEW = Transfer()
