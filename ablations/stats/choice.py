"""Which arm to take: the probability that each is the best, and what taking it is expected to cost.

    value[arm, seed] = f(arm) + effect of the seed + error
    f = a quadratic in x + a smooth deviation from it + what is the arm's own

x is an ordered axis such as the logarithm of depth. A curve through all arms knows each of them
better than its own seeds do. Without x the arms are exchangeable: f = a constant + the arm's own.
How smooth and how large the deviations are is not fitted but averaged over, each by how well it
explains the runs, and so is the error's variance. Priors are flat for the quadratic, the seeds and
the logarithm of the variance, and half-Cauchy for the standard deviations of both deviations, in
units of the error's.

Runs see f with the error of their held-out text besides, which is the same in all seeds of an arm.
Where its covariance is known it is drawn anew and goes the way that the runs go, through the
posterior mean: arms that the curve knows by their neighbours share it.

Source: Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), sections 2.2, 2.7
and 5.4.1; the half-Cauchy prior is that of Gelman, Bayesian Analysis 1:515 (2006).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from ablations.stats.block import Fit, cells_of, fit_of
from ablations.stats.dunnett import Array

DRAWS = 4000
SEED = 81_077
"""Of the draws: the same runs give the same numbers."""
FEWEST_FOR_CURVE = 5
"""Values of x: a quadratic takes three."""
RATIOS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Standard deviations of deviations that are averaged over, in those of the error."""
OWN = (0.05, *RATIOS[1:])
"""The same of what is an arm's own, which is never nothing: no two arms are the same."""
LENGTHS = (0.2, 0.4, 0.8)
"""Over which deviations are alike, as shares of the range of x."""
POINTS = 200
"""Of the curve, between the least and the largest x."""


@dataclass(frozen=True)
class Choice:
    """What the runs say of taking each arm. Regret is in units of the metric and not negative."""

    arms: pd.DataFrame
    """One row per arm in the order of first rows: `arm`, `effect` (posterior mean; only differences
    mean something) and `sd`, its standard deviation about the arms' mean, `p_best`, `regret`
    (expected) and `regret_high`, which it is below with 95% probability."""
    best_x: tuple[float, float, float] | None
    """Of the curve's best x: median and 95% interval; None without a curve."""

    @property
    def take(self) -> pd.Series:
        """The arm of least expected regret."""
        return self.arms.iloc[int(self.arms.regret.to_numpy().argmin())]


def choose(
    frame: pd.DataFrame,
    metric: str = "val_bpb",
    *,
    x: Mapping[str, float] | None = None,
    lower_is_better: bool = True,
    evaluation: pd.DataFrame | None = None,
) -> Choice:
    """What to expect of each arm, from all its runs.

    `frame` is as for `compare`, and has all runs, those that chose arms for further seeds too: an
    arm or a run that is left out for its result makes the others look better than they are. `x`
    gives a position for every arm, finite, in units that are even (log depth). Fewer than
    `FEWEST_FOR_CURVE` different positions make no curve, as without `x`. `evaluation` is the
    covariance of arms' values over the choice of held-out text, in the metric's unit squared, with
    arms as rows and columns.

    Raises:
        ValueError: as for `compare`; arms that no chain of common seeds links, no two arms with
            two seeds in common, an arm without a position or without a covariance.
    """
    cells = cells_of(frame, metric).dropna(how="all")
    fit = fit_of(cells)
    _check(cells, fit, x, evaluation)
    names = list(cells.index)
    at = np.array([x[name] for name in names]) if x is not None else np.zeros(len(names))
    curve = len(np.unique(at)) >= FEWEST_FOR_CURVE
    sign = 1.0 if lower_is_better else -1.0
    model = _Model(sign * fit.effects, fit, at, curve)
    error = None if evaluation is None else _root(evaluation.loc[names, names].to_numpy(float))
    values, line = model.draws(np.random.default_rng(SEED), error=error)
    lost = values - values.min(axis=1, keepdims=True)
    centred = values - values.mean(axis=1, keepdims=True)
    rows = pd.DataFrame(
        {
            "arm": names,
            "effect": sign * centred.mean(axis=0),
            "sd": centred.std(axis=0),
            "p_best": (lost == 0).mean(axis=0),
            "regret": lost.mean(axis=0),
            "regret_high": np.quantile(lost, 0.95, axis=0),
        }
    )
    order = [arm for arm in frame.arm.unique() if arm in set(names)]
    return Choice(
        rows.set_index("arm").loc[order].reset_index(),
        _bottom(line, model.points) if curve else None,
    )


def _check(
    cells: pd.DataFrame,
    fit: Fit,
    x: Mapping[str, float] | None,
    evaluation: pd.DataFrame | None,
) -> None:
    if len(set(fit.group)) > 1:
        raise ValueError("arms must be linked by common seeds, but some are not; train these")
    if not fit.df:
        raise ValueError("the spread needs two arms with two seeds in common; train another seed")
    if x is not None and not all(math.isfinite(x.get(arm, math.nan)) for arm in cells.index):
        raise ValueError("every arm must have a finite position, but some have none; give it in x")
    if evaluation is not None and (lacking := sorted({*cells.index} - {*evaluation.index})):
        raise ValueError(f"evaluation must have every arm, but lacks {lacking[0]}; leave it out")


