"""Studies whose architectures are timed in llama.cpp: when all runs are done, or each run where an
objective is measured."""

import json
from pathlib import Path

import pandas as pd
import pytest
from study_fixtures import records, run

from search.runs import load_records


@pytest.fixture(autouse=True)
def installed() -> None:
    for package in ("gguf", "xllamacpp"):
        pytest.importorskip(package)


HOW = ("measure=llama_cpp", "measure.context=8", "measure.steps=2", "measure.repeats=1")


@pytest.mark.slow
def test_a_study_measures_each_architecture_once_and_shows_it(tmp_path: Path) -> None:
    given = ("n_trials=3", "replicates.top=1", "replicates.seeds=2", "report=true")
    assert run(tmp_path, *given).returncode == 0
    before = records(tmp_path)
    done = run(tmp_path, *given, *HOW)
    assert done.returncode == 0, done.stderr
    frame = load_records(tmp_path / "runs")
    assert set(frame.key) == set(before), "nothing is trained again"
    times = frame.groupby("arm")["llama_cpp_fp16.decode_ms"]
    assert (times.nunique() == 1).all()
    assert f"measuring {times.ngroups} architecture" in done.stdout
    folder = next((tmp_path / "outputs").glob("*/measured.csv")).parent
    assert set(pd.read_csv(folder / "measured.csv").label) == {"llama_cpp_fp16"}
    assert "llama_cpp_fp16.decode_ms" in pd.read_csv(folder / "trials.csv")
    assert "Measured: llama_cpp_fp16" in (folder / "report.html").read_text()
    again = run(tmp_path, *given, *HOW)
    assert "measuring" not in again.stdout, "what is known is not measured again"


@pytest.mark.slow
def test_each_run_is_measured_where_an_objective_is(tmp_path: Path) -> None:
    """Those that are there already are measured, and not trained again."""
    given = ("n_trials=3", "replicates.top=1", "replicates.seeds=2")
    assert run(tmp_path, *given).returncode == 0
    before = records(tmp_path)
    objectives = "objectives=[val_bpb,decode_ms@llama_cpp:8]"
    timed = (*given, *HOW, "study=timed", objectives, "constraints=[peak_mb@llama_cpp<=1000]")
    done = run(tmp_path, *timed)
    assert done.returncode == 0, done.stderr
    assert "measuring" not in done.stdout, "its workers have"
    after = records(tmp_path)
    assert {key: r["train_s"] for key, r in after.items()} == {
        key: r["train_s"] for key, r in before.items()
    }
    frame = load_records(tmp_path / "runs").set_index("key")["llama_cpp_fp16.decode_cpu_ms"]
    study = json.loads((tmp_path / "outputs" / "timed" / "study.json").read_text())
    trials = {trial["key"]: trial for trial in study["trials"]}
    assert {
        k: t["values"]["decode_ms@llama_cpp:8:fp16"] for k, t in trials.items()
    } == frame.to_dict()
    assert frame.nunique() == len(trials), "each run on its own"
    assert all(max(t["excesses"].values()) < 0 for t in trials.values())
    other = run(tmp_path, *timed, "measure.steps=3")
    assert other.returncode == 2
    assert "measure.steps was 2, is 3" in other.stderr


@pytest.mark.slow
def test_what_an_engine_cannot_execute_ends_a_study_before_it_trains(tmp_path: Path) -> None:
    done = run(tmp_path, *HOW, "n_trials=1", "replicates.seeds=1", "measure.precision=q4_1")
    assert done.returncode == 2
    assert "precision of engine=llama_cpp must be one of fp16, q8_0, q4_0" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not records(tmp_path)
