"""`python -m benchmarks.cluster`: how much of workers' time is work, wherever they run.

Runs are of one length and sleep (`benchmarks.sleeping`), in steps of a second, so that two cores
hold sixteen workers.

- *Efficiency*: the time that runs are known to take, over the time from each worker's first trial's
  start to its last one's end.
- *Orchestration*: what a trial takes besides training, where the study has so many: reading it,
  deciding, asking the sampler, claiming, closing. One worker, whose training is left out.

Ray and Slurm are started for it, which needs root: `--executors local` does without.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import chdir
from datetime import datetime
from pathlib import Path
from statistics import median

import optuna
from optuna.trial import Trial

from benchmarks.servers.place import EXECUTORS, place_of
from benchmarks.servers.postgres import postgres
from benchmarks.show import heading, leave, parser, say, table
from benchmarks.trial import write_text
from search.__main__ import open_search
from search.config import SearchConfig
from search.record import Reading, Record, Run
from search.states import Status
from search.study.plan import Step
from search.study.worker import Worker
from search.train.placement import Placement
from space.app import configuration

STUDY = "cluster"
STEP_S = 1.0
"""Of a run: what its steps compute besides must not be what is measured."""
MANY = f"+space.axes.rope_theta=[{','.join(f'{1000 * 2**k}.0' for k in range(8))}]"
"""Eight times as many architectures: a study ends when it has tried all."""
WINDOW = 20
"""Trials over which orchestration is taken."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    options = parser(__doc__)
    options.add_argument("--executors", nargs="*", choices=EXECUTORS, default=list(EXECUTORS))
    options.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4, 8, 16])
    options.add_argument("--seconds", type=float, default=30.0, help="of a run")
    options.add_argument("--rounds", type=int, default=3, help="runs of each worker")
    options.add_argument("--trials", nargs="*", type=int, default=[100, 1000, 2000, 5000])
    chosen = options.parse_args(arguments)
    os.environ["ISOPARAM_STEP_S"] = str(STEP_S)  # nodes of Ray have it from their start
    rows = []
    for executor in chosen.executors:
        row = [executor]
        for workers in chosen.workers:
            say(f"{executor}, {workers} workers")
            with tempfile.TemporaryDirectory(prefix="cluster") as name:
                runs = workers * chosen.rounds
                row.append(f"{efficiency(Path(name), executor, workers, runs, chosen.seconds):.1%}")
                say(row[-1])
        rows.append(row)
    text = f"{heading(Placement(device='cpu', threads=1), ('torch', 'optuna'))}\n\n"
    text += f"Efficiency with runs of {chosen.seconds:g} s; wanted 97%.\n\n"
    text += table(["workers", *map(str, chosen.workers)], rows)
    if chosen.trials:
        with tempfile.TemporaryDirectory(prefix="cluster") as name:
            costs = [
                [f"{size:,}", f"{wall_s * 1000:.0f} ms", f"{cpu_s * 1000:.0f} ms"]
                for size, wall_s, cpu_s in orchestration(name, chosen.trials)
            ]
        text += "\nOrchestration of a trial; wanted 20 ms at 2,000.\n\n"
        text += table(["trials in the study", "median", "of the worker's processor"], costs)
    leave("cluster", text, None, chosen.save)


def study(folder: Path, runs: int, seconds: float) -> list[str]:
    """Options of a study of so many runs of that length, each of another architecture."""
    tokens = 4 * 32 * max(1, round(seconds / STEP_S))
    return [
        *("budget=100k", "space=full", "sampler=random", f"n_trials={runs}", "replicates.seeds=1"),
        *("data=text", f"data.path={folder}/text.jsonl", f"data.cache={folder}/data"),
        *("data.vocab_size=300", "proxy=smoke", f"recipe.tokens={tokens}", "recipe.seq_len=32"),
        *("recipe.batch_size=4", "recipe.eval_tokens=512", "recipe.optimizer=benchmarks.sleeping"),
        *("placement.device=cpu", "placement.threads=1", f"study={STUDY}"),
        *("tracker=none", "report=false"),
    ]


def efficiency(folder: Path, executor: str, workers: int, runs: int, seconds: float) -> float:
    """The share of the workers' time that is work."""
    folder.chmod(0o755)  # the database has a user of its own
    write_text(folder / "text.jsonl")
    with place_of(executor, folder / "place", cpus=max(2, workers)) as place:
        given = [*study(folder, runs, seconds), *place.options, f"workers={workers}"]
        done = subprocess.run(
            place.home.command(sys.executable, "-m", "search", *given),
            cwd=place.folder,
            env={**os.environ, **place.variables},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        trials = optuna.load_study(study_name=STUDY, storage=place.database.url()).trials
    times: dict[str, list[datetime]] = defaultdict(list)
    for trial in (x for x in trials if "worker" in x.user_attrs):  # others were not trained
        assert trial.datetime_start is not None, "trials of a study that is done have begun"
        assert trial.datetime_complete is not None, "and ended"
        times[trial.user_attrs["worker"]] += [trial.datetime_start, trial.datetime_complete]
    had = sum((max(each) - min(each)).total_seconds() for each in times.values())
    return runs * seconds / had


class Untrained(Worker):
    """A worker whose runs are done at once."""

    def _train(self, run: Run, trial: Trial) -> tuple[Record, bool]:
        reading = Reading(tokens=run.recipe.tokens, val_loss=3.0, val_bpb=1.0 + trial.number % 7)
        return Record(run=run, status=Status.FINISHED, readings=(reading,)), False


def orchestration(name: str, sizes: Sequence[int]) -> Iterator[tuple[int, float, float]]:
    """Of each size, the seconds that a trial takes in a study of so many: of the clock, and of the
    worker's processor."""
    folder = Path(name)
    folder.chmod(0o755)
    write_text(folder / "text.jsonl")
    with postgres(folder / "database") as server, chdir(folder):
        given = [*study(folder, max(sizes), 1.0), f"storage={server.url()}", "workers=1", MANY]
        session = open_search(configuration("search", SearchConfig, given))
        worker = Untrained(session.job, 0, lambda event: None, threading.Event())
        for size in sizes:
            say(f"{size:,} trials")
            while len(session.study.get_trials(deepcopy=False)) < size - WINDOW:
                assert worker.take_next() is not Step.DONE, "the space has too few architectures"
            taken = [timed_step(worker) for _ in range(WINDOW)]
            yield size, median(wall_s for wall_s, _ in taken), median(cpu_s for _, cpu_s in taken)
        session.lock.release()


def timed_step(worker: Worker) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    worker.take_next()
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    main()
