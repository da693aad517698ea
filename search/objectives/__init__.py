"""What studies optimise, show and limit: named numbers of a run, a file for each, and users' own
(docs/doors/objective.md).

Free of torch, since reports read titles and directions here.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from search.measure.in_engine import InEngine, is_engine
from search.record import Reading, Record, Run
from search.states import Status
from space import device
from space.constraints import require_of_study
from space.doors import Door, bare
from space.meters import Meter, meter_of
from space.ranges import ANY
from space.words import join

DIRECTIONS = ("minimize", "maximize")
USUAL, WITHOUT_BYTES = "val_bpb", "val_loss"
"""What is optimised where no objective is given: comparable across vocabularies, or what data that
does not state its bytes per token has instead."""
LOSSES = (USUAL, WITHOUT_BYTES)
"""Of validation text: what every reading has, at horizons too."""


class Unreadable(ValueError):
    """An objective raised. Caught where that ends a study, rather than a run."""


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


class Placed(Protocol):
    """What an objective has that takes something behind an `@`: `decode_ms@iphone_13`."""

    example: str
    """What may stand there."""

    def at(self, where: str) -> Objective:
        """The objective there. Raises: ValueError where that is none."""
        ...


class LossObjective(Objective):
    """A loss on validation text; behind an `@` stands a source of a mixture, whose own it is then:
    `val_bpb@code`. It has no `example`, since it is the data that say what may stand there."""

    field: ClassVar[str]
    source: str | None = None

    def at(self, where: str) -> Objective:
        if device.is_known(where):
            raise ValueError(
                f"objective {self.field} must have nothing behind @, but got {where!r}"
            )
        placed = type(self)()
        placed.source, placed.title = where, f"{self.title}, {where}"
        return placed

    def value(self, record: Record) -> float | None:
        """None where the data has no such source."""
        last = record.readings[-1]
        if self.source is None:
            found: float | None = getattr(last, self.field)
            return found
        own = (each for each in last.sources if each.source == self.source)
        return next((getattr(each, self.field) for each in own), None)


class MeterObjective(Objective):
    """One of the counts that a budget may be of, at a precision, a length or a device: see
    `space.meters`."""

    needs_training = False
    kind: ClassVar[str]
    example: ClassVar[str] = "iphone_13"
    meter: Meter | None = None

    def at(self, where: str) -> Objective:
        if self.kind in device.QUANTITIES and is_engine(where):
            return MeasuredObjective(self.kind, InEngine.parse(where))
        placed = type(self)()
        placed.meter = meter_of(self.kind, where)
        return placed

    @property
    def title(self) -> str:  # type: ignore[override]
        """Of one that lacks a device, which is refused before it is asked for a value, its kind."""
        return self.kind if self.meter is None else self.meter.title

    @property
    def unit(self) -> str:  # type: ignore[override]
        return device.unit_of(self.kind)

    @property
    def note(self) -> str:
        """What its title has no room for, as hints of columns say it: how far it reaches."""
        return "" if self.meter is None else self.meter.note

    def value(self, record: Record) -> float | None:
        meter = self.meter or meter_of(self.kind)
        return float(meter.spent(record.run.architecture))


@dataclass(frozen=True)
class MeasuredObjective(Objective):
    """What an engine took for a run's architecture, measured by the worker when the run had ended:
    with one thread the time that it ran, else the clock's."""

    kind: str
    """One of `space.device.QUANTITIES`."""
    engine: InEngine

    @property
    def title(self) -> str:  # type: ignore[override]
        what = device.noun_of(self.kind).capitalize()
        return f"{what} in {self.engine.short}, measured ({self.unit})"

    @property
    def unit(self) -> str:  # type: ignore[override]
        return device.unit_of(self.kind)

    def value(self, record: Record) -> float | None:
        found = self.engine.find(record)
        return None if found is None else found.counted(self.kind)


