"""Damage to what is kept is noticed, named, set aside and done again."""

import json
import shutil
import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import optuna
import pytest
import torch
from study_fixtures import open_search, records, run, study_json, work

from reports.read.study import read_study
from search.data.packed import Data
from search.models import stored_run
from search.record import Record
from search.runs import asked_run, read_metrics, read_record, write_record
from search.study.ending import describe
from search.study.storage import damaged, open_storage, read_attempts, require_settings
from search.train.loop import Stop, train
from search.train.placement import Placement

ROOT = Path(__file__).parents[3]
FLIPS = 150
HERE = Placement(device="cpu", threads=1, checkpoint_s=1e6)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def flipped(content: bytes, source: Random) -> bytes:
    """With one bit changed."""
    changed = bytearray(content)
    changed[source.randrange(len(changed))] ^= 1 << source.randrange(8)
    return bytes(changed)


def unnoticed(path: Path, read: Callable[[], Any]) -> list[int]:
    """Of `FLIPS` single flipped bits, those with which something else was read."""
    whole, content, missed = read(), path.read_bytes(), []
    for number in range(FLIPS):
        path.write_bytes(flipped(content, Random(number)))
        try:
            if read() != whole:
                missed.append(number)
        except ValueError:
            pass
    path.write_bytes(content)
    assert read() == whole
    return missed


@pytest.fixture
def trained(here: Path) -> Path:
    """The folder of a run that has ended."""
    work(open_search(here, "n_trials=1", "replicates.seeds=1", "keep=all"))
    (path,) = (here / "runs").glob("*/record.json")
    return path.parent


def test_flipped_bits_of_a_record_are_noticed(trained: Path) -> None:
    assert unnoticed(trained / "record.json", lambda: read_record(trained)) == []


def test_flipped_bits_of_a_curve_are_noticed(trained: Path) -> None:
    record = read_record(trained)
    assert record is not None
    known = record.files["metrics.jsonl"]
    assert unnoticed(trained / "metrics.jsonl", lambda: list(read_metrics(trained, known))) == []


def test_flipped_bits_of_what_was_asked_for_are_noticed(trained: Path) -> None:
    assert unnoticed(trained / "run.yaml", lambda: asked_run(trained)) == []


def test_flipped_bits_of_weights_are_noticed(trained: Path) -> None:
    path = trained / "weights.safetensors"
    content = path.read_bytes()
    for number in range(40):
        path.write_bytes(flipped(content, Random(number)))
        with pytest.raises(ValueError, match=r"weights\.safetensors must be as it was written"):
            stored_run(trained, "cache")
    path.write_bytes(content)
    stored_run(trained, "cache")


def test_flipped_bits_of_study_json_are_noticed(here: Path) -> None:
    search = open_search(here, "n_trials=1", "replicates.seeds=1")
    work(search)
    describe(search, finished=True)
    path = here / "outputs" / "tiny" / "study.json"
    assert unnoticed(path, lambda: read_study("tiny").facts) == []


def interrupted(run: Any, data: Data, folder: Path, at: int) -> Path:
    """The checkpoint of a run that was stopped after a step."""

    def stop(event: dict[str, Any]) -> None:
        if event["step"] == at:
            raise Stop

    with pytest.raises(Stop):
        train(run, data, folder, placement=HERE, progress=stop)
    return folder / "checkpoint" / "state.pt"


def curve(folder: Path) -> list[dict[str, Any]]:
    """Without the clock."""
    lines = [dict(line) for line in read_metrics(folder)]
    return [{k: v for k, v in line.items() if k != "elapsed_s"} for line in lines]


@pytest.fixture
def runs(here: Path) -> tuple[Any, Any, Data]:
    """Two runs of one shape, and their data."""
    from search.data.cache import open_data

    search = open_search(here, "n_trials=1")
    own = search.job.work.typical
    return own, replace(own, seed=5, init_seed=5), open_data(search.job.data)


