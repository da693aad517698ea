"""`python -m benchmarks.samplers`: which samplers and pruners save training.

Studies are replayed on our tabular benchmark (`benchmarks.tabular`), or on another by `--table`,
where all runs are finished: Optuna's samplers and pruners and `search.study.plan` decide as they do
in `python -m search`, and what would be trained is looked up. A replay sees one of the table's
seeds, takes the architecture that is best on it for its answer, and is scored by the other seeds.

How good an architecture is, given a few noisy runs of each, is estimated by the posterior mean
under a prior that is itself estimated from all of them (`posterior_means`): the lowest of a hundred
noisy means lies below the truth, and would be a goal that no choice can reach.

Tokens count as trained: a run to the end by its tokens, where a pruner reads its horizons with
those of its decay branches, a pruned one by its trunk's and branches' up to there.
"""

import json
import time
from argparse import Namespace
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from datetime import date
from functools import cache, cached_property
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray
from omegaconf import OmegaConf
from optuna.trial import TrialState
from torch import set_num_threads

from benchmarks.show import RESULTS, heading, leave, parser, say, style, table
from benchmarks.tabular import TABLE, Tabular, load, train
from search.states import State
from search.study.exploration import Exploration, Replicates
from search.study.plan import Attempt, Cell, Step
from search.study.pruners import PRUNERS, PrunerConfig, make_pruner
from search.study.samplers import SAMPLERS, SamplerConfig, make_sampler, worker_seed
from search.train.placement import Placement
from space.app import CONF
from space.cli import one_line_errors
from space.files import write_atomically
from space.ranges import Range

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GOAL = 0.002
"""How far above the best, as a share of bits per byte, is near enough."""
REPLAYS = 50
"""Of each sampler and pruner on each of the table's seeds."""
RUNS = 20
"""Tokens that a replay may spend, in runs to the end."""
BUDGETS = (5, 10)
"""Tokens, in runs to the end, after which the choice is scored as well."""
PRUNED = ("random", "tpe")
"""Samplers that pruners are tried with."""
USUAL = [name for name in PRUNERS.names() if name != "wilcoxon"]
"""Pruners that can act at the table's two horizons."""
BOOTSTRAPS = 2000
RANDOM, GRID, NONE = "random", "grid", "none"
Values = NDArray[np.float64]


@dataclass(frozen=True, order=True)
class Strategy:
    """Who proposes, and who stops runs early."""

    sampler: str
    pruner: str = NONE

    def __str__(self) -> str:
        return self.sampler if self.pruner == NONE else f"{self.sampler}, {self.pruner}"


ALL = Strategy(GRID)
"""Every architecture in turn, to the end."""


@dataclass(frozen=True)
class Trace:
    """A replay: what it had spent and would have chosen after each of its runs."""

    spent: list[float]
    """In runs to the end."""
    chosen: list[str | None]
    """The arm that was best so far of those that ran to the end."""
    seconds: float
    """Of samplers, pruners and plan."""

    def after(self, spent: float) -> str | None:
        """The choice once so much was spent."""
        done = sum(at <= spent + 1e-9 for at in self.spent)
        return self.chosen[done - 1] if done else None


class View:
    """A table as replays see it that choose by one of its seeds."""

    def __init__(self, tabular: Tabular, seed: int) -> None:
        frame = tabular.frame[tabular.frame["seed"] == seed].sort_values(["arm", "horizon"])
        self.tabular, self.seed = tabular, seed
        self.readings = {str(arm): list(rows["val_bpb"]) for arm, rows in frame.groupby("arm")}

    @cached_property
    def quality(self) -> "pd.Series[float]":
        """Bits per byte of each architecture, as the other seeds tell."""
        ends = self.tabular.ends()
        others = ends.drop(columns=self.seed)
        sd = noise(ends.to_numpy()) / others.shape[1] ** 0.5
        means = posterior_means(others.mean(axis=1).to_numpy(), sd)
        return pd.Series(means, index=ends.index)

    @cached_property
    def excess(self) -> "dict[str | None, float]":
        """By how much each architecture lies above the best, as a share; no choice is infinitely
        bad."""
        shares = self.quality / self.quality.min() - 1
        return {**{str(arm): float(share) for arm, share in shares.items()}, None: inf}

    @property
    def good(self) -> int:
        """Architectures that are near enough to the best."""
        return sum(share <= GOAL for share in self.excess.values())

    def reached(self, trace: Trace) -> float:
        """What a replay had spent when its choice was first near enough; infinite if never."""
        pairs = zip(trace.spent, trace.chosen, strict=True)
        return next((at for at, arm in pairs if self.excess[arm] <= GOAL), inf)


