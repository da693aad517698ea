"""`ablations.calibration`: the spreads it fits and the error rates it counts."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ablations.calibration import Rate, Spread, aa_test, fitted


def test_the_bound_is_clopper_and_pearsons() -> None:
    assert Rate(7, 100).upper == pytest.approx(stats.beta.ppf(0.95, 8, 93))


def test_the_spreads_of_a_large_table_are_found() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 3, 400) + rng.normal(0, 0.5, (6, 400))
    frame = pd.DataFrame(values).stack().rename_axis(["arm", "seed"]).reset_index(name="val_bpb")
    found = fitted(frame)
    assert found.residual == pytest.approx(0.5, rel=0.1)
    assert found.seed == pytest.approx(3, rel=0.15)


def test_equal_arms_have_false_verdicts_in_at_most_five_per_cent_of_tables() -> None:
    result = aa_test(Spread(0.02, 0.012), arms=6, seeds=5, tables=400)
    assert stats.binomtest(result.count, 400, 0.05, "greater").pvalue > 0.01, result
