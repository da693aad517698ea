"""Hugging Face in and out: a folder that `transformers` loads, and a decoder from one.

What leaves is a plain model: layers that share a block are written out, each with weights of its
own, and `config.json` keeps the layer map under `isoparam`. What comes in gets the sharing back,
once the copies are found equal. Nothing of a checkpoint is executed: safetensors only, and never
`trust_remote_code`.

| architecture | leaves as |
| --- | --- |
| SwiGLU | Llama |
| SwiGLU, heads that do not divide the width | Mistral, for Llama's configuration refuses them |
| SwiGLU, `attention_bias` | Qwen2 |
| SwiGLU, `qk_norm` (and `attention_bias`) | Qwen3 |
| `relu` or `gelu` FFN of two matrices (and `attention_bias`) | Arcee |
| the same with `qk_norm`, or heads that do not divide the width | refused: no such model |
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from space.arch import Architecture, RopeScaling
from space.cost import cost
from space.model import Decoder

SUPPORTED = ("llama", "mistral", "qwen2", "qwen3", "arcee", "mobilellm")
CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "arcee": "ArceeForCausalLM",
}
REQUIRED = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
)
SHARING = ("sharing", "repeats", "sharing_scope", "norms", "num_blocks", "layer_map")
"""Fields of an architecture that `config.json` keeps under `isoparam`."""
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
RUN_WEIGHTS = "weights.safetensors"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
END_TOKENS = ("<|end|>", "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>")
"""Names of the token between documents, the first that a bare tokenizer.json has being taken."""


# --- Out ------------------------------------------------------------------------------------------


def export(
    model: Decoder,
    folder: str | Path,
    tokenizer: Any = None,
    record: Mapping[str, Any] | Any | None = None,
) -> Path:
    """The folder, written as a whole or not at all: configuration, safetensors, tokenizer,
    generation configuration, model card.

    Args:
        model: a decoder; the weights keep their type.
        folder: new, empty, or an earlier export, which is replaced.
        tokenizer: a tokenizer.json, a folder of tokenizer files, a `tokenizers.Tokenizer` or a
            tokenizer of `transformers`.
        record: of the run that made the model, for the card; a mapping or what has `to_dict`.

    Raises:
        ValueError: an architecture that `transformers` has no model for, a folder that holds
            something else, or a tokenizer that cannot be read or does not fit the vocabulary.
    """
    config = config_of(model.arch)
    folder = Path(folder)
    _check_replaceable(folder)
    with _half_made(folder) as part:
        ends = _write_tokenizer(tokenizer, part, model.arch)
        _write_json(part / "config.json", config | ends)
        _write_json(part / "generation_config.json", ends | {"do_sample": False})
        _write_weights(model, part)
        (part / "README.md").write_text(model_card(model.arch, record))
    return folder


def config_of(arch: Architecture) -> dict[str, Any]:
    """`config.json` of an architecture: the plain model of its unrolled layers, and its sharing.

    Raises:
        ValueError: `transformers` has no model of this kind.
    """
    kind = _kind(arch)
    scaling = asdict(arch.rope_scaling) if arch.rope_scaling else {}
    values = {
        "architectures": [CLASSES[kind]],
        "model_type": kind,
        "vocab_size": arch.vocab_size,
        "hidden_size": arch.hidden_size,
        "num_hidden_layers": arch.num_layers,
        "num_attention_heads": arch.num_attention_heads,
        "num_key_value_heads": arch.kv_heads,
        "head_dim": arch.head_size,
        "intermediate_size": arch.intermediate_size,
        "hidden_act": arch.hidden_act,
        "tie_word_embeddings": arch.tie_word_embeddings,
        "rms_norm_eps": arch.rms_norm_eps,
        "rope_theta": arch.rope_theta,  # as transformers before version 5 reads it
        "rope_scaling": scaling or None,  # likewise
        "rope_parameters": {"rope_type": "default", "rope_theta": arch.rope_theta} | scaling,
        "max_position_embeddings": arch.max_position_embeddings,
        "attention_bias": arch.attention_bias,
        "attention_dropout": 0.0,
        "use_cache": True,
        "bos_token_id": None,
        "eos_token_id": None,
        "isoparam": {name: arch.to_dict()[name] for name in SHARING},
    }
    values |= {"mlp_bias": False} if kind in ("llama", "arcee") else {}
    return values | ({"sliding_window": None} if kind == "mistral" else {})


def _kind(arch: Architecture) -> str:
    if not arch.gated and arch.qk_norm:
        raise ValueError(
            "an architecture must be one that transformers has a model for, but none has an FFN "
            f"of two matrices (hidden_act={arch.hidden_act}) together with qk_norm; give up one"
        )
    divides = arch.hidden_size % arch.num_attention_heads == 0
    if not arch.gated and not divides:
        raise ValueError(
            "an architecture must be one that transformers has a model for, but its only one with "
            f"an FFN of two matrices (hidden_act={arch.hidden_act}) wants num_attention_heads to "
            f"divide hidden_size, and got {arch.num_attention_heads} and {arch.hidden_size}"
        )
    if not arch.gated:
        return "arcee"
    if arch.qk_norm:
        return "qwen3"
    if arch.attention_bias:
        return "qwen2"
    return "llama" if divides else "mistral"


def _write_weights(model: Decoder, folder: Path) -> None:
    """Every layer's tensors, copies of shared ones too, in shards of at most 5 GB."""
    from huggingface_hub import save_torch_state_dict

    tensors = {name: t.detach().cpu().clone() for name, t in model.state_dict().items()}
    if model.arch.tie_word_embeddings:
        del tensors["lm_head.weight"]
    if model.arch.attention_bias and _kind(model.arch) in ("qwen3", "arcee"):
        for layer in range(model.arch.num_layers):  # their bias is on the output projection, too
            name = f"model.layers.{layer}.self_attn.o_proj"
            weight = tensors[f"{name}.weight"]
            tensors[f"{name}.bias"] = torch.zeros(len(weight), dtype=weight.dtype)
    save_torch_state_dict(tensors, folder, metadata={"format": "pt"})


