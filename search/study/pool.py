"""The workers of a study, wherever they run: started, watched, replaced when they die, stopped."""

import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import optuna

from search.executors import Event, Executor, ExecutorConfig, Handle, require_event
from search.objectives import Unreadable
from search.record import Record
from search.runs import usable_record, write_record
from search.show.progress import ended
from search.states import End, Kind, Status
from search.study.job import Job
from search.study.leases import RUN, WORKER, Leases
from search.study.locks import HOST
from search.study.plan import MAX_DEATHS, deaths, losses
from search.study.storage import leases_of, lose, read_attempts, running

Listener = Callable[[int, Event], None]
"""Called with a worker's number and each of its events."""

MAX_DEATHS_IN_A_ROW = 5
"""Workers that die without a run ended or come further in between: then something else than a run
is wrong."""


@dataclass(frozen=True)
class Ending:
    """How it ended: `done`; `interrupted`; `fatal`, no run can go on (a full disk); or `crashed`,
    workers keep dying; or `left`, they go on by themselves."""

    kind: End
    reason: str = ""


STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""SIGUSR1 is what queues of clusters send before a job's time is over."""
NOBODY = -1
"""In place of a worker's number, in events that none has sent."""
PATIENCE_S = 120.0
"""Of a study for workers that were asked to stop: they write a checkpoint, unless they hang."""


