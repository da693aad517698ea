"""`ablations.looks`: how often a table was looked at, and the level that it stands at."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from table_fixtures import RECIPE, TABLE, made, make

from ablations.cells import TableWork
from ablations.config import AblationConfig
from ablations.files import TableFile
from ablations.looks import looks_of, note_look, note_unknown
from ablations.stats.calibration import extended
from ablations.stats.effects import compare
from ablations.stats.looks import Looks, levels
from ablations.stats.sequential import ALPHAS, LOOKS
from reports.__main__ import ReportsConfig
from reports.views.arms import forest, render
from reports.views.cells import judged
from reports.weigh.table import read_table
from search.config import DataConfig
from search.objectives import Targets
from search.record import Reading, Record, Run
from search.states import Status

RESULTS = Path(__file__).parents[2] / "reports" / "results"


def test_the_levels_are_those_of_seeds_auto() -> None:
    assert np.round(levels(LOOKS), 6) == pytest.approx(ALPHAS, abs=1.1e-6)
    assert levels((7,)) == pytest.approx((0.05,))


@pytest.mark.parametrize("looks", [(3, 5), (3, 8), (4, 6), (10, 14, 20)])
def test_levels_spend_what_o_brien_and_fleming_would(looks: tuple[int, ...]) -> None:
    """By scipy's multivariate normal distribution of the looks' statistics."""
    time = np.array(looks) / max(10, looks[-1])
    spent = 4 * stats.norm.sf(stats.norm.isf(0.05 / 4) / np.sqrt(time))
    ratio = np.minimum.outer(time, time) / np.maximum.outer(time, time)
    bounds = stats.norm.isf(np.array(levels(looks)) / 2)
    paths = stats.multivariate_normal(cov=np.sqrt(ratio), seed=0, maxpts=1_000_000, abseps=1e-8)
    never = paths.cdf(bounds, lower_limit=-bounds)
    assert 1 - never == pytest.approx(spent[-1], rel=2e-3, abs=2e-6)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 60), min_size=2, max_size=5, unique=True))
def test_looks_share_five_per_cent_and_none_has_more(seeds: list[int]) -> None:
    """Bonferroni's bounds: no look has more than all, and together they have what is spent."""
    looks = Looks.of(seeds, max(seeds))
    shares, time = levels(looks.seeds), max(seeds) / max(10, *seeds)
    spent = 4 * stats.norm.sf(stats.norm.isf(0.05 / 4) / np.sqrt(time))
    assert max(shares) <= spent * (1 + 1e-6) <= sum(shares) * (1 + 2e-6)
    assert looks.level == 1 - shares[-1]


def session(work: TableWork, study: optuna.Study, looks: list[int] = []) -> Any:  # noqa: B006
    """What `ablations.looks` needs of a start."""
    config = AblationConfig(table="made", looks=looks, data=DataConfig(), recipe=RECIPE)
    return SimpleNamespace(config=config, work=work, study=study, runs=list)


@pytest.fixture
def work(tmp_path: Path) -> TableWork:
    (tmp_path / "small.yaml").write_text(TABLE)
    table = TableFile.read(str(tmp_path / "small.yaml")).table("proxy", RECIPE, 300)
    return TableWork(table=replace(table, seeds=4), data_fingerprint="a")


def test_more_seeds_are_another_look_and_the_same_seeds_again_are_none(work: TableWork) -> None:
    study = optuna.create_study()
    more = replace(work, table=replace(work.table, seeds=6))
    note_unknown(session(work, study))
    for _ in range(3):  # a start that died after it was whole, and reports made anew
        note_look(session(work, study))
        assert looks_of(session(work, study)) == Looks((4,), 4)
    assert looks_of(session(more, study)) == Looks((4, 6), 6)
    assert looks_of(session(work, study)) == Looks((4,), 4), "asked for, but never whole"
    note_look(session(more, study))
    assert looks_of(session(more, study)).level == pytest.approx(1 - 0.007356, abs=1e-6)
    assert looks_of(session(work, study)) == Looks((4, 6), 4), "fewer again: the first of two"


def test_seeds_that_nobody_looked_at_are_a_first_look(work: TableWork) -> None:
    study = optuna.create_study()
    note_look(session(work, study))
    fresh = replace(work, first_seed=4, table=replace(work.table, seeds=6))
    assert looks_of(session(fresh, study)) == Looks((6,), 6)


def test_looks_that_do_not_fit_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    ended = make(tmp_path, "looks=[4,2]")
    assert (ended.returncode, ended.stdout) == (2, ""), "data are read only for what can be made"
    assert ended.stderr.startswith("error: looks must list the seeds of each arm at each look")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.yaml", "text.jsonl"]


def test_looks_of_a_study_from_before_are_not_known_but_where_stated(work: TableWork) -> None:
    study = optuna.create_study()
    old = session(work, study)
    places = list(work.places())
    old.runs = lambda: [SimpleNamespace(key=p["key"], seed=p["seed"], value=2.0) for p in places]
    note_unknown(old)
    note_unknown(old)
    more = replace(work, table=replace(work.table, seeds=6))
    found = looks_of(session(more, study))
    assert found == Looks((4, 6), 6, counted=False)
    assert "at least 2" in found.words
    stated = looks_of(session(more, study, [3, 4, 6]))
    assert stated == Looks((3, 4, 6), 6)
    note_look(session(more, study, [3, 4, 6]))
    assert looks_of(session(more, study)) == stated


