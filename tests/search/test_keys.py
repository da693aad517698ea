"""Run keys are what they were when the records of today were made."""

from dataclasses import replace
from typing import Any

import pytest

from search.recipe import KEYED as OF_RECIPE
from search.recipe import Recipe
from search.record import Run, architecture_id
from space.arch import ARCHITECTURES, KEYED, Architecture
from space.keys import without_defaults

KEYS = {
    "llama_3_2_1b": ("6647c2083c", "13eaba3751843b57"),
    "mobilellm_125m": ("74ea200aa9", "627f25aba2f4b8b5"),
    "mobilellm_1_5b": ("9dc8325854", "200407fe1a8c9599"),
    "mobilellm_1b": ("24052118eb", "c9f704326bbf4f35"),
    "mobilellm_350m": ("b327deda48", "939a0999cc52e6cd"),
    "mobilellm_600m": ("7667a59d15", "674c91fd2dcee7d8"),
    "mobilellm_ls_125m": ("eef86c4c6a", "1512cee656c2c029"),
    "mobilellm_ls_350m": ("e706e6b6d4", "697905182cd8cf64"),
    "qwen2_5_0_5b": ("be092d6c6f", "fec669faa46a0485"),
    "qwen3_0_6b": ("b0672e368f", "1536ca025fd8d3c8"),
    "smollm2_135m": ("0ba25a1669", "fee760ca7707acab"),
    "smollm2_1_7b": ("cf8a5205ea", "ef198302f501c05e"),
    "smollm2_360m": ("34205331bc", "cc0be3d5765d6c1f"),
    "tinyllama_1_1b": ("1fffc49738", "b792ddac14bb05f3"),
}
"""The arm and the key of a run of each shipped architecture, before there were parts."""

TINY: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "num_blocks": 2,
}


def key_of(arch: Architecture, recipe: Recipe) -> str:
    return Run(architecture=arch, recipe=recipe, data_fingerprint="d", seed=3).key


RECIPE = Recipe(tokens=1000, precision="fp32")


def test_the_keys_of_every_shipped_architecture_are_frozen() -> None:
    shipped = {path.stem: Architecture.from_yaml(path) for path in ARCHITECTURES.glob("*.yaml")}
    found = {name: (architecture_id(arch), key_of(arch, RECIPE)) for name, arch in shipped.items()}
    assert {name: found[name] for name in KEYS} == KEYS


@pytest.mark.parametrize(
    ("change", "arm"),
    [
        ({}, "e2e9ade240"),
        ({"qk_norm": True, "attention_bias": True}, "a1141a2bee"),
        ({"sharing": "immediate", "repeats": 2, "norms": "layer"}, "79987afaf6"),
        (
            {
                "sharing": "cycle",
                "repeats": 2,
                "sharing_scope": "ffn",
                "hidden_act": "gelu",
                "tie_word_embeddings": False,
            },
            "b69c5f6205",
        ),
    ],
)
def test_the_arms_of_shared_and_changed_blocks_are_frozen(change: dict[str, Any], arm: str) -> None:
    assert architecture_id(Architecture.from_dict({**TINY, **change})) == arm


def test_a_later_field_leaves_a_trace_only_where_it_is_not_at_its_default() -> None:
    defaults = {"size": 1, "later": "none"}
    assert without_defaults({"size": 1, "later": "none"}, defaults, ("size",)) == {"size": 1}
    assert without_defaults({"size": 1, "later": "x"}, defaults, ("size",)) == {
        "size": 1,
        "later": "x",
    }


def test_every_part_at_its_default_has_the_key_of_the_architecture_without_it() -> None:
    plain = Architecture.from_dict(TINY)
    assert set(plain.canonical()) == {*KEYED}
    assert set(RECIPE.to_dict()) == {*OF_RECIPE}
    given = Architecture.from_dict({**TINY, "ffn_scaling": "1..1"})
    assert given == plain
    assert key_of(given, RECIPE) == key_of(plain, RECIPE)
    grown = Architecture.from_dict({**TINY, "ffn_scaling": "0.5..1.5"})
    assert set(grown.canonical()) - set(plain.canonical()) == {"ffn_scaling"}
    assert key_of(grown, RECIPE) != key_of(plain, RECIPE)


def test_horizons_are_in_the_key_of_a_run_that_has_them() -> None:
    longer = replace(RECIPE, tokens=100_000, warmup_fraction=0.0, horizons=(0.5,))
    assert longer.to_dict()["horizons"] == [0.5]
