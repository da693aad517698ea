"""`executor=slurm` on a real Slurm: jobs that are pre-empted, requeued and cancelled."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cluster_fixtures import LONG, losses, slowly
from database_fixtures import Postgres, postgres  # noqa: F401
from process_fixtures import wait_for
from study_fixtures import records, run, start, study_json

from benchmarks.servers.slurm import Slurm
from benchmarks.sleeping import STEPS

pytestmark = pytest.mark.slow

GRACE_S = 3
SLURM = ("executor=slurm", "executor.time=10")


def training(folder: Path) -> Path:
    """The checkpoint of the only run, once it has one."""
    found: Path = wait_for(lambda: next((folder / "runs").glob("*/checkpoint/state.pt"), None))
    return found


def jobs(folder: Path) -> dict[str, str]:
    """The last submission's jobs, by their numbers."""
    note = json.loads((folder / "outputs/tiny/slurm/array.json").read_text())
    found: dict[str, str] = note["jobs"]
    return found


def soon(slurm: Slurm, job: str) -> None:
    """Let a job that was put back into the queue start soon."""
    wait_for(lambda: slurm.state(job) == "PENDING")
    slurm.hurry()


def end_of(command: "subprocess.Popen[str]") -> str:
    """What a command that ends well printed."""
    out, errors = command.communicate(timeout=200)
    assert command.returncode == 0, out + errors
    return out


def requeued(slurm: Slurm, job: str) -> None:
    slurm.says("scontrol", "requeue", job)


def preempted(slurm: Slurm, job: str) -> None:
    """By jobs of higher priority that want all nodes, for a second."""
    for _ in slurm.nodes:
        slurm.says("sbatch", "--partition=high", "-c2", "--output=/dev/null", "--wrap=sleep 1")


@pytest.mark.parametrize("disturb", [requeued, preempted])
def test_a_job_that_must_leave_goes_on_bit_for_bit(
    slurm_here: Slurm,
    tmp_path: Path,
    undisturbed: list[Any],
    disturb: Callable[[Slurm, str], None],
) -> None:
    with slowly(tmp_path):
        command = start(tmp_path, *SLURM, *LONG)
        training(tmp_path)
        (job,) = jobs(tmp_path).values()
        disturb(slurm_here, job)
        soon(slurm_here, job)
    end_of(command)
    assert losses(tmp_path) == undisturbed
    wait_for(lambda: slurm_here.state(job) == "COMPLETED")  # it says so after its worker has
    log = (tmp_path / "outputs/tiny/slurm" / f"{job}_0_log.out").read_text()
    assert [x for x in log.splitlines() if "submitit" not in x] == ["interrupted", "done"]


def test_before_a_jobs_limit_its_workers_write_checkpoints_and_no_step_is_done_twice(
    slurm_here: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm looks every thirty seconds at what is near its limit, of a minute at least."""
    long = tuple(f"recipe.tokens={500 * 128}" if "tokens" in x else x for x in LONG)
    command = start(tmp_path, "executor=slurm", "executor.time=1", "executor.warning_s=50", *long)
    training(tmp_path)
    (job,) = jobs(tmp_path).values()
    wait_for(lambda: slurm_here.state(job) == "PENDING", seconds=90)
    command.send_signal(signal.SIGINT)
    out, _ = command.communicate(timeout=100)
    assert command.returncode == 130, out
    done = (tmp_path / STEPS).stat().st_size
    assert 0 < done < 500
    monkeypatch.setenv("ISOPARAM_STEP_S", "0")
    assert run(tmp_path, "executor=local", *long).returncode == 0
    assert (tmp_path / STEPS).stat().st_size == 500, "steps that were done are not done again"


def test_a_job_whose_node_is_lost_goes_on_bit_for_bit(
    slurm_here: Slurm, tmp_path: Path, undisturbed: list[Any]
) -> None:
    with slowly(tmp_path):
        command = start(tmp_path, *SLURM, *LONG, f"grace_s={GRACE_S}")
        training(tmp_path)
        (job,) = jobs(tmp_path).values()
        node = slurm_here.node(job)
        slurm_here.kill(node)
    time.sleep(2 * GRACE_S)  # its worker is silent for several looks
    slurm_here.miss(node)
    soon(slurm_here, job)
    end_of(command)
    slurm_here.start_node(node)
    assert losses(tmp_path) == undisturbed
    assert list(jobs(tmp_path).values()) == [job], "it has kept its place in the queue"


def test_an_array_works_together_and_its_logs_are_in_the_studys_folder(
    slurm_here: Slurm,
    postgres: Postgres,  # noqa: F811
    tmp_path: Path,
) -> None:
    given = ("workers=2", "executor.nodes=2", "n_trials=4", "replicates.seeds=1")
    storage = f"storage={postgres.new_database()}"
    done = run(tmp_path, *SLURM, *given, "executor.gres=gpu:1", storage)
    assert done.returncode == 0, done.stderr
    assert len(records(tmp_path)) == 4
    first, second = (job.split("_") for job in jobs(tmp_path).values())
    assert first[0] == second[0], "one array"
    assert len(list((tmp_path / "outputs/tiny/workers").glob("*.log"))) == 2


def test_a_command_that_leaves_is_called_again_to_look(slurm_here: Slurm, tmp_path: Path) -> None:
    slurm_here.nodes_are("drain")
    given = (*SLURM, "executor.wait=false", *LONG)
    first = run(tmp_path, *given)
    assert first.returncode == 0, first.stderr
    assert "0 of 1 runs; submitted to Slurm as job" in first.stdout
    (job,) = jobs(tmp_path).values()
    again = run(tmp_path, *given)
    assert f"0 of 1 runs; Slurm: job {job}, 1 pending" in again.stdout, again.stderr
    assert list(jobs(tmp_path).values()) == [job]
    slurm_here.nodes_are("resume")
    wait_for(lambda: slurm_here.state(job) == "COMPLETED")
    assert run(tmp_path, *given).returncode == 0
    assert study_json(tmp_path)["finished"]


def test_cancelling_all_jobs_leaves_a_study_that_goes_on(
    slurm_here: Slurm, tmp_path: Path, undisturbed: list[Any]
) -> None:
    with slowly(tmp_path):
        command = start(tmp_path, *SLURM, *LONG)
        training(tmp_path)
        slurm_here.says("scancel", *jobs(tmp_path).values())
        out, _ = command.communicate(timeout=100)
    assert command.returncode == 130, out
    assert "the same command continues" in out
    assert run(tmp_path, *SLURM, *LONG).returncode == 0
    assert losses(tmp_path) == undisturbed


def test_an_interrupt_of_the_command_ends_its_jobs_at_a_checkpoint(
    slurm_here: Slurm, tmp_path: Path
) -> None:
    with slowly(tmp_path):
        command = start(tmp_path, *SLURM, *LONG)
        training(tmp_path)
        (job,) = jobs(tmp_path).values()
        command.send_signal(signal.SIGINT)
        out, _ = command.communicate(timeout=100)
    assert command.returncode == 130, out
    wait_for(lambda: slurm_here.state(job) == "COMPLETED")
    assert training(tmp_path)


def test_what_slurm_refuses_ends_the_command_in_one_line(slurm_here: Slurm, tmp_path: Path) -> None:
    done = run(tmp_path, *SLURM, *LONG, "executor.partition=nowhere")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "executor=slurm must be able to submit, but invalid partition" in done.stderr
