"""Zero-shot scores in records and reports: what ranks, what is asked again, what is said."""

import importlib
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from report_fixtures import StudyFolder, ladder
from study_fixtures import open_search, records, run, with_scores, work
from table_fixtures import make

from reports.__main__ import render
from reports.read.study import read_study
from reports.weigh import scores
from search.evaluate.tasks import group
from search.record import Reading, Record
from search.runs import load_records, read_record, write_record
from space.app import CONF


def frame(effects: list[float], noise: float, seeds: int = 4, draw: int = 0) -> pd.DataFrame:
    """Values of arms, with an effect of each seed that all arms share."""
    rng = np.random.default_rng(draw)
    shared = rng.normal(0, 5, seeds)
    return pd.DataFrame(
        [
            {"arm": f"arm {i}", "seed": s, "value": e + shared[s] + noise * rng.normal()}
            for i, e in enumerate(effects)
            for s in range(seeds)
        ]
    )


@pytest.mark.parametrize("gaps", [0, 3])
def test_the_f_test_is_that_of_statsmodels(gaps: int) -> None:
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    cells = frame([0.0, 0.4, 1.0, 0.2], 0.5).drop(index=[2, 7, 9][:gaps])
    fit = ols("value ~ C(seed) + C(arm)", cells).fit()
    table = anova_lm(fit)  # sequential: the arms after the seeds
    found = scores.spreads(cells)
    assert found["p"] == pytest.approx(table.loc["C(arm)", "PR(>F)"])
    assert found["noise"] == pytest.approx(math.sqrt(fit.mse_resid))
    effects = [0.0, *(v for k, v in fit.params.items() if "arm" in str(k))]
    assert found["signal"] == pytest.approx(max(effects) - min(effects))


def test_equal_arms_are_ranked_in_five_tables_of_a_hundred() -> None:
    p = [scores.spreads(frame([0.0] * 5, 1.0, draw=draw))["p"] for draw in range(1000)]
    assert 0.03 < np.mean(np.array(p) < 0.05) < 0.07


def test_one_seed_says_nothing_of_noise() -> None:
    assert math.isnan(scores.spreads(frame([0.0, 1.0], 1.0, seeds=1))["ratio"])


def test_holm_is_that_of_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests

    p = np.random.default_rng(0).uniform(0, 0.2, 12)
    assert scores.holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert np.isnan(scores.holm(np.array([0.01, np.nan]))[1])


def scored_study(root: Path, seeds: int = 4) -> StudyFolder:
    """Three depths on several seeds; `telling` tells them apart, `chance` does not."""
    study, rng = StudyFolder(root), np.random.default_rng(0)
    for depth, arch in enumerate(ladder((2, 4, 8))):
        for seed in range(seeds):
            folder = study.runs / study.add(arch, seed=seed)
            record = read_record(folder)
            assert record is not None
            tasks = {
                "telling": {"bpb": 1.0 + depth + 0.01 * rng.normal(), "acc": 0.5 + rng.normal()},
                "chance": {"bpb": 2.0 + 0.01 * rng.normal(), "acc": 0.25},
            }
            write_record(folder, with_scores(record, tasks))
    study.write()
    return study


def test_the_report_says_which_tasks_can_rank(tmp_path: Path) -> None:
    scored_study(tmp_path)
    files = render(read_study("depth_1m", tmp_path / "outputs"))
    text = files["scores.md"].decode()
    assert "can rank the arms: telling (by bits per byte). Not shown" in text
    assert "2 layers" in text
    assert "arXiv:2508.13144" in text
    assert b"Zero-shot accuracy" in files["report.html"]
    assert b"toprule" in files["scores.tex"]
    table = pd.read_csv(io.BytesIO(files["scores.csv"]))
    assert set(table.task) == {"telling", "chance"}
    assert table.groupby(["task", "metric"]).size().eq(12).all()


def test_one_seed_ranks_nothing_and_no_score_no_table(tmp_path: Path) -> None:
    scored_study(tmp_path, seeds=1)
    files = render(read_study("depth_1m", tmp_path / "outputs"))
    assert b"that needs two seeds of two arms" in files["scores.md"]
    other = StudyFolder(tmp_path / "other")
    other.add(ladder((2,))[0])
    other.write()
    assert "scores.md" not in render(read_study("depth_1m", tmp_path / "other" / "outputs"))


