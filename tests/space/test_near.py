"""Names that are nearly right, flags in any place, files that are not there: one line, with what to
do."""

import importlib
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import get_type_hints

import pytest
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError

from ablations.config import AblationConfig
from ablations.files import TableFile
from search.config import SearchConfig
from search.evaluate.__main__ import EvaluateConfig
from search.executors import ExecutorConfig
from search.recipe import Recipe
from search.run import RunConfig
from space.app import CONF, _require_folder, as_meant, configuration, folder_flags
from space.arch import FIELDS, Architecture
from space.axes import Axis, SpaceConfig
from space.cli import describe
from space.compat import apart, hydra_flags
from space.help import groups_of
from space.near import SYNONYMS, absent, hint, require_known

GROUPS = groups_of("search", Path(CONF))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("samplr=tpe", "sampler"),
        ("sampler=tpee", "tpe"),
        ("space=depth_widht", "depth_width"),
        ("recipe.lrr=1", "recipe.lr"),
        ("n_trial=3", "n_trials"),
        ("data=txt", "text"),
        ("replicates.sed=3", "replicates.seeds"),
        ("evaluate=comonsense", "commonsense"),
        ("recipe.learning_rate=1e-3", r"recipe\.lr"),
        ("learning_rate=1e-3", r"recipe\.lr"),
        ("lr=1e-3", r"recipe\.lr"),
        ("recipe.batch=8", r"recipe\.batch_size"),
        ("recipe.seq_length=8", r"recipe\.seq_len"),
        ("context=8", r"recipe\.seq_len"),
        ("vocab_size=512", r"data\.vocab_size"),
        ("trials=3", "n_trials"),
        ("name=mine", "study"),
    ],
)
def test_near_misses_are_answered_with_what_was_meant(given: str, meant: str) -> None:
    with pytest.raises(ValueError, match=rf"did you mean {meant}\?$"):
        configuration("search", SearchConfig, [given])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["budget", "1m"], "options must be NAME=VALUE, but got 'budget'; write budget=1m"),
        (["budget=1m", "train"], "but got 'train'; --help lists them"),
        (["my/space/mine.yaml"], "given as --config-dir my space=mine"),
        (["mine.yaml"], "given as --config-dir FOLDER GROUP=mine"),
        (["space.axes.num_blocks=[2,4"], r"num_blocks must be a value that can be read, .* close"),
        (["recipe.lr={"], "lr must be a value that can be read, but got {; close its brackets"),
    ],
)
def test_what_hydra_cannot_read_is_named(given: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        configuration("search", SearchConfig, given)


def test_a_key_that_a_file_may_not_have_is_named_with_the_file() -> None:
    with pytest.raises(ConfigKeyError) as caught:
        OmegaConf.merge(OmegaConf.structured(SpaceConfig), {"axis": {"num_blocks": [2]}})
    composed = ConfigCompositionException("In 'space/mine': ConfigKeyError raised")
    composed.__cause__ = caught.value
    assert describe(composed) == (
        "axis of space/mine.yaml must be a key that is known there, but is none; did you mean axes?"
    )


def test_an_option_of_an_executor_is_answered_with_what_was_meant() -> None:
    with pytest.raises(ValueError, match=r"executor\.nodess must be .*; did you mean nodes\?$"):
        ExecutorConfig(name="slurm", options={"nodess": 4}).make()
    with pytest.raises(ValueError, match=r"an option of executor=local, but .* takes none"):
        ExecutorConfig(name="local", options={"nodes": 4}).make()


def test_a_word_of_a_name_is_near_enough() -> None:
    assert hint("widdth", ["depth_width", "sharing"]) == "; did you mean depth_width?"
    assert hint("num", ["num_blocks_of_a_kind"]) == "; did you mean num_blocks_of_a_kind?"
    assert hint("nope", ["depth_width", "sharing"]) == ""


@pytest.mark.parametrize(
    "given",
    [
        *(
            "sampler=tpe",
            "executor.options.nodes=4",
            "+space.axes.heads_per_kv=[1,2]",
            "recipe.lr=1e-3",
        ),
        *("space.axes.num_blocks=[2,3]", "executor=slurm", "experiment=null", "~tracker"),
        *("hydra.verbose=true", "sampler.options.n=3", "objectives=[val_bpb]"),
    ],
)
def test_what_is_right_passes(given: str) -> None:
    require_known([given], SearchConfig, GROUPS, [Path(CONF)])


@pytest.mark.parametrize("device", ["mine.yaml", "cuda"])
def test_a_field_with_the_name_of_a_group_of_other_verbs_takes_what_it_takes(device: str) -> None:
    schema = importlib.import_module("search.measure.__main__").MeasureConfig
    assert as_meant([f"device={device}"], schema, "measure") == [f"device={device}"]


@pytest.mark.parametrize("word", ["layers", "depth", "num_layers"])
def test_words_of_other_projects_mean_what_there_is_here(word: str) -> None:
    assert hint(word, ["num_hidden_layers", "num_blocks"]) == "; did you mean num_blocks?"
    assert hint(word, ["num_hidden_layers"]) == "; did you mean num_hidden_layers?"
    with pytest.raises(ValueError, match=rf"got '{word}'; did you mean num_blocks\?$"):
        Axis.parse(word, [2])
    with pytest.raises(ValueError, match=rf"got '{word}'; did you mean num_blocks\?; parts from"):
        Architecture(vocab_size=2, **{word: 3})


def test_each_word_has_a_name_that_is_there() -> None:
    names = {*FIELDS, *(name for kind in (Recipe, SearchConfig) for name in get_type_hints(kind))}
    assert all(names & {*meant} and word not in names for word, meant in SYNONYMS.items())


def test_files_of_a_users_folder_are_choices(tmp_path: Path) -> None:
    (tmp_path / "space").mkdir()
    (tmp_path / "space" / "mine.yaml").write_text("name: mine\n")
    require_known(["space=mine"], SearchConfig, GROUPS, [Path(CONF), tmp_path])
    with pytest.raises(ValueError, match="space must be one of"):
        require_known(["space=mine"], SearchConfig, GROUPS, [Path(CONF)])


@pytest.mark.parametrize(
    "read", [SpaceConfig.read, Architecture.from_yaml, TableFile.read], ids=str
)
def test_an_absent_file_is_called_absent(read: object) -> None:
    with pytest.raises(ValueError, match=r"must be a file that is there, but gone\.yaml is not"):
        read("gone.yaml")  # type: ignore[operator]


def test_a_file_here_is_meant_only_where_its_name_is_near(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("caption: x\n")
    assert str(absent("table", "mne", ["heads"])).endswith("; did you mean mine.yaml?")
    assert "did you mean" not in str(absent("table", "nosuch", ["heads"]))


def test_a_file_of_a_group_is_called_absent_and_told_where_it_goes() -> None:
    with pytest.raises(ValueError, match=r"gone\.yaml is not there; .*--config-dir FOLDER space="):
        require_known(["space=gone.yaml"], SearchConfig, GROUPS, [Path(CONF)])


def test_a_key_that_a_mapping_lacks_is_told_how_it_is_added() -> None:
    error = HydraException("Could not override 'space.axes.num_block'.\nTo append …")
    said = "did you mean num_blocks? Another axis is added with +space.axes.NAME=…"
    assert said in describe(error)


@pytest.mark.parametrize(
    "read", [SpaceConfig.read, Architecture.from_yaml, TableFile.read], ids=str
)
def test_a_file_of_another_kind_is_called_one(read: object, tmp_path: Path) -> None:
    (tmp_path / "milton.txt").write_text("Of man's first disobedience")
    with pytest.raises(ValueError, match=r"a name or a \.yaml file, but .*milton\.txt is another"):
        read(str(tmp_path / "milton.txt"))  # type: ignore[operator]


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "name: mine\n"])
def test_a_file_that_sets_too_little_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "space").mkdir()
    path = tmp_path / "space" / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="must set axes") as refused:
        configuration("search", SearchConfig, ["space=mine", f"--config-dir={tmp_path}"])
    assert str(path) in str(refused.value)
    assert ("it is empty" in str(refused.value)) == ("name" not in text)


