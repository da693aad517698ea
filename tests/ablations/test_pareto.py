"""`ablations.stats.front`: verdicts about fronts, against enumeration, known cases and chance."""

import numpy as np
import optuna
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from ablations.stats.front import pareto


def frame_of(quality: np.ndarray, costs: np.ndarray) -> pd.DataFrame:
    """Quality (A, S) and cost (A,), a row for each arm and seed."""
    arms, seeds = quality.shape
    return pd.DataFrame(
        [(f"a{i:02}", s, quality[i, s], costs[i]) for i in range(arms) for s in range(seeds)],
        columns=["arm", "seed", "quality", "cost"],
    )


points = st.tuples(st.integers(0, 5).map(float), st.integers(0, 5).map(float))


@given(st.lists(points, min_size=2, max_size=10))
def test_of_exact_objectives_it_is_the_front_that_optuna_finds(
    found: list[tuple[float, float]],
) -> None:
    study = optuna.create_study(directions=["minimize", "maximize"])
    for values in found:
        trial = optuna.create_trial(values=list(values), params={}, distributions={})
        study.add_trial(trial)
    best = {f"a{trial.number:02}" for trial in study.best_trials}
    array = np.array(found)
    frame = frame_of(array[:, :1], array[:, 1])
    rows = pareto(frame, {"quality": True, "cost": False}, exact=["quality", "cost"])
    assert set(rows.arm[rows.verdict == "front"]) == best
    assert set(rows.verdict) <= {"front", "dominated"}


def test_two_arms_are_a_paired_t_test() -> None:
    """The dearer arm is dominated at 5% exactly where the two-sided paired test says so."""
    draw = np.random.default_rng(3)
    seen = set()
    for shift in np.linspace(-3, 3, 41):
        quality = draw.normal(size=(2, 4)) + np.array([[0.0], [shift]])
        row = pareto(
            frame_of(quality, np.array([1.0, 2.0])), {"quality": True, "cost": True}, exact=["cost"]
        )
        said = row.set_index("arm").verdict["a01"]
        test = ttest_rel(quality[1], quality[0])
        expected = "unresolved"
        if test.pvalue < 0.05:
            expected = "dominated" if test.statistic > 0 else "front"
        assert said == expected
        low, high = test.confidence_interval()
        assert row.ci_low[1] == pytest.approx(low)
        assert row.ci_high[1] == pytest.approx(high)
        seen.add(said)
    assert seen == {"front", "dominated", "unresolved"}


def test_large_differences_give_the_front_of_the_truth() -> None:
    truth = np.array([5.0, 4.0, 4.5, 3.0, 3.5, 1.0])
    noise = np.random.default_rng(0).normal(0, 0.01, size=(6, 4))
    frame = frame_of(truth[:, None] + noise, np.arange(6.0))
    rows = pareto(frame, {"quality": True, "cost": True}, exact=["cost"])
    assert list(rows.verdict) == ["front", "front", "dominated", "front", "dominated", "front"]
    assert list(rows.rival[[2, 4]]) == ["a01", "a03"]
    assert (rows.ci_low[[2, 4]] > 0).all()
    assert (rows.ci_high[[1, 3, 5]] < 0).all()
    assert rows.ci_low.isna()[0], "the cheapest has no rival"


def test_an_arm_that_is_no_better_than_a_cheaper_one_is_unresolved_and_not_dominated() -> None:
    """A front of dots would drop it."""
    quality = np.array([[1.0, 1.1, 0.9, 1.0], [1.01, 1.1, 0.92, 0.99]])
    rows = pareto(
        frame_of(quality, np.array([1.0, 2.0])), {"quality": True, "cost": True}, exact=["cost"]
    )
    assert list(rows.verdict) == ["front", "unresolved"]


def test_one_seed_resolves_nothing_of_what_is_measured() -> None:
    frame = frame_of(np.array([[1.0], [9.0], [2.0]]), np.arange(3.0))
    rows = pareto(frame, {"quality": True, "cost": True}, exact=["cost"])
    assert list(rows.verdict) == ["front", "unresolved", "unresolved"]
    assert rows.ci_low.isna().all()


def test_several_measured_objectives_must_all_be_worse() -> None:
    draw = np.random.default_rng(1)
    means = {"a": (1.0, 1.0), "b": (2.0, 2.0), "c": (0.0, 3.0), "d": (1.0, 2.0)}
    rows = [
        (arm, seed, *(mean + draw.normal(0, 0.01) for mean in values))
        for arm, values in means.items()
        for seed in range(4)
    ]
    frame = pd.DataFrame(rows, columns=["arm", "seed", "x", "y"])
    found = pareto(frame, {"x": True, "y": True}).set_index("arm")
    assert found.verdict["a"] == found.verdict["c"] == "front"
    assert found.verdict["b"] == "dominated"
    assert found.verdict["d"] == "unresolved", "worse in one, and level in the other"
    assert found["diff"].isna().all()


def test_an_objective_that_varies_is_not_exact() -> None:
    frame = frame_of(np.array([[1.0, 2.0], [3.0, 4.0]]), np.arange(2.0))
    with pytest.raises(ValueError, match="quality must be the same with every seed"):
        pareto(frame, {"quality": True, "cost": True}, exact=["quality", "cost"])


@pytest.mark.slow
@pytest.mark.parametrize("unequal", [False, True])
def test_of_arms_that_are_equal_a_verdict_is_rare(unequal: bool) -> None:
    """In 400 tables of 6 arms × 4 seeds: at most 5% may have any verdict but the cheapest arm's;
    27 of 400 are the upper 95% point of that."""
    draw = np.random.default_rng(7)
    spread = np.array([1, 1, 1, 1, 1, 4.0 if unequal else 1.0])[:, None]
    wrong = 0
    for _ in range(400):
        quality = draw.normal(size=(6, 4)) * spread + draw.normal(size=4)
        rows = pareto(
            frame_of(quality, np.arange(6.0)), {"quality": True, "cost": True}, exact=["cost"]
        )
        wrong += set(rows.verdict[1:]) != {"unresolved"}
    assert wrong <= 27
