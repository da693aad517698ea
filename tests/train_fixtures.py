"""One small run of this project's own sources, to be trained in a test's process."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search.data.cache import prepare
from search.data.config import DataConfig
from search.data.packed import Data
from search.recipe import Recipe
from search.record import Run
from search.runs import read_metrics
from search.train.placement import Placement
from space.arch import Architecture

ROOT = Path(__file__).parents[1]
RECIPE = Recipe(
    tokens=40 * 4 * 32, seq_len=32, batch_size=4, eval_tokens=1024, evaluations=2, precision="fp32"
)
ARCH = Architecture(
    vocab_size=300,
    hidden_size=32,
    num_blocks=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    intermediate_size=64,
    sharing="immediate",
    repeats=2,
)
HERE = Placement(device="cpu", threads=1, checkpoint_s=0.001)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Tokens of this project's own sources: real English and real code."""
    folder = tmp_path_factory.mktemp("data")
    for path in sorted(ROOT.glob("s*/*.py")):
        (folder / f"{path.parent.name}_{path.stem}.txt").write_text(path.read_text())
    config = DataConfig(
        source="text",
        path=str(folder),
        vocab_size=300,
        validation_fraction=0.2,
        cache=str(folder / "cache"),
    )
    return prepare(config, progress=lambda _: None)


def run_of(data: Data, **recipe: Any) -> Run:
    return Run(
        architecture=ARCH,
        recipe=replace(RECIPE, **recipe),
        data_fingerprint=data.fingerprint,
    )


def losses(folder: Path) -> list[dict[str, Any]]:
    """The curve without the clock."""
    lines = [dict(line) for line in read_metrics(folder)]
    return [{k: v for k, v in line.items() if k != "elapsed_s"} for line in lines]
