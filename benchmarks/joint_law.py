"""`python -m benchmarks.joint_law`: what intervals of the joint law promise, and what they keep.

Laws are drawn whose truth is known, with the budgets, depths, seeds and noise of the published
ones and five kinds of valley: symmetric, steeper on the shallow side, steeper on the deep side,
with something of each architecture's own as large as the noise, and with a best depth that does not
grow as a power. For each kind: how often the 95% intervals hold of the growth of the best depth, of
the best depth of the largest budget with its runs and without them (a forecast), and of differences
between its architectures without them; by which factor the forecast is off, and by which its
interval is wide; and the same of the line through the budgets' best depths.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.show import heading, leave, parser, table
from reports.weigh.growth import growth
from reports.weigh.joint import Joint, joint, valley
from reports.weigh.valley import valley as quadratic
from search.train.placement import Placement

BUDGETS = (5e5, 1e6, 2e6, 4e6)
DEPTHS = (1, 2, 3, 5, 7, 10)
SEEDS = 3
RATIO = 0.8
"""Tokens per parameter."""
RUN, SEED, ARCHITECTURE, LEVEL = 0.0105, 0.007, 0.002, 0.005
"""Standard deviations, bits per byte: about those of the published laws."""
LAWS = 200
"""Of each kind."""


@dataclass(frozen=True)
class Kind:
    """Laws of one kind."""

    name: str
    asymmetry: float = 0.0
    architecture: float = ARCHITECTURE
    bend: float = 0.0
    """How much more the best depth grows beyond a million parameters than below it."""


KINDS = (
    Kind("symmetric"),
    Kind("steep where shallow", asymmetry=-1.2),
    Kind("steep where deep", asymmetry=1.0),
    Kind("rough", asymmetry=-0.6, architecture=RUN),
    Kind("bent", asymmetry=-0.6, bend=0.6),
)


@dataclass(frozen=True)
class Truth:
    """A law that is known."""

    kind: Kind
    depth: float
    """The best at a million parameters."""
    growth: float

    def best(self, budget: float) -> float:
        z = math.log(budget / 1e6)
        return self.depth * math.exp(self.growth * z + self.kind.bend * max(z, 0.0))

    def at(self, budget: float, depth: Any) -> Any:
        z, x = math.log(budget / 1e6), np.log(depth) - math.log(self.best(budget))
        curved = 0.022 * math.exp(-0.4 * z) * valley(x, self.kind.asymmetry)
        return 1.0 + 0.9 * math.exp(-0.4 * z) + curved

    def runs(self, rng: np.random.Generator) -> pd.DataFrame:
        rows = []
        for number, budget in enumerate(BUDGETS):
            level = rng.normal(0, LEVEL)
            seeds = rng.normal(0, SEED, SEEDS)
            for depth in DEPTHS:
                own = level + rng.normal(0, self.kind.architecture)
                value = self.at(budget, depth) + own + seeds + rng.normal(0, RUN, SEEDS)
                cell: dict[str, Any] = {"parameters": budget, "tokens": RATIO * budget}
                cell |= {"depth": depth, "architecture": f"{budget} {depth}", "group": number}
                rows += [{**cell, "seed": s, "value": v} for s, v in enumerate(value)]
        return pd.DataFrame(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    options = parser(__doc__)
    options.add_argument("--laws", type=int, default=LAWS)
    chosen = options.parse_args(arguments)
    columns = ["valley", "growth", "best depth", "forecast", "differences", "off", "wide"]
    columns += ["line: growth", "line: forecast", "line: off", "line: wide"]
    text = "\n".join(
        [
            "# What intervals of the joint law promise, and what they keep",
            "",
            heading(Placement(threads=1), ("numpy", "scipy")) + " `python -m benchmarks.joint_law`",
            "",
            f"{chosen.laws} laws of each kind: {len(BUDGETS)} budgets, {len(DEPTHS)} depths, "
            f"{SEEDS} seeds. How often 95% intervals hold: of the growth; of the largest budget's "
            "best depth; of it without its runs (forecast); of differences between its "
            "architectures and their mean without its runs. Off and wide: median factors of the "
            "forecast and of its interval's ends.",
            "",
            table(columns, [drawn(kind, chosen.laws) for kind in KINDS]),
        ]
    )
    leave("joint_law", text, None, save=chosen.save)


def drawn(kind: Kind, laws: int) -> list[str]:
    """A row."""
    rng = np.random.default_rng(4_711)
    found = []
    for _ in range(laws):
        truth = Truth(kind, math.exp(rng.uniform(0.7, 1.5)), rng.uniform(-0.1, 0.35))
        found.append(_checked(truth, truth.runs(rng), rng))
    frame = pd.DataFrame(found)
    held = [f"{frame[name].mean():.0%}" for name in ("growth", "best", "forecast", "differences")]
    factors = [f"{frame[name].median():.2f}" for name in ("off", "wide")]
    line = [f"{frame[name].dropna().mean():.0%}" for name in ("line_growth", "line_forecast")]
    line += [f"{frame[name].dropna().median():.2f}" for name in ("line_off", "line_wide")]
    return [kind.name, *held, *factors, *line]


def _checked(truth: Truth, runs: pd.DataFrame, rng: np.random.Generator) -> dict[str, float]:
    last, best = BUDGETS[-1], truth.best(BUDGETS[-1])
    law, before = joint(runs), joint(runs[runs.parameters < last])
    low, high = before.best_interval(last, RATIO * last)
    found = {
        "growth": _inside(law.interval("growth"), truth.growth + truth.kind.bend * 2 / 3),
        "best": _inside(law.best_interval(last, RATIO * last), best),
        "forecast": _inside((low, high), best),
        "differences": _differences(truth, runs, before),
        "off": _factor(before.best(last, RATIO * last), best),
        "wide": high / low if low > 0 else math.inf,
    }
    return found | _line(truth, runs, rng)


def _differences(truth: Truth, runs: pd.DataFrame, law: Joint) -> float:
    """The share of the largest budget's architectures whose mean lies where it was predicted."""
    last = BUDGETS[-1]
    means = runs[runs.parameters == last].groupby("depth").value.mean()
    size, tokens = np.full(len(means), last), np.full(len(means), RATIO * last)
    said = law.prediction(size, tokens, means.index.to_numpy(), SEEDS)
    relative = means.to_numpy() - means.mean()
    return float(((said.relative_low <= relative) & (relative <= said.relative_high)).mean())


def _line(truth: Truth, runs: pd.DataFrame, rng: np.random.Generator) -> dict[str, float]:
    valleys = [
        quadratic(runs.loc[runs.parameters == budget, ["depth", "seed", "value"]], budget, rng, 500)
        for budget in BUDGETS
    ]
    whole, before = growth(valleys), growth(valleys[:-1])
    found = {}
    if whole is not None:
        true = truth.growth + truth.kind.bend * 2 / 3
        found["line_growth"] = _inside(whole.interval, true)
    if before is not None:
        low, high = before.predicted(BUDGETS[-1])
        best, last = truth.best(BUDGETS[-1]), BUDGETS[-1]
        found["line_forecast"] = _inside((low, high), best)
        found["line_off"] = _factor(float(before.best(last)), best)
        found["line_wide"] = high / low if low > 0 else math.inf
    return found


def _inside(ends: tuple[float, float], value: float) -> float:
    return float(ends[0] <= value <= ends[1])


def _factor(one: float, other: float) -> float:
    return math.exp(abs(math.log(one / other)))


if __name__ == "__main__":
    main()
