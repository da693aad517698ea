"""Every run goes to its end."""

from typing import TYPE_CHECKING, Any

from search.recipe import Recipe
from search.study.pruners import OptunaPruner
from space.doors import require_arguments

if TYPE_CHECKING:
    from optuna.pruners import BasePruner


class Nobody(OptunaPruner):
    kind = "NopPruner"
    needs_horizons = False

    def make(self, recipe: Recipe, **options: Any) -> "BasePruner":
        require_arguments("pruner", "pruner=none", Nobody, options)
        return super().make(recipe)


PRUNER = Nobody()
