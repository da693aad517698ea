"""The best depth of a budget: the bottom of a quadratic in log depth."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from reports.weigh.fits import Array, Generator, Interval, interval, raised, robust
from search.law import FEWEST_DEPTHS

DRAWS = 2000
"""Each is a product of matrices."""
INSIDE, EDGE, NONE = "inside", "edge", "none"


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
    `residual`, and `key` where it was given."""
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
        low, high = map(raised, interval(self.draws))
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


def valley(
    cells: pd.DataFrame,
    budget: float,
    rng: Generator,
    draws: int = DRAWS,
    text: pd.DataFrame | None = None,
) -> Valley:
    """The valley through a budget's runs (columns `depth`, `seed`, `value`).

    A seed may move all depths alike. Noise is that of runs (what is left within a depth) and of
    depths (how far their means lie off the curve beyond that). The sizes of both are drawn, as
    residuals are few, and never tested for: few depths cannot rule out that the curve misses them.
    A large residual is drawn no larger than Huber's threshold.

    `text` has, draw by draw and for each `key` of the runs, by how much its value would be another
    on other held-out text (`reports.weigh.evaluation.OfRuns.drawn`). What all depths have in common
    of it moves no bottom. Valleys of several budgets are given the same draws, so that what these
    have in common of it is in their growth, too.

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
    solve = np.linalg.pinv(design)[-2:].T
    moved = found[-2:] + noise @ solve / unbounded_share
    if text is not None:
        moved += text[cells.key].to_numpy()[:draws] @ solve
    cells = cells.assign(adjusted=y - effects[seed], residual=residual)
    bottoms = _bottoms(moved[:, 0], moved[:, 1], centre, np.log(tried[[0, -1]]))
    slope, curvature = map(float, found[-2:])
    ends = float(tried[0]), float(tried[-1])
    return Valley(budget, centre, float(level), slope, curvature, *ends, cells, effects, bottoms)


def _noise(residual: Array, depth: Any, seeds: int, rng: Generator, draws: int) -> Array:
    """Noise drawn from residuals: (draws, runs). Both variances are drawn by χ², the depths' own is
    what is left of that of their means, 0 at least."""
    runs, depths = len(residual), int(depth.max()) + 1
    n = np.bincount(depth)
    mean = np.bincount(depth, residual) / n
    within = residual - mean[depth]
    free_off, free_within = depths - 3, runs - depths - seeds + 1
    off = float((n * mean**2).sum()) / rng.chisquare(free_off, draws)
    run = np.zeros(draws)
    if free_within > 0:
        run = float((within**2).sum()) / rng.chisquare(free_within, draws)
    beyond = np.sqrt(np.maximum(off - run, 0.0) / n.mean())
    drawn: Array = _again(mean, (draws, depths), rng)[:, depth] * beyond[:, None]
    drawn += _again(within, (draws, runs), rng) * np.sqrt(run)[:, None]
    return drawn


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
