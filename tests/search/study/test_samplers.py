"""Replays on a table whose answers are known, the published table, and what is refused."""

import json
import re
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from itertools import pairwise
from math import inf
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from study_fixtures import environment, overrides, write_text

from benchmarks.samplers import (
    BUDGETS,
    GOAL,
    Outcome,
    Replay,
    Strategy,
    Trace,
    View,
    as_json,
    by_number,
    main,
    noise,
    posterior_means,
    restricted,
    summary,
)
from benchmarks.tabular import COLUMNS, TABLE, Tabular, beside, load
from search.recipe import Recipe
from search.study.exploration import Option, options_of
from space.axes import Space
from space.budget import Budget

RECIPE = Recipe(
    tokens=64 * 128, seq_len=32, batch_size=4, horizons=(0.25, 0.5), warmup_fraction=0.0
)
"""Of 64 steps; branches from 13 to 16 and from 26 to 32."""
STEPS = {"whole": 64 + 3 + 6, "first": 13 + 3, "second": 26 + 3 + 6}
"""A run's trunk and branches: to the end; stopped at either horizon."""
CHOICES = ("tie_word_embeddings", "qk_norm", "attention_bias")
SPACE = Space(
    name="cube",
    budget=Budget.parse("100k"),
    vocab_size=300,
    axes={name: [True, False] for name in CHOICES},
    fixed={"num_blocks": 2},
)
"""All eight combinations lie on the budget, and none is drawn more often than another."""
OPTIONS = options_of(SPACE, RECIPE.seq_len)


def tabular(loss: Callable[[int, int, float], float]) -> Tabular:
    """A table in which option n on a seed has this loss at a horizon."""
    rows = [
        dict.fromkeys(COLUMNS, 0)
        | {"arm": option.arm, "seed": seed, "horizon": horizon, "val_bpb": loss(n, seed, horizon)}
        | option.params
        for n, option in enumerate(OPTIONS)
        for seed in range(3)
        for horizon in (*RECIPE.horizons, 1.0)
    ]
    return Tabular(pd.DataFrame(rows), SPACE, RECIPE, {"date": "today"})


def one_best(n: int, seed: int, horizon: float) -> float:
    """Option 5 is best, on any seed and at any horizon; no two are within the goal."""
    return 2.0 + 0.1 * abs(n - 5) + 0.01 * seed + (1 - horizon)


def traces(strategy: Strategy, number: int, view: View | None = None) -> list[Trace]:
    view = view or View(tabular(one_best), 0)
    return [Replay(view, strategy, n, len(OPTIONS)).trace(inf) for n in range(number)]


def test_a_grid_finds_the_best_at_its_place_in_the_order() -> None:
    view = View(tabular(one_best), 0)
    order = sorted(OPTIONS, key=lambda option: -option.flops)
    (trace,) = traces(Strategy("grid"), 1, view)
    assert trace.spent == list(range(1, 9))
    assert view.reached(trace) == 1 + order.index(OPTIONS[5])


@pytest.mark.parametrize("good", [1, 2])
def test_random_search_needs_what_drawing_without_replacement_does(good: int) -> None:
    """k good ones of n: (n + 1) / (k + 1) on average, though proposals repeat."""

    def loss(n: int, seed: int, horizon: float) -> float:
        return 2.0 if 5 <= n < 5 + good else 3.0

    view = View(tabular(loss), 0)
    assert view.good == good
    reached = np.array([view.reached(trace) for trace in traces(Strategy("random"), 150, view)])
    assert set(reached) <= set(range(1, 10 - good))
    expected = (8 + 1) / (good + 1)
    assert abs(reached.mean() - expected) < 3 * reached.std() / 150**0.5


@pytest.mark.parametrize("sampler", ["tpe", "gp", "qmc", "cmaes", "nsga2"])
def test_every_sampler_finds_the_best_before_the_space_is_used_up(sampler: str) -> None:
    view = View(tabular(one_best), 0)
    for trace in traces(Strategy(sampler), 2, view):
        assert trace.chosen[-1] == OPTIONS[5].arm
        assert view.reached(trace) <= 8
        assert trace.spent == list(range(1, len(trace.spent) + 1))


@pytest.mark.parametrize("pruner", ["median", "asha", "hyperband"])
def test_pruned_runs_cost_their_trunk_and_branches(pruner: str) -> None:
    view = View(tabular(one_best), 0)
    found = set()
    for trace in traces(Strategy("random", pruner), 5, view):
        steps = [round(64 * (b - a)) for a, b in pairwise([0.0, *trace.spent])]
        found |= set(steps)
        assert trace.chosen[-1] == OPTIONS[5].arm  # horizons agree: it is never stopped
        assert len(steps) == 8
    assert found <= set(STEPS.values())
    assert len(found) > 1


def test_what_misleads_at_a_horizon_is_lost_to_a_pruner() -> None:
    view = View(tabular(lambda n, _, horizon: 9 - n if horizon < 1 else 2 + n), 0)
    pruned, alone = traces(Strategy("random", "asha"), 9, view), traces(Strategy("random"), 3, view)
    assert any(trace.chosen[-1] != OPTIONS[0].arm for trace in pruned)
    assert all(trace.chosen[-1] == OPTIONS[0].arm for trace in alone)


