"""The coordinate check: what the rules keep alike, and that it sees what they do not."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from study_fixtures import write_text
from torch.nn import functional as F

from search.coordinate_check import (
    ATTENTION,
    CHANGE,
    EMBEDDING,
    FFN,
    KINDS,
    LOGITS,
    OUT,
    QKV,
    SCORES,
    SIZE,
    STREAM,
    UP,
    CoordinateCheckConfig,
    Row,
    activations,
    check,
    main,
    scores,
    silent_axes,
    updates,
)
from search.data.cache import prepare
from search.data.config import DataConfig
from search.data.packed import Data
from search.recipe import Recipe
from search.train.optimizers import OPTIMIZERS
from search.train.parametrisations import Place, Scale, completep
from search.train.placement import Placement
from space.arch import Architecture
from space.model import Decoder

RECIPE = Recipe(
    tokens=8 * 1500,
    seq_len=8,
    batch_size=1,
    eval_tokens=8,
    grad_clip=1e9,
    precision="fp32",
    base_hidden_size=96,
    base_num_hidden_layers=9,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Tokens of made-up words, the same everywhere: slopes vary with the text by ±0.02."""
    folder = tmp_path_factory.mktemp("data")
    path = write_text(folder)
    given = DataConfig(source="text", path=str(path), vocab_size=300, cache=str(folder / "cache"))
    return prepare(given, progress=lambda _: None)


def config(**given: Any) -> CoordinateCheckConfig:
    values: dict[str, Any] = {
        "data": DataConfig(vocab_size=300),
        "recipe": RECIPE,
        "axes": ["width", "depth"],
        "multiples": [1, 2, 4],
        "steps": 3,
        "seeds": 1,
        "placement": Placement(device="cpu", threads=1),
    }
    return CoordinateCheckConfig(**{**values, **given})


def drifting(rows: list[Row], axis: str, tolerance: float = 0.1) -> set[str]:
    return {row.kind for row in rows if row.axis == axis and row.drifts(tolerance)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "optimizer"),
    [
        ({}, "adamw"),
        ({"tie_word_embeddings": False}, "adamw"),
        ({"qk_norm": True}, "adamw"),
        ({}, "muon"),
    ],
)
def test_completep_treats_all_shapes_alike(
    data: Data, fields: dict[str, Any], optimizer: str
) -> None:
    given = config(
        axes=["width", "depth", "immediate", "cycle"],
        architecture=fields,
        recipe=replace(RECIPE, optimizer=optimizer),
        seeds=3,
    )
    rows = check(given, "completep", data)
    assert len(rows) == 4 * (len(KINDS) * 2 + 3)
    assert [(r.axis, r.kind, r.measure, r.slope) for r in rows if r.drifts(0.1)] == []


def test_the_standard_parametrisation_does_not(data: Data) -> None:
    rows = check(config(), "sp", data)
    assert {SCORES, ATTENTION, FFN, STREAM, LOGITS} <= drifting(rows, "width")
    assert {SCORES, STREAM, LOGITS} <= drifting(rows, "depth")
    assert EMBEDDING not in drifting(rows, "depth")


def test_each_axis_must_show_a_drift() -> None:
    given = config(axes=["width", "depth", "cycle", "head_dim"], multiples=[1, 2])
    rows = [Row(axis, STREAM, CHANGE, (1.0, 2.0), 1.0, 0.0) for axis in ("width", "cycle")]
    assert silent_axes(given, "sp", rows) == ["depth"]
    assert silent_axes(given, "mup", rows[1:]) == ["depth"], "it follows width"
    assert silent_axes(given, "sp", []) == ["width", "depth", "cycle"]


@pytest.mark.slow
def test_mup_follows_width_and_not_depth(data: Data) -> None:
    rows = check(config(seeds=3), "mup", data)
    assert drifting(rows, "width") == set()
    assert {SCORES, STREAM, LOGITS} <= drifting(rows, "depth")


