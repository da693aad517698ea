"""Which runs of a study say how its architectures compare.

A study chooses architectures by their first runs, which luck has favoured, and gives them further
seeds. Where these suffice they alone are compared.
"""

from typing import TYPE_CHECKING

from search.states import Role

if TYPE_CHECKING:
    import pandas as pd

FEWEST_SEEDS = 2


def comparable_cells(
    done: "pd.DataFrame", metric: str
) -> "tuple[pd.DataFrame, tuple[int, ...], tuple[int, ...]]":
    """The replicated arms on the seeds they share; those seeds; the exploring seeds set aside."""
    columns = ["arm", "seed", metric]
    tried: dict[str, set[int]] = {}
    for arm, seed in zip(done.arm, done.seed, strict=True) if len(done) else ():
        tried.setdefault(str(arm), set()).add(seed)
    several = {arm: seeds for arm, seeds in tried.items() if len(seeds) >= FEWEST_SEEDS}
    exploring = set(done.loc[done.role == Role.EXPLORE, "seed"]) if len(done) else set()
    fresh = {arm: seeds - exploring for arm, seeds in several.items()}
    chosen = len(several) < len(tried)  # replicating all of them selects nothing
    set_aside: set[int] = set()
    if chosen and _shared(fresh):
        several, set_aside = fresh, exploring
    seeds = _shared(several)
    arms = {arm for arm, own in several.items() if seeds and seeds <= own}
    cells = done[done.arm.isin(arms) & done.seed.isin(seeds)][columns].sort_values(["arm", "seed"])
    return cells.reset_index(drop=True), tuple(sorted(seeds)), tuple(sorted(set_aside))


def _shared(seeds_of: dict[str, set[int]]) -> set[int]:
    """The seeds common to all arms, leaving out arms with few until at least two are; else none."""
    rows = sorted(seeds_of.items(), key=lambda item: (-len(item[1]), item[0]))
    while len(rows) > 1:
        common = set.intersection(*(seeds for _, seeds in rows))
        if len(common) >= FEWEST_SEEDS:
            return common
        rows.pop()
    return set()
