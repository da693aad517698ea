"""Which differences between arms are significant.

Arms share their seeds, and a seed fixes the order of the data. So the model is a randomised block,

    value[arm, seed] = effect of the arm + effect of the seed + error,

with one standard deviation of the errors ("spread"), pooled over all arms. From three seeds, the
spread of a single arm has two degrees of freedom and resolves almost nothing; the pooled spread of
ten arms has eighteen. If cells are missing, the effects are least-squares estimates.

Example: ten arms and three seeds. A paired t test per arm with Bonferroni's correction over ten
needs t = 14.1; the difference that it finds with 80% power is 10.4 standard deviations of a
difference. The pooled model needs 2.98 and finds 2.24; the rule below finds 3.4.

Arms may have unequal spreads, and few seeds cannot rule that out: to test for it first, and to
change the method if the test rejects, fails where the test has no power. So every difference must
be significant with three estimates of the spread, and its interval is the widest of the three:

- *pooled*: one spread for all arms, Dunnett's critical value;
- *baseline*: one for the baseline and one for all others, because a noisy baseline shifts all
  differences together. The critical value is that of a multivariate t with the correlations that
  the two spreads give and Satterthwaite's degrees of freedom;
- *own*: the baseline's and the arm's own, Welch's t at half of the level. It is not corrected for
  the number of arms: if many arms are noisy, the pooled spread is large as well.

`spread_p` tests each arm's spread (F test of its residual variance against that of all others,
exact in this model with any missing cells). It is reported and changes no verdict. With two arms
all three are the paired t test. `pooled=True` assumes equal spreads.

`python -m ablations table=power` shows the rate of false verdicts and the power.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, log10, sqrt

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.sparse.csgraph import connected_components
from scipy.special import ndtr
from scipy.stats import f, t

from ablations.stats.dunnett import (
    DIGITS,
    LARGEST_RATIO,
    Array,
    Contrasts,
    TwoSpreads,
    adjusted,
    critical_of,
    noncentrality,
    tail_of,
)

LEVEL = 0.95
POWER = 0.8
OWN = 0.5
"""Part of the level at which a difference must hold by the two arms' own spreads."""
OUTLIER = 0.05
"""Chance that a table of normal errors has any flagged run."""
SIMULATED = 1999
DRAWN = 2000
"""Tables that the minimum detectable difference of a design is worked out from."""


