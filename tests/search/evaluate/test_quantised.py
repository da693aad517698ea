"""Rounded models against torch's own quantised tensors and against the decoder."""

from typing import Any

import pytest
import torch
from model_fixtures import TINY, randomise

from search.evaluate.quantised import (
    FORMS,
    quantised,
    rounded_tokens,
    rounded_weights,
    stored_bytes,
)
from space.arch import Architecture
from space.cost import cost
from space.model import Decoder

IDS = torch.tensor([[5, 17, 33, 90, 8, 41, 3, 7]])


def built(**fields: Any) -> Decoder:
    model = Decoder(Architecture(**{**TINY, "num_blocks": 2, **fields})).eval()
    randomise(model)
    return model


def test_weights_of_8_bits_are_those_of_torchs_quantised_tensor() -> None:
    weight = torch.randn(7, 64)
    scales = (weight.abs().amax(1) / 127).double()
    theirs = torch.quantize_per_channel(weight, scales, torch.zeros(7), 0, torch.qint8)
    torch.testing.assert_close(rounded_weights(weight, "w8a8"), theirs.dequantize())


def test_weights_of_4_bits_have_15_values_in_each_group_of_32() -> None:
    weight = torch.randn(5, 96)
    found = rounded_weights(weight, "w4")
    for group, before in zip(found.reshape(-1, 32), weight.reshape(-1, 32), strict=True):
        steps = group / (before.abs().max() / 7)
        torch.testing.assert_close(steps, steps.round(), atol=1e-4, rtol=0)
        assert steps.abs().max() == pytest.approx(7, abs=1e-4)


def test_activations_are_those_of_torchs_quantised_tensor_token_by_token() -> None:
    tokens = torch.randn(4, 3, 64) * torch.tensor([1.0, 10.0, 0.1, 3.0])[:, None, None]
    both = rounded_tokens(tokens).reshape(-1, 64), tokens.reshape(-1, 64)
    for found, token in zip(*both, strict=True):
        scale = float(token.max() - token.min()) / 255
        zero = round(-float(token.min()) / scale)
        theirs = torch.quantize_per_tensor(token, scale, zero, torch.quint8).dequantize()
        torch.testing.assert_close(found, theirs)


@torch.no_grad()
def test_eight_bits_cost_less_than_four_and_the_reference_nothing() -> None:
    model = built(sharing="cycle", repeats=2)
    plain = model(IDS)
    apart = {form: float((quantised(model, form)(IDS) - plain).norm()) for form in FORMS}
    assert apart["fp16"] == 0
    assert 0 < apart["w8a8"] < apart["w4"] < float(plain.norm())


def test_a_shared_and_a_tied_matrix_stay_one_and_the_model_stays_as_it_is() -> None:
    model = built(sharing="immediate", repeats=2)
    before = {name: p.clone() for name, p in model.named_parameters()}
    made = quantised(model, "w4")
    assert made.lm_head.weight is made.model.embed_tokens.weight
    assert made.model.layers[0].mlp is made.model.layers[1].mlp
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("fields", [{}, {"tie_word_embeddings": False}, {"sharing": "all"}])
def test_bytes_are_those_of_distinct_weights(fields: dict[str, Any]) -> None:
    if fields.get("sharing") == "all":
        fields = {**fields, "num_blocks": 1, "repeats": 3}
    model = built(**fields)
    parameters = cost(model.arch).parameters
    assert stored_bytes(model, "fp16") == 2 * parameters
    assert 1.0 < stored_bytes(model, "w8a8") / parameters < 1.2
    assert 0.5 < stored_bytes(model, "w4") / parameters < 0.7
