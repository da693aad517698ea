"""Hosts without a shared disk: runs and data of a study travel through a store."""

import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from database_fixtures import Postgres, postgres  # noqa: F401
from process_fixtures import wait_for, workers_of
from s3_fixtures import s3  # noqa: F401
from study_fixtures import open_search, records, run, start, study_json, work, write_text

from search.artifacts import Artifacts
from search.runs import WEIGHTS, WINDOWS, read_metrics, usable_record
from search.study.copies import Copy


def in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, *given: str) -> Any:
    """The study as a host opens it whose runs and data are its own."""
    folder = tmp_path / host
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    write_text(tmp_path)
    return open_search(
        tmp_path,
        f"artifacts={tmp_path / 'store'}",
        f"storage=sqlite:///{tmp_path / 'study.db'}",
        f"data.cache={folder / 'cache'}",
        "n_trials=2",
        "replicates.seeds=1",
        *given,
    )


def train_and_send(session: Any, run: Any, folder: Path, progress: Any) -> None:
    """As a worker does."""
    from search.data.cache import open_data
    from search.train.loop import train

    with Copy(session.artifacts, folder).travelling() as copy:
        train(
            run,
            open_data(session.job.data),
            folder,
            placement=session.placement,
            progress=progress,
            saved=lambda _: copy.checkpointed(),
        )


def test_a_second_host_has_the_records_and_data_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = in_turn(tmp_path, monkeypatch, "first")
    work(first)
    first.lock.release()
    trained = records(tmp_path / "first")
    shutil.rmtree(tmp_path / "first")
    second = in_turn(tmp_path, monkeypatch, "second")
    assert records(tmp_path / "second") == trained
    assert len(trained) == second.count_done() == 2
    assert second.job.data.is_dir()
    assert {e["event"] for e in work(second)} <= {"idle", "done"}, "nothing is left to train"
    second.lock.release()


def test_a_run_goes_on_where_another_host_left_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from search.train.loop import Stop, train

    session = in_turn(tmp_path, monkeypatch, "first")
    run = session.subject.work.run(session.subject.work.plan.options[0].params, 0)
    from search.data.cache import open_data

    def go(host: str, until: int | None) -> Any:
        folder = tmp_path / host / "runs" / run.key
        steps: list[int] = []

        def progress(event: dict[str, Any]) -> None:
            steps.append(event["step"])
            if event["step"] == until:
                raise Stop

        train_and_send(session, run, folder, progress)
        return steps

    with pytest.raises(Stop):
        go("first", until=3)
    assert go("second", until=None) == [4, 5, 6, 7, 8]
    assert go("third", until=None) == []
    plain = tmp_path / "plain" / run.key
    train(run, open_data(session.job.data), plain, placement=session.placement)
    expected, found = usable_record(plain), usable_record(tmp_path / "third" / "runs" / run.key)
    assert expected is not None
    assert found is not None
    assert found.readings == expected.readings
    store = Artifacts.at(str(tmp_path / "store"))
    left = {name.split(".", 3)[3] for name in store._list(f"runs/{run.key}")}
    assert left == {"run.yaml", "metrics.jsonl", WINDOWS, WEIGHTS, "record.json", "version"}
    session.lock.release()


