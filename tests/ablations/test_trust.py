"""How far a proxy can be trusted: the figures against simulation and scipy, and what is said."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from report_fixtures import RECIPE, default_study
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from study_fixtures import ROOT, TINY, environment, records, write_text

from ablations.__main__ import usual
from ablations.cells import TableWork
from ablations.facts import table_facts
from ablations.files import TableFile
from ablations.stats import trust
from ablations.stats.effects import compare, resolved_pairs
from ablations.table import Table
from reports.__main__ import render
from reports.read.study import read_study
from reports.views.study import Findings
from reports.views.trust import measured, trust_files
from reports.views.trust_quoted import of_study
from reports.weigh import table as tables
from search.recipe import Recipe
from search.record import Reading, Record, Run
from search.runs import write_record
from space.axes import Space, SpaceConfig
from space.words import amount

SPACE = "depth_width"
CONTENT = {"space": SPACE, "lengths": [0.25, 0.5, 1, 2]}
Value = Callable[[Run, int], float]


def architectures(arms: int) -> dict[str, Any]:
    """So many of one budget, by name."""
    all_ = Space.from_yaml(SPACE, "4m", 1024).enumerate()
    return {f"a{i:02}": all_[i % len(all_)] for i in range(arms)}


def scale(proxy: np.ndarray, target: np.ndarray, name: str = "") -> trust.Scale:
    """Readings (A, S) at 100 and at 200 tokens."""
    rows = [
        {"arm": f"a{arm:02}", "seed": seed, "tokens": tokens, "value": values[arm, seed]}
        for tokens, values in ((100, proxy), (200, target))
        for arm, seed in np.ndindex(values.shape)
    ]
    return trust.Scale(name, architectures(len(target)), pd.DataFrame(rows), 128)


def grid(rng: np.random.Generator, arms: int, seeds: int, alike: float) -> list[np.ndarray]:
    """A proxy and a target whose arms' effects have this correlation, and little noise."""
    effects = rng.normal(size=arms)
    other = alike * effects + np.sqrt(1 - alike**2) * rng.normal(size=arms)
    return [x[:, None] + 0.02 * rng.normal(size=(arms, seeds)) for x in (other, effects)]


