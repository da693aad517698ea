"""Every file of `conf/experiment/` is a start that works: it composes, says what its command says,
and its space or table lies on its budget. Nothing is trained."""

import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import ablations.__main__  # noqa: F401
import search.__main__  # noqa: F401  each verb's module stores its schema
from ablations.ask import ask
from ablations.config import AblationConfig
from ablations.files import TableFile
from search.config import SearchConfig
from search.run import RunConfig
from space.app import CONF
from space.axes import Space
from space.budget import MAX_DEVIATION

FILES = sorted((Path(CONF) / "experiment").glob("*.yaml"))
SAME_AS = re.compile(r"^# The same as: python -m (search|ablations)\b(.*)$", re.MULTILINE)
PUBLISHED = [file for file in FILES if SAME_AS.search(file.read_text())]
OF_MOBILELLM = [file for file in FILES if file not in PUBLISHED]


@cache
def configuration(verb: str, *overrides: str) -> Any:
    with initialize_config_dir(CONF, version_base="1.3"):
        return OmegaConf.to_object(compose(verb, list(overrides)))


def command(file: Path) -> tuple[str, list[str]]:
    """The verb and the overrides that the file says it is the same as."""
    found = SAME_AS.search(file.read_text())
    assert found, f"{file.name} must say '# The same as: python -m search …'"
    return found[1], shlex.split(found[2])


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.stem)
def test_an_experiment_is_the_command_that_it_names(file: Path) -> None:
    verb, overrides = command(file)
    made = configuration(verb, f"experiment={file.stem}")
    assert made == configuration(verb, *overrides)


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.stem)
def test_an_experiment_lies_on_its_budget(file: Path) -> None:
    verb, _ = command(file)
    config = configuration(verb, f"experiment={file.stem}")
    if verb == "search":
        assert isinstance(config, SearchConfig)
        space = Space.from_config(config.space, config.budget, config.data.vocab_size)
        found = space.enumerate()
        assert 2 <= len(found) <= config.n_trials, "a published search tries all of its space"
        assert all(abs(space.budget.deviation(arch)) <= MAX_DEVIATION for arch in found)
    else:
        assert isinstance(config, AblationConfig)
        table = ask(config, config.recipe, config.data.vocab_size)
        assert all(len(panel.arms) >= 2 for panel in table.panels)


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.stem)
def test_an_experiment_has_the_overrides_of_its_table(file: Path) -> None:
    """On the command line the file of a table adds them; here the experiment must."""
    verb, _ = command(file)
    if verb == "ablations":
        config = configuration(verb, f"experiment={file.stem}")
        own = TableFile.read(config.table).overrides
        assert {text.partition("=")[0] for text in own} <= {"proxy"}
        assert config.proxy == dict(text.split("=") for text in own).get("proxy", "ablation")


def test_the_example_of_the_documentation_is_the_command_that_it_names(tmp_path: Path) -> None:
    page = (Path(CONF).parent / "docs" / "experiments.md").read_text()
    example = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[0]
    file = tmp_path / "experiment" / "mine.yaml"
    file.parent.mkdir()
    file.write_text(example)
    verb, overrides = command(file)
    made = configuration(verb, "experiment=mine", f"hydra.searchpath=[file://{tmp_path}]")
    assert made == configuration(verb, *overrides)


def test_what_is_given_beside_an_experiment_wins() -> None:
    config = configuration("search", "experiment=depth_gqa_1m", "n_trials=9", "proxy=smoke")
    assert (config.n_trials, config.proxy, config.replicates.seeds) == (9, "smoke", 6)
    assert config.recipe.tokens == 20_000


@pytest.mark.parametrize("file", OF_MOBILELLM, ids=lambda file: file.stem)
def test_a_recipe_of_mobilellm_is_whole_and_keeps_its_earlier_name(file: Path) -> None:
    given = ["architecture=mobilellm_125m", "data=tokens"]
    config = configuration("run", *given, f"experiment={file.stem}")
    assert isinstance(config, RunConfig)
    assert config.recipe.tokens >= 250_000_000_000
    earlier = file.stem.replace("mobilellm", "paper")
    assert config == configuration("run", *given, f"proxy={earlier}")
    assert configuration("search", f"proxy={earlier}").proxy == earlier
    assert configuration("ablations", "table=heads", f"proxy={earlier}").proxy == earlier


def test_a_recipe_of_mobilellm_takes_nothing_from_the_proxy_that_it_replaces() -> None:
    default, smoke = (
        configuration("search", f"proxy={proxy}", "experiment=mobilellm_full").recipe
        for proxy in ("default", "smoke")
    )
    assert default == smoke


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["experiment=layer_sharing_1m"], "table"),
        (["experiment=law_1m_v", "recipe.tokens=1000"], "tokens_per_parameter=null"),
    ],
    ids=["another command's", "a length that it would replace"],
)
def test_what_an_experiment_does_not_go_with_is_refused_with_one_line(
    given: list[str], named: str
) -> None:
    made = subprocess.run(
        [sys.executable, "-m", "search", *given],
        capture_output=True,
        text=True,
        cwd=Path(CONF).parent,
    )
    assert made.returncode == 2
    assert made.stderr.startswith("error: ")
    assert made.stderr.count("\n") == 1
    assert named in made.stderr


@pytest.mark.parametrize(
    ("started", "name", "own"),
    [
        ("search", "lr_transfer_1m", "ablations"),
        ("ablations", "depth_mha_1m", "search"),
        ("search.run", "depth_mha_1m", "search"),
    ],
)
def test_an_experiment_of_another_command_is_refused_with_its_command(
    tmp_path: Path, started: str, name: str, own: str
) -> None:
    done = start(tmp_path, started, f"experiment={name}")
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.strip().splitlines()
    assert f"experiment={name} must be one of python -m {started}, but sets " in line
    assert line.endswith(f"start python -m {own} experiment={name}")


def test_an_experiment_of_ones_own_is_looked_at_too(tmp_path: Path) -> None:
    (tmp_path / "my" / "experiment").mkdir(parents=True)
    (tmp_path / "my" / "experiment" / "mine.yaml").write_text("# @package _global_\ntable: heads\n")
    done = start(tmp_path, "search", "--config-dir", "my", "experiment=mine")
    [line] = done.stderr.strip().splitlines()
    assert "must be one of python -m search, but sets table, which is no option of that" in line


def start(folder: Path, module: str, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", module, *options]
    env = {**os.environ, "PYTHONPATH": str(Path(CONF).parent)}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
