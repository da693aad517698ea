"""`python -m benchmarks.compiling`: what a run waits for compiled layers.

A worker trains one shape after the other, compiled as on a GPU: a new one; it again; another one;
and the first again, which the process keeps no longer and torch has on disk. A second worker then
begins with it. Of each: graphs that were traced, kernels' code that was made and not found on disk,
and processor time, children's included, and time until a run of two steps and a score has ended.
Each round begins with an empty folder of compiled code. Code is made by one process at a time, so
that its time can be counted: workers make it by several, and wait less.
"""

import os
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from benchmarks.proxy import benchmark_run, random_tokens
from benchmarks.show import heading, leave, of_device, parser, say, spread, table
from search.recipe import Recipe
from search.record import Run
from search.states import Status
from search.train.loop import train
from search.train.placement import Placement, settle
from space.budget import fit

VOCABULARY = 4096
LAYERS = 4
RECIPE = Recipe(tokens=2 * 4 * 128, seq_len=128, batch_size=4, eval_tokens=4 * 128, evaluations=1)
ENVIRONMENT = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
ROWS = (
    "a new shape, the worker's first",
    "the same shape again",
    "a new shape",
    "back to the first shape",
    "another worker's first, on disk",
)
COLUMNS = ("", "graphs", "made anew", "processor", "time")

Start = tuple[int, int, float, float]
"""Graphs, kernels' code made, processor seconds and seconds of a run."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table.

    Raises:
        RuntimeError: a run failed.
    """
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--budgets", nargs=2, default=("1m", "2m"), help="of the two shapes")
    options.add_argument("--device", default="auto")
    chosen = options.parse_args(arguments)
    asked = Placement(device=chosen.device, engine="autograd", compile="yes", threads=1)
    shapes = [
        benchmark_run(fit({"vocab_size": VOCABULARY, "num_blocks": LAYERS}, budget), RECIPE)
        for budget in chosen.budgets
    ]
    first, other = shapes
    placement = settle(asked, first)
    rounds: list[list[Start]] = []
    for number in range(chosen.rounds):
        say(f"round {number + 1} of {chosen.rounds}")
        with tempfile.TemporaryDirectory() as folder, compiled_in(folder):
            order = (first, replace(first, seed=1), other, first)
            rounds.append([*of_a_worker(order, placement), *of_a_worker((first,), placement)])
    rows = [
        [
            name,
            *(spread([start[column] for start in starts], "{:.0f}".format) for column in (0, 1)),
            *(spread([start[column] for start in starts], "{:.2f} s".format) for column in (2, 3)),
        ]
        for name, starts in zip(ROWS, zip(*rounds, strict=True), strict=True)
    ]
    widths = " and ".join(str(run.architecture.hidden_size) for run in shapes)
    text = f"# What a run waits for compiled layers\n\n{heading(placement)}\n\n"
    text += f"{LAYERS} layers of width {widths}; medians of {chosen.rounds} rounds, with the "
    text += "lowest and the highest.\n\n"
    leave(of_device("compiling", placement.device), text + table(COLUMNS, rows), None, chosen.save)


@contextmanager
def compiled_in(folder: str) -> Iterator[None]:
    """Processes that start within keep compiled code in this folder."""
    ours = {**ENVIRONMENT, "TORCHINDUCTOR_CACHE_DIR": folder}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def of_a_worker(runs: Sequence[Run], placement: Placement) -> list[Start]:
    """What each of these runs took, trained one after the other in a process of their own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(started, runs, placement).result()


def started(runs: Sequence[Run], placement: Placement) -> list[Start]:
    """As `of_a_worker`, in this process.

    Raises:
        RuntimeError: a run failed.
    """
    from torch._dynamo.utils import counters

    def now() -> Start:
        graphs = counters["stats"]["unique_graphs"]
        return graphs, counters["inductor"]["fxgraph_cache_miss"], cpu_s(), time.perf_counter()

    found: list[Start] = []
    data = random_tokens(VOCABULARY)
    for run in runs:
        before = now()
        with tempfile.TemporaryDirectory() as folder:
            record = train(run, data, Path(folder) / "run", placement=placement)
        if record.status != Status.FINISHED:
            raise RuntimeError(record.reason)
        graphs, made, processor, seconds = (b - a for a, b in zip(before, now(), strict=True))
        found.append((int(graphs), int(made), processor, seconds))
    return found


def cpu_s() -> float:
    """Of this process and of children that have ended."""
    both = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


if __name__ == "__main__":
    main()