@pytest.fixture
def unresolved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the verdicts at the target out, where only the order of all pairs is looked at."""
    monkeypatch.setattr(trust, "_resolved", lambda values, _: np.zeros((len(values), len(values))))


def test_the_share_of_pairs_ordered_alike_is_what_the_correlation_says() -> None:
    """Two normal effects of correlation r are ordered alike with 1/2 + arcsin(r)/pi."""
    rng = np.random.default_rng(0)
    (row,) = trust.measure([scale(*grid(rng, 24, 3, 0.8))])[:1].to_dict("records")
    expected = 0.5 + np.arcsin(0.8) / np.pi
    assert expected - 0.2 < row["low"] < expected < row["high"]
    assert row["tau_low"] < 2 * expected - 1 < row["tau_high"]


def test_the_ceiling_of_clear_effects_is_one_and_a_perfect_proxy_reaches_it() -> None:
    rng = np.random.default_rng(1)
    rows = trust.measure([scale(*grid(rng, 9, 4, 1.0))]).set_index("kind")
    proxy, ceiling = rows.loc[trust.PROXY], rows.loc[trust.CEILING]
    assert proxy.accuracy == ceiling.accuracy == 1
    assert 0.7 < proxy.low < 1
    assert proxy.high == 1
    assert ceiling.pairs > 20


@pytest.mark.usefixtures("unresolved")
def test_a_run_does_not_judge_itself() -> None:
    """Arms are equal, and the proxy repeats the target's noise of the same run: the others' noise
    says nothing of it, so half of the pairs are ordered as they are there."""
    rng = np.random.default_rng(2)
    alike = []
    for _ in range(60):
        noise = rng.normal(size=(8, 3))
        target = trust.Target.of(pd.DataFrame(noise, list(architectures(8))))
        choices = target.choices(noise)
        alike.append(trust._share(choices, target.order).value)
    assert np.mean(alike) < 0.53


def target_of(values: np.ndarray) -> trust.Target:
    return trust.Target.of(pd.DataFrame(values, list(architectures(len(values)))))


def test_regret_is_what_the_choice_of_each_seed_costs_by_the_others() -> None:
    target = target_of(np.array([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [4.0, 4.0, 4.0]]))
    proxy = np.array([[0.0, 1.0, 2.0], [1.0, 0.0, 1.0], [2.0, 2.0, 0.0]])  # each takes another
    found = trust.regret(target, proxy)
    assert (found.value, found.worst) == (pytest.approx((0 + 1 + 3) / 3), 3)
    assert trust.regret(target, target.values) == trust.Regret(0, 0)
    proxy[0, 0] = np.nan  # a run that is missing is not chosen
    assert trust.regret(target, proxy).value == pytest.approx((1 + 1 + 3) / 3)
    assert np.isnan(trust.regret(target, np.full((3, 3), np.nan)).value)


@pytest.mark.usefixtures("unresolved")
def test_regret_above_the_ceilings_is_what_a_proxy_truly_costs() -> None:
    """Whatever the noise of the judging seeds: by the truth behind simulated grids."""
    rng, above, true = np.random.default_rng(11), [], []
    for _ in range(300):
        effects = rng.normal(size=8)
        at_target, at_proxy = (
            base[:, None] + rng.normal(0, 0.5, (8, 4))
            for base in (effects, 0.5 * effects + rng.normal(0, 0.7, 8))
        )
        target = target_of(at_target)
        above.append(trust.regret(target, at_proxy).value - trust.regret(target, at_target).value)
        costs = [effects[values.argmin(0)].mean() for values in (at_proxy, at_target)]
        true.append(costs[0] - costs[1])
    apart = np.subtract(above, true)
    assert np.mean(true) > 0.3
    assert abs(apart.mean()) < 3 * apart.std() / np.sqrt(len(apart))


@pytest.mark.parametrize("missing", [False, True])
def test_the_interaction_is_the_f_test_of_statsmodels(missing: bool) -> None:
    rng = np.random.default_rng(12)
    proxy, target = rng.normal(size=(2, 5, 4))
    proxy[1] += 1.0
    if missing:
        proxy[2, 1] = proxy[4, 3] = np.nan
    cells = _frame(target - proxy).dropna()
    table = anova_lm(ols("value ~ C(seed) + C(arm)", cells).fit(), typ=2)
    found = trust.interaction(target_of(target), proxy)
    assert found.p == pytest.approx(table["PR(>F)"]["C(arm)"])
    each = table.sum_sq / table.df
    if not missing:
        moments = max(0.0, (each["C(arm)"] - each["Residual"]) / 4) ** 0.5
        assert found.sd == pytest.approx(moments)


@pytest.mark.usefixtures("unresolved")
def test_an_interaction_is_found_where_there_is_one_and_hardly_ever_where_there_is_none() -> None:
    rng, tables = np.random.default_rng(13), 400
    found = {False: 0, True: 0}
    for _ in range(tables):
        effects, seeds = rng.normal(size=(6, 1)), rng.normal(size=(1, 4))
        at_target = effects + seeds + rng.normal(0, 0.1, (6, 4))
        for changed in found:
            other = effects + changed * rng.normal(0, 0.2, (6, 1))
            at_proxy = other + 3 * seeds + rng.normal(0, 0.1, (6, 4))
            found[changed] += trust.interaction(target_of(at_target), at_proxy).p < 0.05
    assert found[False] / tables < 0.05 + 3 * (0.05 * 0.95 / tables) ** 0.5
    assert found[True] / tables > 0.8


def test_equal_arms_are_hardly_ever_resolved() -> None:
    rng = np.random.default_rng(3)
    tables = 60
    false = sum(
        bool(resolved_pairs(_frame(rng.normal(size=(4, 3))), "value").to_numpy().any())
        for _ in range(tables)
    )
    assert stats.binomtest(false, tables, 0.05, alternative="greater").pvalue > 0.01, false


def test_a_pair_is_resolved_by_both_baselines_at_a_level_that_all_baselines_share() -> None:
    rng = np.random.default_rng(5)
    shared, alone, told = (np.zeros((5, 5), dtype=int) for _ in range(3))
    for _ in range(8):
        frame = _frame(rng.normal(size=(5, 4)) + 1.5 * np.arange(5)[:, None])
        told += resolved_pairs(frame, "value").abs().to_numpy()
        shared += _apart(frame, 1 - 0.05 / 4)
        alone += _apart(frame, 0.95)
    assert (told == shared).all()
    assert alone.sum() > shared.sum(), "else nothing tells the levels apart"


def _apart(frame: pd.DataFrame, level: float) -> np.ndarray:
    """Pairs whose interval leaves out 0 with either arm as the baseline."""
    found = np.zeros((5, 5), dtype=int)
    for arm in range(5):
        rows = compare(frame, arm, "value", level=level)  # type: ignore[arg-type]
        for other in rows[(rows.ci_low > 0) | (rows.ci_high < 0)].arm:
            found[arm, other] = 1
    return found * found.T


def test_a_pair_is_resolved_as_its_two_intervals_say() -> None:
    frame = _frame(np.array([[0.0, 0.1, 0.05], [0.02, 0.1, 0.06], [5.0, 5.1, 5.02]]))
    told = resolved_pairs(frame, "value")
    assert told.to_numpy().tolist() == [[0, 0, -1], [0, 0, -1], [1, 1, 0]]


def _frame(values: np.ndarray) -> pd.DataFrame:
    arms, seeds = np.indices(values.shape)
    return pd.DataFrame({"arm": arms.ravel(), "seed": seeds.ravel(), "value": values.ravel()})


def test_arms_without_a_common_seed_are_unresolved() -> None:
    rng = np.random.default_rng(6)
    cells = [(f"a{arm}", seed, arm + 0.01 * rng.normal()) for arm in range(3) for seed in range(3)]
    frame = pd.DataFrame([*cells, ("alone", 9, 7.0)], columns=["arm", "seed", "value"])
    told = resolved_pairs(frame, "value")
    assert not told.loc["alone"].any()
    assert not told["alone"].any()
    linked = ["a0", "a1", "a2"]
    pd.testing.assert_frame_equal(
        told.loc[linked, linked],
        pd.DataFrame([[0, -1, -1], [1, 0, -1], [1, 1, 0]], linked, linked),
        check_names=False,
    )


def test_tau_is_scipys_and_one_linear_function_of_the_pairs() -> None:
    rng = np.random.default_rng(4)
    proxy, truth = grid(rng, 12, 3, 0.5)
    row = trust.measure([scale(proxy, truth)]).iloc[0]
    expected = np.mean(
        [
            stats.kendalltau(proxy[:, seed], np.delete(truth, seed, 1).mean(1)).statistic
            for seed in range(3)
        ]
    )
    assert row.tau == pytest.approx(expected)
    target = trust.Target.of(pd.DataFrame(truth, list(architectures(12))))
    pairs = trust._share(target.choices(proxy), target.order).value
    assert 2 * pairs - 1 == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize(("arms", "alike"), [(9, 0.95), (9, 0.0), (16, 0.9), (6, 0.9)])
def test_the_interval_covers_the_true_accuracy(
    arms: int, alike: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nominally 95%, and wider rather than narrower: both arms and seeds are resampled."""
    monkeypatch.setattr(trust, "RESAMPLES", 400)
    rng, true, grids = np.random.default_rng(5), 0.5 + np.arcsin(alike) / np.pi, 200
    covered = 0
    for _ in range(grids):
        proxy, truth = (values.T for values in grid(rng, arms, 4, alike))
        choices, order = (np.sign(x[:, :, None] - x[:, None, :]) for x in (proxy, truth))
        found = trust._share(choices, order)
        covered += found.low <= true <= found.high
    assert stats.binomtest(covered, grids, 0.95, alternative="less").pvalue > 0.01, covered


