"""Successive halving in several brackets (arXiv:1603.06560): some runs are judged at all horizons,
some from the second on, some never, in case the first one misleads."""

from typing import Any

from search.recipe import Recipe
from search.study.pruners import OptunaPruner


class Hyperband(OptunaPruner):
    """`min_resource` is the first horizon and `max_resource` the end, in tokens, unless they are
    given."""

    kind = "HyperbandPruner"

    def usual(self, recipe: Recipe) -> dict[str, Any]:
        first = int(recipe.horizons[0] * recipe.tokens)
        return {"min_resource": first, "max_resource": recipe.tokens}


PRUNER = Hyperband()
