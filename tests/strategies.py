"""Hypothesis strategies for the types of `space`."""

from collections.abc import Collection
from typing import Any

from hypothesis import strategies as st

from space.arch import ACTIVATIONS, NORM_OWNERS, Architecture
from space.budget import OF_WEIGHTS, Budget
from space.sharing import PATTERNS, SCOPES

FREE_PATTERNS = sorted(set(PATTERNS) - {"all", "sandwich"})
"""Patterns that leave the number of blocks free."""


LLAMA_3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
"""Rescales some frequencies of small heads, and leaves others."""


@st.composite
def layer_maps(draw: st.DrawFn, max_layers: int = 5) -> list[tuple[int, int]]:
    """Any layer map: of each half every block from 0 on."""
    layers = draw(st.integers(1, max_layers))
    halves = [draw(st.lists(st.integers(0, 3), min_size=layers, max_size=layers)) for _ in "af"]
    dense = [[sorted(set(half)).index(b) for b in half] for half in halves]
    return list(zip(*dense, strict=True))


@st.composite
def sharings(draw: st.DrawFn, max_blocks: int = 4) -> dict[str, Any]:
    """Fields that say which layers share: any pattern, scope and owner of norms."""
    pattern = draw(st.sampled_from([*PATTERNS, "custom"]))
    values = {"norms": draw(st.sampled_from(NORM_OWNERS)), "sharing": pattern}
    if pattern == "custom":
        return values | {"layer_map": draw(layer_maps())}
    fewest = 3 if pattern.startswith("middle") else 1
    values["num_blocks"] = draw(st.integers(fewest, max(fewest, max_blocks)))
    values |= {"all": {"num_blocks": 1}, "sandwich": {"num_blocks": 3}}.get(pattern, {})
    repeats = {"none": st.just(1), "reverse": st.just(2)}.get(pattern, st.integers(1, 3))
    return values | {"repeats": draw(repeats), "sharing_scope": draw(st.sampled_from(SCOPES))}


@st.composite
def ffn_scalings(draw: st.DrawFn) -> str:
    """A line of FFN widths, growing, shrinking or level."""
    first = draw(st.integers(1, 199)) / 100
    return f"{first:.2f}..{2 - first:.2f}"


@st.composite
def windows(draw: st.DrawFn) -> str:
    """A sliding window, without global layers or with some that any architecture has."""
    window = draw(st.integers(1, 8))
    rule = draw(st.sampled_from(["", ", global every 2", ", global every 3", ", global 0"]))
    return f"{window}{rule}"


PARTS = {
    "attn_output_gate": st.sampled_from(["headwise", "elementwise"]),
    "ffn_scaling": ffn_scalings(),
    "final_logit_softcapping": st.sampled_from([1.0, 30.0]),
    "layer_lora": st.integers(1, 3),
    "loop_input": st.booleans(),
    "loop_norm": st.booleans(),
    "output_bias": st.booleans(),
    "sliding_window": windows(),
}
"""A strategy for each field of the project's parts."""
APART = {"layer_lora": "ffn_scaling"}
"""Fields that do not go together with another."""


@st.composite
def fields_of_parts(draw: st.DrawFn, names: Collection[str] = tuple(PARTS)) -> dict[str, Any]:
    """Some of these fields, that go together."""
    found = {name: draw(PARTS[name]) for name in names if draw(st.booleans())}
    return {name: value for name, value in found.items() if APART.get(name) not in found}


@st.composite
def architectures(
    draw: st.DrawFn,
    max_blocks: int = 4,
    max_width: int = 48,
    parts: Collection[str] = tuple(PARTS),
) -> Architecture:
    """Any valid architecture, small enough to be built; heads need not fill the width. Of fields of
    parts it may have these."""
    kv_heads = draw(st.integers(1, 3))
    heads = kv_heads * draw(st.integers(1, 3))
    head_dim = 2 * draw(st.integers(1, 4))
    fields: dict[str, Any] = {
        "vocab_size": draw(st.integers(1, 64)),
        "hidden_size": draw(st.one_of(st.just(heads * head_dim), st.integers(1, max_width))),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "intermediate_size": draw(st.integers(1, 2 * max_width)),
        "hidden_act": draw(st.sampled_from(ACTIVATIONS)),
        "tie_word_embeddings": draw(st.booleans()),
        "rope_theta": draw(st.sampled_from([100.0, 10000.0, 1e6])),
        "rope_scaling": draw(st.sampled_from([None, LLAMA_3])),
        "rms_norm_eps": draw(st.sampled_from([1e-6, 1e-5])),
        "qk_norm": draw(st.booleans()),
        "attention_bias": draw(st.booleans()),
        "max_position_embeddings": draw(st.sampled_from([64, 2048])),
    }
    fields |= draw(fields_of_parts(parts))
    return Architecture.from_dict({**fields, **draw(sharings(max_blocks))})


@st.composite
def budgets(draw: st.DrawFn, smallest: float = 0.5e6, largest: float = 2e9) -> Budget:
    """Budgets of weights, of either kind, all orders of magnitude alike."""
    exponent = draw(st.floats(0, 1))
    value = smallest * (largest / smallest) ** exponent
    return Budget(draw(st.sampled_from(OF_WEIGHTS)), round(value))


@st.composite
def partials(draw: st.DrawFn) -> dict[str, Any]:
    """What `fit` may be given, on a budget or not."""
    values: dict[str, Any] = {
        "vocab_size": draw(st.sampled_from([256, 1000, 1024, 4096, 32000, 49152, 151936])),
        "tie_word_embeddings": draw(st.booleans()),
        "hidden_act": draw(st.sampled_from(ACTIVATIONS)),
        "qk_norm": draw(st.booleans()),
        "attention_bias": draw(st.booleans()),
        **draw(sharings(max_blocks=60)),
    }
    grouping = draw(st.sampled_from(["none", "heads_per_kv", "heads_per_kv_target"]))
    if grouping != "none":
        values[grouping] = draw(st.integers(1, 4))
    heads = draw(st.sampled_from(["none", "head_dim", "head_dim_scale"]))
    if heads == "head_dim":
        values["head_dim"] = draw(st.sampled_from([8, 16, 24, 32, 64, 128]))
    if heads == "head_dim_scale":
        values["head_dim_scale"] = draw(st.sampled_from([0.5, 1, 2]))
    if draw(st.booleans()):
        values["ffn_ratio"] = draw(st.floats(1, 8))
    return values | draw(fields_of_parts())
