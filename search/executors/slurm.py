"""Jobs of Slurm, each of which runs workers on its node.

submitit submits `executor.nodes` jobs as one array, in which srun runs Python itself: `serve`, a
pool of its own with workers as `executor=local` starts them, so that what dies is replaced where it
died. What workers report goes into a file of the study's folder, which the command that waits
reads; whether a job is still there it asks `squeue`.

Slurm says when a job must leave its node, by SIGUSR1 some time before its limit and by SIGTERM when
it is pre-empted. Its workers then write checkpoints, and it goes back into the queue.
"""

import io
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from search.executors import Deliver, Event
from search.executors._slurm_node import BEGUN, serve
from search.states import Kind
from search.study.job import Job
from search.train.placement import NotHere, Placement
from space.files import write_atomically

LOOK_S = 0.3
"""Between two looks at what workers report."""
ASK_S = 5.0
"""Between two questions to Slurm's controller, which serves all users."""
LIMIT = re.compile(r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}|UNLIMITED|infinite", re.IGNORECASE)
"""How `sbatch --time` is written."""
ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("PREEMPTED", "REVOKED", "TIMEOUT", ""),
}
"""States of a job that does not come back; Slurm forgets it after some minutes."""
BACK_S = 30.0
"""For a job whose node had to leave to be seen in the queue again."""
TAKEN = {"BOOT_FAIL", "NODE_FAIL", "PREEMPTED", "TIMEOUT"}
"""Those of a job that lost its node, which is no fault of its runs."""


