"""`ablations.effects`: estimates, intervals and verdicts against references, and by simulation."""

import subprocess
import sys
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import TTestPower

from ablations.stats.best import indistinguishable as indistinguishable_by_three
from ablations.stats.block import arm_means
from ablations.stats.effects import compare as compare_by_three
from ablations.stats.variances import brown_forsythe, equal_spread
from ablations.stats.widths import half_widths

compare = partial(compare_by_three, pooled=True)
indistinguishable = partial(indistinguishable_by_three, pooled=True)
"""Equal spread is assumed, as in the references."""
COLUMNS = ["arm", "n", "mean", "sd", "diff", "ci_low", "ci_high", "p_adjusted", "mdd", "verdict"]
HOLES = [(1, 0), (1, 2), (3, 1), (5, 0), (0, 3)]
"""Cells (arm, seed) that the unbalanced tables lack: in the baseline and in other arms."""


def table(
    arms: int,
    seeds: int,
    *,
    rng: int = 0,
    effects: tuple[float, ...] = (),
    holes: tuple[tuple[int, int], ...] | list[tuple[int, int]] = (),
) -> pd.DataFrame:
    """Normal errors with deviation 0.1 around 2, seeds that differ by more than arms do."""
    errors = np.random.default_rng(rng).normal(scale=0.1, size=(arms, seeds))
    planted = (*effects, *[0.0] * arms)
    rows = [
        (f"a{arm:02}", seed, 2 + seed / 3 + planted[arm] + errors[arm, seed])
        for arm, seed in product(range(arms), range(seeds))
        if (arm, seed) not in holes
    ]
    return pd.DataFrame(rows, columns=["arm", "seed", "val_bpb"])


def ols(frame: pd.DataFrame) -> "smf.ols":
    return smf.ols("val_bpb ~ C(arm) + C(seed)", frame).fit()


def sigma(frame: pd.DataFrame) -> float:
    return float(np.sqrt(ols(frame).mse_resid))


def margins(frame: pd.DataFrame) -> pd.DataFrame:
    """Half widths of the intervals against a00 and the mdd, in pooled standard deviations."""
    rows = compare(frame, "a00").set_index("arm").drop("a00")
    half = (rows.ci_high - rows.ci_low) / 2
    return pd.DataFrame({"half": half, "mdd": rows.mdd}) / sigma(frame)


def two_sided(frame: pd.DataFrame) -> float:
    """The critical value that `compare` used on a complete table."""
    return float(margins(frame).half.iloc[0] / np.sqrt(2 / frame.seed.nunique()))


# Critical values against those of others.


@pytest.mark.parametrize(
    ("contrasts", "seeds", "published"),
    # Two-sided 5% points of Dunnett, Biometrics 20:482 (1964), table II. Degrees of freedom are
    # contrasts × (seeds - 1): 10, 20, 6, 20, 5, 10, 60, 9.
    [
        (2, 6, 2.57),
        (2, 11, 2.38),
        (3, 3, 3.10),
        (4, 6, 2.65),
        (5, 2, 3.62),
        (5, 3, 2.99),
        (6, 11, 2.64),
        (9, 2, 3.32),
    ],
)
def test_two_sided_critical_values_are_those_of_dunnetts_table(
    contrasts: int, seeds: int, published: float
) -> None:
    assert round(two_sided(table(contrasts + 1, seeds)), 2) == published


@pytest.mark.parametrize(
    ("contrasts", "seeds", "published"),
    # One-sided 5% points of Dunnett, JASA 50:1096 (1955), table 1a; df 10, 20, 5, 10, 20.
    [(2, 6, 2.15), (4, 6, 2.30), (5, 2, 2.98), (5, 3, 2.56), (20, 2, 2.87)],
)
def test_arms_are_compared_with_the_best_by_dunnetts_one_sided_values(
    contrasts: int, seeds: int, published: float
) -> None:
    frame = table(contrasts + 1, seeds)
    best = indistinguishable(frame).intervals.iloc[0]
    critical = (best["diff"] - best.ci_low) / sigma(frame) / np.sqrt(2 / seeds)
    assert round(critical, 2) == published


