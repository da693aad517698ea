"""`python -m benchmarks.gpu`: what a GPU makes of runs of a lab's size.

For each shape, in sequences of 2,048 tokens, without a CUDA graph and with one: tokens per second,
model FLOPs utilisation (the share of the card's bf16 peak that useful FLOPs make, of the published
peak and of the one that matrix products reach here), the micro-batch that was chosen, and its
memory, estimated and measured. Each row has its own process, and takes turns with matrix products.
Then, for small shapes, what several workers on the card (`placement.workers_per_gpu`) do at once.
Each row is written as soon as it is measured. It runs without a GPU too, and then without graphs:
`--shapes 5m --seq-len 64 --batch-tokens 256` shows on a CPU what it leaves.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

from benchmarks import peers
from benchmarks.proxy import (
    PEAK_SIZES,
    PRODUCTS,
    PUBLISHED,
    benchmark_run,
    products,
    random_tokens,
    warmed_up,
)
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
from benchmarks.turns import Contender, Step
from search.executors import _mps
from search.recipe import Recipe
from search.record import Run
from search.train.memory import peak_memory
from search.train.placement import Placement, gpus, settle
from search.train.provenance import device_name
from space.arch import ARCHITECTURES, Architecture
from space.budget import fit
from space.cost import cost

VOCABULARY = 32000
"""As Llama 2's."""
SHAPES = ("10m", "30m", "mobilellm_125m", "mobilellm_350m", "mobilellm_600m", "mobilellm_1b")
"""Budgets, which are solved for at twelve layers, and names in `conf/architecture/`."""
COLUMNS = (
    "shape",
    "CUDA graph",
    "parameters",
    "tokens per second",
    "TFLOP/s",
    "of measured peak",
    "of published peak",
    "sequences at once",
    "memory, estimated",
    "memory, measured",
)


SHARED = ("10m", "30m")
"""Shapes that do not fill a card."""
WORKERS = (1, 2, 4)
RUN_TOKENS = 10**9
"""Of a run, where runs per hour are counted: those of `proxy=gpu_1b`."""
SHARED_COLUMNS = (
    "shape",
    "workers",
    "at once by MPS",
    "tokens per second, all",
    "runs per hour",
    "of one worker's",
    "sequences at once",
)


@dataclass
class Found:
    """What is measured so far."""

    placement: Placement
    """Of the last row."""
    words: str
    """On what the rows have in common."""
    rows: list[list[str]] = field(default_factory=list)
    shared: list[list[str]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return of_device("gpu", self.placement.device)

    @property
    def text(self) -> str:
        """As Markdown."""
        text = f"# Runs of a lab's size\n\n{heading(self.placement)}\n\n{self.words}\n\n"
        text += table(COLUMNS, self.rows)
        if self.shared:
            text += "\n## Several workers on the card\n\nRuns of a billion tokens each.\n\n"
            text += table(SHARED_COLUMNS, self.shared)
        return text + missing(self.left_out)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables. The exit code: 1 where a row is left out."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--shapes", nargs="*", default=SHAPES)
    options.add_argument("--shared", nargs="*", default=SHARED, help="shapes for several workers")
    options.add_argument("--workers", type=int, nargs="+", default=WORKERS)
    options.add_argument("--seq-len", type=int, default=2048)
    options.add_argument("--batch-tokens", type=int, default=2**19)
    chosen = options.parse_args(arguments)
    graphs = ("no", "yes") if gpus() else ("no",)
    words = f"Sequences of {chosen.seq_len:,} tokens, {chosen.batch_tokens:,} tokens per step. "
    words += "Medians of the rounds, with the lowest and the highest."
    names = dict.fromkeys([*chosen.shapes, *chosen.shared])
    runs = {name: run_of(name, chosen.seq_len, chosen.batch_tokens) for name in names}
    found = Found(Placement(device="cuda" if gpus() else "cpu"), words)

    def add(
        rows: list[list[str]],
        name: str,
        placement: Placement,
        measure: Callable[[str, Run, Placement, int], list[str]],
        which: str,
    ) -> None:
        """Measure a row and write it down, or why it is left out: the other rows stand."""
        try:
            found.placement = settle(placement, runs[name])
            rows.append(measure(name, runs[name], found.placement, chosen.rounds))
        except (RuntimeError, ValueError) as error:
            found.left_out.append(f"{name}, {which}: {last_line(error)}")
            say(found.left_out[-1])
        if chosen.save:
            keep(found.name, found.text)

    for name, graph in product(chosen.shapes, graphs):
        placement = Placement(engine="autograd", cuda_graph=graph)
        add(found.rows, name, placement, measured, f"CUDA graph {graph}")
    for name in chosen.shared:
        alone: list[float] = []
        for workers in chosen.workers:
            placement = Placement(engine="autograd", workers_per_gpu=workers)
            add(found.shared, name, placement, partial(together, alone), f"{workers} workers")
    leave(found.name, found.text, None, chosen.save)
    return bool(found.left_out)


