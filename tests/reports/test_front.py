"""The front of a study with several objectives: verdicts, tables and figures."""

import csv
import io
import json
from pathlib import Path

import optuna
import pytest
from front_fixtures import OBJECTIVES, QUALITY, study_of, times
from report_fixtures import StudyFolder, figures_of, ladder

from reports.__main__ import render
from reports.read.study import Study, read_study
from reports.views import trials
from reports.views.front import rows
from reports.views.study import Findings, html
from reports.weigh.front import in_words
from search.objectives import Measure
from space.compat import without_experimental_warnings


def verdicts(study: Study) -> dict[int, str]:
    front = Findings.of(study).front
    assert front is not None
    return dict(zip(front.arms.depth, front.arms.verdict, strict=True))


def test_what_seeds_resolve_is_on_the_front_or_dominated(tmp_path: Path) -> None:
    """By the differences put in, which are far larger than the noise or smaller."""
    ms, found = times(), verdicts(study_of(tmp_path))
    for depth, verdict in found.items():
        rivals = [d for d in ms if d != depth and ms[d] <= ms[depth]]
        gaps = [QUALITY[depth] - QUALITY[rival] for rival in rivals]
        if any(gap > 0.05 for gap in gaps):
            assert verdict == "dominated", depth
        elif all(gap < -0.05 for gap in gaps):
            assert verdict == "front", depth
        else:
            assert verdict == "unresolved", depth
    assert set(found.values()) == {"front", "dominated", "unresolved"}


def test_with_noise_as_large_as_the_differences_nothing_is_claimed(tmp_path: Path) -> None:
    """But for the architecture that decodes fastest, which nothing can dominate."""
    ms, found = times(), verdicts(study_of(tmp_path, seeds=3, noise=0.2))
    fastest = min(ms, key=lambda depth: ms[depth])
    assert found.pop(fastest) == "front"
    assert set(found.values()) == {"unresolved"}


def test_one_seed_is_compared_with_nothing(tmp_path: Path) -> None:
    study = study_of(tmp_path, seeds=1)
    front = Findings.of(study).front
    assert front is not None
    assert set(front.arms.verdict) == {"too few seeds"}
    assert "is unresolved: no two architectures share two seeds" in in_words(front)[0]
    assert render(study)["front.md"].decode().count("too few seeds") == len(QUALITY)