def _root(covariance: Array) -> Array:
    """A matrix (n, n) that makes normal draws of this covariance of independent ones."""
    values, vectors = np.linalg.eigh(covariance)
    result: Array = vectors * np.sqrt(np.maximum(values, 0))
    return result


def _bottom(line: Array, points: Array) -> tuple[float, float, float]:
    best = points[line.argmin(axis=1)]
    low, middle, high = np.quantile(best, (0.025, 0.5, 0.975))
    return float(middle), float(low), float(high)


class _Model:
    """The posterior of f, lower being better."""

    def __init__(self, effects: Array, fit: Fit, at: Array, curve: bool) -> None:
        self.effects, self.fit, self.curve = effects, fit, curve
        self.arms = len(at)
        span = float(np.ptp(at)) or 1.0
        self.points = np.linspace(at.min(), at.max(), POINTS)
        self.x = (np.concatenate([at, self.points if curve else []]) - at.mean()) / span
        powers = range(3 if curve else 1)
        self.design = np.column_stack([self.x**power for power in powers])
        self.squares = float(np.nansum(fit.residuals**2))
        self.free = self.arms - self.design.shape[1] + fit.df

    def grid(self) -> Iterator[tuple[float, float, float]]:
        """Standard deviation and length of the deviation, standard deviation of arms' own."""
        lengths = LENGTHS if self.curve else (1.0,)
        return product(RATIOS if self.curve else (0.0,), lengths, OWN)

    def prior(self, deviation: float, length: float, own: float, count: int) -> Array:
        """Covariance of the first `count` of arms and points if the error's variance were 1."""
        apart = np.subtract.outer(self.x[:count], self.x[:count])
        alone = np.diag((np.arange(count) < self.arms).astype(float))
        return np.asarray(deviation**2 * np.exp(-((apart / length) ** 2) / 2) + own**2 * alone)

    def draws(
        self, rng: np.random.Generator, size: int = DRAWS, error: Array | None = None
    ) -> tuple[Array, Array]:
        """Values of arms (size, A) and of the curve at its points (size, points); `error` is the
        root of the covariance (A, A) of what evaluation adds to the arms' effects."""
        places = list(self.grid())
        logs = np.array([_log_prior(*at) + self.posterior(at, self.arms)[0] for at in places])
        weights = np.exp(logs - logs.max())
        drawn = np.empty((size, len(self.x)))
        which = rng.choice(len(places), size, p=weights / weights.sum())
        for index in np.unique(which):
            mine = which == index
            _, squares, linear, covariance = self.posterior(places[index], len(self.x))
            variance = squares / rng.chisquare(self.free, mine.sum())
            normal = rng.standard_normal((int(mine.sum()), len(self.x)))
            spread = np.sqrt(variance)[:, None] * (normal @ _root(covariance).T)
            drawn[mine] = linear @ self.effects + spread
            if error is not None:
                drawn[mine] += (
                    rng.standard_normal((int(mine.sum()), self.arms)) @ (linear @ error).T
                )
        return drawn[:, : self.arms], drawn[:, self.arms :]

    def posterior(
        self, at: tuple[float, float, float], count: int
    ) -> tuple[float, float, Array, Array]:
        """Log marginal likelihood, squares whose ratio to chi-square is the variance, and of the
        first `count` of arms and points what makes their mean (count, A) of the effects, and their
        covariance (if the variance were 1), at a place of the grid."""
        prior, seen = self.prior(*at, count), slice(self.arms)
        design = self.design[seen]
        marginal = self.fit.covariance + prior[seen, seen]
        inverse = np.linalg.inv(marginal)
        information = design.T @ inverse @ design
        fitted = np.linalg.solve(information, design.T @ inverse)
        missed = self.effects - design @ (fitted @ self.effects)
        squares = float(missed @ inverse @ missed) + self.squares
        log = -(np.linalg.slogdet(marginal)[1] + np.linalg.slogdet(information)[1]) / 2
        log -= self.free / 2 * math.log(max(squares, 1e-300))
        gain = prior[:, seen] @ inverse
        left = self.design[:count] - gain @ design
        covariance = prior - gain @ prior[seen] + left @ np.linalg.solve(information, left.T)
        return log, squares, gain + left @ fitted, covariance


def _log_prior(deviation: float, length: float, own: float) -> float:
    """Of a place of the grid; lengths are alike."""
    return _half_cauchy(RATIOS, deviation) + _half_cauchy(OWN, own)


def _half_cauchy(values: tuple[float, ...], ratio: float) -> float:
    """Logarithm of the prior's weight of one of these values: of all that are nearest to it."""
    grid = np.array(values)
    edges = np.concatenate([[0.0], (grid[1:] + grid[:-1]) / 2, [grid[-1] * 1.5]])
    index = values.index(ratio)
    return math.log(math.atan(edges[index + 1]) - math.atan(edges[index]))
