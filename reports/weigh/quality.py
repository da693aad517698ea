"""A law of quality through the runs of several budgets:

E + A (N / N0)^-alpha + c (log L - log best(N))^2
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from reports.weigh.fits import HUBER, Array, Generator, Interval, interval
from reports.weigh.valley import Valley

REFITS = 300
"""Draws, each of which is a separate fit."""
FEWEST_FOR_FLOOR = 4
"""Budgets that are needed before the irreducible loss can be fitted."""
NAMES = ("floor", "level", "exponent", "curvature", "log_depth", "depth_exponent")


@dataclass(frozen=True)
class Quality:
    """E + A (N / middle)^-exponent + curvature (log L - log best depth)², A = level - E;
    log best depth = log_depth + depth_exponent · log(N / middle)."""

    middle: float
    parameters: dict[str, float]
    draws: pd.DataFrame
    """The parameters of each refit, and `without_floor`: its exponent with E held at 0."""
    residuals: pd.DataFrame
    """`budget`, `depth`, `seed`, `residual`, the mean of what the seed adds taken out."""
    floor_fitted: bool
    """Whether E was fitted; else it is held at 0."""
    without_floor: float
    """The exponent where E is held at 0."""

    @property
    def floor_known(self) -> bool:
        """Whether the runs tell E from 0 and from all of the level."""
        low, high = interval(self.draws["floor"].to_numpy())
        level = self.parameters["level"]
        return self.floor_fitted and low > 0.01 * level and high < 0.99 * level

    def interval(self, name: str) -> Interval:
        """Of a parameter; where E is not known, the exponent's begins where it does with E = 0.

        E ends at 0, so that refits crowd there and reach the exponent of E = 0 too seldom.
        """
        low, high = interval(self.draws[name].to_numpy())
        if name == "exponent" and not self.floor_known:
            low = min(low, interval(self.draws["without_floor"].to_numpy())[0])
        return low, high

    def at(self, budget: Any, depth: Any) -> Any:
        """The law's value."""
        theta = np.array([self.parameters[name] for name in NAMES])
        return law(theta, np.log(np.asarray(budget) / self.middle), np.log(depth))


def quality(
    valleys: Sequence[Valley],
    rng: Generator,
    refits: int = REFITS,
    text: pd.DataFrame | None = None,
) -> Quality:
    """The law through the runs of all valleys.

    Noise is drawn for seeds (moving all depths of a budget), depths and runs, and all is fitted
    again; with the draws of `text`, as `valley` takes them, for the choice of held-out text.

    Raises:
        ValueError: fewer than two budgets.
    """
    if len(valleys) < 2:
        raise ValueError(f"a law needs at least 2 budgets, but got {len(valleys)}")
    valleys = sorted(valleys, key=lambda valley: valley.budget)
    middle = float(np.exp(np.log([valley.budget for valley in valleys]).mean()))
    cells = pd.concat([v.cells.assign(budget=v.budget) for v in valleys], ignore_index=True)
    points = _Points(
        np.log(cells.budget.to_numpy() / middle),
        np.log(cells.depth.to_numpy(float)),
        cells.adjusted.to_numpy(),
        HUBER * max(float(np.median([_size(v) for v in valleys])), 1e-9),
    )
    floor = len(valleys) >= FEWEST_FOR_FLOOR
    starts = [_start(valleys, share, middle) for share in ((0.0, 0.5, 0.9) if floor else (0.0,))]
    near = [points.fit(start, floor, squares=True)[0] for start in starts]
    theta, _ = min([points.fit(start, floor) for start in near], key=lambda fit: fit[1])
    flat, _ = points.fit(_start(valleys, 0.0, middle), floor=False)
    return Quality(
        middle,
        dict(zip(NAMES, map(float, theta), strict=True)),
        _refitted(points, valleys, cells, theta, flat, floor, rng, refits, text),
        cells[["budget", "depth", "seed"]].assign(residual=points.y - points.of(theta)),
        floor,
        float(flat[NAMES.index("exponent")]),
    )


@dataclass(frozen=True)
class _Points:
    """What a law is fitted to."""

    z: Array
    """log (N / middle) of each run."""
    x: Array
    """log depth."""
    y: Array
    """The values."""
    threshold: float
    """Residuals beyond it count linearly."""

    def of(self, theta: Array) -> Any:
        """The law's value at each run."""
        return law(theta, self.z, self.x)

    def fit(self, start: Array, floor: bool, *, squares: bool = False) -> tuple[Array, float]:
        """Parameters near a start, and their cost; E stays where it is unless it is to be
        fitted."""
        return _fit(start, self.z, self.x, self.y, math.inf if squares else self.threshold, floor)


