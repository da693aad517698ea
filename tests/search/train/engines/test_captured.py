"""Micro-batches as a CUDA graph: what can be shown of it without a GPU.

In place of a graph stands a recording: what torch does within is written down, operation by
operation, and done again in the same memory, without any line of Python in between.
"""

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from train_fixtures import ARCH, HERE, RECIPE, data, losses, run_of  # noqa: F401

from search.data.packed import Data
from search.train import loop, placement
from search.train.engines import autograd
from search.train.engines.autograd import AutogradEngine
from search.train.engines.captured import WARM_UP, Captured
from search.train.engines.distillation import Teaching
from search.train.engines.weights import Weights
from search.train.loop import Training, train
from search.train.memory import HEADROOM, fitting, peak_memory
from search.train.placement import Placement, settle
from space.arch import Architecture
from space.model import Attention, Decoder

PLAIN = Placement(device="cpu", threads=1, engine="autograd", compile="no", micro_batch=1)
GRAPH = replace(PLAIN, cuda_graph="yes")


class Recording(TorchDispatchMode):
    """All operations, with the tensors they were given and those they made."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, results in self.operations:
            again = func(*args, **kwargs)
            for place, new in zip(tree_leaves(results), tree_leaves(again), strict=True):
                if isinstance(place, Tensor) and place.data_ptr() != new.data_ptr():
                    place.detach().copy_(new)


class Stream:
    """The CPU has one."""

    def wait_stream(self, other: Any) -> None: ...


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Graphs are recordings. A capture computes nothing, so it leaves what this list has as it
    was."""
    kept: list[Tensor] = []

    @contextmanager
    def capture(graph: Recording, stream: Any) -> Iterator[None]:
        before = [tensor.clone() for tensor in kept]
        with graph:
            yield
        for tensor, value in zip(kept, before, strict=True):
            tensor.copy_(value)

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recording)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    return kept


def engine(given: Placement, precision: str = "fp32", **settings: Any) -> tuple[Any, Weights]:
    torch.manual_seed(0)
    model = Decoder(ARCH)
    for module in model.modules():
        if isinstance(module, Attention):
            module.fused = False
    weights = Weights(model)
    return AutogradEngine(model, given, precision, **settings), weights


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("limit", [2**27, 300 * 7])
def test_what_is_replayed_is_what_is_computed(
    recorded: list[Tensor], monkeypatch: pytest.MonkeyPatch, precision: str, limit: int
) -> None:
    """Bit for bit, over steps between which the weights change."""
    monkeypatch.setattr(autograd, "LOGITS", limit)
    found = []
    for given in (PLAIN, GRAPH):
        built, weights = engine(given, precision, z_loss=1e-2)
        recorded[:] = [weights.gradients]
        generator = torch.Generator().manual_seed(1)
        curve = []
        for _ in range(3):
            ids = torch.randint(300, (WARM_UP + 1, 15), generator=generator)
            weights.gradients.zero_()
            curve.append(built.nll(ids[:, :-1], ids[:, 1:], 0.1))
            weights.values -= 0.1 * weights.gradients
        found.append((curve, weights.gradients.clone(), weights.values.clone()))
    assert built.captured.calls == 3 * (WARM_UP + 1)
    assert len(built.captured.graph.operations) > 100, "it has been replayed"
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


def test_inputs_of_another_shape_are_none_of_the_graph(recorded: list[Tensor]) -> None:
    run = Captured()
    ids = torch.zeros(2, 3, dtype=torch.long)
    run(lambda x, y, scale: x + y, ids, ids, 0.1)
    with pytest.raises(AssertionError, match="one shape"):
        run(lambda x, y, scale: x + y, ids[:1], ids[:1], 0.1)
    with pytest.raises(AssertionError, match="part of the graph"):
        run(lambda x, y, scale: x + y, ids, ids, 0.2)


