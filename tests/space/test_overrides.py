"""Names stay what was typed, and paths of any letters work where they are quoted."""

import shlex
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from ablations.config import AblationConfig
from reports.__main__ import ReportsConfig
from search.__main__ import SearchConfig
from search.evaluate.__main__ import EvaluateConfig
from space.app import by_name, configuration, doors_of, in_short
from space.overrides import as_text, outputs_of, quoted, spelt

NUMBERS = ["2025_11_25", "8041237e46551902", "1e5", "007", "1_000", "nan", "inf", "true", "12"]


def search(*given: str) -> SearchConfig:
    return configuration("search", SearchConfig, given)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0\n\r$"), min_size=1))
def test_quoted_text_is_read_as_it_was(text: str) -> None:
    for written in (quoted(text), spelt(text)):
        assert OverridesParser.create().parse_override(f"x={written}").value() == text


def test_outputs_are_named_from_where_one_stands_and_only_where_they_are_not_the_usual(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert outputs_of(Path("outputs")) == outputs_of(tmp_path / "outputs") == []
    assert outputs_of(tmp_path / "mine" / "outputs") == ["outputs=mine/outputs"]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert outputs_of(tmp_path / "outputs") == [f"outputs={spelt(str(tmp_path / 'outputs'))}"]


def test_names_are_quoted_only_where_they_must_be() -> None:
    assert spelt("law_lr0.001_seed1") == "law_lr0.001_seed1"
    assert [spelt(name) for name in ("1_000", "nan", "a,b")] == ['"1_000"', '"nan"', '"a,b"']


@pytest.mark.parametrize("name", NUMBERS)
def test_a_name_that_looks_like_a_number_is_a_name(name: str) -> None:
    assert search(f"study={name}").study == name
    assert configuration("evaluate", EvaluateConfig, [f"model={name}"]).model == name
    assert configuration("reports", ReportsConfig, [f"study={name}"]).study == name


def test_so_it_is_in_a_list() -> None:
    given = ["page=laws", f"study=[{','.join(NUMBERS)}]"]
    assert configuration("reports", ReportsConfig, given).study == NUMBERS


def test_null_is_still_nothing_and_numbers_are_numbers() -> None:
    config = search("study=null", "n_trials=1_0", "recipe.lr=1e-3", "workers=3")
    assert (config.study, config.n_trials, config.recipe.lr) == (None, 10, 1e-3)
    assert config.workers == 3


@pytest.mark.parametrize("text", ["книги/o", "a=b", "o (1)", "a,b", "宽/β", "~/c", "a b, c", "[x"])
def test_text_that_must_be_quoted_is_shown_quoted_and_works_so(text: str) -> None:
    with pytest.raises(ValueError, match="quote it twice: ") as raised:
        search(f"outputs={text}")
    (spelt,) = shlex.split(str(raised.value).partition("quote it twice: ")[2])
    assert search(spelt).outputs == str(Path(text).expanduser())


def test_names_of_several_are_started_by_m() -> None:
    for option, verb in (("table", "ablations"), ("study", "search")):
        with pytest.raises(ValueError, match="must be one value") as raised:
            as_text(f"{option}=heads,layer_sharing", AblationConfig)
        assert str(raised.value).endswith(f"python -m {verb} -m {option}=heads,layer_sharing")


@pytest.mark.parametrize("given", ["space.axes.num_blocks=2,4,8", "recipe.lr=0.01,0.02"])
def test_numbers_of_several_are_a_list_or_started_by_m(given: str) -> None:
    option, value = given.split("=")
    with pytest.raises(ValueError, match=f"{option} must be one value, but got {value}") as raised:
        search(given)
    assert f"a list is '{option}=[{value}]'" in str(raised.value)
    assert str(raised.value).endswith(f"python -m search -m {given}")


def test_a_tilde_is_the_home_folder_in_every_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = search('data.cache="~/c"', 'runs="~/r"', "data=text", 'data.path="~/t/*.txt"')
    assert (config.data.cache, config.runs) == ("/home/me/c", "/home/me/r")
    assert config.data.path == "/home/me/t/*.txt"


@pytest.mark.parametrize("given", ['outputs="~nobody-of-this-name/o"', "runs=", 'data.cache=""'])
def test_a_place_that_is_none_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="must name a file or a folder"):
        search(given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("data=5", "data must be one of embedded, hf, mix, text, tokens, but got 5"),
        ("data=[nan]", "data must be one of embedded, hf, mix, text, tokens, but got nan"),
        ("proxy=5", "Could not find 'proxy/5'"),
        ("space.name=../../evil", "space.name must be a name that a folder"),
        (f"study={'x' * 101}", "study must have at most 100 bytes"),
        (f"study='{'宽' * 40}'", "study must have at most 100 bytes"),
        (f"++sampler.options.x={'[' * 5000}{']' * 5000}", "nested so deeply"),
    ],
)
def test_nonsense_is_one_line(given: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        search(given)


@pytest.mark.parametrize("given", [["proxy=null"], ["data=null"], ["tracker={x: 1}"]])
def test_options_that_do_not_fit_together_end_in_one_line(
    given: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from search.__main__ import main

    monkeypatch.setattr("sys.argv", ["search", *given])
    with pytest.raises(SystemExit) as ended:
        main()
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert (ended.value.code, line[:7]) == (2, "error: ")


def test_a_crash_shows_no_password(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import search.__main__ as command

    def broken(config: Any) -> None:
        raise RuntimeError(f"no one expected {config.storage}")

    url = "postgresql://me:hidden-word@host/name?password=other-word"
    monkeypatch.setattr(command, "open_search", broken)
    monkeypatch.setattr("sys.argv", ["search", f"storage='{url}'", f'outputs="{tmp_path}"'])
    with pytest.raises(SystemExit) as ended:
        command.main()
    shown = "".join(capsys.readouterr())
    assert ended.value.code == 1
    assert "no one expected postgresql://me:***@host" in shown
    assert "hidden-word" not in shown
    assert "other-word" not in shown


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("recipe.tokens=300k", "recipe.tokens=300000"),
        ("recipe.tokens=1.5m", "recipe.tokens=1500000"),
        ("recipe.tokens=20B", "recipe.tokens=20000000000"),
        ("data.max_bytes=2_000k", "data.max_bytes=2000000"),
        ("recipe.tokens=1.0005k", "recipe.tokens=1.0005k"),
        ("recipe.lr=3m", "recipe.lr=3m"),
        ("budget=2m", "budget=2m"),
        ("study=1m", "study=1m"),
    ],
)
def test_whole_numbers_may_be_written_in_thousands_millions_and_billions(
    given: str, meant: str
) -> None:
    assert as_text(given, SearchConfig) == meant


def test_options_of_doors_are_shown_as_they_are_given() -> None:
    given = ["executor=slurm", "executor.nodes=4", "sampler.options.n=2", "recipe.lr=1e-3"]
    full = by_name(given, doors_of(SearchConfig))
    assert full[1:3] == ["++executor.options.nodes=4", "++sampler.options.n=2"]
    shown = ["executor=slurm", "executor.nodes=4", "sampler.n=2", "recipe.lr=1e-3"]
    assert in_short(full, SearchConfig) == shown
    assert in_short(["++tracker.options.x=1"], SearchConfig) == ["++tracker.options.x=1"]
