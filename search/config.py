"""The options of a verb that trains. The values are in `conf/search.yaml`, `conf/ablations.yaml`
and their groups."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Self

from search.data.config import DataConfig
from search.evaluate.tasks import PACKAGE, SOURCES
from search.executors import Executor, ExecutorConfig
from search.measure.config import Measuring
from search.objectives import USUAL, Measure, Targets
from search.recipe import Recipe
from search.show.trackers import TrackerConfig
from search.study.exploration import Replicates
from search.study.plan import GRACE_S
from search.study.pruners import PrunerConfig
from search.study.samplers import SAMPLERS, SamplerConfig
from search.train.placement import NotHere, Placement, share_gpus, usual_workers
from space.arch import Architecture
from space.axes import SpaceConfig
from space.budget import OF_WEIGHTS, Budget
from space.doors import label
from space.files import APART, require_name
from space.overrides import Place
from space.ranges import AtLeast1, Positive, Range, Seed, settle_numbers

KEEP = ("best", "all", "none")
AUTO = "auto"
WORKERS = Range(1, 10_000)
LOOK = "train=false says what a study takes and trains nothing"
Grace = Annotated[float, Range(3)]
"""Seconds. A lease is renewed within a sixth of it."""


@dataclass(kw_only=True)
class Evaluation:
    """Zero-shot tasks, and where their documents come from."""

    tasks: dict[str, Any] = field(default_factory=dict)
    """Of files of `conf/tasks/`, see `search.evaluate.tasks.TaskSpec`; none: nothing is asked."""
    source: str = "package"
    """`package`: data that `make eval-data` brings; `hub`: lm-eval's usual way."""
    limit: AtLeast1 | None = None
    """Documents of each task; None: all."""
    package: Place = str(PACKAGE)
    """Where `make eval-data` has put the data."""

    def __post_init__(self) -> None:
        _choose("source", self.source, SOURCES)
        settle_numbers(self)
        if self.limit is not None and not self.tasks:
            raise ValueError(
                f"evaluate.limit must come with tasks to ask, but got {self.limit} and no tasks; "
                "add evaluate=commonsense, or another that --help lists"
            )


@dataclass(kw_only=True)
class StudyConfig(ABC):
    """The options of every study."""

    data: DataConfig
    recipe: Recipe
    proxy: str = "custom"
    """Name of the file that the recipe came from."""
    workers: int | str = AUTO
    """That train runs at once. `auto`: as many as suit this machine."""
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    placement: Placement = field(default_factory=Placement)
    evaluate: Evaluation = field(default_factory=Evaluation)
    """What each run is asked at its last reading."""
    measure: Measuring = field(default_factory=Measuring)
    """With which engine each architecture is timed, when all runs are done, or each run where an
    objective is such a time."""
    seed: Seed = 0
    """First seed of the runs, and the samplers'."""
    storage: str | None = None
    """SQLAlchemy URL. Default: SQLite in the study's folder."""
    grace_s: Grace = GRACE_S
    """After how many seconds without a sign a worker has lost its run, which another then takes.
    Workers of this start that die are noticed at once."""
    outputs: Place = "outputs"
    """Folder of studies and tables."""
    runs: Place = "runs"
    artifacts: Place | None = None
    """A folder or a URL that fsspec knows, such as `s3://bucket/studies`: what runs and data travel
    through where hosts share no disk. `runs` and `data.cache` are then each host's own."""
    train: bool = True
    """false: only say what is left to train and what that takes. A study that has not begun is then
    not begun; a table that has leaves the table of the records there are."""
    keep: str = "best"
    """Whose weights stay when the study is done: the `best` run's, `all` or `none`."""
    report: bool = True
    """Whether to leave a report at the end."""
    objectives: list[str] = field(default_factory=list)
    """By name or file: the first is what runs are ranked by and arms compared by; a search
    optimises the others too, a table shows them. Default: `val_bpb`, or `val_loss` where the data
    does not state its bytes per token."""
    columns: list[str] = field(default_factory=list)
    """Objectives that are shown besides: `decode_bytes`, `decode_ms@iphone_13`."""
    constraints: list[str] = field(default_factory=list)
    """What an architecture must keep to: `kv_bytes<=2048`."""

    def __post_init__(self) -> None:
        self.recipe.require_code()
        _choose("keep", self.keep, KEEP)
        if self.workers != AUTO:
            if not isinstance(self.workers, int):
                raise ValueError(f"workers must be a number or auto, but got {self.workers!r}")
            WORKERS.require("workers", self.workers)
        settle_numbers(self)

    def sharing_gpus(
        self, executor: Executor, architectures: Iterable[Architecture], recipe: Recipe
    ) -> Self:
        """This configuration with the workers of a GPU settled, where they are this machine's."""
        if hasattr(executor, "usual_workers"):
            return self
        workers = executor.slots(self.workers) if isinstance(self.workers, int) else None
        placement = share_gpus(self.placement, workers, architectures, recipe)
        return self if placement == self.placement else replace(self, placement=placement)

    def workers_of(self, executor: Executor | None = None) -> int:
        """How many workers an executor runs at once of those asked for: with `auto` what it says,
        or what suits this machine.

        Raises:
            ValueError: the executor has no place for them. With `train=false` this machine may lack
                the GPUs or the cluster, and is planned for one where that leaves it unknown.
        """
        usual = getattr(executor, "usual_workers", usual_workers)
        workers = self.workers if isinstance(self.workers, int) else 1
        try:
            if self.workers == AUTO:
                workers = int(usual(self.placement))
            getattr(executor, "require", lambda *_: None)(self.placement, workers)
            return workers if executor is None else executor.slots(workers)
        except NotHere:
            if self.train:
                raise
        return workers

    @property
    @abstractmethod
    def name(self) -> str:
        """Of the study in its storage."""

    @property
    @abstractmethod
    def folder(self) -> Path:
        """Of the study, under `outputs`."""

    @property
    def url(self) -> str:
        """Of the storage."""
        return self.storage or f"sqlite:///{self.folder.resolve() / 'study.db'}"


