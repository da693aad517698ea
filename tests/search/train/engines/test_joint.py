"""One product for matrices that read the same input, where layers are compiled by torch."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from model_fixtures import TINY
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.profiler import profile

from search.recipe import Recipe
from search.train.engines import engine_of
from search.train.engines.autograd import AutogradEngine
from search.train.engines.weights import Weights
from search.train.placement import Placement
from space.arch import Architecture
from space.model import Attention, Decoder

SHAPES: list[dict[str, Any]] = [
    {},
    {"attention_bias": True},
    {"qk_norm": True, "head_dim": 16},
    {"sharing": "immediate", "repeats": 2},
    {"sharing": "cycle", "repeats": 3, "sharing_scope": "ffn"},
    {"tie_word_embeddings": False},
    {"hidden_act": "relu"},
]
PLAIN = Placement(device="cpu", engine="autograd", compile="no", micro_batch=2)
COMPILED = replace(PLAIN, compile="yes")
RECIPE = Recipe(tokens=10**4, precision="fp32")


def decoder(**change: Any) -> tuple[Decoder, Weights]:
    """With visible weights, the same each time."""
    generator = torch.Generator().manual_seed(0)
    model = Decoder(Architecture(**{"num_blocks": 2, **TINY, **change}))
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=generator) * 0.1 + (p.ndim == 1)
    for module in model.modules():
        if isinstance(module, Attention):
            module.fused = False
    return model, Weights(model)


def ids() -> tuple[Tensor, Tensor]:
    """Four sequences, in two micro-batches."""
    drawn = torch.randint(97, (4, 24), generator=torch.Generator().manual_seed(1))
    return drawn[:, :-1].contiguous(), drawn[:, 1:].contiguous()


def learned(model: Decoder, weights: Weights, placement: Placement) -> tuple[Tensor, Tensor]:
    """The loss, and the gradients of two batches added up."""
    engine = engine_of(model, weights, placement, RECIPE)
    engine.nll(*ids(), 0.01)
    return engine.nll(*ids(), 0.01), weights.gradients.clone()


def products(work: Any) -> int:
    """Matrix products that are executed, those in attention aside."""
    with profile() as seen:
        work()
    return sum(event.count for event in seen.key_averages() if event.key in MATRIX_PRODUCTS)


MATRIX_PRODUCTS = ("aten::mm", "aten::addmm")


@pytest.mark.parametrize("change", SHAPES)
def test_matrices_side_by_side_are_those_apart(change: dict[str, Any]) -> None:
    apart = learned(*decoder(**change), PLAIN)
    model, weights = decoder(**change)
    weights.join(model)
    joint = learned(model, weights, PLAIN)
    torch.testing.assert_close(joint, apart, rtol=1e-5, atol=1e-6)
    for p in model.parameters():
        assert torch.equal(p.grad, weights.of(weights.gradients, p)), "named ones see it too"


@pytest.mark.slow
@pytest.mark.parametrize("change", SHAPES)
def test_compiled_layers_multiply_once_for_what_reads_the_same(change: dict[str, Any]) -> None:
    apart = learned(*decoder(**change), PLAIN)
    model, weights = decoder(**change)
    torch.compiler.reset()
    counters.clear()
    for layer in model.model.layers:
        layer.compile(dynamic=False)
    joint = learned(model, weights, COMPILED)
    torch.testing.assert_close(joint, apart, rtol=1e-5, atol=1e-6)
    assert counters["stats"]["unique_graphs"] == 2, "the layers' and the loss's, whatever weights"
    layers = model.arch.num_layers
    engine = engine_of(model, weights, COMPILED, RECIPE)
    engine.nll(*ids())
    assert products(lambda: engine.nll(*ids())) == 2 * (4 * layers + 1)
    assert products(lambda: engine.nll(*ids(), 0.01)) == 2 * 3 * (4 * layers + 1)


def test_only_what_is_compiled_multiplies_at_once() -> None:
    model, weights = decoder()
    engine = engine_of(model, weights, PLAIN, RECIPE)
    assert products(lambda: engine.nll(*ids())) == 2 * (7 * 2 + 1)
    assert all(m.joint is None for m in model.modules() if hasattr(m, "joint"))
    engine_of(model, weights, COMPILED, RECIPE)
    assert all(m.joint is not None for m in model.modules() if hasattr(m, "joint"))
    uncompiled = AutogradEngine(model, PLAIN, "fp32")
    assert products(lambda: uncompiled.nll(*ids())) == 2 * (4 * 2 + 1)
    assert products(lambda: uncompiled.nll(*ids(), 1.0)) == 2 * 3 * (4 * 2 + 1)


def test_names_and_parameters_stay() -> None:
    model, weights = decoder(attention_bias=True)
    before = {name: p.clone() for name, p in model.state_dict().items()}
    parameters = dict(model.named_parameters())
    weights.join(model)
    assert dict(model.named_parameters()).keys() == parameters.keys()
    assert all(p is parameters[name] for name, p in model.named_parameters())
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())


def test_a_step_of_the_optimizer_reaches_the_joint_matrices() -> None:
    model, weights = decoder()
    weights.join(model)
    attention: Any = model.model.layers[0].self_attn
    with torch.no_grad():
        attention.k_proj.weight.add_(1)
    assert attention.joint is not None
    assert torch.equal(attention.joint[0][32:48], attention.k_proj.weight)


def frozen(projection: nn.Linear) -> None:
    projection.weight.requires_grad_(False)


def hooked(projection: nn.Linear) -> None:
    projection.register_forward_hook(lambda module, inputs, output: 2 * output)


def overridden(projection: nn.Linear) -> None:
    projection.forward = lambda x: nn.functional.linear(x, 2 * projection.weight)  # type: ignore[method-assign]


@pytest.mark.parametrize("change", [frozen, hooked, overridden])
@pytest.mark.parametrize("name", ["self_attn.k_proj", "mlp.up_proj"])
def test_a_projection_that_is_more_than_its_matrix_stays_apart(change: Any, name: str) -> None:
    found = []
    for join in (False, True):
        model, weights = decoder()
        change(model.model.layers[1].get_submodule(name))
        if join:
            weights.join(model)
        found.append(learned(model, weights, PLAIN))
    half: Any = model.model.layers[1].get_submodule(name.split(".")[0])
    other: Any = model.model.layers[0].get_submodule(name.split(".")[0])
    assert half.joint is None
    assert other.joint is not None
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["self_attn.k_proj", "mlp.up_proj"])
def test_a_projection_that_is_replaced_trains_apart(name: str) -> None:
    """By two matrices in its place, which have no weight of their own."""
    model, _ = decoder()
    half: Any = model.model.layers[1].get_submodule(name.split(".")[0])
    replaced = half.get_submodule(name.split(".")[1])
    factors = [
        nn.Linear(TINY["hidden_size"], 8, bias=False),
        nn.Linear(8, replaced.out_features, bias=False),
    ]
    setattr(half, name.split(".")[1], nn.Sequential(*factors))
    weights = Weights(model)
    apart = learned(model, weights, PLAIN)
    weights.gradients.zero_()
    weights.join(model)
    assert half.joint is None
    torch.testing.assert_close(learned(model, weights, PLAIN), apart, rtol=1e-5, atol=1e-6)
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
