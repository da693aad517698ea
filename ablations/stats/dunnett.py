"""The distribution of the largest of K t statistics that belong to differences to one arm.

They share a denominator, the spread that was found, and what that arm's own runs add to all of
them: Dunnett's distribution, for any design and for two spreads too.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from math import sqrt

import numpy as np
from numpy.polynomial.legendre import leggauss
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from ablations.stats.tails import chi2_isf, chi2_pdf, chi2_ppf, t_isf, t_sf

Array = NDArray[np.float64]
Tail = Callable[[float], float]
"""The probability that the largest of some t statistics is beyond a value, if all effects are 0."""

LARGEST_RATIO = 30.0
"""Ratio of variances from which the critical value of two spreads is held constant (it falls, so
this is conservative)."""
DIGITS = 12
"""Significant digits to which numbers are compared."""
LEGENDRE = leggauss(72)


@dataclass(frozen=True)
class Contrasts:
    """The differences of K arms to the one that they are all compared with."""

    to: int
    """That one."""
    others: list[int]
    """The arms: all that are linked to it."""
    diff: Array
    """(K,)"""
    scale: Array
    """(K,) standard errors if sigma were 1."""
    own: Array
    """(K,) the part of each standard error, as a fraction, that comes from the arm's own runs."""
    shared: Array
    """(K, F) the rest, as loadings on F independent factors. In a complete table there is one: the
    mean of the arm they are compared with. So correlations = own² on the diagonal + shared sharedᵀ.
    """


def tail_of(contrasts: Contrasts, df: float, *, two_sided: bool) -> Tail:
    """Given the factors and the spread found, arms are independent: the rest is integration."""
    factors, spread, weight = _nodes(contrasts.shared.shape[1], df)
    alike = np.column_stack([contrasts.own, contrasts.shared]).round(DIGITS)
    rows, times = np.unique(alike, axis=0, return_counts=True)  # arms with the same seeds: once
    own, shared = rows[:, :1], rows[:, 1:]
    centre = shared @ factors / own  # (K, P), for K different arms
    reach = spread / own

    def tail(value: float) -> float:
        inside = ndtr(value * reach - centre)
        if two_sided:
            inside -= ndtr(-value * reach - centre)
        return float(weight @ (1 - (inside ** times[:, None]).prod(0)))

    return tail


@lru_cache(maxsize=4)
def _nodes(factors: int, df: float) -> tuple[Array, Array, Array]:
    """P points and weights to integrate over normal factors (F, P) and the spread (P,).

    With one factor by quadrature, to nine digits or more (Dunnett 1955). With more by a fixed set
    of quasi-random points, to about four: as smooth in its arguments, and the same every time.
    """
    if factors > 1:
        from scipy.stats import qmc  # takes half a second, and few tables need it

        points = qmc.Sobol(factors + 1, rng=0).random_base2(15).clip(1e-12, 1 - 1e-12).T
        weight = np.full(points.shape[1], 1 / points.shape[1])
        return ndtri(points[1:]), np.sqrt(chi2_ppf(points[0], df) / df), weight
    nodes, weights = LEGENDRE
    normal_weight = weights * np.exp(-((9 * nodes) ** 2) / 2)
    spread, spread_weight = _spread_nodes(df)
    weight = np.outer(normal_weight / normal_weight.sum(), spread_weight).ravel()
    normal = np.repeat(9 * nodes, len(spread))
    return normal[None, :], np.tile(spread, len(nodes)), weight


def _spread_nodes(df: float) -> tuple[Array, Array]:
    """Points and weights to integrate over a standard deviation found with `df`, the true being 1.

    Gauss-Legendre between its extreme quantiles.
    """
    nodes, weights = LEGENDRE
    low, high = np.sqrt(chi2_ppf(1e-16, df)), np.sqrt(chi2_isf(1e-16, df))
    chi = low + (high - low) * (nodes + 1) / 2
    weights = weights * chi * chi2_pdf(chi**2, df)
    return chi / sqrt(df), weights / weights.sum()


