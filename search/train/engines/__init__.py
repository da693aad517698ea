"""How a batch goes through the model and back: by torch's autograd, or on CPUs by kernels.

Both engines work on `Weights`, add gradients up in float32 and multiply in the recipe's precision.
There are two forward passes in this project, and this is the seam between them. The one to read is
`space/model.py`, which `AutogradEngine` runs. The other is `KernelEngine`, which writes the same
forward pass and its backward pass out over kernels, because that is faster on CPUs
(docs/decisions/075-two-forward-passes.md). `tests/search/train/engines/test_engines.py` holds the
two to each other: the same loss and gradients to rounding, on any architecture that kernels serve.
"""

# B sequences, T positions

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from search.recipe import Recipe
from search.train.engines.weights import Weights
from search.train.placement import Placement
from space.model import Decoder


class Engine(Protocol):
    """Computes the loss of a batch, a micro-batch at a time, and its gradients."""

    def nll(self, inputs: Tensor, targets: Tensor, scale: float | None = None) -> Tensor:
        """Negative log-likelihood in nats (B, T) of targets, given inputs: ids (B, T).

        With a scale, the gradients of scale times their sum are added to `Weights.gradients`.
        """
        ...

    def refresh(self) -> None:
        """Take note that the weights have changed."""
        ...


def engine_of(model: Decoder, weights: Weights, placement: Placement, recipe: Recipe) -> Engine:
    """The engine that a settled placement names, with what the recipe adds to the loss."""
    precision = recipe.precision
    if placement.engine == "kernels":
        from search.train.engines.kernels import KernelEngine

        return KernelEngine(model, weights, placement, precision)
    from search.train.engines.autograd import AutogradEngine
    from search.train.engines.distillation import Teaching

    if placement.compile == "yes":
        weights.join(model)
    teaching = Teaching.of(recipe, placement)
    return AutogradEngine(model, placement, precision, teaching, recipe.z_loss)


def micro_batches(sequences: int, size: int | None) -> Iterator[slice]:
    """The rows of a batch, `size` at a time."""
    size = size or sequences
    for row in range(0, sequences, size):
        yield slice(row, min(sequences, row + size))
