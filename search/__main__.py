"""`python -m search`: try the architectures of a space on one budget, and leave a report.

The story: check everything, say what it will take, let workers train, describe what they found.
"""

import json
import shlex
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna

from search.config import SearchConfig
from search.data import Data, prepare, require_tokens
from search.estimate import estimate
from search.placement import Placement, settle, settle_precision
from search.plan import Attempt, best_runs, distinct
from search.progress import Event, Tally, view
from search.record import Recipe, usable_record
from search.study import (
    Job,
    SearchWork,
    describe,
    hold_study,
    lose_abandoned,
    make_sampler,
    open_storage,
    open_study,
    read_attempts,
    settled_precision,
    without_password,
    write_study,
)
from search.tracking import Tracker, open_tracker
from search.workers import Ending, Pool, share_cores
from space.axes import Space
from space.cli import fail, one_line_errors, verb


@verb("search", SearchConfig)
def main(config: SearchConfig) -> None:
    """Run a study, from wherever it stands."""
    with one_line_errors():
        search = Search.open(config)
    print(search.estimate(), flush=True)
    ending = search.train()
    with one_line_errors():
        search.conclude(ending)
    finish(ending, search)


@dataclass
class Search:
    """A study with all that was checked before it is trained."""

    config: SearchConfig
    job: Job
    work: SearchWork
    study: optuna.Study
    tracker: Tracker
    placement: Placement
    """Of an architecture in the middle of the space."""
    lock: Any
    """Keeps other starts on this machine out."""
    started: float = field(default_factory=time.monotonic)
    before_s: float = 0.0
    """Wall time of earlier starts."""

    @classmethod
    def open(cls, config: SearchConfig) -> "Search":
        """The study of a configuration, new or gone on with.

        Raises:
            ValueError: something in the configuration, or a change under the same name.
        """
        folder, runs = Path(config.outputs) / config.name, Path(config.runs)
        make_sampler(config.sampler, config.seed)
        lock = hold_study(folder)
        _check_writable(runs)
        url = config.storage or f"sqlite:///{folder.resolve() / 'study.db'}"
        storage = open_storage(url)
        data = prepare(config.data)
        space = Space.from_config(config.space, config.budget, data.vocab_size)
        recipe = _settle(config, settled_precision(storage, config.name))
        require_tokens(data, recipe.seq_len, recipe.batch_size)
        study = open_study(storage, config.name, _settings(space, recipe, data, config.seed))
        lose_abandoned(study, runs)
        work = SearchWork.of(
            space,
            recipe,
            data.fingerprint,
            n_trials=config.n_trials,
            replicates=config.replicates,
            grid=config.sampler.name == "grid",
            first_seed=config.seed,
        )
        job = Job(
            study=config.name,
            storage=url,
            folder=folder,
            runs=runs,
            data=data.folder,
            work=work,
            sampler=config.sampler,
            seed=config.seed,
            metric="val_loss" if data.token_bytes is None else "val_bpb",
            placement=share_cores(config.placement, config.workers),
            since=len(study.get_trials(deepcopy=False)),
        )
        middle = work.run(work.plan.options[len(work.plan.options) // 2].params, config.seed)
        return cls(
            config=config,
            job=job,
            work=work,
            study=study,
            tracker=open_tracker(config.tracker, config.name, folder),
            placement=settle(job.placement, middle),
            lock=lock,
            before_s=_wall_s(folder),
        )

    def estimate(self) -> str:
        """What the study is, and what the rest of it will take."""
        self.expected = estimate(
            self.work,
            self._count_done(),
            self.config.workers,
            self.placement,
            self.job.runs,
            self.config.keep,
        )
        plan, space = self.work.plan, self.work.space
        begun = (
            f"study {self.job.study}: {plan.explorations} of {space.size} architectures of "
            f"{space.budget}, {self.work.total - plan.explorations} further seeds; "
            f"{self._count_done()} of {self.work.total} runs done"
        )
        return f"{begun}\n{self.expected}" if self.expected.runs else begun

    def train(self) -> Ending:
        """Let workers do what is left."""
        tally = self._tally()
        with view(tally) as shown:

            def listen(worker: int, event: Event) -> None:
                shown.show(worker, event)
                if event["event"] == "end":
                    self.describe(finished=False)
                    self.tidy(arms=self.config.replicates.top + 1)

            workers = min(self.config.workers, self.expected.runs)
            return Pool(self.job, self.study, workers, listen).run()

    def conclude(self, ending: Ending) -> None:
        """Describe, tidy and report; on a full disk as far as it goes."""
        try:
            self.describe(finished=ending.kind == "done")
            self.tidy(arms=1 if ending.kind == "done" else self.config.replicates.top + 1)
            self.report()
        except OSError:
            if ending.kind != "fatal":
                raise

    def describe(self, finished: bool) -> None:
        """Write `study.json` and mirror what ended."""
        attempts = read_attempts(self.study)
        self.content = describe(self.study, attempts, self._facts(finished))
        write_study(self.job.folder, self.content)
        self.tracker.mirror(self.job.runs, distinct(attempts))

    def tidy(self, arms: int = 1) -> None:
        """Delete weights that this study wrote and need not be kept: see `keep`. Until it is done,
        any of the best `arms` may turn out to be the best."""
        if self.config.keep == "all":
            return
        attempts = read_attempts(self.study)
        best = {a.key for a in best_runs(attempts, arms)} if self.config.keep == "best" else set()
        for attempt in distinct(attempts):
            if not (attempt.busy or attempt.reused or attempt.key in best):
                (self.job.runs / str(attempt.key) / "weights.safetensors").unlink(missing_ok=True)

    def report(self) -> None:
        """Leave the page, figures and tables, made by a process of their own; show it in W&B."""
        if self.config.report:
            names = {"study": self.job.study, "outputs": self.config.outputs}
            command = [sys.executable, "-m", "reports", *(f"{k}={v}" for k, v in names.items())]
            made = subprocess.run(command, stderr=subprocess.PIPE, text=True)
            if made.returncode:
                lines = made.stderr.strip().splitlines() or ["no reason given"]
                print(f"the report could not be made: {lines[-1]}", file=sys.stderr)
        plot = self.job.folder / "depth_vs_width.png"
        self.tracker.summarise(self.job.runs, self.content, plot)

    def _facts(self, finished: bool) -> dict[str, Any]:
        space, config = self.work.space, self.config
        configuration = asdict(config)
        configuration["storage"] = without_password(self.job.storage)
        configuration["recipe"] = asdict(self.work.recipe)
        return {
            "study": self.job.study,
            "metric": self.job.metric,
            "direction": "minimize",
            "budget": asdict(space.budget),
            "space": {"name": space.name, "axes": space.axes, "size": space.size},
            "sampler": config.sampler.name,
            "n_trials": config.n_trials,
            "workers": config.workers,
            "runs": config.runs,
            "config": configuration,
            "command": shlex.join(["python", "-m", "search", *map(_without_secret, sys.argv[1:])]),
            "wall_s": self.before_s + time.monotonic() - self.started,
            "finished": finished,
        }

    def _tally(self) -> Tally:
        """The count of runs so far."""
        runs = distinct(read_attempts(self.study))
        tally = Tally(
            total=self.work.total,
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

    def _count_done(self) -> int:
        return sum(_is_done(run) for run in distinct(read_attempts(self.study)))


def finish(ending: Ending, search: Search) -> None:
    """Say how it ended, and with which exit code."""
    done = search._count_done()
    if ending.kind == "fatal":
        fail(
            f"{ending.reason}; the study stopped with its {done} finished runs kept; put it right "
            "and start the same command again"
        )
    if ending.kind == "crashed":
        print(f"error: {ending.reason}; see {search.job.folder / 'workers'}", file=sys.stderr)
        raise SystemExit(1)
    if ending.kind == "interrupted":
        print(f"stopped with {done} of {search.work.total} runs; the same command goes on")
        raise SystemExit(130)
    if done < search.work.total:
        print(
            f"{done} of {search.work.total} runs; {search.work.total - done} failed, and the same "
            "command tries them again"
        )
    elif done < search.config.n_trials:
        plan = search.work.plan
        print(
            f"{done} of {search.config.n_trials} runs: {plan.explorations} of "
            f"{search.work.space.size} architectures tried, {plan.replicates.seeds} seeds each of "
            "those worth it; there is no more to do in this space"
        )


def _without_secret(argument: str) -> str:
    """A command's argument as it may be shown: a storage URL without its password."""
    name, _, value = argument.partition("=")
    return f"{name}={without_password(value)}" if name == "storage" else argument


def _is_done(run: Attempt) -> bool:
    return run.state in ("COMPLETE", "PRUNED") or run.status == "diverged"


def _settle(config: SearchConfig, before: str | None) -> Recipe:
    """The recipe with nothing left open: a study keeps the precision it began with."""
    if config.recipe.precision == "auto" and before is not None:
        return replace(config.recipe, precision=before)
    return settle_precision(config.recipe, config.placement)


def _settings(space: Space, recipe: Recipe, data: Data, seed: int) -> dict[str, Any]:
    """What must not change under a study's name."""
    return {
        "space": space.to_dict(),
        "recipe": asdict(recipe),
        "data": {"name": data.name, "fingerprint": data.fingerprint},
        "seed": seed,
    }


def _check_writable(runs: Path) -> None:
    try:
        runs.mkdir(parents=True, exist_ok=True)
        probe = runs / ".probe"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"runs must be a folder that can be written, but {runs} is not: {error.strerror}; "
            "set runs=FOLDER"
        ) from None


def _wall_s(folder: Path) -> float:
    """Wall time that `study.json` has of earlier starts."""
    try:
        return float(json.loads((folder / "study.json").read_text())["wall_s"])
    except (OSError, ValueError, KeyError):
        return 0.0


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # before or after training, during which it is no exception
        print("stopped", file=sys.stderr)
        raise SystemExit(130) from None
