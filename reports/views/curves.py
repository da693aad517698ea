"""Learning curves of a study's runs, for its page."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reports.read.study import Study, plain, shorten
from reports.show.figures import Json, ramp, xy
from search.objectives import LOSSES, USUAL, WITHOUT_BYTES, Measure
from space.words import count

NOISY = "train_loss"
"""The column that is a loss of single batches."""
SMOOTHED_OVER = 20
"""A point is a mean over one part in so many."""
MOST_NAMED = 16
"""Depths in the key of the colours."""
MOST_POINTS = 20_000
"""Of all curves of a panel together."""


def learning_curves(study: Study, column: str) -> Json | None:
    """`column` against tokens, one thin line per run, coloured by depth; None if no run has any."""
    trials = study.trials.drop_duplicates("key")
    trials = trials[trials.key.isin(list(study.curves))]
    colors = depth_colors(study)
    most = points_each(len(trials))
    data: list[Json] = []
    for trial in trials.sort_values(["number"]).to_dict("records"):
        points = list(shorten(study.curves[trial["key"]], column, most))
        if not points:
            continue
        if column == NOISY:
            points = smoothed(points)
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


def points_each(curves: int) -> int:
    """How many points a curve has at most: 200 where there are up to 100 curves, 50 at least."""
    return min(200, max(50, MOST_POINTS // max(curves, 1)))


def smoothed(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Centred means over a twentieth of the curve, over less towards its ends, which stay."""
    tokens, values = np.array(points).T
    most, n = len(values) // (2 * SMOOTHED_OVER), len(values)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    place = np.arange(n)
    reach = np.minimum(np.minimum(place, n - 1 - place), most)
    means = (sums[place + reach + 1] - sums[place - reach]) / (2 * reach + 1)
    return list(zip(tokens.tolist(), means.tolist(), strict=True))


def evaluated_once(study: Study) -> bool:
    """Whether no run has more than one point of validation, which makes no curve."""
    column = curve_of(study)
    return all(len(_known(curve, column)) < 2 for curve in study.curves.values())


def _known(curve: pd.DataFrame, column: str) -> NDArray[np.float64]:
    values = curve[column].to_numpy(dtype=float)
    known: NDArray[np.float64] = values[~np.isnan(values)]
    return known


def described(study: Study, column: str) -> str:
    """A figure of curves for those who do not see it."""
    ends = {key: _known(curve, column) for key, curve in study.curves.items()}
    last = {key: float(values[-1]) for key, values in ends.items() if len(values)}
    trials = study.trials[study.trials.key.isin(list(last))].drop_duplicates("key")
    found = sorted((last[trial["key"]], _depth(trial)) for trial in trials.to_dict("records"))
    (low, shallow), (high, deep) = found[0], found[-1]
    return (
        f"{_curve_title(column)} against tokens, a line for each of {count(len(found), 'run')}: at "
        f"the end from {low:.4f} ({count(shallow, 'layer')}) to {high:.4f} "
        f"({count(deep, 'layer')})."
    )


def _curve(points: list[tuple[float, float]], trial: Mapping[Any, Any], color: str) -> Json:
    tokens, values = zip(*points, strict=True)
    depth = _depth(trial)
    name = f"{count(depth, 'layer')}, seed {trial['seed']}" if depth else f"trial {trial['number']}"
    mode = "lines+markers" if len(points) < 10 else "lines"
    return (
        {"meta": {"arm": trial["arm"]}}
        | xy([round(t) for t in tokens], [float(f"{v:.5g}") for v in values], mode=mode)
        | {
            "line": {"color": color, "width": 1.1},
            "marker": {"size": 4},
            "hovertemplate": f"{name}<br>trial {trial['number']}, run {trial['key'][:8]}"
            "<br>%{y:.4f} at %{x:.3s} tokens<extra></extra>",
        }
    )


def curve_of(study: Study) -> str:
    """The validation curve that goes with the study's metric."""
    if study.metric in LOSSES:
        return study.metric
    drawn = pd.concat(study.curves.values()) if study.curves else pd.DataFrame(columns=[*LOSSES])
    return USUAL if drawn.val_bpb.notna().any() else WITHOUT_BYTES


def depth_colors(study: Study) -> dict[int, str]:
    """The colour of each depth among the learning curves; 0 stands for depths not known yet."""
    trials = study.trials[study.trials.key.isin(list(study.curves))]
    depths = sorted({_depth(trial) for trial in trials.to_dict("records")})
    return dict(zip(depths, ramp(len(depths)), strict=True))


def named_colors(study: Study) -> dict[int, str]:
    """The colours of as many depths as a caption has room for."""
    colors = depth_colors(study)
    step = math.ceil(len(colors) / MOST_NAMED) if colors else 1
    return dict([*list(colors.items())[:-1:step], *list(colors.items())[-1:]])


def _depth(trial: Mapping[Any, Any]) -> int:
    """Layers of a trial; 0 where it has no record yet to tell."""
    depth = trial.get("num_hidden_layers")
    return 0 if depth is None or math.isnan(depth) else int(depth)


def _curve_title(column: str) -> str:
    known = column in LOSSES
    return Measure(column).title if known else "Training loss (nats per token)"


def _tight_range(data: list[Json]) -> list[float] | None:
    """The loss range without the first steps, which would press all the rest into one line."""
    late = [v for t in data for v in t["y"][len(t["y"]) // 10 :] if math.isfinite(v)]
    if len(late) < 2 or max(late) == min(late):
        return None
    top = float(pd.Series(late).quantile(0.995))
    margin = 0.04 * (top - min(late))
    return [round(min(late) - margin, 4), round(top + margin, 4)]
