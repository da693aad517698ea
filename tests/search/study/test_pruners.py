"""Pruners: they act on decayed readings, and a pruned run loses nothing."""

import json
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from process_fixtures import wait_for, workers_of
from study_fixtures import open_search, plant, records, sent, start, study_json, work

from benchmarks.samplers import pruner_of
from reports.read.study import read_study
from reports.views.study import how_it_was_run, outcomes, unhappy
from reports.views.trials import trials_csv
from reports.weigh.answer import answer, weigh
from search.recipe import Recipe
from search.runs import usable_record, write_record
from search.states import Role, Status
from search.study.ending import describe, tidy
from search.study.plan import Attempt, baseline, distinct
from search.study.pruners import PRUNERS, make_pruner
from search.study.session import Session
from search.study.storage import read_attempts
from space.app import CONF

STEP = 4 * 32
LENGTH = f"recipe.tokens={40 * STEP}"
HORIZONS = "recipe.horizons=[0.25,0.5]"
EXPLORING = (LENGTH, HORIZONS, "n_trials=2", "replicates.seeds=1", "space.axes.num_blocks=[2,3]")
FOUR = (LENGTH, HORIZONS, "n_trials=4", "replicates.seeds=1")
EAGER = ("pruner=median", "pruner.options.n_startup_trials=1", "pruner.options.n_min_trials=1")
"""One finished run is enough to be compared with."""
KEPT_STEPS = 8
"""Where the first branch leaves the trunk."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def open_again(folder: Path, *more: str, previous: Session | None = None) -> Session:
    """The search once the one before is over."""
    if previous is not None:
        previous.lock.release()
    return open_search(folder, *more)


def states(search: Session, role: str = Role.EXPLORE) -> list[str]:
    return [a.state for a in distinct(read_attempts(search.study)) if a.role == role]


def test_a_pruned_run_goes_on_later_and_ends_as_if_nothing_had_stopped_it(here: Path) -> None:
    search = open_search(here, *EXPLORING, *EAGER)
    plant(search)
    events = work(search)
    assert states(search) == ["PRUNED"] * 2
    assert [e["status"] for e in events if e["event"] == "end"] == ["pruned"] * 2
    assert records(here) == {}, "the runs are not over"
    assert len(list((here / "runs").glob("*/checkpoint/state.pt"))) == 2
    keys = {a.key for a in distinct(read_attempts(search.study))}

    again = open_again(here, *EXPLORING, *EAGER, previous=search)
    assert again.count_done() == 2
    assert work(again) == [], "the same study neither trains nor prunes them again"

    resumed = open_again(here, *EXPLORING, "pruner=none", previous=again)
    assert resumed.count_done() == 0
    first = next(e for e in work(resumed) if e["event"] == "step")
    assert first["step"] > KEPT_STEPS, "it goes on from its checkpoint"
    assert states(resumed) == ["COMPLETE"] * 2
    assert set(records(here)) == keys

    undisturbed = open_again(here, *EXPLORING, "study=other", "runs=elsewhere")
    work(undisturbed)
    resumed.lock.release()
    for key, record in records(here).items():
        path = here / "elsewhere" / key
        assert record["readings"] == _readings(path)
        assert not (here / "runs" / key / "checkpoint").exists()


def _readings(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "record.json").read_text())["readings"]
    return found


def test_median_stops_what_the_median_of_finished_runs_says(here: Path) -> None:
    """Recomputed with numpy from the stored readings, trial by trial."""
    search = open_search(here, *FOUR, *EAGER, "budget=120k")
    work(search)
    finished: list[dict[int, float]] = []
    for trial in search.study.get_trials():
        shown = trial.intermediate_values
        worse = [
            min(v for s, v in shown.items() if s <= step)
            > np.median([other[step] for other in finished])
            for step in shown
            if finished
        ]
        assert not any(worse[:-1]), "it would have been stopped before"
        stopped = trial.state == optuna.trial.TrialState.PRUNED
        assert stopped == (bool(worse) and worse[-1])
        if not stopped:
            assert list(shown) == [10 * STEP, 20 * STEP]
            record = records(here)[trial.user_attrs["key"]]
            assert list(shown.values()) == [r["val_bpb"] for r in record["readings"][:-1]]
            finished.append(shown)
    assert 0 < len(finished) < 4, "some are stopped, and not all"


@pytest.mark.slow
def test_where_all_were_stopped_nobody_gets_further_seeds(here: Path) -> None:
    search = open_search(
        here, LENGTH, HORIZONS, *EAGER, "n_trials=5", "replicates.top=1", "replicates.seeds=2"
    )
    plant(search)
    work(search)
    assert states(search) == ["PRUNED"] * 3
    assert states(search, Role.REPLICATE) == [], "nor the baseline: nothing is left to compare"


def test_runs_that_are_there_show_their_readings_and_are_not_stopped(here: Path) -> None:
    trained = open_search(here, *EXPLORING, "study=first")
    work(trained)
    search = open_search(here, *EXPLORING, *EAGER)
    plant(search)
    ended = [event for event in work(search) if event["event"] == "end"]
    assert [event["reused"] for event in ended] == [True] * 2
    for attempt in distinct(read_attempts(search.study)):
        readings = records(here)[str(attempt.key)]["readings"]
        assert attempt.state == "COMPLETE"
        assert dict(attempt.readings) == {r["tokens"]: r["val_bpb"] for r in readings[:-1]}
    content = describe(search, finished=True)
    assert content["branch_tokens"] == 0, "none was trained here"


def test_trouble_with_the_storage_does_not_fail_the_run(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = open_search(here, *EXPLORING, *EAGER, "n_trials=1")

    def away(*_: Any, **__: Any) -> None:
        raise optuna.exceptions.StorageInternalError

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Trial, "report", away)
        with pytest.raises(optuna.exceptions.StorageInternalError):
            work(search)
    (attempt,) = read_attempts(search.study)
    assert (attempt.state, attempt.status) == ("FAIL", "interrupted")
    assert records(here) == {}
    work(search)
    assert states(search) == ["COMPLETE"]


def test_a_proposal_of_a_pruned_run_is_told_so_at_once(here: Path) -> None:
    search = open_search(here, *EXPLORING, *EAGER, "n_trials=1")
    plant(search)
    work(search)
    (stopped,) = distinct(read_attempts(search.study))
    more = open_again(here, *EXPLORING, *EAGER, previous=search)
    more.study.enqueue_trial(dict(stopped.params))
    events = work(more)
    assert states(more) == ["PRUNED"] * 2, "two distinct runs of two architectures"
    (again,) = [a for a in read_attempts(more.study) if a.duplicate]
    assert (again.params, again.state) == (stopped.params, "PRUNED")
    assert not again.readings, "which would count twice"
    assert sum(event["event"] == "end" for event in events) == 1, "it was not trained"


@pytest.mark.parametrize(
    "pruner",
    [
        pytest.param(name, marks=[] if name == "asha" else pytest.mark.slow)
        for name in sorted(set(PRUNERS.names()) - {"none"})
    ],
)
def test_every_pruner_leads_a_study_to_its_end(here: Path, pruner: str) -> None:
    horizons = () if pruner == "wilcoxon" else (HORIZONS,)
    search = open_search(here, LENGTH, *horizons, f"pruner={pruner}", "n_trials=4", "study=null")
    assert search.config.name == f"depth_width_100k_smoke_text_{pruner}"
    assert sent(search.job).work == search.work, "as workers get it"
    work(search)
    assert len(states(search)) == 4
    assert set(states(search)) <= {"COMPLETE", "PRUNED"}
    assert "COMPLETE" in states(search)
    search.lock.release()
    again = open_search(here, LENGTH, *horizons, f"pruner={pruner}", "n_trials=4", "study=null")
    assert work(again) == []


def stopped_after(
    pruner: str, values: Sequence[float], horizons: tuple[float, ...] = (0.25, 0.5)
) -> list[int]:
    """How many readings each of these runs had given when `pruner=NAME` stopped it; 0: it did
    not."""
    recipe = Recipe(tokens=10**6, horizons=horizons)
    study = optuna.create_study(study_name="fixed", pruner=make_pruner(pruner_of(pruner), recipe))

    def objective(trial: optuna.Trial) -> float:
        quality = values[trial.number]
        for branch in recipe.branches:
            trial.report(quality * (1 + 1 / branch.end), branch.end * recipe.tokens_per_step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return quality

    study.optimize(objective, n_trials=len(values))
    pruned = optuna.trial.TrialState.PRUNED
    return [len(t.intermediate_values) * (t.state == pruned) for t in study.trials]


def test_asha_has_a_rung_at_each_horizon() -> None:
    """A run that is the best so far goes on at both; the worse half is stopped at the first, and at
    the second the worse half of those there."""
    assert stopped_after("asha", [8, 7, 6, 9, 10]) == [0, 0, 0, 1, 1]
    assert stopped_after("asha", [8, 5, 6, 9, 5.5]) == [0, 0, 1, 1, 2]


def test_hyperband_judges_some_at_each_horizon_some_later_and_some_never() -> None:
    """Each is worse than all before it; the first of each bracket has none to be compared with."""
    stopped = stopped_after("hyperband", range(1, 41))
    assert [stopped.count(n) > 4 for n in (0, 1, 2)] == [True] * 3


def test_wilcoxon_stops_nothing_before_the_fourth_horizon() -> None:
    four = (0.2, 0.3, 0.4, 0.5)
    assert stopped_after("wilcoxon", [1, 2, 3, 0.5], four) == [0, 4, 4, 0]


def test_wilcoxon_wants_horizons_enough_to_stop_anything() -> None:
    recipe = Recipe(tokens=10**6, horizons=(0.2, 0.3, 0.4))
    with pytest.raises(ValueError, match=r"below p = 0\.1, but recipe\.horizons has 3, which give"):
        make_pruner(pruner_of("wilcoxon"), recipe)
    looser = replace(pruner_of("wilcoxon"), options={"p_threshold": 0.2})
    make_pruner(looser, recipe)


@pytest.mark.parametrize("pruner", ["asha", "hyperband"])
@pytest.mark.parametrize(("state", "then"), [("FAIL", "COMPLETE"), ("PRUNED", "PRUNED")])
def test_a_run_does_not_compete_with_attempts_that_failed(
    here: Path, pruner: str, state: str, then: str
) -> None:
    """As with what it was itself, before an interruption; but with stopped ones it does."""
    search = open_search(here, *EXPLORING, f"pruner={pruner}", "n_trials=1")
    better = optuna.create_trial(
        state=optuna.trial.TrialState[state],
        intermediate_values={10 * STEP: 0.01},
        system_attrs={"completed_rung_0": 0.01},
    )
    search.study.add_trials([better] * 12)  # some in each of hyperband's brackets
    work(search)
    assert states(search) == [then]


def test_a_pruner_has_its_own_horizons_whatever_the_proxys() -> None:
    def horizons(*given: str) -> list[float]:
        with initialize_config_dir(CONF, version_base="1.3"):
            return list(compose("search", overrides=["proxy=tabular", *given]).recipe.horizons)

    assert horizons() == [0.25, 0.5]
    assert horizons("pruner=wilcoxon") == [0.2, 0.3, 0.4, 0.5], "fewer could stop nothing"
    assert horizons("pruner=wilcoxon", "recipe.horizons=[0.1]") == [0.1]


def test_the_study_tells_what_was_stopped_and_saved(here: Path) -> None:
    search = open_search(here, *FOUR, *EAGER, "n_trials=1")
    work(search)
    plant(search)
    more = open_again(here, *FOUR, *EAGER, previous=search)
    work(more)
    describe(more, finished=True)
    content = study_json(here)
    pruned = [t for t in content["trials"] if t["state"] == "PRUNED"]
    assert len(pruned) == 3, "all but the first"
    assert content["pruner"] == "median"
    assert content["pruned"] == len(pruned)
    trunk, branches = {10 * STEP: 8, 20 * STEP: 16}, {10 * STEP: 2, 20 * STEP: 2 + 4}
    assert content["saved_tokens"] == sum(40 - trunk[t["pruned_at"]] for t in pruned) * STEP
    took = 2 + 4 + sum(branches[t["pruned_at"]] for t in pruned)
    assert content["branch_tokens"] == took * STEP, "of the one that is whole, and of the others"
    for trial in pruned:
        assert f"stopped after {trial['pruned_at']:,} tokens" in trial["reason"]
        assert f"{trial['value']:.4f}" in trial["reason"]


def test_a_diverged_run_that_is_there_shows_all_that_it_read(here: Path) -> None:
    only = (*EXPLORING, "space.axes.num_blocks=[2]", "n_trials=1")
    work(open_search(here, *only, "study=first"))
    (key,) = records(here)
    folder = here / "runs" / key
    record = usable_record(folder)
    assert record is not None
    write_record(folder, replace(record, status=Status.DIVERGED, readings=record.readings[:1]))
    search = open_search(here, *only, *EAGER)
    work(search)
    (attempt,) = distinct(read_attempts(search.study))
    assert (attempt.status, attempt.value) == ("diverged", None)
    assert list(attempt.readings.values()) == [record.readings[0].val_bpb]


@pytest.mark.slow
def test_the_page_names_the_stopped_and_compares_the_others(here: Path) -> None:
    search = open_search(here, *EXPLORING, *EAGER)
    plant(search)
    work(search)
    describe(search, finished=True)
    search.lock.release()
    assert "No trial has finished" in answer(*_weighed(here))[0]
    work(open_search(here, *EXPLORING, "study=whole"))  # now the stopped runs have records
    study, _ = _weighed(here)
    assert study.finished.empty, "which are no part of the study that stopped them"
    assert outcomes(study) == "2 pruned"
    assert [what for _, what, _ in unhappy(study)] == ["pruned"] * 2
    told = pd.read_csv(StringIO(trials_csv(study))).dropna(subset="pruned_at")
    assert len(told) == 2
    assert told.val_bpb.isna().all(), "what was seen early is no result"
    assert list(told.pruned_at) == [10 * STEP] * 2
    assert (told.pruned_value > 0.01).all()
    trials = dict(how_it_was_run(study))["Trials"]
    assert "pruner median: 2 runs stopped early, which saved" in trials


def _weighed(folder: Path) -> Any:
    study = read_study("tiny", folder / "outputs")
    return study, weigh(study)


@pytest.mark.slow
def test_the_answer_counts_the_stopped(here: Path) -> None:
    search = open_search(here, *FOUR, *EAGER, "n_trials=2")
    work(search)
    plant(search)
    search.lock.release()
    more = open_search(here, *FOUR, *EAGER, "n_trials=4")
    work(more)
    describe(more, finished=True)
    study, evidence = _weighed(here)
    stopped = states(more).count("PRUNED")
    assert stopped >= 2, "the planted trial stops the later ones"
    (told,) = [s for s in answer(study, evidence) if "stopped early by the median pruner" in s]
    assert told.startswith(f"{stopped} runs were")
    assert len(evidence.arms) == 4 - stopped
    assert all(curve.tokens.is_monotonic_increasing for curve in study.curves.values())


def test_the_baseline_does_not_depend_on_who_was_stopped() -> None:
    def attempt(layers: int, state: str) -> Attempt:
        return Attempt(number=layers, state=state, params={}, arm=f"a{layers}", layers=layers)

    runs = [attempt(1, "COMPLETE"), attempt(2, "PRUNED"), attempt(3, "COMPLETE")]
    middle = baseline(runs)
    assert middle is not None
    assert middle.layers == 2


@pytest.fixture
def kill_left() -> Iterator[list[Any]]:
    started: list[Any] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def test_weights_of_a_stopped_run_that_another_study_finished_are_left_alone(here: Path) -> None:
    search = open_search(here, *EXPLORING, *EAGER, "n_trials=1")
    plant(search)
    work(search)
    work(open_search(here, *EXPLORING, "n_trials=1", "study=whole", "keep=all"))
    tidy(search)
    assert len(list((here / "runs").glob("*/weights.safetensors"))) == 1


def test_so_are_they_where_the_study_prunes_no_longer(here: Path) -> None:
    search = open_search(here, *EXPLORING, *EAGER, "n_trials=1")
    plant(search)
    work(search)
    work(open_search(here, *EXPLORING, "n_trials=1", "study=whole", "keep=all"))
    tidy(open_again(here, *EXPLORING, "n_trials=1", "keep=none", previous=search))
    assert len(list((here / "runs").glob("*/weights.safetensors"))) == 1


@pytest.mark.slow
def test_a_study_with_a_pruner_survives_kills(here: Path, kill_left: list[Any]) -> None:
    """Two workers and their parent are killed in the middle; what comes to its end later is what a
    study without a pruner finds."""
    process = start(here, *FOUR, *EAGER, "placement.checkpoint_s=0.05", "workers=2")
    kill_left.append(process)
    wait_for(lambda: list((here / "runs").glob("*/checkpoint/state.pt")))
    for pid in [*workers_of(process), process.pid]:
        os.kill(pid, signal.SIGKILL)
    process.wait()
    search = open_search(here, *FOUR, *EAGER)
    work(search)
    content = describe(search, finished=True)
    trials = content["trials"]
    assert len(trials) == 4
    assert {t["state"] for t in trials} <= {"COMPLETE", "PRUNED"}
    for trial in trials:
        folder = here / "runs" / trial["key"]
        assert (folder / "record.json").is_file() == (trial["state"] == "COMPLETE")
        assert (folder / "checkpoint" / "state.pt").is_file() == (trial["state"] == "PRUNED")
    work(open_search(here, *FOUR, "study=whole", "runs=elsewhere"))
    for key, record in records(here).items():
        assert record["readings"] == _readings(here / "elsewhere" / key)
