"""What several budgets say together: the best depth of each, how it grows, and a law of quality.

Numbers in, numbers out. Fits are robust (Huber's loss by `scipy.optimize.least_squares`), and their
intervals come from residuals drawn again, by generators that the caller seeds.

    valley    a quadratic in log depth for each budget: its bottom is the best depth
    growth    a line through log best depth over log budget
    quality   E + A (N / N0)^-alpha + c (log L - log best(N))^2 through all runs
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

Array = np.ndarray[Any, np.dtype[Any]]
Generator = np.random.Generator

DRAWS = 2000
"""For valleys and growth, where a draw is a product of matrices."""
REFITS = 300
"""Draws for the law of quality, each of which is a separate fit."""
HUBER = 1.345
"""Residuals beyond this many standard deviations count linearly: 95% efficiency if normal."""
FEWEST_DEPTHS = 4
"""A quadratic takes three."""
FEWEST_FOR_FLOOR = 4
"""Budgets that the law of quality needs before the irreducible loss can be fitted."""
INSIDE, EDGE, NONE = "inside", "edge", "none"

Interval = tuple[float, float]


def interval(draws: Array) -> Interval:
    """The middle 95%; an end is infinite where more than 2.5% of the draws have none."""
    low, high = np.quantile(draws, (0.025, 0.975), method="inverted_cdf")
    return float(low), float(high)


@dataclass(frozen=True)
class Valley:
    """A budget's quality over depth: level + slope x + curvature x², x = log depth - centre."""

    budget: float
    centre: float
    level: float
    """The mean over seeds of what each adds."""
    slope: float
    curvature: float
    lowest: float
    deepest: float
    """The range of depths tried."""
    cells: pd.DataFrame
    """The runs: `depth`, `seed`, `value`, `adjusted` (without what the seed adds to all depths),
    `residual`."""
    effects: Array
    """What each seed adds to all depths, less the mean of the seeds."""
    draws: Array
    """The logarithm of the best depth, as often as noise was drawn; infinite, on the side that is
    lower, where the curvature came out negative."""

    @property
    def status(self) -> str:
        """`inside` the tried depths, at their `edge`, or `none` where nothing curves upwards."""
        if self.curvature <= 0:
            return NONE
        return INSIDE if self.lowest <= self.best <= self.deepest else EDGE

    @property
    def best(self) -> float:
        """The depth at the bottom; NaN without one."""
        if self.curvature <= 0:
            return math.nan
        return math.exp(min(self.centre - self.slope / (2 * self.curvature), 50.0))

    @property
    def interval(self) -> Interval:
        """Of the best depth; infinite or 0 where an end is not known."""
        low, high = (math.exp(end) if end < 50 else math.inf for end in interval(self.draws))
        return low, high

    @property
    def seeds(self) -> tuple[int, int]:
        """Of a depth: fewest and most."""
        of_depth = self.cells.groupby("depth").seed.nunique()
        return int(of_depth.min()), int(of_depth.max())

    def at(self, depth: Any) -> Any:
        """The fitted value at a depth."""
        x = np.log(depth) - self.centre
        return self.level + self.slope * x + self.curvature * x**2


def robust(design: Array, y: Array) -> tuple[Array, float]:
    """Coefficients of a linear model under Huber's loss, and the threshold beyond which residuals
    count linearly.

    The scale comes from the residuals themselves: the median of their sizes, without as many of
    the smallest as there are coefficients, which these coefficients made small.
    """
    k = design.shape[1]
    found: Array = np.linalg.lstsq(design, y, rcond=None)[0]
    threshold = math.inf
    for _ in range(5):
        sizes = np.sort(np.abs(y - design @ found))[k:]
        scale = float(np.median(sizes)) / 0.6745 if len(sizes) else 0.0
        threshold = HUBER * max(scale, 1e-9)
        found = least_squares(
            lambda beta: design @ beta - y,
            found,
            jac=lambda beta: design,
            loss="huber",
            f_scale=threshold,
            x_scale="jac",
        ).x
    return found, threshold


def valley(cells: pd.DataFrame, budget: float, rng: Generator, draws: int = DRAWS) -> Valley:
    """The valley through a budget's runs (columns `depth`, `seed`, `value`).

    A seed may move all depths alike. Noise is that of runs (what is left within a depth) and of
    depths (how far their means lie off the curve beyond that), whichever makes more; its size is
    drawn too, as residuals are few. A large residual is drawn no larger than Huber's threshold.

    Raises:
        ValueError: fewer depths than `FEWEST_DEPTHS`.
    """
    cells = cells.sort_values(["depth", "seed"], ignore_index=True)
    tried, depth = np.unique(cells.depth, return_inverse=True)
    if len(tried) < FEWEST_DEPTHS:
        raise ValueError(
            f"a valley needs at least {FEWEST_DEPTHS} depths, but got {len(tried)} "
            f"({', '.join(f'{d:g}' for d in tried)}); try more of them"
        )
    seeds, seed = np.unique(cells.seed, return_inverse=True)
    log_depth = np.log(cells.depth.to_numpy(float))
    centre = float(np.log(tried).mean())
    x, y = log_depth - centre, cells.value.to_numpy(float)
    design = np.column_stack([np.eye(len(seeds))[seed], x, x**2])
    found, threshold = robust(design, y)
    residual = y - design @ found
    level, effects = found[:-2].mean(), found[:-2] - found[:-2].mean()
    bounded = np.clip(residual, -threshold, threshold)
    unbounded_share = max(float((np.abs(residual) < threshold).mean()), 0.5)
    noise = _noise(bounded, depth, len(seeds), rng, draws)
    moved = found[-2:] + noise @ np.linalg.pinv(design)[-2:].T / unbounded_share
    cells = cells.assign(adjusted=y - effects[seed], residual=residual)
    bottoms = _bottoms(moved[:, 0], moved[:, 1], centre, np.log(tried[[0, -1]]))
    slope, curvature = map(float, found[-2:])
    ends = float(tried[0]), float(tried[-1])
    return Valley(budget, centre, float(level), slope, curvature, *ends, cells, effects, bottoms)


