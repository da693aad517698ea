"""Seeds as they are needed: looks at 4, 6 and 10, and further seeds only where nothing is resolved.

The 5% are spent over the looks as a group-sequential design does: the spending function of Lan and
DeMets, Biometrika 70:659 (1983), of the kind of O'Brien and Fleming, Biometrics 35:549 (1979), with
a look's share of the ten seeds as its information. Early looks find large effects only, and the
last one has nearly the whole level. The levels are those of one arm's normal statistics; that they
hold the 5% for t statistics of many arms is simulated (`ablations.stats.calibration`), as Jennison
and Turnbull, Group Sequential Methods (2000), chapter 3, found for one.

An arm that is resolved keeps its verdict and the numbers it was reached by; seeds it may have
beyond that look are not used, so that the answer does not depend on what else was trained.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

AUTO = "auto"
"""As a number of seeds: as many as these looks ask for."""
LOOKS = (4, 6, 10)
"""Numbers of seeds per arm at which the arms are compared."""
ALPHAS = (0.000788, 0.007356, 0.047548)
"""The level that each look compares at: together they spend 5%."""


def verdicts(
    frame: "pd.DataFrame",
    baseline: str,
    metric: str = "val_bpb",
    *,
    lower_is_better: bool = True,
    evaluation: Mapping[str, float] | None = None,
) -> "pd.DataFrame":
    """The columns of `compare`, at the level of one look, and `look`: the seeds it was made at.

    `look` is 0, and every verdict `unresolved`, before all arms have the seeds of the first look.
    `frame` and `evaluation` are as for `compare`; a row counts as asked for though its metric is
    missing, unless it has a column `done` that says that its run has not ended.

    Raises:
        ValueError: as for `compare`.
    """
    from ablations.stats.effects import compare

    table, _ = looked(frame, baseline, metric, lower_is_better, evaluation)
    if table is None:
        table = compare(
            frame, baseline, metric, lower_is_better=lower_is_better, evaluation=evaluation
        )
        table.loc[table.arm != baseline, "verdict"] = "unresolved"
        table["look"] = 0
    return table


def looked(
    frame: "pd.DataFrame",
    baseline: str,
    metric: str = "val_bpb",
    lower_is_better: bool = True,
    evaluation: Mapping[str, float] | None = None,
) -> "tuple[pd.DataFrame | None, dict[str, int]]":
    """`verdicts`, None before the first look, and how many seeds each arm shall have next, in the
    order of first rows; none when finished.

    `frame` is as for `verdicts`, with a row for each arm at least. Only unresolved arms, and with
    them the baseline, get more.
    """
    import pandas as pd  # as the constants above need none, options are read without it

    from ablations.stats.effects import compare

    arms = list(frame.arm.unique())
    seeds = sorted(frame.seed.unique())
    done = frame.done if "done" in frame else pd.Series(True, frame.index)
    resolved: dict[str, int] = {}
    table: pd.DataFrame | None = None
    for look, alpha in zip(LOOKS, ALPHAS, strict=True):
        going = [arm for arm in arms if arm not in resolved]
        limit = {arm: set(seeds[: resolved.get(arm, look)]) for arm in arms}
        used = [seed in limit[arm] for arm, seed in zip(frame.arm, frame.seed, strict=True)]
        seen = frame[used]
        asked = done[used].groupby(seen.arm).sum().reindex(arms, fill_value=0)
        if any(asked[arm] < look for arm in going):
            return table, dict.fromkeys(going, look)
        found = compare(
            seen,
            baseline,
            metric,
            lower_is_better=lower_is_better,
            level=1 - alpha,
            evaluation=evaluation,
        )
        found["look"] = look
        if table is not None:
            kept = found.arm.isin(resolved)
            found = pd.concat([found[~kept], table[table.arm.isin(resolved)]])
            found = found.set_index("arm").loc[arms].reset_index()
        table = found
        for arm in table.arm[table.verdict.isin(["better", "worse"])]:
            resolved.setdefault(arm, look)
        if all(arm in resolved for arm in arms if arm != baseline):
            break
    return table, {}
