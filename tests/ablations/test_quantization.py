"""table=quantization: losses paired by seed, and the order of arms before and after."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from study_fixtures import environment, run

from ablations.config import AblationConfig
from ablations.measured import note_look, note_unknown
from ablations.questions.quantization import cells_of as runs_of
from ablations.stats.looks import in_percent, levels, read_looks
from reports.views.quantization import VIEW, cells_of, losses, orders, read_measured
from reports.weigh.table import read_table
from search.data.config import DataConfig
from search.recipe import Recipe
from search.runs import WEIGHTS
from space.seals import write_json


def measured(losses_of_w4: dict[str, float], spread: float = 0.001) -> list[dict[str, Any]]:
    """Three arms, five seeds: means 2.0, 2.1 and 2.2, and what 4 bits cost each."""
    draw = np.random.default_rng(0)
    runs = []
    for arm, mean in (("a", 2.0), ("b", 2.1), ("c", 2.2)):
        for seed in range(5):
            value = mean + spread * draw.standard_normal()
            lost = value + losses_of_w4[arm] + spread * draw.standard_normal()
            forms = {"fp16": {"bytes": 200, "value": value}, "w4": {"bytes": 60, "value": lost}}
            key, metric = f"{arm}{seed}", "val_bpb"
            run = {"arm": arm, "seed": seed, "key": key, "layers": 2, "metric": metric}
            runs.append(run | {"parameters": 100, "forms": forms})
    return runs


def test_a_loss_is_that_of_the_same_run_and_its_interval_scipys() -> None:
    from scipy.stats import ttest_1samp

    cells = cells_of(measured({"a": 0.05, "b": 0.05, "c": 0.05}))
    found = losses(cells)
    wide = cells.pivot(index="key", columns="form", values="value")
    for row in found.itertuples():
        own = wide[wide.index.str.startswith(row.arm)]
        apart = own["w4"] - own["fp16"]
        assert row.loss == pytest.approx(apart.mean())
        expected = ttest_1samp(apart, 0).confidence_interval()
        assert (row.ci_low, row.ci_high) == pytest.approx(tuple(expected))
    assert set(found.verdict) <= {"baseline", "unresolved"}


def test_an_order_that_survives_and_one_that_is_reversed() -> None:
    kept = orders(cells_of(measured({"a": 0.05, "b": 0.05, "c": 0.05}))).set_index("form")
    assert tuple(kept.loc["w4", ["resolved", "kept", "reversed"]]) == (3, 3, 0)
    assert kept.loc["w4", "tau"] == pytest.approx(1)
    turned = orders(cells_of(measured({"a": 0.5, "b": 0.05, "c": 0.05}))).set_index("form")
    assert tuple(turned.loc["w4", ["resolved", "kept", "reversed"]]) == (3, 1, 2)
    assert turned.loc["w4", "tau"] < 0


def test_pairs_of_equal_bytes_are_counted_apart_whatever_the_order_of_arms() -> None:
    """Arms b and c have as many bytes, and a has fewer; here the last comes first."""
    runs = measured({"a": 0.05, "b": 0.05, "c": 0.05})[::-1]
    for each in runs:
        each["forms"]["w4"]["bytes"] = {"a": 50, "b": 60, "c": 60}[each["arm"]]
    found = orders(cells_of(runs)).set_index("form")
    assert tuple(found.loc["w4", ["resolved", "level"]]) == (3, 1)
    assert tuple(found.loc["fp16", ["resolved", "level"]]) == (3, 3)


def test_an_arm_that_loses_more_is_said_to() -> None:
    found = losses(cells_of(measured({"a": 0.05, "b": 0.05, "c": 0.09}))).set_index("arm")
    assert found.verdict.to_dict() == {"a": "baseline", "b": "unresolved", "c": "worse"}


def command(folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "ablations", "table=quantization", *options],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_a_study_that_kept_its_weights_is_quantised_without_training(tmp_path: Path) -> None:
    given = ("n_trials=4", "replicates.top=1", "replicates.seeds=2", "keep=all")
    assert run(tmp_path, *given).returncode == 0
    done = command(tmp_path, "study=tiny")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "outputs" / "tables" / "quantization"
    runs = read_measured(folder)["tiny"]
    records = {
        p.parent.name: json.loads(p.read_text()) for p in tmp_path.glob("runs/*/record.json")
    }
    assert {cell["key"] for cell in runs} == set(records)
    for cell in runs:
        trained = records[cell["key"]]["readings"][-1]["val_bpb"]
        assert cell["forms"]["fp16"]["value"] == pytest.approx(trained, abs=0.01)
    assert set(pd.read_csv(folder / "table.csv").form) == {"w8a8", "w4"}
    assert "w4 (bytes within" in done.stdout
    before = (folder / "measured.json").read_bytes()
    assert command(tmp_path, "study=tiny").returncode == 0
    assert (folder / "measured.json").read_bytes() == before, "nothing is measured twice"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "study must name the search or table whose runs are quantised, but got none"),
        (["study=absent"], "study must be one of none, for there is none yet, but got 'absent'"),
    ],
)
def test_what_is_wrong_ends_it_in_one_line(tmp_path: Path, options: list[str], said: str) -> None:
    done = command(tmp_path, *options)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert said in done.stderr


def test_weights_that_were_not_kept_are_missed_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "tiny"
    folder.mkdir(parents=True)
    ended = {"seed": 0, "state": "COMPLETE", "value": 2.0}
    trials = [{**ended, "arm": arm, "key": arm} for arm in ("a", "b")]
    (folder / "study.json").write_text(json.dumps({"trials": trials}))
    for kept in ("none", "1"):
        done = command(tmp_path, "study=tiny")
        assert (done.returncode, done.stdout) == (2, "")
        assert f"{kept} of its 2 finished runs has; train it with keep=all" in done.stderr
        weights = tmp_path / "runs" / "a" / WEIGHTS
        weights.parent.mkdir(parents=True, exist_ok=True)
        weights.touch()
    assert not (tmp_path / "outputs" / "tables").exists(), "nothing is measured"


def runs_of_table(
    tmp_path: Path, trials: list[dict[str, Any]], places: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """What is quantised of a table with these trials, all of which kept their weights."""
    folder = tmp_path / "outputs" / "tables" / "small"
    folder.mkdir(parents=True)
    ended = [{"state": "COMPLETE", "value": 2.0, **trial} for trial in trials]
    (folder / "study.json").write_text(json.dumps({"trials": ended, "places": places}))
    for trial in trials:
        weights = tmp_path / "runs" / str(trial["key"]) / WEIGHTS
        weights.parent.mkdir(parents=True)
        weights.touch()
    config = AblationConfig(
        table="quantization",
        study="small",
        outputs=str(tmp_path / "outputs"),
        runs=str(tmp_path / "runs"),
        data=DataConfig(),
        recipe=Recipe(tokens=1000),
    )
    return runs_of(config)


def test_runs_that_only_chose_a_learning_rate_are_no_runs_of_a_tables_arms(tmp_path: Path) -> None:
    """They are trials of the study, and have no place in the table."""
    trials = [{"arm": "a", "seed": 1000, "key": "tried"}, {"arm": "a", "seed": 0, "key": "placed"}]
    trials.append({"arm": "b", "seed": 0, "key": "too"})
    found = runs_of_table(tmp_path, trials, [{"panel": "", **trial} for trial in trials[1:]])
    assert [(cell["arm"], cell["key"]) for cell in found] == [("a", "placed"), ("b", "too")]


def test_arms_of_the_same_name_in_two_panels_are_two_arms(tmp_path: Path) -> None:
    trials = [{"arm": "shared", "seed": 0, "key": key} for key in ("one", "two")]
    trials.append({"arm": "none", "seed": 0, "key": "both"})
    places = [
        {"panel": panel, **trial}
        for panel, own in (("cycle", "one"), ("sandwich", "two"))
        for trial in trials
        if trial["key"] in (own, "both")
    ]
    found = {cell["key"]: cell["arm"] for cell in runs_of_table(tmp_path, trials, places)}
    assert found == {"one": "cycle: shared", "two": "sandwich: shared", "both": "cycle: none"}


def measured_in(folder: Path, runs: list[dict[str, Any]], seeds: int) -> list[dict[str, Any]]:
    """The first so many seeds of runs, as `measure` leaves them."""
    kept = [each for each in runs if each["seed"] < seeds]
    write_json(folder / "measured.json", {"tiny": kept})
    return kept


def shown(folder: Path) -> str:
    """The table as it is made from what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    report = read_table("quantization", folder.parent.parent, None)
    return VIEW.show(report).files["table.md"].decode()