def compare(
    frame: pd.DataFrame,
    baseline: str,
    metric: str = "val_bpb",
    *,
    lower_is_better: bool = True,
    level: float = LEVEL,
    power: float = POWER,
    pooled: bool = False,
) -> pd.DataFrame:
    """Every arm against the baseline, one row per arm in the order of their first rows:

    - `arm`
    - `n`: runs with a finite metric
    - `mean`, `sd`: of these runs as they are; `sd` is the arm's own, with n - 1
    - `diff`: effect of the arm minus effect of the baseline at equal seeds. Where cells are missing
      this is not the difference of the means, for their seeds differ too.
    - `ci_low`, `ci_high`: interval of `diff`; all of them hold together with 95% (Dunnett)
    - `p_adjusted`: two-sided p of `diff`, adjusted for all comparisons made here (Dunnett)
    - `mdd`: minimum detectable difference: if the true one is as large, the chance of a verdict is
      80%. It is the width found times a factor of the design (arms, seeds, level) for normal errors
      of equal spread, so it is as uncertain as the width.
    - `verdict`: `better`, `worse` or `unresolved`; `baseline` for the baseline itself, whose `diff`
      is 0
    - `of`: runs asked for, finite or not: an arm with a diverged run has `n` of `of`
    - `spread_p`: p of the hypothesis that the arm spreads no more than the others, not adjusted;
      NaN where too few runs can say
    - `spread`: which of the three spreads makes the interval as wide as it is
    - `outliers`: seeds of runs that lie too far from the model (externally studentised residual,
      Bonferroni over all runs of the table, 5%). They are flagged and kept.

    `frame` has the columns `arm`, `seed` and the metric, and one row per arm and seed, all at one
    horizon; a metric that is not finite is a missing cell. Nothing is resolved, and intervals are
    NaN, where no degree of freedom is left for a spread (one seed; an arm or baseline with one
    run). Where no chain of common seeds links an arm with the baseline, `diff` is NaN too and the
    arm is not counted in adjusting.

    Raises:
        ValueError: a column is missing, a cell is there twice, there are fewer than two arms, or
            the baseline is none of them.

    Source: Dunnett, JASA 50:1096 (1955) and Biometrics 20:482 (1964), with the correlations that
    the design at hand gives (Hsu, Multiple Comparisons, 1996, chapters 3 and 7); with those that
    unequal spreads give, Hasler and Hothorn, Biometrical Journal 50:793 (2008); Welch, Biometrika
    34:28 (1947); an arm's own variance in a block, Grubbs, JASA 43:243 (1948).
    """
    cells = _cells(frame, metric)
    if baseline not in cells.index:
        raise ValueError(
            f"the baseline must be one of the arms, but got {baseline!r}; "
            f"choose among {', '.join(map(str, cells.index))}"
        )
    fit = _fit(cells)
    against = _contrasts(fit, list(cells.index).index(baseline))
    others = cells.index[against.others]
    rows = _describe(cells).assign(
        diff=np.nan, ci_low=np.nan, ci_high=np.nan, p_adjusted=np.nan, mdd=np.nan, spread=""
    )
    rows.loc[others, "diff"] = against.diff
    if fit.df and len(others):
        ways = _ways(fit, against, two_sided=True)[: 1 if pooled else None]
        halves = np.stack([way.half(1 - level) for way in ways])
        half = halves.max(0)  # NaN where one of them is
        rows.loc[others, "ci_low"] = against.diff - half
        rows.loc[others, "ci_high"] = against.diff + half
        rows.loc[others, "p_adjusted"] = np.max([way.p(against.diff) for way in ways], axis=0)
        seeds = None if len(ways) == 1 else max(2, round(rows.n[[baseline, *others]].mean()))
        reach = _reach(ways[0].critical(1 - level), fit.df, len(others), seeds, 1 - level, power)
        rows.loc[others, "mdd"] = reach * half
        rows.loc[others, "spread"] = [ways[widest].name for widest in halves.argmax(0)]
    below, above = ("better", "worse") if lower_is_better else ("worse", "better")
    rows["verdict"] = np.select([rows.ci_high < 0, rows.ci_low > 0], [below, above], "unresolved")
    rows.loc[[baseline], ["diff", "verdict"]] = 0.0, "baseline"
    rows["of"] = frame.groupby("arm").size()
    rows["spread_p"], rows["spread"] = _spread_tests(fit), rows.pop("spread")
    rows["outliers"] = _outliers(fit, cells.columns)
    return _in_order_of(frame, rows)


@dataclass(frozen=True)
class Best:
    """The best arm and those that may be as good. Iterates over the names in `level`."""

    best: str
    """The arm with the best effect; of equal ones the first by name."""
    level: tuple[str, ...]
    """The best arm and those not significantly different from it, best first."""
    intervals: pd.DataFrame
    """One row per arm, from the best on: `arm n mean`, `diff` to the best of the *other* arms, its
    simultaneous interval `ci_low ci_high` (always with 0 in it or at one end), `may_be_best`."""

    def __iter__(self) -> Iterator[str]:
        return iter(self.level)


