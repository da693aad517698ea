"""`python -m search.run architecture=mobilellm_125m`: train one architecture, outside any study.

Several GPUs share each batch under `torchrun --nproc-per-node=8 -m search.run …`. The record lands
among those of the studies, and the same run is trained once, wherever it is asked for. On SIGINT,
SIGTERM or SIGUSR1, as a queue sends it before it takes a node away, the run writes a checkpoint and
ends with exit code 130; the same command goes on.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search import teacher
from search.config import Evaluation
from search.data.cache import prepare
from search.data.config import DataConfig
from search.data.packed import Data, require_tokens
from search.evaluate.scores import Scorer, require_answers
from search.recipe import Recipe
from search.record import Record, Run
from search.states import Status
from search.study.locks import run_lock
from search.train.loop import Stop, train
from search.train.parts import require_parts
from search.train.placement import Placement, rank, settle, settle_precision, what_is_lost
from space.app import verb
from space.arch import Architecture
from space.cli import one_line_errors
from space.doors import Changed
from space.overrides import Place
from space.ranges import Seed, settle_numbers

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@dataclass(kw_only=True)
class RunConfig:
    """What `conf/run.yaml` holds."""

    architecture: dict[str, Any]
    """Fields that replace those of the file."""
    data: DataConfig
    recipe: Recipe
    proxy: str = "custom"
    """Name of the file that the recipe came from."""
    placement: Placement = field(default_factory=Placement)
    evaluate: Evaluation = field(default_factory=Evaluation)
    """What the run is asked at its last reading."""
    seed: Seed = 0
    init_seed: Seed | None = None
    runs: Place = "runs"

    def __post_init__(self) -> None:
        self.recipe.require_code()
        self.recipe.require_step()
        settle_numbers(self)


@verb("run", RunConfig)
def main(config: RunConfig) -> None:
    """Train the run, or go on with it, and print its last reading."""
    with one_line_errors():
        run, data = prepare_run(config)
    try:
        with one_line_errors((OSError, Changed)):
            record = train_alone(run, data, config)
    except Stop:
        if rank() == 0:
            where = Path(config.runs) / run.key
            print(f"stopped; {where} has a checkpoint, and the same command goes on")
        raise SystemExit(130) from None
    folder = Path(config.runs) / run.key
    if rank() == 0:
        last = record.readings[-1].numbers() if record.readings else {}
        print(f"{record.status}: {record.reason or _listed(last)}\nrecord: {folder}")
    if record.status != Status.FINISHED:
        raise SystemExit(1)


def prepare_run(config: RunConfig) -> tuple[Run, Data]:
    """The run of a configuration, with its data; what is wrong ends it before anything is trained.

    Raises:
        ValueError: something in the configuration does not fit.
    """
    if config.placement.gpus_per_run > 1:
        raise ValueError(
            "placement.gpus_per_run must be 1 for a single run, which torchrun starts on several "
            f"GPUs, but got {config.placement.gpus_per_run}; leave it out, and start torchrun "
            f"--nproc-per-node={config.placement.gpus_per_run} -m search.run …"
        )
    require_answers(config.evaluate)
    arch = Architecture.from_dict(config.architecture)
    most = config.data.vocab_size  # a tokenizer trained on little text may have less
    if config.data.tokenizer is None and arch.vocab_size > most:
        _require_vocabulary(arch, most)
    data = prepare(config.data)
    require_answers(config.evaluate, data)
    _require_vocabulary(arch, data.vocab_size)
    recipe = settle_precision(config.recipe, config.placement)
    require_tokens(data, recipe.seq_len, recipe.batch_size)
    teacher.require(recipe, data, config.placement)
    require_parts([arch])
    run = Run(
        architecture=arch,
        recipe=recipe,
        data_fingerprint=data.fingerprint,
        seed=config.seed,
        init_seed=config.init_seed,
    )
    lost = what_is_lost(settle(config.placement, run), [arch])
    if lost and rank() == 0:
        print(lost)
    return run, data


def train_alone(run: Run, data: Data, config: RunConfig) -> Record:
    """The run's record, once it is trained and has answered what it is asked.

    Raises:
        OSError: the disk is full or cannot be written; the last checkpoint stays.
        Changed: a source that the recipe names has; the last checkpoint stays.
        Stop: a signal asked for an end; a checkpoint is written.
    """
    runs, folder = Path(config.runs), Path(config.runs) / run.key
    with signals_stop() as stop, run_lock(runs, run.key) if rank() == 0 else nullcontext():

        def progress(event: dict[str, Any]) -> None:
            stop()
            _print_some(event)

        record = train(run, data, folder, placement=config.placement, progress=progress)
        if rank() == 0:
            with one_line_errors((ValueError,)):
                scorer = Scorer(config.evaluate, data.folder, lambda _: stop())
                record = scorer.score(record, folder)
    return record


@contextmanager
def signals_stop() -> Iterator[Callable[[], None]]:
    """While it lasts, signals end this process by what it gives, which raises Stop once there was
    one; a second one ends it as usual.

    Of several ranks the first alone stops, for only it writes; the others hear of it.
    """
    asked = threading.Event()

    def stop() -> None:
        if asked.is_set():
            raise Stop

    def ask(number: int, _: Any) -> None:
        if rank() == 0:
            asked.set()
            signal.signal(number, before[signal.Signals(number)])

    here = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, ask) for number in STOPPING} if here else {}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _listed(numbers: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in numbers.items())


def _require_vocabulary(arch: Architecture, vocab_size: int) -> None:
    if arch.vocab_size != vocab_size:
        raise ValueError(
            f"the architecture's vocab_size must be the data's, but got {arch.vocab_size} and "
            f"{vocab_size}; set architecture.vocab_size={vocab_size}"
        )


def _print_some(event: dict[str, Any]) -> None:
    """Print about twenty lines per run."""
    if rank() == 0 and event["step"] % max(1, event["of"] // 20) == 0:
        loss, speed = event["train_loss"], event["tokens_per_s"]
        print(f"step {event['step']}/{event['of']}: loss {loss:.3f}, {speed:,.0f} tokens/s")


if __name__ == "__main__":
    main()
