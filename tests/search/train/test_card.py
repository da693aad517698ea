"""What is known of a GPU by a process that opens no CUDA context there. No GPU is needed."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from study_fixtures import open_search
from train_fixtures import ARCH, RECIPE, data, run_of  # noqa: F401

from ablations.config import AblationConfig
from ablations.help import describe_table
from search.data.config import DataConfig
from search.data.packed import Data
from search.record import Record, Run
from search.runs import write_record
from search.show.estimate import recorded_speeds
from search.states import Status
from search.study.job import Job
from search.study.session import Session
from search.train import card, loop, placement
from search.train.card import Card
from search.train.memory import HEADROOM, peak_memory
from search.train.placement import Placement

H100 = Card(
    name="NVIDIA H100 80GB HBM3", memory=80 * 10**9, flops_per_s={"bf16": 7e14, "fp32": 5e13}
)
ON_CARD = ("placement.device=auto", "placement.compile=auto", "executor=local")


def printing(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", f"import sys; print({text!r})")


@pytest.fixture
def an_h100(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A GPU is seen, another process says which it is, and this one may not initialise CUDA."""

    def initialised() -> None:
        raise AssertionError("CUDA was initialised")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "_lazy_init", initialised)
    monkeypatch.setattr(placement, "gpus", lambda: ["0"])
    monkeypatch.setattr(card, "COMMAND", printing(json.dumps(asdict(H100))))
    card.card.cache_clear()
    yield
    card.card.cache_clear()


def test_the_estimate_of_a_study_initialises_no_cuda(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, an_h100: None
) -> None:
    monkeypatch.chdir(tmp_path)
    session = open_search(tmp_path, *ON_CARD)
    said = str(session.estimate())
    session.lock.release()
    assert session.placement.device == "cuda"
    assert "memory: about" in said
    with pytest.raises(AssertionError, match="CUDA was initialised"):
        torch.cuda.current_device()


def test_the_help_of_tables_initialises_no_cuda(tmp_path: Path, an_h100: None) -> None:
    small = replace(RECIPE, tokens=1024)
    text = DataConfig(vocab_size=2048)
    config = AblationConfig(table="help", data=text, recipe=small, runs=str(tmp_path))
    said = describe_table("heads", config)
    assert "(rough: 40% of a measured matrix product)" in said


def test_a_process_that_trains_asks_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `card` reads is what `Card.here` prints."""
    found = SimpleNamespace(name="a card", total_memory=24 * 10**9)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_properties", {3: found}.__getitem__)
    monkeypatch.setattr(
        card, "product_speed", lambda device, side, precision: float(len(precision))
    )
    here = Card.here()
    monkeypatch.setattr(card, "COMMAND", printing("a warning\n" + json.dumps(asdict(here))))
    card.card.cache_clear()
    assert card.card() == here
    assert (here.name, here.memory) == ("a card", 24 * 10**9)
    card.card.cache_clear()


def test_a_gpu_that_does_not_answer_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "import sys; sys.exit('Traceback\\nCUDA error: all devices are busy')"
    monkeypatch.setattr(card, "COMMAND", (sys.executable, "-c", said))
    card.card.cache_clear()
    with pytest.raises(
        ValueError, match=r"must answer, but: CUDA error: all .*; free it, or"
    ) as at:
        card.card()
    assert "\n" not in str(at.value)


def test_a_product_is_measured_in_flops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three products, of which the first and the last had to wait."""
    looks = iter([0.0, 0.0, 0.1, 0.1, 0.11, 0.11, 0.3, 0.3])
    monkeypatch.setattr(card, "time", SimpleNamespace(perf_counter=lambda: next(looks)))
    assert card.product_speed("cpu", 16, "fp32") == pytest.approx(2 * 16**3 / 0.01)


