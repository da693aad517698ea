"""A teacher's part of the loss: against SciPy and torch's soft labels, in the loop, and in keys."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from run_fixtures import run
from scipy.special import log_softmax, rel_entr
from torch.nn import functional as F
from train_fixtures import ARCH, HERE, RECIPE, run_of

from ablations.files import TableFile
from search import teacher
from search.data.packed import Data
from search.recipe import Recipe
from search.record import Run
from search.states import Status
from search.train.engines import autograd
from search.train.engines.autograd import AutogradEngine
from search.train.engines.distillation import Teaching, distance
from search.train.engines.weights import Weights
from search.train.loop import train
from search.train.placement import Placement
from space.cost import cost
from space.doors import Changed
from space.hf import export
from space.model import Decoder

PLAIN = Placement(device="cpu", engine="autograd", compile="no", threads=1)


def ids(rows: int = 2) -> torch.Tensor:
    return torch.randint(0, 300, (rows, 9), generator=torch.Generator().manual_seed(1))


def model_of(seed: int, **sizes: int) -> Decoder:
    torch.manual_seed(seed)
    return Decoder(replace(ARCH, **sizes))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_distance_is_scipys_relative_entropy(temperature: float) -> None:
    draw = np.random.default_rng(0)
    found, wanted = draw.standard_normal((2, 5, 11)), draw.standard_normal((2, 5, 11))
    p, q = (np.exp(log_softmax(x / temperature, -1)) for x in (wanted, found))
    expected = temperature**2 * rel_entr(p, q).sum(-1)
    given = distance(torch.from_numpy(found), torch.from_numpy(wanted), temperature)
    np.testing.assert_allclose(given, expected, rtol=1e-4)


@pytest.mark.parametrize("logits", [autograd.LOGITS, 2000])
def test_gradients_are_those_of_torchs_cross_entropy_with_soft_labels(
    logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a slice of the logits at a time. The teacher is wider than the model."""
    monkeypatch.setattr(autograd, "LOGITS", logits)
    model, wise = model_of(0), model_of(1, hidden_size=48).eval().requires_grad_(False)
    weights = Weights(model)
    engine = AutogradEngine(model, PLAIN, "fp32", Teaching(wise, 0.3, 1.0, PLAIN, "fp32"))
    x, y = ids(), ids().roll(-1, 1)
    nll = engine.nll(x, y, 1.0)
    found = weights.gradients.clone()
    weights.gradients.zero_()
    own, soft = model(x).flatten(0, 1), wise(x).flatten(0, 1).softmax(-1)
    text = F.cross_entropy(own, y.flatten(), reduction="none")
    (0.7 * text + 0.3 * F.cross_entropy(own, soft, reduction="none")).sum().backward()
    torch.testing.assert_close(found, weights.gradients, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(nll.flatten(), text.detach())
    torch.testing.assert_close(engine.nll(x, y).flatten(), text.detach())


def test_a_model_has_nothing_to_learn_from_itself() -> None:
    model = model_of(0)
    weights = Weights(model)
    AutogradEngine(model, PLAIN, "fp32", Teaching(model, 1.0, 2.0, PLAIN, "fp32")).nll(
        ids(), ids(), 1.0
    )
    assert weights.gradients.abs().max() < 1e-5


@pytest.fixture(scope="module")
def taught(data: Data, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """A folder of runs, and the one in it that teaches."""
    runs = tmp_path_factory.mktemp("runs")
    first = run_of(data)
    assert train(first, data, runs / first.key, placement=HERE).status == Status.FINISHED
    return runs, first


def of_teacher(where: Path, **more: float) -> Recipe:
    return replace(RECIPE, teacher=str(where), **more)


def test_a_run_learns_from_a_run_by_autograd_and_counts_its_forward_pass(
    data: Data, taught: tuple[Path, Run]
) -> None:
    runs, first = taught
    recipe = of_teacher(runs / first.key, distillation_weight=1.0)
    pupil = Run(architecture=ARCH, recipe=recipe, data_fingerprint=data.fingerprint, seed=3)
    record = train(pupil, data, runs / pupil.key, placement=HERE)
    assert record.status == Status.FINISHED, record.reason
    assert record.device["engine"] == "autograd"
    forward = cost(ARCH, 32).forward_flops_per_token
    assert pupil.train_flops == recipe.trained_tokens * 4 * forward
    plain = Run(architecture=ARCH, recipe=RECIPE, data_fingerprint=data.fingerprint, seed=3)
    assert plain.train_flops == recipe.trained_tokens * 3 * forward
    assert record.readings[-1].val_loss < np.log(300), "it has learned from predictions alone"
    with pytest.raises(ValueError, match="but the kernels know no teacher"):
        teacher.require(recipe, data, replace(HERE, engine="kernels"))


def test_a_teacher_is_known_by_its_weights_wherever_it_is(
    data: Data, taught: tuple[Path, Run], tmp_path: Path
) -> None:
    runs, first = taught
    shutil.copytree(runs / first.key, tmp_path / first.key)
    here, there = of_teacher(runs / first.key), of_teacher(tmp_path / first.key)
    assert here.canonical() == there.canonical() != RECIPE.canonical()
    assert Recipe(**here.to_dict()) == here
    teacher.require(there, data, HERE)
    weights = next((tmp_path / first.key).glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(Changed, match="must be as it was, but has changed"):
        Teaching.of(there, PLAIN)
    assert of_teacher(tmp_path / first.key).canonical() != here.canonical()
    shutil.rmtree(tmp_path / first.key)
    with pytest.raises(ValueError, match="must be there with its weights, but is not"):
        teacher.require(there, data, HERE)


def test_an_export_teaches_what_its_run_does(
    data: Data, taught: tuple[Path, Run], tmp_path: Path
) -> None:
    runs, first = taught
    of_run = Teaching.of(of_teacher(runs / first.key), PLAIN)
    assert of_run is not None
    of_export = Teaching.of(of_teacher(export(of_run.model, tmp_path / "out")), PLAIN)
    assert of_export is not None
    torch.testing.assert_close(of_export.hidden(ids()), of_run.hidden(ids()))


def test_without_a_teacher_nothing_is_kept_and_weights_of_one_are_refused() -> None:
    assert not {name for name in RECIPE.to_dict() if "teach" in name or "distil" in name}
    with pytest.raises(ValueError, match=r"must come with a teacher, .* set recipe.teacher=RUN"):
        replace(RECIPE, distillation_weight=0.5)
    with pytest.raises(ValueError, match=r"teacher must be the key of a run .* got 'nobody'"):
        replace(RECIPE, teacher="nobody")


def test_a_teacher_of_other_tokens_is_refused(data: Data, taught: tuple[Path, Run]) -> None:
    runs, first = taught
    recipe = of_teacher(runs / first.key)
    with pytest.raises(ValueError, match=r"must have the data's vocabulary of 301, but .* of 300"):
        teacher.require(recipe, replace(data, vocab_size=301), HERE)
    with pytest.raises(ValueError, match="must read the tokens of these data"):
        teacher.require(recipe, replace(data, fingerprint="other"), HERE)


def test_the_table_counts_the_teacher_in_flops_and_its_labels_have_no_trace(
    taught: tuple[Path, Run],
) -> None:
    runs, first = taught
    recipe = of_teacher(runs / first.key)
    table = TableFile.read("distillation").table("proxy", recipe, 300, budget="100k")
    arms = {arm.name: arm.recipe for arm in table.panels[0].arms}
    assert arms["label"] == RECIPE
    assert [r.distillation_weight for r in arms.values()] == [0.0, 0.5, 1.0, 1.0]
    timed = {arm.name: arm.recipe.tokens for arm in table.panels[1].arms}
    arch = table.panels[1].arms[0].architecture
    own = cost(arch, 32).train_flops_per_token
    share = own / (own + recipe.teacher_flops)
    assert timed["teacher"] == pytest.approx(share * RECIPE.tokens, abs=RECIPE.tokens_per_step)


def test_the_command_refuses_a_teacher_that_is_not_there_in_one_line(tmp_path: Path) -> None:
    code, said = run(tmp_path, "recipe.teacher=nobody")
    assert code == 2
    assert said.count("\n") == 1
    assert "teacher must be the key of a run under runs/" in said