def test_counts_are_scored_and_those_that_the_budget_fixes_are_named_constant() -> None:
    arches = architectures(9)
    depth = np.array([log(a.num_layers) for a in arches.values()])
    noise = 0.01 * np.random.default_rng(7).normal(size=(9, 3))
    deep_is_better = -depth[:, None] + noise
    rows = trust.measure([scale(deep_is_better, deep_is_better)]).set_index("name")
    assert rows.direction["parameters"] == "constant"
    assert np.isnan(rows.accuracy["parameters"])
    assert rows.direction["depth"] == "more is better"
    assert rows.accuracy["depth"] == 1
    assert rows.direction["aspect ratio (width / depth)"] == "less is better"
    assert rows.accuracy["aspect ratio (width / depth)"] == 1
    assert rows.tau["depth"] == pytest.approx(1)
    assert (rows.saved[rows.kind == trust.PREDICTOR] == 1).all()


def test_what_suffices_holds_from_there_on() -> None:
    rows = pd.DataFrame(
        {
            "kind": trust.PROXY,
            "scale": "",
            "tokens": [1, 2, 3, 4],
            "saved": [0.8, 0.6, 0.4, 0.2],
            "accuracy": [0.95, 0.7, 0.85, 0.92],
            "low": [0.9, 0.5, 0.82, 0.7],
        }
    )
    told = trust.sufficient(rows).set_index("wanted")
    assert told.tokens[0.8] == 3
    assert told.saved[0.8] == 0.4
    assert not told.sure[0.8]
    assert told.tokens[0.9] == 4
    assert np.isnan(told.tokens[0.95])


