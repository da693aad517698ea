"""How far a difference between arms would be another on other held-out text.

All runs of a table are scored on the same windows of held-out text, so that differences between
arms vary less with the windows than the losses do. No number of seeds shows that error: it is the
same in all of them. Windows are spread evenly over the held-out text and taken for independent.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ablations.stats.tails import norm_isf

Array = NDArray[np.float64]
FEWEST = 2
"""Windows: one alone does not say how they vary."""

ErrorsTo = Callable[[Any], Mapping[str, float]]
"""By an arm as the baseline the standard errors of the others' differences to it, as known."""


def standard_error(ours: Array, baselines: Array, units: Array) -> float:
    """Of the difference of two arms in loss per unit: nats (W,) of each window, means over the
    seeds of each arm, and the windows' units (W,), tokens or bits' worth of bytes.

    Source: the variance of a ratio's estimate, Cochran, Sampling Techniques (1977), section 6.4.
    """
    if len(units) < FEWEST:
        return np.nan
    return float(np.sqrt(covariance((ours - baselines)[None], units)[0, 0]))


def covariance(nats: Array, units: Array) -> Array:
    """(A, A) of the loss per unit of arms over the choice of windows: nats (A, W) of each arm and
    window, means over the seeds of an arm, and the windows' units (W,), at least `FEWEST`.

    Source: as for `standard_error`.
    """
    windows, total = len(units), units.sum()
    beside = nats - nats.sum(axis=1, keepdims=True) / total * units
    result: Array = windows / (windows - 1) * beside @ beside.T / total**2
    return result


def widened(half: Array, errors: Array, level: float, *, two_sided: bool = True) -> Array:
    """Half widths (K,) of simultaneous intervals that hold the error of evaluation too: standard
    errors (K,), NaN where it is not known and the width stays.

    The error has as many degrees of freedom as windows, so that its own critical value is the
    normal one, for all K at once (Šidák). Squares of both parts add up.
    """
    alpha = 1 - level ** (1 / max(len(half), 1))
    own = norm_isf(alpha / 2 if two_sided else alpha) * np.nan_to_num(errors)
    result: Array = np.hypot(half, own)
    return result


def widened_around(
    half: Array, arms: Sequence[Any], errors: ErrorsTo, level: float, *, two_sided: bool
) -> Array:
    """Half widths (K, K) of the arms' intervals around each of them, row by row, `widened`."""
    held = half.copy()
    for row, arm in enumerate(arms):
        others, known = np.arange(len(arms)) != row, errors(arm)
        own = np.array([known.get(other, np.nan) for other in arms])[others]
        held[row, others] = widened(half[row, others], own, level, two_sided=two_sided)
    return held
