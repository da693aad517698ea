"""The kernels against torch's autograd: the same loss and the same gradients."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import LLAMA_3, architectures

from search.train.engines.autograd import AutogradEngine
from search.train.engines.kernels import KernelEngine
from search.train.engines.weights import Weights
from search.train.kernels import Unavailable, library
from search.train.placement import Placement
from space.arch import Architecture
from space.model import Attention, Decoder

try:
    library()
except Unavailable as reason:
    pytest.skip(f"no kernels: {reason}", allow_module_level=True)

HERE = Placement(device="cpu", compile="no", micro_batch=2)
TINY: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "num_blocks": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 72,
}
SHAPES: list[tuple[dict[str, Any], int]] = [
    ({}, 40),
    ({"head_dim": 32}, 130),
    ({"head_dim": 10}, 64),
    ({"head_dim": 80, "num_key_value_heads": 1}, 17),
    ({"attention_bias": True}, 65),
    ({"qk_norm": True}, 40),
    ({"hidden_act": "relu"}, 33),
    ({"hidden_act": "gelu", "intermediate_size": 70}, 33),
    ({"tie_word_embeddings": False, "hidden_size": 44, "head_dim": 16}, 33),
    ({"sharing": "immediate", "repeats": 2}, 33),
    ({"sharing": "cycle", "repeats": 3, "sharing_scope": "ffn"}, 33),
    ({"rope_scaling": LLAMA_3, "head_dim": 16}, 90),
]


def losses_and_gradients(
    arch: Architecture, length: int, precision: str, engine: str, threads: int = 1
) -> dict[str, torch.Tensor]:
    """Of a model with visible weights, on five sequences given in three micro-batches."""
    generator = torch.Generator().manual_seed(0)
    model = Decoder(arch)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=generator) * 0.1 + (p.ndim == 1)
    weights = Weights(model)
    for module in model.modules():
        if isinstance(module, Attention):
            module.fused = False
    built: Any = (
        KernelEngine(model, weights, replace(HERE, threads=threads), precision)
        if engine == "kernels"
        else AutogradEngine(model, HERE, precision)
    )
    ids = torch.randint(arch.vocab_size, (5, length + 1), generator=generator)
    nll = built.nll(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), 0.01)
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"nll": nll, **found}


def error(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> dict[str, float]:
    """Of each tensor, relative to its size."""
    assert found.keys() == wanted.keys()
    return {name: float((found[name] - w).norm() / w.norm()) for name, w in wanted.items()}


def flat_gradient(found: dict[str, torch.Tensor]) -> torch.Tensor:
    """Of all weights together."""
    return torch.cat([gradient.flatten() for name, gradient in found.items() if name != "nll"])


@pytest.mark.parametrize(("change", "length"), SHAPES)
def test_in_float32_the_kernels_are_autograd(change: dict[str, Any], length: int) -> None:
    arch = Architecture(**{**TINY, **change})
    wanted = losses_and_gradients(arch, length, "fp32", "autograd")
    found = losses_and_gradients(arch, length, "fp32", "kernels")
    assert max(error(found, wanted).values()) < 1e-5


@settings(max_examples=25)
@given(arch=architectures(parts=["ffn_scaling"]), length=st.integers(1, 70))
def test_in_float32_the_kernels_are_autograd_for_any_architecture(
    arch: Architecture, length: int
) -> None:
    """Beside the whole gradient, for parts of it vanish in exact arithmetic, as that of a single
    position's query. A few numbers may all be near zero, where the norm's slope of up to
    1 / sqrt(eps) = 1000 enlarges any rounding: hence a width of eight at least. Of one token alone
    all of it vanishes. And no ReLU (tested above): its slope jumps where rounding may decide the
    sign."""
    assume(arch.hidden_size >= 8 and arch.vocab_size > 1 and arch.hidden_act != "relu")
    wanted = losses_and_gradients(arch, length, "fp32", "autograd")
    found = losses_and_gradients(arch, length, "fp32", "kernels")
    torch.testing.assert_close(found["nll"], wanted["nll"], rtol=1e-4, atol=1e-5)
    exact = flat_gradient(wanted)
    assert (flat_gradient(found) - exact).norm() <= 1e-4 * exact.norm() + 1e-9


@pytest.mark.parametrize(("change", "length"), SHAPES)
def test_in_bf16_the_kernels_err_no_more_than_autocast(change: dict[str, Any], length: int) -> None:
    """Both against the float32 gradient, over all weights; rounding differs, so a fifth is
    allowed."""
    arch = Architecture(**{**TINY, **change})
    exact = losses_and_gradients(arch, length, "fp32", "autograd")

    def distance(engine: str) -> float:
        found = flat_gradient(losses_and_gradients(arch, length, "bf16", engine))
        return float((found - flat_gradient(exact)).norm())

    assert 0 < distance("kernels") < 1.2 * distance("autograd")


def test_the_future_does_not_reach_the_past() -> None:
    """Exactly: changing the last token changes no earlier loss."""
    arch = Architecture(**TINY)
    model = Decoder(arch)
    engine = KernelEngine(model, Weights(model), HERE, "bf16")
    ids = torch.randint(97, (1, 100))
    other = ids.clone()
    other[0, -1] = (other[0, -1] + 1) % 97
    targets = torch.randint(97, (1, 100))
    assert torch.equal(engine.nll(ids, targets)[:, :-1], engine.nll(other, targets)[:, :-1])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_threads_give_the_same_gradient_and_each_number_of_them_the_same_bits(
    precision: str,
) -> None:
    """Whichever thread ends first; two and more of them add micro-batches up in another order."""
    arch, tolerance = Architecture(**TINY), {"fp32": 1e-6, "bf16": 1e-2}[precision]
    before = torch.get_num_threads()
    one = losses_and_gradients(arch, 40, precision, "kernels", threads=1)
    for threads in (2, 3, 5):
        some = losses_and_gradients(arch, 40, precision, "kernels", threads=threads)
        again = losses_and_gradients(arch, 40, precision, "kernels", threads=threads)
        assert all(torch.equal(some[name], again[name]) for name in some)
        assert max(error(some, one).values()) < tolerance
    assert torch.get_num_threads() == before


def test_weights_side_by_side_keep_their_names_and_values() -> None:
    model = Decoder(Architecture(**TINY, attention_bias=True))
    before = copy.deepcopy(model.state_dict())
    weights = Weights(model)
    attention = model.model.layers[0].self_attn
    stacked = weights.of(
        weights.values, *(attention.get_parameter(f"{n}_proj.weight") for n in "qkv")
    )
    assert torch.equal(stacked[:48], before["model.layers.0.self_attn.q_proj.weight"])
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    weights.values.zero_()
    assert all(not value.any() for value in model.state_dict().values())