@dataclass(frozen=True)
class Name:
    """An objective's name taken apart: `mine.py@0123456789ab`, `decode_ms@iphone_13`."""

    base: str
    """Of the door, pinned or not."""
    at: str | None

    @classmethod
    def of(cls, text: str) -> Self:
        found = re.fullmatch(r"([^@]+(?:@[0-9a-f]{12})?)(?:@(.+))?", str(text))
        return cls(found[1], found[2]) if found else cls(str(text), None)

    @property
    def is_device(self) -> bool:
        return self.base in device.QUANTITIES

    @property
    def pinned(self) -> str:
        at = self.at
        if at is not None and self.is_device:
            at = str(InEngine.parse(at)) if is_engine(at) else device.pinned(at)
        base = OBJECTIVES.pinned(self.base)
        return base if at is None else f"{base}@{at}"

    def load(self) -> Objective:
        """Raises: ValueError where there is no such objective, it takes nothing behind an `@`, or
        it lacks a device; Changed where it is pinned to another source."""
        found = OBJECTIVES.load(self.base)
        if self.at is None:
            _ = meter_of(self.base) if self.is_device else None
            return found
        if not hasattr(found, "at"):
            raise ValueError(
                f"objective {bare(self.base)} must have nothing behind @, but got {self.at!r}"
            )
        placed: Objective = found.at(self.at)
        return placed


@cache
def _load(name: str) -> Objective:
    """Once for each process and pinned name: all values of a study are of one source."""
    return Name.of(name).load()


