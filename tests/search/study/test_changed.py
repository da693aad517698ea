"""`search.study.changed`: what takes a change under a study's name back."""

import re
from pathlib import Path

import optuna
import pytest
from study_fixtures import overrides, write_text

from ablations.__main__ import open_table
from ablations.config import AblationConfig
from search.__main__ import open_search
from search.config import SearchConfig
from search.study import session
from search.study.session import Session
from search.study.storage import SUBMITTED, has_study
from space.app import CONF, configuration

SPACE = "name: mine\naxes:\n  num_blocks: [2, 3]\nfixed:\n  qk_norm: {}\n"
ADAMW = "from search.train.optimizers.adamw import OPTIMIZER\n"
PART = """
from space.parts import Field, Part


class Plain(Part):
    fields = (Field("plain", False, bool, "nothing"),)
    examples = ({"plain": True},)


PART = Plain()
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my" / "space").mkdir(parents=True)
    write_text(tmp_path)
    return tmp_path


def start(*more: str, begun: bool = True) -> None:
    """A start as the command line has it, up to its first run's beginning; or only up to there."""
    given = [*overrides("data.path=text.jsonl", *more), "n_trials=1"]
    config = configuration("search", SearchConfig, given, [Path(CONF), Path("my")])
    opened: Session = open_search(config, ["--config-dir", "my", *given])
    if begun:
        opened.study.ask()
    opened.lock.release()


def refused(*more: str) -> str:
    with pytest.raises(ValueError, match="must keep its space, data and recipe") as raised:
        start(*more)
    return str(raised.value)


def test_an_edited_file_of_a_space_is_to_be_restored(here: Path) -> None:
    path = here / "my" / "space" / "mine.yaml"
    path.write_text(SPACE.format("true"))
    start("space=mine", "n_trials=4", "workers=2")
    path.write_text(SPACE.format("false"))
    said = refused("space=mine")
    assert "space.fixed.qk_norm was True, is False" in said
    assert said.endswith("choose another name with study=NAME, or restore my/space/mine.yaml")
    path.write_text(SPACE.format("true"))
    start("space=mine")


def test_edited_text_is_named_by_its_path(here: Path) -> None:
    start()
    with (here / "text.jsonl").open("a") as file:
        file.write('{"text": "one more document"}\n')
    said = refused()
    assert re.search(
        r"but the text at text\.jsonl is not the same as before \(data\.fingerprint was \w+, is "
        r"\w+\); choose another name with study=NAME, or restore the text at text\.jsonl$",
        said,
    ), said


def test_edited_code_is_named(here: Path) -> None:
    code, part = here / "mine.py", here / "plain.py"
    code.write_text(ADAMW)
    part.write_text(PART)
    given = ("recipe.optimizer=mine.py", "+space.fixed.parts=[plain.py]")
    start(*given)
    part.write_text(f"{PART}# edited\n")
    assert refused(*given).endswith(", or restore plain.py")
    part.write_text(PART)
    code.write_text(f"{ADAMW}# edited\n")
    assert refused(*given).endswith(", or restore mine.py")
    said = refused(*given, "recipe.lr=0.004")
    assert "or restore mine.py and take the change back: python -m search " in said


def test_an_option_is_taken_back_by_the_command(here: Path) -> None:
    start("seed=3", "workers=1")
    said = refused("seed=4", "workers=2")
    assert "seed was 3, is 4" in said
    assert re.search(r"or take the change back: python -m search .* seed=3 workers=1 n_tri", said)


def test_data_that_are_made_otherwise_are_an_option(here: Path) -> None:
    start()
    assert "or take the change back: python -m search" in refused("data.vocab_size=310")


def test_a_study_without_a_run_gives_way_to_other_settings(here: Path) -> None:
    """As after a start that could give no worker to Slurm."""
    start("recipe.lr=0.004", begun=False)
    url = f"sqlite:///{here / 'outputs' / 'tiny' / 'study.db'}"
    assert not has_study(url, "tiny"), "train=false plans it as one that is not there"
    start("recipe.lr=0.005", "seed=3")
    kept = optuna.load_study(study_name="tiny", storage=url).user_attrs
    assert (kept["settings"]["recipe"]["lr"], kept["settings"]["seed"]) == (0.005, 3)
    assert has_study(url, "tiny")
    assert "recipe.lr was 0.005, is 0.004" in refused("recipe.lr=0.004", "seed=3")


def test_a_study_whose_workers_wait_in_a_queue_stays(here: Path) -> None:
    start("recipe.lr=0.004", begun=False)
    url = f"sqlite:///{here / 'outputs' / 'tiny' / 'study.db'}"
    optuna.load_study(study_name="tiny", storage=url).set_user_attr(SUBMITTED, True)
    assert "recipe.lr was 0.004, is 0.005" in refused("recipe.lr=0.005")


def test_a_study_that_another_start_has_just_opened_stays(here: Path) -> None:
    given = overrides("data.path=text.jsonl", "n_trials=1")
    first = open_search(configuration("search", SearchConfig, given), given)
    assert "recipe.lr was 0.003, is 0.005" in refused("recipe.lr=0.005")
    first.lock.release()
    start("recipe.lr=0.005")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("recipe.lr=0.004", "recipe.lr was "),
        ("budget=300k", "space.budget.value was "),
        ("seed=3", "seed was 0, is 3"),
        ("data.name=other", "data.name was text_jsonl, is other"),
    ],
)
def test_what_is_known_without_data_is_refused_before_they_are_read(
    here: Path, monkeypatch: pytest.MonkeyPatch, change: str, said: str
) -> None:
    name = "study=mine"
    start(name)
    monkeypatch.setattr(session, "prepare", None)
    assert said in refused(name, change)


def test_a_table_is_refused_before_data_are_read(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["table=depth_width", "called=mine", "data=text", "data.path=text.jsonl"]
    given += ["proxy=smoke", "tracker=none", "data.vocab_size=300"]

    def begin(*more: str) -> None:
        asked = [*given, *more]
        table = open_table(configuration("ablations", AblationConfig, asked, [Path(CONF)]))
        table.study.ask()
        table.lock.release()

    begin()
    monkeypatch.setattr(session, "prepare", None)
    for change, said in (("budget=2m", "budget was "), ("recipe.lr=0.004", "recipe.lr was ")):
        with pytest.raises(ValueError, match=said):
            begin(change)