def test_every_form_of_the_table_says_the_same(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    found = Findings.of(study)
    files = render(study, found)
    front = found.front
    assert front is not None
    table = list(csv.DictReader(io.StringIO(files["front.csv"].decode())))
    content = json.loads(files["front.json"])
    lines = [x for x in files["front.md"].decode().splitlines() if x.startswith("|")][2:]
    tex = files["front.tex"].decode()
    assert "\\label{tab:" in tex
    assert "% command: " in tex
    assert len(table) == len(content["architectures"]) == len(lines) == len(QUALITY)
    for line, row, item in zip(lines, table, content["architectures"], strict=True):
        assert row["verdict"] == item["verdict"]
        assert ("on the front" if row["verdict"] == "front" else row["verdict"]) in line
        assert float(row["val_bpb"]) == item["val_bpb"]
        assert f"{item['val_bpb']:.4f}" in line
        assert f"{item['val_bpb']:.4f}" in tex
        assert item["decode_ms@iphone_13"] == pytest.approx(times()[item["depth"]])
    assert content["answer"] == in_words(front)
    assert files["front.png"].startswith(b"\x89PNG")
    assert files["front.pdf"].startswith(b"%PDF")
    assert render(study, found) == files, "the same bytes"


def test_the_page_draws_the_front_and_names_what_is_unresolved(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    page = render(study)["report.html"].decode()
    assert "<h2>The front</h2>" in page
    figures = figures_of(page)
    bars = [trace for trace in figures["front"]["data"] if "error_y" in trace]
    assert bars, "intervals are drawn"
    assert not any("error_x" in trace for trace in figures["front"]["data"]), "time is exact"
    front = Findings.of(study).front
    assert front is not None
    unresolved = front.labels("unresolved")
    assert unresolved
    for label in unresolved:
        assert label in in_words(front)[1]
    assert "Unresolved, whether on it or dominated" in page


def test_all_objectives_come_before_what_surrounds_them(tmp_path: Path) -> None:
    """A phone shows the first columns without scrolling."""
    study = study_of(tmp_path)
    front = Findings.of(study).front
    assert front is not None
    names = [column.name for column in rows(study, front)[0]]
    assert names[:5] == ["verdict", "depth", "width", *OBJECTIVES]
    assert "val_bpb.interval" in names[5:]


def test_a_study_of_one_objective_has_no_front(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    folder.add(ladder([4])[0])
    folder.write()
    study = read_study("depth_1m", tmp_path / "outputs")
    assert Findings.of(study).front is None
    files = render(study)
    assert not [name for name in files if name.startswith("front")]
    assert "The front" not in files["report.html"].decode()


def test_hypervolume_grows_to_that_of_optuna(tmp_path: Path) -> None:
    """Against `optuna.visualization`'s own figure, of values in units of their ranges."""
    study = study_of(tmp_path)
    front = Findings.of(study).front
    assert front is not None
    runs = study.eligible[study.eligible.role == "explore"].sort_values("number")
    values = runs[OBJECTIVES]
    scaled = (values - values.min()) / (values.max() - values.min())
    same = optuna.create_study(directions=["minimize"] * 2)
    for row in scaled.to_numpy():
        same.add_trial(optuna.create_trial(values=list(row), params={}, distributions={}))
    with without_experimental_warnings():
        drawn = optuna.visualization.plot_hypervolume_history(same, [1.0, 1.0])
    assert list(front.volume.share) == pytest.approx(list(drawn.data[0].y))
    assert front.volume.share.is_monotonic_increasing


def test_more_may_be_better_in_an_objective(tmp_path: Path) -> None:
    """The same study with quality as its negative: the same verdicts."""
    before = verdicts(study_of(tmp_path / "down"))
    measures = [Measure(name).facts() for name in OBJECTIVES]
    measures[0] |= {"direction": "maximize"}
    study = study_of(tmp_path / "up", objectives=measures, direction="maximize")
    frame = study.trials.assign(val_bpb=-study.trials.val_bpb)
    flipped = Study(study.folder, study.facts, frame, study.records, study.curves, study.missing)
    assert verdicts(flipped) == before


def test_a_study_from_before_exact_objectives_is_read_by_its_values(tmp_path: Path) -> None:
    measures = [Measure(name).facts() for name in OBJECTIVES]
    old = [{k: v for k, v in facts.items() if k != "exact"} for facts in measures]
    front = Findings.of(study_of(tmp_path, objectives=old)).front
    assert front is not None
    assert front.exact == ("decode_ms@iphone_13",)


def test_a_page_leaves_out_what_training_found_to_be_beyond_a_constraint(tmp_path: Path) -> None:
    study = study_of(tmp_path, beyond=(8,), constraints=["peak_mb@llama_cpp:fp16<=6"])
    found = Findings.of(study)
    assert len(study.finished) > len(study.eligible)
    assert found.front is not None
    assert 8 not in set(found.front.arms.depth)
    assert "8 layers" not in " ".join(in_words(found.front))
    assert html(study, found)


def test_where_nothing_keeps_to_a_constraint_what_comes_nearest_is_shown(tmp_path: Path) -> None:
    study = study_of(tmp_path, beyond=tuple(QUALITY), constraints=["peak_mb@llama_cpp:fp16<=6"])
    for trial in study.facts["trials"]:
        trial["excesses"] = {"peak_mb@llama_cpp:fp16<=6": 0.04102400000000017}
    found = Findings.of(study)
    page = html(study, found)
    assert "No trial has finished" not in page
    assert "None has a finished trial" not in page
    assert "These come nearest" in page
    assert "export=best" not in page
    for text in (page, trials.document(study, found.evidence)):
        assert "by 0.04102" in text
        assert "by 0.041024" not in text
    assert "nothing that was tried meets" in trials.latex(study, found.evidence)


def test_verdicts_hold_the_choice_of_held_out_windows(tmp_path: Path) -> None:
    """Where depths differ far more by window than by seed, only what is fastest is on the front."""
    plain, alike, apart = (
        study_of(tmp_path / name, by_window=size)
        for name, size in (("plain", None), ("alike", 1e-6), ("apart", 0.5))
    )
    assert verdicts(alike) == verdicts(plain)
    assert sorted(set(verdicts(apart).values())) == ["front", "unresolved"]
    pages = [render(study)["front.md"].decode() for study in (plain, apart)]
    assert "leave out the choice of held-out windows" in pages[0]
    assert "on such text" not in pages[0]
    assert "Verdicts hold the choice of held-out windows." in pages[1]
    assert "95% interval of val bpb on such text" in pages[1]
