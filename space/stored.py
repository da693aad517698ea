"""A model stored in its own layout, such as a run's; and what an export was made of."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from space.arch import Architecture

ORIGIN = "isoparam.json"
"""In an export without a `config.json`: its architecture, and how weights are kept."""


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


def read_origin(folder: Path) -> Architecture:
    """What an export was made of.

    Raises:
        ValueError: it does not say.
    """
    path = folder / ORIGIN
    try:
        return Architecture.from_dict(json.loads(path.read_text())["architecture"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path} must describe an architecture, but does not: {error}") from None
