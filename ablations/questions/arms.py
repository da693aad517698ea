"""Which arms differ from a baseline? Every arm gets the same seeds, or as many as it needs."""

from dataclasses import replace

import pandas as pd

from ablations.questions import Asked, Question, Wanted
from ablations.stats.sequential import LOOKS, looked
from ablations.table import Table

FILES = (
    *(f"table.{form}" for form in ("md", "tex", "csv", "html")),
    "cells.csv",
    *(f"forest.{form}" for form in ("png", "pdf")),
    *(f"scores.{form}" for form in ("md", "tex", "csv")),
    *(f"measured.{form}" for form in ("md", "tex", "csv")),
    *(f"horizons.{form}" for form in ("md", "tex", "csv", "png", "pdf")),
)
"""The scores where zero-shot tasks were asked, what is measured where an engine did, and the
horizons where runs have several."""


class Arms(Question):
    """Arms against a baseline: differences at equal seeds, with simultaneous intervals."""

    asks = "Which arms differ from the baseline of their panel?"
    takes = "panels of arms (proxy, paper), seeds as a number or auto, lr_search, objectives, equal"
    leaves = FILES
    view = "arms"
    options = ("objectives", "equal")
    example = """
caption: Are two blocks better shared?
budget: 100k
seeds: 2
proxy:
  - name: two blocks
    baseline: none
    base: {num_blocks: 2}
    arms:
      none: {sharing: none}
      immediate: {sharing: immediate x2}
"""

    def table(self, asked: Asked) -> Table:
        made = asked.table(asked.panels)
        return replace(made, question="calibration") if are_equal(made) else made

    def wanted(self, table: Table, cells: pd.DataFrame) -> Wanted | None:
        """With `auto`, the seeds of the look that resolved an arm, or of the next."""
        if not table.auto:
            return None
        limits: dict[tuple[str, str], int] = {}
        for panel in table.panels:
            mine = cells[cells.panel == panel.name]
            rows, more = looked(mine, panel.baseline, "value")
            looks = {} if rows is None else dict(zip(rows.arm, rows["look"], strict=True))
            limits |= {(panel.name, arm): seeds for arm, seeds in {**looks, **more}.items()}
        return limits

    def seeds_in_words(self, table: Table) -> str:
        if table.auto:
            return f"{LOOKS[0]} seeds each, up to {LOOKS[-1]} where nothing is resolved"
        return super().seeds_in_words(table)


def are_equal(table: Table) -> bool:
    """Whether the arms of the only panel differ in nothing but their initial weights."""
    things = [(arm.architecture, arm.recipe) for panel in table.panels for arm in panel.arms]
    return len(table.panels) == 1 and all(thing == things[0] for thing in things)


QUESTION = Arms()
