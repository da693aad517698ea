"""`python -m benchmarks.solver`: how fast the budget solver is, and how near it comes.

10,000 random draws of depth, vocabulary, tying, sharing, grouping and head dimension for each of
five budgets. A draw of which nothing lies on the budget (a vocabulary larger than the budget, say)
is counted and left out of the other figures.
"""

import argparse
import gc
import random
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

from space.axes import SPACES, Space
from space.budget import Budget, ffn_target, solve, with_shape

BUDGETS = ("0.5m", "5m", "50m", "500m", "2b")
VOCABULARIES = (1024, 4096, 16384, 32000, 49152, 128256)
SHARINGS = ("none", "immediate", "cycle", "reverse", "cycle_reverse", "middle_cycle")


@dataclass(frozen=True)
class Result:
    """Figures of one budget. Deviations and drifts are fractions."""

    budget: str
    fitted: int
    infeasible: int
    per_second: float
    """Architectures found and built."""
    worst_ms: float
    """Slowest call."""
    deviations: list[float]
    drifts: list[float]


def draw(rng: random.Random) -> dict[str, Any]:
    """What a user might ask for, from 2 to 64 blocks."""
    sharing = rng.choice(SHARINGS)
    return {
        "vocab_size": rng.choice(VOCABULARIES),
        "num_blocks": max(3, round(2 * 32 ** rng.random())),
        "tie_word_embeddings": rng.random() < 0.7,
        "heads_per_kv": rng.choice((1, 2, 3, 4)),
        "head_dim_scale": rng.choice((0.5, 1, 2)),
        "hidden_act": rng.choice(("silu", "silu", "gelu")),
        "sharing": sharing,
        "repeats": 1 if sharing == "none" else 2,
        "sharing_scope": rng.choice(("block", "block", "ffn", "attention")),
        "norms": rng.choice(("block", "layer")),
    }


def measure(text: str, draws: int, seed: int) -> Result:
    """Fit so many draws to one budget."""
    budget = Budget.parse(text)
    rng = random.Random(f"{seed} {text}")
    found, feasible, seconds = [], [], []
    gc.disable()  # its pauses are this loop's own, which keeps everything
    for _ in range(draws):
        partial = draw(rng)
        start = time.perf_counter()
        shape = solve(partial, budget)  # these two lines are `fit`, without its search for
        arch = None if shape is None else with_shape(partial, shape)  # the nearest that fit
        elapsed = time.perf_counter() - start
        if arch is not None:
            found.append(arch)
            feasible.append(partial)
            seconds.append(elapsed)
    gc.enable()
    pairs = zip(found, feasible, strict=True)
    return Result(
        budget=text,
        fitted=len(found),
        infeasible=draws - len(found),
        per_second=len(found) / sum(seconds),
        worst_ms=max(seconds) * 1000,
        deviations=[abs(budget.deviation(arch)) for arch in found],
        drifts=[abs(arch.ffn_ratio / ffn_target(partial) - 1) for arch, partial in pairs],
    )


def enumeration_s(name: str, budget: str, vocab_size: int) -> tuple[int, float]:
    """Number of architectures of a space, and the seconds that listing them took."""
    start = time.perf_counter()
    size = Space.from_yaml(name, budget, vocab_size).size
    return size, time.perf_counter() - start


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=10_000, help="for each budget")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("Of deviation and drift of the FFN ratio, the median and the worst:\n")
    print("| budget | fitted | infeasible | a second | slowest | deviation | drift |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for text in BUDGETS:
        r = measure(text, options.draws, options.seed)
        print(
            f"| {r.budget} | {r.fitted:,} | {r.infeasible:,} | {r.per_second:,.0f} "
            f"| {r.worst_ms:.2f} ms | {median(r.deviations):.3%}, {max(r.deviations):.3%} "
            f"| {median(r.drifts):.1%}, {max(r.drifts):.0%} |"
        )
    print("\nListing a whole space:\n")
    print("| space | " + " | ".join(BUDGETS) + " |")
    print("| --- |" + " ---: |" * len(BUDGETS))
    for name in sorted(path.stem for path in SPACES.glob("*.yaml")):
        listed = [enumeration_s(name, text, 1024) for text in BUDGETS]
        print(f"| {name} | " + " | ".join(f"{n:,} in {s:.2f} s" for n, s in listed) + " |")


if __name__ == "__main__":
    main()
