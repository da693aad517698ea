"""What a start says of its cost on a GPU, where one is seen or not."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from train_fixtures import ARCH

from search.recipe import Recipe
from search.record import Record, Run
from search.runs import write_record
from search.show.estimate import Estimate, launches_in_words, recorded_speeds, together
from search.states import Status
from search.train.placement import Placement
from search.train.provenance import device_name
from space.arch import Architecture

CARD = Placement(device="cuda", micro_batch=16)
LAB = Recipe(tokens=10**9, seq_len=2048, batch_size=256, precision="bf16")
H100 = 0.4 * 989e12


def run_of(architecture: Architecture) -> Run:
    return Run(architecture=architecture, recipe=LAB, data_fingerprint="a")


def test_a_small_model_is_said_to_leave_a_gpu_idle() -> None:
    line = launches_in_words(run_of(ARCH), CARD, H100)
    assert line
    assert "recipe.batch_size" in line
    assert "placement.workers_per_gpu" in line


def test_a_larger_one_or_a_slower_gpu_is_not() -> None:
    large = Architecture.from_yaml("mobilellm_125m")
    assert launches_in_words(run_of(large), CARD, H100) is None
    assert launches_in_words(run_of(ARCH), CARD, H100 / 1e4) is None


def test_fewer_sequences_at_once_take_less_of_it() -> None:
    """One sequence of 125M: 5 ms of products, and 7 to start thirty layers."""
    run = run_of(Architecture.from_yaml("mobilellm_125m"))
    assert launches_in_words(run, replace(CARD, micro_batch=1), H100)
    assert launches_in_words(run, replace(CARD, micro_batch=4), H100) is None


def test_gpus_of_a_run_are_counted() -> None:
    four = replace(CARD, gpus_per_run=4)
    assert together(four, workers=2, seconds=7200) == (
        "each run is trained by 4 GPUs: 8 for 2 at once, about 16.0 GPU hours"
    )
    assert "GPU" not in together(replace(four, device="cpu"), workers=2, seconds=7200)
    line = launches_in_words(run_of(ARCH), four, H100)
    assert line
    assert "placement.gpus_per_run=1" in line


def test_speeds_are_those_of_runs_by_as_many(tmp_path: Path) -> None:
    name = device_name("cpu")
    for ranks in (1, 2, None):
        device = {"name": name, "device": "cpu", "threads": 1, "gpus_per_run": ranks}
        run = replace(run_of(ARCH), seed=ranks or 0)
        known = {key: value for key, value in device.items() if value is not None}
        record = Record(run=run, status=Status.FINISHED, device=known, train_s=4 / (ranks or 1))
        write_record(tmp_path / run.key, record)
    alone, two = Placement(device="cpu", threads=1), Placement(threads=1, gpus_per_run=2)
    work = SimpleNamespace(typical=run_of(ARCH))
    assert len(recorded_speeds(work, alone, tmp_path)) == 2
    (speed,) = recorded_speeds(work, replace(two, device="cpu"), tmp_path)
    assert speed == pytest.approx(run_of(ARCH).train_flops / 2)


def test_memory_and_waiting_are_lines_of_the_estimate() -> None:
    made = Estimate(
        runs=1, tokens=1, flops=1, seconds=1, basis="measured", disk_bytes=1, memory="m", waits="w"
    )
    assert str(made).splitlines()[1:] == ["m", "w"]
