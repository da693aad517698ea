"""`ablations.stats.sequential`: who gets further seeds, and what it costs in false verdicts."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ablations.stats.effects import compare
from ablations.stats.sequential import ALPHAS, LOOKS, looked, verdicts


def table(seeds: dict[str, int], rng: int = 0, **effects: float) -> pd.DataFrame:
    errors = np.random.default_rng(rng).normal(size=(len(seeds), max(LOOKS)))
    rows = [
        (arm, seed, 5 + seed / 3 + effects.get(arm, 0) + errors[row, seed])
        for row, (arm, n) in enumerate(seeds.items())
        for seed in range(n)
    ]
    return pd.DataFrame(rows, columns=["arm", "seed", "val_bpb"])


def test_every_arm_gets_the_seeds_of_the_first_look() -> None:
    assert looked(table({"base": 1, "a": 4}), "base")[1] == {"base": 4, "a": 4}
    early = verdicts(table({"base": 3, "a": 3}, a=-99), "base")
    assert list(early.verdict) == ["baseline", "unresolved"]


def test_only_unresolved_arms_and_the_baseline_get_more() -> None:
    frame = table({"base": 4, "a": 4, "far": 4}, far=-50)
    assert looked(frame, "base")[1] == {"base": 6, "a": 6}
    more = table({"base": 6, "a": 6, "far": 4}, far=-50)
    assert looked(more, "base")[1] == {"base": 10, "a": 10}
    last = table({"base": 10, "a": 10, "far": 4}, far=-50)
    assert looked(last, "base")[1] == {}
    rows = verdicts(last, "base").set_index("arm")
    assert rows.verdict["far"] == "better"
    assert rows.look.to_dict() == {"base": 10, "a": 10, "far": 4}


def test_a_verdict_and_its_numbers_stay_and_surplus_seeds_change_nothing() -> None:
    first = verdicts(table({"base": 4, "a": 4, "far": 4}, far=-50), "base").set_index("arm")
    last = verdicts(table({"base": 10, "a": 10, "far": 4}, far=-50), "base").set_index("arm")
    more = verdicts(table({"base": 10, "a": 10, "far": 10}, far=-50), "base").set_index("arm")
    pd.testing.assert_series_equal(first.loc["far"], last.loc["far"])
    pd.testing.assert_frame_equal(last, more)


def test_a_look_compares_at_its_own_level() -> None:
    frame = table({"base": 4, "a": 4, "b": 4})
    reference = compare(frame, "base", level=1 - ALPHAS[0])
    pd.testing.assert_frame_equal(verdicts(frame, "base").drop(columns="look"), reference)


def test_the_looks_spend_five_per_cent_as_o_brien_and_fleming_would() -> None:
    """Two-sided: 2.5% on each side, by the function of Lan and DeMets (1983)."""
    information = np.array(LOOKS) / max(LOOKS)
    spent = 4 * stats.norm.sf(stats.norm.isf(0.05 / 4) / np.sqrt(information))
    ratio = np.minimum.outer(information, information) / np.maximum.outer(information, information)
    bounds = stats.norm.isf(np.array(ALPHAS) / 2)
    for look in range(1, len(LOOKS) + 1):
        paths = stats.multivariate_normal(
            cov=np.sqrt(ratio)[:look, :look], seed=0, maxpts=1_000_000, abseps=1e-7
        )
        never = paths.cdf(bounds[:look], lower_limit=-bounds[:look])
        assert 1 - never == pytest.approx(spent[look - 1], rel=1e-3)
    assert spent[-1] == pytest.approx(0.05)


def test_five_seeds_are_looked_at_as_four_and_a_diverged_run_was_asked_for() -> None:
    five = table({"base": 5, "a": 5})
    pd.testing.assert_frame_equal(
        verdicts(five, "base"), verdicts(table({"base": 4, "a": 4}), "base")
    )
    five.loc[6, "val_bpb"] = np.nan
    rows = verdicts(five, "base").set_index("arm")
    assert (rows.n["a"], rows.of["a"]) == (3, 4)
    assert looked(five, "base")[1] == {"base": 6, "a": 6}