def _noise(residual: Array, depth: Any, seeds: int, rng: Generator, draws: int) -> Array:
    """Noise drawn from residuals: (draws, runs)."""
    runs, depths = len(residual), int(depth.max()) + 1
    n = np.bincount(depth)
    mean = np.bincount(depth, residual) / n
    within = residual - mean[depth]
    free_off, free_within = depths - 3, runs - depths - seeds + 1
    off = float((n * mean**2).sum()) / free_off
    run = float((within**2).sum()) / free_within if free_within > 0 else 0.0
    if off > run:  # the curve misses the means by more than runs of one depth differ
        free = free_off
        drawn = _again(mean, (draws, depths), rng)[:, depth] * math.sqrt((off - run) / n.mean())
        drawn += _again(within, (draws, runs), rng) * math.sqrt(run)
    else:
        free = free_off + free_within
        pooled = (off * free_off + run * free_within) / free
        drawn = _again(residual, (draws, runs), rng) * math.sqrt(pooled)
    return drawn * np.sqrt(free / rng.chisquare(free, draws))[:, None]


def _again(values: Array, shape: tuple[int, int], rng: Generator) -> Array:
    """Values drawn with replacement, brought to mean 0 and variance 1."""
    spread = values.std()
    return rng.choice((values - values.mean()) / (spread if spread > 0 else 1.0), shape)


def _bottoms(slope: Array, curvature: Array, centre: float, ends: Array) -> Array:
    """The logarithm of each curve's best depth."""
    low, high = ends - centre
    rises = slope * (high - low) + curvature * (high**2 - low**2) > 0
    curved = curvature > 0
    at = centre - slope / np.where(curved, 2 * curvature, 1.0)
    return np.where(curved, at, np.where(rises, -np.inf, np.inf))


@dataclass(frozen=True)
class Growth:
    """log best depth = at + exponent · log(N / middle), through the budgets with a best depth."""

    budgets: tuple[float, ...]
    middle: float
    at: float
    exponent: float
    draws: Array
    """(draws, 2): `at` and `exponent`."""
    widened: float
    """By how much the draws are spread, as the best depths lie farther off the line than their own
    intervals allow; 1: they do not."""

    @property
    def interval(self) -> Interval:
        """Of the exponent."""
        return interval(self.draws[:, 1])

    def best(self, budget: Any) -> Any:
        """The predicted best depth."""
        return np.exp(self.at + self.exponent * np.log(np.asarray(budget) / self.middle))

    def predicted(self, budget: float) -> Interval:
        """Its interval."""
        low, high = interval(self.draws @ np.array([1.0, math.log(budget / self.middle)]))
        return math.exp(low), math.exp(min(high, 700.0))

    def reach(self, budget: float) -> float:
        """How many times the largest fitted budget that is; at most 1: no extrapolation."""
        return budget / max(self.budgets)


OUTER = math.log(4)
"""Draws of a best depth are held within a factor of four beyond the depths tried: farther out, the
quadratic says nothing, and one draw without a bottom would say all."""


def growth(valleys: Sequence[Valley]) -> Growth | None:
    """How the best depth grows; None with fewer than two budgets with an optimum inside.

    Each counts by the spread of its draws.
    """
    inside = [valley for valley in valleys if valley.status == INSIDE]
    if len(inside) < 2:
        return None
    budgets = np.array([valley.budget for valley in inside])
    middle = float(np.exp(np.log(budgets).mean()))
    draws = np.array(
        [np.clip(v.draws, math.log(v.lowest) - OUTER, math.log(v.deepest) + OUTER) for v in inside]
    )
    spread = np.maximum(np.subtract(*np.quantile(draws, (0.75, 0.25), axis=1)) / 1.349, 1e-9)
    design = np.column_stack([np.ones(len(inside)), np.log(budgets / middle)])
    solve = np.linalg.pinv(design / spread[:, None]) / spread
    logs = np.log([valley.best for valley in inside])
    at, exponent = solve @ logs
    missed = float((((logs - design @ [at, exponent]) / spread) ** 2).sum())
    free = len(inside) - 2
    widened = math.sqrt(max(1.0, missed / free)) if free else 1.0
    found = np.array([at, exponent]) + (solve @ (draws - logs[:, None])).T * widened
    return Growth(tuple(budgets), middle, float(at), float(exponent), found, widened)


