"""Several starts of one study, on one machine and on others, whose processes die, stop and go on.

Another host is a process with a host name of its own.
"""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from database_fixtures import Postgres, new_server, postgres  # noqa: F401
from process_fixtures import wait_for, workers_of
from sqlalchemy import update
from sqlalchemy.exc import InternalError
from study_fixtures import command, environment, records, run, snapshot, start, study_json

from benchmarks.servers.postgres import standby_of
from search.study.leases import TABLE, Leases
from search.study.patience import is_away
from search.study.plan import distinct
from search.study.storage import open_storage, read_attempts

pytestmark = pytest.mark.slow

RUNS = ("n_trials=4", "replicates.seeds=1", "placement.checkpoint_s=0.2", "grace_s=6")
LONG = ("recipe.tokens=288000",)
"""Some two thousand steps: longer than another start takes, also on an idle machine."""
APART = ["unshare", "--user", "--map-root-user", "--uts", "--"]

Process = "subprocess.Popen[str]"


@pytest.fixture
def kill_left() -> Iterator[list[Any]]:
    """Processes that a test started: neither they nor their workers survive it."""
    started: list[Any] = []
    yield started
    for process in started:
        for pid in [*workers_of(process), process.pid]:
            _signal(pid, signal.SIGKILL)
        process.wait()


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def freeze(folder: Path, *pids: int) -> None:
    """Stop processes while none of them has a lock of the storage: others would wait for it."""
    with closing(sqlite3.connect(folder / "outputs" / "tiny" / "study.db", timeout=60)) as storage:
        storage.execute("BEGIN EXCLUSIVE")
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: all(map(is_stopped, pids)))  # a call that takes a lock may be under way
        storage.rollback()


def is_stopped(pid: int) -> bool:
    """Whether all threads of a process are."""
    states = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(state.rpartition(")")[2].split()[0] == "T" for state in states)


def start_elsewhere(folder: Path, *given: str) -> Any:
    """The search on another host, which has this one's files."""
    if shutil.which("unshare") is None or subprocess.run([*APART, "true"]).returncode:
        pytest.skip("needs unshare, to have another host name")
    named = [*APART, "sh", "-c", 'hostname elsewhere && exec "$@"', "sh", *command(folder, *given)]
    return subprocess.Popen(
        named,
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def training(folder: Path, least: int = 1) -> Callable[[], bool]:
    """Whether so many runs have left a checkpoint."""
    return lambda: len(list((folder / "runs").glob("*/checkpoint/state.pt"))) >= least


def attempts_of(url: str) -> Any:
    study = optuna.load_study(study_name="tiny", storage=open_storage(url).as_optunas)
    return read_attempts(study)


def finished(process: Any) -> str:
    """What a search printed that ended well."""
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, out + err
    return str(out)


def test_the_survivor_of_a_dead_host_ends_with_all_runs(
    tmp_path: Path,
    kill_left: list[Any],
    postgres: Postgres,  # noqa: F811
) -> None:
    storage = f"storage={postgres.new_database()}"
    there = start_elsewhere(tmp_path, *RUNS, *LONG, storage)
    kill_left.append(there)
    wait_for(training(tmp_path))
    here = start(tmp_path, *RUNS, *LONG, storage)
    kill_left.append(here)
    wait_for(training(tmp_path, least=2))
    for pid in [*workers_of(there), there.pid]:
        _signal(pid, signal.SIGKILL)
    finished(here)
    trials = study_json(tmp_path)["trials"]
    assert [trial["state"] for trial in trials] == ["COMPLETE"] * 4
    assert len(records(tmp_path)) == 4
    assert sum(trial["attempts"] for trial in trials) == 5, "one was lost"


def test_another_host_joins_by_the_same_command(
    tmp_path: Path,
    kill_left: list[Any],
    postgres: Postgres,  # noqa: F811
) -> None:
    storage = f"storage={postgres.new_database()}"
    here = start(tmp_path, *RUNS, *LONG, storage)
    kill_left.append(here)
    wait_for(training(tmp_path))
    there = start_elsewhere(tmp_path, *RUNS, *LONG, storage)
    kill_left.append(there)
    for process in (here, there):
        finished(process)
    assert (tmp_path / "outputs" / "tiny" / "workers" / "elsewhere-1.0.log").is_file()
    assert [trial["state"] for trial in study_json(tmp_path)["trials"]] == ["COMPLETE"] * 4
    assert len(records(tmp_path)) == 4


def test_a_file_as_storage_refuses_a_second_host_in_one_line(
    tmp_path: Path, kill_left: list[Any]
) -> None:
    here = start(tmp_path, *RUNS, *LONG)
    kill_left.append(here)
    wait_for(training(tmp_path))
    there = start_elsewhere(tmp_path, *RUNS, *LONG)
    kill_left.append(there)
    _, err = there.communicate(timeout=300)
    (line,) = err.strip().splitlines()
    assert there.returncode == 2
    assert "storage must be PostgreSQL where several machines share a study" in line
    finished(here)


def test_a_process_stopped_and_continued_after_its_lease_writes_over_nothing(
    tmp_path: Path, kill_left: list[Any]
) -> None:
    """Its parent is stopped too: as a virtual machine that was frozen."""
    one = ("n_trials=1", "replicates.seeds=1", "placement.checkpoint_s=0.05", "grace_s=4")
    asleep = start(tmp_path, *one, "recipe.tokens=192000", "keep=all")
    kill_left.append(asleep)
    wait_for(training(tmp_path))
    (worker,) = workers_of(asleep)
    frozen = [asleep.pid, worker]
    freeze(tmp_path, *frozen)
    second = run(tmp_path, *one, "recipe.tokens=192000", "keep=all")
    assert second.returncode == 0, second.stderr
    left = snapshot(tmp_path)
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)
    finished(asleep)
    assert snapshot(tmp_path) == left
    (trial,) = study_json(tmp_path)["trials"]
    assert (trial["state"], trial["attempts"]) == ("COMPLETE", 2)


