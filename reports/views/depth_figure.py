"""The page's figure of a study: quality against depth, at an equal budget."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import pandas as pd

from reports.read.study import Study, plain
from reports.show.figures import SERIES, Json, xy
from reports.weigh.answer import SEPARATOR, Evidence

MOST_SAID = 12
"""Architectures that the text of the figure names."""
MOST_LABELS = 20
"""Side by side under the axis, and under points."""
LOG_SPAN = 4
"""The depth axis is logarithmic where the deepest is this many times the shallowest."""

T = TypeVar("T", int, float)


def depth_vs_width(study: Study, evidence: Evidence) -> Json:
    """Quality against depth at equal budget, with the width of each depth on the upper axis."""
    groups = series_groups(evidence.arms)
    data: list[Json] = []
    for number, (name, arms) in enumerate(dodged(groups), start=1):
        named = len(groups) > 1
        data += _series(study, evidence, arms, name if named else "", f"var(--series-{number})")
    layout = _depth_layout(study, evidence.arms, len(groups) > 1)
    if "xaxis2" in layout:  # an axis is drawn only where a trace uses it
        layer = {"xaxis": "x2", "opacity": 0, "hoverinfo": "skip", "showlegend": False}
        data.append(xy(evidence.arms.depth, evidence.arms.value, mode="markers") | layer)
    figure: Json = plain({"data": data, "layout": layout})
    return figure


def described(study: Study, evidence: Evidence) -> str:
    """The figure for those who do not see it; of many architectures its best and worst."""
    arms = evidence.arms.sort_values("value", ascending=evidence.lower_is_better)
    shown = arms if len(arms) <= MOST_SAID else pd.concat([arms[:MOST_SAID], arms[-1:]])
    values = [f"{row.label} {row.value:.4f}" for row in shown.itertuples()]
    of = "" if len(shown) == len(arms) else f" The best {MOST_SAID} of {len(arms)} and the worst."
    return f"{study.metric_title} against layers, best first: {'; '.join(values)}.{of}"


def series_groups(arms: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The architectures by the levels of as many of the other axes as there are colours for."""
    levels = arms.series.str.split(SEPARATOR, expand=True) if len(arms) else pd.DataFrame()
    names = pd.Series("", index=arms.index)
    for axis in levels:
        finer = names.where(names == "", names + SEPARATOR) + levels[axis].fillna("")
        if finer.nunique() > len(SERIES):
            continue
        names = finer
    return [(str(name), arms[names == name]) for name in sorted(names.unique())]


def dodged(groups: list[tuple[str, pd.DataFrame]]) -> Iterator[tuple[str, pd.DataFrame]]:
    """The series with a column `x`: the depth, moved a little so that no series hides another."""
    depths = sorted({depth for _, arms in groups for depth in arms.depth})
    for i, (name, arms) in enumerate(groups):
        step = i - (len(groups) - 1) / 2
        if is_wide(depths):
            yield name, arms.assign(x=arms.depth * 1.018**step)
        else:
            yield name, arms.assign(x=arms.depth + 0.012 * step * (depths[-1] - depths[0]))


def _series(
    study: Study, evidence: Evidence, arms: pd.DataFrame, name: str, color: str
) -> Iterator[Json]:
    """The line through one series, its runs as dots, its replicated means with their intervals."""
    group = {"legendgroup": name, "name": name or "tried"}
    if arms.depth.is_unique and len(arms) > 1:
        line = {"color": color, "width": 1.2}
        yield (
            xy(arms.x, arms.value, mode="lines", line=line, opacity=0.45)
            | group
            | {
                "hoverinfo": "skip",
                "showlegend": False,
            }
        )
    yield _runs(study, evidence, arms, color) | group | {"showlegend": False}
    means = arms[arms.replicated]
    once = arms[~arms.replicated]
    yield _means(study, once, {"color": "var(--paper)", "line": {"color": color, "width": 1.6}}) | (
        group | {"showlegend": bool(name) and means.empty}
    )
    bars = {
        "array": (means.ci_high - means["mean"]).tolist(),
        "arrayminus": (means["mean"] - means.ci_low).tolist(),
        "color": color,
        "thickness": 1.6,
        "width": 5,
    }
    yield (
        _means(study, means, {"color": color})
        | group
        | {
            "error_y": bars,
            "showlegend": bool(name) and not means.empty,
        }
    )