class Slurm:
    """`executor=slurm`."""

    def __init__(
        self,
        nodes: int = 1,
        partition: str | None = None,
        account: str | None = None,
        time: str | int = "4:00:00",
        gres: str | None = None,
        constraint: str | None = None,
        cpus: int | None = None,
        setup: Sequence[str] = (),
        warning_s: int = 120,
        parameters: Mapping[str, Any] | None = None,
        wait: bool = True,
    ) -> None:
        if not LIMIT.fullmatch(str(time)):
            raise ValueError(
                "executor.time must be minutes, hours:minutes:seconds or days-hours, as Slurm has "
                f"them, but got {time}; such as executor.time=4:00:00"
            )
        self.nodes, self.setup, self.cpus, self.wait = nodes, list(setup), cpus, wait
        flags = {"partition": partition, "account": account, "time": time, "gres": gres}
        flags |= {"constraint": constraint, "cpus-per-task": cpus, **(parameters or {})}
        self.flags = {name: value for name, value in flags.items() if value is not None}
        self.warning_s = warning_s
        self.array: Array | None = None

    def usual_workers(self, placement: Placement) -> int:
        """By what is asked of each node: `workers_per_gpu` for each GPU of `gres`, else one for
        each of `cpus`, else one; one for each `gpus_per_run` of these."""
        places = self.cpus or 1
        if (gpus := self._gpus()) and placement.device != "cpu":
            places = gpus * placement.sharing
        return self.nodes * max(1, places // placement.gpus_per_run)

    def require(self, placement: Placement, workers: int) -> None:
        """Raises: ValueError where a node is not asked for the GPUs of its workers."""
        ranks, here = placement.gpus_per_run, -(-workers // self.nodes)
        otherwise = any("gpu" in flag for flag in self.flags)  # --gpus-per-node and its kin
        if ranks == 1 or placement.device == "cpu" or otherwise:
            return
        if self._gpus() < ranks * here:
            fits = self.nodes * (self._gpus() // ranks)
            raise ValueError(
                "executor.gres must ask each node for placement.gpus_per_run GPUs per worker, "
                f"but got {self.flags.get('gres')} with {ranks} and {here} on a node; set "
                + (f"workers={fits}, or " if fits else "")
                + f"executor.gres=gpu:{ranks * here}"
            )

    def hosts(self) -> int:
        """The nodes that are asked for."""
        return self.nodes

    def _gpus(self) -> int:
        """Of each node, by `gres`."""
        asked = re.fullmatch(r"gpu(?::[\w.-]+)??(?::(\d+))?", str(self.flags.get("gres", "")))
        return int(asked[1] or 1) if asked else 0

    def slots(self, workers: int) -> int:
        """As many as are asked for, shared out among the nodes.

        Raises:
            NotHere: this machine submits no jobs.
        """
        require_slurm()
        return workers

    def environment(self, job: Job, number: int) -> dict[str, str]:
        """Nothing: on its node a worker gets threads and GPU as `local` gives them."""
        return {}

    def start(self, job: Job, number: int, deliver: Deliver) -> "Seat":
        if self.array is None:
            self.array = Array(self, job)
            threading.Thread(target=self.array.watch, daemon=True).start()
        return self.array.seat(number, deliver)

    def leave(self, job: Job) -> str | None:
        """Submit what is not there and say so, instead of waiting for it. None: it waits."""
        if self.wait:
            return None
        array = Array(self, job)
        array.ask()
        if array.standing:
            return f"Slurm: {array.standing}"
        array.submit(range(self.nodes))
        return f"submitted to Slurm as job {array.tasks[0].base}"

    def close(self) -> None:
        if self.array is not None:
            self.array.closed.set()


@dataclass
class Seat:
    """A worker on one of the nodes, or one whose job is in the queue."""

    task: "Task"
    number: int
    deliver: Deliver
    name: str
    log: str = "no log yet: its job is in the queue"
    ended: bool = False
    watched: ClassVar[bool] = True
    """Its job has a pool of its own, and is silent while it waits in the queue again."""

    @property
    def lost(self) -> bool:
        return self.task.state in TAKEN or self.task.interrupted

    def stop(self) -> None:
        if not self.ended:
            self.task.stop()

    def kill(self) -> None:
        if not self.ended:
            self.task.kill()

    def last_words(self) -> str:
        return self.task.last_words()

    def take(self, event: Event) -> None:
        """Act on what its node says of it."""
        if event["event"] == BEGUN:
            self.name, self.log = event["name"], event["log"]
        else:
            self.deliver(event)

    def end(self, *events: Event) -> None:
        """Its job is over."""
        self.ended = True
        for event in events:
            self.deliver(event)
        self.deliver(None)


@dataclass
class Task:
    """A job of the array: a node's workers."""

    folder: Path
    index: int
    job: str | None = None
    """As Slurm calls it: 123_4."""
    state: str = "PENDING"
    seats: dict[int, Seat] = field(default_factory=dict)
    read: int = 0
    """Bytes of what it reported."""
    stopping: bool = False
    killed: bool = False
    interrupted: bool = False
    """Its node wants it to leave, and puts it back into the queue."""
    ended_at: float | None = None
    """When Slurm was first seen to have it as ended, by the monotonic clock."""

    @property
    def events(self) -> Path:
        return self.folder / f"events-{self.index}.jsonl"

    @property
    def over(self) -> bool:
        """Whether it has ended for good. On its way back into the queue a job is ended too."""
        if self.job is None or self.ended_at is None:
            return False
        asked = self.stopping or self.killed or self.state == "CANCELLED"
        patience = BACK_S if self.interrupted and not asked else 0.0
        return time.monotonic() - self.ended_at >= patience

    def note(self, kind: str) -> None:
        """Whether its node has to leave, by what is reported."""
        if kind in (Kind.INTERRUPT, BEGUN):
            self.interrupted = kind == Kind.INTERRUPT

    def comes_back(self, kind: str) -> bool:
        """Whether a worker says that it is done because its node has to leave."""
        return kind == Kind.DONE and self.interrupted and not self.stopping

    def look(self, state: str) -> None:
        """Note what Slurm says of it."""
        self.state = state
        if state not in ENDED:
            self.ended_at = None
        elif self.ended_at is None:
            self.ended_at = time.monotonic()

    @property
    def base(self) -> str:
        """The array's number."""
        return str(self.job).partition("_")[0]

    def forget(self) -> None:
        """Make room for another job."""
        self.job, self.seats = None, {}
        self.stopping = self.killed = self.interrupted = False
        self.look("PENDING")

    def stop(self) -> None:
        """Once for all of its workers."""
        if self.job is not None and not self.stopping:
            self.stopping = True
            _say("scancel", "--state=PENDING", self.job)  # what is known of it may be old
            _say("scancel", "--signal=INT", "--state=RUNNING", self.job)

    def kill(self) -> None:
        if self.job is not None and not self.killed:
            self.killed = True
            # Cancelling is asking first; SIGALRM ends who has no handler for it, without a core.
            at_once = ["--signal=ALRM"] if self.state == "RUNNING" else []
            _say("scancel", *at_once, self.job)

    def news(self) -> Iterable[tuple[int, Event]]:
        """What its workers have reported since the last look."""
        with suppress(FileNotFoundError), open(self.events, "rb") as file:
            file.seek(self.read)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # the rest of it is on its way
                self.read += len(line)
                number, event = json.loads(line)
                yield number, event

    def last_words(self) -> str:
        """The last line of its log, or how Slurm says it ended."""
        if self.killed:
            return "its worker was killed"
        said = [x for x in self._log().splitlines() if x.strip() and "submitit" not in x]
        words = f"Slurm job {self.job} ended: {self.state or 'forgotten'}"
        return f"{words}: {said[-1].strip()}" if said and self.state == "FAILED" else words

    def _log(self) -> str:
        paths = sorted(self.folder.glob(f"{self.job}_*log.err"))
        return "".join(path.read_text(errors="replace") for path in paths)


class Array:
    """The jobs of a study."""

    def __init__(self, options: Slurm, job: Job) -> None:
        self.options, self.job, self.folder = options, job, job.folder / "slurm"
        self.size = -(-job.workers // options.nodes)
        self.tasks = {i: Task(self.folder, i) for i in range(options.nodes)}
        self.wanted: set[int] = set()
        """Tasks to submit."""
        self.closed, self.lock = threading.Event(), threading.RLock()
        self._find_earlier()

    @property
    def standing(self) -> str:
        """`3 running, 1 pending`, of the jobs that are not over."""
        states = [t.state.lower() for t in self.tasks.values() if t.job and not t.over]
        counts = [f"{states.count(state)} {state}" for state in sorted(set(states))]
        bases = ", ".join(sorted({t.base for t in self.tasks.values() if t.job and not t.over}))
        return f"job {bases}, {', '.join(counts)}" if counts else ""

    def seat(self, number: int, deliver: Deliver) -> Seat:
        """Worker `number`, on its node."""
        with self.lock:
            task = self.tasks[number // self.size]
            if task.over:
                task.forget()
            if task.job is None:
                self.wanted.add(task.index)
            seat = task.seats[number] = Seat(task, number, deliver, f"slurm:{task.index}")
            return seat

    def watch(self) -> None:
        """Submit, listen and ask, until it is closed."""
        try:
            self._watch()
        except Exception as error:  # nobody else would say so
            for seat in self._seats(self.tasks):
                seat.end(
                    {"event": Kind.FATAL, "reason": f"Slurm's jobs cannot be watched: {error!r}"}
                )

    def _watch(self) -> None:
        asked = 0.0
        while not self.closed.wait(LOOK_S):
            with self.lock:
                self._submit_wanted()
                for task in self.tasks.values():
                    for number, event in task.news():
                        task.note(event["event"])
                        if number in task.seats and not task.comes_back(event["event"]):
                            task.seats[number].take(event)
                if time.monotonic() - asked > ASK_S:
                    asked = time.monotonic()
                    self.ask()
                    self._end_what_is_over()

    def ask(self) -> None:
        """Take the states of the jobs from Slurm."""
        known = [task for task in self.tasks.values() if task.job is not None]
        if not known:
            return
        jobs = ",".join(sorted({task.base for task in known}))
        done = _say("squeue", "--noheader", "--array", "--states=all", "--format=%i %T", "-j", jobs)
        if done.returncode and "Invalid job id" not in done.stderr:
            return  # the controller is busy or away
        states = dict(line.split()[:2] for line in done.stdout.splitlines() if line.strip())
        for task in known:
            task.look(states.get(str(task.job), ""))

    def submit(self, indexes: Iterable[int]) -> None:
        """Put jobs into the queue, as one array.

        Raises:
            ValueError: Slurm refuses them.
        """
        import submitit

        secret = 0o600  # it may hold the storage's password
        path = self.folder / "job.json"
        write_atomically(path, self.job.to_json(), mode=secret)
        tasks = [self.tasks[index] for index in indexes]
        for task in tasks:
            task.events.unlink(missing_ok=True)
            task.read = 0
        try:
            executor = submitit.SlurmExecutor(folder=self.folder)
            executor.update_parameters(**self._parameters())
            with redirect_stderr(io.StringIO()):  # what sbatch says is in the error
                jobs = executor.map_array(
                    serve,
                    [str(path.resolve())] * len(tasks),
                    [str(task.events.resolve()) for task in tasks],
                    [task.index * self.size for task in tasks],
                    [self.size] * len(tasks),
                )
        except Exception as error:
            raise ValueError(
                f"executor=slurm must be able to submit, but {_words(error)}"
            ) from None
        for task, job in zip(tasks, jobs, strict=True):
            task.job = job.job_id
            task.look("PENDING")
        self._keep()

    def _parameters(self) -> dict[str, Any]:
        """As submitit takes them."""
        options = self.options
        own = {"requeue": True, "signal": f"USR1@{options.warning_s}", **options.flags}
        return {
            "job_name": self.job.study,
            "setup": options.setup,
            "srun_args": [] if options.cpus is None else [f"--cpus-per-task={options.cpus}"],
            "additional_parameters": own,
        }

    def _submit_wanted(self) -> None:
        wanted, self.wanted = sorted(self.wanted), set()
        if not wanted:
            return
        try:
            self.submit(wanted)
        except ValueError as error:
            for seat in self._seats(wanted):
                seat.end({"event": Kind.FATAL, "reason": str(error)})

    def _end_what_is_over(self) -> None:
        """Tell the workers of jobs that do not come back. Where a user has cancelled all of them,
        the study is to end; where some, the others go on."""
        for task in self.tasks.values():
            if task.stopping and task.state == "PENDING":  # it went back into the queue
                _say("scancel", str(task.job))
        over = [t for t in self.tasks.values() if t.over and t.seats]
        cancelled = [t for t in over if t.state == "CANCELLED" and not (t.killed or t.stopping)]
        left = [t for t in self.tasks.values() if t.seats and not t.over]
        for task in over:
            gone: Event = {"event": Kind.DONE if left else Kind.INTERRUPT}
            seats, task.seats = task.seats, {}
            for seat in seats.values():
                seat.end(*([gone] if task in cancelled else []))

    def _seats(self, indexes: Iterable[int]) -> list[Seat]:
        return [seat for index in indexes for seat in self.tasks[index].seats.values()]

    def _keep(self) -> None:
        """Leave a note of the jobs for the next command."""
        jobs = {task.index: task.job for task in self.tasks.values()}
        note = {"size": self.size, "jobs": jobs}
        write_atomically(self.folder / "array.json", json.dumps(note))

    def _find_earlier(self) -> None:
        """Go on with jobs that an earlier command has submitted."""
        try:
            note = json.loads((self.folder / "array.json").read_text())
        except (OSError, ValueError):
            return
        if note["size"] != self.size:
            return
        for index, job in note["jobs"].items():
            if (task := self.tasks.get(int(index))) is not None:
                task.job = job
                for _ in task.news():
                    pass
        self.ask()


def require_slurm() -> None:
    """Raises: NotHere where submitit or Slurm is not installed, or its controller away."""
    try:
        import submitit

        submitit.SlurmExecutor(folder=os.devnull)
    except ImportError:
        raise NotHere("executor=slurm needs submitit; pip install 'isoparam[slurm]'") from None
    except RuntimeError:
        raise NotHere(
            "executor=slurm must be started where jobs are submitted, but srun is not found; "
            "log in to the cluster, or load its module"
        ) from None
    asked = _say("squeue", "--noheader", "--me")
    if asked.returncode:
        said = asked.stderr.strip().splitlines() or ["it does not answer"]
        raise NotHere(
            "executor=slurm must be started where Slurm's controller answers, but squeue says: "
            f"{said[-1].removeprefix('squeue: ').removeprefix('error: ')}; start the command on "
            "the cluster's login node"
        )


def _say(*command: str) -> "subprocess.CompletedProcess[str]":
    """One of Slurm's programs, run."""
    return subprocess.run(command, capture_output=True, text=True)


def _words(error: Exception) -> str:
    """What sbatch says."""
    said = re.findall(r"sbatch: error: (.+)", str(error)) or str(error).strip().splitlines()
    return str(said[0]) if said else type(error).__name__


EXECUTOR = Slurm