@dataclass(frozen=True)
class Measure:
    """An objective by its name, pinned to its source: what is configured and handed to workers."""

    name: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", Name.of(self.name).pinned)
        objective = self.objective
        if objective.direction not in DIRECTIONS:
            raise ValueError(
                f"direction of objective {bare(self.name)} must be one of "
                f"{', '.join(DIRECTIONS)}, but is {objective.direction!r}"
            )

    @property
    def short(self) -> str:
        """As `study.json`, tables and columns name it."""
        parsed = Name.of(self.name)
        name = bare(parsed.base)
        stem = Path(name).stem if name.endswith(".py") else name
        own = stem.rpartition(".")[2]
        if parsed.at is None:
            return own
        engine = self.engine
        return f"{own}@{device.short(parsed.at) if engine is None else engine.short}"

    @classmethod
    def given(cls, name: str, option: str) -> Self:
        """Of a name that a user gave. Raises: ValueError where there is no such objective; the
        message names the option."""
        OBJECTIVES.load(Name.of(name).base, option=option)
        return cls(name)

    @property
    def identity(self) -> str:
        """As settings hold it: another source is another objective."""
        parsed = Name.of(self.name)
        own = OBJECTIVES.identity(parsed.base)
        return own if parsed.at is None else f"{own}@{parsed.at}"

    @property
    def objective(self) -> Objective:
        """Raises: Changed where this process has not loaded it before its source changed."""
        return _load(self.name)

    @property
    def engine(self) -> InEngine | None:
        """That it is measured in; None where it is not measured in an engine."""
        found = self.objective
        return found.engine if isinstance(found, MeasuredObjective) else None

    @property
    def source(self) -> str | None:
        """Of a mixture, whose loss it is alone."""
        return getattr(self.objective, "source", None)

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
            Unreadable: what the objective itself raised, in one line.
        """
        objective = self.objective
        if objective.needs_training and not record.readings:
            return None
        try:
            value = objective.value(record)
            return None if value is None else float(value)
        except Exception as error:
            said = (str(error).splitlines() or [""])[0]
            raise Unreadable(
                f"{self.short} could not be read from run {record.run.key}: "
                f"{type(error).__name__}: {said}"
            ) from error

    def at(self, run: Run, reading: Reading) -> float | None:
        """The number at one reading of a run in progress."""
        return self.of(Record(run=run, status=Status.FINISHED, readings=(reading,)))

    def facts(self) -> dict[str, Any]:
        """What `study.json` says of it; `exact` where an architecture has one value of it."""
        objective = self.objective
        found = {
            "name": self.short,
            "title": objective.title,
            "unit": objective.unit,
            "direction": objective.direction,
        }
        note = getattr(objective, "note", "")
        found |= {"note": note} if note else {}
        return found if objective.needs_training else found | {"exact": True}


@dataclass(frozen=True)
class Limit:
    """What an architecture must keep to: `kv_bytes<=2048`."""

    measure: Measure
    at_most: bool
    bound: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises: ValueError where it is none, or is on a size of shapes."""
        require_of_study(text)
        found = re.fullmatch(r"\s*(.+?)\s*(<=|>=)\s*([-+0-9.eE_]+)\s*", str(text))
        try:
            assert found is not None, "caught below"
            bound = float(found[3])
            ANY.require("a bound", bound)
        except (AssertionError, ValueError):
            raise ValueError(
                f"constraints must be such as 'kv_bytes<=2048' or 'val_bpb>=1', but got {text!r}"
            ) from None
        try:
            measure = Measure(found[1])
        except ValueError as error:
            raise ValueError(f"constraints has {text!r}, whose {error}") from None
        return cls(measure, found[2] == "<=", bound)

    def __str__(self) -> str:
        return self._written(self.measure.short)

    @property
    def identity(self) -> str:
        """As settings hold it: another source is another limit."""
        return self._written(self.measure.identity)

    def _written(self, name: str) -> str:
        return f"{name}{'<=' if self.at_most else '>='}{self.bound:.12g}"

    def shortfall(self, record: Record) -> float:
        """How far a run is beyond the bound, as a share of it; 0 where it is kept.

        Raises:
            ValueError: that cannot be said.
        """
        value = self.measure.of(record)
        if value is None:
            raise ValueError(f"{self.measure.short} must be a number before training, but is None")
        return max(0.0, self.excess(value)) / (abs(self.bound) or 1.0)

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
            tuple(Measure.given(name, "objectives") for name in objectives),
            tuple(Measure.given(name, "columns") for name in columns),
            tuple(map(Limit.parse, constraints)),
        )
        if not found.first.objective.needs_training:
            raise ValueError(
                "objectives must begin with one that needs training, but got "
                f"{bare(found.first.name)}, which is known beforehand; add val_bpb before it, or "
                "let `python -m space` list costs"
            )
        if found.first.engine is not None:
            raise ValueError(
                "objectives must begin with one that training changes, but got "
                f"{found.first.short}, which is measured whatever the weights are; add val_bpb "
                "before it, or time models with `python -m search.measure`"
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

    def require_sources(self, names: Collection[str]) -> None:
        """Raises: ValueError where the loss on a source is asked for that is not among these."""
        for measure in self.measures.values():
            if measure.source is not None and measure.source not in names:
                known = ", ".join(names) or "none, for these data are no mixture"
                raise ValueError(
                    f"{measure.short} must be of a source of the data ({known}), but got "
                    f"{measure.source!r}"
                )

    def with_sources(self, names: Iterable[str], usual: str) -> Self:
        """With the usual loss on each source of a mixture as a column."""
        columns = (Measure(f"{usual}@{name}") for name in names)
        new = tuple(measure for measure in columns if measure.short not in self.measures)
        return replace(self, columns=(*self.columns, *new)) if new else self

    @property
    def measured(self) -> tuple[Measure, ...]:
        """Those that each run is measured for in an engine."""
        return tuple(measure for measure in self.measures.values() if measure.engine is not None)

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
            found["objectives"] = [m.identity for m in self.objectives]
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

    @property
    def known_limits(self) -> tuple[Limit, ...]:
        """Those of which it is known before training whether a run keeps to them."""
        return tuple(x for x in self.limits if not x.measure.objective.needs_training)

    def known_excesses(self, run: Run) -> dict[str, float]:
        """`excesses` of the limits that are known before training."""
        return replace(self, limits=self.known_limits).excesses(
            Record(run=run, status=Status.FINISHED)
        )

    def beyond(self, run: Run) -> list[str]:
        """What is known before training of a run that is beyond limits: `kv_bytes of 4,096 is
        beyond kv_bytes<=2048`. Such a run is not trained."""
        record = Record(run=run, status=Status.FINISHED)
        return [
            f"{limit.measure.short} of {limit.measure.of(record):,.4g} is beyond {limit}"
            for limit in self.known_limits
            if limit.shortfall(record) > 0
        ]

    def require_possible(self, runs: Sequence[Run]) -> None:
        """That one of these runs, as far as it is known before training, keeps to all limits.

        Raises:
            ValueError: none does; the message names the nearest.
        """
        limits = self.known_limits
        if not limits or not runs:
            return
        untrained = [Record(run=run, status=Status.FINISHED) for run in runs]
        found = [[limit.shortfall(record) for limit in limits] for record in untrained]
        if any(not any(each) for each in found):
            return
        nearest = min(range(len(runs)), key=lambda place: sum(found[place]))
        arch, record = runs[nearest].architecture, untrained[nearest]
        has = ", ".join(f"{x.measure.short} of {x.measure.of(record):,.4g}" for x in limits)
        raise ValueError(
            f"constraints must be met by an architecture of the space, but none of {len(runs)} "
            f"meets {' and '.join(map(str, limits))}; nearest is {arch.num_layers} layers × "
            f"{arch.hidden_size} wide with {has}"
        )

    @staticmethod
    def _number(measure: Measure, record: Record) -> float:
        value = measure.of(record)
        if value is None or not isfinite(value):
            raise ValueError(f"{measure.short} must be a number, but is {value}")
        return value


def missed(excesses: Mapping[str, float]) -> str:
    """What a run is beyond and by how much, of `Targets.excesses`: "kv_bytes<=2048 by 1,024";
    empty where it keeps to all."""
    sizes = {name: f"{x:,.0f}" if x >= 1000 else f"{x:.4g}" for name, x in excesses.items()}
    return join([f"{name} by {sizes[name]}" for name, x in excesses.items() if x > 0])


def shortfall(excesses: Mapping[str, float]) -> float:
    """How far a run is beyond its constraints, each as a share of its bound."""
    bounds = {name: abs(float(re.split("[<>]=", name)[1])) or 1.0 for name in excesses}
    return sum(max(0.0, excess) / bounds[name] for name, excess in excesses.items())


def in_digits(name: str, value: float, decimals: int = 4) -> str:
    """A value of an objective as messages have it: decimals of a loss, six digits of others."""
    return f"{value:.{decimals}f}" if name in LOSSES else f"{value:,.6g}"


def dominated(values: Sequence[float], others: Sequence[float], directions: Sequence[str]) -> bool:
    """Whether others are as good in all objectives and better in one."""
    signs = [-1 if direction == "maximize" else 1 for direction in directions]
    mine = [sign * value for sign, value in zip(signs, values, strict=True)]
    theirs = [sign * value for sign, value in zip(signs, others, strict=True)]
    return theirs != mine and all(a <= b for a, b in zip(theirs, mine, strict=True))


def hint_of(measure: Mapping[str, Any]) -> str:
    """What a column of it holds, by what `study.json` says of it."""
    return "; ".join([measure["title"], *filter(None, [measure.get("note")])])


def measures_of(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Name, title, unit and direction of what a `study.json` has values of, by name."""
    found = [*content.get("objectives", ()), *content.get("columns", ())]
    if not found:
        name = str(content["metric"])
        unknown = {"name": name, "title": name, "unit": name, "direction": "minimize"}
        found = [Measure(name).facts() if name in OBJECTIVES.names() else unknown]
    return {str(measure["name"]): dict(measure) for measure in found}
