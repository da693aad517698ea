"""`python -m ablations`: tables from YAML, their cells, what they leave, and what is refused."""

import json
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from study_fixtures import records, run, write_text
from table_fixtures import RECIPE, TABLE, make, options

from ablations.__main__ import make as make_table
from ablations.__main__ import usual
from ablations.cells import TableWork
from ablations.config import AblationConfig
from ablations.facts import table_facts
from ablations.files import TableFile, table_names
from ablations.stats.sequential import looked
from ablations.timing import Timing
from reports.views import arms
from reports.views.arm_columns import columns_of
from reports.views.arms import (
    architectures,
    html,
    latex,
    markdown,
    side_by_side,
    summary,
    table_rows,
)
from reports.weigh.table import Report, weigh_panel
from reports.weigh.worth import Worth
from search.config import DataConfig
from search.data.cache import prepare
from search.study.plan import Attempt, Cell, Step
from search.train.placement import Placement
from space.app import configuration
from space.budget import MAX_DEVIATION, Budget, fit
from space.cost import cost, num_norms
from space.meters import meter_of
from space.model import Decoder

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


SIZES = ("half the size", "1.5 times the size", "2.2 times the size")
OFF_BUDGET = {("embedding_tying", "tied"), *(("sharing_law", size) for size in SIZES)}
"""By design: the arm that is smaller by what tying saves, and a law's further sizes."""
TAUGHT = replace(RECIPE, teacher="there@0", teacher_flops=1)


def test_a_look_ahead_says_what_a_table_takes_and_begins_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = options(tmp_path, "train=false")
    assert make_table(configuration("ablations", AblationConfig, given)) == 0
    assert "0 of 4 runs done\nto do: 4 runs, " in capsys.readouterr().out
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"text.jsonl", "small.yaml", ".cache"}


@pytest.mark.parametrize("name", table_names())
def test_every_arm_is_built_with_the_parameters_of_its_budget_and_trained_apart(name: str) -> None:
    """Counted on the model that torch builds, not by the closed form that fits the arms."""
    recipe = TAUGHT if name == "distillation" else RECIPE
    table = TableFile.read(name).table("proxy", recipe, 2048)
    work = TableWork(table=table, data_fingerprint="a")
    for panel in table.panels:
        assert panel.budget.kind == "parameters"
        off = set()
        for arm in panel.arms:
            with torch.device("meta"):
                built = sum(p.numel() for p in Decoder(arm.architecture).parameters())
            if abs(built / panel.budget.value - 1) > 0.0015:
                off.add((name, arm.name))
        assert off == OFF_BUDGET & {(name, arm.name) for arm in panel.arms}
        keys = {
            work.run({"panel": panel.name, "arm": arm.name}, seed).key
            for arm in panel.arms
            for seed in work.seeds
        }
        assert len(keys) == len(panel.arms) * table.seeds


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


def test_a_look_is_made_once_for_what_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, looks = small_work(tmp_path), list[int]()
    attempts = told(work, {}, run=1)

    def counted(frame: pd.DataFrame, *given: str) -> Any:
        looks.append(int(frame.done.sum()))
        return looked(frame, *given)

    monkeypatch.setattr("ablations.questions.arms.looked", counted)
    for ended in (attempts[:8], attempts[:8], attempts):
        work.next(list(ended), 0)
    assert looks == [8, len(attempts)]


