"""The figures: depth against width and learning curves for the page, and the former for print.

A page figure is a plain `{"data": …, "layout": …}` as plotly.js takes it. Colours written
`var(--name)` are those of the page's style sheet, which differ between light and dark.
"""

import io
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from reports.read.study import Study, plain, shorten
from reports.weigh.answer import SEPARATOR, Evidence, budget_words
from search.objectives import Measure
from space.cli import PRINT_STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Json = dict[str, Any]

SERIES = ("#3f77bd", "#d9752f", "#2f9a78", "#b9505f", "#8563b5", "#87873c")
"""Colours of the series, distinct for most colour-blind readers. The page's style sheet has them as
`--series-1` and so on, and lighter ones for the dark."""
RAMP = ("#3565b0", "#3a8fb7", "#35a08c", "#7fa548", "#cf9f35", "#d9752f", "#b2404f")
"""From shallow to deep."""
LOG_SPAN = 4
"""The depth axis is logarithmic where the deepest is this many times the shallowest."""


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
        data.append(_xy(evidence.arms.depth, evidence.arms.value, mode="markers") | layer)
    figure: Json = plain({"data": data, "layout": layout})
    return figure


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
            _xy(arms.x, arms.value, mode="lines", line=line, opacity=0.45)
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
    return _xy(x, runs[study.metric], mode="markers", marker=marker) | {
        "text": hover,
        "hoverinfo": "text",
    }


def _means(study: Study, arms: pd.DataFrame, marker: Json) -> Json:
    hover = [
        f"<b>{arm.label}</b><br>{arm.value:.4f} {study.unit}, {arm.seeds}"
        for arm in arms.assign(seeds=_seeds_in_words(arms)).itertuples()
    ]
    style = marker | {"size": 8}
    return _xy(arms.x, arms.value, mode="markers", marker=style) | {
        "text": hover,
        "hoverinfo": "text",
    }


def _seeds_in_words(arms: pd.DataFrame) -> list[str]:
    return [
        f"mean of {n:.0f} seeds" if replicated else "one run" if tried == 1 else f"{tried} runs"
        for n, replicated, tried in zip(arms.n, arms.replicated, arms.tried, strict=True)
    ]


def _xy(x: Any, y: Any, **style: Any) -> Json:
    return {"type": "scatter", "x": list(x), "y": list(y), **style}


def _depth_layout(study: Study, arms: pd.DataFrame, legend: bool) -> Json:
    depths = sorted(set(arms.depth))
    axis: Json = {
        "title": {"text": "Layers executed"},
        "tickvals": depths,
        "ticktext": [str(depth) for depth in depths],
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
            "ticktext": [str(widths[depth]) for depth in depths],
            "overlaying": "x",
            "matches": "x",
            "side": "top",
            "showgrid": False,
        }
    return layout


def is_wide(depths: Sequence[int]) -> bool:
    """Whether depths span so much that they belong on a logarithmic axis."""
    return bool(depths) and depths[-1] >= LOG_SPAN * depths[0]


def widths_by_depth(arms: pd.DataFrame) -> dict[int, int]:
    """The width of each depth, or nothing where one depth was tried with several."""
    widths = arms.groupby("depth").width.agg(["min", "max"])
    if (widths["min"] != widths["max"]).any():
        return {}
    return dict(zip(map(int, widths.index), map(int, widths["min"]), strict=True))


def learning_curves(study: Study, column: str) -> Json | None:
    """`column` against tokens, one thin line per run, coloured by depth; None if no run has any."""
    trials = study.trials.drop_duplicates("key")
    trials = trials[trials.key.isin(list(study.curves))]
    colors = depth_colors(study)
    data: list[Json] = []
    for trial in trials.sort_values(["number"]).to_dict("records"):
        points = list(shorten(study.curves[trial["key"]], column))
        if not points:
            continue
        data.append(_curve(points, trial, colors[_depth(trial)]))
    layout = {
        "xaxis": {"title": {"text": "Tokens"}, "rangemode": "tozero"},
        "yaxis": {
            "title": {"text": _curve_title(column), "standoff": 14},
            "range": _tight_range(data),
        },
        "showlegend": False,
        "hovermode": "closest",
    }
    figure: Json = plain({"data": data, "layout": layout})
    return figure if data else None