@pytest.mark.parametrize("arms", [3, 5, 8])
def test_the_critical_value_is_scipys_at_equal_degrees_of_freedom(arms: int) -> None:
    """A arms × (A + 1) seeds have as many as A independent groups of A."""
    groups = np.random.default_rng(1).normal(size=(arms, arms))
    reference = stats.dunnett(*groups[1:], control=groups[0], rng=np.random.default_rng(2))
    interval = reference.confidence_interval(0.95)
    half = (interval.high[0] - interval.low[0]) / 2
    error = np.sqrt(groups.var(axis=1, ddof=1).mean() * 2 / arms)
    assert two_sided(table(arms, arms + 1)) == pytest.approx(half / error, rel=3e-3)


@pytest.mark.parametrize("seeds", [2, 3, 12])
def test_two_arms_give_the_paired_t_test(seeds: int) -> None:
    frame = table(2, seeds)
    first, second = (frame.val_bpb[frame.arm == arm].to_numpy() for arm in ("a00", "a01"))
    reference = stats.ttest_rel(second, first)
    row = compare(frame, "a00").iloc[1]
    assert row.p_adjusted == pytest.approx(reference.pvalue, rel=1e-8)
    assert (row.ci_low, row.ci_high) == pytest.approx(reference.confidence_interval(), rel=1e-8)
    wanted = TTestPower().solve_power(nobs=seeds, alpha=0.05, power=0.8)
    assert row.mdd / (second - first).std(ddof=1) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("rng", [0, 1])
def test_a_table_with_missing_cells_agrees_with_ols_and_the_multivariate_t(rng: int) -> None:
    frame = table(6, 4, rng=rng, effects=(0, 0.1, 0.2), holes=HOLES)
    rows, reference = compare(frame, "a00").iloc[1:], ols(frame)
    contrasts = [f"C(arm)[T.{arm}]" for arm in rows.arm]
    assert rows["diff"].to_numpy() == pytest.approx(reference.params[contrasts], rel=1e-8)

    error = reference.bse[contrasts].to_numpy()
    critical = (rows.ci_high - rows["diff"]).to_numpy() / error
    assert critical == pytest.approx(critical[0], rel=1e-8)
    covariance = reference.cov_params().loc[contrasts, contrasts].to_numpy()
    joint = stats.multivariate_t(
        shape=covariance / np.outer(error, error), df=reference.df_resid, seed=0
    )

    def exceeded(value: float) -> float:
        box = np.full(5, value)
        return float(1 - joint.cdf(box, lower_limit=-box, maxpts=50_000))

    assert exceeded(critical[0]) == pytest.approx(0.05, abs=1e-4)
    adjusted = [exceeded(value) for value in np.abs(rows["diff"]) / error]
    assert rows.p_adjusted.to_numpy() == pytest.approx(adjusted, abs=2e-4)


def test_with_missing_cells_each_arm_is_compared_with_the_best_by_its_own_critical_value() -> None:
    frame = table(6, 4, rng=3, holes=HOLES)
    intervals = indistinguishable(frame).intervals.set_index("arm")
    reference = smf.ols("val_bpb ~ 0 + C(arm) + C(seed)", frame).fit()
    arms = [f"C(arm)[{arm}]" for arm in sorted(intervals.index)]
    for row, name in enumerate(sorted(intervals.index)):
        others = np.delete(np.arange(6), row)
        design = np.eye(6)[row] - np.eye(6)[others]
        margin = design @ reference.params[arms].to_numpy()
        covariance = design @ reference.cov_params().loc[arms, arms].to_numpy() @ design.T
        error = np.sqrt(np.diag(covariance))
        # ci_low is the largest of margin - critical × error: the least critical value to reach it.
        critical = ((margin - intervals.ci_low[name]) / error).max()
        joint = stats.multivariate_t(
            shape=covariance / np.outer(error, error), df=reference.df_resid, seed=0
        )
        assert intervals.ci_low[name] < 0, "else the bound is cut and says nothing"
        assert joint.cdf(np.full(5, critical), maxpts=50_000) == pytest.approx(0.95, abs=2e-4)


