"""The joint law: what is planted is found, its intervals, what it predicts, and forecasts."""

import json
import math
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from hypothesis import given, settings
from hypothesis import strategies as st
from law_fixtures import BEST, BUDGETS, DEPTHS, GROWTH, law_studies, law_study

from benchmarks.joint_law import BUDGETS as SIZES
from benchmarks.joint_law import KINDS, RATIO, Truth
from reports.__main__ import ReportsConfig, found_forecast, make
from reports.read.study import read_study
from reports.views import joint_law, laws
from reports.views.joint_law import beside_what_came
from reports.views.law_words import times
from reports.weigh.forecast import (
    JointLaw,
    forecast,
    forecast_files,
    read_forecast,
    require_unwritten,
)
from reports.weigh.joint import NAMES, Joint, Runs, Variances, curve, fitted, joint, valley
from reports.weigh.joint_runs import cells
from reports.weigh.law import read_law
from space.seals import read_json, sealed_json, write_json


def planted(
    theta: dict[str, float], noise: float = 0.0, apart: bool = True, seed: int = 0
) -> pd.DataFrame:
    """Runs of a law whose parameters are relative to 2 million parameters and tokens."""
    rng = np.random.default_rng(seed)
    rows = []
    for size in (5e5, 1e6, 2e6, 4e6):
        for ratio in (0.5, 1.0, 4.0) if apart else (1.0,):
            for depth in (1, 2, 3, 5, 7, 10):
                z, w = math.log(size / 2e6), math.log(size * ratio / 2e6)
                at = np.array([theta.get(name, 0.0) for name in NAMES])
                value = curve(at, np.array(z), np.array(w), np.array(math.log(depth)), apart)
                for number in range(2):
                    row = {"parameters": size, "tokens": size * ratio, "depth": depth}
                    row |= {"seed": number, "value": float(value) + noise * rng.normal()}
                    names = {"architecture": f"{size} {depth}", "group": f"{size} {ratio}"}
                    rows.append(row | names)
    return pd.DataFrame(rows)


TRUTH = {
    **{"floor": 0.8, "log_a": -0.9, "alpha": 0.5, "log_b": -0.6, "beta": 0.3, "log_c": -3.5},
    **{"gamma": -0.4, "asymmetry": -1.0, "log_depth": 1.1, "growth": 0.2, "tokens": 0.1},
}


@pytest.mark.parametrize("apart", [True, False])
def test_a_planted_law_is_found(apart: bool) -> None:
    truth = TRUTH if apart else {k: v for k, v in TRUTH.items() if k != "tokens"}
    law = joint(planted(truth, noise=1e-5, apart=apart)).centred(math.log(2e6), math.log(2e6))
    names = set(truth) - (set() if apart else {"log_b", "beta"})
    for name in names:
        assert law.parameter(name) == pytest.approx(truth[name], abs=0.03), name
    assert law.best(4e6, 4e6) == pytest.approx(math.exp(1.1) * 2**0.2, rel=0.01)
    if apart:
        assert law.best(2e6, 8e6) == pytest.approx(math.exp(1.1) * 4**0.1, rel=0.01)


@given(st.floats(-2.5, 2.5), st.floats(-3, 3))
def test_the_valley_is_lowest_at_0_and_curves_there_as_a_square(s: float, x: float) -> None:
    at = valley(np.array([x, 0.0, 1e-3]), s)
    assert at[0] >= 0 == at[1]
    assert at[2] == pytest.approx(1e-6, rel=2e-3)
    assert valley(np.array([-x]), -s)[0] == pytest.approx(at[0])


@settings(max_examples=20, deadline=None)
@given(st.floats(11, 16), st.floats(11, 16))
def test_another_centre_is_the_same_law(size: float, tokens: float) -> None:
    runs = planted(TRUTH)
    theta = np.array([TRUTH[name] for name in NAMES])
    law = Joint(Runs.of(runs), (14.5, 14.5), theta, Variances(0, 0, 0, 1e-4))
    there = law.centred(size, tokens)
    at = (runs.parameters, runs.tokens, runs.depth)
    assert there.at(*at) == pytest.approx(law.at(*at))
    assert there.best(3e6, 5e6) == pytest.approx(law.best(3e6, 5e6))


