"""Waiting for a database that is away: restarted, failed over, or behind a lost connection."""

import sys
import threading
import time
from collections.abc import Callable, Container, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, RDBStorage, get_storage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from space.compat import just_made, write_trial

P = ParamSpec("P")
T = TypeVar("T")

WAIT_S = 600
"""How long a database may be away, in the middle of a study."""
STOPPING_WAIT_S = 10
"""The same for a worker that is to end."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10
"""Between two attempts; each pause is twice the one before."""
LOST_SESSION = ("25006", "25P03")
"""What PostgreSQL says after a fail-over that left this connection with a standby, and to a process
that was stopped, or cut off, for too long in the middle of a transaction."""


class Patience:
    """Repeats what fails because the database is away, for a limited time."""

    def __init__(self, engine: Engine, stopping: threading.Event | None = None) -> None:
        self.engine, self.stopping = engine, stopping or threading.Event()
        self.limited = engine.dialect.name != "sqlite"
        """Whether it can be away: a file is there, or is not."""

    def wrap(self, call: Callable[P, T]) -> Callable[P, T]:
        """The call, which waits."""

        @wraps(call)
        def patient(*args: P.args, **options: P.kwargs) -> T:
            began, pause = time.monotonic(), FIRST_PAUSE_S
            while True:
                try:
                    return call(*args, **options)
                except Exception as error:
                    if not (self.limited and is_away(error)) or self._is_enough(began):
                        raise
                    if pause == FIRST_PAUSE_S:
                        self._say(error)
                self.engine.dispose()  # its other connections are as dead
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)

        return patient

    def _is_enough(self, began: float) -> bool:
        limit = STOPPING_WAIT_S if self.stopping.is_set() else WAIT_S
        return time.monotonic() - began > limit

    def _say(self, error: Exception) -> None:
        lines = str(error.__cause__ or error).strip().splitlines()
        print(
            f"the storage does not answer ({lines[0]}); waiting up to {WAIT_S // 60} minutes",
            file=sys.stderr,
            flush=True,
        )


def is_away(error: BaseException) -> bool:
    """Whether this is the database's absence, which passes, and nothing that was asked of it."""
    cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
    if not isinstance(cause, DBAPIError):
        return False
    state = getattr(cause.orig, "sqlstate", None) or getattr(cause.orig, "pgcode", None)
    return (
        cause.connection_invalidated
        or isinstance(cause, OperationalError | InterfaceError)
        or state in LOST_SESSION
    )


class PatientStorage:
    """Optuna's storage, each of whose methods waits. Nothing happens twice that must happen once:
    what a lost answer leaves done is found done."""

    def __init__(self, storage: RDBStorage, patience: Patience) -> None:
        self._database, self._storage, self.patience = storage, get_storage(storage), patience
        self.engine = patience.engine
        self.may_wait = True
        """Whether trials may be there that were enqueued. Optuna looks for them before each trial,
        which is needless for one who has just read all."""
        self._made: dict[int, FrozenTrial] = {}
        """What this process has made and not asked for yet."""
        self._drawn: dict[int, dict[str, tuple[float, BaseDistribution]]] = {}
        """By trial, what was drawn for it and is not written yet."""

    @property
    def as_optunas(self) -> BaseStorage:
        """This, as what Optuna takes it for: it asks for methods alone."""
        return cast(BaseStorage, self)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._storage, name)
        if not callable(found):
            return found
        patient = self.patience.wrap(found)
        setattr(self, name, patient)
        return patient

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """As Optuna's, which then asks for what it has just made."""
        trial_id = self.patience.wrap(self._storage.create_new_trial)(study_id, template_trial)
        if template_trial is None:  # the others wait, and are taken later
            self._made[trial_id] = just_made(self._storage, trial_id)
        return trial_id

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """As Optuna's."""
        if states == (TrialState.WAITING,) and not self.may_wait:
            return []
        return self.patience.wrap(self._storage.get_all_trials)(study_id, deepcopy, states)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """As Optuna's."""
        if trial_id in self._made:
            return self._made.pop(trial_id)
        self._write_drawn(trial_id)
        return self.patience.wrap(self._storage.get_trial)(trial_id)

    def set_trial_param(
        self, trial_id: int, name: str, value: float, distribution: BaseDistribution
    ) -> None:
        """As Optuna's, but written together with what is written of the trial next."""
        self._drawn.setdefault(trial_id, {})[name] = (value, distribution)

    def set_trial_user_attrs(self, trial_id: int, values: Mapping[str, Any]) -> None:
        """As `set_trial_user_attr`, all at once or none."""
        write = self.patience.wrap(write_trial)
        write(self._database, trial_id, self._drawn.pop(trial_id, {}), values)

    def _write_drawn(self, trial_id: int) -> None:
        if trial_id in self._drawn:
            self.set_trial_user_attrs(trial_id, {})

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Any = None) -> bool:
        """As Optuna's, where an end that was written without an answer is no error."""
        self._write_drawn(trial_id)
        tries = 0

        def once() -> bool:
            nonlocal tries
            tries += 1
            try:
                return self._storage.set_trial_state_values(trial_id, state, values)
            except optuna.exceptions.UpdateFinishedTrialError:
                if tries > 1 and self._storage.get_trial(trial_id).state == state:
                    return True
                raise

        return self.patience.wrap(once)()
