"""A Slurm cluster of this machine: a controller and some nodes, each a daemon, without systemd."""

import os
import secrets
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from benchmarks.servers import (
    Missing,
    end,
    environment_of,
    free_ports,
    is_command,
    left_of,
    parent_of,
    says,
    wait_until,
)

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")

CONTROLLER = """
ClusterName=here
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=3,socket={folder}/munge/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=15
MessageTimeout=10
KillWait=30
InactiveLimit=0
MinJobAge=300
GresTypes=gpu
SlurmdParameters=config_overrides
RebootProgram=/bin/true
"""
NODE = (
    "NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} "
    "CPUs={cpus} RealMemory=4000 Gres=gpu:fake:2 State=UNKNOWN\n"
)
PARTITIONS = (
    "PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 "
    "PreemptMode=REQUEUE GraceTime={grace}\n"
    "PartitionName=high Nodes=ALL Default=NO MaxTime=INFINITE State=UP PriorityTier=10 "
    "PreemptMode=OFF\n"
)
GPUS = "NodeName={names} Name=gpu Type=fake File={folder}/gpu[0-1]\n"
SOON_S = 3
NULL_DEVICE = os.makedev(1, 3)


@dataclass(frozen=True)
class Slurm:
    """A cluster that runs."""

    folder: Path
    nodes: tuple[str, ...]

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables by which Slurm's programs find it."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def says(self, *command: str) -> str:
        """What one of Slurm's programs prints."""
        return says(command, env={**os.environ, **self.environment})

    def start_node(self, name: str) -> None:
        """Start a node's daemon."""
        self.says("slurmd", "-N", name, "-f", str(self.folder / "slurm.conf"))

    def pid(self, node: str) -> int:
        """Of a node's daemon."""
        return int((self.folder / f"slurmd-{node}.pid").read_text())

    def kill(self, node: str) -> None:
        """End a node's daemon and all that it has started at once, as a loss of power would."""
        mark = f"SLURMD_NODENAME={node}\0".encode()
        tasks = [pid for pid in left_of(self.folder) if mark in environment_of(pid)]
        steps = {parent_of(pid) for pid in tasks}
        daemons = [pid for pid in steps if is_command(pid, "slurmstepd")]
        for each in (signal.SIGSTOP, signal.SIGKILL):  # else some would report others' ends
            for pid in (self.pid(node), *daemons, *tasks):
                with suppress(ProcessLookupError):
                    os.kill(pid, each)

    def miss(self, node: str) -> None:
        """Tell the controller that a node is gone, which it would notice in half a minute."""
        self.says("scontrol", "update", f"nodename={node}", "state=down", "reason=gone")

    def nodes_are(self, state: str) -> None:
        """Let no job start on any node, by `drain`, or let them start again, by `resume`."""
        names = ",".join(self.nodes)
        self.says("scontrol", "update", f"nodename={names}", f"state={state}", "reason=asked for")

    def jobs(self, state: str) -> list[str]:
        """Those in a state."""
        return self.says("squeue", "-h", "--array", "-t", state, "-o", "%i").split()

    def hurry(self) -> None:
        """Let jobs that were put back into the queue start soon: Slurm would wait two minutes.
        Where one starts at once, its node takes it for the one that has ended ("Job credential
        revoked")."""
        soon = datetime.now() + timedelta(seconds=SOON_S)
        for line in self.says(
            "squeue", "-h", "--array", "-t", "PENDING", "-o", "%i %S"
        ).splitlines():
            job, start = line.split()
            if start != "N/A" and datetime.fromisoformat(start) > soon:
                with suppress(RuntimeError):  # it has started
                    at = f"StartTime={soon.isoformat(timespec='seconds')}"
                    self.says("scontrol", "update", f"jobid={job}", at)

    def node(self, job: str) -> str:
        """Where a job runs."""
        return self.says("squeue", "-h", "-o", "%N", "-j", job).strip()

    def state(self, job: str) -> str:
        """Of a job or a task of an array, such as RUNNING; nothing once it is forgotten."""
        with suppress(RuntimeError):
            return self.says("squeue", "-h", "-a", "-t", "all", "-o", "%T", "-j", job).strip()
        return ""


@contextmanager
def slurm(folder: Path, nodes: int = 3, cpus: int = 2, grace_s: int = 20) -> Iterator[Slurm]:
    """A cluster of `nodes` nodes with two declared GPUs each and the partitions low and high, of
    which the latter pre-empts the former after `grace_s`.

    Raises:
        Missing: Slurm or munge is not installed, or this is not root.
    """
    _require()
    names = tuple(f"n{i + 1}" for i in range(nodes))
    cluster = Slurm(folder, names)
    _configure(folder, names, cpus, grace_s)
    try:
        _start_munge(folder / "munge")
        cluster.says("slurmctld", "-c", "-f", str(folder / "slurm.conf"))
        for name in names:
            cluster.start_node(name)
        wait_until(lambda: _idle(cluster) == nodes, 60, f"the nodes are not idle: see {folder}")
        yield cluster
    finally:
        with suppress(RuntimeError):
            cluster.says("scancel", "--user=root")
            wait_until(lambda: not _working(cluster), 30, "jobs do not end")
        _stop(folder)


def _require() -> None:
    if os.geteuid():
        raise Missing("Slurm's controller of a test must be started by root")
    if lacking := [name for name in PROGRAMS if shutil.which(name) is None]:
        raise Missing(f"{lacking[0]} is not installed: apt-get install slurm-wlm munge")


def _configure(folder: Path, names: Sequence[str], cpus: int, grace_s: int) -> None:
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    ports = free_ports(len(names) + 1)
    text = CONTROLLER.format(folder=folder, port=ports[0])
    for name, port in zip(names, ports[1:], strict=True):
        text += NODE.format(name=name, port=port, cpus=cpus)
    (folder / "slurm.conf").write_text(text + PARTITIONS.format(grace=grace_s))
    gpus = GPUS.format(names=",".join(names), folder=folder)
    (folder / "gres.conf").write_text(gpus)
    for number in range(2):
        os.mknod(folder / f"gpu{number}", 0o666 | 0o020000, NULL_DEVICE)


def _start_munge(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(1024))
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid"}
    files |= {"log-file": "log", "seed-file": "seed"}
    options = [f"--{option}={folder}/munge.{last}" for option, last in files.items()]
    says(["munged", "--force", "--num-threads=1", *options])


def _idle(cluster: Slurm) -> int:
    with suppress(RuntimeError):
        return cluster.says("sinfo", "-h", "-N", "-p", "low", "-o", "%t").split().count("idle")
    return 0


def _working(cluster: Slurm) -> bool:
    states = cluster.says("squeue", "-h", "-t", "running,completing", "-o", "%T")
    return bool(states.strip())


def _stop(folder: Path) -> None:
    """The daemons and what is left of jobs."""
    for path in (*folder.glob("slurm*.pid"), folder / "munge" / "munge.pid"):
        with suppress(OSError, ValueError):
            end(int(path.read_text()))
    for pid in left_of(folder):
        end(pid)
