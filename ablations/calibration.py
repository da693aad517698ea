"""How often `compare` errs, and how often it finds what is there: simulation in its own model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest

from ablations.effects import (
    LEVEL,
    POWER,
    _cells,
    _contrasts,
    _critical_of,
    _fit,
    _found,
    _noncentrality,
    compare,
)
from ablations.sequential import LOOKS

TABLES, UNEQUAL_TABLES = 10_000, 2_000
PLANTED = (0.5, 1.0, 2.0)
"""Effects in standard deviations of a run's error."""
DESIGNS = ((4, 3), (4, 5), (6, 5), (12, 6), (4, 10))
"""Arms × seeds for which power is shown."""
UNEQUAL_DESIGNS = ((4, 5), (10, 3), (10, 5), (10, 10))
PATTERNS = {
    "equal": (1.0, 1.0, 0.0),
    "baseline 2 times": (2.0, 1.0, 0.0),
    "baseline 4 times": (4.0, 1.0, 0.0),
    "baseline 10 times": (10.0, 1.0, 0.0),
    "one arm 4 times": (1.0, 4.0, 0.0),
    "one arm 10 times": (1.0, 10.0, 0.0),
    "half of the arms 2 times": (1.0, 2.0, 0.5),
    "half of the arms 4 times": (1.0, 4.0, 0.5),
}
"""Spread of the baseline, of the loud arms, and the share of arms that are loud (0: one)."""

Array = NDArray[np.float64]


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
    def interval(self) -> tuple[float, float]:
        """Two-sided 95% bounds (Clopper and Pearson, Biometrika 26:404, 1934)."""
        found = binomtest(self.count, self.tables).proportion_ci(0.95, "exact")
        return float(found.low), float(found.high)

    @property
    def upper(self) -> float:
        """The upper 95% bound, one-sided (likewise)."""
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
    scales: Sequence[float] = (),
    tables: int = TABLES,
    rng: int = 0,
) -> Rate:
    """Tables in which `compare` gives any verdict, all of them false: the arms are equal.

    `scales` (arms,) multiply the arms' residual spread; the first is the baseline's. Tables are
    drawn by Philox from `rng`.
    """
    values = _draw(spread, arms, seeds, tables, rng, scales)
    suspects = _pooled_verdicts(values, 1 - LEVEL).any(-1)
    return Rate(sum(bool(_resolved(table).any()) for table in values[suspects]), tables)


def sequential_aa_test(spread: Spread, arms: int, *, tables: int = TABLES, rng: int = 0) -> Rate:
    """The same of `ablations.sequential.verdicts`: any false verdict at any look.

    The first false one of a table is reached when all its arms still have their seeds in common.
    """
    values = _draw(spread, arms, max(LOOKS), tables, rng)
    alpha = (1 - LEVEL) / len(LOOKS)
    looks = [_pooled_verdicts(values[:, :, :look], alpha).any(-1) for look in LOOKS]
    suspects = np.any(looks, axis=0)
    wrong = sum(
        any(_resolved(table[:, :look], 1 - alpha).any() for look in LOOKS)
        for table in values[suspects]
    )
    return Rate(wrong, tables)


def unequal(
    tables: int = UNEQUAL_TABLES, designs: Sequence[tuple[int, int]] = UNEQUAL_DESIGNS
) -> pd.DataFrame:
    """False verdicts where arms are equal but for their spread: `arms seeds spread pooled rule`.

    `spread` is a name in `PATTERNS`; `pooled` is the rate with equal spread taken for granted,
    `rule` that of `compare`, with its two-sided 95% bounds `low high`.
    """
    rows = []
    for arms, seeds in designs:
        for name, (baseline, other, share) in PATTERNS.items():
            loud = max(1, round(share * arms))
            scales = [baseline, *[other] * loud, *[1.0] * (arms - 1 - loud)]
            values = _draw(Spread(0.0, 1.0), arms, seeds, tables, 1, scales)
            suspects = _pooled_verdicts(values, 1 - LEVEL).any(-1)
            rule = Rate(sum(bool(_resolved(table).any()) for table in values[suspects]), tables)
            low, high = rule.interval
            rows.append((arms, seeds, name, suspects.mean(), rule.rate, low, high))
    names = ["arms", "seeds", "spread", "pooled", "rule", "low", "high"]
    return pd.DataFrame(rows, columns=names)