@dataclass(kw_only=True)
class SearchConfig(StudyConfig):
    """What `conf/search.yaml` holds."""

    space: SpaceConfig
    budget: str = "1m"
    """`1m`, `125m`, `non_embedding_parameters:100m`, or one of bytes or of a device:
    `weight_bytes:64mb@int4`, `kv_bytes:8mb@2048`, `decode_ms:16@iphone_13`."""
    tokens_per_parameter: Positive | None = None
    """Instead of `recipe.tokens`: so many for each parameter of the budget, of the kind that it
    counts, so that studies of several budgets make a law (`python -m reports page=laws`)."""
    n_trials: Annotated[int, Range(1, 10**9, below=LOOK)] = 22
    """Distinct runs in all, over all starts of the study."""
    replicates: Replicates = field(default_factory=Replicates)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    pruner: PrunerConfig = field(default_factory=PrunerConfig)
    study: str | None = None
    """Default: named after space, budget, and tokens per parameter, proxy, data, pruner and
    objectives where these are not the default."""

    def __post_init__(self) -> None:
        super().__post_init__()
        budget = Budget.parse(self.budget)
        self.budget = budget.label  # however it was spelt: one study, of one name
        if (ratio := self.tokens_per_parameter) is not None:
            if budget.kind not in OF_WEIGHTS:
                raise ValueError(
                    "tokens_per_parameter must go with a budget of parameters, but got "
                    f"{budget.label}; set recipe.tokens instead"
                )
            self.recipe = replace(self.recipe, tokens=max(1, round(ratio * budget.value)))
        self.recipe.require_step()
        require_name("study", self.name)
        if self.name in APART:
            raise ValueError(
                f"study must not be one of {', '.join(APART)}, which are folders of {self.outputs} "
                f"of their own, but got {self.name!r}; choose another name"
            )
        self._check_objectives(self.targets(USUAL))

    def targets(self, usual: str) -> Targets:
        """What is optimised, shown and kept to, with `usual` where no objective was given."""
        return Targets.of(self.objectives or [usual], self.columns, self.constraints)

    def _check_objectives(self, targets: Targets) -> None:
        """Several are not for every sampler, and for no pruner."""
        if len(targets.objectives) == 1:
            return
        given = ", ".join(self.objectives)
        if self.pruner.name != "none":
            raise ValueError(
                f"pruner={self.pruner.name} must have one objective to judge by, but got {given}; "
                "set pruner=none, or show the others with columns"
            )
        if not SAMPLERS.load(self.sampler.name).several:
            raise ValueError(
                f"sampler={self.sampler.name} must have one objective, but got {given}; choose "
                "tpe, nsga2 or grid, or show the others with columns"
            )

    @property
    def name(self) -> str:
        """`depth_width_1m`, `depth_width_1m_hour`."""
        if self.study is not None:
            return self.study
        parts = [self.space.name, _in_folders(self.budget)]
        if (ratio := self.tokens_per_parameter) is not None:
            parts.append(f"{ratio:g}_per_parameter")
        parts += [] if self.proxy == "default" else [self.proxy]
        parts += [] if self.data.source == "embedded" else [self.data.short]
        parts += [] if self.pruner.name == "none" else [label(self.pruner.name)]
        if self.objectives not in ([], [USUAL]):
            parts += [
                _in_folders(Measure.given(name, "objectives").short) for name in self.objectives
            ]
        return "_".join(parts)

    @property
    def folder(self) -> Path:
        """`outputs/<name>`."""
        return Path(self.outputs) / self.name


def _in_folders(text: str) -> str:
    return re.sub(r"[:/]", "_", text)


def _choose(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, but got {value!r}")