def noise(ends: Values) -> float:
    """Standard deviation of a run, given architectures × seeds: what is left when each architecture
    and each seed has a mean of its own."""
    left = ends - ends.mean(axis=0) - ends.mean(axis=1, keepdims=True) + ends.mean()
    arms, seeds = ends.shape
    return float(np.sqrt((left**2).sum() / ((arms - 1) * (seeds - 1))))


def posterior_means(means: Values, sd: float, rounds: int = 1000) -> Values:
    """What noisy means say of the true ones.

    The prior is the nonparametric maximum likelihood estimate (Kiefer and Wolfowitz 1956) among
    those that put all weight on the means themselves, by EM. Posterior means under it need no
    correction for having been picked as the best (Efron 2011, doi:10.1198/jasa.2011.tm11181).
    """
    if sd == 0:
        return means
    likelihood = np.exp(-(((means[:, None] - means) / sd) ** 2) / 2)  # of a mean, given a truth
    shares = np.full(len(means), 1 / len(means))
    for _ in range(rounds):
        joint = likelihood * shares
        posterior = joint / joint.sum(axis=1, keepdims=True)
        shares = posterior.mean(axis=0)
    found: Values = posterior @ means
    return found


class Replay:
    """A study as `search.study.worker` does it, alone, its runs looked up."""

    def __init__(self, view: View, strategy: Strategy, number: int, n_trials: int) -> None:
        self.view, self.tabular = view, view.tabular
        sampler, pruner = sampler_of(strategy.sampler), pruner_of(strategy.pruner)
        self.plan = Exploration(
            options=self.tabular.options,
            n_trials=n_trials,
            replicates=Replicates(top=0, seeds=1),
            grid=sampler.exhaustive,
        )
        self.study = optuna.create_study(
            study_name=f"replay {number}",  # Hyperband draws brackets by it
            sampler=make_sampler(sampler, worker_seed(sampler, number, 0, trials=0)),
            pruner=make_pruner(pruner, self.tabular.recipe),
        )
        self.prunes = strategy.pruner != NONE
        """Without a pruner no branches are trained."""
        self.attempts: list[Attempt] = []
        self.runs: dict[str, Attempt] = {}

    def trace(self, limit: float) -> Trace:
        """Go on until as much is spent as `limit` runs, or nothing is left to try."""
        began, trace, best = time.perf_counter(), Trace([], [], 0.0), inf
        spent, chosen = 0.0, None
        while spent < limit and (step := self.plan.next(self.attempts)) is not Step.DONE:
            if isinstance(step, Cell):
                self.study.enqueue_trial(dict(step.params))
            attempt, cost = self.attempt(self.study.ask())
            self.attempts.append(attempt)
            if attempt.duplicate:
                continue
            spent += cost
            if attempt.value is not None and attempt.value < best:
                best, chosen = attempt.value, attempt.arm
            trace.spent.append(spent)
            trace.chosen.append(chosen)
        return replace(trace, seconds=time.perf_counter() - began)

    def attempt(self, trial: optuna.Trial) -> tuple[Attempt, float]:
        """The outcome of a trial, reported to the study; and its cost, in runs to the end."""
        space = self.tabular.space
        space.suggest(trial)
        arm = self.tabular.arm(space.candidate(trial.params).params)
        if (twin := self.runs.get(arm)) is not None:
            self.study.tell(trial, **outcome(twin))
            return replace(twin, number=trial.number, duplicate=True), 0.0
        state, value, cost = self.trained(trial, arm)
        run = Attempt(
            number=trial.number, state=state, params=trial.params, key=arm, arm=arm, value=value
        )
        self.study.tell(trial, **outcome(run))
        self.runs[arm] = run
        return run, cost

    def trained(self, trial: optuna.Trial, arm: str) -> tuple[str, float | None, float]:
        """State, value at the end and cost of a run, which a pruner may stop at its horizons."""
        readings, recipe = self.view.readings[arm], self.tabular.recipe
        whole = recipe.steps * recipe.tokens_per_step
        for number, branch in enumerate(recipe.branches if self.prunes else ()):
            trial.report(readings[number], step=branch.end * recipe.tokens_per_step)
            if trial.should_prune():
                return State.PRUNED, None, recipe.tokens_until(number) / whole
        trained = recipe.trained_tokens if self.prunes else whole
        return State.COMPLETE, readings[-1], trained / whole


