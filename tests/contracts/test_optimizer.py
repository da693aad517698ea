"""What every optimiser keeps to. On one of your own:

pytest tests/contracts/test_optimizer.py --implementation mine.py
"""

import io
import re
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from search.recipe import Recipe
from search.train.engines.weights import Weights
from search.train.optimizers import OPTIMIZERS as DOOR
from search.train.optimizers import Group, Optimizer, adamw
from search.train.parametrisations import MATRIX, VECTOR
from search.train.parametrise import initialise, parameter_groups
from space.arch import Architecture
from space.model import Decoder, token_nll

RECIPE = Recipe(tokens=10_000, residual_init=1.0)
ARCH = Architecture(
    vocab_size=64,
    hidden_size=32,
    num_blocks=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    intermediate_size=48,
    attention_bias=True,
    tie_word_embeddings=False,
)


class Task:
    """A small decoder with flat weights, its optimiser, and a text of two tokens in turn."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.model = Decoder(ARCH)
        initialise(self.model, RECIPE, init_seed=0)
        self.weights = Weights(self.model)
        self.groups = parameter_groups(self.model, RECIPE)
        self.optimizer = optimizer.build(self.groups, RECIPE)

    def steps(self, times: int, factor: float = 1.0) -> list[float]:
        """The loss before each step, at a share of the learning rate."""
        ids = torch.arange(3, 20).repeat(2).view(1, -1)
        losses = []
        for _ in range(times):
            self.weights.gradients.zero_()
            hidden = self.model.hidden(ids[:, :-1])
            loss = token_nll(hidden, self.model.lm_head.weight, ids[:, 1:]).mean()
            loss.backward()
            for group in self.optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
            self.optimizer.step()
            losses.append(loss.item())
        return losses


def takes_every_parameter_once(optimizer: Optimizer) -> None:
    task = Task(optimizer)
    taken = [id(p) for group in task.optimizer.param_groups for p in group["params"]]
    assert sorted(taken) == sorted(id(p) for p in task.model.parameters()), (
        "param_groups must hold every parameter of the groups given, once"
    )
    for group in task.optimizer.param_groups:
        assert {"base_lr", "kind", "multiplier"} <= set(group), (
            "param_groups must keep base_lr, kind and multiplier of the groups given"
        )


def steps_in_place_on_all_weights(optimizer: Optimizer) -> None:
    task = Task(optimizer)
    before = task.weights.values.clone()
    task.steps(2)
    here = task.weights.values
    for name, p in task.model.named_parameters():
        place = task.weights.places[p]
        assert p.data_ptr() == here[place].data_ptr(), f"{name} must be changed where it is"
        assert not torch.equal(here[place], before[place]), f"a step must change {name}"


def follows_the_schedule(optimizer: Optimizer) -> None:
    task = Task(optimizer)
    before = task.weights.values.clone()
    task.steps(1, factor=0.0)
    assert torch.equal(task.weights.values, before), (
        "a step must use the group's lr, which the schedule sets: at 0 nothing may change"
    )


def learns(optimizer: Optimizer) -> None:
    losses = Task(optimizer).steps(30)
    assert losses[-1] < losses[0] - 0.1, (
        f"thirty steps on one line must lower its loss, but it went from {losses[0]:.3f} to "
        f"{losses[-1]:.3f}"
    )


def goes_on_from_its_state(optimizer: Optimizer) -> None:
    whole, first, second = (Task(optimizer) for _ in range(3))
    wanted = whole.steps(8)
    first.steps(4)
    file = io.BytesIO()
    torch.save(first.optimizer.state_dict(), file)
    second.weights.values.copy_(first.weights.values)
    file.seek(0)
    second.optimizer.state.clear()
    second.optimizer.load_state_dict(torch.load(file, weights_only=True))
    assert second.steps(4) == wanted[4:], (
        "an optimiser that loads a state_dict must go on bit for bit: all that it keeps must be "
        "there"
    )


def keeps_no_more_than_it_says(optimizer: Optimizer) -> None:
    task = Task(optimizer)
    task.steps(1)
    states = task.optimizer.state_dict()["state"].values()
    kept = sum(v.numel() for state in states for v in state.values() if isinstance(v, Tensor))
    parameters = list(task.model.parameters())
    most = optimizer.state_per_weight * sum(p.numel() for p in parameters) + 8 * len(parameters)
    assert kept <= most, f"state_per_weight must be what is kept, {kept} numbers, but is {most}"


def keeps_to_multipliers(optimizer: Optimizer) -> None:
    """m·w in a group of (m·lr, eps/m, decay/m) is m times w. Powers of two: exact in any format."""
    m, generator = 0.25, torch.Generator().manual_seed(0)
    for kind, shape in ((MATRIX, (8, 12)), (VECTOR, (8,))):
        start = torch.randn(shape, generator=generator)
        pulls = [torch.randn(shape, generator=generator) for _ in range(5)]
        ended = []
        for multiplier in (1.0, m):
            p = torch.nn.Parameter(multiplier * start)
            scale = {"lr": multiplier * 2**-6, "eps": 2**-20 / multiplier}
            decay = {"weight_decay": 0.125 / multiplier, "kind": kind, "multiplier": multiplier}
            groups = [{"params": [p], "base_lr": scale["lr"], **scale, **decay}]
            stepping = optimizer.build([*groups, *_others(kind)], RECIPE)
            for pull in pulls:
                p.grad = pull / multiplier
                for group in stepping.param_groups:
                    group["lr"] = group["base_lr"]
                stepping.step()
            ended.append(p.detach() / multiplier)
        assert torch.allclose(*ended, rtol=1e-4, atol=1e-5), (
            f"a {kind} of m·w must train as m times w does: steps that follow the gradient's size "
            "must be multiplied by the square of the group's multiplier"
        )


def _others(kind: str) -> list[Group]:
    """A group of another kind, for optimisers that want some of each."""
    other, shape = (VECTOR, (2,)) if kind == MATRIX else (MATRIX, (2, 2))
    p = torch.nn.Parameter(torch.ones(shape))
    p.grad = torch.ones(shape)
    settings = {"lr": 0.1, "base_lr": 0.1, "eps": 1e-8, "weight_decay": 0.0}
    return [{"params": [p], "kind": other, "multiplier": 1.0, **settings}]


def grows_with_fan_in(optimizer: Optimizer) -> None:
    growth = [optimizer.growth(n) for n in (0.5, 1.0, 2.0, 8.0)]
    assert growth[1] == 1.0, "growth(1) must be 1: at the base shape's fan-in nothing changes"
    assert growth == sorted(growth), "growth must not fall where the fan-in grows"
    assert growth[0] > 0, "growth must be positive"


def is_described_in_a_phrase(optimizer: Optimizer) -> None:
    words = optimizer.describe(replace(RECIPE, weight_decay=0.0625))
    assert words.splitlines() == [words], "describe must give a phrase of one line"
    assert words[-1] not in ".,;", "describe must give a phrase without a stop at its end"


CHECKS = [
    takes_every_parameter_once,
    steps_in_place_on_all_weights,
    follows_the_schedule,
    learns,
    goes_on_from_its_state,
    keeps_no_more_than_it_says,
    keeps_to_multipliers,
    grows_with_fan_in,
    is_described_in_a_phrase,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_an_optimizer(implementation: str, check: Any) -> None:
    check(DOOR.load(implementation))


def descent(build: Any = None, **changed: Any) -> Any:
    """AdamW with something changed."""
    own = {name: getattr(adamw.OPTIMIZER, name) for name in ("growth", "describe")}
    given = {"state_per_weight": 2, "build": build or adamw.OPTIMIZER.build, **own, **changed}
    return SimpleNamespace(**given)


def without_vectors(groups: Sequence[Group], recipe: Recipe) -> Any:
    return adamw.OPTIMIZER.build([g for g in groups if g["kind"] != VECTOR], recipe)


def with_bare_groups(groups: Sequence[Group], recipe: Recipe) -> Any:
    return torch.optim.SGD([{"params": g["params"]} for g in groups], lr=0.1)


def gradient_descent(groups: Sequence[Group], recipe: Recipe) -> Any:
    return torch.optim.SGD([{k: v for k, v in g.items() if k != "eps"} for g in groups], lr=0.1)


class Elsewhere(torch.optim.SGD):
    """Puts new tensors in the parameters' place."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                p.data = p.data - group["lr"] * p.grad.sign()


