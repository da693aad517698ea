"""What each tensor of a model gets by the recipe's parametrisation, and the schedule of the rate.

The rules, one table of scales, are in `search/train/parametrisations/`.
"""

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from search.recipe import Recipe
from search.train.optimizers import OPTIMIZERS, Group
from search.train.parametrisations import (
    BIAS,
    BRANCH,
    FINAL_GAIN,
    GAIN,
    INPUT,
    OUTPUT,
    PARAMETRISATIONS,
    TABLE,
    Place,
    Scale,
)
from space.model import Decoder

FFN_RATIO = {True: 8 / 3, False: 4.0}
"""Base FFN ratios, with and without a gate."""


def scales(model: Decoder, recipe: Recipe) -> dict[str, Scale]:
    """The scale of each distinct parameter, by its name."""
    rule, optimizer = (
        PARAMETRISATIONS.load(recipe.parametrisation),
        OPTIMIZERS.load(recipe.optimizer),
    )
    return {place.name: rule.scale(place, recipe, optimizer) for place in places(model, recipe)}


def places(model: Decoder, recipe: Recipe) -> Iterator[Place]:
    """Where each distinct parameter stands, in the model's order."""
    arch = model.arch
    uses = Counter(p for _, p in model.named_parameters(remove_duplicate=False))
    for name, p in model.named_parameters():
        ffn_ratio = FFN_RATIO[arch.gated] if "down_proj" in name else 1.0
        yield Place(
            name=name,
            role=_role(name, p),
            width=arch.hidden_size / recipe.base_hidden_size,
            depth=arch.num_layers / recipe.base_num_hidden_layers,
            fan_in=p.shape[-1] / (recipe.base_hidden_size * ffn_ratio),
            uses=uses[p],
        )


def _role(name: str, p: Tensor) -> str:
    if "embed_tokens" in name:
        return TABLE
    if name == "lm_head.weight":
        return OUTPUT
    if name == "model.norm.weight":
        return FINAL_GAIN
    if p.ndim == 1:
        return GAIN if name.endswith("norm.weight") else BIAS
    return BRANCH if "o_proj" in name or "down_proj" in name else INPUT


def initialise(model: Decoder, recipe: Recipe, init_seed: int) -> None:
    """Draw all weights anew: normal with the table's deviation, gains and biases constant.

    Every tensor has a generator of its own, seeded by its place, so that models of equal blocks
    start alike.
    """
    wanted = scales(model, recipe)
    with torch.no_grad():
        for i, (name, p) in enumerate(model.named_parameters()):
            if p.ndim == 1:
                nn.init.constant_(p, wanted[name].std)
                continue
            generator = torch.Generator().manual_seed(init_seed * 100_003 + i)
            p.copy_(torch.randn(p.shape, generator=generator) * wanted[name].std)


def parameter_groups(model: Decoder, recipe: Recipe) -> list[Group]:
    """Groups for an optimiser, one for each distinct scale."""
    groups: dict[tuple[Any, ...], list[Tensor]] = {}
    wanted = scales(model, recipe)
    for name, p in model.named_parameters():
        s = wanted[name]
        groups.setdefault((s.kind, s.multiplier, s.lr, s.eps, s.weight_decay), []).append(p)
    return [
        {
            "params": params,
            "kind": kind,
            "multiplier": multiplier,
            "lr": lr,
            "base_lr": lr,
            "eps": eps,
            "weight_decay": decay,
        }
        for (kind, multiplier, lr, eps, decay), params in groups.items()
    ]


def lr_factor(recipe: Recipe, step: int, steps: int | None = None) -> float:
    """The learning rate of a step (from 0), as a share of the peak.

    Warmup is linear; `wsd` then stays and decays as 1 - √x (arXiv:2405.18392), `cosine` decays all
    the way. The decay ends after `steps`: a branch's, or by default all of the run.
    """
    steps = steps or recipe.steps
    warmup = max(1.0, recipe.warmup_fraction * recipe.steps)
    if step + 1 < warmup:
        return (step + 1) / warmup
    decay = recipe.decay_fraction * steps if recipe.schedule == "wsd" else steps - warmup
    progress = min(1.0, max(0.0, (step - (steps - decay)) / decay)) if decay else 0.0
    if recipe.schedule == "wsd":
        left = 1 - math.sqrt(progress)
    else:
        left = 0.5 * (1 + math.cos(math.pi * progress))
    return recipe.final_lr_fraction + (1 - recipe.final_lr_fraction) * left