def test_no_flipped_bit_of_a_checkpoint_is_resumed_from(
    here: Path, runs: tuple[Any, Any, Data]
) -> None:
    own, _, data = runs
    train(own, data, here / "whole", placement=HERE)
    path = interrupted(own, data, here / "halves", at=5)
    content = path.read_bytes()
    for number in range(12):
        shutil.rmtree(here / "halves")
        path.parent.mkdir(parents=True)
        path.write_bytes(flipped(content, Random(number)))
        train(own, data, here / "halves", placement=HERE)
        assert curve(here / "halves") == curve(here / "whole"), number


def test_a_checkpoint_of_another_run_is_not_resumed_from(
    here: Path, runs: tuple[Any, Any, Data], capsys: pytest.CaptureFixture[str]
) -> None:
    own, other, data = runs
    train(own, data, here / "whole", placement=HERE)
    theirs = interrupted(other, data, here / "other", at=5)
    path = interrupted(own, data, here / "halves", at=5)
    shutil.copy(theirs, path)
    train(own, data, here / "halves", placement=HERE)
    assert curve(here / "halves") == curve(here / "whole")
    assert f"it belongs to run {other.key}" in capsys.readouterr().out


def test_a_checkpoint_without_a_digest_is_gone_on_from(
    here: Path, runs: tuple[Any, Any, Data]
) -> None:
    own, _, data = runs
    train(own, data, here / "whole", placement=HERE)
    path = interrupted(own, data, here / "halves", at=5)
    saved = torch.load(path, weights_only=True)
    for name in ("key", "curve"):
        del saved[name]
    torch.save(saved, path)
    steps: list[int] = []
    train(own, data, here / "halves", placement=HERE, progress=lambda e: steps.append(e["step"]))
    assert steps[0] == 6
    assert curve(here / "halves") == curve(here / "whole")


@pytest.mark.parametrize("damage", [b"", b'{"step": 1, "tokens": 12', b"\xff" * 3000])
def test_a_damaged_curve_is_put_back_when_its_run_goes_on(
    here: Path, runs: tuple[Any, Any, Data], damage: bytes
) -> None:
    own, _, data = runs
    train(own, data, here / "whole", placement=HERE)
    interrupted(own, data, here / "halves", at=5)
    (here / "halves" / "metrics.jsonl").write_bytes(damage)
    train(own, data, here / "halves", placement=HERE)
    assert curve(here / "halves") == curve(here / "whole")
    assert (here / "halves" / "metrics.jsonl.corrupt").read_bytes() == damage


TWO = ("n_trials=2", "replicates.seeds=1")


@pytest.fixture
def done(here: Path) -> dict[str, dict[str, Any]]:
    """The records of a study with two runs, by key."""
    search = open_search(here, *TWO)
    work(search)
    describe(search, finished=True)
    search.lock.release()
    return records(here)