def test_a_missing_run_is_left_out_of_its_own_pairs_only() -> None:
    proxy, truth = grid(np.random.default_rng(8), 6, 4, 1.0)
    whole = trust.measure([scale(proxy, truth)]).iloc[0]
    truth[2, 1] = np.nan
    some = scale(proxy, truth)
    some = replace(some, readings=some.readings.dropna())
    rows = trust.measure([some])
    assert rows.accuracy.iloc[0] == 1
    assert rows.pairs.iloc[0] <= whole.pairs


def test_too_little_is_one_clear_line() -> None:
    proxy, truth = grid(np.random.default_rng(9), 6, 2, 1.0)
    with pytest.raises(ValueError, match="at least 3 seeds"):
        trust.measure([scale(proxy, truth)])
    with pytest.raises(ValueError, match="at least two arms"):
        trust.measure([scale(*grid(np.random.default_rng(9), 1, 3, 1.0))])
    one = scale(truth, truth)
    alone = replace(one, readings=one.readings[one.readings.tokens == 200].assign(seed=0))
    with pytest.raises(ValueError, match="seeds"):
        trust.measure([replace(alone, readings=alone.readings.drop_duplicates(["arm", "seed"]))])
    proxy, truth = grid(np.random.default_rng(9), 6, 3, 1.0)
    long = scale(proxy, truth)
    with pytest.raises(ValueError, match=r"set recipe\.horizons"):
        trust.measure([replace(long, readings=long.readings[long.readings.tokens == 200])])
    with pytest.raises(ValueError, match="some run must have ended"):
        trust.measure([replace(long, readings=long.readings[:0])])


# The table.


def table(content: dict[str, Any] | None = None, recipe: Recipe = RECIPE, **given: Any) -> Table:
    file = TableFile(
        name="proxy_horizon",
        caption="Orders.",
        seeds=4,
        question="trust",
        content=content or CONTENT,
    )
    return file.table("proxy", recipe, 1024, **given)


def test_a_grid_is_the_spaces_own_and_the_reading_at_one_is_the_recipes() -> None:
    made = table()
    (panel,) = made.panels
    space = Space.from_yaml(SPACE, "1m", 1024)
    assert [arm.architecture for arm in panel.arms] == space.enumerate()
    assert panel.arms[0].name == "2 layers"
    (recipe,) = {arm.recipe for arm in panel.arms}
    assert recipe.tokens == 2 * RECIPE.tokens
    assert recipe.horizons == (0.125, 0.25, 0.5)
    warmup = RECIPE.warmup_fraction * RECIPE.steps
    assert recipe.warmup_fraction * recipe.steps == pytest.approx(warmup, rel=1e-12)


