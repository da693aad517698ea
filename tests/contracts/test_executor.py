"""What every executor must do. On your own: `--implementation mine.py`."""

import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from contract_fixtures import failures_of
from study_fixtures import ROOT, open_search, records, run, study_json, work

from search.executors import EXECUTORS, Event, ExecutorConfig, require_event
from search.executors.inline import Inside
from search.runs import read_metrics
from search.study.plan import distinct
from search.study.pool import MAX_DEATHS_IN_A_ROW, Ending, Pool
from search.study.storage import read_attempts, running
from search.train.placement import Placement, usual_workers

DOOR = EXECUTORS
CLUSTERS = {"ray": "ray_here", "slurm": "slurm_here"}
"""Of executors whose workers run on one, the fixture that starts it."""
MARKS = {name: pytest.mark.slow for name in CLUSTERS}
KINDS = {"start", "step", "ask", "end", "idle", "print", "done", "fatal"}
ONE_RUN = ("n_trials=1", "replicates.seeds=1", "recipe.tokens=38400", "placement.checkpoint_s=0.1")
"""Three hundred steps: of some executors events arrive a little late."""


@pytest.fixture(autouse=True)
def its_cluster(request: pytest.FixtureRequest) -> None:
    name = getattr(request.node, "callspec", None) and request.node.callspec.params
    if name and (fixture := CLUSTERS.get(name.get("implementation"))):
        request.getfixturevalue(fixture)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which this process starts workers, wherever they run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


@pytest.fixture(autouse=True)
def interrupts_end_the_test() -> None:
    """Also where an executor takes them."""
    before = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is before


class Studied:
    """A small study whose workers an executor runs, and what they report."""

    def __init__(self, implementation: str, folder: Path, *given: str) -> None:
        self.session = open_search(folder, f"executor.name='{implementation}'", *given)
        self.session.lock.release()
        self.events: list[tuple[int, Event]] = []

    def run(self, act: Callable[[Pool, int, Event], None] = lambda *_: None) -> Ending:
        """Work through it; `act` sees each event."""
        job = self.session.job

        def listen(number: int, event: Event) -> None:
            self.events.append((number, event))
            act(pool, number, event)

        pool = Pool(job, self.session.study, job.workers, listen, self.session.executor)
        return pool.run()

    @property
    def kinds(self) -> list[str]:
        return [event["event"] for _, event in self.events]


def once(kind: str, act: Callable[[Pool, int], None]) -> Callable[[Pool, int, Event], None]:
    """Acts on the first event of a kind."""
    seen: list[Event] = []

    def acting(pool: Pool, number: int, event: Event) -> None:
        if event["event"] == kind and not seen:
            seen.append(event)
            act(pool, number)

    return acting


