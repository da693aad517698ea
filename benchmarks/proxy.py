"""How fast proxies train: `python -m benchmarks.proxy [rounds]`.

Tokens a second of the training loop for a thin-deep, a middle and a wide shape of about 5.5 million
parameters, and the share of the machine's own bf16 matrix-product peak that their useful FLOPs
(`cost(...).train_flops_per_token`) make. Peak and shapes take turns, round by round, so that a
machine whose speed drifts is compared with itself.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from search.data import Data
from search.placement import Placement, settle_precision
from search.record import Recipe, Run
from search.train import Training, device_name
from space.arch import Architecture
from space.cost import cost

VOCABULARY = 4096
SHAPES = {"thin-deep": (30, 128), "middle": (12, 192), "wide": (6, 256)}
"""Blocks and width."""
PEAK_SIZES = (1024, 2048, 4096)
PRODUCTS = 4
"""In one timing, so that starting the first costs little."""
STEPS_A_ROUND = 2


def main(rounds: int = 7) -> None:
    """Print the table."""
    placement = Placement()
    recipe = settle_precision(Recipe(tokens=10**9, seq_len=256, batch_size=16), placement)
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: start(name, recipe, placement, Path(folder)) for name in SHAPES}
        peaks: list[float] = []
        rates: dict[str, list[float]] = {name: [] for name in SHAPES}
        for round_ in range(rounds + 1):
            peak = matmul_peak(placement)
            speed = {name: tokens_per_s(training) for name, training in runs.items()}
            if round_ > 0:  # the first round compiles and warms caches
                peaks.append(peak)
                for name, rate in speed.items():
                    rates[name].append(rate)
    print_table(runs, peaks, rates)


def start(name: str, recipe: Recipe, placement: Placement, folder: Path) -> Training:
    """A run of one shape on random tokens, ready for its first step."""
    blocks, width = SHAPES[name]
    heads = width // 32
    arch = Architecture(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_blocks=blocks,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        intermediate_size=width * 8 // 3 // 8 * 8,
    )
    run = Run(architecture=arch, recipe=recipe, data_fingerprint="random")
    return Training(run, random_tokens(folder), folder / name, placement, lambda _: None)


def random_tokens(folder: Path) -> Data:
    """Tokens without meaning: speed does not depend on it."""
    tokens = np.random.default_rng(0).integers(VOCABULARY, size=10**6, dtype=np.uint16)
    return Data(
        name="random",
        folder=folder,
        fingerprint="random",
        vocab_size=VOCABULARY,
        end_token=None,
        bytes_per_token=None,
        train=tokens,
        validation=tokens[: 10**5],
        token_bytes=None,
        tokenizer=None,
    )


def tokens_per_s(training: Training) -> float:
    """Over a few optimiser steps."""

    def steps() -> None:
        for _ in range(STEPS_A_ROUND):
            training.timed_step()

    return STEPS_A_ROUND * training.recipe.tokens_per_step / seconds(steps, training.placement)


def matmul_peak(placement: Placement) -> float:
    """FLOPs a second of the best square bf16 matrix product."""
    on_gpu = torch.cuda.is_available() and placement.device != "cpu"
    best = 0.0
    for size in (*PEAK_SIZES, *([2 * PEAK_SIZES[-1]] if on_gpu else [])):
        a = torch.ones(size, size, dtype=torch.bfloat16, device="cuda" if on_gpu else "cpu")
        best = max(best, 2 * size**3 * PRODUCTS / seconds(lambda a=a: multiply(a), placement))  # type: ignore[misc]
    return best


def multiply(a: torch.Tensor) -> None:
    for _ in range(PRODUCTS):
        a @ a


def seconds(work: Callable[[], object], placement: Placement) -> float:
    """How long the work takes, on the device too."""
    on_gpu = torch.cuda.is_available() and placement.device != "cpu"
    if on_gpu:
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def print_table(
    runs: dict[str, Training], peaks: list[float], rates: dict[str, list[float]]
) -> None:
    """Medians over the rounds; the share of the peak is the median of each round's own."""
    placement = next(iter(runs.values())).placement
    print(
        f"{device_name(placement.device)}, {placement.threads} threads, torch {torch.__version__}"
    )
    print(f"bf16 matrix products: {median(peaks) / 1e9:,.0f} GFLOP/s; {len(peaks)} rounds, medians")
    print("\n| shape | blocks × width | parameters | tokens/s | GFLOP/s | of the peak |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, training in runs.items():
        costs = cost(training.run.architecture, training.recipe.seq_len)
        flops = np.array(rates[name]) * costs.train_flops_per_token
        blocks, width = SHAPES[name]
        print(
            f"| {name} | {blocks} × {width} | {costs.parameters / 1e6:.2f}M "
            f"| {median(rates[name]):,.0f} | {median(flops) / 1e9:,.0f} "
            f"| {median(flops / np.array(peaks)):.0%} |"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
