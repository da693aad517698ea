"""What the runs of a study support: which seeds count, and which arms differ significantly.

The exploring seed selected the architectures that got further seeds. Selection favours those that
were lucky with it, so its values are biased in their favour (the winner's curse). If there are at
least two fresh seeds, only these are used for means, intervals and the answer.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ablations.stats.best import indistinguishable
from ablations.stats.block import arm_means
from ablations.stats.choice import Choice, choose
from ablations.stats.effects import compare
from ablations.stats.variances import equal_spread
from reports.read.study import Study
from reports.weigh.evaluation import Evaluation, Windows
from search.comparable import comparable_cells
from search.objectives import LOSSES, in_digits, missed, shortfall
from search.states import State, Status
from space.budget import Budget
from space.device import unpinned
from space.words import count, join, magnitude, plain, switched

MEANS = ("n", "mean", "sd", "ci_low", "ci_high", "text_low", "text_high")
EXPECTED = ("p_best", "regret")
MOST_EXPECTED = 200
"""Architectures for which a choice is computed: its matrices have as many rows."""
HEADS = ("num_attention_heads", "num_key_value_heads")
AXES = {"heads_per_kv": "heads per KV head", "head_dim_scale": "× head dim"}
TARGETS = {
    "ffn_ratio": "FFN ratio about {:.3g}",
    "heads_per_kv_target": "about {:.3g} heads per KV head",
}
"""Axes whose levels widths meet nearly: what was built is another number."""
SEPARATOR = " · "
"""Between the levels that name a series: no level has it in its own name."""


@dataclass(frozen=True)
class Evidence:
    """The comparison of a study's architectures."""

    cells: pd.DataFrame
    """Columns `arm`, `seed` and the metric: the runs that enter the comparison."""
    seeds: tuple[int, ...]
    """The seeds that every arm of `cells` has."""
    set_aside: tuple[int, ...]
    """Exploring seeds left out because they chose the arms."""
    arms: pd.DataFrame
    """One row for each architecture with a finished run, by depth and width: `arm`, `label`,
    `depth`, `width`, `series`, `tried` (finished seeds), `value` (mean of `cells` where replicated,
    else of the seeds tried), `replicated`, `n mean sd ci_low ci_high text_low text_high` of the
    replicated, as `ablations.stats.block.arm_means` has them,
    `diff diff_low diff_high p_adjusted mdd verdict` of those compared with the baseline,
    `p_best regret` of those that `choice` is about."""
    baseline: str | None
    """The arm that the others are compared with; None without one, or if it has too few seeds."""
    best: str | None
    """The replicated arm with the best effect, if at least two are replicated."""
    spread_p: float
    """p of equal standard deviations of all arms, which the intervals of means assume; NaN: not
    known."""
    level: tuple[str, ...]
    """The best arm and those not significantly different from it, best first."""
    lower_is_better: bool = True
    """Of the metric."""
    evaluation: Evaluation | None = None
    """What the choice of held-out text adds to intervals; None where no loss is compared, or
    nothing with a baseline."""
    choice: Choice | None = None
    """What to expect of each arm by all runs, over log depth where depths tell the arms apart; None
    where they cannot say."""

    @property
    def metric(self) -> str:
        """The objective by which they are compared."""
        (name,) = [str(column) for column in self.cells if column not in ("arm", "seed")]
        return name

    def arm(self, name: str) -> pd.Series:
        """The row of one arm."""
        return self.arms[self.arms.arm == name].iloc[0]


