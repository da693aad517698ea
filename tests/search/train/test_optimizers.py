"""Optimisers and parametrisations by name: in keys, in checkpoints, and from a file outside."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from study_fixtures import ROOT, environment, records, run, study_json
from torch import nn

from search.data.cache import prepare
from search.data.config import DataConfig
from search.data.packed import Data
from search.recipe import Recipe
from search.record import Run, run_from_dict
from search.runs import read_metrics
from search.train.loop import Stop, train
from search.train.optimizers import OPTIMIZERS
from search.train.parametrisations import MATRIX
from search.train.parametrise import initialise, parameter_groups, scales
from search.train.placement import Placement
from space.arch import Architecture
from space.model import Decoder

HERE = Placement(device="cpu", threads=1, checkpoint_s=0.001)
RECIPE = Recipe(
    tokens=40 * 4 * 32, seq_len=32, batch_size=4, eval_tokens=1024, evaluations=2, precision="fp32"
)


def architecture(width: int = 32, layers: int = 2) -> Architecture:
    return Architecture(
        vocab_size=300,
        hidden_size=width,
        num_blocks=layers,
        num_attention_heads=width // 16,
        num_key_value_heads=1,
        intermediate_size=2 * width,
    )


def example(door: str) -> str:
    """The complete file that a door's page shows."""
    text = (ROOT / "docs" / "doors" / f"{door}.md").read_text()
    (found,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return str(found)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("data")
    for path in sorted(ROOT.glob("space/*.py")):
        (folder / f"{path.stem}.txt").write_text(path.read_text())
    given = {"vocab_size": 300, "validation_fraction": 0.2, "cache": str(folder / "cache")}
    return prepare(DataConfig(source="text", path=str(folder), **given), progress=lambda _: None)


def losses(folder: Path) -> list[dict[str, Any]]:
    """The curve without the clock."""
    return [{k: v for k, v in line.items() if k != "elapsed_s"} for line in read_metrics(folder)]


def test_the_default_optimizer_leaves_no_trace_in_keys() -> None:
    assert "optimizer" not in RECIPE.to_dict()
    assert RECIPE.canonical() == RECIPE.to_dict()
    assert replace(RECIPE, optimizer="muon").to_dict()["optimizer"] == "muon"


def test_a_file_is_in_the_key_by_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def asked(name: str) -> Run:
        recipe = replace(RECIPE, optimizer=name)
        return Run(architecture=architecture(), recipe=recipe, data_fingerprint="0")

    (tmp_path / "mine.py").write_text(example("optimizer"))
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "mine.py").write_text(example("optimizer"))
    here, there = asked("mine.py"), asked("lab/mine.py")
    assert here.key == there.key != asked("muon").key
    (tmp_path / "mine.py").write_text(example("optimizer") + "# changed\n")
    assert asked("mine.py").key != here.key
    known = run_from_dict(json.loads(json.dumps(here.to_dict())))
    assert known.key == here.key, "a record of a file that has changed keeps its key"
    with pytest.raises(ValueError, match=r"mine\.py must be as it was .* but has changed"):
        OPTIMIZERS.load(known.recipe.optimizer)


