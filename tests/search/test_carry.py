"""One base recipe for all batch sizes and lengths."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.carry import RULES, carried
from search.recipe import Recipe

RECIPE = Recipe(tokens=1_024_000, seq_len=128, batch_size=16, precision="fp32")
"""2,048 tokens per step."""


def at(batch: int, tokens: int, **more: object) -> Recipe:
    return replace(RECIPE, reference_batch_tokens=batch, reference_tokens=tokens, **more)  # type: ignore[arg-type]


def test_without_a_reference_nothing_changes_and_nothing_is_in_keys() -> None:
    assert carried(RECIPE) is RECIPE
    fields = {"reference_tokens", "reference_batch_tokens", "critical_batch_tokens", "rules"}
    assert not fields & set(RECIPE.to_dict())
    assert replace(RECIPE, rules=()) == RECIPE, "rules without a reference are no rules"


def test_at_its_reference_a_recipe_has_its_own_rates() -> None:
    own = carried(at(2048, 1_024_000))
    assert own == RECIPE


def test_four_times_the_batch_and_sixteen_times_the_tokens() -> None:
    own = carried(at(512, 64_000, beta2=0.99))
    fall = 16**-0.32
    assert own.lr == pytest.approx(RECIPE.lr * 2 * fall)
    assert own.eps == pytest.approx(RECIPE.eps / 2)
    half_life = 512 * math.log(0.5) / math.log(0.99)
    assert 2048 * math.log(0.5) / math.log(own.beta2) == pytest.approx(half_life)
    assert own.beta1 == RECIPE.beta1


@given(
    b=st.sampled_from([32, 256, 512, 4096, 16384]),
    d=st.integers(10_000, 100_000_000),
    rules=st.sets(st.sampled_from(RULES)),
)
def test_the_timescale_of_decay_falls_with_tokens_alone(b: int, d: int, rules: set[str]) -> None:
    """Whatever the rate becomes, if its rule is on; each rule changes what is its own."""
    own = carried(at(b, d, rules=tuple(rules)))

    def timescale(recipe: Recipe, batch: float, tokens: float) -> float:
        return batch / (recipe.lr * recipe.weight_decay * tokens)

    base, here = timescale(RECIPE, b, d), timescale(own, 2048, RECIPE.tokens)
    if "decay" in rules:
        assert here / base == pytest.approx((RECIPE.tokens / d) ** -0.52)
    else:
        assert own.weight_decay == RECIPE.weight_decay
    if not rules & {"lr_batch", "lr_tokens"}:
        assert own.lr == RECIPE.lr
    if "beta2" not in rules:
        assert own.beta2 == RECIPE.beta2


def test_the_second_moment_forgets_no_faster_than_the_first() -> None:
    assert carried(at(128, 0)).beta2 == RECIPE.beta1
    assert carried(at(128, 0, beta1=0.97)).beta2 == RECIPE.beta2


def test_beyond_the_critical_batch_the_rate_rises_no_further() -> None:
    rules = ("lr_batch",)
    own = carried(at(512, 0, critical_batch_tokens=1024, rules=rules))
    assert own.lr == pytest.approx(RECIPE.lr * 2**0.5)
    assert carried(at(512, 0, critical_batch_tokens=10**6, rules=rules)).lr == RECIPE.lr * 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rules": ("lr_batches",)}, "rules must be a list of names among lr_batch, "),
        ({"critical_batch_tokens": 512}, "set recipe.reference_batch_tokens"),
        ({"reference_tokens": -1}, "reference_tokens must not be negative"),
    ],
)
def test_what_is_no_rule_is_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(RECIPE, **given)  # type: ignore[arg-type]
