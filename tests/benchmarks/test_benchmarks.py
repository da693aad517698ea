"""The benchmarks run from end to end, at sizes that say nothing about speed."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import partial, partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from study_fixtures import write_text
from torch import nn

from benchmarks import (
    checkpoints,
    compiling,
    fidelity,
    gpu,
    losses,
    peers,
    proxy,
    scaling,
    show,
    trial,
)
from benchmarks.turns import Contender
from search.config import SearchConfig
from search.data.cache import prepare
from search.data.config import DataConfig
from search.data.packed import Data
from search.recipe import Recipe
from search.record import Run
from search.train.engines import autograd
from search.train.placement import Placement, settle
from space.app import CONF
from space.arch import Architecture
from space.model import Decoder

ROOT = Path(CONF).parent
SMALL: dict[str, Any] = {"tokens": 2048, "seq_len": 32, "batch_size": 4}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """One step a turn, small products, on the CPU, results elsewhere."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for module in (proxy, scaling, gpu):
        monkeypatch.setattr(module, "PEAK_SIZES", (64,))
        monkeypatch.setattr(module, "TURN_S", 0.0, raising=False)
    monkeypatch.setattr(show, "RESULTS", tmp_path)
    return tmp_path


def run_of(blocks: int = 2, width: int = 64) -> Run:
    return proxy.benchmark_run(proxy.shape(512, blocks, width), Recipe(**SMALL))


