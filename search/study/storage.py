"""The study in Optuna's storage.

A trial's user attributes say which run it is (`key`, `arm`, `seed`, `role`, `layers`, `cell`), who
works on it (`worker`, and `holder` of the lease that must be renewed), and how it ended (`status`,
`reason`, `reused`, `duplicate`). Once it has ended, `seal` is the digest of all that.
"""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote
from weakref import WeakKeyDictionary

import filelock
import optuna
from optuna.exceptions import StorageInternalError
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import create_engine, event, inspect, text
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from search.states import Role, State, Status
from search.study.changed import OF_READ_DATA, Origin, differences, refusal
from search.study.job import Job
from search.study.leases import TABLE, WORKER, Leases
from search.study.locks import HOST, run_lock
from search.study.patience import Patience, PatientStorage, is_away
from search.study.plan import Attempt
from search.study.sealed import SEALS, is_damaged, seal_of
from space.compat import note, reopened, storage_of

NETWORK = {"connect_timeout": 5, "keepalives_idle": 10, "tcp_user_timeout": 30_000}
"""Of PostgreSQL's drivers: a lost connection is noticed in less than a minute."""
IDLE_MS = 30_000
"""A session in the middle of a transaction that says nothing for so long is ended by PostgreSQL,
which then frees what it has locked: its host was stopped, or is behind a lost link."""
READ_ONLY = {"mode": "ro", "uri": "true"}
"""Of SQLite."""
SCHEMA_LOCK = 0x150BA7A3
"""Of PostgreSQL, held while tables are made."""

COMMAND = "command"
"""Of a study: how its last start was asked for, which `search.join` repeats."""
TOTAL = "total"
"""Of a study: how many runs it will have, by what its last start was asked."""
AT_MOST = "at_most"
"""Of a study: whether these may turn out to be fewer."""
SUBMITTED = "submitted"
"""Of a study: whether its workers were given to a queue, where they may wait for hours."""
REMEDY = (
    "move it away, and the same command takes finished runs from their records and goes on with "
    "the others from their checkpoints"
)
LOST = "lost"
"""Of a study: the numbers of trials whose records were damaged or removed after they had ended."""

_ENDED: WeakKeyDictionary[optuna.Study, dict[int, Attempt | None]] = WeakKeyDictionary()
"""Of each study that is open here its trials that have ended, by number; None for damaged ones."""

DAMAGED = "it is damaged"
SAID_OF_DAMAGE = (DAMAGED, "Could not decode", "malformed", "not a database")
"""By this project and by SQLite."""
OPENING_ERRORS = (SQLAlchemyError, StorageInternalError, ImportError, RuntimeError, ValueError)
UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, AssertionError)
"""What Optuna and this file raise where a database holds something else than was written."""

optuna.logging.set_verbosity(optuna.logging.ERROR)


def open_storage(
    url: str, *, stopping: threading.Event | None = None, patient: bool = False
) -> "PatientStorage":
    """Optuna's storage at a SQLAlchemy URL, made where there is none, beside the leases. It waits
    where the database is away; for opening only if `patient`.

    Raises:
        ValueError: it cannot be opened.
    """
    try:
        if is_in_memory(url):
            raise ValueError("a database in memory is seen by no other process; name a file")
        opening = Patience(create_engine(url), stopping).wrap(_open) if patient else _open
        storage = opening(url)
        if not patient:
            _require_sound(storage.engine)
    except OPENING_ERRORS as error:
        raise _not_opened(url, error) from None
    return PatientStorage(storage, Patience(storage.engine, stopping))


