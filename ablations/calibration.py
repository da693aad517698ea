"""How often `compare` errs, and how often it finds what is there: simulation in its own model."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from ablations.effects import _cells, _fit, compare

TABLES = 10_000


@dataclass(frozen=True)
class Spread:
    """Standard deviations of a randomised block, in units of the metric."""

    seed: float
    """Of what a seed adds to all arms."""
    residual: float


@dataclass(frozen=True)
class Rate:
    """How many of so many tables."""

    count: int
    tables: int

    @property
    def rate(self) -> float:
        return self.count / self.tables

    @property
    def upper(self) -> float:
        """The upper 95% bound, one-sided (Clopper and Pearson, Biometrika 26:404, 1934)."""
        test = binomtest(self.count, self.tables, alternative="less")
        return float(test.proportion_ci(0.95, "exact").high)


def fitted(frame: pd.DataFrame, metric: str = "val_bpb") -> Spread:
    """What the runs of a frame, as for `compare`, say about the two spreads (by moments).

    Raises:
        ValueError: as for `compare`, and when fewer than two seeds leave no spread to fit.
    """
    fit = _fit(cells := _cells(frame, metric))
    if not fit.df:
        raise ValueError("the spread needs two arms with two seeds in common; train another seed")
    means = (cells - fit.effects[:, None]).mean()
    seeds = means.var() - fit.sigma**2 * (1 / cells.notna().sum()).mean()
    return Spread(float(np.sqrt(max(seeds, 0.0))), fit.sigma)


def aa_test(
    spread: Spread,
    arms: int,
    seeds: int,
    *,
    tables: int = TABLES,
    rng: int = 0,
    verdicts: Callable[..., pd.DataFrame] = compare,
) -> Rate:
    """Tables with any false verdict, of so many of equal arms (names a00 …) by so many seeds.

    `verdicts(frame, baseline)` is `compare`, or that of `ablations.sequential`. Tables
    are drawn by Philox from `rng`.
    """
    draw = np.random.Generator(np.random.Philox(rng))
    frame = _design(arms, seeds)
    wrong = 0
    for _ in range(tables):
        values = draw.normal(0, spread.seed, seeds) + draw.normal(0, spread.residual, (arms, seeds))
        rows = verdicts(frame.assign(val_bpb=values.ravel()), "a00")
        wrong += bool(rows.verdict.isin(["better", "worse"]).any())
    return Rate(wrong, tables)


def _design(arms: int, seeds: int) -> pd.DataFrame:
    names = [f"a{arm:02}" for arm in range(arms)]
    return pd.DataFrame({"arm": np.repeat(names, seeds), "seed": np.tile(range(seeds), arms)})
