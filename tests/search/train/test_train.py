"""The one training loop: it learns, resumes bit for bit, and says how a run ended."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial, partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from train_fixtures import ARCH, HERE, ROOT, losses, run_of

from search.data.packed import Data
from search.record import Run
from search.runs import read_record, read_windows
from search.train.loop import Stop, Training, train
from search.train.placement import Placement
from space.arch import Architecture
from space.doors import Changed


def test_a_run_learns_and_leaves_a_record(data: Data, tmp_path: Path) -> None:
    record = train(run_of(data), data, tmp_path / "a", placement=HERE)
    curve = [line["train_loss"] for line in losses(tmp_path / "a") if "train_loss" in line]
    assert record.status == "finished"
    assert curve[-1] < curve[0] - 0.5
    assert [r.tokens for r in record.readings] == [40 * 4 * 32]
    assert read_record_of(tmp_path / "a", record.run) == record
    assert not (tmp_path / "a" / "checkpoint").exists()


def read_record_of(folder: Path, run: Run) -> Any:
    """The record as it stands in a folder named after its run."""
    named = folder.rename(folder.parent / run.key)
    record = read_record(named)
    named.rename(folder)
    return record


def test_bits_per_byte_are_the_models_own(data: Data, tmp_path: Path) -> None:
    """The reading equals a plain float32 pass of the saved weights over the validation slice."""
    from safetensors.torch import load_file
    from torch.nn import functional as F

    from search.data.packed import validation_windows
    from space.model import Decoder

    record = train(run_of(data), data, tmp_path, placement=HERE)
    model = Decoder(ARCH)
    model.load_state_dict(load_file(tmp_path / "weights.safetensors"), strict=False)
    inputs, targets = map(torch.tensor, validation_windows(data, 32, 1024))
    with torch.no_grad():
        nll = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), reduction="sum")
    assert data.token_bytes is not None
    bits = nll.item() / torch.log(torch.tensor(2.0)).item()
    assert record.value("val_bpb") == pytest.approx(
        bits / data.token_bytes[targets.numpy()].sum(), rel=1e-5
    )


def test_what_each_held_out_window_came_to_adds_up_to_the_reading(
    data: Data, tmp_path: Path
) -> None:
    """Also of a run that was stopped when it had been scored, and of one that knows no bytes."""
    whole, stopped = run_of(data), run_of(data, tokens=512)
    record = train(whole, data, tmp_path / "whole", placement=HERE)
    found = read_windows(tmp_path / "whole", record)
    assert found is not None
    nats, text, weights = found.astype(float)
    assert (weights == 1).all()
    assert nats.shape == (1024 // 32,)
    assert record.value("val_loss") == pytest.approx(nats.sum() / 1024)
    assert record.value("val_bpb") == pytest.approx(nats.sum() / np.log(2) / text.sum())

    def stop_at_the_end(event: dict[str, Any]) -> None:
        if event["step"] == event["of"]:
            raise Stop

    folder, bare = tmp_path / "stopped", replace(data, token_bytes=None)
    with pytest.raises(Stop):
        train(stopped, bare, folder, placement=HERE, progress=stop_at_the_end)
    record = train(stopped, bare, folder, placement=HERE)
    found = read_windows(folder, record)
    assert found is not None
    assert found[0].sum() / 1024 == pytest.approx(record.value("val_loss"))
    assert np.isnan(found[1]).all()
    (folder / "windows.npy").write_bytes(b"damaged")
    assert read_windows(folder, record) is None
    assert read_windows(folder, replace(record, files={})) is None, "one of before they were kept"


def test_the_same_run_twice_is_bit_identical(data: Data, tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(run_of(data), data, tmp_path / name, placement=HERE)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_stopped_run_goes_on_bit_for_bit(data: Data, tmp_path: Path, precision: str) -> None:
    run = run_of(data, precision=precision)
    train(run, data, tmp_path / "whole", placement=HERE)

    def stop_at_17(event: dict[str, Any]) -> None:
        if event["step"] == 17:
            raise Stop

    with pytest.raises(Stop):
        train(run, data, tmp_path / "halves", placement=HERE, progress=stop_at_17)
    assert not (tmp_path / "halves" / "record.json").exists()
    train(run, data, tmp_path / "halves", placement=HERE)
    assert losses(tmp_path / "halves") == losses(tmp_path / "whole")


KILLED = """
import sys
from pathlib import Path
from search.data.cache import open_data
from search.train.placement import Placement
from search.record import run_from_dict
from search.train.loop import train
import json, os, signal
run, data = run_from_dict(json.loads(sys.argv[1])), open_data(sys.argv[2])
def die(event):
    if event["step"] == 23:
        os.kill(os.getpid(), signal.SIGKILL)
