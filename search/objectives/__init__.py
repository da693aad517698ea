"""What studies optimise, show and limit: named numbers of a run, a file for each, and users' own
(docs/doors/objective.md).

Free of torch, since reports read titles and directions here.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from search.record import FINISHED, Reading, Record, Run
from space.doors import Door, bare

DIRECTIONS = ("minimize", "maximize")
LOSSES = ("val_bpb", "val_loss")
"""Of validation text: what every reading has, at horizons too."""


class Objective(Protocol):
    """A number of a run, read from its record or from its cost."""

    title: str
    """As headings and axes show it: `Validation loss (nats per token)`."""
    unit: str
    """As it stands after a value: `nats per token`."""
    direction: str = "minimize"
    """Which way is better: `minimize` or `maximize`."""
    needs_training: bool = True
    """Whether it is read from the last reading; else it is known before anything is trained."""

    def value(self, record: Record) -> float | None:
        """The number at the record's last reading, which may be one at a horizon; None where that
        does not say it. A record of a run that was not trained has no reading."""
        ...


OBJECTIVES = Door("objective", __name__, Objective)  # type: ignore[type-abstract]


class CostObjective(Objective):
    """A count of `space.cost.Cost`, at the sequence length of the recipe."""

    needs_training = False
    field: ClassVar[str]

    def value(self, record: Record) -> float | None:
        return float(getattr(record.cost, self.field))


_load = cache(OBJECTIVES.load)
"""Once for each process and pinned name: all values of a study are of one source."""


@dataclass(frozen=True)
class Measure:
    """An objective by its name, pinned to its source: what is configured and handed to workers."""

    name: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", OBJECTIVES.pinned(self.name))
        if self.objective.direction not in DIRECTIONS:
            raise ValueError(
                f"direction of objective {bare(self.name)} must be one of "
                f"{', '.join(DIRECTIONS)}, but is {self.objective.direction!r}"
            )

    @property
    def short(self) -> str:
        """As `study.json`, tables and columns name it."""
        name = bare(self.name)
        stem = Path(name).stem if name.endswith(".py") else name
        return stem.rpartition(".")[2]

    @property
    def objective(self) -> Objective:
        """Raises: Changed where this process has not loaded it before its source changed."""
        return _load(self.name)

    @property
    def title(self) -> str:
        return self.objective.title

    @property
    def unit(self) -> str:
        return self.objective.unit

    @property
    def maximize(self) -> bool:
        """Whether more is better."""
        return self.objective.direction == "maximize"

    def of(self, record: Record) -> float | None:
        """The number of a record, None where it has none.

        Raises:
            ValueError: what the objective itself raised, in one line.
        """
        objective = self.objective
        if objective.needs_training and not record.readings:
            return None
        try:
            value = objective.value(record)
            return None if value is None else float(value)
        except Exception as error:
            said = (str(error).splitlines() or [""])[0]
            raise ValueError(
                f"{self.short} could not be read from run {record.run.key}: "
                f"{type(error).__name__}: {said}"
            ) from error

    def at(self, run: Run, reading: Reading) -> float | None:
        """The number at one reading of a run in progress."""
        return self.of(Record(run=run, status=FINISHED, readings=(reading,)))

    def facts(self) -> dict[str, str]:
        """What `study.json` says of it."""
        objective = self.objective
        return {
            "name": self.short,
            "title": objective.title,
            "unit": objective.unit,
            "direction": objective.direction,
        }


@dataclass(frozen=True)
class Limit:
    """What an architecture must keep to: `kv_bytes<=2048`."""

    measure: Measure
    at_most: bool
    bound: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises: ValueError where it is none."""
        found = re.fullmatch(r"\s*(.+?)\s*(<=|>=)\s*([-+0-9.eE_]+)\s*", str(text))
        try:
            assert found is not None, "caught below"
            bound = float(found[3])
        except (AssertionError, ValueError):
            raise ValueError(
                f"constraints must be such as 'kv_bytes<=2048' or 'val_bpb>=1', but got {text!r}"
            ) from None
        return cls(Measure(found[1]), found[2] == "<=", bound)

    def __str__(self) -> str:
        return self._written(self.measure.short)

    @property
    def identity(self) -> str:
        """As settings hold it: another source is another limit."""
        return self._written(OBJECTIVES.identity(self.measure.name))

    def _written(self, name: str) -> str:
        return f"{name}{'<=' if self.at_most else '>='}{self.bound:.12g}"

    def excess(self, value: float) -> float:
        """By how much a value is beyond the bound; it is kept at 0 and below."""
        return value - self.bound if self.at_most else self.bound - value


