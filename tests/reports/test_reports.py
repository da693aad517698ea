"""Reports: what a page says follows from the records, and nothing is dropped or dressed up."""

import base64
import csv
import dataclasses
import gzip
import html
import io
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from plotly.offline import get_plotlyjs
from report_fixtures import RECIPE, StudyFolder, default_study, figures_of, ladder

from reports.__main__ import render
from reports.read.study import Study, read_study
from reports.show import figures
from reports.show import html as show_html
from reports.show.html import packed_plotly, unbroken
from reports.show.tables import chosen
from reports.views import curves, depth_figure
from reports.views import study as page
from reports.views import trials as tables
from reports.views.layers import pictures
from reports.weigh.answer import answer, span, weigh
from reports.weigh.worth import Worth
from search.comparable import comparable_cells
from search.objectives import Measure
from search.record import Record, architecture_id
from search.runs import UnknownParts, read_record, usable_record
from space.files import write_atomically
from space.tables import Column
from space.words import magnitude

WHOLE = {
    "study": "depth_1m",
    "metric": "val_bpb",
    "budget": {"kind": "parameters", "value": 1000000},
    "space": {"name": "depth_width"},
    "trials": [],
}
"""The least that a `study.json` can be."""
ROLES = ("explore", "replicate", "replicate")
REPOSITORY = Path(__file__).parents[2]


def read(folder: StudyFolder) -> Study:
    """The study as a report reads it."""
    folder.write()
    return read_study(folder.name, folder.root / "outputs")


def said(study: Study) -> str:
    """The whole answer."""
    return " ".join(answer(study, weigh(study)))


