"""A page over more runs than browsers take shows the best of them, and says so."""

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from report_fixtures import StudyFolder, default_study, ladder

from reports.__main__ import render
from reports.read.study import Study, read_study
from reports.views.depth_print import figure_for_print
from reports.views.trials import arms_shown
from reports.weigh.answer import weigh

MOST = 5
MODULES = (
    *("reports.read.study", "reports.views.trials", "reports.views.study"),
    "reports.views.depth_print",
)


def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study of 21 runs of nine architectures, read as if five were many."""
    for module in MODULES:
        monkeypatch.setattr(f"{module}.MOST_SHOWN", MOST)
    return read_study(default_study(tmp_path).name, tmp_path / "outputs")


def test_a_page_shows_the_best_of_many_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = few(tmp_path, monkeypatch)
    best = study.trials.sort_values("val_bpb").key[:MOST]
    assert set(study.curves) == set(best)
    files = {name: content.decode(errors="ignore") for name, content in render(study).items()}
    page = files["report.html"]
    assert "The best 5 of 21 trials; trials.csv has all." in page
    assert "The best 5 of 9 architectures; trials.csv has all." in page
    assert "Of 21 runs the best 5 are drawn." in page
    assert [key in page for key in study.trials.key] == [
        key in set(best) for key in study.trials.key
    ]
    assert len(files["trials.csv"].splitlines()) == 22
    assert "The best 5 of 9 architectures" in files["table.md"]


def test_architectures_with_several_seeds_are_shown_before_lucky_single_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = few(tmp_path, monkeypatch)
    evidence = weigh(study)
    repeated = set(evidence.arms.arm[evidence.arms.replicated])
    assert len(repeated) == 4
    lucky = evidence.arms.value.where(evidence.arms.replicated, evidence.arms.value - 1)
    shown = arms_shown(replace(evidence, arms=evidence.arms.assign(value=lucky)))
    assert repeated < set(shown.arm)
    assert len(shown) == MOST


def test_a_page_of_few_runs_shows_them_all(tmp_path: Path) -> None:
    study = read_study(default_study(tmp_path).name, tmp_path / "outputs")
    page = render(study)["report.html"].decode()
    assert len(study.curves) == 21
    assert all(key in page for key in study.trials.key)
    assert "trials.csv has all" not in page


@pytest.mark.parametrize("depths", [(2, 3, 4, 7, 13, 22, 39), range(1, 60), range(10, 40)])
def test_labels_of_many_depths_leave_each_other_room(
    tmp_path: Path, depths: tuple[int, ...] | range
) -> None:
    folder = StudyFolder(tmp_path)
    (four,) = ladder([4])
    for depth in depths:
        shape = replace(four, num_blocks=depth, num_hidden_layers=None, layer_map=None)
        folder.add(shape, points=4)
    folder.write()
    study = read_study(folder.name, tmp_path / "outputs")
    figure = figure_for_print(study, weigh(study))
    figure.draw_without_rendering()
    (axes,) = figure.axes
    places = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert all(a.x1 < b.x0 for a, b in pairwise(places))
    assert len(places) == len(depths) or len(places) > 10
    widths = [text.get_window_extent() for text in axes.texts]
    assert len(widths) == len(places)
    assert not any(a.overlaps(b) for a, b in pairwise(widths))


def test_the_command_does_without_pyarrow_which_takes_a_third_of_its_memory() -> None:
    program = (
        "import runpy, sys; sys.argv = ['reports', 'study=absent']\n"
        "try: runpy.run_module('reports', run_name='__main__')\n"
        "finally: print('pandas' in sys.modules, 'pyarrow.lib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "True False\n"