def _runs(study: Study, evidence: Evidence, arms: pd.DataFrame, color: str) -> Json:
    """One small dot a run of the replicated arms; the exploring seed's are hollow."""
    replicated = set(arms.arm[arms.replicated])
    runs = study.finished[study.finished.arm.isin(replicated)]
    aside = runs.seed.isin(evidence.set_aside)
    symbols = ["circle-open" if hollow else "circle" for hollow in aside]
    marker = {"color": color, "size": 5, "opacity": 0.6, "symbol": symbols}
    hover = [
        f"seed {seed}{', set aside' if hollow else ''}<br>{value:.4f}"
        for seed, hollow, value in zip(runs.seed, aside, runs[study.metric], strict=True)
    ]
    x = runs.arm.map(arms.set_index("arm").x)
    return xy(x, runs[study.metric], mode="markers", marker=marker) | {
        "customdata": runs.arm.tolist(),
        "text": hover,
        "hoverinfo": "text",
    }


def _means(study: Study, arms: pd.DataFrame, marker: Json) -> Json:
    hover = [
        f"<b>{arm.label}</b><br>{arm.value:.4f} {study.unit}, {arm.seeds}{_on_text(arm)}"
        for arm in arms.assign(seeds=_seeds_in_words(arms)).itertuples()
    ]
    style = marker | {"size": 8}
    return xy(arms.x, arms.value, mode="markers", marker=style) | {
        "customdata": arms.arm.tolist(),
        "text": hover,
        "hoverinfo": "text",
    }


def _on_text(arm: Any) -> str:
    """The interval of a mean had other text been held out, where that is known: bars leave it out,
    since all arms were scored on the same text."""
    if not arm.text_high > arm.text_low:
        return ""
    return f"<br>on text of this kind {arm.text_low:.4f} to {arm.text_high:.4f} (95%)"


def _seeds_in_words(arms: pd.DataFrame) -> list[str]:
    return [
        f"mean of {n:.0f} seeds" if replicated else "one run" if tried == 1 else f"{tried} runs"
        for n, replicated, tried in zip(arms.n, arms.replicated, arms.tried, strict=True)
    ]


def _depth_layout(study: Study, arms: pd.DataFrame, legend: bool) -> Json:
    depths = sorted(set(arms.depth))
    labelled = apart(depths, is_wide(depths))
    axis: Json = {
        "title": {"text": "Layers executed"},
        "tickvals": labelled,
        "ticktext": [str(depth) for depth in labelled],
        "type": "log" if is_wide(depths) else "linear",
    }
    layout: Json = {
        "xaxis": axis,
        "yaxis": {"title": {"text": study.metric_title, "standoff": 14}},
        "showlegend": legend,
        "hovermode": "closest",
    }
    if widths := widths_by_depth(arms):
        layout["xaxis2"] = axis | {
            "title": {"text": "Width"},
            "ticktext": [str(widths[depth]) for depth in labelled],
            "overlaying": "x",
            "matches": "x",
            "side": "top",
            "showgrid": False,
        }
    return layout


def is_wide(depths: Sequence[int]) -> bool:
    """Whether depths span so much that they belong on a logarithmic axis."""
    return bool(depths) and depths[-1] >= LOG_SPAN * depths[0]


def apart(depths: Sequence[T], log: bool, most: int = MOST_LABELS) -> list[T]:
    """Those of sorted depths that have room for a label on an axis, which holds `most` of them,
    from the least on."""
    place = math.log if log else float
    room = (place(depths[-1]) - place(depths[0])) / most
    found = list[T](depths[:1])
    for depth in depths[1:]:
        if place(depth) - place(found[-1]) >= room:
            found.append(depth)
    return found


def widths_by_depth(arms: pd.DataFrame) -> dict[int, int]:
    """The width of each depth, or nothing where one depth was tried with several."""
    widths = arms.groupby("depth").width.agg(["min", "max"])
    if (widths["min"] != widths["max"]).any():
        return {}
    return dict(zip(map(int, widths.index), map(int, widths["min"]), strict=True))
