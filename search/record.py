"""One run and its record: what decides a result, and the result."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Self

from search.recipe import Recipe
from search.states import Status
from space.arch import Architecture
from space.cost import Cost, cost

if TYPE_CHECKING:
    import pandas as pd

NUMERICS_VERSION = 3
"""Part of every run's key. Raise it when a change of the code changes results."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Architecture × recipe × data × seed: everything that decides a result."""

    architecture: Architecture
    recipe: Recipe
    data_fingerprint: str
    seed: int = 0
    """Fixes the order of the data."""
    init_seed: int | None = None
    """Fixes the initial weights. Default: as `seed`."""

    def __post_init__(self) -> None:
        if self.init_seed is None:
            object.__setattr__(self, "init_seed", self.seed)
        if self.recipe.precision == "auto":
            raise ValueError(
                "precision must be settled before a run has a key; use settle_precision"
            )

    @property
    def key(self) -> str:
        """The run's identity: 16 hexadecimal digits over all of it in canonical form."""
        return _digest(
            {
                "architecture": self.architecture.canonical(),
                "recipe": self.recipe.canonical(),
                "data": self.data_fingerprint,
                "seed": self.seed,
                "init_seed": self.init_seed,
                "numerics": NUMERICS_VERSION,
            }
        )

    @property
    def train_flops(self) -> float:
        """FLOPs of training it, branches and the teacher's forward passes included, as `space.cost`
        counts them."""
        per_token = training_flops(self.architecture, self.recipe)
        return float(self.recipe.trained_tokens * per_token)

    def to_dict(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "architecture": self.architecture.to_dict(),
            "recipe": self.recipe.to_dict(),
            "data_fingerprint": self.data_fingerprint,
            "seed": self.seed,
            "init_seed": self.init_seed,
        }


def training_flops(arch: Architecture, recipe: Recipe) -> float:
    """Of a token, the teacher's forward pass included."""
    return cost(arch, recipe.seq_len).train_flops_per_token + recipe.teacher_flops


def architecture_id(arch: Architecture) -> str:
    """Names an arm: the same for all seeds and recipes of one architecture. 10 hexadecimal
    digits."""
    return _digest(arch.canonical())[:10]


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a model scored in one zero-shot task: see `search.evaluate.score`."""

    task: str
    split: str
    source: str
    """Where the documents come from: `package`, `hub` or held-out text."""
    limit: int | None
    """Documents asked for, from the first on; None: all."""
    n: int
    """Documents scored."""
    values: Mapping[str, float]
    """Mean of each metric over the documents."""
    errors: Mapping[str, float]
    """Standard error of each mean, clustered where the data set has groups."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a model took in an engine on a machine: see `search.measure`."""

    engine: str
    version: str
    """Of the engine's package."""
    precision: str
    context: int
    """Tokens of the prompt, after which `steps` were decoded."""
    steps: int
    threads: int
    shared: bool
    """Whether layers that share a block were made to read one copy of its weights."""
    machine: str
    repeats: int
    """Processes that were measured."""
    values: Mapping[str, Mapping[str, float]]
    """Of each quantity the percentiles p10, p50 and p90 over all processes and steps: file_mb,
    load_ms, init_ms, prefill_ms and decode_ms (one token) by the clock, `…_cpu_ms` of the
    processors, and peak_mb."""

    @property
    def label(self) -> str:
        """What columns of it begin with: `llama_cpp_q8_0`."""
        return f"{self.engine.partition('@')[0]}_{self.precision}" + "_shared" * self.shared

    @property
    def kind(self) -> tuple[Any, ...]:
        """What it has in common with others that it is compared with."""
        return tuple(getattr(self, f.name) for f in fields(self) if f.name not in OF_ONE_MODEL)

    def counted(self, quantity: str) -> float:
        """What predictions are fitted to and compared with: with one thread the median time that it
        ran, which others on the machine hardly change; else the clock's."""
        busy = self.values.get(quantity.replace("_ms", "_cpu_ms"))
        found = busy if busy is not None and self.threads == 1 else self.values[quantity]
        return found["p50"]

    def numbers(self) -> dict[str, float]:
        """The median of each quantity, under its column's name."""
        return {f"{self.label}.{name}": found["p50"] for name, found in self.values.items()}


OF_ONE_MODEL = ("repeats", "values")


