"""`space.cost`: closed forms against figures worked out by hand and against each other."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import architectures

from space.arch import Architecture
from space.cost import cost, num_norms, parts

TINY: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 2,
    "intermediate_size": 20,
    "num_blocks": 3,
}
"""One block: q and o 8×8, k and v 8×4, three FFN matrices 8×20, two norms of 8."""
ATTENTION, FFN, NORM = 2 * 64 + 2 * 32, 3 * 160, 8


def test_parameters_of_a_tiny_decoder_are_those_on_paper() -> None:
    counts = cost(Architecture(**TINY))
    assert counts.embedding_parameters == 800
    assert counts.non_embedding_parameters == 3 * (ATTENTION + FFN + 2 * NORM) + NORM
    assert counts.parameters == counts.embedding_parameters + counts.non_embedding_parameters
    assert counts.embedding_share == 800 / counts.parameters


@pytest.mark.parametrize(
    ("change", "more"),
    [
        ({"tie_word_embeddings": False}, 800),
        ({"hidden_act": "gelu"}, -3 * 160),
        ({"qk_norm": True}, 3 * 2 * 2),
        ({"attention_bias": True}, 3 * (8 + 4 + 4)),
        ({"num_key_value_heads": 4}, 3 * 2 * 32),
        ({"sharing": "cycle", "repeats": 2}, 0),
        ({"sharing": "cycle", "repeats": 2, "norms": "layer"}, 3 * 2 * NORM),
        ({"sharing": "cycle", "repeats": 2, "sharing_scope": "ffn"}, 3 * (ATTENTION + 2 * NORM)),
        ({"sharing": "cycle", "repeats": 2, "sharing_scope": "attention"}, 3 * (FFN + 2 * NORM)),
    ],
)
def test_each_choice_changes_the_count_by_its_own_weights(
    change: dict[str, Any], more: int
) -> None:
    plain, changed = Architecture(**TINY), Architecture(**{**TINY, **change})
    assert cost(changed).parameters - cost(plain).parameters == more


def test_flops_of_a_tiny_decoder_are_those_on_paper() -> None:
    counts = cost(Architecture(**TINY), seq_len=16)
    scores = 2 * 4 * 2 * 16  # q·k and p·v over half of the square, a multiply-add being two
    layer = 2 * (ATTENTION + FFN) + scores
    assert counts.forward_flops_per_token == 3 * layer + 2 * 800
    assert counts.train_flops_per_token == 3 * counts.forward_flops_per_token


def test_the_cache_is_kept_per_layer_and_not_per_block() -> None:
    plain = Architecture(**TINY)
    shared = Architecture(**{**TINY, "sharing": "immediate", "repeats": 2})
    assert cost(plain).kv_bytes_per_token == 3 * 2 * (2 * 2) * 2
    assert cost(shared).kv_bytes_per_token == 2 * cost(plain).kv_bytes_per_token


def test_mobilellm_125m_has_the_cost_published_for_it() -> None:
    base = Architecture.from_yaml("mobilellm_125m")
    shared = Architecture.from_yaml("mobilellm_ls_125m")
    assert cost(base).parameters == cost(shared).parameters == 124_635_456
    assert cost(replace(base, tie_word_embeddings=False)).parameters == 143_067_456
    assert cost(base).weight_bytes == 2 * 124_635_456
    assert cost(base).kv_bytes_per_token == 30 * 2 * 3 * 64 * 2
    assert round(cost(base).embedding_share, 3) == 0.148


def test_adjacent_repeats_of_a_block_are_moved_once_and_distant_ones_again() -> None:
    def weights(**change: Any) -> int:
        arch = Architecture(**{**TINY, **change})
        counts = cost(arch, seq_len=5)
        return counts.decode_bytes_per_token // 2 - 5 * counts.kv_bytes_per_token // 2

    ends = 800 + NORM + NORM  # output matrix, one row of the embedding, final norm
    blocks = 3 * (ATTENTION + FFN + 2 * NORM)
    assert weights() == ends + blocks
    assert weights(sharing="immediate", repeats=2) == ends + blocks
    assert weights(sharing="cycle", repeats=2) == ends + 2 * blocks
    assert weights(sharing="reverse", repeats=2) == ends + 2 * blocks - blocks // 3
    assert weights(sharing="immediate", repeats=2, norms="layer") == ends + blocks + 3 * 2 * NORM


@given(architectures())
def test_parts_add_up_to_the_parameters(arch: Architecture) -> None:
    part = parts(arch)
    assert cost(arch).parameters == (
        part.embedding
        + part.output
        + arch.num_attention_blocks * part.attention
        + arch.num_ffn_blocks * part.ffn
        + (num_norms(arch) + 1) * part.norm
        + part.stack
    )


@given(architectures(parts=["ffn_scaling"]), st.integers(1, 4096), st.sampled_from([1, 2, 4]))
def test_bytes_follow_from_counts_and_grow_with_the_context(
    arch: Architecture, seq_len: int, dtype_bytes: int
) -> None:
    counts = cost(arch, seq_len, dtype_bytes)
    longer = cost(arch, seq_len + 1, dtype_bytes)
    assert counts.weight_bytes == dtype_bytes * counts.parameters
    grown = longer.decode_bytes_per_token - counts.decode_bytes_per_token
    assert grown == counts.kv_bytes_per_token
    assert longer.forward_flops_per_token > counts.forward_flops_per_token
    assert longer.parameters == counts.parameters


@given(architectures(parts=["ffn_scaling"]))
def test_an_unshared_architecture_moves_every_weight_but_the_rows_not_looked_up(
    arch: Architecture,
) -> None:
    depth = max(arch.num_attention_blocks, arch.num_ffn_blocks)
    plain = Architecture.from_dict(
        {
            **arch.to_dict(),
            "sharing": "none",
            "repeats": 1,
            "sharing_scope": "block",
            "num_blocks": depth,
            "num_hidden_layers": depth,
            "layer_map": None,
        }
    )
    counts = cost(plain, seq_len=7, dtype_bytes=1)
    moved = counts.decode_bytes_per_token - 7 * counts.kv_bytes_per_token
    matrix = plain.vocab_size * plain.hidden_size
    rows = plain.hidden_size if plain.tie_word_embeddings else plain.hidden_size - matrix
    assert moved == counts.parameters + rows


@pytest.mark.parametrize("sizes", [(0, 2), (16, 0)])
def test_sizes_below_one_are_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        cost(Architecture(**TINY), *sizes)
