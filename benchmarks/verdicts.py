"""`python -m benchmarks.verdicts`: would another rule for verdicts find more and err as little?

Beside ours (`ablations.stats.effects`) stand two families that need no assumption of equal standard
deviations to look safe: permutations of the arms within each seed, with the largest statistic of a
table as reference (Westfall and Young 1993), and bootstraps of the block model, studentised, whose
residuals are drawn anew for each arm, from a normal or with random signs (the wild bootstrap). Each
with two statistics: over the pooled standard deviation, and over the two arms' own.

For each rule: tables of equal arms with a false verdict, by how the standard deviations differ, and
how often effects are found where all vary equally.

Then the arms that may be best: Hsu's comparison with the best, as studies have it, which keeps the
best arm with 95%, beside all pairs at 5% together, which leaves none of equal arms out with 95%.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ablations.effects import indistinguishable, resolved_pairs
from ablations.stats.block import LEVEL
from ablations.stats.calibration import PATTERNS, scales_of
from ablations.stats.widths import half_widths
from benchmarks.show import heading, leave, parser, table
from search.train.placement import Placement
from space.ranges import Range

Array = NDArray[np.float64]
Verdicts = NDArray[np.bool_]
Statistic = Callable[[Array], Array]
"""(…, A - 1) of tables (…, A, S): how far each arm is from the first."""
Rule = Callable[[Array, np.random.Generator, int], Verdicts]
"""(T, A - 1) which arms of tables (T, A, S) differ from the first, by so many draws each."""

DESIGNS = ((10, 3), (6, 5), (12, 6))
"""Arms × seeds."""
SHOWN = ("equal", "baseline 2 times", "baseline 4 times", "one arm 4 times")
EFFECTS = (1.5, 2.0)
"""In standard deviations of a run's error."""
TABLES, DRAWS = 2000, 199
SETS = 300
"""Tables for each design and rule of sets."""
VALLEY = (0.6, 0.0, 0.3, 1.2, 2.0, 3.0, 4.5, 6.0, 8.0, 10.0, 12.0, 14.0)
"""Effects of arms in standard deviations, as depths have them: the first so many are taken."""


def residuals(values: Array) -> Array:
    """What is left when each arm and each seed has a mean of its own."""
    arms, seeds, whole = (values.mean(axis, keepdims=True) for axis in (-1, -2, (-1, -2)))
    left: Array = values - arms - seeds + whole
    return left


def over_pooled(values: Array) -> Array:
    """Differences over the standard deviation that all arms share."""
    *_, arms, seeds = values.shape
    squares = (residuals(values) ** 2).sum((-1, -2)) / ((arms - 1) * (seeds - 1))
    found: Array = _apart(values) / np.sqrt(2 / seeds * squares)[..., None]
    return found


def over_own(values: Array) -> Array:
    """Differences over the two arms' own standard deviations."""
    own = variances(values)
    found: Array = _apart(values) / np.sqrt((own[..., 1:] + own[..., :1]) / values.shape[-1])
    return found


def variances(values: Array) -> Array:
    """(…, A) of each arm's residuals; unbiased where all arms vary equally."""
    *_, arms, seeds = values.shape
    found: Array = (residuals(values) ** 2).sum(-1) / ((seeds - 1) * (1 - 1 / arms))
    return found


def _apart(values: Array) -> Array:
    found: Array = np.abs((values[..., 1:, :] - values[..., :1, :]).mean(-1))
    return found


def ours(values: Array, rng: np.random.Generator, draws: int) -> Verdicts:
    """The rule of every table."""
    apart, half = half_widths(values, 1 - LEVEL)
    found: Verdicts = np.abs(apart) > half
    return found


def pooled(values: Array, rng: np.random.Generator, draws: int) -> Verdicts:
    """Dunnett's with one standard deviation for all."""
    apart, half = half_widths(values, 1 - LEVEL, pooled=True)
    found: Verdicts = np.abs(apart) > half
    return found


def permuted(statistic: Statistic) -> Rule:
    """Arms change places within each seed."""

    def rule(values: Array, rng: np.random.Generator, draws: int) -> Verdicts:
        def draw() -> Array:
            places = rng.random(values.shape).argsort(axis=1)
            moved: Array = np.take_along_axis(values, places, axis=1)
            return moved

        return _beyond(statistic, values, draw, draws)

    return rule


def bootstrapped(statistic: Statistic, *, wild: bool) -> Rule:
    """Tables of equal arms with each arm's own residuals."""

    def rule(values: Array, rng: np.random.Generator, draws: int) -> Verdicts:
        _, arms, seeds = values.shape
        left = residuals(values) / np.sqrt((1 - 1 / arms) * (1 - 1 / seeds))
        sd = np.sqrt(variances(values))[..., None]

        def draw() -> Array:
            shape = values.shape
            drawn: Array = (
                left * rng.choice([-1.0, 1.0], shape) if wild else sd * rng.normal(size=shape)
            )
            return drawn

        return _beyond(statistic, values, draw, draws)

    return rule


