"""The standard parametrisation: every shape gets what the base shape gets, so that it differs from
the others in the rule alone and not in the tuning."""

from typing import TYPE_CHECKING

from search.train.parametrisations import Place, Scale, completep, same_depth
from space.arch import Architecture

if TYPE_CHECKING:
    from search.recipe import Recipe
    from search.train.optimizers import Optimizer


class Standard:
    """See above."""

    follows: tuple[str, ...] = ()

    def scale(self, place: Place, recipe: "Recipe", optimizer: "Optimizer") -> Scale:
        return completep.PARAMETRISATION.scale(place.of_the_base_shape(), recipe, optimizer)

    def carries(self, architecture: Architecture, recipe: "Recipe") -> bool:
        same_width = architecture.hidden_size == recipe.base_hidden_size
        return same_width and same_depth(architecture, recipe)

    def describe(self, recipe: "Recipe") -> str:
        return "the same for all shapes (standard parametrisation)"


PARAMETRISATION = Standard()
