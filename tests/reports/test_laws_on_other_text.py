"""Laws hold the choice of held-out text: by simulation, and on the page where it is not known."""

import math
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from law_fixtures import BUDGETS, DEPTHS, law_study

from ablations.stats.evaluation import covariance
from benchmarks.joint_law import KINDS, Truth
from reports.views import law_words, laws
from reports.weigh.evaluation import OfRuns
from reports.weigh.growth import growth
from reports.weigh.joint import joint
from reports.weigh.law import Law, read_law
from reports.weigh.quality import quality
from reports.weigh.valley import Valley, valley

SIZES, SEEDS, WINDOWS = (5e5, 1e6, 2e6), 3, 200
BEST, GROWTH, CURVATURE = 4.0, 0.2, 0.03


def on_windows(draw: np.random.Generator, cells: pd.DataFrame, tilt: float, own: float) -> Any:
    """Runs whose values move with the windows: hard ones are hard for all, some favour depth at
    all sizes alike (`tilt`), and each architecture has its own. The cells and what is known."""
    alike = cells.groupby(["size", "depth"]).ngroup().to_numpy()
    moved = draw.normal(0, 0.3, WINDOWS)
    moved = moved + np.outer(np.log(cells.depth), draw.normal(0, tilt, WINDOWS))
    moved += draw.normal(0, own, (alike.max() + 1, WINDOWS))[alike]
    keys = [f"run {n}" for n in range(len(cells))]
    cells = cells.assign(value=cells.value + moved.mean(1), key=keys)
    known = covariance(cells.value.to_numpy()[:, None] + moved, np.ones(WINDOWS))
    return cells, OfRuns(pd.DataFrame(known, keys, keys), WINDOWS)


def valleys_of(seed: int, known: bool, tilt: float = 0.15, own: float = 0.02) -> list[Valley]:
    draw, rows = np.random.default_rng(seed), []
    for size in SIZES:
        best = BEST * (size / 1e6) ** GROWTH
        for number in range(SEEDS):
            level = 2.0 + draw.normal(0, 0.004)
            for depth in DEPTHS:
                value = level + CURVATURE * math.log(depth / best) ** 2 + draw.normal(0, 0.002)
                rows.append({"size": size, "depth": depth, "seed": number, "value": value})
    cells, text = on_windows(draw, pd.DataFrame(rows), tilt, own)
    moved = text.drawn(draw, 400) if known else None
    return [valley(cells[cells["size"] == s], s, draw, 400, moved) for s in SIZES]


def test_the_interval_of_a_best_depth_holds_what_all_text_would_say() -> None:
    laws_drawn, held = 100, {True: 0, False: 0}
    for seed in range(laws_drawn):
        for known in held:
            low, high = valleys_of(seed, known)[1].interval
            held[known] += low <= BEST <= high
    assert held[True] / laws_drawn >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / laws_drawn)
    assert held[False] / laws_drawn < 0.6, "else this shows nothing"


def test_what_all_sizes_have_in_common_of_it_is_not_in_their_growth() -> None:
    """Windows that favour depth move every best depth, and hardly how it grows. What each
    architecture has of its own is in the growth."""
    laws_drawn, held, widths = 60, 0, []
    for seed in range(laws_drawn):
        lines = [growth(valleys_of(seed, known, own=1e-3)) for known in (True, False)]
        (low, high), (without, _) = (line.interval for line in lines if line is not None)
        held += low <= GROWTH <= high
        middle = (low + high) / 2
        widths.append((high - middle) / (middle - without))
    assert held / laws_drawn >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / laws_drawn)
    assert np.median(widths) < 1.4
    own = [growth(valleys_of(seed, True, own=0.1)) for seed in range(20)]
    assert all(line is not None for line in own)
    ends = [line.interval for line in own if line is not None]
    assert sum(low <= GROWTH <= high for low, high in ends) >= 17
    assert np.median([high - low for low, high in ends]) > 0.3


