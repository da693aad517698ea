"""The estimated cost of a study, printed before training."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Self

from search.record import Run
from search.runs import CorruptRecord, read_record
from search.states import Status
from search.study.plan import Work
from search.train.card import card, product_speed
from search.train.optimizers import OPTIMIZERS
from search.train.placement import Placement, what_is_lost
from space.words import amount, count, duration, flops

RECENT = 40
"""Records looked at."""
UTILISATION = 0.25
"""Assumed share of a matrix product's rate that training reaches, if no run was measured."""
START_S = 15.0
"""Assumed: from here to the first step of the workers, and from the last one to the page."""
SIDE = 512
"""Of the matrices that a CPU multiplies."""
WEIGHT_BYTES = 4
UTILISATION_OF_A_GPU, LAUNCHES_PER_LAYER, LAUNCH_S = 0.4, 40, 6e-6
"""Assumed, not measured: the share of a matrix product's rate that a GPU's training reaches, the
kernels that a compiled layer starts forwards and backwards, and the time to start one."""


@dataclass(frozen=True)
class Estimate:
    """The cost of a study's remaining runs."""

    runs: int
    tokens: float
    flops: float
    seconds: float
    basis: str
    """Where the speed comes from."""
    disk_bytes: float
    lost: str | None = None
    """Why this machine trains more slowly than it could; None if it does not."""
    waits: str | None = None
    """Why a GPU would be idle for much of the time, and what to do; None where it is kept busy."""
    memory: str | None = None
    """What a typical run takes of a GPU's memory; None on a CPU."""
    together: str | None = None
    """How many GPUs train a run; None where it is one."""

    @classmethod
    def nothing(cls) -> Self:
        """Of a study with nothing left to train."""
        return cls(runs=0, tokens=0, flops=0, seconds=0, basis="", disk_bytes=0)

    def __str__(self) -> str:
        return (
            f"to do: {count(self.runs, 'run')}, {amount(self.tokens)} tokens, {flops(self.flops)}, "
            f"about {duration(self.seconds)} ({self.basis}), "
            f"{_bytes(self.disk_bytes)} of disk"
            + "".join(
                f"\n{line}" for line in (self.together, self.memory, self.waits, self.lost) if line
            )
        )


def _bytes(count: float) -> str:
    return f"{count / 1e6:,.0f} MB" if count < 1e9 else f"{count / 1e9:,.1f} GB"


def estimate(
    work: Work,
    done: int,
    workers: int,
    placement: Placement,
    runs: Path,
    kept: int,
    pausing: int = 0,
) -> Estimate:
    """The cost of the remaining runs on this machine, if none is pruned; `kept` of them keep their
    weights, and `pausing` may keep a checkpoint."""
    left = max(0, work.total - done)
    to_do = work.flops * left / work.total
    rate, basis = speed(work, placement, runs)
    seconds = START_S + to_do / (rate * workers)
    weights = work.parameters * WEIGHT_BYTES
    kept_per_weight = OPTIMIZERS.load(work.typical.recipe.optimizer).state_per_weight
    return Estimate(
        runs=left,
        tokens=work.tokens * left / work.total,
        flops=to_do,
        seconds=seconds,
        basis=basis,
        lost=what_is_lost(placement, work.architectures),
        together=together(placement, workers, seconds) if placement.gpus_per_run > 1 else None,
        memory=memory(placement, work) if placement.device == "cuda" else None,
        waits=waits_for_launches(work, placement) if placement.device == "cuda" else None,
        disk_bytes=weights
        * (min(left, kept) + (workers + min(left, pausing)) * (1 + kept_per_weight)),
    )


def together(placement: Placement, workers: int, seconds: float) -> str:
    """How many GPUs, or processes, train a run of a settled placement and all runs, in a line."""
    each, gpus = placement.gpus_per_run, placement.device == "cuda"
    what = "GPUs" if gpus else "processes"
    hours = f", about {each * workers * seconds / 3600:,.1f} GPU hours" if gpus else ""
    return f"each run is trained by {each} {what}: {each * workers} for {workers} at once{hours}"