@dataclass(frozen=True)
class TwoSpreads:
    """The contrasts if what they share has a variance of its own, `ratio` times the arms'."""

    contrasts: Contrasts
    df_arms: int
    df_shared: int
    two_sided: bool

    def df(self, ratio: float) -> float:
        """Satterthwaite's, the fewest of any contrast; NaN where a spread has none."""
        if not (self.df_arms > 0 and self.df_shared > 0):
            return float("nan")
        arms, shared = self.contrasts.own**2, ratio * (1 - self.contrasts.own**2)
        parts = arms**2 / self.df_arms + shared**2 / self.df_shared
        return float(((arms + shared) ** 2 / parts).min())

    def tail(self, ratio: float) -> Tail:
        own, shared = self.contrasts.own, self.contrasts.shared * sqrt(ratio)
        scale = np.sqrt(own**2 + (shared**2).sum(1))
        related = replace(self.contrasts, own=own / scale, shared=shared / scale[:, None])
        return tail_of(related, self.df(ratio), two_sided=self.two_sided)

    def criticals(self, ratios: Array, alpha: float) -> Array:
        """(..., 1) for (...,): of one ratio as it is, of many interpolated."""
        if np.isnan(self.df(1.0)):
            return np.full((*ratios.shape, 1), np.nan)
        if ratios.size == 1:
            return np.full((*ratios.shape, 1), self.critical(float(ratios.ravel()[0]), alpha))
        design = (self.contrasts.own.round(DIGITS), self.contrasts.shared.round(DIGITS))
        known = design[0].tobytes(), design[1].tobytes(), len(design[0])
        found = _criticals_by_ratio(
            *known, int(self.df_arms), int(self.df_shared), self.two_sided, alpha
        )
        return np.asarray(np.interp(ratios / (1 + ratios), *found)[..., None])

    def critical(self, ratio: float, alpha: float) -> float:
        contrasts = len(self.contrasts.own)
        return _critical(self.tail(ratio), alpha, contrasts, self.df(ratio), self.two_sided)


@lru_cache(maxsize=256)
def _criticals_by_ratio(
    own: bytes,
    shared: bytes,
    contrasts: int,
    df_arms: int,
    df_shared: int,
    two_sided: bool,
    alpha: float,
) -> tuple[Array, Array]:
    """Shares of what is shared in a variance, and the critical value at each."""
    two = TwoSpreads(_remade(own, shared, contrasts), df_arms, df_shared, two_sided)
    parts = np.linspace(0, LARGEST_RATIO / (1 + LARGEST_RATIO), 17)
    return parts, np.array([two.critical(part / (1 - part), alpha) for part in parts])


def _remade(own: bytes, shared: bytes, contrasts: int) -> Contrasts:
    """The contrasts as far as their critical value depends on them."""
    nothing = np.zeros(contrasts)
    loadings = np.frombuffer(shared).reshape(contrasts, -1)
    return Contrasts(0, [], nothing, nothing, np.frombuffer(own), loadings)


def critical_of(contrasts: Contrasts, df: int, alpha: float, two_sided: bool = True) -> float:
    """The critical value with one spread: it depends on the design alone, so it is worked out
    once."""
    own, shared = contrasts.own.round(DIGITS), contrasts.shared.round(DIGITS)
    return _remembered(own.tobytes(), shared.tobytes(), len(own), df, alpha, two_sided)


@lru_cache(maxsize=1024)
def _remembered(
    own: bytes, shared: bytes, contrasts: int, df: int, alpha: float, two_sided: bool
) -> float:
    design = _remade(own, shared, contrasts)
    return _critical(tail_of(design, df, two_sided=two_sided), alpha, contrasts, df, two_sided)


def _critical(tail: Tail, alpha: float, contrasts: int, df: float, two_sided: bool = True) -> float:
    """The value that is exceeded with probability `alpha`. Bonferroni's bounds it from above, and
    stands for it where the quadrature does not reach so far out: at few degrees of freedom and
    levels such as 1e-6, of a look at two seeds after one at four."""
    bonferroni = float(t_isf(alpha / (2 if two_sided else 1) / contrasts, df))
    if tail(1.01 * bonferroni) >= alpha:
        return bonferroni
    return float(brentq(lambda value: tail(value) - alpha, 0.0, 1.01 * bonferroni, xtol=1e-10))


def adjusted(statistic: Array, tail: Tail, df: float) -> Array:
    """The p (K,) of each statistic (K,), adjusted for all of them."""
    single = 2 * t_sf(statistic, df)
    together = np.array([tail(value) for value in statistic])
    # Between the unadjusted and Bonferroni's by theory; far out in the tail, by this line.
    p: Array = np.clip(together, single, np.minimum(len(statistic) * single, 1.0))
    return p


@lru_cache(maxsize=1024)
def noncentrality(critical: float, df: int, power: float) -> float:
    """How many standard errors a difference must have to be found with the power wanted."""
    return float(
        brentq(
            lambda shift: chance_of(shift, critical, df) - power, 0.0, 2 * critical + 5, xtol=1e-10
        )
    )


def chance_of(shift: float, critical: float, df: int) -> float:
    """The chance of a verdict on a difference of so many standard errors."""
    spread, weight = _spread_nodes(df)
    return float(weight @ (ndtr(shift - critical * spread) + ndtr(-shift - critical * spread)))
