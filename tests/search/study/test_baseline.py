"""A baseline that nothing can be compared with gets no further seeds."""

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


def test_a_pruned_baseline_that_is_alone_gets_no_further_seeds() -> None:
    pruned = explored(State.PRUNED, State.PRUNED, State.PRUNED)
    assert plan(2).next(pruned) is Step.DONE


def test_nor_while_the_last_explorers_run() -> None:
    runs = explored(State.COMPLETE, State.PRUNED, State.RUNNING)
    assert plan(1).next(runs) is Step.WAIT


def test_a_finished_baseline_does_and_so_does_a_pruned_one_beside_others() -> None:
    for middle in (State.COMPLETE, State.PRUNED):
        found = plan(1).next(explored(State.COMPLETE, middle, State.COMPLETE))
        assert isinstance(found, Cell)
        assert found.params == OPTIONS[1].params


def test_where_no_other_does_nor_does_the_baseline() -> None:
    done = explored(State.COMPLETE, State.COMPLETE, State.COMPLETE)
    assert plan(0).next(done) is Step.DONE
    assert plan(0).total == plan(0).explorations == len(OPTIONS)
