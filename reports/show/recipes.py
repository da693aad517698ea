"""A recipe in a sentence."""

from typing import Any

from search.carry import carried
from search.recipe import Recipe
from search.train.optimizers import OPTIMIZERS
from search.train.parametrisations import PARAMETRISATIONS
from space.doors import Door
from space.words import percent


def recipe_in_words(recipe: Recipe) -> str:
    """How each candidate was trained, in a sentence."""
    r = recipe
    decay = (
        f"decaying over the last {percent(r.decay_fraction)}" if r.schedule == "wsd" else "cosine"
    )
    horizons = ", ".join(percent(share) for share in r.horizons)
    branches = (
        f"; readings by decay branches at {horizons} of them, {r.branch_tokens:,} tokens more"
        if r.horizons
        else ""
    )
    teacher = (
        f"; {percent(r.distillation_weight)} of the loss by the predictions of {r.teacher}, at "
        f"temperature {r.distillation_temperature:g}"
        if r.teacher
        else ""
    )
    return (
        f"{r.steps * r.tokens_per_step:,} tokens in {r.steps:,} steps of "
        f"{r.batch_size} × {r.seq_len}; "
        f"{_described(OPTIMIZERS, r)}, "
        f"peak learning rate {r.lr:g} {_described(PARAMETRISATIONS, r)}{_carried(r)}; "
        f"warm-up over {percent(r.warmup_fraction)}, {decay} to {percent(r.final_lr_fraction)} "
        f"of the peak; gradient norm at most {r.grad_clip:g}; {r.precision}; "
        f"scored on {r.eval_tokens:,} validation tokens{branches}{teacher}"
        + (f"; z-loss of {r.z_loss:g}" if r.z_loss else "")
    )


def _carried(recipe: Recipe) -> str:
    """What its rates became, where they were measured at another batch or length."""
    own = carried(recipe)
    if own is recipe:
        return ""
    return (
        f", and to this batch and length by {', '.join(recipe.rules) or 'no rule'}: a learning "
        f"rate of {own.lr:.3g}, beta2 {own.beta2:.4g}, weight decay {own.weight_decay:.3g}"
    )


def _described(door: Door[Any], recipe: Recipe) -> str:
    """What a recipe names, in words; the name alone where a file of the user's is away."""
    name = getattr(recipe, door.name)
    try:
        return str(door.load(name).describe(recipe))
    except ValueError:
        return f"({door.name} {name})"
