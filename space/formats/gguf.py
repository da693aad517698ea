"""GGUF, for llama.cpp: weights as float16, Q8_0 or Q4_0.

Q8_0 keeps 32 weights of a row as whole numbers of 8 bits and one float16 scale, Q4_0 as 4 bits and
a scale. llama.cpp has no architecture whose layers share weights, and refuses two tensors at one
place of a file: a shared block is written once for every layer.
"""

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from space.arch import KEYED, Architecture
from space.formats import NotHeld, OneFile, require_known

if TYPE_CHECKING:
    from gguf import GGUFWriter

    from space.model import Decoder

FILE = "model.gguf"
KNOWN = frozenset({*KEYED, "rope_scaling"})
"""Fields of architectures that GGUF is written from."""
LAYERS = (
    "Layers that share a block are written out, each with weights of its own; the layer map is in "
    "`isoparam.json`."
)
TYPES = {"fp16": ("F16", "MOSTLY_F16"), "q8_0": ("Q8_0", "MOSTLY_Q8_0")}
TYPES |= {"q4_0": ("Q4_0", "MOSTLY_Q4_0")}
"""By precision: GGUF's name of the tensors' type, and of the file's."""
GROUP = 32
"""Weights of a row that share a scale."""
IN_GROUPS = f"""'space.constraints={{hidden_size: "%{GROUP}", intermediate_size: "%{GROUP}"}}'"""
"""The option of a search whose architectures have rows of whole groups."""
SPLITS = {
    ("ByteLevel",): "gpt-2",
    ("Digits", "ByteLevel"): "smollm",
}
"""llama.cpp's name for how text is split into words, by the parts of a tokenizer that split it."""
PLACES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
"""GGUF's name of each module of a layer."""

Array = np.ndarray[Any, np.dtype[Any]]


class Gguf(OneFile):
    """One file that llama.cpp maps into memory."""

    title = "llama.cpp"
    precisions = tuple(TYPES)
    package = extra = "gguf"
    library, layers = "llama.cpp", LAYERS

    def require(self, arch: Architecture, precision: str) -> None:
        require_known(arch, KNOWN, "GGUF")
        if not arch.gated:
            wanted = f"have a gated FFN (hidden_act=silu), but hidden_act is {arch.hidden_act}"
            raise _not_held(wanted, "use format=hf")
        if arch.qk_norm and (arch.attention_bias or arch.rope_scaling):
            other = "attention_bias" if arch.attention_bias else "rope_scaling"
            raise _not_held(f"not have qk_norm together with {other}", "give up one")
        if precision != "fp16":
            require_groups(arch, precision, "fp16")

    def fill(
        self, model: "Decoder", folder: Path, tokenizer: Any, precision: str, room: int | None
    ) -> None:
        write_file(model, folder / FILE, precision, vocabulary(tokenizer, model.arch))


def _not_held(wanted: str, advice: str) -> ValueError:
    return ValueError(
        f"an architecture must {wanted} to be written as GGUF, for llama.cpp has no such model; "
        f"{advice}"
    )


def require_groups(arch: Architecture, precision: str, instead: str) -> None:
    """Raises: NotHeld where rows are not made of whole groups of weights that share a scale."""
    rows = {
        "hidden_size": arch.hidden_size,
        "intermediate_size": arch.intermediate_size,
        "num_attention_heads × head_dim": arch.num_attention_heads * arch.head_size,
    }
    for name, length in rows.items():
        if length % GROUP:
            raise NotHeld(
                f"{name} must be a multiple of {GROUP} for precision={precision}, whose weights "
                f"share a scale by {GROUP}, but is {length}; use precision={instead}, or search a "
                f"space of such shapes: {IN_GROUPS}",
                options=IN_GROUPS,
            )


def write_file(model: "Decoder", path: Path, precision: str, words: Mapping[str, Any]) -> None:
    """The model as one file of GGUF, with the vocabulary that `vocabulary` makes."""
    import gguf

    logging.getLogger("gguf").setLevel(logging.WARNING)  # it tells of every file
    kind, whole = TYPES[precision]
    writer = gguf.GGUFWriter(path, "qwen3" if model.arch.qk_norm else "llama")
    _describe(writer, model.arch, gguf.LlamaFileType[whole])
    _add_words(writer, words)
    for name, array, quantised in tensors(model, gguf.GGMLQuantizationType[kind]):
        writer.add_tensor(name, array, raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: "GGUFWriter", arch: Architecture, file_type: int) -> None:
    writer.add_name("isoparam")
    writer.add_file_type(file_type)
    writer.add_vocab_size(arch.vocab_size)
    writer.add_context_length(arch.max_position_embeddings)
    writer.add_embedding_length(arch.hidden_size)
    writer.add_block_count(arch.num_layers)
    writer.add_feed_forward_length(arch.intermediate_size)
    writer.add_head_count(arch.num_attention_heads)
    writer.add_head_count_kv(arch.kv_heads)
    writer.add_key_length(arch.head_size)
    writer.add_value_length(arch.head_size)
    writer.add_rope_dimension_count(arch.head_size)
    writer.add_rope_freq_base(arch.rope_theta)
    writer.add_layer_norm_rms_eps(arch.rms_norm_eps)


