"""Which arms may be the best: multiple comparisons with the best."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ablations.stats.block import LEVEL, cells_of, describe, fit_of
from ablations.stats.dunnett import Array
from ablations.stats.evaluation import ErrorsTo, widened_around
from ablations.stats.widths import half_widths_around


@dataclass(frozen=True)
class Best:
    """The best arm and those that may be as good. Iterates over the names in `level`."""

    best: str
    """The arm with the best effect; of equal ones the first by name."""
    level: tuple[str, ...]
    """The best arm and those not significantly different from it, best first."""
    intervals: pd.DataFrame
    """One row per arm, from the best on: `arm n mean`, `diff` to the best of the *other* arms, its
    simultaneous interval `ci_low ci_high` (always with 0 in it or at one end), `may_be_best`."""

    def __iter__(self) -> Iterator[str]:
        return iter(self.level)


def indistinguishable(
    frame: pd.DataFrame,
    metric: str = "val_bpb",
    *,
    lower_is_better: bool = True,
    level: float = LEVEL,
    pooled: bool = False,
    evaluation: ErrorsTo | None = None,
) -> Best:
    """The arms that may be the best: with 95% confidence, the truly best one is among them.

    Multiple comparisons with the best, in the model and for the frame of `compare`. The confidence
    holds for the best arm: of arms that are all equal, each is excluded in up to 5% of tables, and
    so some arm in up to 20% (six arms) or 27% (ten arms, three seeds). Exclusion means "another is
    at least as good". An arm must be excluded with all three spreads of `compare`; `pooled=True`
    assumes equal spread.

    Without degrees of freedom for the spread every arm may be best. Arms outside the largest group
    that common seeds link cannot be compared and stay in, after the others; an arm without a run is
    excluded.

    `evaluation` says, by arm, what `compare` takes for this arm as the baseline: intervals then
    hold that too.

    Raises:
        ValueError: as for `compare`, and when no run has a finite metric.

    Source: Hsu, Annals of Statistics 12:1136 (1984), the constrained intervals; for contrasts that
    differ in variance, Hsu, Multiple Comparisons (1996), chapters 4 and 7.
    """
    cells = cells_of(frame, metric).dropna(how="all")
    if cells.empty:
        raise ValueError(f"some run must have a finite {metric}, but none has; train an arm first")
    fit = fit_of(cells)
    rows = describe(cells)[["n", "mean"]].assign(diff=np.nan, ci_low=np.nan, ci_high=np.nan)
    linked = np.flatnonzero(fit.group == np.bincount(fit.group).argmax())
    if len(linked) > 1:
        sign = 1.0 if lower_is_better else -1.0
        effects = sign * fit.effects[linked]
        half = half_widths_around(fit, linked, level, pooled)
        if evaluation:
            arms = list(cells.index[linked])
            half = widened_around(half, arms, evaluation, level, two_sided=False)
        to_best = _to_best(np.subtract.outer(effects, effects), half)
        rows.loc[rows.index[linked], ["diff", "ci_low", "ci_high"]] = to_best
    rows["may_be_best"] = ~(rows.ci_low >= 0) | (rows["diff"] <= 0)
    rows = rows.sort_values("diff", kind="stable")
    if not lower_is_better:
        rows[["diff", "ci_low", "ci_high"]] = 0.0 - rows[["diff", "ci_high", "ci_low"]].to_numpy()
    level_with = tuple(rows.index[rows.may_be_best])
    return Best(level_with[0], level_with, rows.reset_index())


def _to_best(margin: Array, half: Array) -> Array:
    """Rows of `diff ci_low ci_high`: each arm to the best of the others, lower being better.

    `margin[i, j]` is the effect of i minus that of j. In Hsu's words the arms with `low <= 0` are
    G, and only they can be the best that the upper bound is taken to.
    """
    itself = np.eye(len(margin), dtype=bool)
    diff = np.where(itself, -np.inf, margin).max(1)
    low = np.where(itself, -np.inf, margin - half).max(1)
    high = np.where(itself | (low > 0), -np.inf, margin + half.T).max(1)
    return np.stack([diff, np.minimum(low, 0), np.maximum(high, 0)], axis=1)
