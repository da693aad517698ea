"""`python -m search.paired baseline=A.json candidate=B.json`: which of two models does better.

Both files are what `search.evaluate … to=FILE` leaves. Each document is a pair, and documents that
share a passage count as one cluster: Miller, Adding Error Bars to Evals (arXiv:2411.00640). A hard
document is hard for both models; in their difference that cancels.
"""

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from space.app import verb
from space.cli import one_line_errors
from space.overrides import Place
from space.tables import in_columns

LEVEL = 0.95
POWER = 0.8
LOWER_IS_BETTER = ("bpb",)


@dataclass(kw_only=True)
class PairedConfig:
    """What `conf/paired.yaml` holds."""

    baseline: Place
    candidate: Place


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One metric of one task, the candidate's mean less the baseline's."""

    task: str
    metric: str
    n: int
    """Documents."""
    groups: int
    """Clusters of documents; n where the data set has none."""
    baseline: float
    candidate: float
    diff: float


@dataclass(frozen=True, kw_only=True)
class Difference(Measured):
    """The same, judged."""

    ci_low: float
    ci_high: float
    """Interval of `diff`; those of all tasks in this metric hold together with 95% (Bonferroni)."""
    p_adjusted: float
    """Two-sided, for as many comparisons as there are tasks with this metric."""
    mdd: float
    """Minimum detectable difference: if the true one is as large, a verdict comes four times in
    five. It scales with the standard error found, so it is as uncertain as that."""
    verdict: str
    """`better`, `worse` or `unresolved`."""


@verb("paired", PairedConfig)
def main(config: PairedConfig) -> None:
    """Print the comparison."""
    with one_line_errors():
        scores = read(config.baseline), read(config.candidate)
        rows = compare(*scores)
    print(table([*rows, *averages(*scores)]))


def read(path: str | Path) -> list[dict[str, Any]]:
    """The scores that `search.evaluate` left in a file.

    Raises:
        ValueError: there is no such file, or it holds something else.
        OSError: it cannot be read.
    """
    try:
        scores = json.loads(Path(path).read_text())
        if scores and all(map(_is_score, scores)):
            return list(scores)
    except (ValueError, AttributeError, TypeError, KeyError, FileNotFoundError, RecursionError):
        pass
    lacks = "" if Path(path).exists() else ", but is not there"
    raise ValueError(
        f"{path} must be a file of scores, as search.evaluate to=FILE writes them{lacks}"
    )


def _is_score(score: Mapping[str, Any]) -> bool:
    """Whether each of its documents has a number for each of its metrics."""
    documents, metrics = score["documents"], score["values"].keys()
    known = isinstance(score["task"], str) and {"source", "split"} <= score.keys()
    return known and bool(documents) and all(_has(document, metrics) for document in documents)


def _has(document: Mapping[str, Any], metrics: Collection[str]) -> bool:
    named = all(isinstance(document[name], str | int) for name in ("hash", "group"))
    values = [document["values"][metric] for metric in metrics]
    return named and all(type(v) in (int, float, bool) and math.isfinite(v) for v in values)


def compare(
    baseline: Sequence[Mapping[str, Any]], candidate: Sequence[Mapping[str, Any]]
) -> list[Difference]:
    """A row for each metric of each task, the tasks in the order of the baseline's file.

    Raises:
        ValueError: the files have different tasks, or a task has different documents.
    """
    found = _effects(baseline, candidate)
    tasks = Counter(effect.metric for effect in found)
    return [_difference(effect, tasks[effect.metric]) for effect in found]


def averages(
    baseline: Sequence[Mapping[str, Any]], candidate: Sequence[Mapping[str, Any]]
) -> list[Difference]:
    """A row for each metric that several tasks have: the mean over these tasks, each counting once.

    Tasks have documents of their own, so their squared errors add up. The degrees of freedom are
    Welch and Satterthwaite's; the interval stands for itself, beside those of the tasks. Errors as
    for `compare`.
    """
    by_metric: dict[str, list[Effect]] = {}
    for effect in _effects(baseline, candidate):
        by_metric.setdefault(effect.metric, []).append(effect)
    return [_difference(_mean(found), 1) for found in by_metric.values() if len(found) > 1]


@dataclass(frozen=True, kw_only=True)
class Effect(Measured):
    """The same before it is judged."""

    error: float
    """Standard error of `diff`; NaN for one group."""
    df: float


def _effects(
    baseline: Sequence[Mapping[str, Any]], candidate: Sequence[Mapping[str, Any]]
) -> list[Effect]:
    theirs = {score["task"]: score for score in candidate}
    names = [score["task"] for score in baseline]
    if set(names) != set(theirs):
        raise ValueError(
            f"both models must be scored in the same tasks, but one in {', '.join(names)}, the "
            f"other in {', '.join(theirs)}; choose with only=…"
        )
    return [effect for score in baseline for effect in _task(score, theirs[score["task"]])]


def _mean(effects: Sequence[Effect]) -> Effect:
    """Of independent effects."""
    variances = np.array([effect.error**2 for effect in effects])
    df = np.array([effect.df for effect in effects])
    total = float(variances.sum())

    def mean(name: str) -> float:
        return float(np.mean([getattr(effect, name) for effect in effects]))

    return Effect(
        task="average",
        metric=effects[0].metric,
        n=sum(effect.n for effect in effects),
        groups=sum(effect.groups for effect in effects),
        baseline=mean("baseline"),
        candidate=mean("candidate"),
        diff=mean("diff"),
        error=math.sqrt(total) / len(effects),
        df=total**2 / float((variances**2 / df).sum()) if total > 0 else float(df.sum()),
    )


def _task(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[Effect]:
    pairs = list(zip(ours["documents"], theirs["documents"], strict=False))
    same = len(ours["documents"]) == len(theirs["documents"])
    if not same or any(a["hash"] != b["hash"] for a, b in pairs):
        raise ValueError(
            f"both models must be scored on the same documents, but those of {ours['task']} "
            f"differ ({len(ours['documents'])} and {len(theirs['documents'])}); evaluate both with "
            "the same source and limit"
        )
    if ours["values"].keys() != theirs["values"].keys():
        raise ValueError(
            f"both models must have the same metrics, but of {ours['task']} one has "
            f"{', '.join(ours['values'])}, the other {', '.join(theirs['values'])}"
        )
    groups = [a["group"] for a, _ in pairs]
    effects = []
    for metric in ours["values"]:
        before = [a["values"][metric] for a, _ in pairs]
        after = [b["values"][metric] for _, b in pairs]
        differences = np.subtract(after, before)
        effects.append(
            Effect(
                task=ours["task"],
                metric=metric,
                n=len(pairs),
                groups=len(set(groups)),
                baseline=float(np.mean(before)),
                candidate=float(np.mean(after)),
                diff=float(differences.mean()),
                error=standard_error(differences.tolist(), groups),
                df=len(set(groups)) - 1,
            )
        )
    return effects


def _difference(effect: Effect, comparisons: int) -> Difference:
    """The effect, corrected for that number of comparisons."""
    from scipy.stats import t

    diff, error, df = effect.diff, effect.error, effect.df
    critical = float(t.isf((1 - LEVEL) / 2 / comparisons, df)) if df else math.nan
    low, high = diff - critical * error, diff + critical * error
    if error > 0:
        p = min(1.0, comparisons * 2 * float(t.sf(abs(diff) / error, df)))
    else:  # all differences are equal
        p = 1.0 if diff == 0 else 0.0
    below, above = ("better", "worse") if effect.metric in LOWER_IS_BETTER else ("worse", "better")
    return Difference(
        task=effect.task,
        metric=effect.metric,
        n=effect.n,
        groups=effect.groups,
        baseline=effect.baseline,
        candidate=effect.candidate,
        diff=diff,
        ci_low=low,
        ci_high=high,
        p_adjusted=p if df else math.nan,
        mdd=(critical + float(t.isf(1 - POWER, df))) * error if df else math.nan,
        verdict=below if high < 0 else above if low > 0 else "unresolved",
    )


def standard_error(values: Sequence[float], groups: Sequence[str]) -> float:
    """Standard error of the mean of values that are independent between groups alone; NaN for one
    group.

    The cluster-robust one (arXiv:2411.00640) times √(G / (G - 1)) for G groups: with a group for
    each value it is the usual one.
    """
    residuals = np.asarray(values, dtype=float) - np.mean(values)
    _, owner = np.unique(groups, return_inverse=True)
    sums = np.bincount(owner, residuals)
    n_groups = len(sums)
    if n_groups < 2:
        return math.nan
    return math.sqrt(n_groups / (n_groups - 1) * float(sums @ sums)) / len(residuals)


def table(rows: Sequence[Difference]) -> str:
    """One row per task and metric."""
    head = ["task", "metric", "n", "groups", "baseline", "candidate", "difference"]
    head += ["95% interval", "adjusted p", "detectable", "verdict"]
    cells = [
        [
            row.task,
            row.metric,
            str(row.n),
            str(row.groups),
            f"{row.baseline:.4f}",
            f"{row.candidate:.4f}",
            f"{row.diff:+.4f}",
            f"{row.ci_low:+.4f} to {row.ci_high:+.4f}",
            "<0.001" if row.p_adjusted < 0.001 else f"{row.p_adjusted:.3f}",
            f"{row.mdd:.4f}",
            row.verdict,
        ]
        for row in rows
    ]
    return in_columns([head, *cells])


if __name__ == "__main__":
    main()
