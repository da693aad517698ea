"""Models measured in llama.cpp itself; no time is held to a number."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from study_fixtures import environment

from search.measure.config import Measuring
from search.measure.measured import measure, timed
from search.measure.process import memory
from search.record import Measured, Record
from space.arch import Architecture
from space.device import MB, Device

FIELDS: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "num_blocks": 2,
}
SMALL = Architecture(**FIELDS)
LARGE = Architecture(**{**FIELDS, "hidden_size": 256, "intermediate_size": 1024, "num_blocks": 12})
HOW = {"engine": "llama_cpp", "precision": "q8_0", "context": 8, "steps": 4, "repeats": 2}


def command(folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "search.measure", *options],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(FIELDS))
    wide = {**FIELDS, "hidden_size": 128, "intermediate_size": 384}
    (tmp_path / "wide.yaml").write_text(yaml.safe_dump(wide))
    (tmp_path / "relu.yaml").write_text(yaml.safe_dump({**FIELDS, "hidden_act": "relu"}))
    return tmp_path


def installed() -> None:
    for package in ("gguf", "xllamacpp"):
        pytest.importorskip(package)


@pytest.fixture(scope="module")
def measured() -> list[Measured]:
    installed()
    return measure([SMALL, LARGE], Measuring(**HOW))


def test_every_quantity_has_percentiles_in_their_order(measured: list[Measured]) -> None:
    names = {"load_ms", "init_ms", "prefill_ms", "decode_ms", "peak_mb", "file_mb"}
    names |= {f"{phase}_cpu_ms" for phase in ("load", "init", "prefill", "decode")}
    for one in measured:
        assert set(one.values) == names
        for found in one.values.values():
            assert 0 < found["p10"] <= found["p50"] <= found["p90"]


def test_a_model_of_a_hundred_times_the_weights_takes_longer(measured: list[Measured]) -> None:
    small, large = measured
    for quantity in ("decode_cpu_ms", "prefill_cpu_ms", "file_mb"):
        assert large.values[quantity]["p10"] > small.values[quantity]["p90"], quantity


def test_it_is_part_of_a_record_and_of_no_key(measured: list[Measured], record: Record) -> None:
    plain = record.to_dict()
    assert "measured" not in plain, "nothing measured leaves no trace"
    with_it = replace(record, measured=(measured[0],))
    read = Record.from_dict(json.loads(json.dumps(with_it.to_dict())))
    assert read.measured == with_it.measured
    assert read.run.key == record.run.key
    columns = read.measured[0].numbers()
    assert columns["llama_cpp_q8_0.decode_ms"] == measured[0].values["decode_ms"]["p50"]


@pytest.fixture
def record() -> Record:
    from search.recipe import Recipe
    from search.record import Run
    from search.states import Status

    run = Run(
        architecture=SMALL, recipe=Recipe(tokens=1000, precision="fp32"), data_fingerprint="x"
    )
    return Record(run=run, status=Status.FINISHED)


def test_memory_is_that_of_this_process() -> None:
    before = memory("VmRSS")
    held = bytearray(64 << 20)
    held[::4096] = b"x" * len(held[::4096])
    assert memory("VmRSS") - before > 60 * MB


def test_the_command_shows_models_in_turn_with_predictions_and_keeps_them(here: Path) -> None:
    installed()
    terms = {"decode_ms": ["moved_mb"], "load_ms": ["stored_mb"]}
    rows = [{"architecture": FIELDS, "precision": "q8_0", "decode_ms": 1.0, "load_ms": 2.0}]
    content = {"name": "Slow", "source": "here", "terms": terms, "measured": rows}
    (here / "slow.yaml").write_text(yaml.safe_dump(content))
    options = ["model=[small.yaml,wide.yaml]", "device=slow.yaml", "to=out.json"]
    options += [f"{name}={value}" for name, value in HOW.items()]
    done = command(here, *options)
    assert done.returncode == 0, done.stderr
    assert "decode_ms by Slow: largest error" in done.stdout
    kept = json.loads((here / "out.json").read_text())
    assert [one["model"] for one in kept] == ["small.yaml", "wide.yaml"]
    assert kept[1]["values"]["decode_ms"]["p50"] > 0
    lines = [line.split() for line in done.stdout.splitlines()]
    shown = {line[0]: line for line in lines if "decode_ms" in line and len(line) == 10}
    expected = Device.from_yaml(here / "slow.yaml").decode_ms(SMALL, context=10, precision="q8_0")
    assert shown["small.yaml"][-2] == f"{expected:.2f}"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["model=small.yaml", "engine=llama"], "engine must be one of .*llama_cpp"),
        (["model=small.yaml", "precision=int3"], "precision of engine=llama_cpp must be one of"),
        (["model=small.yaml", "context=4000"], "context . steps must be at most the model's 2048"),
        (["model=small.yaml", "repeats=0"], "repeats must be at least 1"),
        (["model=relu.yaml"], "must have a gated FFN .* but hidden_act is relu"),
        (["model=nothing"], "model must be a run, a file of conf/architecture/, .* got 'nothing'"),
        (
            ["model=nothing"],
            "a folder or a hub id, but got 'nothing', and there is no such folder; ",
        ),
        (["model=small.yaml", "device=iphone_99"], "device must be one of"),
        (["model=small.yaml", "device=this"], "run `python -m benchmarks.device` once"),
        (["engine=llama_cpp"], "model must be given"),
        (["model=small.yaml", "to=/proc/x.json"], "to must be a file that can be written"),
    ],
)
def test_what_is_wrong_ends_it_in_one_line(here: Path, options: list[str], said: str) -> None:
    installed()
    done = command(here, *options)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert re.search(said, done.stderr), done.stderr


def test_an_engine_that_is_not_installed_is_named_with_its_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("space.formats.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"xllamacpp, but .* `pip install 'isoparam\[llama\]'"):
        Measuring(**HOW).require(SMALL)


def test_an_engine_that_fails_is_said_in_one_line(tmp_path: Path) -> None:
    installed()
    (tmp_path / "model.gguf").write_bytes(b"GGUF of a kind")
    with pytest.raises(ValueError, match=r"engine=llama_cpp could not execute .* must be a model"):
        timed(SMALL, tmp_path, Measuring(**HOW))