def _curve(points: list[tuple[float, float]], trial: Mapping[Any, Any], color: str) -> Json:
    tokens, values = zip(*points, strict=True)
    depth = _depth(trial)
    name = f"{depth} layers, seed {trial['seed']}" if depth else f"trial {trial['number']}"
    mode = "lines+markers" if len(points) < 10 else "lines"
    return _xy([round(t) for t in tokens], [float(f"{v:.5g}") for v in values], mode=mode) | {
        "line": {"color": color, "width": 1.1},
        "marker": {"size": 4},
        "hovertemplate": f"{name}<br>trial {trial['number']}, run {trial['key'][:8]}"
        "<br>%{y:.4f} at %{x:.3s} tokens<extra></extra>",
    }


CURVES = ("val_bpb", "val_loss")
"""What curves have of the validation slice."""


def curve_of(study: Study) -> str:
    """The validation curve that goes with the study's metric."""
    if study.metric in CURVES:
        return study.metric
    drawn = pd.concat(study.curves.values()) if study.curves else pd.DataFrame(columns=[*CURVES])
    return "val_bpb" if drawn.val_bpb.notna().any() else "val_loss"


def depth_colors(study: Study) -> dict[int, str]:
    """The colour of each depth among the learning curves; 0 stands for depths not known yet."""
    trials = study.trials[study.trials.key.isin(list(study.curves))]
    depths = sorted({_depth(trial) for trial in trials.to_dict("records")})
    return dict(zip(depths, ramp(len(depths)), strict=True))


def _depth(trial: Mapping[Any, Any]) -> int:
    """Layers of a trial; 0 where it has no record yet to tell."""
    depth = trial.get("num_hidden_layers")
    return 0 if depth is None or math.isnan(depth) else int(depth)


def _curve_title(column: str) -> str:
    known = column in CURVES
    return Measure(column).title if known else "Training loss (nats per token)"


def _tight_range(data: list[Json]) -> list[float] | None:
    """The loss range without the first steps, which would press all the rest into one line."""
    late = [v for t in data for v in t["y"][len(t["y"]) // 10 :] if math.isfinite(v)]
    if len(late) < 2 or max(late) == min(late):
        return None
    top = float(pd.Series(late).quantile(0.995))
    margin = 0.04 * (top - min(late))
    return [round(min(late) - margin, 4), round(top + margin, 4)]


def ramp(n: int) -> list[str]:
    """`n` colours from shallow to deep."""
    places = [i * (len(RAMP) - 1) / max(n - 1, 1) for i in range(n)]
    return [mixed(RAMP[math.floor(p)], RAMP[math.ceil(p)], p % 1) for p in places]


def mixed(a: str, b: str, share: float) -> str:
    """The colour that is `share` of the way from one to another."""
    channels = [(int(a[i : i + 2], 16), int(b[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(x + share * (y - x)):02x}" for x, y in channels)


def printed(study: Study, evidence: Evidence) -> dict[str, bytes]:
    """`depth_vs_width.png` and `.pdf`."""
    return print_files("depth_vs_width", lambda: _print_figure(study, evidence))


def print_files(name: str, draw: Callable[[], "Figure"]) -> dict[str, bytes]:
    """A figure as `name.png` and `name.pdf`."""
    top: dict[Any, Any] = {"axes.spines.top": True}
    return {f"{name}.{form}": drawn(draw, form, style=top) for form in ("png", "pdf")}


NO_METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "svg": {"Date": None, "Creator": None},
}
"""By form of a figure, what leaves out when and by what it was drawn."""


def drawn(
    draw: Callable[[], "Figure"],
    form: str,
    *,
    dpi: int = 200,
    style: dict[Any, Any] | None = None,
) -> bytes:
    """A figure in the style for print as `png`, `pdf` or `svg`: the same bytes whenever drawn from
    the same runs."""
    import matplotlib  # half a second, and only this function needs it

    matplotlib.use("Agg")
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # tells of every glyph it keeps
    buffer = io.BytesIO()
    with matplotlib.rc_context(style, fname=PRINT_STYLE):
        draw().savefig(buffer, format=form, dpi=dpi, metadata=NO_METADATA[form])
    return buffer.getvalue()


def _print_figure(study: Study, evidence: Evidence) -> "Figure":
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
    _print_widths(axes, study, pd.concat([group for _, group in groups]))
    _print_depth_axis(axes, sorted(set(arms.depth)))
    axes.margins(y=0.1)  # room for the labels
    if len(groups) > 1:
        axes.legend(frameon=False, fontsize=8)
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


def _print_depth_axis(axes: "Axes", depths: list[int]) -> None:
    from matplotlib.ticker import NullLocator

    if is_wide(depths):
        axes.set_xscale("log")
    axes.set_xticks(depths, [str(depth) for depth in depths])
    axes.xaxis.set_minor_locator(NullLocator())
