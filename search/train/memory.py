"""How much memory a training step takes, estimated without taking any.

The step runs on fake tensors, which have sizes and no content, and every storage is counted from
its making to its end. Operations go one by one, as eager torch does them; compiled layers fuse some
and need less. Buffers inside an operation are not seen.
"""

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Self

import torch
from torch import Tensor

from search import teacher
from search.recipe import Recipe
from search.train.engines.autograd import AutogradEngine
from search.train.engines.distillation import Teaching
from search.train.engines.weights import Weights
from search.train.optimizers import OPTIMIZERS
from search.train.parametrise import parameter_groups
from search.train.placement import Placement
from space.arch import Architecture
from space.compat import fake_tensors, identity_of_storage, results_seen
from space.model import Attention, Decoder

HEADROOM = 0.85
"""Share of a device's memory that an estimate may fill: the rest is for what it does not see, such
as buffers of operations, fragments and the CUDA context."""
ON_FAKES = Placement(device="cpu", engine="autograd", compile="no")


@dataclass(frozen=True)
class Peak:
    """Bytes at the peak of a step."""

    training: int
    scoring: int
    graph: int
    """Of either with a CUDA graph, which keeps the memory of its micro-batch to itself."""

    @property
    def bytes(self) -> int:
        """Of the larger, without a graph."""
        return max(self.training, self.scoring)

    def of(self, placement: Placement) -> int:
        """Of the larger, as a placement says."""
        return self.graph if placement.cuda_graph == "yes" else self.bytes


class StorageCounter:
    """Counts bytes of all storages made within it, now and at the peak."""

    def __init__(self) -> None:
        self.now = self.peak = 0
        self._live: dict[int, int] = {}
        self._mode = results_seen(self._see)

    def __enter__(self) -> Self:
        self._mode.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._mode.__exit__(*exception)

    def _see(self, result: Any) -> None:
        if isinstance(result, Tensor):
            self._count(result.untyped_storage())

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = identity_of_storage(storage)
        if key in self._live:
            return
        self._live[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.now -= self._live.pop(key)


@lru_cache(maxsize=64)
def peak_memory(architecture: Architecture, recipe: Recipe, micro_batch: int) -> Peak:
    """What one process takes for steps of two micro-batches of so many sequences, and for scoring
    as many: weights, gradients, the optimiser's state, and activations; of a teacher weights and
    activations."""
    taught_by = teacher.architecture_of(recipe.teacher) if recipe.teacher else None
    with fake_tensors(), StorageCounter() as counter:
        model = _on_a_gpu(architecture)
        weights = Weights(model)
        optimizer = OPTIMIZERS.load(recipe.optimizer).build(parameter_groups(model, recipe), recipe)
        placement = replace(ON_FAKES, micro_batch=micro_batch)
        teaching = Teaching.by(_on_a_gpu(taught_by), recipe, placement) if taught_by else None
        engine = AutogradEngine(model, placement, recipe.precision, teaching, recipe.z_loss)
        optimizer.step()  # its state is then there
        ids = torch.zeros(2 * micro_batch, recipe.seq_len, dtype=torch.long)
        counter.peak = held = counter.now
        engine.nll(ids, ids)
        scoring, counter.peak = counter.peak, counter.now
        engine.nll(ids, ids, 1.0)
        learning, counter.peak = counter.peak, counter.now
        optimizer.step()
        stepping = counter.peak
        del weights
    graph = learning - held + max(scoring, stepping)
    return Peak(training=max(learning, stepping), scoring=scoring, graph=graph)


def _on_a_gpu(architecture: Architecture) -> Decoder:
    """A model whose attention is one operation, as it is there."""
    model = Decoder(architecture)
    for module in model.modules():
        if isinstance(module, Attention):
            module.fused = True
    return model


def largest(architectures: Iterable[Architecture]) -> Architecture:
    """That which takes the most memory of those of one budget: what a token leaves for the backward
    pass grows with layers times their widths."""
    return max(architectures, key=lambda a: a.num_layers * (a.hidden_size + a.intermediate_size))


def fitting(
    architecture: Architecture, recipe: Recipe, usual: int, memory: float, graph: bool = False
) -> int:
    """The micro-batch whose step, as a CUDA graph or not, fits into so many bytes: the usual one,
    halved as often as needed, and one sequence at least."""

    def needed(size: int) -> int:
        peak = peak_memory(architecture, recipe, size)
        return peak.graph if graph else peak.bytes

    size = usual
    while size > 1 and needed(size) > HEADROOM * memory:
        size = -(-size // 2)
    return size
