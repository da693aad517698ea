"""What a table trains: its cells, each the run of an arm with a seed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ablations.table import Arm, Table
from search.plan import Attempt, Cell, Step, distinct, is_open
from search.record import Run
from space.cost import cost


@dataclass(frozen=True, kw_only=True)
class TableWork:
    """Arms × seeds as a study's workers see them: see `search.plan.Work`.

    A cell is known by its run's key. So what the study's storage has of arms that were changed or
    taken out since counts for nothing, and a run that is in two panels is trained once.
    """

    table: Table
    data_fingerprint: str
    first_seed: int = 0

    def __post_init__(self) -> None:
        for panel in self.table.panels:
            seen: dict[str, str] = {}
            for arm in panel.arms:
                key = self._run(arm, self.first_seed).key
                if key in seen:
                    raise ValueError(
                        f"arms of a panel must differ, but {seen[key]} and {arm.name} of "
                        f"{panel.name!r} are the same run; take one out"
                    )
                seen[key] = arm.name

    @cached_property
    def cells(self) -> dict[str, Cell]:
        """What is to be trained, by key of the run: seed after seed, all arms of each."""
        found: dict[str, Cell] = {}
        for seed in self.seeds:
            for panel in self.table.panels:
                for arm in panel.arms:
                    params = {"panel": panel.name, "arm": arm.name}
                    found.setdefault(self._run(arm, seed).key, Cell(params=params, seed=seed))
        return found

    @property
    def seeds(self) -> range:
        """Of every arm."""
        return range(self.first_seed, self.first_seed + self.table.seeds)

    def places(self) -> Iterator[dict[str, Any]]:
        """Every place of the table: panel, arm, seed, and the key of the run in it."""
        for panel in self.table.panels:
            for arm in panel.arms:
                for seed in self.seeds:
                    key = self._run(arm, seed).key
                    yield {"panel": panel.name, "arm": arm.name, "seed": seed, "key": key}

    def next(self, attempts: Sequence[Attempt], since: int) -> Cell | Step:
        runs = {run.key: run for run in distinct(attempts)}
        for key, cell in self.cells.items():
            if key not in runs or is_open(runs[key], attempts, since):
                return cell
        return Step.DONE

    def suggest(self, trial: Any) -> dict[str, Any]:
        """All cells are enqueued. Optuna's own parameters could not grow by an arm."""
        return dict(trial.user_attrs["cell"])

    def run(self, params: Mapping[str, Any], seed: int) -> Run:
        return self._run(self.table.panel(params["panel"]).arm(params["arm"]), seed)

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
        """All of them."""
        return [self.run(cell.params, cell.seed) for cell in self.cells.values()]

    @property
    def total(self) -> int:
        return len(self.cells)

    @property
    def tokens(self) -> float:
        return sum(run.recipe.steps * run.recipe.tokens_per_step for run in self.runs)

    @property
    def flops(self) -> float:
        return sum(run.train_flops for run in self.runs)

    @property
    def parameters(self) -> int:
        return max(cost(run.architecture).parameters for run in self.runs)

    @property
    def typical(self) -> Run:
        """The first panel's baseline."""
        panel = self.table.panels[0]
        return self._run(panel.arm(panel.baseline), self.first_seed)
