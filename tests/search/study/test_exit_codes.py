"""Exit code 0 is for a complete study with its report."""

import shutil
import sys
from pathlib import Path

import pytest
from report_fixtures import default_study
from study_fixtures import command, configured, open_search, run, study_json, work, write_text

from reports.__main__ import ReportsConfig
from reports.read.study import read_study
from search.__main__ import main
from search.__main__ import open_search as open_session
from search.states import End
from search.study.ending import conclude, finish, make_report
from search.study.pool import Ending, Pool
from space.app import configuration

NAMES = ["a=b, c", "x[1]", "o (1)", 'say "no"', "it's", "книги", "8e5", "a\\", "{a: 1}", "$x"]


@pytest.mark.parametrize("name", NAMES)
def test_reports_get_the_names_that_a_study_has(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []

    class Made:
        returncode = 0

    def started(command: list[str], **_: object) -> Made:
        given.extend(command[3:])
        return Made()

    monkeypatch.setattr("subprocess.run", started)
    assert make_report({"study": name, "outputs": f"in {name}"})
    config = configuration("reports", ReportsConfig, given)
    assert (config.study, config.outputs) == (name, f"in {name}")


@pytest.mark.slow
@pytest.mark.parametrize("options", [("outputs='o (1)'",), ("study='a=b, c'",), ("study='x[1]'",)])
def test_a_study_of_any_name_gets_its_report(options: tuple[str, ...], tmp_path: Path) -> None:
    ended = run(tmp_path, *options, "n_trials=1", "replicates.seeds=1", "report=true")
    assert ended.returncode == 0, ended.stderr
    assert len(list(tmp_path.glob("*/*/report.html"))) == 1


@pytest.mark.slow
def test_a_report_that_failed_is_no_success(tmp_path: Path) -> None:
    blocked = tmp_path / "outputs" / "tiny" / "report.html"
    blocked.mkdir(parents=True)
    ended = run(tmp_path, "n_trials=1", "replicates.seeds=1", "report=true")
    assert "the report could not be made" in ended.stderr
    assert ended.returncode == 1


def test_a_study_whose_runs_all_diverged_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path)
    search = open_search(tmp_path, "n_trials=2", "recipe.lr=1e15")
    work(search)
    ending = Ending(End.DONE)
    assert finish(search, ending, conclude(search, ending)) == 1
    assert "error: all 2 runs diverged: loss" in capsys.readouterr().err


def test_stopped_while_the_page_is_written_says_what_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_text(tmp_path)
    monkeypatch.chdir(tmp_path)
    given = ["n_trials=1", "replicates.seeds=1", "report=true", "executor=inline"]
    monkeypatch.setattr(sys, "argv", ["search", *command(tmp_path, *given)[3:]])

    def stopped(_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr("search.study.ending.make_report", stopped)
    with pytest.raises(SystemExit, match="130"):
        main()
    said = "stopped before the page was written; 1 of 1 runs are done, and the same command writes"
    assert capsys.readouterr().err.strip() == f"{said} it"


def test_what_shows_the_same_again_keeps_the_command_that_trained_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path)
    monkeypatch.chdir(tmp_path)

    def asked(*given: str) -> tuple[str, int]:
        options = configured(tmp_path, *given)
        search = open_session(options, given)
        if options.train:
            work(search)
            conclude(search, Ending(End.DONE))
        search.lock.release()
        said = study_json(tmp_path)
        assert said["config"]["n_trials"] == said["n_trials"]
        return said["command"], said["n_trials"]

    two = "python -m search n_trials=2 replicates.seeds=1", 2
    assert asked("n_trials=2", "replicates.seeds=1") == two
    assert asked("n_trials=1", "replicates.seeds=1") == two, "it shows both runs"
    assert asked("n_trials=1", "replicates.seeds=1", "train=false") == two
    columns = asked("n_trials=2", "replicates.seeds=1", "columns=[kv_bytes]")
    assert "columns" in columns[0], "it shows something else"
    assert asked("n_trials=3", "replicates.seeds=1")[1] == 3


def test_a_study_whose_runs_are_in_progress_elsewhere_is_not_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    search = open_search(tmp_path, "n_trials=2")
    cell = search.work.next([], 0)
    run_of = search.work.run(cell.params, cell.seed)
    other = search.study.ask()
    for name, value in {"cell": dict(cell.params), "seed": cell.seed, "key": run_of.key}.items():
        other.set_user_attr(name, value)
    assert finish(search, Ending(End.DONE), reported=True) == 1
    assert "0 of 2 runs; 1 in progress elsewhere" in capsys.readouterr().out


def test_a_good_report_stays_where_no_record_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = default_study(tmp_path)
    with pytest.raises(ValueError, match=r"runs must be the folder with the records of 21 "):
        read_study(study.name, tmp_path / "outputs", runs="typo")
    shutil.rmtree(study.runs / study.trials[0]["key"])
    assert len(read_study(study.name, tmp_path / "outputs").missing) == 1


def test_a_stop_after_the_last_run_is_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And before it the study goes on later."""
    monkeypatch.chdir(tmp_path)
    session = open_search(tmp_path, "n_trials=2", "replicates.top=0", "executor=inline")
    trained = Pool.run

    def stopped_at_the_end(pool: Pool) -> Ending:
        trained(pool)
        return Ending(End.INTERRUPTED)

    monkeypatch.setattr(Pool, "run", lambda pool: Ending(End.INTERRUPTED))
    assert session.train(session.estimate()).kind == End.INTERRUPTED
    monkeypatch.setattr(Pool, "run", stopped_at_the_end)
    assert session.train(session.estimate()).kind == End.DONE
