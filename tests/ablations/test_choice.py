"""Which arm to take: probabilities and regrets against direct calculations."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from ablations.stats.block import cells_of, fit_of
from ablations.stats.choice import RATIOS, _Model, choose

DEPTHS = (2, 3, 5, 7, 9, 13)
AT = {str(depth): math.log(depth) for depth in DEPTHS}
WIDE = 1e6
"""The variance of what has a flat prior, if that of the error is 1."""


def table(values: np.ndarray) -> pd.DataFrame:
    """A row for each arm and seed."""
    rows = [
        (str(depth), seed, value)
        for depth, row in zip(DEPTHS, values, strict=True)
        for seed, value in enumerate(row)
        if not np.isnan(value)
    ]
    return pd.DataFrame(rows, columns=["arm", "seed", "val_bpb"])


def valley(rng: np.random.Generator, seeds: int = 3, at: float = 1.6) -> np.ndarray:
    logs = np.log(np.array(DEPTHS, dtype=float))
    truth = 1.7 + 0.02 * (logs - at) ** 2
    return truth[:, None] + rng.normal(0, 0.02, seeds) + rng.normal(0, 0.005, (len(logs), seeds))


@pytest.mark.parametrize("missing", [(), ((0, 1), (4, 2))])
def test_posteriors_are_those_of_the_normal_distribution_of_all_runs(
    missing: tuple[tuple[int, int], ...],
) -> None:
    """With wide priors instead of flat ones, by conditioning runs on runs."""
    values = valley(np.random.default_rng(1))
    for cell in missing:
        values[cell] = np.nan
    frame = table(values)
    cells = cells_of(frame, "val_bpb")
    fit, at = fit_of(cells), np.array([AT[arm] for arm in cells.index])
    model = _Model(fit.effects, fit, at, curve=True)
    arm, seed = np.nonzero(~np.isnan(cells.to_numpy()))
    y = cells.to_numpy()[arm, seed]
    y = y - y.mean()
    x = model.x[: len(at)]
    base = WIDE * sum(np.multiply.outer(x**power, x**power) for power in range(3))
    seeds = WIDE * np.equal.outer(seed, seed)
    logs, references = [], []
    places = list(model.grid())[:: len(RATIOS) + 3]
    assert len(places) > 10
    for place in places:
        log, squares, linear, _ = model.posterior(place, len(model.x))
        of_arms = base + model.prior(*place, len(at))
        whole = of_arms[np.ix_(arm, arm)] + seeds + np.eye(len(y))
        inverse = np.linalg.inv(whole)
        assert squares == pytest.approx(y @ inverse @ y, rel=1e-3)
        expected = of_arms[:, arm] @ inverse @ y
        found = linear[: len(at)] @ fit.effects
        assert found - found.mean() == pytest.approx(expected - expected.mean(), abs=1e-5)
        variance = squares / model.free
        normal = multivariate_normal(np.zeros(len(y)), variance * whole, allow_singular=True)
        # the density at the best variance, and what the flat prior of its logarithm makes of it
        references.append(normal.logpdf(y) + (len(y) - model.free) / 2 * math.log(variance))
        logs.append(log)
    assert np.diff(logs) == pytest.approx(np.diff(references), abs=2e-2)


def test_two_arms_that_differ_by_much_are_no_question_and_by_little_are_one() -> None:
    near = pd.DataFrame({"arm": ["a", "a", "b", "b"], "seed": [0, 1, 0, 1]})
    even = choose(near.assign(val_bpb=[1.0, 2.0, 2.0, 1.0])).arms.set_index("arm")
    assert even.p_best["a"] == pytest.approx(0.5, abs=0.03)
    far = choose(near.assign(val_bpb=[1.0, 1.01, 2.0, 2.02])).arms.set_index("arm")
    assert far.p_best["a"] > 0.9
    assert far.regret["b"] == pytest.approx(1.0, abs=0.2)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), st.floats(-5, 5), st.floats(0.1, 10))
def test_units_and_direction_do_not_matter(
    seed: int, curve: bool, shift: float, scale: float
) -> None:
    frame = table(valley(np.random.default_rng(seed)))
    at = AT if curve else None
    plain = choose(frame, x=at)
    turned = choose(
        frame.assign(val_bpb=shift - scale * frame.val_bpb), x=at, lower_is_better=False
    )
    assert plain.arms.p_best.sum() == pytest.approx(1)
    assert (plain.arms.regret >= 0).all()
    assert (plain.arms.regret_high >= 0).all()
    assert turned.arms.p_best.to_numpy() == pytest.approx(plain.arms.p_best.to_numpy(), abs=0.01)
    regret = scale * plain.arms.regret.to_numpy()
    assert turned.arms.regret.to_numpy() == pytest.approx(regret, rel=0.05, abs=2e-4 * scale)
    effect = -scale * plain.arms.effect.to_numpy()
    assert turned.arms.effect.to_numpy() == pytest.approx(effect, rel=0.05, abs=2e-4 * scale)


def test_a_curve_knows_more_than_the_seeds_alone() -> None:
    frame = table(valley(np.random.default_rng(3)))
    curve, alone = choose(frame, x=AT), choose(frame)
    assert curve.arms.sd.mean() < alone.arms.sd.mean()
    assert alone.best_x is None
    assert curve.best_x is not None
    middle, low, high = curve.best_x
    assert math.log(2) <= low <= middle <= high <= math.log(13)


def test_the_choice_of_held_out_text_counts_as_much_as_seeds() -> None:
    """Without it the bound of the regret says too much; with it, it is kept as it says."""
    rng, kept, bounds = np.random.default_rng(6), {False: 0, True: 0}, {False: 0.0, True: 0.0}
    studies, error = 60, 0.01
    covariance = pd.DataFrame(error**2 * np.eye(len(DEPTHS)), index=[*AT], columns=[*AT])
    logs = np.log(np.array(DEPTHS, dtype=float))
    truth = 0.004 * (logs - 1.6) ** 2
    for _ in range(studies):
        seen = truth + rng.normal(0, error, len(logs))
        frame = table(seen[:, None] + rng.normal(0, 0.002, (len(logs), 3)))
        for known in kept:
            take = choose(frame, evaluation=covariance if known else None).take
            kept[known] += truth[DEPTHS.index(int(take.arm))] - truth.min() <= take.regret_high
            bounds[known] += take.regret_high / studies
    assert kept[False] < 0.8 * studies
    assert kept[True] > 0.9 * studies
    assert bounds[True] > 2 * bounds[False]


def test_what_all_arms_have_in_common_is_no_error_between_them() -> None:
    frame = table(valley(np.random.default_rng(7)))
    alike = pd.DataFrame(np.ones((len(DEPTHS),) * 2), index=[*AT], columns=[*AT])
    plain, common = choose(frame, x=AT), choose(frame, x=AT, evaluation=alike)
    for name in ("regret", "p_best", "sd"):
        there = plain.arms[name].to_numpy()
        assert common.arms[name].to_numpy() == pytest.approx(there, rel=0.1, abs=0.02), name
    assert common.best_x == pytest.approx(plain.best_x, abs=0.1)
    with pytest.raises(ValueError, match="must have every arm, but lacks 3"):
        choose(frame, x=AT, evaluation=alike.drop(index="3", columns="3"))


def test_order_of_rows_changes_nothing() -> None:
    frame = table(valley(np.random.default_rng(4)))
    shuffled = choose(frame.sample(frac=1, random_state=1), x=AT).arms.set_index("arm").sort_index()
    pd.testing.assert_frame_equal(shuffled, choose(frame, x=AT).arms.set_index("arm").sort_index())


def test_what_cannot_be_chosen_among_is_refused() -> None:
    frame = table(valley(np.random.default_rng(5)))
    with pytest.raises(ValueError, match="finite position"):
        choose(frame, x=AT | {"5": math.nan})
    with pytest.raises(ValueError, match="two seeds in common"):
        choose(frame[frame.seed == 0], x=AT)
    apart = frame[(frame.arm < "3") == (frame.seed == 0)]
    with pytest.raises(ValueError, match="linked by common seeds"):
        choose(apart, x=AT)