def _beyond(statistic: Statistic, values: Array, draw: Callable[[], Array], draws: int) -> Verdicts:
    """Whether a statistic exceeds the largest ones of tables that were drawn."""
    seen = statistic(values)
    larger = np.zeros_like(seen)
    for _ in range(draws):
        larger += statistic(draw()).max(-1, keepdims=True) >= seen - 1e-12  # itself counts as well
    found: Verdicts = (1 + larger) / (1 + draws) <= 1 - LEVEL
    return found


RULES: dict[str, Rule] = {
    "ours": ours,
    "pooled": pooled,
    "permutations, pooled": permuted(over_pooled),
    "permutations, own": permuted(over_own),
    "normal bootstrap, pooled": bootstrapped(over_pooled, wild=False),
    "normal bootstrap, own": bootstrapped(over_own, wild=False),
    "wild bootstrap, pooled": bootstrapped(over_pooled, wild=True),
    "wild bootstrap, own": bootstrapped(over_own, wild=True),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    options = parser(__doc__)
    options.add_argument("--tables", type=int, default=TABLES)
    options.add_argument("--draws", type=int, default=DRAWS)
    chosen = options.parse_args(arguments)
    Range(1).require("tables", chosen.tables)
    Range(19).require("draws", chosen.draws)
    parts = [
        f"{heading(Placement(device='cpu', threads=1), ('numpy',))} "
        f"{chosen.tables:,} tables each, {chosen.draws} draws for a permutation or bootstrap.\n\n"
        f"False verdicts, in tables of equal arms, and how often an effect of "
        f"{' and '.join(f'{e:g}' for e in EFFECTS)} standard deviations is found where all vary "
        "equally.\n"
    ]
    for arms, seeds in DESIGNS:
        rows = [
            [name, *row_of(rule, arms, seeds, chosen.tables, chosen.draws)]
            for name, rule in RULES.items()
        ]
        columns = [f"{arms} arms × {seeds} seeds", *SHOWN, *(f"finds {e:g} sd" for e in EFFECTS)]
        parts.append(table(columns, rows))
    parts.append(
        "Arms that may be best, in tables of equal arms and in tables whose arms lie in a valley "
        f"({', '.join(f'{v:g}' for v in VALLEY)} standard deviations, the first so many), "
        f"{SETS} tables each.\n"
    )
    columns = ["arms × seeds, rule", "some equal arm left out", "best kept", "arms kept"]
    rows = [
        [f"{arms} × {seeds}, {name}", *sets_of(rule, arms, seeds)]
        for arms, seeds in DESIGNS
        for name, rule in SET_RULES.items()
    ]
    parts.append(table(columns, rows))
    leave("verdicts", "\n".join(parts), None, chosen.save)


def row_of(rule: Rule, arms: int, seeds: int, tables: int, draws: int) -> list[str]:
    """False verdicts for each pattern, then the power for each effect."""
    rng = np.random.default_rng(0)

    def verdicts(scales: Sequence[float], effect: float) -> Verdicts:
        values = rng.standard_normal((tables, arms, seeds)) * np.asarray(scales)[:, None]
        values[:, 1] += effect
        return rule(values, rng, draws)

    false = [verdicts(scales_of(arms, *PATTERNS[name]), 0.0).any(-1).mean() for name in SHOWN]
    found = [verdicts([1.0] * arms, effect)[:, 0].mean() for effect in EFFECTS]
    shares: list[Any] = [*false, *found]
    return [f"{share:.1%}" for share in shares]


def by_hsu(frame: pd.DataFrame) -> set[int]:
    """As studies have it."""
    return set(indistinguishable(frame).level)  # type: ignore[arg-type]


def by_all_pairs(frame: pd.DataFrame) -> set[int]:
    """Arms than which no other is better, all pairs at 5% together."""
    signs = resolved_pairs(frame)
    return {int(arm) for arm, row in signs.iterrows() if not (row == 1).any()}  # type: ignore


SET_RULES: dict[str, Callable[[pd.DataFrame], set[int]]] = {
    "Hsu (ours)": by_hsu,
    "all pairs": by_all_pairs,
}


def sets_of(rule: Callable[[pd.DataFrame], set[int]], arms: int, seeds: int) -> list[str]:
    """How often some arm of equal ones is left out; in a valley how often the best is kept, and how
    many arms are on average."""
    rng = np.random.default_rng(0)
    place = pd.MultiIndex.from_product([range(arms), range(seeds)], names=["arm", "seed"])

    def kept(effects: Array) -> list[set[int]]:
        draws = rng.standard_normal((SETS, arms, seeds)) + effects[:, None]
        frames = (pd.DataFrame({"val_bpb": d.ravel()}, place).reset_index() for d in draws)
        return [rule(frame) for frame in frames]

    valley = np.array(VALLEY[:arms])
    equal, found = kept(np.zeros(arms)), kept(valley)
    best = int(valley.argmin())
    return [
        f"{np.mean([len(left) < arms for left in equal]):.1%}",
        f"{np.mean([best in left for left in found]):.1%}",
        f"{np.mean([len(left) for left in found]):.1f} of {arms}",
    ]


if __name__ == "__main__":
    main()