@cache
def sampler_of(name: str) -> SamplerConfig:
    """As `sampler=NAME` gives it to a search."""
    return SamplerConfig(**{"name": name, **group("sampler", name)})


@cache
def pruner_of(name: str) -> PrunerConfig:
    """As `pruner=NAME` gives it to a search."""
    return PrunerConfig(**{"name": name, **group("pruner", name)})


def group(kind: str, name: str) -> dict[str, Any]:
    """A file of a group of `conf/`; nothing where there is none, as of users' own."""
    path = Path(CONF) / kind / f"{name}.yaml"
    if not path.is_file():
        return {}
    content: Any = OmegaConf.to_container(OmegaConf.load(path))
    return dict(content.get(kind, content))  # one that sets more besides has its own below its name


@dataclass(frozen=True)
class Outcome:
    """What one replay gave."""

    seed: int
    """That it chose by."""
    reached: float
    """Spent, in runs to the end, when its choice was first near enough to the best."""
    excess: dict[int, float]
    """By how much its choice lay above the best after each of `BUDGETS` and at the end, as a
    share."""
    curve: list[float]
    """The same after 1, 2, … runs."""
    proposal_s: float
    """Seconds that its sampler and pruner took for each of its runs."""


def outcomes(path: Path, strategy: Strategy, seed: int, number: int, limit: int) -> list[Outcome]:
    """The replays of a strategy that choose by one seed."""
    view = view_of(path, seed)
    return [weighed(view, replayed(view, strategy, n, limit), limit) for n in range(number)]


@cache
def view_of(path: Path, seed: int) -> View:
    return View(load(path), seed)


def replayed(view: View, strategy: Strategy, number: int, limit: int) -> dict[int, Trace]:
    """A replay, as 0, and by how many runs it was meant to have: `BUDGETS` and `limit`. It is the
    same one for all, but for a grid: one of fewer runs is spread over the space."""
    whole = Replay(view, strategy, number, len(view.tabular.options)).trace(limit)
    budgets = [*(runs for runs in BUDGETS if runs < limit), limit]
    return {0: whole} | {
        runs: Replay(view, strategy, number, runs).trace(runs) if strategy == ALL else whole
        for runs in budgets
    }


