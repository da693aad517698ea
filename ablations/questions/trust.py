"""How far can a proxy be trusted? A grid of a space, read at several budgets and numbers of tokens.

Each of these is a proxy; the largest budget at its most tokens is the target. How their orders
compare is `ablations.stats.trust`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ablations.questions import PROXY, Asked, Question
from ablations.questions.arms import FILES
from ablations.stats.trust import require_arms, require_seeds
from ablations.table import Table
from search.recipe import Recipe
from space.arch import Architecture
from space.axes import DEPTH, Axis, Space, SpaceConfig
from space.budget import Budget
from space.ranges import number

KEYS = ("space", "lengths", "arms", "budgets")
"""Of a file's `trust`."""


class Trust(Question):
    """Arms are a grid whose readings are proxies of the longest."""

    asks = "Does a proxy order architectures as longer runs and larger budgets do?"
    takes = (
        "trust: space and lengths, and perhaps arms and budgets; seeds as a number, three or more; "
        "budget, budgets, space"
    )
    leaves = (
        *FILES,
        *(f"trust.{form}" for form in ("md", "tex", "csv", "html", "png", "pdf")),
        "sufficient.csv",
    )
    view = "trust"
    key = "trust"
    example = """
caption: Orders of three depths at half the tokens, beside all.
budget: 100k
seeds: 3
trust:
  space: depth_width
  arms: 3
  lengths: [0.5, 1]
"""
    options = ("budgets", "space")
    common_recipe = "arms share the recipe it measures"

    def parts(self, content: Mapping[str, Any]) -> Iterator[tuple[str, Any, type]]:
        for name in ("lengths", "budgets"):
            yield f"{name} of trust", content.get(name) or [], list

    def table(self, asked: Asked) -> Table:
        made = asked.table(self._panels(asked))
        require_seeds(made.seeds)
        if made.auto:
            raise ValueError(
                "seeds of a table of trust must be a number, but got auto; set seeds=5"
            )
        facts = {"trust": described(asked.content, asked.recipe, asked.space)}
        return replace(made, facts=facts)

    def _panels(self, asked: Asked) -> Sequence[Mapping[str, Any]]:
        if asked.scale != PROXY:
            return asked.panels
        own = [asked.budget] if asked.budget else asked.content.get("budgets")
        budgets = asked.budgets or own or [asked.file_budget]
        given = asked.content, asked.recipe, asked.vocab_size, budgets, asked.space
        return [*asked.panels, *panels(*given)]


