"""What a study does next, as a pure function of what it has done.

A *cell* is one thing to train: values of the axes and a seed. Workers ask for the next one, and
nothing else is remembered: a cell whose worker died, whose study was interrupted, or whose run
failed before this start, is simply one that is not done yet.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import Any, Protocol, Self

from search.objectives import dominated
from search.recipe import Recipe
from search.record import Run
from search.states import Role, State, Status
from space.arch import Architecture

MAX_DEATHS = 3
"""A cell that takes so many workers down with it is recorded as failed. One whose checkpoint came
further is none that kills: it was on hosts that were taken away."""
GRACE_S = 120.0
"""How long a lease lasts that nobody renews: see `search.study.leases`."""
MAX_DUPLICATES = 10
"""Proposals in a row that were tried before; then an untried one is taken instead."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is to be trained."""

    params: Mapping[str, Any]
    seed: int
    role: Role = Role.EXPLORE


class Step(Enum):
    """What to do when it is no cell."""

    ASK = "train what the sampler proposes"
    WAIT = "nothing can be decided before a run in progress ends"
    DONE = "nothing is left to do"


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One trial of the study's storage."""

    number: int
    state: str
    params: Mapping[str, Any]
    key: str | None = None
    """Of its run; None until a worker has taken it."""
    arm: str | None = None
    seed: int = 0
    role: Role = Role.EXPLORE
    layers: int = 0
    value: float | None = None
    """Of the first objective, at the run's end."""
    values: tuple[float, ...] = ()
    """Of all objectives."""
    excesses: Mapping[str, float] = field(default_factory=dict)
    """By how much it is beyond each constraint; it is kept at 0 and below."""
    readings: Mapping[int, float] = field(default_factory=dict)
    """What pruners saw of it: the value at each horizon, by its tokens."""
    status: Status | None = None
    """How it ended. None for a FAIL means that its worker was lost."""
    reason: str | None = None
    duplicate: bool = False
    """Ended at once, because the study has this run already."""
    reused: bool = False
    """Its record was there before."""
    result_id: str | None = None
    """Of the record that it ended with."""
    saved: int = 0
    """Tokens at the last checkpoint that it wrote."""
    worker: str = ""
    """Who took it: `host:process:`."""
    holder: str | None = None
    """The lease behind it, while it is in progress."""

    @property
    def feasible(self) -> bool:
        """Whether it keeps to all constraints."""
        return all(excess <= 0 for excess in self.excesses.values())

    @property
    def busy(self) -> bool:
        return self.state in (State.RUNNING, State.WAITING)

    @property
    def done(self) -> bool:
        """Whether its run need not be tried again."""
        return self.state in (State.COMPLETE, State.PRUNED) or self.status == Status.DIVERGED


class Work(Protocol):
    """All that a worker needs to know of a study: what to do next, and which run it is."""

    def next(self, attempts: Sequence[Attempt], since: int) -> Cell | Step:
        """What to do, given all trials so far. Failures of trials before `since` are tried
        again."""
        ...

    def after(self, attempts: Sequence[Attempt], since: int) -> Self:
        """This work, narrowed to what is wanted once these trials are known."""
        ...

    def concerns(self, key: str) -> bool:
        """Whether a trial of this run belongs to it."""
        ...

    def suggest(self, trial: Any) -> dict[str, Any]:
        """Values of the axes, drawn by an Optuna trial (or those that were enqueued)."""
        ...

    def run(self, params: Mapping[str, Any], seed: int) -> Run:
        """The run of a cell."""
        ...

    @property
    def foreseen(self) -> Sequence[str]:
        """Keys of the runs of which it is known before training that they are wanted."""
        ...

    @property
    def total(self) -> int:
        """How many distinct runs it will be, at most."""
        ...

    @property
    def at_most(self) -> bool:
        """Whether they may turn out to be fewer, by what is found."""
        ...

    @property
    def tokens(self) -> float:
        """Training tokens of all of them."""
        ...

    @property
    def flops(self) -> float:
        """Training FLOPs of all of them."""
        ...

    @property
    def parameters(self) -> int:
        """Of the largest."""
        ...

    @property
    def architectures(self) -> Sequence[Architecture]:
        """All that may be trained."""
        ...

    @property
    def recipes(self) -> Sequence[Recipe]:
        """By which."""
        ...

    @property
    def typical(self) -> Run:
        """A run whose placement and precision stand for all."""
        ...


