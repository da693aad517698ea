"""What a table trains: its cells, each the run of an arm with a seed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import pandas as pd

from ablations import transfer
from ablations.sequential import looked
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
    limits: Mapping[tuple[str, str], int] | None = None
    """Seeds that each panel's arms shall have as yet, where they are given as they are needed."""

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
        """What may have to be trained, by key of the run: seed after seed, all arms of each."""
        found: dict[str, Cell] = {}
        for place in self._all_places:
            params = {"panel": place["panel"], "arm": place["arm"]}
            found.setdefault(place["key"], Cell(params=params, seed=place["seed"]))
        return found

    @cached_property
    def wanted(self) -> dict[str, Cell]:
        """Those of `cells` that shall be trained as yet, by key of the run."""
        return {place["key"]: self.cells[place["key"]] for place in self.places()}

    @property
    def seeds(self) -> range:
        """Of every arm."""
        return range(self.first_seed, self.first_seed + self.table.seeds)

    def places(self) -> Iterator[dict[str, Any]]:
        """Every place of the table as yet: panel, arm, seed, and the key of the run in it."""
        for place in self._all_places:
            if self.limits is None or place["seed"] - self.first_seed < self.limits.get(
                (place["panel"], place["arm"]), 0
            ):
                yield place

    @cached_property
    def _all_places(self) -> list[dict[str, Any]]:
        return [
            {"panel": panel.name, "arm": arm.name, "seed": seed, "key": self._run(arm, seed).key}
            for seed in self.seeds
            for panel in self.table.panels
            for arm in panel.arms
        ]

    def after(self, attempts: Sequence[Attempt], since: int) -> Self:
        """This work once it is known what these trials show: only that limits the seeds."""
        if not self.table.adaptive:
            return self
        runs = {run.key: run for run in distinct(attempts)}
        ended = {
            key: run.value
            for key, run in runs.items()
            if not (run.busy or is_open(run, attempts, since))
        }
        frame = pd.DataFrame(self._all_places).assign(
            done=lambda all_: all_.key.isin(ended),
            value=lambda all_: all_.key.map(ended).astype(float),
        )
        if self.table.transfer:
            return replace(self, limits=transfer.wanted(self._rates(frame), self.table.seeds))
        limits: dict[tuple[str, str], int] = {}
        for panel in self.table.panels:
            mine = frame[frame.panel == panel.name]
            rows, more = looked(mine, panel.baseline, "value")
            looks = {} if rows is None else dict(zip(rows.arm, rows["look"], strict=True))
            limits |= {(panel.name, arm): seeds for arm, seeds in {**looks, **more}.items()}
        return replace(self, limits=limits)

    def _rates(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The frame of cells with what `ablations.transfer` reads of each arm."""
        arms = {
            (panel.name, arm.name): arm.recipe for panel in self.table.panels for arm in panel.arms
        }
        recipes = [arms[place] for place in zip(frame.panel, frame.arm, strict=True)]
        return transfer.described(
            frame, [r.parametrisation for r in recipes], [r.lr for r in recipes]
        )

    def next(self, attempts: Sequence[Attempt], since: int) -> Cell | Step:
        runs = {run.key: run for run in distinct(attempts)}
        asked = self.after(attempts, since).wanted
        for key, cell in asked.items():
            if key not in runs or is_open(runs[key], attempts, since):
                return cell
        undecided = self.table.adaptive and any(runs[key].busy for key in asked)
        return Step.WAIT if undecided else Step.DONE

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
        """Those that are wanted."""
        return [self.run(cell.params, cell.seed) for cell in self.wanted.values()]

    @property
    def total(self) -> int:
        return len(self.wanted)

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
    def typical(self) -> Run:
        """The first panel's baseline."""
        panel = self.table.panels[0]
        return self._run(panel.arm(panel.baseline), self.first_seed)
