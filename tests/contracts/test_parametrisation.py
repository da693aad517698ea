"""What every parametrisation keeps to. On one of your own:

pytest tests/contracts/test_parametrisation.py --implementation mine.py
"""

import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from math import isfinite
from types import SimpleNamespace
from typing import Any

import pytest

from search.recipe import Recipe
from search.train.optimizers import OPTIMIZERS, Optimizer
from search.train.parametrisations import (
    BIAS,
    BRANCH,
    DEPTH,
    FINAL_GAIN,
    GAIN,
    INPUT,
    OUTPUT,
    TABLE,
    WIDTH,
    Parametrisation,
    Place,
    completep,
    sp,
)
from search.train.parametrisations import PARAMETRISATIONS as DOOR
from space.arch import Architecture

ROLES = (TABLE, OUTPUT, INPUT, BRANCH, FINAL_GAIN, GAIN, BIAS)
RECIPE = Recipe(tokens=10_000, base_hidden_size=64, base_num_hidden_layers=4, residual_init=1.0)


def optimizers() -> Iterator[Optimizer]:
    for _, optimizer in OPTIMIZERS.all():
        yield optimizer


def place(role: str, **ratios: Any) -> Place:
    return Place(name=f"model.{role}.weight", role=role, **ratios)


def architecture(width: int, layers: int) -> Architecture:
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16}
    shape = {"hidden_size": width, "num_blocks": layers, "intermediate_size": 2 * width}
    return Architecture(vocab_size=64, **heads, **shape)


def scales_every_role(rule: Parametrisation) -> None:
    for optimizer in optimizers():
        for role in ROLES:
            here = place(role, width=4.0, depth=3.0, fan_in=4.0, uses=2)
            scale = rule.scale(here, RECIPE, optimizer)
            numbers = {k: v for k, v in asdict(scale).items() if k != "kind"}
            assert all(isfinite(v) and v >= 0 for v in numbers.values()), (
                f"scales must be finite and not negative, but {role} gets {numbers}"
            )
            assert scale.lr > 0, f"{role} must have a learning rate"
            assert scale.kind == here.kind, f"{role} must keep its kind, {here.kind}"


def leaves_the_base_shape_alone(rule: Parametrisation) -> None:
    for optimizer in optimizers():
        for role in ROLES:
            found = rule.scale(place(role), RECIPE, optimizer)
            wanted = sp.PARAMETRISATION.scale(place(role), RECIPE, optimizer)
            assert asdict(found) == pytest.approx(asdict(wanted)), (
                f"at the base shape {role} must get what the recipe says, {wanted}, but gets "
                f"{found}"
            )


def follows_what_it_says(rule: Parametrisation) -> None:
    assert set(rule.follows) <= {WIDTH, DEPTH}, f"follows may name {WIDTH} and {DEPTH}"
    other = {WIDTH: {"width": 4.0, "fan_in": 4.0}, DEPTH: {"depth": 3.0, "uses": 3}}
    for axis, ratios in other.items():
        changed = [
            role
            for role in ROLES
            for optimizer in optimizers()
            if rule.scale(place(role, **ratios), RECIPE, optimizer)
            != rule.scale(place(role), RECIPE, optimizer)
        ]
        if axis in rule.follows:
            assert changed, f"follows names {axis}, so some scale must follow it"
        else:
            assert not changed, f"follows does not name {axis}, but {changed[0]} follows it"


def carries_what_it_follows(rule: Parametrisation) -> None:
    base, wide, deep = architecture(64, 4), architecture(128, 4), architecture(64, 8)
    assert rule.carries(base, RECIPE), "the rate of the base shape must be carried to itself"
    for axis, other in ((WIDTH, wide), (DEPTH, deep)):
        assert rule.carries(other, RECIPE) == (axis in rule.follows), (
            f"a rate must be carried over {axis} where follows names it, and not elsewhere"
        )


def is_described_in_a_phrase(rule: Parametrisation) -> None:
    words = rule.describe(RECIPE)
    assert words.splitlines() == [words], "describe must give a phrase of one line"
    assert words[-1] not in ".,;", "describe must give a phrase without a stop at its end"


CHECKS = [
    scales_every_role,
    leaves_the_base_shape_alone,
    follows_what_it_says,
    carries_what_it_follows,
    is_described_in_a_phrase,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_parametrisation(implementation: str, check: Any) -> None:
    check(DOOR.load(implementation))


def rule(**changed: Any) -> Any:
    """CompleteP with something changed."""
    names = ("follows", "scale", "carries", "describe")
    own = {name: getattr(completep.PARAMETRISATION, name) for name in names}
    return SimpleNamespace(**{**own, **changed})


def scaled(**changed: Any) -> Any:
    """CompleteP's scales with some replaced."""

    def scale(place: Place, *given: Any) -> Any:
        return replace(completep.PARAMETRISATION.scale(place, *given), **changed)

    return rule(scale=scale)


@pytest.mark.parametrize(
    ("bad", "check", "said"),
    [
        (scaled(lr=0.0), scales_every_role, "embedding must have a learning rate"),
        (scaled(std=float("inf")), scales_every_role, "must be finite"),
        (scaled(kind="matrix"), scales_every_role, "must keep its kind"),
        (scaled(lr=1.0), leaves_the_base_shape_alone, "must get what the recipe says"),
        (rule(follows=("length",)), follows_what_it_says, "may name width and depth"),
        (rule(follows=(WIDTH,)), follows_what_it_says, "does not name depth, but"),
        (scaled(multiplier=1.0, std=1.0, lr=1.0, eps=1.0, weight_decay=1.0), follows_what_it_says,
         "some scale must follow it"),
        (rule(carries=lambda a, r: False), carries_what_it_follows, "carried to itself"),
        (rule(follows=(WIDTH,)), carries_what_it_follows, "carried over depth where"),
        (rule(describe=lambda r: ""), is_described_in_a_phrase, "must give a phrase"),
    ],
)  # fmt: skip
def test_a_bad_one_is_told_what_is_missing(bad: Any, check: Any, said: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(said)):
        check(bad)
