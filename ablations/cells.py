"""What a table trains: its cells, each the run of an arm with a seed."""

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

from ablations.questions import QUESTIONS, Wanted
from ablations.stats.bracket import FIRST_SEED, Choice, LrSearch, choose
from ablations.table import Arm, Panel, Table, of_panel
from search.objectives import Targets
from search.recipe import Recipe
from search.record import Run
from search.states import State, Status
from search.study.plan import Attempt, Cell, Step, distinct, is_open
from space.arch import Architecture
from space.cost import cost
from space.words import count

UNDECIDED = "undecided"
"""Instead of a key, where the run waits for its learning rate."""


@dataclass(frozen=True, kw_only=True)
class TableWork:
    """Arms × seeds as a study's workers see them: see `search.study.plan.Work`.

    A cell is known by its run's key. So what the study's storage has of arms that were changed or
    taken out since counts for nothing, and a run that is in two panels is trained once.
    """

    table: Table
    data_fingerprint: str
    first_seed: int = 0
    limits: Wanted | None = None
    """Seeds that each arm shall have by what has ended; None: all of them."""
    search: LrSearch = field(default_factory=LrSearch)
    """How arms come to their learning rates."""
    maximize: bool = False
    """Whether more is better, of what arms are compared by."""
    ruled_out: tuple[tuple[str, str], ...] = ()
    """Panel and arm of those that are not trained: each has one place, and no cell."""
    choices: Mapping[tuple[str, str], Choice] = field(default_factory=dict)
    """Where that stands, by panel and arm; as at the start where nothing is said."""

    def __post_init__(self) -> None:
        for panel in self.table.panels:
            seen: dict[str, str] = {}
            for arm in panel.arms:
                key = self._run(arm if self.search.name == "none" else arm.at(1.0), 0).key
                if key in seen:
                    but = "" if self.search.name == "none" else " but for the rate that is searched"
                    raise ValueError(
                        f"arms of a panel must differ, but {seen[key]} and {arm.name}"
                        f"{of_panel(panel.name)} are the same run{but}: both are "
                        f"{_sizes(arm.architecture)}, to which the budget may have rounded what "
                        "they ask for; change one, or take it out"
                    )
                seen[key] = arm.name

    def keeping_to(self, targets: Targets) -> Self:
        """This work without the arms of which it is known before training that they are beyond a
        limit.

        Raises:
            ValueError: one of them is a baseline, or leaves it alone.
        """
        out: list[tuple[str, str]] = []
        for panel in self.table.panels:
            beyond = {arm.name: targets.beyond(self._run(arm, 0)) for arm in panel.arms}
            mine = [name for name, words in beyond.items() if words]
            if panel.baseline in mine or len(mine) == len(panel.arms) - 1:
                first = panel.baseline if panel.baseline in mine else mine[0]
                raise ValueError(
                    f"the baseline and another arm{of_panel(panel.name)} must keep to the "
                    f"constraints, but of {first} {'; '.join(beyond[first])}; change the "
                    "constraints, or show what they are about with columns"
                )
            out += [(panel.name, name) for name in mine]
        return replace(self, ruled_out=tuple(out))

    @cached_property
    def cells(self) -> dict[str, Cell]:
        """What may have to be trained, by key of the run: what chooses learning rates, then seed
        after seed, all arms of each."""
        found: dict[str, Cell] = {}
        for place in [*self.tries, *filter(self.is_asked, self._all_places)]:
            params = {k: v for k, v in place.items() if k in ("panel", "arm", "lr")}
            found.setdefault(place["key"], Cell(params=params, seed=place["seed"]))
        found.pop(UNDECIDED, None)
        return found

    @cached_property
    def wanted(self) -> dict[str, Cell]:
        """The `cells` to train so far, by key of the run."""
        keys = [place["key"] for place in [*self.tries, *filter(self.is_asked, self.places())]]
        return {key: self.cells[key] for key in keys if key != UNDECIDED}

    def is_asked(self, place: Mapping[str, Any]) -> bool:
        """Whether the run of a place is to be trained."""
        return (place["panel"], place["arm"]) not in self.ruled_out

    @property
    def seeds(self) -> range:
        """Of every arm."""
        return range(self.first_seed, self.first_seed + self.table.seeds)

    def places(self) -> Iterator[dict[str, Any]]:
        """Every place of the table so far: panel, arm, seed, and the key of its run."""
        for place in self._all_places:
            wanted = (self.limits or {}).get((place["panel"], place["arm"]), 0)
            few = self.limits is None or place["seed"] - self.first_seed < wanted
            if few or not self.is_asked(place):
                yield place

    @cached_property
    def _all_places(self) -> list[dict[str, Any]]:
        return [
            self._place(panel, arm, seed)
            for seed in self.seeds
            for panel in self.table.panels
            for arm in panel.arms
            if seed == self.first_seed or (panel.name, arm.name) not in self.ruled_out
        ]

    def _place(self, panel: Panel, arm: Arm, seed: int) -> dict[str, Any]:
        place = {"panel": panel.name, "arm": arm.name, "seed": seed}
        choice = self.choice(panel, arm) if self.is_asked(place) else None
        if choice is None:
            return {**place, "key": self._run(arm, seed).key}
        if choice.chosen is None:
            return {**place, "key": UNDECIDED}
        return {**place, "key": self._run(arm.at(choice.chosen), seed).key, "lr": choice.chosen}

    def choice(self, panel: Panel, arm: Arm) -> Choice | None:
        """The state of the search for an arm's learning rate; None without one."""
        if self.search.name == "none":
            return None
        known = self.choices.get((panel.name, arm.name))
        return known or choose(self.search, arm.recipe.lr, {})

    @cached_property
    def tries(self) -> list[dict[str, Any]]:
        """Every run that chooses a learning rate: panel, arm, rate `lr`, seed and key."""
        return [
            {
                "panel": panel.name,
                "arm": arm.name,
                "lr": rate,
                "seed": seed,
                "key": self._run(arm.at(rate), seed).key,
            }
            for seed in self.choosing_seeds
            for panel in self.table.panels
            for arm in panel.arms
            if (choice := self.choice(panel, arm)) is not None
            and (panel.name, arm.name) not in self.ruled_out
            for rate in choice.rates
        ]

    @property
    def choosing_seeds(self) -> range:
        """On which rates are chosen: none that the table reports."""
        first = self.first_seed + FIRST_SEED
        return range(first, first + self.search.seeds)

    @cached_property
    def resolved(self) -> Table:
        """The table with the learning rates that were chosen."""
        return replace(
            self.table,
            panels=tuple(
                replace(panel, arms=tuple(self._resolved(panel, arm) for arm in panel.arms))
                for panel in self.table.panels
            ),
        )

    def _resolved(self, panel: Panel, arm: Arm) -> Arm:
        choice = self.choice(panel, arm)
        return arm if choice is None or choice.chosen is None else arm.at(choice.chosen)

    def _with_rates(self, ended: Mapping[str, float | None]) -> Self:
        """This work once these runs, by key, have shown which rates are best."""
        if self.search.name == "none":
            return self
        work, before = replace(self, choices={}), None
        while work.choices != before:
            before, found = work.choices, dict[tuple[str, str], dict[tuple[float, int], Any]]()
            for place in work.tries:
                known = found.setdefault((place["panel"], place["arm"]), {})
                if place["key"] in ended:
                    number, value = place["seed"] - self.choosing_seeds[0], ended[place["key"]]
                    worse = None if value is None else -value if self.maximize else value
                    known[place["lr"], number] = worse
            choices = {
                (panel.name, arm.name): choose(
                    self.search, arm.recipe.lr, found[panel.name, arm.name]
                )
                for panel in self.table.panels
                for arm in panel.arms
            }
            work = replace(work, choices=choices)
        return work

    def after(self, attempts: Sequence[Attempt], since: int) -> Self:
        """This work once it is known what these trials show: only that limits the seeds, and
        chooses learning rates."""
        runs = {run.key: run for run in distinct(attempts)}
        ended = {
            str(key): run.value
            for key, run in runs.items()
            if not (run.busy or is_open(run, attempts, since))
        }
        # One crash says nothing of a rate, which waits for the next start.
        crashes = Counter(
            a.key for a in attempts if a.state == State.FAIL and a.status in (Status.FAILED, None)
        )
        tried = {
            key: value
            for key, value in ended.items()
            if value is not None or runs[key].status == Status.DIVERGED or crashes[key] > 1
        }
        known = tuple(ended.items()), tuple(tried.items())
        if known not in self._last:
            self._last.clear()
            self._last[known] = self._with_rates(tried)._with_seeds(ended)
        return self._last[known]

    def concerns(self, key: str) -> bool:
        return key in self.cells

    @cached_property
    def _last(self) -> dict[Hashable, Self]:
        """The answer of `after`, by what it follows from: workers ask far more often than runs
        end."""
        return {}

    def _with_seeds(self, ended: Mapping[str, float | None]) -> Self:
        """This work once these runs, by key, have shown where seeds are needed."""
        import pandas as pd  # nothing else here needs it

        frame = pd.DataFrame([*filter(self.is_asked, self._all_places)]).assign(
            done=lambda all_: all_.key.isin(ended),
            value=lambda all_: all_.key.map(ended).astype(float),
        )
        limits = QUESTIONS.load(self.table.question).wanted(self.table, frame)
        return self if limits is None else replace(self, limits=limits)

    def next(self, attempts: Sequence[Attempt], since: int) -> Cell | Step:
        runs = {run.key: run for run in distinct(attempts)}
        work = self.after(attempts, since)
        for key, cell in work.wanted.items():
            if key not in runs or is_open(runs[key], attempts, since):
                return cell
        adaptive = work.limits is not None or self.search.name != "none"
        undecided = adaptive and any(runs[key].busy for key in work.wanted)
        return Step.WAIT if undecided else Step.DONE

    def suggest(self, trial: Any) -> dict[str, Any]:
        """All cells are enqueued. Optuna's own parameters could not grow by an arm."""
        return dict(trial.user_attrs["cell"])

    def run(self, params: Mapping[str, Any], seed: int) -> Run:
        arm = self.table.panel(params["panel"]).arm(params["arm"])
        return self._run(arm.at(params["lr"]) if "lr" in params else arm, seed)

    def _run(self, arm: Arm, seed: int) -> Run:
        return Run(
            architecture=arm.architecture,
            recipe=arm.recipe,
            data_fingerprint=self.data_fingerprint,
            seed=seed,
            init_seed=seed + arm.init_shift,
        )

    @cached_property
    def runs(self) -> list[Run]:
        """Those that are wanted; where a learning rate has yet to be chosen, at the table's."""
        known = [self.run(cell.params, cell.seed) for cell in self.wanted.values()]
        waiting = [place for place in self.places() if place["key"] == UNDECIDED]
        return known + [self.run(place, place["seed"]) for place in waiting]

    @property
    def foreseen(self) -> list[str]:
        return list(self.wanted)

    @property
    def total(self) -> int:
        return len(self.runs)

    @property
    def at_most(self) -> bool:
        return False

    @property
    def tokens(self) -> float:
        return sum(run.recipe.trained_tokens for run in self.runs)

    @property
    def flops(self) -> float:
        return sum(run.train_flops for run in self.runs)

    @property
    def parameters(self) -> int:
        return max(cost(run.architecture).parameters for run in self.runs)

    @property
    def architectures(self) -> list[Architecture]:
        return [arm.architecture for panel in self.table.panels for arm in panel.arms]

    @property
    def recipes(self) -> list[Recipe]:
        return [arm.recipe for panel in self.table.panels for arm in panel.arms]

    @property
    def typical(self) -> Run:
        """The first panel's baseline."""
        panel = self.table.panels[0]
        return self._run(panel.arm(panel.baseline), self.first_seed)


def _sizes(arch: Architecture) -> str:
    """ "4 layers × 96, 6 heads on 2, FFN 295 (ratio 3.07)": what the budget settles."""
    ratio = arch.intermediate_size / arch.hidden_size
    return (
        f"{count(arch.num_layers, 'layer')} × {arch.hidden_size}, {arch.num_attention_heads} heads "
        f"on {arch.num_key_value_heads}, FFN {arch.intermediate_size} (ratio {ratio:.2f})"
    )
