"""Workers on the nodes of a Ray cluster, each a process as `executor=local` starts it.

Ray finds a node with what a worker needs, waits for one to come, and says when one is gone. On the
node an actor starts the worker and passes its events on. The worker watches the actor as it watches
a parent: where the actor ends, it ends too, at a checkpoint if Ray leaves it the time.
"""

import importlib
import os
import queue
import re
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

from search.executors import Deliver, Event
from search.executors.local import Child, Local
from search.states import Kind
from search.study.job import Job
from search.train.placement import NotHere, Placement

BEGUN, ENDED = "begun", "ended"
"""Events of a node about its worker, which go no further."""
HINT_S = 30.0
"""A worker that has found no node for so long says what it waits for."""
ANSWER_S = 5.0
"""For a node to end a worker, and for the head to be heard of."""

SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""An empty frame of HTTP/2 settings, whose kind is 4 (RFC 9113, section 6.5)."""
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS
"""With which a client begins (section 3.4)."""

OUTLIVES = {"RAY_kill_child_processes_on_worker_exit": "false"}
"""For an actor: what it has started may write a checkpoint when it ends."""


class Ray:
    """`executor=ray`."""

    def __init__(
        self,
        address: str = "auto",
        num_cpus: float = 1,
        num_gpus: float | None = None,
        resources: Mapping[str, float] | None = None,
        dashboard: bool = False,
        usage_stats: bool = False,
    ) -> None:
        self.address, self.num_cpus, self.num_gpus = address, num_cpus, num_gpus
        self.resources = dict(resources or {})
        self.dashboard, self.usage_stats = dashboard, usage_stats

    def usual_workers(self, placement: Placement) -> int:
        """As many as the cluster has room for now: nodes may come, `workers=N` says for how many.

        Raises:
            NotHere: there is no cluster.
        """
        there = self._connect().cluster_resources()
        rooms = [there.get("CPU", 0) / self.num_cpus] if self.num_cpus else []
        if gpus := self._gpus(placement):
            alive = [node["Resources"] for node in self._connect().nodes() if node["Alive"]]
            hosts = alive if gpus > 1 else [there]  # all of a worker's are of one node
            rooms.append(sum(int(host.get("GPU", 0) / gpus) for host in hosts))
        return max(1, int(min(rooms, default=1)))

    def require(self, placement: Placement, workers: int) -> None:
        """Raises: ValueError where a worker's GPUs are not those of its runs, or are to be shared
        by what only a node can start."""
        if placement.mps == "yes":
            raise ValueError(
                "placement.mps must be auto or no with executor=ray, whose workers use MPS where "
                "their node has it running, but got yes; use auto"
            )
        given, ranks = self.num_gpus, placement.gpus_per_run
        if ranks > 1 and placement.device != "cpu" and given not in (None, ranks):
            raise ValueError(
                "executor.num_gpus must be placement.gpus_per_run, a GPU for each rank of a run, "
                f"but got {given} and {ranks}; leave it out"
            )

    def hosts(self) -> int:
        """The machines that are in the cluster now.

        Raises:
            NotHere: there is no cluster.
        """
        alive = (node for node in self._connect().nodes() if node["Alive"])
        return len({node["NodeManagerHostname"] for node in alive})

    def slots(self, workers: int) -> int:
        """As many as are asked for, since nodes may come.

        Raises:
            NotHere: there is no cluster.
        """
        self._connect()
        return workers

    def environment(self, job: Job, number: int) -> dict[str, str]:
        """The threads of each of its ranks. Its GPUs are Ray's choice, of one node: an actor has
        all that it asks for there."""
        share = max(1, int(self.num_cpus) // job.placement.gpus_per_run)
        threads = str(job.placement.threads or share)
        return {name: threads for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}

    def start(self, job: Job, number: int, deliver: Deliver) -> "Seat":
        ray = self._connect()
        needs = {"num_cpus": self.num_cpus, "num_gpus": self._gpus(job.placement)}
        kind = ray.remote(Host).options(
            **needs,
            resources=self.resources,
            max_concurrency=4,
            max_restarts=0,
            runtime_env={"env_vars": OUTLIVES},
        )
        seat = Seat(number, {**needs, **self.resources}, deliver)
        seat.begin(
            kind.remote(os.getcwd()), job.to_json(), _paths() | self.environment(job, number)
        )
        return seat

    def close(self) -> None:
        """Leave the cluster."""
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()

    def _connect(self) -> Any:
        """Ray's module, once this process is a driver of the cluster.

        Raises:
            NotHere: it cannot be.
        """
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", str(int(self.usage_stats)))
        try:
            ray: Any = importlib.import_module("ray")
        except ImportError:
            raise NotHere("executor=ray needs Ray; pip install 'isoparam[ray]'") from None
        if ray.is_initialized():
            return ray
        own = {"include_dashboard": self.dashboard} if self.address == "local" else {}
        try:
            self._knock()
            with _quiet():
                ray.init(self.address, log_to_driver=False, logging_level="ERROR", **own)
        except Exception as error:  # of many kinds
            raise NotHere(
                f"executor.address must be a Ray cluster that answers, but {self.address} does "
                f"not: {_words(error).rstrip('.')}; start one with `ray start --head`"
            ) from None
        return ray

    def _knock(self) -> None:
        """Raises: OSError where no server of Ray's kind answers at `host:port`, which Ray itself
        tries for minutes, with lines of its own. Such a server greets with its HTTP/2 settings; a
        proxy or a firewall takes a connection to anywhere, and says nothing."""
        address = os.environ.get("RAY_ADDRESS", "") if self.address == "auto" else self.address
        if found := re.fullmatch(r"([\w.-]+):(\d+)", address):
            with socket.create_connection((found[1], int(found[2])), timeout=ANSWER_S) as line:
                if os.environ.get("RAY_USE_TLS") == "1":
                    return
                line.sendall(GREETING)
                if line.recv(len(SETTINGS))[3:4] != SETTINGS[3:4]:
                    raise ConnectionError("what listens there is no Ray cluster")

    def _gpus(self, placement: Placement) -> float:
        """Of a worker."""
        if self.num_gpus is not None:
            return self.num_gpus
        wanted = placement.device != "cpu" and self._connect().cluster_resources().get("GPU", 0)
        return placement.gpus_per_run / placement.sharing if wanted else 0


class Seat:
    """A worker somewhere in the cluster, or one that waits for a node."""

    def __init__(self, number: int, needs: Mapping[str, float], deliver: Deliver) -> None:
        self.number, self.needs, self.deliver = number, needs, deliver
        self.name, self.log = f"ray:{uuid4().hex}", "no log yet: it has found no node"
        self.words = "it ended without a word"
        self.begun = self.killed = self.lost = False

    def begin(self, actor: Any, job: str, environment: Mapping[str, str]) -> None:
        """Have an actor start the worker, and listen to it."""
        self.actor = actor
        call = actor.events.options(num_returns="streaming")
        self.events = call.remote(job, self.number, dict(environment))
        threading.Thread(target=self._listen, daemon=True).start()

    def stop(self) -> None:
        if self.begun:
            self.actor.stop.remote()
        else:
            self._end_actor()

    def kill(self) -> None:
        import ray

        self.killed = True
        with suppress(Exception):  # the node may be gone
            if self.begun:
                ray.get(self.actor.kill.remote(), timeout=ANSWER_S)
        self._end_actor()

    def last_words(self) -> str:
        return self.words

    def _end_actor(self) -> None:
        import ray

        with suppress(Exception):
            ray.kill(self.actor)

    def _listen(self) -> None:
        import ray

        hint = threading.Timer(HINT_S, self._hint)
        hint.daemon = True
        hint.start()
        try:
            for reference in self.events:
                self._take(ray.get(reference))
        except Exception as error:
            self.lost = not self.killed and isinstance(error, ray.exceptions.RayActorError)
            self.words = "its worker was killed" if self.killed else _words(error)
        finally:
            hint.cancel()
            self.deliver(None)

    def _take(self, event: Event) -> None:
        if event["event"] == BEGUN:
            self.begun, self.name, self.log = True, event["name"], event["log"]
        elif event["event"] == ENDED:
            self.words = event["text"]
        else:
            self.deliver(event)

    def _hint(self) -> None:
        if not self.begun:
            wanted = ", ".join(f"{name}={value:g}" for name, value in self.needs.items() if value)
            text = f"worker {self.number + 1} waits for a node of the Ray cluster with {wanted}"
            self.deliver({"event": Kind.PRINT, "text": f"{text}; `ray status` shows what there is"})


class Host:
    """The actor: on its node it starts a worker and passes on what it reports."""

    def __init__(self, folder: str) -> None:
        os.chdir(folder)
        self.child: Child | None = None
        self.started = threading.Event()

    def events(self, job: str, number: int, environment: dict[str, str]) -> Iterator[Event]:
        """The worker's events, between two of the node's own."""
        events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        child = self.child = Here(environment).start(Job.from_json(job), number, events.put)
        self.started.set()
        yield {"event": BEGUN, "name": child.name, "log": child.log}
        while (event := events.get()) is not None:  # Ray takes no `yield from` an iterator
            yield event
        yield {"event": ENDED, "text": child.last_words()}

    def stop(self) -> None:
        """Have the worker write a checkpoint and end."""
        self._begun().stop()

    def kill(self) -> None:
        """End the worker at once."""
        self._begun().kill()

    def _begun(self) -> Child:
        self.started.wait()
        assert self.child is not None, "it has been started"
        return self.child


class Here(Local):
    """Processes of this node, with what the driver chose for them. Those of several actors share
    its GPUs."""

    mps_is_settled = True

    def __init__(self, variables: dict[str, str]) -> None:
        self.variables = variables

    def environment(self, job: Job, number: int) -> dict[str, str]:
        return self.variables


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what Ray's core, which knows no log level before it is connected, writes to standard
    error: a line for each attempt, of which the exception has the sum."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _paths() -> dict[str, str]:
    """Where this process finds its modules."""
    return {k: os.environ[k] for k in ("PYTHONPATH",) if k in os.environ}


def _words(error: BaseException) -> str:
    """What Ray says in its first line; of what was raised on a node, the last one."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1 if hasattr(error, "cause") else 0].strip()


EXECUTOR = Ray