@dataclass
class Pool:
    """`size` workers on one job, until nothing is left to do."""

    job: Job
    study: optuna.Study
    size: int
    listener: Listener
    executor: Executor = field(default_factory=lambda: ExecutorConfig().make())
    stopping: tuple[signal.Signals, ...] = STOPPING
    """Signals that stop the workers instead of this process."""
    workers: dict[int, Handle] = field(default_factory=dict)
    interrupts: int = 0
    patience_s: float = PATIENCE_S
    """For workers that are to stop; then they are killed."""
    _stopping_since: float | None = None
    _passed_on: bool = False
    """Whether workers and listener know of the interrupt."""
    _finished: set[int] = field(default_factory=set)
    """Workers that said that nothing is left to do."""
    _silent: dict[int, bool] = field(default_factory=dict)
    """Of each worker that had a lease, whether that had run out at the last look."""
    _looked: float = field(default_factory=time.monotonic)
    _deaths: int = 0
    _further: set[int] = field(default_factory=set)
    """Attempts that were lost after they had come further, each with one death."""
    _trouble: Ending | None = None
    _starts: dict[int, object] = field(default_factory=dict)
    """Of each worker that has not ended, its latest start: of earlier ones nothing is taken."""
    _events: "queue.SimpleQueue[tuple[int, object, Event | None]]" = field(
        default_factory=queue.SimpleQueue  # whole also where `kill` interrupts who puts
    )

    @cached_property
    def leases(self) -> Leases:
        """In the name of this start: gives back what its dead workers held."""
        owner = f"{HOST}:{os.getpid()}"
        return leases_of(self.study, owner, start=self.job.start, grace_s=self.job.grace_s)

    def run(self) -> Ending:
        """Work through the job. An interrupt stops it cleanly, a second one at once."""
        with self._interrupts_stop(), closing(self.executor):
            try:
                for number in range(self.size):
                    if not self.interrupts and self._trouble is None:
                        self._start(number)
                while self.workers:
                    self._take_event()
            finally:
                self._kill()
        if self._trouble is not None:
            return self._trouble
        return Ending(End.INTERRUPTED) if self.interrupts else Ending(End.DONE)

    def _start(self, number: int) -> None:
        start = self._starts[number] = object()

        def deliver(event: Event | None) -> None:
            self._events.put((number, start, event))

        try:
            self.workers[number] = self.executor.start(self.job, number, deliver)
        except ValueError as error:
            self._take(number, {"event": Kind.FATAL, "reason": str(error)})

    def _take_event(self) -> None:
        if self.interrupts and not self._passed_on:
            self._passed_on = True
            self._stop()
            self._tell(NOBODY, {"event": Kind.INTERRUPT})
        since = self._stopping_since
        if since is not None and time.monotonic() - since > self.patience_s:
            self._kill()
        if time.monotonic() - self._looked > self.job.grace_s / 2:
            self._kill_silent()
        try:
            number, start, event = self._events.get(timeout=0.5)
        except queue.Empty:
            return
        if number == NOBODY or self._starts.get(number) is not start:
            return  # its end was delivered before
        if event is None:
            del self._starts[number]
            self._bury(number, self.workers.pop(number))
        else:
            self._take(number, event)

    def _kill_silent(self) -> None:
        """End workers whose leases had run out at two looks: they are stopped, or hang. What they
        worked on is then another's."""
        live = {lease.owner for lease in self.leases.read(WORKER) if lease.left_s > 0}
        for number, worker in self.workers.items():
            if worker.name in live or getattr(worker, "watched", False):
                self._silent[number] = False
            elif self._silent.get(number):
                worker.kill()
            elif number in self._silent:
                self._silent[number] = True
        self._looked = time.monotonic()

    def _take(self, number: int, event: Event) -> None:
        """Act on an event, and pass it on."""
        try:
            kind = require_event(event)["event"]
        except ValueError as error:
            self._tell(number, {"event": Kind.PRINT, "text": f"worker {number + 1}: {error}"})
            return
        if kind == Kind.DONE:
            self._finished.add(number)
        if kind == Kind.END:
            self._deaths = 0
        if kind == Kind.FATAL:
            self._trouble = self._trouble or Ending(End.FATAL, event["reason"])
            self._stop()
        if kind == Kind.INTERRUPT:  # who gives the executor its hosts wants the study to stop
            self.interrupts = max(1, self.interrupts)
            return
        self._tell(number, event)
        if kind == Kind.DEATH:  # of a worker that its host has replaced
            self._count_death(event["reason"])

    def _tell(self, number: int, event: Event) -> None:
        """Pass an event on; if the listener cannot write, no worker can, and what cannot be read of
        one run cannot be read of others."""
        try:
            self.listener(number, event)
        except (OSError, Unreadable) as error:
            self._trouble = self._trouble or Ending(End.FATAL, str(error))
            self._stop()

    def _bury(self, number: int, worker: Handle) -> None:
        """Free what a dead worker held, and replace it unless it was to end."""
        worker.stop()
        self._silent.pop(number, None)
        stopping = bool(self.interrupts or self._trouble)
        lost = getattr(worker, "lost", False)
        reason = worker.last_words()
        self.leases.free(worker.name)
        for trial in running(self.study, worker.name):
            blameless = Status.INTERRUPTED if stopping or lost else None
            lose(self.study, trial, reason, status=blameless)
            self._give_up(number, trial.number, reason)
        if number in self._finished or stopping:
            return
        self._tell(number, {"event": Kind.DEATH, "reason": reason, "log": worker.log})
        if not lost:
            self._count_death(reason)
        if self._trouble is None:  # its death could be recorded
            self._start(number)

    def _count_death(self, reason: str) -> None:
        """End the study where workers keep dying. One whose run came further before it died shows
        that workers can work."""
        self._deaths = 0 if self._came_further() else self._deaths + 1
        if self._deaths >= MAX_DEATHS_IN_A_ROW:
            words = f"{self._deaths} workers died in a row, the last with: {reason}"
            self._trouble = self._trouble or Ending(End.CRASHED, words)
            self._stop()

    def _came_further(self) -> bool:
        """Whether one more attempt than at the last death was lost after it had left a checkpoint
        that is further than those before: each stands for one death."""
        attempts = read_attempts(self.study)
        for key in {a.key for a in attempts if a.saved and a.number >= self.job.since}:
            for lost, further in losses(key, attempts):
                if further and lost.number >= self.job.since and lost.number not in self._further:
                    self._further.add(lost.number)
                    return True
        return False

    def _give_up(self, worker: int, number: int, reason: str) -> None:
        """Record a run as failed that took too many workers with it."""
        attempts = read_attempts(self.study)
        lost = attempts[number]
        if lost.key is None or deaths(lost, attempts, self.job.since) < MAX_DEATHS:
            return
        run = self.job.work.run(lost.params, lost.seed)
        why = f"{MAX_DEATHS} workers died of it, the last with: {reason}"
        folder = self.job.runs / lost.key
        lease = f"{RUN}/{lost.key}"
        if self.leases.claim(lease):
            record = usable_record(folder)
            if record is None or not record.final:  # else it was being asked
                write_record(folder, Record(run=run, status=Status.FAILED, reason=why))
            self.leases.release(lease)
        self._tell(worker, ended(run, number, lost.params, status=Status.FAILED, reason=why))

    def _stop(self) -> None:
        self._stopping_since = self._stopping_since or time.monotonic()
        for worker in list(self.workers.values()):  # a thread may be here while others come and go
            worker.stop()

    def _kill(self) -> None:
        for worker in self.workers.values():
            worker.kill()

    @contextmanager
    def _interrupts_stop(self) -> Iterator[None]:
        """While it lasts, signals stop the workers instead of this process: at once, though it may
        be in the middle of a write or of a listener that takes its time."""
        asked: queue.SimpleQueue[None] = queue.SimpleQueue()  # unlike an Event, whole if nested

        def interrupt(signum: int, frame: Any) -> None:
            self.interrupts += 1  # `_take_event` says so
            asked.put(None)
            self._events.put((NOBODY, None, None))  # else `get` never ends if this outlasts it
            if self.interrupts > 1:
                self._kill()

        def stop() -> None:
            asked.get()
            if self.interrupts:
                self._stop()

        stopper = threading.Thread(target=stop, daemon=True)
        stopper.start()
        here = threading.current_thread() is threading.main_thread()  # others get no signals
        signals = [s for s in self.stopping if here and signal.getsignal(s) != signal.SIG_IGN]
        before = {s: signal.signal(s, interrupt) for s in signals}
        try:
            yield
        finally:
            for s, handler in before.items():
                signal.signal(s, handler)
            asked.put(None)
            stopper.join()
