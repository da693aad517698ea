"""`space.budget`: architectures on the budget, and what is said where there are none."""

import re
from math import log
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import budgets, partials

from benchmarks.solver import measure
from space.arch import Architecture
from space.budget import (
    LARGEST_MULTIPLE,
    MAX_DEVIATION,
    ROUND_DEVIATION,
    Budget,
    default_head_dim,
    ffn_multiple,
    ffn_target,
    fit,
    solve,
    with_shape,
)
from space.cost import cost


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("125m", 125_000_000),
        ("125M", 125_000_000),
        ("1.5b", 1_500_000_000),
        ("500k", 500_000),
        ("2000000", 2_000_000),
        ("2_000_000", 2_000_000),
        ("1e6", 1_000_000),
        (124_635_456, 124_635_456),
        (1e6, 1_000_000),
    ],
)
def test_a_budget_is_read_from_text(text: Any, value: int) -> None:
    assert Budget.parse(text) == Budget("parameters", value)


def test_a_budget_names_its_kind_before_a_colon() -> None:
    assert Budget.parse("non_embedding_parameters:100m") == Budget(
        "non_embedding_parameters", 100_000_000
    )
    assert Budget.parse("100m", kind="non_embedding_parameters").kind == "non_embedding_parameters"


@pytest.mark.parametrize("text", ["", "much", "12x", "m", "nan", "inf", "0", "-5m", "flops:1m"])
def test_a_budget_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="budget"):
        Budget.parse(text)


@given(partials(), budgets())
def test_a_proposal_is_on_the_budget_and_keeps_what_was_given(
    partial: dict[str, Any], budget: Budget
) -> None:
    if solve(partial, budget) is None:
        with pytest.raises(ValueError, match=r"must lie within 0\.15%"):
            fit(partial, budget)
        return
    arch = fit(partial, budget)
    assert abs(budget.deviation(arch)) <= MAX_DEVIATION
    for name, value in partial.items():
        if name != "layer_map" and hasattr(arch, name) and name != "ffn_ratio":
            assert getattr(arch, name) == value, name
    assert 0.5 <= arch.ffn_ratio / ffn_target(partial) <= 2
    assert arch.num_attention_heads * arch.head_size == arch.hidden_size
    if "heads_per_kv" in partial:
        assert arch.num_attention_heads == partial["heads_per_kv"] * arch.kv_heads


@given(partials(), budgets())
def test_ffn_width_is_a_multiple_of_the_largest_power_of_two_within_a_tenth_of_a_percent(
    partial: dict[str, Any], budget: Budget
) -> None:
    shape = solve(partial, budget)
    if shape is None:
        return
    arch = with_shape(partial, shape)

    def off(other: Architecture) -> float:  # `deviation` is less exact: it subtracts 1 at last
        return abs(budget.of(cost(other)) - budget.value)

    multiple = ffn_multiple(arch)
    for larger in (m for m in (2, 4, 8, 16, 32, 64, 128, 256) if m > multiple):
        below = shape.intermediate_size // larger * larger
        for ffn in (below, below + larger):
            if ffn:
                other = with_shape(partial, shape._replace(intermediate_size=ffn))
                assert off(other) / budget.value > ROUND_DEVIATION
    if off(arch) / budget.value > ROUND_DEVIATION:  # a step of one is already this coarse
        wider = with_shape(partial, shape._replace(intermediate_size=shape.intermediate_size + 1))
        step = budget.of(cost(wider)) - budget.of(cost(arch))
        assert off(arch) <= step / 2
    assert multiple <= LARGEST_MULTIPLE


