"""Who owns a run, on real databases: claims are atomic, run out, and fence what is written."""

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
from database_fixtures import database, postgres  # noqa: F401
from process_fixtures import wait_for
from study_fixtures import open_search, work

from search.states import State
from search.study.leases import PLANNING, RUN, START, WORKER, Leases, lives, machine
from search.study.locks import holder_of, run_lock
from search.study.storage import leases_of, open_storage, read_attempts, silent
from search.study.worker import Lost, Worker
from search.train import checkpoint
from space.files import PART, file_atomically, remove_begun, write_atomically

A_RUN = f"{RUN}/0123456789abcdef"


@pytest.fixture
def holder(database: str) -> Callable[..., Leases]:  # noqa: F811
    """Makes a holder of leases."""
    storage = open_storage(database)
    return lambda owner="host:1", **options: Leases(storage.engine, "tiny", owner, **options)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def expire(leases: Leases, name: str) -> None:
    """Let time pass for a lease."""
    grace_s, leases.grace_s = leases.grace_s, -1.0
    assert leases.owns(name)
    leases.grace_s = grace_s


def test_of_many_that_want_a_lease_one_gets_it(holder: Callable[..., Leases]) -> None:
    holders = [holder(f"host:{number}") for number in range(8)]
    names = [f"{RUN}/{number}" for number in range(20)]
    together = threading.Barrier(len(holders))

    def claim(leases: Leases) -> list[str]:
        together.wait()
        return [name for name in names if leases.claim(name)]

    with ThreadPoolExecutor(len(holders)) as threads:
        got = [name for mine in threads.map(claim, holders) for name in mine]
    assert Counter(got) == Counter(names)


def test_of_many_that_want_a_lease_that_ran_out_one_gets_it(holder: Callable[..., Leases]) -> None:
    dead = holder()
    assert dead.claim(A_RUN)
    expire(dead, A_RUN)
    holders = [holder() for _ in range(8)]
    with ThreadPoolExecutor(len(holders)) as threads:
        assert sum(threads.map(lambda leases: leases.claim(A_RUN), holders)) == 1
    assert not dead.owns(A_RUN)


def test_a_lease_is_its_holders_until_it_runs_out_or_is_released(
    holder: Callable[..., Leases],
) -> None:
    first, second = holder(), holder()
    assert first.claim(A_RUN)
    assert first.claim(A_RUN), "again"
    assert not second.claim(A_RUN)
    first.release(A_RUN)
    assert second.claim(A_RUN)
    first.release(A_RUN)
    assert second.owns(A_RUN), "what it has no more it cannot give back"


def test_a_lease_that_ran_out_and_that_nobody_took_is_still_its_holders(
    holder: Callable[..., Leases],
) -> None:
    """As after a suspension in which nobody else worked."""
    leases = holder()
    assert leases.claim(A_RUN)
    expire(leases, A_RUN)
    assert leases.owns(A_RUN)
    assert not holder().claim(A_RUN)


def test_of_two_leases_that_are_asked_for_at_once_the_lost_one_is_known(
    holder: Callable[..., Leases],
) -> None:
    slow, quick = holder(), holder()
    both = (A_RUN, f"{WORKER}/slow")
    assert all(slow.claim(name) for name in both)
    assert slow.owns(*both)
    expire(slow, A_RUN)
    assert quick.claim(A_RUN)
    assert not slow.owns(*both)
    assert slow.held == {f"{WORKER}/slow"}, "what it still has it can give back"


def test_who_lost_a_lease_notices_at_the_next_renewal(holder: Callable[..., Leases]) -> None:
    slow, quick = holder(), holder()
    assert slow.claim(A_RUN)
    assert slow.claim(f"{WORKER}/slow")
    expire(slow, A_RUN)
    assert quick.claim(A_RUN)
    slow.renew()
    assert slow.held == {f"{WORKER}/slow"}
    assert quick.owns(A_RUN)


def test_renewed_leases_do_not_run_out(holder: Callable[..., Leases]) -> None:
    leases = holder(grace_s=1.5)
    assert leases.claim(A_RUN)
    leases.keep()
    end = time.monotonic() + 3
    while time.monotonic() < end:
        assert not holder().claim(A_RUN)
        time.sleep(0.2)
    leases.close()
    assert holder().claim(A_RUN)


def test_who_plans_again_finds_the_lease_free(holder: Callable[..., Leases]) -> None:
    first, second = holder(), holder()
    name = f"{PLANNING}/tiny"
    for leases in (first, second, first):
        with leases.holding(name) as got:
            assert got
            assert not (second if leases is first else first).claim(name)


