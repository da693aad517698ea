"""`python -m benchmarks.gpu`: what a GPU makes of runs of a lab's size.

For each shape, in sequences of 2,048 tokens, without a CUDA graph and with one: tokens per second,
model FLOPs utilisation (the share of the card's bf16 peak that useful FLOPs make, of the published
peak and of the one that matrix products reach here), the micro-batch that was chosen, and its
memory, estimated and measured. Each row has its own process, and takes turns with matrix products.
It runs without a GPU too, and then without graphs:
`--shapes 5m --seq-len 64 --batch-tokens 256` shows on a CPU what it leaves.
"""

import os
from collections.abc import Sequence
from contextlib import ExitStack
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
from benchmarks.show import heading, leave, parser, say, spread, table
from benchmarks.turns import Contender, Step
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--shapes", nargs="+", default=SHAPES)
    options.add_argument("--seq-len", type=int, default=2048)
    options.add_argument("--batch-tokens", type=int, default=2**19)
    chosen = options.parse_args(arguments)
    rows, placement = [], Placement()
    graphs = ("no", "yes") if gpus() else ("no",)
    for name, graph in product(chosen.shapes, graphs):
        run = run_of(name, chosen.seq_len, chosen.batch_tokens)
        try:
            placement = settle(Placement(engine="autograd", cuda_graph=graph), run)
            rows.append(measured(name, run, placement, chosen.rounds))
        except (RuntimeError, ValueError) as error:  # the other rows stand
            say(f"{name}, CUDA graph {graph}, is left out: {error}")
    text = f"# Runs of a lab's size\n\n{heading(placement)}\n\n"
    text += f"Sequences of {chosen.seq_len:,} tokens, {chosen.batch_tokens:,} tokens per step. "
    text += "Medians of the rounds, with the lowest and the highest.\n\n"
    leave("gpu", text + table(COLUMNS, rows), None, chosen.save)


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
    main()
