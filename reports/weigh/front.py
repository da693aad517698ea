"""The front of a study with several objectives: which architectures are on it, by their seeds, and
how much of it was found when."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ablations.stats.block import arm_means
from ablations.stats.front import DOMINATED, FRONT, UNRESOLVED, pareto
from reports.read.study import Study
from reports.weigh.answer import Evidence
from reports.weigh.evaluation import Windows
from search.objectives import LOSSES
from search.states import Role
from space.compat import hypervolume
from space.words import count, join

ONCE = "too few seeds"
"""The verdict on an architecture that is not compared."""
ORDER = (FRONT, UNRESOLVED, DOMINATED, ONCE)


@dataclass(frozen=True)
class Front:
    """What the runs of a study say of its front."""

    objectives: dict[str, bool]
    """Each by name, and whether lower is better."""
    exact: tuple[str, ...]
    """Those of which an architecture has one value."""
    seeds: tuple[int, ...]
    """That compare the architectures."""
    arms: pd.DataFrame
    """One row per eligible architecture, by verdict and second objective: `arm label depth width
    series n verdict rival diff ci_low ci_high` as `ablations.stats.front.pareto` has them, and of
    each objective its mean over the `n` seeds (over the runs where it is not compared), with
    `<name>.low` and `<name>.high` of those that vary, and `<name>.text_low` and `<name>.text_high`
    of losses, as `ablations.stats.block.arm_means` has them."""
    volume: pd.DataFrame
    """`number` of each finished exploring run, in the order of the study, and `share`: how much of
    the box between the best and the worst of each objective the runs so far dominate."""
    held_out: str = ""
    """A sentence: whether verdicts hold the choice of held-out windows; empty without a loss."""

    def labels(self, verdict: str) -> list[str]:
        """The architectures with this verdict."""
        return [str(label) for label in self.arms.label[self.arms.verdict == verdict]]


def front_of(study: Study, evidence: Evidence) -> Front | None:
    """The front of a study; None with one objective, or before a run has finished."""
    objectives = study.objectives
    if len(objectives) < 2 or evidence.arms.empty:
        return None
    cells = evidence.cells[["arm", "seed"]].merge(study.eligible, on=["arm", "seed"])
    exact = _exact(study, list(objectives))
    rows = evidence.arms[["arm", "label", "depth", "width", "series", "tried"]].copy()
    windows = {
        name: Windows.read(cells, study.where, study.records.get, name)
        for name in objectives
        if name in LOSSES
    }
    found = _compared(cells, objectives, exact, windows)
    rows = rows.merge(found, "left", on="arm")
    tried = study.eligible.groupby("arm")[list(objectives)].mean()
    for name in objectives:
        rows[name] = rows.get(name, pd.Series(np.nan, rows.index)).fillna(rows.arm.map(tried[name]))
    rows["n"] = rows.n.astype("Int64")
    rows["verdict"] = rows.verdict.fillna(ONCE)
    rows["rival"] = rows.rival.map(dict(zip(rows.arm, rows.label, strict=True)))
    rows["place"] = rows.verdict.map(ORDER.index)
    rows = rows.sort_values(["place", list(objectives)[1], "arm"], ignore_index=True)
    seeds = tuple(evidence.seeds)
    volume, held_out = _volume(study, objectives), _held_out(windows.values())
    return Front(objectives, exact, seeds, rows.drop(columns="place"), volume, held_out)


def _held_out(windows: Collection[Windows]) -> str:
    if not windows:
        return ""
    if all(each.covariance is not None for each in windows):
        return "Verdicts hold the choice of held-out windows."
    return "Verdicts leave out the choice of held-out windows: not all runs kept what each came to."


def _exact(study: Study, names: Sequence[str]) -> tuple[str, ...]:
    """As `study.json` says; in those from before it did, what no two seeds differ in."""
    said = [name for name in names if study.measures[name].get("exact")]
    if said:
        return tuple(said)
    by_arm = study.eligible.groupby("arm")
    if by_arm.size().max() < 2:
        return ()
    return tuple(name for name in names if by_arm[name].nunique().max() == 1)


def _compared(
    cells: pd.DataFrame,
    objectives: dict[str, bool],
    exact: Sequence[str],
    windows: Mapping[str, Windows],
) -> pd.DataFrame:
    """The replicated arms, with verdicts and means."""
    if cells.arm.nunique() < 2:
        return pd.DataFrame(columns=["arm", "n", "verdict", "rival", "diff", "ci_low", "ci_high"])
    errors = {name: each.errors for name, each in windows.items()}
    rows = pareto(cells, objectives, exact=exact, evaluation=errors)
    for name in objectives:
        own = windows[name].of_means if name in windows else {}
        means = arm_means(cells, metric=name, evaluation=own).set_index("arm")
        rows[name] = rows.arm.map(means["mean"])
        if name not in exact:
            rows[f"{name}.low"] = rows.arm.map(means.ci_low)
            rows[f"{name}.high"] = rows.arm.map(means.ci_high)
        if own:
            rows[f"{name}.text_low"] = rows.arm.map(means.text_low)
            rows[f"{name}.text_high"] = rows.arm.map(means.text_high)
    return rows.assign(n=rows.arm.map(cells.groupby("arm").size()))


def _volume(study: Study, objectives: dict[str, bool]) -> pd.DataFrame:
    """Of one run per architecture, in the order in which they were tried."""
    runs = study.eligible
    runs = runs[runs.role == Role.EXPLORE].drop_duplicates("arm").sort_values("number")
    signs = np.array([1 if lower else -1 for lower in objectives.values()])
    values = runs[list(objectives)].to_numpy(float) * signs
    low, high = values.min(axis=0), values.max(axis=0)
    scaled = (values - low) / np.where(high > low, high - low, 1.0)
    one = np.ones(len(signs))
    shares = [hypervolume(scaled[: n + 1], one) for n in range(len(scaled))]
    return pd.DataFrame({"number": runs.number.to_numpy(), "share": shares})


def in_words(front: Front) -> list[str]:
    """What the front is, in sentences: the first names it, the others what is not resolved."""
    names = join(list(front.objectives))
    on, unresolved = front.labels(FRONT), front.labels(UNRESOLVED)
    dominated, once = front.labels(DOMINATED), front.labels(ONCE)
    if not front.seeds:
        return [f"The front of {names} is unresolved: no two architectures share two seeds."]
    over = f"over {count(len(front.seeds), 'seed')}"
    first = f"On the front of {names} {over}: {'; '.join(on) or 'none for certain'}."
    said = [first]
    if unresolved:
        said.append(f"Unresolved, whether on it or dominated: {'; '.join(unresolved)}.")
    if dominated:
        said.append(f"Dominated: {'; '.join(dominated)}.")
    if once:
        said.append(f"Tried with too few seeds to be compared: {len(once)}.")
    if front.held_out:
        said.append(front.held_out)
    return said
