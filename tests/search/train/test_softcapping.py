"""Logits within a cap: against Gemma 2's of `transformers`, and in each loss against torch's."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from train_fixtures import ARCH, RECIPE

from search.record import Run
from search.train.engines import autograd
from search.train.engines.autograd import AutogradEngine
from search.train.engines.distillation import Teaching
from search.train.engines.weights import Weights
from search.train.placement import Placement, settle
from space.arch import Architecture
from space.hf import config_of
from space.model import Decoder
from space.parts.final_logit_softcapping import Capped

PLAIN = Placement(device="cpu", engine="autograd", compile="no", threads=1)
CAP = 5.0
DRAWN = torch.randint(0, 300, (2, 10), generator=torch.Generator().manual_seed(1))
INPUTS, TARGETS = DRAWN[:, :-1], DRAWN[:, 1:]


def capped(**more: Any) -> Architecture:
    return replace(ARCH, final_logit_softcapping=CAP, **more)


def test_logits_are_capped_as_gemma_2_caps_them() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "head_dim": 8}
    heads = {"vocab_size": 50, "num_attention_heads": 2, "num_key_value_heads": 1}
    ids = torch.arange(12).view(2, 6)
    found = []
    for cap in (None, 0.1):
        torch.manual_seed(0)
        config = transformers.Gemma2Config(**sizes, **heads, final_logit_softcapping=cap)
        with torch.no_grad():
            found.append(transformers.Gemma2ForCausalLM(config).eval()(ids).logits)
    plain, wanted = found
    assert not torch.allclose(plain, wanted, atol=0.01), "the cap must be felt"
    torch.testing.assert_close(Capped(0.1)(plain), wanted)


@pytest.mark.parametrize("logits", [autograd.LOGITS, 2000])
@pytest.mark.parametrize("z_loss", [0.0, 0.03])
def test_gradients_are_those_of_the_models_own_logits(
    z_loss: float, logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a slice of the logits at a time."""
    monkeypatch.setattr(autograd, "LOGITS", logits)
    torch.manual_seed(0)
    model = Decoder(capped())
    own = model(INPUTS)
    assert own.abs().max() <= CAP < model.lm_head(model.hidden(INPUTS)).max()
    plain = F.cross_entropy(own.flatten(0, 1), TARGETS.flatten(), reduction="sum")
    squares = torch.logsumexp(own, -1).square().sum()
    expected = torch.autograd.grad((plain + z_loss * squares) / 18, list(model.parameters()))
    weights = Weights(model)
    engine = AutogradEngine(model, PLAIN, "fp32", z_loss=z_loss)
    assert float(engine.nll(INPUTS, TARGETS).sum()) == pytest.approx(plain.item())
    assert float(engine.nll(INPUTS, TARGETS, 1 / 18).sum()) == pytest.approx(plain.item())
    for parameter, wanted in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(weights.of(weights.gradients, parameter), wanted)


def test_a_teacher_and_its_student_may_each_have_a_cap() -> None:
    torch.manual_seed(0)
    model, teacher = Decoder(capped()), Decoder(replace(ARCH, final_logit_softcapping=3.0))
    with torch.no_grad():
        wanted = F.softmax(teacher(INPUTS), -1)
    plain = F.cross_entropy(model(INPUTS).flatten(0, 1), wanted.flatten(0, 1), reduction="sum")
    expected = torch.autograd.grad(plain, list(model.parameters()))
    weights = Weights(model)
    teaching = Teaching(teacher, 1.0, 1.0, PLAIN, "fp32")
    AutogradEngine(model, PLAIN, "fp32", teaching).nll(INPUTS, TARGETS, 1.0)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(weights.of(weights.gradients, parameter), gradient)


def test_what_cannot_compute_it_says_so() -> None:
    run = Run(architecture=capped(), recipe=RECIPE, data_fingerprint="a")
    assert settle(Placement(device="cpu"), run).engine == "autograd"
    with pytest.raises(ValueError, match=r"final_logit_softcapping=5\.0"):
        config_of(capped())


@pytest.mark.parametrize("given", [-1, "30", True, float("inf")])
def test_a_cap_is_a_positive_number(given: object) -> None:
    with pytest.raises(ValueError, match=r"final_logit_softcapping must be (a number|positive)"):
        replace(ARCH, final_logit_softcapping=given)


def test_null_and_0_are_none() -> None:
    assert replace(ARCH, final_logit_softcapping=None) == ARCH
    assert replace(ARCH, final_logit_softcapping=0) == ARCH
