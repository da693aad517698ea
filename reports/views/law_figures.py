"""The figures of a law: valleys over depth, best depth over parameters, residuals."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from reports.read.study import plain
from reports.show.figures import SERIES, Json, print_files
from reports.show.tables import whole
from reports.views.depth_figure import MOST_LABELS, apart
from reports.weigh.forecast import EXPONENTS
from reports.weigh.law import Law
from reports.weigh.valley import INSIDE, Valley
from space.sharing import MOST_LAYERS
from space.words import magnitude

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 60
"""Of a curve."""
COLUMNS = 2
"""Of the page's panels."""
WIDTH = 0.78
"""Of a panel, of its column: the rest is for the labels of the next one, on a phone too."""
IN_A_PANEL = 8
"""Labels under its axis."""
WIDE = 2.2
"""Decades of best depths beyond which an axis has room for two marks in each, and not four."""
SOFT = "#9a9da2"


def interactive(law: Law) -> dict[str, Json]:
    """The page's figures, by the id of their place."""
    drawn = {"depth": _depth(law), "growth": _growth(law), "residuals": _residuals(law)}
    figures: dict[str, Json] = plain(drawn)
    return figures


def printed(law: Law, warning: str) -> dict[str, bytes]:
    """The same for print, as PNG and PDF, under a warning where there is one."""
    return (
        print_files("depth", lambda: _print_depth(law), warning)
        | print_files("growth", lambda: _print_growth(law), warning)
        | print_files("residuals", lambda: _print_residuals(law), warning)
    )


def curve(valley: Valley) -> tuple[list[float], list[float]]:
    """The fitted valley over the depths tried."""
    depth = np.geomspace(valley.lowest, valley.deepest, POINTS)
    return depth.tolist(), valley.at(depth).tolist()


def bottom(valley: Valley) -> tuple[list[float], list[float]]:
    """The interval of the best depth, cut to the depths tried, at the height of the bottom."""
    ends = np.clip(valley.interval, valley.lowest, valley.deepest)
    return ends.tolist(), [float(valley.at(valley.best))] * 2


def means(valley: Valley) -> tuple[list[float], list[float]]:
    """The mean of each depth over its seeds, without each seed's common effect on all depths."""
    by_depth = valley.cells.groupby("depth").adjusted.mean()
    return by_depth.index.tolist(), by_depth.tolist()


def band(law: Law) -> tuple[list[float], list[float], list[float], list[float]]:
    """The predicted best depth from the smallest budget to the largest model beside it: budgets,
    best depths, and their intervals' ends, cut to depths that can be built."""
    assert law.growth is not None, "asked only where there is a line"
    ends = law.valleys[0].budget, max(law.predicted["size"].max(), law.valleys[-1].budget)
    budgets = np.geomspace(*ends, POINTS)
    intervals = np.clip([law.growth.predicted(budget) for budget in budgets], 1, MOST_LAYERS)
    best = np.clip(law.growth.best(budgets), 1, MOST_LAYERS)
    return budgets.tolist(), best.tolist(), intervals[:, 0].tolist(), intervals[:, 1].tolist()


def published_growths(law: Law) -> Iterator[tuple[float, list[float], list[float]]]:
    """Each published growth, as a line through the middle of ours: its exponent, budgets and best
    depths that can be built. None where there is no line of ours."""
    if law.growth is None:
        return
    budgets = np.array(band(law)[0])
    for exponent in EXPONENTS:
        depths = math.exp(law.growth.at) * (budgets / law.growth.middle) ** exponent
        built = (depths >= 1) & (depths <= MOST_LAYERS)
        yield exponent, budgets[built].tolist(), depths[built].tolist()


def best_depths(law: Law) -> Iterator[tuple[Valley, float, float, float]]:
    """Each budget's best depth with the ends of its interval, cut to the depths tried."""
    for valley in law.valleys:
        low, high = np.clip(valley.interval, valley.lowest, valley.deepest).tolist()
        if valley.status == INSIDE:
            yield valley, valley.best, low, high


def bounds(law: Law) -> Iterator[tuple[Valley, float, bool]]:
    """The edge at which a budget's best depth lies, and whether it is the deep one."""
    for valley in law.valleys:
        if valley.curvature > 0 and valley.status != INSIDE:
            deep = valley.best > valley.deepest
            yield valley, valley.deepest if deep else valley.lowest, deep


def _trace(x: Any, y: Any, mode: str, **style: Any) -> Json:
    return {"type": "scatter", "x": list(x), "y": list(y), "mode": mode, **style}


