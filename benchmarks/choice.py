"""`python -m benchmarks.choice`: what the choice among a study's arms promises, and what it keeps.

Studies are drawn whose truth is known: nine depths, a few seeds, noise as in the published ones,
and five kinds of valley, of which only the first is the quadratic that the model prefers. For each
kind: how often the regret of the chosen arm is below the bound that says so with 95% probability,
its stated and its true mean regret, that of the arm of the best mean, and the error of differences
beside that of the seeds alone.

Then the published records: differences of arms from half of the seeds, by the curve and by the
seeds alone, against the means of the other half, in all ways to halve them.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablations.stats.choice import choose
from benchmarks.show import heading, leave, parser, table
from search.states import Status
from search.train.placement import Placement

Array = np.ndarray[Any, np.dtype[np.float64]]
DEPTHS = (2, 3, 4, 5, 7, 9, 13, 22, 39)
NOISE, SEED_NOISE = 0.006, 0.004
"""Standard deviations of runs and of seeds, bits per byte: those of the published studies."""
STUDIES = 300
"""Of each kind."""
PUBLISHED = ("depth_gqa_1m", "depth_mha_1m")
RESULTS = Path(__file__).parent.parent / "reports" / "results"

Valley = Callable[[Array, np.random.Generator], Array]
"""Values of arms from positions between -1 and 1."""


def quadratic(x: Array, rng: np.random.Generator) -> Array:
    return 0.03 * (x - rng.uniform(-0.8, 0.5)) ** 2


def lopsided(x: Array, rng: np.random.Generator) -> Array:
    """Steep on one side, as published valleys are."""
    off = x - rng.uniform(-0.8, 0.5)
    return np.where(off > 0, 0.04, 0.015) * off**2 + 0.01 * np.maximum(off, 0) ** 3


def flat(x: Array, rng: np.random.Generator) -> Array:
    return 0.002 * (x - rng.uniform(-0.8, 0.5)) ** 2


def rough(x: Array, rng: np.random.Generator) -> Array:
    """With an own of each arm as large as the noise."""
    return quadratic(x, rng) + rng.normal(0, NOISE, len(x))


def broken(x: Array, rng: np.random.Generator) -> Array:
    """Level up to a depth, and a line from there on."""
    return 0.05 * np.maximum(x - rng.uniform(-0.8, 0.5), 0)


KINDS: tuple[Valley, ...] = (quadratic, lopsided, flat, rough, broken)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    options = parser(__doc__)
    options.add_argument("--studies", type=int, default=STUDIES)
    options.add_argument("--seeds", type=int, default=4)
    chosen = options.parse_args(arguments)
    rows = [drawn(kind, chosen.studies, chosen.seeds) for kind in KINDS]
    columns = ["valley", "bound holds", "stated regret", "true regret", "of the best mean"]
    columns += ["stated P(best)", "is best", "error of a difference", "by seeds alone"]
    text = "\n".join(
        [
            "# What the choice among arms promises, and what it keeps",
            "",
            heading(Placement(threads=1), ("numpy", "pandas")) + " `python -m benchmarks.choice`",
            "",
            f"{chosen.studies} studies of each kind, {len(DEPTHS)} depths, {chosen.seeds} seeds, "
            f"standard deviation of a run {NOISE}. Regret and errors are in bits per byte × 1000.",
            "",
            table(columns, rows),
            "",
            "Published records, half of the seeds against the other half, root of the mean square:",
            "",
            table(
                ["study", "halves", "curve", "by seeds alone", "of it noise of the other half"],
                [halved(name) for name in PUBLISHED],
            ),
        ]
    )
    leave("choice", text, None, save=chosen.save)


def drawn(kind: Valley, studies: int, seeds: int) -> list[str]:
    """A row: what was stated and what was true, over studies of a kind."""
    rng = np.random.default_rng(4_711)
    logs = np.log(np.array(DEPTHS, dtype=float))
    x = 2 * (logs - logs.min()) / np.ptp(logs) - 1
    found = []
    for _ in range(studies):
        truth = kind(x, rng)
        values = truth[:, None] + rng.normal(0, SEED_NOISE, seeds)
        values = values + rng.normal(0, NOISE, (len(x), seeds))
        choice = choose(long(values), x=dict(zip(names(), logs, strict=True)))
        regret = truth - truth.min()
        taken = int(choice.arms.regret.to_numpy().argmin())
        arm, means = choice.arms.iloc[taken], values.mean(1)
        off = centred(choice.arms.effect.to_numpy()) - centred(truth)
        alone = centred(means) - centred(truth)
        kept = regret[taken] <= arm.regret_high + 1e-12
        regrets = arm.regret, regret[taken], regret[means.argmin()]
        best = arm.p_best, regret[taken] == 0
        found.append([kept, *regrets, *best, mean_square(off), mean_square(alone)])
    held, *lost, stated, was, off, alone = np.array(found, dtype=float).mean(0)
    errors = [f"{1000 * np.sqrt(square):.1f}" for square in (off, alone)]
    costs = [f"{1000 * value:.2f}" for value in lost]
    return [kind.__name__, f"{held:.1%}", *costs, f"{stated:.0%}", f"{was:.0%}", *errors]


def halved(name: str) -> list[str]:
    """A row: errors of differences from half of the seeds of a published study."""
    runs = pd.read_csv(RESULTS / name / "trials.csv")
    runs = runs[runs.status == Status.FINISHED].assign(arm=runs.num_hidden_layers.astype(str))
    cells = runs.pivot(index="arm", columns="seed", values="val_bpb").dropna()
    at = {arm: float(np.log(float(arm))) for arm in cells.index}
    squares = []
    for one, other in halves([int(seed) for seed in cells.columns]):
        frame = cells[one].reset_index().melt("arm", var_name="seed", value_name="val_bpb")
        effects = choose(frame, x=at).arms.set_index("arm").effect.loc[cells.index].to_numpy()
        truth, alone = (centred(cells[part].mean(axis=1).to_numpy()) for part in (other, one))
        off = centred(effects) - truth
        noise = cells[other].sub(cells[other].mean()).to_numpy()
        noise = noise - noise.mean(1, keepdims=True)
        spread = 2 * (noise**2).sum() / ((len(cells) - 1) * (len(other) - 1)) / len(other)
        squares.append(
            [*(2 * (v**2).sum() / (len(cells) - 1) for v in (off, alone - truth)), spread]
        )
    errors = [f"{np.sqrt(square):.4f}" for square in np.mean(squares, axis=0)]
    return [name, str(len(squares)), *errors]


def halves(seeds: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """All ways to take half of the seeds, and the rest."""
    for one in combinations(seeds, len(seeds) // 2):
        yield list(one), [seed for seed in seeds if seed not in one]


def names() -> list[str]:
    return [str(depth) for depth in DEPTHS]


def long(values: Array) -> pd.DataFrame:
    """A row for each arm and seed."""
    frame = pd.DataFrame(values, index=pd.Index(names(), name="arm")).reset_index()
    return frame.melt("arm", var_name="seed", value_name="val_bpb")


def mean_square(off: Array) -> float:
    """Of the error of a difference of two arms, from the errors of arms, centred."""
    return float(2 * (off**2).sum() / (len(off) - 1))


def centred(values: Array) -> Array:
    """Less their mean: only differences mean something."""
    return np.asarray(values - values.mean())


if __name__ == "__main__":
    main()
