"""`config.json` of an architecture, and the architecture of a `config.json`.

| architecture | leaves as |
| --- | --- |
| SwiGLU | Llama |
| SwiGLU, heads that do not divide the width | Mistral, for Llama's configuration refuses them |
| SwiGLU, `attention_bias` | Qwen2; with `output_bias` Llama |
| SwiGLU, `qk_norm` (and `attention_bias`) | Qwen3 |
| any of these with `sliding_window` | Mistral or, with global layers, Ministral; Qwen2; Qwen3 |
| `relu` or `gelu` FFN of two matrices (and `attention_bias`) | Arcee |
| the same with `qk_norm`, or heads that do not divide the width | refused: no such model |
| a part that does not say how | refused by its field |
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any

from space.arch import KEYED, Architecture, RopeScaling, unknown_fields
from space.hf.errors import first_line
from space.parts import DOOR
from space.ranges import ranges_of

SUPPORTED = ("llama", "mistral", "ministral", "qwen2", "qwen3", "arcee", "mobilellm")
CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "arcee": "ArceeForCausalLM",
}
BIASED = ("llama", "mobilellm", "qwen3", "arcee")
"""Whose classes read `attention_bias`: on the output projection too, see the part `output_bias`."""
WITH_MLP_BIAS = ("llama", "mobilellm", "arcee")
"""Whose classes read `mlp_bias`; the others ignore it."""
REQUIRED = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
)
KNOWN = frozenset({*KEYED, "rope_scaling"})
"""Fields of architectures that `config.json` is written from."""
SHARING = ("sharing", "repeats", "sharing_scope", "norms", "num_blocks", "layer_map")
"""Fields of an architecture that `config.json` keeps under `isoparam`."""


def config_of(arch: Architecture) -> dict[str, Any]:
    """`config.json` of an architecture: the plain model of its unrolled layers, and its sharing.

    Raises:
        ValueError: `transformers` has no model of this kind.
    """
    if unknown := unknown_fields(arch, KNOWN):
        raise ValueError(
            f"an architecture must be one that transformers has a model for, but none is known to "
            f"have {unknown[0]}; leave it out"
        )
    kind = kind_of(arch)
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
        "rope_scaling": scaling or None,  # read by these versions, too
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
    values |= {"sliding_window": None} if kind == "mistral" else {}
    for part in arch.active:
        if part.canonical(arch):
            values = part.export(arch, values)
    return values


def kind_of(arch: Architecture) -> str:
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


def architecture_from_config(config: Mapping[str, Any], where: str = "config.json") -> Architecture:
    """The architecture that the content of a `config.json` describes.

    Raises:
        ValueError: something in it that the decoder does not have; it is named.
    """
    kind = config.get("model_type")
    if kind not in SUPPORTED:
        raise ValueError(
            f"{where}: model_type must be one of {', '.join(SUPPORTED)}, but is {kind!r} "
            f"({config.get('architectures') or 'no architecture named'})"
        )
    if not isinstance(config.get("isoparam", {}), Mapping | None):
        raise ValueError(f"{where}: isoparam must be an object, but is {config['isoparam']!r:.80}")
    if lacking := [name for name in REQUIRED if type(config.get(name)) is not int]:
        raise ValueError(f"{where} must say {', '.join(lacking)} as whole numbers, but does not")
    for name in REQUIRED:  # before transformers lists what each layer is
        ranges_of(Architecture)[name][1].require(f"{name} of {where}", config[name])
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
        "attention_bias": kind == "qwen2" or (kind in BIASED and bool(values["attention_bias"])),
    }
    for _, part in DOOR.all():
        fields |= part.read(values | {"isoparam": config.get("isoparam")})
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
            f"{where} must be a {kind} configuration, but {first_line(error)}"
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
        ("mlp_bias", kind in WITH_MLP_BIAS and values.get("mlp_bias", False), (False,)),
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


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a folder's `config.json`; nothing where there is none that can be read."""
    try:
        values = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
