"""`python -m benchmarks.trial`: what a trial costs besides its training, and how workers share.

A real study on text made up on the spot, by `python -m search`: the default proxy at one million
parameters, nine layers, several seeds, one worker with all cores.

- *Fixed cost*: from one trial's end in the study's storage to the next one's, less training and
  evaluation, plus what the first steps took longer than later ones. Storage, plan, model, files
  and the record are in it. A worker's first trial, from ask to tell, stands apart.
- *Data* is the time that making batches takes, *evaluation* that of scoring, each of a whole run.
- *Two workers*: tokens per second of two processes with a thread each, at once, over one of them
  alone, in turns. Beside it the same of two processes that multiply matrices and share nothing:
  what the machine gives to anyone.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import optuna

from benchmarks import peers
from benchmarks.proxy import TURN_S, engine, products, warmed_up
from benchmarks.show import heading, leave, parser, spread, table
from benchmarks.turns import WARM_UP, Contender, Step, timed
from search.data.cache import open_data
from search.data.packed import Data, batch
from search.record import Record, Run
from search.runs import read_metrics, read_record
from search.train.placement import Placement, settle

LAYERS = 9
STUDY = "benchmark"
DOCUMENTS = 2000
"""Of text: three megabytes."""
PRODUCT_SIZE = 512
"""Of square matrices that fit a core's own cache."""


@dataclass(frozen=True)
class Trials:
    """What a study left."""

    records: list[Record]
    fixed_s: list[float]
    """Of each trial; the worker's first imports what torch leaves until then."""
    data: Data


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--trials", type=int, default=4)
    options.add_argument("--tokens", type=int, default=800_000, help="a run's")
    chosen = options.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        trials = study(Path(folder), chosen.trials, chosen.tokens)
        data = data_share(trials.records[0].run, trials.data)
    gains = two_workers(trials.records[0].run, chosen.rounds)
    limits = two_over_one(chosen.rounds, products, PRODUCT_SIZE, "cpu")
    text = heading(settle(Placement(), trials.records[0].run), ("torch", "optuna"))
    leave("trial", f"{text}\n\n{described(trials, data, gains, limits)}", None, chosen.save)


def study(folder: Path, trials: int, tokens: int) -> Trials:
    """Train one architecture with several seeds, one after the other."""
    write_text(folder / "text.jsonl")
    storage = f"sqlite:///{folder}/study.db"
    command = ["search", "data=text", f"data.path={folder}/text.jsonl", f"data.cache={folder}/data"]
    command += [f"space.axes.num_blocks=[{LAYERS}]", f"recipe.tokens={tokens}", f"study={STUDY}"]
    command += [f"n_trials={trials}", f"replicates.seeds={trials}", "workers=1", "report=false"]
    command += [f"runs={folder}/runs", f"outputs={folder}/outputs", f"storage={storage}"]
    subprocess.run([sys.executable, "-m", *command], check=True, stdout=subprocess.DEVNULL)
    done = optuna.load_study(study_name=STUDY, storage=storage).trials
    records, metrics = [], []
    for trial in done:
        run_folder = folder / "runs" / trial.user_attrs["key"]
        record = read_record(run_folder)
        assert record is not None, "the study has ended"
        records.append(record)
        metrics.append(list(read_metrics(run_folder)))
    times = [(trial.datetime_start, trial.datetime_complete) for trial in done]
    begun = times[0][0]
    ends = [end.timestamp() for _, end in times if end is not None]
    assert begun is not None, "trials that ran have begun"
    fixed = [
        after - before - record.train_s - record.eval_s + slow_start_s(lines)
        for (before, after), record, lines in zip(
            pairwise([begun.timestamp(), *ends]), records, metrics, strict=True
        )
    ]
    return Trials(records, fixed, open_data(next((folder / "data").glob("text-*/"))))


