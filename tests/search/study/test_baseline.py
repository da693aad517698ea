"""A baseline that nothing can be compared with gets no further seeds."""

import pytest

from search.states import State
from search.study.exploration import Exploration, Option, Replicates
from search.study.plan import Attempt, Cell, Step

OPTIONS = tuple(
    Option(params={"num_blocks": layers}, arm=f"a{layers}", layers=layers, flops=1.0)
    for layers in (2, 4, 8)
)


def plan(top: int) -> Exploration:
    return Exploration(
        options=OPTIONS, n_trials=9, replicates=Replicates(top=top, seeds=3), grid=True
    )


def explored(*states: State) -> list[Attempt]:
    """One trial of each option, best first where it has finished."""
    return [
        Attempt(
            number=number,
            state=state,
            params=option.params,
            key=f"k{number}",
            arm=option.arm,
            layers=option.layers,
            value=float(number) if state == State.COMPLETE else None,
        )
        for number, (option, state) in enumerate(zip(OPTIONS, states, strict=True))
    ]


@pytest.mark.parametrize("top", [0, 2])
def test_a_pruned_baseline_that_is_alone_gets_no_further_seeds(top: int) -> None:
    others = State.COMPLETE if top == 0 else State.PRUNED
    assert plan(top).next(explored(others, State.PRUNED, others)) is Step.DONE


def test_nor_while_the_last_explorers_run() -> None:
    runs = explored(State.COMPLETE, State.PRUNED, State.RUNNING)
    assert plan(0).next(runs) is Step.WAIT


def test_a_finished_baseline_does_and_so_does_a_pruned_one_beside_others() -> None:
    done = plan(0).next(explored(State.COMPLETE, State.COMPLETE, State.COMPLETE))
    assert isinstance(done, Cell)
    assert done.params == OPTIONS[1].params
    beside = plan(1).next(explored(State.COMPLETE, State.PRUNED, State.COMPLETE))
    assert isinstance(beside, Cell)
    assert beside.params == OPTIONS[1].params
