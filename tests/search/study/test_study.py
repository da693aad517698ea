"""Planning, the study in its storage, reuse of records, samplers."""

import copy
import random
import re
import shlex
import subprocess
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from hydra import compose, initialize_config_dir
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from study_fixtures import configured, open_search, records, work

from search.__main__ import open_search as open_session
from search.__main__ import say_what_is_left, say_what_lacks_seeds
from search.evaluate.scores import Scorer
from search.executors import ExecutorConfig
from search.executors.slurm import Slurm
from search.models import described, named, stored
from search.objectives import Targets
from search.record import architecture_id
from search.runs import CorruptRecord, usable_record
from search.states import End, Role, State, Status
from search.study import ending, session
from search.study.describe import (
    entries,
    exploration_facts,
    importance,
    importance_intervals,
)
from search.study.ending import conclude, describe, tidy
from search.study.exploration import Exploration, Option, Replicates, SearchWork
from search.study.plan import (
    MAX_DEATHS,
    Attempt,
    Cell,
    Step,
    baseline,
    best_runs,
    distinct,
    every_arm,
    ranked,
)
from search.study.pool import Ending
from search.study.samplers import SAMPLERS, SamplerConfig, make_sampler, worker_seed
from search.study.session import look_ahead, require_shared
from search.study.storage import (
    differences,
    open_storage,
    read_attempts,
    without_password,
)
from space.app import CONF
from space.axes import Space
from space.model import Decoder


class Counted(list[Attempt]):
    """Attempts that count how often one is looked at."""

    looks = 0

    def __iter__(self) -> Iterator[Attempt]:
        for attempt in super().__iter__():
            Counted.looks += 1
            yield attempt


def test_describing_a_study_looks_at_each_trial_a_few_times(tmp_path: Path) -> None:
    """It is described after every run."""
    runs = [Attempt(number=i, state="COMPLETE", params={}, key=f"{i}") for i in range(100)]
    assert len(entries(Counted(runs), Targets.of(["val_loss"]), tmp_path, {})) == 100
    assert Counted.looks < 10 * len(runs)


# --- The plan, as a pure function -------------------------------------------------------------


def options(size: int) -> list[Option]:
    return [
        Option(params={"num_blocks": i}, arm=f"arm{i}", layers=i, flops=100.0 - i)
        for i in range(1, size + 1)
    ]


class Simulation:
    """Workers on a plan, whose runs end, die, diverge and repeat as a generator says."""

    def __init__(self, plan: Exploration, seed: int, workers: int, trouble: float) -> None:
        self.plan, self.random, self.workers = plan, random.Random(seed), workers
        self.trouble = trouble
        self.attempts: list[Attempt] = []

    def run(self, since: int = 0, steps: int = 2000) -> None:
        """Until no worker has anything left to do."""
        for _ in range(steps):
            busy = [a for a in self.attempts if a.state == "RUNNING"]
            if len(busy) == self.workers or (busy and self.random.random() < 0.4):
                self._end(self.random.choice(busy))
                continue
            step = self.plan.next(self.attempts, since)
            if step is Step.DONE and not busy:
                return
            if step in (Step.DONE, Step.WAIT):
                assert busy, "waits for nothing"
                self._end(self.random.choice(busy))
            else:
                self._begin(step)
        raise AssertionError("does not come to an end")

    def _begin(self, step: Cell | Step) -> None:
        if isinstance(step, Cell):
            blocks, seed, role = step.params["num_blocks"], step.seed, step.role
        else:
            blocks, seed, role = self.random.choice(self.plan.options).layers, 0, Role.EXPLORE
        key = f"{blocks}-{seed}"
        mine = [a for a in distinct(self.attempts) if a.key == key]
        duplicate = step is Step.ASK and bool(mine)
        self.attempts.append(
            Attempt(
                number=len(self.attempts),
                state="COMPLETE" if duplicate else "RUNNING",
                params={"num_blocks": blocks},
                key=None if duplicate else key,
                arm=f"arm{blocks}",
                seed=seed,
                role=role,
                layers=blocks,
                duplicate=duplicate,
            )
        )

    def _end(self, attempt: Attempt) -> None:
        kinds = ["died", "interrupted", "diverged", "failed"]
        kinds += ["pruned"] if attempt.role == Role.EXPLORE else []
        kind = self.random.choice(kinds) if self.random.random() < self.trouble else "finished"
        values = vars(copy.copy(attempt)) | {
            "state": {"finished": "COMPLETE", "pruned": "PRUNED"}.get(kind, "FAIL"),
            "status": None if kind == "died" else kind,
            "value": self.random.random() if kind == "finished" else None,
        }
        self.attempts[attempt.number] = Attempt(**values)


plans = st.builds(
    Exploration,
    options=st.integers(1, 15).map(options),
    n_trials=st.integers(1, 40),
    replicates=st.builds(Replicates, top=st.integers(0, 4), seeds=st.integers(1, 5)),
    grid=st.booleans(),
)


@given(plans, st.integers(0, 9999), st.integers(1, 5), st.sampled_from([0.0, 0.1, 0.5]))
@example(
    Exploration(options=options(1), n_trials=3, replicates=Replicates(top=1, seeds=3), grid=False),
    0,
    1,
    0.0,
)
def test_a_plan_ends_with_as_many_runs_as_it_said(
    plan: Exploration, seed: int, workers: int, trouble: float
) -> None:
    simulation = Simulation(plan, seed, workers, trouble)
    simulation.run()
    runs = distinct(simulation.attempts)
    assert len(runs) <= plan.n_trials
    assert not any(run.busy or run.status == "interrupted" for run in runs)
    explored = [run for run in runs if run.role == Role.EXPLORE]
    assert len({run.arm for run in explored}) == len(explored) == plan.explorations
    if not trouble:
        assert len(runs) == plan.total