def indistinguishable(
    frame: pd.DataFrame,
    metric: str = "val_bpb",
    *,
    lower_is_better: bool = True,
    level: float = LEVEL,
    pooled: bool = False,
) -> Best:
    """The arms that may be the best: with 95% confidence, the truly best one is among them.

    Multiple comparisons with the best, in the model and for the frame of `compare`. The confidence
    holds for the best arm: of arms that are all equal, each is excluded in up to 5% of tables, and
    so some arm in up to 20% (six arms) or 27% (ten arms, three seeds). Exclusion means "another is
    at least as good". An arm must be excluded with all three spreads of `compare`; `pooled=True`
    assumes equal spread.

    Without degrees of freedom for the spread every arm may be best. Arms outside the largest group
    that common seeds link cannot be compared and stay in, after the others; an arm without a run is
    excluded.

    Raises:
        ValueError: as for `compare`, and when no run has a finite metric.

    Source: Hsu, Annals of Statistics 12:1136 (1984), the constrained intervals; for contrasts that
    differ in variance, Hsu, Multiple Comparisons (1996), chapters 4 and 7.
    """
    cells = _cells(frame, metric).dropna(how="all")
    if cells.empty:
        raise ValueError(f"some run must have a finite {metric}, but none has; train an arm first")
    fit = _fit(cells)
    rows = _describe(cells)[["n", "mean"]].assign(diff=np.nan, ci_low=np.nan, ci_high=np.nan)
    linked = np.flatnonzero(fit.group == np.bincount(fit.group).argmax())
    if len(linked) > 1:
        sign = 1.0 if lower_is_better else -1.0
        effects = sign * fit.effects[linked]
        to_best = _to_best(
            np.subtract.outer(effects, effects), _half_widths(fit, linked, level, pooled)
        )
        rows.loc[rows.index[linked], ["diff", "ci_low", "ci_high"]] = to_best
    rows["may_be_best"] = ~(rows.ci_low >= 0) | (rows["diff"] <= 0)
    rows = rows.sort_values("diff", kind="stable")
    if not lower_is_better:
        rows[["diff", "ci_low", "ci_high"]] = 0.0 - rows[["diff", "ci_high", "ci_low"]].to_numpy()
    level_with = tuple(rows.index[rows.may_be_best])
    return Best(level_with[0], level_with, rows.reset_index())


def resolved_pairs(
    frame: pd.DataFrame, metric: str = "val_bpb", *, level: float = LEVEL
) -> pd.DataFrame:
    """Which pairs of arms differ significantly, arms × arms: -1 where the row's arm has the
    smaller value, 1 where it has the larger one, 0 where the pair is unresolved.

    Each arm in turn is the baseline of `compare`, at a level that holds for all of these families
    together (Bonferroni over one fewer than the arms, which have every pair between them), and a
    pair must be resolved whichever of its two arms is the baseline. With 95% chance no pair of
    equal arms is. Arms that no chain of common seeds links are unresolved. `frame` and errors are
    those of `compare`.
    """
    cells = _cells(frame, metric)
    fit = _fit(cells)
    signs = np.zeros((len(cells), len(cells)), dtype=int)
    for group in np.unique(fit.group):
        arms = np.flatnonzero(fit.group == group)
        if len(arms) < 2:
            continue
        each = 1 - (1 - level) / max(len(cells) - 1, 1)
        half = _half_widths(fit, arms, each, pooled=False, two_sided=True)
        apart = np.subtract.outer(fit.effects[arms], fit.effects[arms])
        with np.errstate(invalid="ignore"):
            differ = np.abs(apart) > np.maximum(half, half.T)  # itself: NaN, which is not
        signs[np.ix_(arms, arms)] = np.where(differ, np.sign(apart), 0)
    return pd.DataFrame(signs, cells.index, cells.index)


def arm_means(
    frame: pd.DataFrame, metric: str = "val_bpb", *, level: float = LEVEL
) -> pd.DataFrame:
    """Per arm, in the order of first rows: `arm n mean sd ci_low ci_high`, for plotting.

    The interval uses the pooled spread and says how far the mean would move if the arm were rerun
    with these seeds. It is for this arm alone, not simultaneous. `frame`, the other columns and
    the errors are those of `compare`; intervals are NaN where no degree of freedom is left.
    """
    cells = _cells(frame, metric)
    fit, rows = _fit(cells), _describe(cells)
    half = t.isf((1 - level) / 2, fit.df) * fit.sigma / np.sqrt(rows.n.replace(0, np.nan))
    rows = rows.assign(ci_low=rows["mean"] - half, ci_high=rows["mean"] + half)
    return _in_order_of(frame, rows)


