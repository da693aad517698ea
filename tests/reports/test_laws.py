"""Laws over budgets: planted ones are found again, and what cannot be known is said to be so."""

import io
import json
import math
import re
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from law_fixtures import DEPTHS, EXPONENT, GROWTH, law_studies, law_study
from report_fixtures import RECIPE, figures_of, ladder
from scipy import stats
from scipy.optimize import approx_fprime
from study_fixtures import open_search, work

from reports.__main__ import main
from reports.views import joint_law, law_figures, law_words, laws
from reports.weigh.fits import robust
from reports.weigh.growth import determined, growth, held_out
from reports.weigh.law import Law, name_of, read_law
from reports.weigh.quality import law as law_value
from reports.weigh.quality import quality
from reports.weigh.quality import slopes as law_slopes
from reports.weigh.valley import EDGE, INSIDE, NONE, Valley, valley
from search.study.ending import describe
from space.budget import Budget

ROOT = Path(__file__).parents[2]

# --- The statistics ---------------------------------------------------------------------------

SIZES = (5e5, 1e6, 2e6, 4e6)
TRUE_BEST, TRUE_CURVATURE = 4.0, 0.03


def runs(
    source: np.random.Generator,
    *,
    best: float = TRUE_BEST,
    curvature: float = TRUE_CURVATURE,
    seeds: int = 3,
    noise: float = 0.005,
    level: float = 2.0,
    depths: Sequence[int] = DEPTHS,
) -> pd.DataFrame:
    """A budget's runs from a planted valley; a seed moves all depths alike."""
    rows = []
    for seed in range(seeds):
        moved = level + source.normal(0, 2 * noise)
        for depth in depths:
            value = moved + curvature * math.log(depth / best) ** 2 + source.normal(0, noise)
            rows.append((depth, seed, value))
    return pd.DataFrame(rows, columns=["depth", "seed", "value"])


def planted(
    source: np.random.Generator,
    sizes: Sequence[float] = SIZES,
    *,
    exponent: float = 0.15,
    floor: float = 0.9,
    slope: float = 0.3,
    **more: Any,
) -> list[Valley]:
    """Valleys of a planted law."""
    found = []
    for size in sizes:
        n = size / 1e6
        level = floor + (1.9 - floor) * n**-exponent
        cells = runs(source, best=TRUE_BEST * n**slope, level=level, **more)
        found.append(valley(cells, size, source, 400))
    return found


def fieller(cells: pd.DataFrame) -> tuple[float, float]:
    """The exact interval of the bottom of a quadratic in log depth (Fieller 1954), for normal noise
    and seeds that move all depths alike."""
    x, y = np.log(cells.depth.to_numpy(float)), cells.value.to_numpy()
    center = x.mean()
    x = x - center
    design = np.column_stack([pd.get_dummies(cells.seed).to_numpy(float), x, x**2])
    beta, rest, *_ = np.linalg.lstsq(design, y, rcond=None)
    free = len(y) - design.shape[1]
    cov = np.linalg.inv(design.T @ design)[-2:, -2:] * rest[0] / free
    t = stats.t.ppf(0.975, free)
    b, c = beta[-2:]
    # all v with (b + 2 c v)² <= t² var(b + 2 c v)
    roots = np.roots(
        [4 * (c**2 - t**2 * cov[1, 1]), 4 * (b * c - t**2 * cov[0, 1]), b**2 - t**2 * cov[0, 0]]
    )
    low, high = sorted(roots.real)
    return math.exp(center + low), math.exp(center + high)


def test_a_valley_without_noise_is_found_exactly() -> None:
    found = valley(runs(np.random.default_rng(0), noise=0.0), 1e6, np.random.default_rng(0), 50)
    assert found.status == INSIDE
    assert found.best == pytest.approx(TRUE_BEST)
    assert found.curvature == pytest.approx(TRUE_CURVATURE)
    assert found.at(TRUE_BEST) == pytest.approx(2.0)