@dataclass(frozen=True)
class HeldOut:
    """The largest budget's best depth, predicted from the others and measured."""

    budget: float
    predicted: float
    interval: Interval
    found: Interval
    """The best depth as both ends; where that is a bound, what it leaves possible."""

    @property
    def inside(self) -> bool:
        """Whether what was found is possible in the predicted interval."""
        return self.interval[0] <= self.found[1] and self.found[0] <= self.interval[1]

    @property
    def width(self) -> float:
        """The interval's upper end over its lower one."""
        return self.interval[1] / self.interval[0]


def held_out(valleys: Sequence[Valley]) -> HeldOut | None:
    """None where the largest has no best depth, or fewer than two others have one inside."""
    largest = max(valleys, key=lambda valley: valley.budget)
    line = growth([valley for valley in valleys if valley is not largest])
    if line is None or largest.status == NONE:
        return None
    budget = largest.budget
    return HeldOut(budget, float(line.best(budget)), line.predicted(budget), _possible(largest))


def _possible(valley: Valley) -> Interval:
    if valley.status == INSIDE:
        return valley.best, valley.best
    return (0.0, valley.lowest) if valley.best < valley.lowest else (valley.deepest, math.inf)


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
        return _law(theta, np.log(np.asarray(budget) / self.middle), np.log(depth))


def quality(valleys: Sequence[Valley], rng: Generator, refits: int = REFITS) -> Quality:
    """The law through the runs of all valleys.

    Noise is drawn for seeds (moving all depths of a budget), depths and runs, and all is fitted
    again.

    Raises:
        ValueError: fewer than two budgets.
    """
    if len(valleys) < 2:
        raise ValueError(f"a law needs at least 2 budgets, but got {len(valleys)}")
    valleys = sorted(valleys, key=lambda valley: valley.budget)
    budgets = np.array([valley.budget for valley in valleys])
    middle = float(np.exp(np.log(budgets).mean()))
    cells = pd.concat([v.cells.assign(budget=v.budget) for v in valleys], ignore_index=True)
    z = np.log(cells.budget.to_numpy() / middle)
    x, y = np.log(cells.depth.to_numpy(float)), cells.adjusted.to_numpy()
    floor = len(valleys) >= FEWEST_FOR_FLOOR
    starts = [_start(valleys, share, middle) for share in ((0.0, 0.5, 0.9) if floor else (0.0,))]
    threshold = HUBER * max(float(np.median([_size(v) for v in valleys])), 1e-9)
    near = [_fit(start, z, x, y, math.inf, floor)[0] for start in starts]
    fits = [_fit(start, z, x, y, threshold, floor) for start in near]
    theta, _ = min(fits, key=lambda fit: fit[1])
    flat, _ = _fit(_start(valleys, 0.0, middle), z, x, y, threshold, floor=False)
    fitted = _law(theta, z, x)
    residual = y - fitted
    group = cells.groupby(["budget", "depth"]).ngroup().to_numpy()
    bounded = np.clip(residual, -threshold, threshold)
    mean = np.bincount(group, bounded) / np.bincount(group)
    within = bounded - mean[group]
    shift = np.concatenate([_inflated(valley.effects) for valley in valleys])
    where = np.searchsorted(budgets, cells.budget)
    draws = []
    for _ in range(refits):
        moved = fitted + rng.choice(mean, len(mean))[group] + rng.choice(within, len(within))
        moved += np.array([rng.choice(shift, len(v.effects)).mean() for v in valleys])[where]
        free, _ = _fit(theta, z, x, moved, threshold, floor)
        held, _ = _fit(flat, z, x, moved, threshold, floor=False) if floor else (free, 0.0)
        draws.append([*free, held[NAMES.index("exponent")]])
    return Quality(
        middle,
        dict(zip(NAMES, map(float, theta), strict=True)),
        pd.DataFrame(draws, columns=[*NAMES, "without_floor"]),
        cells[["budget", "depth", "seed"]].assign(residual=residual),
        floor,
        float(flat[NAMES.index("exponent")]),
    )


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


def _law(theta: Array, z: Any, x: Any) -> Any:
    floor, level, exponent, curvature, log_depth, depth_exponent = theta
    off = x - log_depth - depth_exponent * z
    return floor + (level - floor) * np.exp(-exponent * z) + curvature * off**2


def _slopes(theta: Array, z: Array, x: Array) -> Array:
    """Derivatives of `_law` by its parameters: (runs, 6)."""
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
        lambda theta: _law(whole(theta), z, x) - y,
        np.clip(start[free], low + 1e-9, high - 1e-9),
        jac=lambda theta: _slopes(whole(theta), z, x)[:, free],
        bounds=(low, high),
        loss="huber" if threshold < math.inf else "linear",
        f_scale=min(threshold, 1.0),
        x_scale="jac",
    )
    return whole(found.x), float(found.cost)