@given(plans, st.integers(0, 9999), st.integers(1, 5))
def test_further_seeds_go_to_the_baseline_and_the_best(
    plan: Exploration, seed: int, workers: int
) -> None:
    simulation = Simulation(plan, seed, workers, trouble=0.0)
    simulation.run()
    runs = distinct(simulation.attempts)
    explored = [run for run in runs if run.role == Role.EXPLORE]
    middle = baseline(explored)
    assert middle is not None
    best = [run.arm for run in ranked(explored) if run.arm != middle.arm]
    worthy = {middle.arm, *best[: plan.replicates.top]}
    seeds = Counter(run.arm for run in runs if run.role == Role.REPLICATE)
    assert set(seeds) <= worthy
    assert all(count < plan.replicates.seeds for count in seeds.values())
    if len(seeds) == len(worthy):
        assert max(seeds.values()) - min(seeds.values()) <= 1 or plan.replicates.top == 0


@given(plans, st.integers(0, 9999), st.integers(1, 20))
def test_a_larger_n_trials_goes_on_where_the_study_stood(
    plan: Exploration, seed: int, more: int
) -> None:
    simulation = Simulation(plan, seed, workers=2, trouble=0.0)
    simulation.run()
    before = {run.key for run in distinct(simulation.attempts)}
    larger = Exploration(**{**vars_of(plan), "n_trials": plan.n_trials + more})
    simulation.plan = larger
    simulation.run(since=len(simulation.attempts))
    after = {run.key for run in distinct(simulation.attempts)}
    assert before <= after
    assert len(after) <= larger.n_trials


@given(plans, st.integers(0, 9999), st.integers(1, 20), st.integers(1, 4))
def test_a_larger_n_trials_gives_seeds_to_what_is_best_by_then(
    plan: Exploration, seed: int, more: int, workers: int
) -> None:
    simulation = Simulation(plan, seed, workers, trouble=0.0)
    simulation.run()
    simulation.plan = Exploration(**{**vars_of(plan), "n_trials": plan.n_trials + more})
    promised = simulation.plan.after(simulation.attempts).total
    simulation.run(since=len(simulation.attempts))
    now = simulation.plan.after(simulation.attempts)
    assert len(now.runs) == now.total <= promised <= now.n_trials
    explored = [run for run in now.runs if run.role == Role.EXPLORE]
    middle = baseline(explored)
    assert middle is not None
    best = [run.arm for run in ranked(explored) if run.arm != middle.arm][: plan.replicates.top]
    worthy = [middle.arm, *best] if plan.replicates.top else []
    seeds = Counter(run.arm for run in now.runs)
    short = [arm for arm in worthy if seeds[arm] < plan.replicates.seeds]
    assert sorted(short) == sorted(str(run.arm) for run in now.lacking)
    assert not short or len(now.runs) == now.n_trials, "runs were left, and the best lack seeds"