@given(seed=st.integers(0, 1000), moved=st.floats(-1, 1), scaled=st.sampled_from([0.5, 2.0, 3.0]))
@settings(max_examples=15, deadline=None)
def test_what_a_seed_adds_and_the_unit_of_the_metric_move_no_bottom(
    seed: int, moved: float, scaled: float
) -> None:
    cells = runs(np.random.default_rng(seed))
    other = cells.assign(value=scaled * cells.value + moved * (cells.seed == 1))
    one, two = (valley(c, 1e6, np.random.default_rng(0), 100) for c in (cells, other))
    assert two.best == pytest.approx(one.best, rel=1e-3)
    assert two.interval == pytest.approx(one.interval, rel=1e-2)


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_intervals_of_the_best_depth_hold_as_often_as_they_say(seeds: int) -> None:
    tables, held = 200, 0
    for number in range(tables):
        source = np.random.default_rng(number)
        low, high = valley(runs(source, seeds=seeds), 1e6, source, 200).interval
        held += low <= TRUE_BEST <= high
    # with one seed three numbers are left to tell the noise from: 90% at least
    least = 0.88 if seeds == 1 else 0.95 - 3 * math.sqrt(0.05 * 0.95 / tables)
    assert held / tables >= least


@pytest.mark.parametrize("own", [0.002, 0.005])
@pytest.mark.parametrize("depths", [(1, 2, 4, 8), DEPTHS])
def test_intervals_hold_where_the_curve_misses_depths_by_about_as_much_as_runs_differ(
    depths: tuple[int, ...], own: float
) -> None:
    """So little that no test finds it: of noise that was pooled where the depths' is the smaller
    estimate, 82 to 86% held with four depths."""
    tables, held = 200, 0
    for number in range(tables):
        source = np.random.default_rng(number)
        cells = runs(source, seeds=5, depths=depths)
        off = dict(zip(depths, source.normal(0, own, len(depths)), strict=True))
        cells["value"] += cells.depth.map(off)
        low, high = valley(cells, 1e6, source, 200).interval
        held += low <= TRUE_BEST <= high
    assert held / tables >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / tables)


@pytest.mark.parametrize(("seeds", "least", "most"), [(1, 0.85, 1.25), (5, 1.0, 1.6)])
def test_intervals_are_about_as_wide_as_the_exact_ones(
    seeds: int, least: float, most: float
) -> None:
    """With one seed both know the noise by the curve alone. With more the exact ones take for
    known that the curve misses no depth, and are narrower for it."""
    ratios = []
    for number in range(40):
        source = np.random.default_rng(number)
        cells = runs(source, seeds=seeds, noise=0.001 if seeds == 1 else 0.005)
        ours, exact = valley(cells, 1e6, source, 500).interval, fieller(cells)
        ratios.append(math.log(ours[1] / ours[0]) / math.log(exact[1] / exact[0]))
    assert least < np.median(ratios) < most


def test_an_outlier_moves_the_best_depth_little() -> None:
    source = np.random.default_rng(5)
    cells = runs(source)
    before = valley(cells, 1e6, np.random.default_rng(0), 100)
    cells.loc[(cells.depth == 2) & (cells.seed == 1), "value"] += 0.5
    after = valley(cells, 1e6, np.random.default_rng(0), 100)
    x = np.log(cells.depth)
    squares = np.polyfit(x, cells.value, 2)
    least_squares = math.exp(-squares[1] / (2 * squares[0]))
    assert abs(math.log(least_squares / TRUE_BEST)) > 0.25, "the outlier must matter"
    assert abs(math.log(after.best / before.best)) < 0.1
    assert after.cells.residual.max() > 0.4


def test_the_robust_fit_is_that_of_statsmodels_at_its_own_scale() -> None:
    from statsmodels.robust.norms import HuberT
    from statsmodels.robust.robust_linear_model import RLM

    source = np.random.default_rng(1)
    x = source.normal(size=60)
    design = np.column_stack([np.ones(60), x])
    y = 1 + 2 * x + source.standard_t(2, size=60)
    found, threshold = robust(design, y)
    theirs = RLM(y, design, M=HuberT(1.345)).fit(scale_est="mad")
    assert found == pytest.approx(theirs.params, abs=0.03)
    assert threshold / 1.345 == pytest.approx(theirs.scale, rel=0.2)


@pytest.mark.parametrize(("best", "end"), [(1.0, "≤ 2"), (40.0, "≥ 15")])
def test_an_optimum_at_the_edge_is_a_bound(best: float, end: str) -> None:
    source = np.random.default_rng(2)
    found = valley(runs(source, best=best, noise=0.002), 1e6, source, 400)
    assert found.status == EDGE
    assert law_words.best_in_words(found) == end
    assert law_words.interval_in_words(found) == end.replace("≤", "under").replace("≥", "over")
    assert growth([found, *planted(source)[:1]]) is None, "a bound is no part of a line"


