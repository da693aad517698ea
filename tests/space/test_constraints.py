"""`space.constraints`: every proposal keeps to them and lies on the budget; what cannot is said."""

import operator
import re
import subprocess
import sys
from itertools import product
from math import log
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ablations.questions.trust import described
from search.objectives import Limit
from search.recipe import Recipe
from space.app import as_meant
from space.arch import Architecture
from space.axes import SPACES, Space, SpaceConfig
from space.budget import COARSE_DEVIATION, MAX_DEVIATION, Budget
from space.constraints import FIELDS, as_override
from space.cost import cost

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(path.stem for path in SPACES.glob("*.yaml"))
MEANING = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
    "%": lambda value, number: value % number == 0,
}
NUMBERS = {
    "hidden_size": st.integers(30, 400),
    "intermediate_size": st.integers(60, 1200),
    "num_attention_heads": st.integers(1, 24),
    "num_key_value_heads": st.integers(1, 12),
    "head_dim": st.sampled_from([8, 12, 16, 32, 64]),
    "num_hidden_layers": st.integers(1, 12),
    "num_blocks": st.integers(1, 6),
}
STEPS = {"hidden_size": [16, 32, 48, 64], "intermediate_size": [2, 4, 8, 16, 48, 64]}
SMALL = ["1m", "2500k", "non_embedding_parameters:1500k"]
OTHERS = [
    "weight_bytes:2mb@int4",
    "kv_bytes:2kb",
    "decode_ms:0.5@iphone_13",
    "peak_mb:30@iphone_13",
]


@st.composite
def conditions(draw: st.DrawFn, name: str) -> Any:
    """One condition on a field, or a list of two."""
    bound = st.tuples(st.sampled_from([">=", "<=", ">", "<"]), NUMBERS[name])
    step = st.tuples(st.just("%"), st.sampled_from(STEPS.get(name, [1, 2, 3])))
    exact = st.tuples(st.just("=="), NUMBERS[name])
    texts = st.one_of(bound, step, exact).map(lambda pair: f"{pair[0]}{pair[1]}")
    both = st.tuples(bound, step).map(lambda found: [f"{sign}{n}" for sign, n in found])
    return draw(st.one_of(texts, both))


@st.composite
def constraints(draw: st.DrawFn) -> dict[str, Any]:
    """Constraints on one to three fields."""
    names = draw(st.lists(st.sampled_from(FIELDS), min_size=1, max_size=3, unique=True))
    return {name: draw(conditions(name)) for name in names}


@st.composite
def spaces(draw: st.DrawFn) -> dict[str, Any]:
    """Few axes of several values: what a user may write, on a budget or not."""
    axes: dict[str, Any] = {
        "num_blocks": draw(st.sampled_from(["1..9", "2..9 in 3 rungs", [2, 6]]))
    }
    further = {
        "sharing": ["none", "immediate x2", "ffn: cycle x2", "all"],
        "tie_word_embeddings": [True, False],
        "heads_per_kv": [1, 2],
        "head_dim_scale": [0.5, 1],
        "ffn_scaling": ["1..1", "0.5..1.5"],
    }
    for name in draw(st.lists(st.sampled_from(sorted(further)), max_size=2, unique=True)):
        axes[name] = further[name]
    fixed: dict[str, Any] = {}
    if "heads_per_kv" not in axes and draw(st.booleans()):
        fixed["heads_per_kv_target"] = 3
    return {"axes": axes, "fixed": fixed, "ffn_tolerance": draw(st.sampled_from([1.3, 2.0]))}


def texts_of(condition: Any) -> list[str]:
    return [condition] if isinstance(condition, str) else condition


def made(content: dict[str, Any], wanted: dict[str, Any], text: str) -> Space | str:
    """The space, or what is wrong with it."""
    try:
        return Space.from_config({"name": "s", **content, "constraints": wanted}, text, 1024)
    except ValueError as error:
        return str(error)


def allowed(condition: Any, value: int) -> bool:
    """By Python's own operators."""
    found = (re.fullmatch(r"(\D+)(\d+)", text) for text in texts_of(condition))
    return all(MEANING[m[1]](value, int(m[2])) for m in found if m)


def keeps(arch: Architecture, wanted: dict[str, Any]) -> bool:
    """Whether it does, in each of its FFN blocks."""
    values = {name: [getattr(arch, name)] for name in FIELDS}
    values["intermediate_size"] = list(arch.ffn_widths)
    return all(allowed(wanted[name], value) for name in wanted for value in values[name])


