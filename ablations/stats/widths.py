"""How wide the interval of a difference is, by each of three estimates of the spread: see
`ablations.stats.effects`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ablations.stats.block import Fit, contrasts, fit_of
from ablations.stats.dunnett import (
    LARGEST_RATIO,
    Array,
    Contrasts,
    TwoSpreads,
    adjusted,
    critical_of,
    tail_of,
)
from ablations.stats.tails import t_isf, t_sf
from ablations.stats.variances import Design, Variances, design_of, variances

OWN = 0.5
"""Part of the level at which a difference must hold by the two arms' own spreads."""


@dataclass(frozen=True)
class Way:
    """The differences of tables (...,) measured by one notion of their spread."""

    name: str
    error: Array
    """(..., K) standard errors."""
    critical: Callable[[float], Array]
    """(..., K) or a shape that goes with it, for a level's complement."""
    tail: Callable[[Array], Array]
    """The adjusted p (K,) of the statistics (K,) of one table."""

    def half(self, alpha: float) -> Array:
        return self.critical(alpha) * self.error

    def p(self, diff: Array) -> Array:
        """Adjusted p (K,) of one table."""
        away = np.where(diff == 0, 0.0, np.inf)
        return self.tail(np.divide(np.abs(diff), self.error, out=away, where=self.error > 0))


def ways_of_table(fit: Fit, against: Contrasts, *, two_sided: bool) -> list[Way]:
    """`ways_of` one table."""
    return ways_of(fit.residuals, np.array(fit.sigma), fit.df, against, two_sided)


def ways_of(
    residuals: Array, sigma: Array, df: int, against: Contrasts, two_sided: bool
) -> list[Way]:
    """The three spreads by which a difference must be significant, the pooled one first, of tables
    (...,) with `residuals` (..., A, S) and `sigma` (...,)."""
    pooled = _pooled(sigma, df, against, two_sided)
    if len(against.others) < 2 or not (sigma > 0).any():
        return [pooled]
    design = design_of(~np.isnan(residuals.reshape(-1, *residuals.shape[-2:])[0]))
    found = variances(residuals)
    return [
        pooled,
        _baseline(found, design, against, two_sided),
        _own(found, design, against, two_sided),
    ]


def _pooled(sigma: Array, df: int, against: Contrasts, two_sided: bool) -> Way:
    return Way(
        "pooled",
        sigma[..., None] * against.scale,
        lambda alpha: np.array(critical_of(against, df, alpha, two_sided)),
        lambda value: adjusted(value, tail_of(against, df, two_sided=two_sided), df),
    )


def _baseline(found: Variances, design: Design, against: Contrasts, two_sided: bool) -> Way:
    own, rest = found.own[..., against.to], found.rest[..., against.to]
    mine, shared = _parts(against)
    ratio = np.divide(own, rest, out=np.ones_like(own), where=rest > 0).clip(max=LARGEST_RATIO)
    df = design.df[against.to]
    two = TwoSpreads(against, design.total - df, df, two_sided)
    return Way(
        "baseline",
        np.sqrt(own[..., None] * shared + rest[..., None] * mine),
        lambda alpha: two.criticals(ratio, alpha),
        lambda value: adjusted(value, two.tail(float(ratio)), two.df(float(ratio))),
    )


def _own(found: Variances, design: Design, against: Contrasts, two_sided: bool) -> Way:
    sides, (mine, shared) = 2 if two_sided else 1, _parts(against)
    df_base, df_own = design.df[against.to], design.df[against.others]
    each = np.stack(
        [found.own[..., against.others] * mine, found.own[..., against.to][..., None] * shared]
    )
    both, lowest = each.sum(0), np.minimum(df_own, df_base)
    with np.errstate(invalid="ignore", divide="ignore"):
        welch = both**2 / (each[0] ** 2 / df_own + each[1] ** 2 / df_base)
    welch = np.where(both > 0, welch, lowest).clip(lowest, df_own + df_base)
    return Way(
        "own",
        np.sqrt(both),
        lambda alpha: t_isf(OWN * alpha / sides, welch),
        lambda value: np.minimum(sides / OWN * t_sf(value, welch), 1.0),
    )


def _parts(against: Contrasts) -> tuple[Array, Array]:
    """The part of each contrast's variance that is the arm's own, and the rest: the baseline's."""
    return (against.own * against.scale) ** 2, (1 - against.own**2) * against.scale**2


def half_widths_around(
    fit: Fit, arms: NDArray[np.intp], level: float, pooled: bool, *, two_sided: bool = False
) -> Array:
    """Row i has the half widths of the intervals of all arms around arm i as the control."""
    half = np.full((len(arms), len(arms)), np.nan)
    for row, arm in enumerate(arms if fit.df else []):
        ways = ways_of_table(fit, contrasts(fit, arm), two_sided=two_sided)[: 1 if pooled else None]
        widest = np.max([way.half(1 - level) for way in ways], axis=0)
        half[row, arms != arm] = np.where(np.isnan(widest), np.inf, widest)  # says nothing
    return half


def half_widths(values: Array, alpha: float, *, pooled: bool = False) -> tuple[Array, Array]:
    """What `compare` says of many complete tables (T, A, S): differences to the first arm and half
    widths of their intervals, (T, A - 1), to three digits."""
    fit = fit_of(pd.DataFrame(values[0]))
    against = contrasts(fit, 0)
    means = values.mean(2, keepdims=True)
    residuals = values - means - values.mean(1, keepdims=True) + values.mean((1, 2), keepdims=True)
    sigma = np.sqrt((residuals**2).sum((1, 2)) / fit.df)
    ways = ways_of(residuals, sigma, fit.df, against, True)[: 1 if pooled else None]
    return (means[:, 1:] - means[:, :1])[..., 0], np.max([way.half(alpha) for way in ways], axis=0)
