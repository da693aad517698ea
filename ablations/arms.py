"""Panels of arms from what a file says of them.

The arms of a panel are compared with its baseline over shared seeds and shared data; each arm is a
few overrides of architecture (`fit` closes the budget, unless every size is given) and of the
recipe.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from ablations.table import Arm, Panel
from ablations.timing import Timing
from search.recipe import Recipe
from space.arch import Architecture, number
from space.axes import parse_sharing
from space.budget import FFN_TOLERANCE, MAX_DEVIATION, SIZES, Budget, fit
from space.cost import cost

OWN = ("recipe", "init_shift", "like", "spend", "off_budget", "published", "equal", "ffn_tolerance")
"""What an arm may say besides fields of its architecture."""


def make_panel(
    content: Mapping[str, Any],
    budget: Budget,
    recipe: Recipe,
    vocab_size: int,
    exact: bool,
    timing: Timing,
) -> Panel:
    name, baseline = str(content.get("name") or ""), str(content.get("baseline"))
    arms = {str(label): given for label, given in (content.get("arms") or {}).items()}
    if baseline not in arms:
        raise ValueError(
            f"the baseline of panel {name!r} must be one of its arms, but got {baseline!r}; "
            f"choose among {', '.join(arms)}"
        )
    if len(arms) < 2:
        raise ValueError(f"panel {name!r} must have at least two arms, but has {len(arms)}")
    base = {"vocab_size": vocab_size, **(content.get("base") or {})}
    made: dict[str, Arm] = {}
    for label, given in arms.items():
        try:
            arm = _arm(label, dict(given or {}), base, budget, recipe, made, timing)
        except (ValueError, KeyError) as error:
            raise ValueError(f"arm {label} of panel {name!r}: {error}") from None
        off = budget.deviation(arm.architecture)
        if exact and abs(off) > MAX_DEVIATION and not (given or {}).get("off_budget"):
            raise ValueError(
                f"arm {label} of panel {name!r} must lie within {MAX_DEVIATION:.2%} of {budget}, "
                f"but is {off:+.2%} off; change it, or say off_budget: true"
            )
        made[arm.name] = arm
    return Panel(
        name=name,
        budget=budget,
        baseline=baseline,
        arms=tuple(made.values()),
        source=content.get("source"),
    )


def _arm(
    name: str,
    given: dict[str, Any],
    base: Mapping[str, Any],
    budget: Budget,
    recipe: Recipe,
    made: Mapping[str, Arm],
    timing: Timing,
) -> Arm:
    own = {key: given.pop(key) for key in OWN if key in given}
    overrides = own.get("recipe") or {}
    if unknown := sorted(set(overrides) - {f.name for f in fields(Recipe)}):
        raise ValueError(f"recipe has no {unknown[0]!r}")
    values = {**base, **given}
    if " " in str(values.get("sharing", "")):
        values |= parse_sharing(values["sharing"])
    architecture, trained = (
        _architecture(values, given, own, budget, made),
        replace(recipe, **overrides),
    )
    if "equal" in own:
        trained = _as_long(architecture, trained, str(own["equal"]), made, timing)
    published = own.get("published")
    return Arm(
        name=name,
        architecture=architecture,
        recipe=trained,
        init_shift=number("init_shift", own.get("init_shift", 0), int),
        published=None if published is None else number("published", published, float),
    )


def _architecture(
    values: dict[str, Any],
    given: Mapping[str, Any],
    own: Mapping[str, Any],
    budget: Budget,
    made: Mapping[str, Arm],
) -> Architecture:
    """An earlier arm's shape with changes, the sizes as they are given, or those that fit."""
    if "spend" in own and (own["spend"] != "depth" or "like" not in own):
        raise ValueError(
            f"spend must be depth, in an arm that is like another, but got {own['spend']!r}"
            f"{'' if 'like' in own else ' without like'}"
        )
    if "like" in own:
        if (like := str(own["like"])) not in made:
            raise ValueError(f"like must name an arm above it, but got {like!r}")
        shape = made[like].architecture
        if "spend" in own:
            return _deeper(values, shape, budget)
        return Architecture.from_dict({**shape.to_dict(), **given})
    if {"hidden_size", "intermediate_size", "num_attention_heads"} <= set(values):
        return Architecture.from_dict(values)
    tolerance = number("ffn_tolerance", own.get("ffn_tolerance", FFN_TOLERANCE), float)
    return fit(values, budget, ffn_tolerance=tolerance)


def _as_long(
    architecture: Architecture, recipe: Recipe, what: str, made: Mapping[str, Arm], timing: Timing
) -> Recipe:
    """As many tokens as use up the training FLOPs or time of the panel's first arm."""
    kinds: dict[str, Callable[[Architecture, Recipe], float]] = {
        "flops": _flops_per_token,
        "time": timing,
    }
    if what not in kinds or not made:
        raise ValueError(
            f"equal must be flops or time, of an arm below the first, but got {what!r}"
        )
    first, per_token = next(iter(made.values())), kinds[what]
    share = per_token(first.architecture, first.recipe) / per_token(architecture, recipe)
    steps = max(1, round(first.recipe.steps * share))
    return replace(recipe, tokens=steps * recipe.tokens_per_step)


def _flops_per_token(architecture: Architecture, recipe: Recipe) -> float:
    return cost(architecture, recipe.seq_len).train_flops_per_token


def _deeper(values: dict[str, Any], shape: Architecture, budget: Budget) -> Architecture:
    """As wide as a shape, and as deep as leaves its FFN nearest to what it was."""
    kept = {k: getattr(shape, k) for k in SIZES if k != "intermediate_size"}
    rest = {k: v for k, v in values.items() if k not in ("heads_per_kv", "heads_per_kv_target")}
    found = []
    for blocks in range(shape.num_blocks or 1, 2 * shape.num_layers + 2):
        try:
            found.append(fit({**rest, **kept, "num_blocks": blocks}, budget))
        except ValueError:
            continue
    if not found:
        raise ValueError(f"no depth of {shape.hidden_size} wide layers closes {budget}")
    return min(found, key=lambda arch: abs(arch.intermediate_size - shape.intermediate_size))