def test_means_have_the_interval_of_the_pooled_deviation() -> None:
    frame = table(6, 4, holes=HOLES)
    rows, reference = arm_means(frame), ols(frame)
    groups = frame.groupby("arm").val_bpb
    half = stats.t.isf(0.025, reference.df_resid) * sigma(frame) / np.sqrt(groups.count())
    assert list(rows) == ["arm", "n", "mean", "sd", "ci_low", "ci_high", "text_low", "text_high"]
    assert rows[["text_low", "text_high"]].isna().all(axis=None), "windows were not given"
    assert rows["mean"].to_numpy() == pytest.approx(groups.mean().to_numpy())
    assert rows.sd.to_numpy() == pytest.approx(groups.std().to_numpy())
    assert (rows.ci_high - rows["mean"]).to_numpy() == pytest.approx(half.to_numpy(), rel=1e-8)
    assert (rows["mean"] - rows.ci_low).to_numpy() == pytest.approx(half.to_numpy(), rel=1e-8)


# Error rates, by simulation.


def simulated(frame: pd.DataFrame, effects: np.ndarray, tables: int) -> np.ndarray:
    """Differences to a00 over their pooled deviation, (tables, arms - 1), by plain regression.

    `effects` (arms - 1,) are planted, in true standard deviations.
    """
    arms = pd.get_dummies(frame.arm).to_numpy(float)[:, 1:]
    design = np.column_stack([arms, pd.get_dummies(frame.seed).to_numpy(float)])
    errors = np.random.default_rng(3).normal(size=(len(frame), tables))
    values = (arms @ effects)[:, None] + errors
    solution = np.linalg.pinv(design) @ values
    df = len(frame) - np.linalg.matrix_rank(design)
    deviation = np.sqrt(((values - design @ solution) ** 2).sum(0) / df)
    return np.asarray((solution[: arms.shape[1]] / deviation).T)


DESIGNS = {
    "10 × 3": table(10, 3),
    "3 × 2": table(3, 2),
    "6 × 4 with holes": table(6, 4, holes=HOLES),
    "12 × 6 with holes": table(12, 6, holes=[(arm, arm % 6) for arm in range(0, 12, 2)]),
}


@pytest.mark.parametrize("design", DESIGNS)
def test_five_in_a_hundred_null_tables_have_a_false_verdict(design: str) -> None:
    frame, tables = DESIGNS[design], 20_000
    half = margins(frame).half.to_numpy()
    null = simulated(frame, np.zeros(len(half)), tables)
    false = int((np.abs(null) > half).any(axis=1).sum())
    assert stats.binomtest(false, tables, 0.05).pvalue > 0.001, f"{false} of {tables}"


@pytest.mark.parametrize("design", DESIGNS)
def test_a_difference_as_large_as_the_mdd_is_found_four_times_in_five(design: str) -> None:
    frame, tables = DESIGNS[design], 20_000
    per_sigma = margins(frame)
    found = np.abs(simulated(frame, per_sigma.mdd.to_numpy(), tables)) > per_sigma.half.to_numpy()
    assert found.mean(axis=0) == pytest.approx(0.8, abs=0.012)


def test_ten_arms_and_three_seeds_need_the_pooled_deviation() -> None:
    """In standard deviations of a difference, which are √2 of the errors' deviation.

    One paired t per arm, Bonferroni over ten, needs t = 14.1 and detects 10.4; what it finds of 7.6
    is 58%. The pooled model needs 2.98 and detects 2.24.
    """
    alpha = 0.05 / 10
    assert stats.t.isf(alpha / 2, 2) == pytest.approx(14.1, abs=0.05)
    assert TTestPower().solve_power(nobs=3, alpha=alpha, power=0.8) == pytest.approx(10.4, abs=0.05)
    assert TTestPower().power(7.6, nobs=3, alpha=alpha) == pytest.approx(0.58, abs=0.005)
    frame = table(10, 3)
    assert two_sided(frame) == pytest.approx(2.98, abs=0.005)
    assert margins(frame).mdd.to_numpy() / np.sqrt(2) == pytest.approx(2.24, abs=0.005)