def test_seeds_that_are_added_are_another_look(tmp_path: Path) -> None:
    """At 3 and then 5 seeds the second look stands at its share of the 5%."""
    folder, runs = (
        tmp_path / "tables" / "quantization",
        measured({"a": 0.05, "b": 0.05, "c": 0.052}),
    )
    folder.mkdir(parents=True)
    for seeds in (3, 3, 5):
        note_unknown(folder)
        note_look(folder, "tiny", measured_in(folder, runs, seeds), [])
    known = read_looks(folder)["tiny"]
    assert (known.seeds, known.now, known.counted) == ((3, 5), 5, True)
    share = levels((3, 5))[-1]
    assert known.level == pytest.approx(1 - share)
    text = shown(folder)
    assert "Looks: 2, at 3 and 5 seeds" in text
    assert f"{in_percent(1 - share)} interval" in text
    once, twice = (losses(cells_of(runs), level) for level in (0.95, known.level))
    assert ((twice.ci_high - twice.ci_low) > 1.2 * (once.ci_high - once.ci_low)).all()


def test_the_same_seeds_again_and_other_runs_are_no_further_look(tmp_path: Path) -> None:
    runs = measured({"a": 0.05, "b": 0.05, "c": 0.05})
    note_look(tmp_path, "tiny", measured_in(tmp_path, runs, 3), [])
    first = (tmp_path / "looks.json").read_bytes()
    note_look(tmp_path, "tiny", measured_in(tmp_path, runs, 3), [])
    assert (tmp_path / "looks.json").read_bytes() == first
    others = [each | {"key": f"again {each['key']}"} for each in runs]
    note_look(tmp_path, "tiny", others, [])
    assert read_looks(tmp_path)["tiny"].seeds == (5,)


def test_what_was_measured_before_looks_were_counted_is_said_to_have_uncounted(
    tmp_path: Path,
) -> None:
    folder, runs = tmp_path / "tables" / "quantization", measured({"a": 0.05, "b": 0.05, "c": 0.05})
    folder.mkdir(parents=True)
    measured_in(folder, runs, 3)
    assert "Looks: not counted when it was measured" in shown(folder)
    note_unknown(folder)
    note_look(folder, "tiny", measured_in(folder, runs, 5), [])
    assert "at least 2, at 3 and 5 seeds; earlier ones were not counted" in shown(folder)
    note_look(folder, "tiny", measured_in(folder, runs, 5), [4, 5])
    assert read_looks(folder)["tiny"].seeds == (4, 5)
    with pytest.raises(ValueError, match="ending with the 5 of this table"):
        note_look(folder, "tiny", runs, [3, 4])