def test_the_variances_are_those_of_statsmodels() -> None:
    """Restricted maximum likelihood of one random effect, the curve almost linear: an architecture
    in each of 24 has a deviation of its own. By statsmodels' mixed model on the same slopes."""
    runs = planted({**TRUTH, "tokens": 0.0}, noise=0.01, apart=False)
    own = np.random.default_rng(4).normal(0, 0.02, runs.architecture.nunique())
    runs["value"] += own[runs.groupby("architecture").ngroup()]
    runs["seed"] = np.arange(len(runs))  # none shares its seed
    law = joint(runs)
    slopes = law._slopes(law.runs.size, law.runs.tokens, law.runs.depth)
    slopes = slopes[:, np.abs(slopes).max(0) > 0]
    left = law.runs.value - law.at(runs.parameters, runs.tokens, runs.depth)
    columns = {f"s{n}": slope / np.abs(slope).max() for n, slope in enumerate(slopes.T)}
    frame = pd.DataFrame({**columns, "left": left, "architecture": runs.architecture})
    formula = f"left ~ 0 + {' + '.join(columns)}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that its optimiser is near a bound
        reference = smf.mixedlm(formula, frame, groups="architecture").fit(reml=True)
    v = law.variances
    assert v.run + v.seed == pytest.approx(reference.scale, rel=0.02)
    among = float(reference.cov_re.iloc[0, 0])
    assert v.architecture + v.level == pytest.approx(among, rel=0.02)


def test_intervals_hold_as_often_as_they_say() -> None:
    """Of symmetric and asymmetric valleys; `benchmarks.joint_law` does it at length."""
    rng = np.random.default_rng(1)
    held = []
    for kind in KINDS[:3] * 5:
        truth = Truth(kind, math.exp(rng.uniform(0.7, 1.5)), rng.uniform(-0.1, 0.35))
        law = joint(truth.runs(rng))
        low, high = law.interval("growth")
        assert (law.p("growth", truth.growth) > 0.05) == (low < truth.growth < high)
        held.append(low <= truth.growth <= high)
    assert sum(held) >= 11, "fewer has a chance of 0.06% where 95% hold"


def test_a_prediction_holds_and_its_differences_do_not_depend_on_the_level() -> None:
    rng = np.random.default_rng(5)
    truth = Truth(KINDS[1], 3.0, 0.1)
    runs = truth.runs(rng)
    law = joint(runs[runs.parameters < SIZES[-1]])
    depths = np.array([1.0, 2, 3, 5, 7, 10])
    said = law.prediction(np.full(6, SIZES[-1]), np.full(6, RATIO * SIZES[-1]), depths, 1000)
    true = truth.at(SIZES[-1], depths)
    assert (said.relative_low <= true - true.mean()).all()
    assert (true - true.mean() <= said.relative_high).all()
    assert said.relative.mean() == pytest.approx(0, abs=1e-12)
    assert ((said.high - said.low) > (said.relative_high - said.relative_low)).all()


def test_more_runs_narrow_a_growth_but_seeds_do_not_beyond_the_lack_of_fit() -> None:
    runs = Truth(KINDS[3], 3.0, 0.1).runs(np.random.default_rng(2))
    law = fitted(Runs.of(runs))
    once, seeds, depths = (law.error_of("growth", Runs.of(c)) for c in (runs, *_plans(runs)))
    assert depths == pytest.approx(once / 2, rel=0.05)
    assert depths < seeds < once


def _plans(runs: pd.DataFrame) -> list[pd.DataFrame]:
    """Four times as many seeds, and four independent copies of all."""
    again = pd.concat([runs.assign(copy=str(n)) for n in range(4)], ignore_index=True)
    seeds = again.assign(seed=again["copy"] + again.seed.astype(str))
    group = again.group.astype(str) + again["copy"]
    return [seeds, again.assign(architecture=again.architecture + again["copy"], group=group)]


