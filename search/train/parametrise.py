"""How learning rate, initial scale, epsilon and weight decay follow an architecture's shape.

One learning rate for all shapes measures mis-tuning, not shape. `completep` (arXiv:2505.01618,
table 1, alpha = 1) lets the rate of one base shape serve all widths and depths; `mup`, of the same
table, all widths; `sp`, the standard parametrisation, gives every shape what the base shape gets.
Multipliers are folded into each tensor, so that the model stays a plain Llama: a tensor used as m·w
with (std, lr, eps, decay) trains under AdamW exactly as the plain tensor m·w with (m·std, m·lr,
eps/m, decay/m).

With base width W0 and base depth L0, w = width / W0, d = executed layers / L0, n = fan-in of the
matrix / its fan-in in the base shape, u = layers that execute the tensor:

    tensor                     folded m   std           lr         eps          decay
    embedding (tied or not)    1          e             f·lr       eps/w        0
    q, k, v, gate, up          1          s/√n          lr/n       eps·u/(w·d)  decay·n
    o, down                    1/d        r·s/(√n·d)    lr/(n·d)   eps·u/w      decay·n·d
    gains, biases in layers    1          1, 0 (value)  lr         eps·u/(w·d)  0
    final gain                 1/w        1/w (value)   lr/w       eps          0
    output matrix, untied      1          e             f·lr       eps/w        decay

    completep   as above
    mup         d = u = 1: nothing follows depth
    sp          w = d = n = u = 1: nothing follows shape

s is `init_std`, e `embedding_std`, f `embedding_lr_factor`, r `residual_init`. The output's
multiplier 1/w sits in the final norm's gain, so that it serves a tied matrix, too. Each matrix
counts its own fan-in (N·H for `o`, F for `down`, of which the base shape has W0 and 8/3·W0, or 4·W0
without a gate), which follows drifting heads and FFN ratios. Epsilon follows the size of gradients:
those of the residual stream go as 1/w, those inside a branch as 1/(w·d).

Shared blocks. d counts *executed* layers: N·L for L blocks executed N times each. Adam steps by
lr whatever the gradient's size, so that the sum of N gradients moves a shared tensor no further
than one gradient a tensor of its own. That one step then acts in all N executions at once, each
scaled by 1/(N·L), and the L blocks' steps add up as those of N·L blocks would: the rate needs no N.
The published rule for looped models (arXiv:2606.18524) is 1/(N·√L) with the best rate following L
alone: at alpha = 1/2, L blocks of their own add up as √L, but repeats of one, which agree, as N. At
alpha = 1 blocks of their own count in full as well, and both rules are 1/(N·L). The sum of N
gradients is only seen by epsilon, as u. `search.coordinate_check` finds the same change of every
kind of layer over repeats as over depth.

The ratios are real numbers: the base shape need not divide a shape, nor be one that can be built.
The rule is the limit of many small branches, though, and a deep base shape makes the branches of
shallow ones large. One layer, where d counts layers, served best: DECISIONS.md has the figures.

Clipping the global gradient norm is the one part of the recipe that folding changes: the gradient
of m·w is 1/m times that of w. DECISIONS.md has what that does.
"""

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from search.recipe import Recipe
from space.model import Decoder

FFN_RATIO = {True: 8 / 3, False: 4.0}
"""Base FFN ratios, with and without a gate."""

EMBEDDING, MATRIX, VECTOR = "embedding", "matrix", "vector"
"""Kinds of parameters: tables with a row a token, matrices inside layers, gains and biases."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What one tensor gets."""

    kind: str
    """`EMBEDDING`, `MATRIX` or `VECTOR`. A matrix optimiser (Muon, say) would take the groups of
    `MATRIX`, by a table of its own, and leave the others to AdamW."""
    multiplier: float
    """m: what the published rule multiplies the tensor by, contained in the four below."""
    std: float
    """Initial standard deviation of a matrix, initial value of a gain."""
    lr: float
    eps: float
    weight_decay: float


@dataclass(frozen=True, kw_only=True)
class _Ratios:
    """A tensor's w, d, n and u."""

    width: float = 1.0
    depth: float = 1.0
    fan_in: float = 1.0
    uses: int = 1


def scales(model: Decoder, recipe: Recipe) -> dict[str, Scale]:
    """The scale of each distinct parameter, by its name: the rows of the table above."""
    uses = Counter(p for _, p in model.named_parameters(remove_duplicate=False))
    return {name: _scale(name, p, model, recipe, uses[p]) for name, p in model.named_parameters()}


def _scale(name: str, p: Tensor, model: Decoder, recipe: Recipe, uses: int) -> Scale:
    ratios = _ratios(name, p, model, recipe, uses)
    w, d, n, u = ratios.width, ratios.depth, ratios.fan_in, ratios.uses
    lr, eps, decay = recipe.lr, recipe.eps, recipe.weight_decay
    if "embed_tokens" in name or name == "lm_head.weight":
        decay = decay if name == "lm_head.weight" else 0.0
        fast = recipe.embedding_lr_factor * lr
        return _folded(1.0, EMBEDDING, recipe.embedding_std, fast, eps / w, decay)
    if name == "model.norm.weight":
        return _folded(1 / w, VECTOR, 1.0, lr, eps / w, 0.0)
    if p.ndim == 1:
        gain = float(name.endswith("norm.weight"))
        return _folded(1.0, VECTOR, gain, lr, eps * u / (w * d), 0.0)
    branch = "o_proj" in name or "down_proj" in name
    std = recipe.init_std / math.sqrt(n) * (recipe.residual_init if branch else 1.0)
    m = 1 / d if branch else 1.0
    return _folded(m, MATRIX, std, lr / n, eps * u / (w * d), decay * n)


def _folded(m: float, kind: str, std: float, lr: float, eps: float, decay: float) -> Scale:
    """The scale of the plain tensor m·w, given that of w."""
    return Scale(
        kind=kind, multiplier=m, std=m * std, lr=m * lr, eps=eps / m, weight_decay=decay / m
    )


def _ratios(name: str, p: Tensor, model: Decoder, recipe: Recipe, uses: int) -> _Ratios:
    if recipe.parametrisation == "sp":
        return _Ratios()
    arch = model.arch
    ffn_ratio = FFN_RATIO[arch.gated] if "down_proj" in name else 1.0
    across = _Ratios(
        width=arch.hidden_size / recipe.base_hidden_size,
        fan_in=p.shape[-1] / (recipe.base_hidden_size * ffn_ratio),
    )
    if recipe.parametrisation == "mup":
        return across
    return replace(across, depth=arch.num_layers / recipe.base_num_hidden_layers, uses=uses)


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
    multiplies; `kind` and `multiplier` are the scale's."""
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
