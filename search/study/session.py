"""One start of a study: opened, estimated, trained. How it ends is `search.study.ending`.

`python -m search` and `python -m ablations` differ in their `Subject`: what is to be trained, what
is said of it and which page shows it.
"""

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Generic, Self, TypeVar

import optuna

from search import teacher
from search.artifacts import PROBE_S, Artifacts
from search.config import AUTO, StudyConfig
from search.data.cache import prepare, require_there
from search.data.packed import Data
from search.evaluate.scores import lacking, require_answers
from search.executors import Event, Executor
from search.objectives import USUAL, WITHOUT_BYTES, Targets
from search.recipe import Recipe
from search.runs import usable_record
from search.show.estimate import Estimate, estimate
from search.show.progress import Tally, identity, shape, view
from search.show.trackers import Mirror, TrackerConfig, open_tracker
from search.states import End, Kind, State, Status
from search.study.changed import Origin
from search.study.copies import has_weights, share_ended
from search.study.ending import describe, given, tidy
from search.study.job import Job
from search.study.locks import HOST
from search.study.lost import name_damaged, reopen_lost
from search.study.measuring import measure_settings, require_measured
from search.study.patience import PatientStorage
from search.study.plan import Attempt, Work, distinct, every_arm
from search.study.pool import Ending, Pool
from search.study.pruners import PrunerConfig, make_pruner
from search.study.samplers import SamplerConfig
from search.study.starts import Start, enter
from search.study.storage import (
    AT_MOST,
    COMMAND,
    SUBMITTED,
    TOTAL,
    Away,
    has_study,
    is_begun,
    is_sqlite,
    lose_abandoned,
    open_existing,
    open_storage,
    open_study,
    read_attempts,
    read_begun,
    require_unchanged,
    settled_precision,
)
from search.train import placement
from search.train.parts import require_parts
from search.train.placement import (
    Placement,
    leave_group,
    require_device,
    require_engine,
    require_rows,
    settle_apart,
    settle_precision,
    share_cores,
)
from space.arch import Architecture
from space.cli import one_line_errors
from space.files import require_writable
from space.formats import not_exportable
from space.seals import Damaged, read_json
from space.words import count, done_of

HERE = ("local", "inline")
"""Executors whose workers run on this machine."""

W = TypeVar("W", bound=Work)
C = TypeVar("C", bound=StudyConfig)


@dataclass(frozen=True, kw_only=True)
class Groundwork:
    """What must be there before a study's work can be planned."""

    config: StudyConfig
    verb: str
    """As in `python -m <verb>`."""
    naming: str
    """The option that chooses the study's name."""
    executor: Executor
    data: Data
    recipe: Recipe
    """With nothing left open."""
    given: Sequence[str]
    """The options."""
    origin: Origin
    """Where settings come from."""
    storage: PatientStorage | None
    """None where it is yet to be made."""
    artifacts: Artifacts | None = None


