"""`python -m benchmarks.law_search`: does a search that learns from unfinished runs save training?

A freeze-thaw search (Swersky et al. 2014, arXiv:1406.3896) on our tabular benchmarks. A Gaussian
process over sizes, axes and horizons at once says what each architecture has at the end of its
run. Thompson sampling draws one such curve and trains the architecture that is lowest in it, to its
next horizon only; a run that was left there goes on later. Its answer is scored twice: the
architecture with the lowest posterior mean, and the best of those that were trained to the end,
which is the answer that all searches of `benchmarks.samplers` give.

It is no sampler of `python -m search`: decision 112 says why.
"""

import math
from argparse import Namespace
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, cholesky
from scipy.optimize import minimize
from torch import set_num_threads

from benchmarks.samplers import (
    ALL,
    BUDGETS,
    GOAL,
    RANDOM,
    REPLAYS,
    Outcome,
    Strategy,
    Trace,
    View,
    bracketed,
    outcomes,
    replays_of,
    row_of,
    summary,
    view_of,
    weighed,
)
from benchmarks.show import RESULTS, heading, leave, parser, say, table
from benchmarks.tabular import TABLE, Tabular, load
from search.train.placement import Placement
from space.cli import one_line_errors
from space.ranges import Range

TABLES = (TABLE, RESULTS / "tabular_shapes.csv.xz")
LIMIT, SEARCHES = 40, 20
SIZES = ("num_hidden_layers", "hidden_size", "intermediate_size", "train_flops_per_token")
"""Columns of every table that describe an architecture, in logarithms."""
BY_MEAN, FINISHED = Strategy("law, by its mean"), Strategy("law, of finished runs")
BESIDE = (ALL, Strategy(RANDOM))
"""What it is compared with; `benchmarks.samplers` has the others."""
FIRST = 2
"""Architectures drawn at random before there is a posterior."""
EVERY = 4
"""Readings from one fit of the scales to the next, once there are `OFTEN`."""
OFTEN = 12
USUAL_SCALES = np.log([0.02, 0.005, 0.002, 1.5])
"""Medians of their priors, as shares of bits per byte: deviation between architectures, between
horizons, and of a run; and the length over which architectures are alike, in deviations of a
column."""
SPREAD = 1.0
"""Of those priors, in logarithms."""
LEVEL = 1.0
"""Standard deviation of the level of each horizon, which nothing is known of."""
Values = NDArray[np.float64]


def features(tabular: Tabular) -> pd.DataFrame:
    """What is known of each architecture before training: a row for each, each column with mean 0
    and deviation 1."""
    axes = [axis for axis in tabular.space.axes if axis in tabular.frame]
    rows = tabular.frame.groupby("arm")[[*SIZES, *(a for a in axes if a not in SIZES)]].first()
    numbers = rows.select_dtypes("number").astype(float)
    numbers = numbers.loc[:, (numbers > 0).all()].map(math.log)
    words = pd.get_dummies(rows.drop(columns=numbers.columns).astype(str)).astype(float)
    both = pd.concat([numbers, words], axis=1)
    both = both.loc[:, both.std() > 0]
    return (both - both.mean()) / both.std()


def alike(one: Values, other: Values) -> Values:
    """The Matérn 5/2 kernel of distances that are measured in lengths."""
    squares = ((one[:, None] - other[None]) ** 2).mean(axis=-1)
    far = np.sqrt(5 * squares)
    kernel: Values = (1 + far + far**2 / 3) * np.exp(-far)
    return kernel