class Counting(Simulation):
    """Keeps after each event how many runs there will be, and whether they may be fewer."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.said: list[tuple[int, bool]] = []

    def note(self) -> None:
        now = self.plan.after(self.attempts)
        self.said.append((now.total, now.at_most))

    def _begin(self, step: Cell | Step) -> None:
        super()._begin(step)
        self.note()

    def _end(self, attempt: Attempt) -> None:
        super()._end(attempt)
        self.note()


@given(plans, st.integers(0, 9999), st.integers(0, 20), st.integers(1, 4))
def test_a_number_of_runs_comes_down_only_where_it_was_said_to_be_at_most(
    plan: Exploration, seed: int, more: int, workers: int
) -> None:
    simulation = Counting(plan, seed, workers, 0.0)
    for n_trials in (plan.n_trials, plan.n_trials + more):
        simulation.plan = replace(plan, n_trials=n_trials)
        simulation.said.clear()
        simulation.note()
        simulation.run(since=len(simulation.attempts))
        for (before, at_most), (after, _) in pairwise(simulation.said):
            assert after <= before
            assert after == before or at_most
        assert simulation.said[-1] == (len(distinct(simulation.attempts)), False)


def test_of_a_new_study_it_is_known_from_the_start() -> None:
    """Further seeds of the baseline begin while the last explorers run."""
    plan = Exploration(
        options=options(5), n_trials=9, replicates=Replicates(top=1, seeds=2), grid=True
    )
    simulation = Counting(plan, 0, 2, 0.0)
    simulation.run()
    assert set(simulation.said) == {(7, False)}


@pytest.mark.parametrize("seed", range(10))
def test_extending_a_small_study_gives_seeds_to_the_new_best(seed: int) -> None:
    """Three architectures and six further seeds first; then what is better gets seeds too."""
    plan = Exploration(
        options=options(10), n_trials=9, replicates=Replicates(top=2, seeds=3), grid=True
    )
    simulation = Simulation(plan, seed, workers=1, trouble=0.0)
    simulation.run()
    assert simulation.plan.after(simulation.attempts).lacking == []
    simulation.plan = replace(plan, n_trials=16)
    simulation.run(since=9)
    now = simulation.plan.after(simulation.attempts)
    assert len(now.explored) > 3
    assert len(now.runs) == now.total == 16
    seeds = Counter(run.arm for run in now.runs)
    assert all(seeds[run.arm] >= 2 for run in now.chosen)
    simulation.plan = replace(plan, n_trials=16 + now.lacking_seeds)
    simulation.run(since=len(simulation.attempts))
    then = simulation.plan.after(simulation.attempts)
    assert len(then.explored) == len(now.explored)
    assert then.lacking == []


def test_what_was_done_before_counts_though_less_is_asked_now() -> None:
    plan = Exploration(
        options=options(10), n_trials=16, replicates=Replicates(top=2, seeds=3), grid=True
    )
    simulation = Simulation(plan, seed=1, workers=1, trouble=0.0)
    simulation.run()
    fewer = replace(plan, n_trials=9).after(simulation.attempts)
    assert (fewer.explorations, fewer.total) == (10, 16)
    lost = next(run for run in reversed(simulation.attempts) if run.role == Role.REPLICATE)
    attempts = [a for a in simulation.attempts if a is not lost]
    attempts.append(replace(lost, state="FAIL", status=Status.INTERRUPTED, value=None))
    again = fewer.next(attempts)
    assert again == Cell(params=lost.params, seed=lost.seed, role=Role.REPLICATE)
    assert fewer.after(attempts).total == 16 > sum(run.done for run in distinct(attempts))


def vars_of(plan: Exploration) -> dict[str, object]:
    return {name: getattr(plan, name) for name in Exploration.__dataclass_fields__}


@given(st.integers(1, 30), st.integers(1, 30))
def test_a_grid_is_spread_over_the_space(size: int, n_trials: int) -> None:
    plan = Exploration(
        options=options(size), n_trials=n_trials, replicates=Replicates(seeds=1), grid=True
    )
    layers = sorted(option.layers for option in plan.spread[: plan.explorations])
    assert len(set(layers)) == len(layers) == min(size, n_trials)
    inner = [b - a for a, b in pairwise(layers)]
    widest = max(layers[0], size + 1 - layers[-1], *inner, 0)
    assert widest <= 2 * min(inner, default=size) + 2


@given(st.integers(1, 9), st.integers(0, 9), st.integers(1, 4))
def test_the_fewest_trials_that_try_all_of_a_space_are_known(size: int, top: int, n: int) -> None:
    plan = Exploration(
        options=options(size), n_trials=1, replicates=Replicates(top=top, seeds=n), grid=True
    )
    whole = replace(plan, n_trials=plan.enough)
    assert (whole.explorations, whole.total) == (size, plan.enough)
    assert whole.enough == plan.enough


@pytest.mark.parametrize(("size", "trials"), [(40, (10, 16)), (16, (3, 10, 16)), (9, (4, 22))])
def test_a_grid_of_more_trials_refines_the_one_of_fewer(size: int, trials: tuple[int, ...]) -> None:
    def grid(n_trials: int) -> Exploration:
        once = Replicates(seeds=1)
        return Exploration(options=options(size), n_trials=n_trials, replicates=once, grid=True)

    def tried(*steps: int) -> set[str | None]:
        attempts: list[Attempt] = []
        for n_trials in steps:
            simulation = Simulation(grid(n_trials), seed=1, workers=2, trouble=0.0)
            simulation.attempts = attempts
            simulation.run()
            attempts = simulation.attempts
        return {attempt.arm for attempt in attempts}

    before: set[str | None] = set()
    for steps, n_trials in enumerate(trials, start=1):
        refined = tried(*trials[:steps])
        assert before <= refined == tried(n_trials)
        assert len(refined) == min(size, n_trials)
        before = refined


def test_a_grid_begins_in_the_middle_and_halves_what_is_left() -> None:
    plan = Exploration(options=options(16), n_trials=7, replicates=Replicates(), grid=True)
    layers = [option.layers for option in plan.spread]
    assert layers[0] == 9
    assert sorted(layers[:3]) == [5, 9, 13]
    assert sorted(layers[:7]) == [3, 5, 7, 9, 11, 13, 15]


def test_the_default_job_tries_every_shape_of_its_space_and_gives_four_arms_four_seeds() -> None:
    with initialize_config_dir(CONF, version_base="1.3"):
        config = OmegaConf.to_object(compose("search"))
    space = Space.from_config(config.space, config.budget, config.data.vocab_size)
    plan = SearchWork.of(
        space,
        replace(config.recipe, precision="fp32"),
        "data",
        n_trials=config.n_trials,
        replicates=config.replicates,
        grid=config.sampler.exhaustive,
    ).plan
    assert len(plan.options) == plan.explorations == 9
    plan = replace(plan, options=options(9))  # with arms as the simulation names them
    simulation = Simulation(plan, seed=1, workers=2, trouble=0.0)
    simulation.run()
    runs = distinct(simulation.attempts)
    seeds = Counter(run.arm for run in runs)
    assert sorted(seeds.values()) == [1] * 5 + [4] * 4
    assert len(runs) == plan.total <= config.n_trials


def test_a_cell_that_kills_its_workers_is_given_up() -> None:
    plan = Exploration(options=options(1), n_trials=1, replicates=Replicates(seeds=1), grid=True)
    dead = {"state": "FAIL", "params": {"num_blocks": 1}, "key": "a", "arm": "arm1"}
    attempts = [Attempt(number=i, **dead) for i in range(MAX_DEATHS)]  # type: ignore[arg-type]
    assert isinstance(plan.next(attempts[:-1]), Cell)
    assert plan.next(attempts) is Step.DONE
    assert isinstance(plan.next(attempts, since=MAX_DEATHS), Cell), "the next start tries again"


def test_a_failed_run_is_tried_again_at_the_next_start_and_a_diverged_one_is_not() -> None:
    plan = Exploration(options=options(1), n_trials=1, replicates=Replicates(seeds=1), grid=True)
    for status, expected in (("failed", Cell), ("diverged", Step)):
        ended = Attempt(
            number=0, state="FAIL", params={"num_blocks": 1}, key="a", arm="arm1", status=status
        )
        assert plan.next([ended], since=0) is Step.DONE
        assert isinstance(plan.next([ended], since=1), expected)


def test_the_best_run_is_the_best_seed_of_the_best_replicated_arm() -> None:
    def run(number: int, arm: str, seed: int, value: float) -> Attempt:
        return Attempt(
            number=number,
            state="COMPLETE",
            params={},
            key=f"{arm}{seed}",
            arm=arm,
            seed=seed,
            value=value,
        )

    attempts = [run(0, "lucky", 0, 1.0), run(1, "good", 0, 1.2), run(2, "good", 1, 1.1)]
    assert [a.key for a in best_runs(attempts)] == ["good1"]


# --- The study in its storage -----------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_grid_trains_each_architecture_once_and_then_seeds(here: Path) -> None:
    search = open_search(here, "n_trials=5", "replicates.top=1", "replicates.seeds=2")
    work(search)
    runs = distinct(read_attempts(search.study))
    assert [run.state for run in runs] == ["COMPLETE"] * 5
    assert Counter(run.role for run in runs) == {Role.EXPLORE: 3, Role.REPLICATE: 2}
    assert set(records(here)) == {run.key for run in runs}
    for run in runs:
        record = records(here)[str(run.key)]
        assert record["readings"][-1]["val_bpb"] == run.value
        assert run.arm == architecture_id(search.work.run(run.params, run.seed).architecture)


def test_a_finished_study_has_nothing_left_to_do(here: Path) -> None:
    work(open_search(here, "n_trials=2"))
    again = open_search(here, "n_trials=2")
    assert again.count_done() == 2
    assert work(again) == []


def test_another_study_takes_the_records_that_are_there(here: Path) -> None:
    work(open_search(here, "n_trials=2"))
    trained = {key: record["started"] for key, record in records(here).items()}
    search = open_search(here, "n_trials=2", "study=second")
    ended = [event for event in work(search) if event["event"] == "end"]
    assert [event["reused"] for event in ended] == [True, True]
    assert {key: record["started"] for key, record in records(here).items()} == trained


def test_a_damaged_record_is_set_aside_and_trained_again(here: Path) -> None:
    work(open_search(here, "n_trials=1"))
    (path,) = (here / "runs").glob("*/record.json")
    whole = path.read_text()
    path.write_text(whole[:100])
    work(open_search(here, "n_trials=1", "study=second"))
    assert path.with_name("record.json.corrupt").read_text() == whole[:100]
    assert records(here)[path.parent.name]["status"] == "finished"


def test_a_damaged_record_that_another_process_sets_aside_first_is_no_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(folder: Path, result_id: str | None) -> None:
        raise CorruptRecord("it is damaged")

    monkeypatch.setattr("search.runs.read_record", damaged)
    assert usable_record(tmp_path) is None


def test_trouble_in_scoring_that_is_no_full_disk_does_not_stop_the_study(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def score(*_: object) -> None:
        raise ConnectionError("the hub does not answer")

    monkeypatch.setattr(Scorer, "score", score)
    search = open_search(here, "n_trials=1", "replicates.seeds=1")
    said = [event["text"] for event in work(search) if event["event"] == "print"]
    assert "was not scored: the hub does not answer" in said[0]
    assert [a.state for a in read_attempts(search.study)] == ["COMPLETE"]


def test_a_diverged_run_is_recorded_and_the_study_goes_on(here: Path) -> None:
    search = open_search(here, "n_trials=2", "recipe.lr=1e15")
    ended = [event for event in work(search) if event["event"] == "end"]
    assert [event["status"] for event in ended] == ["diverged", "diverged"]
    assert all(event["reason"] for event in ended)
    runs = distinct(read_attempts(search.study))
    assert [(run.state, run.status) for run in runs] == [("FAIL", "diverged")] * 2
    search.lock.release()
    assert work(open_search(here, "n_trials=2", "recipe.lr=1e15")) == [], "it is final"


@pytest.mark.parametrize(
    "sampler",
    [
        pytest.param(name, marks=[] if name in ("tpe", "random") else pytest.mark.slow)
        for name in sorted(set(SAMPLERS.names()) - {"grid"})
    ],
)
def test_every_sampler_proposes_until_n_trials_distinct_runs(here: Path, sampler: str) -> None:
    search = open_search(
        here,
        f"sampler={sampler}",
        "n_trials=5",
        "replicates.seeds=1",
        "space=tying",
    )
    work(search)
    attempts = read_attempts(search.study)
    assert len({run.key for run in distinct(attempts)}) == 5
    assert all(run.state == "COMPLETE" for run in distinct(attempts))


def test_duplicates_are_told_at_once_until_the_space_is_used_up(here: Path) -> None:
    search = open_search(here, "sampler=random", "n_trials=30", "replicates.seeds=1")
    events = work(search)
    attempts = read_attempts(search.study)
    assert search.work.total == len(distinct(attempts)) == search.work.space.size < 30
    assert sum(event["event"] == "start" for event in events) == search.work.space.size
    known = {run.arm for run in distinct(attempts)}
    assert known == {option.arm for option in search.work.plan.options}
    duplicates = [a for a in attempts if a.duplicate]
    assert all(a.state == "COMPLETE" and a.value is not None for a in duplicates)


def test_workers_of_a_random_sampler_do_not_propose_the_same(here: Path) -> None:
    config = SamplerConfig(name="random")
    proposals = []
    for worker in range(2):
        study = optuna.create_study(sampler=make_sampler(config, worker_seed(config, 0, worker, 0)))
        proposals.append([study.ask().suggest_int("x", 0, 10**9) for _ in range(3)])
    assert proposals[0] != proposals[1]


def test_a_changed_recipe_under_the_same_name_is_refused_with_the_difference(here: Path) -> None:
    search = open_search(here, "n_trials=1")
    search.study.ask()
    search.lock.release()
    with pytest.raises(ValueError, match=r"recipe\.lr was 0\.003, is 0\.004"):
        open_search(here, "n_trials=1", "recipe.lr=0.004")


@pytest.mark.parametrize(
    ("budget", "tokens"), [("100k", 80_000), ("non_embedding_parameters:90k", 72_000)]
)
def test_tokens_follow_the_budget_of_either_kind(here: Path, budget: str, tokens: int) -> None:
    asked = f"budget={budget}", "tokens_per_parameter=0.8", "space.axes.num_blocks=[2,3]"
    by_budget = open_search(here, *asked).work
    assert by_budget.recipe.tokens == tokens
    told = open_search(here, asked[0], asked[2], f"recipe.tokens={tokens}", "study=told").work
    params = by_budget.plan.options[0].params
    assert by_budget.run(params, 0).key == told.run(params, 0).key, "no part of a run's key"


@pytest.mark.parametrize("spelt", ["100000", "0.1m", "100K", "100_000", "parameters:100k"])
def test_a_budget_however_spelt_is_one_study(here: Path, spelt: str) -> None:
    first = open_search(here, "study=null")
    first.lock.release()
    again = open_search(here, f"budget='{spelt}'", "study=null")
    again.lock.release()
    assert again.job.study == first.job.study == "depth_width_100k_smoke_text"
    assert again.job.since == first.job.since
    assert again.config.budget == "100k"


def test_the_largest_model_of_a_budget_without_embeddings_has_them(here: Path) -> None:
    asked = "budget=non_embedding_parameters:90k", "space.axes.num_blocks=[2,3,5]"
    work = open_search(here, *asked).subject.work
    built = [Decoder(work.run(option.params, 0).architecture) for option in work.plan.options]
    counts = [sum(p.numel() for p in model.parameters()) for model in built]
    assert work.parameters == max(counts) > 90_000


def test_a_changed_space_under_the_same_name_is_refused_with_the_difference(here: Path) -> None:
    search = open_search(here)
    search.study.ask()
    search.lock.release()
    with pytest.raises(ValueError, match=r"space\.budget\.value was 100000, is 110000"):
        open_search(here, "budget=110k")


def test_what_does_not_change_a_run_may_change_under_the_same_name(here: Path) -> None:
    first = open_search(here, "n_trials=1", "keep=best")
    first.study.set_user_attr("mark", 1)
    first.lock.release()
    again = open_search(here, "n_trials=3", "sampler=random", "replicates.top=1", "keep=all")
    assert again.study.user_attrs["mark"] == 1, "it is the same study"
    assert (again.job.sampler.name, again.config.keep) == ("random", "all")


def test_the_precision_that_auto_became_stays_the_studys(here: Path) -> None:
    search = open_search(here, "recipe.precision=fp32")
    search.study.ask()
    search.lock.release()
    assert open_search(here, "recipe.precision=auto").work.recipe.precision == "fp32"


def test_each_record_is_read_once_while_a_study_runs(here: Path) -> None:
    search = open_search(here, "columns=[kv_bytes]", "n_trials=2", "replicates.seeds=1")
    work(search)
    trials = describe(search, finished=False)["trials"]
    assert all(trial["values"]["kv_bytes"] > 0 for trial in trials)
    for path in (here / "runs").glob("*/record.json"):
        path.unlink()
    assert describe(search, finished=False)["trials"] == trials


def test_study_json_tells_what_reports_need(here: Path) -> None:
    search = open_search(here, "n_trials=6", "replicates.top=1", "replicates.seeds=2")
    work(search)
    content = describe(search, finished=True)
    assert content["study"] == "tiny"
    assert content["metric"] == "val_bpb"
    assert content["budget"] == {"kind": "parameters", "value": 100000}
    assert content["finished"] is True
    assert len(content["trials"]) == 6
    assert {t["key"] for t in content["trials"]} == set(records(here))
    assert content["baseline"] in {
        t["arm"] for t in content["trials"] if t["role"] == Role.REPLICATE
    }
    assert content["importance"] == {"num_blocks": 1.0}
    assert content["config"]["recipe"]["precision"] in ("bf16", "fp32")


def explored(runs: int) -> optuna.Study:
    """A study whose losses come from depth alone, and from noise."""
    study, noise = optuna.create_study(sampler=optuna.samplers.RandomSampler(0)), random.Random(1)
    for _ in range(runs):
        trial = study.ask()
        depth = trial.suggest_int("depth", 1, 12)
        trial.suggest_categorical("tied", [True, False])
        study.tell(trial, 0.1 * depth + noise.gauss(0, 0.05))
    return study


def test_what_axes_account_for_has_intervals_that_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.study.describe.SAMPLES", 40)
    few, many = ((explored(n), set(range(n))) for n in (20, 120))
    shares, axes = importance(*many), ["depth", "tied"]
    found = importance_intervals(*many, axes)
    assert all(low <= shares[axis] <= high for axis, (low, high) in found.items())
    assert found["tied"][1] < found["depth"][0], "what does nothing stays below what does all"
    assert importance_intervals(*many, axes) == found
    wide = importance_intervals(*few, axes)
    assert wide["depth"][1] - wide["depth"][0] > found["depth"][1] - found["depth"][0]
    assert importance_intervals(*many, ["depth"]) == {}


def test_trials_that_are_all_alike_are_no_matter_of_warnings() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    for _ in range(8):
        trial = study.ask()
        trial.suggest_int("depth", 1, 12)
        trial.suggest_categorical("tied", [True, False])
        study.tell(trial, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importance(study, set(range(8)))


def test_they_are_drawn_anew_where_the_shares_have_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished study is started again and again."""
    monkeypatch.setattr("search.study.describe.SAMPLES", 4)
    study = explored(20)
    attempts = [
        Attempt(number=n, state=State.COMPLETE, params={}, key=f"{n}", arm=f"{n}", value=1.0)
        for n in range(20)
    ]

    def facts(earlier: dict[str, Any] | None) -> dict[str, Any]:
        return exploration_facts(study, attempts, lambda runs: None, earlier)

    first = facts({})
    kept = first | {"importance_intervals": {"depth": [0.25, 0.75]}}
    assert facts(kept) == kept
    assert facts(kept | {"importance": {"depth": 1.0}}) == first
    assert "importance_intervals" not in facts(None), "of a study that is not whole"


