"""Each arm's own learning rate, chosen among a few by seeds that the table does not report.

A common rate favours the arms that it suits. Who chooses and reports by the same runs favours the
arms that were tried more often, or vary more: so a rate is chosen on seeds of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import inf, isfinite
from statistics import mean
from typing import Annotated

from search.recipe import Recipe
from search.train.parametrisations import PARAMETRISATIONS
from space.arch import Architecture
from space.ranges import ANY, AtLeast1, Range, settle_numbers

FIRST_SEED = 1000
"""Of those that choose, counted from the table's first one: far from any that it reports, so that a
table with more seeds keeps its rates."""
EDGE, CARRIED = "edge", "not carried"
"""Flags of an arm: a better rate may lie beyond those tried; its rate was set for another shape,
and no rule carries it to this one."""


@dataclass(frozen=True, kw_only=True)
class LrSearch:
    """How each arm comes to its learning rate: see `conf/lr_search/`.

    Raises:
        ValueError: an unknown name, or rates that make no bracket.
    """

    name: str = "none"
    """`none`: the recipe's. `bracket`: the best of several."""
    factors: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Rates tried, as multiples of the arm's own in the table."""
    seeds: AtLeast1 = 1
    """That each rate is tried on."""
    extensions: Annotated[int, Range(0, 100)] = 2
    """Further rates, one at a time, where the best one is at an edge."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "factors", tuple(map(float, self.factors)))
        for factor in self.factors:
            ANY.require("lr_search.factors", factor)
        if self.name not in ("none", "bracket"):
            raise ValueError(f"lr_search must be one of none, bracket, but got {self.name!r}")
        ascending = list(self.factors) == sorted({f for f in self.factors if f > 0})
        if not ascending or len(self.factors) < 3:
            raise ValueError(
                "lr_search.factors must be three or more, each above 0 and once, from low to high, "
                f"but got {list(self.factors)}"
            )
        settle_numbers(self, "lr_search.")


@dataclass(frozen=True)
class Choice:
    """Where the search for an arm's rate stands."""

    rates: tuple[float, ...]
    """Those to try so far, ascending."""
    chosen: float | None = None
    """None while some of them have yet to be tried."""
    edge: bool = False
    """Whether the best is the lowest or the highest tried."""


def choose(search: LrSearch, lr: float, ended: Mapping[tuple[float, int], float | None]) -> Choice:
    """The rates of an arm whose rate in the table is `lr`, given the results of those that ended by
    rate and number of the seed. One without a result (it diverged) is worse than any with one; if
    all are, the arm keeps `lr`, at an edge.
    """
    rates = [rounded(lr * factor) for factor in search.factors]
    for left in reversed(range(search.extensions + 1)):
        tried = {rate: [ended.get((rate, n), inf) for n in range(search.seeds)] for rate in rates}
        if any(place not in ended for place in product(rates, range(search.seeds))):
            return Choice(tuple(rates))
        means = {rate: mean(inf if v is None else v for v in tried[rate]) for rate in rates}
        best = min(rates, key=means.__getitem__)
        if not isfinite(means[best]):
            return Choice(tuple(rates), rounded(lr), edge=True)
        if best not in (rates[0], rates[-1]):
            return Choice(tuple(rates), best)
        if left:
            rates = beyond(rates, best)
    return Choice(tuple(rates), best, edge=True)


def beyond(rates: Sequence[float], edge: float) -> list[float]:
    """With one more rate past the lowest or the highest, as far as the next one lies inside."""
    if edge == rates[0]:
        return [rounded(edge * edge / rates[1]), *rates]
    return [*rates, rounded(edge * edge / rates[-2])]


def rounded(rate: float) -> float:
    """To six digits, so that a rate has one name and a run one key."""
    return float(f"{rate:.6g}")


def is_carried(architecture: Architecture, recipe: Recipe) -> bool:
    """Whether the recipe's parametrisation carries its rate from the base shape to this one; no
    where the parametrisation is no longer to be had."""
    try:
        rule = PARAMETRISATIONS.load(recipe.parametrisation)
    except ValueError:  # a file of the user's, away or changed
        return False
    return rule.carries(architecture, recipe)
