"""One learning rate for all widths: the rows of CompleteP's table without those of depth (the
column µP of arXiv:2505.01618, table 1)."""

from typing import TYPE_CHECKING

from search.train.parametrisations import (
    WIDTH,
    Place,
    Scale,
    completep,
    from_base_shape,
    same_depth,
)
from space.arch import Architecture

if TYPE_CHECKING:
    from search.recipe import Recipe
    from search.train.optimizers import Optimizer


class MuP:
    """See above."""

    follows: tuple[str, ...] = (WIDTH,)

    def scale(self, place: Place, recipe: "Recipe", optimizer: "Optimizer") -> Scale:
        return completep.PARAMETRISATION.scale(place.without_depth(), recipe, optimizer)

    def carries(self, architecture: Architecture, recipe: "Recipe") -> bool:
        return same_depth(architecture, recipe)

    def describe(self, recipe: "Recipe") -> str:
        return from_base_shape(recipe, "mup")


PARAMETRISATION = MuP()
