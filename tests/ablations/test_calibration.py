"""`ablations.stats.calibration`: the spreads it fits and the rates it counts."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from ablations.stats.block import Spread, spreads
from ablations.stats.calibration import (
    Rate,
    _draw,
    aa_test,
    power,
    sequential_aa_test,
    unequal,
    ways,
)
from reports.views.calibration import aa_files, real_checks
from reports.weigh.table import Panel, Report


def test_the_bounds_are_clopper_and_pearsons() -> None:
    assert Rate(7, 100).upper == pytest.approx(stats.beta.ppf(0.95, 8, 93))
    expected = stats.beta.ppf(0.025, 7, 94), stats.beta.ppf(0.975, 8, 93)
    assert Rate(7, 100).interval == pytest.approx(expected)


def test_the_spreads_of_a_large_table_are_found() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 3, 400) + rng.normal(0, 0.5, (6, 400))
    frame = pd.DataFrame(values).stack().rename_axis(["arm", "seed"]).reset_index(name="val_bpb")
    found = spreads(frame)
    assert found.residual == pytest.approx(0.5, rel=0.1)
    assert found.seed == pytest.approx(3, rel=0.15)


def test_equal_arms_have_false_verdicts_in_at_most_five_per_cent_of_tables() -> None:
    """At twelve arms and six seeds, as calibrated: the upper bound of 10,000 tables."""
    result = aa_test(Spread(0.02, 0.012), arms=12, seeds=6)
    assert 0 < result.upper <= 0.05, result
    pooled = aa_test(Spread(0.02, 0.012), arms=12, seeds=6, pooled=True)
    assert stats.binomtest(pooled.count, pooled.tables, 0.05).pvalue > 0.001, pooled


def test_looking_thrice_keeps_the_five_per_cent() -> None:
    result = sequential_aa_test(Spread(0.02, 0.012), arms=12)
    assert 0 < result.upper <= 0.05, result


@pytest.mark.parametrize("seeds", [3, 10])
def test_the_power_of_two_arms_is_the_paired_t_tests(seeds: int) -> None:
    rows = power(tables=10, designs=[(2, seeds)])
    for row in rows.to_dict("records"):
        reference = TTestPower().power(row["effect"] / np.sqrt(2), seeds, 0.05)
        assert row["computed"] == pytest.approx(reference, abs=0.01)


def test_ten_arms_and_three_seeds_take_what_is_said_of_them() -> None:
    (row,) = ways([(10, 3)]).to_dict("records")
    paired = TTestPower().solve_power(nobs=3, alpha=0.005, power=0.8)
    assert row["paired_t"] == pytest.approx(14.1, abs=0.05)
    assert row["paired"] == pytest.approx(paired, rel=1e-3)
    assert row["paired"] == pytest.approx(10.4, abs=0.05)
    assert row["pooled"] == pytest.approx(2.24, abs=0.02)
    assert row["pooled"] < row["rule"] < row["paired"]


def aa_report(values: np.ndarray) -> Report:
    arms = [f"a{arm:02}" for arm in range(len(values))]
    frame = pd.DataFrame(values, arms).stack().rename_axis(["arm", "seed"])
    frame = frame.reset_index(name="val_bpb")
    panel = Panel("", None, "a00", frame, ())
    return Report(Path(), "aa_test", "Equal arms.", "val_bpb", (panel,), frame, equal_arms=True)


def test_a_table_of_equal_arms_leaves_its_calibration_and_the_same_again() -> None:
    values = _draw(Spread(0.02, 0.01), 12, 6, 1, 3)[0]
    files = aa_files(aa_report(values), tables=200)
    assert files == aa_files(aa_report(values), tables=200)
    rates = pd.read_csv(io.BytesIO(files["calibration.csv"]))
    assert list(rates.seeds) == ["6", "4, 6, 10"]
    assert (rates.rule < rates.upper).all()
    spread = pd.read_csv(io.BytesIO(files["spread.csv"])).iloc[0]
    assert spread.residual == pytest.approx(0.01, rel=0.3)
    checks = pd.read_csv(io.BytesIO(files["checks.csv"])).set_index("check")
    assert checks.value["verdicts"] == "0 of 11"
    left = values - values.mean(0) - values.mean(1)[:, None] + values.mean()
    assert checks.p["errors are normal"] == pytest.approx(stats.shapiro(left).pvalue)


def test_an_outlier_and_a_loud_arm_are_told() -> None:
    values = _draw(Spread(0.02, 0.01), 12, 6, 1, 3)[0]
    values[4, 2] += 0.2
    checks = {row["check"]: row for row in real_checks(*_one(aa_report(values)))}
    assert checks["outliers"]["value"] == "a04 seed 2"
    assert checks["equal standard deviations"]["value"] == "noisier: a04"
    assert checks["errors are normal"]["p"] < 0.001


def _one(report: Report) -> "tuple[Panel, pd.DataFrame]":
    return report.panels[0], report.cells.rename(columns={"val_bpb": "value"})


def test_one_seed_leaves_nothing_to_calibrate_with() -> None:
    files = aa_files(aa_report(np.arange(3.0)[:, None]))
    assert list(files) == ["calibration.md"]
    assert b"train another seed" in files["calibration.md"]


def test_planted_effects_are_found_as_often_as_computed() -> None:
    rows = power(tables=2000, designs=[(6, 5), (4, 3)])
    for row in rows.to_dict("records"):
        hits = round(row["found"] * 2000)
        assert stats.binomtest(hits, 2000, row["computed"]).pvalue > 0.001, row
        assert row["found"] <= row["pooled"], row


@pytest.mark.slow
def test_no_pattern_of_spread_makes_more_false_verdicts_than_five_per_cent() -> None:
    rows = unequal(tables=2000, designs=[(10, 3), (4, 5)])
    for row in rows.to_dict("records"):
        false = round(row["rule"] * 2000)
        assert stats.binomtest(false, 2000, 0.05, "greater").pvalue > 0.001, row
    fixed = rows.dropna(subset="pooled")
    assert (fixed.rule <= fixed.pooled).all()
    assert fixed.pooled.max() > 0.25
