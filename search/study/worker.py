"""One worker process: takes the study's next cell, trains it, tells the study, until none is left.

`search.executors.local` starts it as `python -m search.study.worker`, hands it two lines of JSON on
standard input, its number and the `Job`, and reads events from its standard output, a JSON object a
line. When standard input closes, because the parent wants it or is dead, the worker writes a
checkpoint and ends.
"""

import io
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, NoReturn

import filelock
import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from search.artifacts import Artifacts, Away
from search.data.cache import bring_data
from search.evaluate.scores import Scorer
from search.executors import Event
from search.objectives import in_digits, missed
from search.record import Reading, Record, Run, architecture_id
from search.runs import disk_error, usable_record
from search.show.progress import ended, identity
from search.states import Kind, Role, State, Status
from search.study.copies import Copy
from search.study.job import Job
from search.study.leases import PLANNING, RUN, WORKER
from search.study.locks import HOST, holder_of, is_of_another_host, run_lock, state_of
from search.study.measuring import measure_run, to_measure
from search.study.plan import Attempt, Cell, Step, distinct, is_open
from search.study.pruners import make_pruner
from search.study.samplers import make_sampler, said_of_proposal, worker_seed
from search.study.sealed import seal
from search.study.standing import Standing
from search.study.starts import SeveralHosts, require_one_host
from search.study.storage import (
    leases_of,
    load_study,
    lose_silent,
    read_attempts,
)
from search.train.leftovers import give_back
from search.train.loop import Stop
from search.train.placement import leave_group
from search.train.ranks import NoRoom, Ranks
from space.compat import (
    TELL_ERRORS,
    is_tell_refused,
    note,
    storage_of,
    without_experimental_warnings,
)
from space.doors import Changed, bare, is_pinned

Emit = Callable[[Event], None]

POLL_S, LONGEST_POLL_S = 0.3, 3.0
"""Between looks at a study in which nothing can be decided yet, or at a run that is locked: longer
the longer it is so."""
PLACES = 499
"""Between the numbers of workers of two starts, from which samplers have their seeds."""
TELL_S = 0.2
"""Between two events of a run's progress."""
STORAGE_ERRORS = (OSError, SQLAlchemyError, optuna.exceptions.OptunaError)
"""Trouble with what is around a run, which is no outcome of it."""


class Ended(Exception):
    """Ends a trial without a value. Caught by `study.optimize`, which marks it FAIL."""


class Pruned(Stop):
    """Raised in a run that the study's pruner stops; its checkpoint stays."""


class Lost(Stop):
    """This worker was silent for too long, and its run is another's by now: it writes nothing."""


class Locked(Exception):
    """A run's folder is locked by a process that is stopped and no worker of this study."""


class Unusable(Exception):
    """The study's objective, pruner or sampler raised, as it would in other runs. Caught by
    `work`."""


