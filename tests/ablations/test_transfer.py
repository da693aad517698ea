"""Loss against learning rate: where seeds go, what a common rate costs, and what is said of it."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from study_fixtures import TINY, environment, records, write_text

from ablations.cells import TableWork
from ablations.files import TableFile
from ablations.questions.transfer import QUESTION, panels
from ablations.stats import transfer
from search.recipe import Recipe
from search.study.plan import Attempt, Cell, Step

RECIPE = Recipe(tokens=100_000, precision="fp32")
RATES = [1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2]
STEP = 0.02
"""Bits per byte that the squared distance from the best rate costs, in steps."""


def cells(best: dict[str, dict[str, int]], *, seeds: int = 3, spread: float = 0.0) -> pd.DataFrame:
    """Parabolas over the rates, by the place of the best rate of each rule's shapes."""
    noise = np.random.default_rng(0)
    rows = [
        {
            "panel": transfer.panel_name(rule, shape),
            "arm": transfer.rate_name(rate),
            "seed": seed,
            "value": 2 + STEP * (place - at) ** 2 + 0.1 * seed + spread * noise.standard_normal(),
            "done": True,
            "parametrisation": rule,
            "shape": shape,
            "rate": rate,
        }
        for rule, shapes in best.items()
        for shape, at in shapes.items()
        for place, rate in enumerate(RATES)
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("seeds", "said"),
    [(1, "1 seed each"), (3, "1 seed each, 3 of the best rate of each shape and those next to it")],
)
def test_a_plan_says_which_rates_get_more_seeds(seeds: int, said: str) -> None:
    assert QUESTION.seeds_in_words(SimpleNamespace(auto=False, seeds=seeds)) == said


def test_the_common_rate_has_the_smallest_largest_cost() -> None:
    frame = cells({"sp": {"wide": 1, "deep": 3}, "completep": {"wide": 2, "deep": 2}}, spread=1e-4)
    rows = transfer.costs(frame).set_index(["parametrisation", "shape"])
    assert list(rows.common) == [4e-3] * 4
    assert rows.loc[("sp", "wide"), "steps"] == -1
    assert rows.loc[("sp", "deep"), "steps"] == 1
    assert rows.loc[("sp", "deep"), "cost"] == pytest.approx(STEP / 2.1, rel=0.02)
    low, high = rows.loc[("sp", "deep"), ["cost_low", "cost_high"]]
    assert low < STEP / 2.1 < high < 1.1 * low
    assert rows.loc[("completep", "deep"), "cost"] == 0
    assert not rows.edge.any()
    told = transfer.verdicts(rows.reset_index()).set_index("parametrisation")
    assert dict(told.near) == {"sp": "holds", "completep": "holds"}
    assert dict(told.cheap) == {"sp": "fails", "completep": "holds"}


def test_two_steps_are_not_near_and_an_edge_is_flagged() -> None:
    rows = transfer.costs(cells({"sp": {"wide": 0, "deep": 4}}))
    assert list(rows.steps) == [-2, 2]
    assert rows.edge.all()
    assert transfer.verdicts(rows).near.item() == "fails"


def test_what_the_spread_hides_is_unresolved() -> None:
    frame = cells({"completep": {"wide": 2, "deep": 2}}, spread=0.03)
    rows = transfer.costs(frame)
    assert (rows.cost_low == 0).all()
    assert (rows.cost_high > transfer.WANTED_COST).all()
    assert transfer.verdicts(rows).cheap.item() == "unresolved"


def test_a_verdict_speaks_for_all_shapes_and_all_rates_that_may_be_best() -> None:
    names = ["parametrisation", "common", "steps", "level_steps", "cost", "cost_low", "cost_high"]
    wide = ("completep", 3e-3, -1, (-1, 0), 0.001, 0.0, 0.0015)
    deep = ("completep", 3e-3, 0, (0, 1, 2), 0.0, 0.0, 0.02)
    told = transfer.verdicts(pd.DataFrame([wide, deep], columns=names)).iloc[0]
    assert (told.cost, told.cost_high) == (0.001, 0.02), "the two are of different shapes"
    assert (told.near, told.cheap) == ("unresolved", "unresolved")
    deep = (*deep[:3], (0, 1), 0.0, 0.0, 0.002)
    told = transfer.verdicts(pd.DataFrame([wide, deep], columns=names)).iloc[0]
    assert (told.near, told.cheap) == ("holds", "holds")
    deep = (*deep[:2], 2, (2, 3), 0.02, 0.01, 0.03)
    told = transfer.verdicts(pd.DataFrame([wide, deep], columns=names)).iloc[0]
    assert (told.near, told.cheap) == ("fails", "fails")
    deep = (*deep[:2], 0, (), 0.0, float("nan"), float("nan"))
    told = transfer.verdicts(pd.DataFrame([wide, deep], columns=names)).iloc[0]
    assert (told.near, told.cheap) == ("unresolved", "unresolved"), "one seed says neither"


