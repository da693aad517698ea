"""Objectives of tables: what arms are compared by, in which direction, and what is shown."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from report_fixtures import default_study
from study_fixtures import environment
from table_fixtures import RECIPE, TABLE, made, make

from ablations.__main__ import check
from ablations.ask import ask, targets_of
from ablations.cells import TableWork
from ablations.config import AblationConfig
from ablations.files import TableFile
from ablations.stats.bracket import LrSearch
from ablations.stats.effects import compare
from reports.views.arms import csv, forest, html, latex, markdown, table_rows
from reports.weigh.table import Report
from search.objectives import Targets
from search.record import Reading, Record, Run
from search.states import Status
from search.study.plan import Attempt, Cell
from space.app import CONF
from space.cost import cost

GAIN = '''
"""Bits saved per byte: more is better."""

from search.objectives import Objective


class Gain(Objective):
    title, unit, direction = "Gain over eight bits", "bits saved", "maximize"

    def value(self, record):
        return 8 - record.readings[-1].val_bpb


OBJECTIVE = Gain()
'''
NOISE = (0.0, 0.004, -0.003, 0.001)


def record_of(run: Run) -> Record:
    """Of a deeper run a smaller loss, by far more than seeds vary."""
    loss = 4.0 - 0.1 * run.architecture.num_layers + NOISE[run.seed % 4]
    reading = Reading(tokens=run.recipe.tokens, val_loss=loss, val_bpb=loss)
    seconds = 2.0 + run.seed + 10 * run.architecture.num_layers
    return Record(run=run, status=Status.FINISHED, readings=(reading,), train_s=seconds)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gain.py").write_text(GAIN)
    (tmp_path / "small.yaml").write_text(TABLE.replace("seeds: 2", "seeds: 4"))
    return tmp_path


def shown(*objectives: str, limits: tuple[str, ...] = (), auto: bool = False) -> Report:
    file = TableFile.read("small.yaml")
    table = file.table("proxy", RECIPE, 300, seeds="auto" if auto else None)
    targets = Targets.of(objectives, [], limits).by_first()
    work = TableWork(table=table, data_fingerprint="a").keeping_to(targets)
    return made(work, targets, record_of, Path.cwd())


@pytest.mark.parametrize("auto", [False, True])
def test_where_more_is_better_a_verdict_turns_and_the_numbers_with_it(
    here: Path, auto: bool
) -> None:
    (less,), (more,) = shown("val_bpb", auto=auto).panels, shown("gain.py", auto=auto).panels
    loss, gain = less.rows.set_index("arm"), more.rows.set_index("arm")
    assert loss.verdict.to_dict() == gain.verdict.to_dict()
    assert loss.verdict["immediate"] == "better"
    assert gain["diff"]["immediate"] == pytest.approx(-loss["diff"]["immediate"])
    assert gain.ci_low["immediate"] == pytest.approx(-loss.ci_high["immediate"])
    assert gain.mdd["immediate"] == pytest.approx(loss.mdd["immediate"])
    assert gain.n.to_dict() == loss.n.to_dict()


def test_the_comparison_is_that_of_the_statistics(here: Path) -> None:
    report = shown("gain.py")
    expected = compare(report.cells, "none", "gain", lower_is_better=False)
    (panel,) = report.panels
    assert panel.rows["mean"].tolist() == expected["mean"].tolist()
    assert panel.rows.verdict.tolist() == expected.verdict.tolist()


def test_other_objectives_are_columns_in_every_form(here: Path) -> None:
    report = shown("gain.py", "train_s", "kv_bytes", "val_bpb")
    (panel,) = report.panels
    headings = [column.heading for column in table_rows(panel)[0]]
    place = headings.index("95% interval")
    assert headings[place + 1 : place + 4] == ["train s", "kv bytes", "val bpb"]
    frame = pd.read_csv(io.StringIO(csv(report))).set_index("arm")
    for arm, layers in (("none", 2), ("immediate", 4)):
        assert frame.train_s[arm] == pytest.approx(2.0 + 1.5 + 10 * layers), "mean over four seeds"
        [shape] = report.cells[report.cells.arm == arm]["objective.kv_bytes"].unique()
        assert frame.kv_bytes[arm] == shape
        assert frame.val_bpb[arm] == pytest.approx(8 - frame["mean"][arm])
    for text in (markdown(report), latex(report), html(report)):
        assert "Gain over eight bits (higher is better)" in text
        for heading in ("train s", "kv bytes", "val bpb"):
            assert heading in text
        assert "positive is better" in text
        assert "lower is better" not in text
    assert b"bits saved; right is better" in forest(report, "svg")


def test_a_limit_says_which_arms_keep_to_it(here: Path) -> None:
    (panel,) = shown("val_bpb", limits=("train_s<=30", "val_bpb<=3.9")).panels
    assert panel.rows.feasible.tolist() == ["yes", "no"]
    assert "feasible" in [column.heading for column in table_rows(panel)[0]]
    (panel,) = shown("val_bpb", limits=("val_bpb<=3.7",)).panels
    assert panel.rows.feasible.tolist() == ["no", "yes"]


@pytest.mark.parametrize("auto", [False, True])
def test_an_arm_that_is_known_to_be_beyond_a_limit_is_shown_and_not_trained(
    here: Path, auto: bool
) -> None:
    (here / "small.yaml").write_text(f"{THREE}")
    table = TableFile.read("small.yaml").table("proxy", RECIPE, 300)
    arms = {arm.name: cost(arm.architecture).kv_bytes_per_token for arm in table.panels[0].arms}
    bound = max(arms["none"], arms["cycle"])
    assert arms["thrice"] > bound
    limits = (f"kv_bytes<={bound}",)
    report = shown("val_bpb", "kv_bytes", limits=limits, auto=auto)
    (panel,) = report.panels
    rows = panel.rows.set_index("arm")
    assert rows.feasible.to_dict() == {"none": "yes", "thrice": "no", "cycle": "yes"}
    assert rows.n["thrice"] == 0
    assert rows["objective.kv_bytes"]["thrice"] == arms["thrice"]
    assert rows.verdict.to_dict() == {
        "none": "baseline",
        "thrice": "unresolved",
        "cycle": "better",
    }
    [line] = panel.missing
    assert line.startswith("thrice, seed 0: not trained (kv_bytes of ")
    assert line in markdown(report)
    two = pd.read_csv(io.StringIO(csv(report))).set_index("arm")
    without = here / "without"
    without.mkdir()
    (here / "small.yaml").write_text(THREE.replace("      thrice: {sharing: immediate x3}\n", ""))
    (other,) = shown("val_bpb", "kv_bytes", limits=limits, auto=auto).panels
    alone = other.rows.set_index("arm")
    assert alone.ci_low["cycle"] == two.ci_low["cycle"], "it takes no part in the comparison"
    html(report), latex(report), forest(report, "png")


THREE = TABLE.replace("seeds: 2", "seeds: 4").replace(
    "immediate: {sharing: immediate x2, published: 45.0}",
    "thrice: {sharing: immediate x3}\n      cycle: {sharing: cycle x2}",
)


def test_a_baseline_beyond_a_limit_is_refused(here: Path) -> None:
    with pytest.raises(ValueError, match=r"the baseline and another arm .* of none kv_bytes of"):
        shown("val_bpb", limits=("kv_bytes<=1",))
    with pytest.raises(ValueError, match=r"of immediate kv_bytes of .* is beyond kv_bytes<=500"):
        shown("val_bpb", limits=("kv_bytes<=500",))


def test_a_table_of_the_usual_objective_has_no_trace_of_others(here: Path) -> None:
    report = shown("val_bpb")
    assert "objective" not in (here / "outputs" / "tables" / "made" / "study.json").read_text()
    assert not any("objective." in str(name) for name in report.cells)
    assert "feasible" not in report.panels[0].rows


@pytest.mark.parametrize("maximize", [False, True])
def test_learning_rates_are_chosen_in_the_direction_of_the_objective(
    here: Path, maximize: bool
) -> None:
    table = TableFile.read("small.yaml").table("proxy", RECIPE, 300)
    search = LrSearch(name="bracket")
    work = TableWork(table=table, data_fingerprint="a", search=search, maximize=maximize)
    attempts: list[Attempt] = []
    sign = -1.0 if maximize else 1.0
    while isinstance(cell := work.next(attempts, 0), Cell):
        run = work.run(cell.params, cell.seed)
        off = abs(run.recipe.lr / RECIPE.lr - 2.0)
        value = sign * (1.0 + off)
        given = {"number": len(attempts), "state": "COMPLETE", "status": Status.FINISHED}
        attempts.append(
            Attempt(**given, params=cell.params, key=run.key, seed=run.seed, value=value)
        )
    arms = [arm for panel in work.after(attempts, 0).resolved.panels for arm in panel.arms]
    assert {arm.recipe.lr for arm in arms} == {2 * RECIPE.lr}


def config(*given: str) -> AblationConfig:
    with initialize_config_dir(CONF, version_base="1.3"):
        values: Any = OmegaConf.to_object(compose("ablations", ["data.vocab_size=300", *given]))
    assert isinstance(values, AblationConfig)
    return values


def targets(*given: str) -> Targets:
    asked = config(*given)
    return targets_of(asked, ask(asked, asked.recipe, 300), "val_bpb")


def test_a_file_says_objectives_and_the_command_line_has_the_last_word(here: Path) -> None:
    more = "objectives: [gain.py, train_s]\ncolumns: [kv_bytes]\nconstraints: ['kv_bytes<=9']\n"
    (here / "mine.yaml").write_text(f"{TABLE}{more}")
    own = targets("table=mine.yaml")
    assert (own.first.short, [m.short for m in own.columns]) == ("gain", ["train_s", "kv_bytes"])
    assert list(map(str, own.limits)) == ["kv_bytes<=9"]
    given = targets("table=mine.yaml", "objectives=[val_bpb]", "columns=[train_flops]")
    assert (given.first.short, [m.short for m in given.columns]) == ("val_bpb", ["train_flops"])
    assert targets("table=small.yaml").plain


def test_a_table_by_another_objective_has_a_folder_of_its_own(here: Path) -> None:
    assert config("table=small.yaml").table_name == "small"
    assert config("table=small.yaml", "objectives=[val_bpb,train_s]").table_name == "small"
    assert config("table=small.yaml", "objectives=[gain.py]").table_name == "small_gain"
    assert config("table=small.yaml", "objectives=[gain.py]", "called=mine").table_name == "mine"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["objectives=[kv_bytes]"], "must begin with one that needs training"),
        (["objectives=[val_bbp]"], "did you mean val_bpb"),
        (["objectives=[train_s,train_s]"], "must have different names"),
        (["constraints=[kv_bytes]"], "constraints must be such as"),
        (
            ["table=lr_transfer", "objectives=[gain.py]", "data.vocab_size=2048"],
            r"objectives must begin with val_bpb or val_loss in table lr_transfer, which asks "
            r"transfer, but got gain\.py; show it with columns",
        ),
    ],
)
def test_wrong_objectives_end_before_anything_is_written(
    here: Path, given: list[str], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        check(config("table=small.yaml", *given))
    assert not (here / "outputs").exists()


def test_objectives_of_a_file_must_be_a_list(here: Path) -> None:
    (here / "mine.yaml").write_text(f"{TABLE}objectives: gain.py\n")
    with pytest.raises(ValueError, match=r"objectives in mine\.yaml must be a list"):
        TableFile.read("mine.yaml")


def test_a_confirmation_compares_by_what_the_search_looked_for(here: Path) -> None:
    study = default_study(here)
    wanted = {"objectives": ["gain.py"], "columns": ["kv_bytes"], "constraints": []}
    study.facts["config"] = wanted
    study.write()
    where = (f"outputs={study.root / 'outputs'}", f"runs={study.runs}")
    found = targets("table=confirm", f"study={study.name}", *where)
    assert (found.first.short, [m.short for m in found.columns]) == ("gain", ["kv_bytes"])


@pytest.mark.slow
def test_an_objective_of_ones_own_leads_a_table_to_its_report(here: Path) -> None:
    options = ("objectives=[gain.py,train_flops]", "columns=[val_bpb]")
    done = make(here, *options, "constraints=['val_bpb<=100']")
    assert done.returncode == 0, done.stderr
    assert "bits saved" in done.stdout
    folder = here / "outputs" / "tables" / "small_gain"
    content = json.loads((folder / "study.json").read_text())
    assert (content["metric"], content["direction"]) == ("gain", "maximize")
    for place in content["places"]:
        values = place["values"]
        assert values["gain"] == pytest.approx(8 - values["val_bpb"])
        assert place["excesses"] == {"val_bpb<=100": values["val_bpb"] - 100}
    table = pd.read_csv(folder / "table.csv")
    assert set(table.columns) >= {"train_flops", "val_bpb", "feasible"}
    assert "by Gain over eight bits (higher is better)" in (folder / "table.md").read_text()
    before = {path.name: path.read_bytes() for path in folder.glob("table.*")}
    (here / "gain.py").unlink()  # the records and study.json are enough
    command = [sys.executable, "-m", "reports", "table=small_gain"]
    again = subprocess.run(
        command, cwd=here, env=environment(), capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert {path.name: path.read_bytes() for path in folder.glob("table.*")} == before
    (here / "gain.py").write_text(GAIN)
    other = make(here, "objectives=[train_s]", "called=small_gain")
    assert other.returncode == 2
    assert "objectives was" in other.stderr
    assert len(other.stderr.strip().splitlines()) == 1
