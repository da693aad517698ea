"""Workers as processes: killed, interrupted, without disk, several at once."""

import errno
import getpass
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from process_fixtures import is_gone, wait_for, workers_of
from study_fixtures import (
    ROOT,
    command,
    configured,
    environment,
    open_search,
    records,
    run,
    start,
    study_json,
    work,
    write_text,
)

from search.__main__ import open_search as open_session
from search.executors import local as workers
from search.executors.ray import Ray
from search.executors.slurm import Slurm
from search.runs import read_metrics
from search.study.plan import MAX_DEATHS, distinct
from search.study.pool import Listener, Pool
from search.study.session import look_ahead
from search.study.storage import open_storage, read_attempts
from search.train import placement
from search.train.placement import Placement, settle

ONE_LONG_RUN = (
    "n_trials=1",
    "replicates.seeds=1",
    "recipe.tokens=19200",
    "placement.checkpoint_s=0.2",
)
"""A hundred and fifty steps: long enough to be killed in the middle."""


CPU = Placement(device="cpu", gpus_per_run=2)


def checkpoint(folder: Path) -> list[Path]:
    """The checkpoint of the run in progress, once there is one."""
    return list((folder / "runs").glob("*/checkpoint/state.pt"))


@pytest.fixture
def kill_left() -> Iterator[list["subprocess.Popen[str]"]]:
    """Processes that a test started: none survives it."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The curve of the long run when nothing happens to it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        work(open_search(folder, *ONE_LONG_RUN))
    return curve(folder)


def curve(folder: Path) -> list[dict[str, Any]]:
    """Every number of the only run's curve that does not depend on the clock."""
    (run_folder,) = (folder / "runs").iterdir()
    lines = list(read_metrics(run_folder))
    return [{k: v for k, v in line.items() if k != "elapsed_s"} for line in lines]


class Noting(workers.Local):
    """Workers that note what decides where torch keeps what it compiles, and end: the variable, or
    else the folder of temporary files and the user."""

    def __init__(self, seen: Path) -> None:
        self.seen = seen

    def command(self) -> list[str]:
        code = (
            "import getpass, os, tempfile;"
            "found = [os.environ.get('TORCHINDUCTOR_CACHE_DIR'), tempfile.gettempdir()];"
            f"print(*found, getpass.getuser(), file=open({str(self.seen)!r}, 'a'));"
            'print(\'{"event": "done"}\')'
        )
        return [sys.executable, "-c", code]


@pytest.mark.parametrize("named", ["compiled", None])
def test_workers_share_what_torch_compiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    if named:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", named)
    study = open_search(tmp_path, "n_trials=1", "replicates.seeds=1")
    executor = Noting(tmp_path / "seen")
    try:
        assert Pool(study.job, study.study, 2, lambda *_: None, executor).run().kind == "done"
    finally:
        study.lock.release()
    wanted = f"{named} {tmp_path} {getpass.getuser()}"
    assert executor.seen.read_text().splitlines() == [wanted, wanted]


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_its_run_goes_on(
    tmp_path: Path,
    undisturbed: list[dict[str, Any]],
    kill_left: list["subprocess.Popen[str]"],
) -> None:
    process = start(tmp_path, *ONE_LONG_RUN)
    kill_left.append(process)
    wait_for(lambda: checkpoint(tmp_path))
    (worker,) = workers_of(process)
    os.kill(worker, signal.SIGKILL)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert "killed by SIGKILL" in out
    (trial,) = study_json(tmp_path)["trials"]
    assert trial["state"] == "COMPLETE"
    assert trial["attempts"] == 2
    assert curve(tmp_path) == undisturbed


@pytest.mark.slow
def test_a_killed_study_goes_on_where_its_checkpoint_was(
    tmp_path: Path,
    undisturbed: list[dict[str, Any]],
    kill_left: list["subprocess.Popen[str]"],
) -> None:
    process = start(tmp_path, *ONE_LONG_RUN)
    kill_left.append(process)
    wait_for(lambda: checkpoint(tmp_path))
    victims = [*workers_of(process), process.pid]
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: all(is_gone(pid) for pid in victims))
    assert checkpoint(tmp_path)
    again = run(tmp_path, *ONE_LONG_RUN)
    assert again.returncode == 0, again.stderr
    (trial,) = study_json(tmp_path)["trials"]
    assert (trial["state"], trial["attempts"]) == ("COMPLETE", 2)
    assert curve(tmp_path) == undisturbed


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed(
    tmp_path: Path, kill_left: list["subprocess.Popen[str]"]
) -> None:
    process = start(tmp_path, *ONE_LONG_RUN, "recipe.tokens=12800000")
    kill_left.append(process)
    wait_for(lambda: checkpoint(tmp_path))
    (worker,) = workers_of(process)
    process.kill()
    process.wait()
    wait_for(lambda: is_gone(worker))
    storage = open_storage(f"sqlite:///{tmp_path}/outputs/tiny/study.db")
    (attempt,) = read_attempts(_load(storage))
    assert (attempt.state, attempt.status) == ("FAIL", "interrupted")