def test_leases_of_dead_processes_of_this_machine_are_free_at_once(
    holder: Callable[..., Leases],
) -> None:
    dead, living = holder(), holder()
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    dead._own["process"] = child
    assert dead.claim(A_RUN)
    assert living.claim(f"{RUN}/other")
    living.free_dead()
    assert [lease.name for lease in living.read(RUN)] == [f"{RUN}/other"]
    assert living.read(RUN)[0].machine == machine()


def test_one_study_does_not_see_anothers_leases(holder: Callable[..., Leases]) -> None:
    leases = holder()
    assert leases.claim(f"{START}/tiny/0")
    assert [lease.owner for lease in leases.read(START)] == ["host:1"]
    assert leases.read(START, study="tin_") == []


# --- Fencing: what an old owner writes takes no place ------------------------------------------


def test_a_process_stopped_after_it_asked_replaces_nothing(tmp_path: Path) -> None:
    """Between the fence's answer and the renaming its successor takes the folder over."""
    path, owners = tmp_path / "record.json", ["old"]

    def stopped_here() -> None:
        if owners[-1] != "old":
            raise Lost
        owners.append("new")
        remove_begun(tmp_path)
        write_atomically(path, "new")

    with pytest.raises(Lost):
        write_atomically(path, "old", stopped_here)
    assert path.read_text() == "new"
    assert [file.name for file in tmp_path.iterdir()] == ["record.json"]


