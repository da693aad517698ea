"""Robust fits, and intervals from draws: what `valley`, `growth` and `quality` have in common.

Fits are robust (Huber's loss by `scipy.optimize.least_squares`), and their intervals come from
residuals drawn again, by generators that the caller seeds.
"""

import math
from typing import Any

import numpy as np
from scipy.optimize import least_squares

Array = np.ndarray[Any, np.dtype[Any]]
Generator = np.random.Generator

HUBER = 1.345
"""Residuals beyond this many standard deviations count linearly: 95% efficiency if normal."""

Interval = tuple[float, float]


def interval(draws: Array) -> Interval:
    """The middle 95%; an end is infinite where more than 2.5% of the draws have none."""
    low, high = np.quantile(draws, (0.025, 0.975), method="inverted_cdf")
    return float(low), float(high)


def raised(log: float) -> float:
    """e to that power; infinite beyond what any size or depth can be."""
    return math.exp(log) if log < 50 else math.inf


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
