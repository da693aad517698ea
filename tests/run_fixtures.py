"""`python -m search.run` in a folder of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

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


def start(
    folder: Path, *overrides: str, before: list[str] | None = None
) -> "subprocess.Popen[str]":
    """The command, running in `folder`."""
    given = {word.split("=")[0]: word for word in (*TINY, *overrides)}  # of an option the last
    command = [sys.executable, *(before or []), "-m", "search.run", *given.values()]
    text = folder / "text"
    text.mkdir(exist_ok=True)
    for path in ROOT.glob("s*/**/*.py"):
        (text / f"{path.parent.name}_{path.stem}.txt").write_text(path.read_text())
    return subprocess.Popen(
        [*command, f"data.path={text}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder: Path, *overrides: str, before: list[str] | None = None) -> tuple[int, str]:
    """Exit code and what was printed."""
    process = start(folder, *overrides, before=before)
    out, err = process.communicate()
    return process.returncode, out + err


def curve(folder: Path) -> list[float]:
    lines = (path.read_text().splitlines() for path in folder.glob("runs/*/metrics.jsonl"))
    values = [json.loads(line) for file in lines for line in file]
    return [line.get("train_loss", line.get("val_loss")) for line in values]