def test_a_hill_has_no_optimum_inside_and_no_interval() -> None:
    source = np.random.default_rng(3)
    found = valley(runs(source, curvature=-0.03), 1e6, source, 400)
    assert found.status == NONE
    assert math.isnan(found.best)
    assert law_words.best_in_words(found) == "no optimum inside"
    assert law_words.interval_in_words(found) is None


def test_flat_runs_leave_an_interval_without_ends() -> None:
    source = np.random.default_rng(4)
    low, high = valley(runs(source, curvature=0.0002), 1e6, source, 400).interval
    assert low < 2
    assert high > 15


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (2.04, 7.0, "2.0 to 7.0"),
        (0.2, 11.1, "under 1 to 11.1"),
        (3.6, 1e304, "3.6 to over 10,000"),
        (0.0, 0.3, "under 1"),
        (2e4, math.inf, "over 10,000"),
        (0.0, math.inf, "not determined"),
        (0.5, 36_085.0, "not determined"),
    ],
)
def test_depths_that_no_model_can_have_are_bounds(low: float, high: float, said: str) -> None:
    assert law_words.depths(low, high, 1) == said
    assert determined(low, high) == (said != "not determined")
    assert ("not determined" in law_words.predicted(2.4, (low, high), 1)) != determined(low, high)


def test_ends_that_are_not_finite_are_bounds_too() -> None:
    said = law_words.spanned
    assert said(-math.inf, math.inf, 2) == "not determined"
    assert (said(0.1, math.inf, 2), said(-math.inf, 0.1, 2)) == ("over 0.10", "under 0.10")
    assert law_words.bounded(-math.inf, 0.3, -2.5, 2.5, "{:.2f}".format) == "under −2.5 to 0.30"
    assert law_words.bounded(1.0, 40.0, 2, 10, "{:.1f}".format) == "not determined"
    assert law_words.grows((-0.4, 0.9))
    assert not law_words.grows((-0.4, 20.9))
    assert not law_words.grows((-math.inf, 0.9))


def test_too_few_depths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 4 depths, but got 3 \(2, 5, 12\)"):
        valley(runs(np.random.default_rng(0), depths=(2, 5, 12)), 1e6, np.random.default_rng(0))


def test_the_growth_of_best_depth_is_found_and_foretells_the_largest_budget() -> None:
    tables, slopes, largest, beyond = 60, 0, 0, 0
    for number in range(tables):
        valleys = planted(np.random.default_rng(number))
        line, held = growth(valleys), held_out(valleys)
        assert line is not None
        assert held is not None
        slopes += line.interval[0] <= 0.3 <= line.interval[1]
        low, high = held.interval
        largest += low <= TRUE_BEST * 4**0.3 <= high
        low, high = line.predicted(1e8)
        beyond += low <= TRUE_BEST * 100**0.3 <= high
    least = 0.95 - 3 * math.sqrt(0.05 * 0.95 / tables)
    assert min(slopes, largest, beyond) / tables >= least, (slopes, largest, beyond)


def test_a_bound_can_miss_what_was_foretold() -> None:
    source = np.random.default_rng(0)
    smaller = planted(source, SIZES[:3], slope=0.0, noise=0.001)
    for best, depths, inside in ((0.5, (2, 3, 5, 8), False), (4.0, (6, 8, 12, 17), True)):
        edge = valley(runs(source, best=best, depths=depths, noise=0.001), 8e6, source, 400)
        assert edge.status == EDGE
        held = held_out([*smaller, edge])
        assert held is not None
        assert held.inside == inside, (held.interval, held.found)


def test_best_depths_off_the_line_widen_it() -> None:
    source = np.random.default_rng(0)
    sizes = (*SIZES, 8e6)
    found = [
        valley(runs(source, best=best, noise=0.001), size, source, 400)
        for size, best in zip(sizes, (3, 6, 3, 6, 3), strict=True)
    ]
    line = growth(found)
    assert line is not None
    assert line.widened > 3
    assert line.interval[0] < 0 < line.interval[1]


def test_the_laws_derivatives_are_those_of_finite_differences() -> None:
    source = np.random.default_rng(0)
    theta = np.array([0.7, 1.8, 0.2, 0.03, 1.3, 0.25])
    z, x = source.normal(size=8), source.normal(1.5, 0.5, size=8)
    theirs = approx_fprime(theta, lambda t: law_value(t, z, x), 1e-7)
    assert law_slopes(theta, z, x) == pytest.approx(theirs, abs=1e-5)


