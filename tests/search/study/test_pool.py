"""When a pool of workers gives up, and when it does not."""

import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest
from study_fixtures import open_search

from search.executors import Deliver, Event
from search.study.pool import MAX_DEATHS_IN_A_ROW, Ending, Pool
from search.study.session import Session

MANY = 2 * MAX_DEATHS_IN_A_ROW + 1


@dataclass
class Dead:
    """A worker that has ended by the time it is looked at."""

    name: str
    log: str = ""

    def stop(self) -> None: ...

    def kill(self) -> None: ...

    def last_words(self) -> str:
        return "its host was taken"


@dataclass
class Dying:
    """An executor whose workers each take the study's run as far as `saved` says, and die."""

    study: optuna.Study
    saved: Iterator[int]
    started: int = 0

    def start(self, job: Any, number: int, deliver: Deliver) -> Dead:
        self.started += 1
        worker = Dead(f"host:{self.started}")
        if (tokens := next(self.saved, None)) is None:
            deliver({"event": "done"})
        else:
            train(self.study, worker.name, tokens)
        deliver(None)
        return worker

    def close(self) -> None: ...


@dataclass
class Reporting(Dying):
    """One whose hosts replace their workers themselves, and report all deaths at once."""

    events: list[Event] = field(default_factory=list)

    def start(self, job: Any, number: int, deliver: Deliver) -> Dead:
        for tokens in self.saved:
            lost = train(self.study, "another:1", tokens)
            self.study.tell(lost, state=optuna.trial.TrialState.FAIL)
            self.events.append({"event": "death", "reason": "its host was taken", "log": ""})
        for event in (*self.events, {"event": "done"}, None):
            deliver(event)
        return Dead("host:0")


def train(study: optuna.Study, worker: str, tokens: int) -> optuna.Trial:
    """A trial in progress, whose checkpoint has so many tokens."""
    trial = study.ask()
    kept = {"worker": f"{worker}:", "key": "run", "cell": dict(CELL), "saved": tokens}
    for name, value in kept.items():
        trial.set_user_attr(name, value)
    return trial


CELL = {"num_blocks": 2}


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.chdir(tmp_path)
    session = open_search(tmp_path)
    session.lock.release()
    return session


def pooled(search: Session, kind: type[Dying], saved: Iterator[int]) -> Ending:
    executor: Any = kind(search.study, saved)
    return Pool(search.job, search.study, 1, lambda *_: None, executor).run()


@pytest.mark.parametrize("kind", [Dying, Reporting])
def test_workers_that_die_while_their_run_comes_further_end_no_study(
    search: Session, kind: type[Dying]
) -> None:
    assert pooled(search, kind, iter(range(1, MANY + 1))) == Ending("done")


@pytest.mark.parametrize("kind", [Dying, Reporting])
@pytest.mark.parametrize("saved", [[0] * MANY, [7] * MANY, [7, 8, 9, *[9] * MANY]])
def test_workers_that_die_where_no_run_comes_further_end_it(
    search: Session, kind: type[Dying], saved: list[int]
) -> None:
    ending = pooled(search, kind, iter(saved))
    assert ending.kind == "crashed"
    assert ending.reason.startswith(f"{MAX_DEATHS_IN_A_ROW} workers died in a row, ")


@dataclass
class Stopped(Dead):
    """A worker that goes on until it is asked to stop."""

    asked: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        self.asked.set()


def test_workers_are_stopped_while_a_listener_takes_its_time(search: Session) -> None:
    worker = Stopped("host:1")

    class Waiting(Dying):
        def start(self, job: Any, number: int, deliver: Deliver) -> Dead:
            def work() -> None:
                deliver({"event": "idle"})
                worker.asked.wait()
                deliver(None)

            threading.Thread(target=work, daemon=True).start()
            return worker

    def listener(_: int, event: Event) -> None:
        if event["event"] == "idle":
            signal.raise_signal(signal.SIGINT)
            assert worker.asked.wait(timeout=60), "it has heard nothing before this ends"

    executor: Any = Waiting(search.study, iter([]))
    assert Pool(search.job, search.study, 1, listener, executor).run().kind == "interrupted"
