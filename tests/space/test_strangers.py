"""Configurations and checkpoints of others are read as the classes of `transformers` read them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from model_fixtures import randomise
from safetensors.torch import save_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from space.cost import cost
from space.hf import export, load
from space.hf.config import architecture_from_config

TINY: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "intermediate_size": 96,
    "bos_token_id": None,
    "eos_token_id": None,
}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {},
    "qwen2": {"num_key_value_heads": 4},
    "qwen3": {"num_key_value_heads": 4, "head_dim": 16},
    "arcee": {"hidden_act": "gelu"},
}
SAID: list[dict[str, Any]] = [
    {},
    {"attention_bias": True},
    {"attention_bias": False},
    {"head_dim": 32},
    {"num_key_value_heads": 2},
    {"tie_word_embeddings": True},
    {"rope_theta": 5e5},
    {"rope_theta": 5e5, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
]
QWEN3_0_6B: dict[str, Any] = {  # without head_dim, num_key_value_heads is its own
    "model_type": "qwen3",
    "vocab_size": 151936,
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "intermediate_size": 3072,
    "tie_word_embeddings": True,
}


def theirs(config: dict[str, Any], device: str = "meta") -> Any:
    with torch.device(device):
        return AutoModelForCausalLM.from_config(CONFIG_MAPPING[config["model_type"]](**config))


def weights(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("said", SAID, ids=json.dumps)
def test_what_a_configuration_leaves_out_is_as_its_class_has_it(
    kind: str, said: dict[str, Any]
) -> None:
    config = {"model_type": kind, **TINY, **KINDS[kind], **said}
    ours, model = architecture_from_config(config), theirs(config)
    assert cost(ours).parameters == weights(model)
    assert ours.rope_theta == model.config.rope_parameters["rope_theta"]
    assert ours.kv_heads == model.config.num_key_value_heads


def test_qwen3_without_head_dim_has_that_of_its_class() -> None:
    assert cost(architecture_from_config(QWEN3_0_6B)).parameters == 596_049_920


def test_mistral_without_key_value_heads_has_eight() -> None:
    config = {"model_type": "mistral", **TINY, "num_attention_heads": 16}
    assert architecture_from_config(config).kv_heads == 8


@pytest.mark.parametrize(
    ("kind", "ignored"), [("mistral", True), ("qwen2", True), ("llama", False)]
)
def test_a_bias_of_the_ffn_is_refused_where_the_class_has_it(kind: str, ignored: bool) -> None:
    config = {"model_type": kind, **TINY, **KINDS[kind], "mlp_bias": True}
    if ignored:
        assert cost(architecture_from_config(config)).parameters == weights(theirs(config))
    else:
        with pytest.raises(ValueError, match="mlp_bias of a llama model must be False"):
            architecture_from_config(config)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "arcee"])
def test_biases_of_the_output_projection_load_and_leave_again(kind: str, tmp_path: Path) -> None:
    model = theirs({"model_type": kind, **TINY, **KINDS[kind], "attention_bias": True}, "cpu")
    randomise(model.eval())
    model.save_pretrained(tmp_path / "theirs")
    ours = load(tmp_path / "theirs")
    again = load(export(ours, tmp_path / "ours"))
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    ids = torch.arange(20)[None]
    with torch.no_grad():
        for other in (ours(ids), again(ids), back(ids).logits):
            torch.testing.assert_close(other, model(ids).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("absurd", [{"num_hidden_layers": 10**9}, {"vocab_size": 10**12}])
def test_absurd_sizes_are_refused_before_memory_is_taken(kind: str, absurd: dict[str, int]) -> None:
    (name,) = absurd
    with pytest.raises(ValueError, match=f"{name} of config.json must be at most"):
        architecture_from_config({"model_type": kind, **TINY, **KINDS[kind], **absurd})


def checkpoint(folder: Path, **changes: Any) -> dict[str, Any]:
    config = {"model_type": "llama", **TINY, **changes}
    (folder / "config.json").write_text(json.dumps(config))
    return config


def test_a_model_that_its_files_cannot_hold_is_refused_before_memory_is_taken(
    tmp_path: Path,
) -> None:
    checkpoint(tmp_path, num_hidden_layers=9000, hidden_size=2**20, intermediate_size=2**20)
    save_file({"model.norm.weight": torch.zeros(64)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"must hold the [\d,]+ weights .* files have [\d,]+ byte"):
        load(tmp_path)


def test_weights_that_a_configuration_ties_must_be_equal(tmp_path: Path) -> None:
    model = theirs({"model_type": "llama", **TINY, "tie_word_embeddings": False}, "cpu")
    model.save_pretrained(tmp_path)
    checkpoint(tmp_path, tie_word_embeddings=True)
    with pytest.raises(ValueError, match="set tie_word_embeddings to false"):
        load(tmp_path)


def test_weights_that_a_configuration_does_not_tie_must_be_there(tmp_path: Path) -> None:
    model = theirs({"model_type": "llama", **TINY, "tie_word_embeddings": True}, "cpu")
    model.save_pretrained(tmp_path)
    checkpoint(tmp_path, tie_word_embeddings=False)
    with pytest.raises(ValueError, match=r"must hold the tensor lm_head\.weight"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd", "a/b", "..", 5, None])
def test_an_index_cannot_leave_its_folder(name: Any, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    checkpoint(folder)
    save_file({"model.norm.weight": torch.zeros(64)}, tmp_path / "other.safetensors")
    index = {"weight_map": {"model.norm.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="must name files of its own folder"):
        load(folder)


@pytest.mark.parametrize(
    "wrong", [{"isoparam": [1]}, {"isoparam": 5}, {"model_type": "gpt2", "architectures": [1]}]
)
def test_a_configuration_of_the_wrong_shape_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"config\.json: (isoparam must be an object|model_type)"):
        architecture_from_config(TINY | {"model_type": "llama"} | wrong, "config.json")
