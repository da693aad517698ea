"""A search on a budget of milliseconds, with two objectives, from its command line to its page."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from study_fixtures import environment, open_search, work

from reports.__main__ import render
from reports.read.study import read_study
from search.study.ending import describe
from space.budget import MAX_DEVIATION
from space.device import Device

BUDGET = "budget=decode_ms:0.015@iphone_13:64"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_search_on_a_budget_of_latency_leaves_a_page_with_a_front(here: Path) -> None:
    """Every run takes as long on the phone, by the device model and not by the solver."""
    given = ("objectives=[val_bpb,weight_bytes@int4]", "n_trials=10", "sampler=tpe")
    search = open_search(here, BUDGET, *given, "replicates={top: 2, seeds: 3}")
    assert "0.015 ms of decode on iPhone 13 (fp16, 64 tokens)" in search.subject.headline(
        search.work
    )
    work(search)
    content = describe(search, finished=True)
    assert content["budget"] == {"kind": "decode_ms", "value": 0.015, "at": "iphone_13:64"}
    study = read_study("tiny")
    phone = Device.from_yaml("iphone_13")
    for record in study.records.values():
        taken = phone.decode_ms(record.run.architecture, 64)
        assert taken == pytest.approx(0.015, rel=MAX_DEVIATION)
    assert study.trials.budget_deviation.abs().max() <= MAX_DEVIATION
    files = render(study)
    page = files["report.html"].decode()
    assert "ms of decode on iPhone 13 (fp16, 64 tokens)" in page
    assert "<h2>The front</h2>" in page
    front = json.loads(files["front.json"])
    assert {row["verdict"] for row in front["architectures"]} <= {
        "front",
        "dominated",
        "unresolved",
        "too few seeds",
    }
    rows = list(csv.DictReader(io.StringIO(files["trials.csv"].decode())))
    assert all(float(row["weight_bytes@int4"]) > 0 for row in rows if row["status"] == "finished")


def test_a_page_is_made_where_the_device_is_not(here: Path) -> None:
    """A report is rebuilt from records that were copied, without the phone's file."""
    phone = here / "phone.yaml"
    phone.write_text(
        "name: Mine\nsource: a stopwatch\nterms: {decode_ms: [moved_mb]}\nmeasured:\n"
        "  - {architecture: mobilellm_125m, precision: fp16, decode_ms: 15.6}\n"
    )
    search = open_search(
        here, "budget=decode_ms:0.015@phone.yaml:64", "n_trials=2", "replicates.seeds=1"
    )
    work(search)
    describe(search, finished=True)
    phone.unlink()
    command = [sys.executable, "-m", "reports", "study=tiny"]
    made = subprocess.run(command, cwd=here, env=environment(), capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert "At 0.015 decode_ms@phone.yaml:64, " in made.stdout


def test_tokens_per_parameter_go_with_parameters(here: Path) -> None:
    with pytest.raises(ValueError, match="tokens_per_parameter must go with a budget of param"):
        open_search(here, BUDGET, "tokens_per_parameter=1")