def memory(placement: Placement, work: Work) -> str:
    """What the typical run of a settled placement takes, in a line."""
    from search.train.memory import peak_memory

    run, at_once = work.typical, placement.micro_batch
    assert at_once is not None, "settled"
    peak = peak_memory(run.architecture, run.recipe, at_once).of(placement)
    return (
        f"memory: about {peak / 1e9:.1f} GB of a GPU for a run of middle size, {at_once} "
        "sequences at once"
    )


def waits_for_launches(work: Work, placement: Placement) -> str | None:
    """What to do where starting the kernels of a micro-batch takes longer than its products."""
    rate = UTILISATION_OF_A_GPU * matrix_product_speed(placement, work.typical.recipe.precision)
    return launches_in_words(work.typical, placement, rate)


def launches_in_words(run: Run, placement: Placement, flops_per_s: float) -> str | None:
    """The line for a run whose products go at so many FLOPs per second; None where they take longer
    than starting them."""
    assert placement.micro_batch is not None, "settled"
    recipe, layers = run.recipe, run.architecture.num_layers
    per_step = run.train_flops / (recipe.trained_tokens / recipe.tokens_per_step)
    products = per_step * placement.micro_batch / recipe.batch_size / flops_per_s
    launches = layers * LAUNCHES_PER_LAYER * LAUNCH_S
    if products > launches:
        return None
    fewer = placement.gpus_per_run > 1
    other = "fewer GPUs for a run" if fewer else "several workers"
    option = "gpus_per_run=1" if fewer else "workers_per_gpu=4"
    return (
        f"a GPU would mostly wait: the products of {placement.micro_batch} sequences take it about "
        f"{products * 1e3:.2g} ms, and starting the kernels of {layers} layers about "
        f"{launches * 1e3:.2g}; give it more at once (recipe.batch_size), or {other} "
        f"(placement.{option})"
    )


def speed(work: Work, placement: Placement, runs: Path) -> tuple[float, str]:
    """Training FLOPs per second of one worker, and the source of the figure."""
    measured = recorded_speeds(work, placement, runs)
    if measured:
        return median(measured), f"by {len(measured)} runs recorded on such a machine"
    rate = UTILISATION * matrix_product_speed(placement, work.typical.recipe.precision)
    each = f" in each of {n}" if (n := placement.gpus_per_run) > 1 else ""
    return n * rate, f"rough: {UTILISATION:.0%} of a measured matrix product{each}"


def recorded_speeds(work: Work, placement: Placement, runs: Path) -> list[float]:
    """Training FLOPs per second of the last records with this device, as many of it, threads and
    precision."""
    from search.train.provenance import device_name

    paths = sorted(runs.glob("*/record.json"), key=lambda path: -path.stat().st_mtime)
    speeds = []
    for path in paths[:RECENT]:
        try:
            record = read_record(path.parent)
        except (CorruptRecord, json.JSONDecodeError):
            continue
        if record is None or record.status != Status.FINISHED or not record.train_s:
            continue
        device, recipe = record.device, record.run.recipe
        name = card().name if placement.device == "cuda" else device_name("cpu")
        here = (name, placement.device, placement.threads)
        same = (device.get("name"), device.get("device"), device.get("threads")) == here
        same = same and device.get("gpus_per_run", 1) == placement.gpus_per_run
        if same and recipe.precision == work.typical.recipe.precision:
            speeds.append(record.run.train_flops / record.seconds)
    return speeds


def matrix_product_speed(placement: Placement, precision: str) -> float:
    """FLOPs per second of a product of two square matrices: on a CPU measured here, with the
    threads of a worker."""
    if placement.device == "cuda":
        return card().flops_per_s[precision]
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(placement.threads or 1)
    speed = product_speed("cpu", SIDE, precision)
    torch.set_num_threads(before)
    return speed