@dataclass(frozen=True, kw_only=True)
class SourceLoss:
    """Quality on the held-out text of one source of a mixture."""

    source: str
    """Its name in `data.sources`."""
    val_loss: float
    """Nats per token."""
    val_bpb: float | None
    """Bits per byte, where they are known."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Quality at a decayed point of a run: the end of it, or of a branch to a shorter horizon."""

    tokens: int
    val_loss: float
    """Nats per token."""
    val_bpb: float | None
    """Bits per byte; None where the data does not state its bytes per token."""
    scores: tuple[Score, ...] = ()
    """Of the zero-shot tasks that were asked for. They are measured from the weights, and no part
    of the run's key."""
    sources: tuple[SourceLoss, ...] = ()
    """Of each source, where the data are a mixture."""

    def to_dict(self) -> dict[str, Any]:
        """Without scores and sources where there are none, as earlier records."""
        return {k: v for k, v in asdict(self).items() if v or k not in ("scores", "sources")}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        scores = tuple(Score(**score) for score in values.get("scores", ()))
        sources = tuple(SourceLoss(**source) for source in values.get("sources", ()))
        return cls(**{**values, "scores": scores, "sources": sources})

    def numbers(self) -> dict[str, Any]:
        """All of it on one level, a score's metrics as `task.metric`, a source's losses as
        `val_bpb@source`."""
        own = {k: v for k, v in vars(self).items() if k not in ("scores", "sources")}
        for each in self.sources:
            own |= {
                f"{name}@{each.source}": getattr(each, name) for name in ("val_loss", "val_bpb")
            }
        for score in self.scores:
            own |= {f"{score.task}.{metric}": v for metric, v in score.values.items()}
        return own


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a run leaves behind."""

    run: Run
    status: Status
    reason: str | None = None
    readings: tuple[Reading, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    train_s: float = 0.0
    eval_s: float = 0.0
    compile_s: float = 0.0
    branch_s: float = 0.0
    """What the branches to horizons took, evaluation included; it is in no other of these."""
    tokens_per_s: float = 0.0
    commit: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    device: Mapping[str, Any] = field(default_factory=dict)
    started: str | None = None
    measured: tuple[Measured, ...] = ()
    """Of the engines that were asked for. They are measured of the architecture, and no part of the
    run's key."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Digests of the files beside it, by name, as they were when the run ended."""

    @property
    def result_id(self) -> str:
        """Names what the run came to: the same for every copy of its record, whatever was scored
        since. 16 hexadecimal digits."""
        numbers = [[r.tokens, r.val_loss, r.val_bpb] for r in self.readings]
        return _digest({"status": self.status, "readings": numbers})

    @property
    def cost(self) -> Cost:
        """At the sequence length it was trained at."""
        return cost(self.run.architecture, self.run.recipe.seq_len)

    @property
    def seconds(self) -> float:
        """What the run took in all."""
        return self.train_s + self.eval_s + self.branch_s

    @property
    def final(self) -> bool:
        """Whether the run need not be tried again."""
        return self.status in (Status.FINISHED, Status.DIVERGED)

    def value(self, metric: str) -> float | None:
        """`val_bpb` or `val_loss` at the run's end; None where it did not come to it."""
        ended = self.status == Status.FINISHED and self.readings
        value = getattr(self.readings[-1], metric) if ended else None
        return None if value is None else float(value)

    def to_dict(self) -> dict[str, Any]:
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in DESCRIBED_APART}
        own |= {"measured": [asdict(m) for m in self.measured]} if self.measured else {}
        if not self.files:
            del own["files"]
        return {
            **self.run.to_dict(),
            **own,
            "readings": [reading.to_dict() for reading in self.readings],
            "cost": asdict(self.cost),
            "seconds": self.seconds,
            "numerics_version": NUMERICS_VERSION,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], shared: dict[str, Any] | None = None) -> Self:
        """The record that `to_dict` described.

        `shared` keeps what many records have in common, so that it is made once and held once.

        Raises:
            ValueError: something is missing or does not fit.
        """
        try:
            values = {"branch_s": 0.0, "files": {}, **values}  # earlier records lack them
            own = {f.name: values[f.name] for f in fields(cls) if f.name not in DESCRIBED_APART}
            own["status"] = Status(own["status"])
            if shared is not None:
                own |= {name: _one_of(shared, own[name]) for name in IN_COMMON}
            return cls(
                run=run_from_dict(values, shared),
                readings=tuple(Reading.from_dict(r) for r in values["readings"]),
                measured=tuple(Measured(**m) for m in values.get("measured", ())),
                **own,
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a record of this version: {error}") from None


DESCRIBED_APART = ("run", "readings", "measured")
IN_COMMON = ("data", "versions", "device")
"""What the records of a study hardly differ in."""


def run_from_dict(values: Mapping[str, Any], shared: dict[str, Any] | None = None) -> Run:
    """The run that `Run.to_dict` described; `shared` as for `Record.from_dict`."""
    given = values["recipe"]
    return Run(
        architecture=Architecture.from_dict(values["architecture"]),
        recipe=Recipe(**given) if shared is None else _one_of(shared, given, _recipe),
        data_fingerprint=values["data_fingerprint"],
        seed=values["seed"],
        init_seed=values["init_seed"],
    )


def _recipe(values: Mapping[str, Any]) -> Recipe:
    return Recipe(**values)


def _one_of(shared: dict[str, Any], value: Any, make: Callable[[Any], Any] = dict) -> Any:
    """What is made of a value, the same object whenever an equal one is given."""
    name = repr(value)
    if name not in shared:
        shared[name] = make(value)
    return shared[name]


def _digest(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_records(runs: str) -> "pd.DataFrame":
    """See `search.runs.load_records`."""
    from search.runs import load_records

    return load_records(runs)
