"""What every format must do. On your own: `--implementation mine.py`."""

import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_fixtures import randomise
from study_fixtures import environment

from search.engines import ENGINES, Asked
from space.arch import Architecture
from space.device import Moved
from space.formats import FORMATS, Format, export_as, require
from space.hf import export
from space.model import Decoder

DOOR = FORMATS

PLAIN: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 256,
    "num_attention_heads": 4,
    "intermediate_size": 2048,
    "num_blocks": 1,
    "sharing": "immediate",
    "repeats": 2,
}
ROOM = 64
PROMPT = [5, 17, 33, 250, 8, 99, 3, 41, 7]


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


Files = dict[tuple[str, str], Path]


@pytest.fixture(scope="module")
def files() -> Files:
    """Where the model was written, by format and precision: some take a minute."""
    return {}


def contents(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir()}


def test_it_writes_a_folder_that_it_may_replace(
    implementation: str, format: Format, model: Decoder, tmp_path: Path, files: Files
) -> None:
    precision = require(implementation, model.arch)
    folder = format.write(model, tmp_path / "out", None, None, precision, ROOM)
    first = contents(folder)
    assert first["README.md"]
    assert contents(format.write(model, folder, None, None, precision, ROOM)) == first
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "nothing half made is left"
    files[implementation, precision] = folder


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
    implementation: str, format: Format, model: Decoder, tmp_path: Path, files: Files
) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    precision = format.precisions[-1]
    folder = format.write(model, tmp_path / "out", None, None, precision, ROOM)
    files[implementation, precision] = folder
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name])


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-5), ("8da8w", 0.1), ("8da4w", 0.15)])
def test_a_file_for_executorch_has_the_weights_of_a_shared_block_once_and_computes_what_they_say(
    precision: str, most: float, model: Decoder, tmp_path: Path, files: Files
) -> None:
    """Its activations are rounded to 8 bits besides, which costs 5 to 11% of so small a model."""
    pytest.importorskip("executorch")
    if ("executorch", precision) not in files:
        found = FORMATS.load("executorch")
        made = found.write(model, tmp_path / "out", None, None, precision, ROOM)
        files["executorch", precision] = made
    folder, plain = files["executorch", precision], decoded(model)
    got = executed(folder, model.arch)
    error = apart(got, decoded(rounded(model, precision)))
    assert error < most
    assert precision != "8da4w" or error < apart(got, plain) / 2
    counts = Moved.of(model.arch, precision, 1, 1)
    size = (folder / "model.pte").stat().st_size / 1e6
    assert 0.95 * counts.stored_mb < size < counts.stored_mb + counts.copies_mb / 2


def decoded(model: Decoder) -> Any:
    with torch.no_grad():
        return model(torch.tensor([PROMPT]))[0, -1].numpy()


def executed(folder: Path, arch: Architecture) -> Any:
    session = ENGINES.load("executorch").open(Asked(folder=folder, architecture=arch, context=ROOM))
    session.prefill(PROMPT)
    return session.logits()


def rounded(model: Decoder, precision: str) -> Decoder:
    """The model with the weights that torchao gives back of those that it rounded."""
    if precision == "fp32":
        return model
    copied = deepcopy(model)
    copied.lm_head = torch.nn.Linear(model.arch.hidden_size, model.arch.vocab_size, bias=False)
    copied.lm_head.weight.data = given_back(model.lm_head.weight)
    copied.model.embed_tokens.weight.data = given_back(model.lm_head.weight)
    for child in set(copied.model.layers.modules()):
        if isinstance(child, torch.nn.Linear):
            child.weight.data = given_back(child.weight, groups=precision == "8da4w")
    return copied


def given_back(weight: torch.Tensor, groups: bool = False) -> torch.Tensor:
    """After 8 bits with a scale for each row, or 4 with one for 32 weights."""
    from torchao.quantization import IntxWeightOnlyConfig, quantize_
    from torchao.quantization.granularity import PerAxis, PerGroup

    linear = torch.nn.Linear(*reversed(weight.shape), bias=False)
    linear.weight.data = weight.detach().clone()
    bits, each = (torch.int4, PerGroup(32)) if groups else (torch.int8, PerAxis(0))
    quantize_(linear, IntxWeightOnlyConfig(weight_dtype=bits, granularity=each))
    return linear.weight.dequantize()  # type: ignore[operator]


def apart(got: Any, expected: Any) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


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
