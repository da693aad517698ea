"""For `transformers`: a plain model, with layers that share a block written out."""

from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from space.arch import Architecture
from space.formats import Format

if TYPE_CHECKING:
    from space.model import Decoder


class HuggingFace(Format):
    """`space.hf`, as a format."""

    title = "transformers"
    precisions = ("fp32", "fp16", "bf16")
    package = "transformers"

    def require(self, arch: Architecture, precision: str) -> None:
        from space.hf import config_of

        config_of(arch)

    def write(
        self,
        model: "Decoder",
        folder: Path,
        tokenizer: Any = None,
        record: Any = None,
        precision: str = "fp32",
        room: int | None = None,
    ) -> Path:
        import torch

        from space.hf import export

        types = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
        return export(deepcopy(model).to(types[precision]), folder, tokenizer, record)


FORMAT = HuggingFace()