def test_a_host_that_dies_is_followed_by_its_last_checkpoint_which_has_the_curve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The curve itself grows while a checkpoint is sent."""
    from search.data.cache import open_data
    from search.train.loop import train

    class Killed(BaseException): ...

    session = in_turn(tmp_path, monkeypatch, "first", "placement.checkpoint_s=0.001")
    run = session.subject.work.run(session.subject.work.plan.options[0].params, 0)
    steps: list[int] = []

    def progress(event: dict[str, Any]) -> None:
        steps.append(event["step"])
        if steps == [1, 2, 3, 4, 5]:
            raise Killed

    def go(host: str) -> list[Any]:
        folder = tmp_path / host / run.key
        train_and_send(session, run, folder, progress)
        return [(line["step"], line.get("train_loss")) for line in read_metrics(folder)]

    with pytest.raises(Killed):
        go("first")
    sent = Artifacts.at(str(tmp_path / "store")).latest(f"runs/{run.key}")
    assert sent is not None
    assert set(sent.files) == {"run.yaml", "checkpoint/state.pt"}
    curve = go("second")
    assert 1 < steps[5] <= 5, "it goes on"
    assert steps[5:] == list(range(steps[5], 9))
    plain = tmp_path / "plain" / run.key
    train(run, open_data(session.job.data), plain, placement=session.placement)
    assert curve == [(line["step"], line.get("train_loss")) for line in read_metrics(plain)]
    session.lock.release()


def test_what_is_here_is_kept_where_it_came_after(tmp_path: Path) -> None:
    store = Artifacts.at(str(tmp_path / "store"))
    folder = tmp_path / "runs" / "k"
    (folder / "checkpoint").mkdir(parents=True)
    state, asked = folder / "checkpoint" / "state.pt", folder / "run.yaml"
    asked.write_text("asked")
    state.write_text("sent")
    copy = Copy(store, folder)
    copy.bring()
    copy.send()
    state.write_text("later, and not sent")
    Copy(store, folder).bring()
    assert state.read_text() == "later, and not sent"
    there = Copy(store, tmp_path / "there" / "k")
    there.bring()
    (tmp_path / "there" / "k" / "checkpoint" / "state.pt").write_text("of another host")
    there.send()
    Copy(store, folder).bring()
    assert state.read_text() == "of another host"


def test_without_a_store_nothing_is_left_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    session = open_search(tmp_path, "n_trials=1", "replicates.seeds=1")
    work(session)
    assert not list((tmp_path / "runs").glob("*/.version"))
    session.lock.release()


def test_a_wrong_store_ends_before_training(tmp_path: Path) -> None:
    ended = run(tmp_path, "artifacts=nonsense://x")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: artifacts must be a folder or a URL that fsspec knows")
    assert len(ended.stderr.splitlines()) == 1
    assert not list((tmp_path / "runs").glob("*/run.yaml"))


TWO = (
    "data.name=words",
    "n_trials=2",
    "replicates.seeds=1",
    "placement.checkpoint_s=0.2",
    "grace_s=4",
)
LONG = ("recipe.tokens=96000",)


def sent_checkpoint(store: Artifacts, folder: Path) -> tuple[str, bytes] | None:
    """The key of a run that goes on from there, and the curve behind it."""
    state = folder / "checkpoint/state.pt"
    for key in {path.split("/")[-2] for path in store.fs.find("studies/all/runs")}:
        version = store.latest(f"runs/{key}")
        if version is None or "checkpoint/state.pt" not in version.files:
            continue
        with suppress(FileNotFoundError):  # replaced meanwhile
            store.get(version, folder, ["checkpoint/state.pt"])
            if curve := torch.load(state, weights_only=True)["curve"]:
                return key, curve
    return None


@pytest.mark.slow
def test_a_host_killed_in_a_run_is_followed_by_another_bit_for_bit(
    tmp_path: Path,
    postgres: Postgres,  # noqa: F811
    s3: str,  # noqa: F811
) -> None:
    given = (*TWO, *LONG, f"artifacts={s3}", f"storage={postgres.new_database()}")
    hosts = {name: tmp_path / name for name in ("here", "there", "alone")}
    for folder in hosts.values():
        folder.mkdir()
        write_text(folder)
    own = {name: f"data.cache={folder / 'cache'}" for name, folder in hosts.items()}
    killed = start(hosts["there"], *given, own["there"])
    store = Artifacts.at(s3)
    key, sent = wait_for(lambda: sent_checkpoint(store, tmp_path / "sent"))
    for pid in [*workers_of(killed), killed.pid]:
        os.kill(pid, signal.SIGKILL)
    killed.communicate()
    shutil.rmtree(hosts["there"] / "runs")
    survivor = run(hosts["here"], *given, own["here"])
    assert survivor.returncode == 0, survivor.stdout + survivor.stderr
    undisturbed = run(hosts["alone"], *TWO, *LONG, own["alone"])
    assert undisturbed.returncode == 0, undisturbed.stderr
    readings = [
        {key: record["readings"] for key, record in records(hosts[name]).items()}
        for name in ("here", "alone")
    ]
    assert readings[0] == readings[1]
    assert sum(trial["attempts"] for trial in study_json(hosts["here"])["trials"]) == 3
    kept = (hosts["here"] / "runs" / key / "metrics.jsonl").read_bytes()
    assert kept.startswith(sent), "with its times: it went on"
    left = {path.split(".", 3)[3] for path in store.fs.find("studies/all/runs")}
    assert left == {"run.yaml", "metrics.jsonl", WINDOWS, WEIGHTS, "record.json", "version"}
    assert sum(WEIGHTS in path for path in store.fs.find("studies/all/runs")) == 1, "the best run's"
