"""What notebooks use: the example of docs/python.md is run as it stands."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from study_fixtures import TINY, write_text

from ablations.effects import compare
from reports.read.study import read_study
from reports.weigh.answer import weigh
from reports.weigh.evaluation import held_out_errors
from search import StudyResult, run_study, train_run
from search.__main__ import SearchConfig
from space.app import configuration
from space.arch import Architecture
from space.axes import Space

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "python.md").read_text()
README = (ROOT / "README.md").read_text()


def example(page: str) -> str:
    """The first block of Python on a page."""
    return re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)[0]


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of a tiny study in the current folder, by one worker in this process."""
    monkeypatch.chdir(tmp_path)
    return [*TINY, f"data.path={write_text(tmp_path)}", "executor=inline"]


def test_a_space_lists_its_ladder() -> None:
    space = Space.from_yaml("depth_width", budget="1m", vocab_size=1024)
    frame = space.frame()
    assert len(frame) == space.size
    assert (frame.budget_deviation.abs() <= 0.0015).all()
    assert list(frame.hidden_size) == [arch.hidden_size for arch in space.enumerate()]
    assert f"<td>{frame.hidden_size[0]}</td>" in space._repr_html_()


def test_a_study_is_run_continued_and_shown(options: list[str]) -> None:
    first = run_study(*options, "n_trials=2", "replicates.seeds=1")
    assert first.facts["finished"]
    assert len(first.frame) == 2
    assert first.compared.empty, "one seed each"
    assert first.facts["command"].endswith("n_trials=2 replicates.seeds=1"), "not the notebook's"
    again = run_study(*options, "n_trials=4", "replicates.seeds=1", "report=true")
    assert len(again.frame) == 4
    assert set(first.frame.key) < set(again.frame.key)
    by_number = pd.read_csv(again.page.with_name("trials.csv"))
    assert list(again.frame.key) == list(by_number.key)
    assert again.baseline in set(again.frame.arm)
    assert again.page.is_file()
    shown = again._repr_html_()
    assert all(arm in shown for arm in again.frame.arm)
    assert "data:image/png;base64," in shown


def test_what_is_compared_keeps_to_constraints_and_chose_nothing(tmp_path: Path) -> None:
    """By the study's own metric, whatever that is."""
    cells = [(arm, seed) for arm in ("a", "b", "c") for seed in (0, 1, 2)] + [("d", 0)]
    role = {seed: "replicate" if seed else "explore" for seed in (0, 1, 2)}
    trials = [
        {"key": f"{arm}{seed}", "value": float(seed), "number": n, "state": "COMPLETE"}
        | {"params": {}, "arm": arm, "seed": seed, "role": role[seed]}
        | {"excesses": {"peak_mb": 1.0 if arm == "c" else -1.0}}
        for n, (arm, seed) in enumerate(cells)
    ]
    study = StudyResult(folder=tmp_path, runs=tmp_path)
    frame = pd.DataFrame(cells, columns=["arm", "seed"])
    frame = frame.assign(key=frame.arm + frame.seed.astype(str), role=frame.seed.map(role))
    vars(study).update(facts={"metric": "decode_ms@this", "trials": trials}, frame=frame)
    found = study.compared
    assert [*zip(found.arm, found.seed, strict=True)] == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert list(found["decode_ms@this"]) == [1.0, 2.0, 1.0, 2.0]


def test_one_run_is_trained_once(options: list[str]) -> None:
    arch = Space.from_yaml("depth_width", budget="100k", vocab_size=300).enumerate()[0]
    own = [x for x in options if x.startswith(("data", "proxy", "recipe", "placement"))]
    record = train_run(arch, *own)
    assert record.status == "finished"
    assert record.run.architecture == arch
    assert train_run(arch, *own).started == record.started


def test_a_folder_of_configurations_may_stand_among_the_options(tmp_path: Path) -> None:
    (tmp_path / "space").mkdir()
    (tmp_path / "space" / "small.yaml").write_text("name: small\naxes: {num_blocks: [2, 3]}\n")
    for flag in ([f"--config-dir={tmp_path}"], ["--config-dir", str(tmp_path)]):
        config = configuration("search", SearchConfig, ["budget=1m", *flag, "space=small"])
        assert (config.space.name, config.budget) == ("small", "1m")
    with pytest.raises(ValueError, match="--config-dir must be a folder"):
        configuration("search", SearchConfig, [f"--config-dir={tmp_path}/absent"])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda given: run_study(*given, "n_trails=3"),
            "n_trails must be an option .* did you mean n_trials",
        ),
        (lambda given: run_study(*given, "sampler=absent.py"), "absent.py"),
        (lambda given: run_study(*given, "budget=10"), "must lie within"),
        (
            lambda given: run_study(*given, "budget=[100k,200k]"),
            "have one budget.*call it for each",
        ),
        (lambda given: train_run("mobilellm_124m"), "mobilellm_124m"),
    ],
)
def test_wrong_options_are_refused_in_the_words_of_the_command(
    options: list[str], call: Any, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        call(options)


def test_the_readme_has_the_same_example() -> None:
    assert example(README) == example(PAGE)


@pytest.mark.slow
def test_the_example_of_the_documentation_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(example(README), "README.md", "exec"), names)
    assert isinstance(names["study"], StudyResult)
    assert isinstance(names["record"].run.architecture, Architecture)
    assert set(names["effects"].verdict) >= {"baseline"}
    assert set(names["effects"].n) == {2}, "as on the page: not the seed that chose them"
    assert names["study"].page.is_file()
    assert "report.html" in capsys.readouterr().out


def test_differences_are_those_of_the_page(options: list[str]) -> None:
    """With the choice of held-out windows in their intervals, which are narrower without."""
    study = run_study(*options, "n_trials=7", "replicates.top=2", "replicates.seeds=3")
    assert study.baseline is not None
    errors = held_out_errors(study)
    assert min(errors.values()) > 0
    given = (study.compared, study.baseline, study.facts["metric"])
    held = compare(*given, evaluation=errors).set_index("arm")
    alone = compare(*given).set_index("arm")
    others = held.index != study.baseline
    assert (held.ci_high > alone.ci_high)[others].all()
    page = weigh(read_study(study.folder.name)).arms
    shown = page[page.diff_low.notna()]
    assert len(shown) == others.sum()
    assert sorted(held.ci_low[others]) == pytest.approx(sorted(shown.diff_low))
    assert sorted(held.ci_high[others]) == pytest.approx(sorted(shown.diff_high))
