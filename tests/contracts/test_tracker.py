"""What every tracker must do. On your own: `--implementation mine.py`."""

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from contract_fixtures import failures_of
from study_fixtures import open_search, records, run, work

from search.show.trackers import TRACKERS, Mirror, Tracker, TrackerConfig, open_tracker
from search.study.ending import describe, report

DOOR = TRACKERS


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    yield tmp_path
    import wandb

    wandb.teardown()


def study_of(folder: Path, implementation: str) -> Any:
    """A study of two finished runs, one start of it after the other."""
    name = Path(implementation).resolve() if implementation.endswith(".py") else implementation
    given = (f"tracker.name={name}", "n_trials=2", "replicates.seeds=1")
    search = open_search(folder, *given)
    work(search)
    search.lock.release()
    return search


@pytest.mark.slow
def test_it_shows_runs_and_the_study_without_trouble(
    implementation: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = study_of(here, implementation)
    report(search, describe(search, finished=True))
    assert "has not taken it" not in capsys.readouterr().out
    shows = search.tracker.tracker.shows
    *states, study = search.tracker.shown.read_text().split() if shows else [""]
    expected = [f"{key}:finished" for key in records(here)] if shows else []
    assert sorted(states) == sorted(expected)
    assert study.startswith("study:" if shows else "")
    before = search.tracker.shown.read_text() if shows else ""
    report(search, describe(search, finished=True))
    after = search.tracker.shown.read_text() if shows else ""
    assert after == before, "the study is shown once as well"


@pytest.mark.slow
def test_it_leaves_records_as_they_are_and_nothing_outside_the_study(
    implementation: str, here: Path
) -> None:
    search = study_of(here, implementation)
    before = {path: path.read_bytes() for path in (here / "runs").rglob("*") if path.is_file()}
    report(search, describe(search, finished=True))
    after = {path: path.read_bytes() for path in (here / "runs").rglob("*") if path.is_file()}
    assert after == before
    known = {".cache", "outputs", "runs", "text.jsonl"}
    assert {path.name for path in here.iterdir()} - {"home", "bad.py", "mine.py"} <= known


@pytest.mark.slow
def test_a_run_is_shown_once_over_all_starts(implementation: str, here: Path) -> None:
    search = study_of(here, implementation)
    shown: list[str] = []

    def mirror() -> None:
        """A start of the study, its tracker made anew."""
        opened = open_tracker(search.config.tracker, "tiny", search.config.folder)
        show = opened.tracker.show_run

        def counted(attempt: Any, record: Any, folder: Path) -> None:
            shown.append(record.run.key)
            show(attempt, record, folder)

        opened.tracker.show_run = counted  # type: ignore[method-assign]
        opened.mirror(search.job.runs, search.attempts())

    for _ in range(2):
        mirror()
    shows = TRACKERS.load(implementation).shows
    assert sorted(shown) == (sorted(records(here)) if shows else [])


def test_an_option_that_it_does_not_take_is_refused_in_one_line(
    implementation: str, here: Path
) -> None:
    config = TrackerConfig(name=implementation, options={"no_such_option": 1})
    with pytest.raises(
        ValueError, match=r"tracker\.options\.no_such_option must be an option of"
    ) as error:
        open_tracker(config, "study", here)
    assert "\n" not in str(error.value)


class Broken(Tracker):
    title = "the wall"

    def __init__(self, error: Exception) -> None:
        self.error = error

    def show_study(self, *_: Any) -> None:
        raise self.error


def test_trouble_of_a_tracker_is_said_once_and_does_no_harm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = Mirror(Broken(RuntimeError("no paint\nat all")), tmp_path / "shown.txt")
    for _ in range(2):
        mirror.summarise(tmp_path, {}, tmp_path / "plot.png")
    said = capsys.readouterr().out
    assert said.startswith("the wall has not taken it: no paint; the study goes on without")
    assert said.count("\n") == 1


def test_trackers_of_one_package_do_not_share_the_list_of_what_was_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "walls").mkdir()
    for name in ("north", "south"):
        source = "from search.show.trackers.none import TRACKER"
        (tmp_path / "walls" / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    configs = [TrackerConfig(name=f"walls.{name}") for name in ("north", "south")]
    north, south = (open_tracker(config, "study", tmp_path) for config in configs)
    assert north.shown != south.shown


def test_a_full_disk_is_the_studys_trouble_too(tmp_path: Path) -> None:
    mirror = Mirror(Broken(OSError(errno.ENOSPC, "full")), tmp_path / "shown.txt")
    with pytest.raises(OSError, match="full"):
        mirror.summarise(tmp_path, {}, tmp_path / "plot.png")


def test_jsonl_has_a_line_for_each_run(here: Path) -> None:
    search = study_of(here, "jsonl")
    describe(search, finished=True)
    lines = (search.config.folder / "runs.jsonl").read_text().splitlines()
    for line in map(json.loads, lines):
        record = records(here)[line["key"]]
        assert line["val_bpb"] == record["readings"][-1]["val_bpb"]
        assert line["architecture"] == record["architecture"]
    assert len(lines) == 2


MINE = '''
"""Writes a line per run to a file."""

from search.show.trackers import Tracker


class Mine(Tracker):
    title = "the list"

    def __init__(self, config, study, folder, file="list.txt"):
        self.path = folder / file

    def show_run(self, attempt, record, folder):
        with open(self.path, "a") as file:
            file.write(f"{record.run.key} {record.value('val_bpb')}\\n")

    def show_study(self, runs, content, plot):
        with open(self.path, "a") as file:
            file.write(f"{content['study']}\\n")


TRACKER = Mine
'''


@pytest.mark.slow
def test_a_tracker_of_ones_own_sees_a_search(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    given = ("tracker=mine.py", "+tracker.options.file=seen.txt", "n_trials=2")
    done = run(tmp_path, *given, "replicates.seeds=1")
    assert done.returncode == 0, done.stderr
    *runs, study = (tmp_path / "outputs" / "tiny" / "seen.txt").read_text().splitlines()
    known = records(tmp_path)
    values = {key: record["readings"][-1]["val_bpb"] for key, record in known.items()}
    assert {line.split()[0]: float(line.split()[1]) for line in runs} == values
    assert study == "tiny"


BAD = """
class Bad:
    title, shows = "bad", True

    def __init__(self, config, study, folder, **options):
        pass

    def show_run(self, attempt, record, folder):
        (folder / "record.json").unlink()

    def show_study(self, runs, content, plot):
        raise RuntimeError("no")


TRACKER = Bad
"""


@pytest.mark.slow
def test_the_contract_names_what_a_bad_tracker_lacks(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(BAD)
    assert {
        "test_it_shows_runs_and_the_study_without_trouble",
        "test_it_leaves_records_as_they_are_and_nothing_outside_the_study",
        "test_an_option_that_it_does_not_take_is_refused_in_one_line",
    } <= failures_of(Path(__file__), tmp_path / "bad.py")
