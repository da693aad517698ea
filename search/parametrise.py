"""How learning rate, initial scale, epsilon and weight decay follow an architecture's shape.

One learning rate for all shapes measures mis-tuning, not shape. `completep` (arXiv:2505.01618,
table 1, alpha = 1) lets the rate of one base shape serve all widths and depths. Its multipliers are
folded into each tensor, so that the model stays a plain Llama: a tensor used as m·w with (std, lr,
eps, decay) trains under AdamW exactly as the plain tensor m·w with (m·std, m·lr, eps/m, decay/m).

With base width W0 and base depth L0, w = width / W0, d = executed layers / L0, and n = fan-in of
the matrix / its fan-in in the base shape:

    tensor                     folded m   std           lr         eps        decay
    embedding (tied or not)    1          e             f·lr       eps/w      0
    q, k, v, gate, up          1          s/√n          lr/n       eps/(n·d)  decay·n
    o, down                    1/d        r·s/(√n·d)    lr/(n·d)   eps/n      decay·n·d
    gains, biases in layers    1          1, 0 (value)  lr         eps/(w·d)  0
    final gain                 1/w        1/w (value)   lr/w       eps·w      0
    output matrix, untied      1          e             f·lr       eps/w      decay

s is `init_std`, e `embedding_std`, f `embedding_lr_factor`, r `residual_init`. The output's
multiplier 1/w sits in the final norm's gain. Counting each matrix's own fan-in (N·H for `o`, F for
`down`, of which the base shape has W0 and 8/3·W0, or 4·W0 without a gate) follows drifting heads
and FFN ratios, too.

Shared blocks: d counts *executed* layers. A block executed N times adds N correlated updates, so
that the sum over layers stays of order one only if each is scaled by one over all of them
(arXiv:2606.18524 makes the same point).

`sp`, the standard parametrisation, gives every shape what the base shape gets: w = d = n = 1.
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
    """The scale of each distinct parameter, by its name: the rows of the table above."""
    return {name: _scale(name, p, model, recipe) for name, p in model.named_parameters()}


def _scale(name: str, p: Tensor, model: Decoder, recipe: Recipe) -> Scale:
    w, d, n = _ratios(name, p, model, recipe)
    lr, eps, decay = recipe.lr, recipe.eps, recipe.weight_decay
    if "embed_tokens" in name or name == "lm_head.weight":
        return Scale(
            std=recipe.embedding_std,
            lr=recipe.embedding_lr_factor * lr,
            eps=eps / w,
            weight_decay=decay if name == "lm_head.weight" else 0.0,
        )
    if name == "model.norm.weight":
        return Scale(std=1 / w, lr=lr / w, eps=eps * w, weight_decay=0.0)
    if p.ndim == 1:
        gain = float(name.endswith("norm.weight"))
        return Scale(std=gain, lr=lr, eps=eps / (w * d), weight_decay=0.0)
    m, std = 1.0, recipe.init_std
    if "o_proj" in name or "down_proj" in name:
        m, std = 1 / d, recipe.init_std * recipe.residual_init
    return Scale(
        std=m * std / math.sqrt(n), lr=m * lr / n, eps=eps / (n * d) / m, weight_decay=decay * n / m
    )


def _ratios(name: str, p: Tensor, model: Decoder, recipe: Recipe) -> tuple[float, float, float]:
    """w, d and n of a tensor."""
    if recipe.parametrisation == "sp":
        return 1.0, 1.0, 1.0
    arch = model.arch
    base_fan_in = recipe.base_hidden_size * (FFN_RATIO[arch.gated] if "down_proj" in name else 1.0)
    return (
        arch.hidden_size / recipe.base_hidden_size,
        arch.num_layers / recipe.base_num_hidden_layers,
        p.shape[-1] / base_fan_in,
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
        left = 1 - math.sqrt(progress)
    else:
        left = 0.5 * (1 + math.cos(math.pi * progress))
    return recipe.final_lr_fraction + (1 - recipe.final_lr_fraction) * left