def test_a_law_without_noise_is_found_exactly() -> None:
    source = np.random.default_rng(0)
    sizes = tuple(10.0**power for power in (5, 6, 7, 8))
    found = quality(planted(source, sizes, noise=1e-9), source, 3)
    middle = found.middle / 1e6
    told = found.parameters
    assert told["floor"] == pytest.approx(0.9, abs=2e-3)
    assert told["level"] == pytest.approx(0.9 + middle**-0.15, abs=1e-4)
    assert told["exponent"] == pytest.approx(0.15, abs=1e-3)
    assert told["curvature"] == pytest.approx(TRUE_CURVATURE, rel=1e-3)
    assert math.exp(told["log_depth"]) == pytest.approx(TRUE_BEST * middle**0.3, rel=1e-3)
    assert told["depth_exponent"] == pytest.approx(0.3, abs=1e-3)


def test_a_law_does_not_ask_for_an_order_of_budgets() -> None:
    valleys = planted(np.random.default_rng(1), SIZES[:3], noise=0.01)
    one, other = (quality(each, np.random.default_rng(2), 5) for each in (valleys, valleys[::-1]))
    assert one.parameters == other.parameters
    pd.testing.assert_frame_equal(one.draws, other.draws)


@pytest.mark.slow
@pytest.mark.parametrize("floor", [0.0, 0.9])
def test_the_parameters_of_a_planted_law_lie_in_their_intervals(floor: float) -> None:
    tables = 10
    held = dict.fromkeys(("level", "exponent", "curvature", "log_depth", "depth_exponent"), 0)
    for number in range(tables):
        source = np.random.default_rng(number)
        found = quality(planted(source, floor=floor, noise=0.003), source, 40)
        middle = found.middle / 1e6
        true = {
            "level": floor + (1.9 - floor) * middle**-0.15,
            "exponent": 0.15,
            "curvature": TRUE_CURVATURE,
            "log_depth": math.log(TRUE_BEST * middle**0.3),
            "depth_exponent": 0.3,
        }
        for name, value in true.items():
            low, high = found.interval(name)
            held[name] += low <= value <= high
    assert min(held.values()) >= 7, held


def test_a_floor_is_known_over_a_wide_range_of_sizes_alone() -> None:
    source = np.random.default_rng(0)
    wide = tuple(10.0**power for power in (5, 6, 7, 8, 9))
    assert quality(planted(source, wide, noise=0.002), source, 40).floor_known
    assert not quality(planted(source, noise=0.004), source, 40).floor_known
    three = quality(planted(source, SIZES[:3]), source, 5)
    assert not three.floor_fitted
    assert three.parameters["floor"] == 0


# --- The page ---------------------------------------------------------------------------------


def test_the_page_finds_the_law_behind_its_records(tmp_path: Path) -> None:
    found = read_law(law_studies(tmp_path), tmp_path / "outputs")
    assert [valley.status for valley in found.valleys] == [INSIDE] * 4
    assert found.growth is not None
    assert found.growth.interval[0] < GROWTH < found.growth.interval[1]
    low, high = found.quality.interval("exponent")
    assert low < EXPONENT < high
    assert found.held_out is not None
    assert found.held_out.inside
    files = laws.render(found)
    text = files["table.md"].decode()
    assert "The best depth grows as N^0.3" in text
    assert "which lies inside" in text
    assert "extrapolation, 26.6 ×" in text, "106M of MobileLLM-125M are no embeddings"
    assert "they are 0.80 per non-embedding parameter, so" in text
    assert "E, the irreducible loss" in text
    assert re.search(r"embeddings are \d+% to \d+% at 500k", text)
    rows = pd.read_csv(pd.io.common.BytesIO(files["runs.csv"]))
    assert len(rows) == 4 * 3 * len(DEPTHS)
    assert files["table.tex"].decode().count("\\begin{tabular}") == 3
    for name in ("depth", "growth", "residuals"):
        assert files[f"{name}.png"].startswith(b"\x89PNG")
        assert f'id="{name}"' in files["report.html"].decode()
    assert '<h1 id="answer">The best depth grows' in files["report.html"].decode()
    captions = re.findall("<figcaption>(.*?)</figcaption>", files["report.html"].decode())
    assert ["clipped to the depths tried" in text for text in captions] == [True, True, False]
    growth = figures_of(files["report.html"].decode())["growth"]
    low, high = growth["layout"]["yaxis"]["range"]
    assert all(10**low < y < 10**high for trace in growth["data"] for y in trace["y"])
    names = growth["layout"]["annotations"]
    assert [name["text"] for name in names] == ["MobileLLM-125M", "MobileLLM-350M"]
    assert all(name["bgcolor"] for name in names), "lines pass behind names"
    assert not any("text" in trace["mode"] for trace in growth["data"])
    assert_growths_are_told_apart(found)
    assert_smoke_is_said(found)


