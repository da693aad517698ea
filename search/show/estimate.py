"""The estimated cost of a study, printed before training."""

import json
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from statistics import median
from typing import Self

from search.record import Run
from search.runs import CorruptRecord, read_record
from search.states import Status
from search.study.plan import Work
from search.train.card import card, name_apart, product_speed
from search.train.optimizers import OPTIMIZERS
from search.train.placement import GPU_TOKENS, Placement, cores, what_is_lost
from space.words import amount, count, duration, flops

RECENT = 40
"""Records looked at."""
UTILISATION, UTILISATION_OF_KERNELS = 0.25, 0.5
"""Assumed share of a matrix product's rate that training on a CPU reaches, if no run of about the
size was measured. By kernels 44 to 84% were measured, of half a million to 125 million parameters
(benchmarks/results/proxy.md)."""
NEAR = 10.0
"""Models whose FLOPs a token differ by no more than this factor are of about one size."""
START_S = 15.0
"""Assumed: from here to the first step of the workers, and from the last one to the page."""
SIDE = 512
"""Of the matrices that a CPU multiplies."""
WEIGHT_BYTES = 4
UTILISATION_OF_A_GPU, LAUNCHES_PER_LAYER, LAUNCH_S = 0.4, 40, 6e-6
"""Assumed, not measured: the share of a matrix product's rate that a GPU's training reaches, the
kernels that a compiled layer starts forwards and backwards, and the time to start one."""
H100_FLOPS_PER_S, H100_BYTES = 989e12, 80e9
"""Of the SXM module: dense products in bf16, and memory. Source: NVIDIA's data sheet of the H100
Tensor Core GPU, which has 1,979 TFLOP/s with sparsity, and without it half of that."""
LONG_S = 4 * 3600.0
"""Work that takes a CPU longer is also estimated for a GPU."""


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
    elsewhere: bool = False
    """Whether workers have machines of their own, which may have GPUs that this one lacks."""
    at_most: bool = False
    """Whether they may turn out to be fewer."""
    lost: str | None = None
    """Why this machine trains more slowly than it could; None if it does not."""
    waits: str | None = None
    """Why a GPU would be idle for much of the time, and what to do; None where it is kept busy."""
    memory: str | None = None
    """What the largest run takes of a GPU's memory; None on a CPU, unless long work is planned."""
    h100: str | None = None
    """How long one would take; None on a GPU, and where a CPU takes less than `LONG_S`."""
    shared: str | None = None
    """How many workers share a GPU or the cores; None where each has its own."""
    together: str | None = None
    """How many GPUs train a run; None where it is one."""

    @classmethod
    def nothing(cls) -> Self:
        """Of a study with nothing left to train."""
        return cls(runs=0, tokens=0, flops=0, seconds=0, basis="", disk_bytes=0)

    def __str__(self) -> str:
        time = f"about {duration(self.seconds)} ({self.basis})"
        later = self.elsewhere and self.h100  # who has a cluster hardly trains so long on its CPUs
        return (
            f"to do: {'up to ' if self.at_most else ''}{count(self.runs, 'run')}, "
            f"{amount(self.tokens)} tokens, {flops(self.flops)}, "
            f"{'' if later else f'{time}, '}{_bytes(self.disk_bytes)} of disk"
            + "".join(
                f"\n{line}"
                for line in (
                    self.together,
                    self.shared,
                    self.h100,
                    f"on CPUs: {time}" if later else None,
                    self.memory,
                    self.waits,
                    self.lost,
                )
                if line
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
    planning: bool = False,
    gpus: int = 1,
    elsewhere: bool = False,
) -> Estimate:
    """The cost of the remaining runs on this machine, if none is pruned; `kept` of them keep their
    weights, and `pausing` may keep a checkpoint. `planning`: nothing is trained now, and some
    seconds may go into what the work would take of a GPU, and of so many `gpus`. `elsewhere`:
    workers have machines of their own, and not this one's cores alone."""
    left = max(0, work.total - done)
    to_do = work.flops * left / work.total
    rate, basis = speed(work, placement, runs)
    at_once = workers if elsewhere else fitting_workers(workers, placement)
    seconds = START_S + to_do / max(1, left) / rate * rounds_of(left, at_once)
    weights = work.parameters * WEIGHT_BYTES
    kept_per_weight = OPTIMIZERS.load(work.typical.recipe.optimizer).state_per_weight
    on_gpu, long = placement.device == "cuda", placement.device == "cpu" and seconds > LONG_S
    return Estimate(
        runs=left,
        tokens=work.tokens * left / work.total,
        flops=to_do,
        seconds=seconds,
        basis=basis,
        elsewhere=elsewhere,
        lost=what_is_lost(placement, work.architectures),
        together=together(placement, workers, seconds) if placement.gpus_per_run > 1 else None,
        shared=crowded(workers, at_once)
        if at_once < workers
        else shared(placement)
        if on_gpu and placement.sharing > 1
        else None,
        h100=on_an_h100(work.typical, to_do, left, gpus, placement.gpus_per_run) if long else None,
        memory=memory(placement, largest_run(work))
        if on_gpu
        else memory_of_an_h100(largest_run(work))
        if long and planning
        else None,
        waits=waits_for_launches(work, placement) if on_gpu else None,
        at_most=work.at_most,
        disk_bytes=weights
        * (min(left, kept) + (workers + min(left, pausing)) * (1 + kept_per_weight)),
    )


def together(placement: Placement, workers: int, seconds: float) -> str:
    """How many GPUs, or processes, train a run of a settled placement and all runs, in a line."""
    each, gpus = placement.gpus_per_run, placement.device == "cuda"
    what = "GPUs" if gpus else "processes"
    hours = f", about {each * workers * seconds / 3600:,.1f} GPU hours" if gpus else ""
    return f"each run is trained by {each} {what}: {each * workers} for {workers} at once{hours}"


def fitting_workers(workers: int, placement: Placement) -> int:
    """How many of these a settled placement leaves cores of their own, on a CPU; at least one."""
    if placement.device != "cpu":
        return workers
    return max(1, min(workers, cores() // (placement.gpus_per_run * (placement.threads or 1))))


def crowded(workers: int, at_once: int) -> str:
    """That cores are shared, in a line."""
    return f"{workers} workers share {count(cores(), 'core')}: no faster than {at_once}"


def shared(placement: Placement) -> str:
    """How many workers of a settled placement share a GPU, in a line."""
    each = _bytes(card().memory / placement.sharing)
    return f"{placement.sharing} workers share each GPU, with {each} of its memory each"


def largest_run(work: Work) -> Run:
    """The run that takes the most memory."""
    from search.train.memory import largest

    return replace(work.typical, architecture=largest(work.architectures))


def memory(placement: Placement, run: Run, of: float | None = None) -> str:
    """What a run with a settled placement takes of so many bytes, by default those that a worker
    has of this machine's GPU, in a line."""
    from search.train.memory import fitting, peak_memory

    assert placement.micro_batch is not None, "settled"
    room = card().memory / placement.sharing if of is None else of
    at_once = fitting(run.architecture, run.recipe, placement.micro_batch, room)
    peak = peak_memory(run.architecture, run.recipe, at_once).of(placement)
    return f"memory: about {_bytes(peak)} of a GPU for the largest run, {at_once} sequences at once"


def memory_of_an_h100(run: Run) -> str:
    """The same where there is no GPU: with as many sequences at once as fit into an H100."""
    there = in_bf16(run)
    usual = at_once_on_a_gpu(there)
    return memory(Placement(device="cuda", micro_batch=usual), there, H100_BYTES)


def rounds_of(runs: int, at_once: int) -> float:
    """How often a run of average length is waited for: no run is shared among workers."""
    return ceil(runs / at_once) if runs else 0


def on_an_h100(run: Run, to_do: float, runs: int = 1, gpus: int = 1, per_run: int = 1) -> str:
    """How long so many FLOPs of so many runs such as this take one, and several of which `per_run`
    train a run, in a line."""
    there, rate = in_bf16(run), UTILISATION_OF_A_GPU * H100_FLOPS_PER_S
    products, launches = micro_batch_s(there, at_once_on_a_gpu(there), rate)
    assumed = f"{UTILISATION_OF_A_GPU:.0%} of its {H100_FLOPS_PER_S / 1e12:.0f} TFLOP/s in bf16"
    if launches > products:
        rate *= products / launches
        assumed = f"it waits for kernels to start, {LAUNCH_S * 1e6:.0f} µs each"
    several, used = "", min(gpus, runs * per_run)
    if used > 1:
        each = to_do / runs / rate / per_run
        on_several = START_S + each * rounds_of(runs, used // per_run)
        all_used = "" if used == gpus else f", all that {count(runs, 'run')} can use,"
        several = f", on {used}{all_used} about {duration(on_several)}"
    return f"on one H100: about {duration(START_S + to_do / rate)}{several} (assumed: {assumed})"


def in_bf16(run: Run) -> Run:
    return replace(run, recipe=replace(run.recipe, precision="bf16"))


def at_once_on_a_gpu(run: Run) -> int:
    """Sequences of a micro-batch on a GPU with room for them."""
    return min(run.recipe.batch_size, max(1, GPU_TOKENS // run.recipe.seq_len))


def waits_for_launches(work: Work, placement: Placement) -> str | None:
    """What to do where starting the kernels of a micro-batch takes longer than its products."""
    rate = UTILISATION_OF_A_GPU * matrix_product_speed(placement, work.typical.recipe.precision)
    return launches_in_words(work.typical, placement, rate)


def micro_batch_s(run: Run, at_once: int, flops_per_s: float) -> tuple[float, float]:
    """Seconds that the products of a micro-batch take a GPU with so many FLOPs per second, and
    seconds to start its kernels."""
    recipe = run.recipe
    per_step = run.train_flops / (recipe.trained_tokens / recipe.tokens_per_step)
    products = per_step * at_once / recipe.batch_size / flops_per_s
    return products, run.architecture.num_layers * LAUNCHES_PER_LAYER * LAUNCH_S


def launches_in_words(run: Run, placement: Placement, flops_per_s: float) -> str | None:
    """The line for a run whose products go at so many FLOPs per second; None where they take longer
    than starting them."""
    assert placement.micro_batch is not None, "settled"
    products, launches = micro_batch_s(run, placement.micro_batch, flops_per_s)
    if products > launches:
        return None
    fewer = placement.gpus_per_run > 1
    other = "fewer GPUs for a run" if fewer else "several workers"
    option = "gpus_per_run=1" if fewer else "workers_per_gpu=4"
    return (
        f"a GPU would mostly wait: the products of {placement.micro_batch} sequences take it about "
        f"{products * 1e3:.2g} ms, and starting the kernels of {run.architecture.num_layers} "
        f"layers about {launches * 1e3:.2g}; give it more at once (recipe.batch_size), or {other} "
        f"(placement.{option})"
    )


def speed(work: Work, placement: Placement, runs: Path) -> tuple[float, str]:
    """Training FLOPs per second of one worker, and the source of the figure."""
    measured = recorded_speeds(work, placement, runs)
    if measured:
        recorded = count(len(measured), "run")
        return median(measured), f"by {recorded} of about this size recorded on such a machine"
    on_gpu, ranks = placement.device == "cuda", placement.gpus_per_run
    on_cpu = UTILISATION_OF_KERNELS if placement.engine == "kernels" else UTILISATION
    reached, sharing = (UTILISATION_OF_A_GPU, placement.sharing) if on_gpu else (on_cpu, 1)
    rate = reached * matrix_product_speed(placement, work.typical.recipe.precision)
    basis = f"rough: {reached:.0%} of a measured matrix product"
    basis += f" in each of {ranks}" if ranks > 1 else ""
    basis += f", which {sharing} workers share" if sharing > 1 else ""
    return ranks * rate / sharing, basis


def recorded_speeds(work: Work, placement: Placement, runs: Path) -> list[float]:
    """Training FLOPs per second of the last records with this device, as many of it, threads and
    precision, of models of about the size: smaller ones leave a machine more idle."""
    wanted = _per_token(work.typical)
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
        here = (name_apart(placement.device), placement.device, placement.threads)
        same = (device.get("name"), device.get("device"), device.get("threads")) == here
        same = same and device.get("gpus_per_run", 1) == placement.gpus_per_run
        same = same and device.get("workers_per_gpu", 1) == placement.sharing
        same = same and 1 / NEAR <= _per_token(record.run) / wanted <= NEAR
        if same and recipe.precision == work.typical.recipe.precision:
            speeds.append(record.run.train_flops / record.seconds)
    return speeds


def _per_token(run: Run) -> float:
    """FLOPs of training on a token."""
    return run.train_flops / run.recipe.trained_tokens


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