def test_too_few_runs_have_no_joint_law() -> None:
    runs = planted(TRUTH, apart=False)
    with pytest.raises(ValueError, match="two sizes and more than 8 architectures"):
        joint(runs[runs.parameters < 6e5])
    assert JointLaw.of(runs[runs.parameters < 6e5], [], [], 1.0) is None
    assert JointLaw.of(pd.DataFrame(), [], [], 1.0) is None


# --- Forecasts --------------------------------------------------------------------------------


def config(folder: Path, **given: Any) -> ReportsConfig:
    return ReportsConfig(page="laws", outputs=str(folder / "outputs"), **given)


def test_a_forecast_is_on_the_page_that_is_made_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    law_studies(tmp_path)
    asked = config(tmp_path, study=list(BUDGETS)[:3], forecast="4m", called="three")
    make.__wrapped__(asked)  # type: ignore[attr-defined]
    folder = tmp_path / "outputs" / "laws" / "three"
    best = json.loads((folder / "forecast_4.0M.json").read_text())["best_depth"]
    said = (
        f"orecast by the joint law at 4.0M: best depth {best['value']:.1f} layers "
        f"(95% interval {best['low']:.1f} to {best['high']:.1f})"
    )
    assert f"f{said}" in capsys.readouterr().out
    for page in ("report.html", "table.md"):
        assert (folder / page).read_text().count(f"F{said}") == 1


def test_a_forecast_is_written_once_and_scored_on_what_came(tmp_path: Path) -> None:
    law_studies(tmp_path)
    law = read_law(list(BUDGETS)[:3], tmp_path / "outputs")
    ((name, content),) = forecast_files(law, "4m").items()
    assert name == "forecast_4.0M.json"
    folder = tmp_path / "there"
    folder.mkdir()
    require_unwritten(folder, {name: content})
    (folder / name).write_bytes(content)
    require_unwritten(folder, {name: content})
    with pytest.raises(ValueError, match="must stay as it was written"):
        require_unwritten(folder, {name: content + b" "})
    said = json.loads(content)
    assert said["records"] == sorted(key for study in law.studies for key in study.records)
    low, high = said["best_depth"]["low"], said["best_depth"]["high"]
    assert low < BEST * 4**GROWTH < high
    assert {row["depth"] for row in said["architectures"]} == set(DEPTHS)
    make.__wrapped__(  # type: ignore[attr-defined]
        config(tmp_path, study="law_4m", forecast=str(folder / name))
    )
    rows = pd.read_csv(tmp_path / "outputs" / "laws" / "law_4m" / "forecast_4.0M.csv")
    laws = tmp_path / "outputs" / "laws"
    for law_of in ("three", "others"):
        (laws / law_of).mkdir()
        (laws / law_of / name).write_bytes(content)
        if law_of == "three":
            assert found_forecast(Path(name), laws) == laws / "three" / name
    with pytest.raises(ValueError, match=r"others/.* and .*three/.* have this name"):
        found_forecast(Path(name), laws)
    assert (rows.inside == "yes").sum() >= 5
    with pytest.raises(ValueError, match="runs that it was not made from"):
        beside_what_came(said, law.joined.cells)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"forecast": "parameters:4m"}, "must count non_embedding_parameters"),
        (
            {"forecast": "1m"},
            "still to be trained, but law_1m, which the law is made from, has 1.0M",
        ),
        ({"forecast": "504k"}, "still to be trained, but law_500k"),
        ({"forecast": "no.json"}, "there is no no.json"),
        ({"besides": ["nowhere"]}, "nowhere has no finished one"),
    ],
)
def test_what_a_forecast_cannot_be_made_of_is_refused(
    tmp_path: Path, given: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in list(BUDGETS)[:2]:
        law_study(tmp_path, name, seeds=1)
    with pytest.raises(SystemExit) as ended:
        make.__wrapped__(config(tmp_path, study=list(BUDGETS)[:2], **given))  # type: ignore[attr-defined]
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    with pytest.raises(ValueError, match="must go with page=laws"):
        ReportsConfig(study="a", **given)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: "", "cannot be read"),
        (lambda content: content.replace("2", "3", 1), "its digest do not belong together"),
        (lambda content: "[1]", "holds a list"),
        (lambda content: '{"best_depth": 1}', "lacks budget"),
    ],
)
def test_a_forecast_that_is_damaged_is_named_with_what_to_do(
    tmp_path: Path, change: Any, said: str
) -> None:
    path = tmp_path / "forecast_8.0M.json"
    path.write_text(change(sealed_json(PREDICTION).decode()))
    with pytest.raises(ValueError, match=said) as refused:
        read_forecast(path)
    assert str(path) in str(refused.value)
    assert "take it as it was committed, or write it anew" in str(refused.value)