def test_a_grid_keeps_to_the_spaces_constraints_though_they_miss_the_budget_by_more() -> None:
    kind = SpaceConfig.read(SPACE).kind
    space = SpaceConfig(**kind, constraints={"intermediate_size": "%8"})
    (panel,) = table(space=space).panels
    assert [a.architecture for a in panel.arms] == Space.from_config(space, "1m", 1024).enumerate()
    assert not any(arm.architecture.intermediate_size % 8 for arm in panel.arms)


def test_horizons_of_the_recipe_are_taken_as_they_are() -> None:
    (panel,) = table(recipe=replace(RECIPE, horizons=(0.3, 0.6))).panels
    assert panel.arms[0].recipe == replace(RECIPE, horizons=(0.3, 0.6))


def test_arms_on_several_budgets_are_matched_by_depth_and_tokens_go_with_the_budget() -> None:
    content = {"space": SPACE, "lengths": [0.5, 1], "budgets": ["4m", "1m"]}
    small, large = table(content).panels
    assert (small.budget.value, large.budget.value) == (1_000_000, 4_000_000)
    assert [arm.name for arm in small.arms] == [arm.name for arm in large.arms]
    assert len(small.arms) > 6
    for one, other in zip(small.arms, large.arms, strict=True):
        assert one.architecture.num_layers == other.architecture.num_layers
        assert other.recipe.tokens == 4 * one.recipe.tokens
        assert large.budget.deviation(other.architecture) == pytest.approx(0, abs=0.0015)


def test_a_large_space_is_thinned_evenly() -> None:
    (panel,) = table({**CONTENT, "space": "sharing", "arms": 7}).panels
    assert len(panel.arms) == 7
    every = Space.from_yaml("sharing", "1m", 1024).enumerate()
    places = [every.index(arm.architecture) for arm in panel.arms]
    assert places[0] == 0
    assert places[-1] == len(every) - 1
    assert np.ptp(np.diff(places)) <= 1


