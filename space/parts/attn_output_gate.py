"""A gate on what attention returns, before its output projection.

    attn_output_gate: elementwise    y becomes y · sigmoid(W x), by a gate per channel of each head
    attn_output_gate: headwise       … by a gate per head

x is what queries, keys and values are made of. W is a matrix like theirs, counted and priced as
such; a block that several layers execute has one.

Source: Gated Attention for Large Language Models, arXiv:2505.06708, whose best place it is; `true`
is Qwen3-Next's, which is elementwise.
"""

from typing import TYPE_CHECKING, Any

from space.parts import Extra, Field, Part

if TYPE_CHECKING:
    from torch import Tensor

    from space.arch import Architecture, Shape
    from space.model import Decoder

NONE, ELEMENTWISE, HEADWISE = "none", "elementwise", "headwise"


def parse(given: Any) -> str:
    """One of the three; a switch as Qwen3-Next has it."""
    found = {True: ELEMENTWISE, False: NONE}[given] if isinstance(given, bool) else given
    if found not in (NONE, ELEMENTWISE, HEADWISE):
        raise ValueError(f"must be {NONE}, {HEADWISE} or {ELEMENTWISE}, but got {given!r}")
    return str(found)


class OutputGate(Part):
    """A matrix for each attention block."""

    fields = (Field("attn_output_gate", NONE, parse, "sigmoid gates on what attention returns"),)
    examples = ({"attn_output_gate": ELEMENTWISE}, {"attn_output_gate": HEADWISE})

    def attention(self, arch: "Architecture", shape: "Shape") -> Extra:
        width, heads, _, head_dim, _ = shape
        each = head_dim if arch.value("attn_output_gate") == ELEMENTWISE else 1
        return Extra(matrices=width * heads * each)

    def build(self, model: "Decoder") -> None:
        from torch import nn

        arch, layers = model.arch, list(model.model.layers)
        each = arch.head_size if arch.value("attn_output_gate") == ELEMENTWISE else 1
        attentions: list[Any] = list(dict.fromkeys(layer.self_attn for layer in layers))
        for attention in attentions:
            gates = arch.num_attention_heads * each
            attention.output_gate = nn.Linear(arch.hidden_size, gates, bias=False)
            attention.opened = attention.o_proj.opened = Opened()
            attention.register_forward_pre_hook(open_)
            attention.o_proj.register_forward_pre_hook(pass_through)


class Opened:
    """The gates of a pass, between the two hooks."""

    by: Any = None


def open_(attention: Any, inputs: "tuple[Tensor, ...]") -> None:
    attention.opened.by = attention.output_gate(inputs[0]).sigmoid()


def pass_through(o_proj: Any, inputs: "tuple[Tensor]") -> "Tensor":
    """What goes through: (B, T, N·H), by (B, T, N·H) or (B, T, N)."""
    (y,), gates, o_proj.opened.by = inputs, o_proj.opened.by, None
    of_each = y.view(*gates.shape, -1)
    result: Tensor = (of_each * gates.unsqueeze(-1)).view_as(y).to(y.dtype)
    return result


PART = OutputGate()
