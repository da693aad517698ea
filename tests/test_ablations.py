"""`python -m ablations`: tables from YAML, their cells, what they leave, and what is refused."""

import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from study_fixtures import TINY, environment, records, run, write_text

from ablations.__main__ import table_facts
from ablations.plan import TableWork
from ablations.table import TableFile, table_names
from reports.ablation import _panel, table_rows
from search.plan import Attempt, Cell, Step
from search.record import Recipe
from space.budget import MAX_DEVIATION
from space.cost import cost, num_norms

RECIPE = Recipe(tokens=100_000, precision="fp32")
WITHOUT = ("space", "study")
PRINTED = {
    "depth_width": [
        [163.2, 142.6, 138.1, 134.1, 132.4, 132.4, 135.0, 134.6, 134.3],
        [388.0, 381.4, 379.9, 386.7, 376.3, 373.8, 371.1, 380.3, 374.7, 376.2],
    ],
    "design_roadmap": [
        [134.1, 134.1, 135.0, 118.6, 124.6, 124.6],
        [376.8, 386.7, 380.3, 351.6, 345.3, 345.3],
    ],
}
"""Millions of parameters in tables 11 and 10 of MobileLLM (arXiv:2402.14905v2)."""

TABLE = """
caption: Are two blocks better shared?
budget: 100k
seeds: 2
proxy:
  - name: two blocks
    baseline: none
    source: nowhere
    base: {num_blocks: 2}
    arms:
      none: {sharing: none, published: 44.6}
      immediate: {sharing: immediate x2, published: 45.0}
"""


