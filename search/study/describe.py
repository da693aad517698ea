"""`study.json`: what a study says of itself, which reports read."""

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from random import Random
from statistics import quantiles
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.objectives import Targets, dominated
from search.recipe import Recipe
from search.runs import usable_record
from search.states import Role, State, Status
from search.study.plan import Attempt, distinct
from space.seals import write_json

SAMPLES = 200
"""Of the trials, for the intervals of what axes account for."""


def entries(
    attempts: Sequence[Attempt], targets: Targets, runs: Path, known: dict[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """The trials of `study.json`: an entry for each distinct run, with what `targets` want of its
    record besides the loss. It is taken from `known`, by key, and added there where it is read."""
    tries = Counter(a.key for a in attempts if not a.duplicate)
    found = [_entry(run, tries[run.key]) for run in distinct(attempts)]
    if targets.plain:
        return found
    nothing: dict[str, Any] = {"values": {}, "excesses": {}}
    return [
        entry
        | (
            values(entry["key"], targets, runs, known)
            if entry["state"] == State.COMPLETE
            else nothing
        )
        for entry in found
    ]


def values(
    key: str, targets: Targets, runs: Path, known: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """What is shown of a finished run, and by how much it is beyond each limit."""
    if key not in known:
        record = usable_record(runs / key)
        if record is None or record.status != Status.FINISHED:
            return {"values": {}, "excesses": {}}
        known[key] = {"values": targets.row(record), "excesses": targets.excesses(record)}
    return known[key]


def exploration_facts(
    study: optuna.Study,
    attempts: Sequence[Attempt],
    baseline: Callable[[Sequence[Attempt]], Attempt | None],
    earlier: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What `study.json` says of a search beyond its trials. `baseline` finds the baseline among the
    runs that explored. With what `earlier` had it say of a study, one that is whole has intervals
    of what its axes account for, which are drawn anew where that has changed."""
    explored = [run for run in distinct(attempts) if run.role == Role.EXPLORE]
    middle, numbers = baseline(explored), {run.number for run in explored}
    shares = importance(study, numbers)
    intervals: Mapping[str, Any] = {}
    if earlier is not None:
        known = earlier.get("importance") == shares and earlier.get("importance_intervals")
        intervals = known or importance_intervals(study, numbers, list(shares))
    return {
        "baseline": middle.arm if middle else None,
        "importance": shares,
        **({"importance_intervals": intervals} if intervals else {}),
        **({"front": front(attempts, study)} if len(study.directions) > 1 else {}),
    }


def front(attempts: Sequence[Attempt], study: optuna.Study) -> list[int]:
    """Numbers of the finished runs that keep to the constraints and that no other such run
    dominates."""
    directions = [direction.name.lower() for direction in study.directions]
    runs = [run for run in distinct(attempts) if run.values and run.feasible]
    return [
        run.number
        for run in runs
        if not any(dominated(run.values, other.values, directions) for other in runs)
    ]


def pruning_facts(attempts: Sequence[Attempt], recipe: Recipe) -> dict[str, Any]:
    """What `study.json` says of the runs that were pruned, and of what that saved and took.

    `saved_tokens` are what pruned runs had left of their trunks, `branch_tokens` what the branches
    of this study took. Without horizons and a pruner the study would have trained on `saved_tokens`
    more and on `branch_tokens` less.
    """
    runs = distinct(attempts)
    pruned = [recipe.branches[: len(run.readings)] for run in runs if run.state == State.PRUNED]
    whole = [recipe.branches for run in runs if run.state == State.COMPLETE and not run.reused]
    saved = sum(recipe.steps - branches[-1].start for branches in pruned)
    took = sum(branch.steps for branches in [*pruned, *whole] for branch in branches)
    return {
        "pruned": len(pruned),
        "saved_tokens": saved * recipe.tokens_per_step,
        "branch_tokens": took * recipe.tokens_per_step,
    }


def _entry(run: Attempt, tries: int) -> dict[str, Any]:
    tokens = max(run.readings) if run.state == State.PRUNED else None
    kept = {} if run.result_id is None else {"result_id": run.result_id}
    return {
        "number": run.number,
        "state": run.state,
        "params": dict(run.params),
        "seed": run.seed,
        "key": run.key,
        "arm": run.params.get("arm", run.arm),  # what is compared: a table's arms have names
        "architecture": run.arm,
        "role": run.role,
        "value": run.value if tokens is None else run.readings[tokens],
        "pruned_at": tokens,
        "reason": run.reason,
        "reused": run.reused,
        "attempts": tries,
        **({"status": run.status} if run.status == Status.INTERRUPTED else {}),
        **kept,
    }


def importance(study: optuna.Study, numbers: set[int]) -> dict[str, float]:
    """Share of each axis in the variation among these trials (PED-ANOVA); empty where they are too
    few or too alike to say."""
    return _shares(study, _complete(study, numbers))


def importance_intervals(
    study: optuna.Study, numbers: set[int], axes: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """The 95% interval of each axis' share: percentiles over samples of these trials with
    replacement. Empty of one axis, which has all."""
    if len(axes) < 2:
        return {}
    trials, source = _complete(study, numbers), Random(0)
    samples = [source.choices(trials, k=len(trials)) for _ in range(SAMPLES)]
    drawn = [shares for sample in samples if (shares := _shares(study, sample))]
    return {name: _middle([shares.get(name, 0.0) for shares in drawn]) for name in axes}


def _middle(values: Sequence[float]) -> tuple[float, float]:
    """The 2.5th and the 97.5th percentile."""
    cuts = quantiles(values, n=40, method="inclusive")
    return cuts[0], cuts[-1]


def _complete(study: optuna.Study, numbers: set[int]) -> list[FrozenTrial]:
    trials = [t for t in study.get_trials(deepcopy=False) if t.number in numbers]
    return [t for t in trials if t.state == TrialState.COMPLETE]


def _shares(study: optuna.Study, trials: Sequence[FrozenTrial]) -> dict[str, float]:
    if len(trials) < 4:
        return {}
    axes = {name for trial in trials for name in trial.params}
    if len(axes) == 1:  # which has all; optuna.importance would load scikit-learn to say so
        return dict.fromkeys(axes, 1.0)
    explored = optuna.create_study(direction=study.directions[0])
    explored.add_trials([_copy(t) for t in trials])
    try:
        with warnings.catch_warnings():  # of trials so alike that all axes get the same share
            warnings.filterwarnings("ignore", "Target and region quantiles", UserWarning)
            shares = optuna.importance.get_param_importances(explored)
    except (ValueError, RuntimeError):
        return {}
    return {name: share for name, share in shares.items() if isfinite(share)}


def _copy(trial: FrozenTrial) -> FrozenTrial:
    return optuna.create_trial(
        params=trial.params, distributions=trial.distributions, value=trial.values[0]
    )


def write_study(folder: Path, content: Mapping[str, Any]) -> None:
    """Write `study.json` at once or not at all."""
    write_json(folder / "study.json", content)
