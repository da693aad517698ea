"""Training one architecture from the command line, by one process and by two."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
TINY = [
    "architecture=mobilellm_125m",
    "architecture.hidden_size=32",
    "architecture.num_blocks=2",
    "architecture.num_attention_heads=2",
    "architecture.num_key_value_heads=1",
    "architecture.intermediate_size=64",
    "architecture.vocab_size=300",
    "proxy=smoke",
    "recipe.tokens=4096",
    "recipe.precision=fp32",
    "data=text",
    "data.vocab_size=300",
    "data.validation_fraction=0.3",
]


def run(folder: Path, *overrides: str, before: list[str] | None = None) -> tuple[int, str]:
    """Exit code and what was printed."""
    command = [sys.executable, *(before or []), "-m", "search.run", *TINY, *overrides]
    text = folder / "text"
    text.mkdir(exist_ok=True)
    for path in ROOT.glob("s*/*.py"):
        (text / f"{path.parent.name}_{path.stem}.txt").write_text(path.read_text())
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, f"data.path={text}"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def curve(folder: Path) -> list[float]:
    lines = (path.read_text().splitlines() for path in folder.glob("runs/*/metrics.jsonl"))
    values = [json.loads(line) for file in lines for line in file]
    return [line.get("train_loss", line.get("val_loss")) for line in values]


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """Under torchrun, over gloo: the losses of one process at the same global batch."""
    for name, before in (("one", None), ("two", TORCHRUN)):
        (tmp_path / name).mkdir()
        code, printed = run(tmp_path / name, before=before)
        assert code == 0, printed
        assert "finished" in printed
    assert curve(tmp_path / "one") == pytest.approx(curve(tmp_path / "two"), rel=1e-4)
    assert len(curve(tmp_path / "one")) > 5


@pytest.mark.slow
def test_a_vocabulary_that_is_not_the_datas_is_refused(tmp_path: Path) -> None:
    code, printed = run(tmp_path, "data.vocab_size=400")
    assert code == 2
    assert printed.strip().splitlines()[-1].startswith("error: the architecture's vocab_size must")


@pytest.mark.slow
def test_an_architecture_must_be_given_but_for_help() -> None:
    def started(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "search.run", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    done = started("seed=1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "error: architecture must be given, but is not; add architecture="
    )
    assert started("--help").stdout.startswith("python -m search.run architecture=")
