"""Parts of architectures: what they say of FFN widths, and how they are found and refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from search.recipe import Recipe
from search.record import Record, Run
from search.runs import load_records, write_record
from search.states import Status
from space.arch import Architecture
from space.axes import Space
from space.budget import MAX_DEVIATION, Budget, fit
from space.cost import cost
from space.hf import export, load
from space.model import Decoder, KVCache

TINY: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "num_blocks": 4,
}


def tiny(**change: Any) -> Architecture:
    return Architecture.from_dict({**TINY, **change})


def test_ffn_widths_lie_on_a_line_about_their_mean() -> None:
    assert tiny(ffn_scaling="0.5..1.5", intermediate_size=96).ffn_widths == (48, 80, 112, 144)
    assert tiny(ffn_scaling=[1.5, 0.5], intermediate_size=96).ffn_widths == (144, 112, 80, 48)
    assert tiny().ffn_widths == (48,) * 4


@given(st.integers(1, 9), st.integers(1, 500), st.floats(0.01, 1.99))
def test_growing_and_shrinking_ffns_have_the_mean_and_the_weights_of_uniform_ones(
    blocks: int, mean: int, first: float
) -> None:
    scaling = f"{first:.3f}..{2 - float(f'{first:.3f}'):.3f}"
    scaled, uniform = (
        tiny(num_blocks=blocks, intermediate_size=mean, ffn_scaling=text)
        for text in (scaling, "1..1")
    )
    assert sum(scaled.ffn_widths) == blocks * mean
    assert min(scaled.ffn_widths) >= 1
    assert cost(scaled) == cost(uniform)


def test_a_repeated_wide_ffn_costs_the_flops_of_its_own_width() -> None:
    layers = {"layer_map": [[0, 0], [1, 1], [1, 1]], "num_blocks": 2}
    uniform, grown = (tiny(**layers, ffn_scaling=text) for text in ("1..1", "0.5..1.5"))
    more = 2 * 3 * 32 * 24  # a multiply-add of three matrices, 72 wide instead of 48
    assert grown.ffn_widths == (24, 72)
    flops = cost(grown).forward_flops_per_token - cost(uniform).forward_flops_per_token
    assert flops == more
    assert cost(grown).parameters == cost(uniform).parameters


def test_the_decoder_has_the_widths_counted() -> None:
    arch = tiny(ffn_scaling="1.5..0.5", sharing="immediate", repeats=2)
    model = Decoder(arch)
    assert [layer.mlp.up_proj.out_features for layer in model.model.layers][::2] == list(
        arch.ffn_widths
    )
    assert sum(p.numel() for p in model.parameters()) == cost(arch).parameters


def test_the_budget_is_closed_with_any_scaling() -> None:
    partial = {"vocab_size": 1024, "num_blocks": 7, "heads_per_kv_target": 3}
    budget = Budget.parse("1m")
    shapes = {
        fit({**partial, "ffn_scaling": text}, budget).shape
        for text in ("1..1", "0.5..1.5", "1.8..0.2")
    }
    assert len(shapes) == 1
    assert (
        abs(budget.deviation(fit({**partial, "ffn_scaling": "0.5..1.5"}, budget))) < MAX_DEVIATION
    )


def test_what_computes_the_same_is_the_same_architecture() -> None:
    assert tiny(num_blocks=1, ffn_scaling="0.5..1.5").canonical() == tiny(num_blocks=1).canonical()
    assert tiny(ffn_scaling="0.5..1.5").identity == tiny(ffn_scaling=[0.5, 1.5]).identity
    assert tiny(ffn_scaling="0.5..1.5").identity != tiny(ffn_scaling="1.5..0.5").identity


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"ffn_scaling": "growing"}, "ffn_scaling must be the ratios of the first and the last"),
        ({"ffn_scaling": "1..3"}, "the mean of both 1, but got '1..3'; write 0.5..1.5"),
        ({"ffn_scaling": "0..2"}, "ffn_scaling must be"),
        ({"ffn_scalling": "1..1"}, "fields of an architecture must be among"),
        ({"parts": "mine.py"}, "parts must be a list of files or modules, but got 'mine.py'"),
        ({"parts": ["absent.py"]}, "part must be one of .*, but got 'absent.py'"),
    ],
)
def test_what_is_no_field_or_value_of_a_part_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tiny(**given)


@pytest.mark.parametrize(
    ("given", "kept", "spans"),
    [
        (3, "3", [3, 3, 3, 3]),
        ("3", "3", [3, 3, 3, 3]),
        ("3,  global every 2", "3, global every 2", [3, None, 3, None]),
        ("3, global 3 0 3", "3, global 0 3", [None, 3, 3, None]),
        ("none", "none", [None] * 4),
    ],
)
def test_a_window_says_what_each_layer_sees(given: Any, kept: str, spans: list[Any]) -> None:
    arch = tiny(sliding_window=given)
    assert arch.value("sliding_window") == kept
    assert list(arch.spans) == spans


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (0, "must be none, a number of positions"),
        (True, "must be none, a number of positions"),
        ("3, global", "must be none, a number of positions"),
        ("3, global every 0", "must be none, a number of positions"),
        ("3, global 4", "must name layers from 0 to 3, but got '3, global 4'"),
    ],
)
def test_a_window_that_is_none_is_refused(given: Any, said: str) -> None:
    with pytest.raises(ValueError, match=f"sliding_window {said}"):
        tiny(sliding_window=given)


def test_the_layers_that_see_all_and_not_their_rule_make_the_identity() -> None:
    listed, every = "3, global 1 3", "3, global every 2"
    assert tiny(sliding_window=listed).identity == tiny(sliding_window=every).identity
    assert tiny(sliding_window="3, global every 1").identity == tiny().identity
    assert tiny(sliding_window="3").identity != tiny(sliding_window="4").identity


def test_a_window_costs_the_pairs_within_it_and_its_tokens_of_cache() -> None:
    """Of 8 tokens a window of 3 leaves 3·8 - 9/2 pairs, and all of them 32."""
    full, windowed = (cost(tiny(sliding_window=w), 8, 1) for w in ("none", "3, global 0"))
    pair = 4 * 32  # q·k and p·v over the width of all heads, a multiply-add being two
    saved = 3 * pair * (32 - (3 * 8 - 4.5)) / 8
    assert full.forward_flops_per_token - windowed.forward_flops_per_token == saved
    token = 2 * 2 * 8  # a key and a value of two heads
    assert full.kv_bytes_per_token == 4 * token
    assert windowed.kv_bytes_per_token == token * (8 + 3 * 3) // 8
    moved = full.decode_bytes_per_token - windowed.decode_bytes_per_token
    assert moved == 3 * 5 * token
    assert full.parameters == windowed.parameters


@given(st.integers(1, 40), st.integers(1, 40))
def test_a_window_as_long_as_the_text_costs_as_much_as_none(window: int, length: int) -> None:
    full, windowed = cost(tiny(), length), cost(tiny(sliding_window=window), length)
    assert (windowed == full) == (window >= length)
    assert windowed.forward_flops_per_token <= full.forward_flops_per_token


def test_a_token_sees_its_window_and_no_more() -> None:
    arch = tiny(sliding_window=3, num_blocks=1)
    model = Decoder(arch).eval()
    ids = torch.arange(9)[None]
    before = model(ids)
    for changed in range(9):
        other = ids.clone()
        other[0, changed] = 96
        seen = (model(other) - before).abs().amax(-1)[0] > 1e-7
        assert seen.nonzero().flatten().tolist() == list(range(changed, min(9, changed + 3)))


def test_generation_holds_no_more_than_the_window() -> None:
    model, cache = Decoder(tiny(sliding_window="3, global 0")).eval(), KVCache(4)
    for token in torch.arange(9)[None].split(1, dim=1):
        model(token, cache)
    assert [k.shape[2] for k in cache.keys if k is not None] == [9, 3, 3, 3]
    assert len(cache) == 9


def test_frames_have_the_default_where_an_architecture_lacks_the_part(tmp_path: Path) -> None:
    for arch in (tiny(), tiny(sliding_window=3)):
        run = Run(architecture=arch, recipe=RECIPE, data_fingerprint="d")
        write_record(tmp_path / run.key, Record(run=run, status=Status.FINISHED))
    frame = load_records(tmp_path)
    assert frame.attrs["corrupt"] == []
    assert sorted(frame.sliding_window) == ["3", "none"]
    assert frame.arm.nunique() == 2
    assert "ffn_scaling" not in frame


RECIPE = Recipe(tokens=1000, precision="fp32")


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"sliding_window": 3}, "Mistral"),
        ({"sliding_window": "3, global 2"}, "Ministral"),
        ({"sliding_window": "3, global 2", "attention_bias": True}, "Qwen2"),
        ({"sliding_window": 3, "qk_norm": True}, "Qwen3"),
    ],
)
def test_windows_leave_as_a_model_that_transformers_has(
    fields: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    arch = tiny(**fields)
    folder = export(Decoder(arch), tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == [f"{kind}ForCausalLM"]
    assert load(folder).arch.identity == arch.identity


@pytest.mark.parametrize(
    "fields", [{"ffn_scaling": "0.5..1.5"}, {"sliding_window": 3, "hidden_act": "gelu"}]
)
def test_what_transformers_lacks_is_refused_by_its_field(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"but none has {next(iter(fields))}="):
        export(Decoder(tiny(**fields)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_fields_of_parts_are_keywords_beside_those_of_the_architecture() -> None:
    given: dict[str, Any] = {"sliding_window": 16, "ffn_scaling": "0.5..1.5"}
    made = Architecture(**TINY, **given)
    assert made == Architecture.from_dict({**TINY, **given})
    assert made == Architecture.from_dict(made.to_dict())
    assert replace(Architecture(**TINY, sliding_window=16), ffn_scaling="0.5..1.5") == made
    assert replace(made, hidden_size=64).parts == made.parts
    assert replace(made, ffn_scaling="1..1") == Architecture(**TINY, sliding_window=16)
    with pytest.raises(ValueError, match=r"must be among .*, but got 'hiden_size'"):
        Architecture(**TINY, hiden_size=64)  # type: ignore[call-arg]


def test_the_part_of_a_file_is_kept_where_other_fields_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from space.parts import Field, Part\n\n\n"
        "class Mine(Part):\n"
        "    fields = (Field('mine', 0, int, 'a number'),)\n"
        "    examples = ({'mine': 1},)\n\n\n"
        "PART = Mine()\n"
    )
    made = Architecture(**TINY, parts=[str(path)], mine=3, sliding_window=16)  # type: ignore
    assert replace(made, sliding_window=8).value("mine") == 3
    assert replace(made, mine=4).value("mine") == 4
    assert replace(made, mine=0) == Architecture(**TINY, sliding_window=16)


BY_ARCH = """
from space.parts import Extra, Field, Part