@pytest.mark.slow
@pytest.mark.parametrize("holes", [[], HOLES], ids=["complete", "holes"])
def test_the_truly_best_arm_is_level_with_the_best_as_often_as_promised(
    holes: list[tuple[int, int]],
) -> None:
    """Also where all are equally good, which is the hardest for intervals to the best."""
    tables, kept, covered = (60 if holes else 300), 0, 0
    effects = (0.0, 0.02, 0.0, 0.05, 0.1, 0.3)
    to_best = [
        effect - min(effects[:arm] + effects[arm + 1 :]) for arm, effect in enumerate(effects)
    ]
    for rng in range(tables):
        result = indistinguishable(table(6, 4, rng=rng, effects=effects, holes=holes))
        rows = result.intervals.sort_values("arm")
        kept += "a00" in result.level
        covered += bool(((rows.ci_low <= to_best) & (to_best <= rows.ci_high)).all())
    assert stats.binomtest(kept, tables, 0.95, "less").pvalue > 0.001, kept
    assert stats.binomtest(covered, tables, 0.95, "less").pvalue > 0.001, covered


def test_an_arm_that_is_clearly_best_stands_alone() -> None:
    result = indistinguishable(table(5, 4, effects=(0, 0, -2, 0, -0.9)))
    assert (result.best, result.level) == ("a02", ("a02",))
    assert tuple(result) == result.level
    best, second = result.intervals.iloc[0], result.intervals.iloc[1]
    assert second.arm == "a04"
    assert best["diff"] == pytest.approx(-second["diff"])
    assert best.ci_low < best["diff"] < best.ci_high == 0
    assert 0 == second.ci_low < second["diff"] < second.ci_high


# Spread.


def test_the_statistic_of_spread_is_brown_and_forsythes() -> None:
    groups = np.random.default_rng(0).normal(size=(5, 4)) * np.arange(1, 6)[:, None]
    groups[1, 2] = groups[3, 0] = np.nan
    rows = [row[~np.isnan(row)] for row in groups]
    reference = stats.levene(*rows, center="median").statistic
    assert brown_forsythe(groups) * (18 - 5) / (5 - 1) == pytest.approx(reference)


def test_one_arm_that_spreads_much_more_is_noticed() -> None:
    frame = table(10, 5)
    loud = frame.assign(val_bpb=frame.val_bpb.where(frame.arm != "a04", 100 * frame.val_bpb))
    assert equal_spread(loud) < 0.01 < 0.05 < equal_spread(frame)


def test_too_few_runs_say_nothing_about_spread() -> None:
    assert np.isnan(equal_spread(table(10, 2)))
    assert np.isnan(equal_spread(table(2, 10)))


@pytest.mark.slow
@pytest.mark.parametrize("holes", [[], HOLES], ids=["complete", "holes"])
def test_equal_spread_is_denied_by_chance_as_often_as_promised(
    holes: list[tuple[int, int]],
) -> None:
    p = [equal_spread(table(8, 4, rng=rng, holes=holes)) for rng in range(100)]
    assert stats.kstest(p, "uniform").pvalue > 0.001


@pytest.mark.parametrize("holes", [[], HOLES], ids=["complete", "holes"])
def test_an_arms_spread_is_tested_by_leaving_it_out(holes: list[tuple[int, int]]) -> None:
    frame = table(6, 4, holes=holes)
    rows = compare(frame, "a00").set_index("arm")
    everything, rest = ols(frame), ols(frame[frame.arm != "a02"])
    df = everything.df_resid - rest.df_resid
    ratio = (everything.ssr - rest.ssr) / df / rest.mse_resid
    assert rows.spread_p["a02"] == pytest.approx(stats.f.sf(ratio, df, rest.df_resid))