def open_there(url: str) -> "PatientStorage":
    """The storage that studies were started with, for commands that look: none is made.

    Raises:
        ValueError: it is not there, has never had a study, or cannot be opened.
    """
    what = f"storage {without_password(url)} must be a database that a study was started with"
    if is_sqlite(url) and not is_in_memory(url) and not Path(str(make_url(url).database)).is_file():
        raise ValueError(
            f"{what}, but there is no such file; check the spelling (it is relative to the current "
            "folder)"
        )
    try:
        engine = create_engine(url, **_engine_options(url))
        begun = inspect(engine).has_table("studies")
        engine.dispose()
    except OPENING_ERRORS as error:
        raise _not_opened(url, error) from None
    if not begun:
        raise ValueError(f"{what}, but none was; check the spelling")
    return open_storage(url)


class Away(ValueError):
    """A database server does not answer, which may pass."""


def _not_opened(url: str, error: Exception) -> ValueError:
    is_url = not isinstance(error, ArgumentError) or isinstance(error, NoSuchModuleError)
    shown = "storage" if not is_url else f"storage {without_password(url)}"
    kind = Away if is_away(error) and not is_sqlite(url) else ValueError
    return kind(
        f"{shown} must be a SQLAlchemy URL that can be opened, such as sqlite:///study.db or "
        "postgresql+psycopg://user@host/name, but "
        + _why_not(url, error)
        + (f"; {REMEDY}" if _says_damage(error) else "")
        + _driver(error)
    )


def _why_not(url: str, error: Exception) -> str:
    if isinstance(error, NoSuchModuleError):
        return f"{make_url(url).drivername} is no database that SQLAlchemy has a driver for here"
    return "what was given is no URL" if isinstance(error, ArgumentError) else first_line(error)


def _driver(error: Exception) -> str:
    """How PostgreSQL's driver is installed, where that is what lacks; of another database, that
    none is tried here."""
    if not isinstance(error, ImportError):
        return ""
    if "psycopg" not in str(error):
        return "; install its driver, or take SQLite or PostgreSQL, with which studies are tested"
    older = "psycopg2" in str(error)  # another driver, which URLs name
    return "; pip install 'psycopg[binary]'" + (" and write postgresql+psycopg://" if older else "")


def _open(url: str) -> RDBStorage:
    """The storage; one process at a time makes its tables."""
    with _alone(url):
        storage = RDBStorage(url, engine_kwargs=_engine_options(url))
        if storage.engine.dialect.name == "postgresql":
            storage.engine.dispose()  # from here on each connection has the limit
            event.listen(storage.engine, "connect", _limit_idleness)
        TABLE.metadata.create_all(storage.engine)
    return storage


@contextmanager
def open_to_read(path: Path) -> Iterator[PatientStorage]:
    """The storage in a file of SQLite, which is not written to, whatever is done with it; nor is
    anything beside it.

    Raises:
        ValueError: it is not there, or cannot be read now.
    """
    url = URL.create("sqlite", database=f"file:{quote(str(path.resolve()))}", query=READ_ONLY)
    text = url.render_as_string()
    try:
        storage = RDBStorage(text, _engine_options(text), skip_table_creation=True)
    except OPENING_ERRORS as error:
        raise ValueError(f"{path} must be a study's storage, but {first_line(error)}") from None
    try:
        yield PatientStorage(storage, Patience(storage.engine))
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _require_sound(engine: Engine) -> None:
    """Raises: RuntimeError where a file of SQLite contradicts itself, as an index its table."""
    if engine.dialect.name != "sqlite":
        return
    with engine.connect() as database:
        found = str(database.execute(text("pragma integrity_check(1)")).scalar())
    if found != "ok":
        raise RuntimeError(f"{DAMAGED} ({' '.join(found.split())})")


def _limit_idleness(connection: Any, _: object) -> None:
    """Not by an option of the connection, which connection poolers refuse."""
    with connection.cursor() as cursor:
        cursor.execute(f"set idle_in_transaction_session_timeout = {IDLE_MS}")
    connection.commit()