class Worker:
    """A worker's loop over its study."""

    def __init__(
        self,
        job: Job,
        number: int,
        emit: Emit,
        stopping: threading.Event,
        owner: str | None = None,
    ) -> None:
        self.job, self.emit, self.stopping = job, emit, stopping
        self.owner = owner or f"{HOST}:{os.getpid()}"
        number += PLACES * job.place
        seed = worker_seed(job.sampler, job.seed, number, trials=job.since)
        self.study = load_study(
            job,
            sampler=make_sampler(job.sampler, seed),
            pruner=make_pruner(job.pruner, job.work.typical.recipe),
            stopping=stopping,
        )
        for measure in job.targets.measures.values():
            _ = measure.objective  # loaded, and from here on the same
        self.standing = Standing(self.study)
        self.artifacts = Artifacts.at(job.artifacts, stopping=stopping) if job.artifacts else None
        self.data = bring_data(job.data, self.artifacts)
        self.leases = leases_of(self.study, self.owner, start=job.start, grace_s=job.grace_s)
        self.planning = f"{PLANNING}/{job.study}"
        """The lease held from looking at the study until a trial is claimed."""
        self.presence = f"{WORKER}/{self.leases.holder}"
        """The lease behind all trials of this worker."""
        self.attempts: list[Attempt] = []
        self.outcome: Event | None = None
        """The event of the last trial's end."""
        self.born, self.busy_s = time.monotonic(), 0.0
        """When it began, and for how long it has worked on runs since."""
        self.run_began: float | None = None
        self.ranks = Ranks(job.placement)
        self.scorer = Scorer(job.evaluate, job.data, self._before_answers)

    def work(self) -> None:
        """Run trials until nothing is left or the parent wants an end."""
        require_one_host(self.leases)
        self.leases.keep()
        try:
            self._work()
        finally:
            self.ranks.close()
            self.leases.close()

    def _work(self) -> None:
        pause = POLL_S
        while not self.stopping.is_set():
            step = self.take_next()
            if step is Step.DONE and not self._others_work():
                self.score_earlier_runs()
                return
            if step in (Step.DONE, Step.WAIT):
                self._say("waiting")
                self.emit({"event": Kind.IDLE})
                self.stopping.wait(pause)
                pause = min(1.5 * pause, LONGEST_POLL_S)
            else:
                pause = POLL_S

    def take_next(self) -> Step | Cell:
        """Do what the plan says next; one trial at most."""
        if self.presence not in self.leases.held:  # at first, and where it was lost
            self.leases.claim(self.presence)
        with self.leases.holding(self.planning, self.stopping) as planning:
            if not planning:
                return Step.WAIT
            self.attempts = read_attempts(self.study)
            if lose_silent(self.study, self.leases, self.attempts):
                self.attempts = read_attempts(self.study)
            step = self.job.work.next(self.attempts, self.job.since)
            if step in (Step.DONE, Step.WAIT):
                return step
            if isinstance(step, Cell):
                cell = {"seed": step.seed, "role": step.role, "cell": dict(step.params)}
                self.study.enqueue_trial(dict(step.params), user_attrs=cell)
            self._optimize(enqueued=isinstance(step, Cell) or self._others_enqueued())
            return step

    def _others_work(self) -> bool:
        """Whether workers of other starts have runs in progress, which become this one's if they
        die. Those of its own start are its parent's to replace."""
        busy = {attempt.holder for attempt in self.attempts if attempt.busy}
        return any(
            lease.holder in busy and lease.start != self.job.start
            for lease in self.leases.read(WORKER)
        )

    def score_earlier_runs(self) -> None:
        """Ask runs that were finished before this start what they were not asked then. Of several
        workers each takes those that no other works on."""
        for key in self.job.unscored:
            lease, lock = f"{RUN}/{key}", run_lock(self.job.runs, key)
            if not self.leases.claim(lease):
                continue
            try:
                with lock.acquire(timeout=0), self._copy(key).travelling():
                    if (record := usable_record(self.job.runs / key)) is not None:
                        self._score(record)
            except filelock.Timeout:
                continue
            except Lost:
                continue
            except Stop:
                return
            finally:
                self.leases.release(lease)

    def _copy(self, key: str) -> Copy:
        """A run's folder, as it travels."""
        return Copy(
            self.artifacts,
            self.job.runs / key,
            self._fence(key),
            weights=bool(self.job.evaluate.tasks),
            keep=self.job.keep_weights,
        )

    def _score(self, record: Record) -> Record:
        """The record with its scores; what is wrong with them does not touch the run."""
        key = record.run.key
        try:
            return self.scorer.score(record, self.job.runs / key, self._fence(key))
        except Stop:
            raise
        except Exception as error:
            if (disk := disk_error(error)) is not None:
                raise disk from error
            traceback.print_exc()  # to the log
            self.emit({"event": Kind.PRINT, "text": f"run {key} was not scored: {error}"})
            return record

    def _measure(self, record: Record) -> Record:
        """The record with what an engine takes, where an objective is that."""
        key, how = record.run.key, self.job.measure
        if not to_measure(record, how, self.job.targets):
            return record

        def check() -> None:
            if f"{RUN}/{key}" not in self.leases.held:
                raise Lost
            if self.stopping.is_set():
                raise Stop

        self._say("measuring")
        self.emit({"event": Kind.MEASURE, "engine": bare(str(how.engine))})
        try:
            return measure_run(record, self.job.runs / key, how, self._fence(key), check)
        except ValueError as error:
            self.emit({"event": Kind.PRINT, "text": f"run {key} was not measured: {error}"})
            return record

    def _before_answers(self, task: str | None) -> None:
        if self.stopping.is_set():
            raise Stop
        if task is not None:
            self._say("asking", task=task)
            self.emit({"event": Kind.ASK, "task": task})

    def _fence(self, key: str) -> Callable[[], None]:
        """Asked before each file of a run takes its place."""

        def fence() -> None:
            if not self.leases.owns(f"{RUN}/{key}"):
                raise Lost

        return fence

    def _saved(self, trial: Trial, copy: Copy) -> Callable[[int], None]:
        """Notes how far a trial's checkpoint is, and sends it."""

        def saved(tokens: int) -> None:
            with self._while_it_runs():
                trial.set_user_attr("saved", tokens)
            copy.checkpointed()

        return saved

    @contextmanager
    def _while_it_runs(self) -> Iterator[None]:
        """For what is written of a trial. Raises: Lost where another took it for lost."""
        try:
            yield
        except UpdateFinishedTrialError:
            raise Lost from None

    def _others_enqueued(self) -> bool:
        return any(attempt.state == State.WAITING for attempt in self.attempts)

    def _optimize(self, enqueued: bool) -> None:
        """One trial; the next of those that were enqueued, where there are such."""
        self.outcome = None
        storage: Any = storage_of(self.study)
        storage.may_wait = enqueued
        try:
            self.study.optimize(self.objective, n_trials=1, catch=(Ended, Lost))
        except UpdateFinishedTrialError:
            self.outcome = None  # as below
        except TELL_ERRORS as error:
            # Another took this worker for dead, as after a suspension. The record stands.
            if not is_tell_refused(error):
                raise
            self.outcome = None
        if self.outcome is not None:
            self.emit(self.outcome)  # now that the storage has it too
        give_back()

    def _say(self, doing: str, **more: Any) -> None:
        """Have the next renewal tell the storage what this worker does."""
        lived = time.monotonic() - self.born
        idle = max(0.0, 1 - (self.busy_s + self._in_run_s()) / lived) if lived > 0 else 0.0
        self.leases.said = {"doing": doing, "idle": round(idle, 4), **more}

    def _in_run_s(self) -> float:
        return time.monotonic() - self.run_began if self.run_began is not None else 0.0

    def objective(self, trial: Trial) -> tuple[float, ...]:
        """The values of a trial, which is sealed with what it ends with."""
        try:
            values, attributes = self._values(trial)
        except optuna.TrialPruned:
            seal(trial, TrialState.PRUNED)
            raise
        seal(trial, TrialState.COMPLETE, values, attributes)
        return values

    def _values(self, trial: Trial) -> tuple[tuple[float, ...], dict[str, Any]]:
        """The values of a run already there, or of training it, and what else is to be kept."""
        cell, run = self._cell(trial)
        if beyond := self.job.targets.beyond(run):
            self._rule_out(trial, run, beyond)
        if (twin := self._twin(run.key)) is not None:
            return self._answer(trial, twin), {}
        self._claim(trial, cell, run)
        self.leases.release(self.planning)
        self.emit({"event": Kind.START, "number": trial.number, **identity(run, cell)})
        try:
            record, reused = self._train(run, trial)
        except Pruned as pruned:
            note(trial, {"status": Status.PRUNED, "reason": str(pruned)})
            self.outcome = ended(run, trial.number, cell, status=Status.PRUNED, reason=str(pruned))
            raise optuna.TrialPruned from None
        except Lost:
            said = "was silent for too long, and another worker goes on with its run"
            self.emit({"event": Kind.PRINT, "text": f"trial {trial.number}: this worker {said}"})
            raise
        except Stop:
            self._end(trial, Status.INTERRUPTED, "the study was stopped")
        except Locked as locked:
            self.outcome = ended(run, trial.number, cell, status=Status.FAILED, reason=str(locked))
            self._end(trial, Status.FAILED, str(locked))
        except (*STORAGE_ERRORS, Changed, NoRoom, Unusable):
            trial.set_user_attr("status", Status.INTERRUPTED)
            raise
        status, reason, values = self._measured(record, trial)
        kept = {"reused": reused, "status": status, "reason": reason}
        kept |= {"result_id": record.result_id} if record.final else {}
        self.outcome = ended(
            run,
            trial.number,
            cell,
            status=status,
            reason=reason,
            value=values[0] if values else None,
            missed=missed(self.job.targets.excesses(record)) if values else "",
            reused=reused,
            seconds=record.seconds,
        )
        if status != Status.FINISHED:
            note(trial, kept)
            raise Ended(reason)
        return values, kept

    def _measured(
        self, record: Record, trial: Trial
    ) -> tuple[Status, str | None, tuple[float, ...]]:
        """How a run ended, why, and the value of each objective, none where it did not finish. The
        trial has then its constraints."""
        if record.status != Status.FINISHED:
            return record.status, record.reason, ()
        try:
            values = self.job.targets.values(record)
            excesses = self.job.targets.excesses(record)
        except ValueError as error:
            return Status.FAILED, str(error), ()
        _constrain(trial, excesses)
        return Status.FINISHED, None, values

    def _cell(self, trial: Trial) -> tuple[dict[str, Any], Run]:
        """The trial's place in the space, and its run."""
        try:
            params = self.job.work.suggest(trial)
        except (*STORAGE_ERRORS, Lost):
            raise
        except Exception as error:
            if not is_pinned(self.job.sampler.name):
                raise
            raise Unusable(said_of_proposal(self.job.sampler, error)) from error
        seed = trial.user_attrs.get("seed", self.job.seed)
        return params, self.job.work.run(params, seed)

    def _twin(self, key: str) -> Attempt | None:
        """The trial that has this run already, if it need not be tried again."""
        for other in distinct(self.attempts):
            if other.key == key and not is_open(other, self.attempts, self.job.since):
                return other
        return None

    def _rule_out(self, trial: Trial, run: Run, beyond: Sequence[str]) -> NoReturn:
        """Tell the sampler that a proposal is beyond a constraint, as it would be after training;
        the plan then asks it again.

        Raises:
            TrialPruned: always.
        """
        ruled_out = {
            "duplicate": True,
            "status": Status.RULED_OUT,
            "reason": "; ".join(beyond),
            "arm": architecture_id(run.architecture),
        }
        note(trial, ruled_out)
        _constrain(trial, self.job.targets.known_excesses(run))
        raise optuna.TrialPruned

    def _answer(self, trial: Trial, twin: Attempt) -> tuple[float, ...]:
        """Report to the sampler what it could have known; the plan then asks it again."""
        trial.set_user_attr("duplicate", True)
        if twin.state == State.PRUNED:
            raise optuna.TrialPruned  # without readings, which would count twice
        if twin.value is None:
            self._end(trial, Status.DUPLICATE, f"as trial {twin.number}")
        _constrain(trial, twin.excesses)
        return twin.values

    def _claim(self, trial: Trial, params: dict[str, Any], run: Run) -> None:
        """Write into the trial which run it is, so that no one else takes it."""
        if not self.leases.owns(self.planning, self.presence):
            raise Lost  # another plans by now, and may have taken the same
        which = {
            "worker": f"{self.owner}:",
            "holder": self.leases.holder,
            "cell": params,
            "seed": run.seed,
            "arm": architecture_id(run.architecture),
            "layers": run.architecture.num_layers,
            "key": run.key,
        }
        note(trial, which)

    def _end(self, trial: Trial, status: Status, reason: str | None) -> NoReturn:
        note(trial, {"status": status, "reason": reason})
        raise Ended(reason)

    def _train(self, run: Run, trial: Trial) -> tuple[Record, bool]:
        """The run's record, and whether it was there before.

        Raises:
            Pruned: the study's pruner stopped it at a horizon.
        """
        folder = self.job.runs / run.key
        with self._own(run.key), self._copy(run.key).travelling() as copy:
            before = usable_record(folder)
            judge = self._judge(run, trial)
            horizons = len(run.recipe.horizons)  # a diverged run has no reading after these
            for reading in before.readings[:horizons] if before and before.final else ():
                with suppress(Pruned):  # it is trained already; others are compared with it
                    judge(reading)
            record = self.ranks.train(
                run,
                self.data,
                folder,
                progress=self._progress(run.key, trial.number),
                listener=judge,
                fence=copy.fence,
                saved=self._saved(trial, copy),
            )
            if self.scorer.evaluation.tasks or self.job.targets.measured:
                copy.send()  # answers and measurements take time
            record = self._measure(self._score(record))
            return record, before is not None and before.final

    def _judge(self, run: Run, trial: Trial) -> Callable[[Reading], None]:
        """Shows the pruner a trial's readings at horizons, and stops the run where it says so.

        Further seeds of an architecture are not shown: they were promised, and an architecture
        counts once among those that others are compared with.
        """

        first = self.job.targets.first

        def judge(reading: Reading) -> None:
            further = trial.user_attrs.get("role") == Role.REPLICATE
            if further or len(self.job.targets.objectives) > 1:
                return  # with several objectives there is no pruner, nor a value to report
            try:
                value = first.at(run, reading)
            except ValueError as error:
                raise Unusable(str(error)) from error
            if value is None:
                return
            with self._while_it_runs():
                trial.report(value, step=reading.tokens)
            if self._would_prune(trial):
                at = f"{in_digits(first.name, value)} {first.unit}"
                raise Pruned(f"stopped after {reading.tokens:,} tokens at {at}")

        return judge

    def _would_prune(self, trial: Trial) -> bool:
        try:
            return self.standing.would_prune(trial)
        except STORAGE_ERRORS:
            raise
        except Exception as error:
            said = (str(error).splitlines() or [""])[0]
            raise Unusable(
                f"pruner={bare(self.job.pruner.name)} could not judge trial {trial.number}: "
                f"{type(error).__name__}: {said}"
            ) from error

    @contextmanager
    def _own(self, key: str) -> Iterator[None]:
        """A run's folder, once others have left it: the lease in the storage, and on this machine
        the lock of the folder, which studies in other storages share.

        Raises:
            Stop: the parent wants an end first.
            Locked: the process that has the lock is stopped.
        """
        with self.leases.holding(f"{RUN}/{key}", self.stopping) as owned:
            if not owned:
                raise Stop
            with self._lock(run_lock(self.job.runs, key), key):
                self.run_began = time.monotonic()
                try:
                    yield
                finally:
                    self.busy_s, self.run_began = self.busy_s + self._in_run_s(), None
                    self._say("planning")

    def _lock(self, lock: filelock.BaseFileLock, key: str) -> Any:
        """The lock of a folder; none where a worker of this study has it that has lost the run,
        since that one writes nothing any more. It may be behind a link that is down."""
        began = time.monotonic()
        while True:
            try:
                return lock.acquire(timeout=POLL_S)
            except filelock.Timeout:
                if self.stopping.is_set():
                    raise Stop from None
            process = holder_of(lock)
            if self._is_lost(process, key):
                return nullcontext()
            if process is None or state_of(process) not in ("T", "t"):
                began = time.monotonic()
            elif time.monotonic() - began > self.job.grace_s:
                raise Locked(
                    f"its folder is locked by process {process} of {HOST}, which is stopped; end "
                    "or continue that"
                )

    def _is_lost(self, process: int | None, key: str) -> bool:
        """Whether the lock of a run is held by a worker that has lost the run. Processes of other
        hosts this one knows by their locks alone, if their file system has such at all."""
        lost = {a.worker for a in self.attempts if a.key == key and a.state == State.FAIL}
        elsewhere = {worker for worker in lost if not worker.startswith(f"{HOST}:")}
        if process is None:
            return bool(elsewhere)
        if is_of_another_host(process):
            return any(worker.endswith(f":{process}:") for worker in elsewhere)
        return f"{HOST}:{process}:" in lost

    def _progress(self, key: str, number: int) -> Emit:
        last = 0.0

        def progress(event: Event) -> None:
            nonlocal last
            if f"{RUN}/{key}" not in self.leases.held:
                raise Lost
            if self.stopping.is_set():
                raise Stop
            shown = {name: event[name] for name in ("step", "of", "tokens", "tokens_per_s")}
            self._say("training", key=key, trial=number, **shown)
            now = time.monotonic()
            if now - last >= TELL_S or event["step"] == event["of"]:
                last = now
                self.emit({"event": Kind.STEP, "key": key, **event})

        return progress