def distinct(attempts: Sequence[Attempt]) -> list[Attempt]:
    """The study's runs: at each key the attempt that finished, else the last one, in the order of
    the first ones."""
    runs: dict[str, Attempt] = {}
    for attempt in attempts:
        if attempt.key is None or attempt.duplicate:
            continue
        if attempt.key not in runs or runs[attempt.key].state != State.COMPLETE:
            runs[attempt.key] = attempt
    return list(runs.values())


def losses(key: str | None, attempts: Sequence[Attempt]) -> Iterator[tuple[Attempt, bool]]:
    """The attempts at a run that ended with their workers, and whether each left a checkpoint that
    is further than all before."""
    furthest = 0
    for a in attempts:
        if a.key != key or a.duplicate:
            continue
        if a.state == State.FAIL and a.status is None:
            yield a, a.saved > furthest
        furthest = max(furthest, a.saved)


def deaths(run: Attempt, attempts: Sequence[Attempt], since: int = 0) -> int:
    """How many workers were lost with this run since the trial `since`, one after another without a
    checkpoint that is further than all before."""
    in_a_row = 0
    for lost, further in losses(run.key, attempts):
        if lost.number >= since:
            in_a_row = 0 if further else in_a_row + 1
    return in_a_row


def is_open(run: Attempt, attempts: Sequence[Attempt], since: int = 0) -> bool:
    """Whether a run has to be tried again, of those that were."""
    if run.state != State.FAIL or run.status == Status.DIVERGED:
        return False
    if run.status == Status.FAILED:
        return run.number < since
    return run.status is not None or deaths(run, attempts, since) < MAX_DEATHS


def baseline(explored: Sequence[Attempt]) -> Attempt | None:
    """Of the architectures tried and not failed, the one of middle depth."""
    sound = [run for run in explored if run.state != State.FAIL]
    by_depth = sorted(sound, key=lambda run: (run.layers, str(run.arm)))
    return by_depth[(len(by_depth) - 1) // 2] if by_depth else None


def ranked(runs: Sequence[Attempt], maximize: bool = False) -> list[Attempt]:
    """The finished runs, best first; those that break a constraint after all others."""
    sign = -1 if maximize else 1
    finished = [
        (not run.feasible, sign * run.value, run.number, run)
        for run in runs
        if run.value is not None
    ]
    return [run for *_, run in sorted(finished, key=lambda row: row[:3])]


def front_first(runs: Sequence[Attempt], directions: Sequence[str]) -> list[Attempt]:
    """The finished runs in the order of NSGA-II: those that no other dominates, then those that
    only these dominate, and so on, each front from its least crowded run on; those that break a
    constraint after all others.

    Source: Deb et al., IEEE Transactions on Evolutionary Computation 6:182 (2002), section III.
    """
    finished = [run for run in runs if run.values]
    found: list[Attempt] = []
    for feasible in (True, False):
        left = [run for run in finished if run.feasible is feasible]
        while left:
            front = [
                run
                for run in left
                if not any(dominated(run.values, other.values, directions) for other in left)
            ]
            distance = dict(zip((run.number for run in front), _crowding(front), strict=True))
            found += sorted(front, key=lambda run: (-distance[run.number], run.number))
            left = [run for run in left if run not in front]
    return found


def _crowding(front: Sequence[Attempt]) -> list[float]:
    """How far apart the neighbours of each run are, summed over objectives; infinite at ends."""
    distance = [0.0] * len(front)
    for objective in range(len(front[0].values)):
        order = sorted(range(len(front)), key=lambda place: front[place].values[objective])
        values = [front[place].values[objective] for place in order]
        span = (values[-1] - values[0]) or 1.0
        for before, place, after in zip(values, order[1:-1], values[2:], strict=False):
            distance[place] += (after - before) / span
        distance[order[0]] = distance[order[-1]] = inf
    return distance


def every_arm(attempts: Sequence[Attempt]) -> set[str | None]:
    return {run.arm for run in attempts}


def best_runs(attempts: Sequence[Attempt], arms: int = 1, maximize: bool = False) -> list[Attempt]:
    """The best run of each of the best arms: of those with the most seeds, by the mean of the seeds
    that did not choose them, where there are two."""
    by_arm: dict[str | None, list[Attempt]] = {}
    sign = -1 if maximize else 1
    for run in ranked(distinct(attempts), maximize):
        by_arm.setdefault(run.arm, []).append(run)

    def standing(runs: list[Attempt]) -> tuple[bool, int, float]:
        fresh = [run for run in runs if run.role == Role.REPLICATE]
        counted = fresh if len(fresh) > 1 else runs
        mean = sum(run.value or 0.0 for run in counted) / len(counted)
        return not runs[0].feasible, -len(runs), sign * mean

    return [runs[0] for runs in sorted(by_arm.values(), key=standing)[:arms]]
