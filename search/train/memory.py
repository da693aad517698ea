"""How much memory a training step takes, estimated without taking any.

The step runs on fake tensors, which have sizes and no content, and every storage is counted from
its making to its end. Operations go one by one, as eager torch does them; compiled layers fuse some
and need less. Buffers inside an operation are not seen.
"""

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from search.recipe import Recipe
from search.train.engines.autograd import AutogradEngine
from search.train.engines.weights import Weights
from search.train.optimizers import OPTIMIZERS
from search.train.parametrise import parameter_groups
from search.train.placement import Placement
from space.arch import Architecture
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

    @property
    def bytes(self) -> int:
        """Of the larger."""
        return max(self.training, self.scoring)


class StorageCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts bytes of all storages made within it, now and at the peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._live: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
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
    as many: weights, gradients, the optimiser's state, and activations."""
    with FakeTensorMode(), StorageCounter() as counter:
        model = Decoder(architecture)
        for module in model.modules():
            if isinstance(module, Attention):
                module.fused = True
        weights = Weights(model)
        optimizer = OPTIMIZERS.load(recipe.optimizer).build(parameter_groups(model, recipe), recipe)
        placement = replace(ON_FAKES, micro_batch=micro_batch)
        engine = AutogradEngine(model, placement, recipe.precision)
        optimizer.step()  # its state is then there
        ids = torch.zeros(2 * micro_batch, recipe.seq_len, dtype=torch.long)
        counter.peak = counter.now
        engine.nll(ids, ids)
        scoring, counter.peak = counter.peak, counter.now
        engine.nll(ids, ids, 1.0)
        optimizer.step()
        del weights
    return Peak(training=counter.peak, scoring=scoring)


def fitting(architecture: Architecture, recipe: Recipe, usual: int, memory: float) -> int:
    """The micro-batch whose step fits into so many bytes: the usual one, halved as often as needed,
    and one sequence at least."""
    size = usual
    while size > 1 and peak_memory(architecture, recipe, size).bytes > HEADROOM * memory:
        size = -(-size // 2)
    return size