def _engine_options(url: str) -> dict[str, Any]:
    """Connections are not tried before each use, which would double the questions of most calls:
    who uses one that is dead waits and asks again (`Patience`)."""
    backend, given = make_url(url).get_backend_name(), make_url(url).query
    if backend == "sqlite":
        return {"connect_args": {"timeout": 60}}
    own = NETWORK if make_url(url).get_driver_name() in ("psycopg", "psycopg2") else {}
    return {
        "pool_size": 2,
        "max_overflow": 4,
        "connect_args": {name: value for name, value in own.items() if name not in given},
    }


@contextmanager
def _alone(url: str) -> Iterator[None]:
    """Keep out others that make the same tables: they would fail on what is there by then."""
    made = make_url(url)
    if made.get_backend_name() == "sqlite":
        path = Path(str(made.database))
        with filelock.FileLock(f"{path}.lock") if path.parent.is_dir() else nullcontext():
            yield
    elif made.get_backend_name() == "postgresql":
        engine = create_engine(url, **_engine_options(url))
        with engine.begin() as database:  # whose end frees the lock
            database.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": SCHEMA_LOCK})
            yield
        engine.dispose()
    else:
        yield


def is_in_memory(url: str) -> bool:
    """Whether a database is of one process alone."""
    made = make_url(url)
    if made.get_backend_name() != "sqlite":
        return False
    name = made.database or ""
    return not name or name.endswith(":memory:") or made.query.get("mode") == "memory"


def is_sqlite(url: str) -> bool:
    """Whether a storage is a file of SQLite; what is no URL is none."""
    try:
        return make_url(url).get_backend_name() == "sqlite"
    except ArgumentError:  # which opening it says
        return False


def has_study(url: str, name: str) -> bool:
    """Whether a storage has a study of this name that has begun; a file that is not there is not
    made.

    Raises:
        ValueError: it cannot be opened.
    """
    if is_sqlite(url) and not Path(str(make_url(url).database)).is_file():
        return False
    return is_begun(open_storage(url), name)


def is_begun(storage: PatientStorage | None, name: str) -> bool:
    """Whether there is a storage, and in it a study of this name that has begun."""
    if storage is None or name not in optuna.get_all_study_names(storage.as_optunas):
        return False
    return has_begun(optuna.load_study(study_name=name, storage=storage.as_optunas))


def has_begun(study: optuna.Study) -> bool:
    """Whether a study has a trial, or may have workers in a queue. One that came to nothing, since
    no worker could be started, gives way to other settings.

    Raises:
        ValueError: it is damaged.
    """
    with _whole(study):
        return bool(study.user_attrs.get(SUBMITTED)) or bool(study.get_trials(deepcopy=False))


def open_existing(url: str, made: bool = False) -> PatientStorage | None:
    """The storage; None where it is a file that is not there, which is not made. `made`: whether
    its folder may be made later, where there is none.

    Raises:
        ValueError: it cannot be.
    """
    path = Path(str(make_url(url).database)) if is_sqlite(url) else None
    if path is None or is_in_memory(url) or path.is_file() or not (made or path.parent.is_dir()):
        return open_storage(url)
    return None


def without_password(url: str) -> str:
    """The URL as it may be shown and kept; nothing of what is none, for it may hold a password."""
    try:
        shown = make_url(url)
        secret = [name for name in shown.query if "pass" in name.lower()]  # libpq reads them there
        return shown.difference_update_query(secret).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        return "…"