def test_missing_seeds_do_not_move_the_curve() -> None:
    """A seed adds the same to all rates; one that only some have must not favour these."""
    frame = cells({"sp": {"wide": 2}})
    curve = transfer.curve_of(frame)
    some = frame[(frame.seed == 0) | frame.rate.isin(RATES[1:4])]
    relative = transfer.curve_of(some)
    assert relative.idxmin() == curve.idxmin() == RATES[2]
    np.testing.assert_allclose(relative, curve, rtol=1e-9)


def test_rates_without_an_interval_leave_both_verdicts_open() -> None:
    """Each rate has lost another seed, which leaves no spread of its own to any."""
    frame = cells({"sp": {"wide": 2}}, spread=1e-3)
    frame = frame[frame.rate.isin(RATES[1:4])].reset_index(drop=True)
    lost = frame.rate.map({RATES[1]: 0, RATES[2]: 1, RATES[3]: 2}) == frame.seed
    frame.loc[lost, "value"] = np.nan
    rows = transfer.costs(frame)
    assert rows[["cost_low", "cost_high"]].isna().all(axis=None), rows
    told = transfer.verdicts(rows).iloc[0]
    assert (told.near, told.cheap) == ("unresolved", "unresolved")


def test_a_rate_without_an_interval_leaves_the_cost_open_whatever_the_others_allow() -> None:
    """Two rates have seeds in common; the third has others, and may be the best."""
    frame = cells({"sp": {"wide": 2}}, seeds=6)
    frame = frame[frame.rate.isin(RATES[1:4])].reset_index(drop=True)
    frame.loc[(frame.rate == RATES[3]) != (frame.seed >= 3), "value"] = np.nan
    rows = transfer.costs(frame)
    assert rows[["cost_low", "cost_high"]].isna().all(axis=None), rows
    assert transfer.verdicts(rows).cheap.item() == "unresolved"


def test_a_rate_at_which_a_shape_diverges_is_never_common() -> None:
    frame = cells({"sp": {"wide": 2, "deep": 4}})
    lost = (frame["shape"] == "deep") & (frame.rate == RATES[3])
    frame.loc[lost, "value"] = np.nan
    assert transfer.common_rate(frame) != RATES[3]
    frame.loc[frame["shape"] == "deep", "value"] = np.nan
    assert transfer.common_rate(frame) is None
    told = transfer.verdicts(transfer.costs(frame))
    assert told.cheap.item() == "fails"
    assert told.near.item() == "fails"


