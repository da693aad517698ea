"""The figure of `reports.views.depth_figure` for print."""

import math
from typing import TYPE_CHECKING

import pandas as pd

from reports.read.study import MOST_SHOWN, Study
from reports.show.figures import SERIES, print_files
from reports.views.depth_figure import apart, dodged, is_wide, series_groups
from reports.weigh.answer import Evidence, budget_words
from reports.weigh.worth import warning

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def printed(study: Study, evidence: Evidence) -> dict[str, bytes]:
    """`depth_vs_width.png` and `.pdf`."""
    return print_files("depth_vs_width", lambda: figure_for_print(study, evidence), warning(study))


def figure_for_print(study: Study, evidence: Evidence) -> "Figure":
    """The figure itself, in matplotlib's present style."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.subplots()
    arms = evidence.arms
    axes.set_xlabel("Layers executed")
    axes.set_ylabel(study.metric_title)
    axes.spines["top"].set_visible(False)
    if arms.empty:
        axes.text(0.5, 0.5, "no finished trial", ha="center", transform=axes.transAxes)
        return figure
    groups = list(dodged(series_groups(arms)))
    for color, (name, group) in zip(SERIES, groups, strict=False):
        _print_series(axes, study, evidence, group, name, color)
    where = "under each point" if len(groups) == 1 else "under the lowest at each depth"
    axes.set_title(f"{budget_words(study)}, width {where}", fontsize=10, loc="left")
    depths = sorted(set(arms.depth))
    labelled = apart(depths, is_wide(depths))
    drawn = pd.concat([group for _, group in groups])
    _print_widths(axes, study, drawn[drawn.depth.isin(labelled)])
    _print_depth_axis(axes, depths, labelled)
    axes.margins(y=0.1)  # room for the labels
    if len(groups) > 1:
        if len(arms) <= MOST_SHOWN:
            axes.legend(frameon=False, fontsize=8)
        else:  # among many points no place is free, and looking for one takes long
            figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=len(SERIES))
    return figure


def _print_series(
    axes: "Axes", study: Study, evidence: Evidence, arms: pd.DataFrame, name: str, color: str
) -> None:
    if arms.depth.is_unique:
        axes.plot(arms.x, arms.value, color=color, lw=0.9, alpha=0.5, zorder=1)
    means, once = arms[arms.replicated], arms[~arms.replicated]
    runs = study.finished[study.finished.arm.isin(list(means.arm))]
    for hollow, dots in runs.groupby(runs.seed.isin(evidence.set_aside)):
        face = "none" if hollow else color
        x = dots.arm.map(means.set_index("arm").x)
        axes.scatter(x, dots[study.metric], 9, face, ec=color, lw=0.7, alpha=0.6)
    label = name or None
    if len(means):
        bars = [means["mean"] - means.ci_low, means.ci_high - means["mean"]]
        axes.errorbar(
            means.x, means["mean"], bars, fmt="o", ms=4.5, color=color, capsize=2.5, lw=1.1
        )
    axes.scatter(once.x, once.value, 20, "white", ec=color, lw=1.1, zorder=2)
    axes.plot([], [], "o", color=color, label=label)


def _print_widths(axes: "Axes", study: Study, arms: pd.DataFrame) -> None:
    """The width of the lowest architecture at each depth, under all that is drawn there."""
    runs = study.finished[study.finished.arm.isin(list(arms.arm[arms.replicated]))]
    drawn = runs.groupby("num_hidden_layers")[study.metric].min()
    for depth, there in arms.sort_values(["value", "arm"]).groupby("depth"):
        best = there.iloc[0]
        lowest = min(drawn.get(depth, math.inf), best["value"], there.ci_low.min(skipna=True))
        _print_label(axes, str(best["width"]), (best["x"], lowest))


def _print_label(axes: "Axes", text: str, place: tuple[float, float]) -> None:
    from matplotlib.patheffects import withStroke

    axes.annotate(
        text,
        place,
        xytext=(0, -6),
        textcoords="offset points",
        ha="center",
        va="top",
        fontsize=8,
        color="#333",
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
    )


def _print_depth_axis(axes: "Axes", depths: list[int], labelled: list[int]) -> None:
    from matplotlib.ticker import NullLocator

    if is_wide(depths):
        axes.set_xscale("log")
    axes.set_xticks(labelled, [str(depth) for depth in labelled])
    axes.xaxis.set_minor_locator(NullLocator())