def test_a_wrong_power_of_depth_is_seen(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """Depth as 1/√d, which leaves the rate to follow depth, drifts by about a half."""
    rule = completep.PARAMETRISATION
    scale = rule.scale

    def half(place: Place, *given: Any) -> Scale:
        return scale(replace(place, depth=place.depth**0.5), *given)

    monkeypatch.setattr(rule, "scale", half)
    rows = check(config(axes=["depth"]), "completep", data)
    (stream,) = [r for r in rows if (r.kind, r.measure) == (STREAM, CHANGE)]
    assert 0.25 < stream.slope < 0.75


@pytest.mark.parametrize(
    ("parts", "kind"),
    [(("q_proj", "k_proj", "v_proj"), QKV), (("gate_proj", "up_proj"), UP)],
    ids=["q, k, v", "gate, up"],
)
def test_a_rate_that_does_not_follow_width_is_seen(
    data: Data, monkeypatch: pytest.MonkeyPatch, parts: tuple[str, ...], kind: str
) -> None:
    """Activations would hardly tell: with closed branches these matrices change little else."""
    rule = completep.PARAMETRISATION
    scale = rule.scale

    def wrong(place: Place, *given: Any) -> Scale:
        right = scale(place, *given)
        return replace(right, lr=RECIPE.lr) if any(p in place.name for p in parts) else right

    monkeypatch.setattr(rule, "scale", wrong)
    rows = check(config(axes=["width"]), "completep", data)
    assert not {ATTENTION, FFN, STREAM, LOGITS} & drifting(rows, "width")
    (row,) = [r for r in rows if r.kind == kind]
    assert 0.8 < row.slope < 1.2


def test_the_growth_of_adamws_rate_is_wrong_for_muon(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rate over n in place of √n leaves each matrix to change by 1/√n."""
    monkeypatch.setattr(OPTIMIZERS.load("muon"), "growth", lambda n: n)
    recipe = replace(RECIPE, optimizer="muon")
    rows = check(config(axes=["width"], recipe=recipe), "completep", data)
    found = {r.kind: r.slope for r in rows if r.kind in (QKV, UP, OUT)}
    assert all(-0.6 < slope < -0.4 for slope in found.values()), found


def test_a_slope_is_the_power_of_the_multiple() -> None:
    given = {"axis": "width", "kind": LOGITS, "values": (1.0, 2.0), "spread": 0.0}
    assert Row(measure=CHANGE, slope=-0.11, **given).drifts(0.1)
    assert Row(measure=CHANGE, slope=float("nan"), **given).drifts(0.1)
    assert not Row(measure=CHANGE, slope=0.1, **given).drifts(0.1)
    assert not Row(measure=SIZE, slope=-0.5, **given).drifts(0.1), "on purpose: see the docstring"


@pytest.mark.parametrize("qk_norm", [False, True])
def test_activations_are_what_the_model_computes(qk_norm: bool) -> None:
    """Scores through torch's softmax give the attention of the model; a branch is seen before its
    multiplier; a shared block once an execution."""
    arch = Architecture(
        vocab_size=64,
        hidden_size=32,
        num_blocks=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        sharing="immediate",
        repeats=3,
        qk_norm=qk_norm,
    )
    torch.manual_seed(0)
    model = Decoder(arch)
    recipe = replace(RECIPE, base_num_hidden_layers=2)  # 6 executed layers: multiplier 1/3
    ids = torch.randint(64, (2, 8))
    seen = activations(model, recipe, ids, ids)
    counts = {kind: len(tensors) for kind, tensors in seen.items()}
    assert counts == {EMBEDDING: 1, SCORES: 6, ATTENTION: 6, FFN: 6, STREAM: 1, LOGITS: 1}
    attention = model.model.layers[0].self_attn
    x = torch.randn(2, 8, 32)
    cos, sin = model.rotary(0, 8, x)
    values = attention.v_proj(x).view(2, 8, 2, 8).transpose(1, 2).repeat_interleave(2, dim=1)
    ours = scores(attention, x, cos, sin)
    above = torch.ones(8, 8, dtype=torch.bool).triu(1)
    weights = ours.masked_fill(above, float("-inf")).softmax(-1)
    read = (weights @ values).transpose(1, 2).reshape(2, 8, 32)
    torch.testing.assert_close(F.linear(read, attention.o_proj.weight), attention(x, cos, sin))
    moved = sum(seen[ATTENTION]) + sum(seen[FFN])
    torch.testing.assert_close(seen[STREAM][0], seen[EMBEDDING][0] + moved / 3)
    zeros = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    alone = updates(model, recipe, ids, zeros)  # all of a matrix has changed
    assert {kind: len(tensors) for kind, tensors in alone.items()} == {QKV: 18, UP: 12, OUT: 12}
    torch.testing.assert_close(sum(alone[OUT]), moved)


def end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *given: str
) -> tuple[int, str, str]:
    """Exit code, output and errors of the command."""
    if not Path("text.jsonl").is_file():
        write_text(Path.cwd())
    small = ["data=text", "data.path=text.jsonl", "data.vocab_size=300", "recipe.seq_len=8"]
    small += ["multiples=[1,4]", "axes=[depth]", "seeds=3", "placement.threads=1"]
    last = {word.partition("=")[0]: word for word in (*small, *given)}
    monkeypatch.setattr(sys, "argv", ["coordinate_check", *last.values()])
    try:
        main()
        code = 0
    except SystemExit as ended:
        code = int(str(ended.code))
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_command_leaves_picture_table_and_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = end(capsys, monkeypatch)
    assert code == 0, out
    assert "completep: all slopes within ±0.1" in out
    folder = tmp_path / "outputs" / "coordinate_check" / "completep"
    assert (folder / "slopes.png").read_bytes().startswith(b"\x89PNG")
    table = (folder / "table.md").read_text()
    assert "**completep**" in table
    assert "**sp**" in table
    code, out, _ = end(capsys, monkeypatch, "recipe.parametrisation=sp")
    assert code == 1
    assert "slopes outside ±0.1" in out
    code, out, _ = end(capsys, monkeypatch, "tolerance=5")
    assert code == 1
    assert "the check shows nothing" in out


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("axes=[length]", "axes must be one or more of width, depth, head_dim"),
        ("axes=[]", "but got none"),
        ("axes=[head_dim]", "must fill the base shape's width, but got 96 and heads of 64"),
        ("+architecture.num_blocks=9", "architecture must leave num_blocks to the check"),
        ("multiples=[2]", "multiples must be two or more"),
        ("recipe.base_hidden_size=90", "must be a multiple of head_dim, but got 90 and 16"),
        ("recipe.base_num_hidden_layers=0", "base_num_hidden_layers must be positive, but got 0"),
        ("beside=np", "parametrisation must be one of completep, mup, sp"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    given: str,
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = end(capsys, monkeypatch, given)
    assert code == 2
    (line,) = err.strip().splitlines()
    assert words in line
