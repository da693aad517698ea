"""How much the runs of each arm vary: variances, tests of equal ones, and outliers."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ablations.stats.block import Fit, cells_of, fit_of, solve
from ablations.stats.dunnett import DIGITS, Array
from ablations.stats.tails import f_sf, t_sf

OUTLIER = 0.05
"""Chance that a table of normal errors has any flagged run."""
SIMULATED = 1999


@dataclass(frozen=True)
class Design:
    """What the places of N runs of A arms say of their residuals, whatever the values."""

    kept: Array
    """(N,) the part of its error's variance that each residual keeps."""
    inverses: tuple[Array, ...]
    """(A,) the pseudo-inverse of the covariance of an arm's residuals, if sigma were 1."""
    df: NDArray[np.int64]
    """(A,) degrees of freedom of an arm's residual variance."""
    share: Array
    """(A,) the part of it that comes from the arm's own runs; the rest is the other arms'."""
    total: int
    """Degrees of freedom of all."""


def design_of(present: NDArray[np.bool_]) -> Design:
    """Of the places (A, S) that have a run; worked out once for each set of places."""
    return _kept_design(present.tobytes(), present.shape[0])


@lru_cache(maxsize=256)
def _kept_design(places: bytes, rows: int) -> Design:
    present = np.frombuffer(places, bool).reshape(rows, -1)
    arms, seeds = np.nonzero(present)
    design = np.concatenate([np.eye(rows)[arms], np.eye(present.shape[1])[seeds]], axis=1)
    kept = (np.eye(len(arms)) - design @ np.linalg.pinv(design)).round(DIGITS)
    inverses = [
        np.linalg.pinv(kept[np.ix_(arms == arm, arms == arm)], rcond=1e-9) for arm in range(rows)
    ]
    df = np.array(
        [round(float(np.trace(np.linalg.pinv(x) @ x))) if x.size else 0 for x in inverses]
    )
    # A run's residual, the arm being left out: its own error and the mean of those with its seed.
    others = present.sum(0) - 1
    share = (others / np.maximum(others + 1, 1) * present).sum(1) / np.maximum(present.sum(1), 1)
    total = round(float(np.trace(kept)))
    return Design(np.diag(kept).copy(), tuple(inverses), df, share, total)


@dataclass(frozen=True)
class Variances:
    """Variances of the errors in tables (...,) of one design; NaN where nothing is left for one."""

    arm: Array
    """(..., A) of the arm's residuals as they are: its own errors, and a part of the others'."""
    rest: Array
    """(..., A) of all other arms', pooled."""
    own: Array
    """(..., A) of the arm's own errors; unbiased but for not being negative (Grubbs, 1948)."""


def variances(residuals: Array) -> Variances:
    """Of (..., A, S), NaN where a cell is missing, the same ones in all tables.

    The numerator of `arm` is what the sum of squares falls by when the arm is left out.
    """
    present = ~np.isnan(residuals.reshape(-1, *residuals.shape[-2:])[0])
    design = design_of(present)
    part = np.zeros(residuals.shape[:-1])
    for arm, inverse in enumerate(design.inverses):
        mine = residuals[..., arm, present[arm]]
        part[..., arm] = np.einsum("...i,ij,...j->...", mine, inverse, mine)
    total = np.nansum(residuals**2, axis=(-2, -1))[..., None]
    with np.errstate(invalid="ignore", divide="ignore"):
        arm_ = np.where(design.df > 0, part / design.df, np.nan)
        left = design.total - design.df
        rest = np.where(left > 0, np.maximum(total - part, 0.0) / left, np.nan)
        own = np.maximum((arm_ - (1 - design.share) * rest) / design.share, 0.0)
    return Variances(arm_, rest, own)


def spread_tests(fit: Fit) -> Array:
    """(A,) p of the F test of each arm's residual variance against all others', one-sided.

    NaN where it, or the rest, has no degree of freedom; with two arms, whose residuals mirror each
    other, always.
    """
    if not fit.sigma > 0:
        return np.full(len(fit.effects), np.nan)
    found, design = variances(fit.residuals), design_of(~np.isnan(fit.residuals))
    with np.errstate(divide="ignore"):
        p: Array = f_sf(found.arm / found.rest, design.df, design.total - design.df)
    return p


def outliers(fit: Fit, seeds: pd.Index) -> list[str]:
    """Per arm, the seeds of its outliers, joined by commas."""
    flagged = np.zeros(fit.residuals.shape, dtype=bool)
    present = ~np.isnan(fit.residuals)
    if fit.df > 1 and fit.sigma > 0:
        kept = design_of(present).kept
        total = np.nansum(fit.residuals**2)
        square = fit.residuals[present] ** 2 / np.where(kept > 1e-9, kept, np.inf)
        rest = np.maximum(total - square, 1e-12 * total) / (fit.df - 1)
        flagged[present] = 2 * len(square) * t_sf(np.sqrt(square / rest), fit.df - 1) < OUTLIER
    return [", ".join(str(seed) for seed in seeds[row]) for row in flagged]


def equal_spread(frame: pd.DataFrame, metric: str = "val_bpb") -> float:
    """p of the hypothesis that all arms have the same spread about the model.

    NaN if fewer than three arms have three runs: residuals of two arms mirror each other. This is
    one number for the whole table; `compare` estimates spreads per arm.

    The statistic is that of Brown and Forsythe, JASA 69:364 (1974), for the residuals. These are
    correlated, so its F distribution does not hold (with three seeds it never rejects): p is the
    rank among 1,999 tables of the same design with normal errors, always the same ones.
    """
    fit = fit_of(cells_of(frame, metric))
    present = ~np.isnan(fit.residuals)
    arms = np.flatnonzero(present.sum(1) >= 3)
    if len(arms) < 3 or not fit.sigma > 0:
        return float("nan")
    tables = np.random.default_rng(0).standard_normal((SIMULATED, *present.shape))
    _, simulated = solve(np.where(present, tables, np.nan), fit.covariance)
    found = brown_forsythe(fit.residuals[arms])
    larger = (brown_forsythe(simulated[:, arms]) >= found).sum()
    return float((1 + larger) / (1 + SIMULATED))


def brown_forsythe(residuals: Array) -> Array:
    """(...) for residuals (..., A, S): the F statistic without its constant factor."""
    apart = np.abs(residuals - np.nanmedian(residuals, axis=-1, keepdims=True))
    mean = np.nanmean(apart, axis=-1, keepdims=True)
    runs = (~np.isnan(apart)).sum(-1)
    between = runs * (mean[..., 0] - np.nanmean(apart, axis=(-2, -1))[..., None]) ** 2
    ratio: Array = between.sum(-1) / np.nansum((apart - mean) ** 2, axis=(-2, -1))
    return ratio
