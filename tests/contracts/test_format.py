"""What every format must do. On your own: `--implementation mine.py`."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_fixtures import randomise
from study_fixtures import environment

from space.arch import Architecture
from space.formats import FORMATS, Format, export_as, require
from space.hf import export
from space.model import Decoder

DOOR = FORMATS

PLAIN: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "num_attention_heads": 2,
    "intermediate_size": 96,
    "num_blocks": 1,
    "sharing": "immediate",
    "repeats": 2,
}


@pytest.fixture
def format(implementation: str) -> Format:
    found = FORMATS.load(implementation)
    if found.package:
        pytest.importorskip(found.package)
    return found


@pytest.fixture(scope="module")
def model() -> Decoder:
    made = Decoder(Architecture(**PLAIN)).eval()
    randomise(made)
    return made


def contents(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir()}


def test_it_writes_a_folder_that_it_may_replace(
    implementation: str, format: Format, model: Decoder, tmp_path: Path
) -> None:
    precision = require(implementation, model.arch)
    folder = format.write(model, tmp_path / "out", None, None, precision)
    first = contents(folder)
    assert first["README.md"]
    assert contents(format.write(model, folder, None, None, precision)) == first
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "nothing half made is left"


def test_what_is_no_export_stays(format: Format, model: Decoder, tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("dear diary")
    with pytest.raises(ValueError, match="must be new, empty or an earlier export"):
        format.write(model, tmp_path, None, None, format.precisions[0])
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


def test_a_precision_that_it_does_not_have_is_refused(
    implementation: str, format: Format, model: Decoder
) -> None:
    with pytest.raises(ValueError, match=r"precision of format=.* must be one of .* got 'q3'"):
        require(implementation, model.arch, "q3")


PART = """
from space.parts import Field, Part

class Twist(Part):
    fields = (Field("twist", False, bool, "whether it is twisted"),)
    examples = ({"twist": True},)

PART = Twist()
"""


def test_a_part_that_it_does_not_know_is_refused_by_name(
    implementation: str, format: Format, tmp_path: Path
) -> None:
    (tmp_path / "twist.py").write_text(PART)
    values = {**PLAIN, "parts": [str(tmp_path / "twist.py")], "twist": True}
    with pytest.raises(ValueError, match="twist=True"):
        require(implementation, Architecture.from_dict(values))


def test_a_package_that_is_not_installed_is_named_with_its_command(
    implementation: str, format: Format, model: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not format.extra:
        pytest.skip("it needs nothing that is not installed with the project")
    monkeypatch.setattr("space.formats.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"not installed; run `pip install 'isoparam\[") as error:
        require(implementation, model.arch)
    assert "\n" not in str(error.value)


def test_a_model_without_a_tokenizer_is_exported_with_one_that_is_given(
    implementation: str, format: Format, model: Decoder, tmp_path: Path
) -> None:
    plain = export(model, tmp_path / "plain")
    with pytest.raises(ValueError, match="tokenizer must be"):
        export_as(implementation, plain, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    words = tmp_path / "tokenizer.json"
    bytes_tokenizer().save(str(words))
    assert contents(export_as(implementation, plain, tmp_path / "out", str(words)))


def bytes_tokenizer() -> Any:
    """Byte-level BPE without a merge, and an end token."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_special_tokens(["<|end|>"])
    return made


def test_writing_leaves_the_model_as_it_is(
    implementation: str, format: Format, model: Decoder, tmp_path: Path
) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    format.write(model, tmp_path / "out", None, None, format.precisions[-1])
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name])


PAGE = Path(__file__).parents[2] / "docs" / "doors" / "format.md"


def test_the_example_of_the_page_is_one(tmp_path: Path, model: Decoder) -> None:
    source = PAGE.read_text().split("```python\n")[1].split("```")[0]
    (tmp_path / "npz.py").write_text(source)
    found = FORMATS.load(str(tmp_path / "npz.py"))
    folder = found.write(model, tmp_path / "out", None, None, require("hf", model.arch))
    with np.load(folder / "weights.npz") as kept:
        assert set(kept) == {name for name, _ in model.named_parameters()}


@pytest.mark.slow
def test_the_command_exports_in_a_format_of_ones_own(tmp_path: Path, model: Decoder) -> None:
    (tmp_path / "npz.py").write_text(PAGE.read_text().split("```python\n")[1].split("```")[0])
    words = tmp_path / "tokenizer.json"
    bytes_tokenizer().save(str(words))
    export(model, tmp_path / "plain", str(words))
    command = ["-m", "space", "export=plain", "to=out", "format=npz.py"]
    done = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out" / "weights.npz") as kept:
        assert set(kept) == {name for name, _ in model.named_parameters()}
