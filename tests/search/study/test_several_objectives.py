"""Which architectures get further seeds where a study has several objectives."""

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.samplers.nsgaii._elite_population_selection_strategy import _calc_crowding_distance
from optuna.study._multi_objective import _fast_non_domination_rank

from search.states import Role
from search.study.exploration import Exploration, Option, Replicates
from search.study.plan import Attempt, Cell, Step, front_first

DIRECTIONS = ("minimize", "maximize")
values = st.tuples(st.integers(0, 9).map(float), st.integers(0, 9).map(float))


def attempts(
    found: list[tuple[float, float]], broken: frozenset[int] = frozenset()
) -> list[Attempt]:
    return [
        Attempt(
            number=number,
            state="COMPLETE",
            params={"num_blocks": number},
            key=f"{number}-0",
            arm=f"arm{number}",
            layers=number,
            value=each[0],
            values=each,
            excesses={"x<=1": 1.0 if number in broken else -1.0},
        )
        for number, each in enumerate(found)
    ]


@given(st.lists(values, min_size=1, max_size=12))
def test_fronts_come_in_the_order_of_nsga_2(found: list[tuple[float, float]]) -> None:
    """Ranks and crowding distances are Optuna's own."""
    runs = attempts(found)
    ordered = front_first(runs, DIRECTIONS)
    assert sorted(run.number for run in ordered) == list(range(len(runs)))
    losses = np.array([[a, -b] for a, b in found])
    ranks = _fast_non_domination_rank(losses)
    assert [ranks[run.number] for run in ordered] == sorted(ranks)
    for rank in set(ranks):
        front = [n for n in range(len(runs)) if ranks[n] == rank]
        if len({found[n] for n in front}) < len(front):
            continue  # of equal ones Optuna's distances depend on the order
        trials = [
            optuna.trial.create_trial(values=list(found[n]), params={}, distributions={})
            for n in front
        ]
        for trial, number in zip(trials, front, strict=True):
            trial.number = number
        distance = _calc_crowding_distance(trials)
        mine = [distance[run.number] for run in ordered if ranks[run.number] == rank]
        assert mine == sorted(mine, reverse=True) or mine == pytest.approx(
            sorted(mine, reverse=True)
        )


@given(st.lists(values, min_size=2, max_size=12), st.integers(0, 3))
def test_what_breaks_a_constraint_comes_last(found: list[tuple[float, float]], kept: int) -> None:
    broken = frozenset(range(kept, len(found)))
    ordered = front_first(attempts(found, broken), DIRECTIONS)
    places = [run.number in broken for run in ordered]
    assert places == sorted(places)


def plan(n_trials: int, **replicates: int) -> Exploration:
    options = [
        Option(params={"num_blocks": n}, arm=f"arm{n}", layers=n, flops=1.0) for n in range(8)
    ]
    return Exploration(
        options=options,
        n_trials=n_trials,
        replicates=Replicates(**replicates),
        grid=True,
        directions=("minimize", "minimize"),
    )


def test_further_seeds_go_to_the_front() -> None:
    """Three of eight are on it; the middle one of all, number 4, is not."""
    front = {1: (1.0, 9.0), 2: (5.0, 5.0), 6: (9.0, 1.0)}
    runs = attempts([front.get(n, (9.0 + n, 9.0 + n)) for n in range(8)])
    wanted = plan(8 + 3 * 2, top=2, seeds=3)
    given_seeds: list[Cell | Step] = []
    while isinstance(step := wanted.next(runs), Cell):
        given_seeds.append(step)
        runs.append(replicate(step, len(runs)))
    assert step is Step.DONE
    assert {cell.params["num_blocks"] for cell in given_seeds} == set(front)
    assert sorted(cell.seed for cell in given_seeds) == [1, 1, 1, 2, 2, 2]
    middle = wanted.baseline([run for run in runs if run.role == Role.EXPLORE])
    assert middle is not None
    assert middle.number == 2, "of those on the front, the one of middle depth"


def test_no_further_seed_is_given_before_the_front_is_known() -> None:
    runs = attempts([(float(n), 8.0 - n) for n in range(7)])
    busy = Attempt(number=7, state="RUNNING", params={"num_blocks": 7}, key="7-0", arm="arm7")
    assert plan(14, top=2, seeds=3).next([*runs, busy]) is Step.WAIT


def replicate(cell: Cell, number: int) -> Attempt:
    blocks = cell.params["num_blocks"]
    return Attempt(
        number=number,
        state="COMPLETE",
        params=cell.params,
        key=f"{blocks}-{cell.seed}",
        arm=f"arm{blocks}",
        layers=blocks,
        seed=cell.seed,
        role=cell.role,
        value=1.0,
        values=(1.0, 1.0),
    )