def test_scores_survive_the_record_and_are_columns_of_its_frame(tmp_path: Path) -> None:
    study = scored_study(tmp_path, seeds=1)
    for folder in study.runs.iterdir():
        record = read_record(folder)
        assert record is not None
        assert Record.from_dict(record.to_dict()) == record
    table = load_records(study.runs)
    assert {"telling.bpb", "telling.acc", "chance.bpb", "val_bpb"} <= set(table)
    assert "scores" not in Reading(tokens=1, val_loss=1.0, val_bpb=None).to_dict()


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (Path(CONF) / "tasks").glob("*.yaml"))
)
def test_every_group_of_tasks_can_be_asked_in_a_study(name: str) -> None:
    for module in ("search.__main__", "ablations.__main__", "search.run"):
        importlib.import_module(module)  # which stores its schema
    with initialize_config_dir(CONF, version_base="1.3"):
        for verb in ("search", "ablations", "run"):
            more = ["architecture=mobilellm_125m"] if verb == "run" else []
            config = compose(verb, [f"evaluate={name}", *more])
            assert OmegaConf.to_container(config.evaluate.tasks) == group(name)


@pytest.mark.slow
def test_a_study_asks_its_runs_and_asks_again_without_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Minimal pairs come from the held-out text: no data are needed."""
    monkeypatch.chdir(tmp_path)
    options = ["n_trials=2", "replicates.seeds=1", f"data.path={_prose(tmp_path)}"]

    def start(*more: str) -> tuple[str, list[str]]:
        """What is said before, and the kinds of a worker's events."""
        search = open_search(tmp_path, *options, *more)
        said, events = str(search.estimate()), work(search)
        search.lock.release()
        return said, [event["event"] for event in events]

    start()
    before = records(tmp_path)
    assert all("scores" not in r["readings"][-1] for r in before.values())
    asking = ("evaluate=minimal_pairs", "evaluate.limit=8")
    said, events = start(*asking)
    assert "scored on agreement, word_order; 2 finished ones are not scored yet" in said
    assert events == ["ask"] * 4
    after = records(tmp_path)
    for key, record in after.items():
        assert record["started"] == before[key]["started"]
        found = {s["task"]: s for s in record["readings"][-1]["scores"]}
        assert set(found) == {"agreement", "word_order"}
        assert found["agreement"]["n"] == 8
        assert {"acc", "bpb", "margin"} <= set(found["agreement"]["values"])
    said, events = start(*asking)
    assert "not scored yet" not in said
    assert events == []
    for path in (tmp_path / "runs").glob("*/weights.safetensors"):
        path.unlink()
    said, events = start("evaluate=minimal_pairs", "evaluate.limit=6")
    assert "2 finished runs cannot be scored, because their weights were not kept" in said
    assert events == []
    assert records(tmp_path) == after


@pytest.mark.slow
def test_a_table_asks_its_runs_before_their_weights_are_deleted(tmp_path: Path) -> None:
    asking = ("evaluate=minimal_pairs", "evaluate.limit=8", f"data.path={_prose(tmp_path)}")
    made = make(tmp_path, *asking)
    assert made.returncode == 0, made.stderr
    assert "not scored" not in made.stdout
    assert not list((tmp_path / "runs").glob("*/weights.safetensors"))
    folder = tmp_path / "outputs" / "tables" / "small"
    table = pd.read_csv(folder / "scores.csv")
    assert set(table.task) == {"agreement", "word_order"}
    assert set(table.key) == set(records(tmp_path))
    text = (folder / "scores.md").read_text()
    assert "can rank the arms" in text
    assert "| immediate | 2 |" in text
    assert "Zero-shot margin, two blocks" in (folder / "table.html").read_text()


def _prose(folder: Path) -> Path:
    """Documents with sentences that minimal pairs can be made of."""
    subjects = {"he": "is", "they": "are", "it": "was", "we": "were", "she": "has", "you": "have"}
    places = ["in the house", "by the old river", "under a tree", "near the sea", "at the door"]
    texts: list[Any] = []
    for i in range(60):
        lines = [
            f"After day {i} {who} {verb} often seen {places[(i + k) % 5]} and {after} again."
            for k, (who, verb) in enumerate(subjects.items())
            for after in ("he said so", "so said he")
        ]
        texts.append({"text": " ".join(lines)})
    path = folder / "prose.jsonl"
    path.write_text("".join(json.dumps(text) + "\n" for text in texts))
    return path


@pytest.mark.slow
def test_missing_data_end_a_study_before_it_begins(tmp_path: Path) -> None:
    done = run(tmp_path, "evaluate=commonsense", "evaluate.package=nowhere")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "run `make eval-data`" in line
    assert not (tmp_path / "outputs").exists()