def open_study(
    storage: BaseStorage,
    name: str,
    settings: Mapping[str, Any],
    naming: str = "study",
    pruner: BasePruner | None = None,
    directions: Sequence[str] = ("minimize",),
    origin: Origin | None = None,
    alone: bool = False,
) -> optuna.Study:
    """The study of this name, new or with the trials it has. `origin` is where its settings come
    from; `alone`: nobody else works on it, and one that has not begun may be replaced.

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
    kept = study.user_attrs
    if "settings" not in kept:
        study.set_user_attr(SEALS, seal_of(settings))
        study.set_user_attr("settings", settings)
        study.set_user_attr("started", datetime.now(UTC).isoformat(timespec="seconds"))
        return study
    require_settings(name, kept)
    if changed := list(differences(kept["settings"], json.loads(json.dumps(settings)))):
        if not (alone and not has_begun(study)):
            raise refusal(name, changed, kept.get(COMMAND), origin or Origin(), naming)
        optuna.delete_study(study_name=name, storage=storage)
        return open_study(storage, name, settings, naming, pruner, directions)
    return study


def load_study(
    job: Job, sampler: BaseSampler, pruner: BasePruner, stopping: threading.Event | None = None
) -> optuna.Study:
    """The study that a worker joins."""
    return optuna.load_study(
        study_name=job.study,
        storage=open_storage(job.storage, stopping=stopping, patient=True).as_optunas,
        sampler=sampler,
        pruner=pruner,
    )


def read_begun(storage: PatientStorage | None, name: str) -> dict[str, Any]:
    """What is kept of a study that has begun; nothing where there is none.

    Raises:
        ValueError: it is damaged.
    """
    if storage is None or not is_begun(storage, name):
        return {}
    kept = optuna.load_study(study_name=name, storage=storage.as_optunas).user_attrs
    require_settings(name, kept)
    return kept


def settled_precision(kept: Mapping[str, Any]) -> str | None:
    """The precision that `auto` became when the study was made; None where there is none yet."""
    settings = kept.get("settings", {})
    return settings.get("recipe", {}).get("precision")  # type: ignore[no-any-return]


def require_unchanged(
    name: str, kept: Mapping[str, Any], known: Mapping[str, Any], origin: Origin, naming: str
) -> None:
    """Refuse a change before data are read: of the settings that are known by then, but for
    values in them that follow from data.

    Raises:
        ValueError: as `open_study`.
    """
    before = {group: kept["settings"].get(group) for group in known}
    changes = differences(before, json.loads(json.dumps(known)))
    if changed := [change for change in changes if change.name not in OF_READ_DATA]:
        raise refusal(name, changed, kept.get(COMMAND), origin, naming)


def read_attempts(study: optuna.Study) -> list[Attempt]:
    """All trials of the study, by number, but for damaged ones: what those were, nobody knows. One
    whose record was lost counts as interrupted: its run is done again. Where the study prunes no
    longer, so does a pruned one: it goes on."""
    with _whole(study):
        kept = study.user_attrs
        lost = set(kept.get(LOST, ()))
        attempts = [a for a in _all_attempts(study, kept).values() if a is not None]
    attempts = [_interrupted(a) if a.number in lost else a for a in attempts]
    if not isinstance(study.pruner, NopPruner):
        return attempts
    return [_interrupted(a) if a.state == State.PRUNED else a for a in attempts]


def require_settings(name: str, kept: Mapping[str, Any]) -> None:
    """Raises: ValueError where a study's settings are not as they were written."""
    if SEALS in kept and kept[SEALS] != seal_of(kept["settings"]):
        raise ValueError(
            f"the storage must hold study {name} as it was written, but its settings have another "
            f"digest; {REMEDY}"
        )


def damaged(study: optuna.Study) -> list[int]:
    """Numbers of the trials that are not as they ended."""
    with _whole(study):
        found = _all_attempts(study, study.user_attrs)
    return [number for number, attempt in found.items() if attempt is None]


@contextmanager
def _whole(study: optuna.Study) -> Iterator[None]:
    """For what Optuna and this file read of a study.

    Raises:
        ValueError: it holds what neither has written.
    """
    try:
        yield
    except (*UNREADABLE, StorageInternalError) as error:
        if isinstance(error, StorageInternalError) and not _says_damage(error):
            raise
        raise ValueError(
            f"the storage must hold study {study.study_name} as it was written, but "
            f"{first_line(error)} ({type(error).__name__}); {REMEDY}"
        ) from None


def _says_damage(error: BaseException) -> bool:
    """Whether SQLite says so; else its file cannot be read now, or the database is away."""
    return any(words in f"{error} {error.__cause__}" for words in SAID_OF_DAMAGE)