PREDICTION: dict[str, Any] = {
    **{"budget": {"kind": "parameters", "value": 8_000_000}, "commit": "0123", "studies": ["a"]},
    **{"records": ["made from"], "best_depth": {"value": 3.0, "low": 2.0, "high": 4.0}},
    "architectures": [
        {"depth": depth, "value": value, "low": value - 1, "high": value + 1}
        | {"relative": value - 2.05, "relative_low": value - 2.15, "relative_high": value - 1.95}
        for depth, value in ((1, 2.1), (2, 2.0), (3, 2.02), (4, 2.08))
    ],
}


def came(moved: float, values: dict[int, float]) -> pd.DataFrame:
    rows = [
        {"depth": depth, "value": value + moved, "tokens": 8e6, "key": f"{depth}"}
        for depth, value in values.items()
    ]
    return pd.DataFrame(rows)


def test_what_came_is_below_or_above_the_prediction_by_its_sign() -> None:
    as_said = {1: 2.1, 2: 2.0, 3: 2.02, 4: 2.08}
    below, _ = beside_what_came(PREDICTION, came(-0.0398, as_said))
    assert "the mean itself came 0.0398 below the prediction." in below
    above, _ = beside_what_came(PREDICTION, came(0.0398, as_said))
    assert "the mean itself came 0.0398 above the prediction." in above
    assert "not in the table" not in above
    assert "| predicted, less the mean |" in above
    assert "Differences from the mean over the depths of the table" in above


def test_depths_of_one_side_alone_are_said_and_may_have_the_lowest_mean() -> None:
    text, rows = beside_what_came(PREDICTION, came(0.0, {2: 2.0, 3: 2.02, 5: 1.9, 7: 2.3}))
    assert list(rows.depth) == [2, 3]
    assert "the lowest mean came at 5 layers" in text
    assert "Not in the forecast, so not in the table: runs of 5 and 7 layers." in text
    assert "Without runs, so not in the table: 1 and 4 layers." in text


def placed(**moved: float) -> JointLaw:
    """A law at the parameters behind its runs, some of them moved."""
    truth = TRUTH | moved
    runs = planted(truth, apart=False).assign(key="a")
    theta = np.array([truth[name] for name in NAMES])
    law = Joint(Runs.of(runs), (14.5, 14.5), theta, Variances(0, 0, 0, 1e-4))
    return JointLaw(runs, law, (), 1.0, {})


def test_what_it_takes_to_refute_a_growth_is_not_said_where_slopes_say_nothing() -> None:
    sound = placed()
    assert not sound.law.at_bound
    assert len(sound.needed) == 6
    assert "not computed" not in " ".join(joint_law.words(sound))
    steep = placed(asymmetry=-2.5)
    assert not len(steep.needed)
    assert "not computed, since the best fit has asymmetry at a bound" in joint_law.words(steep)[-1]
    assert not any("would refute" in title for title, *_ in joint_law.parts(steep))
    for free in (placed(growth=4.0), placed(growth=-4.0)):
        assert free.law.at_bound == ["growth"]
        assert free.law.error_of("growth", free.law.runs) == math.inf
    loose = Joint(sound.law.runs, (14.5, 14.5), sound.law.theta, Variances(0, 0, 0, 1e6))
    unknown = JointLaw(sound.cells, loose, (), 1.0, {})
    assert not len(unknown.needed)
    said = "not computed, since the growth itself is not determined"
    assert said in joint_law.words(unknown)[-1]