@pytest.mark.parametrize("field", ["optimizer", "parametrisation"])
def test_an_unknown_name_is_refused_where_it_enters(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be one of .*, but got 'adamv'"):
        replace(RECIPE, **{field: "adamv"})  # type: ignore[arg-type]


def test_muon_takes_the_matrices_inside_layers_and_adamw_the_rest() -> None:
    model = Decoder(architecture())
    groups = parameter_groups(model, RECIPE)
    optimizer = OPTIMIZERS.load("muon").build(groups, RECIPE)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    for group in optimizer.param_groups:
        wanted = (
            {"momentum_buffer"} if group["kind"] == MATRIX else {"step", "exp_avg", "exp_avg_sq"}
        )
        assert all(set(optimizer.state[p]) == wanted for p in group["params"])


def test_a_step_of_muon_has_the_size_of_one_of_adamw_at_the_base_shape() -> None:
    """Root mean squares, of AdamW's first step lr and of Muon's 0.2 lr, as AdamW's come to be."""
    torch.manual_seed(0)
    for shape in ((96, 96), (256, 96), (96, 256)):
        p = nn.Parameter(torch.zeros(shape))
        p.grad = torch.randn(shape)
        group = {"params": [p], "lr": 0.01, "eps": 1e-8, "weight_decay": 0.0, "kind": MATRIX}
        rest = {"params": [nn.Parameter(torch.zeros(2))], "lr": 0.01, "kind": "vector"}
        OPTIMIZERS.load("muon").build([group, rest], RECIPE).step()
        assert p.detach().square().mean().sqrt().item() == pytest.approx(0.002, rel=0.15)


@pytest.mark.parametrize("part", ["q_proj", "down_proj"])
def test_under_muon_the_rate_follows_the_root_of_the_fan_in(part: str) -> None:
    narrow, wide = (
        next(scale for name, scale in scales(model, recipe).items() if part in name)
        for recipe in [replace(RECIPE, optimizer="muon", base_hidden_size=32)]
        for model in (Decoder(architecture(32)), Decoder(architecture(128)))
    )
    assert wide.lr == pytest.approx(narrow.lr / sqrt(4))
    assert wide.lr * wide.weight_decay == pytest.approx(narrow.lr * narrow.weight_decay)


@pytest.mark.parametrize("tied", [True, False])
def test_muon_trains_the_folded_model_as_the_published_form(tied: bool) -> None:
    """Multipliers of branches and output apart from the weights, at a rate of CompleteP's: the
    same logits after each step. Depth is a power of two, which rounds alike in bf16."""
    recipe = replace(
        RECIPE, optimizer="muon", residual_init=1.0, base_hidden_size=32, base_num_hidden_layers=1
    )
    arch = replace(architecture(128, layers=4), tie_word_embeddings=tied)
    folded, plain = Decoder(arch), Decoder(arch)
    for model in (folded, plain):
        initialise(model, recipe, init_seed=0)
    multipliers = {name: s.multiplier for name, s in scales(folded, recipe).items()}
    named = dict(plain.named_parameters())
    groups = []
    for name, m in multipliers.items():
        named[name].data /= m
        scale = scales(folded, recipe)[name]
        own = {"lr": scale.lr / m, "eps": scale.eps * m, "weight_decay": scale.weight_decay * m}
        groups.append({"params": [named[name]], "kind": scale.kind, "multiplier": 1.0, **own})
    muon = OPTIMIZERS.load("muon")
    optimizers = [
        muon.build(parameter_groups(folded, recipe), recipe),
        muon.build(groups, recipe),
    ]
    ids = torch.randint(300, (2, 17), generator=torch.Generator().manual_seed(1))
    for _ in range(4):
        used = {name: m * named[name] for name, m in multipliers.items()}
        logits = [folded(ids[:, :-1]), torch.func.functional_call(plain, used, (ids[:, :-1],))]
        torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-4)
        for out, optimizer in zip(logits, optimizers, strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(out.flatten(0, 1), ids[:, 1:].flatten()).backward()
            optimizer.step()


@pytest.mark.parametrize("engine", ["auto", "autograd"])
def test_a_run_under_muon_learns_and_goes_on_bit_for_bit(
    data: Data, tmp_path: Path, engine: str
) -> None:
    recipe = replace(RECIPE, optimizer="muon", horizons=(0.5,))
    asked = Run(architecture=architecture(), recipe=recipe, data_fingerprint=data.fingerprint)
    placement = replace(HERE, engine=engine)
    train(asked, data, tmp_path / "whole", placement=placement)
    curve = [line["train_loss"] for line in losses(tmp_path / "whole") if "train_loss" in line]
    assert curve[-1] < curve[0] - 0.5

    def stop_at(step: int) -> Any:
        def progress(event: dict[str, Any]) -> None:
            if event["step"] == step:
                raise Stop

        return progress

    for step in (9, 19, 30):  # in the trunk, in the branch, and in the trunk again
        with pytest.raises(Stop):
            train(asked, data, tmp_path / "parts", placement=placement, progress=stop_at(step))
    train(asked, data, tmp_path / "parts", placement=placement)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_an_optimizer_of_ones_own_searches(tmp_path: Path) -> None:
    """The page's example, by the command; its page and its records say which it was."""
    (tmp_path / "mine.py").write_text(example("optimizer"))
    few = ("n_trials=2", "space.axes.num_blocks=[2,3]", "replicates.seeds=1", "report=true")
    done = run(tmp_path, "recipe.optimizer=mine.py", *few)
    assert done.returncode == 0, done.stderr
    found = records(tmp_path).values()
    assert [record["status"] for record in found] == ["finished"] * 2
    assert all(r["recipe"]["optimizer"].startswith("mine.py@") for r in found)
    assert len(study_json(tmp_path)["trials"]) == 2
    assert "Lion (betas 0.9 and 0.95)" in (tmp_path / "outputs/tiny/report.html").read_text()


def test_a_parametrisation_of_ones_own_searches(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(example("parametrisation"))
    few = ("n_trials=2", "space.axes.num_blocks=[2,3]", "replicates.seeds=1", "report=true")
    done = run(tmp_path, "recipe.parametrisation=mine.py", *few)
    assert done.returncode == 0, done.stderr
    assert [record["status"] for record in records(tmp_path).values()] == ["finished"] * 2
    page = (tmp_path / "outputs/tiny/report.html").read_text()
    assert "CompleteP with alpha = 1/2" in page


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("OPTIMIZER = 1", "must have state_per_weight, build, growth, describe, but lacks"),
        ("", "must define OPTIMIZER, but does not"),
    ],
)
def test_a_bad_file_ends_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    done = run(tmp_path, "recipe.optimizer=mine.py")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert said in line


@pytest.mark.parametrize("door", ["optimizer", "parametrisation"])
def test_the_example_of_the_page_keeps_to_the_contract(door: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(example(door))
    suite = str(ROOT / "tests" / "contracts" / f"test_{door}.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header"]
    done = subprocess.run(
        [*command, suite, "--implementation", str(tmp_path / "mine.py")],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
