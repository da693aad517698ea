"""Asynchronous successive halving (arXiv:1810.05934): at each horizon the better half goes on, of
those that have come there so far."""

from typing import Any

from search.recipe import Recipe
from search.study.pruners import OptunaPruner


class Asha(OptunaPruner):
    """`min_resource` is the first horizon, in tokens, unless it is given."""

    kind = "SuccessiveHalvingPruner"

    def usual(self, recipe: Recipe) -> dict[str, Any]:
        return {"min_resource": int(recipe.horizons[0] * recipe.tokens)}


PRUNER = Asha()
