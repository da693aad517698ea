"""Published results with measured ones beside them: facts, blanks, and the way from checkpoints."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from model_fixtures import randomise
from study_fixtures import ROOT, environment

from reports.views.main_results import frames, read_measured, render
from search.data.tokenizer import train_tokenizer
from space.arch import Architecture
from space.hf import export
from space.model import Decoder
from space.seals import read_json

TASKS = "arc_easy arc_challenge boolq piqa social_iqa hellaswag openbookqa winogrande".split()


def test_printed_averages_are_those_of_the_printed_tasks() -> None:
    """As the paper rounds them: a wrong digit of ours would show."""
    for table, frame in frames({}):
        if "average" in table["columns"]:
            off = frame[TASKS].mean(axis=1) - frame.average
            assert off.abs().max() < 0.051, table["number"]
    assert [len(frame) for _, frame in frames({})] == [17, 26, 8]


def score(task: str, value: float) -> dict[str, Any]:
    where = {"split": "validation", "source": "package", "limit": None, "n": 570, "seconds": 1.0}
    return {"task": task, "values": {"acc": value, "bpb": 1.0}, "errors": {}, **where}


def test_what_was_measured_fills_its_row_and_the_rest_stays_blank(tmp_path: Path) -> None:
    measured = {
        "mobilellm-125m": {"parameters": 1, "scores": [score(task, 0.25) for task in TASKS]},
        "abc": {"parameters": 1, "scores": [score("piqa", 0.5)]},
    }
    (tmp_path / "measured.json").write_text(json.dumps(measured))
    files = render(tmp_path)
    rows = files["table.md"].decode().splitlines()
    [named] = [row for row in rows if row.startswith("| MobileLLM-125M | 43.9")]
    cells = [cell.strip() for cell in named.strip("| ").split("|")]
    assert cells[1:3] == ["43.9", "25.0"]
    assert cells[-2:] == ["46.3", "25.0"]
    [other] = [row for row in rows if row.startswith("| OPT-125M | 41.3")]
    assert other.split("|")[3].strip() == "–"
    [own] = [row for row in rows if row.startswith("| abc") and "50.0" in row][:1]
    assert own.split("|")[-2].strip() == "–"  # no average of one task
    assert b"toprule" in files["table.tex"]
    assert b"570 documents" in files["table.html"]
    assert render(tmp_path) == files


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "measured.json").write_text("{")
    with pytest.raises(ValueError, match="must hold measured scores"):
        read_measured(tmp_path)


@pytest.mark.slow
def test_the_command_measures_checkpoints_made_on_the_spot(tmp_path: Path) -> None:
    from datasets import Dataset

    rows = {
        "goal": [f"to do {i}" for i in range(12)],
        "sol1": [f"take {i}" for i in range(12)],
        "sol2": [f"leave {i} alone" for i in range(12)],
        "label": [i % 2 for i in range(12)],
    }
    Dataset.from_dict(rows).save_to_disk(str(tmp_path / "piqa" / "plain_text" / "validation"))
    texts = [path.read_text() for path in sorted((ROOT / "space").glob("*.py"))]
    arch = Architecture(
        vocab_size=400,
        hidden_size=32,
        num_blocks=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
    )
    model = Decoder(arch)
    randomise(model)
    for name in ("MobileLLM-125M", "mine"):
        export(model, tmp_path / name, tokenizer=train_tokenizer(texts, 400))

    def make(*more: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "ablations", "table=main_results", "evaluate=commonsense"]
        command += [f"evaluate.package={tmp_path}", *(f"~evaluate.tasks.{t}" for t in TASKS[:3])]
        command += [f"~evaluate.tasks.{t}" for t in TASKS[4:]]
        return subprocess.run(
            [*command, *more],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )

    done = make("models=[MobileLLM-125M,mine]")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "outputs" / "tables" / "main_results"
    assert set(read_json(folder / "measured.json")) == {"MobileLLM-125M", "mine"}
    before = {path.name: path.read_bytes() for path in folder.glob("table.*")}
    assert set(before) == {"table.md", "table.tex", "table.csv", "table.html"}
    assert b"| mine |" in before["table.md"]
    wrong = make("models=[nowhere]")
    assert wrong.returncode == 2
    assert len(wrong.stderr.strip().splitlines()) == 1
    assert "a folder or a hub id" in wrong.stderr