def test_what_is_within_what_nobody_gave_is_asked_for() -> None:
    with pytest.raises(ValueError, match="architecture must be given, but is not; add archit"):
        configuration("run", RunConfig, ["architecture.num_blocks=3"])


def test_broken_yaml_of_a_space_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "space").mkdir()
    (tmp_path / "space" / "mine.yaml").write_text("name: x\naxes:\n  num_blocks: [2, 3\n")
    command = [sys.executable, "-m", "search", "space=mine", "--config-dir", str(tmp_path)]
    done = subprocess.run(
        command, cwd=Path(CONF).parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: files of the configuration must be YAML, but one is not: ")
    assert "space/mine.yaml" in line


@pytest.mark.parametrize(
    "given",
    [
        ["--config-dir", "my", "sampler=tpe", "n_trials=3"],
        ["sampler=tpe", "--config-dir", "my", "n_trials=3"],
        ["sampler=tpe", "n_trials=3", "--config-dir", "my"],
    ],
)
def test_flags_may_stand_anywhere(given: list[str]) -> None:
    flags, options = apart(hydra_flags(), given)
    assert flags == ["--config-dir", "my"]
    assert folder_flags(["-q", *given, "--durations=5"]) == ["--config-dir", "my"]
    assert options == ["sampler=tpe", "n_trials=3"]


def test_a_flag_without_a_value_takes_none() -> None:
    parser = ArgumentParser()
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("--info", nargs="?", const="all", choices=["all", "plugins"])
    assert apart(parser, ["--resolve", "a=1"]) == (["--resolve"], ["a=1"])
    assert apart(parser, ["--info", "a=1"]) == (["--info"], ["a=1"])
    assert apart(parser, ["--info", "plugins", "a=1"]) == (["--info", "plugins"], ["a=1"])


def test_an_option_of_another_command_is_called_so() -> None:
    with pytest.raises(ValueError, match=r"sampler must be .*, but is one of python -m search$"):
        as_meant(["sampler=tpe"], AblationConfig, "ablations")
    with pytest.raises(ValueError, match=r"but is one of .*; did you mean limit\?$"):
        as_meant(["evaluate.limit=3"], EvaluateConfig, "evaluate")


def test_files_of_the_current_folder_are_near_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "my" / "space" / "wide.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("name: wide\n")
    (tmp_path / "mytable.yaml").write_text("caption: x\n")
    with pytest.raises(ValueError, match=r"for my/space/wide\.yaml add --config-dir my$"):
        as_meant(["space=wide"], SearchConfig, "search")
    with pytest.raises(ValueError, match=r"did you mean mytable\.yaml\?"):
        TableFile.read("mytabel")
    with pytest.raises(ValueError, match=r"must be the folder that has space/.*; give my$"):
        _require_folder("my/space")
