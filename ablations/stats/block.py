"""The model of a table: a randomised block, fitted by least squares.

value[arm, seed] = effect of the arm + effect of the seed + error
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, log10, sqrt

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from ablations.stats.dunnett import DIGITS, Array, Contrasts
from ablations.stats.tails import norm_isf, t_isf

LEVEL = 0.95


@dataclass(frozen=True)
class Fit:
    """Least squares of a table."""

    effects: Array
    """(A,) in units of the metric; their differences mean something within a group."""
    covariance: Array
    """(A, A) of the effects if sigma were 1; also within a group."""
    group: NDArray[np.int32]
    """(A,) the same number for arms that share seeds, or are linked by arms that do."""
    residuals: Array
    """(A, S) NaN where the cell is missing."""
    df: int
    """Degrees of freedom of the residuals."""
    sigma: float
    """Pooled standard deviation of the errors; NaN without degrees of freedom."""


def cells_of(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Arms × seeds, both sorted, NaN where missing; seeds without a run are left out."""
    missing = [column for column in ("arm", "seed", metric) if column not in frame]
    if missing:
        raise ValueError(
            f"the frame must have the columns arm, seed and {metric}, but lacks "
            f"{', '.join(missing)}; it has {', '.join(map(str, frame.columns))}"
        )
    if frame[["arm", "seed"]].isna().to_numpy().any():
        raise ValueError("every row must name its arm and seed, but some do not; fill them in")
    twice = frame[frame.duplicated(["arm", "seed"])]
    if len(twice):
        raise ValueError(
            f"each arm must have one row per seed, but {twice.arm.iloc[0]!r} has several for seed "
            f"{twice.seed.iloc[0]}; choose one horizon, and one run of each"
        )
    if frame.arm.nunique() < 2:
        raise ValueError(
            f"a comparison needs at least two arms, but got {frame.arm.nunique()}; add another, or "
            "of a study's architectures more seeds: those with one are not compared"
        )
    values = frame[["arm", "seed"]].assign(value=frame[metric].astype(float))
    cells = values.pivot(index="arm", columns="seed", values="value").sort_index()
    return cells.where(np.isfinite(cells)).dropna(axis="columns", how="all")


def describe(cells: pd.DataFrame) -> pd.DataFrame:
    """`n mean sd` of each arm's runs as they are."""
    return pd.DataFrame(
        {"n": cells.notna().sum(axis=1), "mean": cells.mean(axis=1), "sd": cells.std(axis=1)}
    )