def _refitted(
    points: _Points,
    valleys: Sequence[Valley],
    cells: pd.DataFrame,
    theta: Array,
    flat: Array,
    floor: bool,
    rng: Generator,
    refits: int,
    text: pd.DataFrame | None,
) -> pd.DataFrame:
    """The parameters of the law through values with noise drawn again, and the exponent with E held
    at 0, from the fits `theta` and `flat`."""
    fitted = points.of(theta)
    group = cells.groupby(["budget", "depth"]).ngroup().to_numpy()
    bounded = np.clip(points.y - fitted, -points.threshold, points.threshold)
    mean = np.bincount(group, bounded) / np.bincount(group)
    within = bounded - mean[group]
    shift = np.concatenate([_inflated(valley.effects) for valley in valleys])
    where = np.searchsorted([valley.budget for valley in valleys], cells.budget)
    on_text = None if text is None else text[cells.key].to_numpy()
    draws = []
    for number in range(refits):
        moved = fitted + rng.choice(mean, len(mean))[group] + rng.choice(within, len(within))
        moved += np.array([rng.choice(shift, len(v.effects)).mean() for v in valleys])[where]
        starts = theta, flat
        if on_text is not None:  # which moves the level far beyond Huber's threshold
            moved += on_text[number]
            own = (np.array(NAMES) == "level") * on_text[number].mean()
            starts = theta + own, flat + own
        again = replace(points, y=moved)
        free, _ = again.fit(starts[0], floor)
        held, _ = again.fit(starts[1], floor=False) if floor else (free, 0.0)
        draws.append([*free, held[NAMES.index("exponent")]])
    return pd.DataFrame(draws, columns=[*NAMES, "without_floor"])


def _size(valley: Valley) -> float:
    return float(np.median(np.abs(valley.cells.residual))) / 0.6745


def _inflated(effects: Array) -> Array:
    n = len(effects)
    return effects * math.sqrt(n / (n - 1)) if n > 1 else effects


def _start(valleys: Sequence[Valley], share: float, middle: float) -> Array:
    """Where to begin, with that share of the lowest level as E."""
    levels = np.array([float(v.cells.groupby("depth").adjusted.mean().min()) for v in valleys])
    at = np.log([v.budget / middle for v in valleys])
    floor = share * float(levels.min())
    falls, log_level = np.polyfit(at, np.log(levels - floor), 1)
    best = [min(max(v.best, v.lowest), v.deepest) if v.curvature > 0 else v.lowest for v in valleys]
    grows, log_depth = np.polyfit(at, np.log(best), 1)
    curved = max(float(np.median([v.curvature for v in valleys])), 1e-4)
    level = math.exp(log_level) + floor
    return np.array([floor, level, max(-falls, 1e-3), curved, log_depth, grows])


def law(theta: Array, z: Any, x: Any) -> Any:
    """The law's value at z = log (N / middle) and x = log depth."""
    floor, level, exponent, curvature, log_depth, depth_exponent = theta
    off = x - log_depth - depth_exponent * z
    return floor + (level - floor) * np.exp(-exponent * z) + curvature * off**2


def slopes(theta: Array, z: Array, x: Array) -> Array:
    """Derivatives of `law` by its parameters: (runs, 6)."""
    floor, level, exponent, curvature, log_depth, depth_exponent = theta
    off = x - log_depth - depth_exponent * z
    shrunk = np.exp(-exponent * z)
    by_exponent = -(level - floor) * z * shrunk
    by_depth = -2 * curvature * off
    columns = [1 - shrunk, shrunk, by_exponent, off**2, by_depth, by_depth * z]
    return np.column_stack(columns)


def _fit(
    start: Array, z: Array, x: Array, y: Array, threshold: float, floor: bool
) -> tuple[Array, float]:
    """Parameters near a start, and their cost; E stays where it is unless it is to be fitted, and
    an infinite threshold makes least squares of it."""
    free = slice(0 if floor else 1, None)
    low = np.array([0.0, 0.0, 0.0, 0.0, -np.inf, -np.inf])[free]
    high = np.array([y.min(), np.inf, 5.0, np.inf, np.inf, np.inf])[free]

    def whole(theta: Array) -> Array:
        return theta if floor else np.concatenate([start[:1], theta])

    found = least_squares(
        lambda theta: law(whole(theta), z, x) - y,
        np.clip(start[free], low + 1e-9, high - 1e-9),
        jac=lambda theta: slopes(whole(theta), z, x)[:, free],
        bounds=(low, high),
        loss="huber" if threshold < math.inf else "linear",
        f_scale=min(threshold, 1.0),
        x_scale="jac",
    )
    return whole(found.x), float(found.cost)
