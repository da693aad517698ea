"""Where and how a run is executed: what may change its speed but not its meaning."""

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self

from search.recipe import Recipe
from search.record import Run
from search.train.card import card
from search.train.kernels import MAX_HEAD_DIM, Unavailable, library
from space.arch import KEYED, Architecture, unknown_fields
from space.compat import multiplies_bf16
from space.ranges import Count, Positive, Range, settle_numbers

CPU_TOKENS, GPU_TOKENS = 1024, 32768
"""Tokens in a micro-batch: on a CPU their activations stay in its cache, on a GPU they keep it busy
where its memory has room for them."""

DEVICES = ("auto", "cpu", "cuda")

SHARING, MAX_SHARING = Range(0, 4096, positive=True), 8
"""Workers of a GPU: what may be given, and the most that `auto` takes."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Device choices of one worker. None and `auto` are settled on the machine; checkpoints pin
    them."""

    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: CUDA where there is one."""
    threads: Annotated[int, Range(0, 4096, positive=True)] | None = None
    """CPU threads of one worker. Default: the cores divided among the workers. Kernels use as many
    as a batch has micro-batches, and hold gradients for each."""
    micro_batch: Count | None = None
    """Sequences in one forward and backward pass; the rest of the batch is accumulated. Default: as
    many as suit the device, on a GPU at most what `search.train.memory` expects to fit. A run that
    runs out of memory goes on with half."""
    engine: str = "auto"
    """`kernels` (`search/train/kernels`, on CPUs), `autograd` (torch's own way), or `auto`: kernels
    on a CPU with g++."""
    compile: str = "auto"
    """Whether `autograd` compiles the layers: `yes`, `no`, or `auto`: on a GPU."""
    cuda_graph: str = "no"
    """Whether micro-batches are replayed as a CUDA graph (`search/train/engines/captured.py`), for
    models too small to keep a GPU busy: `yes` or `no`. Micro-batches must then be of one size, and
    the graph keeps the memory of one while runs are scored. `no` until it is measured on a GPU."""
    workers_per_gpu: int | str = 1
    """That share a GPU, and its memory equally: for models too small to keep one busy. `auto`: as
    many as there is memory for by the largest run, at most 8 and one for each core; 1 where this
    machine has no GPU or workers run elsewhere."""
    mps: str = "auto"
    """Whether workers that share a GPU use it at once, by NVIDIA's MPS: `yes`, `no`, or `auto`:
    where it is installed. Else they use it in turns."""
    gpus_per_run: Annotated[int, Range(0, 4096, positive=True)] = 1
    """GPUs of one machine that train a run together: each takes its share of every batch. With
    `device=cpu`, so many processes. It may change the last bits of a loss, as `micro_batch` may."""
    checkpoint_s: Positive | None = None
    """Seconds between checkpoints; a kill loses these and what was trained while the last was being
    written, at most. Default: 20, or more where one holds training up for over a hundredth of that
    or takes longer to be written, as large models' do."""

    def __post_init__(self) -> None:
        for name, choices in (
            ("device", DEVICES),
            ("engine", ("auto", "kernels", "autograd")),
            ("compile", ("auto", "yes", "no")),
            ("cuda_graph", ("yes", "no")),
            ("mps", ("auto", "yes", "no")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"placement.{name} must be one of {', '.join(choices)}, "
                    f"but got {getattr(self, name)!r}"
                )
        settle_numbers(self, "placement.")
        if self.workers_per_gpu != "auto":
            if not isinstance(self.workers_per_gpu, int):
                raise ValueError(
                    "placement.workers_per_gpu must be a number or auto, but got "
                    f"{self.workers_per_gpu!r}"
                )
            SHARING.require("placement.workers_per_gpu", self.workers_per_gpu)
        if self.gpus_per_run > 1 and self.sharing > 1:
            raise ValueError(
                "placement must share a GPU among workers or a run among GPUs, but got "
                f"workers_per_gpu={self.workers_per_gpu} and gpus_per_run={self.gpus_per_run}; "
                "leave one at 1"
            )

        if self.mps == "yes" and (self.workers_per_gpu == 1 or self.device == "cpu"):
            raise ValueError(
                "placement.mps=yes needs GPUs that several workers share, but got device="
                f"{self.device} and workers_per_gpu={self.workers_per_gpu}; use auto"
            )

    @property
    def sharing(self) -> int:
        """The workers of a GPU; 1 as long as `auto` is open."""
        return 1 if self.workers_per_gpu == "auto" else int(self.workers_per_gpu)

    @property
    def smaller(self) -> Self | None:
        """A settled placement that takes less memory: without its CUDA graph, or with half the
        micro-batch; None where that is one sequence."""
        if self.cuda_graph == "yes":
            return replace(self, cuda_graph="no")
        size = self.micro_batch or 1
        return replace(self, micro_batch=size // 2) if size > 1 else None

    @property
    def of_any_machine(self) -> Self:
        """What it asks of GPUs is left open, as a plan made without one leaves it."""
        device = "auto" if self.device == "cuda" else self.device
        mps = "auto" if self.mps == "yes" else self.mps
        return replace(self, device=device, cuda_graph="no", mps=mps)

    @property
    def needs_gpus(self) -> bool:
        """Whether it trains nowhere else."""
        return self != self.of_any_machine or (self.gpus_per_run > 1 and self.device != "cpu")

    def pinned_by(self, saved: Mapping[str, Any]) -> Self:
        """This placement with all that it leaves open as a checkpoint has it.

        What is given explicitly wins: a run that ran out of memory must be able to go on with a
        smaller micro-batch. It is then no longer bit-identical to one that was never stopped.
        """
        left_open = [k for k, v in asdict(self).items() if v in (None, "auto")]
        # A checkpoint from before a field was added lacks it.
        return replace(self, **{k: saved[k] for k in left_open if k in saved})


def _memory_here() -> int:
    """Bytes of this process's GPU, on which it has a CUDA context from then on."""
    import torch

    return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory


def settle_apart(placement: Placement, run: Run) -> Placement:
    """As `settle`, in a process that starts workers: it gets no CUDA context."""
    return settle(placement, run, lambda: card().memory)


def settle(placement: Placement, run: Run, memory: Callable[[], int] = _memory_here) -> Placement:
    """The placement with nothing left open on this machine; `memory` says the bytes of its GPU.

    Raises:
        ValueError: a device that is not there, or a CUDA graph that cannot be.
    """
    on_gpu = device_here(placement.device, "placement.device") == "cuda"
    ranks = max(world(), placement.gpus_per_run)
    require_rows(run.recipe, ranks)
    share = run.recipe.batch_size // ranks
    tokens = GPU_TOKENS if on_gpu else CPU_TOKENS
    engine = _settle_engine(placement.engine, on_gpu, run)
    threads = placement.threads or _own_threads()
    each = -(-share // threads) if engine == "kernels" else share  # threads share no micro-batch
    usual = min(each, max(1, tokens // run.recipe.seq_len))
    if placement.cuda_graph == "yes":
        _require_graph(placement, on_gpu, run.recipe, ranks)
    settled = replace(
        placement,
        device="cuda" if on_gpu else "cpu",
        threads=threads,
        micro_batch=placement.micro_batch
        or (_fitting(run, usual, placement, share, memory()) if on_gpu else usual),
        engine=engine,
        compile=_or(placement.compile, "yes" if on_gpu else "no"),
        workers_per_gpu=placement.sharing,
        gpus_per_run=ranks,
    )
    if settled.compile == "yes" and not on_gpu and shutil.which("g++") is None:
        raise ValueError(
            "placement.compile=yes needs g++ on a CPU, and none is found; use compile=no"
        )
    return settled


def device_here(given: str, option: str) -> str:
    """`cpu` or `cuda`, of which `auto` is a GPU where there is one.

    Raises:
        ValueError: it is none of `DEVICES`, or a GPU that is not there.
    """
    if given not in DEVICES:
        raise ValueError(f"{option} must be one of {', '.join(DEVICES)}, but got {given!r}")
    import torch  # the parent process and reports do without it

    cuda = torch.cuda.is_available()
    if given == "cuda" and not cuda:
        raise _no_gpu(option)
    return "cuda" if cuda and given != "cpu" else "cpu"


def require_device(given: str, option: str) -> None:
    """Raises: ValueError where a GPU is asked for and this process sees none; known without torch
    on most machines."""
    if given == "cuda" and not gpus():
        raise _no_gpu(option)


def _no_gpu(option: str) -> ValueError:
    return ValueError(f"{option} must be there, but got cuda and no GPU is seen; use cpu")


def require_rows(recipe: Recipe, ranks: int) -> None:
    """Raises: ValueError where a batch has no sequence for each of a run's ranks."""
    if recipe.batch_size < ranks:
        raise ValueError(
            f"batch_size must be at least the number of processes, but got {recipe.batch_size} "
            f"and {ranks}; start fewer"
        )


def _require_graph(placement: Placement, on_gpu: bool, recipe: Recipe, ranks: int) -> None:
    """Raises: ValueError where no CUDA graph can be, or its micro-batches would not be of one
    size."""
    if not on_gpu:
        raise ValueError(
            "placement.cuda_graph=yes needs a GPU, but the device is a CPU; use cuda_graph=no"
        )
    size = ranks * (placement.micro_batch or 1)
    if recipe.batch_size % size:
        what = "placement.micro_batch" + (" × placement.gpus_per_run" if ranks > 1 else "")
        raise ValueError(
            f"placement.cuda_graph=yes needs micro-batches of one size, but {what} is {size} and "
            f"does not divide recipe.batch_size, {recipe.batch_size}; choose a divisor"
        )


def _fitting(run: Run, usual: int, placement: Placement, share: int, memory: int) -> int:
    """The micro-batch that fits into a worker's share of the GPU's memory; for a CUDA graph one
    that divides this rank's share of a batch."""
    from search.train.memory import fitting  # which imports this module

    graph = placement.cuda_graph == "yes"
    room = memory / placement.sharing
    size = fitting(run.architecture, run.recipe, usual, room, graph)
    return max(n for n in range(1, size + 1) if share % n == 0) if graph else size


def _own_threads() -> int:
    """Those that this process was started with, one a core at most: torch's number follows the run
    before."""
    import torch

    given = os.environ.get("OMP_NUM_THREADS", "")
    started_with = int(given) if given.isdecimal() else 0
    return min(started_with or torch.get_num_threads(), cores())


def share_cores(placement: Placement, workers: int) -> Placement:
    """The placement with the threads of a worker, or of each of its ranks: the cores of this
    machine divided among them."""
    share = cores() // (workers * placement.gpus_per_run)
    return replace(placement, threads=placement.threads or max(1, share))


def share_gpus(
    placement: Placement, workers: int | None, architectures: Iterable[Architecture], recipe: Recipe
) -> Placement:
    """The placement with `workers_per_gpu` settled: workers that share a GPU of this machine need a
    share of its memory each, also where only their number is given (else None)."""
    cards = [] if placement.device == "cpu" or placement.gpus_per_run > 1 else gpus()
    shared = placement.sharing
    if cards and workers is not None:
        shared = max(shared, -(-workers // len(cards)))
    elif cards and placement.workers_per_gpu == "auto":
        room = _room_for(placement, architectures, recipe)
        shared = max(1, min(MAX_SHARING, cores() // len(cards), room))
    return replace(placement, workers_per_gpu=shared)


def _room_for(placement: Placement, architectures: Iterable[Architecture], recipe: Recipe) -> int:
    """How many of the largest runs fit into a GPU with the micro-batch of one that has it alone."""
    from search.train.memory import HEADROOM, largest, peak_memory  # which import this module

    usual = min(recipe.batch_size, max(1, GPU_TOKENS // recipe.seq_len))
    at_once = placement.micro_batch or usual
    peak = peak_memory(largest(architectures), recipe, at_once).of(placement)
    return int(HEADROOM * card().memory / peak)


def usual_workers(placement: Placement) -> int:
    """How many workers suit this machine: `workers_per_gpu` for each GPU, or one per core; one for
    each `gpus_per_run` of them."""
    ranks = placement.gpus_per_run
    if placement.device != "cpu" and (cards := gpus()):
        return max(1, len(cards) * placement.sharing // ranks)
    return max(1, cores() // ranks)


class NotHere(ValueError):
    """This machine lacks what is asked for; what is only estimated may be trained on another."""


def require_room(placement: Placement, workers: int) -> None:
    """Raises: NotHere where this machine has no GPUs of their own for all ranks of so many
    workers."""
    ranks = placement.gpus_per_run
    if ranks == 1 or placement.device == "cpu":
        return
    if ranks * workers > (seen := len(gpus())):
        raise NotHere(
            "placement.gpus_per_run × workers must be at most the GPUs of this machine, but got "
            f"{ranks} × {workers} and {seen}; ask for fewer, or for processes on its cores with "
            "placement.device=cpu"
        )


DRIVERS = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/nvmap", "/dev/kfd")
"""Device files on Linux, one of which is there wherever a GPU can be used."""


def gpus() -> list[str]:
    """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    if sys.platform == "linux" and not any(Path(node).exists() for node in DRIVERS):
        return []  # known without torch, which takes seconds to load

    import torch

    if not torch.cuda.is_available():
        return []
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return chosen.split(",") if chosen else [str(i) for i in range(torch.cuda.device_count())]


def cores() -> int:
    """Cores that this process may use, a container's limit included."""
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(seen, int(quota) // int(period)))
    except (OSError, ValueError):  # no such limit
        return seen


def _settle_engine(given: str, on_gpu: bool, run: Run) -> str:
    """The engine by name; an error if kernels are requested and not available."""
    if given == "autograd" or (given == "auto" and on_gpu):
        return "autograd"
    try:
        if on_gpu:
            raise Unavailable("they run on CPUs only")
        _require_known(run.architecture)
        if run.recipe.teacher:
            raise Unavailable("the kernels know no teacher")
        if run.recipe.z_loss:
            raise Unavailable("the kernels know no z_loss")
        library()
    except Unavailable as reason:
        if given == "kernels":
            raise ValueError(
                f"placement.engine=kernels must be possible here, but {reason}; use auto"
            ) from None
        return "autograd"
    return "kernels"


def _require_known(architecture: Architecture) -> None:
    """Raise Unavailable where kernels lack something that the architecture has."""
    if architecture.head_size > MAX_HEAD_DIM:
        raise Unavailable(f"head_dim is over {MAX_HEAD_DIM}")
    if unknown := unknown_to_kernels([architecture]):
        raise Unavailable(f"the kernels do not have {unknown[0]}")


KERNELS_KNOW = frozenset({*KEYED, "rope_scaling"})
"""Fields of architectures that the kernels compute, besides those of parts that say so."""


def unknown_to_kernels(architectures: Iterable[Architecture]) -> list[str]:
    """Parts and fields of these architectures that the kernels do not have."""
    parts = {setting for arch in architectures for setting in arch.parts}
    fields = {name for arch in architectures for name in unknown_fields(arch, KERNELS_KNOW)}
    return sorted({s.name for s in parts if "kernels" not in s.part.engines} | fields)


def require_engine(placement: Placement, architectures: Iterable[Architecture]) -> None:
    """Raises: ValueError where kernels are asked for and do not have all of these."""
    if placement.engine == "kernels" and (unknown := unknown_to_kernels(architectures)):
        raise ValueError(
            "placement.engine=kernels must be possible for all architectures, but the kernels do "
            f"not have {unknown[0]}; use auto"
        )


def what_is_lost(placement: Placement, architectures: Iterable[Architecture] = ()) -> str | None:
    """A line for a user whose CPU trains more slowly than it could, all of these architectures or
    some, and why; None where all is well."""
    if placement.device != "cpu":
        return None
    if unknown := unknown_to_kernels(architectures):
        return (
            f"architectures with {' or '.join(unknown)} are trained by autograd, which is slower, "
            "because the kernels do not have it"
        )
    if placement.engine == "kernels":
        return None
    try:
        library()
    except Unavailable as reason:
        return f"training uses autograd, which is slower, because {reason}"
    return None


def settle_precision(recipe: Recipe, placement: Placement) -> Recipe:
    """The recipe with `precision=auto` replaced: bf16 on GPUs and on CPUs that multiply it
    natively."""
    if recipe.precision != "auto":
        return recipe
    import torch

    on_gpu = placement.device != "cpu" and torch.cuda.is_available()
    return replace(recipe, precision="bf16" if on_gpu or multiplies_bf16() else "fp32")


def autocast(placement: Placement, precision: str) -> AbstractContextManager[None]:
    """The context in which a forward pass runs."""
    import torch

    if precision == "fp32":
        return nullcontext()
    return torch.autocast(placement.device, dtype=torch.bfloat16)


OF_A_GROUP = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
)
"""Variables that say which process of a run this is. Kubeflow sets some of them in every pod."""


def leave_group() -> None:
    """Take them away from this process and those that it starts: each of its workers trains runs
    alone, and would wait for others.

    Raises:
        ValueError: `torchrun` started this process, and others that would do the same.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise ValueError(
            f"a study must be started once, but torchrun starts it {world()} times; start it "
            "without, it has workers of its own (python -m search.run trains one run on several "
            "GPUs)"
        )
    for name in OF_A_GROUP:
        os.environ.pop(name, None)


def rank() -> int:
    """This process among those that train its run."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """This process among those of its run on this machine."""
    return int(os.environ["LOCAL_RANK"])


def world() -> int:
    """How many processes train this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _or(given: str, default: str) -> str:
    return default if given == "auto" else given
