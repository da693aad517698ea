"""Differences from the baseline at every horizon that runs were read at: records in, one frame out.

A reading at a shorter horizon is what a run of that many tokens comes to (`recipe.horizons`), so
the readings of a table's runs say how differences between its arms change with tokens.
"""

from collections.abc import Iterable

import pandas as pd

from ablations.stats.effects import compare
from search.objectives import LOSSES
from search.record import Record


def gather(runs: Iterable[tuple[str, int, Record | None]], metric: str) -> pd.DataFrame:
    """The readings of (arm, seed, record): `arm seed key tokens` and the metric, one row each;
    empty where the metric is no loss on held-out text, which is what readings have."""
    rows = [
        {
            **{"arm": arm, "seed": seed, "key": record.run.key},
            **{"tokens": reading.tokens, metric: getattr(reading, metric)},
        }
        for arm, seed, record in runs
        if record is not None and metric in LOSSES
        for reading in record.readings
    ]
    return pd.DataFrame(rows)


def weigh(frame: pd.DataFrame, baseline: str, metric: str, level: float) -> pd.DataFrame:
    """The rows of `compare` at each horizon that the baseline and another arm share, from the
    shortest on, with `tokens` and the keys of the `runs`; empty where there is one horizon or none.

    `frame` is that of `gather`. All intervals of all horizons hold together at `level`
    (Bonferroni over horizons). They do not hold the choice of held-out windows, whose losses runs
    keep at their end alone.
    """
    if frame.empty:
        return frame
    shared = {
        tokens: cells for tokens, cells in frame.groupby("tokens") if _compares(cells, baseline)
    }
    if len(shared) < 2:
        return pd.DataFrame()
    each = 1 - (1 - level) / len(shared)
    keys = frame.groupby("arm").key.agg(lambda of_arm: " ".join(dict.fromkeys(of_arm)))
    parts = [
        compare(cells, baseline, metric, level=each).assign(tokens=tokens, level=each)
        for tokens, cells in shared.items()
    ]
    found = pd.concat(parts, ignore_index=True)
    return found.assign(runs=found.arm.map(keys))


def _compares(cells: pd.DataFrame, baseline: str) -> bool:
    arms = set(cells.arm)
    return baseline in arms and len(arms) > 1
