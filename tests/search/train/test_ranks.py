"""A run by several ranks: they train as one does, and what happens to one of them all know."""

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from process_fixtures import children_of, is_gone, wait_for
from study_fixtures import environment, open_search, records
from train_fixtures import HERE, data, losses, run_of  # noqa: F401

from search.data.cache import open_data
from search.data.packed import Data
from search.record import Reading, Record, Run
from search.runs import WINDOWS, read_record
from search.study.pool import Pool
from search.study.session import Session
from search.study.storage import read_attempts
from search.study.worker import Worker
from search.train.loop import Stop, train
from search.train.ranks import Ranks

TWO = replace(HERE, gpus_per_run=2, checkpoint_s=0.2)


@pytest.fixture(name="text", scope="module")
def of_this_project(data: Data) -> Data:  # noqa: F811
    return data


@pytest.fixture(scope="module")
def alone(text: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by one process."""
    folder = tmp_path_factory.mktemp("alone")
    train(run_of(text), text, folder, placement=HERE)
    return folder


@pytest.fixture(scope="module")
def two(alone: Path) -> Iterator[Ranks]:
    """This process and another. From here on it trains nothing alone."""
    ranks = Ranks(TWO)
    yield ranks
    others = list(ranks.others)
    ranks.close()
    assert [other.returncode for other in others] == [0], "it ended by itself"


@pytest.fixture(scope="module")
def whole(two: Ranks, text: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by both that nothing happens to."""
    folder = tmp_path_factory.mktemp("whole")
    two.train(run_of(text), text, folder)
    return folder


@pytest.mark.slow
def test_a_rank_that_dies_costs_a_study_an_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """It comes first: what it starts must not take this process for one of `two`."""
    monkeypatch.chdir(tmp_path)
    given = ("n_trials=1", "replicates.seeds=1", "recipe.tokens=38400", "placement.gpus_per_run=2")
    search = open_search(tmp_path, *given, "placement.checkpoint_s=0.1")
    processes: list[int] = []

    def kill(_: int, event: dict[str, Any]) -> None:
        if event["event"] == "step" and list(tmp_path.glob("runs/*/checkpoint/state.pt")):
            worker = pool.workers[0].process.pid
            (rank,) = children_of(worker, b"search.train.rank")
            processes.extend([worker, rank])
            pool.interrupts = 1  # the next attempt is made below
            os.kill(rank, signal.SIGKILL)

    pool = Pool(search.job, search.study, 1, kill)
    assert pool.run().kind == "interrupted"
    wait_for(lambda: all(map(is_gone, processes)), 10)
    (lost,) = read_attempts(search.study)
    assert (lost.state, lost.reason) == ("FAIL", "rank 1 of 2 was killed by SIGKILL")
    two = request.getfixturevalue("two")
    steps = [event["step"] for event in work_with(two, search) if event["event"] == "step"]
    assert steps[0] > 1, "it goes on"
    assert [a.state for a in read_attempts(search.study)] == ["FAIL", "COMPLETE"]
    (key,) = records(tmp_path)
    record = read_record(tmp_path / "runs" / key)
    two.train(record.run, open_data(search.job.data), tmp_path / "undisturbed")
    assert losses(tmp_path / "runs" / key) == losses(tmp_path / "undisturbed")


def work_with(ranks: Ranks, search: Session) -> list[dict[str, Any]]:
    """The events of a worker in this process that has these ranks, and leaves them as they are."""
    events: list[dict[str, Any]] = []
    worker = Worker(search.job, 0, events.append, threading.Event())
    worker.ranks = ranks
    worker.leases.keep()
    worker._work()
    worker.leases.close()
    search.lock.release()
    return events


STARTER = """
import os, subprocess, sys, time
rank = subprocess.Popen(
    [sys.executable, "-m", "search.train.rank"],
    stdin=subprocess.PIPE,
    env={**os.environ, "ISOPARAM_FIRST_RANK": str(os.getpid())},
)
print(rank.pid, flush=True)
time.sleep(600)
"""


def test_a_rank_dies_with_its_worker_even_while_it_is_stopped() -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER], stdout=subprocess.PIPE, env=environment()
    )
    assert starter.stdout is not None
    rank = int(starter.stdout.readline())
    wait_for(lambda: "libtorch" in Path(f"/proc/{rank}/maps").read_text(), 60)  # it has begun
    os.kill(rank, signal.SIGSTOP)
    starter.kill()
    starter.wait()
    wait_for(lambda: is_gone(rank), 10)


class Pruned(Stop):
    """As a study's pruner stops a run."""


def numbers(folder: Path) -> list[Any]:
    return [line.get("train_loss", line.get("val_loss")) for line in losses(folder)]


