"""`python -m benchmarks.proxy`: how fast proxies train, compared with other training loops.

Tokens per second of the training loop for a thin-deep, a middle and a wide shape of about 5.5
million parameters and for MobileLLM-125M, and the share of the machine's own bf16 matrix-product
peak that their useful FLOPs (`cost(...).train_flops_per_token`) make, compared with the same
shapes, batch and optimiser in other training loops (`benchmarks.peers`). Each has its own process.
Our loop is compared with one at a time, so that at most two models are in memory; both and the
matrix products take turns of about a second, round by round, in a changing order
(`benchmarks.turns`). Figures are medians over the rounds, with the lowest and the highest; ratios
are medians of the ratio per round. `--before FOLDER` compares with our loop of another checkout,
such as `git worktree add FOLDER COMMIT` makes.
"""

import os
import sys
from argparse import ArgumentTypeError
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from random import Random
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks import peers
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
    style,
    table,
)
from benchmarks.turns import WARM_UP, Contender, Step
from search.data.packed import Data
from search.recipe import Recipe
from search.record import Run
from search.train.placement import Placement, settle, settle_precision
from space.arch import Architecture
from space.commit import commit
from space.cost import cost

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHAPES = {"thin-deep": (30, 128), "middle": (12, 192), "wide": (6, 256)}
"""Blocks and width, of about 5.5 million parameters."""
REAL = "mobilellm_125m"
"""Of `conf/architecture/`."""
VOCABULARY = 4096
TURN_S = 1.0
"""A contender's turn in a round, or one step where that takes longer."""
PEAK_SIZES = (1024, 2048, 4096)
PRODUCTS = 4
"""In one timing, so that starting the first costs little."""
PUBLISHED = {
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
}
"""Dense bf16 FLOPs per second of cards by a part of their name, from NVIDIA's data sheets."""

OURS, COMPILED = "isoparam", "isoparam by autograd, compiled"
PLAIN, AUTOCAST = "transformers, float32", "transformers, bf16"
LITGPT, LEAN = "litgpt, bf16, compiled", "lean loop, bf16, compiled, tuned"
ENGINES = (OURS, COMPILED, LEAN, LITGPT, AUTOCAST, PLAIN)


