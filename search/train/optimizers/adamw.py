"""AdamW (arXiv:1711.05101), torch's own, fused."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from search.train.optimizers import Group

if TYPE_CHECKING:
    import torch

    from search.recipe import Recipe


class AdamW:
    """For all parameters."""

    state_per_weight = 2
    """The moments."""

    def build(self, groups: Sequence[Group], recipe: "Recipe") -> "torch.optim.Optimizer":
        import torch

        return torch.optim.AdamW(groups, betas=(recipe.beta1, recipe.beta2), fused=True)

    def growth(self, fan_in: float) -> float:
        """All entries of a step are of one size and, summed over aligned inputs, add up."""
        return fan_in

    def describe(self, recipe: "Recipe") -> str:
        r = recipe
        return f"AdamW (betas {r.beta1:g} and {r.beta2:g}, weight decay {r.weight_decay:g})"


OPTIMIZER = AdamW()