def by_hand(frame: pd.DataFrame) -> pd.DataFrame:
    """Half widths of the three intervals against a00 in a complete table, from the pairs of arms
    and the multivariate t: variances of arms by Grubbs, JASA 43:243 (1948)."""
    cells = frame.pivot(index="arm", columns="seed", values="val_bpb").to_numpy()
    arms, seeds = cells.shape
    left = cells - cells.mean(0) - cells.mean(1)[:, None] + cells.mean()
    square = (left**2).sum(1) / (seeds - 1)
    own = (square - square.sum() / arms / (arms - 1)) * arms / (arms - 2)
    rest = ols(frame[frame.arm != "a00"]).mse_resid
    df, df_rest = seeds - 1, (arms - 2) * (seeds - 1)
    one = np.full(arms - 1, two_sided(frame) * sigma(frame) * np.sqrt(2 / seeds))
    share = own[0] / (own[0] + rest)
    fewer = (own[0] + rest) ** 2 / (own[0] ** 2 / df + rest**2 / df_rest)
    shape = np.full((arms - 1, arms - 1), share) + (1 - share) * np.eye(arms - 1)
    rng = np.random.default_rng(0)
    normal = rng.multivariate_normal(np.zeros(arms - 1), shape, 400_000)
    largest = np.abs(normal).max(1) / np.sqrt(rng.chisquare(fewer, 400_000) / fewer)
    two = np.full(arms - 1, np.quantile(largest, 0.95) * np.sqrt((own[0] + rest) / seeds))
    own = np.maximum(own, 1e-12)
    both = own[0] + own[1:]
    welch = both**2 / (own[0] ** 2 + own[1:] ** 2) * df
    three = stats.t.isf(0.05 / 4, welch) * np.sqrt(both / seeds)
    return pd.DataFrame({"pooled": one, "baseline": two, "own": three})


@pytest.mark.parametrize("loud", ["a00", "a03", "none"])
def test_an_interval_is_the_widest_of_three(loud: str) -> None:
    frame = table(6, 5, rng=4)
    error = frame.val_bpb - 2 - frame.seed / 3
    frame = frame.assign(val_bpb=frame.val_bpb + 4 * error * (frame.arm == loud))
    rows, reference = compare_by_three(frame, "a00")[1:], by_hand(frame)
    half = ((rows.ci_high - rows.ci_low) / 2).to_numpy()
    assert half == pytest.approx(reference.max(axis=1).to_numpy(), rel=0.01)
    assert list(rows.spread) == list(reference.idxmax(axis=1))


@pytest.mark.parametrize("arms", [2, 3, 6])
def test_many_tables_are_judged_as_each_alone(arms: int) -> None:
    values = np.random.default_rng(0).normal(size=(12, arms, 4))
    values[::2, 0] *= 3
    values[1::2, -1] *= 3
    diff, half = half_widths(values, 0.05)
    for row, each in enumerate(values):
        frame = pd.DataFrame(each, [f"a{arm}" for arm in range(arms)]).stack()
        frame = frame.rename_axis(["arm", "seed"]).reset_index(name="val_bpb")
        rows = compare_by_three(frame, "a0")[1:]
        assert rows["diff"].to_numpy() == pytest.approx(diff[row])
        found = ((rows.ci_high - rows.ci_low) / 2).to_numpy()
        assert found == pytest.approx(half[row], rel=2e-3)


def test_with_two_arms_or_one_spread_to_tell_nothing_is_added() -> None:
    frame = table(2, 4)
    one, three = compare(frame, "a00"), compare_by_three(frame, "a00")
    pd.testing.assert_frame_equal(one, three)


def test_an_arm_or_a_baseline_with_one_run_resolves_nothing() -> None:
    frame = table(5, 3, effects=(0, 9, 9), holes=[(1, 0), (1, 2)])
    rows = compare_by_three(frame, "a00").set_index("arm")
    assert rows.verdict.to_dict() == {
        "a00": "baseline",
        "a01": "unresolved",
        "a02": "worse",
        "a03": "unresolved",
        "a04": "unresolved",
    }
    assert np.isnan(rows.ci_low["a01"])
    assert not np.isnan(rows.ci_low["a03"])
    assert set(compare_by_three(frame, "a01").verdict) == {"baseline", "unresolved"}
    assert "a01" in indistinguishable_by_three(frame).level
    assert "a02" not in indistinguishable_by_three(frame).level


