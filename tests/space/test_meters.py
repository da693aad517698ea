"""`space.meters`: what budgets count, against the device model, the published and each other."""

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import architectures, partials

from space.arch import Architecture
from space.axes import Space
from space.budget import MAX_DEVIATION, Budget, fit, solve, with_shape
from space.cost import WIDE, ClosedForm, cost
from space.device import PRECISIONS, Device, Moved, precision_of
from space.meters import KINDS, Counts, meter_of

EXACT = (
    "weight_bytes:{}mb@int4",
    "weight_bytes:{}mb@8da4w",
    "decode_ms:{}@iphone_13",
    "decode_ms:{}@h100:256",
    "prefill_ms:{}@oneplus_12:64",
    "peak_mb:{}@oneplus_12:8da4w:512",
    "load_ms:{}@iphone_13",
    "init_ms:{}@iphone_13",
)
"""Budgets of every kind that an FFN width closes, to be filled in with a value."""
HEADS = 0.05
"""How near key/value heads come to a budget of cache."""


@given(
    architectures(parts=["sliding_window"]),
    st.sampled_from(sorted(PRECISIONS)),
    st.integers(1, 300),
)
def test_the_closed_form_counts_what_the_device_model_does(
    arch: Architecture, precision: str, length: int
) -> None:
    counted = Counts.of(ClosedForm(arch), precision_of(precision), length).at(arch.shape)
    moved = Moved.of(arch, precision, length, length)
    for name in {field.name for field in fields(Moved)} - {"gflops"}:
        wanted = pytest.approx(getattr(moved, name), rel=1e-12, abs=1e-12)
        assert getattr(counted, name) == wanted, name
    floored = length / 1e9  # the cost's FLOPs per token are whole
    assert counted.gflops == pytest.approx(moved.gflops, abs=floored)


@given(architectures(), st.sampled_from([*EXACT, "kv_bytes:{}kb", "kv_bytes:{}kb@512:fp32"]))
def test_a_line_over_the_ffn_width_says_what_is_spent(arch: Architecture, text: str) -> None:
    """Exactly; of FFNs whose widths differ, as wide as their shares were found at."""
    if len(set(arch.ffn_widths)) > 1:
        arch = replace(arch, intermediate_size=WIDE)
    meter = Budget.parse(text.format(1)).meter
    heads = arch.num_attention_heads, arch.kv_heads, arch.head_size
    rest, slope = meter.of(ClosedForm(arch)).line(arch.hidden_size, heads)
    said = rest + slope * arch.intermediate_size
    floored = 1e-2 if text.startswith("prefill") else 1e-9  # of FLOPs per token, of tiny shapes
    assert said == pytest.approx(meter.spent(arch), rel=floored)


@settings(max_examples=40)  # each tries all widths
@given(partials(), st.sampled_from(EXACT), st.floats(0, 1))
def test_a_proposal_is_on_a_budget_of_any_kind(
    partial: dict[str, Any], text: str, place: float
) -> None:
    """What is proposed is counted by the cost and the device model, not by the closed form that
    found it; where nothing is, the message says so."""
    value = 2 * 1000**place
    budget = Budget.parse(text.format(f"{value:.4g}"))
    shape = solve(partial, budget)
    if shape is None:
        with pytest.raises(ValueError, match=r"must lie within 0\.15%"):
            fit(partial, budget)
        return
    arch = with_shape(partial, shape)
    assert abs(budget.meter.spent(arch) / budget.value - 1) <= MAX_DEVIATION
    for name in ("num_blocks", "head_dim", "heads_per_kv", "ffn_ratio", "sharing"):
        if name in ("num_blocks", "sharing") and name in partial and "layer_map" not in partial:
            assert getattr(arch, name) == partial[name]


@given(partials(), st.integers(1, 400), st.sampled_from(["", "@64", "@4096:fp32"]))
def test_whole_heads_come_near_a_budget_of_cache(
    partial: dict[str, Any], kilobytes: int, at: str
) -> None:
    budget = Budget.parse(f"kv_bytes:{kilobytes * (int(at[1:3]) if at else 1)}kb{at}")
    shape = solve(partial, budget)
    if shape is None:
        with pytest.raises(ValueError, match=r"must lie within 5\.00%"):
            fit(partial, budget)
        return
    arch = with_shape(partial, shape)
    assert abs(budget.deviation(arch)) <= HEADS
    target = partial.get("ffn_ratio") or (8 / 3 if arch.gated else 4)
    step = arch.intermediate_size & -arch.intermediate_size
    near = abs(arch.ffn_ratio / target - 1) <= 0.02
    assert near or abs(arch.ffn_ratio - target) * arch.hidden_size <= step / 2 == 0.5


@pytest.mark.parametrize("name", ["mobilellm_125m", "mobilellm_350m", "mobilellm_1b"])
@pytest.mark.parametrize("text", ["decode_ms:{}@iphone_13:1", "weight_bytes:{}@fp16"])
def test_what_a_mobilellm_takes_gives_its_shape(name: str, text: str) -> None:
    """Depth and milliseconds alone: width, heads and FFN follow as they do from parameters."""
    arch = Architecture.from_yaml(name)
    spent = Budget.parse(text.format(1)).meter.spent(arch)
    partial = {"vocab_size": 32000, "num_blocks": arch.num_blocks, "heads_per_kv_target": 3}
    assert solve(partial, Budget.parse(text.format(spent))) == arch.shape


def test_a_budget_of_cache_gives_the_heads_of_a_mobilellm() -> None:
    arch = Architecture.from_yaml("mobilellm_125m")
    partial = {"vocab_size": 32000, "num_blocks": 30, "heads_per_kv": 3, "head_dim": 64}
    found = fit(partial, f"kv_bytes:{cost(arch).kv_bytes_per_token}")
    assert found.shape == arch.shape


