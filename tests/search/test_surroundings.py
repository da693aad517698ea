"""What surrounds a command: locales, homes, shared caches, variables of W&B, signals."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import hanging_fixtures
import pytest
from hanging_fixtures import Hanging
from study_fixtures import command, environment, write_text

from search.data.cache import prepare
from search.data.config import DataConfig
from search.show.trackers import TrackerConfig, open_tracker
from search.study.pool import Pool
from search.study.samplers import SamplerConfig, make_sampler, worker_seed
from search.train.kernels import _cache
from space.files import write_atomically

SPACE = ["-m", "space", "budget=1m", "vocab_size=1024", "space=gqa"]


@pytest.mark.parametrize(
    "given",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"PYTHONIOENCODING": "ascii"},
    ],
    ids=str,
)
def test_a_locale_that_is_not_utf8_stops_nothing(given: dict[str, str]) -> None:
    command = [sys.executable, *SPACE]
    done = subprocess.run(command, env=environment() | given, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    usual = subprocess.run(command, env=environment(), capture_output=True).stdout
    escaped = usual.decode().encode("ascii", "backslashreplace")
    assert done.stdout in (usual, escaped)


ASCII = {
    "LC_ALL": "POSIX",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONUTF8": "0",
    "PYTHONIOENCODING": "ascii",
}
WHOLE = ("n_trials=2", "replicates.seeds=1", "keep=all", "report=true")


def every_verb(folder: Path, *before: str, given: dict[str, str]) -> None:
    """From a study to an export and its page, each as a command in `folder`, run by `before`."""
    search = command(folder, *WHOLE)
    verbs = [
        search,
        [*search[:2], "reports", "study=tiny"],
        [*search[:2], "search.status", "study=tiny"],
        [*search[:2], "space", "export=best", "study=tiny", 'to="книга"'],
        [*search[:2], "ablations", "table=help"],
    ]
    surroundings = {k: v for k, v in environment().items() if k not in ("HOME", "USER", "LOGNAME")}
    for verb in verbs:
        done = subprocess.run(
            [*before, *verb],
            cwd=folder,
            env={**surroundings, "XDG_CACHE_HOME": str(folder / "cache"), **given},
            capture_output=True,
        )
        assert done.returncode == 0, f"{verb}\n{done.stdout!r}\n{done.stderr!r}"
        assert b"Traceback" not in done.stdout + done.stderr
    page = (folder / "outputs" / "tiny" / "report.html").read_text("utf-8")
    assert "bits per byte" in page
    assert (folder / "книга" / "model.safetensors").is_file()


@pytest.mark.slow
def test_every_verb_works_where_nothing_is_utf8(tmp_path: Path) -> None:
    every_verb(tmp_path, given=ASCII)


@pytest.mark.slow
def test_every_verb_works_for_a_user_without_a_name_or_a_home(tmp_path: Path) -> None:
    """As in a container that is run with `--user 54321`."""
    as_user = ["unshare", "--user", "--map-user=54321", "--map-group=54321"]
    if subprocess.run([*as_user, "true"], capture_output=True).returncode:
        pytest.skip("this kernel lets nobody make a user namespace")
    every_verb(tmp_path, *as_user, given={})


# --- Caches ---------------------------------------------------------------------------------------


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A umask by which a group shares what its members make."""
    before = os.umask(0o002)
    yield
    os.umask(before)


def text_config(folder: Path) -> DataConfig:
    write_text(folder)
    path, cache = str(folder / "text.jsonl"), str(folder / "cache")
    return DataConfig(source="text", path=path, vocab_size=300, cache=cache)


@pytest.mark.usefixtures("shared")
def test_a_shared_cache_can_be_read_and_written_by_its_group(tmp_path: Path) -> None:
    prepare(text_config(tmp_path), lambda message: None)
    made = [path for path in (tmp_path / "cache").rglob("*")]
    assert any(path.suffix == ".lock" for path in made)
    for path in made:
        wanted = 0o775 if path.is_dir() else 0o664
        assert path.stat().st_mode & 0o777 == wanted, path


@pytest.mark.usefixtures("shared")
def test_files_are_written_as_the_umask_says(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", "x")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o664


def test_a_cache_that_is_only_read_gives_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = text_config(tmp_path)
    made = prepare(config, lambda message: None)
    before = sorted(path.name for path in (tmp_path / "cache").iterdir())
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    assert prepare(config, lambda message: None).fingerprint == made.fingerprint
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == before
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": "other"}) + "\n")
    with pytest.raises(ValueError, match=r"data\.cache must be a folder that can be written"):
        prepare(config, lambda message: None)


@pytest.mark.parametrize("given", [{"XDG_CACHE_HOME": ""}, {"HOME": "/nonesuch/home"}, {}])
def test_kernels_have_a_place_whatever_the_home_is(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    if not given:  # an unknown user without HOME
        monkeypatch.delenv("HOME")
        monkeypatch.setattr("os.path.expanduser", lambda path: path)
    if "HOME" in given:
        monkeypatch.setattr("search.train.kernels.os.access", lambda path, mode: False)
    folder = _cache()
    assert folder.is_absolute()
    assert folder.is_dir()
    if "XDG_CACHE_HOME" in given:
        assert folder == tmp_path / ".cache" / "isoparam"


# --- W&B ------------------------------------------------------------------------------------------


def test_a_folder_of_wandb_that_cannot_be_made_does_not_stop_the_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wandb").write_text("in the way")
    mirror = open_tracker(TrackerConfig(name="wandb"), "study", tmp_path)
    assert mirror.gave_up
    assert "the study goes on without W&B" in capsys.readouterr().out


def test_variables_of_one_run_do_not_reach_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_RUN_GROUP"):
        monkeypatch.setenv(name, "theirs")
    open_tracker(TrackerConfig(name="wandb"), "study", tmp_path)
    assert not [name for name, value in os.environ.items() if value == "theirs"]


# --- Samplers, signals ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 5000, 2**32 - 1])
def test_workers_have_seeds_that_samplers_take(seed: int) -> None:
    config = SamplerConfig(name="tpe")
    make_sampler(config, worker_seed(config, seed, worker=3, trials=100))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"n_ei_candidates": "abc"},
            r"sampler\.options\.n_ei_candidates must be int, but got 'abc'",
        ),
        ({"n_startup_trials": -3}, r"sampler\.options\.n_startup_trials must be int, but got -3"),
        ({"multivariate": 1}, r"sampler\.options\.multivariate must be bool or None, but got 1"),
        ({"n_startup_trials": 2.5}, r"n_startup_trials must be int, but got 2\.5"),
    ],
)
def test_options_of_samplers_are_looked_at(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_sampler(SamplerConfig(name="tpe", options=options), 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1])
def test_one_signal_is_enough_when_a_worker_hangs(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, hanging_fixtures.__file__, str(int(number))]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["interrupted, asked first"], done.stderr


def test_a_study_that_ignores_hangups_goes_on(tmp_path: Path) -> None:
    """As under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        pool: Any = Pool(None, None, 0, lambda *_: None, Hanging())  # type: ignore[arg-type]
        with pool._interrupts_stop():
            os.kill(os.getpid(), signal.SIGHUP)
            assert pool.interrupts == 0
    finally:
        signal.signal(signal.SIGHUP, before)
