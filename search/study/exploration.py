"""The exploration of a space: which architectures are tried, and which get further seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil
from random import Random
from typing import TYPE_CHECKING, Annotated, Any, Self

from search.objectives import Targets
from search.recipe import Recipe
from search.record import Run, architecture_id
from search.states import Role, State
from search.study.plan import (
    MAX_DUPLICATES,
    Attempt,
    Cell,
    Step,
    baseline,
    distinct,
    front_first,
    is_open,
    ranked,
)
from space.arch import Architecture
from space.axes import Space
from space.cost import cost
from space.ranges import AtLeast1, Range, settle_numbers

if TYPE_CHECKING:
    from optuna.trial import Trial


@dataclass(frozen=True, kw_only=True)
class Option:
    """One architecture of the space."""

    params: Mapping[str, Any]
    arm: str
    layers: int
    flops: float
    """Training FLOPs per token."""


@dataclass(frozen=True, kw_only=True)
class Replicates:
    """Further seeds for the best arms and the baseline."""

    top: Annotated[int, Range(0)] = 3
    """The best so many architectures, and the baseline of middle depth besides. With several
    objectives one more of the front instead of that baseline."""
    seeds: AtLeast1 = 4
    """Seeds of each of these, the explored one included; 1: none further."""

    def __post_init__(self) -> None:
        settle_numbers(self, "replicates.")

    @property
    def arms(self) -> int:
        """That get them: none where there is none to compare with the baseline."""
        return self.top + 1 if self.top else 0


@dataclass(frozen=True, kw_only=True)
class Exploration:
    """A search: try architectures, then give further seeds to the best and to a baseline.

    `n_trials` is the total of distinct runs, whenever they were started. So many of them are kept
    for further seeds, and the rest explores; when the space is used up, further seeds get more.
    The best are chosen among all that were tried: where a larger `n_trials` finds others, these get
    further seeds too, and those that had some keep theirs.
    """

    options: tuple[Option, ...] = field(repr=False)
    """All architectures of the space that may be trained."""
    n_trials: int
    replicates: Replicates
    grid: bool
    """Whether every option is tried in turn; else a sampler proposes."""
    first_seed: int = 0
    maximize: bool = False
    """Whether more is better, of the first objective."""
    directions: tuple[str, ...] = ()
    """Of all objectives, where there are several."""
    ruled_out: tuple[str, ...] = field(default=(), repr=False)
    """Architectures of the space that are not trained."""
    runs: tuple[Attempt, ...] = field(default=(), repr=False)
    """The study's runs so far: what they leave to do is counted."""

    def after(self, attempts: Sequence[Attempt]) -> Self:
        """This plan once it is known what was done."""
        return replace(self, runs=tuple(distinct(attempts)))

    def next(self, attempts: Sequence[Attempt], since: int = 0) -> Cell | Step:
        """What to do: finish what was begun, explore, then replicate."""
        now = self.after(attempts)
        runs = now.runs
        for run in runs:
            if run.arm not in self.ruled_out and is_open(run, attempts, since):
                return Cell(params=run.params, seed=run.seed, role=run.role)
        if any(a.state == State.WAITING for a in attempts):
            return Step.ASK
        if len(runs) >= self.n_trials:
            return Step.DONE
        if len(now.explored) < now.explorations:
            return self._explore(now.explored, attempts, now.explorations)
        return now._replicate()

    @cached_property
    def explored(self) -> list[Attempt]:
        """The architectures tried so far."""
        return [run for run in self.runs if run.role == Role.EXPLORE]

    @cached_property
    def explorations(self) -> int:
        """Architectures that will have been tried."""
        reserved = self.replicates.arms * (self.replicates.seeds - 1)
        share = self.n_trials - reserved
        enough = share > self.replicates.top
        new = min(share - self.spent if enough else self.n_trials, len(self.options))
        return max(new, len(self.explored))

    @property
    def enough(self) -> int:
        """The `n_trials` that tries all options and gives all further seeds."""
        arms = min(self.replicates.arms, len(self.options))
        return len(self.options) + arms * (self.replicates.seeds - 1) + self.spent

    @cached_property
    def spent(self) -> int:
        """Further seeds of architectures that are among the best no longer, or more than asked."""
        chosen = {run.arm for run in self.chosen}
        further = [run for run in self.runs if run.role == Role.REPLICATE]
        return sum(run.arm not in chosen or run.seed not in self._seeds for run in further)

    @property
    def _seeds(self) -> range:
        """The further ones."""
        return range(self.first_seed + 1, self.first_seed + self.replicates.seeds)

    @cached_property
    def total(self) -> int:
        """Distinct runs in all, at most: fewer than `n_trials` where the space and the seeds are
        used up, and more where more were done before."""
        return self._total(self._spent_at_most)

    @property
    def at_most(self) -> bool:
        """Whether `total` may turn out to be smaller."""
        return self._total(0) < self.total and not self._is_known

    @property
    def _is_known(self) -> bool:
        """Whether all architectures have been explored, so that the best are known."""
        return len(self.explored) == self.explorations and not any(r.busy for r in self.explored)

    @property
    def _spent_at_most(self) -> int:
        """What is yet to be explored may be better than all that had further seeds; the baseline
        of middle depth is known once all have been begun."""
        if self._is_known:
            return self.spent
        begun = len(self.explored) == self.explorations and not self.directions
        middle = self.baseline(self.explored) if begun else None
        further = [run for run in self.runs if run.role == Role.REPLICATE]
        kept = [r for r in further if middle and r.arm == middle.arm and r.seed in self._seeds]
        return len(further) - len(kept)

    def _total(self, spent: int) -> int:
        """Distinct runs, where so many further seeds are of architectures that are not chosen."""
        arms = min(self.replicates.arms, self.explorations)
        new = self.explorations + spent + arms * len(self._seeds)
        had = sum(run.done or run.arm not in self.ruled_out for run in self.runs)
        return max(min(self.n_trials, new), had)

    @cached_property
    def chosen(self) -> list[Attempt]:
        """The architectures that get further seeds by what is known, the baseline first."""
        return self.worthy(self.explored) if self.replicates.arms else []

    @cached_property
    def lacking(self) -> list[Attempt]:
        """Those of them that do not have all their further seeds."""
        return [run for run in self.chosen if self._lacks(run)]

    @property
    def lacking_seeds(self) -> int:
        """How many all of these lack."""
        return sum(map(self._lacks, self.lacking))

    def _lacks(self, arm: Attempt) -> int:
        have = {run.seed for run in self.runs if run.arm == arm.arm}
        return sum(seed not in have for seed in self._seeds)

    @cached_property
    def spread(self) -> list[Option]:
        """All options, the middle one first, then quarters, eighths (van der Corput's sequence):
        any number of the first are spread over the space, and more of them refine it."""
        size, bits = len(self.options), len(self.options).bit_length()
        reversed_ = (int(f"{i:0{bits}b}"[::-1], 2) for i in range(1, 2**bits))
        places = dict.fromkeys(size * i >> bits for i in reversed_)
        return [self.options[place] for place in places]

    def _explore(
        self, explored: Sequence[Attempt], attempts: Sequence[Attempt], explorations: int
    ) -> Cell | Step:
        tried = {run.arm for run in explored}
        if self.grid:
            untried = [option for option in self.spread if option.arm not in tried]
            left = untried[: explorations - len(explored)]
            return self._cell(max(left, key=lambda option: option.flops).params)
        if all(a.duplicate for a in attempts[-MAX_DUPLICATES:]) and len(attempts) > MAX_DUPLICATES:
            untried = [option for option in self.options if option.arm not in tried]
            return self._cell(Random(len(attempts)).choice(untried).params)
        return Step.ASK

    def _cell(self, params: Mapping[str, Any]) -> Cell:
        return Cell(params=params, seed=self.first_seed)

    def _replicate(self) -> Cell | Step:
        """The next seed of the baseline while the last explorers run, then of the best, in turn."""
        explored = self.explored
        middle = self.baseline(explored)
        if middle is None or self.replicates.seeds == 1 or not self.replicates.arms:
            return Step.DONE
        exploring = any(run.busy for run in explored)
        early = [] if self.directions else [middle]  # a front is known once all have ended
        arms = early if exploring else self.worthy(explored)
        if all(arm.state == State.PRUNED for arm in arms):
            arms = []  # a baseline that was stopped, and nothing to compare it with
        have = {(run.arm, run.seed) for run in self.runs}
        left = self.n_trials - len(explored) - self.spent
        worthy = min(self.replicates.arms, self.explorations)
        for seed in self._seeds[: max(0, ceil(left / worthy))]:
            for arm in arms:
                if (arm.arm, seed) not in have:
                    return Cell(params=arm.params, seed=seed, role=Role.REPLICATE)
        return Step.WAIT if exploring else Step.DONE

    def worthy(self, explored: Sequence[Attempt]) -> list[Attempt]:
        """The architectures that get further seeds, the baseline first."""
        if (middle := self.baseline(explored)) is None:
            return []
        if self.directions:
            best = front_first(explored, self.directions)[: self.replicates.top + 1]
        else:
            best = ranked(explored, self.maximize)
        others = [run for run in best if run.arm != middle.arm]
        return [middle, *others[: self.replicates.top]]

    def contenders(self, attempts: Sequence[Attempt]) -> set[str | None]:
        """The arms that would get further seeds by what is known. The baseline may be another once
        more have been explored; all others can only be left out."""
        explored = [run for run in distinct(attempts) if run.role == Role.EXPLORE]
        return {run.arm for run in self.worthy(explored)}

    def baseline(self, explored: Sequence[Attempt]) -> Attempt | None:
        """The one of middle depth; with several objectives, of those that get further seeds."""
        if not self.directions:
            return baseline(explored)
        return baseline(front_first(explored, self.directions)[: self.replicates.top + 1])