@dataclass
class Belief:
    """What readings say of all architectures' ends."""

    known: Values
    """`features`, a row for each architecture."""
    horizons: int
    scales: Values = field(default_factory=lambda: USUAL_SCALES.copy())
    """Logarithms of the four of `USUAL_SCALES`."""
    where: list[tuple[int, int]] = field(default_factory=list)
    """Architecture and horizon of each reading."""
    values: list[float] = field(default_factory=list)
    """Logarithms of their bits per byte."""

    def read(self, arm: int, horizon: int, value: float) -> None:
        """Learn from a reading; the scales are fitted anew to more of them."""
        self.where.append((arm, horizon))
        self.values.append(float(np.log(value)))
        if len(self.values) <= OFTEN or len(self.values) % EVERY == 0:
            bounds = [(usual - 4 * SPREAD, usual + 4 * SPREAD) for usual in USUAL_SCALES]
            found = minimize(
                self._misfit,
                self.scales,
                method="L-BFGS-B",
                bounds=bounds,
                options={"maxiter": 25},
            )
            self.scales = found.x

    def posterior(self) -> tuple[Values, Values]:
        """Mean and covariance of what all architectures have at the end, noise aside."""
        arms, horizons = self._places
        ends = np.full(len(self.known), self.horizons - 1)
        every = np.arange(len(self.known))
        across = self._smooth(self.scales, every, ends, arms, horizons)
        prior = self._smooth(self.scales, every, ends, every, ends)
        factor = cho_factor(self._observed(self.scales), lower=True)
        mean: Values = across @ cho_solve(factor, self._centred)
        covariance: Values = prior - across @ cho_solve(factor, across.T)
        return mean, covariance

    @property
    def _places(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        arms, horizons = np.array(self.where).T
        return arms, horizons

    @property
    def _centred(self) -> Values:
        """Readings less the mean of all; levels of horizons have priors of their own."""
        values = np.array(self.values)
        centred: Values = values - values.mean()
        return centred

    def _smooth(
        self,
        scales: Values,
        arms: NDArray[np.int64],
        horizons: NDArray[np.int64],
        others: NDArray[np.int64],
        other_horizons: NDArray[np.int64],
    ) -> Values:
        """Covariance of what would be read without noise: part of it is the same at all horizons,
        part of it each one's own."""
        between, change, _, length = np.exp(scales)
        near = alike(self.known[arms] / length, self.known[others] / length)
        same = horizons[:, None] == other_horizons[None]
        smooth: Values = (between**2 + change**2 * same) * near + LEVEL**2 * same
        return smooth

    def _observed(self, scales: Values) -> Values:
        """Covariance of the readings: a run's noise is mostly that of all its horizons."""
        arms, horizons = self._places
        noise = np.exp(scales[2])
        own = arms[:, None] == arms[None]
        matrix: Values = self._smooth(scales, arms, horizons, arms, horizons) + noise**2 * own
        matrix[np.diag_indices_from(matrix)] += (noise / 2) ** 2
        return matrix

    def _misfit(self, scales: Values) -> float:
        """Minus the logarithm of the posterior density of the scales."""
        values = self._centred
        far = float((((scales - USUAL_SCALES) / SPREAD) ** 2).sum() / 2)
        try:
            lower = cholesky(self._observed(scales), lower=True)
        except np.linalg.LinAlgError:
            return 1e9
        half = np.linalg.solve(lower, values)
        return float(half @ half / 2 + np.log(np.diag(lower)).sum()) + far


class Search:
    """One search of a table, which sees one of its seeds."""

    def __init__(self, view: View, number: int) -> None:
        self.view, self.recipe = view, view.tabular.recipe
        self.rng = np.random.default_rng([view.seed, number])
        known = features(view.tabular)
        self.arms = [str(arm) for arm in known.index]
        self.belief = Belief(known.to_numpy(), len(view.tabular.horizons))
        self.reached = np.zeros(len(self.arms), dtype=int)
        """How many horizons each has been read at."""

    @cached_property
    def costs(self) -> Values:
        """Of training on to each horizon from the one before, in runs to the end without branches:
        the trunk, and the decay branch that gives the reading, which the end needs none of."""
        recipe = self.recipe
        upto = [recipe.tokens_until(n) for n in range(len(recipe.branches))]
        spent = np.array([*upto, recipe.trained_tokens])
        whole = recipe.steps * recipe.tokens_per_step
        costs: Values = np.diff(spent, prepend=0) / whole
        return costs

    def traces(self, limit: float) -> dict[Strategy, Trace]:
        """What it would answer after each reading, in both ways."""
        spent, at = 0.0, []
        answers: dict[Strategy, list[str | None]] = {BY_MEAN: [], FINISHED: []}
        while spent < limit and (self.reached < self.belief.horizons).any():
            arm = self.next()
            horizon = int(self.reached[arm])
            self.belief.read(arm, horizon, self.view.readings[self.arms[arm]][horizon])
            self.reached[arm] += 1
            spent += float(self.costs[horizon])
            at.append(spent)
            answers[BY_MEAN].append(self.arms[int(self.belief.posterior()[0].argmin())])
            answers[FINISHED].append(self.best_finished())
        return {way: Trace(at, chosen, 0.0) for way, chosen in answers.items()}

    def next(self) -> int:
        """Which architecture trains on: at first at random, then by Thompson sampling among those
        that can."""
        open_ones = np.flatnonzero(self.reached < self.belief.horizons)
        if len(self.belief.values) < FIRST:
            return int(self.rng.choice(np.flatnonzero(self.reached == 0)))
        mean, covariance = self.belief.posterior()
        drawn = self.rng.multivariate_normal(mean, covariance, check_valid="ignore", method="eigh")
        return int(open_ones[drawn[open_ones].argmin()])

    def best_finished(self) -> str | None:
        """The lowest of those that were trained to the end."""
        ends = {arm: self.view.readings[arm][-1] for arm in self._finished()}
        return min(ends, key=ends.__getitem__) if ends else None

    def _finished(self) -> list[str]:
        return [self.arms[n] for n in np.flatnonzero(self.reached == self.belief.horizons)]


def searched(path: Path, seed: int, number: int, limit: int) -> dict[Strategy, Outcome]:
    """One search of a table, scored by the seeds that it has not seen."""
    view = view_of(path, seed)
    traces = Search(view, number).traces(limit)
    return {way: weighed(view, _at_budgets(trace, limit), limit) for way, trace in traces.items()}


def _at_budgets(trace: Trace, limit: int) -> dict[int, Trace]:
    """As `samplers.weighed` takes it: the same trace, however much is spent."""
    return dict.fromkeys((0, *(runs for runs in BUDGETS if runs < limit), limit), trace)


def compete(path: Path, chosen: Namespace) -> dict[Strategy, list[Outcome]]:
    """The searches of a table, and what they are compared with."""
    seeds, limit = load(path).seeds, chosen.limit
    found: dict[Strategy, list[Outcome]] = {}
    with ProcessPoolExecutor(chosen.workers, initializer=set_num_threads, initargs=(1,)) as pool:
        beside = [
            (
                strategy,
                pool.submit(outcomes, path, strategy, seed, replays_of(strategy, REPLAYS), limit),
            )
            for strategy in BESIDE
            for seed in seeds
        ]
        ours = [
            pool.submit(searched, path, seed, number, limit)
            for seed in seeds
            for number in range(chosen.replays)
        ]
        for strategy, future in beside:
            found.setdefault(strategy, []).extend(future.result())
        for done, each in enumerate(ours, 1):
            for way, outcome in each.result().items():
                found.setdefault(way, []).append(outcome)
            say(f"{path.name}: {done} of {len(ours)} searches")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table for each benchmark."""
    options = parser(__doc__)
    options.add_argument("--tables", nargs="+", type=Path, default=TABLES, help="as .csv.xz")
    options.add_argument("--replays", type=int, default=SEARCHES, help="on each seed of a table")
    options.add_argument("--limit", type=int, default=LIMIT, help="tokens of a search, in runs")
    options.add_argument("--workers", type=int, default=2)
    chosen = options.parse_args(arguments)
    with one_line_errors():
        for name in ("limit", "replays", "workers"):
            Range(1).require(name, getattr(chosen, name))
        tables = {path: load(path) for path in chosen.tables}
    parts = [described(tabular, compete(path, chosen), chosen) for path, tabular in tables.items()]
    own = heading(Placement(device="cpu", threads=1), ("numpy", "scipy", "optuna"))
    leave("law_search", f"{own}\n\n" + "\n".join(parts), None, chosen.save)


def described(tabular: Tabular, found: dict[Strategy, list[Outcome]], chosen: Namespace) -> str:
    """What the searches of a table gave, as Markdown."""
    agreeing = " and ".join(f"{value:.2f}" for value in tabular.agreement.values())
    shares = " and ".join(f"{share:.0%}" for share in tabular.agreement)
    words = (
        f"**{tabular.space.name}**: {len(tabular.options)} architectures of "
        f"{tabular.space.budget}, {len(tabular.seeds)} seeds. What they have after {shares} of "
        f"their tokens is correlated with what they have at the end by {agreeing} (Spearman). "
        f"Tokens spent until the answer is within {GOAL:.1%} of the best, in runs to the end; "
        f"searches end at {chosen.limit}, and means count those that never got there as "
        f"{chosen.limit}. {chosen.replays} searches by the law on each seed, {REPLAYS} of the "
        "others; brackets: 95% bootstrap intervals over these.\n\n"
    )
    with np.errstate(invalid="ignore"):  # nothing trained to the end is infinitely far off
        rows = summary(found, chosen.limit).to_dict("records")
    spent = list(next(iter(found.values()))[0].excess)
    columns = ["search", "never", "median", "mean", "× random"]
    columns += [f"above the best after {runs} runs" for runs in spent]
    cells = [
        [
            *row_of(row, chosen.limit)[:5],
            *(_excess(row, f"excess_{runs}") for runs in spent),
        ]
        for row in rows
    ]
    return words + table(columns, cells)


def _excess(row: dict[Any, Any], name: str) -> str:
    """In percent; none where some searches had trained nothing to the end."""
    return bracketed(row, name, "{:.2%}") if np.isfinite(row[name]) else "none yet"


if __name__ == "__main__":
    main()
