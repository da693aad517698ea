"""False verdicts and power of `compare`, by simulation in its own model."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ablations.stats.block import LEVEL, Spread
from ablations.stats.detectable import POWER, chance, detectable, typical_widths
from ablations.stats.dunnett import noncentrality
from ablations.stats.looks import levels
from ablations.stats.sequential import ALPHAS, LOOKS
from ablations.stats.tails import t_isf
from ablations.stats.widths import half_widths

TABLES = 10_000
SEEDS_AUTO = ", ".join(map(str, LOOKS))
PLANTED = (0.5, 1.0, 2.0)
"""Effects in standard deviations of a run's error."""
DESIGNS = ((4, 3), (10, 3), (4, 5), (6, 5), (12, 6), (4, 10))
"""Arms × seeds for which power is shown."""
EXTENDED_DESIGNS = tuple(
    (arms, looks) for looks in ((3, 5), (4, 6), (3, 8), (5, 10)) for arms in (5, 9, 12)
)
"""Arms, and the seeds of each look of a table that is extended after it was read."""
UNEQUAL_DESIGNS = ((3, 3), (4, 3), (4, 5), (10, 3), (10, 5), (12, 6), (10, 10))
PATTERNS = {
    "equal": (1.0, 1.0, 0.0),
    "baseline 1.5 times": (1.5, 1.0, 0.0),
    "baseline 2 times": (2.0, 1.0, 0.0),
    "baseline 3 times": (3.0, 1.0, 0.0),
    "baseline 4 times": (4.0, 1.0, 0.0),
    "baseline 10 times": (10.0, 1.0, 0.0),
    "one arm 2 times": (1.0, 2.0, 0.0),
    "one arm 4 times": (1.0, 4.0, 0.0),
    "one arm 10 times": (1.0, 10.0, 0.0),
    "a fifth of the arms 4 times": (1.0, 4.0, 0.2),
    "a third of the arms 4 times": (1.0, 4.0, 1 / 3),
    "half of the arms 4 times": (1.0, 4.0, 0.5),
    "baseline and one arm 4 times": (4.0, 4.0, 0.0),
}
"""Standard deviation of the baseline and of the noisy arms, and the share of these (0: one)."""

Array = NDArray[np.float64]


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
        found = _binomial(self).proportion_ci(0.95, "exact")
        return float(found.low), float(found.high)

    @property
    def upper(self) -> float:
        """The one-sided upper 95% bound (also Clopper and Pearson)."""
        return float(_binomial(self, alternative="less").proportion_ci(0.95, "exact").high)


def _binomial(found: Rate, **options: Any) -> Any:
    from scipy.stats import binomtest  # as few reports need it, it is loaded here

    return binomtest(found.count, found.tables, **options)


def aa_test(
    spread: Spread,
    arms: int,
    seeds: int,
    *,
    scales: Sequence[float] = (),
    tables: int = TABLES,
    rng: int = 0,
    pooled: bool = False,
) -> Rate:
    """Tables in which `compare` gives any verdict, all of them false: the arms are equal.

    `scales` (arms,) multiply the arms' residual spread; the first is the baseline's. Tables are
    drawn by Philox from `rng`. `pooled` is as for `compare`.
    """
    values = _draw(spread, arms, seeds, tables, rng, scales)
    return Rate(int(_verdicts(values, 1 - LEVEL, pooled).any(-1).sum()), tables)


def sequential_aa_test(
    spread: Spread,
    arms: int,
    *,
    scales: Sequence[float] = (),
    tables: int = TABLES,
    rng: int = 0,
) -> Rate:
    """The same of `ablations.stats.sequential.verdicts`: any false verdict at any look.

    The first false one of a table is reached when all its arms still have their seeds in common.
    """
    values = _draw(spread, arms, max(LOOKS), tables, rng, scales)
    looks = [
        _verdicts(values[:, :, :look], alpha).any(-1)
        for look, alpha in zip(LOOKS, ALPHAS, strict=True)
    ]
    return Rate(int(np.any(looks, axis=0).sum()), tables)


def extended(
    tables: int = TABLES, designs: Sequence[tuple[int, tuple[int, ...]]] = EXTENDED_DESIGNS
) -> pd.DataFrame:
    """False verdicts of equal arms in tables that get more seeds until something is resolved.

    `arms looks`, `level` of the last look in percent of error, and the tables with a false verdict
    at any look: `each`, every look read at 5%; `told`, the first at 5%, as a table of one look is,
    and further ones at their level; `spent`, all at their level. `last`: tables with a false
    verdict at the last look alone, at 5%, as if seeds had been added whatever was found.
    """
    rows = []
    for arms, looks in designs:
        values = _draw(Spread(0.0, 1.0), arms, looks[-1], tables, 3)
        own = levels(looks)
        at_5 = [_verdicts(values[:, :, :n], 1 - LEVEL).any(-1) for n in looks]
        at_own = [_verdicts(values[:, :, :n], a).any(-1) for n, a in zip(looks, own, strict=True)]
        ways = [at_5, [at_5[0], *at_own[1:]], at_own, at_5[-1:]]
        rates = [Rate(int(np.any(way, axis=0).sum()), tables).rate for way in ways]
        rows.append((arms, ", ".join(map(str, looks)), own[-1], *rates))
    names = ["arms", "looks", "level", "each", "told", "spent", "last"]
    return pd.DataFrame(rows, columns=names)