@dataclass(frozen=True)
class Targets:
    """What a study optimises, what it shows besides, and what it keeps to."""

    objectives: tuple[Measure, ...]
    columns: tuple[Measure, ...] = ()
    limits: tuple[Limit, ...] = ()

    @classmethod
    def of(
        cls, objectives: Sequence[str], columns: Sequence[str] = (), constraints: Sequence[str] = ()
    ) -> Self:
        """Raises: ValueError where one of these is none, or nothing needs training."""
        found = cls(
            tuple(map(Measure, objectives)),
            tuple(map(Measure, columns)),
            tuple(map(Limit.parse, constraints)),
        )
        if not found.first.objective.needs_training:
            raise ValueError(
                "objectives must begin with one that needs training, but got "
                f"{bare(found.first.name)}, which is known beforehand; add val_bpb before it, or "
                "let `python -m space` list costs"
            )
        shorts = [measure.short for measure in found.objectives]
        if twice := [name for name in shorts if shorts.count(name) > 1]:
            raise ValueError(f"objectives must have different names, but got {twice[0]} twice")
        found._require_different_names()
        return found

    def by_first(self) -> Self:
        """The same with all objectives but the first as columns."""
        first, *others = self.objectives
        return replace(self, objectives=(first,), columns=(*others, *self.columns))

    def _require_different_names(self) -> None:
        for measure in self._all():
            other = self.measures[measure.short]
            if other != measure:
                raise ValueError(
                    "objectives, columns and constraints must have different names, but "
                    f"{bare(measure.name)} and {bare(other.name)} are both {measure.short}; rename "
                    "a file"
                )

    def _all(self) -> tuple[Measure, ...]:
        return (*self.objectives, *self.columns, *(limit.measure for limit in self.limits))

    @property
    def first(self) -> Measure:
        """By which runs are ranked, curves drawn and arms compared."""
        return self.objectives[0]

    @cached_property
    def measures(self) -> dict[str, Measure]:
        """All of them, by short name."""
        return {measure.short: measure for measure in self._all()}

    @property
    def plain(self) -> bool:
        """Whether the loss on validation text alone is asked for, as in studies from before
        objectives."""
        return list(self.measures) in ([name] for name in LOSSES) and not self.limits

    @property
    def directions(self) -> list[str]:
        return [measure.objective.direction for measure in self.objectives]

    def values(self, record: Record) -> tuple[float, ...]:
        """Of each objective.

        Raises:
            ValueError: one is no number.
        """
        return tuple(self._number(measure, record) for measure in self.objectives)

    def excesses(self, record: Record) -> dict[str, float]:
        """By how much a run is beyond each limit; it is kept at 0 and below.

        Raises:
            ValueError: one cannot be said.
        """
        return {str(x): x.excess(self._number(x.measure, record)) for x in self.limits}

    def row(self, record: Record) -> dict[str, float | None]:
        """All that is shown of a run."""
        return {name: measure.of(record) for name, measure in self.measures.items()}

    def settings(self, usual: str) -> dict[str, Any]:
        """What must not change under a study's name; nothing where that is the usual objective."""
        found: dict[str, Any] = {}
        if [measure.name for measure in self.objectives] != [usual]:
            found["objectives"] = [OBJECTIVES.identity(m.name) for m in self.objectives]
        if self.limits:
            found["constraints"] = [limit.identity for limit in self.limits]
        return found

    def facts(self) -> dict[str, Any]:
        """What `study.json` says of them."""
        first = self.first
        found = {"metric": first.short, "direction": first.objective.direction}
        if self.plain:
            return found
        return found | {
            "objectives": [measure.facts() for measure in self.objectives],
            "columns": [
                measure.facts()
                for measure in self.measures.values()
                if measure not in self.objectives
            ],
            "constraints": [str(limit) for limit in self.limits],
        }

    @staticmethod
    def _number(measure: Measure, record: Record) -> float:
        value = measure.of(record)
        if value is None or not isfinite(value):
            raise ValueError(f"{measure.short} must be a number, but is {value}")
        return value


def dominated(values: Sequence[float], others: Sequence[float], directions: Sequence[str]) -> bool:
    """Whether others are as good in all objectives and better in one."""
    signs = [-1 if direction == "maximize" else 1 for direction in directions]
    mine = [sign * value for sign, value in zip(signs, values, strict=True)]
    theirs = [sign * value for sign, value in zip(signs, others, strict=True)]
    return theirs != mine and all(a <= b for a, b in zip(theirs, mine, strict=True))


def measures_of(content: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Name, title, unit and direction of what a `study.json` has values of, by name."""
    found = [*content.get("objectives", ()), *content.get("columns", ())]
    if not found:
        name = str(content["metric"])
        unknown = {"name": name, "title": name, "unit": name, "direction": "minimize"}
        found = [Measure(name).facts() if name in OBJECTIVES.names() else unknown]
    return {str(measure["name"]): dict(measure) for measure in found}
