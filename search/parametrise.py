"""How learning rate, initial scale, epsilon and weight decay follow an architecture's shape.

One learning rate for all shapes measures mis-tuning, not shape. `completep` (arXiv:2505.01618,
table 1, alpha = 1) lets the rate of one base shape serve all widths and depths. Its multipliers are
folded into each tensor, so that the model stays a plain Llama: a tensor used as m·w with (std, lr,
eps, decay) trains under AdamW exactly as the plain tensor m·w with (m·std, m·lr, eps/m, decay/m).

With base width W0 and base depth L0, n = fan-in / base fan-in of the matrix and d = executed layers
/ L0:

    tensor                      folded m   std            lr          eps      decay
    embedding (tied or not)     1          s              lr          eps/n    0
    q, k, v, gate, up           1          s/√n           lr/n        eps/(n·d) decay·n
    o, down                     1/d        s/(√n·d)       lr/(n·d)    eps/n    decay·n·d
    norms and biases in blocks  1          1 (bias 0)     lr          eps/(n·d) 0
    final norm                  1/n        1/n (a gain)   lr/n        eps·n    0
    output matrix, untied       1          s              lr          eps/n    decay

The base fan-in of `o` is W0 and of `down` 8/3·W0 (4·W0 without a gate), so that drifting heads and
FFN ratios are counted, not assumed. n of the output rows is width / W0: the output's multiplier 1/n
sits in the final norm's gain.

Shared blocks: d counts *executed* layers. A block executed N times adds N correlated updates, so
that the sum over layers stays of order one only if each is scaled by one over all of them
(arXiv:2606.18524 makes the same point).

`sp` is the standard parametrisation: std s for every matrix, one lr, eps and decay.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from search.record import Recipe
from space.model import Decoder

FFN_RATIO = {True: 8 / 3, False: 4.0}
"""Base FFN ratios, with and without a gate."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What one tensor gets."""

    std: float
    """Initial standard deviation of a matrix, initial value of a gain."""
    lr: float
    eps: float
    weight_decay: float


def scales(model: Decoder, recipe: Recipe) -> dict[str, Scale]:
    """The scale of each distinct parameter, by its name."""
    rule = completep if recipe.parametrisation == "completep" else standard
    return {name: rule(name, p, model, recipe) for name, p in model.named_parameters()}


def standard(name: str, p: Tensor, model: Decoder, recipe: Recipe) -> Scale:
    """Every matrix alike; norms and biases without decay."""
    return Scale(
        std=recipe.init_std if p.ndim == 2 else float(name.endswith("norm.weight")),
        lr=recipe.lr,
        eps=recipe.eps,
        weight_decay=recipe.weight_decay if p.ndim == 2 and "embed" not in name else 0.0,
    )


def completep(name: str, p: Tensor, model: Decoder, recipe: Recipe) -> Scale:
    """The row of the table above that the tensor's name belongs to."""
    arch = model.arch
    d = arch.num_layers / recipe.base_num_hidden_layers
    width = arch.hidden_size / recipe.base_hidden_size
    s, lr, eps, decay = recipe.init_std, recipe.lr, recipe.eps, recipe.weight_decay
    if "embed_tokens" in name:
        return Scale(std=s, lr=lr, eps=eps / width, weight_decay=0.0)
    if name == "lm_head.weight":
        return Scale(std=s, lr=lr, eps=eps / width, weight_decay=decay)
    if name == "model.norm.weight":
        return Scale(std=1 / width, lr=lr / width, eps=eps * width, weight_decay=0.0)
    if p.ndim == 1:
        gain = float(name.endswith("norm.weight"))
        return Scale(std=gain, lr=lr, eps=eps / (width * d), weight_decay=0.0)
    n = p.shape[1] / _base_fan_in(name, arch.gated, recipe)
    m = 1 / d if "o_proj" in name or "down_proj" in name else 1.0
    return Scale(
        std=m * s / n**0.5, lr=m * lr / n, eps=eps / (n * d) / m, weight_decay=decay * n / m
    )


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


def parameter_groups(model: Decoder, recipe: Recipe) -> list[dict[str, Any]]:
    """Groups for `torch.optim.AdamW`, one for each distinct scale. `base_lr` is what the schedule
    multiplies."""
    groups: dict[tuple[float, float, float], list[Tensor]] = {}
    wanted = scales(model, recipe)
    for name, p in model.named_parameters():
        scale = wanted[name]
        groups.setdefault((scale.lr, scale.eps, scale.weight_decay), []).append(p)
    return [
        {"params": params, "lr": lr, "base_lr": lr, "eps": eps, "weight_decay": decay}
        for (lr, eps, decay), params in groups.items()
    ]


def lr_factor(recipe: Recipe, step: int) -> float:
    """The learning rate of a step (from 0), as a share of the peak.

    Warmup is linear; `wsd` then stays and decays as 1 - √x (arXiv:2405.18392), `cosine` decays all
    the way.
    """
    steps = recipe.steps
    warmup = max(1.0, recipe.warmup_fraction * steps)
    if step + 1 < warmup:
        return (step + 1) / warmup
    decay = recipe.decay_fraction * steps if recipe.schedule == "wsd" else steps - warmup
    progress = min(1.0, max(0.0, (step - (steps - decay)) / decay)) if decay else 0.0
    if recipe.schedule == "wsd":
        left = 1 - progress**0.5
    else:
        left = 0.5 * (1 + math.cos(math.pi * progress))
    return recipe.final_lr_fraction + (1 - recipe.final_lr_fraction) * left


def _base_fan_in(name: str, gated: bool, recipe: Recipe) -> float:
    return recipe.base_hidden_size * (FFN_RATIO[gated] if "down_proj" in name else 1.0)