@dataclass(frozen=True, kw_only=True)
class Subject(Generic[W]):
    """What a study is about."""

    work: W
    """What is to be trained."""
    headline: Callable[[W], str]
    """What the study is by what was found so far, in a line."""
    settings: Mapping[str, Any]
    """What must not change under the study's name."""
    facts: "Callable[[Session[W]], Mapping[str, Any]]"
    """What `study.json` says besides what it says of every study."""
    remark: "Callable[[Session[W]], str]" = lambda session: ""
    """What else a start says before it trains; empty for nothing."""
    pages: Sequence[Mapping[str, str]]
    """Options of `python -m reports`, of each page that shows it."""
    plot: str
    """The picture of it in its folder."""
    targets: Targets
    """What is optimised, shown and kept to."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    pruner: PrunerConfig = field(default_factory=PrunerConfig)
    kept_arms: int = 1
    """How many `contenders` there are at most."""
    contenders: Callable[[Sequence[Attempt]], Collection[str | None]] = every_arm
    """Arms of which one may become the best: with `keep=best` they keep the weights of their best
    run until the study is done."""
    pausing_runs: int = 0
    """How many may be stopped at a horizon and keep their checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Session(Generic[W]):
    """One start of a study, with everything that is checked before training."""

    config: StudyConfig
    verb: str
    subject: Subject[W]
    job: Job
    study: optuna.Study
    executor: Executor
    tracker: Mirror
    lock: Start
    data: Data
    started: float
    before_s: float
    """Wall time of earlier starts."""
    given: Sequence[str]
    """The options."""
    known: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What `study.json` says of records that were read at this start, by key."""
    artifacts: Artifacts | None = None
    shared: set[str] = field(default_factory=set)
    """Keys of runs whose records are here and in the store."""
    settled: Placement | None = None
    """Of a typical run; None where the study had begun, and may have nothing left to train."""

    @classmethod
    def open(cls, ground: Groundwork, subject: Subject[W]) -> Self:
        """The study: created, or resumed. What is refused before it is there leaves no folder.

        Raises:
            ValueError: what must not change under its name has changed.
        """
        data, work = ground.data, subject.work
        config = ground.config.sharing_gpus(
            ground.executor, work.architectures, work.typical.recipe
        )
        require_engine(config.placement, work.architectures)
        for recipe in work.recipes:
            teacher.require(recipe, data, config.placement)
            require_rows(recipe, config.placement.gpus_per_run)
        config.measure.require(*work.architectures)
        require_measured(config.measure, subject.targets)
        pruner = make_pruner(subject.pruner, ground.recipe)
        workers = config.workers_of(ground.executor)
        begun = is_begun(ground.storage, config.name)
        if not begun:
            require_parts(work.architectures)
        settled = None if begun else _settle_placement(config.placement, workers, work)
        tracker = open_tracker(
            config.tracker, config.name, config.folder, scored=bool(config.evaluate.tasks)
        )
        storage, lock = _enter(config, ground.storage)
        with ExitStack() as refused, lock.leases.holding(lock.planning):
            refused.callback(lock.release)
            study = open_study(
                storage.as_optunas,
                config.name,
                {**subject.settings, **measure_settings(config.measure, subject.targets)},
                naming=ground.naming,
                pruner=pruner,
                directions=subject.targets.directions,
                origin=ground.origin,
                alone=lock.alone,
            )
            name_damaged(study)
            lose_abandoned(study, Path(config.runs), lock.leases)
            attempts, shared = read_attempts(study), set[str]()
            share_ended(ground.artifacts, Path(config.runs), attempts, shared)
            reopen_lost(study, Path(config.runs))
            if config.train:
                _note_total(study, work.after(attempts, len(attempts)))
                here = {
                    "verb": ground.verb,
                    "given": ground.origin.given,
                    "folder": str(Path.cwd()),
                }
                study.set_user_attr(COMMAND, here)
            refused.pop_all()
        job = Job(
            study=config.name,
            storage=config.url,
            folder=config.folder,
            runs=Path(config.runs),
            data=data.folder,
            work=work,
            sampler=subject.sampler.pinned(),
            pruner=subject.pruner.pinned(),
            seed=config.seed,
            targets=subject.targets,
            placement=config.placement,
            workers=workers,
            since=len(study.get_trials(deepcopy=False)),
            evaluate=config.evaluate,
            measure=config.measure,
            start=lock.name,
            place=lock.place,
            grace_s=config.grace_s,
            artifacts=ground.artifacts.url if ground.artifacts else None,
            keep_weights=config.keep != "none" or bool(config.evaluate.tasks),
        )
        session = cls(
            config=config,
            verb=ground.verb,
            subject=subject,
            job=job,
            study=study,
            executor=ground.executor,
            tracker=tracker,
            lock=lock,
            data=data,
            started=time.monotonic(),
            before_s=_wall_s(config.folder),
            given=ground.given,
            artifacts=ground.artifacts,
            shared=shared,
            settled=settled,
        )
        return replace(session, job=replace(job, unscored=tuple(session.to_ask()[0])))

    @cached_property
    def placement(self) -> Placement:
        """Of a typical run. It needs torch, which a study with nothing left to train does not."""
        return self.settled or _settle_placement(
            self.config.placement, self.job.workers, self.subject.work
        )

    @property
    def work(self) -> W:
        """What is wanted by what has been found so far."""
        return self.subject.work.after(read_attempts(self.study), self.job.since)

    def attempts(self) -> list[Attempt]:
        """The trials that belong to what is asked now."""
        trials = read_attempts(self.study)
        work = self.subject.work.after(trials, self.job.since)
        return [trial for trial in trials if trial.key is None or work.concerns(trial.key)]

    def runs(self) -> list[Attempt]:
        """The trial of each run that stands for it."""
        return distinct(self.attempts())

    def count_done(self) -> int:
        """Runs that need not be tried again."""
        return sum(run.done for run in self.runs())

    def unscored(self, keys: Sequence[str]) -> list[str]:
        """Those of finished runs that lack answers."""
        records = {key: usable_record(self.job.runs / key) for key in keys}
        return [k for k, r in records.items() if r and lacking(r, self.config.evaluate)]

    def to_ask(self) -> tuple[list[str], list[str]]:
        """Runs finished before that lack answers: those that can be asked, and those whose weights
        are gone."""
        if not self.config.evaluate.tasks:
            return [], []
        keys = self.unscored([str(run.key) for run in self.runs() if run.value is not None])
        there = [key for key in keys if has_weights(self.artifacts, self.job.runs, key)]
        return there, [key for key in keys if key not in there]

    def estimate(self) -> "Outlook":
        """The cost of the rest of the study."""
        work, done = self.work, self.count_done()
        kept = {"all": work.total, "best": self.subject.kept_arms, "none": 0}[self.config.keep]
        there = self._there_before(work)
        left = self._left(work, done + there, kept)
        again = f", {there} have records from before" if there else ""
        what = f"proxy {self.config.proxy} on {self.data.name}"
        so_far = done_of(done, work.total, work.at_most)
        return Outlook(
            title=f"{self.subject.headline(work)}; {what}; {so_far}{again}",
            open_runs=max(0, work.total - done),
            passes=self.data.passes(work.typical.recipe.trained_tokens),
            shares=self.data.shares,
            left=left,
            not_exportable=_not_exportable(work.architectures) if left.runs else None,
            tasks=tuple(self.config.evaluate.tasks),
            unscored=self.job.unscored,
            lost=tuple(self.to_ask()[1]),
            remark=self.subject.remark(self),
        )

    def _left(self, work: Work, done: int, kept: int) -> Estimate:
        """The cost of what is not done; by this machine's speed, wherever it will run."""
        if done >= work.total:
            return Estimate.nothing()
        elsewhere = self.config.executor.name not in HERE
        found = estimate(
            work,
            done,
            self.job.workers,
            self.placement,
            self.job.runs,
            kept,
            self.subject.pausing_runs,
            planning=not self.config.train,
            gpus=self.job.workers * self.config.placement.gpus_per_run
            if elsewhere or isinstance(self.config.workers, int)
            else 1,
            elsewhere=elsewhere,
        )
        if not elsewhere:
            return found
        kind = "GPU" if self.placement.device == "cuda" else "CPU"
        return replace(found, basis=f"{found.basis}, as on this machine's {kind}")

    def _there_before(self, work: Work) -> int:
        """Runs yet to be done here that have a record, which other studies have left."""
        done = {run.key for run in self.runs() if run.done}
        keys = [key for key in work.foreseen if key not in done]
        records = [usable_record(self.job.runs / key) for key in keys]
        return sum(record is not None and record.final for record in records)

    def train(self, outlook: "Outlook") -> Ending:
        """Let workers do what is left: each runs `search.study.worker`."""
        to_do = outlook.open_runs + len(outlook.unscored)
        queued = to_do > 0 and self.config.executor.name not in HERE
        if queued:
            self.study.set_user_attr(SUBMITTED, True)
        ending = self._wait(outlook, to_do)
        if queued and ending.kind == End.FATAL:
            self.study.set_user_attr(SUBMITTED, False)
        return ending

    def _wait(self, outlook: "Outlook", to_do: int) -> Ending:
        """Until the workers have ended, or only until they are in a queue."""
        if to_do and (left := self._leave()) is not None:
            return left
        with view(self._tally(outlook)) as shown:

            def listen(worker: int, event: Event) -> None:
                if event["event"] == Kind.END:
                    self._recount(shown.tally)
                shown.show(worker, event)
                if event["event"] == Kind.END:
                    describe(self, finished=False)
                    tidy(self)

            workers = min(self.job.workers, to_do)
            ending = Pool(self.job, self.study, workers, listen, self.executor).run()
        if ending.kind == End.INTERRUPTED and self._is_complete():  # its last run ended first
            return Ending(End.DONE)
        return ending

    def _recount(self, tally: Tally) -> None:
        """The runs that the study will have: what was found may make them more or fewer."""
        work = self.work
        if (work.total, work.at_most) != (tally.total, tally.at_most):
            _note_total(self.study, work)
        tally.total, tally.at_most = work.total, work.at_most

    def _is_complete(self) -> bool:
        return self.count_done() >= self.work.total and not self.to_ask()[0]

    def _leave(self) -> Ending | None:
        """The ending of a start that waits for no worker, where the executor has that."""
        try:
            said = getattr(self.executor, "leave", lambda job: None)(self.job)
        except ValueError as error:
            return Ending(End.FATAL, str(error))
        return None if said is None else Ending(End.LEFT, said)

    def _tally(self, outlook: "Outlook") -> Tally:
        """The count of runs so far."""
        runs = self.runs()
        tally = Tally(
            total=self.work.total,
            at_most=self.work.at_most,
            metric=self.job.targets.first.name,
            done=sum(run.state == State.COMPLETE for run in runs),
            pruned=sum(run.state == State.PRUNED for run in runs),
            failed=sum(run.status == Status.DIVERGED for run in runs),
            expected_s=outlook.left.seconds,
        )
        for run in runs:
            record = usable_record(self.job.runs / run.key) if run.value and run.key else None
            if record is not None:
                of = shape(identity(record.run, run.params))
                tally.consider(run.value, of, not run.feasible)
        return tally


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What a study is, and the cost of the rest of it."""

    title: str
    open_runs: int
    """Not done in this study; some of them may have a record that another has left."""
    left: Estimate
    passes: Mapping[str, float]
    """Over the training text, of a typical run; of a mixture over that of each source, by name."""
    shares: Mapping[str, float]
    """Of a mixture, of the tokens that each source has."""
    not_exportable: str | None
    """Which architectures no other program will load, and why; None where there are none."""
    tasks: Sequence[str]
    """The zero-shot tasks on which each run is scored."""
    unscored: Sequence[str]
    """Finished runs that are not scored yet."""
    lost: Sequence[str]
    """Those that cannot be scored, because their weights were not kept."""
    remark: str = ""
    """What the subject says of it besides."""

    def __str__(self) -> str:
        lines = [self.title]
        lines += [str(self.left)] if self.left.runs else []
        lines += self._of_text() if self.left.runs else []
        lines += [self.remark] if self.remark else []
        lines += [self.not_exportable] if self.not_exportable else []
        if self.tasks:
            lines.append(
                f"each run is also scored on {', '.join(self.tasks)}"
                + (f"; {n} finished ones are not scored yet" if (n := len(self.unscored)) else "")
            )
        if self.lost:
            lines.append(
                f"{len(self.lost)} finished runs cannot be scored, because their weights were not "
                f"kept ({self.lost[0]}{', …' if len(self.lost) > 1 else ''}); to keep them, train "
                "under another name and in another runs folder with keep=all"
            )
        return "\n".join(lines)

    def _of_text(self) -> list[str]:
        """What a run reads how often."""
        more = "more text, or fewer tokens, would repeat none"
        if not self.shares:
            [passes] = self.passes.values()
            small = (
                f"the corpus is small: a run reads its training text {passes:,.1f} times; {more}"
            )
            return [small] if passes > 1 else []
        of_each = (
            f"{100 * s:.3g}% {n}, {self.passes[n]:.3g} times" for n, s in self.shares.items()
        )
        mixed = f"a run reads of each source, and how often its training text: {'; '.join(of_each)}"
        again = [name for name, passes in self.passes.items() if passes > 1]
        return [mixed, f"small: {', '.join(again)}; {more}"] if again else [mixed]


def _not_exportable(architectures: Sequence[Architecture]) -> str | None:
    """How many of them `transformers` has no model for, and why, in a line."""
    reasons = [why for arch in architectures if (why := not_exportable(arch))]
    if not reasons:
        return None
    why = reasons[0].partition(";")[0]
    return (
        f"{len(reasons)} of {count(len(architectures), 'architecture')} cannot be exported: {why}"
    )


def lay_groundwork(
    config: StudyConfig,
    verb: str,
    naming: str,
    options: Sequence[str],
    known: Mapping[str, Any],
    files: Mapping[str, Sequence[str]],
) -> Groundwork:
    """Read the data and settle the recipe; nothing is written to the study's place.

    Args:
        config: Of the study.
        verb: As in `python -m <verb>`.
        naming: The option that chooses the study's name.
        options: Of the command.
        known: Settings that do not follow from data, besides the recipe.
        files: The files that settings are read from, by the settings' first name.

    Raises:
        ValueError: something in the configuration, or a change under the same name.
    """
    leave_group()
    executor = config.executor.make()
    if config.placement.gpus_per_run > 1:
        config.workers_of(executor)  # refused before data is prepared
    if config.train and not hasattr(executor, "usual_workers"):  # here and now
        require_device(config.placement.device, "placement.device")
    require_answers(config.evaluate)
    require_there(config.data)
    if config.train:
        require_shared(config, executor)
        require_writable(config.folder, "outputs")
        require_writable(Path(config.runs), "runs")
    artifacts = open_artifacts(config.artifacts)
    storage = open_existing(config.url, made=config.storage is None)
    kept = read_begun(storage, config.name)
    recipe = _settle(config, settled_precision(kept))
    origin = Origin(given(options, config.url, type(config)), files, config.data.in_words)
    if kept:
        known = {**known, "recipe": recipe.to_dict(), "data": {"name": str(config.data.name)}}
        require_unchanged(config.name, kept, known, origin, naming)
    data = prepare(config.data, artifacts=artifacts)
    require_answers(config.evaluate, data)
    return Groundwork(
        config=config,
        verb=verb,
        naming=naming,
        executor=executor,
        data=data,
        recipe=recipe,
        given=options,
        origin=origin,
        storage=storage,
        artifacts=artifacts,
    )


def _note_total(study: optuna.Study, work: Work) -> None:
    """For `search.status`, which knows no work."""
    study.set_user_attr(TOTAL, work.total)
    study.set_user_attr(AT_MOST, work.at_most)


def _settle_placement(placement: Placement, workers: int, work: Work) -> Placement:
    return settle_apart(share_cores(placement, workers), work.typical)


def _enter(config: StudyConfig, storage: PatientStorage | None) -> tuple[PatientStorage, Start]:
    """The study's storage, made where it was not there, and this start of the study.

    Raises:
        ValueError: it cannot be opened, or is a file that another host works with.
    """
    if config.storage is None:
        config.folder.mkdir(parents=True, exist_ok=True)
    storage = storage or open_storage(config.url)
    owner = f"{HOST}:{os.getpid()}"
    return storage, enter(storage.engine, storage.patience, config.name, owner, config.grace_s)


class NotShared(ValueError):
    """The storage of several machines is a file."""


def require_shared(config: StudyConfig, executor: Executor) -> None:
    """Raises: NotShared where workers are asked for on several machines, and the storage is a
    file."""
    hosts = getattr(executor, "hosts", lambda: 1)()
    if hosts > 1 and is_sqlite(config.url):
        raise NotShared(
            "storage must be PostgreSQL where several machines share a study, because SQLite's "
            f"file has no locks that hold between them, but executor={config.executor.name} has "
            f"{hosts} nodes; set storage=postgresql+psycopg://user@host/name"
        )


def look_ahead(config: C, open_study: "Callable[[C], Session[Any]]") -> int:
    """Print what a study is and what is left to train. Nothing is trained, and a study that has not
    begun is planned in a storage that is then removed: another start may have other settings. What
    needs a GPU is planned without one too; storage or a cluster that is missing is said. The exit
    code."""
    where = ""
    if config.placement.needs_gpus and not placement.gpus():
        config = replace(config, placement=config.placement.of_any_machine)
        where = ", on a machine with GPUs"
    with TemporaryDirectory(prefix="isoparam") as folder, one_line_errors():
        lacking = _lacking(config)
        try:
            begun = has_study(config.url, config.name)
        except Away as error:
            begun, lacking = False, lacking or str(error)
        storage = config.storage if begun else f"sqlite:///{folder}/study.db"
        session = open_study(replace(config, storage=storage, tracker=TrackerConfig(name="none")))
        try:
            print(session.estimate())
        finally:
            session.lock.release()
    if lacking:
        print("nothing was trained; the same command without train=false is refused as it is")
        print(f"before it trains{where}: {lacking}")
    else:
        print(f"nothing was trained; the same command without train=false does{where}")
    return 0


def _lacking(config: StudyConfig) -> str:
    """Which storage or cluster several machines need that is not there; empty where all is."""
    executor = config.executor.make()
    try:
        require_shared(config, executor)
        executor.slots(1)
    except NotShared as error:
        return str(error)
    except placement.NotHere as error:
        if config.workers != AUTO or _counts_workers(executor, config.placement):
            return str(error)
        return f"{error}; this plan is of one worker, workers=N plans for N"
    return ""


def _counts_workers(executor: Executor, wanted: Placement) -> bool:
    """Whether it is known here how many workers `workers=auto` is."""
    try:
        getattr(executor, "usual_workers", placement.usual_workers)(wanted)
    except placement.NotHere:
        return False
    return True


def open_artifacts(url: str | None) -> Artifacts | None:
    """The store that runs and data travel through, where one was given.

    Raises:
        ValueError: it cannot be used.
    """
    if url is None:
        return None
    Artifacts.at(url, wait_s=PROBE_S).require()
    return Artifacts.at(url)


def _settle(config: StudyConfig, before: str | None) -> Recipe:
    """The recipe with nothing left open: a study keeps the precision it began with."""
    if config.recipe.precision == "auto" and before is not None:
        return replace(config.recipe, precision=before)
    return settle_precision(config.recipe, config.placement)


def _wall_s(folder: Path) -> float:
    """Wall time that `study.json` has of earlier starts."""
    path = folder / "study.json"
    try:
        return float(read_json(path)["wall_s"])
    except Damaged as error:
        print(f"warning: {path} is damaged ({error}); it is written anew, and counts no wall time")
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return 0.0


def usual_objective(data: Data) -> str:
    """`val_bpb`, or `val_loss` where the data does not state its bytes per token."""
    return WITHOUT_BYTES if data.token_bytes is None else USUAL


def require_bytes(targets: Targets, data: Data) -> None:
    """Raises: ValueError where bits per byte are asked of data without bytes."""
    asked = any(name.partition("@")[0] == USUAL for name in targets.measures)
    if asked and data.token_bytes is None:
        raise ValueError(
            "objectives must be computable from the data, but val_bpb needs the bytes behind "
            f"tokens, which {data.name} does not say; use val_loss"
        )


def data_settings(data: Data) -> Mapping[str, Any]:
    """What a study's settings say of its data."""
    return {"name": data.name, "fingerprint": data.fingerprint}
