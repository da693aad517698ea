"""Paired comparison against closed forms and statsmodels' clustered least squares."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from study_fixtures import environment

from search.paired import Difference, averages, compare, read, standard_error


def scores(
    values: np.ndarray[Any, Any], groups: list[str], task: str = "piqa", metric: str = "acc"
) -> dict[str, Any]:
    """One task's scores, as the file of an evaluation has them."""
    documents = [
        {"doc": i, "hash": f"h{i}", "group": group, "values": {metric: float(value)}}
        for i, (value, group) in enumerate(zip(values, groups, strict=True))
    ]
    return {"task": task, "source": "package", "split": "validation"} | {
        "values": {metric: float(values.mean())},
        "documents": documents,
    }


def made(seed: int, n: int, n_groups: int) -> tuple[Any, Any, list[str]]:
    """Values of two models, alike within groups, and the groups."""
    rng = np.random.default_rng(seed)
    owner = rng.integers(n_groups, size=n)
    owner[:n_groups] = np.arange(n_groups)
    hardness = rng.standard_normal(n_groups)[owner]
    shift = 0.3 * rng.standard_normal(n_groups)[owner]
    baseline = hardness + 0.2 * rng.standard_normal(n)
    candidate = hardness + shift + 0.2 * rng.standard_normal(n)
    return baseline, candidate, [f"g{i}" for i in owner]


@given(seed=st.integers(0, 999), n_groups=st.integers(2, 30), more=st.integers(0, 80))
def test_clustered_errors_are_those_of_statsmodels(seed: int, n_groups: int, more: int) -> None:
    sm = pytest.importorskip("statsmodels.api")
    baseline, candidate, groups = made(seed, n_groups + more, n_groups)
    differences = candidate - baseline
    # its small-sample factor, G / (G - 1) · (n - 1) / (n - k), is ours for the one mean, k = 1
    fit = sm.OLS(differences, np.ones(len(differences))).fit(
        cov_type="cluster", cov_kwds={"groups": np.unique(groups, return_inverse=True)[1]}
    )
    assert standard_error(differences, groups) == pytest.approx(fit.bse[0], rel=1e-9)
    [row] = compare([scores(baseline, groups)], [scores(candidate, groups)])
    wanted = fit.get_robustcov_results("cluster", groups=groups, use_t=True)
    assert row.p_adjusted == pytest.approx(wanted.pvalues[0], rel=1e-6, abs=1e-12)
    assert (row.ci_low, row.ci_high) == pytest.approx(tuple(wanted.conf_int()[0]), rel=1e-6)


def test_without_groups_it_is_the_paired_t_test() -> None:
    baseline, candidate, _ = made(1, 60, 12)
    own = [str(i) for i in range(60)]
    [row] = compare([scores(baseline, own)], [scores(candidate, own)])
    wanted = stats.ttest_rel(candidate, baseline)
    interval = wanted.confidence_interval(0.95)
    assert row.p_adjusted == pytest.approx(wanted.pvalue)
    assert (row.ci_low, row.ci_high) == pytest.approx((interval.low, interval.high))
    assert (row.n, row.groups) == (60, 60)


def test_copies_of_a_document_teach_nothing_new() -> None:
    values = np.array([0.0, 1, 1, 0, 1, 1])
    once = standard_error(values.tolist(), [str(i) for i in range(6)])
    thrice = standard_error(np.tile(values, 3).tolist(), [str(i) for i in range(6)] * 3)
    assert thrice == pytest.approx(once)
    assert np.isnan(standard_error([1, 2], ["a", "a"]))


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(400):
        baseline, candidate, groups = made(seed, 120, 30)
        [row] = compare([scores(baseline, groups)], [scores(candidate, groups)])
        covered += row.ci_low <= 0 <= row.ci_high
    # 0.06% of such tables would fall short at 95%; errors that ignore the groups cover 0.735
    assert covered / 400 > 0.91


def one(difference: float, metric: str) -> Difference:
    rng = np.random.default_rng(0)
    baseline = rng.standard_normal(50)
    candidate = baseline + difference + 0.01 * rng.standard_normal(50)
    own = [str(i) for i in range(50)]
    [row] = compare([scores(baseline, own, metric=metric)], [scores(candidate, own, metric=metric)])
    return row