def test_bytes_of_weights_are_those_of_published_files() -> None:
    """Llama 3.2 1B in 8da4w is a .pte file of 1083 MiB (executorch, examples/models/llama)."""
    arch = Architecture.from_yaml("llama_3_2_1b")
    assert meter_of("weight_bytes", "8da4w").spent(arch) == pytest.approx(1083 * 2**20, rel=0.01)
    assert meter_of("weight_bytes").spent(arch) == cost(arch).weight_bytes
    # llama.cpp's Q4_0 and Q8_0: 18 and 34 bytes for 32 weights.
    assert meter_of("weight_bytes", "int4").spent(arch) == cost(arch).parameters * 18 / 32
    assert meter_of("weight_bytes", "int8").spent(arch) == cost(arch).parameters * 34 / 32


def test_a_shared_block_is_free_in_milliseconds_and_not_in_others() -> None:
    """Table 7 of MobileLLM: at equal milliseconds, a block repeated at once leaves the width as it
    is; one repeated after all others is moved again, and makes it narrower."""
    base = {"vocab_size": 32000, "num_blocks": 12, "heads_per_kv_target": 3}
    plain, immediate, cycled = (
        fit({**base, "sharing": sharing, "repeats": repeats}, "decode_ms:10@iphone_13:1")
        for sharing, repeats in (("none", 1), ("immediate", 2), ("cycle", 2))
    )
    assert immediate.hidden_size == plain.hidden_size
    assert cost(immediate).parameters == pytest.approx(cost(plain).parameters, rel=0.005)
    assert cost(cycled).parameters < 0.7 * cost(plain).parameters


@pytest.mark.parametrize(
    ("text", "kind", "value", "at", "label"),
    [
        ("weight_bytes:64mb@int4", "weight_bytes", 64_000_000, "int4", "weight_bytes:64mb@int4"),
        ("weight_bytes:1GiB", "weight_bytes", 2**30, None, "weight_bytes:1gib"),
        ("kv_bytes:2048", "kv_bytes", 2048, None, "kv_bytes:2kib"),
        ("kv_bytes:8mb@2048", "kv_bytes", 8_000_000, "2048", "kv_bytes:8mb@2048"),
        ("decode_ms:16@iphone_13", "decode_ms", 16.0, "iphone_13", "decode_ms:16@iphone_13"),
        ("decode_ms:0.5@h100:9", "decode_ms", 0.5, "h100:9", "decode_ms:0.5@h100:9"),
    ],
)
def test_a_budget_says_where_it_is_counted(
    text: str, kind: str, value: float, at: str | None, label: str
) -> None:
    budget = Budget.parse(text)
    assert budget == Budget(kind, value, at)
    assert budget.label == label
    assert Budget.parse(label) == budget == Budget(**budget.to_dict())


def test_a_budget_of_parameters_leaves_no_trace_of_other_kinds() -> None:
    assert Budget.parse("1m").to_dict() == {"kind": "parameters", "value": 1_000_000}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("decode_ms:16", "decode_ms must name a device, as in"),
        ("decode_ms:16@iphone_99", "device must be one of h100, iphone_13"),
        ("decode_ms:soon@iphone_13", "a number such as decode_ms:16@iphone_13"),
        ("decode_ms:-1@iphone_13", "a budget must be above 0"),
        ("weight_bytes:64mb@int3", "precision must be one of"),
        ("weight_bytes:64m@int4", "a number of bytes such as weight_bytes:64mb@int4"),
        ("peak_mb:64@iphone_13", "peak_mb of iPhone 13 must have been measured"),
        ("1m@int4", "a budget of parameters must have nothing behind @"),
        ("flops:1m", "budget must be of a kind parameters"),
    ],
)
def test_a_budget_that_is_none_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Budget.parse(text)


def test_key_value_heads_are_left_open_on_a_budget_of_cache() -> None:
    partial = {"vocab_size": 1024, "num_blocks": 4, "num_key_value_heads": 2}
    with pytest.raises(ValueError, match="num_key_value_heads must be left open on a budget of"):
        fit(partial, "kv_bytes:1kb")


def test_what_is_too_little_says_what_the_narrowest_uses() -> None:
    with pytest.raises(ValueError, match=r"\(at width 64 it uses .* already\)"):
        fit({"vocab_size": 32000, "num_blocks": 12, "head_dim": 64}, "decode_ms:0.1@iphone_13")


@pytest.mark.parametrize("text", ["weight_bytes:2mb@int4", "decode_ms:1@iphone_13"])
def test_every_architecture_of_a_space_is_on_such_a_budget(text: str) -> None:
    space = Space.from_yaml("sharing", text, 1024)
    assert space.size > 20
    assert max(abs(space.budget.deviation(arch)) for arch in space.enumerate()) <= MAX_DEVIATION
    assert space.to_dict()["budget"] == space.budget.to_dict()


def test_every_kind_has_a_meter_with_words() -> None:
    assert len(set(KINDS)) == len(KINDS)
    for text in (*EXACT, "kv_bytes:{}", "parameters:{}", "non_embedding_parameters:{}"):
        meter = Budget.parse(text.format(5)).meter
        assert meter.unit
        assert meter.title[0].isupper()


def test_decode_of_a_budget_is_the_devices_own() -> None:
    arch = fit({"vocab_size": 1024, "num_blocks": 4}, "decode_ms:1@iphone_13:512")
    assert Device.from_yaml("iphone_13").decode_ms(arch, 512) == pytest.approx(1, rel=0.0015)