def assert_growths_are_told_apart(law: Law) -> None:
    """Each has a name of its own, and the answer says which it quotes and which to trust."""
    assert law.growth is not None
    assert law.joined is not None
    rows = laws.parameter_rows(law).set_index("name").value
    line, one = f"{rows[law_words.BY_LINE]:.2f}", f"{rows[law_words.BY_ONE_VALLEY]:.2f}"
    joint = f"{law.joined.law.parameter('growth'):.2f}"
    said = law_words.hedges(law)[0]
    assert f"the line's ({line}) assumes least" in said
    assert f"one valley for all budgets ({one}) and the joint law ({joint})" in said
    markdown = laws.markdown(law) + joint_law.files(law.joined)["joint.md"]
    named = re.findall(r"^\| (growth, [^|]+) \|", markdown, re.MULTILINE)
    expected = [law_words.BY_ONE_VALLEY, law_words.BY_LINE, law_words.BY_JOINT]
    assert named == expected
    assert len(set(named)) == 3
    ends = [f"{law.growth.best(v.budget):.1f} layers at" for v in (law.valleys[0], law.valleys[-1])]
    assert f"from {ends[0]} 500k to {ends[1]} 4.0M" in law_words.headline(law)
    assert "by a line through the budgets' best depths" in law_words.headline(law)
    depths = [f"{law.growth.best(v.budget):.1f}" for v in law.valleys]
    _, columns, rows = laws.parts(law)[0]
    place = [column.heading for column in columns].index("best depth, by the line")
    assert [row[place].text for row in rows] == depths, "the table has what the sentence says"


def test_published_growths_are_drawn_through_the_middle_of_ours(tmp_path: Path) -> None:
    law = read_law(law_studies(tmp_path, seeds=1), tmp_path / "outputs")
    assert law.growth is not None
    drawn = list(law_figures.published_growths(law))
    assert [exponent for exponent, *_ in drawn] == [0.0, 0.24, 1 / 3]
    for exponent, budgets, depths in drawn:
        slope, at = np.polyfit(np.log(np.array(budgets) / law.growth.middle), np.log(depths), 1)
        assert slope == pytest.approx(exponent, abs=1e-9)
        assert at == pytest.approx(law.growth.at)
    names = [trace.get("name") for trace in law_figures.interactive(law)["growth"]["data"]]
    assert "published growth N^0.24" in names
    assert list(law_figures.published_growths(replace(law, growth=None))) == []


@pytest.mark.parametrize("top", [1.2, 1.7, 2.1, 2.6, 3.3, 4.1])
def test_an_axis_of_depths_is_marked_up_to_its_end(top: float) -> None:
    marked = law_figures.marks(-0.1, top)
    assert marked[0] == 1
    assert 10**top / 10**0.53 < marked[-1] <= 10**top
    gaps = np.diff(np.log10(marked))
    assert len(marked) <= 10
    assert (gaps > 0.04 * (top + 0.1)).all(), "a twenty-fifth of the axis: a line of small print"


def assert_smoke_is_said(law: Law) -> None:
    """Runs so short that nothing follows from them come before the answer."""
    short = [replace(s, trials=s.trials.assign(tokens=20_480)) for s in law.studies]
    one, every = replace(law, studies=[short[0], *law.studies[1:]]), replace(law, studies=short)
    assert law_words.opening(law) == []
    assert law_words.opening(one) == ["Smoke runs at 500k: ignore the numbers."]
    assert "<h1>Smoke runs: ignore the numbers.</h1>\n<p>The best depth" in laws.html(every)
    assert laws.markdown(every).startswith("Smoke runs: ignore the numbers. The best depth")


@pytest.mark.parametrize(
    "given", ["storage=URL", "'storage=\"URL\"'", "+storage=URL", "++storage=U"]
)
def test_a_law_is_told_without_the_storages_url(given: str) -> None:
    facts = {"command": f"python -m search budget=1m {given} study=a"}
    assert law_words.command(facts) == "python -m search budget=1m study=a"


