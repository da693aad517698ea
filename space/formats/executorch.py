"""ExecuTorch: a program for phones, its matrices multiplied by XNNPACK, with a fixed cache.

Weights are float32, or by torchao of 8 bits (`8da8w`) or of 4 bits in groups of 32 (`8da4w`), with
activations rounded to 8 bits as they come. A shared block is one module, whose weights the file
holds once. XNNPACK packs them anew for each layer that uses them, so that memory is that of a model
without sharing. The output matrix is stored apart from the embedding, which has 8 bits where
weights are rounded.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from space.arch import Architecture
from space.formats import OneFile, require_known
from space.formats.gguf import KNOWN, require_groups

if TYPE_CHECKING:
    from torch import Tensor, nn

    from space.formats._on_device import OnDevice
    from space.model import Decoder

FILE = "model.pte"
LAYERS = (
    "Layers that share a block read the same weights of `model.pte`; the layer map is in "
    "`isoparam.json`. The program takes token ids (1, T) and their positions (T,), keeps keys and "
    "values, and gives the logits (1, 1, V) that follow the last token."
)
PARTS = ("ffn_scaling", "sliding_window")
"""Parts that the program computes."""


class ExecuTorch(OneFile):
    """`format=executorch`."""

    title = "ExecuTorch"
    precisions = ("fp32", "8da8w", "8da4w")
    package = extra = library = "executorch"
    layers = LAYERS

    def require(self, arch: Architecture, precision: str) -> None:
        require_known(arch, KNOWN, "ExecuTorch", PARTS)
        if precision == "8da4w":
            require_groups(arch, precision, "fp32")

    def fill(
        self, model: "Decoder", folder: Path, tokenizer: Any, precision: str, room: int | None
    ) -> None:
        from space.hf.tokenizer import write_tokenizer

        write_tokenizer(tokenizer, folder, model.arch)
        content = program(model, precision, room or model.arch.max_position_embeddings)
        (folder / FILE).write_bytes(content)


def program(model: "Decoder", precision: str, room: int) -> bytes:
    """The content of a `.pte` whose cache has room for so many tokens."""
    with quiet():  # imports have their say too
        import torch
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

    from space.formats._on_device import OnDevice

    with quiet(), torch.no_grad():
        copied = OnDevice(deepcopy(model).float().eval(), room)
        copied.requires_grad_(False)
        quantise(copied, precision)
        length = torch.export.Dim("T", min=1, max=room - 1)
        example = (torch.zeros(1, 2, dtype=torch.long), torch.arange(2))
        shapes = ({1: length}, {0: length})
        exported = torch.export.export(copied, example, dynamic_shapes=shapes, strict=False)
        lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
        return bytes(lowered.to_executorch().buffer)


def quantise(module: "OnDevice", precision: str) -> None:
    """Replace the weights of matrices, each once, and of the embedding by those of a precision."""
    if precision == "fp32":
        return
    import torch
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, quantize_
    from torchao.quantization.granularity import PerAxis, PerGroup

    whole = Int8DynamicActivationIntxWeightConfig(
        weight_dtype=torch.int8, weight_granularity=PerAxis(0)
    )
    groups = Int8DynamicActivationIntxWeightConfig(
        weight_dtype=torch.int4,  # type: ignore[attr-defined]
        weight_granularity=PerGroup(32),
    )
    inside = whole if precision == "8da8w" else groups
    quantize_(module, whole, filter_fn=once(lambda name: name.endswith("lm_head")))
    quantize_(module, inside, filter_fn=once(lambda name: not name.endswith("lm_head")))
    stack: Any = module.decoder.model
    stack.embed_tokens = rounded_rows(stack.embed_tokens)


def rounded_rows(embedding: "nn.Embedding") -> "nn.Module":
    """The embedding with 8 bits for a weight and a float32 scale for each row.

    It is of torch's common operations, so that a runtime needs no kernels for quantised embeddings.
    """
    from torch import nn
    from torch.nn import functional as F

    class Rows(nn.Module):
        def __init__(self, weight: "Tensor") -> None:
            super().__init__()
            scales = (weight.abs().amax(1, keepdim=True) / 127).clamp(min=1e-9)
            self.register_buffer("scales", scales)
            self.register_buffer("rows", (weight / scales).round().char())

        def forward(self, ids: "Tensor") -> "Tensor":
            rows = F.embedding(ids, self.rows).float()  # type: ignore[arg-type]
            return rows * F.embedding(ids, self.scales)  # type: ignore[arg-type]

    return Rows(embedding.weight.detach())


def once(wanted: Callable[[str], bool]) -> Callable[[Any, str], bool]:
    """Whether a module is a matrix of the wanted names that was not seen: a shared one has several
    names, and would be quantised again under each."""
    from torch import nn

    seen: set[int] = set()

    def takes(module: Any, name: str) -> bool:
        if not isinstance(module, nn.Linear) or not wanted(name) or id(module) in seen:
            return False
        seen.add(id(module))
        return True

    return takes


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters tell of their passes."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


FORMAT = ExecuTorch()
