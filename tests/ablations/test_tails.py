"""Tails of distributions are those of `scipy.stats`, bit for bit."""

import numpy as np
import pytest
from scipy import stats

from ablations.stats import tails

CHANCE = np.random.default_rng(0).uniform(1e-9, 1, 500)
VALUE = np.random.default_rng(1).normal(scale=4, size=500)
DF, MORE = np.random.default_rng(2).uniform(0.5, 90, (2, 500))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (tails.norm_isf(CHANCE), stats.norm.isf(CHANCE)),
        (tails.t_isf(CHANCE, DF), stats.t.isf(CHANCE, DF)),
        (tails.t_sf(VALUE, DF), stats.t.sf(VALUE, DF)),
        (tails.f_sf(abs(VALUE), DF, MORE), stats.f.sf(abs(VALUE), DF, MORE)),
        (tails.chi2_ppf(CHANCE, DF), stats.chi2.ppf(CHANCE, DF)),
        (tails.chi2_isf(CHANCE, DF), stats.chi2.isf(CHANCE, DF)),
        (tails.chi2_pdf(abs(VALUE), DF), stats.chi2.pdf(abs(VALUE), DF)),
        (tails.t_isf(0.025, np.inf), stats.t.isf(0.025, np.inf)),
        (tails.t_sf([2.0, 1.0], [np.nan, 0.0]), [np.nan, np.nan]),
    ],
)
def test_they_are_the_same(ours: object, theirs: object) -> None:
    np.testing.assert_array_equal(ours, theirs)