def residuals(frame: pd.DataFrame, metric: str = "val_bpb") -> pd.DataFrame:
    """The residual of each run under the model, arms × seeds, NaN without one. Errors are those of
    `compare`."""
    cells = _cells(frame, metric)
    return pd.DataFrame(_fit(cells).residuals, cells.index, cells.columns)


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
    fit = _fit(cells := _cells(frame, metric))
    if not fit.df:
        raise ValueError("the spread needs two arms with two seeds in common; train another seed")
    means = (cells - fit.effects[:, None]).mean()
    seeds = means.var() - fit.sigma**2 * (1 / cells.notna().sum()).mean()
    return Spread(float(np.sqrt(max(seeds, 0.0))), fit.sigma)


def linked_effects(frame: pd.DataFrame, metric: str = "val_bpb") -> "pd.Series[float]":
    """The effect of each arm at equal seeds, by arm; only their differences are meaningful. If no
    chain of common seeds links all arms, those of the largest linked group; none without a result.
    Errors are those of `compare`."""
    cells = _cells(frame, metric).dropna(how="all")
    if cells.empty:
        return pd.Series(dtype=float)
    fit = _fit(cells)
    linked = fit.group == np.bincount(fit.group).argmax()
    return pd.Series(fit.effects[linked], cells.index[linked])


def equal_spread(frame: pd.DataFrame, metric: str = "val_bpb") -> float:
    """p of the hypothesis that all arms have the same spread about the model.

    NaN if fewer than three arms have three runs: residuals of two arms mirror each other. This is
    one number for the whole table; `compare` estimates spreads per arm.

    The statistic is that of Brown and Forsythe, JASA 69:364 (1974), for the residuals. These are
    correlated, so its F distribution does not hold (with three seeds it never rejects): p is the
    rank among 1,999 tables of the same design with normal errors, always the same ones.
    """
    fit = _fit(_cells(frame, metric))
    present = ~np.isnan(fit.residuals)
    arms = np.flatnonzero(present.sum(1) >= 3)
    if len(arms) < 3 or not fit.sigma > 0:
        return float("nan")
    tables = np.random.default_rng(0).standard_normal((SIMULATED, *present.shape))
    _, simulated = _solve(np.where(present, tables, np.nan), fit.covariance)
    found = _brown_forsythe(fit.residuals[arms])
    larger = (_brown_forsythe(simulated[:, arms]) >= found).sum()
    return float((1 + larger) / (1 + SIMULATED))


def _brown_forsythe(residuals: Array) -> Array:
    """(...) for residuals (..., A, S): the F statistic without its constant factor."""
    apart = np.abs(residuals - np.nanmedian(residuals, axis=-1, keepdims=True))
    mean = np.nanmean(apart, axis=-1, keepdims=True)
    runs = (~np.isnan(apart)).sum(-1)
    between = runs * (mean[..., 0] - np.nanmean(apart, axis=(-2, -1))[..., None]) ** 2
    ratio: Array = between.sum(-1) / np.nansum((apart - mean) ** 2, axis=(-2, -1))
    return ratio


# The model. A arms, S seeds, K contrasts.


@dataclass(frozen=True)
class _Fit:
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


def _cells(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
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
            f"a comparison needs at least two arms, but got {frame.arm.nunique()}; add another"
        )
    values = frame[["arm", "seed"]].assign(value=frame[metric].astype(float))
    cells = values.pivot(index="arm", columns="seed", values="value").sort_index()
    return cells.where(np.isfinite(cells)).dropna(axis="columns", how="all")


def _describe(cells: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {"n": cells.notna().sum(axis=1), "mean": cells.mean(axis=1), "sd": cells.std(axis=1)}
    )


