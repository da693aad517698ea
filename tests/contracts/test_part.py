"""What every part of an architecture keeps, those of users too:

    pytest tests/contracts/test_part.py --implementation mine.py

Each check is a function of the part's name, so that bad parts can be held to it as well.
"""

import html
import json
import pickle
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from study_fixtures import command, environment, records
from torch.utils.flop_counter import FlopCounterMode

from ablations.files import TableFile
from search.recipe import Recipe
from search.record import Record, Run, architecture_id
from search.runs import usable_record, write_record
from search.states import Status
from search.train.engines.autograd import AutogradEngine
from search.train.engines.kernels import KernelEngine
from search.train.engines.weights import Weights
from search.train.kernels import Unavailable, library
from search.train.placement import Placement, require_engine, what_is_lost
from space.arch import Architecture
from space.budget import MAX_DEVIATION, Budget, fit
from space.cost import cost
from space.model import Attention, Decoder, KVCache
from space.parts import DOOR

TINY: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "num_blocks": 3,
}
BASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "shared": {"sharing": "immediate", "repeats": 2, "norms": "layer"},
    "biased": {"attention_bias": True, "num_blocks": 2},
    "half shared": {"sharing": "cycle", "repeats": 2, "sharing_scope": "ffn", "hidden_act": "gelu"},
    "all options": {
        "qk_norm": True,
        "attention_bias": True,
        "tie_word_embeddings": False,
        "head_dim": 12,
    },
}
LENGTH = 11


COUNTS = """
from space.parts import Field, Part


class Counts(Part):
    fields = (Field("counted", False, bool, "nothing"),)
    examples = ({"counted": True},)

    def attention(self, arch, shape):
        return 5


PART = Counts()
"""


def with_part(name: str, base: dict[str, Any], values: Any) -> Architecture:
    """A small architecture with fields of the part."""
    return Architecture.from_dict({**TINY, **base, "parts": [name], **values})


def architectures(name: str) -> Iterator[tuple[Architecture, Architecture]]:
    """Architectures with each example of the part, beside the same ones without it."""
    for base in BASES.values():
        for example in DOOR.load(name).examples:
            yield with_part(name, base, example), with_part(name, base, {})