FLAT = (2.5e5 * 2.0 ** np.arange(8), 3.2e7)
"""Sizes of runs, and one that is to be predicted."""


def falling(size: float, depth: Any, floor: float) -> Any:
    """A law whose irreducible loss the sizes hardly tell."""
    curved = 0.022 * np.log(np.asarray(depth) / 3.0) ** 2
    return floor + (1.9 - floor) * (size / 1e6) ** -0.2 + curved


def falling_runs(rng: np.random.Generator, floor: float) -> pd.DataFrame:
    rows = []
    for number, size in enumerate(FLAT[0]):
        level, seeds = rng.normal(0, 0.04), rng.normal(0, 0.007, 2)
        for depth in (1, 2, 3, 5, 8):
            values = falling(size, depth, floor) + level + seeds + rng.normal(0, 0.0105, 2)
            cell = {"parameters": size, "tokens": size, "depth": depth, "group": number}
            cell["architecture"] = f"{size} {depth}"
            rows += [{**cell, "seed": s, "value": v} for s, v in enumerate(values)]
    return pd.DataFrame(rows)


def test_a_parameter_at_its_bound_is_not_taken_for_known() -> None:
    """Where the fit says that no loss is irreducible, though much is, the level of a budget 30
    times the largest lies in its interval as often as it says. With E taken for known few do."""
    rng, size, depths = np.random.default_rng(0), 30 * FLAT[1], np.array([1.0, 2, 3, 5, 8])
    held: dict[bool, list[float]] = {True: [], False: []}
    wide: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(50):
        law = joint(falling_runs(rng, 0.6))
        said = law.prediction(np.full(5, size), np.full(5, size), depths, 1000)
        true = falling(size, depths, 0.6)
        place = "floor" in law.at_bound
        held[place].append(float(((said.low <= true) & (true <= said.high)).mean()))
        wide[place].append(float((said.high - said.low).mean()))
    assert len(held[True]) >= 5, "else this shows nothing"
    assert np.mean(held[True]) >= 0.9
    assert np.mean(held[False]) >= 0.9
    assert np.median(wide[True]) >= np.median(wide[False])


def test_at_a_bound_intervals_are_those_just_beside_it() -> None:
    sizes = np.full(3, 8e6), np.full(3, 8e6), np.array([2.0, 4, 8])
    for name, at, inside in (("asymmetry", -2.5, -2.499), ("gamma", -2.0, -1.999)):
        on, beside = (placed(**{name: value}).law for value in (at, inside))
        widths = [
            (said.relative_high - said.relative_low).to_numpy()
            for said in (law.prediction(*sizes, 3) for law in (on, beside))
        ]
        assert on.at_bound == [name]
        np.testing.assert_allclose(*widths, rtol=0.01)


def test_a_bound_is_said_on_the_page_and_in_the_forecast() -> None:
    steep = placed(asymmetry=-2.5)
    assert "has asymmetry at a bound of what the law allows" in " ".join(joint_law.words(steep))
    assert "at a bound" not in " ".join(joint_law.words(placed()))
    content = forecast(steep, 8e6, "parameters", "val_bpb", None)
    assert content["at_bound"] == ["asymmetry"]
    said = joint_law.forecast_in_words(steep, sealed_json(content))
    assert "asymmetry at a bound, which intervals do not take for known" in said


