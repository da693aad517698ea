"""Who imports whom, read from the sources: the arrows of CONTRIBUTING.md."""

import ast
import subprocess
import sys
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


def imported(path: Path) -> set[str]:
    """Modules of ours that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name for name in names if name.split(".")[0] in OURS}


@pytest.mark.parametrize("folder", ALLOWED)
def test_imports_follow_the_arrows(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        packages = {name.split(".")[0] for name in imported(path)}
        assert packages <= ALLOWED[folder], f"{path.name} imports {packages}"


def test_reports_read_records_and_effects_alone() -> None:
    allowed = {
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
    modules = [*WITHOUT_TORCH, *STATISTICS, *QUESTIONS, *questions, "reports.__main__"]
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