def panels(
    content: Mapping[str, Any],
    recipe: Recipe,
    vocab_size: int,
    budgets: Sequence[str],
    space: SpaceConfig | None = None,
) -> list[dict[str, Any]]:
    """The panels of a file's `trust`, as its `proxy` would list them: one per budget, from
    the smallest on, whose arms are architectures of the space.

    The smallest budget's own grid is taken, thinned evenly to so many `arms`. On the others an arm
    is the architecture with the same values of the axes: a choice of 9 layers at a million
    parameters means 9 layers at every budget, and not the rung in the same place of another
    ladder. Values that another budget does not have are left out.

    `lengths` are multiples of the recipe's tokens, ascending; the last is the longest, and the
    others are read by branches. The warmup stays as many tokens as in the recipe, so that the
    reading at 1 is the recipe's own, and shorter ones have it too. `recipe.horizons`, where given,
    are taken instead, with the recipe's tokens as the longest. Tokens grow with the budget: a
    larger model at the same tokens would be a larger one further from its end.

    Raises:
        ValueError: something is missing, not known, or leaves nothing to compare.
    """
    lengths = [number("a length", length, float) for length in content.get("lengths") or []]
    if set(content) - set(KEYS) or "space" not in content or not lengths:
        raise ValueError(
            f"trust must hold space and lengths and may hold {' and '.join(KEYS[2:])}, but has "
            f"{', '.join(map(str, content)) or 'nothing'}"
        )
    if lengths != sorted(set(lengths)) or lengths[0] <= 0:
        raise ValueError(
            "lengths must be multiples of the recipe's tokens from short to long, each once, but "
            f"got {content['lengths']}"
        )
    if len(budgets) == 1 and len(lengths) == 1 and not recipe.horizons:
        raise ValueError(
            "trust takes another horizon or another budget to compare with, but got one of each; "
            "set recipe.horizons=[0.25,0.5], or give lengths"
        )
    sizes = sorted((Budget.parse(budget) for budget in budgets), key=lambda b: b.value)
    if len({budget.value for budget in sizes}) < len(sizes) or len({b.kind for b in sizes}) > 1:
        raise ValueError(
            f"budgets must be of one kind, each once, but got {', '.join(map(str, budgets))}"
        )
    most = content.get("arms")
    if most is not None:
        most = number("arms of trust", most, int)
    shapes = _matched(_space(content, space), sizes, vocab_size, most)
    require_arms(len(shapes))
    middle = list(shapes)[(len(shapes) - 1) // 2]
    return [
        {
            "name": str(budget) if len(sizes) > 1 else "",
            "budget": budget,
            "baseline": middle,
            "arms": {
                arm: {
                    **architectures[place].to_dict(),
                    **_off(architectures[place], budget),
                    "recipe": _lengthened(recipe, lengths, budget.value / sizes[0].value),
                }
                for arm, architectures in shapes.items()
            },
        }
        for place, budget in enumerate(sizes)
    ]


def described(
    content: Mapping[str, Any], recipe: Recipe, space: SpaceConfig | None = None
) -> dict[str, Any]:
    """What a study is compared with, to know whether its proxy was measured: the kind of space, and
    the recipe that lengths are multiples of."""
    return {"space": _space(content, space).kind, "recipe": recipe.to_dict()}


def _space(content: Mapping[str, Any], space: SpaceConfig | None) -> SpaceConfig:
    return space or SpaceConfig.read(str(content["space"]))


def _matched(
    space: SpaceConfig, budgets: Sequence[Budget], vocab_size: int, most: int | None
) -> dict[str, list[Architecture]]:
    """By arm its architecture on each budget."""
    first, *others = (Space.from_config(space, budget, vocab_size) for budget in budgets)
    ladders = [_by_values(_every_depth(other)) for other in others]
    shapes = {}
    for candidate in first.candidates():
        key = _values(candidate.params)
        if all(key in ladder for ladder in ladders):
            arm = _arm_name(candidate.params)
            shapes[arm] = [candidate.architecture, *(ladder[key] for ladder in ladders)]
    if most is None or len(shapes) <= most:
        return shapes
    kept = np.linspace(0, len(shapes) - 1, most).round().astype(int)
    return {arm: shapes[arm] for arm in np.array(list(shapes))[kept].tolist()}


def _every_depth(space: Space) -> Space:
    """The space with all depths of its range, not only the well-proportioned ones."""
    if DEPTH not in space.axes:
        return space
    axis = Axis.parse(DEPTH, space.axes[DEPTH])
    if not axis.is_range:
        return space
    depths = f"{axis.values[0]}..{axis.values[-1]}"
    return replace(space, axes={**space.axes, DEPTH: depths})


def _values(params: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(params.values())


def _by_values(space: Space) -> dict[tuple[Any, ...], Architecture]:
    return {_values(candidate.params): candidate.architecture for candidate in space.candidates()}


def _off(architecture: Architecture, budget: Budget) -> dict[str, Any]:
    """That the space's constraints let an arm miss the budget by more than is usual."""
    return {"off_budget": True} if abs(budget.deviation(architecture)) > budget.tolerance else {}


def _arm_name(params: Mapping[str, Any]) -> str:
    """ "9 layers", "9 layers, heads_per_kv 2"."""
    others = [f"{axis} {value}" for axis, value in params.items() if axis != DEPTH]
    layers = "blocks" if "sharing" in params else "layers"
    depth = [f"{params[DEPTH]} {layers}"] if DEPTH in params else []
    return ", ".join([*depth, *others])


def _lengthened(recipe: Recipe, lengths: Sequence[float], scale: float) -> dict[str, Any]:
    """What a recipe changes for readings at so many times its tokens, on a larger budget."""
    tokens = round(recipe.tokens * scale)
    if recipe.horizons:
        return {"tokens": tokens}
    longest = lengths[-1]
    own, whole = (replace(recipe, tokens=round(tokens * length)) for length in (1, longest))
    return {
        "tokens": whole.tokens,
        "warmup_fraction": recipe.warmup_fraction * own.steps / whole.steps,  # as many steps
        "horizons": [length / longest for length in lengths[:-1]],
    }


QUESTION = Trust()
