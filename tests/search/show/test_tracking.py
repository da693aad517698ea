"""W&B shows what the records say: its offline files are read back."""

import errno
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from study_fixtures import open_search, plant, records, with_scores, work
from wandb_files import read

from search.runs import read_metrics, read_record, write_record
from search.show.trackers import open_tracker
from search.show.trackers.wandb import WandbTracker
from search.study.ending import describe, report
from search.train.kernels import Unavailable, library

pytestmark = pytest.mark.slow  # a W&B service process for every run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    import wandb

    with suppress(Unavailable):
        library()  # now, or its build would be kept in the home of below
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    yield tmp_path
    wandb.teardown()


def shown(folder: Path, study: str = "tiny") -> dict[str, dict[str, Any]]:
    """What W&B's files say, by run id, once its own process has written them out."""
    import wandb

    wandb.teardown()
    files = (folder / "outputs" / study / "wandb").glob("offline-run-*/run-*.wandb")
    return {content["run"]["id"]: content for content in map(read, files)}


def test_every_number_in_wandb_is_the_records(here: Path) -> None:
    search = open_search(here, "tracker=wandb", "n_trials=2", "replicates.seeds=1")
    work(search)
    describe(search, finished=True)
    runs = shown(here)
    assert set(runs) == {f"tiny-{key}" for key in records(here)}
    for key, record in records(here).items():
        content = runs[f"tiny-{key}"]
        assert content["run"]["group"] == "tiny"
        assert content["run"]["job_type"] == "trial"
        assert content["exit_code"] == 0
        for name in ("architecture", "recipe", "cost"):
            assert content["config"][name] == record[name]
        last = record["readings"][-1]
        for name in ("tokens", "val_loss", "val_bpb"):
            assert content["summary"][name] == last[name]
        for name in ("train_s", "eval_s", "tokens_per_s", "status"):
            assert content["summary"][name] == record[name]
        compare_curves(content["history"], list(read_metrics(here / "runs" / key)))


def test_a_stopped_run_is_shown_as_stopped_until_it_has_gone_on(here: Path) -> None:
    given = ("tracker=wandb", "recipe.tokens=5120", "n_trials=1", "replicates.seeds=1")
    eager = ("pruner=median", "pruner.options.n_startup_trials=1", "pruner.options.n_min_trials=1")
    search = open_search(here, *given, *eager)
    plant(search)
    work(search)
    content = describe(search, finished=True)
    report(search, content)
    runs = shown(here)
    (trial,) = content["trials"]
    content = runs[f"tiny-{trial['key']}"]
    assert content["run"]["tags"] == ["explore", "pruned"]
    assert content["exit_code"] == 0
    assert content["summary"]["status"] == "pruned"
    assert content["summary"]["tokens"] == trial["pruned_at"] == 1280
    assert content["summary"]["val_bpb"] == trial["value"]
    at_horizon = next(row for row in content["history"] if row["_step"] == 10)
    assert at_horizon["branch/val_bpb"] == trial["value"]
    assert runs["tiny-summary"]["summary"]["pruned"] == 1
    assert "best_val_bpb" not in runs["tiny-summary"]["summary"], "no run has come to its end"
    search.lock.release()
    further = open_search(here, *given, "recipe.horizons=[0.25,0.5]")
    work(further)
    describe(further, finished=True)
    content = shown(here)[f"tiny-{trial['key']}"]
    assert content["run"]["tags"] == ["explore", "finished"]
    assert content["summary"]["tokens"] == 5120


def compare_curves(history: list[dict[str, Any]], lines: list[dict[str, Any]]) -> None:
    """Assert that a W&B history has each number of `metrics.jsonl`, and no other."""
    by_step = {row["_step"]: row for row in history}
    assert len(by_step) == len(history) == len({line["step"] for line in lines})
    for line in lines:
        row = by_step[line["step"]]
        for name, value in line.items():
            if name not in ("step", "elapsed_s"):
                assert row[name] == value, (line["step"], name)
    last = {line["step"]: line["elapsed_s"] for line in lines}
    assert {step: row["elapsed_s"] for step, row in by_step.items()} == last
    known = {name for line in lines for name in line}
    own = {name for row in history for name in row if not name.startswith("_")}
    assert own <= known


def test_a_diverged_run_is_shown_with_its_reason(here: Path) -> None:
    search = open_search(here, "tracker=wandb", "n_trials=1", "recipe.lr=1e15")
    work(search)
    describe(search, finished=True)
    (content,) = shown(here).values()
    (record,) = records(here).values()
    assert content["exit_code"] == 1
    assert content["summary"]["status"] == "diverged"
    assert content["summary"]["reason"] == record["reason"]