def test_a_worker_that_hangs_is_replaced_by_its_parent(
    tmp_path: Path, kill_left: list[Any]
) -> None:
    one = ("n_trials=1", "replicates.seeds=1", "placement.checkpoint_s=0.05", "grace_s=4")
    process = start(tmp_path, *one, *LONG)
    kill_left.append(process)
    wait_for(training(tmp_path))
    (worker,) = workers_of(process)
    freeze(tmp_path, worker)
    out = finished(process)
    assert "a worker died (its worker was killed by SIGKILL" in out
    (trial,) = study_json(tmp_path)["trials"]
    assert (trial["state"], trial["attempts"]) == ("COMPLETE", 2)


def test_a_lock_of_a_stopped_process_of_another_study_is_not_waited_for_without_end(
    tmp_path: Path, kill_left: list[Any]
) -> None:
    one = ("n_trials=1", "replicates.seeds=1", "placement.checkpoint_s=0.05", "grace_s=4")
    asleep = start(tmp_path, *one, *LONG)
    kill_left.append(asleep)
    wait_for(training(tmp_path))
    for pid in (asleep.pid, *workers_of(asleep)):
        os.kill(pid, signal.SIGSTOP)
    other = run(tmp_path, *one, *LONG, "study=other")
    assert "which is stopped; end or continue that" in other.stdout
    for pid in (asleep.pid, *workers_of(asleep)):
        os.kill(pid, signal.SIGCONT)
    finished(asleep)


def test_postgresql_restarting_under_parent_and_workers_is_waited_out(
    tmp_path: Path,
    kill_left: list[Any],
    postgres: Postgres,  # noqa: F811
) -> None:
    url = postgres.new_database()
    process = start(tmp_path, *RUNS, *LONG, "workers=2", f"storage={url}")
    kill_left.append(process)
    wait_for(training(tmp_path))
    for mode in ("fast", "immediate"):
        postgres.stop(mode)
        time.sleep(2)
        postgres.start()
        time.sleep(3)
    finished(process)
    runs = distinct(attempts_of(url))
    assert [run.state for run in runs] == ["COMPLETE"] * 4
    assert {run.key for run in runs} == set(records(tmp_path))
    assert len({run.arm for run in runs}) == 4


def test_a_standby_takes_over_from_postgresql_in_the_middle_of_a_study(
    tmp_path: Path, kill_left: list[Any]
) -> None:
    """The address has both servers; the one that takes what is written is the primary."""
    with new_server() as primary, standby_of(primary) as standby:
        url = primary.url("postgres", standby)
        two = (*RUNS, *LONG, "n_trials=2", "workers=2")
        process = start(tmp_path, *two, f'storage="{url}"')
        kill_left.append(process)
        wait_for(training(tmp_path))
        primary.lose()
        standby.promote()
        finished(process)
        attempts = attempts_of(url)
    assert [run.state for run in attempts] == ["COMPLETE"] * 2, "nothing was lost or doubled"
    assert {run.key for run in attempts} == set(records(tmp_path))


OPEN = "import sys; from search.study.storage import open_storage; open_storage(sys.argv[1])"


def test_first_starts_at_once_on_an_empty_database_do_not_race(
    postgres: Postgres,  # noqa: F811
) -> None:
    url = postgres.new_database()
    opening = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, url], env=environment(), stderr=subprocess.PIPE, text=True
        )
        for _ in range(8)
    ]
    ends = [process.communicate()[1] for process in opening]
    assert [process.returncode for process in opening] == [0] * len(opening), ends
    assert open_storage(url).get_all_studies() == []


def test_a_host_lost_in_the_middle_of_a_transaction_holds_up_nobody_for_long(
    monkeypatch: pytest.MonkeyPatch,
    postgres: Postgres,  # noqa: F811
) -> None:
    monkeypatch.setattr("search.study.storage.IDLE_MS", 1000)
    url = postgres.new_database()
    mine, lost = (Leases(open_storage(url).engine, "tiny", f"host:{i}") for i in range(2))
    assert mine.claim("run/1")
    database = lost.engine.connect()
    database.execute(update(TABLE).values(expires=0.0))  # and no word more
    assert mine.owns("run/1")
    with pytest.raises(InternalError) as found:
        database.commit()
    database.invalidate()
    assert is_away(found.value), "it tries again in a new session"


def test_two_starts_at_once_on_one_machine_share_the_runs(
    tmp_path: Path, kill_left: list[Any]
) -> None:
    run(tmp_path, *RUNS, "seed=9", "n_trials=1", "study=first")  # prepares the data
    both = [start(tmp_path, *RUNS, *LONG) for _ in range(2)]
    kill_left.extend(both)
    said = "".join(finished(process) for process in both)
    assert said.count("bits per byte in ") == 4
    assert [trial["attempts"] for trial in study_json(tmp_path)["trials"]] == [1] * 4


def test_the_thread_that_renews_survives_an_absence(
    tmp_path: Path,
    postgres: Postgres,  # noqa: F811
) -> None:
    storage = open_storage(postgres.new_database())
    leases = Leases(storage.engine, "tiny", "host:1", grace_s=60, patience=storage.patience)
    assert leases.claim("run/1")
    postgres.stop("immediate")
    back = threading.Timer(3, postgres.start)
    back.start()
    assert leases.owns("run/1"), "it waits for the answer"
    back.join()