def test_a_lack_of_memory_in_a_capture_is_called_one(
    recorded: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch ends the capture all the same, and that may fail of its own."""

    @contextmanager
    def capture(graph: Any, stream: Any) -> Iterator[None]:
        try:
            yield
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error")

    monkeypatch.setattr(torch.cuda, "graph", capture)

    def learn(x: Tensor, y: Tensor, scale: float) -> Tensor:
        if run.calls > WARM_UP:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x

    run, ids = Captured(), torch.zeros(2, 3, dtype=torch.long)
    for _ in range(WARM_UP):
        run(learn, ids, ids, 0.1)
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        run(learn, ids, ids, 0.1)


@pytest.mark.parametrize("taught", [False, True])
@pytest.mark.parametrize("limit", [2**27, 300 * 7])
def test_nothing_waits_for_what_is_computed(
    monkeypatch: pytest.MonkeyPatch, taught: bool, limit: int
) -> None:
    """On fake tensors, which raise where a number would be read or a shape depend on one."""
    monkeypatch.setattr(autograd, "LOGITS", limit)
    parts = {"qk_norm": True, "attention_bias": True, "final_logit_softcapping": 20.0}
    with FakeTensorMode():
        model = Decoder(Architecture.from_dict({**ARCH.to_dict(), **parts}))
        teacher = Decoder(ARCH).requires_grad_(False)
        teaching = Teaching(teacher, 0.5, 2.0, PLAIN, "bf16") if taught else None
        built = AutogradEngine(model, PLAIN, "bf16", teaching, 1e-3)
        weights = Weights(model)
        ids = torch.zeros(2, 14, dtype=torch.long)
        nll = built._learn(ids, ids, 0.1)
        assert nll.shape == ids.shape
        assert not nll.requires_grad, "no graph of autograd's is kept"
        with pytest.raises(Exception, match="_local_scalar_dense"):
            float(weights.gradients.sum())


# --- Where it can be, and what it takes -----------------------------------------------------------


NINE = replace(RECIPE, batch_size=9)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A GPU, as far as `settle` looks at it, with room for five sequences of `NINE` in a graph."""
    room = peak_memory(ARCH, NINE, 5).graph / HEADROOM
    properties = SimpleNamespace(total_memory=room * 1.001)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    return properties


def settled(data: Data, **given: Any) -> Placement:  # noqa: F811
    return settle(replace(GRAPH, **{"device": "auto", **given}), run_of(data, batch_size=9))


def test_without_a_gpu_it_is_refused(data: Data) -> None:  # noqa: F811
    for device in ("cpu", "auto"):
        with pytest.raises(ValueError, match="needs a GPU, but the device is a CPU; use"):
            settled(data, device=device)
    with pytest.raises(ValueError, match="cuda_graph must be one of yes, no, but got 'maybe'"):
        Placement(cuda_graph="maybe")
    assert Placement().cuda_graph == "no"


def test_its_micro_batches_are_of_one_size(data: Data, card: SimpleNamespace) -> None:  # noqa: F811
    assert settled(data, micro_batch=3).micro_batch == 3
    with pytest.raises(ValueError, match=r"micro_batch is 2 and does not divide .* 9; choose"):
        settled(data, micro_batch=2)
    with pytest.raises(ValueError, match=r"micro_batch × placement.gpus_per_run is 2 and"):
        settled(data, micro_batch=None, gpus_per_run=2)
    assert settled(data, micro_batch=None, cuda_graph="no").micro_batch == 5
    assert settled(data, micro_batch=None).micro_batch == 3, "the largest of one size that fits"


def test_it_keeps_the_memory_of_its_micro_batch(data: Data, card: SimpleNamespace) -> None:  # noqa: F811
    peak = peak_memory(ARCH, NINE, 5)
    assert peak.bytes < peak.graph < peak.training + peak.scoring
    assert peak.of(GRAPH) == peak.graph
    assert peak.of(PLAIN) == peak.bytes
    between = (peak.graph + peak.bytes) / 2 / HEADROOM
    assert fitting(ARCH, NINE, 5, between) == 5
    assert fitting(ARCH, NINE, 5, between, graph=True) == 3


def test_without_a_graph_comes_before_half_the_micro_batch() -> None:
    first = replace(GRAPH, micro_batch=2).smaller
    assert first == replace(GRAPH, micro_batch=2, cuda_graph="no")
    second = first.smaller
    assert second == replace(first, micro_batch=1)
    assert second.smaller is None


# --- A run ----------------------------------------------------------------------------------------


@pytest.fixture
def here(recorded: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> Placement:
    """A placement by which runs train with recordings on this CPU."""
    build = loop.engine_of

    def engine_of(model: Any, weights: Weights, *given: Any) -> Any:
        recorded[:] = [weights.gradients]
        return build(model, weights, *given)

    monkeypatch.setattr(loop, "engine_of", engine_of)
    monkeypatch.setattr(placement, "_require_graph", lambda *_: None)
    return replace(HERE, engine="autograd", micro_batch=1, cuda_graph="yes")


def test_a_run_with_it_has_the_losses_of_one_without(
    data: Data,  # noqa: F811
    tmp_path: Path,
    here: Placement,
) -> None:
    """Bit for bit, with a branch, from which it returns to the trunk's weights."""
    run = run_of(data, horizons=(0.5,))
    for given in (here, replace(here, cuda_graph="no")):
        record = train(run, data, tmp_path / given.cuda_graph, placement=given)
        assert (record.status, record.device["cuda_graph"]) == ("finished", given.cuda_graph)
    assert losses(tmp_path / "yes") == losses(tmp_path / "no")


def test_out_of_memory_it_goes_on_without(
    data: Data,  # noqa: F811
    tmp_path: Path,
    here: Placement,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    step = Training._step

    def in_little_memory(training: Training) -> Any:
        if training.state.step >= 5 and training.placement.cuda_graph == "yes":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return step(training)

    monkeypatch.setattr(Training, "_step", in_little_memory)
    record = train(run_of(data), data, tmp_path, placement=replace(here, micro_batch=2))
    assert (record.status, record.device["micro_batch"]) == ("finished", 2)
    assert record.device["cuda_graph"] == "no"
    assert "goes on without a CUDA graph" in capsys.readouterr().out


def test_a_run_leaves_nothing_when_it_is_dropped(
    data: Data,  # noqa: F811
    tmp_path: Path,
    here: Placement,
) -> None:
    """Without waiting for Python's collector of cycles: what goes on needs the memory."""
    training = Training(run_of(data), data, tmp_path, here)
    for _ in range(2):
        training.timed_step()
    gone = weakref.ref(training.model)
    gc.collect()
    gc.disable()
    try:
        del training
        assert gone() is None
    finally:
        gc.enable()
