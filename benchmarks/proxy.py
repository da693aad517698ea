"""How fast proxies train: `python -m benchmarks.proxy [rounds]`.

Tokens a second of the training loop for a thin-deep, a middle and a wide shape of about 5.5 million
parameters, and the share of the machine's own bf16 matrix-product peak that their useful FLOPs
(`cost(...).train_flops_per_token`) make. Beside it the same shapes, batch and optimiser in other
hands: our loop by torch's autograd with compiled layers, and `transformers`' Llama in the plain way
(SDPA, fused AdamW) in float32 and under bf16 autocast. All take turns, round by round, so that a
machine whose speed drifts is compared with itself.
"""

import platform
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers

from search.data import Data, batch
from search.placement import Placement, autocast, settle, settle_precision
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
OURS, COMPILED = "isoparam", "autograd, compiled"
PLAIN, AUTOCAST = "transformers, float32", "transformers, bf16"

Step = Callable[[], object]
"""One optimiser step on a whole batch."""


def main(rounds: int = 7) -> None:
    """Print the tables."""
    placement = Placement()
    recipe = settle_precision(Recipe(tokens=10**9, seq_len=256, batch_size=16), placement)
    with tempfile.TemporaryDirectory() as folder:
        data = random_tokens(Path(folder))
        runs = {name: run_of(name, recipe) for name in SHAPES}
        settled = settle(placement, runs["middle"])
        steps = {
            (name, engine): step
            for name, run in runs.items()
            for engine, step in engines(run, data, Path(folder) / name, settled).items()
        }
        peaks: list[float] = []
        rates: dict[tuple[str, str], list[float]] = {key: [] for key in steps}
        for round_ in range(rounds + 2):
            peak = matmul_peak(settled)
            speed = {
                key: recipe.tokens_per_step / seconds(step, settled) for key, step in steps.items()
            }
            if round_ > 1:  # the first rounds compile and warm caches
                peaks.append(peak)
                for key, rate in speed.items():
                    rates[key].append(rate)
    print_tables(runs, settled, peaks, rates)


def run_of(name: str, recipe: Recipe) -> Run:
    """A run of one shape."""
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
    return Run(architecture=arch, recipe=recipe, data_fingerprint="random")


def engines(run: Run, data: Data, folder: Path, placement: Placement) -> dict[str, Step]:
    """Ways to make a step of one run."""
    compiled = Placement(device=placement.device, engine="autograd", compile="yes")
    return {
        OURS: Training(run, data, folder / "a", placement, lambda _: None).timed_step,
        COMPILED: Training(run, data, folder / "b", compiled, lambda _: None).timed_step,
        AUTOCAST: plain_step(run, data, placement, "bf16"),
        PLAIN: plain_step(run, data, placement, "fp32"),
    }


def plain_step(run: Run, data: Data, placement: Placement, precision: str) -> Step:
    """`transformers`' Llama of the same shape, as its users train it."""
    a, recipe = run.architecture, run.recipe
    llama: Any = transformers  # its types lag behind its arguments
    config = llama.LlamaConfig(
        vocab_size=a.vocab_size,
        hidden_size=a.hidden_size,
        num_hidden_layers=a.num_layers,
        num_attention_heads=a.num_attention_heads,
        num_key_value_heads=a.num_key_value_heads,
        intermediate_size=a.intermediate_size,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
    model = llama.LlamaForCausalLM(config).to(placement.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    counted = iter(range(10**9))

    def step() -> None:
        inputs, _ = batch(data, run.seed, next(counted), recipe.batch_size, recipe.seq_len)
        ids = torch.from_numpy(inputs).to(placement.device)
        with autocast(placement, precision):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


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


def print_tables(
    runs: dict[str, Run],
    placement: Placement,
    peaks: list[float],
    rates: dict[tuple[str, str], list[float]],
) -> None:
    """Medians over the rounds; shares and ratios are medians of each round's own."""
    print(
        f"{date.today()}, {device_name(placement.device)}, {placement.threads} threads, "
        f"engine {placement.engine}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, Python {platform.python_version()}. "
        f"bf16 matrix products: {median(peaks) / 1e9:,.0f} GFLOP/s; {len(peaks)} rounds, medians."
    )
    print("\n| shape | blocks × width | parameters | tokens/s | GFLOP/s | of the peak |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for name, run in runs.items():
        costs = cost(run.architecture, run.recipe.seq_len)
        flops = np.array(rates[name, OURS]) * costs.train_flops_per_token
        blocks, width = SHAPES[name]
        print(
            f"| {name} | {blocks} × {width} | {costs.parameters / 1e6:.2f}M "
            f"| {median(rates[name, OURS]):,.0f} | {median(flops) / 1e9:,.0f} "
            f"| {median(flops / np.array(peaks)):.0%} |"
        )
    print("\n| tokens/s (times slower than ours) | " + " | ".join(SHAPES) + " |")
    print("| --- |" + " ---: |" * len(SHAPES))
    for engine in (COMPILED, AUTOCAST, PLAIN):
        cells = [
            f"{median(rates[name, engine]):,.0f} "
            f"({median(np.array(rates[name, OURS]) / np.array(rates[name, engine])):.2f}×)"
            for name in SHAPES
        ]
        print(f"| {engine} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