def _in_order_of(frame: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    return rows.loc[frame.arm.unique()].reset_index(names="arm")


def _fit(cells: pd.DataFrame) -> _Fit:
    values = cells.to_numpy()
    present = (~np.isnan(values)).astype(float)
    _, group = connected_components(present @ present.T)
    together = group[:, None] == group
    # The normal equations of the arms, the seeds being solved for, leave the level of each group
    # open. Adding the mean of its effects sets that to zero, and makes the matrix regular.
    normal = np.diag(present.sum(1)) - present / present.sum(0) @ present.T
    covariance = np.linalg.inv(normal + together / together.sum(1))
    effects, residuals = _solve(values, covariance)
    df = int(present.sum()) - sum(values.shape) + len(set(group))
    sigma = sqrt(np.nansum(residuals**2) / df) if df else np.nan
    # Of the largest value: what floating point adds to equal values must not order them.
    digits = DIGITS - ceil(log10(np.nanmax(np.abs(values), initial=0.0) or 1.0))
    return _Fit(effects.round(digits), covariance, group, residuals, df, round(sigma, digits))


def _solve(values: Array, covariance: Array) -> tuple[Array, Array]:
    """Effects (..., A) and residuals (..., A, S) of tables (..., A, S) that share a design."""
    deviations = values - np.nanmean(values, axis=-2, keepdims=True)
    effects = np.nansum(deviations, axis=-1) @ covariance
    residuals = values - effects[..., None]
    return effects, residuals - np.nanmean(residuals, axis=-2, keepdims=True)


@dataclass(frozen=True)
class _Design:
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


def _design(present: NDArray[np.bool_]) -> _Design:
    return _design_of(present.tobytes(), present.shape[0])


@lru_cache(maxsize=256)
def _design_of(places: bytes, rows: int) -> _Design:
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
    return _Design(np.diag(kept).copy(), tuple(inverses), df, share, total)


@dataclass(frozen=True)
class _Spreads:
    """Variances of the errors in tables (...,) of one design; NaN where nothing is left for one."""

    arm: Array
    """(..., A) of the arm's residuals as they are: its own errors, and a part of the others'."""
    rest: Array
    """(..., A) of all other arms', pooled."""
    own: Array
    """(..., A) of the arm's own errors; unbiased but for not being negative (Grubbs, 1948)."""


def _spreads(residuals: Array) -> _Spreads:
    """Of (..., A, S), NaN where a cell is missing, the same ones in all tables.

    The numerator of `arm` is what the sum of squares falls by when the arm is left out.
    """
    present = ~np.isnan(residuals.reshape(-1, *residuals.shape[-2:])[0])
    design = _design(present)
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
    return _Spreads(arm_, rest, own)


def _spread_tests(fit: _Fit) -> Array:
    """(A,) p of the F test of each arm's residual variance against all others', one-sided.

    NaN where it, or the rest, has no degree of freedom; with two arms, whose residuals mirror each
    other, always.
    """
    if not fit.sigma > 0:
        return np.full(len(fit.effects), np.nan)
    found, design = _spreads(fit.residuals), _design(~np.isnan(fit.residuals))
    with np.errstate(divide="ignore"):
        p: Array = f.sf(found.arm / found.rest, design.df, design.total - design.df)
    return p


def _outliers(fit: _Fit, seeds: pd.Index) -> list[str]:
    """Per arm, the seeds of its outliers, joined by commas."""
    flagged = np.zeros(fit.residuals.shape, dtype=bool)
    present = ~np.isnan(fit.residuals)
    if fit.df > 1 and fit.sigma > 0:
        kept = _design(present).kept
        total = np.nansum(fit.residuals**2)
        square = fit.residuals[present] ** 2 / np.where(kept > 1e-9, kept, np.inf)
        rest = np.maximum(total - square, 1e-12 * total) / (fit.df - 1)
        flagged[present] = 2 * len(square) * t.sf(np.sqrt(square / rest), fit.df - 1) < OUTLIER
    return [", ".join(str(seed) for seed in seeds[row]) for row in flagged]


def _contrasts(fit: _Fit, to: int) -> Contrasts:
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


@dataclass(frozen=True)
class _Way:
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


def _ways(fit: _Fit, against: Contrasts, *, two_sided: bool) -> list[_Way]:
    """The three spreads a difference must hold by, the pooled one first: see above."""
    return _ways_of(fit.residuals, np.array(fit.sigma), fit.df, against, two_sided)


def _ways_of(
    residuals: Array, sigma: Array, df: int, against: Contrasts, two_sided: bool
) -> list[_Way]:
    """Of tables (...,) with `residuals` (..., A, S) and `sigma` (...,)."""
    arm, others, sides = against.to, against.others, 2 if two_sided else 1
    pooled = _Way(
        "pooled",
        sigma[..., None] * against.scale,
        lambda alpha: np.array(critical_of(against, df, alpha, two_sided)),
        lambda value: adjusted(value, tail_of(against, df, two_sided=two_sided), df),
    )
    if len(others) < 2 or not (sigma > 0).any():
        return [pooled]
    design = _design(~np.isnan(residuals.reshape(-1, *residuals.shape[-2:])[0]))
    found, df_base, df_own = _spreads(residuals), design.df[arm], design.df[others]
    # The part of each contrast's variance that is the arm's own, and the rest: the baseline's.
    mine, shared = (against.own * against.scale) ** 2, (1 - against.own**2) * against.scale**2
    own_variance, rest_variance = found.own[..., arm], found.rest[..., arm]
    ratio = np.divide(
        own_variance, rest_variance, out=np.ones_like(own_variance), where=rest_variance > 0
    ).clip(max=LARGEST_RATIO)
    two = TwoSpreads(against, design.total - df_base, df_base, two_sided)
    baseline = _Way(
        "baseline",
        np.sqrt(own_variance[..., None] * shared + rest_variance[..., None] * mine),
        lambda alpha: two.criticals(ratio, alpha),
        lambda value: adjusted(value, two.tail(float(ratio)), two.df(float(ratio))),
    )
    each = np.stack([found.own[..., others] * mine, own_variance[..., None] * shared])
    both, lowest = each.sum(0), np.minimum(df_own, df_base)
    with np.errstate(invalid="ignore", divide="ignore"):
        welch = both**2 / (each[0] ** 2 / df_own + each[1] ** 2 / df_base)
    welch = np.where(both > 0, welch, lowest).clip(lowest, df_own + df_base)
    own = _Way(
        "own",
        np.sqrt(both),
        lambda alpha: t.isf(OWN * alpha / sides, welch),
        lambda value: np.minimum(sides / OWN * t.sf(value, welch), 1.0),
    )
    return [pooled, baseline, own]


def _half_widths(
    fit: _Fit, arms: NDArray[np.intp], level: float, pooled: bool, *, two_sided: bool = False
) -> Array:
    """Row i has the half widths of the intervals of all arms around arm i as the control."""
    half = np.full((len(arms), len(arms)), np.nan)
    for row, arm in enumerate(arms if fit.df else []):
        ways = _ways(fit, _contrasts(fit, arm), two_sided=two_sided)[: 1 if pooled else None]
        widest = np.max([way.half(1 - level) for way in ways], axis=0)
        half[row, arms != arm] = np.where(np.isnan(widest), np.inf, widest)  # says nothing
    return half


def _to_best(margin: Array, half: Array) -> Array:
    """Rows of `diff ci_low ci_high`: each arm to the best of the others, lower being better.

    `margin[i, j]` is the effect of i minus that of j. In Hsu's words the arms with `low <= 0` are
    G, and only they can be the best that the upper bound is taken to.
    """
    itself = np.eye(len(margin), dtype=bool)
    diff = np.where(itself, -np.inf, margin).max(1)
    low = np.where(itself, -np.inf, margin - half).max(1)
    high = np.where(itself | (low > 0), -np.inf, margin + half.T).max(1)
    return np.stack([diff, np.minimum(low, 0), np.maximum(high, 0)], axis=1)


def _reach(
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


def half_widths(values: Array, alpha: float, *, pooled: bool = False) -> tuple[Array, Array]:
    """What `compare` says of many complete tables (T, A, S): differences to the first arm and half
    widths of their intervals, (T, A - 1), to three digits."""
    fit = _fit(pd.DataFrame(values[0]))
    against = _contrasts(fit, 0)
    means = values.mean(2, keepdims=True)
    residuals = values - means - values.mean(1, keepdims=True) + values.mean((1, 2), keepdims=True)
    sigma = np.sqrt((residuals**2).sum((1, 2)) / fit.df)
    ways = _ways_of(residuals, sigma, fit.df, against, True)[: 1 if pooled else None]
    return (means[:, 1:] - means[:, :1])[..., 0], np.max([way.half(alpha) for way in ways], axis=0)
