"""How the best depth grows with the budget: a line through log best depth over log budget."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reports.weigh.fits import Array, Interval, interval, raised
from reports.weigh.valley import INSIDE, NONE, Valley
from space.sharing import MOST_LAYERS

OUTER = math.log(4)
"""Draws of a best depth are held within a factor of four beyond the depths tried: farther out, the
quadratic says nothing, and one draw without a bottom would say all."""


def determined(low: float, high: float) -> bool:
    """Whether an interval of depths leaves out any that can be built."""
    return low >= 1 or high <= MOST_LAYERS


@dataclass(frozen=True)
class Growth:
    """log best depth = at + exponent · log(N / middle), through the budgets with a best depth."""

    budgets: tuple[float, ...]
    middle: float
    at: float
    exponent: float
    draws: Array
    """(draws, 2): `at` and `exponent`."""
    widened: float
    """By how much the draws are spread, as the best depths lie farther off the line than their own
    intervals allow; 1: they do not."""

    @property
    def interval(self) -> Interval:
        """Of the exponent."""
        return interval(self.draws[:, 1])

    def best(self, budget: Any) -> Any:
        """The predicted best depth."""
        return np.exp(self.at + self.exponent * np.log(np.asarray(budget) / self.middle))

    def predicted(self, budget: float) -> Interval:
        """Its interval."""
        low, high = interval(self.draws @ np.array([1.0, math.log(budget / self.middle)]))
        return raised(low), raised(high)

    def reach(self, budget: float) -> float:
        """How many times the largest fitted budget that is; at most 1: no extrapolation."""
        return budget / max(self.budgets)


def growth(valleys: Sequence[Valley]) -> Growth | None:
    """How the best depth grows; None with fewer than two budgets with an optimum inside.

    Each counts by the spread of its draws.
    """
    inside = [valley for valley in valleys if valley.status == INSIDE]
    if len(inside) < 2:
        return None
    budgets = np.array([valley.budget for valley in inside])
    middle = float(np.exp(np.log(budgets).mean()))
    draws = np.array(
        [np.clip(v.draws, math.log(v.lowest) - OUTER, math.log(v.deepest) + OUTER) for v in inside]
    )
    spread = np.maximum(np.subtract(*np.quantile(draws, (0.75, 0.25), axis=1)) / 1.349, 1e-9)
    design = np.column_stack([np.ones(len(inside)), np.log(budgets / middle)])
    solve = np.linalg.pinv(design / spread[:, None]) / spread
    logs = np.log([valley.best for valley in inside])
    at, exponent = solve @ logs
    missed = float((((logs - design @ [at, exponent]) / spread) ** 2).sum())
    free = len(inside) - 2
    widened = math.sqrt(max(1.0, missed / free)) if free else 1.0
    found = np.array([at, exponent]) + (solve @ (draws - logs[:, None])).T * widened
    return Growth(tuple(budgets), middle, float(at), float(exponent), found, widened)


@dataclass(frozen=True)
class HeldOut:
    """The largest budget's best depth, predicted from the others and measured."""

    budget: float
    predicted: float
    interval: Interval
    found: Interval
    """The best depth as both ends; where that is a bound, what it leaves possible."""

    @property
    def inside(self) -> bool:
        """Whether what was found is possible in the predicted interval."""
        return self.interval[0] <= self.found[1] and self.found[0] <= self.interval[1]

    @property
    def width(self) -> float:
        """The interval's upper end over its lower one."""
        return self.interval[1] / self.interval[0]


def held_out(valleys: Sequence[Valley]) -> HeldOut | None:
    """None where the largest has no best depth, or fewer than two others have one inside."""
    largest = max(valleys, key=lambda valley: valley.budget)
    line = growth([valley for valley in valleys if valley is not largest])
    if line is None or largest.status == NONE:
        return None
    budget = largest.budget
    return HeldOut(budget, float(line.best(budget)), line.predicted(budget), _possible(largest))


def _possible(valley: Valley) -> Interval:
    if valley.status == INSIDE:
        return valley.best, valley.best
    return (0.0, valley.lowest) if valley.best < valley.lowest else (valley.deepest, math.inf)