def half_a_step(arch: Architecture, wanted: dict[str, Any], budget: Budget) -> float:
    """What the constraint on the FFN width implies, as a share of the budget, by the costs of two
    built descriptions."""
    steps = [int(t[1:]) for t in texts_of(wanted.get("intermediate_size", "%1")) if t[0] == "%"]
    plain = {**arch.to_dict(), "ffn_scaling": "1..1"}
    wider = {**plain, "intermediate_size": arch.intermediate_size + max([1, *steps])}
    step = budget.spent(Architecture(**wider)) - budget.spent(Architecture(**plain))
    return step / 2 / budget.value


class AnyTrial:
    """A sampler that may propose anything."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data

    def suggest_int(self, _: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return self.data.draw(st.integers(0, (high - low) // step)) * step + low

    def suggest_categorical(self, _: str, choices: Any) -> Any:
        return self.data.draw(st.sampled_from(choices))


@settings(max_examples=60)
@given(spaces(), constraints(), st.sampled_from([*SMALL, *OTHERS]), st.data())
def test_every_proposal_keeps_to_the_constraints_and_lies_on_the_budget(
    content: dict[str, Any], wanted: dict[str, Any], text: str, data: st.DataObject
) -> None:
    space = made(content, wanted, text)
    if isinstance(space, str):
        assert "must" in space
        assert "\n" not in space
        return
    listed = space.enumerate()
    for arch in listed:
        off = abs(space.budget.deviation(arch))
        assert keeps(arch, wanted), arch
        if off > space.budget.tolerance:
            # of widths that differ the closed form is rounded, by a few units of one block
            assert off <= min(COARSE_DEVIATION, half_a_step(arch, wanted, space.budget) * 1.01)
        assert off <= space.missed
    for _ in range(5):
        assert space.suggest(AnyTrial(data)) in listed
    for candidate in space.candidates():
        assert space.candidate(candidate.params) == candidate


@settings(max_examples=30)
@given(
    blocks=st.integers(1, 8),
    tied=st.booleans(),
    sharing=st.sampled_from(["none", "immediate x2", "attention: cycle x2"]),
    wanted=st.fixed_dictionaries(
        {"hidden_size": conditions("hidden_size")},
        optional={name: conditions(name) for name in ("intermediate_size", "num_attention_heads")},
    ),
    text=st.sampled_from(SMALL),
)
def test_a_shape_is_found_where_trying_all_widths_finds_one(
    blocks: int, tied: bool, sharing: str, wanted: dict[str, Any], text: str
) -> None:
    """And its width is the one with which the FFN ratio would be nearest its target."""
    fixed = {"tie_word_embeddings": tied, "sharing": sharing}
    content = {"name": "s", "axes": {"num_blocks": [blocks]}, "fixed": fixed}
    budget = Budget.parse(text)
    found = {width: tried(content, width, wanted, budget) for width in range(16, 500, 16)}
    drifts = {width: drift for width, drift in found.items() if drift is not None}
    space = made(content, wanted, text)
    if isinstance(space, str):
        assert not drifts, space
        return
    (arch,) = space.enumerate()
    assert drifts[arch.hidden_size] <= min(drifts.values()) + 0.01  # found to a unit of FFN width


def tried(
    content: dict[str, Any], width: int, wanted: dict[str, Any], budget: Budget
) -> float | None:
    """How far the FFN ratio that closes the budget is from its target, where one of all FFN widths
    keeps to the constraints and comes near enough; else None."""
    if not allowed(wanted["hidden_size"], width):
        return None
    if not allowed(wanted.get("num_attention_heads", "%1"), width // 16):
        return None
    fixed = {**content["fixed"], "hidden_size": width, "head_dim": 16}
    try:  # a fixed width takes any ratio, so that depth and sharing are what they are
        about = Space.from_config({**content, "fixed": fixed}, budget, 1024).enumerate()[0]
    except ValueError:
        return None
    condition = wanted.get("intermediate_size", "%1")
    near = range(max(1, about.intermediate_size - 80), about.intermediate_size + 80)
    made = (Architecture(**{**about.to_dict(), "intermediate_size": n}) for n in near)
    fitting = [
        a
        for a in made
        if allowed(condition, a.intermediate_size) and 0.5 <= a.ffn_ratio * 3 / 8 <= 2
    ]
    best = min(fitting, key=lambda a: abs(budget.deviation(a)), default=None)
    if best is None:
        return None
    steps = [t for t in texts_of(condition) if t[0] == "%" and t != "%1"]
    most = min(COARSE_DEVIATION, half_a_step(best, wanted, budget)) if steps else 0
    if abs(budget.deviation(best)) > max(MAX_DEVIATION, most):
        return None
    return abs(log(about.ffn_ratio * 3 / 8))


@settings(max_examples=25)
@given(spaces(), constraints(), st.sampled_from(SMALL))
def test_what_cannot_be_met_names_the_nearest_and_taking_its_advice_works(
    content: dict[str, Any], wanted: dict[str, Any], text: str
) -> None:
    message = made(content, wanted, text)
    assume(isinstance(message, str) and "nearest is" in message)
    advice = re.search(r"write \{(.*?)\}(?: and|,)", str(message))
    out = re.search(r"leave out (\w+(?: and \w+)*), or", str(message))
    for name in out[1].split(" and ") if out else []:
        wanted.pop(name)
    for name, value in re.findall(r"(\w+): (\[.*?\]|\".*?\")", advice[1]) if advice else []:
        wanted[name] = re.findall(r"[<>=%]+\d+", value)
    assert isinstance(made(content, wanted, text), Space)


@settings(max_examples=10)
@given(spaces(), st.sampled_from([">=48", ">=64", ">=80"]), st.sampled_from(["%8", "%24", "%32"]))
def test_a_vocabulary_that_is_named_as_nearest_keeps_to_the_constraints(
    content: dict[str, Any], least: str, step: str
) -> None:
    content = {**content, "name": "s", "constraints": {"hidden_size": [least, step]}}
    with pytest.raises(ValueError, match="embeddings alone are") as told:
        Space.from_config(content, "1m", 32_000)
    named = re.search(r"vocab_size=(\d+) \((\d+) wide", str(told.value))
    assume(named is not None)
    assert named is not None
    found = Space.from_config(content, "1m", int(named[1])).enumerate()
    assert int(named[2]) in {arch.hidden_size for arch in found}


@pytest.mark.parametrize("name", [name for name in SHIPPED if name != "full"])
@pytest.mark.parametrize("budget", ["1m", "125m"])
def test_constraints_that_everything_meets_change_no_architecture(name: str, budget: str) -> None:
    config = SpaceConfig.read(name)
    vacuous = {"hidden_size": ">=1", "intermediate_size": "%1", "num_hidden_layers": "<=999"}
    free = Space.from_config(config, budget, 4096)
    kept = Space.from_config(SpaceConfig(**config.kind, constraints=vacuous), budget, 4096)
    assert kept.enumerate() == free.enumerate()


def test_no_constraint_leaves_no_trace() -> None:
    config = SpaceConfig.read("depth_width")
    assert "constraints" not in config.kind
    assert "constraints" not in Space.from_config(config, "1m", 1024).to_dict()
    content = {"space": "depth_width", "lengths": [0.5, 1]}
    assert "constraints" not in described(content, Recipe(tokens=1000))["space"]
    for none in ({}, None):
        again = Space.from_config({**config.kind, "constraints": none}, "1m", 1024)
        assert again.to_dict() == Space.from_config(config, "1m", 1024).to_dict()
    kept = Space.from_config({**config.kind, "constraints": {"head_dim": "==16"}}, "1m", 1024)
    assert kept.to_dict()["constraints"] == kept.kind["constraints"] == {"head_dim": "==16"}


def test_the_cost_of_multiples_of_eight_at_a_million_parameters() -> None:
    """All rungs stay, and the budget is missed by half of a step of eight at most."""
    config = SpaceConfig.read("depth_width")
    free = Space.from_config(config, "1m", 1024)
    eight = Space.from_config(
        SpaceConfig(**config.kind, constraints={"intermediate_size": "%8"}), "1m", 1024
    )
    assert eight.size == free.size
    assert all(arch.intermediate_size % 8 == 0 for arch in eight.enumerate())
    assert any(arch.intermediate_size % 8 for arch in free.enumerate())
    assert MAX_DEVIATION < eight.missed < 0.006
    assert f"within {eight.missed:.2%} of the budget, where without" in eight.said_of_constraints()
    assert free.said_of_constraints() == ""


def test_the_head_dimension_follows_a_constraint_and_an_axis_keeps_its_values() -> None:
    def dims(axes: dict[str, Any], condition: str) -> set[int | None]:
        content = {"name": "s", "axes": axes, "constraints": {"head_dim": condition}}
        return {arch.head_dim for arch in Space.from_config(content, "1m", 1024).enumerate()}

    assert dims({"num_blocks": [2, 5]}, ">=20") == {32}
    assert dims({"num_blocks": [2, 5]}, "%12") == {12}
    assert dims({"num_blocks": [2, 5], "head_dim": [8, 16]}, ">8") == {16}
    assert dims({"num_blocks": [2, 5], "head_dim_scale": [0.5, 1, 2]}, "<=16") == {8, 16}


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ([], "must be a mapping .*constraint of the study, 'constraints="),
        (["kv_bytes<=2048"], "must be a mapping .*constraint of the study, 'constraints="),
        ({"kv_bytes": "<=2048"}, "must be on sizes of shapes, .*constraint of the study"),
        ({"hiden_size": ">=64"}, "but got 'hiden_size'; did you mean hidden_size?"),
        ({"hidden_size": 64}, "must be such as '>=64'.* but got 64"),
        ({"hidden_size": "64"}, "must be such as '>=64'"),
        ({"hidden_size": "=>64"}, "must be such as '>=64'"),
        ({"hidden_size": []}, "must be such as '>=64'"),
        ({"hidden_size": "%0"}, "must be at least 1, but got 0"),
        ({"hidden_size": [">64", "<=64"]}, "but got >64 and <=64, which no number meets"),
        ({"hidden_size": [">=65", "<128", "%64"]}, "which no number meets"),
    ],
)
def test_what_is_no_constraint_of_a_space_is_refused(given_: Any, said: str) -> None:
    content = {"name": "s", "axes": {"num_blocks": [2]}, "constraints": given_}
    with pytest.raises(ValueError, match=said):
        Space.from_config(content, "1m", 1024)


@pytest.mark.parametrize("text", ["hidden_size>=64", "intermediate_size % 8", "num_blocks == 3"])
def test_a_study_refuses_constraints_on_shapes_and_says_where_they_belong(text: str) -> None:
    name, sign, number = re.fullmatch(r"(\w+) ?(\W+?) ?(\d+)", text).groups()  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="counted or measured") as caught:
        Limit.parse(text)
    form = re.search(r"'(space\.constraints=.*)'", str(caught.value))
    assert form is not None
    assert as_override(form[1]) == f'++space.constraints={{{name}: "{sign}{number}"}}'
    with pytest.raises(ValueError, match=r"of the space, 'space\.constraints=\{a: "):
        as_override("constraints={a: '>=64'}")


@pytest.mark.parametrize(
    "value", ['{hidden_size: ">=64", head_dim: "%8"}', "{hidden_size: >=64, head_dim: %8}"]
)
def test_conditions_need_no_quotes_of_their_own(value: str) -> None:
    from search.config import SearchConfig

    (text,) = as_meant([f"space.constraints={value}"], SearchConfig, "search")
    assert text.replace(" ", "") == '++space.constraints={hidden_size:">=64",head_dim:"%8"}'
    (one,) = as_meant(["space.constraints.head_dim=[>=8, <=16]"], SearchConfig, "search")
    assert one.replace(" ", "") == '++space.constraints.head_dim=[">=8","<=16"]'


def test_the_commands_say_what_constraints_cost_and_refuse_what_cannot_be(tmp_path: Path) -> None:
    def run(verb: str, *given: str) -> subprocess.CompletedProcess[str]:
        where = [f"hydra.run.dir={tmp_path}"] if verb == "space" else [f"outputs={tmp_path}"]
        command = [sys.executable, "-m", verb, *given, *where]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    sized = ["budget=1m", "vocab_size=1024"]
    done = run("space", *sized, 'space.constraints={hidden_size: ">=64", intermediate_size: "%8"}')
    assert done.returncode == 0, done.stderr
    assert "Shapes keep to hidden_size >=64 and intermediate_size %8, within 0.58%" in done.stdout
    done = run("search", 'space.constraints={hidden_size: ">=640"}')
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert "must keep to hidden_size >=640, but none does; nearest is hidden_size=192" in line
    assert not list(tmp_path.iterdir())


def test_costs_are_of_whole_steps() -> None:
    """The reference of these tests: a unit of FFN width costs as much everywhere."""
    space = Space.from_yaml("depth_width", "1m", 1024)
    for arch, n in product(space.enumerate()[:2], (1, 8)):
        wider = Architecture(**{**arch.to_dict(), "intermediate_size": arch.intermediate_size + n})
        each = 3 * arch.hidden_size * arch.num_ffn_blocks
        assert cost(wider).parameters - cost(arch).parameters == n * each
