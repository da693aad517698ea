"""Zero-shot scores: each arm's, and which tasks can rank arms of this size.

Signal is the largest difference between two arms' effects, noise the standard deviation of runs
that differ in their seed alone (after "Signal and Noise", arXiv:2508.13144, where noise is that of
a run's last checkpoints). Arms that are all equal have signal too, more the more they are, so the
ratio alone says little: a task can rank where the F test of the arms, in the model of
`ablations.stats.effects`, says so.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ablations.stats.tails import f_sf
from reports.read.study import Study
from reports.weigh.answer import Evidence
from search.record import Record

Array = NDArray[np.float64]

LEVEL = 0.05
"""Chance that any task of equal arms is said to rank them, by any measure (Holm)."""
METRICS = ("bpb", "margin", "acc", "exact_match")
"""Measures of a task."""


def gather(runs: Iterable[tuple[str, int, Record | None]]) -> pd.DataFrame:
    """The scores of (arm, seed, record): `arm seed key task split source limit n metric value`, one
    row per metric.

    If a task was scored in several ways, the most frequent one counts: only the same documents
    can be compared.
    """
    rows = [
        {
            **{"arm": arm, "seed": seed, "key": record.run.key, "task": score.task},
            **{"split": score.split, "source": score.source, "limit": score.limit, "n": score.n},
            **{"metric": metric, "value": value},
        }
        for arm, seed, record in runs
        if record is not None and record.readings
        for score in record.readings[-1].scores
        for metric, value in score.values.items()
    ]
    frame = pd.DataFrame(rows)
    if frame.empty:
        return frame
    asked = frame.source + " " + frame.split + " " + frame.n.astype(str)
    usual = asked.groupby(frame.task).agg(lambda ways: ways.mode().iloc[0])
    return frame[asked == frame.task.map(usual)].reset_index(drop=True)


def of_study(study: Study, evidence: Evidence) -> pd.DataFrame:
    """The scores of a study's finished runs, its architectures in the order of the evidence."""
    labels = dict(zip(evidence.arms.arm, evidence.arms.label, strict=True))
    places = {arm: place for place, arm in enumerate(labels)}
    done = study.finished[["arm", "seed", "key"]]
    done = done[done.arm.isin(labels)]  # others are beyond a constraint
    done = done.assign(place=done.arm.map(places)).sort_values(["place", "seed"])
    return gather(
        (labels[arm], seed, study.records.get(key))
        for arm, seed, key in zip(done.arm, done.seed, done.key, strict=True)
    )


def power_to_rank(frame: pd.DataFrame) -> pd.DataFrame:
    """A row for each task and measure: `task measure mean signal noise ratio p_adjusted ranks`.

    `frame` is that of `gather`; ratio and p are NaN where seeds do not say how runs spread.
    """
    rows = [
        {"task": task, "measure": metric, "mean": cells.value.mean(), **spreads(cells)}
        for task, of_task in frame.groupby("task", sort=False)
        for metric in METRICS
        if len(cells := of_task[of_task.metric == metric])
    ]
    found = pd.DataFrame(rows)
    found["p_adjusted"] = holm(found.p.to_numpy())
    return found.assign(ranks=found.p_adjusted < LEVEL).drop(columns="p")


def spreads(cells: pd.DataFrame) -> dict[str, float]:
    """`signal`, `noise`, their `ratio`, and `p` of the F test, of values `arm seed value`."""
    y = cells.value.to_numpy(float)
    arms = pd.get_dummies(cells.arm).to_numpy(float)
    seeds = pd.get_dummies(cells.seed).to_numpy(float)
    effects, left, rank = _least_squares(np.hstack([arms, seeds]), y)
    _, left_by_seeds, rank_of_seeds = _least_squares(seeds, y)
    between, within = rank - rank_of_seeds, len(y) - rank
    if between < 1 or within < 1:
        return dict.fromkeys(("signal", "noise", "ratio", "p"), np.nan)
    signal, noise = float(np.ptp(effects[: arms.shape[1]])), float(np.sqrt(left / within))
    if noise <= 1e-12 * np.abs(y).max():  # nothing but rounding
        return {"signal": signal, "noise": 0.0, "ratio": np.nan, "p": np.nan}
    statistic = (left_by_seeds - left) / between / noise**2
    return {
        **{"signal": signal, "noise": noise, "ratio": signal / noise},
        "p": float(f_sf(statistic, between, within)),
    }


def _least_squares(design: Array, y: Array) -> tuple[Array, float, int]:
    """Coefficients, what they leave of the sum of squares, and the design's rank."""
    found, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
    solution = np.asarray(found, dtype=np.float64)
    return solution, float(((y - design @ solution) ** 2).sum()), int(rank)


def holm(p: Array) -> Array:
    """p adjusted for all of them (Holm, 1979); NaN is no test."""
    adjusted = np.full(len(p), np.nan)
    order = [i for i in np.argsort(p, kind="stable") if not np.isnan(p[i])]
    worst = 0.0
    for place, i in enumerate(order):
        worst = max(worst, min(1.0, (len(order) - place) * p[i]))
        adjusted[i] = worst
    return adjusted
