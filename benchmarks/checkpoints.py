"""`python -m benchmarks.checkpoints`: how long a checkpoint holds training up.

Of each shape: the seconds for which training stands still where it writes the checkpoint itself,
and where it copies the state for a thread to write; what the thread takes; and a step alone and
while the thread writes, in turns. Steps are as small as they can be: a checkpoint does not depend
on the batch.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from math import nan
from pathlib import Path

from benchmarks.proxy import benchmark_run, random_tokens
from benchmarks.show import (
    heading,
    keep,
    last_line,
    leave,
    missing,
    of_device,
    parser,
    say,
    spread,
    table,
)
from benchmarks.turns import WARM_UP
from search.recipe import Recipe
from search.train import checkpoint
from search.train.loop import Training
from search.train.placement import Placement
from space.arch import Architecture
from space.cost import cost

SHAPES = ("mobilellm_125m",)
"""Names in `conf/architecture/`."""
SEQ_LEN = 64
COLUMNS = (
    "shape",
    "parameters",
    "bytes",
    "training writes",
    "training copies",
    "a thread writes",
    "of a core",
    "a step alone",
    "a step during a write",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table. The exit code: 1 where a shape is left out."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--shapes", nargs="+", default=SHAPES)
    options.add_argument("--device", default="auto")
    chosen = options.parse_args(arguments)
    rows, left_out, placement = list[list[str]](), list[str](), Placement(device=chosen.device)
    text, name = "", "checkpoints"
    for shape in chosen.shapes:
        try:
            with tempfile.TemporaryDirectory() as folder:
                row, placement = measured(shape, Path(folder), placement, chosen.rounds)
        except (RuntimeError, OSError) as error:  # of memory or disk; the other shapes stand
            left_out.append(f"{shape}: {last_line(error)}")
            say(left_out[-1])
            continue
        rows.append(row)
        name = of_device("checkpoints", placement.device)
        text = f"# What a checkpoint takes\n\n{heading(placement)}\n\n"
        text += f"In seconds, medians of {chosen.rounds} rounds, with the lowest and the highest.\n"
        text += f"\n{table(COLUMNS, rows)}"
        if chosen.save:
            keep(name, text)
    if rows:
        leave(name, text + missing(left_out), None, chosen.save)
    return bool(left_out)


def measured(
    shape: str, folder: Path, placement: Placement, rounds: int
) -> tuple[list[str], Placement]:
    """The row of a shape, and the placement as it was settled."""
    architecture = Architecture.from_yaml(shape)
    recipe = Recipe(tokens=10**9, seq_len=SEQ_LEN, batch_size=1, evaluations=1)
    run = benchmark_run(architecture, recipe)
    training = Training(run, random_tokens(architecture.vocab_size), folder, placement)
    say(f"{shape} warms up")
    for _ in range(WARM_UP):
        training.timed_step()
    parts: list[list[float]] = [[] for _ in range(6)]
    writes, copies, thread, of_a_core, alone, beside = parts
    with training._open_metrics() as metrics, training.writer as writer:
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            saved = training._going_on(metrics)
            writes.append(
                timed(lambda: checkpoint.write(folder, run.key, saved, branch=False))  # noqa: B023
            )
            alone.append(timed(training.timed_step))
            began = time.perf_counter()
            copies.append(timed(lambda: training._begin_checkpoint(metrics)))
            while writer.busy:
                seconds = timed(training.timed_step)
                if writer.busy:
                    beside.append(seconds)
            writer.wait()
            thread.append(time.perf_counter() - began - copies[-1])
            of_a_core.append(writer.cpu_s)
    size = (folder / "checkpoint" / checkpoint.TRUNK).stat().st_size
    return [
        shape,
        f"{cost(architecture).parameters:,}",
        f"{size / 1e9:.2f} GB",
        *(spread(part or [nan], "{:.3g}".format) for part in parts),
    ], training.placement


def timed(call: Callable[[], object]) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
