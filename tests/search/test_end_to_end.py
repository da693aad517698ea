"""The whole story in a few seconds: text in, a report out; and what one sees on the way."""

import csv
import json
import os
import pty
import subprocess
import threading
from pathlib import Path

import pytest
from study_fixtures import command, environment, records, run, study_json
from wandb_files import read

from search.runs import load_records

THREE = (
    "study=null",
    "n_trials=3",
    "replicates.top=0",
    "replicates.seeds=2",
    "workers=2",
    "tracker=wandb",
    "report=true",
)


@pytest.mark.slow
def test_three_trials_leave_records_a_report_and_wandb_runs(tmp_path: Path) -> None:
    ended = run(tmp_path, *THREE)
    assert ended.returncode == 0, ended.stderr
    name = "depth_width_100k_smoke_text"
    folder = tmp_path / "outputs" / name

    content = study_json(tmp_path, name)
    assert content["finished"]
    assert [trial["state"] for trial in content["trials"]] == ["COMPLETE"] * 3
    with pytest.raises(ValueError, match="runs must be a folder of runs, but there is no"):
        load_records(tmp_path / "nowhere")
    frame = load_records(tmp_path / "runs")
    assert set(frame.key) == {trial["key"] for trial in content["trials"]}
    assert (frame.status == "finished").all()
    assert (abs(frame.parameters / 100_000 - 1) <= 0.0015).all()

    assert f"report: {Path('outputs') / name / 'report.html'}" in ended.stdout
    for file in ("report.html", "depth_vs_width.png", "depth_vs_width.pdf", "table.md"):
        assert (folder / file).stat().st_size > 100
    with open(folder / "trials.csv") as file:
        assert {row["key"] for row in csv.DictReader(file)} == set(records(tmp_path))

    shown = [read(path) for path in (folder / "wandb").glob("offline-run-*/run-*.wandb")]
    assert sorted(content["run"]["job_type"] for content in shown) == ["study"] + ["trial"] * 3

    left = {path.parent.name for path in (tmp_path / "runs").glob("*/weights.safetensors")}
    assert len(left) == 1
    assert not list((tmp_path / "runs").glob("*/checkpoint"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".cache",
        "outputs",
        "runs",
        "text.jsonl",
    ]


@pytest.mark.slow
def test_the_same_command_again_trains_nothing_and_says_the_same(tmp_path: Path) -> None:
    options = ("n_trials=2", "replicates.seeds=1")
    assert run(tmp_path, *options).returncode == 0
    before = {key: json.dumps(record) for key, record in records(tmp_path).items()}
    trials = study_json(tmp_path)["trials"]
    again = run(tmp_path, *options)
    assert again.returncode == 0, again.stderr
    assert "2 of 2 runs done" in again.stdout
    assert {key: json.dumps(record) for key, record in records(tmp_path).items()} == before
    assert study_json(tmp_path)["trials"] == trials


@pytest.mark.slow
def test_what_it_will_take_is_said_before_anything_is_trained(tmp_path: Path) -> None:
    ended = run(tmp_path, "n_trials=2", "replicates.seeds=1")
    lines = [line for line in ended.stdout.splitlines() if not line.startswith("data:")]
    assert lines[0].startswith("study tiny: 2 of 4 architectures of 100,000 parameters")
    assert "a grid leaves 2 out: n_trials=4 tries all, sampler=tpe chooses among all" in lines[0]
    assert lines[1].startswith("to do: 2 runs, 2.05k tokens")
    assert "(rough: " in lines[1]
    assert "of disk" in lines[1]
    assert lines[2] == "starting workers; a line follows when a run ends"
    assert [line.split(" (")[0] for line in lines[3:5]] == ["trial 0", "trial 1"]
    assert "; 2/2 done, best " in lines[4]
    other = run(tmp_path, "n_trials=1", "replicates.seeds=1", "study=other", "seed=1")
    assert "by 2 runs of about this size recorded on such a machine" in other.stdout


def test_fewer_trials_than_there_are_take_none_away(tmp_path: Path) -> None:
    options = ("replicates.seeds=1", "executor=inline", "executor.colour=red")
    wrong = run(tmp_path, "n_trials=2", *options)
    assert wrong.returncode == 2
    options = options[:-1]
    assert run(tmp_path, "n_trials=2", *options).returncode == 0
    fewer = run(tmp_path, "n_trials=1", *options)
    assert fewer.returncode == 0, fewer.stderr
    assert "n_trials=1 takes away none of the 2 runs that were begun" in fewer.stdout
    content = study_json(tmp_path)
    assert (content["n_trials"], content["planned"], len(content["trials"])) == (2, 2, 2), (
        "who copies the page's command gets what it shows"
    )


@pytest.mark.slow
def test_a_terminal_shows_a_bar_for_each_worker(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    options = ("workers=2", "n_trials=2", "replicates.seeds=1", "recipe.tokens=6400")
    process = subprocess.Popen(
        command(tmp_path, *options),
        cwd=tmp_path,
        env={**environment(), "TERM": "xterm", "COLUMNS": "160"},
        stdout=slave,
        stderr=subprocess.PIPE,
    )
    os.close(slave)
    pieces: list[bytes] = []

    def collect() -> None:
        while True:
            try:
                piece = os.read(master, 65536)
            except OSError:  # the terminal is gone
                return
            if not piece:
                return
            pieces.append(piece)

    reader = threading.Thread(target=collect)
    reader.start()
    _, err = process.communicate(timeout=600)
    reader.join()
    os.close(master)
    assert process.returncode == 0, err
    screen = b"".join(pieces).decode()
    for shown in ("left, trial 0, ", "left, trial 1, ", ", loss ", " tokens, ", "/s", "2/2 done"):
        assert shown in screen, shown
    assert "\x1b[?25h" in screen, "the cursor is shown again"


@pytest.mark.slow
def test_what_was_deleted_is_written_again(tmp_path: Path) -> None:
    options = ("n_trials=1", "replicates.seeds=1", "report=true")
    assert run(tmp_path, *options).returncode == 0
    files = [tmp_path / "outputs" / "tiny" / name for name in ("study.json", "report.html")]
    for file in files:
        file.unlink()
    assert run(tmp_path, *options).returncode == 0
    assert all(file.is_file() for file in files)