@dataclass(frozen=True)
class Result:
    """Results of the rounds of one shape."""

    shape: str
    run: Run
    placement: Placement
    peaks: list[float] = field(default_factory=list)
    """FLOPs per second of the best matrix product, one value per round."""
    rates: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Tokens per second by engine, one value per round; ours has the rounds with all others."""
    ratios: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """How many times an engine is slower than our loop in the same round."""
    memory: dict[str, int] = field(default_factory=dict)
    """Bytes by engine, at the peak."""

    @property
    def flops(self) -> list[float]:
        """FLOPs per second of our loop, one value per round."""
        per_token = cost(self.run.architecture, self.run.recipe.seq_len).train_flops_per_token
        return [rate * per_token for rate in self.rates[OURS]]

    @property
    def shares(self) -> list[float]:
        """Shares of the peak, one value per round."""
        return [flops / peak for flops, peak in zip(self.flops, self.peaks, strict=True)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables. The exit code: 1 where an engine is left out of a shape."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--shapes", nargs="+", choices=(*SHAPES, REAL), default=[*SHAPES, REAL])
    options.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    options.add_argument("--before", type=checkout, default=[], nargs="+", metavar="FOLDER")
    chosen = options.parse_args(arguments)
    others = [name for name in chosen.engines if name != OURS]
    before = {f"{OURS} at {commit(folder)}": folder for folder in chosen.before}
    others += before
    if not peers.litgpt_is_there() and LITGPT in others:
        print("litgpt is left out; `make peers` installs it apart from the environment")
        others.remove(LITGPT)
    results, left_out = dict[str, Result](), list[str]()
    stem = name = "proxy_before" if before else "proxy"
    for shape, other in product(chosen.shapes, others or [OURS]):
        run = run_of(shape)
        result = results.get(shape) or Result(shape, run, settle(Placement(), run))
        name = of_device(stem, result.placement.device)
        try:
            meet(other, chosen.rounds, result, before.get(other))
        except RuntimeError as error:  # such as for lack of memory; all others stand
            left_out.append(f"{shape}, {other}: {last_line(error)}")
            say(left_out[-1])
            continue
        results[shape] = result
        if chosen.save:
            keep(name, described(results) + missing(left_out), picture(results))
    if results:
        leave(name, described(results) + missing(left_out), picture(results), chosen.save)
    return bool(left_out)


def checkout(name: str) -> Path:
    """A folder that has this benchmark as another commit left it."""
    folder = Path(name).resolve()
    if not (folder / "benchmarks" / "proxy.py").is_file():
        raise ArgumentTypeError(f"FOLDER must be a checkout of isoparam, but {folder} is none")
    return folder


def run_of(name: str) -> Run:
    """A run of one shape."""
    if name == REAL:
        recipe = Recipe(tokens=10**9, seq_len=512, batch_size=4)
        return benchmark_run(Architecture.from_yaml(REAL), recipe)
    blocks, width = SHAPES[name]
    return benchmark_run(
        shape(VOCABULARY, blocks, width), Recipe(tokens=10**9, seq_len=256, batch_size=16)
    )


def shape(vocab_size: int, blocks: int, width: int) -> Architecture:
    """Heads of 32, two of them a key/value head, and an FFN of 8/3 of the width."""
    heads = width // 32
    return Architecture(
        vocab_size=vocab_size,
        hidden_size=width,
        num_blocks=blocks,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        intermediate_size=width * 8 // 3 // 8 * 8,
    )


def benchmark_run(arch: Architecture, recipe: Recipe) -> Run:
    """A run on random tokens."""
    settled = settle_precision(recipe, Placement())
    return Run(architecture=arch, recipe=settled, data_fingerprint="random")


def meet(name: str, rounds: int, result: Result, folder: Path | None) -> None:
    """Add the rounds of our loop with one other engine, that of another checkout where there is a
    folder, or of our loop alone, with matrix products in between.

    Raises:
        RuntimeError: one of them failed; nothing is added.
    """
    run, placement = result.run, result.placement
    threads = placement.threads or 1
    sizes = (*PEAK_SIZES, *([8192] if placement.device == "cuda" else []))
    with ExitStack() as stack:

        def contender(make: object, *arguments: object) -> Contender:
            return stack.enter_context(Contender(make, *arguments, threads=threads))  # type: ignore[arg-type]

        say(f"{run.architecture.num_layers} × {run.architecture.hidden_size}: {name} warms up")
        squares = {size: contender(products, size, placement.device) for size in sizes}
        pair = {
            each: contender(peers.checkout, folder, result.shape)
            if folder and each == name
            else contender(engine, each, run, placement)
            for each in dict.fromkeys((OURS, name))
        }
        everyone: list[Contender] = [*squares.values(), *pair.values()]
        steps = {one: warmed_up(one) for one in everyone}
        timings = []
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            order = Random(number).sample(everyone, len(everyone))
            timings.append({one: one.seconds(steps[one]) / steps[one] for one in order})
        memory = {each: one.memory() for each, one in pair.items()}
    for seconds in timings:
        result.peaks.append(max(2 * n**3 * PRODUCTS / seconds[one] for n, one in squares.items()))
        for each, one in pair.items():
            result.rates[each].append(run.recipe.tokens_per_step / seconds[one])
        result.ratios[name].append(seconds[pair[name]] / seconds[pair[OURS]])
    result.memory.update(memory)


def warmed_up(contender: Contender) -> int:
    """Steps in a turn of a contender that has compiled and filled its caches."""
    contender.seconds(WARM_UP)
    return max(1, round(TURN_S / contender.seconds()))


def engine(name: str, run: Run, placement: Placement) -> Step:
    """A way to make a step of a run. Called in the contender's own process."""
    data = random_tokens(run.architecture.vocab_size)
    nowhere = Path(os.devnull)  # no checkpoint is found there, and none is written
    if name == OURS:
        return peers.ours(run, data, nowhere, placement)
    if name == COMPILED:
        compiled = Placement(device=placement.device, engine="autograd", compile="yes")
        return peers.ours(run, data, nowhere, compiled)
    if name == LITGPT:
        return peers.litgpt(run, data, placement)
    if name == LEAN:
        return peers.lean_loop(run, data, placement)
    return peers.transformers_llama(run, data, placement, "bf16" if name == AUTOCAST else "fp32")


def random_tokens(vocab_size: int) -> Data:
    """Tokens without meaning: speed does not depend on it."""
    tokens = np.random.default_rng(0).integers(vocab_size, size=10**6, dtype=np.uint16)
    return Data(
        name="random",
        folder=Path(os.devnull),
        fingerprint="random",
        vocab_size=vocab_size,
        end_token=None,
        bytes_per_token=None,
        train=tokens,
        validation=tokens[: 10**5],
        token_bytes=None,
        tokenizer=None,
    )


def products(size: int, device: str) -> Step:
    """Square bf16 matrix products."""
    a = torch.ones(size, size, dtype=torch.bfloat16, device=device)

    def step() -> None:
        for _ in range(PRODUCTS):
            a @ a

    return step