def _depth_axis(valleys: Sequence[Valley]) -> Json:
    depths = sorted({depth for valley in valleys for depth in valley.cells.depth})
    labelled = apart(depths, log=True, most=MOST_LABELS if valleys[1:] else IN_A_PANEL)
    text = [f"{depth:g}" for depth in labelled]
    title = {"text": "Layers executed"}
    return {"type": "log", "title": title, "tickvals": labelled, "ticktext": text}


def _heights(law: Law) -> list[tuple[float, float]]:
    """The ends of each budget's vertical axis: as far apart for all, so that valleys compare."""
    ends = [(v.cells.adjusted.min(), v.cells.adjusted.max()) for v in law.valleys]
    span = max(high - low for low, high in ends)
    return [(float(low - 0.08 * span), float(low + 1.08 * span)) for low, _ in ends]


def _layout(x: Json, y: Json, legend: bool = True) -> Json:
    return {"xaxis": x, "yaxis": y, "showlegend": legend, "hovermode": "closest"}


def _depth(law: Law) -> Json:
    data: list[Json] = []
    layout: Json = {"showlegend": False, "hovermode": "closest", "annotations": []}
    lines = -(-len(law.valleys) // COLUMNS)
    for number, (valley, ends) in enumerate(zip(law.valleys, _heights(law), strict=True)):
        line, column = divmod(number, COLUMNS)
        left, low = column / COLUMNS, 1 - (line + 1) / lines
        right, high = left + WIDTH / COLUMNS, low + (0.72 if lines > 1 else 0.92) / lines
        suffix = str(number + 1) if number else ""
        place = {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}
        data += [trace | place for trace in _valley(valley, f"var(--series-{_color(number)})")]
        x = _depth_axis([valley]) | {"domain": [left, right], "anchor": place["yaxis"]}
        y = {"range": ends, "domain": [low, high], "anchor": place["xaxis"]}
        layout |= {
            f"xaxis{suffix}": x if line == lines - 1 else x | {"title": None},
            f"yaxis{suffix}": y,
        }
        layout["annotations"].append(
            {
                "text": magnitude(valley.budget),
                "x": (left + right) / 2,
                "y": high,
                "xref": "paper",
                "yref": "paper",
                "yanchor": "bottom",
                "showarrow": False,
            }
        )
    layout["yaxis"]["title"] = {"text": law.studies[0].metric_title, "standoff": 14}
    return {"data": data, "layout": layout}


def _color(number: int) -> int:
    return number % len(SERIES) + 1


def _valley(valley: Valley, color: str) -> Iterator[Json]:
    """Runs, curve, means and the interval of the best depth."""
    yield _trace(
        valley.cells.depth,
        valley.cells.adjusted,
        "markers",
        marker={"color": color, "size": 4, "opacity": 0.45},
        text=[f"seed {seed}" for seed in valley.cells.seed],
        hovertemplate="%{x} layers, %{text}<br>%{y:.4f}<extra></extra>",
    )
    yield _trace(*curve(valley), "lines", line={"color": color, "width": 1.4}, hoverinfo="skip")
    yield _trace(
        *means(valley),
        "markers",
        marker={"color": color, "size": 8},
        hovertemplate="%{x} layers<br>mean %{y:.4f}<extra></extra>",
    )
    if valley.status == INSIDE:
        line = {"color": color, "width": 6}
        yield _trace(*bottom(valley), "lines", opacity=0.35, line=line, hoverinfo="skip")


def _growth(law: Law) -> Json:
    data = [*_predicted(law), *_growths(law), _best_depths(law), *_beyond(law), _published(law)]
    x = {"type": "log", "title": {"text": f"N ({law.counted})"}, "exponentformat": "SI"}
    ends = _reach(law, data)
    marked = marks(*ends)
    y = {
        "type": "log",
        "title": {"text": "Best depth (layers)", "standoff": 14},
        "tickvals": marked,
        "ticktext": [whole(layers) for layers in marked],
        "range": ends,
    }
    return {"data": data, "layout": _layout(x, y) | {"annotations": list(_names(law))}}


def marks(low: float, high: float) -> list[int]:
    """The depths marked on an axis between two logarithms to base 10."""
    steps = (1, 2, 3, 5) if high - low <= WIDE else (1, 3)
    decades = range(math.floor(high) + 1)
    depths = [step * 10**decade for decade in decades for step in steps]
    return [depth for depth in depths if low <= math.log10(depth) <= high]


def _reach(law: Law, data: Sequence[Json]) -> list[float]:
    """The ends of the axis of best depths, in logarithms to base 10: around all that is drawn, with
    room for the names above published models."""
    drawn = [y for trace in data for y in trace["y"]]
    drawn += [end for _, _, *ends in best_depths(law) for end in ends]
    top = max(1.2 * max(drawn), 1.5 * law.predicted.layers.max())
    return [math.log10(min(drawn) / 1.2), math.log10(top)]


def _predicted(law: Law) -> Iterator[Json]:
    """The line through best depths, in its band."""
    if law.growth is None:
        return
    budgets, best, low, high = band(law)
    around = {"hoverinfo": "skip", "showlegend": False, "line": {"width": 0}}
    yield _trace(budgets, low, "lines", **around)
    tint = {"fill": "tonexty", "fillcolor": "rgba(128,128,128,0.18)"}
    yield _trace(budgets, high, "lines", **around, **tint)
    line = {"color": "var(--soft)", "width": 1.4, "dash": "dot"}
    name = "predicted, with 95% interval"
    yield _trace(budgets, best, "lines", line=line, name=name, hoverinfo="skip")


def _growths(law: Law) -> Iterator[Json]:
    for exponent, budgets, depths in published_growths(law):
        line = {"color": "var(--series-2)", "width": 1, "dash": "dash"}
        name = f"published growth N^{exponent:.2f}"
        yield _trace(budgets, depths, "lines", line=line, name=name, hoverinfo="name")


def _best_depths(law: Law) -> Json:
    found = list(best_depths(law))
    return _trace(
        [valley.budget for valley, *_ in found],
        [best for _, best, _, _ in found],
        "markers",
        name="best depth, with 95% interval",
        marker={"color": "var(--series-1)", "size": 8},
        error_y={
            "array": [high - best for _, best, _, high in found],
            "arrayminus": [best - low for _, best, low, _ in found],
            "color": "var(--series-1)",
            "thickness": 1.6,
            "width": 5,
        },
        hovertemplate="%{x:.3s}<br>%{y:.1f} layers<extra></extra>",
    )


def _beyond(law: Law) -> Iterator[Json]:
    """Budgets whose best depth is a bound."""
    if at_edge := list(bounds(law)):
        symbols = ["triangle-up" if deep else "triangle-down" for *_, deep in at_edge]
        yield _trace(
            [valley.budget for valley, *_ in at_edge],
            [edge for _, edge, _ in at_edge],
            "markers",
            name="at or beyond the edge of the depths tried",
            marker={"color": "var(--series-1)", "size": 10, "symbol": symbols},
        )


def _published(law: Law) -> Json:
    rows = law.predicted.sort_values("size")
    return _trace(
        rows["size"],
        rows.layers,
        "markers",
        name="MobileLLM (published)",
        text=list(rows.name),
        marker={"color": "var(--series-2)", "size": 9, "symbol": "diamond"},
        hovertemplate="%{text}: %{y} layers<extra></extra>",
    )


def _names(law: Law) -> Iterator[Json]:
    """The names of published models, on a ground of their own: lines may pass behind them."""
    for number, row in enumerate(law.predicted.sort_values("size").to_dict("records")):
        above = number % 2 == 1  # so that neighbours leave each other room
        yield {
            "text": row["name"],
            "x": math.log10(row["size"]),
            "y": math.log10(row["layers"]),
            "xanchor": "right",
            "yanchor": "bottom" if above else "top",
            "xshift": -4,
            "yshift": 8 if above else -5,
            "borderpad": 0,
            "bgcolor": "var(--paper)",
            "showarrow": False,
        }


def _residuals(law: Law) -> Json:
    data = []
    for number, (budget, rows) in enumerate(_by_budget(law)):
        name, color = magnitude(budget), f"var(--series-{_color(number)})"
        data.append(
            _trace(
                rows.depth * _aside(number, law),
                rows.residual,
                "markers",
                name=name,
                marker={"color": color, "size": 6, "opacity": 0.7},
                text=[
                    f"{depth:g} layers, seed {s}"
                    for depth, s in zip(rows.depth, rows.seed, strict=True)
                ],
                hovertemplate=f"{name}, %{{text}}<br>%{{y:+.4f}}<extra></extra>",
            )
        )
    y = {"title": {"text": "Measured minus law", "standoff": 14}, "zeroline": True}
    return {"data": data, "layout": _layout(_depth_axis(law.valleys), y)}


def _by_budget(law: Law) -> list[tuple[float, pd.DataFrame]]:
    residuals = law.quality.residuals
    return [(v.budget, residuals[residuals.budget == v.budget]) for v in law.valleys]


def _aside(number: int, law: Law) -> float:
    """Factor that moves each budget's marks a little, so that none hides another."""
    return float(1.03 ** (number - (len(law.valleys) - 1) / 2))


def _axes(law: Law, y_title: str) -> tuple["Figure", "Axes"]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.spines["top"].set_visible(False)
    axes.set_ylabel(y_title)
    return figure, axes


def _print_depth_axis(axes: "Axes", valleys: Sequence[Valley]) -> None:
    from matplotlib.ticker import NullLocator

    shown = _depth_axis(valleys)
    axes.set_xlabel(shown["title"]["text"])
    axes.set_xscale("log")
    axes.set_xticks(shown["tickvals"], shown["ticktext"])
    axes.xaxis.set_minor_locator(NullLocator())


def _print_depth(law: Law) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.6 + 2.1 * len(law.valleys), 2.7), layout="constrained")
    panels = figure.subplots(1, len(law.valleys), squeeze=False)[0]
    for number, (axes, valley) in enumerate(zip(panels, law.valleys, strict=True)):
        color = SERIES[_color(number) - 1]
        axes.spines["top"].set_visible(False)
        axes.set_title(f"{magnitude(valley.budget)}", fontsize=10)
        axes.set_ylim(_heights(law)[number])
        _print_depth_axis(axes, [valley])
        axes.scatter(valley.cells.depth, valley.cells.adjusted, 7, color, alpha=0.4, lw=0)
        axes.plot(*curve(valley), color=color, lw=1.1)
        axes.plot(*means(valley), "o", ms=4.5, color=color)
        if valley.status == INSIDE:
            axes.plot(*bottom(valley), color=color, lw=5, alpha=0.35, solid_capstyle="butt")
    panels[0].set_ylabel(law.studies[0].metric_title)
    return figure


