"""Published architectures: our counts, the published ones and those of `transformers` agree."""

import json
from pathlib import Path
from typing import Any

import pytest

from search.record import architecture_id
from space.arch import ARCHITECTURES, Architecture
from space.cost import cost

GOLDEN = json.loads((Path(__file__).parent / "golden/published_architectures.json").read_text())
ROWS = {row["model"]: row for row in GOLDEN["architectures"]}
FILES = sorted(path.stem for path in ARCHITECTURES.glob("*.yaml"))
LAYER_SHARED = {"mobilellm_ls_125m": "mobilellm_125m", "mobilellm_ls_350m": "mobilellm_350m"}


def described(row: dict[str, Any]) -> Architecture:
    """The architecture of a row, by its shape alone."""
    return Architecture(
        vocab_size=row["vocab_size"],
        hidden_size=row["hidden_size"],
        num_blocks=row["layers"],
        num_attention_heads=row["heads"],
        num_key_value_heads=row["kv_heads"],
        head_dim=row["head_dim"],
        intermediate_size=row["intermediate_size"],
        tie_word_embeddings=row["tied"],
        attention_bias=row["model"].startswith("Qwen2"),
        qk_norm=row["model"].startswith("Qwen3"),
    )


def transformers_config(arch: Architecture) -> Any:
    """The configuration of the same architecture in `transformers`."""
    transformers = pytest.importorskip("transformers")
    kind = "Qwen3" if arch.qk_norm else "Qwen2" if arch.attention_bias else "Llama"
    fields = (
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "intermediate_size",
        "hidden_act",
        "tie_word_embeddings",
    )
    config = getattr(transformers, f"{kind}Config")
    return config(**{name: getattr(arch, name) for name in fields})


@pytest.mark.parametrize("model", ROWS)
def test_the_count_is_the_published_one(model: str) -> None:
    assert cost(described(ROWS[model])).parameters == ROWS[model]["parameters"]


@pytest.mark.parametrize("model", [m for m, row in ROWS.items() if row["file"]])
def test_the_file_of_an_architecture_describes_it(model: str) -> None:
    ours = Architecture.from_yaml(ROWS[model]["file"])
    theirs = described(ROWS[model])
    incidental = ("rope_theta", "rope_scaling", "rms_norm_eps", "max_position_embeddings")
    for name, value in theirs.to_dict().items():
        assert name in incidental or ours.to_dict()[name] == value, name


@pytest.mark.parametrize(
    ("name", "identity"),
    [("mobilellm_125m", "74ea200aa9"), ("mobilellm_ls_125m", "eef86c4c6a")],
)
def test_the_identity_of_an_architecture_stays_when_fields_are_added(
    name: str, identity: str
) -> None:
    """As it was before `rope_scaling`: records are found by it."""
    assert architecture_id(Architecture.from_yaml(name)) == identity


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_an_architecture_with_its_source(name: str) -> None:
    assert Architecture.from_yaml(name).num_layers > 0
    assert (ARCHITECTURES / f"{name}.yaml").read_text().startswith("# ")
    assert name in LAYER_SHARED or name in {row["file"] for row in ROWS.values()}


@pytest.mark.parametrize(
    ("shared", "plain", "layers"),
    [
        ("mobilellm_ls_125m", "mobilellm_125m", 60),
        ("mobilellm_ls_350m", "mobilellm_350m", 64),
    ],
)
def test_layer_shared_mobilellm_executes_each_block_twice_in_a_row(
    shared: str, plain: str, layers: int
) -> None:
    ours, base = Architecture.from_yaml(shared), Architecture.from_yaml(plain)
    assert ours.num_layers == layers == 2 * base.num_layers
    assert ours.layers == tuple((layer // 2, layer // 2) for layer in range(layers))
    assert cost(ours).parameters == cost(base).parameters
    assert cost(ours).kv_bytes_per_token == 2 * cost(base).kv_bytes_per_token


@pytest.mark.parametrize("name", sorted(set(FILES) - set(LAYER_SHARED)))
def test_transformers_counts_the_same_parameters(name: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    arch = Architecture.from_yaml(name)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(transformers_config(arch))
    assert sum(p.numel() for p in model.parameters()) == cost(arch).parameters
