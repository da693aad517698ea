"""Who imports whom, read from the sources: the arrows of CONTRIBUTING.md."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = {"space", "search", "ablations", "reports", "benchmarks", "tests"}
ALLOWED = {
    "space": {"space"},
    "search": {"space", "search"},
    "ablations": {"space", "search", "ablations"},
    "reports": {"space", "search", "ablations", "reports"},
}
STATISTICS = {
    f"ablations.stats.{path.stem}" for path in (ROOT / "ablations" / "stats").glob("[a-z]*.py")
}
QUESTION_NAMES = [path.stem for path in (ROOT / "ablations" / "questions").glob("[a-z]*.py")]
QUESTIONS = {"ablations.questions", "ablations.table"}
WITHOUT_TORCH = ["space.arch", "space.cost", "space.budget", "space.axes", "space.device"]
WITHOUT_TORCH += ["space.doors", "search.recipe", "search.record", "search.runs"]
NAMED_BY_RECIPES = ["search.train.optimizers", "search.train.parametrisations"]
WITHOUT_TORCH += NAMED_BY_RECIPES
WITHOUT_TORCH += ["search.objectives"]


def imported(path: Path, of: set[str] = OURS) -> set[str]:
    """Modules of ours, or in some others, that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name for name in names if name.split(".")[0] in of}


def modules() -> dict[str, Path]:
    """The files of all packages, by the names that their modules have."""
    paths = [path for folder in OURS - {"tests"} for path in (ROOT / folder).rglob("*.py")]
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths)
    return {name.removesuffix(".__init__"): path for name, path in zip(names, paths, strict=True)}


def when_loaded(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports that loading a module runs: none within functions or for types alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield from when_loaded(other)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from when_loaded(node)


def loaded_first(name: str, path: Path, known: set[str]) -> set[str]:
    """Modules of ours that are loaded before this one is complete, the packages that they are in
    among them."""
    named: set[str] = set()
    for node in when_loaded(ast.parse(path.read_text())):
        for alias in node.names:
            parts = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            named.add(".".join([*parts, alias.name]))
    found = {known_part for full in named for known_part in _beginnings(full)} & known
    return found - {name, *_beginnings(name)}


def _beginnings(name: str) -> Iterator[str]:
    """`a`, `a.b` and `a.b.c` of `a.b.c`."""
    parts = name.split(".")
    yield from (".".join(parts[: n + 1]) for n in range(len(parts)))


def in_order(found: dict[str, Path]) -> list[str]:
    """Modules, each after those that it imports. Raises: CycleError where there is no such order,
    with the modules of a cycle."""
    before = {name: loaded_first(name, path, set(found)) for name, path in found.items()}
    return list(TopologicalSorter(before).static_order())


def test_no_modules_import_each_other() -> None:
    order = in_order(modules())
    assert order.index("space.arch") < order.index("search.record")


def test_modules_that_import_each_other_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("class A:\n    from b import c\n")
    (tmp_path / "b.py").write_text("import a\n")
    found = {name: tmp_path / f"{name}.py" for name in ("a", "b")}
    with pytest.raises(CycleError, match="'a', 'b'"):
        in_order(found)
    (tmp_path / "b.py").write_text("def f():\n    import a\n")
    assert in_order(found) == ["b", "a"]


def test_nothing_imports_tests() -> None:
    """Tests share files of `fixtures`, which pytest finds by their names alone."""
    of_tests = {"tests", *(path.stem for path in (ROOT / "tests").rglob("test_*.py"))}
    for path in (path for folder in OURS for path in (ROOT / folder).rglob("*.py")):
        roots = {name.split(".")[0] for name in imported(path, of_tests)}
        assert roots == set(), f"{path} imports {roots}"


@pytest.mark.parametrize("folder", ALLOWED)
def test_imports_follow_the_arrows(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        packages = {name.split(".")[0] for name in imported(path)}
        assert packages <= ALLOWED[folder], f"{path.name} imports {packages}"


def test_reports_read_records_and_effects_alone() -> None:
    allowed = {
        "search.carry",
        "search.comparable",
        "search.law",
        "search.objectives",
        "search.recipe",
        "search.record",
        "search.runs",
        "search.states",
        *NAMED_BY_RECIPES,
    }
    allowed |= {*STATISTICS, *QUESTIONS}
    for path in (ROOT / "reports").rglob("*.py"):
        theirs = {name for name in imported(path) if not name.startswith(("reports", "space"))}
        assert theirs <= allowed, path.name


def test_counting_and_records_need_no_torch() -> None:
    questions = [f"ablations.questions.{name}" for name in QUESTION_NAMES]
    modules = [*WITHOUT_TORCH, *STATISTICS, *QUESTIONS, *questions]
    modules += ["reports.__main__", "reports.serve.__main__"]
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.slow
def test_only_evaluation_and_exports_wait_for_the_libraries_of_hugging_face() -> None:
    verbs = ["space", "search", "search.run", "search.evaluate", "reports"]
    packages = {*OURS, "search.evaluate"}
    modules = [f"{verb}.__main__" if verb in packages else verb for verb in verbs]
    modules += ["search.study.worker", "space.hf"]
    heavy = {"transformers", "lm_eval", "datasets", "huggingface_hub"}
    code = f"import sys, {', '.join(modules)}; print(*({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