class OwnPace(torch.optim.SGD):
    """Does not ask what the rate is."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                p.data -= 1e-3 * p.grad.sign()


class Forgetful(torch.optim.AdamW):
    """Leaves its moments out of what is saved."""

    def state_dict(self) -> Any:
        return {**super().state_dict(), "state": {}}


def upwards(groups: Sequence[Group], recipe: Recipe) -> Any:
    return torch.optim.AdamW(groups, maximize=True)


@pytest.mark.parametrize(
    ("bad", "check", "said"),
    [
        (descent(without_vectors), takes_every_parameter_once, "hold every parameter"),
        (descent(with_bare_groups), takes_every_parameter_once, "keep base_lr, kind and mult"),
        (descent(lambda g, r: Elsewhere(g, 0.1)), steps_in_place_on_all_weights, "where it is"),
        (descent(lambda g, r: OwnPace(g, 0.1)), follows_the_schedule, "use the group's lr"),
        (descent(upwards), learns, "must lower its loss"),
        (descent(lambda g, r: Forgetful(g)), goes_on_from_its_state, "bit for bit"),
        (descent(state_per_weight=1), keeps_no_more_than_it_says, "must be what is kept"),
        (descent(gradient_descent), keeps_to_multipliers, "square of the group's multiplier"),
        (descent(growth=lambda n: 2 * n), grows_with_fan_in, "must be 1"),
        (descent(describe=lambda r: "AdamW."), is_described_in_a_phrase, "without a stop"),
    ],
)
def test_a_bad_one_is_told_what_is_missing(bad: Any, check: Any, said: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(said)):
        check(bad)