def _write_tokenizer(tokenizer: Any, folder: Path, arch: Architecture) -> dict[str, int]:
    """The tokenizer's files; the ids of its first and last token, as configurations name them."""
    if tokenizer is None:
        return {}
    if hasattr(tokenizer, "save_pretrained"):
        tokenizer.save_pretrained(folder)
    elif hasattr(tokenizer, "to_str"):
        _write_bare_tokenizer(tokenizer, folder, arch)
    elif (path := Path(tokenizer)).is_dir():
        _copy_tokenizer(path, folder, arch)
    else:
        _write_bare_tokenizer(_read_tokenizer(path), folder, arch)
    written = load_tokenizer(folder)
    if (largest := max(written.get_vocab().values())) >= arch.vocab_size:
        raise ValueError(
            f"the tokenizer's ids must lie below the model's vocab_size, {arch.vocab_size}, but "
            f"one is {largest}; give the tokenizer that the model was trained with"
        )
    ends = {"bos_token_id": written.bos_token_id, "eos_token_id": written.eos_token_id}
    return {name: i for name, i in ends.items() if i is not None}


def _copy_tokenizer(source: Path, folder: Path, arch: Architecture) -> None:
    files = [source / name for name in TOKENIZER_FILES if (source / name).is_file()]
    if not any(path.name.startswith(("tokenizer.", "vocab.")) for path in files):
        raise ValueError(f"tokenizer must be a tokenizer.json or its folder, but {source} has none")
    if [path.name for path in files] == ["tokenizer.json"]:
        return _write_bare_tokenizer(_read_tokenizer(files[0]), folder, arch)
    for path in files:
        shutil.copyfile(path, folder / path.name)


def _read_tokenizer(path: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise ValueError(
            f"tokenizer must be a tokenizer.json, but {path} is not: {error}"
        ) from None


def _write_bare_tokenizer(tokenizer: Any, folder: Path, arch: Architecture) -> None:
    """A tokenizer.json, with what `transformers` needs to know besides: documents were packed one
    after another, so that the token after one is the token before the next."""
    tokenizer.save(str(folder / "tokenizer.json"))
    end = next((name for name in END_TOKENS if tokenizer.token_to_id(name) is not None), None)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": arch.max_position_embeddings,
        "clean_up_tokenization_spaces": False,
    }
    ends = {"bos_token": end, "eos_token": end, "unk_token": end} if end else {}
    _write_json(folder / "tokenizer_config.json", config | ends)


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer in a folder, as `transformers` reads it.

    Raises:
        ValueError: there is none, or not one that can be read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # many kinds, from several libraries
        raise ValueError(
            f"{folder} must hold a tokenizer that transformers reads, but {_first_line(error)}"
        ) from None


