"""Loss against learning rate: the best rate of each shape, and the cost of a common rate.

The common rate of a parametrisation is the one whose largest cost over its shapes is smallest.

The cost of the common rate for a shape is the relative increase of its loss over that at the
shape's best rate. Its interval is the union of the simultaneous intervals of all rates with several
seeds against the common one (`ablations.stats.effects.compare`), so that it holds for any of them
as the best. The cost itself is biased upwards, since the same runs select the best rate.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ablations.stats.best import indistinguishable
from ablations.stats.block import LEVEL, linked_effects
from ablations.stats.effects import compare

WANTED_COST = 0.002
"""Largest accepted cost of a common rate for any shape, as a share of bits per byte."""
WANTED_STEPS = 1
"""Largest accepted distance of a shape's best rate from the common one, in rates of the grid."""
HOLDS, FAILS, UNRESOLVED = "holds", "fails", "unresolved"


SEPARATOR = ", "


def panel_name(parametrisation: str, shape: str) -> str:
    return f"{parametrisation}{SEPARATOR}{shape}"


def rate_name(rate: float) -> str:
    return f"{rate:g}"


def wanted(frame: pd.DataFrame, seeds: int) -> dict[tuple[str, str], int]:
    """How many seeds each arm needs so far, by panel and arm.

    `frame` has one row per cell: `panel arm parametrisation shape rate seed value done`. A
    parametrisation gets further seeds after the first seed of all its arms; given seeds are kept.
    """
    first = frame.seed == frame.seed.min()
    limits: dict[tuple[str, str], int] = {}
    for _, rule in frame.groupby("parametrisation", sort=False):
        given = rule.groupby(["panel", "arm"], sort=False).done.sum().clip(1, seeds)
        asked: dict[tuple[str, str], int] = dict(
            zip(given.index.to_list(), given.astype(int).to_list(), strict=True)
        )
        if rule.done[first].all():
            asked |= dict.fromkeys(_near(rule), seeds)
        limits |= asked
    return limits