train(run, data, Path(sys.argv[3]), placement=Placement(**json.loads(sys.argv[4])), progress=die)
"""


def test_a_killed_run_goes_on_bit_for_bit(data: Data, tmp_path: Path) -> None:
    run, folder = run_of(data), tmp_path / "killed"
    placement = {"device": "cpu", "threads": 1, "checkpoint_s": 0.001}
    arguments = [json.dumps(run.to_dict()), str(data.folder), str(folder), json.dumps(placement)]
    died = subprocess.run([sys.executable, "-c", KILLED, *arguments], cwd=ROOT, check=False)
    assert died.returncode == -signal.SIGKILL
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 23, "train_l')  # a line cut off by the crash
    train(run, data, folder, placement=HERE)
    train(run, data, tmp_path / "whole", placement=HERE)
    assert losses(folder) == losses(tmp_path / "whole")


def test_a_run_stopped_right_after_it_was_resumed_keeps_its_curve(
    data: Data, tmp_path: Path
) -> None:
    """The curve is cut back to the checkpoint, whose successor must know where it ends."""

    def stop_at(step: int) -> Any:
        def progress(event: dict[str, Any]) -> None:
            if event["step"] == step:
                raise Stop

        return progress

    run = run_of(data)
    with pytest.raises(Stop):
        train(run, data, tmp_path / "a", placement=HERE, progress=stop_at(9))
    with (tmp_path / "a" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10}\n' * 50)  # what a kill would leave behind the checkpoint
    with pytest.raises(Stop):
        train(run, data, tmp_path / "a", placement=HERE, progress=stop_at(10))
    train(run, data, tmp_path / "a", placement=HERE)
    train(run, data, tmp_path / "whole", placement=HERE)
    assert losses(tmp_path / "a") == losses(tmp_path / "whole")


def test_a_run_stopped_before_the_first_line_of_its_curve_goes_on(
    data: Data, tmp_path: Path
) -> None:
    steps: list[int] = []

    def stop(event: dict[str, Any]) -> None:
        steps.append(event["step"])
        raise Stop

    long = run_of(data, tokens=600 * 4 * 32)  # a line every three steps
    for _ in range(2):
        with pytest.raises(Stop):
            train(long, data, tmp_path, placement=HERE, progress=stop)
    assert steps == [1, 2]
    assert not (tmp_path / "checkpoint/state.pt.corrupt").exists()


def test_what_is_given_wins_over_what_a_checkpoint_pins() -> None:
    saved = {"device": "cpu", "threads": 2, "micro_batch": 8, "engine": "autograd", "compile": "no"}
    given = Placement(micro_batch=4, checkpoint_s=5)
    pinned = given.pinned_by({**saved, "checkpoint_s": 20.0})
    assert (pinned.micro_batch, pinned.threads, pinned.engine) == (4, 2, "autograd")
    assert pinned.checkpoint_s == 5
    del saved["engine"]  # of a checkpoint from before there were engines
    assert given.pinned_by(saved).engine == "auto"


def test_a_damaged_checkpoint_is_set_aside(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "state.pt").write_bytes(b"PK\x03\x04 not a checkpoint")
    assert train(run_of(data), data, tmp_path, placement=HERE).status == "finished"
    assert "set aside" in capsys.readouterr().out


def test_a_finished_run_is_not_trained_again(data: Data, tmp_path: Path) -> None:
    run = run_of(data)
    first = train(run, data, tmp_path / run.key, placement=HERE)

    def never(event: dict[str, Any]) -> None:
        raise AssertionError("trained again")

    assert train(run, data, tmp_path / run.key, placement=HERE, progress=never) == first


def test_divergence_is_a_recorded_outcome(data: Data, tmp_path: Path) -> None:
    run = run_of(data, lr=1e15, grad_clip=1e15, parametrisation="sp")
    record = train(run, data, tmp_path, placement=HERE)
    assert record.status == "diverged"
    assert "at step" in str(record.reason)
    assert record.final


def test_a_crash_is_a_recorded_outcome_to_try_again(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(training: Training) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    with monkeypatch.context() as patch:
        patch.setattr(Training, "timed_step", out_of_memory)
        record = train(run_of(data), data, tmp_path, placement=HERE)
    assert record.status == "failed"
    assert str(record.reason).startswith("out of memory")
    assert not record.final
    assert train(run_of(data), data, tmp_path, placement=HERE).status == "finished"


def test_a_changed_optimiser_is_no_outcome_and_leaves_the_checkpoint(
    data: Data, tmp_path: Path
) -> None:
    mine, folder = tmp_path / "mine.py", tmp_path / "run"
    mine.write_text("from search.train.optimizers.adamw import OPTIMIZER\n")
    run = run_of(data, optimizer=str(mine))

    def stop(event: dict[str, Any]) -> None:
        raise Stop

    with pytest.raises(Stop):
        train(run, data, folder, placement=HERE, progress=stop)
    mine.write_text("")
    with pytest.raises(Changed, match="must be as it was"):
        train(run, data, folder, placement=HERE)
    assert not (folder / "record.json").exists()
    assert (folder / "checkpoint").is_dir()


def test_trouble_of_a_callback_is_no_outcome_of_the_run(data: Data, tmp_path: Path) -> None:
    trouble = RuntimeError("the storage is away")

    def report(event: dict[str, Any]) -> None:
        if event["step"] == 17:
            raise trouble

    rarely = replace(HERE, checkpoint_s=1e6)
    with pytest.raises(RuntimeError) as raised:
        train(run_of(data), data, tmp_path, placement=rarely, progress=report)
    assert raised.value is trouble
    assert not (tmp_path / "record.json").exists()
    steps: list[int] = []
    train(run_of(data), data, tmp_path, placement=HERE, progress=lambda e: steps.append(e["step"]))
    assert steps[0] == 18


def test_micro_batches_do_not_change_the_gradient(data: Data, tmp_path: Path) -> None:
    whole = replace(HERE, micro_batch=4)
    parts = replace(HERE, micro_batch=1)
    train(run_of(data), data, tmp_path / "whole", placement=whole)
    train(run_of(data), data, tmp_path / "parts", placement=parts)
    beginnings = (losses(tmp_path / name)[:8] for name in ("whole", "parts"))  # rounding grows
    for a, b in zip(*beginnings, strict=True):
        assert a == pytest.approx(b, rel=1e-4)


@pytest.mark.slow
def test_the_compiled_loop_is_the_eager_one(data: Data, tmp_path: Path) -> None:
    """Compiling rounds otherwise and changes nothing else; a second run compiles nothing."""
    for compile_ in ("no", "yes"):
        placement = replace(HERE, engine="autograd", compile=compile_)
        train(run_of(data), data, tmp_path / compile_, placement=placement)
    for a, b in zip(losses(tmp_path / "no"), losses(tmp_path / "yes"), strict=True):
        assert a == pytest.approx(b, rel=2e-3)
    graphs = counters["stats"]["unique_graphs"]
    train(replace(run_of(data), seed=1), data, tmp_path / "again", placement=placement)
    assert counters["stats"]["unique_graphs"] == graphs > 0


@pytest.mark.slow
def test_a_smaller_last_micro_batch_of_a_score_compiles_nothing(data: Data, tmp_path: Path) -> None:
    """Of seven windows in pairs the last has one. It is filled up, and scored as it is alone."""
    odd = run_of(data, tokens=2 * 4 * 32, eval_tokens=7 * 32)
    placement = replace(HERE, engine="autograd", micro_batch=2)
    torch.compiler.reset()
    counters.clear()
    found = [
        train(odd, data, tmp_path / how, placement=replace(placement, compile=how))
        for how in ("yes", "no")
    ]
    assert counters["stats"]["unique_graphs"] == 4, "layer and loss, each to learn and to score"
    compiled, eager = ([r.val_loss for r in record.readings] for record in found)
    assert compiled == pytest.approx(eager, rel=1e-5)


@pytest.mark.slow
def test_shapes_of_one_width_are_compiled_once(data: Data, tmp_path: Path) -> None:
    """A worker of a study trains one shape after the other. Deeper ones and other seeds have the
    layers of the first; of another width all is compiled anew, and what was is no longer kept: it
    comes back from the disk."""
    torch.compiler.reset()
    counters.clear()
    made, generated = [], []
    for seed, width, depth in (
        (0, 32, 2), (0, 32, 3), (1, 32, 3), (0, 48, 2), (0, 48, 4), (2, 32, 2), (2, 32, 5)
    ):  # fmt: skip
        arch = Architecture(
            vocab_size=300,
            hidden_size=width,
            num_blocks=depth,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=64,
        )
        run = run_of(data, tokens=2 * 4 * 32, eval_tokens=32 * 4)
        graphs, hits, misses = (counters[group][name] for group, name in COUNTED)
        placement = replace(HERE, engine="autograd", compile="yes")
        folder = tmp_path / str(len(made))
        train(replace(run, architecture=arch, seed=seed), data, folder, placement=placement)
        now = [counters[group][name] for group, name in COUNTED]
        made.append(now[0] - graphs)
        generated.append((now[1] - hits > 0, now[2] - misses))
    each = 4  # the layers' and the loss's, to learn and to score
    assert made == [each, 0, 0, each, 0, each, 0], "in another order a width is not kept"
    assert generated[5] == (True, 0), "back to the first width: code is loaded, and none made"


COUNTED = (
    ("stats", "unique_graphs"),
    ("inductor", "fxgraph_cache_hit"),
    ("inductor", "fxgraph_cache_miss"),
)


@pytest.mark.slow
def test_no_layer_of_a_shape_is_left_uncompiled(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five widths of FFN, to learn and to score. By default torch compiles eight versions of a
    function; what comes then runs as it is, with a warning alone. And of one shape five sizes of
    batch, as a table has them. Code is generated for none of it: graphs are counted."""
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    placement = replace(HERE, engine="autograd", compile="yes")
    plain = Architecture(
        vocab_size=300,
        hidden_size=32,
        num_blocks=5,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=128,
    )
    uneven = replace(plain, ffn_scaling="0.5..1.5")
    assert len(set(uneven.ffn_widths)) == 5
    torch.compiler.reset()
    counters.clear()
    run = replace(run_of(data, tokens=4 * 32, evaluations=1), architecture=uneven)
    train(run, data, tmp_path / "uneven", placement=placement)
    assert counters["stats"]["unique_graphs"] == 2 * 5 + 2
    torch.compiler.reset()
    counters.clear()
    thin = replace(plain, num_blocks=1, num_hidden_layers=1, layer_map=None)
    for size in (1, 2, 3, 4, 5):
        run = replace(run_of(data, tokens=size * 32, batch_size=size), architecture=thin)
        train(run, data, tmp_path / str(size), placement=placement)
    assert counters["stats"]["unique_graphs"] == 5 * 4
    assert not counters["unimplemented"], "such as a limit that was reached"