def run_tokenizer(folder: Path, cache: str | Path, arch: Architecture) -> Any:
    """The tokenizer of a run or a checkpoint, as `transformers` reads it from an export."""
    source = tokenizer_source(folder, cache)
    if source.is_dir():
        return load_tokenizer(source)
    with tempfile.TemporaryDirectory() as made:
        _write_tokenizer(source, Path(made), arch)
        return load_tokenizer(made)


def model_card(arch: Architecture, record: Mapping[str, Any] | Any | None = None) -> str:
    """What the folder's README says: the shape, its cost, and the run's record."""
    to_dict = getattr(record, "to_dict", None)
    values = to_dict() if to_dict else record
    counts = asdict(cost(arch))
    sharing = "none" if arch.sharing == "none" else f"{arch.sharing}, {arch.num_blocks} blocks"
    shape = {
        "parameters, each distinct weight once": f"{counts['parameters']:,}",
        "layers executed": arch.num_layers,
        "sharing": sharing,
        "width": arch.hidden_size,
        "query / key-value heads": f"{arch.num_attention_heads} / {arch.kv_heads}",
        "head dimension": arch.head_size,
        "FFN": f"{arch.intermediate_size} ({arch.hidden_act})",
        "vocabulary": f"{arch.vocab_size:,}",
        "embeddings": "tied" if arch.tie_word_embeddings else "untied",
    }
    for reading in (values or {}).get("readings", ())[-1:]:  # these weights', not a branch's
        bpb = reading.get("val_bpb")
        score = f"{reading['val_loss']:.4f} nats per token"
        score += "" if bpb is None else f", {bpb:.4f} bits per byte"
        shape[f"validation after {reading['tokens']:,} tokens"] = score
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [isoparam]",
        "---",
        f"# {counts['parameters'] / 1e6:,.1f}M parameters, {arch.num_layers} layers × "
        f"{arch.hidden_size}",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in shape.items()),
        "",
        "Layers that share a block are written out, each with weights of its own; the layer map is "
        "in `config.json` under `isoparam`.",
        "",
    ]
    if values is not None:
        text = json.dumps(values, indent=1)
        lines += ["## Record of the run", "", "```json", text, "```", ""]
    return "\n".join(lines)


def _check_replaceable(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"the export must go to a folder, but {folder} is a file; name another")
    if any(folder.iterdir()) and "isoparam" not in _config_or_nothing(folder):
        raise ValueError(
            f"the export's folder must be new, empty or an earlier export, but {folder} holds "
            "something else; name another"
        )


def _config_or_nothing(folder: Path) -> dict[str, Any]:
    try:
        values = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


