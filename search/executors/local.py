"""The workers of this machine: started, watched, replaced when they die, stopped.

A worker is a process of its own (`search.study.worker`): what kills one run leaves the others.
"""

import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna

from search.record import FAILED, Record
from search.runs import usable_record, write_record
from search.show.progress import Event, ended
from search.study.job import Job
from search.study.locks import HOST
from search.study.plan import MAX_DEATHS, deaths
from search.study.storage import lose, read_attempts, running
from search.train.placement import Placement, cores

Listener = Callable[[int, Event], None]
"""Called with a worker's number and each of its events."""

MAX_DEATHS_IN_A_ROW = 5
"""Workers that die without a run ended in between: then something else than a run is wrong."""


@dataclass(frozen=True)
class Ending:
    """How it ended: `done`; `interrupted`; `fatal`, no run can go on (a full disk); or `crashed`,
    workers keep dying."""

    kind: str
    reason: str = ""


@dataclass
class Child:
    """One worker process."""

    number: int
    process: subprocess.Popen[bytes]
    log: Path
    finished: bool = False
    """Whether it said that nothing is left to do."""

    @property
    def name(self) -> str:
        """As in its trials' `worker`."""
        return f"{HOST}:{self.process.pid}"

    def stop(self) -> None:
        """Ask it to write a checkpoint and end."""
        assert self.process.stdin is not None, "a pipe was asked for"
        with suppress(BrokenPipeError):  # it died before it had read its job
            self.process.stdin.close()

    def last_words(self) -> str:
        """The last line of its log, or how it died."""
        code = self.process.returncode
        if code < 0:
            return f"its worker was killed by {signal.Signals(-code).name}"
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else f"its worker ended with exit code {code}"


@dataclass
class Pool:
    """`size` workers on one job, until nothing is left to do."""

    job: Job
    study: optuna.Study
    size: int
    listener: Listener
    children: dict[int, Child] = field(default_factory=dict)
    interrupts: int = 0
    _told: bool = False
    """Whether workers and listener know of the interrupt."""
    _deaths: int = 0
    _trouble: Ending | None = None
    _events: "queue.Queue[tuple[int, Event | None]]" = field(default_factory=queue.Queue)

    def run(self) -> Ending:
        """Work through the job. An interrupt stops it cleanly, a second one at once."""
        with self._interrupts_stop():
            try:
                for number in range(self.size):
                    if not self.interrupts:
                        self._start(number)
                while self.children:
                    self._take_event()
            finally:
                self._kill()
        if self._trouble is not None:
            return self._trouble
        return Ending("interrupted") if self.interrupts else Ending("done")

    def _start(self, number: int) -> None:
        log = self.job.folder / "workers" / f"{HOST}-{number}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "search.study.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment(share_cores(self.job.placement, self.job.workers), number),
                start_new_session=True,  # the terminal's interrupt comes here alone
            )
        child = self.children[number] = Child(number, process, log)
        threading.Thread(target=self._listen, args=(child,), daemon=True).start()
        assert process.stdin is not None, "a pipe was asked for"
        try:
            process.stdin.write(pickle.dumps((number, self.job)))
            process.stdin.flush()
        except BrokenPipeError:
            return  # it died at once; the listener hears of it

    def _listen(self, child: Child) -> None:
        """Pass on a child's events, and at its end None. Runs in a thread of its own."""
        assert child.process.stdout is not None, "a pipe was asked for"
        try:
            for line in child.process.stdout:
                self._events.put((child.number, json.loads(line)))
        finally:  # a line cut off by its death is no event
            child.process.wait()
            self._events.put((child.number, None))

    def _take_event(self) -> None:
        if self.interrupts and not self._told:
            self._told = True
            self._stop()
            self._tell(-1, {"event": "interrupt"})
        try:
            number, event = self._events.get(timeout=0.5)
        except queue.Empty:
            return
        if event is None:
            self._bury(self.children.pop(number))
            return
        if event["event"] == "done":
            self.children[number].finished = True
        if event["event"] == "end":
            self._deaths = 0
        if event["event"] == "fatal":
            self._trouble = self._trouble or Ending("fatal", event["reason"])
            self._stop()
        self._tell(number, event)

    def _tell(self, worker: int, event: Event) -> None:
        """Pass an event on; where the listener cannot write, no worker can."""
        try:
            self.listener(worker, event)
        except OSError as error:
            self._trouble = self._trouble or Ending("fatal", str(error))
            self._stop()

    def _bury(self, child: Child) -> None:
        """Free what a dead worker held, and replace it unless it had a right to end."""
        child.stop()
        stopping = bool(self.interrupts or self._trouble)
        reason = child.last_words()
        for trial in running(self.study, child.name):
            lose(self.study, trial, reason, status="interrupted" if stopping else None)
            self._give_up(child.number, trial.number, reason)
        if child.finished or stopping:
            return
        self._deaths += 1
        self._tell(child.number, {"event": "death", "reason": reason, "log": str(child.log)})
        if self._deaths >= MAX_DEATHS_IN_A_ROW:
            words = f"{self._deaths} workers died in a row, the last with: {reason}"
            self._trouble = self._trouble or Ending("crashed", words)
            self._stop()
        elif self._trouble is None:  # its death could be told
            self._start(child.number)

    def _give_up(self, worker: int, number: int, reason: str) -> None:
        """Record a run as failed that took too many workers with it."""
        attempts = read_attempts(self.study)
        lost = attempts[number]
        if lost.key is None or deaths(lost, attempts, self.job.since) < MAX_DEATHS:
            return
        run = self.job.work.run(lost.params, lost.seed)
        why = f"{MAX_DEATHS} workers died of it, the last with: {reason}"
        folder = self.job.runs / lost.key
        if (record := usable_record(folder)) is None or not record.final:  # else it was being asked
            write_record(folder, Record(run=run, status=FAILED, reason=why))
        self._tell(worker, ended(run, number, status=FAILED, reason=why))

    def _stop(self) -> None:
        for child in self.children.values():
            child.stop()

    def _kill(self) -> None:
        for child in self.children.values():
            child.process.kill()

    @contextmanager
    def _interrupts_stop(self) -> Iterator[None]:
        """While it lasts, SIGINT and SIGTERM stop the workers instead of this process."""

        def interrupt(signum: int, frame: Any) -> None:
            self.interrupts += 1  # `_take_event` acts: this may be in the middle of a write
            if self.interrupts > 1:
                self._kill()

        signals = (signal.SIGINT, signal.SIGTERM)
        before = {s: signal.signal(s, interrupt) for s in signals}
        try:
            yield
        finally:
            for s, handler in before.items():
                signal.signal(s, handler)


def environment(placement: Placement, number: int) -> dict[str, str]:
    """Environment of a worker: its threads, and its GPU where there are some."""
    threads = str(placement.threads or 1)
    own = {name: threads for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    if placement.device != "cpu" and (cards := gpus()):
        own["CUDA_VISIBLE_DEVICES"] = cards[number % len(cards)]
    return {**os.environ, **own}


def share_cores(placement: Placement, workers: int) -> Placement:
    """The placement with a worker's threads: the cores of this machine divided among them."""
    return replace(placement, threads=placement.threads or max(1, cores() // workers))


def gpus() -> list[str]:
    """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    if not torch.cuda.is_available():
        return []
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return chosen.split(",") if chosen else [str(i) for i in range(torch.cuda.device_count())]
