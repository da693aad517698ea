"""Which studies and tables each run belongs to."""

import json
import sys
from pathlib import Path

import pytest
from report_fixtures import StudyFolder, ladder
from study_fixtures import open_search, work

from search.runs import asked_run, write_run
from search.study.leases import WORKER
from search.study.storage import leases_of
from search.whose import Kept, WhoseConfig, asked, folders_of, in_words, kept, main


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def look(**given: str) -> dict[str, Kept]:
    config = WhoseConfig(**given)
    owners, running = asked(config)
    return {folder.name: kept(folder, owners, running) for folder in folders_of(config)}


def of(found: Kept) -> list[str]:
    return [str(owner) for owner in found.of]


def test_a_run_belongs_to_every_study_and_table_that_names_it_or_to_none(here: Path) -> None:
    deep, wide, nobody = ladder([3, 4, 6])
    one, two, table = StudyFolder(here, "one"), StudyFolder(here, "two"), StudyFolder(here, "x")
    shared, own, lost = one.add(deep), one.add(wide), StudyFolder(here).add(nobody)
    two.add(deep)
    two.trials[0]["params"] = {"num_blocks": 3, "heads_per_kv": 2}
    table.add(deep, params={"panel": "a", "arm": "none"})
    for study in (one, two):
        study.write()
    (here / "outputs" / "tables").mkdir()
    table.write().rename(here / "outputs" / "tables" / "heads")
    found = look()
    assert of(found[shared]) == ["one: trial 0", "tables/heads: none", "two: heads_per_kv 2"]
    assert of(found[own]) == ["one: trial 1"]
    assert of(found[lost]) == []
    text = in_words(list(found.values()), "outputs").splitlines()
    assert len(text) == 5
    assert "3 layers × " in "".join(text)
    assert text[-1].startswith("3 runs, ")
    assert "; 1 of no study or table of outputs, " in text[-1]


def test_runs_of_a_study_that_has_described_none_are_known_by_its_storage(here: Path) -> None:
    search = open_search(here, "n_trials=1", "replicates.seeds=1")
    work(search)
    (done,) = look().values()
    assert (of(done), done.state) == (["tiny: trial 0"], "finished")
    assert not (here / "outputs" / "tiny" / "study.json").exists()
    begun, stopped = ("0123456789abcdef", "fedcba9876543210")
    for key in (begun, stopped):
        (here / "runs" / key).mkdir()
        write_run(here / "runs" / key, asked_run(here / "runs" / done.run))
    leases = leases_of(search.study, "one:1")
    leases.said = {"key": begun}
    assert leases.claim(f"{WORKER}/{leases.holder}")
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*")}
    found = look()
    assert {path: path.stat().st_mtime_ns for path in here.rglob("*")} == before
    assert (found[begun].state, found[stopped].state) == ("running", "unfinished")


def test_runs_of_a_shared_storage_are_known(here: Path) -> None:
    url = f"sqlite:///{here}/elsewhere.db"
    work(open_search(here, "n_trials=1", "replicates.seeds=1", f"storage={url}"))
    assert not (here / "outputs").exists()
    (found,) = look(storage=url).values()
    assert of(found) == ["tiny: trial 0"]


def test_the_beginning_of_a_key_is_enough_and_what_is_damaged_is_named(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = StudyFolder(here, "one")
    keys = [study.add(arch) for arch in ladder([3, 4])]
    study.write()
    (here / "outputs" / "broken").mkdir()
    (here / "outputs" / "broken" / "study.json").write_text("{")
    (here / "runs" / keys[0] / "record.json").write_text("{")
    monkeypatch.setattr(sys, "argv", ["whose", f"run={keys[0][:6]}", "format=json"])
    main()
    said = capsys.readouterr()
    (run,) = json.loads(said.out)
    assert (run["run"], run["state"], run["of"][0]["study"]) == (keys[0], "damaged", "one")
    assert "warning: outputs/broken/study.json cannot be read" in said.err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["run=nothere"], "run must be a run of runs, or the beginning of its key"),
        (["runs=nowhere"], "runs must be a folder that is there, but nowhere is not"),
        (["format=xml"], "format must be text or json"),
    ],
)
def test_what_is_not_there_is_one_line(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: list[str],
    said: str,
) -> None:
    StudyFolder(here).add(ladder([3])[0])
    monkeypatch.setattr(sys, "argv", ["whose", *given])
    with pytest.raises(SystemExit, match="2"):
        main()
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