@contextmanager
def _half_made(folder: Path) -> Iterator[Path]:
    """A folder beside this one, which takes its place when all went well."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield part
        part.chmod(0o755)
        for path in part.iterdir():
            path.chmod(0o644)
        if folder.exists() and any(folder.iterdir()):
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
            folder.replace(old)  # onto an empty folder
            part.replace(folder)
            shutil.rmtree(old)
        else:
            part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")


# --- In -------------------------------------------------------------------------------------------


def load(source: str | Path, dtype: torch.dtype = torch.float32) -> Decoder:
    """The decoder of a folder or a hub id: an export, a Llama-like checkpoint, MobileLLM's own
    layout, or a run's folder.

    Raises:
        ValueError: an architecture that the decoder does not have, or tensors that are missing,
            damaged, of the wrong shape, unknown, or not equal where they are shared; each is named.
    """
    folder = find(source)
    arch = architecture_of(folder)
    model = Decoder(arch).to(dtype)
    names: dict[str, tuple[str, ...]]
    if (folder / RUN_WEIGHTS).is_file():
        tensors = _Tensors({name: folder / RUN_WEIGHTS for name in _names(folder / RUN_WEIGHTS)})
        names = {name: (name,) for name, _ in model.named_parameters()}
    else:
        tensors, names = _Tensors(_locate(folder)), _sources(model, folder)
    _fill(model, tensors, names, folder)
    return model.eval()


def find(source: str | Path, files: tuple[str, ...] | None = None) -> Path:
    """The folder that a path or a hub id stands for; from the hub, only `files` where given.

    Raises:
        ValueError: it is neither, or cannot be downloaded.
    """
    path = Path(source)
    if path.is_dir():
        return path
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(source)) or path.exists():
        raise ValueError(
            f"a model must be a folder or a hub id such as HuggingFaceTB/SmolLM2-135M, but got "
            f"{str(source)!r}, which is not there"
        )
    from huggingface_hub import snapshot_download

    wanted = files or ("*.safetensors", "config.json", INDEX, *TOKENIZER_FILES)
    try:
        return Path(snapshot_download(str(source), allow_patterns=list(wanted)))
    except Exception as error:  # of the hub, of the network, of the disk
        raise ValueError(
            f"{source} must be a folder, or a model on the hub that can be downloaded, but "
            f"{_first_line(error)}"
        ) from None


def architecture_of(source: str | Path) -> Architecture:
    """The architecture of a folder, a `config.json` or a hub id.

    Raises:
        ValueError: no configuration, or one of an architecture that the decoder does not have.
    """
    path = Path(source)
    if not path.is_file():
        folder = find(source, files=("config.json",))
        if (folder / "run.yaml").is_file():
            return _architecture_of_run(folder)
        path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path.parent} must hold a config.json, but does not") from None
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} must be a model's config.json, but {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path} must be a model's config.json, but holds no object")
    return architecture_from_config(config, str(path))


def _architecture_of_run(folder: Path) -> Architecture:
    import yaml

    if not (folder / RUN_WEIGHTS).is_file():
        raise ValueError(
            f"{folder} must hold {RUN_WEIGHTS}, but does not: the run has not ended, or its study "
            "kept the best run's alone; train it with keep=all"
        )
    return Architecture.from_dict(yaml.safe_load((folder / "run.yaml").read_text())["architecture"])


def architecture_from_config(config: Mapping[str, Any], where: str = "config.json") -> Architecture:
    """The architecture that the content of a `config.json` describes.

    Raises:
        ValueError: something in it that the decoder does not have; it is named.
    """
    kind = config.get("model_type")
    if kind not in SUPPORTED:
        raise ValueError(
            f"{where}: model_type must be one of {', '.join(SUPPORTED)}, but is {kind!r} "
            f"({', '.join(config.get('architectures') or ['no architecture named'])})"
        )
    if lacking := [name for name in REQUIRED if not isinstance(config.get(name), int)]:
        raise ValueError(f"{where} must say {', '.join(lacking)} as whole numbers, but does not")
    values = _completed(kind, config, where)
    _check_plain(kind, values, where)
    rope = values["rope_parameters"]
    fields = {name: values[name] for name in REQUIRED if name != "num_hidden_layers"}
    fields |= {
        "num_key_value_heads": values["num_key_value_heads"],
        "head_dim": values.get("head_dim"),
        "hidden_act": values["hidden_act"],
        "tie_word_embeddings": values["tie_word_embeddings"],
        "rms_norm_eps": values["rms_norm_eps"],
        "rope_theta": rope["rope_theta"],
        "rope_scaling": _rope_scaling(rope, values),
        "max_position_embeddings": values["max_position_embeddings"],
        "qk_norm": kind == "qwen3",
        "attention_bias": kind == "qwen2" or bool(values.get("attention_bias")),
    }
    return Architecture.from_dict(fields | _sharing(config, where))


def _rope_scaling(rope: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any] | None:
    if rope.get("rope_type", "default") == "default":
        return None
    length = {"original_max_position_embeddings": values["max_position_embeddings"]}
    known = {f.name for f in dataclass_fields(RopeScaling)}
    return length | {name: value for name, value in rope.items() if name in known}


def _completed(kind: str, config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The configuration with `transformers`' defaults for what it leaves out."""
    from transformers import CONFIG_MAPPING

    given = {k: v for k, v in config.items() if k not in ("auto_map", "isoparam")}
    given = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None} | given
    if kind == "mobilellm":  # ties by a name of its own; its tie_word_embeddings says false
        given |= {"model_type": "llama", "tie_word_embeddings": config.get("share_embedding", True)}
    try:
        values: dict[str, Any] = CONFIG_MAPPING[given["model_type"]].from_dict(given).to_dict()
    except Exception as error:  # its validators raise kinds of their own
        raise ValueError(
            f"{where} must be a {kind} configuration, but {_first_line(error)}"
        ) from None
    return values


