"""The error that held-out text gives a difference: against the bootstrap, and in verdicts."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ablations.stats.best import indistinguishable
from ablations.stats.block import arm_means
from ablations.stats.effects import compare
from ablations.stats.evaluation import standard_error, widened
from ablations.stats.front import pareto
from ablations.stats.sequential import verdicts

DRAW = np.random.default_rng(0)
SEEDS, WINDOWS = 4, 400


def windows(n: int = WINDOWS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two arms' nats and the bytes of text of n windows: hard windows are hard for both."""
    text = DRAW.uniform(300, 500, n)
    hard = text * DRAW.normal(1.4, 0.2, n)
    return hard * DRAW.normal(1.01, 0.02, n), hard * DRAW.normal(1.0, 0.02, n), np.log(2) * text


def test_it_is_the_bootstraps_of_a_ratio() -> None:
    ours, theirs, units = windows()
    found = standard_error(ours, theirs, units)

    def difference(a: np.ndarray, b: np.ndarray, u: np.ndarray, axis: int) -> np.ndarray:
        return (a - b).sum(axis) / u.sum(axis)

    again = stats.bootstrap(
        (ours, theirs, units), difference, paired=True, vectorized=True, rng=1, n_resamples=4000
    )
    assert found == pytest.approx(again.standard_error, rel=0.05)


def test_with_equal_units_it_is_the_paired_t_tests() -> None:
    ours, theirs, _ = windows()
    paired = stats.ttest_rel(ours / 128, theirs / 128)
    expected = (ours - theirs).mean() / 128 / paired.statistic
    found = standard_error(ours, theirs, np.full(WINDOWS, 128.0))
    assert found == pytest.approx(expected)
    assert np.isnan(standard_error(ours[:1], theirs[:1], np.ones(1))), "one window shows nothing"


def test_intervals_cover_what_all_text_would_say() -> None:
    """Of two arms whose windows and seeds are drawn anew: 95% of the intervals hold the difference,
    and far fewer of those that know the seeds alone."""
    draw, covered = np.random.default_rng(2), {True: 0, False: 0}
    tables, truth = 150, 0.02
    for _ in range(tables):
        by_window = draw.normal(0, 0.2, (2, 1, 200))  # what each arm makes of each window
        by_seed = draw.normal(0, 0.004, (2, SEEDS, 1))
        losses = 3.0 + by_window + by_seed
        losses[1] += truth
        frame, means = frame_of(losses.mean(2)), losses.mean(1)
        error = standard_error(means[1], means[0], np.ones(200))
        for known in (True, False):
            row = compare(frame, "arm 0", evaluation={"arm 1": error} if known else None).iloc[1]
            covered[known] += row.ci_low < truth < row.ci_high
    assert 0.93 < covered[True] / tables < 1.0
    assert covered[False] / tables < 0.6, "else this shows nothing"


def frame_of(values: np.ndarray) -> pd.DataFrame:
    cells = [
        {"arm": f"arm {k}", "seed": seed, "val_bpb": value}
        for k, row in enumerate(values)
        for seed, value in enumerate(row)
    ]
    return pd.DataFrame(cells)


def test_verdicts_and_p_go_with_intervals() -> None:
    values = 1.0 + DRAW.normal(0, 0.001, (3, 4)) + np.array([[0.0], [0.02], [0.02]])
    frame = frame_of(values)
    plain = compare(frame, "arm 0").set_index("arm")
    known = compare(frame, "arm 0", evaluation={"arm 1": 0.02}).set_index("arm")
    assert list(plain.verdict) == ["baseline", "worse", "worse"]
    assert list(known.verdict) == ["baseline", "unresolved", "worse"]
    assert known.p_adjusted["arm 1"] > 0.05 > plain.p_adjusted["arm 1"]
    assert known.mdd["arm 1"] > 2 * plain.mdd["arm 1"]
    pd.testing.assert_series_equal(known.loc["arm 2"], plain.loc["arm 2"])
    assert list(verdicts(frame, "arm 0", evaluation={"arm 1": 0.02}).verdict) == list(known.verdict)


def test_nothing_known_changes_nothing() -> None:
    half = np.array([0.1, 0.2])
    np.testing.assert_array_equal(widened(half, np.full(2, np.nan), 0.95), half)
    frame = frame_of(DRAW.normal(size=(3, 4)))
    pd.testing.assert_frame_equal(compare(frame, "arm 0", evaluation={}), compare(frame, "arm 0"))


def test_arms_that_may_be_the_best_are_so_on_other_text_too() -> None:
    draw = np.random.default_rng(4)
    values = 1.0 + draw.normal(0, 0.001, (3, 4)) + np.array([[0.0], [0.02], [0.04]])
    frame = frame_of(values)
    errors = {"arm 0": {"arm 1": 0.02}, "arm 1": {"arm 0": 0.02}}
    held = indistinguishable(frame, evaluation=lambda arm: errors.get(arm, {}))
    assert list(indistinguishable(frame)) == ["arm 0"]
    assert list(held) == ["arm 0", "arm 1"], "of arm 2 no error is known"


