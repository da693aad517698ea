"""Gates on what attention returns."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from space.arch import Architecture
from space.model import Decoder

BASE = Architecture(
    vocab_size=64,
    hidden_size=24,
    num_blocks=2,
    num_attention_heads=3,
    num_key_value_heads=1,
    head_dim=8,
    intermediate_size=40,
)
IDS = torch.arange(20).reshape(2, 10)


def model(kind: Any) -> Any:
    torch.manual_seed(0)
    arch = Architecture.from_dict({**BASE.to_dict(), "attn_output_gate": kind})
    return Decoder(arch).eval()


def set_gates(decoder: Any, weight: float) -> None:
    for layer in decoder.model.layers:
        torch.nn.init.constant_(layer.self_attn.output_gate.weight, weight)


@pytest.mark.parametrize("kind", ["elementwise", "headwise"])
def test_half_open_gates_are_half_the_output_projection(kind: str) -> None:
    """sigmoid(0) is a half, which o_proj could have in its weights."""
    gated, plain = model(kind), Decoder(BASE).eval()
    set_gates(gated, 0.0)
    own = {k: v for k, v in gated.state_dict().items() if "output_gate" not in k}
    plain.load_state_dict({k: v / 2 if "o_proj" in k else v for k, v in own.items()})
    with torch.no_grad():
        assert torch.allclose(gated(IDS), plain(IDS), atol=1e-6)


def test_a_gate_per_head_is_one_per_channel_with_equal_rows() -> None:
    heads, channels = model("headwise"), model("elementwise")
    own = {k: v for k, v in heads.state_dict().items() if "output_gate" not in k}
    for name, weight in heads.state_dict().items():
        if "output_gate" in name:
            own[name] = weight.repeat_interleave(BASE.head_size, dim=0)
    channels.load_state_dict(own)
    with torch.no_grad():
        assert torch.allclose(heads(IDS), channels(IDS), atol=1e-6)


def test_a_switch_is_qwen3_nexts() -> None:
    on = Architecture.from_dict({**BASE.to_dict(), "attn_output_gate": True})
    assert on.value("attn_output_gate") == "elementwise"
    off = Architecture.from_dict({**BASE.to_dict(), "attn_output_gate": False})
    assert off == replace(BASE)
    with pytest.raises(ValueError, match="must be none, headwise or elementwise, but got 'heads'"):
        Architecture.from_dict({**BASE.to_dict(), "attn_output_gate": "heads"})