def run_reports(root: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`python -m reports` in a process of its own, in the folder `root`."""
    return subprocess.run(
        [sys.executable, *(arguments or ("-m", "reports"))],
        cwd=root,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])} | env,
        capture_output=True,
        text=True,
        check=False,
    )


# What may be said.


def test_the_seed_that_chose_the_architectures_does_not_enter_the_answer(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)
    shallow, middle, deep = ladder([2, 4, 12])
    for architecture, lucky in ((shallow, 1.0), (middle, 1.80), (deep, 1.90)):
        study.add(architecture, bpb=lucky)
    for seed in (1, 2, 3):
        study.add(shallow, seed=seed, role="replicate", bpb=1.80 + 0.001 * seed)
        study.add(middle, seed=seed, role="replicate", bpb=1.70 - 0.001 * seed)
    evidence = weigh(read(study))
    assert evidence.best == architecture_id(middle)
    assert (evidence.seeds, evidence.set_aside) == ((1, 2, 3), (0,))
    assert evidence.arm(architecture_id(middle))["mean"] == pytest.approx(1.698)


def test_one_fresh_seed_is_too_few_and_the_exploring_one_counts_with_a_caution(
    tmp_path: Path,
) -> None:
    study = StudyFolder(tmp_path)
    shallow, middle, deep = ladder([2, 4, 12])
    for architecture in (shallow, middle, deep):
        study.add(architecture)
    for architecture in (shallow, middle):
        study.add(architecture, seed=1, role="replicate")
    done = read(study)
    assert weigh(done).seeds == (0, 1)
    assert said(done).count("read with caution") == 1, "in the terminal too"
    assert text_of(done).count("read with caution") == 2, "and in the Markdown that it copies"


def test_no_seed_is_set_aside_where_every_architecture_was_run_on_all() -> None:
    done = pd.DataFrame(
        [(arm, seed, role, 1.0) for arm in "ab" for seed, role in enumerate(ROLES)],
        columns=["arm", "seed", "role", "val_bpb"],
    )
    cells, seeds, set_aside = comparable_cells(done, "val_bpb")
    assert (len(cells), seeds, set_aside) == (6, (0, 1, 2), ())


def test_an_architecture_without_the_shared_seeds_is_left_out_of_the_comparison() -> None:
    done = pd.DataFrame(
        [(arm, seed, "replicate", 1.0) for arm in "ab" for seed in (1, 2, 3)]
        + [("c", 1, "replicate", 1.0), ("c", 4, "replicate", 1.0)]
        + [("d", 0, "explore", 1.0)],
        columns=["arm", "seed", "role", "val_bpb"],
    )
    cells, seeds, _ = comparable_cells(done, "val_bpb")
    assert seeds == (1, 2, 3)
    assert set(cells.arm) == {"a", "b"}


def test_depths_that_seeds_do_not_tell_apart_are_called_unresolved(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)
    for depth, offset in zip((2, 3, 4, 6), (0.0, 0.001, 0.002, 0.2), strict=True):
        (architecture,) = ladder([depth])
        for seed in (0, 1, 2):
            noise = 0.01 * ((depth * (seed + 1)) % 3)
            study.add(architecture, seed=seed, bpb=1.7 + offset + noise)
    text = said(read(study))
    assert "depths 2 to 4 are not significantly different over 3 seeds" in text
    assert "unresolved" in text


def test_a_clear_winner_is_said_to_be_told_apart(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)
    for depth, level in ((2, 1.9), (4, 1.6), (12, 1.8)):
        (architecture,) = ladder([depth])
        for seed in (0, 1, 2):
            study.add(architecture, seed=seed, bpb=level + 1e-4 * seed * depth)
    assert "4 layers × 128 wide" in said(read(study))
    out = "2 other architectures are left out by a one-sided comparison over 3 seeds."
    assert out in said(read(study))
    assert "unresolved" not in said(read(study))


def test_one_sided_answer_and_two_sided_table_do_not_contradict_each_other(tmp_path: Path) -> None:
    first, second = ladder([2, 4])
    study = StudyFolder(tmp_path, baseline=architecture_id(first))
    for seed in range(5):  # t is 2.45 with 4 degrees of freedom: beyond 2.13, within 2.78
        study.add(first, seed, bpb=1.7)
        study.add(second, seed, bpb=1.7072 + 0.0083 * (seed - 2) / 2)
    done = read(study)
    evidence = weigh(done)
    assert list(evidence.arms.verdict) == ["baseline", "unresolved"]
    out = "1 other architecture is left out by a one-sided comparison over 5 seeds."
    assert out in said(done)
    assert "significantly" not in said(done)
    assert "No difference is resolved." in text_of(done)
    note = "may leave out an architecture whose difference here is unresolved"
    assert note in text_of(done)


def test_what_to_take_is_said_where_the_order_is_unresolved(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)
    for depth, level in ((2, 1.702), (3, 1.7), (4, 1.701), (6, 1.72), (12, 1.8)):
        (architecture,) = ladder([depth])
        for seed in (0, 1, 2):
            study.add(architecture, seed=seed, bpb=level + 0.003 * ((depth + seed) % 3))
    text = said(read(study))
    assert "unresolved" in text
    assert "By all runs together, taking 3 layers × 160 wide is expected to cost 0.00" in text
    assert re.search(
        r"is lowest at \d\.\d layers \(95%: \d\.\d to \d\.\d, which includes 3\)", text
    )
    evidence = weigh(read(study))
    assert evidence.choice is not None
    assert evidence.arms.p_best.sum() == pytest.approx(1)
    (columns, *rows) = tables.markdown(read(study), evidence).splitlines()
    assert columns.endswith("| P(best) | regret |")
    assert len(rows) == 6


def test_a_bound_of_the_regret_is_not_said_below_its_expectation(tmp_path: Path) -> None:
    """Of an arm that is nearly surely the best, the 95% quantile of the regret is 0."""
    bounds = []
    for name, gap in (("clear", 0.012), ("near", 0.002)):
        study = StudyFolder(tmp_path, name)
        for depth in (2, 3):
            for seed in range(4):
                noise = 0.003 * ((3 * depth + 2 * seed) % 4)
                bpb = 1.7 + gap * (depth == 3) + noise
                study.add(ladder([depth])[0], seed=seed, bpb=bpb)
        done = read(study)
        take = weigh(done).choice.take  # type: ignore[union-attr]
        assert 0 < take.regret
        bounds.append(take.regret_high)
        assert ("with 95% probability at most" in said(done)) == (take.regret_high >= take.regret)
        assert f"is expected to cost {take.regret:.4f} bits per byte" in said(done)
    assert bounds[0] == 0 < bounds[1]


def test_one_seed_each_is_called_an_anecdote(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)
    for architecture in ladder():
        study.add(architecture)
    text = said(read(study))
    assert "with one seed each this may be noise" in text
    assert "unresolved" in text


def test_runs_of_another_length_enter_no_comparison(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)
    first, second = ladder([2, 4])
    study.add(first)
    study.add(second)
    study.add(first, seed=1, recipe=dataclasses.replace(RECIPE, tokens=2 * RECIPE.tokens), bpb=1.0)
    done = read(study)
    assert (len(done.finished), done.finished_elsewhere) == (2, 1)
    assert "1 run of another length" in page.html(done, page.Findings.of(done))


@pytest.mark.parametrize(
    ("depths", "text"),
    [([3, 4, 6], "3 to 6"), ([4, 6], "4 and 6"), ([3, 4, 12], "3, 4 and 12"), ([4], "4")],
)
def test_a_span_of_depths_leaves_out_no_depth_that_was_tried(depths: list[int], text: str) -> None:
    assert span(depths, [1, 2, 3, 4, 6, 8, 12]) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e6, "1.0M"), (124_635_456, "125M"), (1.5e9, "1.5B"), (9.96e6, "10M"), (512, "512")],
)
def test_magnitudes_have_two_or_three_figures(value: float, text: str) -> None:
    assert magnitude(value) == text


# What a result is worth comes first.


def text_of(study: Study) -> str:
    """The page without its script and figures, spaces that do not break as others."""
    body = page.html(study, page.Findings.of(study)).split("<main>")[1].split("</main>")[0]
    return re.sub(r"<[^>]*>", "", body).replace("\u00a0", " ")


def test_runs_are_counted_among_those_that_were_planned(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path, n_trials=22, planned=3)
    for architecture in ladder([2, 4, 6]):
        study.add(architecture)
    assert "3 finished, of 3 planned;" in text_of(read(study))
    study.facts["n_trials"] = 2
    assert "3 finished, of 3 planned (its last start asked for 2);" in text_of(read(study))
    del study.facts["planned"]  # of studies from before it was kept
    assert "3 finished, of 2 requested;" in text_of(read(study))


def test_the_column_of_intervals_keeps_its_names_when_their_level_changes(tmp_path: Path) -> None:
    columns = [Column("arm", "arm"), Column("interval", "99.92% interval")]
    rows = [["a", "b"]]
    for name in ("interval", "95% interval", "99.92% interval"):
        assert chosen(columns, rows, [name]) == ([columns[1]], [["b"]])
    cache = Column("objective.kv_bytes", "kv bytes")
    for name in ("kv_bytes", "kv bytes"):
        assert chosen([columns[0], cache], rows, [name])[0] == [cache]
    with pytest.raises(ValueError, match=r"among arm, kv bytes \(kv_bytes\), but got 'kv_byte'"):
        chosen([columns[0], cache], rows, ["kv_byte"])
    with pytest.raises(ValueError, match="columns must be among"):
        chosen(columns, rows, ["95% intervals"])


def test_where_nothing_is_compared_with_the_baseline_it_says_which_and_what_does(
    tmp_path: Path,
) -> None:
    config = {"replicates": {"top": 2, "seeds": 3}}
    study, ladder_ = StudyFolder(tmp_path, config=config), ladder([2, 4, 6])
    for architecture in ladder_:
        study.add(architecture)
    study.facts["baseline"] = architecture_id(ladder_[1])
    text = text_of(read(study))
    assert "No differences from the baseline, 4 layers" in text
    assert "The same command with replicates.top=2 replicates.seeds=3 n_trials=9 trains" in text
    study.facts["finished"] = False
    assert "Further seeds come last, and the study is not finished." in text_of(read(study))
    study.facts["baseline"] = "beyond"
    assert "the architecture of middle depth: it has no finished run" in text_of(read(study))
    del study.facts["baseline"]
    assert "No differences from a baseline: the study has none." in text_of(read(study))


def test_a_smoke_run_says_first_that_its_numbers_mean_nothing(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)
    for architecture in ladder([2, 4]):
        study.add(architecture, recipe=dataclasses.replace(RECIPE, tokens=20_480))
    text = text_of(read(study))
    assert "Trained on 20,480 tokens (0.02 per parameter), scored on" in text
    assert re.search(r"\bMetric\s*Validation bits per byte \(val_bpb\), lower is better\b", text)
    order = [text.index(words) for words in ("Smoke run: ignore", "Trained on", "At 1.0M")]
    assert order == sorted(order)
    files = render(read(study))
    for form in ("table.md", "table.tex", "trials.csv"):
        assert "Smoke run: ignore the numbers." in files[form].decode(), form


@pytest.mark.parametrize(("tokens", "over"), [(20_480, "Smoke run: ignore the numbers."), (0, "")])
def test_the_figure_of_a_smoke_run_says_so_too(
    tokens: int, over: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = StudyFolder(tmp_path)
    recipe = dataclasses.replace(RECIPE, tokens=tokens or RECIPE.tokens)
    for architecture in ladder([2, 4]):
        study.add(architecture, recipe=recipe)
    titles = []

    def saved(figure: Figure, form: str, dpi: int = 0) -> bytes:
        titles.append(figure.get_suptitle())
        return b""

    monkeypatch.setattr(figures, "_saved", saved)
    render(read(study))
    assert titles == [over, over]  # PNG and PDF


def test_what_a_result_is_worth_comes_before_the_answer(tmp_path: Path) -> None:
    done = read(default_study(tmp_path))
    opening = "Trained on 1,024,000 tokens (1 per parameter), scored on 131,072 held-out"
    assert text_of(done).index(opening) < text_of(done).index("At 1.0M")
    assert "Smoke run" not in text_of(done)


def with_windows(root: Path, kept: Sequence[int]) -> Study:
    """A study of two depths, four seeds, whose runs of these depths have kept windows that differ
    between depths, much more than seeds do."""
    study, architectures = StudyFolder(root), ladder([2, 4])
    study.facts["baseline"] = architecture_id(architectures[0])
    for place, architecture in enumerate(architectures):
        windows = [1.5 + place * 0.2 * (-1) ** i for i in range(64)]
        for seed in range(4):
            bpb = 1.5 + 0.01 * place + 0.001 * ((seed * (place + 1)) % 3)
            own = windows if architecture.num_blocks in kept else ()
            study.add(architecture, seed, "replicate", bpb=bpb, windows=own)
    return read(study)


def test_verdicts_hold_the_choice_of_held_out_windows(tmp_path: Path) -> None:
    known, unknown = with_windows(tmp_path / "a", [2, 4]), with_windows(tmp_path / "b", [4])
    wide, narrow = weigh(known), weigh(unknown)
    error = 0.2 / math.sqrt(63)
    assert wide.evaluation is not None
    assert wide.evaluation.largest == pytest.approx(error)
    assert (wide.arms.diff_high - wide.arms.diff_low).max() > 2 * 1.96 * error
    assert list(wide.arms.verdict) == ["baseline", "unresolved"]
    assert list(narrow.arms.verdict) == ["baseline", "worse"]
    assert (len(wide.level), len(narrow.level)) == (2, 1)
    assert wide.arms.p_best.min() > 0.2, "on other text the other one may be the best"
    assert narrow.arms.p_best.min() < 0.01
    assert wide.arms.regret.min() > 10 * narrow.arms.regret.min()
    said = (
        "the choice of 64 windows is in the intervals; by itself it gives a difference a standard"
    )
    assert said in text_of(known)
    assert f"evaluation: {said}" in tables.document(known, wide)
    assert "did not keep what each window came to" in text_of(unknown)
    assert "whose choice adds about 0.0252 bits per byte" in text_of(known)


def test_passes_and_the_error_of_held_out_text_follow_from_the_record(tmp_path: Path) -> None:
    done = read(default_study(tmp_path))
    record = done.records[done.finished.key.iloc[0]]
    known = dataclasses.replace(record, data={"train_tokens": 256_000, "validation_tokens": 16_384})
    worth = Worth.of(done.finished, known, done.metric)
    assert (worth.passes, worth.held_out) == (4, 16_384)
    assert worth.held_out_error == pytest.approx(2 * 0.0016)
    assert "4 passes over the text" in worth.in_words()[0]
    assert dataclasses.replace(worth, metric="val_loss").held_out_error is None


def test_the_answer_has_the_ffn_ratio_as_built_and_the_legend_its_target(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)
    shapes = ladder([4], ffn_ratio=2.0) + ladder([4], ffn_ratio=4.0)
    for target, shape in zip((2.0, 4.0), shapes, strict=True):
        study.add(shape, params={"num_blocks": 4, "ffn_ratio": target})
    done = read(study)
    arms = weigh(done).arms
    assert sorted(arms.series) == ["FFN ratio about 2", "FFN ratio about 4"]
    for arm, shape in ((architecture_id(shape), shape) for shape in shapes):
        (label,) = arms.label[arms.arm == arm]
        assert label.endswith(f" wide, FFN ratio {shape.intermediate_size / shape.hidden_size:.2f}")


def test_one_layer_is_one_layer(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)
    study.add(ladder([1])[0], bpb=1.0)
    assert "1 layer × 256 wide" in said(read(study))


@pytest.mark.parametrize(
    ("sentence", "kept"),
    [
        ("best is 1 layer × 256 wide (", "1 layer × 256 wide"),
        ("; depths 2 and 3 are not", "depths 2 and 3"),
        ("seeds 1, 2 and 3, which", "1, 2 and 3"),
        ("depths 3 to 6 are", "depths 3 to 6"),
        ("(1.703 bits per byte); it", "1.703 bits per byte"),
        ("At 1.0M parameters, best", "1.0M parameters"),
    ],
)
def test_no_line_breaks_within_a_span_or_a_number_and_its_unit(sentence: str, kept: str) -> None:
    assert kept.replace(" ", "\u00a0") in unbroken(sentence)


def test_nothing_kept_together_is_longer_than_a_line_of_a_phone() -> None:
    depths = "depths 2, 3, 4, 5, 7, 9, 13, 22, 39 and 50 are not significantly different"
    sized = "best is 22 layers × 1024 wide, elementwise output gate (1.703 bits per byte), somewhat"
    for sentence in (depths, sized):
        assert max(map(len, unbroken(sentence).split(" "))) <= len("22 layers × 1024 wide,")


def test_which_axis_matters_is_shown_where_runs_and_seeds_support_it(tmp_path: Path) -> None:
    shares = {"num_blocks": 0.7, "heads_per_kv": 0.3}
    few = read(default_study(tmp_path / "few", importance=shares))
    assert "9 architectures cannot tell 2 axes apart from noise; it takes 20" in text_of(few)
    assert "70%" not in text_of(few)
    alone = read(default_study(tmp_path / "alone", importance={"num_blocks": 1.0}))
    assert "Which axis matters" not in text_of(alone)
    study = StudyFolder(tmp_path / "many", importance=shares)
    for architecture in ladder(range(2, 22)):
        study.add(architecture)
    assert "further seeds would tell how much of it is noise" in text_of(read(study))
    for architecture in ladder([2, 4, 6]):
        for seed in (1, 2, 3):
            study.add(architecture, seed=seed, role="replicate")
    found = page.importance(read(study), weigh(read(study)))
    assert found is not None
    assert found.shares == [("num_blocks", 0.7), ("heads_per_kv", 0.3)]
    assert re.search(r"Seeds alone make \d% of that variance", found.note)
    assert "no intervals of these shares" in found.note
    study.facts["importance_intervals"] = {"num_blocks": [0.5, 0.9], "heads_per_kv": [0.1, 0.5]}
    text = text_of(read(study))
    assert "70% (50 to 90)" in text
    assert "95% intervals, from samples of these architectures" in text


def test_the_title_says_what_is_varied(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path, space={"name": "tying"})
    for tied in (True, False):
        (architecture,) = ladder([4], tie_word_embeddings=tied)
        study.add(architecture, params={"num_blocks": 4, "tie_word_embeddings": tied})
    assert page.title(read(study)) == "depth and tying at 1.0M parameters"
    assert page.title(read(default_study(tmp_path / "b"))).startswith("depth against width at")


def test_the_page_says_what_shapes_keep_to(tmp_path: Path) -> None:
    space = {"name": "depth_width", "axes": {}, "constraints": {"intermediate_size": ["%8", "<=9"]}}
    files = render(read(default_study(tmp_path, space=space)))
    assert b"keeping to intermediate_size %8, &lt;=9" in files["report.html"]


# Every state of a study has a page.


def test_a_study_without_a_finished_trial_has_a_page_that_says_so(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path, finished=False)
    study.add_unstarted("RUNNING")
    study.add_unstarted("WAITING")
    done = read(study)
    files = render(done)
    assert "No trial has finished" in files["report.html"].decode()
    assert said(done).endswith("(1 running and 1 waiting).")
    assert files["table.md"].startswith(b"No finished trial")
    assert len(files["depth_vs_width.png"]) > 1000


def test_a_study_without_any_trial_has_a_page(tmp_path: Path) -> None:
    assert "None yet." in render(read(StudyFolder(tmp_path)))["report.html"].decode()


def test_an_unfinished_study_says_that_it_is_not_finished(tmp_path: Path) -> None:
    study = default_study(tmp_path, finished=False)
    study.add_unstarted("RUNNING")
    done = read(study)
    assert "not finished" in said(done)
    assert "seeds 1, 2 and 3" in page.html(done, page.Findings.of(done))
    assert "exploring: 0; further: 1, 2, 3" in page.html(done, page.Findings.of(done))


def test_a_run_in_progress_shows_its_architecture_and_the_curve_so_far(tmp_path: Path) -> None:
    study = default_study(tmp_path, finished=False)
    key = study.add(ladder([10])[0], state="RUNNING")
    (study.runs / key / "record.json").unlink()
    done = read(study)
    running = done.trials.iloc[-1]
    assert (running.status, running.num_hidden_layers) == ("running", 10)
    assert len(done.curves[key]) > 0
    assert done.missing == []


def test_failed_and_diverged_trials_stand_on_the_page_with_their_reasons(tmp_path: Path) -> None:
    study = default_study(tmp_path)
    (architecture,) = ladder([10])
    study.add(architecture, status="diverged", state="FAIL", reason="loss was nan at step 8")
    study.add(architecture, seed=1, status="failed", state="FAIL", reason="no memory <left>")
    study.add_unstarted("FAIL", reason="the worker was lost")
    done = read(study)
    text = page.html(done, page.Findings.of(done))
    assert "trial 21, diverged: loss was nan at step 8" in text
    assert "trial 22, failed: no memory &lt;left&gt;" in text
    assert "trial 23, failed: the worker was lost" in text
    assert "21 finished, 1 diverged and 2 failed" in text
    assert "1 architecture failed or diverged and has no result." in said(done)


def test_the_answer_of_single_runs_says_how_many_architectures_failed(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)
    first, second, third, fourth = ladder([2, 4, 6, 9])
    for architecture in (first, second):
        study.add(architecture)
    assert "is lowest of 2 architectures, with" in said(read(study))
    for architecture in (third, fourth):
        study.add(architecture, status="failed", state="FAIL", reason="no memory left")
    assert "is lowest of the 2 architectures that finished, with" in said(read(study))
    assert "2 architectures failed and have no result." in said(read(study))
    study.add(third, state="RUNNING", status="running")  # another attempt
    assert "1 architecture failed and has no result." in said(read(study))


def test_a_corrupt_record_is_missing_by_name_and_its_trial_stays_in_the_table(
    tmp_path: Path,
) -> None:
    study = default_study(tmp_path)
    key = study.trials[3]["key"]
    (study.runs / key / "record.json").write_text('{"key": ')
    done = read(study)
    assert len(done.trials) == 21
    assert done.trials.status[3] == "missing"
    assert re.search(
        rf"run {key}, missing: .*record.json must hold", page.html(done, page.Findings.of(done))
    )


def test_a_finished_trial_without_a_record_is_missing(tmp_path: Path) -> None:
    study = default_study(tmp_path)
    (study.runs / study.trials[0]["key"] / "record.json").unlink()
    ((name, reason),) = read(study).missing
    assert name == study.trials[0]["key"]
    assert "is not there" in reason
    first, second = answer(read(study), weigh(read(study)))[:2]
    assert first.startswith("1 of 21 finished runs is missing here: ")
    assert first.endswith("record.json is not there; the study's command does the run again.")
    assert re.match(r"At 1\.0M parameters, best is \d+ layers? × \d+ wide", second)


def test_a_run_whose_part_has_changed_is_not_said_to_be_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = default_study(tmp_path)
    key, whole = study.trials[0]["key"], read_record

    def changed(folder: Path, *given: Any) -> Record | None:
        if folder.name == key:
            raise UnknownParts("it needs the part gate as it was: its source has changed")
        return whole(folder, *given)

    monkeypatch.setattr("reports.read.study.read_record", changed)
    first = answer(read(study), weigh(read(study)))[0]
    assert first.endswith("gate as it was: its source has changed; restore its file.")


def test_a_torn_last_line_of_metrics_is_ignored(tmp_path: Path) -> None:
    study = default_study(tmp_path)
    key = study.trials[0]["key"]
    whole = len(read(study).curves[key])
    with (study.runs / key / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1001, "tok')
    assert len(read(study).curves[key]) == whole


def test_without_bytes_the_metric_is_the_loss(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path, metric="val_loss")
    for architecture in ladder([2, 4]):
        for seed in (0, 1, 2):
            study.add(architecture, seed=seed, bytes_known=False)
    done = read(study)
    assert "nats per token" in said(done)
    assert "val bpb" not in render(done)["report.html"].decode()


def test_other_axes_become_series_of_their_own(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)
    for tied in (True, False):
        for architecture in ladder([2, 4, 8], tie_word_embeddings=tied):
            params = {"num_blocks": architecture.num_blocks, "tie_word_embeddings": tied}
            study.add(architecture, params=params)
    done = read(study)
    evidence = weigh(done)
    assert [name for name, _ in depth_figure.series_groups(evidence.arms)] == ["tied", "untied"]
    names = [
        t["name"] for t in depth_figure.depth_vs_width(done, evidence)["data"] if t["showlegend"]
    ]
    assert names == ["tied", "untied"]
    assert "other axes" in tables.markdown(done, evidence)


def test_an_axis_that_is_on_or_off_reads_as_one(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)
    for on, architecture in zip((True, False), ladder([2, 4]), strict=True):
        study.add(architecture, params={"num_blocks": architecture.num_blocks, "layer_scale": on})
    assert sorted(weigh(read(study)).arms.series) == ["layer scale", "no layer scale"]


def test_more_levels_than_colours_are_drawn_by_the_first_axes_alone() -> None:
    sharing, key_values = ("unshared", "cycle × 2"), (1, 2, 3, 4)
    arms = pd.DataFrame({"series": [f"{s} · kv {k}" for s in sharing for k in key_values]})
    assert [n for n, _ in depth_figure.series_groups(arms)] == ["cycle × 2", "unshared"]


# The files.


@pytest.mark.slow
def test_rebuilding_gives_the_same_bytes_without_torch_or_optuna(tmp_path: Path) -> None:
    study = default_study(tmp_path)
    names = "report.html depth_vs_width.png depth_vs_width.pdf trials.csv table.md table.tex"
    first = run_reports(tmp_path, "-m", "reports", f"study={study.name}", PYTHONHASHSEED="1")
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[-1] == f"report: outputs/{study.name}/report.html"
    before = {name: (study.folder / name).read_bytes() for name in names.split()}
    check = (
        "import runpy, sys; sys.argv = ['reports', 'study=depth_1m'];"
        "runpy.run_module('reports', run_name='__main__', alter_sys=True);"
        "assert not {'torch', 'optuna'} & set(sys.modules)"
    )
    second = run_reports(tmp_path, "-c", check, PYTHONHASHSEED="2", TZ="Asia/Tokyo")
    assert second.returncode == 0, second.stderr
    assert {name: (study.folder / name).read_bytes() for name in before} == before
    assert {path.name for path in study.folder.iterdir()} == {"study.json", *before}


def test_an_unknown_study_is_one_line_that_names_the_others(tmp_path: Path) -> None:
    default_study(tmp_path)
    ended = run_reports(tmp_path, "-m", "reports", "study=dpeth_1m")
    assert ended.returncode == 2
    assert ended.stderr == (
        "error: study must name a folder of outputs with a study.json, but got 'dpeth_1m'; "
        "choose one of depth_1m; did you mean depth_1m?\n"
    )


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"study": ', "cannot be read"),
        ("[]", "holds a list"),
        ("{}", "lacks study"),
        (json.dumps(WHOLE | {"trials": [{}]}), "has a trial without a number"),
        (json.dumps(WHOLE | {"budget": 1000000}), "budget has no kind or value"),
        (json.dumps(WHOLE | {"budget": {"kind": "weights", "value": 1}}), "unknown kind"),
    ],
)
def test_a_corrupt_study_is_named(tmp_path: Path, text: str, what: str) -> None:
    study = default_study(tmp_path)
    (study.folder / "study.json").write_text(text)
    with pytest.raises(ValueError, match=rf"study\.json must describe a study, but .*{what}"):
        read_study(study.name, tmp_path / "outputs")


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(OSError, match=r"report\.html"):
        write_atomically(tmp_path / "report.html", b"page")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_the_csv_holds_every_trial_and_every_number_as_recorded(tmp_path: Path) -> None:
    study = default_study(tmp_path)
    rows = list(csv.DictReader(io.StringIO(tables.trials_csv(read(study)))))
    assert len(rows) == 21
    for row, trial in zip(rows, study.trials, strict=True):
        record = read_record(study.runs / trial["key"])
        assert record is not None
        assert float(row["val_bpb"]) == record.readings[-1].val_bpb
        assert row["parameters"] == str(record.cost.parameters)
        assert row["hidden_size"] == str(record.run.architecture.hidden_size)


def test_the_markdown_table_is_whole(tmp_path: Path) -> None:
    done = read(default_study(tmp_path))
    lines = tables.markdown(done, weigh(done)).splitlines()
    assert len(lines) == 2 + 9
    assert len({line.count("|") for line in lines}) == 1
    assert sum("baseline" in line for line in lines) == 1


def test_means_that_are_not_over_the_compared_seeds_are_marked_in_every_form(
    tmp_path: Path,
) -> None:
    done = read(default_study(tmp_path))
    evidence = weigh(done)
    few = int((~evidence.arms.replicated).sum())
    assert 0 < few < len(evidence.arms)
    columns, rows = tables.arm_rows(done, evidence)
    names = [column.heading for column in columns]
    mean, n = names.index("mean"), names.index("n")
    for row in rows:
        assert row[mean].text.endswith("†") == (row[n].text == "–")
    files = render(done, columns=["layers", "mean", "verdict"])
    for form in (files["table.md"].decode(), text_of(done)):
        assert "†: too few seeds to be compared." in form
        assert len(re.findall(r"\d\.\d{4}†", form)) >= few
    assert '<p class="note">†: too few seeds' in files["report.html"].decode()
    tex = files["table.tex"].decode()
    assert len(re.findall(r"\d\.\d{4}\$\\dagger\$ &", tex)) == few
    assert "$\\dagger$: too few seeds" in tex
    assert "too few seeds" not in render(done, columns=["layers", "n"])["table.md"].decode()


def test_means_of_single_runs_need_no_mark_where_there_are_no_others(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)
    for architecture in ladder():
        study.add(architecture)
    assert "†" not in render(read(study))["table.md"].decode()


def test_the_latex_table_of_a_study_has_what_its_columns_mean(tmp_path: Path) -> None:
    files = render(read(default_study(tmp_path)), columns=["layers", "mean", "verdict"])
    tex = files["table.tex"].decode()
    assert "\\textbf{verdict}: unresolved if the interval contains zero." in tex
    assert "\\textbf{MDD}" not in tex
    assert "% metric: " in tex


def test_the_latex_table_is_balanced_and_escaped(tmp_path: Path) -> None:
    done = read(default_study(tmp_path))
    text = tables.latex(done, weigh(done))
    body = text[text.index("\\midrule") : text.index("\\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    columns = re.search(r"\\begin{tabular}{([lr]+)}", text)
    assert columns is not None
    assert {row.count("&") for row in rows} == {len(columns[1]) - 1}
    assert text.count("\\begin{") == text.count("\\end{") == 3
    assert "\\label{tab:depth-1m}" in text
    assert text.isascii()


def test_a_table_says_in_every_form_what_its_numbers_are(tmp_path: Path) -> None:
    files = render(read(default_study(tmp_path)))
    known = (
        *("val_bpb", "lower is better", "embedded, fingerprint 5f0c9", "1,024,000 per run"),
        *("python -m search study=depth_1m budget=1m", "0123abc"),
    )
    tex = files["table.tex"].decode().replace("\\_", "_")
    body = html.unescape(files["report.html"].decode().split("<main>")[1])
    for text in (files["table.md"].decode(), tex, body):
        assert [words for words in known if words not in text] == []
    rows = pd.read_csv(io.BytesIO(files["trials.csv"]))
    assert set(rows.about_command) == {"python -m search study=depth_1m budget=1m"}
    assert set(rows.about_data) == {"embedded, fingerprint 5f0c9"}
    assert set(rows.about_direction) == {"lower is better"}


def test_the_verdict_is_beside_the_arm_and_the_best_is_bold(tmp_path: Path) -> None:
    done = read(default_study(tmp_path))
    evidence = weigh(done)
    columns, rows = tables.arm_rows(done, evidence)
    assert [column.heading for column in columns[:3]] == ["layers", "width", "verdict"]
    assert evidence.best is not None
    best = str(evidence.arm(evidence.best).depth)
    assert [row[0].text for row in rows if row[0].strong] == [best]
    assert f"**{best}**" in tables.markdown(done, evidence)
    assert f"\\textbf{{{best}}}" in tables.latex(done, evidence)
    verdicts = dict.fromkeys(evidence.arms.verdict.dropna())
    assert all(
        f"{v}: " in tables.differences(evidence).lower() for v in verdicts if v != "baseline"
    )


def test_columns_are_chosen_by_heading_or_name_and_an_unknown_one_is_named(tmp_path: Path) -> None:
    study = default_study(tmp_path)
    files = render(read(study), columns=["layers", "value", "difference", "verdict"])
    assert files["table.md"].decode().splitlines()[2] == "| layers | mean | difference | verdict |"
    assert b"\\begin{tabular}{rrrl}" in files["table.tex"]
    given = ("-m", "reports", "study=depth_1m")
    assert "columns" not in run_reports(tmp_path, *given).stdout
    both = "outputs/depth_1m/table.md and outputs/depth_1m/table.tex"
    some = run_reports(tmp_path, *given, "columns=[layers,adj. p]")
    assert some.stdout.endswith(f"with these columns: {both}\n")
    whole = run_reports(tmp_path, *given)
    again = "'columns=[layers,adj. p]' gives those that they had"
    assert whole.stdout.endswith(f"with all columns again: {both}; {again}\n")
    assert "columns" not in run_reports(tmp_path, *given).stdout, "said once"
    assert "Trust in the proxy" not in whole.stdout, "not measured, as the page says"
    ended = run_reports(tmp_path, *given, "columns=[layers,maen]")
    assert ended.returncode == 2
    known = "error: columns must be among layers (depth), width, verdict, mean (value), "
    assert ended.stderr.startswith(known)
    assert ended.stderr.endswith("but got 'maen'; did you mean mean?\n")
    ended = run_reports(tmp_path, "-m", "reports", "serv")
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "got 'serv'; did you mean serve?" in ended.stderr
    without = run_reports(tmp_path, "-m", "reports", "table=power", "columns=[arm]")
    words = "columns must go with a table of arms, but power has none"
    assert (without.returncode, without.stderr) == (2, f"error: {words}\n")


def test_a_study_shows_what_architectures_cost_on_a_device_and_takes_costs_as_columns(
    tmp_path: Path,
) -> None:
    shared = default_study(tmp_path)
    device = Measure("decode_ms@iphone_13")
    shared.facts["objectives"] = [Measure("val_bpb").facts()]
    of_mine = {"name": "mine", "title": "Mine", "unit": "s", "direction": "minimize"}
    shared.facts["columns"] = [device.facts(), of_mine]
    for trial in shared.trials:
        record = usable_record(shared.runs / trial["key"])
        assert record is not None
        trial["values"] = {"val_bpb": trial["value"], device.short: device.of(record)}
        trial["values"]["mine"] = 10.0 * trial["seed"]
    shared.write()
    done = read(shared)
    expected = [device.of(done.records[key]) for key in done.trials.key[:9]]
    texts = [f"{each:.4g}" for each in expected if each is not None]
    files = render(done)
    markdown = files["table.md"].decode()
    header = next(line for line in markdown.splitlines() if line.startswith("| layers"))
    assert "| decode ms@iphone 13 | mine |" in header
    assert all(f"| {text} |" in markdown for text in texts)
    for form in (files["table.tex"].decode(), files["report.html"].decode()):
        assert all(form.count(text) for text in texts)
    own = files["report.html"].decode().split("<h2>Architectures</h2>")[1].split("</table>")[0]
    assert "decode ms@iphone 13" in own
    assert "KV B/token" not in own  # a page has it under Trials; a table where it is asked for
    chosen = render(done, columns=["layers", "decode_ms@iphone_13", "mine", "heads", "KV B/token"])
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in chosen["table.md"].decode().splitlines()
        if line.startswith("|")
    ]
    assert rows[0] == ["layers", "decode ms@iphone 13", "mine", "heads", "KV B/token"]
    by_depth = {row[0].strip("*"): row for row in rows[2:]}
    first = done.trials.iloc[3]  # an architecture with further seeds, whose mean is over these
    kv = f"{first.kv_bytes_per_token:,.0f}"
    heads = f"{first.num_attention_heads}/{first.num_key_value_heads}"
    assert by_depth[str(first.num_hidden_layers)][1:] == [texts[3], "20", heads, kv]


@given(st.text(alphabet=st.characters(codec="ascii", exclude_categories=["Cc"])))
def test_no_special_letter_reaches_latex_unescaped(text: str) -> None:
    plain = re.sub(
        r"\\text(backslash|bar)\{\}|\\textascii(tilde|circum)\{\}|\$[<>]\$|\\[&%$#_{}]",
        "",
        tables.escape(text),
    )
    assert not set(plain) & set("\\&%$#_{}~^<>|")


def test_figures_are_what_plotly_takes(tmp_path: Path) -> None:
    done = read(default_study(tmp_path))
    for name, figure in page.page_figures(done, page.Findings.of(done)).items():
        painted = json.loads(re.sub(r"var\(.*?\)", "white", json.dumps(figure)))
        assert go.Figure(painted).data, name


def test_long_curves_are_shortened_and_the_page_stays_small(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)
    for architecture in ladder():
        study.add(architecture, points=1000)
    done = read(study)
    drawn = curves.learning_curves(done, "train_loss")
    assert drawn is not None
    assert {len(trace["x"]) for trace in drawn["data"]} == {200}
    text = page.html(done, page.Findings.of(done))
    assert len(text) - len(packed_plotly()) < 0.13e6, "with 0.5 of plotly; 1.5 MB are the limit"
    assert figures_of(text)["train"] == drawn


def test_plotly_is_the_basic_bundle_where_it_was_brought(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (version,) = re.findall(r"plotly.js (v[\d.]+)", get_plotlyjs()[:200])
    packed_plotly.cache_clear()
    with monkeypatch.context() as without:
        without.setattr(show_html, "BASIC", tmp_path / "none")
        assert gzip.decompress(base64.b64decode(packed_plotly())) == get_plotlyjs().encode()
    packed_plotly.cache_clear()
    if not show_html.BASIC.is_file():
        pytest.skip("npm has not brought it: make test")
    head = gzip.decompress(base64.b64decode(packed_plotly()))[:200].decode()
    assert f"plotly.js (basic - minified) {version}" in head


def test_many_curves_have_fewer_points_each() -> None:
    assert [curves.points_each(n) for n in (0, 1, 100, 200, 400, 10_000)] == [
        *(200, 200, 200, 100, 50, 50)
    ]


def test_smoothing_keeps_ends_and_level_and_takes_noise_away() -> None:
    rng = np.random.default_rng(0)
    line = [(float(t), 3.0 - 0.01 * t) for t in range(200)]
    noisy = [
        (t, value + noise) for (t, value), noise in zip(line, rng.normal(size=200), strict=True)
    ]
    assert np.allclose(curves.smoothed(line), line), "a straight line stays"
    assert curves.smoothed(noisy)[0] == pytest.approx(noisy[0])
    assert curves.smoothed(noisy)[-1] == pytest.approx(noisy[-1])
    left = [np.std(np.subtract(found, line)[:, 1]) for found in (noisy, curves.smoothed(noisy))]
    assert left[1] < left[0] / 2


def test_a_single_evaluation_is_no_panel_of_curves(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)
    for architecture in ladder([2, 4]):
        key = study.add(architecture)
        metrics = study.runs / key / "metrics.jsonl"
        lines = metrics.read_text().splitlines(keepends=True)
        evaluations = [line for line in lines if "val_loss" in line]
        metrics.write_text("".join(li for li in lines if li not in evaluations[:-1]))
    done = read(study)
    assert set(page.page_figures(done, page.Findings.of(done))) == {"depth", "train"}
    assert "The vertical axes differ" not in text_of(done)
    both = read(default_study(tmp_path / "several"))
    axes = "The vertical axes differ: nats per token first, then bits per byte."
    assert axes in text_of(both)


def test_trust_that_is_not_known_comes_late_and_says_what_it_would_take(tmp_path: Path) -> None:
    text = text_of(read(default_study(tmp_path)))
    assert text.index("Trust in the proxy") > text.index("Trials\n")
    assert "That trains 36 runs of 2,048,000 tokens: about" in text


def test_every_figure_has_a_text_and_every_row_its_architecture(tmp_path: Path) -> None:
    done = read(default_study(tmp_path))
    evidence = weigh(done)
    text = page.html(done, page.Findings.of(done))
    said = re.findall(r'class="plot[^"]*" id="(\w+)" role="group" aria-label="([^"]*)"', text)
    assert [name for name, _ in said] == ["depth", "train", "validation"]
    assert all(len(words) > 40 for _, words in said)
    assert len(re.findall("<tr data-arm=", text)) == len(evidence.arms) + len(done.trials)
    drawn = page.page_figures(done, page.Findings.of(done))
    assert {trace["meta"]["arm"] for trace in drawn["train"]["data"]} == set(evidence.arms.arm)


def test_the_picture_of_an_architecture_is_its_layer_map(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)
    (plain,) = ladder([3])
    (shared,) = ladder([3], sharing="immediate", repeats=2)
    for architecture in (plain, shared):
        study.add(architecture, params={"num_blocks": 3})
    done = read(study)
    found = pictures(done, weigh(done))
    for architecture in (plain, shared):
        layers = found[architecture_id(architecture)]["layers"]
        assert [tuple(pair) for pair in layers] == list(architecture.layer_map)
    assert "3 attention and 3 FFN blocks for 6 layers" in str(found[architecture_id(shared)])


def test_no_text_of_a_study_ends_the_script_or_becomes_markup(tmp_path: Path) -> None:
    study = default_study(tmp_path, command="</script><b>")
    study.trials[0]["params"]["</script>"] = "<i>"
    done = read(study)
    text = page.html(done, page.Findings.of(done))
    assert text.count("</script>") == text.count("<script")
    assert "<b>" not in text.split("<script", 1)[0]


def test_facts_that_are_not_known_are_not_shown(tmp_path: Path) -> None:
    made = read_study(default_study(tmp_path).name, tmp_path / "outputs")
    facts = dict(page.how_it_was_run(made))
    assert facts["Device"] == "a processor, threads 1, type cpu"
    assert "None" not in " ".join(facts.values())