def _check_plain(kind: str, values: Mapping[str, Any], where: str) -> None:
    """Raise where the configuration asks for what the decoder does not have."""
    rope = values["rope_parameters"]
    activations = ("relu", "gelu") if kind == "arcee" else ("silu",)
    for name, has, wanted in (
        ("hidden_act", values["hidden_act"], activations),
        ("rope_type", rope.get("rope_type", "default"), ("default", "llama3")),
        ("partial_rotary_factor", rope.get("partial_rotary_factor", 1.0), (1.0,)),
        ("mlp_bias", values.get("mlp_bias", False), (False,)),
        ("sliding_window", values.get("sliding_window") if kind == "mistral" else None, (None,)),
        ("use_sliding_window", values.get("use_sliding_window", False), (False,)),
        ("quantization_config", values.get("quantization_config"), (None,)),
    ):
        if has not in wanted:
            raise ValueError(
                f"{where}: {name} of a {kind} model must be {' or '.join(map(str, wanted))} for "
                f"the decoder, but is {has}"
            )


def _sharing(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    layers = config["num_hidden_layers"]
    if config["model_type"] == "mobilellm" and config.get("layer_sharing"):
        return {"num_blocks": layers, "sharing": "immediate", "repeats": 2}
    if (kept := config.get("isoparam")) is None:
        return {"num_blocks": layers}
    if not isinstance(kept, Mapping) or len(kept.get("layer_map") or ()) != layers:
        raise ValueError(
            f"{where}: the layer map under isoparam must have num_hidden_layers = {layers} layers, "
            "but has not; mend it, or remove isoparam to load the layers unshared"
        )
    return {name: kept[name] for name in SHARING if name in kept}


# --- Tensors --------------------------------------------------------------------------------------


class _Tensors:
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
            f"{path} must be a whole safetensors file, but {_first_line(error)}; copy it again"
        ) from None


def _names(path: Path) -> list[str]:
    with _opened(path) as file:
        return list(file.keys())


def _locate(folder: Path) -> dict[str, Path]:
    """The file of each tensor."""
    if (folder / INDEX).is_file():
        try:
            weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{folder / INDEX} must have a weight_map, but has not") from None
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


def _sources(model: Decoder, folder: Path) -> dict[str, tuple[str, ...]]:
    """The names in the checkpoint of each parameter: one for every layer that executes it."""
    mobile = _config_or_nothing(folder).get("model_type") == "mobilellm"
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


def _fill(
    model: Decoder, tensors: _Tensors, sources: Mapping[str, tuple[str, ...]], folder: Path
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


def _check_extras(tensors: _Tensors, known: set[str], model: Decoder, folder: Path) -> None:
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


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


# --- Runs -----------------------------------------------------------------------------------------


def export_run(
    source: str, to: str | Path, runs: str | Path, cache: str | Path, tokenizer: str | None = None
) -> Path:
    """The export of a run, by its key, or of any model that `load` reads.

    Raises:
        ValueError: as `load`, `export` and `run_tokenizer` do.
    """
    folder = Path(runs) / source
    if not (folder / "run.yaml").is_file():
        folder = find(source)
    _check_replaceable(Path(to))
    model = load(folder)
    record = folder / "record.json"
    values = json.loads(record.read_text()) if record.is_file() else None
    chosen = tokenizer or tokenizer_source(folder, cache)
    return export(model, to, tokenizer=chosen, record=values)


def tokenizer_source(folder: Path, cache: str | Path) -> Path:
    """Where the tokenizer of a run or a checkpoint is: of a run, with the data of its fingerprint.

    Raises:
        ValueError: the data are no longer in the cache, or have no tokenizer.
    """
    if not (folder / "run.yaml").is_file():
        return folder
    path = run_data(folder, cache) / "tokenizer.json"
    if not path.is_file():
        raise ValueError(
            f"the data of {folder} were token ids without a tokenizer; set tokenizer=FILE"
        )
    return path


def run_data(folder: Path, cache: str | Path) -> Path:
    """The folder of the cache with the data that a run was trained on.

    Raises:
        ValueError: they are no longer there.
    """
    import yaml

    wanted = yaml.safe_load((folder / "run.yaml").read_text())["data_fingerprint"]
    for path in sorted(Path(cache).glob("*/manifest.json")):
        try:
            manifest = json.loads(path.read_text())["manifest"]
        except (OSError, ValueError, KeyError):
            continue
        if manifest.get("fingerprint") == wanted:
            return path.parent
    raise ValueError(
        f"the data of {folder} (fingerprint {wanted}) must be in {os.fspath(cache)}, where its "
        "tokenizer is kept, but are not; set tokenizer=FILE, or cache=FOLDER"
    )
