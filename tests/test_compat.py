"""`space.compat` against the libraries that are installed: what it relies on is no interface of
theirs, so each of these fails when an upgrade takes it away."""

import ast
import gc
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from optuna.trial import TrialState

from search.study.storage import open_storage
from space import compat

ROOT = Path(__file__).parent.parent
PACKAGES = ("space", "search", "ablations", "reports")
DOCUMENTED = {"_asdict", "_replace", "_exit"}
"""Documented, though they begin so."""


def test_hydras_parser_knows_its_flags_and_takes_overrides() -> None:
    known, unknown = compat.hydra_flags().parse_known_args(["--cfg", "job", "a=1", "--nonsense"])
    assert (known.cfg, known.overrides, unknown) == ("job", ["a=1"], ["--nonsense"])


def test_hydras_parser_answers_through_error(monkeypatch: pytest.MonkeyPatch) -> None:
    parser, said = compat.hydra_flags(), []
    monkeypatch.setattr(parser, "error", said.append)
    parser.parse_known_args(["--cfg", "nonsense"])
    assert "invalid choice: 'nonsense'" in said[0]


def test_a_hidden_folder_is_no_group_to_hydra(tmp_path: Path) -> None:
    from hydra import compose, initialize_config_dir

    for name in ("hidden", "shown"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.yaml").write_text("x: 1")
    (tmp_path / "app.yaml").write_text("hidden: null\nshown: null")
    compat.hide_group("hidden")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        assert compose("app", ["hidden=a"]).hidden == "a"
        with pytest.raises(Exception, match="No match in the defaults list"):
            compose("app", ["shown=a"])


def test_hydras_loader_reads_numbers_and_refuses_a_key_that_stands_twice() -> None:
    assert yaml.load("a: 6e-3", Loader=compat.yaml_loader()) == {"a": 0.006}
    with pytest.raises(yaml.YAMLError, match="duplicate key b"):
        yaml.load("b: 1\nb: 2", Loader=compat.yaml_loader())


def test_children_of_a_node_are_its_mappings_with_nothing_resolved() -> None:
    node = OmegaConf.create(
        {"a": {"x": 1}, "b": "${nowhere}", "c": "???", "d": None, "e": {"y": "${nowhere}"}}
    )
    assert compat.names_of(node) == ["a", "b", "c", "d", "e"]
    assert [name for name, _ in compat.child_nodes(node)] == ["a", "e"]


@pytest.mark.parametrize("nothing", [None, "???"])
def test_a_node_that_is_null_or_missing_has_no_children(nothing: str | None) -> None:
    node = OmegaConf.create({"a": {"x": {"y": 1}}})
    child = dict(compat.child_nodes(node))["a"]
    child._set_value(nothing)
    assert compat.names_of(child) == []
    assert list(compat.child_nodes(child)) == []


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study()


def test_a_studys_storage_has_its_trials(study: optuna.Study) -> None:
    study.ask()
    storage = compat.storage_of(study)
    assert isinstance(storage, optuna.storages.BaseStorage)
    number = storage.get_study_id_from_name(study.study_name)
    assert [trial.number for trial in storage.get_all_trials(number)] == [0]


def test_a_trial_is_frozen_with_what_it_has_reported(study: optuna.Study) -> None:
    trial = study.ask()
    trial.report(0.5, step=1)
    assert compat.frozen(study, trial).intermediate_values == {1: 0.5}
    assert compat.frozen(study, trial).state == TrialState.RUNNING


def test_a_process_knows_what_it_has_written_into_a_trial(study: optuna.Study) -> None:
    trial = study.ask()
    trial.suggest_categorical("num_blocks", [2, 3])
    trial.report(0.5, step=1)
    trial.set_user_attr("seed", 3)
    with compat.without_experimental_warnings():
        trial.set_constraint("kv_bytes", -1)
    there, known = compat.frozen(study, trial), compat.as_known(trial)
    for name in ("params", "intermediate_values", "user_attrs", "constraints", "number"):
        assert getattr(known, name) == getattr(there, name) != {}, name


def test_attributes_are_written_at_once(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/study.db")
    study = optuna.create_study(storage=storage.as_optunas)
    trial = study.ask()
    compat.note(trial, {"key": "a", "cell": {"lr": 1}})
    compat.note(trial, {"key": "b"})
    assert trial.user_attrs == study.trials[0].user_attrs == {"key": "b", "cell": {"lr": 1}}
    study.tell(trial, 1.0)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        compat.note(trial, {"key": "c"})


def test_what_is_drawn_for_a_trial_is_written_as_optuna_writes_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    ours, optunas = open_storage(url).as_optunas, optuna.storages.RDBStorage(url)
    sampler = optuna.samplers.RandomSampler(seed=1)
    for name, storage in (("ours", ours), ("optuna's", optunas)):
        study = optuna.create_study(study_name=name, storage=storage, sampler=sampler)
        sampler.reseed_rng()
        study.enqueue_trial({"layers": 4, "tied": True}, user_attrs={"seed": 3})
        for value in (1.0, None):
            trial = study.ask()
            trial.suggest_int("layers", 2, 39, log=True)
            trial.suggest_categorical("tied", [False, True])
            trial.suggest_float("lr", 0.5, 0.5)
            known = compat.as_known(trial)
            assert known.state == TrialState.RUNNING
            assert known.datetime_start is not None
            study.tell(trial, value, state=None if value else TrialState.FAIL)
    first, second = (
        optuna.load_study(study_name=name, storage=url).trials for name in ("ours", "optuna's")
    )
    for mine, other in zip(first, second, strict=True):
        for field in ("distributions", "user_attrs", "system_attrs", "state", "values", "number"):
            assert getattr(mine, field) == getattr(other, field), field
        assert mine.params.keys() == other.params.keys() == {"layers", "tied", "lr"}
    assert first[0].params == second[0].params


def test_what_was_drawn_is_read_before_it_is_written(tmp_path: Path) -> None:
    study = optuna.create_study(storage=open_storage(f"sqlite:///{tmp_path}/study.db").as_optunas)
    trial = study.ask()
    layers = trial.suggest_int("layers", 2, 39)
    assert compat.frozen(study, trial).params == {"layers": layers}


def test_a_running_trial_of_the_storage_can_be_written_to(study: optuna.Study) -> None:
    study.ask()
    compat.reopened(study, study.get_trials()[0]).set_user_attr("reason", "lost")
    assert study.get_trials()[0].user_attrs == {"reason": "lost"}


@pytest.mark.parametrize("end", [{"state": TrialState.FAIL}, {"values": 0.4}])
def test_a_trial_that_ended_elsewhere_is_known_by_the_error_of_optimize(
    study: optuna.Study, end: dict[str, Any]
) -> None:
    """As after a suspension: another process has marked the trial as lost."""

    def objective(trial: optuna.Trial) -> float:
        study.tell(trial.number, **end)
        return 0.5

    with pytest.raises(compat.TELL_ERRORS) as caught:
        study.optimize(objective, n_trials=1)
    assert compat.is_tell_refused(caught.value)


def test_another_error_is_not_taken_for_one_of_telling(study: optuna.Study) -> None:
    trial = study.ask()
    with pytest.raises(ValueError, match="Values") as caught:
        study.tell(trial, 0.5, state=TrialState.FAIL)
    assert not compat.is_tell_refused(caught.value)


def test_progress_bars_are_hidden_once_tqdm_is_imported() -> None:
    """In a process of its own, for it changes the class."""
    code = (
        "import tqdm, tqdm.auto; from space.compat import hide_progress_bars; "
        "hide_progress_bars(); list(tqdm.tqdm(range(3))); list(tqdm.auto.tqdm(range(3)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


def test_nothing_is_imported_before_it_is_needed() -> None:
    libraries = {"hydra", "lm_eval", "omegaconf", "optuna", "torch", "tqdm", "yaml"}
    code = f"import sys, space.compat; print(*({libraries} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


OPTIMIZE = """
import sys, torch
from space.compat import keep_compiler_out
if len(sys.argv) > 1:
    keep_compiler_out()
torch.manual_seed(0)
weight = torch.nn.Parameter(torch.randn(4, 4))
optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
optimizer.register_step_post_hook(lambda *_: print("hooked", torch.is_grad_enabled()))
for _ in range(3):
    (weight @ weight).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()
optimizer.load_state_dict(optimizer.state_dict())
print(weight.tolist(), file=sys.stderr)
print("torch._dynamo" in sys.modules)
"""


def test_optimizers_step_without_the_compiler_as_they_do_with_it() -> None:
    plain, without = (
        subprocess.run(
            [sys.executable, "-c", OPTIMIZE, *given], cwd=ROOT, capture_output=True, text=True
        )
        for given in ((), ("without",))
    )
    assert plain.stderr == without.stderr.strip() + "\n"
    assert plain.stdout.split() == [*["hooked", "True"] * 3, "True"]
    assert without.stdout.split() == [*["hooked", "True"] * 3, "False"]


def test_hypervolume_is_the_area_that_points_dominate() -> None:
    """Two steps below (1, 1): a quarter and a rectangle beside it, by hand."""
    points = np.array([[0.5, 0.5], [0.0, 0.8], [0.9, 0.9]])
    assert compat.hypervolume(points, np.ones(2)) == pytest.approx(0.5 * 0.5 + 0.5 * 0.2)


def test_a_task_of_lm_eval_is_read_with_what_it_includes(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    (tmp_path / "base.yaml").write_text("output_type: multiple_choice\ntask: base\n")
    (tmp_path / "own.yaml").write_text("include: base.yaml\ntask: own\n")
    found = compat.lm_eval_task(tmp_path / "own.yaml")
    assert (found["output_type"], found["task"]) == ("multiple_choice", "own")


CPU = Path("/proc/cpuinfo")


@pytest.mark.skipif(not CPU.is_file(), reason="Linux lists what the processor can do")
def test_a_processor_that_multiplies_bf16_says_so() -> None:
    flags = set(CPU.read_text().split())
    assert compat.multiplies_bf16() == bool({"avx512_bf16", "amx_tile"} & flags)


def test_fake_tensors_have_sizes_and_no_content() -> None:
    with compat.fake_tensors():
        product = torch.empty(2**30, 8) @ torch.empty(8, 2**30)
    assert product.shape == (2**30, 2**30)
    assert product.device.type == "cpu"


def test_all_results_of_operations_are_seen() -> None:
    seen: list[Any] = []
    with compat.results_seen(seen.append):
        values, places = torch.sort(torch.tensor([3, 1, 2]))
    assert seen[-2] is values
    assert seen[-1] is places


@pytest.mark.parametrize("fake", [True, False])
def test_tensors_over_one_storage_have_one_identity_while_it_lives(fake: bool) -> None:
    with compat.fake_tensors() if fake else nullcontext():
        tensors = [torch.empty(4, 4) for _ in range(8)]
        found = [compat.identity_of_storage(t.untyped_storage()) for t in tensors]
        gc.collect()
        again = [compat.identity_of_storage(t.T[1:].untyped_storage()) for t in tensors]
    assert found == again
    assert len(set(found)) == len(tensors)


def test_a_module_that_does_more_than_its_forward_is_hooked() -> None:
    def hook(*_: Any) -> None: ...

    def module() -> torch.nn.Linear:
        return torch.nn.Linear(2, 2)

    hooked = [module() for _ in range(5)]
    hooked[0].register_forward_hook(hook)
    hooked[1].register_forward_pre_hook(hook)
    hooked[2].register_full_backward_hook(hook)
    hooked[3].register_full_backward_pre_hook(hook)
    hooked[4].forward = lambda x: x  # type: ignore[method-assign]
    assert not compat.is_hooked(module())
    assert all(map(compat.is_hooked, hooked))


def test_executorch_takes_a_number_of_threads() -> None:
    """In a process of its own, which has one pool of them."""
    pytest.importorskip("executorch")
    code = "from space.compat import set_executorch_threads; set_executorch_threads(2)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def private(source: str, own: set[str]) -> Iterator[str]:
    """What code takes of others under a private name: modules and their parts, and attributes of
    anything that no class of `own` has."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None) or ""
            names = [".".join(filter(None, (module, alias.name))) for alias in node.names]
            yield from (n for n in names if "._" in n and not n.startswith(PACKAGES))
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            if not node.attr.startswith("__") and node.attr not in own:
                yield ast.unparse(node)


def defined(source: str) -> Iterator[str]:
    """Names that code gives to functions, fields and attributes of its own."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.attr if isinstance(node, ast.Attribute) else node.id


@pytest.fixture(scope="module")
def sources() -> dict[Path, str]:
    paths = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {path: path.read_text() for path in paths}


def test_what_is_private_to_others_is_taken_in_one_place(sources: dict[Path, str]) -> None:
    own = DOCUMENTED.union(*map(defined, sources.values()))
    for path, source in sources.items():
        if path != ROOT / "space" / "compat.py":
            assert list(private(source, own)) == [], f"{path}: put it into space/compat.py"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from torch._dynamo.utils import counters", "torch._dynamo.utils.counters"),
        ("from torch import _dynamo", "torch._dynamo"),
        ("import torch._dynamo", "torch._dynamo"),
        ("x = study._storage", "study._storage"),
        ("class A:\n    def f(self):\n        self.x = self.study._storage", "self.study._storage"),
    ],
)
def test_what_is_private_is_found(source: str, found: str) -> None:
    assert list(private(source, own=set())) == [found]


@pytest.mark.parametrize(
    "source", ["self._own = 1", "x = a._own", "from search._a import b", "x.__class__", "import a"]
)
def test_what_is_ours_or_public_is_not(source: str) -> None:
    assert list(private(source, own={"_own"})) == []