@pytest.mark.parametrize(("keep", "kept"), [("best", 1), ("all", 3), ("none", 0)])
def test_keep_says_whose_weights_stay(here: Path, keep: str, kept: int) -> None:
    search = open_search(here, "n_trials=3", "replicates.seeds=1", f"keep={keep}")
    work(search)
    tidy(search)
    tidy(search, done=True)
    left = {path.parent.name for path in (here / "runs").glob("*/weights.safetensors")}
    assert len(left) == kept
    if keep == "best":
        best = min(distinct(read_attempts(search.study)), key=lambda run: run.value or 9e9)
        assert left == {best.key}


@given(st.data())
def test_the_best_run_keeps_its_weights_in_whatever_order_runs_end(data: st.DataObject) -> None:
    """Of tables, any of whose arms may become the best, and of searches."""
    arms, seeds = data.draw(st.integers(2, 5)), data.draw(st.integers(1, 4))
    plan = Exploration(
        options=tuple(options(arms)),
        n_trials=99,
        replicates=Replicates(top=1, seeds=seeds),
        grid=True,
    )
    of_table = data.draw(st.booleans())
    contenders = every_arm if of_table else plan.contenders

    def ended(arm: int, seed: int) -> Attempt:
        return Attempt(
            number=len(attempts),
            state=State.COMPLETE,
            params={},
            seed=seed,
            role=Role.EXPLORE if seed == 0 else Role.REPLICATE,
            key=f"{arm} {seed}",
            arm=f"arm{arm + 1}",
            layers=arm,
            value=data.draw(st.floats(1, 2)),
        )

    attempts: list[Attempt] = []
    study: Any = SimpleNamespace(
        job=SimpleNamespace(targets=SimpleNamespace(first=SimpleNamespace(maximize=False))),
        subject=SimpleNamespace(contenders=contenders),
    )
    there: set[str | None] = set()
    for round_ in range(2):
        left = [(arm, seed) for arm in range(arms) for seed in range(seeds)]
        left = [place for place in left if (place[1] == 0) == (round_ == 0)]
        if round_ and not of_table:
            left = [place for place in left if f"arm{place[0] + 1}" in plan.contenders(attempts)]
        for arm, seed in data.draw(st.permutations(left)):
            attempts.append(ended(arm, seed))
            there.add(attempts[-1].key)
            there &= {run.key for run in ending._best(study, attempts, done=False)}
    (best,) = ending._best(study, attempts, done=True)
    middle = plan.baseline([run for run in attempts if run.role == Role.EXPLORE])
    shifted = not of_table and middle is not None and best.key == middle.key
    assert best.key in there or shifted