@given(
    st.integers(1, 40),
    st.sampled_from([1, 2, 3]),
    st.booleans(),
    st.sampled_from([1024, 4096]),
    budgets(0.5e6, 1e7),
)
def test_width_is_the_multiple_whose_ffn_ratio_is_nearest_its_target(
    blocks: int, heads_per_kv: int, tied: bool, vocab_size: int, budget: Budget
) -> None:
    partial = {
        "vocab_size": vocab_size,
        "num_blocks": blocks,
        "tie_word_embeddings": tied,
        "head_dim": 16,
        "heads_per_kv": heads_per_kv,
    }
    found = solve(partial, budget)
    drifts = {}
    for width in range(16 * heads_per_kv, 1200, 16 * heads_per_kv):
        shape = solve({**partial, "hidden_size": width}, budget)
        if shape is not None and 0.5 <= shape.ffn_ratio * 3 / 8 <= 2:
            drifts[width] = abs(log(shape.ffn_ratio * 3 / 8))
    if found is None:
        assert not drifts
    else:  # rounding to a multiple may swap two widths equally far from the target
        assert drifts[found.hidden_size] <= min(drifts.values()) + 0.05


@pytest.mark.parametrize(
    ("blocks", "parameters", "shape"),
    [
        (30, 124_635_456, (576, 9, 3, 64, 1536)),
        (32, 345_355_200, (960, 15, 5, 64, 2560)),
        (40, 603_188_352, (1152, 18, 6, 64, 3072)),
        (54, 1_005_461_760, (1280, 20, 5, 64, 3584)),
        (54, 1_511_188_800, (1600, 25, 5, 64, 4352)),
    ],
)
def test_depth_and_budget_of_a_mobilellm_give_its_shape(
    blocks: int, parameters: int, shape: tuple[int, ...]
) -> None:
    partial = {"vocab_size": 32000, "num_blocks": blocks, "heads_per_kv_target": 3}
    budget = Budget("parameters", parameters)
    assert solve(partial, budget) == shape
    assert budget.deviation(fit(partial, budget)) == 0


def test_non_embedding_budgets_leave_embeddings_out() -> None:
    budget = Budget.parse("non_embedding_parameters:10m")
    small = fit({"vocab_size": 256, "num_blocks": 8}, budget)
    large = fit({"vocab_size": 100_000, "num_blocks": 8}, budget)
    assert small.hidden_size == large.hidden_size
    assert cost(large).non_embedding_parameters == cost(small).non_embedding_parameters


def test_a_width_that_is_given_is_kept_whatever_its_ffn_ratio() -> None:
    arch = fit({"vocab_size": 32000, "num_blocks": 12, "hidden_size": 1024}, "125m")
    assert arch.hidden_size == 1024
    assert abs(Budget.parse("125m").deviation(arch)) <= MAX_DEVIATION


def test_heads_that_are_given_share_the_width() -> None:
    partial = {"vocab_size": 32000, "num_blocks": 12, "num_attention_heads": 10}
    arch = fit({**partial, "num_key_value_heads": 2}, "125m")
    assert (arch.num_attention_heads, arch.kv_heads) == (10, 2)
    assert arch.head_size * 10 == arch.hidden_size


def test_heads_and_their_size_may_be_free_of_the_width() -> None:
    partial = {"vocab_size": 32000, "num_blocks": 12, "num_attention_heads": 16, "head_dim": 128}
    arch = fit(partial, "125m")
    assert arch.num_attention_heads * arch.head_size == 2048 != arch.hidden_size


def test_an_ffn_width_that_is_given_is_kept_where_a_width_closes_the_budget() -> None:
    wanted = fit({"vocab_size": 1024, "num_blocks": 12}, "20m")
    arch = fit(
        {"vocab_size": 1024, "num_blocks": 12, "intermediate_size": wanted.intermediate_size},
        Budget("parameters", cost(wanted).parameters),
    )
    assert arch == wanted


@pytest.mark.parametrize(("budget", "size"), [("1m", 16), ("10m", 32), ("125m", 64), ("2b", 128)])
def test_the_default_head_dimension_grows_with_the_budget(budget: str, size: int) -> None:
    assert default_head_dim(Budget.parse(budget)) == size


