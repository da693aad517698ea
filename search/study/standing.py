"""A trial's standing with the study's pruner."""

from typing import Any, cast

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from space.compat import frozen, storage_of


class Standing:
    """Says what `trial.should_prune()` would, were it not for failed attempts."""

    def __init__(self, study: optuna.Study) -> None:
        # The storage, not the study: hyperband asks it by studies of its own, one per bracket.
        storage = cast(BaseStorage, _WithoutFailed(storage_of(study)))
        self._study = optuna.Study(study.study_name, storage, pruner=study.pruner)

    def would_prune(self, trial: Trial) -> bool:
        """Whether the study's pruner stops this trial, by what it has reported."""
        return self._study.pruner.prune(self._study, frozen(self._study, trial))


class _WithoutFailed:
    """A storage as pruners see it, without attempts that failed: a run that goes on reports again
    what it did before, and would count twice (successive halving counts trials of any state)."""

    def __init__(self, storage: BaseStorage) -> None:
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_trials(self, *args: Any, **options: Any) -> list[FrozenTrial]:
        trials = self._storage.get_all_trials(*args, **options)
        return [trial for trial in trials if trial.state != TrialState.FAIL]