@pytest.mark.parametrize("scales", [(1,), (4,), (1, 4), (4, 4), (10,)])
@pytest.mark.parametrize(("arms", "seeds"), [(4, 3), (10, 5)])
def test_unequal_spread_makes_no_more_false_verdicts(
    scales: tuple[float, ...], arms: int, seeds: int
) -> None:
    """The first arm is the baseline; 5,000 tables of equal arms each."""
    each = np.array([*scales, *[1] * (arms - len(scales))])[:, None]
    values = np.random.default_rng(5).normal(size=(5000, arms, seeds)) * each
    diff, half = half_widths(values, 0.05)
    false = int((np.abs(diff) > half).any(1).sum())
    assert stats.binomtest(false, 5000, 0.05, "greater").pvalue > 0.001, f"{false} of 5000"
    assert false > 0


@pytest.mark.slow
@pytest.mark.parametrize("holes", [[], HOLES], ids=["complete", "holes"])
def test_missing_cells_and_a_loud_baseline_make_no_more_false_verdicts(
    holes: list[tuple[int, int]],
) -> None:
    tables, false, best = 40, 0, 0
    for rng in range(tables):
        frame = table(6, 5, rng=rng, holes=holes)
        error = frame.val_bpb - 2 - frame.seed / 3
        frame = frame.assign(val_bpb=frame.val_bpb + 2 * error * (frame.arm == "a00"))
        false += bool(compare_by_three(frame, "a00").verdict.isin(["better", "worse"]).any())
        best += bool(holes) or "a00" in indistinguishable_by_three(frame).level
    assert stats.binomtest(false, tables, 0.05, "greater").pvalue > 0.001, false
    assert stats.binomtest(best, tables, 0.95, "less").pvalue > 0.001, best


def test_a_difference_as_large_as_the_mdd_of_three_is_found_four_times_in_five() -> None:
    values = np.random.default_rng(6).normal(size=(20_000, 6, 5))
    half = half_widths(values, 0.05)[1]
    frame = table(6, 5)
    rows = compare_by_three(frame, "a00")[1:]
    factor = rows.mdd / (rows.ci_high - rows.ci_low) * 2
    assert factor.to_numpy() == pytest.approx(factor.iloc[0])
    values[:, 1] += factor.iloc[0] * half.mean()
    diff, half = half_widths(values, 0.05)
    assert (np.abs(diff) > half)[:, 0].mean() == pytest.approx(0.8, abs=0.012)


@pytest.mark.parametrize("holes", [[], HOLES], ids=["complete", "holes"])
def test_outliers_are_those_of_statsmodels_and_stay_in_the_table(
    holes: list[tuple[int, int]],
) -> None:
    frame = table(6, 4, rng=2, holes=holes)
    frame.loc[frame.index[-2], "val_bpb"] += 3
    rows = compare_by_three(frame, "a00")
    reference = ols(frame).outlier_test(method="bonf")["bonf(p)"] < 0.05
    flagged = frame[reference.to_numpy()].groupby("arm").seed.agg(lambda s: ", ".join(map(str, s)))
    assert len(flagged)
    assert rows.set_index("arm").outliers.replace("", np.nan).dropna().to_dict() == dict(flagged)
    assert rows.n.sum() == len(frame)


# Verdicts and shape.


def test_there_is_one_row_per_arm_in_the_order_given() -> None:
    frame = table(4, 3, effects=(0, 5, -5))[::-1]
    rows = compare(frame, "a00")
    assert list(rows)[: len(COLUMNS)] == COLUMNS
    assert list(rows.arm) == ["a03", "a02", "a01", "a00"]
    assert list(rows.verdict) == ["unresolved", "better", "worse", "baseline"]
    assert rows.n.tolist() == [3] * 4
    base = rows.iloc[-1]
    assert base["diff"] == 0
    assert base[["ci_low", "ci_high", "p_adjusted", "mdd"]].isna().all()