@pytest.mark.slow
def test_a_table_is_made_once_and_regenerated_byte_for_byte(tmp_path: Path) -> None:
    made = make(tmp_path)
    assert made.returncode == 0, made.stderr
    folder = tmp_path / "outputs" / "tables" / "small"
    names = [f"table.{x}" for x in ("md", "tex", "csv", "html")] + ["forest.png", "forest.pdf"]
    before = {name: (folder / name).read_bytes() for name in names}
    frame = pd.read_csv(folder / "table.csv")
    assert set(" ".join(frame.runs).split()) == set(records(tmp_path))
    assert "windows is in the intervals" in (folder / "table.md").read_text()
    assert frame.about_evaluation.str.contains("a difference a standard error of 0.").all()
    for key in records(tmp_path):
        assert f"{key}".encode() in before["table.html"]
    started = {key: record["started"] for key, record in records(tmp_path).items()}
    again = make(tmp_path)
    assert "4 of 4 runs done" in again.stdout
    assert {name: (folder / name).read_bytes() for name in names} == before
    assert json.loads((folder / "study.json").read_text())["table"]["looks"]["seeds"] == [2]
    ahead = make(tmp_path, "seeds=4", "train=false")
    assert (
        "looks of this table: 2, at 2 and 4 seeds; intervals at the level of 99.9" in ahead.stdout
    )
    assert {name: (folder / name).read_bytes() for name in names} == before, "nothing was looked at"
    more = make(tmp_path, "seeds=3")
    assert more.returncode == 0, more.stderr
    assert json.loads((folder / "study.json").read_text())["table"]["looks"]["seeds"] == [2, 3]
    said = (folder / "table.md").read_text()
    assert "2, at 2 and 3 seeds" in said
    level = re.search("intervals at the level of ([0-9.]+%)", said)
    assert level
    assert f"| {level[1]} interval |" in said
    assert "| 95% interval |" not in said
    assert len(records(tmp_path)) == 6
    assert started.items() <= {k: r["started"] for k, r in records(tmp_path).items()}.items()
    pages = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    fewer = make(tmp_path)
    assert (fewer.returncode, fewer.stdout) == (2, "")
    assert "seeds must be at least 3, with which table small was read" in fewer.stderr
    assert "but got 2; add seeds=3" in fewer.stderr
    assert {path: path.read_bytes() for path in pages} == pages
    (tmp_path / "small.yaml").write_text(TABLE + "      cycle: {sharing: cycle x2}\n")
    arm = make(tmp_path, "seeds=3")
    assert arm.returncode == 0, arm.stderr
    assert "6 of 9 runs done" in arm.stdout
    assert len(records(tmp_path)) == 9
    assert started.items() <= {k: r["started"] for k, r in records(tmp_path).items()}.items()
    other = make(tmp_path, "recipe.lr=0.004", "seeds=3")
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


def test_a_table_is_called_as_asked_or_as_its_study_or_its_file() -> None:
    def name(**given: str) -> str:
        data = DataConfig(source="embedded", path=None)
        return AblationConfig(table="small.yaml", data=data, recipe=RECIPE, **given).table_name

    assert (name(), name(study="mine"), name(study="mine", called="own")) == (
        "small",
        "mine",
        "own",
    )


@pytest.mark.parametrize("option", ["called", "study"])
def test_all_tables_cannot_share_one_name(option: str) -> None:
    data = DataConfig(source="embedded", path=None)
    with pytest.raises(ValueError, match="must be left out at table=all, whose"):
        AblationConfig(table="all", data=data, recipe=RECIPE, **{option: "mine"})


def test_a_table_adds_its_overrides_but_for_those_given() -> None:
    own = TableFile.read("proxy_horizon").overrides
    assert own
    assert usual(["table=proxy_horizon"]) == usual(["+table=proxy_horizon"]) == own
    assert usual(["table=proxy_horizon", f"++{own[0]}"]) == own[1:]
    with pytest.raises(ValueError, match=r"^space\.fixed\.x must come with the space"):
        usual(["table=proxy_horizon", "~space.fixed.x"])