def _near(rule: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Panel and arm of each shape's best rate, its neighbours, and the common rate."""
    rates = sorted(rule.rate.unique())
    common = common_rate(rule)
    for panel, cells in rule.groupby("panel", sort=False):
        names = cells.groupby("rate").arm.first()
        curve = curve_of(cells)
        if common is not None:
            yield str(panel), names[common]
        if len(curve):
            best = rates.index(lowest(curve))
            for rate in rates[max(0, best - 1) : best + 2]:
                yield str(panel), names[rate]


def curve_of(cells: pd.DataFrame) -> "pd.Series[float]":
    """What each rate costs one shape, as a share of its best rate's loss, at equal seeds; rates
    without a result are left out."""
    effects = linked_effects(cells.assign(arm=cells.rate), "value")
    if effects.empty:
        return effects
    loss = cells[cells.rate == lowest(effects)].value.mean()
    relative: pd.Series[float] = (effects - effects.min()) / loss
    return relative


def common_rate(rule: pd.DataFrame) -> float | None:
    """The rate whose largest cost is smallest, of those with a result for all shapes."""
    curves = [curve_of(cells) for _, cells in rule.groupby("panel")]
    worst = pd.concat(curves, axis=1).max(axis=1, skipna=False).dropna()
    return lowest(worst) if len(worst) else None


def lowest(curve: "pd.Series[float]") -> float:
    """The rate with the smallest value."""
    return float(curve.index.to_numpy()[curve.to_numpy().argmin()])


def costs(frame: pd.DataFrame, level: float = LEVEL) -> pd.DataFrame:
    """One row per shape and parametrisation, for a frame as for `wanted`:

    - `parametrisation shape`, and `common`, the rate common to the parametrisation's shapes
    - `best`: the shape's best rate, `level` the rates not significantly worse
    - `steps`: how many rates `best` lies from `common`, up or down; `level_steps`: so for `level`
    - `cost cost_low cost_high`: of the common rate, as a share; NaN where it has no result
    - `n`: seeds of the common rate
    - `edge`: whether `best` is the lowest or highest rate tried: a better one may lie beyond
    """
    rows = []
    for parametrisation, rule in frame.groupby("parametrisation", sort=False):
        common, rates = common_rate(rule), sorted(rule.rate.unique())
        for shape, cells in rule.groupby("shape", sort=False):
            curve = curve_of(cells)
            row: dict[str, Any] = {"parametrisation": parametrisation, "shape": shape}
            row["common"] = common
            if common is None or curve.empty:
                rows.append(row)
                continue
            best = lowest(curve)
            low, high, equal = _interval(cells, common, level)
            row |= {
                "best": best,
                "level": equal,
                "steps": rates.index(best) - rates.index(common),
                "level_steps": tuple(rates.index(rate) - rates.index(common) for rate in equal),
                "cost": float(curve[common]),
                "cost_low": low,
                "cost_high": high,
                "n": int(cells[cells.rate == common].value.notna().sum()),
                "edge": best in (rates[0], rates[-1]),
            }
            rows.append(row)
    names = ["parametrisation", "shape", "common", "best", "level", "steps", "level_steps"]
    names += ["cost", "cost_low", "cost_high", "n", "edge"]
    return pd.DataFrame(rows).reindex(columns=names)


def _interval(
    cells: pd.DataFrame, common: float, level: float
) -> tuple[float, float, tuple[float, ...]]:
    """Bounds of what `common` costs, as a share, and the rates level with the best; NaN and none
    where what is missing leaves some rate without an interval."""
    runs = cells.groupby("rate").value.transform("count")
    some = cells[runs > 1].assign(arm=cells.rate)
    if some.rate.nunique() < 2 or common not in set(some.rate):
        return np.nan, np.nan, ()
    against = compare(some, common, "value", level=level)  # type: ignore[arg-type]
    others = against[against.arm != common]
    low, high = (np.maximum(0.0, (-others[end]).max(skipna=False)) for end in ("ci_high", "ci_low"))
    if np.isnan(high):
        return np.nan, np.nan, ()
    best = indistinguishable(some, "value", level=level)
    loss = best.intervals["mean"].iloc[0]
    return float(low / loss), float(high / loss), tuple(sorted(map(float, best.level)))


def verdicts(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per parametrisation, for the rows of `costs`: `parametrisation common`, `steps`, the
    largest, `cost cost_low cost_high`, of each the largest over the shapes, and of what is wanted
    `near`, whether all best rates lie within one step of the common one, and `cheap`, whether that
    costs every shape at most 0.2%: `holds`, `fails` or `unresolved`.

    Any rate level with a shape's best may be its best, of those with several seeds: `near` holds
    where all of these lie within a step, and fails where none of a shape's does."""
    found = []
    for parametrisation, rule in rows.groupby("parametrisation", sort=False):
        lost = rule.common.isna().any()
        found.append(
            {
                "parametrisation": parametrisation,
                "common": rule.common.iloc[0],
                "steps": rule.steps.abs().max(),
                "cost": rule.cost.max(),
                "cost_low": rule.cost_low.max(skipna=False),
                "cost_high": rule.cost_high.max(skipna=False),
                "near": FAILS if lost else _near_enough(rule),
                "cheap": FAILS if lost else _cheap(rule),
            }
        )
    return pd.DataFrame(found)


def _near_enough(rule: pd.DataFrame) -> str:
    near = [[abs(steps) <= WANTED_STEPS for steps in shape] for shape in rule.level_steps]
    if any(shape and not any(shape) for shape in near):
        return FAILS
    return HOLDS if all(shape and all(shape) for shape in near) else UNRESOLVED


def _cheap(rule: pd.DataFrame) -> str:
    if (rule.cost_low > WANTED_COST).any():
        return FAILS
    return HOLDS if (rule.cost_high <= WANTED_COST).all() else UNRESOLVED


def described(
    cells: pd.DataFrame, parametrisations: Sequence[str], rates: Sequence[float]
) -> pd.DataFrame:
    """The frame of `wanted` and `costs`: cells `panel arm seed value done`, given the recipe of
    each. The name of a panel has the rule in front, by whatever it was named; a panel of another
    name is a shape."""
    names = [
        tuple(panel.split(SEPARATOR, 1)) if SEPARATOR in panel else (parametrisation, panel)
        for panel, parametrisation in zip(cells.panel, parametrisations, strict=True)
    ]
    rules, shapes = [rule for rule, _ in names], [shape for _, shape in names]
    return cells.assign(parametrisation=rules, shape=shapes, rate=rates)