def write_text(path: Path) -> None:
    """Made-up words, a document a line."""
    source = Random(0)
    words = ["".join(source.choices("abcdefghij", k=source.randint(2, 7))) for _ in range(3000)]
    with open(path, "w") as file:
        for _ in range(DOCUMENTS):
            file.write(json.dumps({"text": " ".join(source.choices(words, k=300))}) + "\n")


def slow_start_s(lines: Sequence[dict[str, Any]]) -> float:
    """Seconds by which the steps up to the first point of the curve took longer than others."""
    points = [(line["step"], line["elapsed_s"]) for line in lines if "train_loss" in line]
    steps = [(after[1] - before[1]) / (after[0] - before[0]) for before, after in pairwise(points)]
    return points[0][1] - points[0][0] * median(steps) if steps else 0.0


def data_share(run: Run, data: Data) -> float:
    """Of a step's time, what making its batch takes."""
    recipe = run.recipe
    step = peers.ours(run, data, Path(os.devnull), Placement())
    timed(step, 10 * WARM_UP)
    seconds = timed(step, 50) / 50
    started = time.perf_counter()
    for number in range(50):
        batch(data, run.seed, number, recipe.batch_size, recipe.seq_len)
    return (time.perf_counter() - started) / 50 / seconds


def two_workers(run: Run, rounds: int) -> list[float]:
    """Tokens per second of two one-thread workers, over those of one; one value per round."""
    placement = settle(Placement(threads=1), run)
    return two_over_one(rounds, engine, "isoparam", run, placement)


def two_over_one(rounds: int, make: Callable[..., Step], *arguments: object) -> list[float]:
    """The speed of two processes at once over that of one alone; one value per round."""
    gains = []
    with (
        Contender(make, *arguments, threads=1) as one,
        Contender(make, *arguments, threads=1) as other,
    ):
        pair = (one, other)
        steps = min(warmed_up(each) for each in pair) * max(1, round(2 / TURN_S))
        for _ in range(rounds):
            alone = sum(each.seconds(steps) for each in pair) / 2
            for each in pair:
                each.begin(steps)
            gains.append(sum(alone / each.end() for each in pair))
    return gains


def kernels_s() -> float | None:
    """Seconds that building the kernels takes, once a machine; None where they cannot be built."""
    code = (
        "import time; from search.train.kernels import library; started = time.perf_counter();"
        "library(); print(time.perf_counter() - started)"
    )
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "XDG_CACHE_HOME": cache},
            capture_output=True,
            text=True,
        )
    return float(done.stdout) if done.returncode == 0 else None


def described(trials: Trials, data: float, gains: Sequence[float], limits: Sequence[float]) -> str:
    """The table, as Markdown."""
    records = trials.records
    evaluation = [r.eval_s / (r.train_s + r.eval_s) for r in records]
    build = kernels_s()
    rows = [
        ["a trial's fixed cost", spread(trials.fixed_s[1:], "{:.2f} s".format), "1.5 s"],
        ["that of a worker's first trial", f"{trials.fixed_s[0]:.2f} s", ""],
        ["compiling, from the second on", f"{max(r.compile_s for r in records[1:])} s", "none"],
        ["building the kernels, once a machine", f"{build:.1f} s" if build else "–", "12 s"],
        ["two workers over one", spread(gains, "{:.2f} ×".format), "1.9 ×"],
        ["two matrix products over one", spread(limits, "{:.2f} ×".format), ""],
        ["data, of training", f"{data:.2%}", "no wait"],
        ["evaluation, of a run", spread(evaluation, "{:.1%}".format), "3%"],
    ]
    recipe = records[0].run.recipe
    return (
        f"{len(records)} runs of {recipe.tokens:,} tokens, {LAYERS} layers × "
        f"{records[0].run.architecture.hidden_size}; medians, with the lowest and the highest.\n\n"
        + table(["", "measured", "wanted"], rows)
    )


if __name__ == "__main__":
    main()