def make(folder: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    """The command, run to its end in `folder` on its small table."""
    path = folder / "text.jsonl"
    if not path.is_file():
        write_text(folder)
        (folder / "small.yaml").write_text(TABLE)
    given = {text.split("=")[0] for text in more}
    own = [x for x in TINY if x.split(".")[0].split("=")[0] not in WITHOUT]
    defaults = ["table=small.yaml", "report=true", f"data.path={path}"]
    options = [x for x in own if not x.startswith(("report", "budget"))] + defaults
    options = [x for x in options if x.split("=")[0] not in given]
    return subprocess.run(
        [sys.executable, "-m", "ablations", *options, *more],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("name", table_names())
def test_every_table_lies_on_its_budget_and_trains_distinct_runs(name: str) -> None:
    table = TableFile.read(name).table("proxy", RECIPE, 2048)
    work = TableWork(table=table, data_fingerprint="a")
    assert work.total > 0
    for panel in table.panels:
        off = {arm.name: panel.budget.deviation(arm.architecture) for arm in panel.arms}
        wrong = {arm: d for arm, d in off.items() if abs(d) > MAX_DEVIATION}
        assert set(wrong) <= ({"tied"} if name == "embedding_tying" else set())


@pytest.mark.parametrize("name", PRINTED)
def test_paper_shapes_count_as_printed_without_norms(name: str) -> None:
    table = TableFile.read(name).table("paper", RECIPE, 32000)
    for panel, printed in zip(table.panels, PRINTED[name], strict=True):
        for arm, millions in zip(panel.arms, printed, strict=True):
            arch = arm.architecture
            norms = (num_norms(arch) + 1) * arch.hidden_size
            assert (cost(arch).parameters - norms) / 1e6 == pytest.approx(millions, abs=0.051)


def test_equal_flops_means_equal_flops() -> None:
    table = TableFile.read("sharing_budgets").table("proxy", RECIPE, 2048)
    work = TableWork(table=table, data_fingerprint="a")
    panel = table.panel("equal training FLOPs")
    spent = [work.run({"panel": panel.name, "arm": arm.name}, 0).train_flops for arm in panel.arms]
    assert max(spent) / min(spent) < 1.06  # whole steps of 4096 tokens
    params = [cost(arm.architecture).parameters for arm in panel.arms]
    assert max(params) / min(params) < 1.003


def told(work: TableWork, value: "dict[str, float]", run: int) -> "list[Attempt]":
    """Trials of a study whose workers did all that `work` asked for, with an arm's own value."""
    attempts: list[Attempt] = []
    rng = np.random.default_rng(run)
    while isinstance(cell := work.next(attempts, 0), Cell):
        key = work.run(cell.params, cell.seed).key
        attempts.append(
            Attempt(
                number=len(attempts),
                state="COMPLETE",
                params=cell.params,
                key=key,
                seed=cell.seed,
                value=value.get(cell.params["arm"], 0.0) + rng.normal(0, 0.01),
                status="finished",
            )
        )
    assert cell is Step.DONE
    return attempts


def small_work(tmp_path: Path, arms: str = "") -> TableWork:
    path = tmp_path / "small.yaml"
    path.write_text(TABLE.replace("seeds: 2", "seeds: auto") + arms)
    table = TableFile.read(str(path)).table("proxy", RECIPE, 300)
    return TableWork(table=table, data_fingerprint="a", first_seed=7)


def test_seeds_are_given_as_they_are_needed(tmp_path: Path) -> None:
    work = small_work(tmp_path, "      cycle: {sharing: cycle x2}\n")
    attempts = told(work, {"immediate": -5.0}, run=1)
    runs = Counter(a.params["arm"] for a in attempts)
    assert runs == {"none": 10, "immediate": 4, "cycle": 10}
    assert {a.seed for a in attempts} == set(range(7, 17))
    after = work.after(attempts, 0)
    assert after.total == len(attempts)
    assert {p["key"] for p in after.places()} == {a.key for a in attempts}
    assert work.after([], 0).total == 3 * 4


def test_a_look_waits_for_the_runs_in_progress(tmp_path: Path) -> None:
    work = small_work(tmp_path)
    attempts = told(work, {}, run=0)[:8]
    assert isinstance(work.next(attempts, 0), Cell)
    attempts[-1] = replace(attempts[-1], state="RUNNING", value=None, status=None)
    assert work.next(attempts, 0) is Step.WAIT


@pytest.mark.slow
def test_a_table_is_made_once_and_regenerated_byte_for_byte(tmp_path: Path) -> None:
    made = make(tmp_path)
    assert made.returncode == 0, made.stderr
    folder = tmp_path / "outputs" / "tables" / "small"
    names = [f"table.{x}" for x in ("md", "tex", "csv", "html")] + ["forest.png", "forest.pdf"]
    before = {name: (folder / name).read_bytes() for name in names}
    frame = pd.read_csv(folder / "table.csv")
    assert set(" ".join(frame.runs).split()) == set(records(tmp_path))
    for key in records(tmp_path):
        assert f"{key}".encode() in before["table.html"]
    started = {key: record["started"] for key, record in records(tmp_path).items()}
    again = make(tmp_path)
    assert "4 of 4 runs done" in again.stdout
    assert {name: (folder / name).read_bytes() for name in names} == before
    more = make(tmp_path, "seeds=3")
    assert more.returncode == 0, more.stderr
    assert len(records(tmp_path)) == 6
    assert started.items() <= {k: r["started"] for k, r in records(tmp_path).items()}.items()
    other = make(tmp_path, "recipe.lr=0.004")
    assert other.returncode == 2
    assert "recipe.lr was 0.003, is 0.004" in other.stderr
    assert "called=NAME" in other.stderr


@pytest.mark.slow
def test_seeds_as_needed_end_and_are_asked_for_once(tmp_path: Path) -> None:
    made = make(tmp_path, "seeds=auto")
    assert made.returncode == 0, made.stderr
    assert "4 seeds each, up to 10" in made.stdout
    frame = pd.read_csv(tmp_path / "outputs" / "tables" / "small" / "table.csv")
    runs = frame.set_index("arm").runs.str.split().str.len()
    assert set(frame["look"]) == set(runs) <= {4, 6, 10}
    assert len(records(tmp_path)) == runs.sum()
    again = make(tmp_path, "seeds=auto")
    assert f"{runs.sum()} of {runs.sum()} runs done" in again.stdout
    assert len(records(tmp_path)) == runs.sum()


@pytest.mark.slow
def test_equal_arms_leave_a_calibration(tmp_path: Path) -> None:
    write_text(tmp_path)
    table = TABLE.split("    arms:")[0].replace("none", "a") + (
        "    arms:\n      a: {init_shift: 0}\n      b: {init_shift: 100}\n"
        "      c: {init_shift: 200}\n"
    )
    (tmp_path / "small.yaml").write_text(table)
    made = make(tmp_path)
    assert made.returncode == 0, made.stderr
    text = (tmp_path / "outputs" / "tables" / "small" / "calibration.md").read_text()
    assert "| 3 | 2 | equal |" in text
    assert re.search(r"\| verdicts \| [0-2] of 2 \|", text)


@pytest.mark.slow
def test_a_search_is_confirmed_over_fresh_seeds_and_its_report_says_so(tmp_path: Path) -> None:
    searched = run(tmp_path, "n_trials=3", "replicates.seeds=1", "report=true")
    assert searched.returncode == 0, searched.stderr
    used = set(records(tmp_path))
    made = make(tmp_path, "table=confirm", "study=tiny", "top=1", "seeds=2")
    assert made.returncode == 0, made.stderr
    fresh = {k: r for k, r in records(tmp_path).items() if k not in used}
    assert {record["seed"] for record in fresh.values()} == {1, 2}
    assert len(fresh) == 4
    page = (tmp_path / "outputs" / "tiny" / "report.html").read_text()
    assert "Confirmed over 2 fresh seeds" in page
    other = make(tmp_path, "table=confirm", "study=tiny", "recipe.lr=0.01", "called=other")
    assert other.returncode == 2
    assert "trained with another" in other.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("table=nonsense", "table must be one of"),
        ("seeds=0", "seeds must be at least 1"),
        ("seeds=many", "seeds must be a whole number or auto"),
        ("scale=large", "scale must be one of"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, given: str, words: str) -> None:
    ended = make(tmp_path, given)
    assert ended.returncode == 2
    (line,) = ended.stderr.strip().splitlines()
    assert words in line
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("baseline: none", "baseline: nothing", "the baseline of panel"),
        ("immediate x2,", "immediate x2, off_budget: false, like: none, num_blocks: 3,", "arm"),
        (
            "{sharing: immediate x2,",
            "{hidden_size: 32, num_attention_heads: 2, intermediate_size: 32,",
            "must lie within 0.15%",
        ),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(TABLE.replace(old, new))
    with pytest.raises(ValueError, match=words):
        TableFile.read(str(path)).table("proxy", RECIPE, 300)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tmp_path: Path) -> None:
    assert make(tmp_path).returncode == 0
    body = (tmp_path / "outputs" / "tables" / "small" / "table.tex").read_text()
    packages = "\\usepackage{booktabs,graphicx}"
    (tmp_path / "all.tex").write_text(
        f"\\documentclass{{article}}{packages}\\begin{{document}}{body}\\end{{document}}"
    )
    command = ["pdflatex", "-interaction=batchmode", "all.tex"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0


def test_a_table_with_seeds_as_needed_shows_the_look_of_each_verdict(tmp_path: Path) -> None:
    work = small_work(tmp_path, "      cycle: {sharing: cycle x2}\n")
    attempts = told(work, {"immediate": -5.0}, run=1)
    values = {a.key: a.value for a in attempts}
    cells = pd.DataFrame(work.after(attempts, 0).places())
    cells = cells.assign(val_bpb=cells.key.map(values), status="finished", reason=None)
    facts = table_facts(work.table)
    panel = _panel(facts["panels"][0], cells, "val_bpb", facts["auto"])
    rows = panel.rows.set_index("arm")
    assert rows["look"].to_dict() == {"none": 10, "immediate": 4, "cycle": 10}
    assert rows.verdict.to_dict() == {
        "none": "baseline",
        "immediate": "better",
        "cycle": "unresolved",
    }
    assert rows.of.to_dict() == {"none": "10", "immediate": "4", "cycle": "10"}
    headings = [column.heading for column in table_rows(panel)[0]]
    assert "look" in headings
    assert "outliers" not in headings
    half = cells.assign(status=["finished"] * 3 + ["not run"] * (len(cells) - 3))
    early = _panel(facts["panels"][0], half, "val_bpb", auto=True)
    assert set(early.rows.verdict) == {"baseline", "unresolved"}