@pytest.mark.slow
def test_records_unpacked_elsewhere_make_the_same_page(tmp_path: Path) -> None:
    names = law_studies(tmp_path / "here", seeds=1)
    files = laws.render(read_law(names, tmp_path / "here" / "outputs"))
    assert laws.render(unpacked(files["records.tar.xz"], names, tmp_path / "there")) == files


def unpacked(archive: bytes, names: Sequence[str], to: Path) -> Law:
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
        packed.extractall(to, filter="data")
    return read_law(names, to / "outputs", str(to / "runs"))


@pytest.mark.slow
def test_the_law_of_the_readme_is_what_its_records_say(tmp_path: Path) -> None:
    published = ROOT / "reports" / "results" / "laws"
    budgets = pd.read_csv(published / "budgets.csv")
    archive = (published / "records.tar.xz").read_bytes()
    found = laws.budget_rows(unpacked(archive, list(budgets.study), tmp_path))
    numbers = ["budget", "runs", "tokens", "at_best", "curvature", "best_depth"]
    np.testing.assert_allclose(found[numbers], budgets[numbers], rtol=1e-6)
    assert list(found.interval) == list(budgets.interval)


def test_a_best_depth_that_is_not_determined_lies_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    law = read_law(law_studies(tmp_path), tmp_path / "outputs")
    assert "which lies inside" in law_words.held_out_in_words(law)
    monkeypatch.setattr(type(law.valleys[-1]), "interval", (0.1, 4000.0))
    said = law_words.held_out_in_words(law)
    assert said.endswith("(not determined).")


def test_the_published_models_are_counted_as_the_law_counts(tmp_path: Path) -> None:
    found = read_law(law_studies(tmp_path), tmp_path / "outputs").predicted
    assert list(found.layers) == [30, 32]
    # 124,635,456 less 32,000 × 576; MobileLLM-350M the same way, 960 wide (arXiv:2402.14905)
    assert found["size"][0] == 124_635_456 - 32_000 * 576


def test_a_loss_within_a_factor_of_thousands_is_not_determined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    law = read_law(law_studies(tmp_path), tmp_path / "outputs")
    (row,) = laws.parameter_rows(law).query("name == 'E + A'").to_dict("records")
    assert row["value"] > 1
    monkeypatch.setattr(type(law.quality), "interval", lambda self, name: (0.0005, 3.0188))
    (row,) = laws.parameter_rows(law).query("name == 'E + A'").to_dict("records")
    assert math.isnan(row["value"])
    assert row["interval"] == "not determined"


def test_an_edge_is_said_and_drawn_as_one(tmp_path: Path) -> None:
    def deep_is_worse(budget: int, depth: int, seed: int) -> float:
        return (
            2 - math.log10(budget) / 10 + 0.03 * math.log(depth) ** 2 + 0.001 * (seed + depth % 3)
        )

    found = read_law(law_studies(tmp_path, bpb=deep_is_worse, seeds=1), tmp_path / "outputs")
    assert {valley.status for valley in found.valleys} == {EDGE}
    assert found.growth is None
    files = laws.render(found)
    text = files["table.md"].decode()
    assert "How the best depth grows is not determined: 0 of 4" in text
    assert "≤ 2" in text
    assert "Do not rely on the growth in the tables" in law_words.hedges(found)[0]
    assert "space.axes.num_blocks=[…] and another study=NAME" in text
    assert "the same command with replicates.top=5 replicates.seeds=3 n_trials=18" in text
    at_half = [
        replace(v, lowest=1, slope=2 * v.curvature * (v.centre + math.log(2)))
        for v in found.valleys
    ]
    one = replace(found, valleys=at_half)
    assert [round(valley.best, 6) for valley in one.valleys] == [0.5] * 4
    said = law_words.hedges(one)[-2]
    assert "one layer was tried, and fewer cannot be" in said
    assert "num_blocks" not in said
    assert "triangle-down" in json.dumps(figures_of(files["report.html"].decode()))


