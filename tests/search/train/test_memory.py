"""What a step takes in memory, by fake tensors; and what happens when it is too much."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from train_fixtures import ARCH, HERE, RECIPE, losses, run_of

from search.data.packed import Data
from search.recipe import Recipe
from search.train import loop
from search.train.engines import autograd
from search.train.engines.autograd import AutogradEngine
from search.train.engines.distillation import Teaching
from search.train.engines.weights import Weights
from search.train.loop import Training, train
from search.train.memory import HEADROOM, StorageCounter, fitting, peak_memory
from search.train.optimizers import OPTIMIZERS
from search.train.parametrise import parameter_groups
from search.train.placement import Placement
from space.arch import Architecture
from space.cost import cost
from space.hf import export
from space.model import Attention, Decoder

LAB = Recipe(tokens=10**9, seq_len=2048, batch_size=256, precision="bf16")
CARD = 80e9
PLAIN = Placement(device="cpu", threads=1, engine="autograd", compile="no", micro_batch=2)


@pytest.mark.parametrize(
    "name",
    [
        "mobilellm_125m",
        pytest.param("mobilellm_350m", marks=pytest.mark.slow),
        pytest.param("mobilellm_600m", marks=pytest.mark.slow),
        "mobilellm_1b",
    ],
)
def test_every_size_trains_and_is_scored_on_a_card_of_80_gb(name: str) -> None:
    architecture = Architecture.from_yaml(name)
    size = fitting(architecture, LAB, 16, CARD)
    peak = peak_memory(architecture, LAB, size)
    assert peak.training < HEADROOM * CARD
    assert peak.scoring < peak.training / 2, "no graph is kept"
    assert size >= 4, "which keeps a card busy"


def test_the_estimate_counts_what_is_known_exactly() -> None:
    """Weights, gradients and two moments in float32; a product's result while it is needed."""
    with FakeTensorMode(), StorageCounter() as counter:
        a, b = torch.empty(64, 32), torch.empty(32, 128)
        held = counter.now
        _ = a @ b
        del _
        assert (held, counter.now, counter.peak) == (24576, 24576, 24576 + 32768)
    recipe = replace(RECIPE, precision="fp32")
    one, two = (peak_memory(ARCH, recipe, size).bytes for size in (1, 2))
    weights = cost(ARCH).parameters * 4
    assert 4 * weights < 2 * one - two < 6 * weights, "besides the weights little is fixed"


def test_the_estimate_grows_by_the_sequence() -> None:
    one, two, four = (peak_memory(ARCH, RECIPE, size).training for size in (1, 2, 4))
    assert four - two == pytest.approx(2 * (two - one), rel=0.02)


@pytest.mark.parametrize("width", [32, 128])
def test_a_teacher_takes_its_weights_and_what_its_predictions_need(
    tmp_path: Path, width: int
) -> None:
    """As a step with the model itself takes it, on real tensors."""
    torch.manual_seed(1)
    teacher = Decoder(replace(ARCH, hidden_size=width, intermediate_size=2 * width))
    alone = replace(RECIPE, z_loss=1e-4)
    recipe = replace(alone, teacher=str(export(teacher, tmp_path)), distillation_weight=0.5)
    with StorageCounter() as counter:
        model, teaching = Decoder(ARCH), Teaching.of(recipe, PLAIN)
        assert teaching is not None
        for module in (*model.modules(), *teaching.model.modules()):
            if isinstance(module, Attention):
                module.fused = True
        weights = Weights(model)
        optimizer = OPTIMIZERS.load("adamw").build(parameter_groups(model, recipe), recipe)
        engine = AutogradEngine(model, PLAIN, recipe.precision, teaching, recipe.z_loss)
        optimizer.step()
        ids = torch.zeros(4, recipe.seq_len, dtype=torch.long)
        counter.peak = counter.now
        engine.nll(ids, ids)
        scoring, counter.peak = counter.peak, counter.now
        engine.nll(ids, ids, 1.0)
        assert weights.gradients.abs().sum() > 0
    found, without = (peak_memory(ARCH, each, 2) for each in (recipe, alone))
    own = 4 * sum(p.numel() for p in teacher.parameters())
    assert found.training == pytest.approx(counter.peak, rel=0.01)
    assert found.scoring == pytest.approx(scoring, rel=0.01)
    assert found.scoring - without.scoring == pytest.approx(own, rel=0.01), "it is not asked"
    logits = 4 * 2 * recipe.seq_len * ARCH.vocab_size
    assert found.training - without.training > own + logits


