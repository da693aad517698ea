"""A study looked at, joined and stopped from outside."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cluster_fixtures import LONG, slowly
from process_fixtures import wait_for
from study_fixtures import environment, open_search, records, start, study_json, work

from search.join import joining
from search.join import main as join
from search.states import State
from search.status import All, StatusConfig, in_words, is_alive, look, storage_of
from search.study.leases import WORKER
from search.study.plan import MAX_DEATHS, Attempt, deaths
from search.study.storage import leases_of, open_storage, open_there


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ask(folder: Path, module: str, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )


# --- search.status -----------------------------------------------------------------------------


def test_a_finished_study_has_all_its_runs_and_no_worker(here: Path) -> None:
    search = open_search(here, "n_trials=2", "replicates.seeds=1")
    work(search)
    search.lock.release()
    found = look(storage_of(StatusConfig(study="tiny")), "tiny")
    assert (found["done"], found["total"], found["finished"]) == (2, 2, 2)
    assert found["workers"] == found["starts"] == []
    assert in_words(found) == "study tiny: 2 of 2 runs done; no worker is alive"


def test_runs_that_may_be_fewer_are_at_most(here: Path) -> None:
    replicates = ("replicates.top=1", "replicates.seeds=2")
    search = open_search(here, "n_trials=4", *replicates)
    work(search)
    search.lock.release()
    search = open_search(here, "n_trials=10", *replicates)  # what it tries may become the best
    total = search.work.total
    assert search.work.at_most
    found = look(storage_of(StatusConfig(study="tiny")), "tiny")
    search.lock.release()
    assert in_words(found).startswith(f"study tiny: 4 of up to {total} runs done")


def test_each_living_worker_says_what_it_does(here: Path) -> None:
    search = open_search(here, "n_trials=2", "replicates.seeds=1")
    doing = {"doing": "training", "trial": 3, "key": "abc", "step": 5, "of": 20, "idle": 0.25}
    for owner, speed in (("one:1", 1000.0), ("two:2", 500.0)):
        leases = leases_of(search.study, owner)
        leases.said = {**doing, "tokens_per_s": speed}
        assert leases.claim(f"{WORKER}/{leases.holder}")
    silent = leases_of(search.study, "two:3", grace_s=-1.0)
    assert silent.claim(f"{WORKER}/{silent.holder}")
    found = look(open_storage(search.job.storage), "tiny")
    assert [worker["worker"] for worker in found["workers"]] == ["one:1", "two:2"]
    assert found["tokens_per_s"] == 1500.0
    assert found["idle"] == 0.25
    words = in_words(found)
    assert "study tiny: 0 of 2 runs done; workers: 2 on" in words
    assert "1.5k tokens/s, 25% idle" in words
    assert words.count("training") == 2
    assert json.loads(json.dumps(found)) == found


def test_looking_changes_nothing(here: Path) -> None:
    search = open_search(here, "n_trials=1", "replicates.seeds=1")
    work(search)
    storage = open_storage(search.job.storage)
    assert look(storage, "tiny") == look(storage, "tiny")
    assert len(search.study.trials) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["study=nowhere"],
            "outputs/nowhere/study.db is not there; there is none yet; set outputs=…",
        ),
        (["study=tiny", "format=xml"], "format must be text or json, but got 'xml'"),
    ],
)
def test_what_is_not_there_is_one_line(here: Path, words: list[str], said: str) -> None:
    ended = ask(here, "search.status", *words)
    (line,) = ended.stderr.strip().splitlines()
    assert ended.returncode == 2
    assert said in line


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("search.status", []),
        ("search.status", ["study=tiny"]),
        ("search.join", ["tiny"]),
        ("search.whose", ["runs=."]),
    ],
)
def test_who_looks_makes_no_storage(here: Path, module: str, words: list[str]) -> None:
    (here / "empty.db").touch()
    for name, why in (("gone.db", "there is no such file"), ("empty.db", "but none was")):
        ended = ask(here, module, *words, f"storage=sqlite:///{name}")
        (line,) = ended.stderr.strip().splitlines()
        assert ended.returncode == 2
        assert f"sqlite:///{name} must be a database that a study was started with" in line
        assert why in line
    assert [path.name for path in here.iterdir()] == ["empty.db"]
    assert (here / "empty.db").stat().st_size == 0


def test_a_driver_is_to_be_installed_only_where_it_is_not(here: Path) -> None:
    pytest.importorskip("psycopg")
    pip = "pip install"
    with pytest.raises(ValueError, match="Connection refused") as away:
        open_there("postgresql+psycopg://u@127.0.0.1:1/x")
    assert pip not in str(away.value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "psycopg", None)  # as where it is not installed
        with pytest.raises(ValueError, match=pip):
            open_there("postgresql+psycopg://u@127.0.0.1:1/x")


def test_a_misspelt_flag_is_answered_by_the_one_that_is_meant(here: Path) -> None:
    ended = ask(here, "search.status", "--wach")
    assert ended.returncode == 2
    assert ended.stderr.endswith("did you mean --watch?\n")


def test_all_studies_of_a_folder_are_read_and_nothing_there_is_written(here: Path) -> None:
    search = open_search(here, "n_trials=1", "replicates.seeds=1")
    work(search)
    leases = leases_of(search.study, "one:1")
    leases.said = {"doing": "training", "step": 5, "of": 20}
    assert leases.claim(f"{WORKER}/{leases.holder}")
    for name, content in {"tables/b": b"", "odd ?%#": b"no database" * 99}.items():
        (here / "outputs" / name).mkdir(parents=True)
        (here / "outputs" / name / "study.db").write_bytes(content)
    (here / "outputs" / "tiny" / "study.db.lock").unlink()
    shutil.copytree(here / "outputs" / "tiny", here / "outputs" / "earlier")
    with sqlite3.connect(here / "outputs" / "earlier" / "study.db") as database:
        database.execute("drop table isoparam_leases")  # as earlier versions left them
    database.close()
    before = tree(here)
    found = All(StatusConfig()).look()
    assert tree(here) == before
    assert sorted(found) == ["earlier", "odd ?%#", "tables/b", "tiny"]
    assert found["tiny"]["done"] == found["earlier"]["done"] == 1
    assert found["tiny"]["settings"]["space"]["budget"]["value"] == 100_000
    assert [is_alive(found[name]) for name in sorted(found)] == [False, False, False, True]
    assert "must be a study's storage" in found["odd ?%#"]["error"]
    assert "study b cannot be read" in in_words(found["tables/b"])


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
    }


def test_a_study_is_read_again_while_somebody_works_and_once_it_has_changed(here: Path) -> None:
    search = open_search(here, "n_trials=2", "replicates.seeds=1")
    leases, every = leases_of(search.study, "one:1"), All(StatusConfig())
    search.lock.release()
    assert leases.claim(f"{WORKER}/{leases.holder}")
    assert is_alive(every.look()["tiny"])
    assert every.quiet == {}
    leases.close()
    assert not is_alive(every.look()["tiny"])
    assert len(every.quiet) == 1
    assert leases.claim(f"{WORKER}/{leases.holder}")
    assert is_alive(every.look()["tiny"])


def test_all_studies_of_one_storage_are_looked_at(here: Path) -> None:
    url = f"sqlite:///{here}/elsewhere.db"
    open_search(here, "n_trials=1", f"storage={url}").lock.release()
    assert list(All(StatusConfig(storage=url)).look()) == ["tiny"]


@pytest.mark.slow
def test_the_command_prints_it_as_text_and_json_and_watches_until_the_end(tmp_path: Path) -> None:

    def telling() -> Any:
        found = json.loads(ask(tmp_path, "search.status", "study=tiny", "format=json").stdout)
        return [worker for worker in found["workers"] if worker["tokens_per_s"]]

    with slowly(tmp_path):
        process = start(tmp_path, *LONG, "grace_s=3")
        wait_for(lambda: list((tmp_path / "runs").glob("*/metrics.jsonl")))
        (worker,) = wait_for(telling)
    assert worker["doing"] == "training"
    assert worker["trial"] == 0
    watched = ask(tmp_path, "search.status", "study=tiny", "--watch", "every_s=0.5")
    assert watched.returncode == 0, watched.stderr
    assert "1 of 1 runs done" in watched.stdout
    assert process.wait(timeout=300) == 0


# --- search.join -------------------------------------------------------------------------------


def test_joining_gives_the_command_of_the_study_again(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["search", "budget=100k", "workers=1", "outputs=outputs"])
    open_search(here, "n_trials=1").lock.release()
    verb, given, folder = joining(["tiny", "workers=4", "executor=ray"])
    assert (verb, folder) == ("search", here)
    assert given == ["budget=100k", "outputs=outputs", "workers=4", "executor=ray"]


def test_a_password_is_given_again_by_who_joins(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{here}/elsewhere.db"
    monkeypatch.setattr(sys, "argv", ["search", f"storage={url}"])
    open_search(here, "n_trials=1", f"storage={url}").lock.release()
    _, given, _ = joining(["study=tiny", f"storage={url}"])
    assert given == [f"storage={url}"]


def test_joining_has_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["search.join", "--help"])
    join()
    assert "python -m search.join STUDY outputs=" in capsys.readouterr().out


def test_a_study_that_is_not_there_is_answered_by_those_that_are(here: Path) -> None:
    open_search(here, "n_trials=1").lock.release()
    with pytest.raises(ValueError, match=r"there is tiny; did you mean tiny\?") as raised:
        joining(["tinny"])
    assert "outputs/tinny/study.db is not there" in str(raised.value)


def test_outputs_that_are_not_there_are_no_outputs_without_studies(here: Path) -> None:
    ended = ask(here, "search.status", "outputs=nowhere")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "outputs must be a folder that is there, but nowhere is not" in ended.stderr
    (here / "empty").mkdir()
    assert ask(here, "search.status", "outputs=empty").stdout.startswith("no study has been")


@pytest.mark.parametrize("words", [[], ["one", "two"], ["nowhere"]])
def test_what_cannot_be_joined_is_one_line(here: Path, words: list[str]) -> None:
    ended = ask(here, "search.join", *words)
    assert ended.returncode == 2
    assert len(ended.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_who_joins_from_another_folder_takes_runs_of_the_study(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "study", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    first = start(folder, *LONG, "n_trials=4", "recipe.tokens=23040", "grace_s=6")
    wait_for(lambda: list((folder / "runs").glob("*/metrics.jsonl")))
    joined = ask(elsewhere, "search.join", "tiny", f"outputs={folder}/outputs")
    out, err = first.communicate(timeout=300)
    assert (joined.returncode, first.returncode) == (0, 0), joined.stderr + err
    assert joined.stdout.count("bits per byte in") >= 1
    assert joined.stdout.count("bits per byte in") + out.count("bits per byte in") == 4
    assert [trial["attempts"] for trial in study_json(folder)["trials"]] == [1] * 4


# --- Lives of a run ----------------------------------------------------------------------------


def lost(number: int, saved: int) -> Attempt:
    return Attempt(number=number, state=State.FAIL, params={}, key="a", saved=saved)


def test_a_run_that_came_further_has_not_used_up_a_life() -> None:
    """Pre-empted five times, each time after another checkpoint."""
    attempts = [lost(number, saved=100 * (number + 1)) for number in range(5)]
    assert deaths(attempts[-1], attempts) == 0


def test_a_run_that_comes_no_further_has() -> None:
    stuck = [lost(0, saved=100), lost(1, saved=100), lost(2, saved=0), lost(3, saved=100)]
    assert deaths(stuck[-1], stuck) == MAX_DEATHS
    assert deaths(stuck[-1], stuck, since=3) == 1
    assert deaths(stuck[-1], [*stuck, lost(4, saved=200)]) == 0


@pytest.mark.slow
def test_a_run_preempted_more_often_than_it_has_lives_is_finished(tmp_path: Path) -> None:
    one = ("n_trials=1", "replicates.seeds=1", "recipe.tokens=384000", "placement.checkpoint_s=0.1")
    process = start(tmp_path, *one)

    def further(before: Attempt | None) -> Any:
        """Another attempt, with another checkpoint than the one before."""
        known = (before.number, before.saved) if before else (-1, 0)
        attempts = [a for a in _attempts(tmp_path) if a.state == State.RUNNING]
        return next((a for a in attempts if a.number > known[0] and a.saved > known[1]), None)

    attempt = None
    for _ in range(MAX_DEATHS + 1):
        attempt = wait_for(lambda before=attempt: further(before))
        os.kill(int(attempt.worker.split(":")[1]), signal.SIGKILL)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    (record,) = records(tmp_path).values()
    assert record["status"] == "finished"
    assert study_json(tmp_path)["trials"][0]["attempts"] == MAX_DEATHS + 2


def _attempts(folder: Path) -> list[Attempt]:
    import optuna

    from search.study.storage import read_attempts

    path = folder / "outputs" / "tiny" / "study.db"
    if not path.is_file():
        return []
    storage = open_storage(f"sqlite:///{path}")
    if "tiny" not in optuna.get_all_study_names(storage.as_optunas):
        return []
    return read_attempts(optuna.load_study(study_name="tiny", storage=storage.as_optunas))