def test_weights_that_another_study_wrote_are_left_alone(here: Path) -> None:
    first = open_search(here, "n_trials=2", "replicates.seeds=1", "keep=all")
    work(first)
    second = open_search(here, "n_trials=2", "replicates.seeds=1", "keep=none", "study=second")
    work(second)
    tidy(second)
    assert len(list((here / "runs").glob("*/weights.safetensors"))) == 2


def test_weights_stay_until_their_run_was_asked(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = open_search(here, "n_trials=1", "replicates.seeds=1", "keep=none")
    work(search)
    (key,) = records(here)
    weights = here / "runs" / key / "weights.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(session, "lacking", lambda *_: ["piqa"])
        tidy(search)
        assert weights.is_file()
    tidy(search)
    assert not weights.is_file()


def written(folder: Path) -> dict[str, int]:
    """When each record was, by key, in nanoseconds."""
    return {p.parent.name: p.stat().st_mtime_ns for p in folder.glob("runs/*/record.json")}


def test_a_run_without_weights_says_what_trains_it_alone_again(here: Path) -> None:
    asked = ("n_trials=2", "replicates.seeds=1", "keep=none")
    search = replace(open_search(here, *asked), given=[*asked, "study=tiny", "train=false"])
    work(search)
    describe(search, finished=True)
    tidy(search)
    before, key = written(here), Path(named("best", "tiny", "outputs")).name
    with pytest.raises(ValueError, match="its weights were not kept") as told:
        stored(key, "runs", "cache")
    remove, start = re.findall("`(.*?)`", str(told.value))
    assert start == "python -m search n_trials=2 replicates.seeds=1 study=tiny keep=all"
    search.lock.release()
    subprocess.run(shlex.split(remove), check=True)
    again = open_search(here, *shlex.split(start)[3:])
    assert len([event for event in work(again) if event["event"] == "end"]) == 1
    after = written(here)
    assert {k for k in after if after[k] != before[k]} == {key}
    assert stored(key, "runs", "cache") is not None
    other = next(k for k in after if k != key)
    (here / "outputs" / "tiny" / "study.json").unlink()
    with pytest.raises(ValueError, match=f"keep=all .python -m search.whose run={other} says"):
        stored(other, "runs", "cache")
    (here / "runs" / other / "record.json").unlink()
    with pytest.raises(ValueError, match="has not ended; the same command that began it goes on"):
        stored(other, "runs", "cache")


def test_a_run_that_a_study_asks_for_no_longer_is_trained_again_once_its_record_is_gone(
    here: Path,
) -> None:
    seeds = ("replicates.top=1", "replicates.seeds=2", "keep=none")
    search = open_search(here, "n_trials=4", *seeds)  # two architectures with two seeds each
    work(search)
    search.lock.release()
    fewer = ["n_trials=2", "replicates.seeds=1", "keep=none", "study=tiny"]
    search = replace(open_search(here, *fewer), given=fewer)
    assert work(search) == [], "there is nothing to do"
    describe(search, finished=True)
    tidy(search, done=True)
    search.lock.release()
    further = next(run for run in search.runs() if run.role == Role.REPLICATE)
    folder = here / "runs" / str(further.key)
    with pytest.raises(ValueError, match="its weights were not kept") as told:
        stored(folder.name, "runs", "cache")
    remove, start = re.findall("`(.*?)`", str(told.value))
    subprocess.run(shlex.split(remove), check=True)
    with pytest.raises(ValueError, match="has no record") as told:
        stored(folder.name, "runs", "cache")
    assert f"`{start}` goes on" in str(told.value)
    again = open_search(here, *shlex.split(start)[3:])
    outlook = again.estimate()
    assert outlook.open_runs == 1
    assert "3 of 4 runs done" in str(outlook)
    assert [event["key"] for event in work(again) if event["event"] == "end"] == [folder.name]
    assert stored(folder.name, "runs", "cache") is not None
    assert "4 of 4 runs done" in str(again.estimate())


def test_a_search_that_is_extended_says_what_it_did_and_what_gives_more(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for asked in (("n_trials=4", "replicates.top=1"), ("n_trials=9", "replicates.top=1")):
        search = open_search(here, "replicates.seeds=2", *asked)
        work(search)
        capsys.readouterr()
        say_what_is_left(search, search.config)
        said.append((str(search.estimate()), capsys.readouterr().out))
        search.lock.release()
    assert "2 of 4 architectures" in said[0][0]
    assert "a grid leaves 2 out: n_trials=6 tries all" in said[0][0]
    assert said[0][1] == "", "all was done that was asked"
    outlook, line = said[1]
    runs = search.runs()
    assert f"{len(runs)} of {len(runs)} runs done" in outlook
    seeds = Counter(run.arm for run in runs)
    single = sorted(run.layers for run in runs if seeds[run.arm] == 1)
    names = " and ".join(map(str, single))
    assert f"one seed of {names} layers; `replicates.top=3" in line
    options = re.findall("`(.*?)`", line)[0].split()
    n_trials = [] if any("n_trials" in option for option in options) else ["n_trials=9"]
    search = open_search(here, "replicates.seeds=2", *options, *n_trials)
    work(search)
    assert set(Counter(run.arm for run in search.runs()).values()) == {2}
    search.lock.release()
    fewer = open_search(here, "n_trials=4", "replicates.top=1", "replicates.seeds=2")
    outlook = str(fewer.estimate())
    assert "4 of 4 architectures" in outlook
    assert "a grid leaves" not in outlook
    assert "8 of 8 runs done" in outlook


def test_of_those_that_are_best_by_now_it_says_what_gives_them_seeds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = Exploration(
        options=options(10), n_trials=9, replicates=Replicates(top=2, seeds=3), grid=True
    )
    simulation = Simulation(plan, seed=3, workers=1, trouble=0.0)
    simulation.run()
    simulation.plan = replace(plan, n_trials=16)
    simulation.run(since=9)
    now = simulation.plan.after(simulation.attempts)
    (arm,) = now.lacking
    say_what_lacks_seeds(now)
    assert capsys.readouterr().out == (
        f"fewer than 3 seeds of {arm.layers} layers, now the baseline or among the best 2; "
        f"`n_trials={16 + now.lacking_seeds}` gives the rest\n"
    )


def test_a_look_ahead_says_what_a_study_takes_and_begins_none(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("n_trials=3", "replicates.seeds=1")
    before = {path.name for path in here.iterdir()} | {"text.jsonl", ".cache"}
    assert look_ahead(configured(here, *asked, "train=false"), open_session) == 0
    said = capsys.readouterr().out
    assert re.search(r"0 of 3 runs done\nto do: 3 runs, 3.07k tokens, [\d.]+ GFLOPs, about", said)
    assert said.endswith("nothing was trained; the same command without train=false does\n")
    assert {path.name for path in here.iterdir()} <= before
    search = replace(open_search(here, "recipe.lr=0.001", "n_trials=1", "replicates.seeds=1"))
    work(search)  # with settings of its own
    search.lock.release()
    told, trials = dict(search.study.user_attrs), len(search.study.trials)
    look_ahead(configured(here, *asked, "recipe.lr=0.001", "train=false"), open_session)
    assert "1 of 3 runs done\nto do: 2 runs" in capsys.readouterr().out
    assert (dict(search.study.user_attrs), len(search.study.trials)) == (told, trials)


def test_several_machines_need_a_database_that_all_reach(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("executor=slurm", "++executor.options.nodes=4")
    with pytest.raises(ValueError, match=r"PostgreSQL .* but executor=slurm has 4 nodes; set stor"):
        open_search(here, *given)
    assert not (here / "outputs").exists()
    assert look_ahead(configured(here, *given, "train=false"), open_session) == 0
    *_, refused, why = capsys.readouterr().out.splitlines()
    assert refused.endswith("the same command without train=false is refused as it is")
    assert why.startswith("before it trains: storage must be")
    away = ("storage=postgresql+psycopg://nobody@localhost:1/x", "train=false")
    assert look_ahead(configured(here, *away), open_session) == 0
    *_, refused, why = capsys.readouterr().out.splitlines()
    assert refused.endswith("the same command without train=false is refused as it is")
    assert "psycopg://nobody@localhost:1/x must be a SQLAlchemy URL that can be opened" in why
    with pytest.raises(SystemExit):  # no server's absence, but a wrong URL
        look_ahead(configured(here, "storage=nosuch://x", "train=false"), open_session)
    url = "storage=postgresql+psycopg://nobody@localhost:1/x"
    require_shared(configured(here, *given, url), Slurm(nodes=4))
    require_shared(configured(here), Slurm())


def test_what_cannot_be_exported_is_said_before_it_is_trained(here: Path) -> None:
    assert "cannot be exported" not in str(open_search(here).estimate())
    either = "+space.axes.final_logit_softcapping=[null,30]"
    said = str(open_search(here, either, "study=capped", "n_trials=8").estimate())
    assert "4 of 8 architectures cannot be exported: " in said
    assert "final_logit_softcapping=30" in said


def test_the_time_on_other_machines_is_said_to_be_by_this_ones_speed(here: Path) -> None:
    search = open_search(here, "n_trials=1", "replicates.seeds=1")
    assert "as on this machine" not in str(search.estimate())
    cluster = replace(search.config, executor=ExecutorConfig(name="slurm"))
    assert ", as on this machine's CPU), " in str(replace(search, config=cluster).estimate())


def test_a_storage_url_is_any_of_sqlalchemys(here: Path) -> None:
    search = open_search(here, f"storage=sqlite:///{here}/elsewhere.db", "n_trials=1")
    work(search)
    (name,) = optuna.get_all_study_names(open_storage(f"sqlite:///{here}/elsewhere.db"))
    assert name == "tiny"


URL = "postgresql://u:s3cret@h/db?sslmode=require"
SHOWN = "postgresql://u:***@h/db?sslmode=require"
ASKING = "postgresql://h/db?user=u&password=s3cret&sslPassword=s3cret"


@pytest.mark.parametrize(
    ("given", "url", "shown"),
    [
        (f"storage={URL}", URL, SHOWN),
        (f'storage="{URL}"', URL, SHOWN),
        (f"+storage={URL}", URL, SHOWN),
        (f"++storage='{URL}'", URL, SHOWN),
        (f"storage='{ASKING}'", ASKING, "postgresql://h/db?user=u"),
    ],
)
def test_the_command_is_kept_without_the_storages_password(
    here: Path, given: str, url: str, shown: str
) -> None:
    search = open_search(here, "n_trials=1", "replicates.seeds=1", "keep=none")
    options = ["budget=100k", "space.constraints={hidden_size: '>=8'}", given]
    search = replace(search, job=replace(search.job, storage=url), given=options)
    content = describe(search, finished=False)
    assert "s3cret" not in (search.job.folder / "study.json").read_text()
    assert shlex.split(content["command"])[3:] == [*options[:2], f"storage={shown}"]


def test_of_what_is_no_url_nothing_is_shown() -> None:
    assert without_password(f'"{URL}"') == "…"
    assert without_password("postgresql://u:s3cret@h:port/db") == "…"


def test_differences_name_nested_values() -> None:
    before = {"a": {"b": 1, "c": [1]}, "d": 2}
    now = {"a": {"b": 1, "c": [2]}, "e": 3}
    assert [*map(str, differences(before, now))] == [
        "a.c was [1], is [2]",
        "d was 2, is None",
        "e was None, is 3",
    ]


def test_a_study_says_at_its_end_that_its_best_run_kept_no_weights(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("n_trials=2", "replicates.seeds=1")
    first = open_search(here, *asked, "keep=none")
    work(first)
    conclude(first, Ending(End.DONE))
    first.lock.release()
    assert "kept no weights" not in capsys.readouterr().out, "none were asked for"
    given = [*asked, "study=other"]  # whose runs come from their records
    second = replace(open_search(here, *given), given=given)
    work(second)
    conclude(second, Ending(End.DONE))
    said = capsys.readouterr().out
    assert "`python -m space export=best study=other to=FOLDER` says what trains it again" in said
    with pytest.raises(ValueError, match="study=other"):
        stored(Path(named("best", "other", "outputs")).name, "runs", "cache")
    assert described("other", "outputs")["best_kept"] is False