def test_the_level_of_a_law_holds_how_hard_the_text_was() -> None:
    draw = np.random.default_rng(3)
    valleys = valleys_of(3, True, own=1e-3)
    keys = [key for v in valleys for key in v.cells.key]
    hard = pd.DataFrame(np.full((len(keys), len(keys)), 0.05**2), keys, keys)
    moved = OfRuns(hard, WINDOWS).drawn(draw, 100)
    without, held = (
        quality(valleys, np.random.default_rng(1), 100, text) for text in (None, moved)
    )
    wider = {
        name: float(np.divide(*(np.subtract(*law.interval(name)) for law in (held, without))))
        for name in ("level", "curvature")
    }
    assert wider["level"] > 4
    assert 0.8 < wider["curvature"] < 1.25, "hard text moves no valley"


def test_the_joint_law_holds_what_all_text_would_say() -> None:
    """Its best depth at a million parameters, where windows favour depth."""
    truth = Truth(KINDS[0], 3.0, 0.1)
    held, laws_drawn = {True: 0, False: 0}, 20
    for seed in range(laws_drawn):
        draw = np.random.default_rng(seed)
        cells = truth.runs(draw).rename(columns={"parameters": "size"})
        cells, text = on_windows(draw, cells, 0.3, 0.02)
        cells = cells.rename(columns={"size": "parameters"})
        for known in held:
            law = joint(cells, text.covariance if known else None)
            low, high = law.best_interval(1e6, 8e5)
            held[known] += low <= 3.0 <= high
            if known:
                assert (law.p("growth", 0.1) > 0.05) == (
                    law.interval("growth")[0] < 0.1 < law.interval("growth")[1]
                )
    assert held[True] >= 17, "fewer has a chance of 1.6% where 95% hold"
    assert held[False] <= 14, "else this shows nothing"


def test_hard_text_alone_changes_nothing_but_the_level_of_a_joint_law() -> None:
    cells = Truth(KINDS[0], 3.0, 0.1).runs(np.random.default_rng(0))
    cells["key"] = [str(n) for n in range(len(cells))]
    hard = pd.DataFrame(np.full((len(cells), len(cells)), 0.05**2), cells.key, cells.key)
    plain, held = joint(cells), joint(cells, hard)
    assert held.interval("growth") == pytest.approx(plain.interval("growth"), rel=0.02)
    assert held.p("growth", 0.3) == pytest.approx(plain.p("growth", 0.3), rel=0.02)
    np.testing.assert_array_equal(held.theta, plain.theta)


def with_windows(root: Path, kept: tuple[str, ...]) -> Law:
    for name, budget in list(BUDGETS.items())[:3]:
        windows = [0.1 * (-1) ** i for i in range(64)] if name in kept else None
        law_study(root, name, budget=budget, windows=windows)
    return read_law(list(BUDGETS)[:3], root / "outputs")


def test_a_law_says_whether_it_holds_the_text_and_publishes_what_it_takes(tmp_path: Path) -> None:
    names = tuple(BUDGETS)[:3]
    known, part = with_windows(tmp_path / "a", names), with_windows(tmp_path / "b", names[1:])
    assert "Intervals hold the choice of 64 held-out windows." in law_words.hedges(known)
    assert "leave out the choice of held-out text" in law_words.hedges(part)[-1]
    assert part.text is None
    assert part.joined is not None
    assert part.joined.text is None
    assert known.joined is not None
    assert known.joined.text is not None
    wide, narrow = (law.valleys[1].interval for law in (known, part))
    assert wide[1] / wide[0] > 1.05 * narrow[1] / narrow[0]
    (tmp_path / "c.tar.xz").write_bytes(laws.records(known))
    with tarfile.open(tmp_path / "c.tar.xz") as archive:
        archive.extractall(tmp_path / "c", filter="data")
    again = read_law(list(names), tmp_path / "c" / "outputs", str(tmp_path / "c" / "runs"))
    assert again.valleys[1].interval == wide


def test_records_without_windows_beside_a_law_leave_its_joint_law_without(tmp_path: Path) -> None:
    with_windows(tmp_path, tuple(BUDGETS)[:3])
    law_study(tmp_path / "other", "law_4m", ratio=1.6)
    law = read_law(
        list(BUDGETS)[:3], tmp_path / "outputs", besides=[str(tmp_path / "other" / "runs")]
    )
    assert law.joined is not None
    assert law.joined.text is None
    assert "but for the joint law's: records beside" in law_words.hedges(law)[-1]
