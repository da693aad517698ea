"""Differences from the baseline over tokens: a table with a column for each horizon, and a figure.

What they are is `reports.weigh.horizons`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ablations.stats.looks import in_percent
from reports.show.figures import SERIES, WIDTHS, drawn, print_files, ramp
from reports.show.tables import NONE, Cell, csv_text, decimals, markdown_table, signed
from reports.views.scores import Section, latex
from space.tables import Column
from space.words import amount

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Differences over tokens"
SPREAD = 1.03
"""By what factor of the tokens the marks of two arms at one horizon lie apart."""


def sections(frames: Mapping[str, pd.DataFrame]) -> list[Section]:
    """The tables of `reports.weigh.horizons.weigh`'s frames, per panel."""
    return [
        _section(f"{TITLE}, {name}" if name else TITLE, frame) for name, frame in frames.items()
    ]


def _section(title: str, frame: pd.DataFrame) -> Section:
    baseline = frame.arm[frame.verdict == "baseline"].iloc[0]
    horizons = list(frame.tokens.unique())
    columns = [Column("arm", "arm", str, numeric=False)]
    columns += [Column(str(n), f"{amount(n)} tokens", str) for n in horizons]
    rows = []
    for arm, of_arm in frame.groupby("arm", sort=False):
        at = {row["tokens"]: row for row in of_arm.to_dict("records")}
        keys = f"runs {of_arm.runs.iloc[0]}"
        rows.append(
            [Cell(str(arm), str(arm), False, keys)] + [_cell(at.get(n), keys) for n in horizons]
        )
    note = (
        f"From {baseline}, whose means are given, at equal seeds; * where resolved. Each column is "
        f"what runs of so many tokens come to. Intervals are {in_percent(frame.level.iloc[0])} "
        "each, so that those of all columns hold together with the table's level; they leave out "
        "the choice of held-out windows."
    )
    return Section(title, note, columns, rows)


def _cell(row: Mapping[Any, Any] | None, keys: str) -> Cell:
    if row is None or np.isnan(row["diff"]):
        return Cell(NONE, "", True, keys)
    if row["verdict"] == "baseline":
        return Cell(decimals(4)(row["mean"]), repr(0.0), True, keys)
    text = signed(4)
    if np.isnan(row["ci_low"]):
        return Cell(text(row["diff"]), repr(row["diff"]), True, keys)
    around = f"({text(row['ci_low'])} to {text(row['ci_high'])})"
    resolved = "" if row["verdict"] == "unresolved" else "*"
    return Cell(f"{text(row['diff'])}{resolved} {around}", repr(row["diff"]), True, keys)


def files(frames: Mapping[str, pd.DataFrame], unit: str, warning: str = "") -> dict[str, bytes]:
    """`horizons` as Markdown, LaTeX, CSV, PNG and PDF; nothing where runs have one horizon."""
    if not frames:
        return {}
    shown = sections(frames)
    together = pd.concat([frame.assign(panel=name) for name, frame in frames.items()])
    texts = {
        "horizons.md": "\n".join(
            f"**{s.title}.** {s.note}\n\n{markdown_table(s.columns, s.rows)}" for s in shown
        ),
        "horizons.tex": latex(shown),
        "horizons.csv": csv_text(together),
    }
    pictures = print_files("horizons", lambda: _figure(frames, unit), warning)
    return {name: text.encode() for name, text in texts.items()} | pictures


def picture(
    frames: Mapping[str, pd.DataFrame], unit: str, warning: str = "", narrow: bool = False
) -> bytes:
    """The figure as SVG, for a page; `narrow`: on a phone."""
    return drawn(lambda: _figure(frames, unit, narrow), "svg", warning=warning)


def _figure(frames: Mapping[str, pd.DataFrame], unit: str, narrow: bool = False) -> "Figure":
    """Per panel the difference of each arm against tokens, with its intervals."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator

    size = (WIDTHS[narrow], 0.4 + (3.6 if narrow else 2.9) * len(frames))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(frames), squeeze=False)
    for axes, (name, frame) in zip(grid[:, 0], frames.items(), strict=True):
        _draw(axes, frame)
        horizons = sorted(frame.tokens.unique())
        axes.set_xscale("log")
        axes.set_xticks(horizons)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda n, _: amount(n)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_title(name, loc="left", fontsize=10)
        axes.set_ylabel(f"Difference in {unit}")
        place = ("upper center", (0.5, -0.17)) if narrow else ("center left", (1.0, 0.5))
        axes.legend(
            fontsize=8, frameon=False, loc=place[0], bbox_to_anchor=place[1], ncols=1 + narrow
        )
    if not narrow:  # a page's title says it
        grid[-1, 0].set_xlabel("Tokens of training")
    return figure


def _draw(axes: Any, frame: pd.DataFrame) -> None:
    baseline = frame.arm[frame.verdict == "baseline"].iloc[0]
    axes.axhline(0, color="#9a9da2", lw=0.8, zorder=0, label=str(baseline))
    others = [arm for arm in frame.arm.unique() if arm != baseline]
    colors = SERIES if len(others) <= len(SERIES) else ramp(len(others))
    for place, arm in enumerate(others):
        rows = frame[frame.arm == arm].sort_values("tokens")
        color, x = colors[place], rows.tokens * SPREAD ** (place - (len(others) - 1) / 2)
        axes.plot(x, rows["diff"], "o-", color=color, ms=4, lw=1.2, label=str(arm))
        axes.vlines(x, rows.ci_low, rows.ci_high, color=color, lw=1.0)