def run_of(name: str, seq_len: int, batch_tokens: int) -> Run:
    """A run of one shape on random tokens."""
    recipe = Recipe(tokens=10**10, seq_len=seq_len, batch_size=max(1, batch_tokens // seq_len))
    if (ARCHITECTURES / f"{name}.yaml").is_file():
        return benchmark_run(Architecture.from_yaml(name), recipe)
    return benchmark_run(fit({"vocab_size": VOCABULARY, "num_blocks": 12}, name), recipe)


def measured(name: str, run: Run, placement: Placement, rounds: int) -> list[str]:
    """The row of a shape."""
    sizes = (PEAK_SIZES[-1], 2 * PEAK_SIZES[-1]) if placement.device == "cuda" else PEAK_SIZES[:1]
    threads = placement.threads or 1
    say(f"{name} warms up")
    with ExitStack() as stack:
        ours = stack.enter_context(Contender(training, run, placement, threads=threads))
        squares = {
            size: stack.enter_context(Contender(products, size, placement.device, threads=threads))
            for size in sizes
        }
        steps = {one: warmed_up(one) for one in (ours, *squares.values())}
        rates, peaks = [], []
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            rates.append(run.recipe.tokens_per_step * steps[ours] / ours.seconds(steps[ours]))
            peaks.append(
                max(
                    2 * size**3 * PRODUCTS * steps[one] / one.seconds(steps[one])
                    for size, one in squares.items()
                )
            )
        return row(name, run, placement, rates, peaks, ours.memory())


def together(
    alone: list[float], name: str, run: Run, placement: Placement, rounds: int
) -> list[str]:
    """The row of several workers at once. `alone`: tokens per second of the fewest that this shape
    was measured with, by which those of more are divided; empty before."""
    workers, threads = placement.sharing, max(1, (placement.threads or 1))
    say(f"{name} warms up, {workers} at once")
    with shared_card(placement) as mps, ExitStack() as stack:
        ours = [
            stack.enter_context(Contender(training, run, placement, threads=threads))
            for _ in range(workers)
        ]
        steps = min(warmed_up(one) for one in ours)
        rates = []
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            for one in ours:
                one.begin(steps)
            rates.append(sum(run.recipe.tokens_per_step * steps / one.end() for one in ours))
    if not alone:
        alone.append(median(rates))
    return [
        name,
        str(workers),
        mps,
        spread(rates, "{:,.0f}".format),
        f"{3600 * median(rates) / RUN_TOKENS:.3g}",
        f"{median(rates) / alone[0]:.2f} ×",
        str(placement.micro_batch),
    ]


@contextmanager
def shared_card(placement: Placement) -> Iterator[str]:
    """Workers use the card at once, by a daemon of MPS, where it is installed: `yes`. Else in
    turns: `no`."""
    if not _mps.is_wanted(placement):
        yield "no"
        return
    try:
        daemon = _mps.Daemon.start()
    except OSError as error:
        raise RuntimeError(f"MPS does not start: {error}") from error
    before = dict(os.environ)
    try:
        os.environ.update(daemon.variables)
        yield "yes"
    finally:
        os.environ.clear()
        os.environ.update(before)
        daemon.quit()


def training(run: Run, placement: Placement) -> Step:
    """A step of our loop. Called in the contender's own process."""
    data = random_tokens(run.architecture.vocab_size)
    return peers.ours(run, data, Path(os.devnull), placement)


def row(
    name: str,
    run: Run,
    placement: Placement,
    rates: Sequence[float],
    peaks: Sequence[float],
    memory: int,
) -> list[str]:
    """The figures of a shape, as text."""
    counted = cost(run.architecture, run.recipe.seq_len)
    flops = [rate * counted.train_flops_per_token for rate in rates]
    shares = [one / peak for one, peak in zip(flops, peaks, strict=True)]
    card = device_name(placement.device)
    published = next((peak for part, peak in PUBLISHED.items() if part in card), None)
    assert placement.micro_batch is not None, "settled"
    estimated = peak_memory(run.architecture, run.recipe, placement.micro_batch)
    return [
        name,
        placement.cuda_graph,
        f"{counted.parameters:,}",
        spread(rates, "{:,.0f}".format),
        f"{median(flops) / 1e12:.3g}",
        spread(shares, "{:.0%}".format),
        f"{median(flops) / published:.0%}" if published else "unknown",
        str(placement.micro_batch),
        f"{estimated.training / 1e9:.3g} GB",
        f"{memory / 1e9:.3g} GB",
    ]


if __name__ == "__main__":
    sys.exit(main())
