"""What `python -m search` can be told. The values are in `conf/search.yaml` and its groups."""

from dataclasses import dataclass, field
from typing import Any

from search.data import DataConfig
from search.placement import Placement
from search.plan import Replicates
from search.record import Recipe
from space.axes import SpaceConfig
from space.budget import Budget

SAMPLERS = ("tpe", "gp", "random", "grid", "qmc", "cmaes", "nsga2")
EXECUTORS = ("local",)
TRACKERS = ("wandb", "none")
TRACKER_MODES = ("offline", "online")
NOT_IN_NAMES = set("/\\\0#?%:")
KEEP = ("best", "all", "none")


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """Who proposes architectures."""

    name: str = "grid"
    """`grid` tries every architecture in turn; the others are Optuna's."""
    options: dict[str, Any] = field(default_factory=dict)
    """Arguments of Optuna's sampler."""

    def __post_init__(self) -> None:
        _choose("sampler.name", self.name, SAMPLERS)


@dataclass(frozen=True, kw_only=True)
class ExecutorConfig:
    """Where workers run."""

    name: str = "local"
    """`local`: processes on this machine. More machines join by the same command."""

    def __post_init__(self) -> None:
        _choose("executor.name", self.name, EXECUTORS)


@dataclass(frozen=True, kw_only=True)
class TrackerConfig:
    """Where runs are shown besides the report."""

    name: str = "wandb"
    mode: str = "offline"
    """`offline`: files under the study's folder, which `wandb sync` sends; `online`."""
    project: str = "isoparam"

    def __post_init__(self) -> None:
        _choose("tracker.name", self.name, TRACKERS)
        _choose("tracker.mode", self.mode, TRACKER_MODES)


@dataclass(kw_only=True)
class SearchConfig:
    """What `conf/search.yaml` holds."""

    space: SpaceConfig
    data: DataConfig
    recipe: Recipe
    proxy: str = "custom"
    """Name of the file that the recipe came from."""
    budget: str = "1m"
    """`1m`, `125m`, `1.5b` or `non_embedding_parameters:100m`."""
    n_trials: int = 22
    """Distinct runs in all, over all starts of the study."""
    workers: int = 2
    replicates: Replicates = field(default_factory=Replicates)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    placement: Placement = field(default_factory=Placement)
    seed: int = 0
    """First seed of the runs, and the samplers'."""
    study: str | None = None
    """Default: named after space, budget, and data and proxy where these are not the default."""
    storage: str | None = None
    """SQLAlchemy URL. Default: SQLite in the study's folder."""
    outputs: str = "outputs"
    runs: str = "runs"
    keep: str = "best"
    """Whose weights stay when the study is done: the `best` run's, `all` or `none`."""
    report: bool = True
    """Whether to leave a report at the end."""

    def __post_init__(self) -> None:
        _choose("keep", self.keep, KEEP)
        for name in ("n_trials", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, but got {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, but got {self.seed}")
        Budget.parse(self.budget)
        if self.study is not None and (not self.study or set(self.study) & NOT_IN_NAMES):
            raise ValueError(
                "study must be a name that a folder and a W&B run can have, without any of "
                f"/ \\ # ? % :, but got {self.study!r}"
            )

    @property
    def name(self) -> str:
        """The study's name: `depth_width_1m`, `depth_width_1m_hour`."""
        if self.study is not None:
            return self.study
        parts = [self.space.name, self.budget.lower().replace(":", "_")]
        parts += [] if self.proxy == "default" else [self.proxy]
        parts += [] if self.data.source == "embedded" else [self.data.source]
        return "_".join(parts)


def _choose(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, but got {value!r}")
