"""A bias on attention's output projection, beside those of `attention_bias`.

Llama, Qwen3 and Arcee have it wherever a `config.json` of theirs says `attention_bias`; Qwen2 has
biases on queries, keys and values alone, and Mistral has none, whatever its file says. It is there
so that checkpoints are read as what they are.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from space.parts import Extra, Field, Part

if TYPE_CHECKING:
    from space.arch import Architecture, Shape
    from space.model import Decoder

KINDS = ("llama", "qwen3", "arcee")
"""Models of `transformers` whose `attention_bias` is this one too."""


def _parse(given: Any) -> bool:
    if not isinstance(given, bool):
        raise ValueError(f"must be true or false, but got {given!r}")
    return given


class OutputBias(Part):
    """A vector for each attention block."""

    fields = (
        Field(
            name="output_bias",
            default=False,
            parse=_parse,
            meaning="whether attention's output projection has a bias, too",
        ),
    )
    examples = ({"output_bias": True},)

    def attention(self, arch: "Architecture", shape: "Shape") -> Extra:
        return Extra(vectors=shape.hidden_size)

    def build(self, model: "Decoder") -> None:
        """Blocks that several layers execute get theirs once."""
        import torch
        from torch import nn

        layers: Any = model.model.layers
        for attention in {id(a): a for a in (layer.self_attn for layer in layers)}.values():
            weight = attention.o_proj.weight
            bias = torch.zeros(model.arch.hidden_size, dtype=weight.dtype, device=weight.device)
            attention.o_proj.bias = nn.Parameter(bias)

    def export(self, arch: "Architecture", config: dict[str, Any]) -> dict[str, Any]:
        """Qwen2's kind becomes Llama's; Qwen3 and Arcee have it."""
        kept = config | {"isoparam": config["isoparam"] | {"output_bias": True}}
        if arch.attention_bias and config["model_type"] in KINDS:
            return kept
        divides = arch.hidden_size % arch.num_attention_heads == 0
        if arch.attention_bias and config["model_type"] == "qwen2" and divides:
            classes = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
            return kept | classes | {"mlp_bias": False}
        return super().export(arch, config)

    def read(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """An export of ours says whether it has one: its model of `transformers` may need zeros."""
        theirs = config["model_type"] in KINDS and bool(config.get("attention_bias"))
        own = config.get("isoparam")
        return {"output_bias": theirs if own is None else own.get("output_bias", False)}


PART = OutputBias()