def test_the_study_has_one_summary_run_with_its_table_and_plot(here: Path) -> None:
    search = open_search(here, "tracker=wandb", "n_trials=2", "replicates.seeds=1", "report=true")
    work(search)
    for _ in range(2):  # as two starts would
        said = describe(search, finished=True)
        report(search, said)
    runs = shown(here)
    assert len(runs) == 3
    content = runs["tiny-summary"]
    assert content["run"]["job_type"] == "study"
    (row,) = content["history"]
    assert row["depth_vs_width"]["_type"] == "table-file"
    assert row["depth_vs_width"]["nrows"] == 2
    assert row["depth_vs_width_plot"]["_type"] == "image-file"
    values = [trial["value"] for trial in said["trials"]]
    assert content["summary"]["best_val_bpb"] == min(values)


def test_runs_are_shown_once_over_all_starts(here: Path) -> None:
    for _ in range(2):
        search = open_search(here, "tracker=wandb", "n_trials=2", "replicates.seeds=1")
        work(search)
        describe(search, finished=True)
        search.lock.release()
    files = list((here / "outputs" / "tiny" / "wandb").glob("offline-run-*"))
    assert len(files) == 2


def test_wandb_leaves_nothing_outside_the_study_and_says_nothing(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    search = open_search(here, "tracker=wandb", "n_trials=1", "replicates.seeds=1")
    work(search)
    capfd.readouterr()
    describe(search, finished=True)
    assert "".join(capfd.readouterr()) == ""
    assert sorted(path.name for path in here.iterdir()) == [
        ".cache",
        "outputs",
        "runs",
        "text.jsonl",
    ]


def test_none_leaves_no_trace(here: Path) -> None:
    search = open_search(here, "tracker=none", "n_trials=1", "replicates.seeds=1")
    work(search)
    describe(search, finished=True)
    assert not (here / "outputs" / "tiny" / "wandb").exists()


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({}, "no API key"),
        ({"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:1"}, "refused"),
        ({"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://nowhere.invalid"}, "nowhere"),
        ({"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "SILENT"}, "no answer"),
    ],
    ids=["no key", "no server", "no such host", "no answer"],
)
def test_online_falls_back_within_five_seconds_and_says_so(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    environment: dict[str, str],
    reason: str,
) -> None:
    silent = socket.create_server(("127.0.0.1", 0))  # takes connections and says nothing
    for name, value in environment.items():
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv(name, value.replace("SILENT", url))
    started = time.monotonic()
    search = open_search(here, "tracker=wandb", "tracker.mode=online", "n_trials=1")
    opened = time.monotonic() - started
    said = capsys.readouterr().out
    assert isinstance(search.tracker.tracker, WandbTracker)
    assert search.tracker.tracker.mode == "offline"
    assert "going on offline" in said
    assert reason in said
    assert opened < 5 + 3, "with opening the rest of the study"
    work(search)
    describe(search, finished=True)
    assert len(shown(here)) == 1
    silent.close()


@pytest.mark.parametrize("trouble", [RuntimeError(), TimeoutError("late"), BrokenPipeError(32, "")])
def test_trouble_with_wandb_is_said_once_and_made_up_for_by_the_next_start(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    trouble: Exception,
) -> None:
    import wandb

    def fail(*_: Any, **__: Any) -> None:
        raise trouble

    search = open_search(here, "tracker=wandb", "n_trials=2", "replicates.seeds=1")
    work(search)
    with monkeypatch.context() as patch:
        patch.setattr(wandb, "init", fail)
        describe(search, finished=True)
        content = describe(search, finished=True)
        report(search, content)
    assert capsys.readouterr().out.count("the study goes on without W&B") == 1
    assert shown(here) == {}
    search.lock.release()
    describe(open_search(here, "tracker=wandb", "n_trials=2", "replicates.seeds=1"), finished=True)
    assert len(shown(here)) == 2


def test_a_full_disk_is_no_trouble_of_wandb_alone(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    search = open_search(here, "tracker=wandb", "n_trials=1", "replicates.seeds=1")
    work(search)
    monkeypatch.setattr(wandb, "init", fail)
    with pytest.raises(OSError, match="No space left"):
        describe(search, finished=True)


def test_scores_that_come_later_are_shown(here: Path) -> None:
    search = open_search(here, "tracker=wandb", "n_trials=1", "replicates.seeds=1")
    work(search)
    describe(search, finished=True)
    [key] = records(here)
    record = read_record(here / "runs" / key)
    assert record is not None
    write_record(here / "runs" / key, with_scores(record, {"piqa": {"acc": 0.5, "bpb": 1.25}}))
    tracker = open_tracker(search.config.tracker, "tiny", search.job.folder, scored=True)
    tracker.mirror(search.job.runs, search.attempts())
    summary = shown(here)[f"tiny-{key}"]["summary"]
    assert (summary["piqa.acc"], summary["piqa.bpb"]) == (0.5, 1.25)
    assert summary["val_bpb"] == record.readings[-1].val_bpb
    mirrored = tracker.shown.read_text()
    tracker.mirror(search.job.runs, search.attempts())
    assert tracker.shown.read_text() == mirrored