class Gate(Part):
    fields = (Field("ffn_gate", False, bool, "none"),)
    examples = ({"ffn_gate": True},)

    def ffn(self, arch, shape):
        return Extra(matrices=SIZES.hidden_size**2)


PART = Gate()
"""


def test_a_part_that_counts_by_the_architecture_is_refused(tmp_path: Path) -> None:
    budget = Budget.parse("300k")
    for sizes in ("shape", "arch"):
        (path := tmp_path / f"by_{sizes}.py").write_text(BY_ARCH.replace("SIZES", sizes))
        fixed = {"parts": [str(path)], "heads_per_kv_target": 3, "ffn_gate": True}

        def alone(fixed: dict[str, Any] = fixed) -> list[Architecture]:
            return [fit({**fixed, "vocab_size": 1024, "num_blocks": 2}, budget)]

        def in_a_space(fixed: dict[str, Any] = fixed) -> list[Architecture]:
            axes = {"num_blocks": [2, 4]}
            return Space("gates", budget, vocab_size=1024, axes=axes, fixed=fixed).enumerate()

        for made in (alone, in_a_space):
            if sizes == "shape":
                assert all(abs(budget.deviation(arch)) <= MAX_DEVIATION for arch in made())
                continue
            with pytest.raises(ValueError, match=r"by_arch.py must lie within 0\.15% .* `shape`"):
                made()