@pytest.mark.slow
def test_engines_take_turns_and_leave_a_table_and_a_picture(
    quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "run_of", lambda name: run_of())
    engines = ["--engines", proxy.OURS, proxy.PLAIN]
    proxy.main(["--save", "--rounds", "2", "--shapes", "middle", *engines])
    text = (quick / "proxy.md").read_text()
    assert len(re.findall(r"^\| middle \|", text, re.MULTILINE)) == 1
    assert len(re.findall(rf"^\| {re.escape(proxy.PLAIN)} \|", text, re.MULTILINE)) == 2
    assert (quick / "proxy.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_speed_over_sizes_and_lengths_is_drawn(
    quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "by_size", lambda: [scaling.Point(run_of(b)) for b in (1, 2)])
    monkeypatch.setattr(scaling, "LENGTHS", (16, 32))
    monkeypatch.setattr(scaling, "TOKENS", 64)
    monkeypatch.setattr(scaling, "SHAPES", {"middle": (1, 64)})
    scaling.main(["--save", "--rounds", "1"])
    text = (quick / "scaling.md").read_text()
    assert "| 16 |" in text
    assert "| 32 |" in text
    assert (quick / "scaling.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_what_a_gpu_makes_of_a_shape_is_a_table(quick: Path) -> None:
    small = ["--seq-len", "64", "--batch-tokens", "256", "--shared", "5m", "--workers", "1", "2"]
    assert gpu.main(["--save", "--rounds", "1", "--shapes", "5m", *small]) == 0
    rows = [line.split(" | ") for line in (quick / "gpu.md").read_text().splitlines()]
    row, one, two = (cells for cells in rows if cells[0] == "| 5m")
    assert len(row) == len(gpu.COLUMNS)
    assert row[gpu.COLUMNS.index("CUDA graph")] == "no"
    assert row[6] == "unknown", "no published peak of a CPU"
    assert (len(one), one[1:3], two[1:3]) == (len(gpu.SHARED_COLUMNS), ["1", "no"], ["2", "no"])
    assert one[5] == "1.00 ×"


def test_each_row_is_written_when_it_is_measured(
    quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that fails is named and ends in an exit code; a kill leaves the rows before it."""

    def measured(name: str, *given: object) -> list[str]:
        if name == "6m":
            raise RuntimeError("a contender failed:\nTraceback\nOutOfMemoryError: no room")
        if name == "8m":
            raise KeyboardInterrupt
        return [name]

    monkeypatch.setattr(gpu, "measured", measured)
    small = ["--save", "--seq-len", "64", "--batch-tokens", "256", "--shared"]
    assert gpu.main([*small, "--shapes", "5m", "6m", "7m"]) == 1
    text = (quick / "gpu.md").read_text()
    assert "| 5m |" in text
    assert "| 7m |" in text
    assert "- 6m, CUDA graph no: OutOfMemoryError: no room\n" in text
    (quick / "gpu.md").unlink()
    with pytest.raises(KeyboardInterrupt):
        gpu.main([*small, "--shapes", "5m", "8m"])
    assert "| 5m |" in (quick / "gpu.md").read_text()


def test_an_engine_that_fails_costs_its_column_alone(
    quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meet(name: str, rounds: int, result: proxy.Result, folder: Path | None) -> None:
        if (name, result.run) == (proxy.LEAN, proxy.run_of("wide")):
            raise RuntimeError("no room")
        result.peaks.append(1e12)
        for each in (proxy.OURS, name):
            result.rates[each].append(100.0)
            result.memory[each] = 10**6
        result.ratios[name].append(1.5)

    monkeypatch.setattr(proxy, "meet", meet)
    engines = ["--engines", proxy.LEAN, proxy.PLAIN]
    assert proxy.main(["--save", "--shapes", "middle", "wide", *engines]) == 1
    text = (quick / "proxy.md").read_text()
    assert f"| {proxy.LEAN} | 100; 1.50 | – |" in text
    assert f"| {proxy.PLAIN} | 100; 1.50 | 100; 1.50 |" in text
    assert f"- wide, {proxy.LEAN}: no room\n" in text
    assert (quick / "proxy.png").read_bytes().startswith(b"\x89PNG")


def test_only_a_checkout_is_compared_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        proxy.main(["--before", str(tmp_path)])
    assert f"must be a checkout of isoparam, but {tmp_path} is none" in capsys.readouterr().err


@pytest.mark.slow
def test_our_loop_meets_that_of_another_checkout(tmp_path: Path) -> None:
    """Its own code makes the step: one that says so."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").touch()
    (tmp_path / "benchmarks" / "proxy.py").write_text(
        "OURS, Placement, settle = 'ours', dict, lambda *both: both\n"
        "run_of = str.upper\n"
        "def engine(name, run, placement):\n"
        "    raise RuntimeError(f'{name}, {run}, {placement} elsewhere')\n"
    )
    with (
        Contender(peers.checkout, tmp_path, "middle", threads=1) as other,
        pytest.raises(RuntimeError, match=r"ours, MIDDLE, \({}, 'MIDDLE'\) elsewhere"),
    ):
        other.seconds()


def test_a_shape_without_room_leaves_the_other_checkpoints(
    quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(shape: str, folder: Path, placement: Placement, rounds: int) -> Any:
        if shape == "large":
            raise OSError("No space left on device")
        return [shape], placement

    monkeypatch.setattr(checkpoints, "measured", measured)
    assert checkpoints.main(["--save", "--shapes", "large", "small"]) == 1
    text = (quick / "checkpoints.md").read_text()
    assert "| small |" in text
    assert "- large: No space left on device\n" in text


@pytest.mark.slow
def test_what_a_run_waits_for_compiled_layers(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, and with graphs that are run as they are: code is generated for none."""
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    folders = []

    def of_a_worker(runs: Sequence[Run], placement: Placement) -> list[compiling.Start]:
        folders.append(os.environ["TORCHINDUCTOR_CACHE_DIR"])
        torch.compiler.reset()
        return compiling.started(runs, placement)

    monkeypatch.setattr(compiling, "of_a_worker", of_a_worker)
    compiling.main(["--save", "--rounds", "2", "--device", "cpu"])
    text = (quick / "compiling.md").read_text()
    graphs = re.findall(r"^\| [a-z][^|]+\| (\d+) \| 0 \|", text, re.MULTILINE)
    assert graphs == ["4", "0", "4", "4", "4"]
    assert folders[0] == folders[1] != folders[2] == folders[3], "new code for each round"


def test_results_of_a_card_stand_beside_those_of_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "device_name", lambda kind: "NVIDIA H100 80GB HBM3")
    assert show.of_device("proxy", "cpu") == "proxy"
    assert show.of_device("proxy", "cuda") == "proxy_nvidia_h100_80gb_hbm3"


def without_memory() -> Any:
    raise MemoryError("no room")


@pytest.mark.slow
def test_a_contender_that_has_ended_says_why() -> None:
    with Contender(without_memory, threads=1) as one:
        one.process.join()
        with pytest.raises(RuntimeError, match="MemoryError: no room"):
            one.seconds()


PYTHON = """#!/bin/sh
echo "$@" >> {calls}
case "$*" in *pytest*|*benchmarks.proxy*) exit 3;; -c*) exit {sees};; esac
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("sees", [0, 1])
def test_make_gpu_runs_everything_whatever_fails(tmp_path: Path, sees: int) -> None:
    """With a script in Python's place, which says whether a GPU is there and fails twice."""
    calls, python = tmp_path / "calls", tmp_path / "python"
    python.write_text(PYTHON.format(calls=calls, sees=sees))
    python.chmod(0o755)
    command = ["make", "--old-file=.venv/installed-dev", f"BIN={tmp_path}", "gpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    _, *said = calls.read_text().splitlines()
    if sees:
        assert said == [], "without a GPU nothing is measured"
        return
    names = ("gpu", "proxy", "checkpoints", "compiling")
    benchmarks = [f"-m benchmarks.{name} --save" for name in names]
    assert said == ["-m pytest -m gpu", *benchmarks]
    assert "failed, wholly or in part: pytest -m gpu; benchmarks.proxy\n" in done.stdout
    assert "please publish" in done.stdout


@pytest.mark.slow
def test_a_trial_and_two_workers_are_timed(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "DOCUMENTS", 100)
    monkeypatch.setattr(trial, "kernels_s", lambda: None)  # `tests/test_kernels.py` builds them
    trial.main(["--save", "--rounds", "1", "--trials", "2", "--tokens", "2560"])
    text = (quick / "trial.md").read_text()
    assert "| compiling, from the second on | 0.0 s |" in text
    assert re.search(r"two workers over one \| \d\.\d\d ×", text)


@pytest.mark.slow
def test_kernels_train_what_float32_trains(tmp_path: Path) -> None:
    """Over whole runs: the curves differ by less than those of two initialisations."""
    config = DataConfig(
        source="text", path=str(write_text(tmp_path)), vocab_size=300, cache=str(tmp_path / "data")
    )
    data = prepare(config, lambda _: None)
    arch = proxy.shape(data.vocab_size, 3, 64)
    recipe = Recipe(**SMALL | {"tokens": 8192}, eval_tokens=512, evaluations=1)
    pairs = fidelity.compare(arch, recipe, data, seeds=3)
    assert fidelity.arithmetic(pairs) < fidelity.noise(pairs)
    assert all(error < 0.1 for p in pairs for error in p.gradient_errors["ours"])
    assert "| mean |" in fidelity.described(pairs)


def test_fidelity_is_asked_of_the_default_proxy() -> None:
    config, recipe = fidelity.default_proxy()
    with initialize_config_dir(CONF, version_base="1.3"):
        wanted = OmegaConf.to_object(compose("search"))
    assert isinstance(wanted, SearchConfig)
    assert recipe == wanted.recipe
    assert config.vocab_size == wanted.data.vocab_size


def test_a_lean_model_is_the_decoder() -> None:
    """With the same weights it gives the same loss, by either form of attention."""
    arch = proxy.shape(97, 2, 64)
    decoder = Decoder(arch)
    ids = torch.arange(60).view(2, 30) % 97
    wanted = torch.nn.functional.cross_entropy(decoder(ids).flatten(0, 1), ids.flatten())
    for flash in (True, False):
        lean = peers.Lean(arch, flash)
        copy_weights(decoder, lean)
        torch.testing.assert_close(lean.loss(lean(ids), ids), wanted)


def copy_weights(decoder: Decoder, lean: peers.Lean) -> None:
    own = {name: p.detach() for name, p in decoder.named_parameters()}
    layers = [
        {name.split(f"layers.{i}.")[1]: p for name, p in own.items() if f"layers.{i}." in name}
        for i in range(len(lean.blocks))
    ]
    with torch.no_grad():
        lean.embedding.weight.copy_(decoder.lm_head.weight)
        for block, layer in zip(lean.blocks, layers, strict=True):
            at, mlp = "self_attn", "mlp"
            parts = {
                "qkv": [f"{at}.q_proj", f"{at}.k_proj", f"{at}.v_proj"],
                "o": [f"{at}.o_proj"],
                "up": [f"{mlp}.gate_proj", f"{mlp}.up_proj"],
                "down": [f"{mlp}.down_proj"],
            }
            for name, names in parts.items():
                together = torch.cat([layer[f"{n}.weight"] for n in names])
                getattr(block, name).weight.copy_(together)


def test_the_floor_counts_what_a_closed_form_says() -> None:
    arch = Architecture(
        vocab_size=512,
        hidden_size=64,
        num_blocks=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=168,
    )
    run = Run(
        architecture=arch, recipe=Recipe(**SMALL, precision="fp32"), data_fingerprint="random"
    )
    placement = settle(Placement(device="cpu", micro_batch=2, engine="autograd"), run)
    state = 16 * sum(p.numel() for p in Decoder(arch).parameters())
    a_token = 2 * (2 * 64 + (2 + 2 * 1) * 32 + 2 * 32 + 2 * 168) + 512
    assert proxy.floor_bytes(run, placement) == state + 4 * 64 * a_token


def test_a_peer_of_another_size_is_refused() -> None:
    run = run_of()
    small = peers.Lean(proxy.shape(512, 1, 64), flash=True)
    data: Data = proxy.random_tokens(512)
    with pytest.raises(ValueError, match="must have about"):
        peers.training_step(small, lambda x, _: x, run, data, Placement(), 1, "fp32")


def test_losses_over_a_vocabulary_are_one_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """In slices of at most 100 logits, and in torch's chunks: the losses and both gradients."""
    monkeypatch.setattr(autograd, "LOGITS", 100)
    found = {}
    for name, loss in losses.LOSSES.items():
        model = losses.Readout(24, 37, 8)
        found[name] = (loss(model), model.stream.grad, model.lm_head.weight.grad)
    nll, *gradients = found.pop("plain")
    assert len(found) == 3
    for name, (given, *others) in found.items():
        torch.testing.assert_close(given, nll if given.ndim else nll.mean(), msg=name)
        torch.testing.assert_close(others, gradients, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_losses_are_timed_in_turns(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "SIZES", ((64, 500),))
    losses.main(["--save", "--rounds", "1"])
    lines = (quick / "losses.md").read_text().splitlines()
    rows = [line.split(" | ") for line in lines if " | 500 | 64 | " in line]
    assert [row[0] for row in rows] == [f"| {name}" for name in losses.LOSSES]
    assert rows[0][4] == "1.00"


def test_slow_first_steps_are_told_from_later_ones() -> None:
    lines = [{"step": n, "train_loss": 1.0, "elapsed_s": 3.0 + 0.5 * n} for n in range(2, 12, 2)]
    assert np.isclose(trial.slow_start_s(lines), 3.0)
