"""What a worker is given to do."""

from dataclasses import dataclass, field
from pathlib import Path

from search.config import Evaluation
from search.objectives import Targets
from search.study.plan import Work
from search.study.pruners import PrunerConfig
from search.study.samplers import SamplerConfig
from search.train.placement import Placement


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
    evaluate: Evaluation = field(default_factory=Evaluation)
    """What each run is asked at its last reading."""
    unscored: tuple[str, ...] = ()
    """Keys of runs finished before, which have not been asked all of it."""
