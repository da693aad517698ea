"""What a worker is given to do, as an object and as JSON."""

import json
from dataclasses import dataclass, field, is_dataclass
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Self

from search.config import Evaluation
from search.measure.config import Measuring
from search.objectives import Targets
from search.study.locks import HOST
from search.study.plan import GRACE_S, Work
from search.study.pruners import PrunerConfig
from search.study.samplers import SamplerConfig
from search.train.placement import Placement
from space.arch import Architecture

if TYPE_CHECKING:
    from cattrs import Converter

KIND = "class"
"""In the JSON of a `Work`, beside its fields: of which class it is, `module:name`."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that a worker process gets."""

    study: str
    storage: str
    folder: Path
    """The study's own, under `outputs`."""
    runs: Path
    data: Path
    """Folder of the prepared data."""
    work: Work
    sampler: SamplerConfig
    """This and the pruner pinned: all workers have them of one source."""
    pruner: PrunerConfig
    seed: int
    targets: Targets
    """What is optimised, shown and kept to."""
    placement: Placement
    """As it was given: what it leaves open a checkpoint pins."""
    workers: int = 1
    """That run at once: on one machine they share its cores."""
    since: int = 0
    """Trials there were at this start."""
    start: str = ""
    """Names this start in the storage."""
    place: int = 0
    """Of this start among those that run now: workers of several are numbered apart."""
    grace_s: float = GRACE_S
    """After how long a worker that is silent has lost its run."""
    evaluate: Evaluation = field(default_factory=Evaluation)
    """What each run is asked at its last reading."""
    measure: Measuring = field(default_factory=Measuring)
    """How each run is measured when it has ended, where an objective is measured."""
    unscored: tuple[str, ...] = ()
    """Keys of runs finished before, which have not been asked all of it."""
    artifacts: str | None = None
    """URL of the store that runs and data travel through, where hosts share no disk."""
    keep_weights: bool = True
    """Whether those of runs that have ended are sent there."""

    def log(self, number: int) -> Path:
        """What worker `number` prints, on this machine."""
        place = f"{self.place}." if self.place else ""
        return self.folder / "workers" / f"{HOST}-{place}{number}.log"

    def to_json(self) -> str:
        """All of it in one line. It may hold the storage's password."""
        return json.dumps(converter().unstructure(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The job that `to_json` wrote.

        Raises:
            ValueError: it names code that is no longer what it was.
        """
        return converter().structure(json.loads(text), cls)


@cache
def converter() -> "Converter":
    """Between the dataclasses of a job and plain types."""
    from cattrs.preconf.json import make_converter

    made = make_converter(detailed_validation=False)  # errors as they were raised
    made.register_unstructure_hook(Architecture, Architecture.to_dict)
    made.register_structure_hook(Architecture, lambda values, _: Architecture.from_dict(values))
    made.register_structure_hook(Work, lambda values, _: _work(made, values))
    made.register_unstructure_hook(Work, lambda work: _with_kind(made, work))
    return made


def _with_kind(made: "Converter", work: Work) -> dict[str, Any]:
    kind = type(work)
    return {KIND: f"{kind.__module__}:{kind.__qualname__}", **made.unstructure(work, kind)}


def _work(made: "Converter", values: dict[str, Any]) -> Work:
    kind = resolve_name(values[KIND])
    if not (isinstance(kind, type) and is_dataclass(kind)):
        raise ValueError(f"the work of a job must be a dataclass, but got {values[KIND]}")
    work: Any = made.structure(values, kind)
    return work  # type: ignore[no-any-return]
