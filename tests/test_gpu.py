"""What only a GPU can show. `make gpu` runs these and the benchmarks that need one."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from study_fixtures import ROOT, environment, records, run, study_json
from train_fixtures import HERE, data, losses, run_of  # noqa: F401

from search.data.packed import Data
from search.recipe import Recipe
from search.train import checkpoint
from search.train.engines.autograd import AutogradEngine
from search.train.loop import Stop, Training, train
from search.train.memory import HEADROOM, peak_memory
from search.train.placement import Placement, settle
from space.arch import Architecture

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is seen"),
]
CARD = Placement(device="cuda", checkpoint_s=0.001)
EAGER = replace(CARD, compile="no")
GRAPH = replace(CARD, micro_batch=1, cuda_graph="yes")
LAB = Recipe(tokens=10**9, seq_len=2048, batch_size=32, precision="bf16")


@pytest.fixture(name="text")
def of_this_project(data: Data) -> Data:  # noqa: F811
    return data


@pytest.mark.parametrize("placement", [EAGER, CARD])
def test_a_run_is_the_cpus_to_rounding(text: Data, tmp_path: Path, placement: Placement) -> None:
    here = replace(HERE, engine="autograd", compile="no")
    train(run_of(text), text, tmp_path / "cpu", placement=here)
    record = train(run_of(text), text, tmp_path / "gpu", placement=placement)
    assert record.status == "finished"
    assert record.device["device"] == "cuda"
    for a, b in zip(losses(tmp_path / "cpu"), losses(tmp_path / "gpu"), strict=True):
        assert a == pytest.approx(b, rel=2e-3)


def test_a_stopped_run_goes_on(text: Data, tmp_path: Path) -> None:
    def stop(event: dict[str, int]) -> None:
        if event["step"] == 20:
            raise Stop

    whole = train(run_of(text), text, tmp_path / "whole", placement=EAGER)
    with pytest.raises(Stop):
        train(run_of(text), text, tmp_path / "stopped", placement=EAGER, progress=stop)
    again = train(run_of(text), text, tmp_path / "stopped", placement=EAGER)
    assert again.readings[-1].val_loss == pytest.approx(whole.readings[-1].val_loss, rel=1e-3)


@pytest.mark.parametrize("compiled", ["no", "yes"])
def test_a_cuda_graph_computes_the_same(text: Data, tmp_path: Path, compiled: str) -> None:
    """Steps of four micro-batches, of which the first step captures the last. The kernels are the
    same; some add up in the order that they happen to end in, and that grows from step to step."""
    graph = replace(GRAPH, compile=compiled)
    for name, placement in (("plain", replace(graph, cuda_graph="no")), ("graph", graph)):
        record = train(run_of(text), text, tmp_path / name, placement=placement)
        assert (record.status, record.device["cuda_graph"]) == ("finished", placement.cuda_graph)
    curves = [losses(tmp_path / name) for name in ("plain", "graph")]
    for a, b in zip(*curves, strict=True):
        assert a == pytest.approx(b, rel=1e-5 if a["step"] <= 8 else 1e-3)


@pytest.mark.parametrize("compiled", ["no", "yes"])
def test_a_cuda_graph_is_captured_once_and_learns_from_the_weights_of_the_step(
    text: Data, tmp_path: Path, compiled: str
) -> None:
    """One step with the graph, and one without from the same weights: the same gradients."""
    training = Training(run_of(text), text, tmp_path, replace(GRAPH, compile=compiled))
    engine = training.engine
    assert isinstance(engine, AutogradEngine)
    for _ in range(3):
        training.timed_step()
    assert engine.captured is not None
    graph = engine.captured.graph
    assert graph is not None
    found = []
    for captured in (engine.captured, None):
        engine.captured = captured
        training.weights.gradients.zero_()
        loss = engine.nll(*training._batch(7), 0.01)
        found.append((loss, training.weights.gradients.clone()))
        if captured is not None:
            assert captured.graph is graph
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


def test_memory_with_a_cuda_graph_stays_below_its_estimate(text: Data, tmp_path: Path) -> None:
    """Reserved, for that of the graph is not allocated when it is not replayed."""
    lab = replace(run_of(text), architecture=Architecture.from_yaml("mobilellm_125m"), recipe=LAB)
    placement = settle(replace(CARD, cuda_graph="yes"), lab)
    assert placement.micro_batch is not None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    long = replace(text, train=text.train.repeat(-(-(2**20) // len(text.train))))
    training = Training(lab, long, tmp_path, placement)
    for _ in range(4):
        training.timed_step()
    training.engine.nll(*training._batch(5))
    estimated = peak_memory(lab.architecture, LAB, placement.micro_batch).graph
    assert torch.cuda.max_memory_reserved() < estimated / HEADROOM


def test_a_snapshot_is_in_pinned_memory_and_stays_as_it_was() -> None:
    """It is whole although copies do not wait for each other, nor for what changes them later."""
    kept = {"a": torch.ones(2**24, device="cuda"), "step": torch.ones(())}
    kept["a"] *= 3
    copied = checkpoint.snapshot(kept)
    kept["a"] *= 0
    assert copied["a"].is_pinned()
    assert (copied["a"] == 3).all()
    assert not copied["step"].is_pinned()


@pytest.mark.parametrize("placement", [CARD, GRAPH])
def test_a_step_does_not_wait_for_the_gpu(text: Data, tmp_path: Path, placement: Placement) -> None:
    training = Training(run_of(text), text, tmp_path, placement)
    for _ in range(3):
        training.timed_step()  # compiled by now
    training.state.step = 0  # whose number no line of the curve wants
    torch.cuda.set_sync_debug_mode("error")
    try:
        training._step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("compiled", ["no", "yes"])
@pytest.mark.parametrize("name", ["mobilellm_125m", "mobilellm_600m"])
def test_memory_stays_below_its_estimate(
    text: Data, tmp_path: Path, name: str, compiled: str
) -> None:
    lab = replace(run_of(text), architecture=Architecture.from_yaml(name), recipe=LAB)
    placement = settle(replace(CARD, compile=compiled), lab)
    assert placement.micro_batch is not None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    long = replace(text, train=text.train.repeat(-(-(2**20) // len(text.train))))
    training = Training(lab, long, tmp_path, placement)
    training.timed_step()
    estimated = peak_memory(lab.architecture, LAB, placement.micro_batch).training
    assert torch.cuda.max_memory_allocated() < 1.05 * estimated


def test_every_micro_batch_of_a_shape_is_compiled_once(text: Data, tmp_path: Path) -> None:
    from torch._dynamo.utils import counters

    torch.compiler.reset()
    counters.clear()
    odd = run_of(text, eval_tokens=32 * 7)  # seven windows, of which the last micro-batch has one
    train(odd, text, tmp_path, placement=replace(CARD, micro_batch=2))
    graphs = counters["stats"]["unique_graphs"]
    assert 0 < graphs <= 4, "layer and loss, each to learn from and to score"


def test_a_study_has_a_worker_for_each_card(tmp_path: Path) -> None:
    two = ("n_trials=4", "replicates.seeds=1", "workers=2", "placement.device=cuda")
    done = run(tmp_path, *two, "placement.compile=yes")
    assert done.returncode == 0, done.stderr
    assert {record["device"]["device"] for record in records(tmp_path).values()} == {"cuda"}
    assert study_json(tmp_path)["state"] == "done"


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="it takes two GPUs")
def test_two_gpus_train_a_run_of_a_study_as_one(tmp_path: Path) -> None:
    readings = []
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        given = (f"placement.gpus_per_run={ranks}", "placement.device=cuda", "workers=1")
        done = run(folder, "n_trials=1", "replicates.seeds=1", *given)
        assert done.returncode == 0, done.stderr
        (record,) = records(folder).values()
        assert record["device"]["gpus_per_run"] == ranks
        readings.append(record["readings"][-1]["val_loss"])
    assert readings[0] == pytest.approx(readings[1], rel=2e-3)


def test_the_parent_of_a_study_opens_no_context(tmp_path: Path) -> None:
    """It would take hundreds of megabytes of a card, and forbid it to others."""
    done = subprocess.run(
        [sys.executable, "-c", ESTIMATED],
        cwd=tmp_path,
        env={**environment(), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-2:] == ["cuda", "False"], done.stderr


ESTIMATED = """
from pathlib import Path
import torch
from study_fixtures import open_search
session = open_search(Path.cwd(), "placement.device=auto", "workers=auto", "executor=local")
print(session.estimate())
session.lock.release()
print(session.placement.device)
print(torch.cuda.is_initialized())
"""
