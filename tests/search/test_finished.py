"""A finished study says so without loading what only training and W&B need, and a study whose runs
others have left knows that they are there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from study_fixtures import command, environment, run, study_json

from search.models import best
from search.runs import WEIGHTS

ONLY_TO_TRAIN = {"torch", "wandb"}


def imports(folder: Path, *more: str) -> tuple[set[str], str]:
    """The packages that the command imports, and what it prints."""
    made = command(folder, *more)
    timed = [sys.executable, "-X", "importtime", *made[1:]]
    done = subprocess.run(
        timed, cwd=folder, env=environment(), capture_output=True, text=True, check=True
    )
    return set(re.findall(r"\|\s+(\w+)$", done.stderr, re.MULTILINE)), done.stdout


@pytest.mark.slow
def test_a_finished_study_loads_nothing_that_only_training_needs(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    first = run(tmp_path, "n_trials=2", "tracker=wandb", "executor=inline")
    assert first.returncode == 0, first.stderr
    assert "starting workers" in first.stdout
    kept = best("tiny", tmp_path / "outputs")
    assert (tmp_path / kept / WEIGHTS).is_file(), "keep=best has kept the weights of another run"
    loaded, said = imports(tmp_path, "n_trials=2", "tracker=wandb", "executor=inline")
    assert "2 of 2 runs done" in said
    assert loaded & ONLY_TO_TRAIN == set()
    assert "proxy smoke on" in said
    again = run(tmp_path, "n_trials=2", "executor=inline", "study=second")
    assert "0 of 2 runs done, 2 have records from before" in again.stdout
    assert "to do" not in again.stdout
    assert [trial["reused"] for trial in study_json(tmp_path, "second")["trials"]] == [True, True]
