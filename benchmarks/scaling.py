"""`python -m benchmarks.scaling`: whether speed holds over sizes and lengths.

Useful FLOPs per second of the training loop, tokens per second × `train_flops_per_token`, from half
a million parameters to 125 million and from 128 to 2048 positions, and their share of the machine's
bf16 matrix-product peak of the same round. Depth and vocabulary grow with the size, as they do in
practice; a step has 4096 tokens, of which MobileLLM-125M's has 2048.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks import peers
from benchmarks.proxy import (
    PEAK_SIZES,
    PRODUCTS,
    REAL,
    SHAPES,
    TURN_S,
    VOCABULARY,
    benchmark_run,
    products,
    random_tokens,
    run_of,
    shape,
)
from benchmarks.show import heading, leave, parser, say, spread, style, table
from benchmarks.turns import WARM_UP, timed
from search.recipe import Recipe
from search.record import Run
from search.train.placement import Placement, settle
from space.budget import fit
from space.cost import cost

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LADDER = {"0.5m": (6, 1024), "1m": (9, 1024), "2m": (9, 2048), "5m": (12, 4096)} | {
    "12m": (14, 4096),
    "30m": (18, 8192),
    "60m": (24, 16384),
}
"""Blocks and vocabulary by budget, below MobileLLM-125M's 30 and 32,000."""
LENGTHS = (128, 256, 512, 1024, 2048)
TOKENS = 4096
"""In a step."""


@dataclass(frozen=True)
class Point:
    """One run that is timed."""

    run: Run
    rates: list[float] = field(default_factory=list)
    """Tokens per second, one value per round."""
    shares: list[float] = field(default_factory=list)
    """Of the round's peak."""

    @property
    def per_token(self) -> int:
        return cost(self.run.architecture, self.run.recipe.seq_len).train_flops_per_token

    @property
    def flops(self) -> list[float]:
        return [rate * self.per_token for rate in self.rates]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=5)
    chosen = options.parse_args(arguments)
    sizes, lengths = by_size(), by_length()
    measure([*sizes, *lengths], chosen.rounds)
    leave("scaling", described(sizes, lengths), picture(sizes, lengths), chosen.save)


def by_size() -> list[Point]:
    """From half a million to 125 million parameters."""
    recipe = Recipe(tokens=10**9, seq_len=256, batch_size=TOKENS // 256)
    ladder = [
        fit({"vocab_size": vocabulary, "num_blocks": blocks, "heads_per_kv_target": 3}, budget)
        for budget, (blocks, vocabulary) in LADDER.items()
    ]
    return [*(Point(benchmark_run(arch, recipe)) for arch in ladder), Point(run_of(REAL))]


def by_length() -> list[Point]:
    """The middle shape from 128 to 2048 positions."""
    arch = shape(VOCABULARY, *SHAPES["middle"])
    recipes = [Recipe(tokens=10**9, seq_len=n, batch_size=TOKENS // n) for n in LENGTHS]
    return [Point(benchmark_run(arch, recipe)) for recipe in recipes]


def measure(points: Sequence[Point], rounds: int) -> None:
    """Let all points take turns in this process: one loop, which does not disturb itself."""
    placement = settle(Placement(), points[0].run)
    squares = {n: products(n, placement.device) for n in PEAK_SIZES}
    steps = [
        peers.ours(
            point.run,
            random_tokens(point.run.architecture.vocab_size),
            Path(os.devnull),
            replace(placement, micro_batch=None),
        )
        for point in points
    ]
    once = [timed(step, WARM_UP) and timed(step) for step in steps]
    turns = [max(1, round(TURN_S / seconds)) for seconds in once]
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        peak = max(2 * n**3 * PRODUCTS / timed(square) for n, square in squares.items())
        for point, step, turn in zip(points, steps, turns, strict=True):
            rate = point.run.recipe.tokens_per_step * turn / timed(step, turn)
            point.rates.append(rate)
            point.shares.append(rate * point.per_token / peak)


def described(sizes: Sequence[Point], lengths: Sequence[Point]) -> str:
    """The tables, as Markdown."""
    placement = settle(Placement(), sizes[0].run)
    return (
        f"{heading(placement, ('torch',))} Medians of {len(sizes[0].rates)} rounds, with the "
        "lowest and the highest.\n\n"
        + table(
            ["parameters", "blocks × width", "vocabulary", *COLUMNS],
            [
                [
                    f"{cost(a).parameters / 1e6:.2f}M",
                    f"{a.num_blocks} × {a.hidden_size}",
                    f"{a.vocab_size:,}",
                    *figures(point),
                ]
                for point in sizes
                for a in [point.run.architecture]
            ],
        )
        + f"\n{cliff(sizes)}\n\nThe middle shape of 12 × 192 over sequence lengths:\n\n"
        + table(
            ["positions", *COLUMNS],
            [[f"{point.run.recipe.seq_len}", *figures(point)] for point in lengths],
        )
        + f"\n{cliff(lengths)}\n"
    )


COLUMNS = ("tokens/s", "GFLOP/s", "of the peak")


def figures(point: Point) -> list[str]:
    return [
        f"{median(point.rates):,.0f}",
        f"{median(point.flops) / 1e9:,.0f}",
        spread(point.shares, "{:.0%}".format),
    ]


def cliff(points: Sequence[Point]) -> str:
    """The steepest fall between neighbours, in words."""
    shares = [median(point.shares) for point in points]
    worst = min(after / before for before, after in pairwise(shares))
    return (
        f"From one row to the next, the share falls to no less than {worst:.0%} of the one before."
    )


def picture(sizes: Sequence[Point], lengths: Sequence[Point]) -> "Figure":
    """Share of the peak against parameters, and against sequence length."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter, ScalarFormatter

    with style():
        figure = Figure(figsize=(6.4, 2.6), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        millions = [cost(point.run.architecture).parameters / 1e6 for point in sizes]
        positions = [float(point.run.recipe.seq_len) for point in lengths]
        for panel, xs, points, label in (
            (left, millions, sizes, "million parameters"),
            (right, positions, lengths, "positions, 12 × 192"),
        ):
            middles = [median(point.shares) for point in points]
            low = [m - min(p.shares) for m, p in zip(middles, points, strict=True)]
            high = [max(p.shares) - m for m, p in zip(middles, points, strict=True)]
            panel.errorbar(xs, middles, yerr=[low, high], marker="o", color="#3f77bd", capsize=2)
            panel.set_xscale("log")
            panel.set_xticks(xs, labels=[f"{x:.2g}" if x < 100 else f"{x:.0f}" for x in xs])
            panel.xaxis.set_minor_formatter(ScalarFormatter())
            panel.minorticks_off()
            panel.set_xlabel(label)
        left.set_ylim(0, 1)
        left.yaxis.set_major_formatter(PercentFormatter(1))
        left.set_ylabel("useful FLOPs, of the bf16 peak")
    return figure


if __name__ == "__main__":
    main()