def test_seeds_go_to_the_best_rate_its_neighbours_and_the_common_one() -> None:
    frame = cells({"sp": {"wide": 0, "deep": 2}, "completep": {"wide": 2, "deep": 2}})
    frame["done"] = False
    waiting = transfer.wanted(frame, 3)
    assert set(waiting.values()) == {1}
    assert len(waiting) == 4 * len(RATES)
    first = (frame.seed == 0) & (frame.parametrisation == "sp")
    frame.loc[first, "done"] = True
    frame.loc[~first, "value"] = np.nan
    limits = transfer.wanted(frame, 3)
    by_panel = {
        panel: [limits[panel, transfer.rate_name(r)] for r in RATES]
        for panel in frame.panel.unique()
    }
    assert by_panel["sp, wide"] == [3, 3, 1, 1, 1]  # the common rate is the second
    assert by_panel["sp, deep"] == [1, 3, 3, 3, 1]
    assert by_panel["completep, wide"] == [1] * 5  # still waits for its first seeds


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"rates": RATES, "shapes": {}}, "must hold parametrisations, rates, shapes"),
        ({"rates": RATES, "shapes": {}, "parametrisations": [], "seed": 1}, "may hold base"),
        ({"rates": [1, 1, 2], "shapes": {}, "parametrisations": []}, "from low to high"),
        ({"rates": [1, 2], "shapes": {}, "parametrisations": []}, "three or more"),
    ],
)
def test_a_wrong_file_is_refused(content: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        panels(content)


def ended(work: TableWork, cell: Cell, value: float, number: int) -> Attempt:
    run = work.run(cell.params, cell.seed)
    return Attempt(
        number=number,
        state="COMPLETE",
        params=dict(cell.params),
        key=run.key,
        arm="a",
        seed=cell.seed,
        role="cell",
        value=value,
    )


def test_a_table_trains_one_seed_everywhere_and_more_where_the_best_are() -> None:
    shapes = {"wide": {"num_blocks": 2}, "deep": {"num_blocks": 9}}
    content = {"parametrisations": ["sp", "completep"], "rates": RATES, "shapes": shapes}
    file = TableFile(name="rates", caption="", seeds=3, question="transfer", content=content)
    table = file.table("proxy", RECIPE, 2048)
    work = TableWork(table=table, data_fingerprint="a")
    attempts: list[Attempt] = []
    while isinstance(cell := work.next(attempts, 0), Cell):
        place = RATES.index(float(cell.params["arm"]))
        best = 1 if "wide" in cell.params["panel"] else 3
        attempts.append(ended(work, cell, 2 + STEP * (place - best) ** 2, len(attempts)))
    assert cell is Step.DONE
    assert len(attempts) == 4 * len(RATES) + 4 * 3 * 2
    assert [a.seed for a in attempts[: 4 * len(RATES)]] == [0] * 4 * len(RATES)
    assert work.after(attempts, 0).total == len(attempts)
    for panel in table.panels:
        (parametrisation,) = {arm.recipe.parametrisation for arm in panel.arms}
        assert panel.name.startswith(f"{parametrisation}, ")
        assert len({arm.architecture for arm in panel.arms}) == 1


TABLE = """
caption: Rates of two shapes.
budget: 100k
seeds: 2
transfer:
  parametrisations: [completep]
  rates: [1e-3, 4e-3, 1.6e-2]
  shapes:
    wide: {num_blocks: 2}
    deep: {num_blocks: 7}
"""


@pytest.mark.slow
def test_the_command_leaves_curves_costs_and_a_picture(tmp_path: Path) -> None:
    path = write_text(tmp_path)
    (tmp_path / "rates.yaml").write_text(TABLE)
    own = [x for x in TINY if not x.startswith(("space", "study", "budget", "report"))]
    done = subprocess.run(
        [sys.executable, "-m", "ablations", "table=rates.yaml", f"data.path={path}", *own],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "completep: at the common rate" in done.stdout
    trained = records(tmp_path)
    assert 6 < len(trained) <= 12
    folder = tmp_path / "outputs" / "tables" / "rates"
    table = (folder / "transfer.md").read_text()
    assert "| completep | wide |" in table
    assert (folder / "transfer.png").read_bytes().startswith(b"\x89PNG")
    rows = pd.read_csv(folder / "transfer.csv").set_index("shape")
    losses: dict[tuple[int, float], list[float]] = {}
    for record in trained.values():
        place = record["architecture"]["num_blocks"], record["recipe"]["lr"]
        losses.setdefault(place, []).append(record["readings"][-1]["val_bpb"])
    for shape, blocks in (("wide", 2), ("deep", 7)):
        mean = {rate: np.mean(x) for (b, rate), x in losses.items() if b == blocks and len(x) == 2}
        assert rows.best[shape] == min(mean, key=mean.__getitem__)
        cost = mean[rows.common[shape]] / min(mean.values()) - 1
        assert rows.cost[shape] == pytest.approx(cost, abs=1e-9)


def test_rules_may_have_names_of_their_own_and_shapes_recipes() -> None:
    """As in `table=batch_transfer`: arms are rates, panels differ in what the recipe says."""
    table = TableFile.read("batch_transfer").table("proxy", RECIPE, 1024)
    found = {
        panel.name: {(a.recipe.batch_size, a.recipe.reference_batch_tokens) for a in panel.arms}
        for panel in table.panels
    }
    assert found["rules, batches of 2048"] == {(16, 512)}
    assert found["none, batches of 8192"] == {(64, 0)}
    frame = pd.DataFrame({"panel": list(found), "arm": "0.003"})
    rows = transfer.described(frame, ["completep"] * len(found), [3e-3] * len(found))
    alone = {"learning rate", "learning rate to 2048", "beta2", "decay"}
    assert set(rows.parametrisation) == {"rules", "none", *alone}
    assert set(rows["shape"]) == {f"batches of {n}" for n in (512, 2048, 8192)}
    lengths = TableFile.read("token_transfer").table("proxy", RECIPE, 1024)
    assert {a.recipe.tokens for p in lengths.panels for a in p.arms} == {
        10**5,
        5 * 10**5,
        25 * 10**5,
    }


def test_a_rule_with_a_comma_in_its_name_is_refused() -> None:
    content = {"parametrisations": {"a, b": {}}, "rates": RATES, "shapes": {"wide": {}}}
    with pytest.raises(ValueError, match="no comma, but got 'a, b'"):
        panels(content)
