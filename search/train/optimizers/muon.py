"""Muon for the matrices inside layers, AdamW for the rest.

Muon (K. Jordan and others, 2024, kellerjordan.github.io/posts/muon) steps along the momentum's
nearest semi-orthogonal matrix, by five Newton-Schulz iterations in bf16. torch's own is used, which
takes each projection by itself. Its steps have the root mean square 0.2 · lr in every shape
(arXiv:2502.16982, section 2.2), about that of AdamW's, so that the recipe's learning rate and
weight decay of the base shape serve both.

Rows of the table of scales. All singular values of a step being equal, its spectral norm over n
times the fan-in, at equal root mean square and shape of the matrix, is √n times as large, and so is
what it makes of an input, against n times for Adam, whose steps are nearly of rank one where it
counts. So c = √n, which is the spectral condition of feature learning (arXiv:2310.17813):
a norm of lr · √(fan-out / fan-in) for the shapes of one family. arXiv:2512.05620 finds that such a
rule of µP's transfers Muon's rate over widths better than none; wide matrices (k and v of few
heads, down) keep the factor of the base shape's proportions whatever theirs are, as in Muon's
original rule max(1, fan-out / fan-in).

Depth is CompleteP's 1/d unchanged: its argument asks only that a step does not follow the size of
the gradient. arXiv:2603.28743 finds that a rule of depth stays necessary with Muon.

The product of learning rate and weight decay follows no width, as with AdamW. arXiv:2512.05620
reports 1/width as nearly best where training tokens grow with the model; runs that are compared
here have equal tokens.

What was checked: `search.coordinate_check`, in DECISIONS.md. What was not: that the best rate of
trained models stays where it is over widths and depths (`table=optimizers` asks that).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from search.train.optimizers import Group, adamw
from search.train.parametrisations import MATRIX

if TYPE_CHECKING:
    import torch

    from search.recipe import Recipe

EPS = 1e-7
"""What the norm of a momentum is at least: torch's default. The table's epsilon is Adam's."""
MOMENTUM = 0.95
"""Muon's own; the betas are AdamW's."""


class Muon:
    """See above."""

    state_per_weight = 2
    """One of matrices inside layers, two of all others."""

    def build(self, groups: Sequence[Group], recipe: "Recipe") -> "torch.optim.Optimizer":
        import torch

        from search.train.optimizers._together import Together

        matrices = [{**g, "eps": EPS} for g in groups if g["kind"] == MATRIX]
        others = [g for g in groups if g["kind"] != MATRIX]
        return Together(
            torch.optim.Muon(matrices, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw"),
            adamw.OPTIMIZER.build(others, recipe),
        )

    def growth(self, fan_in: float) -> float:
        return float(fan_in**0.5)

    def describe(self, recipe: "Recipe") -> str:
        return (
            f"Muon (momentum {MOMENTUM:g}, weight decay {recipe.weight_decay:g}) for matrices in "
            f"layers, {adamw.OPTIMIZER.describe(recipe)} for the rest"
        )


OPTIMIZER = Muon()