def curve(folder: Path) -> list[dict[str, Any]]:
    """Every number of the only run's curve that does not depend on the clock."""
    (run_folder,) = (folder / "runs").iterdir()
    return [{k: v for k, v in x.items() if k != "elapsed_s"} for x in read_metrics(run_folder)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The curve of `ONE_RUN` when nothing happens to it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        work(open_search(folder, *ONE_RUN))
    return curve(folder)


def test_it_runs_a_worker_at_least_and_no_more_than_are_asked_for(implementation: str) -> None:
    executor = ExecutorConfig(name=implementation).make()
    slots = [executor.slots(workers) for workers in (1, 2, 5)]
    assert all(1 <= n <= asked for n, asked in zip(slots, (1, 2, 5), strict=True)), slots
    usual = getattr(executor, "usual_workers", usual_workers)
    assert usual(Placement(device="cpu")) >= 1, "what workers=auto is"


def test_an_option_that_it_does_not_take_is_refused_in_one_line(implementation: str) -> None:
    config = ExecutorConfig(name=implementation, options={"no_such_option": 1})
    with pytest.raises(ValueError, match=r"executor\.no_such_option must be an option") as error:
        config.make()
    assert "\n" not in str(error.value)


def test_a_workers_environment_is_text(implementation: str, here: Path) -> None:
    studied = Studied(implementation, here)
    variables = studied.session.executor.environment(studied.session.job, 0)
    assert all(isinstance(text, str) for pair in variables.items() for text in pair), variables


@pytest.mark.slow
def test_a_study_ends_with_all_its_runs(implementation: str, here: Path) -> None:
    studied = Studied(implementation, here, "n_trials=3", "replicates.seeds=1", "workers=2")
    assert studied.run() == Ending("done")
    runs = distinct(read_attempts(studied.session.study))
    assert [run.state for run in runs] == ["COMPLETE"] * 3
    assert set(records(here)) == {run.key for run in runs}


@pytest.mark.slow
def test_events_arrive_in_their_order(implementation: str, here: Path) -> None:
    studied = Studied(implementation, here, "n_trials=2", "replicates.seeds=1", "workers=1")
    studied.run()
    assert set(studied.kinds) <= KINDS
    told = [kind for kind in studied.kinds if kind in ("start", "end", "done")]
    assert told == ["start", "end", "start", "end", "done"]
    ended = [event["key"] for _, event in studied.events if event["event"] == "end"]
    for key in ended:
        steps = [e["step"] for _, e in studied.events if e["event"] == "step" and e["key"] == key]
        assert steps == sorted(steps)
        assert steps[-1] == 8


@pytest.mark.slow
def test_trials_belong_to_the_worker_by_its_name(implementation: str, here: Path) -> None:
    studied = Studied(implementation, here, *ONE_RUN)
    owned: list[int] = []

    def look(pool: Pool, number: int) -> None:
        owned.append(len(running(studied.session.study, pool.workers[number].name)))

    studied.run(once("step", look))
    assert owned == [1]


@pytest.mark.slow
def test_a_stopped_run_leaves_a_checkpoint_and_goes_on_bit_for_bit(
    implementation: str, here: Path, undisturbed: list[dict[str, Any]]
) -> None:
    studied = Studied(implementation, here, *ONE_RUN)
    interrupt = once("step", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    assert studied.run(interrupt).kind == "interrupted"
    (attempt,) = read_attempts(studied.session.study)
    assert (attempt.state, attempt.status) == ("FAIL", "interrupted")
    assert list((here / "runs").glob("*/checkpoint/state.pt"))
    assert Studied(implementation, here, *ONE_RUN).run() == Ending("done")
    assert curve(here) == undisturbed


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_its_trial_goes_on(
    implementation: str, here: Path, undisturbed: list[dict[str, Any]]
) -> None:
    studied = Studied(implementation, here, *ONE_RUN)
    kill = once("step", lambda pool, number: pool.workers[number].kill())
    assert studied.run(kill) == Ending("done")
    (death,) = [event for _, event in studied.events if event["event"] == "death"]
    assert death["reason"]
    assert [a.state for a in read_attempts(studied.session.study)] == ["FAIL", "COMPLETE"]
    assert curve(here) == undisturbed


@pytest.mark.slow
def test_workers_that_die_at_once_end_the_study(implementation: str, here: Path) -> None:
    """Their last words say why: the data is gone."""
    studied = Studied(implementation, here)
    shutil.rmtree(studied.session.job.data)
    ending = studied.run()
    assert ending.kind == "crashed"
    assert f"{MAX_DEATHS_IN_A_ROW} workers died in a row" in ending.reason
    assert str(studied.session.job.data.name) in ending.reason


# --- Others than the project's ---------------------------------------------------------------

MINE = '''
"""mine.py: workers of this machine that leave others the processor."""

from search.executors.local import Local


class Polite(Local):
    def __init__(self, niceness: int = 10) -> None:
        self.niceness = niceness

    def command(self) -> list[str]:
        return ["nice", f"-n{self.niceness}", *super().command()]


EXECUTOR = Polite
'''


@pytest.mark.slow
def test_an_executor_of_ones_own_runs_a_search(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    given = ("executor=mine.py", "+executor.options.niceness=7", "n_trials=2", "replicates.seeds=1")
    done = run(tmp_path, *given)
    assert done.returncode == 0, done.stderr
    content = study_json(tmp_path)
    assert content["config"]["executor"] == {"name": "mine.py", "options": {"niceness": 7}}
    assert [trial["state"] for trial in content["trials"]] == ["COMPLETE"] * 2


@pytest.mark.slow
def test_the_inline_executor_leaves_what_the_local_one_leaves(tmp_path: Path) -> None:
    numbers = []
    for name in ("inline", "local"):
        (tmp_path / name).mkdir()
        done = run(tmp_path / name, f"executor={name}", "n_trials=2", "replicates.seeds=1")
        assert done.returncode == 0, done.stderr
        found = records(tmp_path / name)
        numbers.append({key: record["readings"] for key, record in found.items()})
    assert numbers[0] == numbers[1]


def test_a_bad_option_of_ones_own_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    done = run(tmp_path, "executor=mine.py", "+executor.options.speed=3")
    assert done.returncode == 2
    assert "executor.speed must be an option of executor=mine.py, but is none" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "outputs").exists()


BABBLER = """
from search.executors.inline import Inline


class Worker:
    name, log = "nobody", "nowhere"

    def __init__(self, deliver):
        for event in ({"event": "idle"}, "hello", {"step": 3}, {"event": "done"}, None):
            deliver(event)

    def stop(self): ...
    def kill(self): ...
    def last_words(self): return ""


class Babbler(Inline):
    def start(self, job, number, deliver):
        return Worker(deliver)


EXECUTOR = Babbler
"""


def test_what_is_no_event_is_shown_and_does_no_harm(here: Path) -> None:
    (here / "babbler.py").write_text(BABBLER)
    studied = Studied("babbler.py", here)
    assert studied.run() == Ending("done")
    assert studied.kinds == ["idle", "print", "print", "done"]
    said = [event["text"] for _, event in studied.events if event["event"] == "print"]
    assert said == [
        "worker 1: an event must be a mapping with a name as `event`, but got 'hello'",
        "worker 1: an event must be a mapping with a name as `event`, but got {'step': 3}",
    ]


def test_an_event_of_a_kind_has_what_is_shown_of_it() -> None:
    for event in ({"event": "fatal"}, {"event": "print", "text": 3}, {"event": "ask"}):
        with pytest.raises(ValueError, match="must have text as"):
            require_event(event)
    with pytest.raises(ValueError, match=r"must be one of start, step, .* but got"):
        require_event({"event": "end of it"})


START = {"number": 0, "key": "a", "layers": 2, "width": 8, "seed": 0}
EVENTS: dict[str, dict[str, Any]] = {
    "start": START,
    "step": {"step": 1, "of": 2, "tokens": 8, "tokens_per_s": 1.0, "train_loss": 2.0},
    "end": {
        **START,
        "status": "failed",
        "reason": None,
        "value": None,
        "reused": False,
        "seconds": 0,
    },
}


@pytest.mark.parametrize(("kind", "lost"), [(k, x) for k, e in EVENTS.items() for x in e])
def test_an_event_that_lacks_what_is_shown_of_it_is_refused(kind: str, lost: str) -> None:
    whole = {"event": kind, **EVENTS[kind]}
    assert require_event(whole) == whole
    without = {name: value for name, value in whole.items() if name != lost}
    with pytest.raises(ValueError, match=rf"kind {kind} must have .* as `{lost}`"):
        require_event(without)


def test_a_start_and_an_end_without_their_fields_are_shown_and_do_no_harm(here: Path) -> None:
    bad = '{"event": "start", "number": 0}, {"event": "end", "number": 0}, '
    (here / "babbler.py").write_text(BABBLER.replace('{"event": "idle"}, ', bad))
    studied = Studied("babbler.py", here)
    assert studied.run() == Ending("done")
    said = [event["text"] for _, event in studied.events if event["event"] == "print"]
    assert "worker 1: an event of kind start must have text as `key`" in said[0]
    assert "worker 1: an event of kind end must have text as `key`" in said[1]


def test_a_worker_ends_once_however_often_its_end_is_delivered(here: Path) -> None:
    twice = '{"event": "fatal"}, {"event": "done"}, None, None, {"event": "idle"}'
    assert BABBLER.count('{"event": "done"}, None') == 1
    (here / "babbler.py").write_text(BABBLER.replace('{"event": "done"}, None', twice))
    studied = Studied("babbler.py", here)
    assert studied.run() == Ending("done")
    assert studied.kinds == ["idle", "print", "print", "print", "done"]


def test_no_kill_keeps_the_end_of_an_inline_worker_from_its_pool(here: Path) -> None:
    ending, killed, ended = threading.Event(), threading.Event(), threading.Event()

    def deliver(event: Event | None) -> None:
        if event is None:
            ending.set()
            while not killed.wait(0.01):
                pass
            ended.set()

    worker = Inside(Studied("inline", here).session.job, 0, deliver)
    worker.stop()
    worker.start()
    assert ending.wait(60)
    worker.kill()
    killed.set()
    assert ended.wait(5)


BAD = """
from search.executors.inline import Inline, Inside


class Worker(Inside):
    def kill(self): ...
    def last_words(self): return "who knows"


class Bad(Inline):
    def __init__(self, **options): ...

    def slots(self, workers):
        return workers + 1

    def environment(self, job, number):
        return {"OMP_NUM_THREADS": 1}

    def start(self, job, number, deliver):
        held = []
        worker = Worker(job, number, lambda event: self.shuffled(event, held, deliver))
        worker.start()
        return worker

    def shuffled(self, event, held, deliver):
        held.append(event)
        if event is None:
            for event in [*sorted(held[:-1], key=str), None]:
                deliver(event)


EXECUTOR = Bad
"""


@pytest.mark.slow
def test_the_suite_says_what_is_wrong_with_a_bad_one(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text(BAD)
    assert failures_of(Path(__file__), path) >= {
        "test_it_runs_a_worker_at_least_and_no_more_than_are_asked_for",
        "test_an_option_that_it_does_not_take_is_refused_in_one_line",
        "test_a_workers_environment_is_text",
        "test_events_arrive_in_their_order",
        "test_a_worker_that_dies_is_replaced_and_its_trial_goes_on",
        "test_workers_that_die_at_once_end_the_study",
    }
