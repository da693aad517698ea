"""`--help`: each option with its meaning, the groups of the verb and no others, and nothing loaded
that only training needs."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from space.help import help_text
from space.near import dataclass_of

ROOT = Path(__file__).parent.parent.parent
CONF = ROOT / "conf"
SCHEMAS = {
    "space": "space.__main__:Config",
    "search": "search.config:SearchConfig",
    "ablations": "ablations.config:AblationConfig",
    "reports": "reports.__main__:ReportsConfig",
    "serve": "reports.serve.__main__:ServeConfig",
    "run": "search.run:RunConfig",
    "measure": "search.measure.__main__:MeasureConfig",
    "evaluate": "search.evaluate.__main__:EvaluateConfig",
    "paired": "search.paired:PairedConfig",
    "status": "search.status:StatusConfig",
    "whose": "search.whose:WhoseConfig",
    "coordinate_check": "search.coordinate_check:CoordinateCheckConfig",
}
HEAVY = {"torch", "optuna", "sqlalchemy", "pandas", "pyarrow", "wandb", "matplotlib", "plotly"}
"""What no text about options needs."""


def text_of(verb: str, *given: str) -> str:
    module, _, name = SCHEMAS[verb].partition(":")
    schema: type[Any] = getattr(import_module(module), name)
    return help_text(verb, schema, f"`{verb}`: does it.", given, [CONF])


def modules_of(*command: str) -> set[str]:
    """The packages that a command imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(re.findall(r"\|\s+(\w+)$", done.stderr, re.MULTILINE))


@pytest.mark.parametrize("verb", SCHEMAS)
def test_every_option_has_its_meaning(verb: str) -> None:
    options = text_of(verb).partition("\nOptions:\n\n")[2].partition("\n\n--cfg")[0]
    entries = re.findall(r"^  ([\w.]+)=(.*(?:\n {3}.*)*)", options, re.MULTILINE)
    assert len(entries) > 1
    assert [key for key, text in entries if not re.search(r" {2,}\S|\n\s+\S", text)] == []


@pytest.mark.parametrize("verb", SCHEMAS)
def test_groups_are_those_of_the_verb(verb: str) -> None:
    listed = yaml.safe_load((CONF / f"{verb}.yaml").read_text())["defaults"]
    own = {name for entry in listed if isinstance(entry, dict) for name in entry if " " not in name}
    text = text_of(verb).partition("Groups")[2].partition("Options:")[0]
    assert set(re.findall(r"^  (\w+)=", text, re.MULTILINE)) == {n for n in own if "/" not in n}


def test_a_chosen_file_shows_its_own_options_and_values() -> None:
    text = text_of("search", "executor=slurm", "proxy=smoke")
    assert re.search(r"executor.options.time=\S+ +of a job; at its limit", text)
    smoke = yaml.safe_load((CONF / "proxy" / "smoke.yaml").read_text())
    assert f"recipe.tokens={smoke['recipe']['tokens']} " in text.replace("_", "")


def test_fields_that_hold_dataclasses_are_known_by_their_hints() -> None:
    assert dataclass_of(int | None) is None
    assert dataclass_of(import_module("search.recipe").Recipe | None) is not None


@pytest.mark.parametrize("verb", ["search", "space", "ablations", "reports"])
def test_nothing_heavy_is_loaded(verb: str) -> None:
    assert modules_of(verb, "--help") & HEAVY == set()