def complain(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path, *given: str
) -> str:
    """The one line that the command answers with."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["reports", *given])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert not (folder / "outputs" / "laws").exists()
    return line.removeprefix("error: ")


def one(folder: Path, name: str, **more: Any) -> None:
    law_study(folder, name, seeds=1, **more)


def mixed_recipes(folder: Path) -> None:
    one(folder, "law_1m")
    one(folder, "law_2m", recipe=replace(RECIPE, lr=1e-3))


def mixed_tokens(folder: Path) -> None:
    one(folder, "law_1m")
    one(folder, "law_2m", ratio=0.9)


def mixed_kinds(folder: Path) -> None:
    one(folder, "law_1m")
    one(folder, "law_2m", kind="parameters")


def mixed_shares(folder: Path) -> None:
    one(folder, "law_1m", kind="parameters")
    one(folder, "law_4m", kind="parameters", depths=(2, 3, 5, 8))


def few_depths(folder: Path) -> None:
    one(folder, "law_1m")
    one(folder, "law_2m", depths=(2, 5, 8))


def unfinished(folder: Path) -> None:
    one(folder, "law_1m")
    one(folder, "law_2m", finished=False, n_trials=21)


def one_budget_twice(folder: Path) -> None:
    one(folder, "law_1m")
    one(folder, "again", budget=1_000_000)


def two_shapes_a_depth(folder: Path) -> None:
    one(folder, "law_1m")
    study = law_study(folder, "law_2m", seeds=1)
    budget = Budget("non_embedding_parameters", 2_000_000)
    (other,) = ladder([5], budget, tie_word_embeddings=False)
    study.add(other, recipe=replace(RECIPE, tokens=1_600_000))
    study.write()


def mixed_runs(folder: Path) -> None:
    one(folder, "law_1m")
    study = law_study(folder, "law_2m", seeds=1, depths=(2, 3, 5, 8))
    (more,) = ladder([12], Budget("non_embedding_parameters", 2_000_000))
    study.add(more, recipe=replace(RECIPE, tokens=1_600_000, lr=1e-3))
    study.write()


LISTED = "study=[law_1m,law_2m]"


@pytest.mark.parametrize(
    ("make", "given", "words"),
    [
        (lambda f: one(f, "law_1m"), ["study=law_1m"], ["at least two budgets", "law_1m"]),
        (lambda f: one(f, "law_1m"), ["study=[law_1m,law_1m]"], ["at least two budgets"]),
        (lambda f: one(f, "law_1m"), [], ["at least two budgets", "none"]),
        (lambda f: one(f, "law_1m"), [LISTED], ["study", "law_2m", "choose one of law_1m"]),
        (mixed_recipes, [LISTED], ["recipe.lr is 0.003 in law_1m and 0.001 in law_2m"]),
        (mixed_runs, [LISTED], ["recipe.lr is 0.003 in law_1m and 0.001 in law_2m"]),
        (mixed_tokens, [LISTED], ["tokens per parameter", "2%", "0.800 in law_1m", "0.900"]),
        (mixed_kinds, [LISTED], ["kind of budget", "non_embedding_parameters", "law_2m"]),
        (mixed_shares, ["study=[law_1m,law_4m]"], ["share", "3 points", "non_embedding"]),
        (few_depths, [LISTED], ["law_2m must have at least 4 depths", "has 3"]),
        (unfinished, [LISTED], ["law_2m must be finished", "6 of 21"]),
        (one_budget_twice, ["study=[law_1m,again]"], ["different budgets", "1,000,000"]),
        (two_shapes_a_depth, [LISTED], ["law_2m", "one architecture a depth", "5 layers"]),
    ],
    ids=(
        "one twice none absent recipes runs tokens kinds shares depths unfinished budget shapes"
    ).split(),
)
def test_what_makes_no_law_is_one_line(
    make: Any,
    given: list[str],
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make(tmp_path)
    line = complain(capsys, monkeypatch, tmp_path, "page=laws", *given)
    assert all(word in line for word in words), line


def test_a_page_that_is_none_and_a_list_for_one_page_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "page must be laws" in complain(capsys, monkeypatch, tmp_path, "page=lows")
    line = complain(capsys, monkeypatch, tmp_path, "study=[a,b]")
    assert "several need page=laws" in line
    line = complain(capsys, monkeypatch, tmp_path, "page=laws", "table=heads")
    assert "table or page must be given, not both" in line
    assert "page=laws" in complain(capsys, monkeypatch, tmp_path, "study=a", "called=b")
    for name in ("../b", "..", ".", "b/"):
        line = complain(capsys, monkeypatch, tmp_path, "page=laws", LISTED, f"called={name}")
        assert "called must be a name that a folder" in line


def test_runs_that_a_pruner_stopped_are_no_part_of_a_law_and_named(tmp_path: Path) -> None:
    one(tmp_path, "law_1m")
    stopped = law_study(tmp_path, "law_2m", seeds=1)
    whole = read_law(["law_1m", "law_2m"], tmp_path / "outputs")
    assert not any("pruner" in text for text in law_words.unknown(whole))
    stopped.add_unstarted("PRUNED")
    stopped.write()
    found = read_law(["law_1m", "law_2m"], tmp_path / "outputs")
    (text,) = [text for text in law_words.unknown(found) if "pruner" in text]
    assert "1 run at 2.0M" in text
    pd.testing.assert_frame_equal(found.valleys[1].cells, whole.valleys[1].cells)


def test_shares_of_embeddings_that_fall_with_the_budget_are_flagged(tmp_path: Path) -> None:
    flag = "keeps the shares equal"
    for name, vocabulary in (("law_500k", 512), ("law_4m", 1448)):
        law_study(tmp_path, name, vocab_size=vocabulary, depths=(2, 3, 5, 8), seeds=1)
    level = read_law(["law_500k", "law_4m"], tmp_path / "outputs")
    assert flag not in law_words.on_embeddings(level)
    law_study(tmp_path, "law_500k", vocab_size=1448, depths=(2, 3, 5, 8), seeds=1)
    assert flag in law_words.on_embeddings(read_law(["law_500k", "law_4m"], tmp_path / "outputs"))


def test_a_vocabulary_that_grows_with_the_budget_keeps_shares_comparable(tmp_path: Path) -> None:
    for name, vocabulary in (("law_1m", 512), ("law_4m", 1024)):
        law_study(tmp_path, name, kind="parameters", depths=(3, 5, 8, 12), vocab_size=vocabulary)
    found = read_law(["law_1m", "law_4m"], tmp_path / "outputs")
    assert "N counts parameters. With a vocabulary of 512 and 1,024" in law_words.on_embeddings(
        found
    )


@pytest.mark.slow
def test_studies_of_real_runs_make_the_same_page_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for size in ("100k", "200k"):
        search = open_search(
            tmp_path,
            f"study=law_{size}",
            f"budget=non_embedding_parameters:{size}",
            "space.axes.num_blocks=[2,3,4,5]",
            "tokens_per_parameter=0.01",
            *("n_trials=4", "replicates.top=0", "replicates.seeds=1"),
        )
        work(search)
        describe(search, finished=True)
    files = []
    for told in (["study=[law_100k,law_200k]"], ["study=[law_200k,law_100k]", "called=ours"]):
        monkeypatch.setattr(sys, "argv", ["reports", "page=laws", *told])
        main()
        last = capsys.readouterr().out.splitlines()[-1]
        folder = Path(last.removeprefix("report: ")).parent
        files.append({file.name: file.read_bytes() for file in folder.iterdir()})
    assert folder == Path("outputs/laws/ours")
    assert files[0] == files[1]
    assert re.search(r"^\| 200k \|.*\| law_200k \|$", files[0]["table.md"].decode(), re.MULTILINE)
    assert len(files[0]) == 13


def test_a_law_is_named_after_what_its_studies_have_in_common_and_apart() -> None:
    assert name_of(["law_500k_v", "law_1m_v", "law_2m_v"]) == "law_500k+1m+2m_v"
    assert name_of(["a", "b"]) == "a+b"
    assert name_of(["law", "law_1m"]) == "law+law_1m"
    assert name_of(["law_1m", "law_1m_seed1"]) == "law_1m+1m_seed1"
    many = [f"depth_width_non_embedding_parameters_{n}k_0.8_per_parameter" for n in range(200, 260)]
    long = name_of(many)
    assert long.startswith("depth_width_non_embedding_parameters_200k+201k+")
    assert len(long.encode()) == 100
    assert name_of(many[:-1]) != long


def test_labels_of_depths_leave_each_other_room(tmp_path: Path) -> None:
    law = read_law(law_studies(tmp_path, depths=range(1, 16), seeds=2), tmp_path / "outputs")
    for figure in (law_figures._print_residuals(law), law_figures._print_depth(law)):
        figure.draw_without_rendering()
        for axes in figure.axes:
            boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
            assert len(boxes) > 5
            assert all(a.x1 < b.x0 for a, b in pairwise(boxes)), boxes
    page = law_figures.interactive(law)["residuals"]["layout"]["xaxis"]
    assert len(page["tickvals"]) == len(page["ticktext"]) < 15
