"""Which arms are on the front of several objectives, by their seeds.

An arm is dominated where another is at least as good in every objective and better in one. Some
objectives are known exactly, such as parameters or a device's prediction; the others are measured
and vary over seeds. So of a measured objective "better" means: by an interval of the difference
that leaves out zero, and the intervals of all pairs that matter hold together. What they do not
decide is unresolved.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ablations.stats.block import LEVEL, cells_of, fit_of
from ablations.stats.dunnett import Array
from ablations.stats.evaluation import ErrorsTo, widened_around
from ablations.stats.widths import half_widths_around

FRONT, DOMINATED, UNRESOLVED = "front", "dominated", "unresolved"


def pareto(
    frame: pd.DataFrame,
    objectives: Mapping[str, bool],
    *,
    exact: Collection[str] = (),
    level: float = LEVEL,
    evaluation: Mapping[str, ErrorsTo] | None = None,
) -> pd.DataFrame:
    """One row per arm, by name:

    - `arm`
    - `verdict`: `front`, `dominated` or `unresolved`. With 95% chance none of the first two is
      wrong.
    - `rival`: of a dominated arm the one that dominates it most surely, of others the strongest of
      those that are as good in all exact objectives; None where there is none.
    - `diff`, `ci_low`, `ci_high`, with one measured objective: by how much the arm is behind the
      best of its rivals in that objective (negative: ahead of all), with an interval that holds
      together with those of all arms. NaN without rivals.

    `frame` has the columns `arm`, `seed` and each objective, and one row per arm and seed, as for
    `compare`. `objectives` says of each whether lower is better; `exact` are those that an arm has
    the same value of with every seed.

    An arm is on the front for sure if it is better than every rival, in some objective. A pair is
    compared by the differences of `compare` around the arm that the verdict is about, with all of
    its three spreads; the level is shared equally among measured objectives and among arms that
    have rivals (Bonferroni), and within these by Dunnett.

    `evaluation` has, by objective, what `indistinguishable` takes: that objective's intervals then
    hold the choice of held-out text too.

    Raises:
        ValueError: as `compare`, and where an exact objective differs between seeds of an arm.
    """
    tables = {name: cells_of(frame, name) for name in objectives}
    arms = next(iter(tables.values())).index
    known = {name: _values(tables[name], name, objectives[name]) for name in exact}
    rivals = _rivals(known, len(arms))
    measured = [name for name in objectives if name not in known]
    each = 1 - (1 - level) / max(len(measured) * int(rivals.any(1).sum()), 1)
    margins = [
        _Margin.of(tables[name], objectives[name], each, (evaluation or {}).get(name))
        for name in measured
    ]
    return _verdicts(list(arms), known, rivals, margins)


@dataclass(frozen=True)
class _Margin:
    """How arms differ in a measured objective, lower being better: row minus column, around the
    row."""

    diff: Array
    half: Array
    """Infinite where nothing is known."""

    @classmethod
    def of(
        cls,
        cells: pd.DataFrame,
        lower_is_better: bool,
        level: float,
        evaluation: ErrorsTo | None,
    ) -> "_Margin":
        fit = fit_of(cells)
        diff = np.subtract.outer(fit.effects, fit.effects) * (1 if lower_is_better else -1)
        half = np.full(diff.shape, np.inf)
        for group in np.unique(fit.group):
            arms = np.flatnonzero(fit.group == group)
            if len(arms) > 1 and fit.df:
                around = half_widths_around(fit, arms, level, pooled=False, two_sided=True)
                if evaluation:
                    names = list(cells.index[arms])
                    around = widened_around(around, names, evaluation, level, two_sided=True)
                half[np.ix_(arms, arms)] = np.where(np.isnan(around), np.inf, around)
        return cls(diff, half)

    @property
    def behind(self) -> NDArray[np.bool_]:
        """Whether the row's arm is worse than the column's."""
        return self.diff > self.half

    @property
    def ahead(self) -> NDArray[np.bool_]:
        """Whether it is better."""
        return self.diff < -self.half


def _values(cells: pd.DataFrame, name: str, lower_is_better: bool) -> Array:
    if (cells.max(axis=1) > cells.min(axis=1)).any():
        raise ValueError(
            f"{name} must be the same with every seed of an arm to be exact, but is not; leave it "
            "out of exact"
        )
    values: Array = cells.mean(axis=1).to_numpy() * (1 if lower_is_better else -1)
    return values


def _rivals(known: Mapping[str, Array], arms: int) -> NDArray[np.bool_]:
    """Row by row the arms that are at least as good in all exact objectives."""
    found = ~np.eye(arms, dtype=bool)
    for values in known.values():
        found &= values[None, :] <= values[:, None]
    return found


def _verdicts(
    arms: list[str],
    known: Mapping[str, Array],
    rivals: NDArray[np.bool_],
    margins: list[_Margin],
) -> pd.DataFrame:
    cheaper = np.zeros_like(rivals)  # better in an exact objective
    for values in known.values():
        cheaper |= values[None, :] < values[:, None]
    beaten, safe = rivals.copy(), np.zeros_like(rivals)
    for margin in margins:
        beaten &= margin.behind
        safe |= margin.ahead
    if not margins:  # all is exact
        beaten, safe = rivals & cheaper, rivals & ~cheaper
    ahead = np.all(safe | ~rivals, axis=1)
    dominated: NDArray[np.bool_] = np.any(beaten, axis=1)
    rows = pd.DataFrame({"arm": arms})
    rows["verdict"] = np.select([dominated, ahead], [DOMINATED, FRONT], UNRESOLVED)
    among = np.where(dominated[:, None], beaten, rivals)
    rows["rival"] = [_strongest(arms, among[row], row, margins) for row in range(len(arms))]
    behind = [_behind(rivals[row], row, margins) for row in range(len(arms))]
    rows[["diff", "ci_low", "ci_high"]] = behind
    return rows


def _strongest(
    arms: list[str], among: NDArray[np.bool_], row: int, margins: list[_Margin]
) -> str | None:
    """Of these arms the one that is better by most half widths, in the objective where it is so by
    fewest."""
    if not among.any():
        return None
    widths = [margin.diff[row] / margin.half[row] for margin in margins]
    least = np.min(widths, axis=0) if widths else np.zeros(len(arms))
    return arms[int(np.argmax(np.where(among, least, -np.inf)))]


def _behind(rivals: NDArray[np.bool_], row: int, margins: list[_Margin]) -> list[float]:
    """How far an arm is behind the best of its rivals, and the interval of that: if those of all
    differences hold, the largest true one lies between the largest of their ends."""
    if len(margins) != 1 or not rivals.any():
        return [np.nan] * 3
    diff, half = margins[0].diff[row, rivals], margins[0].half[row, rivals]
    ends = [diff.max(), (diff - half).max(), (diff + half).max()]
    return [float(end) if np.isfinite(end) else np.nan for end in ends]