def weigh(study: Study) -> Evidence:
    """What the finished runs of a study say."""
    done = study.eligible
    cells, seeds, set_aside = comparable_cells(done, study.metric)
    arms = _describe_arms(done, study.metric)
    replicated = cells.arm.nunique() > 1
    baseline = study.facts.get("baseline")
    baseline = baseline if replicated and baseline in set(cells.arm) else None
    windows = _windows(done, cells, study)
    errors = windows.errors(baseline) if baseline is not None else {}
    if replicated:
        means = arm_means(cells, metric=study.metric, evaluation=windows.of_means)
        arms = arms.merge(means[["arm", *MEANS]], "left", on="arm")
        found = indistinguishable(
            cells, study.metric, lower_is_better=study.lower_is_better, evaluation=windows.errors
        )
        level, best = found.level, found.best
        spread_p = equal_spread(cells, metric=study.metric)
    else:
        arms = arms.assign(**dict.fromkeys(MEANS, np.nan))
        level, best, spread_p = (), None, np.nan
    arms = _with_differences(arms, cells, study, baseline, errors)
    choice = choice_of(done, arms, study) if replicated else None
    expected = choice.arms if choice else pd.DataFrame(columns=["arm", *EXPECTED])
    arms = arms.merge(expected[["arm", *EXPECTED]], "left", on="arm")
    arms["replicated"] = arms["mean"].notna()
    arms["value"] = arms["mean"].where(arms.replicated, arms.once)
    return Evidence(
        *(cells, seeds, set_aside, arms, baseline, best, spread_p, level, study.lower_is_better),
        None
        if baseline is None or study.metric not in LOSSES
        else Evaluation(windows.count(baseline), {"": errors}),
        choice,
    )


def _windows(done: pd.DataFrame, cells: pd.DataFrame, study: Study) -> Windows:
    """What held-out windows came to in the runs that are compared."""
    compared = done.merge(cells[["arm", "seed"]], "inner", on=["arm", "seed"])
    return Windows.read(compared, study.where, study.records.get, study.metric)


def choice_of(done: pd.DataFrame, arms: pd.DataFrame, study: Study) -> Choice | None:
    """What to expect of each arm. Runs that chose arms for further seeds count here, as the model
    knows what luck does. One architecture per depth makes a curve over the logarithm of depth.
    The choice of held-out windows is held where all arms have kept theirs."""
    if len(arms) > MOST_EXPECTED:
        return None
    error = Windows.read(done, study.where, study.records.get, study.metric).covariance
    if error is not None and not set(arms.arm) <= set(error.index):
        error = None
    logs = dict(zip(arms.arm, np.log(arms.depth.astype(float)), strict=True))
    at = None if arms.depth.duplicated().any() else logs
    try:
        return choose(
            done, study.metric, x=at, lower_is_better=study.lower_is_better, evaluation=error
        )
    except ValueError:  # arms without common seeds, or no seed in common by two
        return None


def _describe_arms(done: pd.DataFrame, metric: str) -> pd.DataFrame:
    names = ["arm", "label", "depth", "width", "series", "tried", "once"]
    varying = _varying(done)
    rows = []
    values: dict[str, list[float]] = {}
    for arm, value in zip(done.arm, done[metric], strict=True) if len(done) else ():
        values.setdefault(arm, []).append(value)
    used = ["arm", "num_hidden_layers", "hidden_size", "ffn_ratio", *HEADS, *varying]
    for first in done.drop_duplicates("arm")[used].to_dict("records") if len(done) else ():
        series = SEPARATOR.join(_level(column, first[column]) for column in varying)
        size = (
            f"{count(int(first['num_hidden_layers']), 'layer')} × {int(first['hidden_size'])} wide"
        )
        label = ", ".join([size, *(_built(column, first) for column in varying)])
        depth, width = int(first["num_hidden_layers"]), int(first["hidden_size"])
        own = values[first["arm"]]
        once = own[0] if len(own) == 1 else pd.Series(own).mean()
        rows.append((first["arm"], label, depth, width, series, len(own), once))
    frame = pd.DataFrame(rows, columns=names)
    return frame.sort_values(["depth", "series", "width", "arm"], ignore_index=True)


def _varying(done: pd.DataFrame) -> list[str]:
    """The columns, beside depth and width, in which the architectures of a study differ by choice.

    Those are the axes of the space, since heads and the like follow from the width. Sharing
    and tying are read from the architecture if they are not axes.
    """
    axes = [name for name in map(str, done) if name.startswith("axis.")]
    axes = [name for name in axes if name != "axis.num_blocks"]
    others = [name for name in ("sharing", "tie_word_embeddings") if f"axis.{name}" not in axes]
    columns = [name for name in axes + others if name in done]
    return [name for name in columns if done[name].nunique(dropna=False) > 1]