def test_a_process_that_asks_too_late_replaces_nothing(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_atomically(path, "new")

    def lost() -> None:
        raise Lost

    with pytest.raises(Lost), file_atomically(path, fence=lost) as part:
        part.write_text("old")
    assert path.read_text() == "new"


def test_what_a_dead_process_was_about_to_write_is_removed(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    parts = [tmp_path / f".record.json.1{PART}", tmp_path / "checkpoint" / f".state.pt.1{PART}"]
    for part in [*parts, tmp_path / ".lock", tmp_path / "run.yaml"]:
        part.write_text("half")
    checkpoint.take_over(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint", ".lock", "run.yaml"}
    assert not list((tmp_path / "checkpoint").iterdir())


# --- In a study --------------------------------------------------------------------------------


def test_a_trial_whose_worker_died_before_it_took_anything_is_not_running_for_ever(
    here: Path,
) -> None:
    search = open_search(here, "n_trials=1", "replicates.seeds=1")
    search.study.ask()
    work(search)
    first, second = read_attempts(search.study)
    assert (first.state, second.state) == (State.FAIL, State.COMPLETE)
    assert first.key is None


def test_a_run_of_a_silent_worker_is_taken_over(here: Path) -> None:
    search = open_search(here, "n_trials=1", "replicates.seeds=1")
    other = claim_elsewhere(search)
    expire(other, f"{WORKER}/{other.holder}")
    told = [event["event"] for event in work(search)]
    assert [kind for kind in told if kind != "step"] == ["start", "end"]
    first, second = read_attempts(search.study)
    assert (first.state, first.status, second.state) == (State.FAIL, None, State.COMPLETE)
    assert "silent for too long" in str(first.reason)
    assert first.key == second.key
    assert not other.owns(f"{WORKER}/{other.holder}"), "it has lost it, should it wake up"


def test_what_has_ended_is_read_once_and_what_has_not_each_time(here: Path) -> None:
    search = open_search(here, "n_trials=2", "replicates.seeds=1")
    work(search)
    trial = search.study.ask()
    before = read_attempts(search.study)
    trial.set_user_attr("key", "taken")
    after = read_attempts(search.study)
    assert [old is new for old, new in zip(before, after, strict=True)] == [True, True, False]
    assert after[-1].key == "taken"
    afresh = optuna.load_study(
        study_name="tiny", storage=open_storage(search.job.storage).as_optunas
    )
    assert after == read_attempts(afresh)


def test_the_lock_of_a_worker_that_lost_its_run_on_another_host_holds_up_nobody(
    here: Path,
) -> None:
    """As a network file system has it while the host is cut off."""
    if os.geteuid():
        pytest.skip("only root can give a process another host name")
    search = open_search(here, "n_trials=1", "replicates.seeds=1")
    waits = ["sh", "-c", 'read path && exec flock "$path" sleep 600']
    with subprocess.Popen(["unshare", "--uts", *waits], stdin=subprocess.PIPE, text=True) as there:
        try:
            other = claim_elsewhere(search, process=there.pid)
            expire(other, f"{WORKER}/{other.holder}")
            lock = run_lock(search.job.runs, str(read_attempts(search.study)[0].key))
            assert there.stdin is not None, "a pipe"
            print(Path(lock.lock_file).resolve(), file=there.stdin, flush=True)
            wait_for(lambda: holder_of(lock) == there.pid)
            assert [event["event"] for event in work(search)] == ["start", "step", "step", "end"]
        finally:
            there.kill()


def test_a_worker_waits_for_runs_of_other_starts_and_takes_over_what_dies(here: Path) -> None:
    search = open_search(here, "n_trials=1", "replicates.seeds=1")
    other = claim_elsewhere(search)
    events: list[str] = []
    stopping = threading.Event()
    worker = Worker(search.job, 0, lambda event: events.append(event["event"]), stopping)
    thread = threading.Thread(target=worker.work)
    thread.start()
    while "idle" not in events:
        time.sleep(0.05)
    assert thread.is_alive(), "it may be alive"
    expire(other, f"{WORKER}/{other.holder}")
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert [attempt.state for attempt in read_attempts(search.study)] == ["FAIL", "COMPLETE"]


def claim_elsewhere(search: object, process: int = 1) -> Leases:
    """The leases of a worker of another start, which has the study's only run in progress."""
    other = leases_of(search.study, f"elsewhere:{process}", start="another")
    assert other.claim(f"{WORKER}/{other.holder}")
    trial = search.study.ask()
    cell = search.work.suggest(trial)
    run = search.work.run(cell, 0)
    marks = {"worker": f"elsewhere:{process}:", "holder": other.holder, "cell": cell}
    marks |= {"arm": "a", "seed": 0}
    for name, value in {**marks, "key": run.key}.items():
        trial.set_user_attr(name, value)
    return other


def test_a_worker_that_lost_its_run_writes_nothing_more(here: Path) -> None:
    """It finds out at the next step; the checkpoint is left as it is."""
    one = ("n_trials=1", "replicates.seeds=1", "placement.checkpoint_s=0.0001")
    search = open_search(here, *one, "recipe.tokens=64000")
    events: list[dict[str, object]] = []
    taken: list[float] = []
    successor = leases_of(search.study, "elsewhere:1", start="another")

    def emit(event: dict[str, object]) -> None:
        events.append(event)
        states = list((here / "runs").glob("*/checkpoint/state.pt"))
        if event["event"] == "step" and states and not taken:
            stopping.set()  # it would try again, and wait
            (lease,) = successor.read(RUN)
            expire(worker.leases, lease.name)
            assert successor.claim(lease.name)
            time.sleep(0.2)  # what a thread was about to put in its place is there now
            taken.append(states[0].stat().st_mtime)

    stopping = threading.Event()
    worker = Worker(search.job, 0, emit, stopping)
    worker.work()
    (state,) = (here / "runs").glob("*/checkpoint/state.pt")
    assert state.stat().st_mtime == taken[0]
    assert not list((here / "runs").glob("*/record.json"))
    assert any("another worker goes on" in str(event.get("text")) for event in events)
    (attempt,) = read_attempts(search.study)
    assert attempt.state == State.FAIL


def test_two_starts_on_one_machine_share_a_study(here: Path) -> None:
    first = open_search(here, "n_trials=2", "replicates.seeds=1")
    second = open_search(here, "n_trials=2", "replicates.seeds=1")
    assert (first.job.place, second.job.place) == (0, 1)
    assert first.job.log(0) != second.job.log(0)
    assert first.job.start != second.job.start
    work(first)
    assert work(second) == []
    first.lock.release()
    third = open_search(here, "n_trials=2", "replicates.seeds=1")
    assert third.job.place == 0, "the lowest that is free"


def test_a_file_as_storage_refuses_a_second_host(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as elsewhere:
        for module in ("leases", "starts"):
            elsewhere.setattr(f"search.study.{module}.HOST", "elsewhere")
        elsewhere.setattr("search.study.leases.machine", lambda: "another")
        there = open_search(here)
    with pytest.raises(ValueError, match=r"must be PostgreSQL.*but elsewhere works on study tiny"):
        open_search(here)
    there.lock.release()
    open_search(here).lock.release()


def test_trials_of_living_workers_are_not_silent(here: Path) -> None:
    search = open_search(here, "n_trials=1", "replicates.seeds=1")
    other = claim_elsewhere(search)
    assert silent(search.study, search.lock.leases) == []
    expire(other, f"{WORKER}/{other.holder}")
    (trial,) = silent(search.study, search.lock.leases)
    assert trial.number == 0


def test_a_process_that_nobody_has_taken_note_of_is_dead() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        wait_for(lambda: Path(f"/proc/{process.pid}/stat").read_text().split()[2] == "Z")
        assert not lives(process.pid)
    assert lives(os.getpid())
