"""GGUF against llama.cpp and the package gguf's own reader: neither was written here."""

import ctypes
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_fixtures import randomise

from search.data.tokenizer import train_tokenizer
from space.__main__ import Config
from space.app import configuration
from space.arch import Architecture
from space.axes import Space
from space.formats import FORMATS, export_as, require
from space.formats.gguf import FILE, vocabulary
from space.hf import export
from space.model import Decoder

gguf = pytest.importorskip("gguf")

BASE: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "num_blocks": 2,
}
ROPE = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
SHAPES: list[dict[str, Any]] = [
    {},
    {"sharing": "immediate", "repeats": 2},
    {"sharing": "cycle", "repeats": 2, "tie_word_embeddings": False},
    {"layer_map": [(0, 0), (1, 0), (0, 1)]},
    {"attention_bias": True},
    {"qk_norm": True, "head_dim": 32, "rope_theta": 1e6},
    {"rope_scaling": ROPE},
]
PROMPT = [5, 17, 33, 250, 8, 99, 3, 41, 7]


def built(**fields: Any) -> Decoder:
    model = Decoder(Architecture(**{**BASE, **fields})).eval()
    randomise(model)
    return model


def wanted(model: Decoder) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([PROMPT]))[0, -1].numpy()


def rounded(model: Decoder, kind: str) -> Decoder:
    """The model with the weights that the package itself reads back from its matrices."""
    quantised = gguf.GGMLQuantizationType[kind.upper()]
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2:
                packed = gguf.quants.quantize(p.numpy(), quantised)
                p.copy_(torch.from_numpy(gguf.quants.dequantize(packed, quantised)))
    return model


def apart(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def logits_of(folder: Path, arch: Architecture) -> np.ndarray:
    from search.engines import ENGINES, Asked

    session = ENGINES.load("llama_cpp").open(Asked(folder=folder, architecture=arch, context=64))
    session.prefill(PROMPT)
    return session.logits()


@pytest.mark.parametrize("fields", SHAPES, ids=lambda f: "-".join(f) or "plain")
def test_llama_cpp_computes_the_same_from_float16(fields: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    model = built(**fields)
    require("gguf", model.arch, "fp16")
    folder = FORMATS.load("gguf").write(model, tmp_path / "out", None, None, "fp16")
    assert apart(logits_of(folder, model.arch), wanted(model)) < 0.01


@pytest.mark.parametrize("fields", SHAPES[:3], ids=lambda f: "-".join(f) or "plain")
@pytest.mark.parametrize("precision", ["q8_0", "q4_0"])
def test_llama_cpp_computes_what_the_quantised_weights_say(
    precision: str, fields: dict[str, Any], tmp_path: Path
) -> None:
    """It rounds activations to 8 bits besides, which costs a few percent of so small a model."""
    pytest.importorskip("xllamacpp")
    model = built(**fields)
    folder = FORMATS.load("gguf").write(model, tmp_path / "out", None, None, precision)
    plain, got = wanted(model), logits_of(folder, model.arch)
    error = apart(got, wanted(rounded(model, precision)))
    assert error < 0.05
    assert precision == "q8_0" or error < apart(got, plain) / 3


def test_the_file_holds_each_layers_tensors_and_no_output_matrix_where_it_is_tied(
    tmp_path: Path,
) -> None:
    model = built(sharing="cycle", repeats=2)
    folder = FORMATS.load("gguf").write(model, tmp_path / "out", None, None, "q8_0")
    read = {t.name: t for t in gguf.GGUFReader(folder / FILE).tensors}
    assert sum(name.startswith("blk.3.") for name in read) == 9
    assert "output.weight" not in read
    assert np.array_equal(read["blk.0.ffn_up.weight"].data, read["blk.2.ffn_up.weight"].data)
    assert not np.array_equal(read["blk.0.ffn_up.weight"].data, read["blk.1.ffn_up.weight"].data)
    assert read["blk.0.attn_norm.weight"].tensor_type == gguf.GGMLQuantizationType.F32


def test_llama_cpp_reads_text_as_the_tokenizer_does(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    text = Path(__file__).read_text()
    words = train_tokenizer([text], 400)
    model = built(vocab_size=400)
    export(model, tmp_path / "plain", words)
    folder = export_as("gguf", tmp_path / "plain", tmp_path / "out")
    for sample in (text, "naïve café, 1234567 tokens\n\n\tand\u00a0so on… ¿sí?", " a  b   c"):
        assert tokens_of(folder / FILE, sample) == words.encode(sample).ids


def tokens_of(path: Path, text: str) -> list[int]:
    from search.engines.llama_cpp import library

    found, content = library(), text.encode()
    model = found.llama_model_load_from_file(str(path).encode(), found.llama_model_default_params())
    found.llama_model_get_vocab.restype = ctypes.c_void_p
    found.llama_model_get_vocab.argtypes = [ctypes.c_void_p]
    room = (ctypes.c_int32 * (len(content) + 8))()
    count = found.llama_tokenize(
        ctypes.c_void_p(found.llama_model_get_vocab(model)),
        ctypes.c_char_p(content),
        len(content),
        room,
        len(room),
        False,
        False,
    )
    return list(room[:count])


@pytest.mark.parametrize(
    ("fields", "precision", "said"),
    [
        ({"hidden_act": "relu"}, "fp16", "must have a gated FFN .* but hidden_act is relu"),
        ({"sliding_window": 8}, "fp16", "no sliding_window=8 .* leave it out, or use format=hf$"),
        ({"ffn_scaling": "0.5..1.5"}, "fp16", "must have no ffn_scaling=0.5..1.5 .* leave it out$"),
        ({"qk_norm": True, "attention_bias": True}, "fp16", "qk_norm together with attention_bias"),
        ({"intermediate_size": 80}, "q8_0", "intermediate_size must be a multiple of 32 .* is 80"),
        ({"hidden_size": 80, "head_dim": 32}, "q4_0", "hidden_size must be a multiple of 32"),
    ],
)
def test_what_gguf_cannot_hold_is_refused_by_name(
    fields: dict[str, Any], precision: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said) as error:
        require("gguf", Architecture.from_dict({**BASE, **fields}), precision)
    assert "\n" not in str(error.value)


def test_the_refusal_of_odd_rows_names_a_space_that_has_none() -> None:
    """Its option, read as a shell and the command read it."""
    first = Space.from_yaml("depth_width", budget="4m", vocab_size=512).enumerate()[0]
    with pytest.raises(ValueError, match="share a scale by 32") as error:
        require("gguf", first, "q4_0")
    option = shlex.split(str(error.value).partition("such shapes: ")[2])[0]
    config = configuration("space", Config, ["space=depth_width", "budget=4m", option])
    kept = Space.from_config(config.space, config.budget, 512).enumerate()
    assert kept
    for arch in kept:
        require("gguf", arch, "q4_0")


def test_a_tokenizer_that_llama_cpp_has_no_name_for_is_refused() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ValueError, match=r"must be a byte-level BPE .* use format=hf"):
        vocabulary(words, Architecture(**BASE))