@pytest.mark.parametrize(
    "change",
    [
        "update trial_values set value = value - 1 where trial_id = 1",
        "update trial_params set param_value = 1 where trial_id = 1",
        "update trial_user_attributes set value_json = '7' where trial_id = 1 and key = 'seed'",
        "update trial_user_attributes set value_json = '{}' where trial_id = 1 and key = 'cell'",
        "delete from trial_user_attributes where trial_id = 1 and key = 'result_id'",
        "delete from trial_user_attributes where trial_id = 1 and key = 'seal'",
    ],
    ids=lambda change: change.split("where")[0].split("set")[0] + change.split("=")[-1],
)
def test_a_trial_that_changed_in_the_database_is_left_out_and_its_record_taken(
    here: Path, done: dict[str, dict[str, Any]], change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(sqlite3.connect(here / "outputs" / "tiny" / "study.db")) as database, database:
        assert database.execute(change).rowcount == 1
    search = open_search(here, *TWO)
    said = "warning: 1 trial (0) of study tiny is not in the storage as written and left out"
    assert said in capsys.readouterr().out
    assert search.count_done() == 1
    work(search)
    assert records(here) == done, "nothing was trained again"
    assert search.count_done() == 2
    describe(search, finished=True)
    assert sorted(t["value"] for t in study_json(here)["trials"]) == sorted(
        record["readings"][-1]["val_bpb"] for record in done.values()
    )


def test_settings_that_changed_in_the_database_are_no_change_of_the_users(
    here: Path, done: object
) -> None:
    with closing(sqlite3.connect(here / "outputs" / "tiny" / "study.db")) as database, database:
        change = "update study_user_attributes set value_json = replace(value_json, '1024', '1025')"
        assert database.execute(f"{change} where key = 'settings'").rowcount == 1
    with pytest.raises(ValueError, match="but its settings have another digest; move it away"):
        open_search(here, *TWO)


def test_trials_of_earlier_versions_have_no_seals(
    here: Path, done: dict[str, dict[str, Any]]
) -> None:
    with closing(sqlite3.connect(here / "outputs" / "tiny" / "study.db")) as database, database:
        database.execute("delete from trial_user_attributes where key = 'seal'")
        database.execute("delete from study_user_attributes where key = 'seals'")
    assert open_search(here, *TWO).count_done() == 2


def test_flipped_bits_of_the_database_are_noticed(here: Path, done: object) -> None:
    path = here / "outputs" / "tiny" / "study.db"

    def read() -> Any:
        storage = open_storage(f"sqlite:///{path}")
        try:
            study = optuna.load_study(study_name="tiny", storage=storage.as_optunas)
            require_settings("tiny", study.user_attrs)
            if damaged(study):
                raise ValueError
            return read_attempts(study), study.user_attrs["settings"]
        finally:
            storage.engine.dispose()

    assert unnoticed(path, read) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content[:5000], "malformed"),
        (lambda content: b"x" * len(content), "file is not a database"),
        (lambda content: content.replace(b'"explore"', b'"exp\xffore"'), "as it was written, but"),
    ],
    ids=["cut", "none", "text"],
)
def test_a_damaged_database_is_one_line_that_says_what_to_do(
    here: Path, done: dict[str, dict[str, Any]], change: Callable[[bytes], bytes], words: str
) -> None:
    path = here / "outputs" / "tiny" / "study.db"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=words) as caught:
        open_search(here, *TWO)
    assert "\n" not in str(caught.value)
    assert "move it away, and the same command" in str(caught.value)
    path.unlink()
    search = open_search(here, *TWO)
    work(search)
    assert records(here) == done


