"""Parts of architectures: what they say of FFN widths, and how they are found and refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from space.arch import Architecture
from space.budget import MAX_DEVIATION, Budget, fit
from space.cost import cost
from space.model import Decoder

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
