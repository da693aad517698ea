"""In: a decoder from a folder, from the hub or from a model stored in another layout."""

import json
import re
from pathlib import Path

import torch

from space.arch import Architecture
from space.hf.config import architecture_from_config
from space.hf.errors import first_line
from space.hf.tokenizer import TOKENIZER_FILES
from space.hf.weights import INDEX, Tensors, fill, locate, require_room, sources_of, stored_tensors
from space.model import Decoder
from space.stored import Stored


def _of_a_key(source: str) -> str:
    return "; the key of a run has 16 digits" if re.fullmatch("[0-9a-f]{6,15}", source) else ""


def load(source: str | Path | Stored, dtype: torch.dtype = torch.float32) -> Decoder:
    """The decoder of a folder or a hub id: an export, a Llama-like checkpoint or MobileLLM's own
    layout; or of a model stored in a layout of its own.

    Raises:
        ValueError: an architecture that the decoder does not have, or tensors that are missing,
            damaged, of the wrong shape, unknown, or not equal where they are shared; each is named.
    """
    if isinstance(source, Stored):
        model = Decoder(source.architecture).to(dtype)
        names = {name: (name,) for name, _ in model.named_parameters()}
        fill(model, stored_tensors(source.weights), names, source.weights.parent)
    else:
        folder = find(source)
        arch, tensors = architecture_of(folder), Tensors(locate(folder))
        require_room(arch, tensors, folder)
        model = Decoder(arch).to(dtype)
        fill(model, tensors, sources_of(model, folder), folder)
    return model.eval()


def find(source: str | Path, files: tuple[str, ...] | None = None) -> Path:
    """The folder that a path or a hub id stands for; from the hub, only `files` where given.

    Raises:
        ValueError: it is neither, or cannot be downloaded.
    """
    path = Path(source)
    if path.is_dir():
        return path
    is_file = path.suffix in (".json", ".yaml", ".safetensors")  # by its name, not on a hub
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(source)) or path.exists() or is_file:
        raise ValueError(
            "a model must be a run, a folder or a hub id such as HuggingFaceTB/SmolLM2-135M, but "
            f"got {str(source)!r}, and there is no such folder{_of_a_key(str(source))}; "
            "python -m search.whose lists runs"
        )
    from huggingface_hub import snapshot_download

    wanted = files or ("*.safetensors", "config.json", INDEX, *TOKENIZER_FILES)
    try:
        return Path(snapshot_download(str(source), allow_patterns=list(wanted)))
    except Exception as error:  # of the hub, of the network, of the disk
        raise ValueError(
            f"{source} must be a folder, or a model on the hub that can be downloaded, but "
            f"{first_line(error)}"
        ) from None


def architecture_of(source: str | Path | Stored) -> Architecture:
    """The architecture of a folder, a `config.json`, a hub id or a stored model.

    Raises:
        ValueError: no configuration, or one of an architecture that the decoder does not have.
    """
    if isinstance(source, Stored):
        return source.architecture
    path = Path(source)
    if not path.is_file():
        path = find(source, files=("config.json",)) / "config.json"
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path.parent} must hold a config.json, but does not") from None
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} must be a model's config.json, but {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path} must be a model's config.json, but holds no object")
    return architecture_from_config(config, str(path))