def test_a_verdict_knows_which_way_is_better() -> None:
    assert one(0.5, "acc").verdict == one(-0.5, "bpb").verdict == "better"
    assert one(-0.5, "margin").verdict == one(0.5, "bpb").verdict == "worse"
    assert one(0.0, "acc").verdict == "unresolved"
    assert 0 < one(0.0, "acc").mdd < 0.01


def test_more_tasks_make_wider_intervals_and_larger_p() -> None:
    baseline, candidate, groups = made(2, 80, 20)

    def both(tasks: list[str]) -> list[Difference]:
        pair = [[scores(v, groups, task) for task in tasks] for v in (baseline, candidate)]
        return compare(*pair)

    [alone], [first, _] = both(["piqa"]), both(["piqa", "boolq"])
    assert first.ci_high - first.ci_low > alone.ci_high - alone.ci_low
    assert first.p_adjusted == pytest.approx(min(1, 2 * alone.p_adjusted))


def test_the_average_of_two_tasks_is_welchs_t_test_of_their_differences() -> None:
    """The mean of two independent differences, of which one is turned round, is half a difference
    of means."""
    pairs = [made(seed, n, 5)[:2] for seed, n in ((3, 50), (4, 90))]
    both = [
        [scores(pair[which], [str(i) for i in range(len(pair[which]))], task)]
        for which in (0, 1)
        for pair, task in zip(pairs, ("piqa", "boolq"), strict=True)
    ]
    baseline, candidate = both[0] + both[1], both[2] + both[3]
    [row] = averages(baseline, candidate)
    one, two = (after - before for before, after in pairs)
    wanted = stats.ttest_ind(one, -two, equal_var=False)
    interval = wanted.confidence_interval(0.95)
    assert (row.task, row.n) == ("average", 140)
    assert row.diff == pytest.approx((one.mean() + two.mean()) / 2)
    assert row.p_adjusted == pytest.approx(wanted.pvalue)
    assert (2 * row.ci_low, 2 * row.ci_high) == pytest.approx((interval.low, interval.high))
    assert averages(baseline[:1], candidate[:1]) == []


def test_the_errors_of_an_average_keep_the_groups() -> None:
    baseline, candidate, groups = made(5, 120, 12)
    tasks = [[scores(v, groups, task) for task in ("piqa", "boolq")] for v in (baseline, candidate)]
    [row] = averages(*tasks)
    alone = standard_error((candidate - baseline).tolist(), groups)
    half = (row.ci_high - row.ci_low) / 2
    assert half == pytest.approx(stats.t.isf(0.025, 22) * alone / np.sqrt(2))
    assert row.groups == 24


def test_models_that_answer_alike_are_unresolved() -> None:
    values, own = np.array([0.0, 1, 1]), ["a", "b", "c"]
    [row] = compare([scores(values, own)], [scores(values, own)])
    assert (row.diff, row.p_adjusted, row.verdict) == (0, 1, "unresolved")


def test_other_documents_or_tasks_are_refused(tmp_path: Path) -> None:
    values, own = np.array([0.0, 1, 1]), ["a", "b", "c"]
    first = scores(values, own)
    with pytest.raises(ValueError, match=r"same documents.*\(3 and 2\)"):
        compare([first], [scores(values[:2], own[:2])])
    with pytest.raises(ValueError, match="same tasks"):
        compare([first], [scores(values, own, task="boolq")])
    other = json.loads(json.dumps(first))
    other["documents"][1]["hash"] = "another"
    with pytest.raises(ValueError, match="same documents"):
        compare([first], [other])
    (tmp_path / "other.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match=r"search\.evaluate to=FILE"):
        read(tmp_path / "other.json")


def test_the_command_prints_a_row_for_each_metric(tmp_path: Path) -> None:
    baseline, candidate, groups = made(3, 40, 10)
    for name, values in (("a", baseline), ("b", candidate)):
        (tmp_path / f"{name}.json").write_text(json.dumps([scores(values, groups)]))
    command = [sys.executable, "-m", "search.paired", "baseline=a.json"]

    def run(candidate: str) -> Any:
        return subprocess.run(
            [*command, f"candidate={candidate}"],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )

    done = run("b.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split()[:4] == ["piqa", "acc", "40", "10"]
    missing = run("c.json")
    assert missing.returncode == 2
    assert missing.stderr.count("\n") == 1
    assert "c.json" in missing.stderr
