"""What the ranks of a run do together: they join, agree, send and add up.

Everything that needs all ranks begins with an agreement, in which each says whether it goes on. So
one that stops, fails or lacks memory is known to all within a step, and none waits for it. Of a run
by one process nothing of this takes place.
"""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from search.train.placement import Placement, local_rank, rank, world

T = TypeVar("T")


class Said(IntEnum):
    """What a rank says of itself. Of several the last of these is heard."""

    GOES_ON = 0
    NO_MEMORY = 1
    FAILED = 2
    STOPPED = 3
    """By something that is no outcome of the run: a signal, the pruner, a full disk."""


class Heard(Exception):
    """Raised in a rank by what another said, which has left the run."""

    def __init__(self, said: Said, reason: str, trace: str) -> None:
        super().__init__(reason)
        self.said, self.trace = said, trace


class Parted(Exception):
    """The ranks have lost each other: one is dead."""


def join(placement: Placement, store: Any = None) -> None:
    """Make this process one of its run's ranks, with its own GPU where there are some. They meet in
    a store of `torch.distributed`, by default where `torchrun` says."""
    on_gpu = placement.device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(local_rank())  # before anything is put on a card
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=rank(), world_size=world())


@contextmanager
def joined(placement: Placement) -> Iterator[None]:
    """Within it this process is one of the ranks that `torchrun` started; nothing where there is
    one, or where they have joined."""
    if world() == 1 or dist.is_initialized():
        yield
        return
    join(placement)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def together(word_for: Callable[[Exception], tuple[Said, str]]) -> Iterator[None]:
    """Within it the ranks are in step: what one raises, the others hear at their next agreement, as
    a word and a reason.

    Raises:
        Heard: what another said counts for more than what this one raised, if anything.
    """
    try:
        yield
    except (Heard, Parted):
        raise
    except Exception as error:
        agree(*word_for(error), "".join(traceback.format_exception(error)))
        raise
    agree()


def agree(said: Said = Said.GOES_ON, reason: str = "", trace: str = "") -> None:
    """Say so and why, and hear the others.

    Raises:
        Heard: one of them said what counts for more.
        Parted: one of them is dead.
    """
    if world() == 1:
        return
    with _in_touch():
        loudest = torch.tensor(int(said))
        dist.all_reduce(loudest, dist.ReduceOp.MAX)
        if not loudest:
            return
        words: list[Any] = [None] * world()
        dist.all_gather_object(words, (int(said), reason, trace))
    if loudest > said:
        word, reason, trace = max(words, key=lambda word: int(word[0]))
        raise Heard(Said(word), reason, trace)


def add_up(*tensors: Tensor) -> None:
    """Replace each by its sum over the ranks."""
    if world() == 1:
        return
    agree()
    with _in_touch():
        for tensor in tensors:
            dist.all_reduce(tensor)


def sent(make: Callable[[], T]) -> T:
    """What the first rank makes, in all of them; tensors arrive on the CPU."""
    if world() == 1:
        return make()
    made = [_each_tensor(found := make(), _shape)] if rank() == 0 else [None]
    agree()
    with _in_touch():
        dist.broadcast_object_list(made)
        filled: T = _each_tensor(found if rank() == 0 else made[0], _send)
    return filled


def _each_tensor(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The value with the tensors in its dictionaries and lists changed, in their order."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _each_tensor(each, change) for key, each in value.items()}
    if isinstance(value, list):
        return [_each_tensor(each, change) for each in value]
    return value


def _shape(tensor: Tensor) -> Tensor:
    """It without its content."""
    return tensor.detach().to("meta")


def _send(tensor: Tensor) -> Tensor:
    """The first rank's content, one tensor at a time: a checkpoint may have ten gigabytes."""
    whole = torch.empty(tensor.shape, dtype=tensor.dtype) if tensor.is_meta else tensor.detach()
    dist.broadcast(whole.reshape(-1).view(torch.uint8), 0)  # gloo does not know every type
    return whole


@contextmanager
def _in_touch() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of gloo and of torch's store
        raise Parted(f"another rank of the run is gone: {error}") from error