WRONG = {
    "unknown": ("", "", "table=nonsense", "table must be one of"),
    "no seed": ("", "", "seeds=0", "seeds must be at least 1"),
    "no number": ("", "", "seeds=many", "seeds must be a whole number or auto"),
    "no name": ("", "", "study=a/b", "study must be a name that a folder"),
    "no scale": ("", "", "scale=large", "scale must be one of"),
    "no baseline": ("baseline: none", "baseline: nothing", "report=true", "the baseline of panel"),
    "off budget": (
        "{sharing: immediate x2,",
        "{hidden_size: 32, num_attention_heads: 2, intermediate_size: 32,",
        "report=true",
        "must lie within 0.15%",
    ),
    "equal to nothing": (
        "immediate x2,",
        "immediate x2, equal: pace,",
        "report=true",
        "equal must",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_one_line(tmp_path: Path, wrong: str) -> None:
    old, new, given, words = WRONG[wrong]
    write_text(tmp_path)
    (tmp_path / "small.yaml").write_text(TABLE.replace(old, new) if old else TABLE)
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
        (
            "proxy:",
            "proxy:\n  - {name: two blocks, baseline: a, base: {num_blocks: 2}, "
            "arms: {a: {}, b: {sharing: immediate x2}}}",
            "names of their own, but got 'two blocks' 2 times; rename",
        ),
        ("proxy:", "proxy: [", r"wrong\.yaml must be YAML, but is not"),
        ("proxy:", "paper: [5]\nproxy:", r"panel 1 of paper in .*wrong\.yaml must be a mapping"),
        ("arms:", "arms: [a, b]\n    others:", r"arms of panel 1 in .* but got \['a', 'b'\]"),
        ("{sharing: none, published: 44.6}", "5", "arm none of panel 1 in .* but got 5"),
        ("immediate x2,", "immediate x2, recipe: 5,", "recipe of arm immediate of .* a mapping"),
        ("immediate x2,", "immediate x2, recipe: {lrr: 1e-3},", r"no 'lrr'; did you mean lr\?"),
        ("{num_blocks: 2}", "{num_blocks: 2, recipe: {lr: 1e-3}}", "base of .* into overrides of"),
        ("{num_blocks: 2}", "{num_blocks: 2, init_shift: 1}", "'init_shift'; give it to each arm"),
        ("    base:", "    recipe: {lr: 1e-3}\n    base:", "'recipe'; a recipe for all arms goes"),
        ("proxy:", "recipe: {lr: 1e-3}\nproxy:", "has recipe; a recipe for all arms goes into"),
        ("immediate x2,", "immediate x2, recipe: {lr: fast},", "lr must be a number, but got 'fa"),
        ("immediate x2,", "immediate x2, recipe: {horizons: 1},", "horizons must be a list of num"),
        ("immediate x2,", "immediate x2, init_shift: [1],", "init_shift must be a whole number"),
        ("immediate x2,", "immediate x2, equal: [flops],", "equal must be flops or time"),
        ("immediate x2,", "immediate x2, like: [none],", "like must name an arm above it"),
        ("immediate x2,", "immediate x2, like: none, spend: width,", "spend must be depth"),
        ("immediate x2,", "immediate x2, spend: depth,", "but got 'depth' without like"),
        ("sharing: immediate x2,", "like: none, qk_nrom: true,", "must be among .* got 'qk_nrom'"),
        ("immediate x2,", "immediate x2, heads_per_kvv: 2,", r"did you mean heads_per_kv\?"),
        ("immediate x2,", "immediate x2, ffn_tolerance: big,", "ffn_tolerance must be a number"),
        ("immediate x2,", "immediate x2, lr: 1e-3,", r"write recipe: \{lr: …\} in the arm"),
        ("caption: Are two blocks better shared?", "", "but has .*proxy; add caption: …"),
        ("published: 45.0", "published: much", "published must be a number, but got 'much'"),
        ("seeds: 2", "overrides: [proxy: default]", "an override in .* form OPTION=VALUE, but got"),
        ("seeds: 2", "seeds: 2\nseeds: 3", "must be YAML, but is not: .* duplicate key seeds"),
        ("proxy:", "trust: {space: full, lengths: 5}\nproxy:", "lengths of trust in .* a list"),
        (
            "proxy:",
            "trust: {space: full, lengths: [1, 2], arms: many}\nproxy:",
            "arms of trust must be a whole number, but got 'many'",
        ),
        (
            "proxy:",
            "transfer: {parametrisations: [sp], rates: 5, shapes: {}}\nproxy:",
            "rates of transfer in .* a list",
        ),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(TABLE.replace(old, new))
    with pytest.raises(ValueError, match=words):
        TableFile.read(str(path)).table("proxy", RECIPE, 300)


def test_a_wrong_override_in_a_table_names_the_table(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(TABLE.replace("seeds: 2", "overrides: [proxyy=default]"))
    with pytest.raises(ValueError, match=r"overrides of table wrong: proxyy .* mean proxy\?"):
        usual([f"table={path}"])


ROUNDED = """
caption: Is a wider FFN better?
budget: 500k
proxy:
  - {name: NAME, baseline: base, base: {num_blocks: 4, tie_word_embeddings: true, heads_per_kv: 2},
     arms: {base: {}, wide: {ffn_ratio: 5}}}
"""


@pytest.mark.parametrize(("name", "words"), [("''", ""), ("FFN", " of panel 'FFN'")])
def test_arms_that_the_budget_makes_the_same_are_named_with_what_they_became(
    tmp_path: Path, name: str, words: str
) -> None:
    path = tmp_path / "rounded.yaml"
    path.write_text(ROUNDED.replace("NAME", name))
    table = TableFile.read(str(path)).table("proxy", RECIPE, 512)
    became = table.panels[0].arms[0].architecture
    with pytest.raises(ValueError, match="must differ") as raised:
        TableWork(table=table, data_fingerprint="")
    ratio = became.intermediate_size / became.hidden_size
    assert (
        f"but base and wide{words} are the same run: both are 4 layers × {became.hidden_size}, "
        f"{became.num_attention_heads} heads on {became.num_key_value_heads}, FFN "
        f"{became.intermediate_size} (ratio {ratio:.2f}), to which the budget"
    ) in str(raised.value)


def test_a_panel_without_a_name_is_not_named(tmp_path: Path) -> None:
    path = tmp_path / "nameless.yaml"
    for old, new in (
        ("baseline: none", "baseline: nothing"),
        ("immediate x2,", "immediate x2, equal: a,"),
    ):
        path.write_text(TABLE.replace("name: two blocks", "name: ''").replace(old, new))
        with pytest.raises(ValueError, match=r"baseline|arm immediate:") as raised:
            TableFile.read(str(path)).table("proxy", RECIPE, 300)
        assert "''" not in str(raised.value)


def test_a_table_is_read_as_hydra_reads_its_files(tmp_path: Path) -> None:
    path = tmp_path / "rates.yaml"
    arm = "immediate x2, recipe: {lr: 6e-3, tokens: 2e5, grad_clip: 1},"
    text = TABLE.replace("name: two blocks", "name: [2]")
    path.write_text(text.replace("immediate x2,", arm))
    (panel,) = TableFile.read(str(path)).table("proxy", RECIPE, 300).panels
    recipe = panel.arms[1].recipe
    assert recipe == replace(RECIPE, lr=0.006, tokens=200_000, grad_clip=1.0)
    assert [type(value) for value in (recipe.tokens, recipe.grad_clip)] == [int, float]
    assert panel.name == "[2]"


def has_latex() -> bool:
    """Whether pdflatex is there with what tables use: a small TeX lacks booktabs."""
    if shutil.which("pdflatex") is None or shutil.which("kpsewhich") is None:
        return False
    packages = ("booktabs.sty", "graphicx.sty")
    found = subprocess.run(["kpsewhich", *packages], capture_output=True, text=True).stdout
    return len(found.split()) == len(packages)


@pytest.mark.skipif(not has_latex(), reason="pdflatex with booktabs is not installed")
def test_latex_compiles_whatever_the_names(tmp_path: Path) -> None:
    report = beside_each_other("50% of $x_1 & y^2 #3 {~\\}, “é” ≥ ≤ × → – − < > | β Λ 宽 ²")
    (tmp_path / "table.tex").write_text(latex(report))
    (tmp_path / "all.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}\\input{table}"
        "\\end{document}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Missing character" not in (tmp_path / "all.log").read_text()


def test_all_of_latex_stands_in_floats_with_what_their_columns_mean() -> None:
    floats = re.compile(r"\\begin{table}.*?\\end{table}", re.DOTALL)
    report = replace(beside_each_other(), command="python -m ablations table=a_b 'x=[50%]'")
    assert f"% command: {report.command}\n" in latex(report), "to be pasted"
    asked = latex(replace(report, columns=("arm", "diff", "decode B/token")))
    for text, tables in ((latex(report), 3), (asked, 3)):
        found = floats.findall(text)
        assert len(found) == tables
        assert not [x for x in floats.sub("", text).splitlines() if x and not x.startswith("%")]
        for table in found:
            head = table.partition("\\toprule\n")[2].partition(" \\\\")[0]
            assert all(f"\\textbf{{{name}}}: " in table for name in head.split(" & "))
    assert "\narm & difference & decode B/token \\\\\n" in asked
    assert "decode B/token" not in floats.findall(latex(report))[-1]


def test_all_forms_of_a_table_of_smoke_runs_say_so() -> None:
    report = replace(
        beside_each_other(), worth=Worth(20_480, 0.2, None, 8192, "val_bpb", 1 / 8192, "")
    )
    for form in (latex, arms.markdown, arms.csv, arms.html):
        assert "Smoke run: ignore the numbers." in form(report), form
    floats = latex(report).split("\\caption{")[1:]
    assert all("Smoke run" in text.partition("\n")[0] for text in floats)
    assert "Smoke run" not in latex(replace(report, worth=None))


def test_a_table_says_what_its_arms_are_as_built() -> None:
    report = beside_each_other()
    first, second = report.panels
    wider = fit({"vocab_size": 2048, "num_blocks": 2}, Budget("parameters", 3_000_000))
    second = replace(second, architectures={**second.architectures, "wider": wider})
    built = [*first.architectures.values(), *second.architectures.values()]
    assert len({(a.hidden_size, a.intermediate_size) for a in built}) == 2
    report = replace(report, panels=(first, second))
    shown = [markdown(report), html(report)]
    for a in built:
        heads = f"{a.num_attention_heads}/{a.kv_heads} heads of {a.head_dim}"
        said = (
            f"{a.num_layers} layers × {a.hidden_size} wide, {heads}, FFN {a.intermediate_size:,} "
        )
        assert all(said in text for text in shown)
    alike = replace(first, architectures=dict.fromkeys("abc", built[0]))
    assert [arms for arms, _ in architectures(alike)] == ["all arms"]


def beside_each_other(name: str = "equal FLOPs") -> Report:
    """A table whose two panels compare the same arms."""
    work = TableWork(
        table=TableFile.read("sharing_budgets").table("proxy", RECIPE, 2048), data_fingerprint="a"
    )
    cells = pd.DataFrame(work.places()).drop_duplicates(["panel", "arm", "seed"])
    values = np.random.default_rng(0).normal(2, 0.01, len(cells))
    cells = cells.assign(val_bpb=values, status="finished", reason=None)
    facts = table_facts(work.table)["panels"][:2]
    panels = [weigh_panel(p, cells[cells.panel == p["name"]], "val_bpb", auto=False) for p in facts]
    panels[1] = replace(panels[1], name=name, missing=(f"{name}\nof two lines",))
    return Report(Path(), "t", name, "val_bpb", tuple(panels), cells)


def test_comparisons_of_the_same_arms_are_printed_side_by_side() -> None:
    report = beside_each_other()
    beside = side_by_side(report)
    assert beside is not None
    columns, rows = beside
    headings = [column.heading for column in columns]
    assert headings[:6] == [
        "arm",
        "layers",
        "parameters",
        "FLOPs/token",
        "KV B/token",
        "decode B/token",
    ]
    assert headings[6:] == ["tokens", "equal distinct parameters", "tokens", "equal FLOPs"]
    (second,) = (panel.rows.iloc[1] for panel in report.panels[1:])
    assert len(rows) == len(report.panels[0].rows)
    assert rows[1][-2].order == repr(float(second.tokens))
    sign = "+" if second["diff"] > 0 else "−"
    assert rows[1][-1].text == (
        f"{second['mean']:.4f} ({sign}{abs(second['diff']):.4f}, {second.verdict})"
    )
    assert rows[0][-1].text.endswith(" (baseline)")
    assert rows[1][-1].hint == rows[1][-2].hint == "runs " + second.runs
    other = TableFile.read("layer_sharing").table("proxy", RECIPE, 2048)
    assert len({arm.name for panel in other.panels for arm in panel.arms}) == 4
    first, second = report.panels
    wider = replace(second, rows=second.rows.assign(num_hidden_layers=1))
    assert side_by_side(replace(report, panels=(first, wider))) is None


TIMED = """
caption: At equal time.
budget: 100k
seeds: 1
proxy:
  - name: ""
    baseline: none
    base: {num_blocks: 2}
    arms:
      none: {sharing: none}
      immediate: {sharing: immediate x3, equal: time}
"""


def test_an_arm_or_panel_that_is_gone_is_named_with_those_there_are(tmp_path: Path) -> None:
    work = small_work(tmp_path)
    with pytest.raises(ValueError, match=r"one of 'none', 'immediate', but got 'cycle'; .* again"):
        work.run({"panel": "two blocks", "arm": "cycle"}, 0)
    with pytest.raises(ValueError, match="must be one of 'two blocks', but got 'three blocks'"):
        work.run({"panel": "three blocks", "arm": "none"}, 0)


def test_one_seed_is_said_to_give_no_verdict(tmp_path: Path) -> None:
    facts = table_facts((work := small_work(tmp_path)).table)
    cells = pd.DataFrame(work.places()).assign(val_bpb=1.5, status="finished", reason=None)

    def forms(seeds: int) -> list[str]:
        some = cells[cells.seed < 7 + seeds]
        panel = weigh_panel(facts["panels"][0], some, "val_bpb", auto=False)
        report = Report(Path(), "small", "", "val_bpb", (panel,), some)
        return [markdown(report), latex(report), summary(report)]

    assert all("ne seed per arm" in text for text in forms(1))
    assert not any("ne seed per arm" in text for text in forms(2))


@pytest.mark.parametrize("better", [0.0, 0.5])
def test_that_nothing_is_resolved_is_said_once_on_the_page(tmp_path: Path, better: float) -> None:
    facts = table_facts((work := small_work(tmp_path)).table)
    cells = pd.DataFrame(work.places()).assign(status="finished", reason=None)
    values = 1.5 + 0.001 * cells.seed - better * (cells.arm != "none")
    noise = np.random.default_rng(0).normal(0, 0.01, len(cells))
    cells = cells.assign(val_bpb=values + noise)
    panel = weigh_panel(facts["panels"][0], cells, "val_bpb", auto=False)
    report = Report(Path(), "small", "", "val_bpb", (panel,), cells)
    page = re.findall("<p.*?>(.*?)</p>", html(report))
    found = [text for text in page if re.search("resolved|Against|Compared", text)]
    if better:
        assert found[0] == "small: 1 of 1 differences from the baseline are resolved."
        assert re.search(r"Against none\. Better: immediate", found[1])
    else:
        assert found[0] == "small: 0 of 1 differences from the baseline are resolved."
        assert found[1].endswith("Compared with none. Published: nowhere.")
        assert "No difference is resolved." in markdown(report), "which has no summary"
    assert len(found) == 2


@pytest.mark.slow
def test_all_tables_are_made_and_a_timing_is_made_once(tmp_path: Path) -> None:
    """The command as it is, but for the folder of tables."""
    write_text(tmp_path)
    tables = tmp_path / "tables"
    tables.mkdir()
    (tables / "first.yaml").write_text(TABLE)
    (tables / "timed.yaml").write_text(TIMED)
    code = (
        "import sys; from pathlib import Path; import ablations.files; "
        "ablations.files.TABLES = Path('tables'); from ablations.__main__ import main; main()"
    )
    made = make(tmp_path, "table=all", "seeds=1", program=["-c", code])
    assert made.returncode == 0, made.stderr
    outputs = tmp_path / "outputs" / "tables"
    assert {path.parent.name for path in outputs.glob("*/table.md")} == {"first", "timed"}
    timing = json.loads((outputs / "timed" / "timing.json").read_text())
    base, shared = timing["seconds_per_token"].values()
    frame = pd.read_csv(outputs / "timed" / "table.csv").set_index("arm")
    assert frame.tokens["none"] == 1024
    steps = max(1, round(8 * base / shared))
    assert frame.tokens["immediate"] == 128 * steps
    text = (outputs / "timed" / "table.md").read_text()
    (date,) = {entry["date"] for entry in timing["runs"].values()}
    assert f"a timing of {date}" in text
    before = {path: path.read_bytes() for path in outputs.glob("*/*.*") if path.suffix != ".db"}
    again = make(tmp_path, "table=all", "seeds=1", program=["-c", code])
    assert "timing" not in again.stdout
    assert again.stdout.count("2 of 2 runs done") == 2
    same = [path for path, content in before.items() if path.read_bytes() == content]
    assert {path.name for path in before} - {path.name for path in same} <= {"study.json"}


def test_every_timing_is_told_with_its_own_origin(tmp_path: Path) -> None:
    path = tmp_path / "timing.json"
    older = {"date": "2026-01-02", "machine": "a laptop", "threads": 2, "commit": None}
    later = {"date": "2026-03-04", "machine": "a server", "threads": 1, "commit": "0123456789ab"}
    path.write_text(json.dumps({**older, "runs": {"a": {}}}))
    assert Timing(path).words().endswith("from a timing of 2026-01-02 (a laptop, 2 threads).")
    path.write_text(json.dumps({**older, "runs": {"a": {}, "b": later, "c": later}}))
    assert (
        "from timings of 2026-01-02 (a laptop, 2 threads), "
        "2026-03-04 (a server, 1 thread, 0123456789)." in Timing(path).words()
    )


def test_a_timing_that_no_arm_uses_is_not_told(tmp_path: Path) -> None:
    path = tmp_path / "timing.json"
    shape = fit({"num_blocks": 2, "vocab_size": 300}, Budget.parse("100k"))
    unknown = Timing(path)
    unknown(shape, RECIPE)
    (key,) = unknown.missing
    made = {"machine": "a laptop", "threads": 2}
    runs = {"gone": {**made, "date": "2026-01-02"}, key: {**made, "date": "2026-03-04"}}
    path.write_text(json.dumps({"seconds_per_token": {"gone": 1.0, key: 2.0}, "runs": runs}))
    timing = Timing(path)
    assert timing(shape, RECIPE) == 2.0
    assert timing.words().endswith("from a timing of 2026-03-04 (a laptop, 2 threads).")


def test_a_timing_of_other_numerics_is_no_reference(tmp_path: Path) -> None:
    path = tmp_path / "timing.json"
    shape = fit({"num_blocks": 2, "vocab_size": 300}, Budget.parse("100k"))
    timed = {"architecture": shape.to_dict(), "recipe": RECIPE.to_dict()}
    path.write_text(json.dumps({"seconds_per_token": {"old": 1.0}, "runs": {"old": timed}}))
    timing = Timing(path)
    assert timing(shape, RECIPE) == cost(shape, RECIPE.seq_len).train_flops_per_token
    assert len(timing.missing) == 1


@pytest.mark.slow
def test_an_arm_that_joins_is_timed_in_proportion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ablations.timing.ROUND_S", 0.05)
    data = prepare(DataConfig(source="text", path=str(write_text(tmp_path)), vocab_size=300))
    recipe = replace(RECIPE, tokens=1024, seq_len=32, batch_size=4, eval_tokens=512)
    placement = Placement(device="cpu", threads=1, compile="no")
    shapes = [fit({"num_blocks": n, "vocab_size": 300}, Budget.parse("100k")) for n in (2, 7)]
    path = tmp_path / "timing.json"
    timing = Timing(path)
    assert timing(shapes[0], recipe) == cost(shapes[0], 32).train_flops_per_token
    timing.measure(data, placement)
    (key,) = timing.content["seconds_per_token"]
    timing.content["seconds_per_token"][key] *= 1000  # a machine of another day
    timing.content["runs"][key]["date"] = "2026-01-02"
    path.write_text(json.dumps(timing.content))
    later = Timing(path)
    first = later(shapes[0], recipe)
    flops = [cost(shape, 32).train_flops_per_token for shape in shapes]
    assert later(shapes[1], recipe) == pytest.approx(first * flops[1] / flops[0])
    later.measure(data, placement)
    assert later(shapes[0], recipe) == first
    assert 1 < later(shapes[1], recipe) / first < 20
    assert Timing(path)(shapes[1], recipe) == later(shapes[1], recipe)
    assert "timings of 2026-01-02 (" in later.words()
    path.write_text("{")
    with pytest.raises(ValueError, match="delete it to time anew"):
        Timing(path)


def test_a_table_with_seeds_as_needed_shows_the_look_of_each_verdict(tmp_path: Path) -> None:
    work = small_work(tmp_path, "      cycle: {sharing: cycle x2}\n")
    attempts = told(work, {"immediate": -5.0}, run=1)
    values = {a.key: a.value for a in attempts}
    cells = pd.DataFrame(work.after(attempts, 0).places())
    cells = cells.assign(val_bpb=cells.key.map(values), status="finished", reason=None)
    facts = table_facts(work.table)
    panel = weigh_panel(facts["panels"][0], cells, "val_bpb", facts["auto"])
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
    hints = {column.name: column.hint for column in columns_of(panel)}
    levels = "resolved below 0.00079 at 4 seeds, 0.0074 at 6 seeds and 0.048 at 10 seeds"
    assert hints["p_adjusted"].endswith(f"not for the looks: {levels}")
    assert "outliers" not in headings
    half = cells.assign(status=["finished"] * 3 + ["not run"] * (len(cells) - 3))
    early = weigh_panel(facts["panels"][0], half, "val_bpb", auto=True)
    assert set(early.rows.verdict) == {"baseline", "unresolved"}


@pytest.mark.parametrize("name", ["depth_width", "sharing_budgets"])
@pytest.mark.parametrize(
    "equal", ["decode_ms@iphone_13:1", "prefill_ms@oneplus_12:64", "weight_bytes@int4"]
)
def test_a_further_panel_has_arms_equal_to_its_baseline(name: str, equal: str) -> None:
    """As the device model and the closed form count it; the other panels stay as they are."""
    file = TableFile.read(name)
    plain = file.table("proxy", RECIPE, 2048)
    table = file.table("proxy", RECIPE, 2048, equal=equal)
    *others, panel = table.panels
    assert tuple(others) == plain.panels
    assert panel.name == f"equal {equal}"
    base = plain.panels[0].arm(panel.baseline)
    assert panel.arm(panel.baseline) == base, "as on parameters, and trained once"
    kind, _, at = equal.partition("@")
    spent = {arm.name: meter_of(kind, at).spent(arm.architecture) for arm in panel.arms}
    for label, value in spent.items():
        assert value == pytest.approx(spent[panel.baseline], rel=MAX_DEVIATION), label
    assert {arm.recipe for arm in panel.arms} == {base.recipe}
    there = {*spent, *panel.left_out}
    assert there == {arm.name for arm in plain.panels[0].arms}
    for label in panel.left_out:
        assert label in table.caption


def test_at_equal_milliseconds_only_what_is_moved_again_costs_width() -> None:
    """MobileLLM (arXiv:2402.14905), table 7: a block repeated at once is nearly free."""
    table = TableFile.read("sharing_budgets").table(
        "proxy", RECIPE, 2048, equal="decode_ms@iphone_13:1"
    )
    widths = {arm.name: arm.architecture.hidden_size for arm in table.panels[-1].arms}
    assert widths["immediate"] == widths["none"]
    assert widths["repeat-all-over"] == widths["reverse"] < widths["none"]


def test_a_further_panel_may_be_equal_in_training_flops() -> None:
    table = TableFile.read("depth_width").table("proxy", RECIPE, 2048, equal="flops")
    work = TableWork(table=table, data_fingerprint="a")
    panel = table.panels[-1]
    spent = [work.run({"panel": panel.name, "arm": arm.name}, 0).train_flops for arm in panel.arms]
    assert max(spent) / min(spent) < 1.06  # whole steps of 4096 tokens


@pytest.mark.parametrize(
    ("name", "equal", "said"),
    [
        ("depth_width", "speed", r"^equal must be one of flops, time, .*, but got 'speed'$"),
        ("depth_width", "kv_byte", r"^equal must .*; did you mean kv_bytes\?$"),
        ("depth_width", "decode_ms", "decode_ms must name a device"),
        ("depth_width", "decode_ms@iphone_99", "device must be one of h100, iphone_13"),
        ("proxy_horizon", "flops", "equal must go with a table of arms"),
        ("embedding_tying", "kv_bytes", "must leave its sizes to the budget"),
    ],
)
def test_what_arms_cannot_be_equal_in_is_refused(name: str, equal: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TableFile.read(name).table("proxy", RECIPE, 2048, equal=equal)


def test_shapes_as_printed_are_not_made_equal() -> None:
    with pytest.raises(ValueError, match="equal must be left out at scale=paper"):
        TableFile.read("depth_width").table("paper", RECIPE, 32000, equal="decode_ms@iphone_13")


@pytest.mark.slow
def test_a_table_has_its_architectures_timed_once_its_runs_are_done(tmp_path: Path) -> None:
    """One measurement of each architecture, in the records of all seeds and beside the cells."""
    for package in ("gguf", "xllamacpp"):
        pytest.importorskip(package)
    short = ["measure.context=8", "measure.steps=2", "measure.repeats=1"]
    done = make(tmp_path, "measure=llama_cpp", "seeds=2", *short)
    assert done.returncode == 0, done.stderr
    folder = next((tmp_path / "outputs" / "tables").glob("*/measured.md")).parent
    cells = pd.read_csv(folder / "cells.csv")
    (column,) = [name for name in cells if name.endswith(".decode_ms")]
    assert (cells[column] > 0).all()
    assert (cells.groupby("arm")[column].nunique() == 1).all()


@pytest.mark.slow
def test_on_a_gpu_another_process_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that starts workers trains nothing. There is no GPU: the other one finds a CPU."""

    def train(*given: Any, **more: Any) -> None:
        raise AssertionError("it trains")

    monkeypatch.setattr("search.train.loop.Training", train)
    data = prepare(DataConfig(source="text", path=str(write_text(tmp_path)), vocab_size=300))
    recipe = replace(RECIPE, tokens=1024, seq_len=32, batch_size=4, eval_tokens=512)
    shape = fit({"num_blocks": 2, "vocab_size": 300}, Budget.parse("100k"))
    timing, placement = Timing(tmp_path / "timing.json"), Placement(threads=1, compile="no")
    timing(shape, recipe)
    with pytest.raises(AssertionError, match="it trains"):
        timing.measure(data, replace(placement, device="cpu"))
    monkeypatch.setattr("search.train.placement.gpus", lambda: ["0"])
    timing.measure(data, placement)
    (seconds,) = timing.content["seconds_per_token"].values()
    assert seconds > 0
