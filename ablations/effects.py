"""The comparison of arms, under the name that notebooks and scripts use."""

from ablations.stats.best import indistinguishable
from ablations.stats.block import linked_effects
from ablations.stats.effects import compare, resolved_pairs

__all__ = ["compare", "indistinguishable", "linked_effects", "resolved_pairs"]