def test_what_runs_leave_open_is_not_determined_and_its_forecast_is_refused() -> None:
    """Of runs that differ by chance far more than by depth."""
    runs = planted(TRUTH, apart=False).assign(key="a")
    theta = np.array([TRUTH[name] for name in NAMES])
    loose = Joint(Runs.of(runs), (14.5, 14.5), theta, Variances(0, 0, 0, 1e6))
    assert loose.best_interval(8e6, 8e6)[1] == math.inf
    joined = JointLaw(runs, loose, (), 1.0, {})
    study = SimpleNamespace(metric="val_bpb")
    law: Any = SimpleNamespace(joined=joined, kind="parameters", studies=[study])
    with pytest.raises(ValueError, match=r"leave it not determined at 8\.0M"):
        forecast_files(law, "8m")
    row = {"budget": 8e6, "found": 3.0, "joint": 0.0025, "joint_low": 0.0, "joint_high": math.inf}
    said = joint_law.kept_promises(pd.DataFrame([row]))
    assert said.endswith("At 8.0M the prediction is not determined.")


def test_every_budget_is_named_with_what_became_of_its_prediction() -> None:
    held = {"joint": 3.0, "joint_low": 2.0, "joint_high": 4.0}
    found = {1e6: 3.0, 2e6: 5.0, 4e6: math.nan}
    rows = pd.DataFrame([{"budget": n, "found": best, **held} for n, best in found.items()])
    said = joint_law.kept_promises(rows)
    assert "lies inside the 95% interval at 1.0M, which is a factor of 2.0 wide (median)" in said
    assert "; outside at 2.0M, so the form fails there" in said
    assert said.endswith("At 4.0M no optimum was found inside the depths tried.")


def test_records_beside_a_law_separate_size_and_tokens_and_must_be_of_its_recipe(
    tmp_path: Path,
) -> None:
    law_studies(tmp_path / "a")
    law_study(tmp_path / "b", "law_1m", ratio=3.2)
    law_study(tmp_path / "b", "law_4m", ratio=0.2)
    studies = [read_study(name, tmp_path / "a" / "outputs") for name in BUDGETS]
    assert not Runs.of(cells(studies)).apart
    more = cells(studies, [tmp_path / "b"])
    assert len(more) == 6 * 18
    law = joint(more)
    assert law.runs.apart
    low, high = law.interval("growth")
    assert low < GROWTH < high
    for record in (tmp_path / "b" / "runs").rglob("record.json"):
        values = read_json(record)
        values["recipe"]["schedule"] = "cosine"
        write_json(record, values)
    with pytest.raises(ValueError, match="schedule is cosine"):
        cells(studies, [tmp_path / "b"])
    record.write_text("")
    with pytest.raises(ValueError, match=f"{record} must hold a run's record, but it cannot be"):
        cells(studies, [tmp_path / "b"])


def test_a_headline_that_the_joint_law_contradicts_is_explained() -> None:
    """Which of the two says what, whichever it is that resolves a change of the best depth."""

    def said(low: float, high: float, refuted: bool) -> str:
        rows = pd.DataFrame({"exponent": [0.0, 0.24], "refuted": [refuted, False]})
        law: Any = SimpleNamespace(
            joined=SimpleNamespace(exponents=rows), growth=SimpleNamespace(interval=(low, high))
        )
        return " ".join(laws.unlike_headline(law))

    assert said(-0.1, 0.4, False) == said(0.1, 0.4, True) == ""
    assert "does not resolve it, and the joint law refutes 0.00" in said(-0.1, 0.4, True)
    assert "resolves that it changes with N, and the joint law does not" in said(0.1, 0.4, False)
    nothing: Any = SimpleNamespace(
        joined=SimpleNamespace(exponents=pd.DataFrame({"exponent": [0.0], "refuted": [True]})),
        growth=None,
    )
    assert "Trust the headline" in " ".join(laws.unlike_headline(nothing))


@pytest.mark.parametrize(
    ("factor", "said"),
    [(1.26, "1.3"), (9.94, "9.9"), (31.4, "31"), (1000.0, "1000"), (12780.6, "over 1,000")],
)
def test_factors_have_no_more_figures_than_they_are_worth(factor: float, said: str) -> None:
    assert times(factor) == said