def _level(column: str, value: Any) -> str:
    """A level of an axis in words."""
    axis = column.removeprefix("axis.")
    if axis == "sharing":
        return "unshared" if value == "none" else str(value).replace(" x", " × ")
    if axis in TARGETS:
        return TARGETS[axis].format(float(value))
    words = AXES.get(axis, axis.replace("_", " "))
    if isinstance(value, bool | np.bool_):
        return switched(AXES.get(axis, axis), bool(value))
    return f"{plain(value)} {words.replace('heads', 'head', 1) if value == 1 else words}"


def _built(column: str, row: Mapping[Any, Any]) -> str:
    """A level of an axis in words, of a target what became of it."""
    if column == "axis.ffn_ratio":
        return f"FFN ratio {row['ffn_ratio']:.2f}"
    if column == "axis.heads_per_kv_target":
        return _level("heads_per_kv", row["num_attention_heads"] // row["num_key_value_heads"])
    return _level(column, row[column])


def _with_differences(
    arms: pd.DataFrame,
    cells: pd.DataFrame,
    study: Study,
    baseline: str | None,
    errors: Mapping[str, float],
) -> pd.DataFrame:
    names = ["arm", "diff", "ci_low", "ci_high", "p_adjusted", "mdd", "verdict"]
    effects = (
        compare(
            cells,
            baseline=baseline,
            metric=study.metric,
            lower_is_better=study.lower_is_better,
            evaluation=errors,
        )[names]
        if baseline is not None
        else pd.DataFrame(columns=names)
    )
    effects = effects.rename(columns={"ci_low": "diff_low", "ci_high": "diff_high"})
    return arms.merge(effects, "left", on="arm")


# The sentences.


def answer(study: Study, evidence: Evidence) -> list[str]:
    """The answer of a study: a first sentence that stands alone, then its hedges."""
    finished = len(study.finished)
    if not finished:
        return [f"No trial has finished, so there is no answer yet{_of_how_many(study)}."]
    gone = _gone(study)
    if evidence.arms.empty:
        return [*gone, *_nothing_meets(study)]
    sentences = gone + (
        _replicated_answer(study, evidence)
        if evidence.best is not None
        else _unreplicated_answer(study, evidence)
    )
    if out := int(study.finished.arm.nunique() - study.eligible.arm.nunique()):
        sentences.append(
            f"{count(out, 'architecture')} {'does' if out == 1 else 'do'} not meet "
            f"{join(study.constraints)}, and {'is' if out == 1 else 'are'} not compared."
        )
    if lost := _lost(study):
        sentences.append(lost)
    if stopped := int((study.trials.status == Status.PRUNED).sum()):
        sentences.append(
            f"{count(stopped, 'run')} {'was' if stopped == 1 else 'were'} stopped early by the "
            f"{study.facts.get('pruner')} pruner, and not compared."
        )
    if not study.facts.get("finished", True):
        sentences.append("The study is not finished; this is what its runs say so far.")
    return sentences


def _lost(study: Study) -> str:
    """That architectures have no result, in a sentence; empty where all that were run have one."""
    lost = study.trials.status.isin([Status.FAILED, Status.DIVERGED])
    rows = study.trials[lost & ~study.trials.arm.isin(study.trials.arm[~lost])]
    if not (n := rows.arm.nunique()):
        return ""
    how = " or ".join(sorted(set(rows.status), reverse=True))
    return f"{count(n, 'architecture')} {how} and {'has' if n == 1 else 'have'} no result."


def _gone(study: Study) -> list[str]:
    """That finished runs have no record that can be read, so that what follows lacks them."""
    ended = {str(t["key"]) for t in study.facts["trials"] if t.get("state") == State.COMPLETE}
    reasons = [reason for key, reason in study.missing if key in ended - set(study.records)]
    if not reasons:
        return []
    are = "is" if len(reasons) == 1 else "are"
    return [
        f"{len(reasons)} of {count(len(ended), 'finished run')} {are} missing here: {reasons[0]}."
    ]


def nearest_runs(study: Study) -> pd.DataFrame:
    """The finished run of each architecture that comes nearest to the study's constraints, nearest
    first: those of `finished` with its `label` and what it `misses`."""
    beyond = {trial["number"]: trial.get("excesses") or {} for trial in study.facts["trials"]}
    numbers = study.finished.number
    labels = dict(_describe_arms(study.finished, study.metric)[["arm", "label"]].to_numpy())
    rows = study.finished.assign(
        label=study.finished.arm.map(labels),
        misses=[missed(beyond[number]) for number in numbers],
        shortfall=[shortfall(beyond[number]) for number in numbers],
    )
    return rows.sort_values("shortfall", kind="stable").drop_duplicates("arm")


def nothing_meets(study: Study) -> str:
    """That nothing keeps to the constraints, in a sentence."""
    return f"At {budget_words(study)}, nothing that was tried meets {join(study.constraints)}."


def _nothing_meets(study: Study) -> list[str]:
    """The architecture nearest to meeting the constraints, and by how much it misses them."""
    row = nearest_runs(study).iloc[0]
    return [
        nothing_meets(study),
        f"Nearest is {row.label}, which misses {row.misses}.",
    ]


def _replicated_answer(study: Study, evidence: Evidence) -> list[str]:
    assert evidence.best is not None, "asked only where two arms are replicated"
    best, n = evidence.arm(evidence.best), len(evidence.seeds)
    mean = f"{in_digits(study.metric, best['mean'], 3)} {study.unit}"
    budget, level = budget_words(study), [evidence.arm(name) for name in evidence.level]
    out = evidence.cells.arm.nunique() - len(level)
    where = f"At {budget}, best is {best.label} ({mean})"
    if evidence.choice is not None and evidence.choice.take.arm != evidence.best:
        where = f"At {budget}, {best.label} has the best mean ({mean})"
    if len(level) == 1:
        sentences = [
            f"{where}; {count(out, 'other architecture')} {'is' if out == 1 else 'are'} left out "
            f"by a one-sided comparison over {n} seeds."
        ]
    else:
        comparison, order = within_noise(level, evidence.arms)
        sentences = [f"{where}; {comparison} over {n} seeds.", order]
        if out:
            are = "is" if out == 1 else "are"
            sentences.append(f"{count(out, 'other architecture')} {are} left out.")
    if biased := _biased(evidence):
        sentences.append(biased)
    if evidence.choice is not None:
        sentences.append(to_take(study, evidence))
    once = int((~evidence.arms.replicated).sum())
    if once:
        were = "was" if once == 1 else "were"
        sentences.append(
            f"{count(once, 'further architecture')} {were} run with too few seeds to be compared."
        )
    return sentences


def _biased(evidence: Evidence) -> str:
    """That a seed which chose architectures counts in their comparison; empty where none does."""
    if evidence.set_aside or bool(evidence.arms.replicated.all()):
        return ""
    return (
        "One of these seeds selected the architectures that got further ones and is biased in "
        "their favour (there are not yet two fresh seeds): read with caution."
    )


def to_take(study: Study, evidence: Evidence) -> str:
    """The architecture of least expected regret, and what taking it costs."""
    assert evidence.choice is not None, "asked only where there is one"
    take = evidence.choice.take
    digits = 4 if evidence.metric in LOSSES else 3
    expected, high = (f"{take[name]:.{digits}f}" for name in ("regret", "regret_high"))
    # of an arm that is the best with more than 95% probability that quantile is 0: less than the
    # expectation, and what `p_best` says already
    bound = f" (with 95% probability at most {high})" if take.regret_high >= take.regret else ""
    arm = evidence.arm(take.arm)
    who = (
        f"By all runs together, taking {arm.label}"
        if take.arm == evidence.best
        else f"To choose one, take {arm.label}: by all runs together, exploring ones too, it"
    )
    said = (
        f"{who} is expected to cost {expected} {study.unit}{bound}; it is the best of those tried "
        f"with probability {take.p_best:.2f}"
    )
    if not arm.replicated:
        said += f". It has {count(int(arm.tried), 'seed')}, too few to be among those compared"
    if evidence.choice.best_x is None:
        return f"{said}."
    best, low, high = (f"{np.exp(x):.1f}" for x in evidence.choice.best_x)
    layers = arm.depth
    there = "which includes" if float(low) <= layers <= float(high) else "without"
    return (
        f"{said}. The curve through all depths is lowest at {best} layers (95%: {low} to {high}, "
        f"{there} {layers})."
    )


def _unreplicated_answer(study: Study, evidence: Evidence) -> list[str]:
    arms = evidence.arms
    lowest = arms.sort_values(["once", "arm"], ascending=[study.lower_is_better, True]).iloc[0]
    value = f"{in_digits(study.metric, lowest.once, 3)} {study.unit}"
    if len(arms) == 1:
        return [
            f"At {budget_words(study)}, {lowest.label} has {value}, "
            "and no other architecture was run to compare it with."
        ]
    once = "with one seed each this may be noise"
    but = once if arms.tried.max() == 1 else "no two of them share two seeds"
    those = f"the {len(arms)} architectures that finished"
    those = those if _lost(study) else f"{len(arms)} architectures"
    extreme = "lowest" if study.lower_is_better else "highest"
    return [
        f"At {budget_words(study)}, {lowest.label} is {extreme} of {those}, with {value}, "
        f"but {but}.",
        "The order is unresolved.",
    ]


def within_noise(level: Sequence[pd.Series], arms: pd.DataFrame) -> tuple[str, str]:
    """The arms that do not differ significantly from the best, the first of `level`; and which
    order is unresolved."""
    if not arms.depth.duplicated().any():
        depths = span([row.depth for row in level], arms.depth)
        return (
            f"depths {depths} are not significantly different",
            "The order among these is unresolved.",
        )
    others = [row.label for row in level[1:]]
    are = "is" if len(others) == 1 else "are"
    comparison = (
        f"{count(len(others), 'other architecture')} {are} not significantly different from it"
    )
    return (
        comparison,
        f"Not significantly different: {'; '.join(others)}. The order among these is unresolved.",
    )


def span(depths: Iterable[int], known: Iterable[int]) -> str:
    """ "3 to 6" if all the known depths between belong to them, else "3, 4 and 12"."""
    depths = sorted(depths)
    between = [depth for depth in sorted(set(known)) if depths[0] <= depth <= depths[-1]]
    if between == depths and len(depths) > 2:
        return f"{depths[0]} to {depths[-1]}"
    return join([str(depth) for depth in depths])


def on_selection(evidence: Evidence) -> str:
    """How the seeds of the comparison were chosen, for the page."""
    if not evidence.seeds:
        return "No intervals: no two architectures share two seeds."
    used = f"seeds {join([str(seed) for seed in evidence.seeds])}"
    if evidence.set_aside:
        exploring = join([str(seed) for seed in evidence.set_aside])
        return (
            f"The exploring runs (seed {exploring}) selected the architectures that got further "
            "seeds, and are biased in favour of these. Means, intervals and the answer use only "
            f"{used}, which the compared architectures share."
        )
    if bool(evidence.arms.replicated.all()):
        return f"Every architecture was run with {used}, so no seed selected among them."
    return f"Means, intervals and the answer use {used}."


def budget_words(study: Study) -> str:
    """As `budget_in_words`, of a study."""
    return budget_in_words(study.facts["budget"])


def budget_in_words(budget: Mapping[str, Any]) -> str:
    """ "1.0M parameters", "16 ms of decode on iPhone 13 (fp16, 2048 tokens)"."""
    value = f"{budget['value']:.4g}" if "at" in budget else magnitude(budget["value"])
    try:
        return f"{value} {Budget(**budget).meter.unit}"
    except ValueError:  # of a device whose file is not here
        return f"{value} {budget['kind']}@{unpinned(budget['at'])}"


def _of_how_many(study: Study) -> str:
    states = study.trials.status.value_counts()
    parts = [f"{n} {name}" for name, n in sorted(states.items())]
    return f" ({join(parts)})" if parts else ""
