"""A model stored in its own layout, such as a run's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from space.arch import Architecture


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Where the parts of a model are. `space.hf` reads and exports one like any folder."""

    architecture: Architecture
    weights: Path
    """Safetensors: a tensor for each parameter, under the decoder's name for it."""
    tokenizer: Callable[[], Path]
    """Its tokenizer.json or the folder of its tokenizer; raises ValueError where there is none."""
    record: Mapping[str, Any] | None = None
    """Of the run that made it, for the model card."""
