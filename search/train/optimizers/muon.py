"""Muon for the matrices inside layers, AdamW for the rest.

Muon (K. Jordan and others, 2024, kellerjordan.github.io/posts/muon) steps along the momentum's
nearest semi-orthogonal matrix, by five Newton-Schulz iterations in bf16. torch's own is used, which
takes each projection by itself. Its steps have the root mean square 0.2 · lr in every shape
(arXiv:2502.16982, section 2.2), about that of AdamW's, so that the recipe's learning rate and
weight decay of the base shape serve both.

Rows of the table of scales. At equal root mean square and proportions, a step with n times the
fan-in has √n times the spectral norm, since its singular values are all equal, and changes its
outputs by as much more; one of Adam, nearly of rank one where it counts, by n times. So c = √n,
the spectral condition of arXiv:2310.17813 for matrices of one family. Depth and the product of
learning rate and weight decay are as with AdamW. docs/decisions/072-muon-in-the-one-table.md has
the sources, what was checked and what was not.
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