def randomised(model: Decoder) -> Decoder:
    """Weights in which a part shows, whatever it starts from."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=generator) + (p.ndim == 1))
    return model.eval()


def ids(rows: int = 2) -> torch.Tensor:
    return torch.randint(0, 97, (rows, LENGTH), generator=torch.Generator().manual_seed(1))


# --- What must hold -------------------------------------------------------------------------------


def check_it_says_what_it_adds(name: str) -> None:
    part = DOOR.load(name)
    assert part.fields, f"{name} must have a field at least"
    assert part.examples, f"{name} must have an example at least"
    for field in part.fields:
        assert field.name.isidentifier(), f"{field.name!r} of {name} must be a name"
        assert isinstance(field.default, bool | int | float | str), (
            f"the default of {field.name} must be a number, a switch or a text, but is "
            f"{field.default!r}"
        )
        assert field.parse(field.default) == field.default, (
            f"{field.name} must understand its default, {field.default!r}"
        )
        assert field.meaning, f"{field.name} must say what it means"


def check_a_default_leaves_no_trace(name: str) -> None:
    plain = Architecture.from_dict(TINY)
    defaults = {field.name: field.default for field in DOOR.load(name).fields}
    given = with_part(name, {}, defaults)
    assert given == plain, f"{name} at its default must be the architecture without it"
    assert given.to_dict() == plain.to_dict()
    assert architecture_id(given) == architecture_id(plain)


def check_examples_change_something_and_come_back(name: str, folder: Path) -> None:
    for arch, plain in architectures(name):
        assert hash(arch.identity) != hash(plain.identity), f"{arch.parts} must be another thing"
        assert Architecture.from_dict(arch.to_dict()) == arch
        assert Architecture.from_dict(json.loads(json.dumps(arch.to_dict()))) == arch
        path = folder / "architecture.yaml"
        path.write_text(yaml.safe_dump(arch.to_dict()))
        assert Architecture.from_yaml(path) == arch
        again = pickle.loads(pickle.dumps(arch))
        assert (again, hash(again), again.identity) == (arch, hash(arch), arch.identity)


def check_counts_equal_the_built_model(name: str) -> None:
    for arch, _ in architectures(name):
        with torch.device("meta"):
            model = Decoder(arch)
        built, counted = sum(p.numel() for p in model.parameters()), cost(arch).parameters
        assert counted == built, f"{name} counts {counted:,} weights, but the model has {built:,}"


def check_flops_equal_those_of_the_products(name: str) -> None:
    """torch counts the products of a forward pass, and of scores the whole square."""
    for arch, _ in architectures(name):
        model = randomised(Decoder(arch))
        for module in model.modules():
            if isinstance(module, Attention):
                module.fused = False
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(ids(1))
        heads = arch.num_attention_heads * arch.head_size
        seen = [min(span or LENGTH, LENGTH) for span in arch.spans]
        square = 4 * heads * LENGTH**2 * arch.num_layers
        pairs = 2 * heads * sum(2 * s * LENGTH - s * s for s in seen) // LENGTH
        done = (counter.get_total_flops() - square) / LENGTH
        counted = cost(arch, LENGTH).forward_flops_per_token - pairs
        assert counted == done, f"{name} counts {counted:,} FLOPs per token, but does {done:,}"


def check_costs_are_positive_and_train_thrice(name: str) -> None:
    for arch, _ in architectures(name):
        counts = cost(arch, LENGTH)
        assert min(vars(counts).values()) > 0
        assert counts.train_flops_per_token == 3 * counts.forward_flops_per_token


def check_the_cache_holds_what_is_counted(name: str) -> None:
    for arch, _ in architectures(name):
        model, cache = randomised(Decoder(arch)), KVCache(arch.num_layers)
        with torch.no_grad():
            for piece in ids(1).split(1, dim=1):
                model(piece, cache)
        held = sum(t.numel() for t in (*cache.keys, *cache.values) if t is not None)
        counted = cost(arch, LENGTH, 1).kv_bytes_per_token
        assert counted == held // LENGTH, f"{name} counts {counted} per token, but holds {held}"


def check_cached_generation_equals_the_full_pass(name: str) -> None:
    for arch, _ in architectures(name):
        model = randomised(Decoder(arch)).double()
        for fused in (True, False):
            for module in model.modules():
                if isinstance(module, Attention):
                    module.fused = fused
            cache = KVCache(arch.num_layers)
            with torch.no_grad():
                pieces = [model(piece, cache) for piece in ids().split([4, 1, 1, 3, 2], dim=1)]
                torch.testing.assert_close(
                    torch.cat(pieces, dim=1), model(ids()), msg=f"{name} generates otherwise"
                )


def check_no_token_sees_those_after_it(name: str) -> None:
    for arch, _ in architectures(name):
        model, other = randomised(Decoder(arch)).double(), ids()
        other[:, -1] = (other[:, -1] + 1) % 97
        with torch.no_grad():
            a, b = model(ids())[:, :-1], model(other)[:, :-1]
        torch.testing.assert_close(a, b, msg=f"{name} lets tokens see those after them")


def check_every_weight_gets_a_gradient(name: str) -> None:
    for arch, _ in architectures(name):
        model = randomised(Decoder(arch))
        Weights(model)
        AutogradEngine(model, PLACED, "fp32").nll(ids(), ids(), 1.0)
        idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        assert not idle, f"{idle} of {name} get no gradient"


PLACED = Placement(device="cpu", engine="autograd", compile="no", micro_batch=2)


def check_matrices_side_by_side_change_nothing(name: str) -> None:
    """Compiled layers multiply by q, k and v at once, and by gate and up, unless it is hooked to
    them or replaces them."""
    for arch, _ in architectures(name):
        results = []
        for joint in (False, True):
            model = randomised(Decoder(arch))
            weights = Weights(model)
            if joint:
                weights.join(model)
            loss = AutogradEngine(model, PLACED, "fp32").nll(ids(), ids(), 0.1)
            results.append((loss, weights.gradients))
        torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-4)


def check_kernels_equal_autograd_or_refuse_it(name: str) -> None:
    known = "kernels" in DOOR.load(name).engines
    for arch, _ in architectures(name):
        if not known:
            assert name in str(what_is_lost(PLACED, [arch]))
            with pytest.raises(ValueError, match=f"kernels do not have {re.escape(name)}"):
                require_engine(Placement(engine="kernels"), [arch])
            continue
        try:
            library()
        except Unavailable as reason:
            pytest.skip(f"no kernels: {reason}")
        results = []
        for engine in ("autograd", "kernels"):
            model = randomised(Decoder(arch))
            weights = Weights(model)
            placed = Placement(device="cpu", engine=engine, compile="no", threads=1, micro_batch=2)
            made = (
                KernelEngine(model, weights, placed, "fp32")
                if engine == "kernels"
                else AutogradEngine(model, placed, "fp32")
            )
            loss = made.nll(ids(), ids(), 0.1)
            results.append((loss, weights.gradients))
        torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-4)


def check_the_budget_is_closed(name: str) -> None:
    partial = {"vocab_size": 1024, "num_blocks": 5, "heads_per_kv_target": 2, "parts": [name]}
    budget = Budget.parse("1m")
    for example in DOOR.load(name).examples:
        off = budget.deviation(fit({**partial, **example}, budget))
        assert abs(off) <= MAX_DEVIATION, f"{name} leaves the budget by {off:+.2%}"


def check_an_export_equals_it_or_names_it(name: str, folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    from space.hf import export, load

    fields = [field.name for field in DOOR.load(name).fields]
    for i, (arch, plain) in enumerate(architectures(name)):
        try:
            export(Decoder(plain), folder / f"plain {i}")
        except ValueError:
            continue  # transformers has no model of the architecture even without it
        model = randomised(Decoder(arch))
        refused = None
        try:
            written = export(model, folder / str(i))
        except ValueError as error:
            refused = str(error)
        if refused is not None:
            assert any(field in refused for field in fields), f"{refused} must name {fields}"
            continue
        with torch.no_grad():
            wanted = model(ids())
            theirs = AutoModelForCausalLM.from_pretrained(written).eval()(ids()).logits
            torch.testing.assert_close(theirs, wanted, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(load(written)(ids()), wanted)


CHECKS = [
    check_it_says_what_it_adds,
    check_a_default_leaves_no_trace,
    check_examples_change_something_and_come_back,
    check_counts_equal_the_built_model,
    check_flops_equal_those_of_the_products,
    check_costs_are_positive_and_train_thrice,
    check_the_cache_holds_what_is_counted,
    check_cached_generation_equals_the_full_pass,
    check_no_token_sees_those_after_it,
    check_every_weight_gets_a_gradient,
    check_matrices_side_by_side_change_nothing,
    check_kernels_equal_autograd_or_refuse_it,
    check_the_budget_is_closed,
    check_an_export_equals_it_or_names_it,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_every_part(implementation: str, check: Any, tmp_path: Path) -> None:
    check(implementation, *([tmp_path] if check.__code__.co_argcount == 2 else []))


# --- Parts from one file, good and bad ------------------------------------------------------------

DOC = Path(__file__).parent.parent.parent / "docs" / "doors" / "part.md"
GATE = DOC.read_text().split("```python\n")[1].split("```")[0]
"""The documentation's part."""


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_the_part_in_the_documentation_keeps_the_contract(
    check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("gate.py").write_text(GATE)
    check("gate.py", *([tmp_path] if check.__code__.co_argcount == 2 else []))


@pytest.mark.parametrize(
    ("good", "bad", "check", "said"),
    [
        (
            "Extra(matrices=shape.hidden_size",
            "Extra(matrices=1 + shape.hidden_size",
            check_counts_equal_the_built_model,
            r"are counted and .* built",
        ),
        (
            "Extra(matrices=",
            "Extra(vectors=",
            check_flops_equal_those_of_the_products,
            r"counts .* FLOPs per token, but does",
        ),
        (
            '"output_gate", False',
            '"output_gate", 0',
            check_it_says_what_it_adds,
            "must be true or false, but got 0",
        ),
        (
            "    def build",
            "    def canonical(self, arch):\n        return {}\n\n    def build",
            check_examples_change_something_and_come_back,
            "must be another thing",
        ),
        (
            "return output *",
            "return output.mean(1, keepdim=True) + output *",
            check_no_token_sees_those_after_it,
            "lets tokens see those after them",
        ),
        (
            "inputs[0]",
            "inputs[0].cumsum(1)",
            check_cached_generation_equals_the_full_pass,
            "generates otherwise",
        ),
        (
            "return output * ",
            "return output + 0 * ",
            check_every_weight_gets_a_gradient,
            "get no gradient",
        ),
        (
            "    examples",
            '    engines = frozenset({"kernels"})\n    examples',
            check_kernels_equal_autograd_or_refuse_it,
            "not close",
        ),
        (
            "    def build",
            "    def export(self, arch, config):\n        return config\n\n    def build",
            check_an_export_equals_it_or_names_it,
            "not close",
        ),
    ],
)
def test_a_bad_part_is_found_out(
    good: str,
    bad: str,
    check: Any,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert good in GATE
    Path("gate.py").write_text(GATE.replace(good, bad))
    with pytest.raises((AssertionError, ValueError), match=said):
        check("gate.py", *([tmp_path] if check.__code__.co_argcount == 2 else []))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must define PART, but does not"),
        ("class PART:\n    fields = ()", "must have fields, .* but lacks examples"),
        (GATE.replace("output_gate", "qk_norm"), "qk_norm of gate.py is one of every architecture"),
        (
            GATE.replace("output_gate", "ffn_scaling"),
            "ffn_scaling of gate.py is one of ffn_scaling",
        ),
    ],
)
def test_a_file_that_is_no_part_is_refused_by_name(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("gate.py").write_text(text)
    with pytest.raises(ValueError, match=said):
        with_part("gate.py", {}, {})


def test_weights_that_are_no_extra_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("gate.py").write_text(COUNTS)
    with pytest.raises(ValueError, match=r"must return Extra\(.* but got 5"):
        cost(with_part("gate.py", {}, {"counted": True}))


def test_an_architecture_names_the_part_of_a_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("gate.py").write_text(GATE)
    arch = with_part("gate.py", {}, {"output_gate": True})
    known = arch.to_dict()
    with pytest.raises(ValueError, match="parts from outside the project must be named"):
        Architecture.from_dict({**TINY, "output_gate": True})
    Path("gate.py").write_text(GATE.replace("sigmoid()", "tanh()"))
    with pytest.raises(ValueError, match=r"part gate.py must be gate@.*its source has changed"):
        Architecture.from_dict(known)
    other = with_part("gate.py", {}, {"output_gate": True})
    assert architecture_id(other) != architecture_id(arch)
    Path("gate.py").unlink()
    with pytest.raises(ValueError, match=r"part must be one of .*, but got 'gate.py'"):
        Architecture.from_dict(known)


def test_a_record_stays_when_a_part_of_its_architecture_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As when the file is edited while its study runs, whose parent reads what has ended."""
    monkeypatch.chdir(tmp_path)
    Path("gate.py").write_text(GATE)
    arch = with_part("gate.py", {}, {"output_gate": True})
    recipe = Recipe(tokens=10_000, precision="fp32")
    run = Run(architecture=arch, recipe=recipe, data_fingerprint="none")
    record = Record(run=run, status=Status.FINISHED)
    write_record(tmp_path / run.key, record)
    assert usable_record(tmp_path / run.key) == record
    Path("gate.py").write_text(GATE.replace("sigmoid()", "tanh()"))
    assert usable_record(tmp_path / run.key) is None
    assert "needs the part gate.py as it was" in capsys.readouterr().out
    Path("gate.py").unlink()
    assert usable_record(tmp_path / run.key) is None
    Path("gate.py").write_text(GATE)
    assert usable_record(tmp_path / run.key) == record


TABLE = """
caption: A gate on attention.
proxy:
  - name: ""
    baseline: plain
    base: {num_blocks: 3, parts: [gate.py]}
    arms:
      plain: {}
      gated: {output_gate: true}
      gated and windowed: {like: gated, sliding_window: 16}
      windowed: {sliding_window: 16}
"""


def test_arms_of_a_table_have_parts_and_keep_those_of_the_arm_that_they_are_like(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("gate.py").write_text(GATE)
    Path("gates.yaml").write_text(TABLE)
    recipe = Recipe(tokens=10_000, precision="fp32")
    (panel,) = TableFile.read("gates.yaml").table("proxy", recipe, 512, budget="200k").panels
    found = {arm.name: arm.architecture for arm in panel.arms}
    assert {name: [s.name for s in arch.parts] for name, arch in found.items()} == {
        "plain": [],
        "gated": ["gate.py"],
        "gated and windowed": ["gate.py", "sliding_window"],
        "windowed": ["sliding_window"],
    }
    assert found["gated and windowed"].shape == found["gated"].shape


SPACE = DOC.read_text().split("# my/space/gates.yaml\n")[1].split("```")[0]


@pytest.mark.slow
def test_a_part_of_one_file_is_an_axis_of_a_search_and_of_its_report(tmp_path: Path) -> None:
    (tmp_path / "gate.py").write_text(GATE)
    (tmp_path / "my" / "space").mkdir(parents=True)
    (tmp_path / "my" / "space" / "gates.yaml").write_text(SPACE)
    here = ["--config-dir", "my", "space=gates"]

    def verb(*options: str) -> "subprocess.CompletedProcess[str]":
        words = [sys.executable, "-m", *options]
        return subprocess.run(
            words, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=600
        )

    listed = verb("space", *here, "budget=100k", "vocab_size=300", "format=json")
    assert listed.returncode == 0, listed.stderr
    assert Counter(row["output_gate"] for row in json.loads(listed.stdout)) == {False: 2, True: 2}

    options = [
        o for o in command(tmp_path)[3:] if not o.startswith(("space.", "report=", "workers="))
    ]
    search = [*here, *options, "n_trials=4", "replicates.seeds=1", "sampler=grid", "workers=2"]
    refused = verb("search", *search, "placement.engine=kernels")
    assert refused.returncode == 2
    assert "kernels do not have gate.py" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1

    ended = verb("search", *search)
    assert ended.returncode == 0, ended.stderr
    assert "architectures with gate.py are trained by autograd" in ended.stdout
    kept = [
        record["architecture"].get("output_gate", False) for record in records(tmp_path).values()
    ]
    assert sorted(kept) == [False, False, True, True]
    reported = verb("reports", "study=tiny")
    assert reported.returncode == 0, reported.stderr
    page = (tmp_path / "outputs" / "tiny" / "report.html").read_text()
    assert "output_gate" in page or "output gate" in page

    (tmp_path / "gate.py").write_text(GATE.replace("sigmoid()", "tanh()"))
    changed = verb("search", *search)
    assert changed.returncode == 2
    assert "must keep its space" in changed.stderr
    (tmp_path / "gate.py").unlink()
    without = verb("reports", "study=tiny")
    assert without.returncode == 0, without.stderr
    assert "but got 'gate.py'" in html.unescape(
        (tmp_path / "outputs" / "tiny" / "report.html").read_text()
    )