def _all_attempts(study: optuna.Study, kept: Mapping[str, Any]) -> dict[int, Attempt | None]:
    """By number; `kept` are the study's attributes. Those that had ended before were read then:
    they do not change any more."""
    known, found = _ENDED.setdefault(study, {}), dict[int, Attempt | None]()
    for trial in study.get_trials(deepcopy=False):
        number = trial.number
        if number not in known:
            whole = not is_damaged(trial, sealed=bool(kept.get(SEALS)))
            found[number] = _attempt(trial) if whole else None
            if trial.state.is_finished():
                known[number] = found[number]
        else:
            found[number] = known[number]
    return found


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
        saved=kept.get("saved", 0),
        worker=kept.get("worker", ""),
        holder=kept.get("holder"),
    )


def lose(
    study: optuna.Study, trial: FrozenTrial, reason: str, status: Status | None = None
) -> None:
    """Mark a trial whose worker is gone. Its cell is then open, and the next free worker's."""
    try:
        more = {} if status is None else {"status": status}
        note(reopened(study, trial), {"reason": reason, **more})
        study.tell(trial.number, state=TrialState.FAIL)
    except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
        return  # it ended just before, or another machine was quicker


def running(study: optuna.Study, worker: str) -> list[FrozenTrial]:
    """The trials in progress of a worker (`host:pid`), or of all workers of a host."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [t for t in trials if str(t.user_attrs.get("worker", "")).startswith(f"{worker}:")]


def leases_of(study: optuna.Study, owner: str, **options: Any) -> Leases:
    """The leases of an owner in the study's storage."""
    storage: Any = storage_of(study)
    return Leases(storage.engine, study.study_name, owner, patience=storage.patience, **options)


def lose_abandoned(study: optuna.Study, runs: Path, leases: Leases) -> int:
    """Mark this host's trials whose workers were killed; their number. Called by who plans.

    A worker holds its run's lock while it lives: where the lock is free, no one is behind it.
    """
    leases.free_dead()
    abandoned = 0
    for trial in silent(study, leases):
        worker, key = trial.user_attrs.get("worker"), trial.user_attrs.get("key")
        if worker is None or (worker.startswith(f"{HOST}:") and _is_free(runs, key)):
            lose(study, trial, "its worker was killed", status=Status.INTERRUPTED)
            abandoned += 1
    return abandoned


def _is_free(runs: Path, key: str | None) -> bool:
    try:
        with run_lock(runs, key or ".unclaimed").acquire(timeout=0):
            return True
    except filelock.Timeout:
        return False


def silent(study: optuna.Study, leases: Leases) -> list[FrozenTrial]:
    """The trials in progress behind which no worker is that renews its lease. Of those that nobody
    has taken yet, who asks must be the one who plans."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    live = {lease.holder for lease in leases.read(WORKER) if lease.left_s > 0} if trials else set()
    return [trial for trial in trials if trial.user_attrs.get("holder") not in live]


def lose_silent(study: optuna.Study, leases: Leases, attempts: Sequence[Attempt]) -> bool:
    """Mark trials whose workers have been silent for too long, wherever they ran; whether there
    were any. Called by who plans, with all trials as they are."""
    if not any(attempt.state == State.RUNNING for attempt in attempts):
        return False
    if not (trials := silent(study, leases)):
        return False
    leases.take_from(str(trial.user_attrs.get("holder")) for trial in trials)
    for trial in trials:
        worker = str(trial.user_attrs.get("worker", "")).rstrip(":") or "that had taken nothing yet"
        lose(study, trial, f"its worker {worker} was silent for too long")
    return True


def first_line(error: BaseException) -> str:
    """What an error says, without SQLAlchemy's and Optuna's explanations around it."""
    inner = getattr(error, "orig", None) or error.__cause__ or error
    lines = str(inner).strip().splitlines()
    return lines[0] if lines else type(inner).__name__
