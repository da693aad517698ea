"""Stops a run that is worse than the best one at enough horizons: a signed-rank test over the
readings at equal horizons, pair by pair."""

from typing import TYPE_CHECKING, Any

from search.recipe import Recipe
from search.study.pruners import OptunaPruner

if TYPE_CHECKING:
    from optuna.pruners import BasePruner


class Wilcoxon(OptunaPruner):
    kind = "WilcoxonPruner"

    def make(self, recipe: Recipe, **options: Any) -> "BasePruner":
        pruner = super().make(recipe, **options)
        _require_enough(len(recipe.horizons), options.get("p_threshold", 0.1))
        return pruner


def _require_enough(horizons: int, threshold: float) -> None:
    """A signed-rank test of n pairs has p of 0.5 ** n at least."""
    if 0.5**horizons >= threshold:
        raise ValueError(
            f"pruner=wilcoxon must have enough readings to fall below p = {threshold}, but "
            f"recipe.horizons has {horizons}, which give {0.5**horizons:g} at least; leave "
            "recipe.horizons out, give more, or raise p_threshold"
        )


PRUNER = Wilcoxon()