def test_the_truly_best_arm_is_left_out_in_at_most_five_percent_of_tables() -> None:
    """Of three equal arms whose windows and seeds are drawn anew."""
    draw, tables = np.random.default_rng(3), 200
    left_out = {True: 0, False: 0}
    for _ in range(tables):
        losses = 3.0 + draw.normal(0, 0.2, (3, 1, 200)) + draw.normal(0, 0.004, (3, SEEDS, 1))
        frame, means = frame_of(losses.mean(2)), losses.mean(1)

        def errors(arm: str, means: np.ndarray = means) -> dict[str, float]:
            base = means[int(arm[-1])]
            return {f"arm {k}": standard_error(m, base, np.ones(200)) for k, m in enumerate(means)}

        for known in (True, False):
            found = indistinguishable(frame, evaluation=errors if known else None)
            left_out[known] += "arm 0" not in found.level
    assert left_out[True] / tables < 0.08  # 5% and two standard deviations
    assert left_out[False] / tables > 0.3, "else this shows nothing"


def drawn(
    draw: np.random.Generator, arms: int, gap: float = 0.0
) -> tuple[pd.DataFrame, np.ndarray]:
    """Arms whose windows and seeds are drawn anew, each `gap` worse than the one before: their
    values, and what each window came to (A, W). Hard windows are hard for all arms."""
    hard = draw.normal(0, 0.3, (1, 1, 200))
    losses = 3.0 + gap * np.arange(arms)[:, None, None] + hard
    losses = losses + draw.normal(0, 0.1, (arms, 1, 200)) + draw.normal(0, 0.004, (arms, SEEDS, 1))
    return frame_of(losses.mean(2)), losses.mean(1)


def test_the_interval_of_a_single_mean_holds_what_all_text_would_say() -> None:
    """And the other one does not, since hard text moves all arms together."""
    draw, covered, tables = np.random.default_rng(5), {"text": 0, "ci": 0}, 300
    for _ in range(tables):
        frame, means = drawn(draw, 3)
        own = {f"arm {k}": standard_error(m, 0 * m, np.ones(200)) for k, m in enumerate(means)}
        row = arm_means(frame, evaluation=own).iloc[1]
        for name in covered:
            covered[name] += row[f"{name}_low"] < 3.0 < row[f"{name}_high"]
    assert 0.92 < covered["text"] / tables <= 1.0
    assert covered["ci"] / tables < 0.6, "else this shows nothing"


def test_a_mean_whose_windows_are_not_known_has_no_interval_on_other_text() -> None:
    frame, _ = drawn(np.random.default_rng(6), 3)
    rows = arm_means(frame, evaluation={"arm 1": 0.01}).set_index("arm")
    assert rows.text_low.notna().to_list() == [False, True, False]
    plain = arm_means(frame).set_index("arm")
    pd.testing.assert_frame_equal(rows[["ci_low", "ci_high"]], plain[["ci_low", "ci_high"]])


def test_a_front_has_few_false_verdicts_on_other_text() -> None:
    """Of arms that all text makes equal: only the cheapest may be on the front, as nothing is as
    cheap; any other verdict comes from these windows alone."""
    draw, wrong, tables = np.random.default_rng(7), {True: 0, False: 0}, 200
    for _ in range(tables):
        frame, means = drawn(draw, 4)
        frame["cost"] = frame.arm.str[-1].astype(float)

        def errors(arm: str, means: np.ndarray = means) -> dict[str, float]:
            base = means[int(arm[-1])]
            return {f"arm {k}": standard_error(m, base, np.ones(200)) for k, m in enumerate(means)}

        for known in (True, False):
            held = {"val_bpb": errors} if known else None
            rows = pareto(frame, {"val_bpb": True, "cost": True}, exact=["cost"], evaluation=held)
            wrong[known] += set(rows.verdict[1:]) != {"unresolved"}
    assert wrong[True] / tables < 0.08  # 5% and two standard deviations
    assert wrong[False] / tables > 0.3, "else this shows nothing"


def test_a_front_still_finds_what_is_far_apart() -> None:
    frame, means = drawn(np.random.default_rng(8), 3, gap=0.2)
    frame["cost"] = frame.arm.str[-1].astype(float)

    def errors(arm: str) -> dict[str, float]:
        base = means[int(arm[-1])]
        return {f"arm {k}": standard_error(m, base, np.ones(200)) for k, m in enumerate(means)}

    rows = pareto(
        frame, {"val_bpb": True, "cost": True}, exact=["cost"], evaluation={"val_bpb": errors}
    )
    assert list(rows.verdict) == ["front", "dominated", "dominated"]
