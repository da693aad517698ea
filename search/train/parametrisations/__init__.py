"""Parametrisations: how learning rate, initial scale, epsilon and weight decay follow a shape.

`recipe.parametrisation=NAME` chooses one. `completep.py` has the whole table; `mup` and `sp` are
its rows with some ratios held at one. docs/doors/parametrisation.md says how to add one. No torch:
reports ask how far a rate is carried.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, Self

from space.arch import Architecture
from space.doors import Door

if TYPE_CHECKING:  # recipes hold the name of one
    from search.recipe import Recipe
    from search.train.optimizers import Optimizer

TABLE, OUTPUT, INPUT, BRANCH = "embedding", "output matrix", "q, k, v, gate, up", "o, down"
FINAL_GAIN, GAIN, BIAS = "final gain", "gain", "bias"
"""Roles of tensors. Those of `BRANCH` end a residual branch, those of `INPUT` read its input; a
`GAIN` or `BIAS` stands inside a layer."""

EMBEDDING, MATRIX, VECTOR = "embedding", "matrix", "vector"
KINDS = {TABLE: EMBEDDING, OUTPUT: EMBEDDING, INPUT: MATRIX, BRANCH: MATRIX}
"""Of roles: matrices with one row per token, matrices inside layers, and vectors (gains and biases)
otherwise. A matrix optimiser takes parameters of kind `MATRIX` and leaves the others to AdamW."""

WIDTH, DEPTH = "width", "depth"
"""What a parametrisation may follow."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What one tensor gets."""

    kind: str
    """`EMBEDDING`, `MATRIX` or `VECTOR`."""
    multiplier: float
    """m: what the published rule multiplies the tensor by, contained in the four below."""
    std: float
    """Initial standard deviation of a matrix, initial value of a gain."""
    lr: float
    eps: float
    weight_decay: float


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a tensor stands, and its shape over that of the base shape."""

    name: str
    """As `named_parameters` of the model has it."""
    role: str
    width: float = 1.0
    """w: hidden size."""
    depth: float = 1.0
    """d: layers executed."""
    fan_in: float = 1.0
    """n: columns of a matrix inside layers."""
    uses: int = 1
    """u: layers that execute the tensor, no ratio."""

    @property
    def kind(self) -> str:
        return KINDS.get(self.role, VECTOR)

    def without_depth(self) -> Self:
        """The place of a rule that does not follow depth."""
        return replace(self, depth=1.0, uses=1)

    def of_the_base_shape(self) -> Self:
        """The place of a rule that follows nothing."""
        return replace(self.without_depth(), width=1.0, fan_in=1.0)

    def folded(self, m: float, *, std: float, lr: float, eps: float, decay: float) -> Scale:
        """The scale of the plain tensor m·w, given that of w."""
        return Scale(
            kind=self.kind,
            multiplier=m,
            std=m * std,
            lr=m * lr,
            eps=eps / m,
            weight_decay=decay / m,
        )


class Parametrisation(Protocol):
    """How the scales of a tensor follow the shape of its architecture."""

    follows: tuple[str, ...]
    """`WIDTH`, `DEPTH`, both or none: over what one learning rate is meant to serve. What is not
    followed must not change any scale."""

    def scale(self, place: Place, recipe: "Recipe", optimizer: "Optimizer") -> Scale:
        """What a tensor gets in training, its multiplier folded (`Place.folded`). At the base
        shape, of ratios of one, it is what `sp` gives."""
        ...

    def carries(self, architecture: Architecture, recipe: "Recipe") -> bool:
        """Whether the recipe's rate, right for its base shape, is meant to be right for this
        architecture: others are flagged in tables where no rate was searched for them."""
        ...

    def describe(self, recipe: "Recipe") -> str:
        """What a report says after "peak learning rate 0.003"."""
        ...


PARAMETRISATIONS = Door("parametrisation", __name__, Parametrisation)  # type: ignore[type-abstract]


def from_base_shape(recipe: "Recipe", name: str) -> str:
    """A description for rules that start at the recipe's base shape."""
    return (
        f"at a base shape {recipe.base_num_hidden_layers} deep and {recipe.base_hidden_size} wide, "
        f"carried to other shapes by {name}"
    )


def same_depth(architecture: Architecture, recipe: "Recipe") -> bool:
    """Whether an architecture executes as many layers as the base shape."""
    return architecture.num_layers == recipe.base_num_hidden_layers
