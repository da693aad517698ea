"""A study from its opening to its report, whatever it asks.

`python -m search` and `python -m ablations` tell the same story and differ in what is to be
trained, what is said of it and which page shows it.
"""

import json
import shlex
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import optuna

from search.config import StudyConfig
from search.data.dataset import Data, prepare
from search.evaluate.scores import lacking, require_answers
from search.executors.local import Ending, Pool, share_cores
from search.models import WEIGHTS
from search.recipe import Recipe
from search.runs import usable_record
from search.show.estimate import estimate
from search.show.progress import Event, Tally, view
from search.show.trackers import Mirror, open_tracker
from search.study.describe import entries, write_study
from search.study.job import Job
from search.study.locks import hold_study, require_writable
from search.study.plan import Attempt, Work, best_runs, distinct
from search.study.pruners import PrunerConfig, make_pruner
from search.study.samplers import SamplerConfig
from search.study.storage import (
    lose_abandoned,
    open_storage,
    open_study,
    read_attempts,
    settled_precision,
    without_password,
)
from search.train.placement import Placement, settle, settle_precision
from space.cli import fail, one_line_errors, option_of

C = TypeVar("C", bound=StudyConfig)
W = TypeVar("W", bound=Work)


@dataclass
class Story(ABC, Generic[C, W]):
    """A study with all that was checked before it is trained."""

    verb: ClassVar[str]
    """As in `python -m <verb>`."""
    naming: ClassVar[str]
    """The override that chooses the study's name."""
    plot: ClassVar[str]
    """The picture of it in its folder."""

    config: C
    job: Job
    work: W
    study: optuna.Study
    tracker: Mirror
    placement: Placement
    """Of a typical run."""
    lock: Any
    """Keeps other starts on this machine out."""
    started: float = field(default_factory=time.monotonic)
    before_s: float = 0.0
    """Wall time of earlier starts."""

    # What the verbs differ in.

    @classmethod
    @abstractmethod
    def check(cls, config: C) -> SamplerConfig:
        """Find what is wrong before anything is written; who proposes."""

    @classmethod
    def pruner(cls, config: C) -> PrunerConfig:
        """Who stops runs early: nobody."""
        return PrunerConfig()

    @classmethod
    @abstractmethod
    def plan(cls, config: C, recipe: Recipe, data: Data) -> W:
        """What is to be trained."""

    @classmethod
    @abstractmethod
    def settings(cls, work: W, recipe: Recipe, data: Data, config: C) -> dict[str, Any]:
        """What must not change under the study's name."""

    @abstractmethod
    def headline(self) -> str:
        """What the study is, in a line."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What `study.json` says besides what it says of every study."""

    @abstractmethod
    def page(self) -> list[str]:
        """Arguments of `python -m reports`."""

    @property
    @abstractmethod
    def kept_arms(self) -> int:
        """Whose weights are kept, with `keep=best`, until the study is done."""

    @property
    def pausing_runs(self) -> int:
        """How many may be stopped at a horizon and keep their checkpoint."""
        return 0

    # The story.

    @classmethod
    def open(cls, config: C) -> Self:
        """The study of a configuration, new or gone on with.

        Raises:
            ValueError: something in the configuration, or a change under the same name.
        """
        sampler = cls.check(config)
        require_answers(config.evaluate)
        runs = Path(config.runs)
        lock = hold_study(config.folder, cls.verb, cls.naming)
        require_writable(runs, "runs")
        storage = open_storage(config.url)
        data = prepare(config.data)
        require_answers(config.evaluate, data)
        recipe = _settle(config, settled_precision(storage, config.name))
        work = cls.plan(config, recipe, data)
        settings = cls.settings(work, recipe, data, config)
        study = open_study(
            storage,
            config.name,
            settings,
            naming=cls.naming,
            pruner=make_pruner(cls.pruner(config), recipe),
        )
        lose_abandoned(study, runs)
        job = Job(
            study=config.name,
            storage=config.url,
            folder=config.folder,
            runs=runs,
            data=data.folder,
            work=work,
            sampler=sampler,
            pruner=cls.pruner(config),
            seed=config.seed,
            metric="val_loss" if data.token_bytes is None else "val_bpb",
            placement=config.placement,
            workers=config.workers,
            since=len(study.get_trials(deepcopy=False)),
            evaluate=config.evaluate,
        )
        return cls(
            config=config,
            job=job,
            work=work,
            study=study,
            tracker=open_tracker(
                config.tracker, config.name, config.folder, scored=bool(config.evaluate.tasks)
            ),
            placement=settle(share_cores(config.placement, config.workers), work.typical),
            lock=lock,
            before_s=_wall_s(config.folder),
        )

    def tell(self) -> None:
        """All of it: estimate, train, conclude, and end the program where it went wrong."""
        print(self.estimate(), flush=True)
        ending = self.train()
        with one_line_errors():
            self.conclude(ending)
        self.finish(ending)

    def attempts(self) -> list[Attempt]:
        """The trials that belong to what is asked now."""
        return read_attempts(self.study)

    def estimate(self) -> str:
        """What the study is, and what the rest of it will take."""
        done, config = self.count_done(), self.config
        self.expected = estimate(
            self.work,
            done,
            config.workers,
            self.placement,
            self.job.runs,
            {"all": self.work.total, "best": self.kept_arms, "none": 0}[config.keep],
            self.pausing_runs,
        )
        lines = [f"{self.headline()}; {done} of {self.work.total} runs done"]
        lines += [str(self.expected)] if self.expected.runs else []
        return "\n".join([*lines, *self._questions()])

    def _questions(self) -> Iterator[str]:
        """What is said of zero-shot tasks; it also finds the runs that were not asked yet."""
        if not (tasks := self.config.evaluate.tasks):
            return
        keys = [str(run.key) for run in distinct(self.attempts()) if run.value is not None]
        unscored = self._unscored(keys)
        there = [key for key in unscored if (self.job.runs / key / WEIGHTS).is_file()]
        self.job = replace(self.job, unscored=tuple(there))
        yield f"besides, each run is asked {', '.join(tasks)}" + (
            f"; {len(there)} finished ones have yet to be" if there else ""
        )
        if gone := [key for key in unscored if key not in there]:
            yield (
                f"{len(gone)} finished runs cannot be asked, for their weights were not kept "
                f"({gone[0]}{', …' if len(gone) > 1 else ''}); to keep them, train in another runs "
                "folder with keep=all"
            )

    def _unscored(self, keys: Sequence[str]) -> list[str]:
        """Those of finished runs that lack answers."""
        records = {key: usable_record(self.job.runs / key) for key in keys}
        return [k for k, r in records.items() if r and lacking(r, self.config.evaluate)]

    def train(self) -> Ending:
        """Let workers do what is left."""
        tally = self._tally()
        with view(tally) as shown:

            def listen(worker: int, event: Event) -> None:
                shown.show(worker, event)
                if event["event"] == "end":
                    self.describe(finished=False)
                    self.tidy(arms=self.kept_arms)

            workers = min(self.config.workers, self.expected.runs + len(self.job.unscored))
            return Pool(self.job, self.study, workers, listen).run()

    def conclude(self, ending: Ending) -> None:
        """Describe, tidy and report; on a full disk as far as it goes."""
        try:
            self.describe(finished=ending.kind == "done")
            self.tidy(arms=1 if ending.kind == "done" else self.kept_arms)
            self.report()
        except OSError:
            if ending.kind != "fatal":
                raise

    def describe(self, finished: bool) -> None:
        """Write `study.json` and mirror what ended."""
        attempts = self.attempts()
        self.content = {
            **self._common_facts(finished),
            **self.facts(),
            "trials": entries(attempts),
            "started": self.study.user_attrs.get("started"),
        }
        write_study(self.job.folder, self.content)
        self.tracker.mirror(self.job.runs, distinct(attempts))

    def tidy(self, arms: int = 1) -> None:
        """Delete weights that this study wrote and need not be kept: see `keep`. Until it is done,
        any of the best `arms` may turn out to be the best, and what has yet to be asked stays."""
        if self.config.keep == "all":
            return
        attempts = self.attempts()
        kept = {a.key for a in best_runs(attempts, arms)} if self.config.keep == "best" else set()
        for attempt in distinct(attempts):
            key = str(attempt.key)
            ended_here = attempt.state == "COMPLETE" and not attempt.reused
            weights = self.job.runs / key / WEIGHTS
            if ended_here and key not in kept and weights.is_file() and not self._unscored([key]):
                weights.unlink(missing_ok=True)

    def report(self) -> None:
        """Leave the page, figures and tables, made by a process of their own; show it in W&B."""
        if self.config.report:
            make_report([*self.page(), f"outputs={self.config.outputs}"])
        self.tracker.summarise(self.job.runs, self.content, self.job.folder / self.plot)

    def finish(self, ending: Ending) -> None:
        """Say how it ended, and with which exit code."""
        done, total = self.count_done(), self.work.total
        if ending.kind == "fatal":
            fail(
                f"{ending.reason}; the study stopped with its {done} finished runs kept; put it "
                "right and start the same command again"
            )
        if ending.kind == "crashed":
            print(f"error: {ending.reason}; see {self.job.folder / 'workers'}", file=sys.stderr)
            raise SystemExit(1)
        if ending.kind == "interrupted":
            print(f"stopped with {done} of {total} runs; the same command goes on")
            raise SystemExit(130)
        runs = distinct(self.attempts())
        if failed := sum(run.state == "FAIL" and not _is_done(run) for run in runs):
            print(f"{done} of {total} runs; {failed} failed, and the same command tries them again")

    def count_done(self) -> int:
        """Runs that need not be tried again."""
        return sum(_is_done(run) for run in distinct(self.attempts()))

    def _common_facts(self, finished: bool) -> dict[str, Any]:
        config = self.config
        configuration = asdict(config)
        configuration["storage"] = without_password(self.job.storage)
        configuration["recipe"] = config.recipe.to_dict() | {
            "precision": self.work.typical.recipe.precision
        }
        return {
            "study": self.job.study,
            "metric": self.job.metric,
            "direction": "minimize",
            "workers": config.workers,
            "runs": config.runs,
            "config": configuration,
            "command": self._command(),
            "wall_s": self.before_s + time.monotonic() - self.started,
            "finished": finished,
        }

    def _command(self) -> str:
        """The command that was given, without the storage's password however that is spelt."""
        shown = f"storage={without_password(self.job.storage)}"
        given = [shown if option_of(a) == "storage" else a for a in sys.argv[1:]]
        return shlex.join(["python", "-m", self.verb, *given])

    def _tally(self) -> Tally:
        """The count of runs so far."""
        runs = distinct(self.attempts())
        tally = Tally(
            total=self.job.work.total,
            metric=self.job.metric,
            done=sum(run.state == "COMPLETE" for run in runs),
            pruned=sum(run.state == "PRUNED" for run in runs),
            failed=sum(run.status == "diverged" for run in runs),
            expected_s=self.expected.seconds,
        )
        for run in runs:
            record = usable_record(self.job.runs / run.key) if run.value and run.key else None
            if record is not None:
                arch = record.run.architecture
                what = f"{arch.num_layers} layers × {arch.hidden_size}, seed {run.seed}"
                tally.consider(run.value, what)
        return tally


def make_report(arguments: list[str]) -> None:
    """Run `python -m reports`; what goes wrong there is said and does no harm here."""
    command = [sys.executable, "-m", "reports", *arguments]
    made = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if made.returncode:
        lines = made.stderr.strip().splitlines() or ["no reason given"]
        print(f"the report could not be made: {lines[-1]}", file=sys.stderr)


def _is_done(run: Attempt) -> bool:
    return run.state in ("COMPLETE", "PRUNED") or run.status == "diverged"


def _settle(config: StudyConfig, before: str | None) -> Recipe:
    """The recipe with nothing left open: a study keeps the precision it began with."""
    if config.recipe.precision == "auto" and before is not None:
        return replace(config.recipe, precision=before)
    return settle_precision(config.recipe, config.placement)


def _wall_s(folder: Path) -> float:
    """Wall time that `study.json` has of earlier starts."""
    try:
        return float(json.loads((folder / "study.json").read_text())["wall_s"])
    except (OSError, ValueError, KeyError):
        return 0.0


def data_settings(data: Data) -> Mapping[str, Any]:
    """What a study's settings say of its data."""
    return {"name": data.name, "fingerprint": data.fingerprint}
