"""What every pruner must do. On your own: `--implementation mine.py`."""

from collections.abc import Sequence
from pathlib import Path

import optuna
import pytest
from contract_fixtures import failures_of
from optuna.trial import TrialState
from study_fixtures import run, sent, study_json

from search.recipe import Recipe
from search.study.pruners import PRUNERS, PrunerConfig, make_pruner

DOOR = PRUNERS
RECIPE = Recipe(tokens=10**6, horizons=(0.2, 0.3, 0.4, 0.5))


def open_study(
    implementation: str, storage: optuna.storages.BaseStorage | None = None
) -> optuna.Study:
    """As a worker opens it."""
    pruner = make_pruner(PrunerConfig(name=implementation), RECIPE)
    return optuna.create_study(
        study_name="fixed",
        storage=storage,
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=pruner,
        load_if_exists=True,
    )


def readings(quality: float) -> list[tuple[int, float]]:
    """Tokens and value at each horizon of a run that ends at this value."""
    ends = [branch.end for branch in RECIPE.branches]
    return [(end * RECIPE.tokens_per_step, quality * (1 + 10 / end)) for end in ends]


def stopped(study: optuna.Study, qualities: Sequence[float]) -> list[bool]:
    """Whether each of these runs was stopped, one after the other."""
    found = []
    for quality in qualities:
        trial = study.ask()
        for tokens, value in readings(quality):
            trial.report(value, step=tokens)
            if trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, quality)
        found.append(study.trials[-1].state == TrialState.PRUNED)
    return found


def test_the_first_run_goes_to_its_end(implementation: str) -> None:
    """There is nothing to compare it with."""
    assert stopped(open_study(implementation), [1.0]) == [False]


def test_runs_that_are_the_best_so_far_go_to_their_end(implementation: str) -> None:
    qualities = [2.0 - 0.05 * n for n in range(15)]
    assert not any(stopped(open_study(implementation), qualities))


def test_runs_that_get_worse_and_worse_are_stopped_unless_none_is(implementation: str) -> None:
    stops = stopped(open_study(implementation), [1.0 + 0.1 * n for n in range(30)])
    assert any(stops) == (implementation != "none")


def test_it_decides_by_the_storage_alone(implementation: str, tmp_path: Path) -> None:
    """Workers come and go: one that joins decides as one that was there from the start."""
    qualities = [1.0, 1.1, 0.9, 1.3, 1.2, 1.25, 1.4, 0.95, 1.5, 1.6]
    whole = stopped(open_study(implementation), qualities)
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")
    by_turns = [stopped(open_study(implementation, storage), [value])[0] for value in qualities]
    assert by_turns == whole


def test_its_configuration_is_handed_to_workers(implementation: str) -> None:
    config = sent(PrunerConfig(name=implementation))
    assert isinstance(make_pruner(config, RECIPE), optuna.pruners.BasePruner)


def test_without_horizons_it_is_refused_or_needs_none(implementation: str) -> None:
    config, without = PrunerConfig(name=implementation), Recipe(tokens=10**6)
    if not PRUNERS.load(implementation).needs_horizons:
        make_pruner(config, without)
        return
    with pytest.raises(ValueError, match=r"must have readings to act on.*recipe\.horizons"):
        make_pruner(config, without)


def test_an_option_that_it_does_not_take_is_refused_in_one_line(implementation: str) -> None:
    config = PrunerConfig(name=implementation, options={"no_such_option": 1})
    with pytest.raises(ValueError, match=r"pruner\..* must be ") as error:
        make_pruner(config, RECIPE)
    assert "no_such_option" in str(error.value)
    assert "\n" not in str(error.value)


MINE = '''
"""Stops what is worse by more than `margin` than the best at the same horizon."""

from optuna.pruners import BasePruner

from search.study.pruners import Pruner


class Margin(BasePruner):
    def __init__(self, margin):
        self.margin = margin

    def prune(self, study, trial):
        step = trial.last_step
        others = [t.intermediate_values for t in study.trials if t.number != trial.number]
        known = [values[step] for values in others if step in values]
        return bool(known) and trial.intermediate_values[step] > min(known) + self.margin


class Mine(Pruner):
    def make(self, recipe, margin=0.0):
        return Margin(margin)


PRUNER = Mine()
'''


def test_what_is_no_pruner_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(MINE.replace("return Margin(margin)", "return margin"))
    with pytest.raises(ValueError, match=r"must make one of Optuna's pruners, but made 0\.0;"):
        make_pruner(PrunerConfig(name=str(path)), RECIPE)


@pytest.mark.slow
def test_a_pruner_of_ones_own_stops_runs_of_a_search(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    given = ("pruner=mine.py", "recipe.tokens=5120", "recipe.horizons=[0.5]", "n_trials=4")
    given += ("replicates.seeds=1", "+pruner.options.margin=-1")
    done = run(tmp_path, *given, "study=null")
    assert done.returncode == 0, done.stderr
    assert "mine.py may stop the former after 50% of their tokens" in done.stdout
    content = study_json(tmp_path, "depth_width_100k_smoke_text_mine")
    assert content["pruner"] == "mine.py"
    assert [trial["state"] for trial in content["trials"]] == ["COMPLETE"] + ["PRUNED"] * 3


BAD = '''
from optuna.pruners import BasePruner


class Impatient(BasePruner):
    """Stops a run now and then, and remembers by itself when it was."""

    seen = 0

    def prune(self, study, trial):
        self.seen += 1
        return self.seen % 6 == 5


class Bad:
    needs_horizons = True

    def make(self, recipe, **options):
        return Impatient()


PRUNER = Bad()
'''


@pytest.mark.slow
def test_the_contract_names_what_a_bad_pruner_lacks(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(BAD)
    assert failures_of(Path(__file__), tmp_path / "bad.py") == {
        "test_runs_that_are_the_best_so_far_go_to_their_end",
        "test_it_decides_by_the_storage_alone",
        "test_an_option_that_it_does_not_take_is_refused_in_one_line",
    }
