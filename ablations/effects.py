"""The comparison of arms, under the name that notebooks and scripts use."""

from ablations.stats.effects import compare, indistinguishable, linked_effects

__all__ = ["compare", "indistinguishable", "linked_effects"]
