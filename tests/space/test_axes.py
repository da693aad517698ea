"""`space.axes`: each architecture of a space is on the budget, listed once, and reached."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, IntDistribution
from strategies import budgets

from space.arch import Architecture, RopeScaling
from space.axes import AXES, SPACES, Candidate, Space, describe_sharing, parse_sharing
from space.budget import MAX_DEVIATION, Budget, Unfit
from space.parts import part_fields

SHIPPED = sorted(path.stem for path in SPACES.glob("*.yaml"))
SIZES = [("1m", 1024), ("2m", 4096), ("125m", 32000)]


def small(axes: dict[str, Any], budget: str = "1m", **others: Any) -> Space:
    """A space of these axes on a small budget."""
    return Space.from_config({"name": "small", "axes": axes, **others}, budget, 1024)


def content(arch: Architecture) -> str:
    return repr(sorted(arch.canonical().items()))


@pytest.mark.parametrize(("budget", "vocab_size"), SIZES)
@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_space_lists_each_architecture_once_and_all_on_the_budget(
    name: str, budget: str, vocab_size: int
) -> None:
    space = Space.from_yaml(name, budget, vocab_size)
    listed = space.enumerate()
    assert len(listed) == space.size >= 6
    assert max(Counter(map(content, listed)).values()) == 1
    assert all(abs(space.budget.deviation(arch)) <= MAX_DEVIATION for arch in listed)
    assert all(arch.vocab_size == vocab_size for arch in listed)


@pytest.mark.parametrize(("budget", "vocab_size"), SIZES)
@pytest.mark.parametrize("name", SHIPPED)
def test_a_candidate_is_found_again_by_its_params(name: str, budget: str, vocab_size: int) -> None:
    space = Space.from_yaml(name, budget, vocab_size)
    for candidate in space.candidates():
        assert space.candidate(candidate.params) == candidate
        assert list(candidate.params) == list(space.axes)


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_samplers_see_fixed_distributions_and_reach_only_listed_architectures(
    name: str, sampler: str
) -> None:
    space = Space.from_yaml(name, "1m", 1024)
    listed = set(space.enumerate())
    seen = []

    def objective(trial: optuna.Trial) -> float:
        arch = space.suggest(trial)
        assert arch in listed
        seen.append(arch)
        return (arch.num_layers - 9) ** 2 + arch.kv_heads

    made = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}[sampler]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=made(seed=0))
    study.optimize(objective, n_trials=30)
    assert len({repr(trial.distributions) for trial in study.trials}) == 1
    assert set(study.trials[0].params) == set(space.axes)
    assert len(set(seen)) >= min(5, len(listed) // 2)


@pytest.mark.parametrize("name", SHIPPED)
def test_enqueued_params_of_a_candidate_give_its_architecture(name: str) -> None:
    space = Space.from_yaml(name, "1m", 1024)
    study = optuna.create_study()
    for candidate in space.candidates()[:20]:
        study.enqueue_trial(candidate.params)
        trial = study.ask()
        assert space.suggest(trial) == candidate.architecture
        assert trial.params == candidate.params


@settings(max_examples=25)
@given(st.sampled_from(["depth_width", "gqa", "sharing", "tying"]), budgets(), st.data())
def test_whatever_is_drawn_lands_on_the_budget(
    name: str, budget: Budget, data: st.DataObject
) -> None:
    space = Space.from_yaml(name, budget, 2048)
    listed = set(space.enumerate())

    class AnyTrial:
        def suggest_int(
            self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
        ) -> int:
            return data.draw(st.integers(0, (high - low) // step)) * step + low

        def suggest_categorical(self, name: str, choices: Any) -> Any:
            return data.draw(st.sampled_from(choices))

    arch = space.suggest(AnyTrial())
    assert arch in listed
    assert abs(budget.deviation(arch)) <= MAX_DEVIATION


def test_depth_width_has_about_ten_rungs_of_steady_proportions() -> None:
    ladder = Space.from_yaml("depth_width", "1m", 1024).enumerate()
    assert 8 <= len(ladder) <= 12
    assert ladder[0].num_layers == 2
    assert ladder[-1].num_layers >= 30
    assert [a.hidden_size for a in ladder] == sorted({a.hidden_size for a in ladder}, reverse=True)
    assert all(abs(a.ffn_ratio * 3 / 8 - 1) < 0.1 for a in ladder)
    assert all(a.kv_heads < a.num_attention_heads for a in ladder)
    assert all(a.tie_word_embeddings for a in ladder)


def test_depth_width_at_125m_has_the_shape_of_mobilellm() -> None:
    ladder = Space.from_yaml("depth_width", "125m", 32000).enumerate()
    shapes = {(a.num_blocks, a.hidden_size, a.num_attention_heads, a.kv_heads) for a in ladder}
    assert (30, 576, 9, 3) in shapes


def test_listed_depths_are_kept_and_those_that_miss_the_budget_move_to_the_nearest() -> None:
    space = small({"num_blocks": [2, 3, 40, 48]})
    depths = [arch.num_blocks for arch in space.enumerate()]
    assert depths[:2] == [2, 3]
    assert depths == sorted(set(depths))
    assert max(depths) <= 48


def test_a_range_lists_every_depth_that_fits() -> None:
    fixed = {"heads_per_kv_target": 3}
    depths = [
        c.params["num_blocks"] for c in small({"num_blocks": "1..13"}, fixed=fixed).candidates()
    ]
    assert depths == list(range(1, 14))
    as_mapping = small({"num_blocks": {"low": 1, "high": 13}}, fixed=fixed)
    assert [c.params["num_blocks"] for c in as_mapping.candidates()] == depths


def test_distributions_know_the_order_of_numbers() -> None:
    space = small(
        {
            "num_blocks": "2..40 in 10 rungs",
            "heads_per_kv": [1, 2, 3],
            "head_dim": [8, 16, 32],
            "tie_word_embeddings": [True, False],
        }
    )
    study = optuna.create_study()
    trial = study.ask()
    space.suggest(trial)
    assert trial.distributions == {
        "num_blocks": IntDistribution(2, 40, log=True),
        "heads_per_kv": IntDistribution(1, 3, step=1),
        "head_dim": IntDistribution(8, 32, log=True),
        "tie_word_embeddings": CategoricalDistribution([True, False]),
    }


def test_params_between_listed_values_go_to_the_nearest() -> None:
    space = small({"num_blocks": [2, 9], "head_dim": [8, 16, 32]})
    assert space.candidate({"num_blocks": 5, "head_dim": 13}).params == {
        "num_blocks": 9,
        "head_dim": 16,
    }


def test_a_corner_off_the_budget_goes_to_the_nearest_that_is_on_it() -> None:
    space = small({"heads_per_kv": [1, 40], "num_blocks": [4]})
    assert [c.params["heads_per_kv"] for c in space.candidates()] == [1]
    assert space.candidate({"heads_per_kv": 40, "num_blocks": 4}) == space.candidates()[0]


def test_architectures_that_only_differ_in_name_are_listed_once() -> None:
    space = small({"sharing": ["cycle x2", "immediate x2"], "num_blocks": [1, 4]})
    assert space.size == 3
    twin = space.candidate({"sharing": "immediate x2", "num_blocks": 1})
    assert twin.params == {"sharing": "cycle x2", "num_blocks": 1}


@pytest.mark.parametrize(("sharing", "blocks"), [("all", 1), ("sandwich", 3), ("ffn: all", 1)])
def test_depth_counts_layers_where_the_pattern_fixes_the_blocks(sharing: str, blocks: int) -> None:
    space = small({"sharing": [sharing], "num_blocks": [4, 8, 12]})
    assert [arch.num_layers for arch in space.enumerate()] == [4, 8, 12]
    assert {arch.num_blocks for arch in space.enumerate()} == {blocks}


@pytest.mark.parametrize(
    "text", ["none", "immediate x2", "ffn: cycle x3", "attention: all x4", "cycle x2, norms=layer"]
)
def test_sharing_is_written_as_it_is_read(text: str) -> None:
    fields = parse_sharing(text)
    blocks = 1 if fields["sharing"] == "all" else 4
    arch = Architecture(
        vocab_size=8,
        hidden_size=8,
        num_attention_heads=2,
        intermediate_size=8,
        num_blocks=blocks,
        **fields,
    )
    assert describe_sharing(arch) == text


def test_sharing_may_be_fixed_in_the_same_words() -> None:
    space = small({"num_blocks": [4]}, fixed={"sharing": "ffn: immediate x3"})
    assert (
        space.enumerate()
        == small({"num_blocks": [4], "sharing": ["ffn: immediate x3"]}).enumerate()
    )
    assert space.enumerate()[0].num_layers == 12


def test_a_layer_map_may_be_fixed() -> None:
    fixed = {"sharing": "custom", "layer_map": [0, 1, 1, 2], "num_blocks": 3}
    space = small({"tie_word_embeddings": [True, False]}, fixed=fixed)
    assert [arch.num_layers for arch in space.enumerate()] == [4, 4]


def test_scaled_frequencies_may_be_fixed() -> None:
    scaling = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 2048,
    }
    content = {"name": "s", "axes": {"num_blocks": [4]}, "fixed": {"rope_scaling": scaling}}
    (arch,) = Space.from_config(content, "1m", 1024).enumerate()
    assert arch.rope_scaling == RopeScaling(**scaling)


def test_a_space_is_read_by_name_by_path_and_from_its_content(tmp_path: Path) -> None:
    import yaml

    named = Space.from_yaml("gqa", "1m", 1024)
    path = tmp_path / "mine.yaml"
    path.write_text((SPACES / "gqa.yaml").read_text())
    assert Space.from_yaml(path, Budget.parse("1m"), 1024) == named
    values = yaml.safe_load(path.read_text())
    assert Space.from_config(values, "1m", 1024).to_dict() == named.to_dict()
    assert isinstance(named.candidates()[0], Candidate)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"axes": {"num_blocks": []}}, "axis num_blocks must be a list of at least one value"),
        ({"axes": {}}, "at least one axis"),
        ({"axes": {"tie_word_embeddings": []}}, "at least one value"),
        ({"axes": {"num_bloks": [2]}}, "num_bloks"),
        ({"axes": {"num_blocks": [2, 2]}}, "each value once"),
        ({"axes": {"num_blocks": ["two"]}}, "whole numbers"),
        ({"axes": {"num_blocks": "9..3"}}, r"1 <= low <= high, but got 9..3; write 3..9"),
        ({"axes": {"num_blocks": "2..24 in 8 rung"}}, "2..40 in 10 rungs, but got '2..24 in 8"),
        ({"axes": {"num_blocks": {"low": 2}}}, "low and high"),
        ({"axes": {"head_dim": "8..32 in 3 rungs"}}, "only num_blocks has rungs"),
        ({"axes": {"heads_per_kv": [1, 2]}}, "num_blocks must be an axis or fixed"),
        ({"axes": {"num_blocks": [2]}, "fixed": {"num_blocks": 4}}, "an axis or fixed"),
        ({"axes": {"num_blocks": [2]}, "fixed": {"hiden_size": 4}}, "hiden_size"),
        ({"axes": {"num_blocks": [2], "sharing": ["mirror x2"]}}, "sharing must be written like"),
        ({"axes": {"num_blocks": [2]}, "fixed": {"vocab_size": 4}}, "vocab_size"),
        ({"axes": {"head_dim": [16]}, "fixed": {"num_blocks": "4"}}, "num_blocks must be a whole"),
        ({"axes": {"num_blocks": [2]}, "fixed": {"repeats": "two"}}, "repeats must be a whole"),
        ({"axes": {"num_blocks": [2]}, "fixed": {"repeats": 2}}, "repeats must be 1"),
        ({"axes": {"num_blocks": [2]}, "fixed": {"sharing": "mirror"}}, "sharing must be one of"),
        ({"axes": {"num_blocks": [2]}, "fixed": {"sharing": ["all"]}}, "sharing must be written"),
        ({"axes": {"num_blocks": [2], "qk_norm": ["no"]}}, "qk_norm must be true or false"),
        ({"axes": {"num_blocks": [2]}, "tolerance": 2}, "tolerance"),
        (
            {"axes": {"num_blocks": [2], "sharing": ["all"]}, "fixed": {"repeats": 3}},
            "repeats must be said by the sharing axis",
        ),
        ({"axes": {"num_blocks": [3000]}}, "nearest that fit"),
    ],
)
def test_a_wrong_space_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Space.from_config({"name": "wrong", **config}, "1m", 1024)


def test_an_unknown_space_is_refused_with_those_known() -> None:
    with pytest.raises(
        ValueError,
        match="depth_width, ffn_scaling, full, gqa, sharing, tabular, tabular_shapes, tying",
    ):
        Space.from_yaml("depth", "1m", 1024)


def test_values_that_are_not_of_the_axes_are_refused() -> None:
    space = small({"num_blocks": [2, 4], "tie_word_embeddings": [True, False]})
    with pytest.raises(ValueError, match="params must have the axes"):
        space.candidate({"num_blocks": 2})
    with pytest.raises(ValueError, match="tie_word_embeddings must be one of"):
        space.candidate({"num_blocks": 2, "tie_word_embeddings": "yes"})


TWO_VALUES: dict[str, list[Any]] = {
    "num_blocks": [3, 6],
    "sharing": ["none", "immediate x2"],
    "ffn_ratio": [2.0, 3.5],
    "heads_per_kv": [1, 2],
    "heads_per_kv_target": [1, 4],
    "head_dim_scale": [1, 2],
    "head_dim": [16, 32],
    "hidden_act": ["silu", "gelu"],
    "tie_word_embeddings": [True, False],
    "rope_theta": [10000.0, 500000.0],
    "rms_norm_eps": [1e-5, 1e-6],
    "qk_norm": [False, True],
    "attention_bias": [False, True],
    "ffn_scaling": ["1..1", "0.5..1.5"],
    "sliding_window": ["none", 16],
    "output_bias": [False, True],
    "layer_lora": [0, 4],
    "attn_output_gate": ["none", "headwise"],
    "final_logit_softcapping": [0, 30],
    "loop_input": [False, True],
    "loop_norm": [False, True],
}
LOOPED = {"loop_input", "loop_norm"}
"""Axes that change nothing where no block is executed again."""


def test_every_axis_has_values_that_are_tried_here() -> None:
    assert {*TWO_VALUES} == {*AXES, *part_fields()}


@pytest.mark.parametrize("axis", TWO_VALUES)
def test_no_axis_is_ignored(axis: str) -> None:
    """Every depth has two architectures, which differ in identity and so by their run keys."""
    depths = {} if axis == "num_blocks" else {"num_blocks": [4, 5]}
    looped = {"sharing": ["cycle x2"]} if axis in LOOPED else {}
    space = small({axis: TWO_VALUES[axis], **depths, **looped})
    assert space.size == 2 * max(1, len(depths) * 2)
    assert len({arch.identity for arch in space.enumerate()}) == space.size


def test_values_of_a_part_are_kept_as_the_part_keeps_them() -> None:
    space = small({"num_blocks": [4], "sliding_window": [16, "16,global every  2"]})
    assert [c.params["sliding_window"] for c in space.candidates()] == ["16", "16, global every 2"]


@pytest.mark.parametrize(
    ("axes", "fixed", "said"),
    [
        ({"output_gate": [False, True]}, {}, "an axis must be a field of architectures, but got"),
        ({"sliding_window": [0, 16]}, {}, "sliding_window must be none, a number of positions"),
        ({"num_blocks": [2]}, {"window": 16}, "fit takes fields of an architecture .* 'window'"),
        ({"num_blocks": [2]}, {"parts": ["absent.py"]}, "part must be one of .* 'absent.py'"),
    ],
)
def test_what_is_no_field_of_a_part_is_no_axis_and_not_fixed(
    axes: dict[str, Any], fixed: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        small({"num_blocks": [4], **axes}, fixed=fixed)


def test_depths_that_do_not_fit_are_said_with_what_is_taken() -> None:
    space = Space.from_yaml("depth_width", "non_embedding_parameters:400k", 512)
    listed = replace(space, axes={"num_blocks": [2, 3, 4, 6, 9]})
    depths = [arch.num_layers for arch in listed.enumerate()]
    assert depths == [2, 3, 4, 6, 8]
    assert listed.said_of_depths() == (
        "depths that do not fit the budget become the nearest that do: 8 for 9"
    )
    assert space.said_of_depths() == "", "a range takes what fits"
    assert replace(space, axes={"num_blocks": depths}).said_of_depths() == ""


@pytest.mark.parametrize("budget", ["300", "3k"])
def test_a_budget_that_is_too_small_is_answered_with_the_smallest_that_fits(budget: str) -> None:
    axes = {"num_blocks": "1..40"}
    with pytest.raises(Unfit, match="raise the budget, such as to ") as error:
        small(axes, budget)
    smallest = Budget.parse(str(error.value).rpartition(" ")[2])
    assert small(axes, str(smallest.value)).candidates()
    for value in range(10_000, int(smallest.value), 1_000):
        with pytest.raises(Unfit):
            small(axes, str(value))