def _print_growth(law: Law) -> "Figure":
    from matplotlib.ticker import FuncFormatter, NullLocator

    figure, axes = _axes(law, "Best depth (layers)")
    axes.set(xscale="log", yscale="log", xlabel=f"N ({law.counted})")
    if law.growth is not None:
        budgets, best, low, high = band(law)
        axes.fill_between(budgets, low, high, color="#e4e5e7", lw=0)
        axes.plot(budgets, best, ":", color=SOFT, lw=1.3, label="predicted, with 95% interval")
    for number, (exponent, at, depths) in enumerate(published_growths(law)):
        label = None if number else "published growths, through the middle of ours"
        axes.plot(at, depths, "--", color=SERIES[1], lw=0.8, alpha=0.7, label=label)
        axes.annotate(f"N^{exponent:.2f}", (at[-1], depths[-1]), fontsize=7, ha="right")
    for number, (valley, best_depth, lower, upper) in enumerate(best_depths(law)):
        bars = [[best_depth - lower], [upper - best_depth]]
        label = None if number else "best depth, with 95% interval"
        style: Any = {"fmt": "o", "ms": 4.5, "color": SERIES[0], "capsize": 2.5, "lw": 1.1}
        axes.errorbar([valley.budget], [best_depth], bars, label=label, **style)
    for valley, edge, deep in bounds(law):
        axes.plot([valley.budget], [edge], "^" if deep else "v", ms=6, color=SERIES[0])
    rows = law.predicted
    axes.plot(rows["size"], rows.layers, "D", ms=5, color=SERIES[1], label="MobileLLM (published)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: magnitude(value)))
    shown = axes.get_ylim()
    marked = marks(*map(math.log10, shown))
    axes.set_yticks(marked, [whole(layers) for layers in marked])
    axes.set_ylim(shown)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def _print_residuals(law: Law) -> "Figure":
    figure, axes = _axes(law, "Measured minus law")
    _print_depth_axis(axes, law.valleys)
    axes.axhline(0, color=SOFT, lw=0.8, zorder=0)
    for number, (budget, rows) in enumerate(_by_budget(law)):
        x = rows.depth * _aside(number, law)
        color = SERIES[_color(number) - 1]
        axes.scatter(x, rows.residual, 12, color, alpha=0.7, lw=0, label=magnitude(budget))
    figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=len(law.valleys))
    return figure