def weighed(view: View, traces: dict[int, Trace], limit: int) -> Outcome:
    """What a replay gave, scored by the seeds that it has not seen."""
    whole = traces[0]
    return Outcome(
        seed=view.seed,
        reached=view.reached(whole),
        excess={runs: view.excess[trace.after(runs)] for runs, trace in traces.items() if runs},
        curve=[view.excess[whole.after(runs)] for runs in range(1, limit + 1)],
        proposal_s=whole.seconds / max(1, len(whole.spent)),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    options = parser(__doc__)
    options.add_argument("--train", action="store_true", help="train what the table lacks, first")
    options.add_argument("--table", type=Path, default=TABLE, help="another one, as .csv.xz")
    options.add_argument("--replays", type=int, default=REPLAYS, help="of each, on each seed")
    options.add_argument("--limit", type=int, default=RUNS, help="tokens of a replay, in runs")
    options.add_argument("--samplers", nargs="+", default=SAMPLERS.names(), help="also mine.py")
    options.add_argument("--pruners", nargs="+", default=USUAL, help="also mine.py")
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--set", nargs="*", default=[], help="overrides of the search that trains")
    chosen = options.parse_args(arguments)
    with one_line_errors():
        for name in ("limit", "replays", "workers"):
            Range(1).require(name, getattr(chosen, name))
        if chosen.train:
            train(chosen.set, chosen.table)
        tabular = load(chosen.table)
        if len(tabular.seeds) < 2:
            raise ValueError(
                f"a table must have two seeds or more, one that chooses and others that score, but "
                f"{chosen.table} has {len(tabular.seeds)}; train more with --train"
            )
        for sampler in chosen.samplers:
            make_sampler(sampler_of(sampler), seed=0)
        for pruner in chosen.pruners:
            make_pruner(pruner_of(pruner), tabular.recipe)
    strategies = asked(chosen.samplers, chosen.pruners)
    found = compete(chosen.table, tabular, strategies, chosen)
    name = "samplers" if chosen.table == TABLE else f"samplers_{chosen.table.name.split('.')[0]}"
    leave(name, described(tabular, found, chosen), picture(found, chosen.limit), chosen.save)
    if chosen.save:
        write_atomically(RESULTS / f"{name}.json", as_json(found, chosen))


def asked(samplers: Sequence[str], pruners: Sequence[str]) -> list[Strategy]:
    """Every sampler alone, and some with every pruner; a grid and random search always, to compare
    with."""
    alone = [Strategy(name) for name in dict.fromkeys([GRID, RANDOM, *samplers])]
    both = [Strategy(s, p) for s in PRUNED if s in samplers for p in pruners if p != NONE]
    return alone + both


def compete(
    path: Path, tabular: Tabular, strategies: Sequence[Strategy], chosen: Namespace
) -> dict[Strategy, list[Outcome]]:
    """All replays of all strategies, in processes of one thread each."""
    jobs = [(strategy, seed) for strategy in strategies for seed in tabular.seeds]
    found: dict[Strategy, list[Outcome]] = {strategy: [] for strategy in strategies}
    with ProcessPoolExecutor(chosen.workers, initializer=set_num_threads, initargs=(1,)) as pool:
        futures = {
            pool.submit(outcomes, path, *job, replays_of(job[0], chosen.replays), chosen.limit): job
            for job in jobs
        }
        for future in as_completed(futures):
            strategy, seed = futures[future]
            found[strategy] += future.result()
            say(f"{strategy}, choosing by seed {seed}")
    return {s: sorted(outs, key=lambda o: o.seed) for s, outs in found.items()}


def replays_of(strategy: Strategy, number: int) -> int:
    """A grid does the same every time, and a Gaussian process takes long."""
    return 1 if strategy == ALL else -(-number // 3) if strategy.sampler == "gp" else number


# What is said of them.


def restricted(outs: Sequence[Outcome], limit: int) -> Values:
    """Spent until the choice was near enough, or all of it where it never was."""
    return np.array([min(out.reached, limit) for out in outs])


def by_number(outs: Sequence[Outcome], values: Values) -> Values:
    """The mean of each number's replays over the table's seeds.

    A number fixes what is drawn at random, on every seed alike and at first by most samplers: its
    replays are one piece of evidence, and strategies are compared number by number.
    """
    seeds = np.array([out.seed for out in outs])
    means: Values = np.mean([values[seeds == seed] for seed in np.unique(seeds)], axis=0)
    return means


def resampled(values: Values) -> Values:
    """Means of bootstrap samples, the same numbers drawn for all that have as many."""
    drawn = np.random.default_rng(0).integers(len(values), size=(BOOTSTRAPS, len(values)))
    means: Values = values[drawn].mean(axis=1)
    return means


def compared(values: Values, others: Values) -> tuple[float, Values]:
    """The ratio of two means and its bootstrap samples, over the numbers that both have; one that
    does the same every time, a grid, has them all."""
    numbers = min((len(v) for v in (values, others) if len(v) > 1), default=1)
    a, b = (np.resize(v, numbers) for v in (values, others))
    return float(a.mean() / b.mean()), resampled(a) / resampled(b)


def summary(found: dict[Strategy, list[Outcome]], limit: int) -> pd.DataFrame:
    """One row per strategy: `strategy never median mean mean_low mean_high`, `random random_low
    random_high` and `grid …`, the mean over that of random search and of the grid, `seconds` per
    proposal, and `excess_10 excess_10_low …`, means after so many runs.

    Intervals are 95% bootstrap intervals over the numbers of replays, for the table's seeds.
    """
    spent = {s: by_number(outs, restricted(outs, limit)) for s, outs in found.items()}
    rows = []
    for strategy, outs in found.items():
        row: dict[str, Any] = {
            "strategy": strategy,
            "never": np.mean([out.reached == inf for out in outs]),
            "median": float(np.median([out.reached for out in outs])),
            **interval("mean", spent[strategy].mean(), resampled(spent[strategy])),
            "seconds": np.median([out.proposal_s for out in outs]),
        }
        for other in (RANDOM, GRID):
            row |= interval(other, *compared(spent[strategy], spent[Strategy(other)]))
        for runs in outs[0].excess:
            excess = by_number(outs, np.array([out.excess[runs] for out in outs]))
            row |= interval(f"excess_{runs}", excess.mean(), resampled(excess))
        rows.append(row)
    return pd.DataFrame(rows)


def interval(name: str, value: float, samples: Values) -> dict[str, float]:
    low, high = np.quantile(samples, [0.025, 0.975])
    return {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}


def described(tabular: Tabular, found: dict[Strategy, list[Outcome]], chosen: Namespace) -> str:
    """The tables, as Markdown."""
    rows = summary(found, chosen.limit)
    views = [View(tabular, seed) for seed in tabular.seeds]
    own, seeds = heading(Placement(device="cpu", threads=1), ("optuna", "cmaes")), tabular.seeds
    good = ", ".join(str(view.good) for view in views)
    whole = ", ".join(f"{view.excess[best_of(view)]:.2%}" for view in views)
    size, tokens = len(tabular.options), tabular.recipe.steps * tabular.recipe.tokens_per_step
    ranked_at = " and ".join(f"{share:.0%}" for share in tabular.agreement)
    agreeing = " and ".join(f"{value:.2f}" for value in tabular.agreement.values())
    sd = noise(tabular.ends().to_numpy()) / tabular.ends().to_numpy().mean()
    words = (
        f"{own}\n\n"
        f"{size} architectures of {tabular.space.budget} (space {tabular.space.name}), "
        f"{len(seeds)} seeds, {tokens:,} tokens per run, trained {tabular.origin['date']}. Two "
        f"runs of an architecture differ with a standard deviation of {sd:.2%} of bits per byte; "
        f"by the seeds that do not choose, {good} of them lie within {GOAL:.1%} of the best. "
        f"Trying all and taking the best on the seed that chooses costs {whole}. What it has "
        f"after {ranked_at} of its tokens is correlated, over architectures, with what it has at "
        f"the end by {agreeing} (Spearman, means over the seeds).\n\n"
        f"Tokens spent until the choice is within {GOAL:.1%} of the best, in runs to the end, "
        f"{chosen.replays} replays per seed (a third of that for gp, which takes long, and one for "
        f"the grid, which does the same every time and begins with the longest runs). Replays end "
        f"at {chosen.limit}; the mean counts those that never got there as {chosen.limit}, which "
        f"makes ratios to a grid that never did upper bounds. Brackets: 95% bootstrap intervals "
        f"over the numbers of replays, for these {len(seeds)} seeds; a number draws alike on each "
        "of them, and ratios are over the numbers that both have.\n\n"
    )
    columns = ["sampler, pruner", "never", "median", "mean", "× random", "× grid", "ms a run"]
    text = words + table(columns, [row_of(row, chosen.limit) for row in rows.to_dict("records")])
    budgets = list(next(iter(found.values()))[0].excess)
    text += (
        "\nHow far the choice lies above the best once the tokens of so many runs are spent (a "
        "grid of so many is spread over the space):\n\n"
    )
    return text + table(
        ["sampler, pruner", *(f"{runs} runs" for runs in budgets)],
        [
            [
                str(row["strategy"]),
                *(bracketed(row, f"excess_{runs}", "{:.2%}") for runs in budgets),
            ]
            for row in rows.to_dict("records")
        ],
    )


def best_of(view: View) -> str:
    """The architecture that is best on the seed that chooses."""
    return min(view.readings, key=lambda arm: view.readings[arm][-1])


def row_of(row: dict[Any, Any], limit: int) -> list[str]:
    median = f"{row['median']:.1f}" if row["median"] < limit else f"> {limit}"
    return [
        str(row["strategy"]),
        f"{row['never']:.0%}",
        median,
        bracketed(row, "mean", "{:.1f}"),
        bracketed(row, RANDOM, "{:.2f}"),
        bracketed(row, GRID, "{:.2f}"),
        f"{1000 * row['seconds']:.0f}",
    ]


def bracketed(row: dict[Any, Any], name: str, form: str) -> str:
    """A value and its interval."""
    value, low, high = (form.format(row[key]) for key in (name, f"{name}_low", f"{name}_high"))
    return value if low == high == value else f"{value} ({low} to {high})"


def picture(found: dict[Strategy, list[Outcome]], limit: int) -> "Figure":
    """The mean excess against what is spent: samplers alone, and pruners beside."""
    from matplotlib.figure import Figure

    alone = [s for s in found if s.pruner == NONE]
    groups = [alone, *([t for t in found if t.sampler == s] for s in PRUNED)]
    groups = [group for group in groups if len(group) > 1]
    with style():
        figure = Figure(figsize=(3.2 * len(groups), 3), layout="constrained")
        grid = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
        for axes, group in zip(grid, groups, strict=True):
            for strategy in group:
                curve = np.mean([out.curve for out in found[strategy]], axis=0)
                name = strategy.sampler if group is alone else strategy.pruner
                axes.plot(np.arange(1, limit + 1), 100 * curve, lw=1.2, label=name)
            axes.axhline(100 * GOAL, color="#9a9da2", lw=0.8, ls="--", zorder=0)
            axes.set(xlabel="tokens spent, in runs", yscale="log")
            axes.set_title("no pruner" if group is alone else group[0].sampler, fontsize=8)
            axes.legend(frameon=False, fontsize=7)
        grid[0].set_ylabel("the choice above the best, %")
    return figure


def as_json(found: dict[Strategy, list[Outcome]], chosen: Namespace) -> str:
    """Every replay; one that never came near, or had nothing to choose yet, has null."""
    content = {
        "date": date.today().isoformat(),
        "optuna": optuna.__version__,
        "goal": GOAL,
        "limit": chosen.limit,
        "strategies": [
            {
                **asdict(strategy),
                "replays": [
                    {
                        "seed": out.seed,
                        "reached": rounded(out.reached, 3),
                        "excess": {runs: rounded(value, 6) for runs, value in out.excess.items()},
                    }
                    for out in outs
                ],
            }
            for strategy, outs in found.items()
        ],
    }
    return json.dumps(content, indent=None, separators=(",", ":")) + "\n"


def rounded(value: float, digits: int) -> float | None:
    return None if value == inf else round(value, digits)


def outcome(run: Attempt) -> dict[str, Any]:
    """The arguments of `study.tell` for a run."""
    if run.state == State.PRUNED:
        return {"state": TrialState.PRUNED}
    return {"values": run.value}


if __name__ == "__main__":
    main()
