"""One learning rate for all widths and depths: CompleteP (arXiv:2505.01618, table 1, alpha = 1).

Multipliers are folded into each tensor, so that the model stays a plain Llama: a tensor used as m·w
with (std, lr, eps, decay) trains under AdamW exactly as the plain tensor m·w with (m·std, m·lr,
eps/m, decay/m), and so it does under every optimiser whose steps do not follow the size of
gradients.

With base width W0 and base depth L0, w = width / W0, d = executed layers / L0, n = fan-in of the
matrix / its fan-in in the base shape, u = layers that execute the tensor:

    tensor                     folded m   std           lr         eps          decay
    embedding (tied or not)    1          e             f·lr       eps/w        0
    output matrix, untied      1          e             f·lr       eps/w        decay
    final gain                 1/w        1/w (value)   lr/w       eps          0
    gains, biases in layers    1          1, 0 (value)  lr         eps·u/(w·d)  0
    q, k, v, gate, up          1          s/√n          lr/c       eps·u/(w·d)  decay·c
    o, down                    1/d        r·s/(√n·d)    lr/(c·d)   eps·u/w      decay·c·d

    c = n under AdamW (published), √n under Muon: `Optimizer.growth`

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
shallow ones large. One layer, where d counts layers, served best: docs/decisions/034.

Clipping the global gradient norm is the one part of the recipe that folding changes: the gradient
of m·w is 1/m times that of w: docs/decisions/035.
"""

import math
from typing import TYPE_CHECKING

from search.train.parametrisations import (
    BIAS,
    BRANCH,
    DEPTH,
    FINAL_GAIN,
    GAIN,
    OUTPUT,
    TABLE,
    WIDTH,
    Place,
    Scale,
    from_base_shape,
)
from space.arch import Architecture

if TYPE_CHECKING:
    from search.recipe import Recipe
    from search.train.optimizers import Optimizer


class CompleteP:
    """See above."""

    follows: tuple[str, ...] = (WIDTH, DEPTH)

    def scale(self, place: Place, recipe: "Recipe", optimizer: "Optimizer") -> Scale:
        """The rows of the table."""
        w, d, n, u = place.width, place.depth, place.fan_in, place.uses
        c = optimizer.growth(n)
        lr, eps, decay = recipe.lr, recipe.eps, recipe.weight_decay
        inside, std = eps * u / (w * d), recipe.init_std / math.sqrt(n)
        e, fast = recipe.embedding_std, recipe.embedding_lr_factor * lr
        if place.role == TABLE:
            return place.folded(1.0, std=e, lr=fast, eps=eps / w, decay=0.0)
        if place.role == OUTPUT:
            return place.folded(1.0, std=e, lr=fast, eps=eps / w, decay=decay)
        if place.role == FINAL_GAIN:
            return place.folded(1 / w, std=1.0, lr=lr, eps=eps / w, decay=0.0)
        if place.role in (GAIN, BIAS):
            return place.folded(1.0, std=float(place.role == GAIN), lr=lr, eps=inside, decay=0.0)
        if place.role == BRANCH:
            std *= recipe.residual_init
            return place.folded(1 / d, std=std, lr=lr / c, eps=inside, decay=decay * c)
        return place.folded(1.0, std=std, lr=lr / c, eps=inside, decay=decay * c)

    def carries(self, architecture: Architecture, recipe: "Recipe") -> bool:
        """To all widths, and to more layers: see above why not to fewer."""
        return architecture.num_layers >= recipe.base_num_hidden_layers

    def describe(self, recipe: "Recipe") -> str:
        return from_base_shape(recipe, "completep")


PARAMETRISATION = CompleteP()