@pytest.mark.parametrize(
    ("content", "given", "words"),
    [
        ({"space": SPACE}, {}, "trust must hold space and lengths"),
        ({**CONTENT, "seed": 1}, {}, "trust must hold space and lengths"),
        ({**CONTENT, "lengths": [2, 1]}, {}, "from short to long"),
        ({**CONTENT, "lengths": [1]}, {}, "another horizon or another budget"),
        ({**CONTENT, "arms": 1}, {}, "at least two arms"),
        (CONTENT, {"seeds": 2}, "at least 3 seeds"),
        (CONTENT, {"seeds": "auto"}, "must be a number, but got auto; set seeds=5"),
        ({**CONTENT, "space": "none"}, {}, "space must be one of"),
        (CONTENT, {"budgets": ["1m", "1000k"]}, "each once"),
        (CONTENT, {"recipe": replace(RECIPE, schedule="cosine")}, "set recipe.schedule=wsd"),
    ],
)
def test_a_wrong_grid_is_refused(
    content: dict[str, Any], given: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        table(content, **given)


def test_a_grid_has_no_paper_scale() -> None:
    file = TableFile.read("proxy_horizon")
    with pytest.raises(ValueError, match="no panels at scale=paper"):
        file.table("paper", RECIPE, 1024)


def test_the_file_chooses_the_searchs_proxy_unless_another_is_named() -> None:
    assert usual(["table=proxy_horizon", "seeds=3"]) == ["proxy=default"]
    assert usual(["table=proxy_horizon", "proxy=smoke"]) == []
    assert usual(["table=heads"]) == usual(["table=help"]) == usual([]) == []


# What is left of it.


def write_table(root: Path, made: Table, value: Value, name: str = "proxy_horizon") -> Path:
    """A finished table in the real format, its numbers from a formula."""
    work = TableWork(table=made, data_fingerprint="5f0c9")
    for cell in work.cells.values():
        run = work.run(cell.params, cell.seed)
        recipe = run.recipe
        ends = [*(recipe.tokens * share for share in recipe.horizons), recipe.tokens]
        step = recipe.tokens_per_step
        tokens = [int(-(-end // step) * step) for end in ends]
        readings = [Reading(tokens=t, val_loss=4.0, val_bpb=value(run, t)) for t in tokens]
        record = Record(run=run, status="finished", readings=tuple(readings))
        (root / "runs" / run.key).mkdir(parents=True, exist_ok=True)
        write_record(root / "runs" / run.key, record)
    folder = root / "outputs" / "tables" / name
    folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "table": table_facts(made),
        "places": list(work.places()),
        "metric": "val_bpb",
        "runs": str(root / "runs"),
        "trials": [],
    }
    (folder / "study.json").write_text(json.dumps(facts))
    return folder


def valley(run: Run, tokens: int) -> float:
    """Best at five layers, deeper ones catching up with tokens, and noise of each reading."""
    rng = np.random.default_rng([run.seed, run.architecture.num_layers, tokens])
    best = 5 * (tokens / RECIPE.tokens) ** 0.5
    return 1.7 + 0.05 * log(run.architecture.num_layers / best) ** 2 + 0.003 * rng.normal()


def test_the_files_of_a_table_say_the_same_and_the_same_again(tmp_path: Path) -> None:
    write_table(tmp_path, table(), valley)
    report = tables.read_table("proxy_horizon", tmp_path / "outputs", None)
    files, summary = trust_files(report)
    assert (files, summary) == trust_files(report)
    assert summary.startswith("noise ceiling: ")
    text = files["trust.md"].decode()
    assert "9 arms × 4 seeds" in text
    assert "256,000 tokens, the first reading" in text
    assert "| noise ceiling |" in text
    assert "constant" in text
    assert "**What suffices**" in text
    rows = measured(report)
    accuracy = rows[rows.kind == trust.PROXY].accuracy
    assert accuracy.is_monotonic_increasing
    assert f"{100 * accuracy.iloc[0]:.1f}%" in text
    assert f"{100 * accuracy.iloc[0]:.1f}\\%" in files["trust.tex"].decode()
    assert f"{100 * accuracy.iloc[0]:.1f}%" in files["trust.html"].decode()
    assert files["trust.png"].startswith(b"\x89PNG")


def test_a_table_without_enough_runs_says_so(tmp_path: Path) -> None:
    folder = write_table(tmp_path, table(), valley)
    for path in list((tmp_path / "runs").glob("*/record.json")):
        path.unlink()
    report = tables.read_table("proxy_horizon", tmp_path / "outputs", None)
    files, summary = trust_files(report)
    assert list(files) == ["trust.md"]
    assert "no result yet: some run must have ended" in summary
    assert folder.is_dir()


def test_a_grid_of_mixed_recipes_is_refused(tmp_path: Path) -> None:
    folder = write_table(tmp_path, table(), valley)
    facts = json.loads((folder / "study.json").read_text())
    facts["table"]["panels"][0]["arms"][1]["recipe"]["lr"] = 0.1
    (folder / "study.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="must share one recipe, but 3 layers"):
        measured(tables.read_table("proxy_horizon", tmp_path / "outputs", None))


def study(root: Path, **facts: Any) -> Any:
    space = {**asdict(SpaceConfig.read(SPACE)), "size": 9} | facts.pop("space", {})
    folder = default_study(root, space=space, **facts)
    return read_study(folder.name, root / "outputs")


def test_a_studys_page_quotes_the_table_of_its_proxy(tmp_path: Path) -> None:
    write_table(tmp_path, table(), valley)
    told = of_study(study(tmp_path))
    report = tables.read_table("proxy_horizon", tmp_path / "outputs", None)
    rows = measured(report)
    row = rows[rows.tokens == RECIPE.tokens].iloc[0]
    assert "at 1,024,000 tokens orders architectures as others at 2,048,000 tokens do in" in told
    assert f"do in {row.accuracy:.0%}" in told
    assert f"({row.low:.0%} to {row.high:.0%})" in told
    assert "9 arms × 4 seeds" in told
    files = render(study(tmp_path))
    assert told.encode() in files["report.html"]
    assert files == render(study(tmp_path))


def test_a_study_of_another_proxy_says_that_none_was_measured_and_how_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = "python -m search budget=1m proxy=hour recipe.lr=0.002 study=x n_trials=3"
    write_table(tmp_path, table(recipe=replace(RECIPE, lr=0.002)), valley)
    told = of_study(study(tmp_path, command=command))
    assert told == (
        "Not measured for this proxy; measure it with `python -m ablations table=proxy_horizon "
        "budget=1m proxy=hour recipe.lr=0.002 called=proxy_horizon_depth_1m`."
    )
    page = render(study(tmp_path, command=command))["report.html"].decode()
    assert "<code>python -m ablations table=proxy_horizon budget=1m" in page
    command = "python -m search budget=1m tokens_per_parameter=1.024"
    assert "budget=1m recipe.tokens=1024000 called=" in of_study(study(tmp_path, command=command))
    other = {"kind": "parameters", "value": 2_000_000}
    assert "Not measured" in of_study(study(tmp_path, budget=other))
    untied = {"fixed": {"tie_word_embeddings": False}}
    assert "Not measured" in of_study(study(tmp_path, space=untied))
    eight = {"constraints": {"intermediate_size": "%8"}}
    assert "Not measured" in of_study(study(tmp_path, space=eight))


def test_the_command_that_would_measure_keeps_what_makes_the_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = "python -m search space.axes.num_blocks=[2,9] recipe.horizons=[0.25] recipe.lr=0.002"
    assert (
        f"table=proxy_horizon space={SPACE} 'space.axes.num_blocks=[2,9]' recipe.lr=0.002 called="
        in of_study(study(tmp_path, command=command))
    )


def test_commands_keep_the_folder_of_configurations_and_name_outputs_where_they_are_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = "-cd my --config-name own"
    command = f"python -m search space=mine {flags} outputs=o data.cache=c"
    asked = study(tmp_path, command=command)
    assert "`python -m ablations --config-dir my table=proxy_horizon space=mine" in of_study(asked)
    page = render(asked)["report.html"].decode()
    assert "python -m space export=best study=depth_1m cache=c to=FOLDER" in page
    (tmp_path / "outputs").rename(tmp_path / "o")
    moved = read_study("depth_1m", tmp_path / "o")
    page = render(moved)["report.html"].decode()
    assert "python -m space export=best study=depth_1m outputs=o cache=c to=FOLDER" in page
    assert "space=mine data.cache=c outputs=o called=" in of_study(moved)


def test_a_table_of_another_version_is_no_evidence(tmp_path: Path) -> None:
    folder = write_table(tmp_path, table(), valley)
    facts = json.loads((folder / "study.json").read_text())
    facts["table"]["trust"]["recipe"]["momentum"] = 0.9
    (folder / "study.json").write_text(json.dumps(facts))
    assert "Not measured" in of_study(study(tmp_path))


def test_a_table_that_cannot_be_read_is_no_evidence_and_stops_no_page(tmp_path: Path) -> None:
    folder = write_table(tmp_path, table(), valley)
    facts = json.loads((folder / "study.json").read_text())
    for damaged in (
        {name: value for name, value in facts.items() if name != "trials"},
        {**facts, "places": 5},
    ):
        (folder / "study.json").write_text(json.dumps(damaged))
        with pytest.raises(ValueError, match="must describe a table, but lacks it"):
            tables.read_table("proxy_horizon", tmp_path / "outputs", None)
        assert "Not measured" in of_study(study(tmp_path))
    facts["table"]["trust"] = True
    (folder / "study.json").write_text(json.dumps(facts))
    assert "Not measured" in of_study(study(tmp_path))


def test_a_page_is_made_without_the_records_of_other_tables_and_asks_for_trust_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, is_one in (("proxy_horizon", True), ("other", False)):
        folder = write_table(tmp_path, table(), valley, name)
        facts = json.loads((folder / "study.json").read_text())
        facts["table"]["trust"] = facts["table"]["trust"] if is_one else None
        (folder / "study.json").write_text(json.dumps(facts))
    read, whole = list[str](), tables.read_table

    def counted(name: str, *given: Any) -> Any:
        read.append(name)
        return whole(name, *given)

    monkeypatch.setattr("reports.weigh.table.read_table", counted)
    found = study(tmp_path)
    render(found, Findings.of(found))
    assert read == ["proxy_horizon"]


def test_larger_budgets_are_named_where_orders_were_held_against_them(tmp_path: Path) -> None:
    content = {"space": SPACE, "lengths": [0.5, 1], "budgets": ["1m", "4m"]}
    write_table(tmp_path, table(content), valley, "proxy_scale")
    assert "as others at 4,096,000 tokens of 4,000,000 parameters do" in of_study(study(tmp_path))


# End to end.


@pytest.mark.slow
def test_help_tells_of_a_grid_on_the_proxy_that_was_given(tmp_path: Path) -> None:
    proxy = yaml.safe_load((ROOT / "conf" / "proxy" / "smoke.yaml").read_text())
    file, vocab_size = TableFile.read("proxy_horizon"), proxy["data"]["vocab_size"]
    work = TableWork(
        table=file.table("proxy", Recipe(**proxy["recipe"], precision="fp32"), vocab_size),
        data_fingerprint="",
    )
    told = run(tmp_path, "-m", "ablations", "table=help", "proxy=smoke").stdout
    (mine,) = [text for text in told.split("\n\n") if text.startswith("proxy_horizon: ")]
    assert f"{work.total} runs with 4 seeds each, {amount(work.tokens)} tokens" in mine


@pytest.mark.slow
def test_a_grid_is_trained_judged_and_quoted_by_a_study_of_its_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the reading at length 1 is what a run of the proxy's own length has."""
    (tmp_path / "tiny.yaml").write_text(TABLE)
    path, own = write_text(tmp_path), {text.split("=")[0]: text for text in TINY}
    common = [f"data.path={path}", *(v for k, v in own.items() if k in COMMON)]
    common += ["space=depth_width", "space.axes.num_blocks=[2,3]"]
    done = run(tmp_path, "-m", "ablations", "table=tiny.yaml", *common)
    assert "trust: outputs/tables/tiny/trust." in done.stdout
    trained = records(tmp_path)
    assert len(trained) == 2 * 3
    assert all(len(record["readings"]) == 2 for record in trained.values())
    text = (tmp_path / "outputs/tables/tiny/trust.md").read_text()
    assert "1,024 tokens, the first reading" in text
    assert "The target: 2,048 tokens" in text

    run(tmp_path, "-m", "search", "study=tiny", "n_trials=2", "report=false", *common)
    told = run(tmp_path, "-m", "reports", "study=tiny").stdout
    assert "One seed at 1,024 tokens orders architectures as others at 2,048 tokens do in" in told
    page = (tmp_path / "outputs/tiny/report.html").read_bytes()
    assert b"One seed at 1,024 tokens" in page
    monkeypatch.chdir(tmp_path)
    assert render(read_study("tiny"))["report.html"] == page

    both = [r for r in records(tmp_path).values() if r["seed"] == 0]
    for depth in (2, 3):
        mine = [r for r in both if r["architecture"]["num_blocks"] == depth]
        long, short = sorted(mine, key=lambda r: -r["recipe"]["tokens"])
        assert long["readings"][0] == short["readings"][0]


COMMON = (
    "budget data data.vocab_size proxy recipe.tokens recipe.seq_len recipe.batch_size "
    "recipe.eval_tokens placement.device placement.compile placement.threads tracker workers"
).split()
TABLE = """
caption: Orders of two shapes.
budget: 100k
seeds: 3
trust:
  space: depth_width
  lengths: [1, 2]
"""


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done
