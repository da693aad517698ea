"""Optimisers: what makes a step of the gradients. `recipe.optimizer=NAME` chooses one.

docs/doors/optimizer.md says how to add one. Without torch until one is built: reports and estimates
ask for words and numbers alone.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from space.doors import Door

if TYPE_CHECKING:
    import torch

    from search.recipe import Recipe

Group = dict[str, Any]
"""Parameters of one scale, as torch's optimisers take them. `params`, `lr`, `eps` and
`weight_decay` are as the table of scales has them; `base_lr`, which the schedule multiplies into
`lr` before each step, `kind` (`EMBEDDING`, `MATRIX` or `VECTOR`) and `multiplier` must stay."""


class Optimizer(Protocol):
    """Makes a torch optimiser, and says how it wants to be scaled and described."""

    state_per_weight: int
    """Numbers kept for a weight, at most: a checkpoint holds them beside the weights."""

    def build(self, groups: Sequence[Group], recipe: "Recipe") -> "torch.optim.Optimizer":
        """The torch optimiser of these groups. Its steps work in place, whatever they keep is in
        its `state_dict`, and they keep to the multipliers: a parameter m·w in a group of (m·lr,
        eps/m, decay/m) trains as m times w would in one of (lr, eps, decay). Optimisers whose steps
        do not follow the size of gradients do; others find m in the group."""
        ...

    def growth(self, fan_in: float) -> float:
        """By how much more a step of a given learning rate changes the outputs of a matrix inside
        layers whose fan-in is so many times the base shape's. The parametrisation divides the rate
        by it, where it follows width."""
        ...

    def describe(self, recipe: "Recipe") -> str:
        """Name and settings for a report: "AdamW (betas 0.9 and 0.95, weight decay 0.1)"."""
        ...


OPTIMIZERS = Door("optimizer", __name__, Optimizer)  # type: ignore[type-abstract]