def grads(model: Decoder, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    weights = Weights(model)
    engine = AutogradEngine(model, PLAIN, "fp32")
    nll = engine.nll(ids[:, :-1], ids[:, 1:], 0.25)
    return nll, weights.gradients.clone()


@pytest.mark.parametrize("limit", [2**30, 300 * 20, 300 * 7, 300])
@pytest.mark.parametrize("tied", [True, False])
def test_a_loss_in_slices_is_the_plain_one(
    monkeypatch: pytest.MonkeyPatch, limit: int, tied: bool
) -> None:
    torch.manual_seed(3)
    model = Decoder(replace(ARCH, tie_word_embeddings=tied))
    ids = torch.randint(300, (3, 11))
    reference = torch.nn.functional.cross_entropy(
        model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    )
    wanted = torch.autograd.grad(reference.sum() * 0.25, list(model.parameters()))
    monkeypatch.setattr(autograd, "LOGITS", limit)
    nll, gradients = grads(model, ids)
    assert torch.allclose(nll.flatten(), reference, atol=1e-5)
    got = [p.grad for p in model.parameters()]
    for a, b in zip(got, wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert gradients.abs().sum() > 0
    scored = AutogradEngine(model, PLAIN, "fp32").nll(ids[:, :-1], ids[:, 1:])
    assert not scored.requires_grad
    assert torch.allclose(scored.flatten(), reference, atol=1e-5)


def test_few_logits_are_held_at_once() -> None:
    wide = replace(ARCH, vocab_size=100_000)
    ids = torch.zeros(2, 4096, dtype=torch.long)
    with FakeTensorMode() as mode, StorageCounter() as counter:
        model = Decoder(wide)
        Weights(model)
        counter.peak = before = counter.now
        AutogradEngine(model, PLAIN, "fp32").nll(mode.from_tensor(ids), mode.from_tensor(ids), 1.0)
    whole = ids.numel() * wide.vocab_size * 4
    assert counter.peak - before < 1.6 * whole, "the plain loss holds three of them"


def test_out_of_memory_goes_on_with_half_from_the_checkpoint(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = Training._step
    steps: list[tuple[int, int | None]] = []

    def in_little_memory(training: Training) -> Any:
        steps.append((training.state.step, training.placement.micro_batch))
        if training.state.step >= 5 and (training.placement.micro_batch or 0) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return step(training)

    monkeypatch.setattr(Training, "_step", in_little_memory)
    record = train(run_of(data), data, tmp_path, placement=replace(HERE, micro_batch=4))
    assert record.status == "finished"
    assert record.device["micro_batch"] == 1
    assert [s for s, size in steps if size == 4] == [0, 1, 2, 3, 4, 5]
    assert [s for s, size in steps if size == 2] == [5], "from the checkpoint"
    assert [s for s, size in steps if size == 1] == list(range(5, RECIPE.steps))
    assert "goes on with half" in capsys.readouterr().out
    assert not (tmp_path / "error.txt").exists()
    whole = tmp_path / "whole"
    monkeypatch.setattr(Training, "_step", step)
    train(run_of(data), data, whole, placement=replace(HERE, micro_batch=4))
    assert [line["step"] for line in losses(tmp_path)] == [line["step"] for line in losses(whole)]


def test_out_of_memory_with_one_sequence_is_a_failure(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(training: Training) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr(Training, "_step", never)
    record = train(run_of(data), data, tmp_path, placement=HERE)
    assert (record.status, record.device["micro_batch"]) == ("failed", 1)
    assert str(record.reason).startswith("out of memory")


@pytest.mark.parametrize("waits", [False, True])
def test_a_step_on_a_gpu_waits_for_no_number(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, *_: module)  # fakes may not move
    with FakeTensorMode(allow_non_fake_inputs=True):
        training = Training(run_of(data), data, tmp_path, PLAIN)
        training.waits = waits
        if waits:
            taken, _ = training._step()
            assert taken.loss.shape == taken.norm.shape == ()
        else:
            with pytest.raises(DataDependentOutputException):
                training._step()


def test_numbers_that_are_read_late_are_the_same(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CURVE_POINTS", 6)
    curves = []
    for waits in (False, True):
        training = Training(run_of(data), data, tmp_path / str(waits), PLAIN)
        training.waits = waits
        training.folder.mkdir()
        training.to_the_end()
        curves.append(losses(training.folder))
        assert training.unread is None, "the last step is read"
    assert curves[0] == curves[1]


def test_a_divergence_that_is_read_late_is_found(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(data, lr=1e15, grad_clip=1e15, parametrisation="sp")
    training = Training(run, data, tmp_path, PLAIN)
    training.waits = True
    monkeypatch.setattr(loop, "CURVE_POINTS", 1)
    with pytest.raises(loop.Diverged, match=r"at step [1-9]"):
        training.to_the_end()