def test_agreement_is_that_of_ranks_at_each_horizon() -> None:
    """At the first the order is turned round, at the second two neighbours are swapped: of eight,
    that is 1 − 6 · 2 / (8 · 63)."""

    def loss(n: int, seed: int, horizon: float) -> float:
        place = {0.25: 9 - n, 0.5: {3: 4, 4: 3}.get(n, n)}.get(horizon, n)
        return float(np.exp(place)) + (seed - 1) * 1e-3

    assert tabular(loss).agreement == pytest.approx({0.25: -1.0, 0.5: 1 - 12 / 504})


def test_the_seed_that_chooses_does_not_score() -> None:
    """Option 4 looks best on seed 0 alone."""

    def loss(n: int, seed: int, horizon: float) -> float:
        return 1.99 if (n, seed) == (4, 0) else one_best(n, 0, horizon)

    view = View(tabular(loss), 0)
    (trace,) = traces(Strategy("grid"), 1, view)
    assert trace.chosen[-1] == OPTIONS[4].arm
    assert view.quality.idxmin() == OPTIONS[5].arm
    assert view.excess[trace.chosen[-1]] > GOAL


def test_posterior_means_are_those_of_a_normal_prior_where_it_is_one() -> None:
    """Truth N(0, 1), noise N(0, 1): half of what is seen is the best guess."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=600)
    seen = truth + rng.normal(size=600)
    found = posterior_means(seen, 1.0, rounds=300)
    assert np.abs(found - seen / 2)[np.abs(seen) < 1.5].max() < 0.3
    assert np.mean((found - truth) ** 2) == pytest.approx(0.5, abs=0.06)
    assert np.mean((seen - truth) ** 2) == pytest.approx(1.0, abs=0.12)


def test_the_best_is_no_longer_too_good_to_be_true() -> None:
    rng = np.random.default_rng(1)
    naive, fair = [], []
    for _ in range(60):
        truth = rng.normal(size=100)
        seen = truth + rng.normal(size=100)
        found, best = posterior_means(seen, 1.0, rounds=200), seen.argmin()
        naive.append(seen[best] - truth[best])
        fair.append(found[best] - truth[best])
    error = np.std(fair) / 60**0.5
    assert abs(np.mean(fair)) < 3 * error
    assert np.mean(naive) < -10 * error


def test_noise_is_what_architecture_and_seed_leave() -> None:
    rng = np.random.default_rng(0)
    both = rng.normal(size=(200, 1)) + rng.normal(size=(1, 3)) * 5
    assert noise(both) == pytest.approx(0, abs=1e-12)
    assert noise(both + 0.3 * rng.normal(size=(200, 3))) == pytest.approx(0.3, rel=0.1)
    exact = np.arange(5.0)
    assert posterior_means(exact, 0.0) is exact


BOTH = Strategy("grid"), Strategy("random")


def outs(reached: list[float]) -> list[Outcome]:
    excess = dict.fromkeys(BUDGETS, 0.01)
    return [Outcome(n % 3, at, excess, [], 0.1) for n, at in enumerate(reached)]


def test_who_never_got_there_counts_as_the_limit_and_is_told() -> None:
    found = {
        Strategy("grid"): outs([6.0] * 9),
        Strategy("random"): outs([8.0, 8.0, 8.0, 10.0, 10.0, 10.0, inf, inf, inf]),
    }
    rows = summary(found, 20).set_index("strategy")
    row = rows.loc[Strategy("random")]
    assert row["never"] == pytest.approx(1 / 3)
    assert row["mean"] == pytest.approx((8 + 10 + 20) / 3)
    assert row["median"] == 10
    assert row["grid"] == pytest.approx((8 + 10 + 20) / 18)
    assert row["mean_low"] < row["mean"] < row["mean_high"]
    assert rows.loc[Strategy("grid"), "mean_low"] == rows.loc[Strategy("grid"), "mean_high"] == 6
    assert list(restricted(outs([inf, 3.0]), 20)) == [20, 3]


def test_replays_that_draw_alike_are_one_piece_of_evidence() -> None:
    """More seeds of the table do not narrow an interval, where replays are the same on each."""
    reached = np.random.default_rng(0).uniform(1, 20, size=30)
    three = summary({s: outs(list(np.repeat(reached, 3))) for s in BOTH}, 20).iloc[1]
    samples = np.random.default_rng(1).choice(reached, (4000, 30)).mean(axis=1)
    low, high = np.quantile(samples, [0.025, 0.975])
    assert three["mean_high"] - three["mean_low"] == pytest.approx(high - low, rel=0.1)
    assert set(by_number(outs([0.0, 10.0, 20.0] * 4), np.array([0.0, 10.0, 20.0] * 4))) == {10.0}


def test_strategies_are_compared_number_by_number() -> None:
    """One that does what random search does, on fewer numbers, is as good as it: no matter that
    random search fared worse on the others."""
    reached = np.random.default_rng(0).uniform(1, 20, size=30)
    same, half = outs(list(np.repeat(reached, 3))), outs(list(np.repeat(reached[:10] / 2, 3)))
    found = {s: same for s in BOTH} | {Strategy("tpe"): outs(list(np.repeat(reached[:10], 3)))}
    rows = summary(found | {Strategy("gp"): half}, 20).set_index("strategy")
    columns = ["random", "random_low", "random_high"]
    assert list(rows.loc[Strategy("tpe"), columns]) == pytest.approx([1, 1, 1])
    assert list(rows.loc[Strategy("gp"), columns]) == pytest.approx([0.5, 0.5, 0.5])


def test_a_pruner_that_could_stop_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--pruners", "wilcoxon"])
    assert ended.value.code == 2
    assert "recipe.horizons has 2" in capsys.readouterr().err


def test_what_has_no_choice_yet_is_null() -> None:
    nothing = Outcome(0, inf, {5: inf, 20: 0.5}, [], 0.1)
    text = as_json({Strategy("random"): [nothing]}, Namespace(limit=20))
    (replay,) = json.loads(text)["strategies"][0]["replays"]
    assert replay == {"seed": 0, "reached": None, "excess": {"5": None, "20": 0.5}}
    assert "Infinity" not in text


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "small.csv.xz"
    table = tabular(one_best)
    table.write(path)
    again = load(path)
    pd.testing.assert_frame_equal(again.frame, table.frame, check_dtype=False)
    assert (again.space, again.recipe) == (table.space, table.recipe)
    assert again.origin["columns"] == COLUMNS
    assert [option.arm for option in again.options] == [option.arm for option in OPTIONS]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda frame: frame.iloc[:-1], "one reading for each"),
        (lambda frame: pd.concat([frame, frame[:1]]), "one reading for each"),
        (lambda frame: frame.drop(columns="seed"), "must have the column seed"),
        (lambda frame: frame.assign(arm=frame.arm.str.replace("a", "b")), "and no other"),
    ],
)
def test_an_incomplete_table_is_refused(
    tmp_path: Path, spoil: Callable[[pd.DataFrame], pd.DataFrame], words: str
) -> None:
    path = tmp_path / "small.csv.xz"
    tabular(one_best).write(path)
    spoil(load(path).frame).to_csv(path, index=False)
    with pytest.raises(ValueError, match=words):
        load(path)


def test_what_is_wrong_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "small.csv.xz"
    for given, words in (
        (["--table", str(path)], "--train` makes ours"),
        (["--train", "--replays", "0"], "replays must be at least 1, but got 0"),
        (["--train", "--workers", "0"], "workers must be at least 1, but got 0"),
        (["--train", "--set", "workers"], "overrides must be NAME=VALUE, but got 'workers'"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(given)
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert words in line
    tabular(one_best).write(path)
    beside(path).write_text("{")
    with pytest.raises(SystemExit):
        main(["--table", str(path)])
    assert "must be as it was written" in capsys.readouterr().err


@pytest.mark.slow
def test_a_table_is_trained_by_a_search_and_replayed(tmp_path: Path) -> None:
    """The command as it is, but for the size of what is trained."""
    text = write_text(tmp_path)
    small = overrides(
        *("space=depth_width", "+space.axes.head_dim_scale=[1]", "recipe.tokens=4096"),
        *("recipe.horizons=[0.5]", f"data.path={text}"),
    )
    path = tmp_path / "small.csv.xz"
    command = [sys.executable, "-m", "benchmarks.samplers", "--table", str(path), "--train"]
    command += ["--replays", "2", "--limit", "3", "--samplers", "random", "--pruners", "none"]
    command += ["--set", *small]
    for words in ("0 of 12 runs done", "12 of 12 runs done"):
        done = subprocess.run(
            command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        assert words in done.stdout
    table = load(path)
    assert len(table.frame) == 4 * 3 * 2
    assert table.frame.groupby("horizon").tokens.unique().map(list).to_dict() == {
        0.5: [2048],
        1.0: [4096],
    }
    assert set(table.frame) == {*COLUMNS, "head_dim_scale"}
    records = list((tmp_path / "runs").glob("*/record.json"))
    ends = {r["readings"][-1]["val_bpb"] for r in map(json.loads, map(Path.read_text, records))}
    assert sorted(table.ends().to_numpy().ravel()) == pytest.approx(sorted(ends), rel=1e-6)
    assert re.search(r"\| random \| \d+% \|", done.stdout)


@pytest.mark.parametrize(("name", "least"), [("tabular", 100), ("tabular_shapes", 75)])
def test_a_published_table_is_whole_and_small(name: str, least: int) -> None:
    path = TABLE.with_name(f"{name}.csv.xz")
    table = load(path)
    assert len(table.options) >= least
    assert len(table.seeds) >= 3
    assert len(table.horizons) >= 3
    assert path.stat().st_size + beside(path).stat().st_size < 512 * 1024
    assert set(table.frame.columns) >= set(COLUMNS)
    known: list[Option] = options_of(
        Space.from_yaml(name, "300k", table.space.vocab_size), table.recipe.seq_len
    )
    assert {option.arm for option in known} == set(table.frame.arm)
