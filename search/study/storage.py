"""The study in Optuna's storage.

A trial's user attributes say which run it is (`key`, `arm`, `seed`, `role`, `layers`, `cell`), who
works on it (`worker`), and how it ended (`status`, `reason`, `reused`, `duplicate`).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock
import optuna
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from search.states import Role, State, Status
from search.study.job import Job
from search.study.locks import HOST, run_lock
from search.study.plan import Attempt
from space.compat import reopened, without_experimental_warnings
from space.doors import alike

HEARTBEAT_S, GRACE_S = 20, 120
"""A trial silent for so long is lost: that is how other machines' deaths are noticed. This
machine's are at once."""

LOST = "lost"
"""Of a study: the numbers of trials whose records were damaged or removed after they had ended."""

optuna.logging.set_verbosity(optuna.logging.ERROR)


def open_storage(url: str) -> RDBStorage:
    """Optuna's storage at a SQLAlchemy URL, made where there is none.

    Raises:
        ValueError: it cannot be opened.
    """
    try:
        sqlite = make_url(url).get_backend_name() == "sqlite"
        with without_experimental_warnings():
            return RDBStorage(
                url,
                engine_kwargs={"connect_args": {"timeout": 60}} if sqlite else None,
                heartbeat_interval=HEARTBEAT_S,
                grace_period=GRACE_S,
            )
    except (SQLAlchemyError, ImportError, RuntimeError, ValueError) as error:
        shown = (
            "storage" if isinstance(error, ArgumentError) else f"storage {without_password(url)}"
        )
        raise ValueError(
            f"{shown} must be a SQLAlchemy URL that can be opened, such as sqlite:///study.db or "
            f"postgresql+psycopg://user@host/name, but {_first_line(error)}"
        ) from None


def without_password(url: str) -> str:
    """The URL as it may be shown and kept; nothing of what is none, for it may hold a password."""
    try:
        shown = make_url(url)
        secret = [name for name in shown.query if "pass" in name.lower()]  # libpq reads them there
        return shown.difference_update_query(secret).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        return "…"


def open_study(
    storage: RDBStorage,
    name: str,
    settings: Mapping[str, Any],
    naming: str = "study",
    pruner: BasePruner | None = None,
    directions: Sequence[str] = ("minimize",),
) -> optuna.Study:
    """The study of this name, new or with the trials it has.

    Raises:
        ValueError: it was made with other settings; the message shows the difference.
    """
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        directions=[StudyDirection[direction.upper()] for direction in directions],
        load_if_exists=True,
        pruner=pruner or NopPruner(),
    )
    before = study.user_attrs.get("settings")
    if before is None:
        study.set_user_attr("settings", settings)
        study.set_user_attr("started", datetime.now(UTC).isoformat(timespec="seconds"))
    elif changed := list(differences(before, json.loads(json.dumps(settings)))):
        more = f" (and {len(changed) - 3} more)" if len(changed) > 3 else ""
        raise ValueError(
            f"study {name} must keep its space, data and recipe, but {'; '.join(changed[:3])}{more}"
            f"; choose another name with {naming}=NAME, or take the change back"
        )
    return study


def load_study(job: Job, sampler: BaseSampler, pruner: BasePruner) -> optuna.Study:
    """The study that a worker joins."""
    return optuna.load_study(
        study_name=job.study,
        storage=open_storage(job.storage),
        sampler=sampler,
        pruner=pruner,
    )


def settled_precision(storage: RDBStorage, name: str) -> str | None:
    """The precision that `auto` became when the study was made."""
    for summary in optuna.get_all_study_summaries(storage, include_best_trial=False):
        if summary.study_name == name:
            settings = summary.user_attrs.get("settings", {})
            return settings.get("recipe", {}).get("precision")  # type: ignore[no-any-return]
    return None


def differences(before: Mapping[str, Any], now: Mapping[str, Any], at: str = "") -> Iterator[str]:
    """What changed between two nested mappings: `recipe.lr was 0.003, is 0.004`."""
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differences(old, new, f"{at}{name}.")
        elif not alike(old, new):
            yield f"{at}{name} was {_short(old)}, is {_short(new)}"


def read_attempts(study: optuna.Study) -> list[Attempt]:
    """All trials of the study, by number. One whose record was lost counts as interrupted: its run
    is done again. Where the study prunes no longer, so does a pruned one: it goes on."""
    lost = set(study.user_attrs.get(LOST, ()))
    attempts = [_attempt(trial) for trial in study.get_trials(deepcopy=False)]
    attempts = [_interrupted(a) if a.number in lost else a for a in attempts]
    if not isinstance(study.pruner, NopPruner):
        return attempts
    return [_interrupted(a) if a.state == State.PRUNED else a for a in attempts]


def _interrupted(attempt: Attempt) -> Attempt:
    return replace(
        attempt, state=State.FAIL, status=Status.INTERRUPTED, value=None, values=(), excesses={}
    )


def _attempt(trial: FrozenTrial) -> Attempt:
    kept = trial.user_attrs
    values = tuple(trial.values or ()) if trial.state == TrialState.COMPLETE else ()
    return Attempt(
        number=trial.number,
        state=State(trial.state.name),
        params=kept.get("cell", trial.params),
        key=kept.get("key"),
        arm=kept.get("arm"),
        seed=kept.get("seed", 0),
        role=Role(kept.get("role", Role.EXPLORE)),
        layers=kept.get("layers", 0),
        value=values[0] if values else None,
        values=values,
        excesses=trial.constraints,
        readings=trial.intermediate_values,
        status=Status(kept["status"]) if kept.get("status") else None,
        reason=kept.get("reason"),
        duplicate=kept.get("duplicate", False),
        reused=kept.get("reused", False),
        result_id=kept.get("result_id"),
    )


def lose(
    study: optuna.Study, trial: FrozenTrial, reason: str, status: Status | None = None
) -> None:
    """Mark a trial whose worker is gone. Its cell is then open, and the next free worker's."""
    try:
        lost = reopened(study, trial)
        lost.set_user_attr("reason", reason)
        if status is not None:
            lost.set_user_attr("status", status)
        study.tell(trial.number, state=TrialState.FAIL)
    except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
        return  # it ended just before, or another machine was quicker


def running(study: optuna.Study, worker: str) -> list[FrozenTrial]:
    """The trials in progress of a worker (`host:pid`), or of all workers of a host."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [t for t in trials if str(t.user_attrs.get("worker", "")).startswith(f"{worker}:")]


def lose_abandoned(study: optuna.Study, runs: Path) -> int:
    """Mark this host's trials whose workers were killed; their number.

    A worker holds its run's lock while it lives: where the lock is free, no one is behind it.
    """
    abandoned = 0
    for trial in running(study, HOST):
        lock = run_lock(runs, trial.user_attrs.get("key", ".unclaimed"))
        try:
            with lock.acquire(timeout=0):
                lose(study, trial, "its worker was killed", status=Status.INTERRUPTED)
                abandoned += 1
        except filelock.Timeout:
            continue
    return abandoned


def fail_silent(study: optuna.Study) -> None:
    """Mark trials that have not beaten for `GRACE_S`: other machines' workers that are gone."""
    with without_experimental_warnings():
        optuna.storages.fail_stale_trials(study)


def _first_line(error: BaseException) -> str:
    """What an error says, without SQLAlchemy's and Optuna's explanations around it."""
    inner = getattr(error, "orig", None) or error.__cause__ or error
    lines = str(inner).strip().splitlines()
    return lines[0] if lines else type(inner).__name__


def _short(value: Any) -> str:
    text = json.dumps(value) if isinstance(value, list | dict) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
