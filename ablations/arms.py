"""Panels of arms from what a file says of them.

The arms of a panel are compared with its baseline over shared seeds and shared data; each arm is a
few overrides of architecture (`fit` closes the budget, unless every size is given) and of the
recipe.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from ablations.table import Arm, Panel, of_panel
from ablations.timing import Timing
from search.recipe import Recipe
from search.record import training_flops
from space.arch import Architecture
from space.axes import parse_sharing
from space.budget import FFN_TOLERANCE, SIZES, Budget, Unfit, fit
from space.device import QUANTITIES
from space.meters import KINDS, meter_of
from space.near import hint
from space.ranges import number

OWN = ("recipe", "init_shift", "like", "spend", "off_budget", "published", "equal", "ffn_tolerance")
"""What an arm may say besides fields of its architecture."""
SIZED = {"hidden_size", "intermediate_size", "num_attention_heads"}
"""With these its architecture is taken as it is."""

RECIPE = (
    "a recipe for all arms goes into overrides of the file, overrides: [recipe.tokens=300k], and "
    "one for an arm into that arm, recipe: {lr: 1e-3}"
)

PANEL = ("name", "baseline", "base", "arms", "budget", "equal", "source")
"""What a panel may say."""


def make_panel(
    content: Mapping[str, Any],
    budget: Budget,
    recipe: Recipe,
    vocab_size: int,
    exact: bool,
    timing: Timing,
) -> Panel:
    name, baseline = str(content.get("name") or ""), str(content.get("baseline"))
    panel = f"panel {name!r}" if name else "a panel"
    if unknown := sorted(set(map(str, content)) - set(PANEL)):
        advice = "take it out, or mend its name" if unknown[0] != "recipe" else RECIPE
        raise ValueError(f"{panel} may have {', '.join(PANEL)}, but has {unknown[0]!r}; {advice}")
    arms = {str(label): given for label, given in (content.get("arms") or {}).items()}
    if baseline not in arms:
        raise ValueError(
            f"the baseline{of_panel(name)} must be one of its arms, but got {baseline!r}; "
            f"choose among {', '.join(arms)}"
        )
    if len(arms) < 2:
        raise ValueError(
            f"{panel} must have at least two arms, but has {len(arms)}; a comparison takes a "
            "baseline and another"
        )
    base = {"vocab_size": vocab_size, **(content.get("base") or {})}
    if of_arms := sorted(set(base) & set(OWN)):
        advice = "give it to each arm" if of_arms[0] != "recipe" else RECIPE
        raise ValueError(
            f"base of {panel} must hold fields of the architecture, but has {of_arms[0]!r}; "
            f"{advice}"
        )
    equal = None if content.get("equal") is None else str(content["equal"])
    made: dict[str, Arm] = {}
    unfit: dict[str, Unfit] = {}
    # What all are to be equal to is made first.
    for label, given in (arms if equal is None else {baseline: arms[baseline], **arms}).items():
        own = dict(given or {})
        if equal is not None and made:
            budget = equal_budget(equal, made[baseline].architecture) or budget
        try:
            if equal is not None and made:
                own = _made_equal(own, base, equal)
            made[label] = _arm(label, own, base, budget, recipe, made, timing)
            if exact:
                _require_on(budget, made[label], (given or {}).get("off_budget"))
        except (ValueError, KeyError) as error:
            shaped = equal not in (None, *TRAINING) and made
            if not (isinstance(error, Unfit) and shaped):
                raise ValueError(f"arm {label}{of_panel(name)}: {error}") from None
            unfit[label] = error
    if len(made) < 2:
        label, reason = next(iter(unfit.items()))
        raise ValueError(f"arm {label}{of_panel(name)}, and all others: {reason}")
    return Panel(
        name=name,
        budget=budget,
        baseline=baseline,
        arms=tuple(made[label] for label in arms if label in made),
        source=content.get("source"),
        left_out=tuple(unfit),
    )


def _require_on(budget: Budget, arm: Arm, off_budget: Any) -> None:
    off = budget.deviation(arm.architecture)
    if abs(off) > budget.tolerance and not off_budget:
        raise ValueError(
            f"it must lie within {budget.tolerance:.2%} of {budget}, but is {off:+.2%} off; change "
            "it, or say off_budget: true"
        )


TRAINING = ("flops", "time")
"""What arms may be equal in by their tokens; else they are by their shapes."""


def equal_budget(equal: str, baseline: Architecture) -> Budget | None:
    """The budget on which an architecture is equal to the baseline in what `equal` says:
    `decode_ms@iphone_13`; None where tokens make it so.

    Raises:
        ValueError: nothing that a budget can count.
    """
    if equal in TRAINING:
        return None
    kind, _, at = equal.partition("@")
    if kind not in KINDS:
        known = (*TRAINING, *KINDS)
        raise ValueError(
            f"equal must be one of {', '.join(known)}, with what they need, such as "
            f"decode_ms@iphone_13, but got {equal!r}{hint(kind, known)}"
        )
    try:
        spent = meter_of(kind, Budget(kind, 1, at or None).at).spent(baseline)
        return Budget(kind, spent if kind in QUANTITIES else round(spent), at or None)
    except ValueError as error:
        raise ValueError(
            f"equal must be what a budget counts, such as decode_ms@iphone_13, but got {equal!r}: "
            f"{error}"
        ) from None


def _made_equal(given: dict[str, Any], base: Mapping[str, Any], equal: str) -> dict[str, Any]:
    """What an arm says, so that it is made equal to the baseline."""
    if equal in TRAINING:
        return {**given, "equal": equal}
    if "like" in given or set(base) | set(given) >= SIZED:
        raise ValueError(
            f"an arm must leave its sizes to the budget to be equal in {equal}, but has those of "
            f"{'another arm' if 'like' in given else 'its own'}; leave equal out, or take it out"
        )
    return given


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
    known = {f.name for f in fields(Recipe)}
    if unknown := sorted(set(overrides) - known):
        raise ValueError(f"recipe has no {unknown[0]!r}{hint(unknown[0], sorted(known))}")
    if misplaced := [key for key in given if key in known]:
        raise ValueError(
            f"{misplaced[0]!r} is of the recipe; write recipe: {{{misplaced[0]}: …}} in the arm"
        )
    values = {**base, **given}
    if " " in str(values.get("sharing", "")):
        values |= parse_sharing(values["sharing"])
    architecture, trained = (
        _architecture(values, given, own, budget, made),
        replace(recipe, **overrides),
    )
    if "equal" in own:
        trained = _as_long(architecture, trained, str(own["equal"]), made, timing)
    trained.require_step()
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
    if set(values) >= SIZED:
        return Architecture.from_dict(values)
    tolerance = number("ffn_tolerance", own.get("ffn_tolerance", FFN_TOLERANCE), float)
    return fit(values, budget, ffn_tolerance=tolerance)


def _as_long(
    architecture: Architecture, recipe: Recipe, what: str, made: Mapping[str, Arm], timing: Timing
) -> Recipe:
    """As many tokens as use up the training FLOPs or time of the panel's first arm."""
    kinds: dict[str, Callable[[Architecture, Recipe], float]] = {
        "flops": training_flops,
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