def results(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {key: record["readings"] for key, record in found.items()}


def test_a_run_whose_record_is_damaged_is_done_again_on_the_next_start(
    here: Path, done: dict[str, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    key = min(done)
    path = here / "runs" / key / "record.json"
    path.write_bytes(flipped(path.read_bytes(), Random(1)))
    search = open_search(here, *TWO)
    assert search.count_done() == 1
    said = capsys.readouterr().out
    assert f"{key}/record.json" in said
    assert "set aside as record.json.corrupt" in said
    assert search.estimate().left.runs == 1
    work(search)
    assert results(records(here)) == results(done)
    assert search.count_done() == 2


def test_a_promise_to_do_a_run_again_is_kept_by_later_starts(
    here: Path, done: dict[str, dict[str, Any]]
) -> None:
    path = here / "runs" / min(done) / "record.json"
    path.rename(path.with_name("record.json.corrupt"))
    assert open_search(here, *TWO).count_done() == 1  # and then it was stopped
    search = open_search(here, *TWO)
    work(search)
    assert search.count_done() == 2
    assert results(records(here)) == results(done)


def test_a_record_that_was_exchanged_for_a_sound_one_is_noticed(
    here: Path, done: dict[str, dict[str, Any]]
) -> None:
    folder = here / "runs" / min(done)
    record = read_record(folder)
    assert record is not None
    lower = tuple(replace(r, val_bpb=0.5, val_loss=0.5) for r in record.readings)
    write_record(folder, replace(record, readings=lower))
    study = read_study("tiny")
    assert [name for name, _ in study.missing] == [folder.name]
    assert sorted(study.trials.status) == ["finished", "missing"]
    search = open_search(here, *TWO)
    work(search)
    assert results(records(here)) == results(done)


def test_scores_that_were_added_are_no_exchange(
    here: Path, done: dict[str, dict[str, Any]]
) -> None:
    from study_fixtures import with_scores

    folder = here / "runs" / min(done)
    record = read_record(folder)
    assert record is not None
    write_record(folder, with_scores(record, {"piqa": {"acc": 0.5}}))
    assert open_search(here, *TWO).count_done() == 2
    assert read_study("tiny").missing == []


def test_a_folder_without_any_of_the_records_is_refused(
    here: Path, done: dict[str, dict[str, Any]]
) -> None:
    with pytest.raises(ValueError, match="runs must be the folder with the 2 records"):
        open_search(here, *TWO, "runs=typo")


def test_one_byte_that_is_no_utf_8_stops_no_report(
    here: Path, done: dict[str, dict[str, Any]]
) -> None:
    folder = here / "runs" / min(done)
    content = (folder / "metrics.jsonl").read_bytes()
    (folder / "metrics.jsonl").write_bytes(content[:9] + b"\xff" + content[10:])
    study = read_study("tiny")
    ((name, reason),) = study.missing
    assert name == folder.name
    assert "metrics.jsonl" in reason
    assert list(study.trials.status) == ["finished", "finished"]
    assert set(study.curves) == set(done) - {folder.name}


def without_digests(folder: Path) -> None:
    """A run's folder as earlier versions left it."""
    path = folder / "record.json"
    values = json.loads(path.read_text())
    for name in ("digest", "files"):
        del values[name]
    path.write_text(json.dumps(values, indent=1) + "\n")
    text = (folder / "run.yaml").read_text()
    (folder / "run.yaml").write_text(text.partition("# digest")[0])


def test_runs_without_digests_are_read_as_before(trained: Path) -> None:
    before, asked = read_record(trained), asked_run(trained)
    assert before is not None
    without_digests(trained)
    assert read_record(trained) == replace(before, files={})
    assert asked_run(trained) == asked
    stored_run(trained, "cache")


def test_what_decides_a_result_is_noticed_without_a_digest_too(trained: Path) -> None:
    without_digests(trained)
    path = trained / "record.json"
    values = json.loads(path.read_text())
    changes: list[dict[str, Any]] = [
        {"seed": 7},
        {"recipe": {**values["recipe"], "lr": 0.5}},
        {"architecture": {**values["architecture"], "rope_theta": 12.0}},
    ]
    for change in changes:
        path.write_text(json.dumps({**values, **change}))
        with pytest.raises(ValueError, match="describes the run"):
            read_record(trained)


def published() -> list[Path]:
    return sorted((ROOT / "reports" / "results").glob("*/records.tar.xz"))


@pytest.mark.parametrize("path", published(), ids=lambda path: str(path.parent.name))
def test_published_records_are_read(path: Path, tmp_path: Path) -> None:
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path, filter="data")
    folders = sorted(path.parent for path in tmp_path.rglob("record.json"))
    found = [read_record(folder) for folder in folders]
    assert folders
    assert all(isinstance(record, Record) for record in found)


@pytest.mark.slow
def test_the_whole_command_does_a_damaged_run_again(here: Path) -> None:
    assert run(here, *TWO).returncode == 0
    before = records(here)
    path = here / "runs" / min(before) / "record.json"
    path.write_bytes(path.read_bytes()[:200])
    again = run(here, *TWO)
    assert again.returncode == 0, again.stderr
    assert "1 of 2 runs done" in again.stdout
    assert results(records(here)) == results(before)
    assert study_json(here)["finished"]
