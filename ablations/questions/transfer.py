"""Does one learning rate serve all shapes? Loss against rate, shape by shape, rule by rule.

Each parametrisation has a panel for each shape, whose arms are learning rates. All rates get one
seed; then the best rate of every shape, its neighbours, and the common rate get the table's number
(`ablations.stats.transfer`).

A shape may have a `recipe`, such as another batch size, and in place of parametrisations there may
be names of rules, each with what it sets in the recipe: does one rate serve all batches?
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from ablations.questions import PROXY, Asked, Question, Wanted
from ablations.questions.arms import FILES, Arms
from ablations.stats.transfer import SEPARATOR, described, panel_name, rate_name, wanted
from ablations.table import Table
from space.ranges import number

KEYS = ("parametrisations", "rates", "shapes", "base")


class Transfer(Question):
    """Arms are learning rates, and seeds go where the best are."""

    asks = "Does one learning rate serve all shapes, by parametrisation?"
    takes = "transfer: parametrisations, rates and shapes, and perhaps base; seeds as a number"
    leaves = (*FILES, *(f"transfer.{form}" for form in ("md", "csv", "png")))
    view = "transfer"
    key = "transfer"
    example = """
caption: Rates of two shapes.
budget: 100k
seeds: 2
transfer:
  parametrisations: [completep]
  rates: [1e-3, 4e-3, 1.6e-2]
  shapes:
    wide: {num_blocks: 2}
    deep: {num_blocks: 7}
"""
    common_recipe = "arms are learning rates"

    def parts(self, content: Mapping[str, Any]) -> Iterator[tuple[str, Any, type]]:
        rules = content.get("parametrisations") or []
        yield "parametrisations of transfer", rules, dict if isinstance(rules, dict) else list
        for name, recipe in rules.items() if isinstance(rules, dict) else ():
            yield f"{name} of transfer", recipe or {}, dict
        yield "rates of transfer", content.get("rates") or [], list
        base, shapes = (content.get(name) or {} for name in ("base", "shapes"))
        yield "base of transfer", base, dict
        yield "shapes of transfer", shapes, dict
        for name, shape in shapes.items():
            yield f"shape {name} of transfer", shape or {}, dict
            if isinstance(shape, dict):
                yield f"recipe of shape {name} of transfer", shape.get("recipe") or {}, dict

    def table(self, asked: Asked) -> Table:
        own = panels(asked.content) if asked.scale == PROXY else []
        return replace(asked.table([*asked.panels, *own]), facts={"arms_are_rates": True})

    def wanted(self, table: Table, cells: pd.DataFrame) -> Wanted:
        arms = {(panel.name, arm.name): arm.recipe for panel in table.panels for arm in panel.arms}
        recipes = [arms[place] for place in zip(cells.panel, cells.arm, strict=True)]
        rules, rates = [r.parametrisation for r in recipes], [r.lr for r in recipes]
        return wanted(described(cells, rules, rates), table.seeds)

    def seeds_in_words(self, table: Table) -> str:
        if table.auto:
            return Arms().seeds_in_words(table)
        if table.seeds == 1:
            return super().seeds_in_words(table)
        return f"1 seed each, {table.seeds} of the best rate of each shape and those next to it"


def panels(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The panels of a file's `transfer`, as its `proxy` would list them.

    Raises:
        ValueError: something is missing, not known, or not in order.
    """
    if set(content) - set(KEYS) or not {"parametrisations", "rates", "shapes"} <= set(content):
        raise ValueError(
            f"transfer must hold {', '.join(KEYS[:-1])} and may hold base, but has "
            f"{', '.join(map(str, content)) or 'nothing'}"
        )
    rates = [number("a rate of a transfer", rate, float) for rate in content["rates"]]
    if rates != sorted(set(rates)) or len(rates) < 3:
        raise ValueError(
            f"rates of a transfer must be three or more, each once, from low to high, "
            f"but got {content['rates']}"
        )
    given = content["parametrisations"]
    rules = given if isinstance(given, dict) else {n: {"parametrisation": n} for n in given}
    if unfit := [name for name in rules if SEPARATOR in str(name)]:
        raise ValueError(f"names of parametrisations must have no comma, but got {unfit[0]!r}")
    return [
        {
            "name": panel_name(rule, shape),
            "baseline": rate_name(rates[len(rates) // 2]),
            "base": content.get("base") or {},
            "arms": {
                rate_name(rate): {
                    **(own or {}),
                    "recipe": {**((own or {}).get("recipe") or {}), **(recipe or {}), "lr": rate},
                }
                for rate in rates
            },
        }
        for rule, recipe in rules.items()
        for shape, own in content["shapes"].items()
    ]


QUESTION = Transfer()