@pytest.mark.parametrize(
    ("partial", "budget"),
    [
        ({"vocab_size": 1024, "num_blocks": 300}, "1m"),
        ({"vocab_size": 1024, "num_blocks": 35, "heads_per_kv": 4}, "1m"),
        ({"vocab_size": 32000, "num_blocks": 12}, "1m"),
        ({"vocab_size": 1024, "num_blocks": 12}, "8k"),
        ({"vocab_size": 128256, "num_blocks": 4}, "10k"),
        ({"vocab_size": 4096, "num_blocks": 12, "hidden_size": 1024}, "10m"),
        ({"vocab_size": 4096, "num_blocks": 12, "hidden_size": 256, "heads_per_kv": 2}, "1m"),
    ],
)
def test_what_cannot_fit_is_refused_with_the_nearest_that_do(
    partial: dict[str, Any], budget: str
) -> None:
    with pytest.raises(ValueError, match="nearest that fit: ") as caught:
        fit(partial, budget)
    message = str(caught.value)
    assert "\n" not in message
    alternatives = message.split("nearest that fit: ")[1].split("; ")
    assert alternatives
    for alternative in alternatives:
        match = re.match(r"(\w+)=(\d+)", alternative)
        assert match is not None, alternative
        fit({**partial, match[1]: int(match[2])}, budget)
        assert match[1] != "vocab_size" or int(match[2]) >= 257, "no tokenizer of bytes has fewer"


def test_too_large_a_vocabulary_is_named_as_the_reason() -> None:
    with pytest.raises(ValueError, match="embeddings alone are 1,026,048 at width 8"):
        fit({"vocab_size": 128256, "num_blocks": 4}, "10k")


@pytest.mark.parametrize(
    ("partial", "message"),
    [
        ({"vocab_size": 1024}, "num_blocks or num_hidden_layers must be given"),
        ({"num_blocks": 4}, "vocab_size must be given"),
        ({"vocab_size": 1024, "num_blocks": 4, "hiden_size": 64}, "hiden_size"),
        ({"vocab_size": 1024, "num_blocks": 0}, "num_blocks must be a whole number"),
        ({"vocab_size": 1024, "num_blocks": 2.5}, "num_blocks must be a whole number"),
        ({"vocab_size": 1024, "num_blocks": "4"}, "num_blocks must be a whole number"),
        ({"vocab_size": 1024, "num_blocks": 4, "ffn_ratio": -1}, "ffn_ratio must be a positive"),
        ({"vocab_size": 1024, "num_blocks": 4, "head_dim": 7}, "head_dim must be even"),
        ({"vocab_size": 1024, "num_blocks": 4, "head_dim_scale": 0.3}, "even head_dim"),
        (
            {"vocab_size": 1024, "num_blocks": 4, "heads_per_kv": 2, "num_key_value_heads": 2},
            "only one of heads_per_kv, num_key_value_heads",
        ),
        (
            {"vocab_size": 1024, "num_blocks": 4, "num_attention_heads": 9, "heads_per_kv": 2},
            "heads_per_kv must divide",
        ),
        (
            {
                "vocab_size": 1024,
                "num_blocks": 4,
                "num_attention_heads": 9,
                "num_key_value_heads": 2,
            },
            "num_key_value_heads must divide",
        ),
        ({"vocab_size": 1024, "num_blocks": 2, "sharing": "middle_cycle"}, "at least 3"),
        ({"vocab_size": 1024, "num_blocks": 2, "sharing": "mirror"}, "sharing must be one of"),
        ({"vocab_size": 1024, "num_blocks": 4, "hidden_size": 100, "head_dim": 16}, "hidden_size"),
    ],
)
def test_contradictions_and_misspelt_fields_are_refused(
    partial: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        fit(partial, "1m")


def test_a_layer_map_may_stand_for_the_depth() -> None:
    arch = fit({"vocab_size": 1024, "layer_map": [0, 1, 1, 2]}, "1m")
    assert isinstance(arch, Architecture)
    assert (arch.num_blocks, arch.num_hidden_layers) == (3, 4)
    assert abs(Budget.parse("1m").deviation(arch)) <= MAX_DEVIATION


def test_the_benchmark_finds_no_proposal_off_the_budget() -> None:
    result = measure("5m", draws=100, seed=0)
    assert result.fitted + result.infeasible == 100
    assert result.fitted > 20
    assert max(result.deviations) <= MAX_DEVIATION
    assert max(result.drifts) <= 1 + 1e-9
