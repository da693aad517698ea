"""The rules that ours is compared with are what their names say."""

import numpy as np
import pytest
from scipy.stats import permutation_test, ttest_rel

from benchmarks.verdicts import RULES, over_own, over_pooled


@pytest.fixture
def pairs() -> np.ndarray:
    """60 tables of two arms × 8 seeds, some of them apart."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((60, 2, 8)) + 3 * rng.standard_normal((60, 1, 8))
    values[:, 1] += np.linspace(0, 3, 60)[:, None]
    return values


def test_of_two_arms_every_statistic_is_the_paired_t(pairs: np.ndarray) -> None:
    expected = np.abs(ttest_rel(pairs[:, 1], pairs[:, 0], axis=1).statistic)
    assert over_pooled(pairs)[:, 0] == pytest.approx(expected)
    assert over_own(pairs)[:, 0] == pytest.approx(expected)
    p = ttest_rel(pairs[:, 1], pairs[:, 0], axis=1).pvalue
    for name in ("ours", "pooled"):
        assert (RULES[name](pairs, np.random.default_rng(0), 0)[:, 0] == (p <= 0.05)).all()


def test_permutations_are_scipys(pairs: np.ndarray) -> None:
    p = [
        permutation_test(
            (table[1], table[0]),
            lambda a, b: abs(np.mean(a - b)),
            permutation_type="samples",
            alternative="greater",
        ).pvalue
        for table in pairs
    ]  # all 256 of them
    found = RULES["permutations, pooled"](pairs, np.random.default_rng(1), 1999)[:, 0]
    clear = np.abs(np.array(p) - 0.05) > 0.02
    assert clear.sum() > 40
    assert (found == (np.array(p) <= 0.05))[clear].all()


@pytest.mark.parametrize("name", [name for name in RULES if "bootstrap" in name])
def test_bootstraps_find_what_is_large_and_nothing_in_its_absence(name: str) -> None:
    rng = np.random.default_rng(2)
    equal = rng.standard_normal((300, 5, 8))
    assert RULES[name](equal, rng, 199).any(-1).mean() < 0.12
    assert RULES[name](equal + np.array([0, 4, 0, 0, 0])[:, None], rng, 199)[:, 0].mean() > 0.9
