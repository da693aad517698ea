"""What every engine must do. On your own: `--implementation mine.py`."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from model_fixtures import randomise
from study_fixtures import environment

from search.engines import ENGINES, Asked, Engine, Session
from space.arch import Architecture
from space.formats import FORMATS
from space.model import Decoder

DOOR = ENGINES

SHARED: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "num_blocks": 2,
    "sharing": "cycle",
    "repeats": 2,
}
PROMPT, NEXT = [5, 17, 33, 250, 8, 99, 3], [41, 7, 200]


@pytest.fixture(scope="module")
def model() -> Decoder:
    made = Decoder(Architecture(**SHARED)).eval()
    randomise(made)
    return made


@pytest.fixture
def engine(implementation: str) -> Engine:
    found = ENGINES.load(implementation)
    for package in (found.package, FORMATS.load(found.format).package):
        pytest.importorskip(package or "space")
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The model in each format, written once: some take minutes."""
    return {}


@pytest.fixture
def folder(
    engine: Engine, model: Decoder, files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    if engine.format not in files:
        files[engine.format] = written(engine, model, tmp_path_factory.mktemp("model") / "out")
    return files[engine.format]


def written(engine: Engine, model: Decoder, folder: Path) -> Path:
    format = FORMATS.load(engine.format)
    return format.write(model, folder, None, None, format.precisions[0], 16)


@pytest.fixture
def session(engine: Engine, model: Decoder, folder: Path) -> Session:
    return opened(engine, model, folder)


def opened(engine: Engine, model: Decoder, folder: Path, **fields: Any) -> Session:
    return engine.open(Asked(folder=folder, architecture=model.arch, context=16, **fields))


def wanted(model: Decoder, ids: list[int]) -> Any:
    with torch.no_grad():
        return model(torch.tensor([ids]))[0, -1].numpy()


def apart(got: Any, expected: Any) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def test_it_computes_what_the_decoder_computes_token_by_token(
    session: Session, model: Decoder
) -> None:
    session.prefill(PROMPT)
    assert apart(session.logits(), wanted(model, PROMPT)) < 0.01
    for i, token in enumerate(NEXT):
        session.decode(token)
        assert apart(session.logits(), wanted(model, PROMPT + NEXT[: i + 1])) < 0.01


def test_a_prompt_begins_anew(session: Session, model: Decoder) -> None:
    session.prefill(NEXT)
    session.prefill(PROMPT)
    assert apart(session.logits(), wanted(model, PROMPT)) < 0.01


def test_loading_and_making_ready_take_time(session: Session) -> None:
    assert session.load_ms > 0
    assert session.init_ms > 0


def test_sharing_one_copy_of_weights_changes_no_result(
    engine: Engine, model: Decoder, folder: Path
) -> None:
    if not engine.shares:
        pytest.skip("it says that it cannot")
    session = opened(engine, model, folder, shared=True)
    session.prefill(PROMPT)
    assert apart(session.logits(), wanted(model, PROMPT)) < 0.01


def test_a_damaged_file_is_refused_in_one_line(
    engine: Engine, model: Decoder, folder: Path, tmp_path: Path
) -> None:
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    largest = max(damaged.iterdir(), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"must be a model that .* loads, but") as error:
        opened(engine, model, damaged)
    assert "\n" not in str(error.value)


PAGE = Path(__file__).parents[2] / "docs" / "doors" / "engine.md"


def test_the_example_of_the_page_is_one(tmp_path: Path, model: Decoder) -> None:
    source = PAGE.read_text().split("```python\n")[1].split("```")[0]
    (tmp_path / "mine.py").write_text(source)
    mine = ENGINES.load(str(tmp_path / "mine.py"))
    session = opened(mine, model, written(mine, model, tmp_path / "out"))
    session.prefill(PROMPT)
    session.decode(NEXT[0])
    assert apart(session.logits(), wanted(model, [*PROMPT, NEXT[0]])) < 1e-5


@pytest.mark.slow
def test_the_command_times_models_in_an_engine_of_ones_own(tmp_path: Path, model: Decoder) -> None:
    (tmp_path / "mine.py").write_text(PAGE.read_text().split("```python\n")[1].split("```")[0])
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(model.arch.to_dict()))
    command = ["-m", "search.measure", "model=small.yaml", "engine=mine.py", "context=16"]
    done = subprocess.run(
        [sys.executable, *command, "repeats=2"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "decode" in done.stdout
