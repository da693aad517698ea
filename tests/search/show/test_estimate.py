"""What a start says of its cost on a GPU, where one is seen or not."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from train_fixtures import ARCH

from search.recipe import Recipe
from search.record import Record, Run
from search.runs import write_record
from search.show.estimate import (
    START_S,
    Estimate,
    estimate,
    launches_in_words,
    memory_of_an_h100,
    on_an_h100,
    recorded_speeds,
    speed,
    together,
)
from search.states import Status
from search.train.card import Card
from search.train.placement import Placement
from search.train.provenance import device_name
from space.arch import Architecture
from space.words import duration

CARD = Placement(device="cuda", micro_batch=16)
LAB = Recipe(tokens=10**9, seq_len=2048, batch_size=256, precision="bf16")
FP32 = replace(LAB, precision="fp32")
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


# --- Without a GPU, and with one ------------------------------------------------------------------

LAYERS = ("layer_map", "num_hidden_layers")
DEFAULT = Placement(device="cpu", threads=1, engine="autograd", micro_batch=1)


def work_of(flops: float) -> Any:
    run = run_of(ARCH)
    facts = {
        "total": 1,
        "at_most": False,
        "flops": flops,
        "tokens": 1,
        "parameters": 1,
        "architectures": [ARCH],
    }
    return SimpleNamespace(typical=run, **facts)


@pytest.mark.parametrize("planning", [False, True])
def test_long_work_of_a_cpu_is_also_estimated_for_an_h100(tmp_path: Path, planning: bool) -> None:
    long = estimate(work_of(1e22), 0, 1, DEFAULT, tmp_path, 0, planning=planning)
    assert str(long).splitlines()[1].startswith("on one H100: about ")
    assert ("\nmemory: about " in str(long)) is planning, "it takes seconds to find"
    short = estimate(work_of(1e6), 0, 1, DEFAULT, tmp_path, 0, planning=planning)
    assert (short.h100, short.memory) == (None, None)


def test_more_workers_than_cores_are_no_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of this machine: elsewhere each has cores of its own."""
    monkeypatch.setattr("search.show.estimate.cores", lambda: 2)
    monkeypatch.setattr("search.show.estimate.speed", lambda *_: (1.0, "by 1 run"))
    work = work_of(1000)
    work.total = 8
    two, eight = (estimate(work, 0, n, DEFAULT, tmp_path, 0) for n in (2, 8))
    assert two.seconds == eight.seconds == START_S + 500
    assert two.shared is None
    assert eight.shared == "8 workers share 2 cores: no faster than 2"
    apart = estimate(work, 0, 8, DEFAULT, tmp_path, 0, elsewhere=True)
    assert (apart.seconds, apart.shared) == (START_S + 125, None)


def test_runs_that_do_not_fill_the_last_round_take_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.show.estimate.cores", lambda: 2)
    monkeypatch.setattr("search.show.estimate.speed", lambda *_: (1.0, "by 1 run"))
    work = work_of(1000)
    work.total = 5
    assert estimate(work, 0, 2, DEFAULT, tmp_path, 0).seconds == START_S + 3 * 200
    assert estimate(work, 2, 2, DEFAULT, tmp_path, 0).seconds == START_S + 2 * 200
    assert estimate(work, 5, 2, DEFAULT, tmp_path, 0).seconds == START_S


def test_of_a_cluster_an_h100_comes_before_the_cpus_of_this_machine() -> None:
    here = Estimate(15, 1e9, 1e18, 1e5, "rough", 1e6, h100="on one H100: about 1 h")
    line, later = str(here).splitlines()
    assert "about 27.8 h (rough)" in line
    assert later == "on one H100: about 1 h"
    line, *later = str(replace(here, elsewhere=True)).splitlines()
    assert line == "to do: 15 runs, 1B tokens, 1 EFLOPs, 1 MB of disk"
    assert later == ["on one H100: about 1 h", "on CPUs: about 27.8 h (rough)"]


