"""Studies of several budgets in the real format, their numbers from a known law."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from report_fixtures import RECIPE, StudyFolder, ladder

from search.recipe import Recipe
from space.budget import Budget

BUDGETS = {"law_500k": 500_000, "law_1m": 1_000_000, "law_2m": 2_000_000, "law_4m": 4_000_000}
DEPTHS = (2, 3, 5, 8, 12, 15)
MIDDLE = 1_000_000
EXPONENT, GROWTH, BEST, CURVATURE, LEVEL = 0.15, 0.3, 4.0, 0.03, 1.9
NOISE, SEED_NOISE = 0.003, 0.006


def bits_per_byte(budget: int, depth: int, seed: int) -> float:
    """The law's, with noise that depends on all three alone."""
    best = BEST * (budget / MIDDLE) ** GROWTH
    noise = random.Random(f"{budget} {depth} {seed}").gauss(0, NOISE)
    shared = random.Random(f"{budget} {seed}").gauss(0, SEED_NOISE)
    valley = CURVATURE * math.log(depth / best) ** 2
    return float(LEVEL * (budget / MIDDLE) ** -EXPONENT + valley + noise + shared)


def law_study(
    root: Path,
    name: str,
    *,
    budget: int | None = None,
    kind: str = "non_embedding_parameters",
    depths: Sequence[int] = DEPTHS,
    seeds: int = 3,
    ratio: float = 0.8,
    vocab_size: int = 1024,
    recipe: Recipe | None = None,
    bpb: Any = bits_per_byte,
    windows: Sequence[float] | None = None,
    **facts: Any,
) -> StudyFolder:
    """A study of one budget, all depths on all seeds. `windows` are by how much more a deeper run's
    loss is on each of them, for each e-fold of depth."""
    value = budget or BUDGETS[name]
    on = Budget(kind, value)
    facts = {"budget": {"kind": kind, "value": value}, "n_trials": len(depths) * seeds} | facts
    study = StudyFolder(root, name, **facts)
    told = replace(recipe or RECIPE, tokens=round(ratio * value))
    for architecture in ladder(depths, on, vocab_size=vocab_size):
        depth = int(architecture.num_hidden_layers or 0)
        for seed in range(seeds):
            loss = bpb(value, depth, seed)
            own = [loss + tilt * math.log(depth) for tilt in windows or ()]
            study.add(architecture, seed=seed, recipe=told, bpb=loss, points=4, windows=own)
    study.write()
    return study


def law_studies(root: Path, **more: Any) -> list[str]:
    """All four."""
    for name in BUDGETS:
        law_study(root, name, **more)
    return list(BUDGETS)