def test_verdict_interval_and_p_say_the_same() -> None:
    effects = (0, 0.2, 0.35, -0.25, -0.5)
    rows = pd.concat(
        compare_by_three(table(5, 4, rng=rng, effects=effects, holes=[(2, 1)]), "a00")[1:]
        for rng in range(4)
    )
    resolved = rows.verdict != "unresolved"
    assert 0.2 < resolved.mean() < 0.9
    assert resolved.equals((rows.ci_low > 0) | (rows.ci_high < 0))
    # Near 5% the two may part by the error of the quasi-random points.
    clear = (rows.p_adjusted - 0.05).abs() > 1e-4
    assert resolved[clear].equals(rows.p_adjusted[clear] < 0.05)


@settings(max_examples=5)
@given(st.integers(0, 2**32), st.sampled_from([(), ((1, 0), (3, 2))]))
def test_higher_is_better_mirrors_lower_is_better(rng: int, holes: tuple[tuple[int, int]]) -> None:
    frame = table(4, 3, rng=rng, effects=(0, 0.5, -0.5), holes=holes)
    flipped = frame.assign(val_bpb=-frame.val_bpb)
    lower, higher = compare(frame, "a00"), compare(flipped, "a00", lower_is_better=False)
    assert list(lower.verdict) == list(higher.verdict)
    assert lower.ci_low.to_numpy()[1:] == pytest.approx(-higher.ci_high.to_numpy()[1:])
    first, second = indistinguishable(frame), indistinguishable(flipped, lower_is_better=False)
    assert first.level == second.level
    assert first.intervals.ci_low.to_numpy() == pytest.approx(-second.intervals.ci_high.to_numpy())
    assert first.intervals["diff"].to_numpy() == pytest.approx(-second.intervals["diff"].to_numpy())


@settings(max_examples=5)
@given(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3))
def test_what_a_seed_adds_to_all_arms_changes_no_comparison(shifts: list[float]) -> None:
    frame = table(4, 3, holes=[(1, 0)])
    shifted = frame.assign(val_bpb=frame.val_bpb + frame.seed.map(dict(enumerate(shifts))))
    columns = ["diff", "ci_low", "ci_high", "p_adjusted", "mdd"]
    left, right = (compare(each, "a00")[columns].to_numpy() for each in (frame, shifted))
    assert left == pytest.approx(right, rel=1e-6, abs=1e-8, nan_ok=True)


def test_arms_with_the_same_values_are_unresolved_and_a_constant_difference_is_not() -> None:
    frame = pd.concat(
        table(1, 4).assign(arm=arm, val_bpb=lambda each, d=d: each.val_bpb + d)
        for arm, d in (("base", 0.0), ("twin", 0.0), ("lower", -0.1))
    )
    rows = compare(frame, "base")
    assert list(rows.verdict) == ["baseline", "unresolved", "better"]
    assert rows.p_adjusted.tolist()[1:] == [1.0, 0.0]
    assert indistinguishable(frame).level == ("lower",)
    assert indistinguishable(frame[frame.arm != "lower"]).level == ("base", "twin")


@pytest.mark.parametrize("holes", [[], HOLES], ids=["complete", "holes"])
def test_the_same_input_gives_the_same_bytes(holes: list[tuple[int, int]]) -> None:
    frame = table(6, 4, holes=holes)
    shuffled = frame.sample(frac=1, random_state=0)

    def text(frame: pd.DataFrame) -> str:
        rows, best = compare(frame, "a00").sort_values("arm"), indistinguishable(frame)
        return rows.to_csv(index=False) + best.intervals.to_csv() + str(equal_spread(frame))

    assert text(frame) == text(frame) == text(shuffled)


# What is missing, and what is wrong.


