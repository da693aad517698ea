"""MPS for workers that share a GPU, with a script in the place of NVIDIA's daemon and no GPU."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from study_fixtures import open_search, run

from search.executors import Event, _mps, local
from search.executors.inline import Inline
from search.executors.local import Local
from search.executors.ray import Here, Ray
from search.study.job import Job
from search.study.pool import Ending, Pool
from search.study.session import Session
from search.train.placement import Placement

SHARED = Placement(workers_per_gpu=2)
CONTROL = """#!/bin/sh
read said
echo "$@$said $CUDA_MPS_PIPE_DIRECTORY $CUDA_MPS_LOG_DIRECTORY [$CUDA_VISIBLE_DEVICES]" >> {calls}
ls -d $CUDA_MPS_PIPE_DIRECTORY $CUDA_MPS_LOG_DIRECTORY > /dev/null || exit 1
echo "An instance of this daemon is already running"
exit {code}
"""
WORKER = """
import json, os
with open({seen!r}, "a") as file:
    file.write(json.dumps({{k: v for k, v in os.environ.items() if k.startswith("CUDA_")}}) + "\\n")
{then}
print(json.dumps({{"event": "done"}}))
"""


@pytest.fixture(autouse=True)
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (_mps, local):
        monkeypatch.setattr(module, "gpus", lambda: ["0"])
    for name in (_mps.PIPES, _mps.LOGS, _mps.VISIBLE):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        opened = open_search(folder, "n_trials=1", "replicates.seeds=1")
        yield opened
        opened.lock.release()


@pytest.fixture
def install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int], Callable[[], list[list[str]]]]:
    """Puts a daemon's program on the PATH that ends with a code; what it gives are the words of
    each call."""

    def installed(code: int = 0) -> Callable[[], list[list[str]]]:
        calls, program = tmp_path / "calls", tmp_path / "bin" / _mps.CONTROL
        program.parent.mkdir()
        program.write_text(CONTROL.format(calls=calls, code=code))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        return lambda: [line.split() for line in calls.read_text().splitlines()]

    return installed


class Workers(Local):
    """Workers that note their variables, and end."""

    def __init__(self, folder: Path, then: str = "") -> None:
        self.seen, self.then = folder / "seen", then

    def command(self) -> list[str]:
        return [sys.executable, "-c", WORKER.format(seen=str(self.seen), then=self.then)]

    def variables(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in self.seen.read_text().splitlines()]


def pooled(
    study: Session,
    executor: Local,
    placement: Placement,
    listener: Callable[[int, Event], None] = lambda *_: None,
) -> Ending:
    job: Job = replace(study.job, placement=placement)
    return Pool(job, study.study, 2, listener, executor).run()


def test_workers_of_a_gpu_share_a_daemon_that_ends_with_them(
    study: Session, tmp_path: Path, install: Any
) -> None:
    calls, workers = install(), Workers(tmp_path)
    assert pooled(study, workers, SHARED).kind == "done"
    begun, ended = calls()
    assert (begun[0], ended[0], begun[1:]) == ("-d", "quit", ended[1:])
    pipe, log, visible = begun[1:]
    assert visible == "[]"
    assert len(f"{pipe}/control_privileged") < 108, "the path of a socket"
    found = workers.variables()
    assert len(found) == 2
    for each in found:
        assert (each[_mps.PIPES], each[_mps.LOGS]) == (pipe, log)
        assert "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE" not in each
    assert not Path(pipe).parent.exists()
    assert _mps.PIPES not in os.environ


def fail(*_: Any) -> None:
    raise RuntimeError("the listener has failed")


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("listener", "error"), [(fail, RuntimeError), (interrupt, KeyboardInterrupt)]
)
def test_the_daemon_ends_where_the_study_breaks_off(
    study: Session, tmp_path: Path, install: Any, listener: Any, error: type[BaseException]
) -> None:
    calls = install()
    with pytest.raises(error):
        pooled(study, Workers(tmp_path), SHARED, listener)
    assert [words[0] for words in calls()] == ["-d", "quit"]
    assert not Path(calls()[0][1]).parent.exists()


def test_the_daemon_ends_where_workers_keep_dying(
    study: Session, tmp_path: Path, install: Any
) -> None:
    calls = install()
    assert pooled(study, Workers(tmp_path, "raise SystemExit(3)"), SHARED).kind == "crashed"
    assert [words[0] for words in calls()] == ["-d", "quit"]


def test_a_daemon_of_the_surroundings_is_used_and_left_alone(
    study: Session, tmp_path: Path, install: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, workers = install(), Workers(tmp_path)
    monkeypatch.setenv(_mps.PIPES, "/run/theirs")
    for how in ("auto", "yes"):
        assert pooled(study, workers, replace(SHARED, mps=how)).kind == "done"
    assert {each[_mps.PIPES] for each in workers.variables()} == {"/run/theirs"}
    with pytest.raises(FileNotFoundError):
        calls()


def test_a_daemon_that_does_not_start_is_one_line(
    study: Session, tmp_path: Path, install: Any
) -> None:
    calls, workers, said = install(1), Workers(tmp_path), []

    def listen(_: int, event: Event) -> None:
        if "text" in event:
            said.append(event["text"])

    assert pooled(study, workers, SHARED, listen).kind == "done"
    assert [words[0] for words in calls()] == ["-d"]
    assert said == [
        "workers use their GPU in turns, since MPS does not start: nvidia-cuda-mps-control: An "
        "instance of this daemon is already running"
    ]
    assert not any(_mps.PIPES in each for each in workers.variables())
    assert not Path(calls()[0][1]).parent.exists()


def test_a_daemon_that_was_asked_for_and_does_not_start_ends_the_study(
    study: Session, tmp_path: Path, install: Any
) -> None:
    install(1)
    workers = Workers(tmp_path)
    ending = pooled(study, workers, replace(SHARED, mps="yes"))
    assert ending.kind == "fatal"
    assert ending.reason.startswith("placement.mps=yes must be possible, but nvidia-cuda-mps")
    assert not workers.seen.exists(), "no worker has begun"


@pytest.mark.parametrize(
    "placement",
    [
        replace(SHARED, mps="no"),
        Placement(),
        Placement(device="cpu", workers_per_gpu=2),
    ],
)
def test_nothing_is_started_where_nothing_is_shared(
    study: Session, tmp_path: Path, install: Any, placement: Placement
) -> None:
    calls = install()
    assert pooled(study, Workers(tmp_path), placement).kind == "done"
    with pytest.raises(FileNotFoundError):
        calls()
    assert Here({}).mps_is_settled, "a node of Ray has workers of several actors"


def test_gpus_keep_their_names_for_daemon_and_workers(
    install: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon counts those that it sees from 0, and its clients' numbers are then of these."""
    calls = install()
    for given, seen in (("2,3", "[]"), ("GPU-1a,GPU-2b", "[GPU-1a,GPU-2b]")):
        monkeypatch.setenv(_mps.VISIBLE, given)
        _mps.Daemon.start().quit()
        assert calls()[-1][3] == seen


def test_what_cannot_be_had_is_refused_before_training(
    tmp_path: Path, install: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = replace(SHARED, mps="yes")
    with pytest.raises(ValueError, match="needs nvidia-cuda-mps-control, which is not on the PATH"):
        Local().require(asked, 2)
    install()
    Local().require(asked, 2)
    monkeypatch.setattr(_mps, "gpus", lambda: [])
    with pytest.raises(ValueError, match="needs a GPU, and none is seen"):
        Local().require(asked, 2)
    for elsewhere in (Ray(), Inline()):
        with pytest.raises(ValueError, match=r"placement\.mps must be auto or no with executor"):
            elsewhere.require(asked, 2)
    for given in ({}, {"workers_per_gpu": 2, "device": "cpu"}):
        with pytest.raises(ValueError, match="needs GPUs that several workers share, but got"):
            Placement(mps="yes", **given)
    ended = run(tmp_path, "placement.mps=yes", "placement.workers_per_gpu=2")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: placement.mps=yes needs GPUs that several")
    assert len(ended.stderr.splitlines()) == 1
