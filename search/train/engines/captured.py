"""A micro-batch as a CUDA graph: all its kernels by one launch.

A model that is small for its GPU is trained at the speed of launches, of which a layer takes some
forty. The graph is captured after a few micro-batches and replayed for all others. No GPU has run
this yet: `tests/test_gpu.py` holds it to training without, `benchmarks/gpu.py` measures it.

What torch asks of it (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs):

- Nothing waits for the GPU, and nothing depends on what it computes: `tests/search/train/engines/
  test_captured.py` runs the same code on fake tensors.
- Memory stays where it is: inputs are copied to where the graph reads them, gradients are added up
  in `Weights.gradients`, weights are read from `Weights.values`.
- Whatever compiles, tunes itself or takes a workspace has done so before: the micro-batches of the
  warm-up do.
- Autograd adds gradients up on the stream on which a parameter was first seen, and a capture must
  not wait for another: the warm-up has the stream of the capture.
- Casts that autocast keeps must not outlive the capture: each of its contexts ends within.
- No pinned memory is taken meanwhile: batches are fetched before and after.
"""

# B sequences of a micro-batch, T positions

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

Learn = Callable[[Tensor, Tensor, float], Tensor]
"""From inputs and targets (B, T) and the scale of the loss to the loss of each position (B, T);
adds gradients up."""
WARM_UP = 3
"""Micro-batches before the capture, as in torch's notes. They are part of the training."""


class Captured:
    """A function of micro-batches, replayed. All calls must have the same function, inputs of one
    shape and one scale."""

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, learn: Learn, inputs: Tensor, targets: Tensor, scale: float) -> Tensor:
        """What `learn` returns."""
        with self._aside():
            if self.calls == 0:
                self.inputs, self.targets = torch.empty_like(inputs), torch.empty_like(targets)
                self.scale = scale
            assert inputs.shape == self.inputs.shape, "micro-batches must have one shape"
            assert scale == self.scale, "it is part of the graph"
            self.inputs.copy_(inputs)
            self.targets.copy_(targets)
            self.calls += 1
            if self.calls <= WARM_UP:
                return learn(self.inputs, self.targets, scale)
            if self.graph is None:
                self.graph, self.nll = self._capture(learn)
            self.graph.replay()
            return self.nll.clone()  # the next replay writes there

    def _capture(self, learn: Learn) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """The graph, of which nothing has been computed yet, and where it leaves its result."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                nll = learn(self.inputs, self.targets, self.scale)
        except RuntimeError as error:
            # The end of a capture that failed raises over what it failed of.
            first = error.__context__
            raise first if isinstance(first, torch.OutOfMemoryError) else error from None
        return graph, nll

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """On the stream of its own, after all that was begun before and before all that follows."""
        usual = torch.cuda.current_stream()
        self.stream.wait_stream(usual)
        with torch.cuda.stream(self.stream):
            yield
        usual.wait_stream(self.stream)