@pytest.mark.slow
def test_two_ranks_train_as_one_to_rounding(alone: Path, whole: Path) -> None:
    assert len(numbers(whole)) > 40
    assert numbers(whole) == pytest.approx(numbers(alone), rel=1e-4)
    of_two, of_one = (np.load(folder / WINDOWS) for folder in (whole, alone))
    np.testing.assert_allclose(of_two, of_one, rtol=1e-3)


@pytest.mark.slow
def test_ranks_end_where_the_first_stops_and_go_on_from_what_it_reads(
    two: Ranks, whole: Path, text: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other rank looks into an empty folder: what it goes on from was sent."""

    def stop(event: dict[str, Any]) -> None:
        if event["step"] == 20:
            raise Stop

    with pytest.raises(Stop):
        two.train(run_of(text), text, tmp_path / "here", progress=stop)
    assert (tmp_path / "here/checkpoint/state.pt").is_file()
    order = two._order
    monkeypatch.setattr(two, "_order", lambda *of, **_: order(*of[:2], tmp_path / "empty"))
    steps: list[int] = []
    record = two.train(
        run_of(text), text, tmp_path / "here", progress=lambda event: steps.append(event["step"])
    )
    assert (record.status, steps[0]) == ("finished", 21)
    assert record.device["gpus_per_run"] == 2
    assert losses(tmp_path / "here") == losses(whole)
    assert not list((tmp_path / "empty").iterdir()), "the first alone writes"


@pytest.mark.slow
def test_a_pruned_run_ends_for_all_and_goes_on_when_it_is_asked_for_again(
    two: Ranks, text: Data, tmp_path: Path
) -> None:
    branching = run_of(text, horizons=(0.5,))
    two.train(branching, text, tmp_path / "whole")

    def judge(reading: Reading) -> None:
        raise Pruned

    with pytest.raises(Pruned):
        two.train(branching, text, tmp_path / "pruned", listener=judge)
    record = two.train(branching, text, tmp_path / "pruned")
    assert [reading.tokens for reading in record.readings] == [2560, 5120]
    assert losses(tmp_path / "pruned") == losses(tmp_path / "whole")


@pytest.mark.slow
def test_a_full_disk_ends_a_run_for_all_and_is_no_outcome_of_it(
    two: Ranks, whole: Path, text: Data, tmp_path: Path
) -> None:
    asked: list[int] = []

    def fence() -> None:
        asked.append(1)
        if len(asked) == 3:  # the first two are for what begins a run
            raise OSError(errno.ENOSPC, "No space left")

    with pytest.raises(OSError, match="No space left"):
        two.train(run_of(text), text, tmp_path, fence=fence)
    assert len(asked) == 3
    assert two.train(run_of(text), text, tmp_path).status == "finished"
    assert losses(tmp_path) == losses(whole)


TROUBLED = """
import os
from pathlib import Path
from search.train.optimizers.adamw import AdamW

class Troubled(AdamW):
    '''The second rank has trouble at its tenth step, once.'''
    def build(self, groups, recipe):
        built, steps = super().build(groups, recipe), []
        def trouble(*_):
            steps.append(1)
            mark = Path(__file__).with_name("mark")
            if os.environ.get("RANK") == "1" and len(steps) == 10 and not mark.exists():
                mark.touch()
                raise ERROR
        built.register_step_pre_hook(trouble)
        return built

OPTIMIZER = Troubled()
"""


def troubled(text: Data, folder: Path, error: str) -> Run:
    path = folder / "troubled.py"
    path.write_text(TROUBLED.replace("ERROR", error))
    return run_of(text, optimizer=str(path))


@pytest.mark.slow
def test_ranks_halve_the_micro_batch_together(
    two: Ranks, whole: Path, text: Data, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    record = two.train(troubled(text, tmp_path, "MemoryError"), text, tmp_path / "run")
    assert capfd.readouterr().out.count("no memory for 2 sequences at once") == 1
    assert (record.status, record.device["micro_batch"]) == ("finished", 1)
    assert numbers(tmp_path / "run") == pytest.approx(numbers(whole), rel=1e-4)


@pytest.mark.slow
def test_where_a_rank_fails_the_run_has_failed_and_the_record_says_why(
    two: Ranks, text: Data, tmp_path: Path
) -> None:
    failing = troubled(text, tmp_path, "ZeroDivisionError('of the second rank')")
    record = two.train(failing, text, tmp_path / "run")
    reason = (
        f"{tmp_path / 'troubled.py'}, line 15, in trouble: ZeroDivisionError: of the second rank"
    )
    assert (record.status, record.reason) == ("failed", reason)
    assert "in trouble" in (tmp_path / "run/error.txt").read_text()
    again: Record = two.train(failing, text, tmp_path / "run")
    assert again.status == "finished", "the ranks are in step"