@pytest.mark.parametrize("value", [np.nan, None, np.inf])
def test_a_metric_that_is_not_finite_is_a_missing_cell(value: float | None) -> None:
    frame = table(4, 3).astype({"val_bpb": object})
    frame.loc[5, "val_bpb"] = value  # arm a01, seed 2
    rows = compare(frame, "a00")
    assert rows.n.tolist() == [3, 2, 3, 3]
    assert rows.of.tolist() == [3, 3, 3, 3]
    missing = compare(table(4, 3, holes=[(1, 2)]), "a00")
    pd.testing.assert_frame_equal(rows.drop(columns="of"), missing.drop(columns="of"))


def test_one_seed_resolves_nothing() -> None:
    frame = table(4, 1, effects=(0, 5))
    rows = compare(frame, "a00")
    assert list(rows.verdict) == ["baseline"] + ["unresolved"] * 3
    assert rows["diff"].notna().all()
    assert rows[["sd", "ci_low", "ci_high", "p_adjusted", "mdd"]].isna().all(axis=None)
    best = indistinguishable(frame)
    assert sorted(best.level) == ["a00", "a01", "a02", "a03"]
    assert best.level[0] == best.best == rows.arm[rows["mean"].idxmin()]
    assert arm_means(frame)[["ci_low", "ci_high"]].isna().all(axis=None)


def test_an_arm_that_shares_no_seed_is_not_compared() -> None:
    apart = [(2, 0), (2, 1), (2, 2), (2, 3), (0, 4), (1, 4), (3, 4)]
    frame = table(4, 5, holes=apart)
    rows = compare(frame, "a00")
    assert rows.iloc[2][["diff", "ci_low", "p_adjusted"]].isna().all()
    assert rows.verdict[2] == "unresolved"
    linked = ["diff", "ci_low", "ci_high", "p_adjusted", "mdd"]
    alone = compare(frame[frame.arm != "a02"], "a00")
    assert rows.drop(index=2)[linked].to_numpy() == pytest.approx(
        alone[linked].to_numpy(), nan_ok=True
    )
    assert "a02" in indistinguishable(frame).level


def test_an_arm_without_runs_has_a_row_and_no_verdict() -> None:
    frame = table(4, 3)
    frame.loc[frame.arm == "a01", "val_bpb"] = np.nan
    rows = compare(frame, "a00")
    assert (rows.n[1], rows.verdict[1]) == (0, "unresolved")
    assert rows.iloc[1][["mean", "sd", "diff", "ci_low", "mdd"]].isna().all()
    assert rows.ci_low[2:].notna().all()
    assert "a01" not in indistinguishable(frame).level
    assert (compare(frame, "a01").verdict.drop(index=1) == "unresolved").all()


@pytest.mark.filterwarnings("error")
def test_a_table_without_runs_is_all_unresolved() -> None:
    frame = table(3, 2).assign(val_bpb=np.nan)
    assert list(compare(frame, "a00").verdict) == ["baseline", "unresolved", "unresolved"]
    assert arm_means(frame)["mean"].isna().all()
    with pytest.raises(ValueError, match="some run must have a finite val_bpb"):
        indistinguishable(frame)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (table(3, 2).drop(columns="val_bpb"), "lacks val_bpb"),
        (table(3, 2).drop(columns=["arm", "seed"]), "lacks arm, seed"),
        (table(3, 2).replace({"arm": {"a00": "other"}}), "'a00'; choose among a01, a02, other"),
        (pd.concat([table(3, 2)] * 2), "one row per seed, but 'a00' has several for seed 0"),
        (table(1, 5), "at least two arms, but got 1"),
        (table(3, 2).iloc[:0], "at least two arms, but got 0"),
        (table(3, 2).replace({"arm": {"a01": None}}), "must name its arm and seed"),
        (table(3, 2).assign(val_bpb="low"), "low"),
    ],
)
def test_a_frame_that_is_none_is_refused(frame: pd.DataFrame, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(frame, "a00")


def test_statistics_need_no_torch() -> None:
    code = (
        "import sys, ablations.effects; sys.exit(bool({'torch', 'statsmodels'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