def in_order_of(frame: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with arms as index, with `arm` as their first column and ordered as in a frame."""
    return rows.loc[frame.arm.unique()].reset_index(names="arm")


def fit_of(cells: pd.DataFrame) -> Fit:
    """The least squares of `cells_of` a frame."""
    values = cells.to_numpy()
    present = (~np.isnan(values)).astype(float)
    _, group = connected_components(present @ present.T)
    together = group[:, None] == group
    # The normal equations of the arms, the seeds being solved for, leave the level of each group
    # open. Adding the mean of its effects sets that to zero, and makes the matrix regular.
    normal = np.diag(present.sum(1)) - present / present.sum(0) @ present.T
    covariance = np.linalg.inv(normal + together / together.sum(1))
    effects, residuals = solve(values, covariance)
    df = int(present.sum()) - sum(values.shape) + len(set(group))
    sigma = sqrt(np.nansum(residuals**2) / df) if df else np.nan
    # Of the largest value: what floating point adds to equal values must not order them.
    digits = DIGITS - ceil(log10(np.nanmax(np.abs(values), initial=0.0) or 1.0))
    return Fit(effects.round(digits), covariance, group, residuals, df, round(sigma, digits))


def solve(values: Array, covariance: Array) -> tuple[Array, Array]:
    """Effects (..., A) and residuals (..., A, S) of tables (..., A, S) that share a design."""
    deviations = values - np.nanmean(values, axis=-2, keepdims=True)
    effects = np.nansum(deviations, axis=-1) @ covariance
    residuals = values - effects[..., None]
    return effects, residuals - np.nanmean(residuals, axis=-2, keepdims=True)


def contrasts(fit: Fit, to: int) -> Contrasts:
    """The differences of all arms that are linked to one."""
    others = [int(arm) for arm in np.flatnonzero(fit.group == fit.group[to]) if arm != to]
    cross = fit.covariance[others, to]
    covariance = fit.covariance[np.ix_(others, others)] - np.add.outer(cross, cross)
    covariance += fit.covariance[to, to]
    scale = np.sqrt(np.diag(covariance))
    own = 1 / np.sqrt((~np.isnan(fit.residuals[others])).sum(1))
    values, vectors = np.linalg.eigh(covariance - np.diag(own**2))  # has no negative ones
    loadings = (vectors * np.sqrt(np.maximum(values, 0)))[:, values > 1e-9]
    diff = fit.effects[others] - fit.effects[to]
    return Contrasts(to, others, diff, scale, own / scale, loadings / scale[:, None])


def arm_means(
    frame: pd.DataFrame,
    metric: str = "val_bpb",
    *,
    level: float = LEVEL,
    evaluation: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Per arm, in the order of first rows: `arm n mean sd ci_low ci_high text_low text_high`.

    The interval uses the pooled spread and says how far the mean would move if the arm were rerun
    with these seeds and scored on the same text, as figures show it, since arms share their text.
    That between `text_low` and `text_high` holds the choice of held-out text too: `evaluation` has,
    by arm, the standard error that the mean has for it; NaN where that is not known. Both are for
    this arm alone, not simultaneous. `frame`, the other columns and the errors are those of
    `compare`; intervals are NaN where no degree of freedom is left.
    """
    cells = cells_of(frame, metric)
    fit, rows = fit_of(cells), describe(cells)
    half = t_isf((1 - level) / 2, fit.df) * fit.sigma / np.sqrt(rows.n.replace(0, np.nan))
    known = pd.Series([(evaluation or {}).get(arm, np.nan) for arm in rows.index], rows.index)
    both = np.hypot(half, norm_isf((1 - level) / 2) * known.astype(float))
    rows = rows.assign(ci_low=rows["mean"] - half, ci_high=rows["mean"] + half)
    rows = rows.assign(text_low=rows["mean"] - both, text_high=rows["mean"] + both)
    return in_order_of(frame, rows)


def residuals(frame: pd.DataFrame, metric: str = "val_bpb") -> pd.DataFrame:
    """The residual of each run under the model, arms × seeds, NaN without one. Errors are those of
    `compare`."""
    cells = cells_of(frame, metric)
    return pd.DataFrame(fit_of(cells).residuals, cells.index, cells.columns)


@dataclass(frozen=True)
class Spread:
    """Standard deviations of a randomised block, in units of the metric."""

    seed: float
    """Of a seed's common effect on all arms."""
    residual: float


def spreads(frame: pd.DataFrame, metric: str = "val_bpb") -> Spread:
    """Both standard deviations, estimated by moments from the runs of a frame as for `compare`.

    Raises:
        ValueError: as for `compare`, and with fewer than two seeds in common.
    """
    fit = fit_of(cells := cells_of(frame, metric))
    if not fit.df:
        raise ValueError("the spread needs two arms with two seeds in common; train another seed")
    means = (cells - fit.effects[:, None]).mean()
    seeds = means.var() - fit.sigma**2 * (1 / cells.notna().sum()).mean()
    return Spread(float(np.sqrt(max(seeds, 0.0))), fit.sigma)


def linked_effects(frame: pd.DataFrame, metric: str = "val_bpb") -> "pd.Series[float]":
    """The effect of each arm at equal seeds, by arm; only their differences are meaningful. If no
    chain of common seeds links all arms, those of the largest linked group; none without a result.
    Errors are those of `compare`."""
    cells = cells_of(frame, metric).dropna(how="all")
    if cells.empty:
        return pd.Series(dtype=float)
    fit = fit_of(cells)
    linked = fit.group == np.bincount(fit.group).argmax()
    return pd.Series(fit.effects[linked], cells.index[linked])