def unequal(
    tables: int = TABLES, designs: Sequence[tuple[int, int]] = UNEQUAL_DESIGNS
) -> pd.DataFrame:
    """False verdicts of arms that differ only in their spread: `arms seeds spread pooled rule`.

    `spread` is a name in `PATTERNS`; `pooled` is the rate if equal spread is assumed,
    `rule` that of `compare`, with its two-sided 95% bounds `low high` and its one-sided `upper`.
    `seeds` is a number, or the looks of `seeds=auto`.
    """
    rows = []
    one = Spread(0.0, 1.0)
    for name, (baseline, other, share) in PATTERNS.items():
        for arms, seeds in designs:
            scales = scales_of(arms, baseline, other, share)
            rule, pooled = (
                aa_test(one, arms, seeds, scales=scales, tables=tables, rng=1, pooled=equal)
                for equal in (False, True)
            )
            rows.append((arms, str(seeds), name, pooled.rate, rule))
        for arms in sorted({arms for arms, _ in designs}):
            scales = scales_of(arms, baseline, other, share)
            rule = sequential_aa_test(one, arms, scales=scales, tables=tables, rng=1)
            rows.append((arms, SEEDS_AUTO, name, np.nan, rule))
    counted = [(*row, rate.rate, *rate.interval, rate.upper, rate.tables) for *row, rate in rows]
    names = ["arms", "seeds", "spread", "pooled", "rule", "low", "high", "upper", "tables"]
    return pd.DataFrame(counted, columns=names)


def power(tables: int = TABLES, designs: Sequence[tuple[int, int]] = DESIGNS) -> pd.DataFrame:
    """Planted effects and how often they are found, with equal spread of all arms.

    `arms seeds effect`, the effect of one arm in standard deviations of a run's error; `computed`,
    the power from which the minimum detectable difference is derived; `pooled`, how often it is
    found if equal spread is assumed; `found`, how often by `compare`, with its two-sided 95% bounds
    `low high`; `mdd`, the difference with a computed power of 80%.
    """
    rows = []
    for arms, seeds in designs:
        half = typical_widths(arms, seeds, 1 - LEVEL)
        mdd = detectable(half, seeds, POWER)
        for effect in PLANTED:
            values = _draw(Spread(0.0, 1.0), arms, seeds, tables, 2)
            values[:, 1] -= effect
            hit, pooled = (
                Rate(int(_verdicts(values, 1 - LEVEL, equal)[:, 0].sum()), tables)
                for equal in (False, True)
            )
            computed = chance(effect, half, seeds)
            rows.append((arms, seeds, effect, computed, pooled.rate, hit.rate, *hit.interval, mdd))
    names = ["arms", "seeds", "effect", "computed", "pooled", "found", "low", "high", "mdd"]
    return pd.DataFrame(rows, columns=names)


def ways(designs: Sequence[tuple[int, int]] = DESIGNS) -> pd.DataFrame:
    """What a verdict takes by three ways of comparing: `arms seeds` and, in standard deviations of
    a difference (of two runs of one seed), the statistic that a paired t per arm needs
    (`paired_t`, Bonferroni over the arms) and the difference that each way finds with 80% power
    (`paired pooled rule`)."""
    rows = []
    for arms, seeds in designs:
        alpha = (1 - LEVEL) / arms
        needed = float(t_isf(alpha / 2, seeds - 1))
        paired = noncentrality(needed, seeds - 1, POWER) / sqrt(seeds)
        found = [
            detectable(typical_widths(arms, seeds, 1 - LEVEL, pooled=equal), seeds, POWER)
            for equal in (True, False)
        ]
        rows.append((arms, seeds, needed, paired, *(mdd / sqrt(2) for mdd in found)))
    return pd.DataFrame(rows, columns=["arms", "seeds", "paired_t", "paired", "pooled", "rule"])


def scales_of(arms: int, baseline: float, other: float, share: float) -> list[float]:
    """(A,) standard deviations of a pattern's arms, the baseline's first."""
    noisy = max(1, round(share * arms))
    return [baseline, *[other] * noisy, *[1.0] * (arms - 1 - noisy)]


def _draw(
    spread: Spread, arms: int, seeds: int, tables: int, rng: int, scales: Sequence[float] = ()
) -> Array:
    """(tables, arms, seeds)"""
    draw = np.random.Generator(np.random.Philox(rng))
    residual = draw.normal(0, spread.residual, (tables, arms, seeds))
    if len(scales):
        residual *= np.asarray(scales)[:, None]
    return residual + draw.normal(0, spread.seed, (tables, 1, seeds))


def _verdicts(values: Array, alpha: float, pooled: bool = False) -> NDArray[np.bool_]:
    """(T, A - 1) which arms of tables (T, A, S) differ significantly from the first."""
    diff, half = half_widths(values, alpha, pooled=pooled)
    resolved: NDArray[np.bool_] = np.abs(diff) > half
    return resolved
