"""Low-rank differences of its own for each layer that executes a block.

    layer_lora: 8        a matrix W of a block becomes W + B A, of rank 8, with A and B of the layer

A block that several layers share is then relaxed: the layers may differ by a little. Each of the
matrices of a layer has one (q, k, v, o, gate, up, down), in layers whose block is not shared too,
where it adds nothing that the block could not learn. Both factors are drawn and scaled like other
matrices inside layers; where residual branches start closed, so do those of o and down. The second
is kept transposed, (rank, outputs): a rate by its rank as fan-in would be 50 times the others'.

Source: Relaxed Recursive Transformers, arXiv:2410.20672, section 3.2, whose factors come from the
singular vectors of a trained model instead.
"""

from typing import TYPE_CHECKING, Any

from space.parts import Extra, Field, Part

if TYPE_CHECKING:
    from torch import Tensor, nn

    from space.arch import Architecture, Shape
    from space.model import Decoder

BRANCHES = ("o_proj", "down_proj")


def parse(given: Any) -> int:
    """A rank; 0 for none."""
    if isinstance(given, bool) or not isinstance(given, int) or given < 0:
        raise ValueError(f"must be a rank, a whole number from 0 on, but got {given!r}")
    return given


class LayerLora(Part):
    fields = (Field("layer_lora", 0, parse, "rank of each layer's own difference to its block"),)
    examples = ({"layer_lora": 1}, {"layer_lora": 5})

    def check(self, arch: "Architecture") -> None:
        if len(set(arch.ffn_widths)) > 1:
            raise ValueError(
                f"layer_lora must come with FFNs of one width, but got {list(arch.ffn_widths)}; "
                "leave ffn_scaling or layer_lora out"
            )

    def stack(self, arch: "Architecture", shape: "Shape") -> Extra:
        """All layers' factors: each is used once per token, whatever the blocks are."""
        width, query, kv, head_dim, ffn = shape
        attention = 2 * (width + query * head_dim) + 2 * (width + kv * head_dim)
        matrices = arch.ffn_matrices
        rank = arch.value("layer_lora")
        return Extra(matrices=arch.num_layers * rank * (attention + matrices * (width + ffn)))

    def build(self, model: "Decoder") -> None:
        rank = model.arch.value("layer_lora")
        layers: list[Any] = list(model.model.layers)
        for layer in layers:
            layer.lora = factors(layer, rank)
            layer.register_forward_pre_hook(enter)
        for matrix in dict.fromkeys(matrix for x in layers for _, matrix in matrices(x)):
            matrix.register_forward_hook(differ)


def matrices(layer: Any) -> "list[tuple[str, nn.Linear]]":
    """Those of the block that a layer executes, by name."""
    halves = (layer.self_attn, layer.mlp)
    return [(n, m) for half in halves for n, m in half.named_children() if n.endswith("_proj")]


def names(matrix: str) -> tuple[str, str]:
    """Of the two factors of a matrix. The second of a residual branch has the matrix's name, since
    it ends the branch, and the first has not."""
    stem = matrix.removesuffix("_proj")
    return f"{stem}_in", matrix if matrix in BRANCHES else f"{stem}_out"


def factors(layer: Any, rank: int) -> "nn.ModuleDict":
    """A and B of each matrix of a layer."""
    import torch
    from torch import nn

    class Last(nn.Module):
        """B, transposed."""

        def __init__(self, outputs: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(rank, outputs))

        def forward(self, x: "Tensor") -> "Tensor":
            result: Tensor = x @ self.weight
            return result

    found = nn.ModuleDict()
    for name, matrix in matrices(layer):
        first, last = names(name)
        found[first] = nn.Linear(matrix.in_features, rank, bias=False)
        found[last] = Last(matrix.out_features)
    return found


def enter(layer: Any, inputs: Any) -> None:
    """Give the matrices of the block the factors of the layer that executes it now."""
    for name, matrix in matrices(layer):
        first, last = names(name)
        object.__setattr__(matrix, "factors", (layer.lora[first], layer.lora[last]))


def differ(matrix: Any, inputs: "tuple[Tensor]", output: "Tensor") -> "Tensor":
    """What the block's matrix returns, and the layer's difference."""
    first, last = matrix.factors
    result: Tensor = output + last(first(inputs[0]))
    return result


PART = LayerLora()
