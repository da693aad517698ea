"""`space.sharing`: the layer maps of every pattern."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import sharings

from space.arch import Architecture
from space.sharing import PATTERNS, SCOPES, from_order, layer_map, uses

THREE_BLOCKS = [
    ("none", 1, "0 1 2"),
    ("immediate", 2, "0 0 1 1 2 2"),
    ("immediate", 3, "0 0 0 1 1 1 2 2 2"),
    ("cycle", 2, "0 1 2 0 1 2"),
    ("reverse", 2, "0 1 2 2 1 0"),
    ("cycle_reverse", 2, "0 1 2 2 1 0"),
    ("cycle_reverse", 3, "0 1 2 0 1 2 2 1 0"),
    ("sandwich", 3, "0 1 1 1 2"),
    ("middle_cycle", 2, "0 1 1 2"),
    ("middle_sequence", 2, "0 1 1 2"),
]
"""The orders of the table in the documentation of the patterns."""


@pytest.mark.parametrize(("pattern", "repeats", "order"), THREE_BLOCKS)
def test_a_pattern_executes_three_blocks_in_its_order(
    pattern: str, repeats: int, order: str
) -> None:
    expected = tuple((int(b), int(b)) for b in order.split())
    assert layer_map(pattern, 3, repeats) == expected


@pytest.mark.parametrize(
    ("pattern", "order"),
    [("middle_cycle", "0 1 2 3 1 2 3 4"), ("middle_sequence", "0 1 1 2 2 3 3 4")],
)
def test_middle_patterns_keep_both_ends_unshared(pattern: str, order: str) -> None:
    assert [a for a, _ in layer_map(pattern, 5, 2)] == [int(b) for b in order.split()]


def test_all_shares_one_block_among_all_layers() -> None:
    assert layer_map("all", 1, 4) == ((0, 0),) * 4


def test_a_scope_leaves_the_other_half_one_per_layer() -> None:
    assert layer_map("immediate", 2, 2, "ffn") == ((0, 0), (1, 0), (2, 1), (3, 1))
    assert layer_map("immediate", 2, 2, "attention") == ((0, 0), (0, 1), (1, 2), (1, 3))


@given(sharings())
def test_every_block_is_used_and_layers_are_counted(sharing: dict[str, Any]) -> None:
    arch = Architecture(
        vocab_size=8, hidden_size=4, num_attention_heads=1, intermediate_size=4, **sharing
    )
    attention, ffn = zip(*arch.layers, strict=True)
    assert set(attention) == set(range(arch.num_attention_blocks))
    assert set(ffn) == set(range(arch.num_ffn_blocks))
    assert len(arch.layers) == arch.num_hidden_layers == sum(uses(attention)) == sum(uses(ffn))
    if arch.sharing_scope == "ffn":
        assert attention == tuple(range(arch.num_layers))
        assert arch.num_blocks == arch.num_ffn_blocks
    if arch.sharing_scope == "attention":
        assert ffn == tuple(range(arch.num_layers))
        assert arch.num_blocks == arch.num_attention_blocks


@given(sharings())
def test_an_architecture_survives_plain_types_and_back(sharing: dict[str, Any]) -> None:
    arch = Architecture(
        vocab_size=8, hidden_size=4, num_attention_heads=1, intermediate_size=4, **sharing
    )
    assert Architecture.from_dict(arch.to_dict()) == arch


@given(st.sampled_from(sorted(set(PATTERNS) - {"none", "all", "sandwich"})), st.integers(3, 9))
def test_two_repeats_use_every_shared_block_twice(pattern: str, blocks: int) -> None:
    counts = uses([a for a, _ in layer_map(pattern, blocks, 2)])
    ends = pattern.startswith("middle")
    assert counts == ((1, *[2] * (blocks - 2), 1) if ends else (2,) * blocks)


def test_layers_asked_for_are_checked_against_the_pattern() -> None:
    fields: dict[str, Any] = {
        "vocab_size": 8,
        "hidden_size": 4,
        "num_attention_heads": 1,
        "intermediate_size": 4,
        "sharing": "immediate",
        "repeats": 2,
    }
    assert Architecture(**fields, num_hidden_layers=6).num_blocks == 3
    assert Architecture(**fields, num_blocks=3, num_hidden_layers=6).num_layers == 6
    with pytest.raises(ValueError, match="num_hidden_layers must be 6"):
        Architecture(**fields, num_blocks=3, num_hidden_layers=5)
    with pytest.raises(ValueError, match="num_hidden_layers=5 cannot be made"):
        Architecture(**fields, num_hidden_layers=5)


@pytest.mark.parametrize(
    ("pattern", "blocks", "repeats", "scope", "message"),
    [
        ("mirror", 3, 2, "block", "sharing must be one of none, immediate"),
        ("none", 3, 2, "block", "repeats must be 1"),
        ("reverse", 3, 3, "block", "repeats must be 2"),
        ("sandwich", 4, 2, "block", "num_blocks must be 3"),
        ("all", 2, 2, "block", "num_blocks must be 1"),
        ("middle_cycle", 2, 2, "block", "num_blocks must be at least 3"),
        ("cycle", 0, 2, "block", "at least 1, but got 0 and 2"),
        ("cycle", 3, 2, "norms", f"sharing_scope must be one of {', '.join(SCOPES)}"),
    ],
)
def test_what_a_pattern_does_not_allow_is_refused(
    pattern: str, blocks: int, repeats: int, scope: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        layer_map(pattern, blocks, repeats, scope)


def test_an_order_may_be_given_outright() -> None:
    assert from_order([0, 1, 0]) == ((0, 0), (1, 1), (0, 0))
    assert from_order([0, 1, 0], "ffn") == ((0, 0), (1, 1), (2, 0))
