"""What a search's page says of its confirmation: as much as has finished, in the order it has."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from report_fixtures import RECIPE, StudyFolder, bits_per_byte, default_study, ladder

from ablations.cells import TableWork
from ablations.facts import table_facts
from ablations.table import Arm, Panel, Table
from reports.__main__ import render
from reports.read.study import read_study
from reports.views.confirm import Confirmation, confirmed
from search.record import Reading, Record
from search.runs import write_record
from space.budget import Budget

ARMS = ("baseline", "a", "b")


def confirm(study: StudyFolder, done: Mapping[str, range], runs: Path | None = None) -> Path:
    """A table that confirms a study over five seeds, of which these, by arm, have finished."""
    arms = [
        Arm(name=name, architecture=architecture, recipe=RECIPE)
        for name, architecture in zip(ARMS, ladder((5, 6, 12)), strict=True)
    ]
    budget = Budget("parameters", 1_000_000)
    panel = Panel(name="the best", budget=budget, baseline="baseline", arms=tuple(arms))
    table = Table(name=f"confirm_{study.name}", caption="", seeds=5, panels=(panel,))
    work = TableWork(table=table, data_fingerprint="5f0c9", first_seed=10)
    for cell in work.cells.values():
        if cell.seed - 10 in done[cell.params["arm"]]:
            run = work.run(cell.params, cell.seed)
            drift = 0.5 * (cell.seed - 10)
            reading = Reading(
                tokens=RECIPE.tokens,
                val_loss=4.0,
                val_bpb=drift + bits_per_byte(run.architecture, run.seed),
            )
            folder = (runs or study.runs) / run.key
            folder.mkdir(parents=True)
            write_record(folder, Record(run=run, status="finished", readings=(reading,)))
    folder = study.root / "outputs" / "tables" / table.name
    folder.mkdir(parents=True)
    facts = {
        "table": table_facts(table),
        "places": list(work.places()),
        "metric": "val_bpb",
        "runs": str(study.runs),
        "trials": [],
    }
    (folder / "study.json").write_text(json.dumps(facts))
    return folder / "study.json"


def found(study: StudyFolder, runs: Path | None = None) -> Confirmation | None:
    return confirmed(study.name, study.root / "outputs", runs and str(runs))


def told(study: StudyFolder, runs: Path | None = None) -> Confirmation:
    confirmation = found(study, runs)
    assert confirmation is not None
    return confirmation


@pytest.mark.parametrize(
    ("done", "opening"),
    [
        ((range(3), range(4), range(3)), "Confirmed over 3 of 5 fresh seeds, best first: "),
        ((range(3), range(3), range(2, 5)), "Confirmed over 1 of 5 fresh seeds, best first: "),
        (
            (range(0), range(2), range(2)),
            "None of 5 fresh seeds has a result of all, best first: a (no seed in ",
        ),
    ],
    ids=["nested", "not nested", "no baseline"],
)
def test_only_seeds_that_all_arms_have_finished_are_counted(
    tmp_path: Path, done: tuple[range, ...], opening: str
) -> None:
    study = default_study(tmp_path)
    confirm(study, dict(zip(ARMS, done, strict=True)))
    assert told(study).words.startswith(opening)


def test_the_order_is_that_at_equal_seeds(tmp_path: Path) -> None:
    """Later seeds are harder, and the worst arm has not had them."""
    study = default_study(tmp_path)
    confirm(study, {"baseline": range(5), "a": range(5), "b": range(2)})
    _, order = told(study).words.split("best first: ")
    assert [text.split(" ")[0] for text in order.split("; ")][-1] == "b", order


def test_an_arm_without_a_shared_seed_comes_last_and_says_so(tmp_path: Path) -> None:
    study = default_study(tmp_path)
    confirm(study, {"baseline": range(2), "a": range(2, 4), "b": range(2)})
    assert told(study).words.endswith("a (no seed in common, unresolved).")


def test_nothing_is_said_before_a_run_has_finished(tmp_path: Path) -> None:
    study = default_study(tmp_path)
    confirm(study, dict.fromkeys(ARMS, range(0)))
    assert found(study) is None


def test_runs_are_read_where_they_are_asked_for(tmp_path: Path) -> None:
    study, elsewhere = default_study(tmp_path), tmp_path / "elsewhere"
    confirm(study, dict.fromkeys(ARMS, range(5)), elsewhere)
    assert found(study) is None
    assert told(study, elsewhere).words.startswith("Confirmed over 5 fresh seeds")
    shutil.copytree(tmp_path / "runs", elsewhere, dirs_exist_ok=True)  # of the search itself
    page = render(read_study(study.name, tmp_path / "outputs", str(elsewhere)))["report.html"]
    assert "Confirmed over 5 fresh seeds" in page.decode()


def test_a_damaged_confirmation_is_a_line_of_the_page(tmp_path: Path) -> None:
    study = default_study(tmp_path)
    path = confirm(study, dict.fromkeys(ARMS, range(1)))
    text = path.read_text()
    for damaged in (text[:-9], text.replace('"schedule"', '"of_another_version"')):
        path.write_text(damaged)
        page = render(read_study(study.name, tmp_path / "outputs"))["report.html"].decode()
        assert "The confirmation of this search cannot be read: " in page
        assert "start the same table again" in page


def cut(*where: str | int) -> Callable[[dict[str, Any]], object]:
    """An edit that takes something out of a `study.json`."""

    def edit(facts: Any) -> None:
        for step in where[:-1]:
            facts = facts[step]
        del facts[where[-1]]

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        cut("table", "panels", 0, "budget"),
        cut("table", "panels", 0, "baseline"),
        cut("table", "panels", 0, "name"),
        cut("table", "panels", 0, "arms", 0, "published"),
        cut("table", "panels", 0),
        cut("places", 0, "key"),
        lambda facts: facts.update(places=[]),
        lambda facts: facts.update(places=5),
        lambda facts: facts["table"].update(lr_search={"factors": [1]}),
    ],
    ids=[
        "no budget",
        "no baseline",
        "no name",
        "no published",
        "no panels",
        "no key",
        "no places",
        "a number of places",
        "no tries",
    ],
)
def test_a_confirmation_that_lacks_anything_is_one_line(
    tmp_path: Path, edit: Callable[[dict[str, Any]], object]
) -> None:
    study = default_study(tmp_path)
    path = confirm(study, dict.fromkeys(ARMS, range(2)))
    facts = json.loads(path.read_text())
    edit(facts)
    path.write_text(json.dumps(facts))
    unread = told(study)
    wanted = f"The confirmation of this search cannot be read: {path} must describe"
    assert unread.words.startswith(wanted)
    assert unread.table is None
