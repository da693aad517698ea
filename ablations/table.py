"""A designed comparison as data: panels of arms."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ablations.stats.sequential import AUTO, LOOKS
from search.recipe import Recipe
from space.arch import Architecture
from space.budget import Budget

ARMS = "arms"
"""The kind of a table whose file names no other."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One thing compared."""

    name: str
    architecture: Architecture
    recipe: Recipe
    init_shift: int = 0
    """`init_seed` is the seed plus this."""
    published: float | None = None
    """The source's average for it, in percent; higher is better."""

    def at(self, lr: float) -> "Arm":
        """This arm at another learning rate."""
        return replace(self, recipe=replace(self.recipe, lr=lr))


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Arms that are compared with one baseline."""

    name: str
    budget: Budget
    baseline: str
    arms: tuple[Arm, ...]
    source: str | None = None
    """Of what is published."""
    left_out: tuple[str, ...] = ()
    """Arms of which no shape is equal to the baseline in what the panel asks."""

    def arm(self, name: str) -> Arm:
        """The arm of this name.

        Raises:
            ValueError: there is none.
        """
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise _unknown(f"arm{of_panel(self.name)}", self.arms, name)


@dataclass(frozen=True, kw_only=True)
class Table:
    """All panels of a question."""

    name: str
    caption: str
    seeds: int
    """Of each arm; at most, if they are given as they are needed."""
    panels: tuple[Panel, ...]
    auto: bool = False
    """Seeds are given as they are needed: see `ablations.stats.sequential`."""
    question: str = ARMS
    """Its kind: a name, a module or a file of the door of `ablations.questions`."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What `study.json` says of it besides, for the view of its kind."""
    first_seed: int | None = None
    """Where the table must choose it; else the command line does."""
    quoted_by: str | None = None
    """The search whose page quotes it, and is made again with it."""
    objectives: tuple[str, ...] = ()
    """By name or file: the first is what arms are compared by, the others are shown. None: the
    usual one. The command line may say otherwise, of the next two also."""
    columns: tuple[str, ...] = ()
    """Objectives that are shown besides."""
    constraints: tuple[str, ...] = ()
    """What arms are to keep to."""

    def panel(self, name: str) -> Panel:
        """The panel of this name.

        Raises:
            ValueError: there is none.
        """
        for panel in self.panels:
            if panel.name == name:
                return panel
        raise _unknown(f"panel of table {self.name}", self.panels, name)


def of_panel(name: str) -> str:
    """ " of panel 'equal tokens'"; nothing where the panel has no name."""
    return f" of panel {name!r}" if name else ""


def _unknown(what: str, known: Iterable[Arm] | Iterable[Panel], name: str) -> ValueError:
    return ValueError(
        f"{what} must be one of {', '.join(repr(one.name) for one in known)}, but got {name!r}; if "
        "an earlier start asked for it and it was renamed or taken out since, start the table again"
    )


def seeds_of(given: int | str) -> dict[str, Any]:
    """What a table says of its seeds, for a number or `auto`.

    Raises:
        ValueError: neither.
    """
    if given == AUTO:
        return {"seeds": max(LOOKS), "auto": True}
    if type(given) is not int or given < 1:
        raise ValueError(f"seeds of a table must be at least 1, or auto, but got {given!r}")
    return {"seeds": given, "auto": False}