def floor_bytes(run: Run, placement: Placement) -> int:
    """What training a shape must hold at once, in bytes.

    - Weights, gradients and AdamW's two moments in float32: 16 bytes per parameter.
    - Of each token in a micro-batch and each layer what the backward pass needs of the forward one
      and cannot have back by a cheap elementwise operation, in the precision of the products: the
      input of both norms (2·D), q, k and v ((N + 2·K)·H), attention's result (N·H), and what the
      FFN's activation reads (2·F with a gate, else F).
    - One micro-batch's logits (V a token), which become their own gradient.

    Each thread of the kernels has a micro-batch of its own.
    """
    a, recipe = run.architecture, run.recipe
    assert placement.micro_batch is not None, "settled"
    threads = placement.threads or 1 if placement.engine == "kernels" else 1
    tokens = min(threads * placement.micro_batch, recipe.batch_size) * recipe.seq_len
    heads = (2 * a.num_attention_heads + 2 * a.kv_heads) * a.head_size
    layer = 2 * a.hidden_size + heads + (2 if a.gated else 1) * a.intermediate_size
    width = 2 if recipe.precision == "bf16" else 4
    activations = width * tokens * (a.num_layers * layer + a.vocab_size)
    return 16 * cost(a).parameters + activations


def described(results: dict[str, Result]) -> str:
    """The tables, as Markdown."""
    first = next(iter(results.values()))
    rounds = min(map(len, first.rates.values()))
    engines = engines_of(results)
    text = heading(first.placement, ("torch", "transformers")) + (
        f" Medians of {rounds} rounds, with the lowest and the highest.\n\n"
    )
    text += table(
        ["shape", "blocks × width", "parameters", "tokens/s", "GFLOP/s", "peak GFLOP/s", "share"]
        + (["of the published peak"] if first.placement.device == "cuda" else []),
        [speed_row(name, result) for name, result in results.items()],
    )
    text += "\nTokens per second, and how many times our loop is faster:\n\n"
    text += table(
        ["", *results],
        [[name, *(compared(result, name) for result in results.values())] for name in engines],
    )
    text += (
        "\nPeak memory in MB beyond what importing takes, compilers' own included; the floor is "
        "weights, gradients, moments and the activations of a micro-batch:\n\n"
    )
    text += table(
        ["", *results],
        [
            *(
                [name, *(in_megabytes(result, name) for result in results.values())]
                for name in engines
            ),
            [
                "floor",
                *(f"{floor_bytes(r.run, r.placement) / 1e6:,.0f}" for r in results.values()),
            ],
        ],
    )
    return text


def speed_row(name: str, result: Result) -> list[str]:
    arch = result.run.architecture
    row = [
        name,
        f"{arch.num_blocks} × {arch.hidden_size}",
        f"{cost(arch).parameters / 1e6:.2f}M",
        spread(result.rates[OURS], "{:,.0f}".format),
        spread(result.flops, lambda x: f"{x / 1e9:,.0f}"),
        spread(result.peaks, lambda x: f"{x / 1e9:,.0f}"),
        spread(result.shares, "{:.0%}".format),
    ]
    if result.placement.device == "cuda":
        card = torch.cuda.get_device_name()
        peak = next((flops for part, flops in PUBLISHED.items() if part in card), None)
        row.append(f"{median(result.flops) / peak:.0%}" if peak else "unknown")
    return row


def engines_of(results: dict[str, Result]) -> list[str]:
    """Those that any shape was trained by, in the order in which they came."""
    return list(dict.fromkeys(name for result in results.values() for name in result.rates))


def in_megabytes(result: Result, engine: str) -> str:
    return f"{result.memory[engine] / 1e6:,.0f}" if engine in result.memory else "–"


def compared(result: Result, engine: str) -> str:
    if engine not in result.rates:
        return "–"
    rate = f"{median(result.rates[engine]):,.0f}"
    return rate if engine == OURS else f"{rate}; {spread(result.ratios[engine], '{:.2f}'.format)}"


def picture(results: dict[str, Result]) -> "Figure":
    """Bars: tokens per second by engine, one panel per shape."""
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(2.4 + 2.1 * len(results), 2.4), layout="constrained")
        panels = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
        places = {name: place for place, name in enumerate(engines_of(results)[::-1])}
        panels[0].set_yticks(list(places.values()), labels=list(places))
        for panel, (name, result) in zip(panels, results.items(), strict=True):
            for n, place in places.items():
                if n not in result.rates:
                    continue
                rates, middle = result.rates[n], median(result.rates[n])
                panel.barh(
                    place,
                    middle,
                    xerr=[[middle - min(rates)], [max(rates) - middle]],
                    color="#3f77bd" if n == OURS else "#a9b4c2",
                    error_kw={"linewidth": 0.7},
                )
                words = "" if n == OURS else f" {median(result.ratios[n]):.1f}×"
                panel.text(max(rates), place, words, va="center", fontsize=7)
            panel.set_title(f"{name}\n{median(result.shares):.0%} of the peak", fontsize=8)
            panel.set_xlabel("tokens per second")
            panel.margins(x=0.2)
    return figure


if __name__ == "__main__":
    sys.exit(main())