def test_speeds_of_a_gpu_are_those_of_its_name(tmp_path: Path, an_h100: None) -> None:
    for seed, name in enumerate((H100.name, "another card")):
        device = {"name": name, "device": "cuda", "threads": 1}
        run = Run(architecture=ARCH, recipe=RECIPE, data_fingerprint="a", seed=seed)
        record = Record(run=run, status=Status.FINISHED, device=device, train_s=seed + 1.0)
        write_record(tmp_path / run.key, record)
    work: Any = SimpleNamespace(typical=run)
    (speed,) = recorded_speeds(work, Placement(device="cuda", threads=1), tmp_path)
    assert speed == pytest.approx(run.train_flops)


# --- Workers that share it ------------------------------------------------------------------------


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "cores", lambda: 64)


def opened(folder: Path, monkeypatch: pytest.MonkeyPatch, *given: str) -> Session:
    monkeypatch.chdir(folder)
    session = open_search(folder, *ON_CARD, *given)
    session.lock.release()
    return session


@pytest.mark.parametrize(("room", "shared"), [(0.5, 1), (3.5, 3), (100, 8)])
def test_as_many_workers_share_a_gpu_as_the_largest_run_leaves_room_for(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    an_h100: None,
    cores: None,
    room: float,
    shared: int,
) -> None:
    """By the peaks of all architectures, of which the largest alone is looked at."""
    auto = ("workers=auto", "placement.workers_per_gpu=auto")
    work = opened(tmp_path, monkeypatch, "study=plain").work
    peaks = [peak_memory(a, work.recipe, work.recipe.batch_size).bytes for a in work.architectures]
    known = replace(H100, memory=int(room * max(peaks) / HEADROOM) + 1)
    monkeypatch.setattr(placement, "card", lambda: known)
    session = opened(tmp_path, monkeypatch, *auto)
    assert session.job.workers == session.job.placement.workers_per_gpu == shared
    assert session.placement.workers_per_gpu == shared
    assert Job.from_json(session.job.to_json()).placement == session.job.placement
    said = str(session.estimate())
    assert (f"\n{shared} workers share each GPU, with " in said) is (shared > 1)


def test_no_more_share_it_than_there_are_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, an_h100: None
) -> None:
    monkeypatch.setattr(placement, "cores", lambda: 5)
    monkeypatch.setattr(placement, "gpus", lambda: ["0", "1"])
    given = Placement(workers_per_gpu="auto")
    assert placement.share_gpus(given, None, [ARCH], RECIPE).workers_per_gpu == 2


def test_workers_that_are_only_counted_share_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, an_h100: None
) -> None:
    assert opened(tmp_path, monkeypatch, "workers=8").job.placement.workers_per_gpu == 8
    monkeypatch.setattr(placement, "gpus", lambda: ["0", "1", "2"])
    for given, shared in ((1, 3), (4, 4), ("auto", 3)):
        found = placement.share_gpus(Placement(workers_per_gpu=given), 8, [], RECIPE)
        assert found.workers_per_gpu == shared


def test_without_a_gpu_nothing_is_shared() -> None:
    cpu = Placement(device="cpu")
    assert placement.share_gpus(cpu, 8, [], RECIPE) == cpu
    auto = replace(cpu, workers_per_gpu="auto")
    assert placement.share_gpus(auto, None, [], RECIPE) == cpu
    assert placement.usual_workers(replace(auto, gpus_per_run=2)) >= 1
    with pytest.raises(ValueError, match="workers_per_gpu must be a number or auto, but got 'a"):
        Placement(workers_per_gpu="all")


@pytest.mark.parametrize(("given", "fractions"), [(4, [0.25]), (1, []), ("auto", [])])
def test_a_worker_keeps_to_its_share_of_the_memory(
    data: Data,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: int | str,
    fractions: list[float],
) -> None:
    """Before anything of its run is on the GPU."""
    asked: list[float] = []

    class Begun(KeyboardInterrupt): ...

    def begin(*given: Any) -> None:
        raise Begun

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", asked.append)
    monkeypatch.setattr(loop, "Training", begin)
    placed = Placement(device="cuda", workers_per_gpu=given)
    with pytest.raises(Begun):
        loop._train(run_of(data), data, tmp_path, placed, None, None, lambda: None, None)
    assert asked == fractions
