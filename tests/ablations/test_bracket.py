"""Learning rates that arms get for themselves: which are tried, which is chosen, what is shown."""

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import log2
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from study_fixtures import records
from table_fixtures import RECIPE, TABLE, make

from ablations.cells import UNDECIDED, TableWork
from ablations.facts import search_facts, table_facts
from ablations.files import TableFile
from ablations.stats.bracket import FIRST_SEED, Choice, LrSearch, choose, is_carried
from reports.views.arms import csv, html, latex, markdown
from reports.weigh.table import Report, read_table
from search.recipe import Recipe
from search.record import Reading, Record
from search.runs import write_record
from search.states import Status
from search.study.plan import Attempt, Cell, Step
from space.budget import Budget, fit

BRACKET = LrSearch(name="bracket")


def searched(
    search: LrSearch, lr: float, loss: Callable[[float], float]
) -> tuple[int, float, bool]:
    """Runs it took, the rate chosen, and whether at an edge."""
    ended: dict[tuple[float, int], float | None] = {}
    while (choice := choose(search, lr, ended)).chosen is None:
        asked = {(rate, n) for rate in choice.rates for n in range(search.seeds)} - set(ended)
        ended |= {place: loss(place[0]) for place in asked}
    return len(ended), choice.chosen, choice.edge


@given(st.floats(-6, 6), st.integers(0, 3), st.integers(1, 2))
def test_a_bracket_finds_the_minimum_of_a_parabola_as_far_as_it_reaches(
    best: float, extensions: int, seeds: int
) -> None:
    search = replace(BRACKET, extensions=extensions, seeds=seeds)
    runs, chosen, edge = searched(search, 1.0, lambda rate: (log2(rate) - best) ** 2)
    reach = 1 + extensions
    assert abs(log2(chosen) - max(-reach, min(reach, best))) <= 0.5 + 1e-6
    inside = abs(best) < reach - 0.5
    assert edge is not inside or abs(abs(best) - (reach - 0.5)) < 1e-5
    assert 3 * seeds <= runs <= (3 + extensions) * seeds


