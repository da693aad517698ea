"""Checkpoints are written while training goes on: what they hold, who waits, what goes wrong."""

import errno
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from study_fixtures import open_search, work
from torch import Tensor
from train_fixtures import HERE, RECIPE, losses, run_of

from search.data.packed import Data
from search.study.storage import read_attempts
from search.train import checkpoint, loop
from search.train.loop import Stop, Training, train

WRITE = checkpoint.write
BY_ITSELF = replace(HERE, checkpoint_s=None)
FULL = OSError(errno.ENOSPC, "No space left on device")


class Killed(BaseException):
    """As SIGKILL in this process: nothing of the run handles it."""


class Slow:
    """In place of `checkpoint.write`: begins to write when `go` is set."""

    def __init__(self, error: Exception | None = None) -> None:
        self.go, self.error = threading.Event(), error
        self.steps: list[int] = []
        """That were written."""

    def __call__(self, folder: Path, key: str, saved: dict[str, Any], **how: Any) -> None:
        assert self.go.wait(60), "training waits for the write"
        if self.error is not None:
            raise self.error
        WRITE(folder, key, saved, **how)
        self.steps.append(saved["state"]["step"])


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint of its own accord begins after the first step."""
    monkeypatch.setattr(loop, "CHECKPOINT_S", 0.0)


def at(step: int, do: Callable[[], None]) -> Callable[[dict[str, Any]], None]:
    def progress(event: dict[str, Any]) -> None:
        if event["step"] == step:
            do()

    return progress


def stop() -> None:
    raise Stop


def kill() -> None:
    raise Killed


def saved_in(folder: Path) -> dict[str, Any]:
    saved: dict[str, Any] = torch.load(folder / "checkpoint/state.pt", weights_only=True)
    return saved


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_steps_taken_during_a_write_do_not_change_what_is_written(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, soon: None, optimizer: str
) -> None:
    run, slow = run_of(data, optimizer=optimizer), Slow()
    with pytest.raises(Stop):
        train(run, data, tmp_path / "stopped", placement=BY_ITSELF, progress=at(1, stop))
    monkeypatch.setattr(checkpoint, "write", slow)

    def progress(event: dict[str, Any]) -> None:
        if event["step"] == 9:
            slow.go.set()
            raise Killed

    with pytest.raises(Killed):
        train(run, data, tmp_path / "killed", placement=BY_ITSELF, progress=progress)
    assert slow.steps == [1], "eight steps were taken meanwhile"
    written, expected = (saved_in(tmp_path / name) for name in ("killed", "stopped"))
    for part in ("weights", "optimizer"):
        assert equal(written[part], expected[part]), part
    assert written["optimizer"]["state"], "which has moments"
    train(run, data, tmp_path / "killed", placement=BY_ITSELF)
    train(run, data, tmp_path / "whole", placement=replace(HERE, checkpoint_s=1e6))
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def test_a_snapshot_shares_nothing_with_what_it_is_of() -> None:
    kept = {"a": [torch.ones(2)], "b": (torch.ones(()), {"c": torch.ones(1)}), "d": {1}}
    copied = checkpoint.snapshot(kept)
    for tensor in (kept["a"][0], kept["b"][0], kept["b"][1]["c"]):  # type: ignore[index]
        tensor.zero_()
    kept["d"].add(2)  # type: ignore[attr-defined]
    assert copied == {"a": [pytest.approx(torch.ones(2))], "b": (1, {"c": 1}), "d": {1}}


def test_one_that_was_asked_for_waits_for_the_one_before(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow()
    slow.go.set()
    monkeypatch.setattr(checkpoint, "write", slow)
    record = train(run_of(data), data, tmp_path, placement=HERE)
    assert record.status == "finished"
    assert slow.steps == list(range(1, RECIPE.steps + 1))


@pytest.mark.parametrize("leaves", [Stop, RuntimeError, Killed])
def test_whatever_leaves_training_waits_for_the_write(
    data: Data,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    soon: None,
    leaves: type[BaseException],
) -> None:
    slow, step = Slow(), Training.timed_step

    def timed_step(training: Training) -> Any:
        if training.state.step == 5:
            threading.Timer(0.2, slow.go.set).start()
            if leaves is not Stop:
                raise leaves
        return step(training)

    monkeypatch.setattr(checkpoint, "write", slow)
    monkeypatch.setattr(Training, "timed_step", timed_step)
    recorded = leaves is RuntimeError
    with nullcontext() if recorded else pytest.raises(leaves):
        train(run_of(data), data, tmp_path, placement=BY_ITSELF, progress=at(6, stop))
    assert (tmp_path / "record.json").exists() == recorded
    assert slow.steps == ([1, 6] if leaves is Stop else [1])
    assert saved_in(tmp_path)["state"]["step"] == slow.steps[-1]
    assert not [thread for thread in threading.enumerate() if "checkpoint" in thread.name]


@pytest.mark.parametrize("error", [FULL, Stop()])
def test_what_goes_wrong_with_a_write_ends_training_at_its_next_step(
    data: Data,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    soon: None,
    error: Exception,
) -> None:
    slow, steps = Slow(error), []
    monkeypatch.setattr(checkpoint, "write", slow)

    def progress(event: dict[str, Any]) -> None:
        steps.append(event["step"])
        if event["step"] == 4:
            slow.go.set()
        while slow.go.is_set() and writing[0].busy:
            time.sleep(0.001)

    writing: list[checkpoint.Writer] = []
    begin = checkpoint.Writer.begin

    def noted(writer: checkpoint.Writer, *saved: Any, **how: Any) -> None:
        writing.append(writer)
        begin(writer, *saved, **how)

    monkeypatch.setattr(checkpoint.Writer, "begin", noted)
    with pytest.raises(type(error)) as raised:
        train(run_of(data), data, tmp_path, placement=BY_ITSELF, progress=progress)
    assert getattr(raised.value, "errno", None) == getattr(error, "errno", None)
    assert steps == [1, 2, 3, 4]
    assert not (tmp_path / "record.json").exists(), "it is no outcome of the run"
    assert not (tmp_path / "error.txt").exists()


def test_a_full_disk_is_recognised_where_torch_hides_it(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, soon: None
) -> None:
    """Also where the run is being stopped for another reason."""

    def write(*_: Any, **__: Any) -> None:
        try:
            raise FULL
        except OSError:
            raise RuntimeError("[enforce fail at inline_container.cc:863]")  # noqa: B904

    monkeypatch.setattr(checkpoint, "write", write)
    with pytest.raises(OSError, match="No space left"):
        train(run_of(data), data, tmp_path, placement=BY_ITSELF, progress=at(1, stop))


def test_a_checkpoint_is_said_to_be_saved_once_it_is(data: Data, tmp_path: Path) -> None:
    said: list[int] = []

    def saved(tokens: int) -> None:
        state = saved_in(tmp_path)["state"]
        assert tokens == state["step"] * RECIPE.tokens_per_step
        said.append(tokens)

    train(run_of(data), data, tmp_path, placement=HERE, saved=saved)
    assert said == [step * RECIPE.tokens_per_step for step in range(1, RECIPE.steps + 1)]


def test_they_are_rarer_where_they_hold_training_up(data: Data, tmp_path: Path) -> None:
    training = Training(run_of(data), data, tmp_path, BY_ITSELF)
    training.snapshot_s, training.writer.cpu_s = 0.05, 0.05
    assert training.interval_s == 20
    training.writer.cpu_s = 3.0
    assert training.interval_s == pytest.approx(305), "a hundredth of the time"
    training.placement = replace(training.placement, device="cuda")
    assert training.interval_s == 20, "another core has the time to write it"
    training.snapshot_s = 3.0
    assert training.interval_s == pytest.approx(300)
    training.placement = replace(training.placement, checkpoint_s=7)
    assert training.interval_s == 7


def test_a_trial_says_how_far_its_last_checkpoint_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    search = open_search(
        tmp_path, "n_trials=1", "replicates.seeds=1", "placement.checkpoint_s=0.001"
    )
    work(search)
    search.lock.release()
    (attempt,) = read_attempts(search.study)
    assert (attempt.state, attempt.saved) == ("COMPLETE", 8 * 4 * 32)