def _constrain(trial: Trial, excesses: Mapping[str, float]) -> None:
    """Tell the sampler by how much a run is beyond each constraint."""
    with without_experimental_warnings():
        for name, excess in excesses.items():
            trial.set_constraint(name, excess)


def work(
    job: Job, number: int, emit: Emit, stopping: threading.Event, owner: str | None = None
) -> None:
    """Do what is left of a job as worker `number`: what every executor has its workers do.

    `emit` takes each event; once `stopping` is set, the run in progress writes a checkpoint and
    ends. `owner` names whose trials are this worker's: by default host and process id.
    """
    try:
        Worker(job, number, emit, stopping, owner).work()
    except Away as error:
        emit({"event": Kind.FATAL, "reason": str(error)})
        return
    except STORAGE_ERRORS as error:
        disk = disk_error(error)
        if disk is None and "disk is full" not in f"{error} {error.__cause__}":  # as SQLite says it
            raise
        emit({"event": Kind.FATAL, "reason": str(disk or error)})
        return
    except (Changed, NoRoom, SeveralHosts, Unusable) as error:
        emit({"event": Kind.FATAL, "reason": str(error)})
        return
    emit({"event": Kind.DONE})


class Relay(io.TextIOBase):
    """Standard output of a worker: its lines become events, which the parent prints."""

    def __init__(self, emit: Emit) -> None:
        self.emit, self.line = emit, ""

    def write(self, text: str) -> int:
        *lines, self.line = (self.line + text).split("\n")
        for line in lines:
            self.emit({"event": Kind.PRINT, "text": line})
        return len(text)


def main() -> None:
    """Do the job that standard input brings."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # a queue signals all processes: the parent acts
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to the log
    stopping = threading.Event()

    def emit(event: Event) -> None:
        try:
            channel.write(json.dumps(event) + "\n")
            channel.flush()
        except BrokenPipeError:
            stopping.set()  # the parent is dead

    def watch_parent() -> None:
        while os.read(0, 1):
            pass
        stopping.set()

    sys.stdout = Relay(emit)
    leave_group()  # a node of a cluster may have one of its own
    number = int(sys.stdin.buffer.readline())
    try:
        job = Job.from_json(sys.stdin.buffer.readline())
    except ValueError as error:
        emit({"event": Kind.FATAL, "reason": str(error)})
        return
    threading.Thread(target=watch_parent, daemon=True).start()
    work(job, number, emit, stopping)


if __name__ == "__main__":
    main()
