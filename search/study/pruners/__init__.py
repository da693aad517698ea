"""Who stops runs early: a file for each pruner, and users' own (docs/doors/pruner.md)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from search.recipe import Recipe
from space.compat import without_experimental_warnings
from space.doors import Chosen, Door, require_arguments, require_plain_arguments, taking_options

if TYPE_CHECKING:
    from optuna.pruners import BasePruner


class Pruner(Protocol):
    """Makes a pruner of Optuna's, which sees a run's readings at the recipe's horizons.

    It must decide by what the study's storage has of its trials: workers come and go.
    """

    needs_horizons: bool = True
    """Whether it does nothing in a run without horizons, which is then refused."""

    def make(self, recipe: Recipe, **options: Any) -> "BasePruner":
        """The pruner of a study. The steps of reported values are tokens.

        Options are `pruner.options`; a TypeError says that one of them is not taken, a ValueError
        that its value is not, or that it could stop nothing at these horizons.
        """
        ...


PRUNERS = Door("pruner", __name__, Pruner, short=True)  # type: ignore[type-abstract]


@dataclass(frozen=True, kw_only=True)
class PrunerConfig(Chosen):
    """Who stops runs early, by their readings at the recipe's horizons."""

    door: ClassVar[Door[Pruner]] = PRUNERS
    name: str = "none"
    """Optuna's, or yours: `mine.py`; `asha` is Optuna's SuccessiveHalvingPruner."""


class OptunaPruner(Pruner):
    """One of Optuna's pruners."""

    kind: ClassVar[str]
    """Its class in `optuna.pruners`."""

    def usual(self, recipe: Recipe) -> dict[str, Any]:
        """Options that follow from the recipe, unless they are given."""
        return {}

    def make(self, recipe: Recipe, **options: Any) -> "BasePruner":
        from optuna import pruners

        own, kind = f"Optuna's {self.kind}", getattr(pruners, self.kind)
        require_arguments("pruner", own, kind, options)
        with (
            taking_options("pruner.options", own, options, (TypeError, ValueError)),
            without_experimental_warnings(),
        ):
            require_plain_arguments("pruner.options", kind, options)
            return kind(**self.usual(recipe) | options)  # type: ignore[no-any-return]


def make_pruner(config: PrunerConfig, recipe: Recipe) -> "BasePruner":
    """Optuna's pruner of a configuration, for readings at the recipe's horizons.

    Raises:
        ValueError: an option that the pruner does not take, no horizons to act at, or what it
            makes is none of Optuna's.
    """
    pruner = PRUNERS.load(config.name)
    if pruner.needs_horizons and not recipe.horizons:
        raise ValueError(
            f"pruner={config.name} must have readings to act on, but recipe.horizons is empty; "
            "set recipe.horizons=[0.25,0.5], or pruner=none"
        )
    from optuna.pruners import BasePruner

    who = f"pruner={config.name}"
    require_arguments("pruner", who, pruner.make, config.options, ours=("recipe",))
    with taking_options("pruner.options", who, config.options):
        made = pruner.make(recipe, **config.options)
    if not isinstance(made, BasePruner):
        raise ValueError(
            f"{who} must make one of Optuna's pruners, but made {made!r:.80}; return a BasePruner"
        )
    return made