@dataclass(frozen=True, kw_only=True)
class SearchWork:
    """A search as its workers see it: see `search.study.plan.Work`."""

    space: Space
    recipe: Recipe
    data_fingerprint: str
    plan: Exploration

    @classmethod
    def of(
        cls,
        space: Space,
        recipe: Recipe,
        data_fingerprint: str,
        *,
        n_trials: int,
        replicates: Replicates,
        grid: bool,
        first_seed: int = 0,
        maximize: bool = False,
        directions: Sequence[str] = (),
    ) -> Self:
        """The work of exploring a space."""
        plan = Exploration(
            options=options_of(space, recipe.seq_len),
            n_trials=n_trials,
            replicates=replicates,
            grid=grid,
            first_seed=first_seed,
            maximize=maximize,
            directions=tuple(directions) if len(directions) > 1 else (),
        )
        return cls(space=space, recipe=recipe, data_fingerprint=data_fingerprint, plan=plan)

    def keeping_to(self, targets: Targets) -> Self:
        """Without the architectures of which it is known before training that they are beyond a
        limit."""
        if not targets.known_limits:
            return self
        seed = self.plan.first_seed
        kept = tuple(x for x in self.plan.options if not targets.beyond(self.run(x.params, seed)))
        out = {option.arm for option in self.plan.options} - {option.arm for option in kept}
        return replace(self, plan=replace(self.plan, options=kept, ruled_out=tuple(sorted(out))))

    def next(self, attempts: Sequence[Attempt], since: int) -> Cell | Step:
        return self.plan.next(attempts, since)

    def after(self, attempts: Sequence[Attempt], since: int) -> Self:
        return replace(self, plan=self.plan.after(attempts))

    def concerns(self, key: str) -> bool:
        return True

    def suggest(self, trial: "Trial") -> dict[str, Any]:
        self.space.suggest(trial)
        return dict(self.space.candidate(trial.params).params)

    def run(self, params: Mapping[str, Any], seed: int) -> Run:
        return Run(
            architecture=self.space.architecture(params),
            recipe=self.recipe,
            data_fingerprint=self.data_fingerprint,
            seed=seed,
        )

    @property
    def foreseen(self) -> list[str]:
        """A grid's first seeds: what samplers propose and what gets further ones is unknown."""
        plan = self.plan
        chosen = plan.spread[: plan.explorations] if plan.grid else []
        return [self.run(option.params, plan.first_seed).key for option in chosen]

    @property
    def total(self) -> int:
        return self.plan.total

    @property
    def at_most(self) -> bool:
        return self.plan.at_most

    @property
    def tokens(self) -> float:
        return self.total * self.recipe.trained_tokens

    @property
    def flops(self) -> float:
        """Replicates are taken as the average architecture."""
        plan = self.plan
        chosen = plan.spread[: plan.explorations] if plan.grid else plan.options
        return self.tokens * sum(option.flops for option in chosen) / len(chosen)

    @property
    def parameters(self) -> int:
        shapes = (self.space.architecture(option.params) for option in self.plan.options)
        return max(cost(shape).parameters for shape in shapes)

    @property
    def architectures(self) -> list[Architecture]:
        return self.space.enumerate()

    @property
    def recipes(self) -> list[Recipe]:
        return [self.typical.recipe]

    @property
    def typical(self) -> Run:
        """Of an architecture in the middle of the space."""
        middle = self.plan.options[len(self.plan.options) // 2]
        return self.run(middle.params, self.plan.first_seed)


def options_of(space: Space, seq_len: int) -> tuple[Option, ...]:
    """All architectures of a space, with what planning needs to know of them."""
    return tuple(
        Option(
            params=candidate.params,
            arm=architecture_id(candidate.architecture),
            layers=candidate.architecture.num_layers,
            flops=float(cost(candidate.architecture, seq_len).train_flops_per_token),
        )
        for candidate in space.candidates()
    )