def tensors(model: "Decoder", kind: Any) -> Iterator[tuple[str, Array, Any]]:
    """Name, content and type of each tensor: those of a shared block once for every layer, but
    quantised once. Vectors stay float32. Without an output matrix the embedding is that too."""
    import gguf

    made: dict[int, Array] = {}

    def matrix(name: str, weight: Any, heads: int = 0) -> tuple[str, Array, Any]:
        if id(weight) not in made:
            array = _paired(weight.detach().float().cpu().numpy(), heads)
            made[id(weight)] = gguf.quants.quantize(array, kind) if array.ndim == 2 else array
        vector = made[id(weight)].dtype == np.float32
        return name, made[id(weight)], gguf.GGMLQuantizationType.F32 if vector else kind

    arch, stack = model.arch, model.model
    yield matrix("token_embd.weight", stack.embed_tokens.weight)
    yield matrix("output_norm.weight", stack.norm.weight)
    if not arch.tie_word_embeddings:
        yield matrix("output.weight", model.lm_head.weight)
    if arch.rope_scaling is not None:
        yield "rope_freqs.weight", _slowed(model), gguf.GGMLQuantizationType.F32
    turned = {} if arch.qk_norm else {"attn_q": arch.num_attention_heads, "attn_k": arch.kv_heads}
    for i, layer in enumerate(stack.layers):
        for name, weight in layer.named_parameters():
            module, _, end = name.rpartition(".")
            place = PLACES[module]
            yield matrix(f"blk.{i}.{place}.{end}", weight, turned.get(place, 0))


def _paired(array: Array, heads: int) -> Array:
    """Rows in the order in which llama.cpp's Llama turns them: neighbours make a pair, where ours
    are half a head apart."""
    if not heads:
        return array
    halves = array.reshape(heads, 2, -1, *array.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(array.shape)


def _slowed(model: "Decoder") -> Array:
    """By how much `rope_scaling` divides each frequency: (H / 2,)."""
    plain = model.arch.rope_theta ** (-np.arange(0, model.arch.head_size, 2) / model.arch.head_size)
    divided: Array = (plain / model.frequencies().cpu().numpy()).astype(np.float32)
    return divided


def vocabulary(tokenizer: Any, arch: Architecture) -> dict[str, Any]:
    """Tokens, merges and ends of a tokenizer as GGUF keeps them; placeholders without one.

    Raises:
        ValueError: a tokenizer that cannot be read, or that llama.cpp has no name for.
    """
    if tokenizer is None:
        return {"model": "llama", "tokens": _placeholders(arch.vocab_size), "ends": {}}
    from space.hf.tokenizer import write_tokenizer

    with tempfile.TemporaryDirectory() as made:
        ends = write_tokenizer(tokenizer, Path(made), arch)
        path = Path(made) / "tokenizer.json"
        content = json.loads(path.read_text()) if path.is_file() else {}
    split = SPLITS.get(_splitters(content))
    if split is None or content["model"].get("type") != "BPE":
        raise ValueError(
            "a tokenizer must be a byte-level BPE with GPT-2's or SmolLM's split of words to be "
            "written as GGUF, but is another; use format=hf, and llama.cpp's own "
            "convert_hf_to_gguf.py"
        )
    tokens = [(f"[UNUSED{i}]", UNUSED) for i in range(arch.vocab_size)]
    for token, i in content["model"]["vocab"].items():
        tokens[i] = token, NORMAL
    for added in content["added_tokens"]:
        tokens[added["id"]] = added["content"], CONTROL if added["special"] else USER
    merges = [m if isinstance(m, str) else " ".join(m) for m in content["model"]["merges"]]
    return {"model": "gpt2", "pre": split, "tokens": tokens, "merges": merges, "ends": ends}


NORMAL, CONTROL, USER, UNUSED, BYTE = 1, 3, 4, 5, 6
"""GGUF's types of tokens."""


def _splitters(content: Mapping[str, Any]) -> tuple[str, ...]:
    """The parts that split text, in their order; none where one of them is not plain."""
    splitter = content.get("pre_tokenizer") or {}
    parts = splitter.get("pretokenizers", [splitter])
    plain = content.get("normalizer") is None and not any(
        part.get("add_prefix_space")
        or part.get("use_regex") is False
        or part.get("individual_digits") is False
        for part in parts
    )
    return tuple(part.get("type", "") for part in parts) if plain else ()


def _placeholders(size: int) -> list[tuple[str, int]]:
    """Tokens of a vocabulary that no text is read with: llama.cpp wants names, and bytes."""
    first = [("<unk>", 2), ("<s>", CONTROL), ("</s>", CONTROL)]
    first += [(f"<0x{i:02X}>", BYTE) for i in range(256)]
    return (first + [(f"w{i}", NORMAL) for i in range(len(first), size)])[:size]


def _add_words(writer: "GGUFWriter", words: Mapping[str, Any]) -> None:
    names, types = zip(*words["tokens"], strict=True)
    writer.add_tokenizer_model(words["model"])
    writer.add_token_list(list(names))
    writer.add_token_types(list(types))
    if words["model"] == "llama":
        writer.add_token_scores([0.0] * len(names))
    else:
        writer.add_tokenizer_pre(words["pre"])
        writer.add_token_merges(words["merges"])
    writer.add_add_bos_token(False)
    for end, i in words["ends"].items():
        getattr(writer, f"add_{end}")(i)


FORMAT = Gguf()
