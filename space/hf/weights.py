"""Tensors of a checkpoint: written in shards; read, checked one by one, into a decoder."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from space.arch import Architecture
from space.cost import cost
from space.hf.config import kind_of, read_config
from space.hf.errors import first_line
from space.model import Decoder

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def write_weights(model: Decoder, folder: Path) -> None:
    """Every layer's tensors, copies of shared ones too, in shards of at most 5 GB."""
    from huggingface_hub import save_torch_state_dict

    tensors = {name: t.detach().cpu().clone() for name, t in model.state_dict().items()}
    if model.arch.tie_word_embeddings:
        del tensors["lm_head.weight"]
    if model.arch.attention_bias and kind_of(model.arch) in ("qwen3", "arcee"):
        for layer in range(model.arch.num_layers):  # their bias is on the output projection, too
            name = f"model.layers.{layer}.self_attn.o_proj"
            weight = tensors[f"{name}.weight"]
            tensors.setdefault(f"{name}.bias", torch.zeros(len(weight), dtype=weight.dtype))
    save_torch_state_dict(tensors, folder, metadata={"format": "pt"})


class Tensors:
    """The tensors of a checkpoint by name, read when they are asked for."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self.files = files

    def __contains__(self, name: str) -> bool:
        return name in self.files

    def __getitem__(self, name: str) -> Tensor:
        with _opened(self.files[name]) as file:
            return file.get_tensor(name)  # type: ignore[no-any-return]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(str(path), framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} must be a whole safetensors file, but {first_line(error)}; copy it again"
        ) from None


def stored_tensors(path: Path) -> Tensors:
    """All tensors of one file."""
    return Tensors({name: path for name in _names(path)})


def _names(path: Path) -> list[str]:
    with _opened(path) as file:
        return list(file.keys())


def locate(folder: Path) -> dict[str, Path]:
    """The file of each tensor."""
    if (folder / INDEX).is_file():
        try:
            weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{folder / INDEX} must have a weight_map, but has not") from None
        _require_inside(weight_map, folder)
        files = {folder / name for name in weight_map.values()}
        if absent := sorted(path.name for path in files if not path.is_file()):
            raise ValueError(f"{folder} must hold every shard, but {', '.join(absent)} is missing")
        found = {path: set(_names(path)) for path in files}
        for name, file in weight_map.items():
            if name not in found[folder / file]:
                raise ValueError(
                    f"{folder / file} must hold {name}, as its index says, but does not"
                )
        return {name: folder / file for name, file in weight_map.items()}
    if (folder / WEIGHTS).is_file():
        return {name: folder / WEIGHTS for name in _names(folder / WEIGHTS)}
    pickles = sorted(p.name for p in folder.glob("*") if p.suffix in (".bin", ".pt", ".pth"))
    if pickles:
        raise ValueError(
            f"{folder} must hold safetensors, but has {pickles[0]}, a pickle, which can run any "
            "code when it is read; where you trust it, convert it once with transformers: "
            "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"
        )
    raise ValueError(f"{folder} must hold {WEIGHTS} or {INDEX}, but has neither")


def _require_inside(weight_map: Any, folder: Path) -> None:
    """Raises: ValueError where an index names files that are not in its folder."""
    names = weight_map.values() if isinstance(weight_map, dict) else [weight_map]
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or name == "..":
            raise ValueError(
                f"{folder / INDEX} must name files of its own folder, but has {name!r:.80}"
            )


def require_room(arch: Architecture, tensors: Tensors, folder: Path) -> None:
    """Raises: ValueError where an architecture has more weights than its files can hold: before
    memory is taken for them."""
    held = sum(path.stat().st_size for path in set(tensors.files.values()))
    weights = cost(arch).parameters
    if weights > 2 * held:  # no number takes less than half a byte
        raise ValueError(
            f"{folder} must hold the {weights:,} weights that its configuration says, but its "
            f"files have {held:,} bytes"
        )


def sources_of(model: Decoder, folder: Path) -> dict[str, tuple[str, ...]]:
    """The names in the checkpoint of each parameter: one for every layer that executes it."""
    mobile = read_config(folder).get("model_type") == "mobilellm"
    tied = model.arch.tie_word_embeddings
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if not (tied and name == "lm_head.weight"):
            names.setdefault(id(parameter), []).append(name)
    sources = {}
    for name, parameter in model.named_parameters():
        theirs = names[id(parameter)]
        if mobile:  # its layers are blocks
            theirs = [_name_of_block(name, model.arch)]
        sources[name] = tuple(theirs)
    return sources


def _name_of_block(name: str, arch: Architecture) -> str:
    return re.sub(r"layers\.(\d+)\.", lambda m: f"layers.{arch.layers[int(m[1])][0]}.", name)


def fill(
    model: Decoder, tensors: Tensors, sources: Mapping[str, tuple[str, ...]], folder: Path
) -> None:
    """Copy the tensors into the model, each checked."""
    known = {name for names in sources.values() for name in names}
    _check_extras(tensors, known, model, folder)
    for name, parameter in model.named_parameters():
        first = None
        for theirs in sources[name]:
            if theirs not in tensors:
                raise ValueError(f"{folder} must hold the tensor {theirs}, but does not")
            tensor = tensors[theirs]
            if tensor.shape != parameter.shape:
                raise ValueError(
                    f"{folder}: {theirs} must have the shape {tuple(parameter.shape)}, as the "
                    f"configuration says, but has {tuple(tensor.shape)}"
                )
            if first is None:
                first = tensor
            elif not torch.equal(first, tensor):
                raise ValueError(
                    f"{folder}: {theirs} must equal {sources[name][0]}, with which the layer map "
                    "shares it, but does not; remove isoparam from config.json to load the layers "
                    "unshared"
                )
        assert first is not None, "every parameter has a source"
        with torch.no_grad():
            parameter.copy_(first)


def _check_extras(tensors: Tensors, known: set[str], model: Decoder, folder: Path) -> None:
    """Tensors that the model has no parameter for are harmless only where they say nothing new."""
    for name in sorted(set(tensors.files) - known):
        if name.endswith("rotary_emb.inv_freq"):
            continue
        if name == "lm_head.weight" and model.arch.tie_word_embeddings:
            if torch.equal(tensors[name], tensors["model.embed_tokens.weight"]):
                continue
            raise ValueError(
                f"{folder}: lm_head.weight must equal model.embed_tokens.weight, since the "
                "configuration ties them, but does not; set tie_word_embeddings to false"
            )
        if name.endswith("o_proj.bias") and model.arch.attention_bias:
            if not tensors[name].any():
                continue
            raise ValueError(
                f"{folder}: {name} must be zero, for the decoder has no bias on the output "
                "projection, but is not"
            )
        raise ValueError(f"{folder} must hold the model's tensors alone, but has {name}")
