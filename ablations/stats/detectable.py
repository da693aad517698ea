"""The chance that a difference gets a verdict, and the minimum detectable difference."""

from functools import lru_cache
from math import sqrt

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr

from ablations.stats.dunnett import Array, noncentrality
from ablations.stats.widths import half_widths

POWER = 0.8
DRAWN = 2000
"""Tables that the minimum detectable difference of a design is worked out from."""


def reach(
    critical: Array, df: int, contrasts: int, seeds: int | None, alpha: float, power: float
) -> float:
    """The minimum detectable difference in half widths: with one spread as it follows from the
    critical value, with three (`seeds` given) from simulated widths."""
    if seeds is None:
        return noncentrality(float(critical), df, power) / float(critical)
    half = typical_widths(contrasts + 1, seeds, alpha)
    return detectable(half, seeds, power) / float(half.mean())


def detectable(half: Array, seeds: int, power: float = POWER) -> float:
    """The difference, in standard deviations of a run's error, that gets a verdict with this
    chance, when intervals have these half widths (any shape) in the same unit."""
    top = 2 * float(half.max()) + 10
    return float(brentq(lambda effect: chance(effect, half, seeds) - power, 0.0, top, xtol=1e-9))


def chance(effect: float, half: Array, seeds: int) -> float:
    """The chance of a verdict on such a difference: widths and differences are independent."""
    error = sqrt(2 / seeds)
    either = ndtr((effect - half) / error) + ndtr((-effect - half) / error)
    return float(either.mean())


@lru_cache(maxsize=64)
def typical_widths(arms: int, seeds: int, alpha: float, *, pooled: bool = False) -> Array:
    """Half widths (T, A - 1) of complete tables of normal errors with deviation 1, always the same
    ones."""
    tables = np.random.Generator(np.random.Philox(0)).normal(size=(DRAWN, arms, seeds))
    return half_widths(tables, alpha, pooled=pooled)[1]