def test_fewer_seeds_after_more_have_wide_intervals() -> None:
    """At a level where quadrature no longer reaches: Bonferroni's bound stands for it."""
    source, level = np.random.default_rng(0), Looks((2, 4), 2).level
    assert level > 0.99999
    frame = pd.DataFrame(
        {"arm": arm, "seed": seed, "val_bpb": source.normal()}
        for arm in "abcd"
        for seed in range(2)
    )
    at_once = compare(frame, "a", "val_bpb")
    again = compare(frame, "a", "val_bpb", level=level)
    assert (again.ci_high - again.ci_low > 10 * (at_once.ci_high - at_once.ci_low))[1:].all()
    assert set(again.verdict[1:]) == {"unresolved"}


@pytest.mark.parametrize("looks", [[6, 4], [4, 5], [0, 6], [6, 6]])
def test_looks_that_do_not_fit_are_refused(work: TableWork, looks: list[int]) -> None:
    more = replace(work, table=replace(work.table, seeds=6))
    with pytest.raises(ValueError, match="looks must list"):
        looks_of(session(more, optuna.create_study(), looks))
    with pytest.raises(ValueError, match="looks must go with"):
        ReportsConfig(study="a", looks=looks)


def recorded(run: Run) -> Record:
    shift = 0.02 if "immediate" in run.architecture.sharing else 0.0
    value = 2 + shift + np.random.default_rng(run.seed).normal() / 50
    value += np.random.default_rng(int(run.key[:8], 16)).normal() / 200
    reading = Reading(tokens=100_000, val_loss=1.0, val_bpb=value)
    return Record(run=run, status=Status.FINISHED, readings=(reading,), train_s=1.0)


def test_every_format_says_how_many_looks_there_were(work: TableWork, tmp_path: Path) -> None:
    six = replace(work, table=replace(work.table, seeds=6))
    before = made(six, Targets.of(["val_bpb"]), recorded, tmp_path)
    assert "not counted when the table was made" in render(before)["table.md"].decode()
    path = tmp_path / "outputs" / "tables" / "made" / "study.json"
    content = json.loads(path.read_text())
    content["table"]["looks"] = Looks((4, 6), 6).to_dict()
    path.write_text(json.dumps(content))
    report = read_table("made", tmp_path / "outputs", None)
    files = render(report)
    for form in ("md", "tex", "csv", "html"):
        text = files[f"table.{form}"].decode()
        assert "2, at 4 and 6 seeds" in text, form
        assert "99.26" in text, form
    assert files["forest.png"] != render(before)["forest.png"]
    assert b"Looks:" not in forest(report, "svg"), "small print on a phone, and the page has it"
    reference = compare(report.cells, "none", level=1 - levels((4, 6))[1])
    rows = report.panels[0].rows
    assert rows.ci_high.to_list() == pytest.approx(reference.ci_high.to_list(), nan_ok=True)
    assert rows.ci_high.iloc[1] > before.panels[0].rows.ci_high.iloc[1]
    with pytest.raises(ValueError, match=r"^looks must list"):
        read_table("made", tmp_path / "outputs", None, [2])
    stated = read_table("made", tmp_path / "outputs", None, [6])
    assert stated.panels[0].rows.ci_high.equals(before.panels[0].rows.ci_high)


def test_published_cells_are_judged_again_at_the_level_of_their_looks() -> None:
    path = RESULTS / "proxy_scale" / "cells.csv"
    once, twice = judged(path), judged(path, [4, 6])
    published = pd.read_csv(path.parent / "table.csv")
    for row in published[published.verdict != "baseline"].to_dict("records"):
        assert f"| {row['arm']} | {row['verdict']} | {row['mean']:.4f} |" in once
    assert "cells do not say, looks=[…] does" in once
    assert "cells do not say" not in twice
    assert "| 95% interval |" in once
    level = re.search(r"at the level of ([\d.]+%)", twice)
    assert level
    assert f"| {level[1]} interval |" in twice
    assert "| 4 layers | better |" not in twice
    assert "| 13 layers | worse | 1.6104 |" in once
    assert "| 13 layers | unresolved | 1.6104 |" in twice
    with pytest.raises(ValueError, match="give baseline=ARM"):
        judged(RESULTS / "depth_gqa_1m" / "trials.csv")
    with pytest.raises(ValueError, match="there is no"):
        judged(RESULTS / "no.csv")


def test_reading_each_look_at_five_per_cent_costs_false_verdicts() -> None:
    row = extended(tables=4000, designs=[(9, (5, 10))]).iloc[0]
    assert row["spent"] < row["each"]
    assert row["last"] < row["each"]
    assert row["spent"] <= row["told"] <= row["each"]
    assert row["spent"] < 0.05
