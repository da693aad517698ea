"""Users' own files that are edited, or raise, while a study runs."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from study_fixtures import environment, open_search, records

from search.study.session import Session
from search.study.storage import read_attempts
from search.study.worker import work


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def events_of(search: Session, at_an_end: Callable[[], object] = int) -> list[dict[str, Any]]:
    """What a worker reports; `at_an_end` is called at the end of each run."""
    events: list[dict[str, Any]] = []

    def emit(event: dict[str, Any]) -> None:
        events.append(event)
        if event["event"] == "end":
            at_an_end()

    work(search.job, 0, emit, threading.Event())
    return events


def fatal_of(events: list[dict[str, Any]]) -> str:
    """The reason of a worker's last event, in one line."""
    assert events[-1]["event"] == "fatal", events[-1]
    assert "\n" not in events[-1]["reason"]
    return str(events[-1]["reason"])


def statuses(search: Session) -> list[str | None]:
    return [attempt.status for attempt in read_attempts(search.study)]


@pytest.mark.parametrize("spelt", ["./mine.py", "ABSOLUTE"])
def test_a_study_goes_on_with_a_file_whose_path_is_spelt_otherwise(here: Path, spelt: str) -> None:
    (here / "mine.py").write_text("from search.train.optimizers.adamw import OPTIMIZER\n")
    given = ("n_trials=2", "replicates.seeds=1")
    open_search(here, "recipe.optimizer=mine.py", *given).lock.release()
    name = spelt.replace("ABSOLUTE", str(here / "mine.py"))
    again = open_search(here, f"recipe.optimizer='{name}'", *given)
    assert events_of(again)[-1]["event"] == "done"
    again.lock.release()
    (here / "mine.py").write_text("from search.train.optimizers.adamw import OPTIMIZER  # new\n")
    with pytest.raises(ValueError, match=r"recipe\.optimizer was mine\.py@.*, is mine\.py@"):
        open_search(here, "recipe.optimizer=./mine.py", *given)


@pytest.mark.parametrize(
    ("option", "source"),
    [
        ("optimizer", "from search.train.optimizers.adamw import OPTIMIZER\n"),
        ("parametrisation", "from search.train.parametrisations.sp import PARAMETRISATION\n"),
    ],
)
def test_an_edited_file_of_the_recipe_ends_the_study_and_no_run(
    here: Path, option: str, source: str
) -> None:
    mine = here / "mine.py"
    mine.write_text(source)
    search = open_search(here, f"recipe.{option}=mine.py", "n_trials=3", "replicates.seeds=1")
    events = events_of(search, lambda: mine.write_text(source + "# edited\n"))
    assert f"{mine} must be as it was" in fatal_of(events)
    assert statuses(search) == ["finished", "interrupted"]
    assert [record["status"] for record in records(here).values()] == ["finished"]
    mine.write_text(source)
    assert events_of(search)[-1]["event"] == "done", "once restored it goes on"


def test_a_file_that_is_gone_or_broken_ends_the_study_as_an_edited_one(here: Path) -> None:
    mine = here / "mine.py"
    for spoil in (mine.unlink, lambda: mine.write_text("not Python")):
        mine.write_text("from search.train.optimizers.adamw import OPTIMIZER\n")
        search = open_search(here, "recipe.optimizer=mine.py", "n_trials=1", "replicates.seeds=1")
        search.lock.release()
        spoil()
        assert "mine.py" in fatal_of(events_of(search))
        assert not records(here)


OBJECTIVE = """
from search.objectives import Objective


class Loss(Objective):
    title, unit = "Loss", "nats"

    def value(self, record):
        return record.readings[-1].val_loss + {plus}


OBJECTIVE = Loss()
"""


def test_a_study_has_its_objective_of_one_source(here: Path) -> None:
    mine = here / "mine.py"
    mine.write_text(OBJECTIVE.format(plus=100))
    search = open_search(here, "objectives=[mine.py]", "n_trials=3", "replicates.seeds=1")
    events_of(search, lambda: mine.write_text(OBJECTIVE.format(plus=900)))
    assert [100 < a.value < 200 for a in read_attempts(search.study) if a.value] == [True] * 3
    assert search.job.targets.first.short == "mine"


@pytest.mark.parametrize(
    ("option", "source"),
    [
        ("objectives=[mine.py]", OBJECTIVE.format(plus=0)),
        ("sampler.name=mine.py", "from search.study.samplers.random import SAMPLER\n"),
        ("pruner.name=mine.py", "from search.study.pruners.none import PRUNER\n"),
    ],
)
def test_a_worker_that_starts_after_an_edit_refuses_it(
    here: Path, option: str, source: str
) -> None:
    mine = here / "mine.py"
    mine.write_text(source)
    search = open_search(here, option, "n_trials=1", "replicates.seeds=1")
    mine.write_text(source + "# edited\n")
    later = subprocess.run(
        [sys.executable, "-m", "search.study.worker"],
        input=f"0\n{search.job.to_json()}".encode(),
        env=environment(),
        capture_output=True,
    )
    (event,) = map(json.loads, later.stdout.splitlines())
    assert event["event"] == "fatal", later.stderr.decode()
    assert event["reason"].startswith(f"{mine} must be as it was")
    assert not records(here)


AT_HORIZONS = ("recipe.tokens=5120", "recipe.horizons=[0.5]", "n_trials=2", "replicates.seeds=1")
PRUNER = """
from optuna.pruners import BasePruner

from search.study.pruners import Pruner


class Broken(BasePruner):
    def prune(self, study, trial):
        raise KeyError("no such trial")


class Mine(Pruner):
    def make(self, recipe):
        return Broken()


PRUNER = Mine()
"""


@pytest.mark.parametrize(
    ("option", "source", "said"),
    [
        ("pruner.name=mine.py", PRUNER, "pruner=mine.py could not judge trial 0: KeyError"),
        ("objectives=[mine.py]", OBJECTIVE.format(plus="none"), "mine could not be read from run"),
    ],
)
def test_what_raises_while_runs_are_judged_ends_the_study(
    here: Path, option: str, source: str, said: str
) -> None:
    (here / "mine.py").write_text(source)
    search = open_search(here, option, *AT_HORIZONS)
    assert said in fatal_of(events_of(search))
    assert statuses(search) == ["interrupted"]
    assert not records(here)
    assert list((here / "runs").glob("*/checkpoint"))