@pytest.mark.slow
def test_an_interrupt_keeps_the_checkpoint_and_leaves_a_report(
    tmp_path: Path, kill_left: list["subprocess.Popen[str]"]
) -> None:
    two = ("n_trials=2", "replicates.seeds=1", "placement.checkpoint_s=60", "report=true")
    process = start(tmp_path, *two, "recipe.tokens=32000")
    kill_left.append(process)
    wait_for(lambda: records(tmp_path))
    # In the middle of the second run, before its first checkpoint by the clock.
    wait_for(lambda: len(list((tmp_path / "runs").glob("*/metrics.jsonl"))) == 2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 130, err
    assert "1 of 2 runs" in out
    assert checkpoint(tmp_path)
    assert study_json(tmp_path)["finished"] is False
    assert (tmp_path / "outputs" / "tiny" / "report.html").is_file()
    again = run(tmp_path, *two, "recipe.tokens=32000")
    assert again.returncode == 0, again.stderr
    content = study_json(tmp_path)
    assert content["finished"] is True
    assert Counter(trial["attempts"] for trial in content["trials"]) == {1: 1, 2: 1}


@pytest.mark.slow
def test_a_queue_that_signals_all_processes_of_a_job_stops_its_study(
    tmp_path: Path, kill_left: list["subprocess.Popen[str]"]
) -> None:
    """By SIGUSR1, as Slurm's `--signal` does it in good time. Workers first: none dies of it."""
    long = ("recipe.tokens=12800000", "placement.checkpoint_s=60")
    process = start(tmp_path, *ONE_LONG_RUN, *long)
    kill_left.append(process)
    wait_for(lambda: list((tmp_path / "runs").glob("*/metrics.jsonl")))
    for pid in (*workers_of(process), process.pid):
        os.kill(pid, signal.SIGUSR1)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 130, err
    assert checkpoint(tmp_path)
    storage = open_storage(f"sqlite:///{tmp_path}/outputs/tiny/study.db")
    (attempt,) = read_attempts(_load(storage))
    assert (attempt.status, attempt.reason) == ("interrupted", "the study was stopped")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which this process itself starts a study's workers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


@pytest.mark.slow
def test_an_interrupt_while_a_worker_is_told_its_job_stops_the_study(here: Path) -> None:
    """A job larger than a pipe waits until the worker has come up."""
    search = open_search(here, *ONE_LONG_RUN)
    job = replace(search.job, unscored=("x" * 1_000_000,))
    events: list[str] = []
    pool = Pool(job, search.study, 2, lambda _, event: events.append(event["event"]))
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    assert pool.run().kind == "interrupted"
    assert "interrupt" in events
    assert "death" not in events


@pytest.mark.slow
def test_a_worker_is_not_replaced_when_its_death_cannot_be_told(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = open_search(here)
    starts: list[int] = []

    def start(number: int) -> None:
        starts.append(number)
        Pool._start(pool, number)

    def fill_disk(_: int, event: dict[str, Any]) -> None:
        if event["event"] == "death":
            raise OSError(errno.ENOSPC, "")

    dying = replace(search.job, study="nowhere")
    pool = Pool(dying, search.study, 1, fill_disk)
    monkeypatch.setattr(pool, "_start", start)
    assert pool.run().kind == "fatal"
    assert starts == [0]


@pytest.mark.slow
def test_a_run_that_keeps_killing_its_workers_is_recorded_as_failed(
    tmp_path: Path, kill_left: list["subprocess.Popen[str]"]
) -> None:
    process = start(tmp_path, *ONE_LONG_RUN, "recipe.tokens=12800000", "placement.checkpoint_s=60")
    kill_left.append(process)
    for _ in range(MAX_DEATHS):
        wait_for(lambda: list((tmp_path / "runs").glob("*/metrics.jsonl")))
        (worker,) = wait_for(lambda: workers_of(process))
        for path in (tmp_path / "runs").glob("*/metrics.jsonl"):
            path.unlink()
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda gone=worker: is_gone(gone) and gone not in workers_of(process))
    out, err = process.communicate(timeout=600)
    assert process.returncode == 1, err
    (record,) = records(tmp_path).values()
    assert record["status"] == "failed"
    assert "SIGKILL" in record["reason"]
    assert "failed: 3 workers died of it" in out


@pytest.mark.slow
def test_two_workers_never_train_the_same_run(tmp_path: Path) -> None:
    ended = run(tmp_path, "workers=2", "n_trials=6", "replicates.top=1", "replicates.seeds=2")
    assert ended.returncode == 0, ended.stderr
    storage = open_storage(f"sqlite:///{tmp_path}/outputs/tiny/study.db")
    attempts = read_attempts(_load(storage))
    assert len(attempts) == len(distinct(attempts)) == 6
    assert ended.stdout.count("bits per byte in") == 6


@pytest.mark.slow
def test_two_studies_share_the_runs_that_both_want(
    tmp_path: Path, kill_left: list["subprocess.Popen[str]"]
) -> None:
    options = ("n_trials=2", "replicates.seeds=1", "recipe.tokens=6400")
    run(tmp_path, *options, "n_trials=1", "seed=9", "study=first")  # prepares the data
    both = [start(tmp_path, *options, f"study={name}") for name in ("one", "two")]
    kill_left.extend(both)
    said = ""
    for process in both:
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
        said += out
    assert said.count("bits per byte in ") == 2
    assert said.count("bits per byte from its record") == 2


@pytest.mark.slow
def test_a_full_disk_stops_the_study_with_its_finished_runs_kept(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    write_text(tmp_path)
    apart = ["unshare", "--user", "--map-root-user", "--mount", "--"]
    mount = f"mount -t tmpfs -o size=1m tmpfs {small}"
    if subprocess.run([*apart, "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("needs unshare and tmpfs, to have a small disk")
    options = (f"runs={small}/runs", "n_trials=4", "replicates.seeds=1", "keep=all")
    script = f'{mount} && "$@"; code=$?; cp -r {small}/runs {tmp_path}/kept && exit $code'
    ended = subprocess.run(
        [*apart, "sh", "-c", script, "sh", *command(tmp_path, *options)],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 2, ended.stdout + ended.stderr
    (line,) = ended.stderr.strip().splitlines()
    assert "No space left on device" in line
    finished = [t for t in study_json(tmp_path)["trials"] if t["state"] == "COMPLETE"]
    assert finished
    assert f"keeps its {len(finished)} finished runs" in line
    for trial in finished:
        assert (tmp_path / "kept" / trial["key"] / "record.json").is_file()


TROUBLED = """
import sys
from search.study import worker
class Troubled:
    def __init__(self, *given): ...
    def work(self): raise OSError(int(sys.argv[1]), "")
worker.Worker = Troubled
worker.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "fatal"), [(errno.ENOSPC, True), (errno.EACCES, False)])
def test_of_a_workers_trouble_with_files_only_a_full_disk_is_the_studys(
    here: Path, number: int, fatal: bool
) -> None:
    job = open_search(here).job
    ended = subprocess.run(
        [sys.executable, "-c", TROUBLED, str(number)],
        input=f"0\n{job.to_json()}".encode(),
        env=environment(),
        capture_output=True,
    )
    assert (b'"fatal"' in ended.stdout, ended.returncode) == (fatal, 0 if fatal else 1)


def test_workers_get_a_share_of_the_cores_and_a_card_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "cores", lambda: 8)
    shared = placement.share_cores(Placement(), 3)
    assert shared.threads == 2
    assert placement.share_cores(Placement(threads=5), 3).threads == 5
    monkeypatch.setattr(workers, "gpus", lambda: ["2", "5"])
    cards = [workers.environment(shared, number)["CUDA_VISIBLE_DEVICES"] for number in range(3)]
    assert cards == ["2", "5", "2"]
    assert workers.environment(shared, 0)["OMP_NUM_THREADS"] == "2"


def test_as_many_workers_as_suit_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "cores", lambda: 6)
    monkeypatch.setattr(placement, "gpus", lambda: [])
    assert placement.usual_workers(Placement(workers_per_gpu=3)) == 6
    monkeypatch.setattr(placement, "gpus", lambda: ["0", "1"])
    assert placement.usual_workers(Placement()) == 2
    assert placement.usual_workers(Placement(workers_per_gpu=3)) == 6
    assert placement.usual_workers(Placement(device="cpu", workers_per_gpu=3)) == 6


@pytest.mark.parametrize(
    ("options", "workers"),
    [
        ({}, 1),
        ({"nodes": 3, "cpus": 4}, 12),
        ({"nodes": 2, "gres": "gpu:8"}, 16),
        ({"gres": "gpu:h100:4"}, 4),
        ({"nodes": 2, "gres": "gpu:h100"}, 2),
        ({"gres": "shard:4"}, 1),
    ],
)
def test_slurm_has_a_worker_for_each_gpu_of_its_nodes(
    options: dict[str, Any], workers: int
) -> None:
    executor = Slurm(**options)
    assert executor.usual_workers(Placement()) == workers
    if "gpu" in str(options.get("gres")):
        assert executor.usual_workers(Placement(workers_per_gpu=2)) == 2 * workers
        assert executor.usual_workers(Placement(device="cpu")) == options.get("nodes", 1)


@pytest.mark.parametrize("given", ["workers=0", "workers=many", "placement.workers_per_gpu=0"])
def test_workers_are_a_number_or_auto(tmp_path: Path, given: str) -> None:
    done = run(tmp_path, given)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "workers" in done.stderr


@pytest.mark.parametrize(
    ("gres", "ranks", "usual"), [("gpu:8", 2, 8), ("gpu:h100:8", 8, 2), ("gpu:8", 3, 4)]
)
def test_slurm_has_a_worker_for_each_gpus_of_a_run(gres: str, ranks: int, usual: int) -> None:
    executor, given = Slurm(nodes=2, gres=gres), Placement(gpus_per_run=ranks)
    assert executor.usual_workers(given) == usual
    executor.require(given, usual)
    with pytest.raises(ValueError, match=r"executor\.gres must ask each node .*; set wor") as told:
        executor.require(given, usual + 2)
    executor.require(given, int(re.findall(r"workers=(\d+)", str(told.value))[0]))
    with pytest.raises(ValueError, match=rf"but got None .*; set executor.gres=gpu:{ranks}$"):
        Slurm(nodes=2).require(given, 2)
    Slurm(nodes=2, parameters={"gpus-per-node": 8}).require(given, 2)
    on_cpus = Slurm(nodes=2, cpus=12).usual_workers(replace(given, device="cpu"))
    assert on_cpus == 2 * (12 // ranks)


def test_a_worker_of_ray_has_the_gpus_of_its_runs() -> None:
    two = Placement(gpus_per_run=2)
    with pytest.raises(
        ValueError, match=r"executor\.num_gpus must be .* got 4 and 2; leave it out"
    ):
        Ray(num_gpus=4).require(two, 1)
    for executor, given in ((Ray(), two), (Ray(num_gpus=2), two), (Ray(num_gpus=4), CPU)):
        executor.require(given, 1)


def test_workers_have_a_slot_of_gpus_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "gpus", lambda: list("01234567"))
    three = Placement(gpus_per_run=3)
    cards = [workers.environment(three, number)["CUDA_VISIBLE_DEVICES"] for number in range(3)]
    assert cards == ["0,1,2", "3,4,5", "0,1,2"]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (("placement.device=auto",), "placement.gpus_per_run × workers must be at most the GPUs"),
        (("executor=inline",), "placement.gpus_per_run must be 1 with executor=inline"),
        (("recipe.batch_size=1",), "batch_size must be at least the number of processes"),
    ],
)
def test_runs_of_more_gpus_than_there_can_be_end_in_one_line_before_training(
    here: Path, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], complaint: str
) -> None:
    monkeypatch.setattr(placement, "gpus", lambda: ["0"])
    with pytest.raises(ValueError, match=complaint) as error:
        open_search(here, "placement.gpus_per_run=2", *given)
    assert "\n" not in str(error.value)


def test_runs_of_gpus_that_are_elsewhere_are_estimated_where_nothing_is_trained(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(placement, "gpus", list)
    two = ("placement.gpus_per_run=2", "placement.device=auto", "train=false")
    last = "the same command without train=false does, on a machine with GPUs\n"
    assert look_ahead(configured(here, *two), open_session) == 0
    said = capsys.readouterr().out
    assert "each run is trained by 2 processes" in said
    assert said.endswith(last)
    shared = ("placement.workers_per_gpu=2", "placement.mps=yes", "placement.cuda_graph=yes")
    given = (*shared, "placement.device=cuda", "train=false")
    assert look_ahead(configured(here, *given), open_session) == 0
    assert capsys.readouterr().out.endswith(last)
    with pytest.raises(SystemExit):
        look_ahead(configured(here, *two, "executor=inline"), open_session)
    assert "must be 1 with executor=inline" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_keeps_its_threads_whatever_the_number_of_workers(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "cores", lambda: 2)
    one_run = (*ONE_LONG_RUN, "recipe.tokens=64000", "placement.threads=null")

    def pool(count: int, listener: Listener = lambda *_: None) -> Pool:
        search = open_search(here, *one_run, f"workers={count}")
        search.lock.release()
        return Pool(search.job, search.study, 1, listener)

    sent: list[int] = []

    def interrupt(_: int, event: dict[str, Any]) -> None:
        if event["event"] == "step" and not sent:  # a later one could meet the next pool
            sent.append(signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    assert pool(2, interrupt).run().kind == "interrupted"
    (path,) = checkpoint(here)
    assert torch.load(path)["placement"]["threads"] == 1
    assert pool(1).run().kind == "done"
    (record,) = records(here).values()
    assert record["device"]["threads"] == 1


@pytest.mark.parametrize(("given", "threads"), [("3", 3), ("64", 4), ("0", 2), ("", 2)])
def test_a_run_has_the_threads_its_process_was_started_with_one_a_core_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, threads: int
) -> None:
    """Not those of the run before, unless nothing was said."""
    monkeypatch.chdir(tmp_path)
    run = open_search(tmp_path).work.typical
    monkeypatch.setattr(placement, "cores", lambda: 4)
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    settled = settle(Placement(device="cpu"), run)
    torch.set_num_threads(before)
    assert settled.threads == threads


def test_the_parent_goes_on_without_torch_until_it_needs_it() -> None:
    loaded = "import sys, search.__main__; print('torch' in sys.modules, 'wandb' in sys.modules)"
    shown = subprocess.run(
        [sys.executable, "-c", loaded], env=environment(), capture_output=True, text=True
    )
    assert shown.stdout.split() == ["False", "False"], shown.stderr


def _load(storage: Any) -> Any:
    import optuna

    return optuna.load_study(study_name="tiny", storage=storage)


def test_the_last_words_of_a_worker_are_its_own(tmp_path: Path) -> None:
    """Its log goes on after those of earlier starts."""
    log = tmp_path / "worker.log"
    log.write_text("ValueError: of last week\n")
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    process.wait()
    child = workers.Child(process, log, log.stat().st_size)
    assert child.last_words() == "its worker ended with exit code 3"


@pytest.mark.slow
def test_ranks_of_the_surroundings_reach_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kubeflow sets them in every pod; a worker with them would wait for others."""
    for name, value in {"RANK": "3", "WORLD_SIZE": "8", "MASTER_ADDR": "nowhere"}.items():
        monkeypatch.setenv(name, value)
    done = run(tmp_path, "n_trials=1", "replicates.seeds=1")
    assert done.returncode == 0, done.stderr
    assert [record["status"] for record in records(tmp_path).values()] == ["finished"]


def test_a_study_under_torchrun_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = run(tmp_path)
    assert done.returncode == 2
    assert "torchrun starts it 2 times" in done.stderr
    assert len(done.stderr.splitlines()) == 1


SRUN = "#!/bin/sh\nexit 0\n"
SQUEUE = "#!/bin/sh\necho 'squeue: error: Unable to contact slurm controller' >&2\nexit 1\n"


def test_slurm_that_does_not_answer_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("srun", SRUN), ("squeue", SQUEUE)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    done = run(tmp_path, "executor=slurm")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert "squeue says: Unable to contact slurm controller; start" in done.stderr
    assert not (tmp_path / "outputs" / "tiny").exists()
    plan = run(tmp_path, "executor=slurm", "train=false")
    assert plan.returncode == 0, plan.stderr
    assert "before it trains: executor=slurm must be started where" in plan.stdout
