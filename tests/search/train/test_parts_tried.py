"""Parts from outside are tried before anything is trained with them."""

from pathlib import Path

import pytest
from study_fixtures import open_search

from search.recipe import Recipe
from search.record import Record, Run
from search.runs import load_records, write_record
from search.states import Status
from search.train.parts import require_parts
from space.arch import Architecture
from space.model import Decoder

GATE = """
from space.parts import Extra, Field, Part


class Gate(Part):
    fields = (Field("gate", False, bool, "a gate on what attention returns"),)
    examples = ({"gate": True},)

    def attention(self, arch, shape):
        return Extra(matrices=shape.hidden_size * COUNTED)

    def build(self, model):
        from torch import nn

        width = model.arch.hidden_size
        for attention in {layer.self_attn for layer in model.model.layers}:
            attention.gate = nn.Linear(width, BUILT, bias=False)
            attention.register_forward_hook(gated)


def gated(attention, inputs, output):
    return FORWARD


PART = Gate()
"""
USUAL = {
    "COUNTED": "shape.hidden_size",
    "BUILT": "width",
    "FORWARD": "output * attention.gate(inputs[0]).sigmoid()",
}


def written(path: Path, **change: str) -> Path:
    text = GATE
    for name, code in {**USUAL, **change}.items():
        text = text.replace(name, code)
    path.write_text(text)
    return path


def with_gate(path: Path) -> Architecture:
    sizes = {"vocab_size": 97, "hidden_size": 32, "num_attention_heads": 4, "num_blocks": 2}
    given = {**sizes, "intermediate_size": 48, "parts": [str(path)], "gate": True}
    return Architecture.from_dict(given)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"COUNTED": "1"}, r"must count the weights that it builds, but with .*mine.py"),
        ({"FORWARD": "output * undefined"}, r"mine.py, line 22, in gated: NameError: "),
        ({"FORWARD": "output[..., :3]"}, "must compute a loss and its gradients, but got Runtime"),
        ({"FORWARD": "(_ for _ in ()).throw(ValueError('no'))"}, "line 22, in .*: ValueError: no"),
    ],
)
def test_what_does_not_work_is_one_line(change: dict[str, str], words: str, tmp_path: Path) -> None:
    arch = with_gate(written(tmp_path / "mine.py", **change))
    with pytest.raises(ValueError, match=words) as error:
        require_parts([arch])
    assert "\n" not in str(error.value)


def test_what_works_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Architecture] = []
    make = Decoder.__init__
    monkeypatch.setattr(
        Decoder, "__init__", lambda self, arch: (built.append(arch), make(self, arch))[1]
    )
    arch = with_gate(written(tmp_path / "mine.py"))
    plain = Architecture.from_dict({**arch.to_dict(), "gate": False})
    require_parts([plain, arch, arch])
    assert built == [arch]


def test_a_study_of_a_part_that_fails_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    path = written(tmp_path / "mine.py", COUNTED="1")
    given = (f"+space.fixed.parts=[{path}]", "+space.fixed.gate=true")
    with pytest.raises(ValueError, match="must count the weights"):
        open_search(tmp_path, *given)
    assert not (tmp_path / "outputs" / "tiny").exists()
    written(path)
    open_search(tmp_path, *given).lock.release()


def test_records_of_two_parts_with_one_field_are_read_together(tmp_path: Path) -> None:
    recipe = Recipe(tokens=1000, precision="fp32")
    for name in ("mine.py", "other.py"):
        arch = with_gate(written(tmp_path / name))
        plain = Architecture.from_dict({**arch.to_dict(), "gate": False})
        for each in (arch, plain):
            run = Run(architecture=each, recipe=recipe, data_fingerprint="d")
            write_record(tmp_path / "runs" / run.key, Record(run=run, status=Status.FINISHED))
    frame = load_records(tmp_path / "runs")
    assert frame.attrs["corrupt"] == []
    assert sorted(frame.gate) == [False, True, True]