def power(
    tables: int = UNEQUAL_TABLES, designs: Sequence[tuple[int, int]] = DESIGNS
) -> pd.DataFrame:
    """Planted effects and how often they are found, all arms spread equally.

    `arms seeds effect`, the effect of one arm in standard deviations of a run's error; `computed`,
    the power that the minimum detectable difference rests on; `pooled`, how often it is found with
    equal spread taken for granted; `found`, how often by `compare`, with its two-sided 95% bounds
    `low high`; `mdd`, the difference with a computed power of 80%.
    """
    rows = []
    for arms, seeds in designs:
        fit = _fit(_cells(_frame(_draw(Spread(0, 1), arms, seeds, 1, 0)[0]), "val_bpb"))
        against = _contrasts(fit, 0)
        critical = _critical_of(against, fit.df, 1 - LEVEL)
        error = float(against.scale[0])
        for effect in PLANTED:
            values = _draw(Spread(0.0, 1.0), arms, seeds, tables, 2)
            values[:, 1] -= effect
            hit = _pooled_verdicts(values, 1 - LEVEL)[:, 0]
            count = sum(bool(_resolved(table)[1]) for table in values[hit])
            low, high = (rate := Rate(count, tables)).interval
            computed = _found(effect / error, critical, fit.df)
            mdd = _noncentrality(critical, fit.df, POWER) * error
            rows.append((arms, seeds, effect, computed, hit.mean(), rate.rate, low, high, mdd))
    names = ["arms", "seeds", "effect", "computed", "pooled", "found", "low", "high", "mdd"]
    return pd.DataFrame(rows, columns=names)


def _draw(
    spread: Spread, arms: int, seeds: int, tables: int, rng: int, scales: Sequence[float] = ()
) -> Array:
    """(tables, arms, seeds)"""
    draw = np.random.Generator(np.random.Philox(rng))
    residual = draw.normal(0, spread.residual, (tables, arms, seeds))
    if scales:
        residual *= np.asarray(scales)[:, None]
    return residual + draw.normal(0, spread.seed, (tables, 1, seeds))


def _pooled_verdicts(values: Array, alpha: float) -> NDArray[np.bool_]:
    """(T, A - 1) which arms of complete tables (T, A, S) the pooled model resolves from the first.

    `compare` resolves no other: where it treats a spread, its interval is the wider one. So it need
    only be asked about these tables.
    """
    seeds = values.shape[2]
    fit = _fit(_cells(_frame(values[0]), "val_bpb"))
    critical = _critical_of(_contrasts(fit, 0), fit.df, alpha)
    means = values.mean(2, keepdims=True)
    residuals = values - means - values.mean(1, keepdims=True) + values.mean((1, 2), keepdims=True)
    sigma = np.sqrt((residuals**2).sum((1, 2)) / fit.df)
    apart = np.abs(means[:, 1:, 0] - means[:, :1, 0])
    resolved: NDArray[np.bool_] = apart > critical * (sigma * np.sqrt(2 / seeds))[:, None]
    return resolved


def _resolved(values: Array, level: float = LEVEL) -> NDArray[np.bool_]:
    """(A,) which arms of a table (A, S) have a verdict against the first."""
    found = compare(_frame(values), "a00", level=level).verdict
    resolved: NDArray[np.bool_] = found.isin(["better", "worse"]).to_numpy()
    return resolved


def _frame(values: Array) -> pd.DataFrame:
    arms, seeds = values.shape
    names = [f"a{arm:02}" for arm in range(arms)]
    return pd.DataFrame(
        {"arm": np.repeat(names, seeds), "seed": np.tile(range(seeds), arms)}
    ).assign(val_bpb=values.ravel())