def test_a_rate_that_diverges_is_worse_than_any_other_and_alone_is_kept_at_an_edge() -> None:
    some = {(0.5, 0): 2.0, (1.0, 0): 1.9, (2.0, 0): None}
    assert choose(BRACKET, 1.0, some).chosen == 1.0
    none = dict.fromkeys(some, None)
    assert choose(BRACKET, 1.0, none).chosen == 1.0
    assert choose(BRACKET, 1.0, none).edge


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"name": "golden"}, "none, bracket"),
        ({"factors": (1.0, 2.0)}, "three or more"),
        ({"factors": (2.0, 1.0, 0.5)}, "from low to high"),
        ({"factors": (0.0, 1.0, 2.0)}, "above 0"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"extensions": -1}, "at least 0"),
    ],
)
def test_what_makes_no_bracket_is_refused(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LrSearch(**{"name": "bracket"} | wrong)  # type: ignore[arg-type]


def test_a_rate_is_carried_as_far_as_its_rule_says() -> None:
    shapes = {n: fit({"num_blocks": n, "vocab_size": 300}, Budget.parse("300k")) for n in (3, 6)}
    for rule, below, at, above in (
        ("completep", False, True, True),
        ("mup", False, True, False),
        ("sp", False, True, False),
    ):
        deep = shapes[6]
        own = replace(
            RECIPE,
            parametrisation=rule,
            base_num_hidden_layers=6,
            base_hidden_size=deep.hidden_size,
        )
        assert is_carried(shapes[3], own) is below
        assert is_carried(deep, own) is at
        assert is_carried(deep, replace(own, base_num_hidden_layers=3)) is above
        wider = replace(own, base_hidden_size=2 * deep.hidden_size)
        assert is_carried(deep, wider) is (rule != "sp")


@pytest.mark.parametrize("base", [1, 9])
def test_rows_without_a_rate_of_their_own_are_flagged_in_every_form(base: int) -> None:
    """Two layers, from a base shape of one and of nine."""
    report = report_of(replace(RECIPE, base_num_hidden_layers=base), LrSearch(), {})
    flagged = base == 9
    for form in FORMS:
        text = form(report)
        assert flags(text) == (["not carried"] * 2 if flagged else []), form
        if form is not csv:
            assert ("does not transfer the learning rate" in text) is flagged


def test_rows_at_an_edge_are_flagged_in_every_form() -> None:
    choices = {
        ("two blocks", "none"): Choice((0.001, 0.002), 0.002, edge=True),
        ("two blocks", "immediate"): Choice((0.001, 0.002, 0.004), 0.002),
    }
    report = report_of(replace(RECIPE, base_num_hidden_layers=9), BRACKET, choices)
    assert report.note
    for form in FORMS:
        text = form(report)
        assert flags(text) == ["edge"], form
        if form is not csv:
            assert "may lie beyond" in re.sub(r"\s+", " ", text)
            assert "2e−3" in text or "2e$-$3" in text


FORMS = (markdown, latex, csv, html)


def flags(text: str) -> list[str]:
    """In cells of a table of any form; what a page copies is no cell."""
    shown = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    return re.findall(r"[|&,>]\s*(edge|not carried)\s*[|&,<]", shown)


def report_of(
    recipe: Recipe, search: LrSearch, choices: Mapping[tuple[str, str], Choice]
) -> Report:
    """The report of the small table, whose runs are made up."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.yaml"
        path.write_text(TABLE)
        table = TableFile.read(str(path)).table("proxy", recipe, 300)
        work = TableWork(table=table, data_fingerprint="a", search=search, choices=choices)
        facts = table_facts(work.resolved)
        if choices:
            facts["lr_search"] = search_facts(work)
        content = {"table": facts, "places": list(work.places()), "metric": "val_bpb", "trials": []}
        tables = Path(folder) / "tables" / "small"
        tables.mkdir(parents=True)
        (tables / "study.json").write_text(json.dumps(content))
        for n, (key, cell) in enumerate(work.wanted.items()):
            run = work.run(cell.params, cell.seed)
            reading = Reading(tokens=1, val_loss=2.0 + 0.01 * n, val_bpb=2.0 + 0.01 * n)
            write_record(
                Path(folder) / key, Record(run=run, status=Status.FINISHED, readings=(reading,))
            )
        return read_table("small", folder, folder)


def work_of(tmp_path: Path, seeds: str = "2") -> TableWork:
    path = tmp_path / "small.yaml"
    path.write_text(TABLE.replace("seeds: 2", f"seeds: {seeds}"))
    table = TableFile.read(str(path)).table("proxy", RECIPE, 300)
    return TableWork(table=table, data_fingerprint="a", first_seed=7, search=BRACKET)


def attempt(work: TableWork, cell: Cell, number: int, value: float | None) -> Attempt:
    return Attempt(
        number=number,
        state="COMPLETE" if value is not None else "FAIL",
        params=cell.params,
        key=work.run(cell.params, cell.seed).key,
        seed=cell.seed,
        value=value,
        status="finished" if value is not None else "diverged",
    )


@pytest.mark.parametrize("seeds", ["2", "auto"])
def test_rates_are_chosen_on_seeds_that_are_not_reported(tmp_path: Path, seeds: str) -> None:
    """The best rate of `none` is the table's, that of `immediate` four times as high."""
    work = work_of(tmp_path, seeds)
    best = {"none": RECIPE.lr, "immediate": 4 * RECIPE.lr}
    attempts: list[Attempt] = []
    tried: dict[int, dict[str, set[float]]] = defaultdict(lambda: defaultdict(set))
    while isinstance(cell := work.next(attempts, 0), Cell):
        lr = work.run(cell.params, cell.seed).recipe.lr
        tried[cell.seed][cell.params["arm"]].add(lr)
        loss = log2(lr / best[cell.params["arm"]]) ** 2 + 0.01 * (cell.seed % 3)
        attempts.append(attempt(work, cell, len(attempts), loss))
    assert cell is Step.DONE
    choosing = tried.pop(7 + FIRST_SEED)
    assert {arm: len(rates) for arm, rates in choosing.items()} == {"none": 3, "immediate": 5}
    assert all(rates == {arm: {best[arm]} for arm in best} for rates in tried.values())
    assert set(tried) <= set(range(7, 17))
    after = work.after(attempts, 0)
    assert after.after(attempts, 0).choices == after.choices
    assert {place["key"] for place in after.places()} <= {a.key for a in attempts}
    assert after.total == len(attempts)
    chosen = {arm.name: arm.recipe.lr for arm in after.resolved.panels[0].arms}
    assert chosen == best
    assert not any(choice.edge for choice in after.choices.values())


def test_a_crash_says_nothing_of_a_rate_and_divergence_does(tmp_path: Path) -> None:
    work = work_of(tmp_path)
    tries = []
    for n, cell in enumerate(work.wanted.values()):
        loss = log2(work.run(cell.params, cell.seed).recipe.lr / RECIPE.lr) ** 2
        tries.append(attempt(work, cell, n, loss if n else None))
    diverged = work.after(tries, 0)
    assert all(choice.chosen is not None for choice in diverged.choices.values())
    crashed = [replace(tries[0], status="failed"), *tries[1:]]
    waits = work.after(crashed, 0)
    undecided = {place["arm"] for place in waits.places() if place["key"] == UNDECIDED}
    assert undecided == {tries[0].params["arm"]}
    assert work.next(crashed, 0) != Step.DONE, "the other arm's seeds"
    again = [*crashed, replace(crashed[0], number=len(tries))]
    assert work.after(again, 0).choices == diverged.choices, "twice is no accident"


def test_what_a_search_will_take_counts_the_runs_that_wait_for_their_rate(tmp_path: Path) -> None:
    work = work_of(tmp_path).after([], 0)
    assert len(work.wanted) == 2 * 3
    assert work.total == 2 * 3 + 2 * 2
    assert {place["key"] for place in work.places()} == {UNDECIDED}
    busy = [
        replace(attempt(work, cell, n, 1.0), state="RUNNING", value=None, status=None)
        for n, cell in enumerate(work.wanted.values())
    ]
    assert work.next(busy, 0) is Step.WAIT


@pytest.mark.slow
def test_a_table_of_searched_rates_says_what_they_cost_and_trains_nothing_twice(
    tmp_path: Path,
) -> None:
    options = ("lr_search=bracket", "lr_search.extensions=0")
    made = make(tmp_path, *options)
    assert made.returncode == 0, made.stderr
    runs = records(tmp_path)
    reported = {key: run for key, run in runs.items() if run["seed"] < FIRST_SEED}
    assert len(runs) == 2 * 3 + 2 * 2
    folder = tmp_path / "outputs" / "tables" / "small"
    frame = pd.read_csv(folder / "table.csv").set_index("arm")
    assert set(" ".join(frame.runs).split()) == set(reported)
    for arm, keys in frame.runs.items():
        assert {runs[key]["recipe"]["lr"] for key in keys.split()} == {frame.lr[arm]}
    spent = sum(8 * 4 * 32 for run in runs.values() if run["seed"] >= FIRST_SEED)
    for form in ("md", "tex", "html"):
        assert f"6 runs more: {spent:,} tokens" in (folder / f"table.{form}").read_text()
    again = make(tmp_path, *options)
    assert "10 of 10 runs done" in again.stdout
    assert len(records(tmp_path)) == len(runs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["lr_search=golden"], "lr_search"),
        (["lr_search=bracket", "lr_search.factors=[1,2]"], "three or more"),
        (["lr_search=bracket", "table=lr_transfer"], "whose arms are learning rates"),
        (
            ["lr_search=bracket", "table=proxy_horizon", "recipe.tokens=40960"],
            "whose arms share the recipe",
        ),
        (["lr_search=bracket", "table=all"], "must be none for table lr_transfer"),
    ],
)
def test_a_wrong_search_is_one_line(tmp_path: Path, given: list[str], words: str) -> None:
    ended = make(tmp_path, *given)
    assert ended.returncode == 2
    (line,) = ended.stderr.strip().splitlines()
    assert re.search(words, line)
    assert not (tmp_path / "outputs").exists()