def test_hours_on_an_h100_are_flops_at_a_share_of_its_peak() -> None:
    """By hand: 16.2e18 / (0.4 × 989e12) = 40,950 s."""
    large = replace(run_of(Architecture.from_yaml("mobilellm_125m")), recipe=FP32)
    assert on_an_h100(large, 16.2e18) == (
        "on one H100: about 11.4 h (assumed: 40% of its 989 TFLOP/s in bf16)"
    )
    for runs, gpus, per_run, several in (
        (8, 8, 1, "on 8 about 86 min"),
        (15, 32, 1, "on 15, all that 15 runs can use, about 46 min"),
        (15, 8, 1, "on 8 about 1.5 h"),  # and is waited for: twice 46 min
        (15, 32, 2, "on 30, all that 15 runs can use, about 23 min"),
    ):
        line = on_an_h100(large, 16.2e18, runs, gpus, per_run)
        assert line.startswith(f"on one H100: about 11.4 h, {several} (")


def test_memory_is_of_the_largest_run(tmp_path: Path) -> None:
    """Of equal parameters: the deeper leaves more for the backward pass."""
    shape = ARCH.to_dict() | {"num_blocks": 4 * ARCH.num_blocks}
    deep = Architecture.from_dict({k: v for k, v in shape.items() if k not in LAYERS})
    facts = vars(work_of(1e22)) | {"architectures": [deep, ARCH]}
    both = estimate(SimpleNamespace(**facts), 0, 1, DEFAULT, tmp_path, 0, planning=True)
    alone = estimate(
        SimpleNamespace(**facts | {"architectures": [deep], "typical": run_of(deep)}),
        *(0, 1, DEFAULT, tmp_path, 0),
        planning=True,
    )
    assert both.memory == alone.memory != memory_of_an_h100(run_of(ARCH))


def test_hours_of_small_models_are_those_of_starting_kernels() -> None:
    """Sixteen micro-batches a step, each of 4 layers × 40 kernels × 6 µs."""
    run = run_of(ARCH)
    steps = run.recipe.trained_tokens / run.recipe.tokens_per_step
    seconds = 16 * steps * 4 * 40 * 6e-6
    line = on_an_h100(run, run.train_flops)
    assert line.startswith(f"on one H100: about {duration(START_S + seconds)} (assumed: it waits ")


def test_a_gpu_is_assumed_to_reach_its_own_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Card(name="H100", memory=1, flops_per_s={"bf16": 7e14})
    monkeypatch.setattr("search.show.estimate.card", lambda: found)
    rate, basis = speed(work_of(1.0), CARD, tmp_path)
    assert rate == pytest.approx(0.4 * 7e14)
    assert basis == "rough: 40% of a measured matrix product"
    on_card = estimate(work_of(1e22), 0, 1, CARD, tmp_path, 0, planning=True)
    assert on_card.h100 is None, "its own hours are there"
    assert on_card.memory


def test_runs_of_much_smaller_models_say_nothing_of_a_large_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.show.estimate.product_speed", lambda *_: 1e12)
    device = {"name": device_name("cpu"), "device": "cpu", "threads": 1}
    record = Record(run=run_of(ARCH), status=Status.FINISHED, device=device, train_s=1e9)
    (tmp_path / record.run.key).mkdir()
    write_record(tmp_path / record.run.key, record)
    assert speed(work_of(1.0), DEFAULT, tmp_path) == (
        pytest.approx(record.run.train_flops / 1e9),
        "by 1 run of about this size recorded on such a machine",
    )
    large = SimpleNamespace(typical=run_of(Architecture.from_yaml("mobilellm_125m")))
    rough = (0.25e12, "rough: 25% of a measured matrix product")
    assert speed(large, DEFAULT, tmp_path) == rough
    by_kernels = replace(DEFAULT, engine="kernels")
    assert speed(large, by_kernels, tmp_path)[0] == 0.5e12
