"""The study in Optuna's storage.

A trial's user attributes say which run it is (`key`, `arm`, `seed`, `role`, `layers`, `cell`), who
works on it (`worker`), and how it ended (`status`, `reason`, `reused`, `duplicate`).
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import filelock
import optuna
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from search.config import PrunerConfig, SamplerConfig
from search.recipe import Recipe
from search.study.job import Job
from search.study.locks import HOST, run_lock
from search.study.plan import EXPLORE, Attempt
from space.compat import frozen, reopened, storage_of

HEARTBEAT_S, GRACE_S = 20, 120
"""A trial silent for so long is lost: that is how other machines' deaths are noticed. This
machine's are at once."""

optuna.logging.set_verbosity(optuna.logging.ERROR)


def open_storage(url: str) -> RDBStorage:
    """Optuna's storage at a SQLAlchemy URL, made where there is none.

    Raises:
        ValueError: it cannot be opened.
    """
    try:
        sqlite = make_url(url).get_backend_name() == "sqlite"
        with _without_experimental_warnings():
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
) -> optuna.Study:
    """The study of this name, new or with the trials it has.

    Raises:
        ValueError: it was made with other settings; the message shows the difference.
    """
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        direction="minimize",
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


def load_study(job: Job, sampler: BaseSampler) -> optuna.Study:
    """The study that a worker joins."""
    return optuna.load_study(
        study_name=job.study,
        storage=open_storage(job.storage),
        sampler=sampler,
        pruner=job.pruner,
    )


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


class Standing:
    """Says what `trial.should_prune()` would, were it not for failed attempts."""

    def __init__(self, study: optuna.Study) -> None:
        # The storage, not the study: hyperband asks it by studies of its own, one a bracket.
        storage = cast(BaseStorage, _WithoutFailed(storage_of(study)))
        self._study = optuna.Study(study.study_name, storage, pruner=study.pruner)

    def would_prune(self, trial: Trial) -> bool:
        """Whether the study's pruner stops this trial, by what it has reported."""
        return self._study.pruner.prune(self._study, frozen(self._study, trial))


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
        elif old != new:
            yield f"{at}{name} was {_short(old)}, is {_short(new)}"


def make_sampler(config: SamplerConfig, seed: int) -> BaseSampler:
    """Optuna's sampler of a configuration.

    Raises:
        ValueError: an option that the sampler does not take.
    """
    from optuna import samplers

    kinds: dict[str, type[BaseSampler]] = {
        "tpe": samplers.TPESampler,
        "gp": samplers.GPSampler,
        "random": samplers.RandomSampler,
        "grid": samplers.RandomSampler,  # the plan enqueues a grid's cells; none is left to sample
        "qmc": samplers.QMCSampler,
        "cmaes": samplers.CmaEsSampler,
        "nsga2": samplers.NSGAIISampler,
    }
    try:
        with _without_experimental_warnings():
            return kinds[config.name](seed=seed, **config.options)  # type: ignore[call-arg]
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"sampler.options must be what Optuna's {kinds[config.name].__name__} takes, "
            f"but {_first_line(error)}"
        ) from None


def make_pruner(config: PrunerConfig, recipe: Recipe) -> BasePruner:
    """Optuna's pruner of a configuration, for readings at the recipe's horizons.

    Successive halving's `min_resource` is the first horizon and `max_resource` the end, in tokens,
    unless they are given.

    Raises:
        ValueError: an option that the pruner does not take, or no horizons to act at.
    """
    from optuna import pruners

    if config.name == "none":
        return NopPruner()
    if not recipe.horizons:
        raise ValueError(
            f"pruner={config.name} must have readings to act on, but recipe.horizons is empty; "
            "set recipe.horizons=[0.25,0.5], or pruner=none"
        )
    resources: dict[str, Any] = {"min_resource": int(recipe.horizons[0] * recipe.tokens)}
    kinds: dict[str, tuple[type[BasePruner], dict[str, Any]]] = {
        "median": (pruners.MedianPruner, {}),
        "wilcoxon": (pruners.WilcoxonPruner, {}),
        "asha": (pruners.SuccessiveHalvingPruner, resources),
        "hyperband": (pruners.HyperbandPruner, resources | {"max_resource": recipe.tokens}),
    }
    kind, settled = kinds[config.name]
    try:
        with _without_experimental_warnings():
            pruner = kind(**settled | config.options)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"pruner.options must be what Optuna's {kind.__name__} takes, but {_first_line(error)}"
        ) from None
    if config.name == "wilcoxon":
        _require_horizons_for_wilcoxon(len(recipe.horizons), config.options)
    return pruner


def _require_horizons_for_wilcoxon(horizons: int, options: Mapping[str, Any]) -> None:
    """A signed-rank test of n pairs has p of 0.5 ** n at least."""
    threshold = options.get("p_threshold", 0.1)
    if 0.5**horizons >= threshold:
        raise ValueError(
            f"pruner=wilcoxon must have enough readings to fall below p = {threshold}, but "
            f"recipe.horizons has {horizons}, which give {0.5**horizons:g} at least; leave "
            "recipe.horizons out, give more, or raise p_threshold"
        )


def worker_seed(config: SamplerConfig, seed: int, worker: int, trials: int) -> int:
    """The seed of a worker's sampler: its own, so that workers do not propose the same, except
    for QMC, whose workers share one sequence."""
    if config.name == "qmc":
        return seed
    return (seed + 1) * 1_000_003 + trials * 1009 + worker


def read_attempts(study: optuna.Study) -> list[Attempt]:
    """All trials of the study, by number. Where it prunes no longer, a pruned run is one that was
    interrupted: it goes on."""
    attempts = [_attempt(trial) for trial in study.get_trials(deepcopy=False)]
    if not isinstance(study.pruner, NopPruner):
        return attempts
    return [
        replace(a, state="FAIL", status="interrupted") if a.state == "PRUNED" else a
        for a in attempts
    ]


def _attempt(trial: FrozenTrial) -> Attempt:
    kept = trial.user_attrs
    return Attempt(
        number=trial.number,
        state=trial.state.name,
        params=kept.get("cell", trial.params),
        key=kept.get("key"),
        arm=kept.get("arm"),
        seed=kept.get("seed", 0),
        role=kept.get("role", EXPLORE),
        layers=kept.get("layers", 0),
        value=trial.value if trial.state == TrialState.COMPLETE else None,
        readings=trial.intermediate_values,
        status=kept.get("status"),
        reason=kept.get("reason"),
        duplicate=kept.get("duplicate", False),
        reused=kept.get("reused", False),
    )


def lose(study: optuna.Study, trial: FrozenTrial, reason: str, status: str | None = None) -> None:
    """Mark a trial whose worker is gone. Its cell is then open, and the next free worker's."""
    try:
        lost = reopened(study, trial)
        lost.set_user_attr("reason", reason)
        if status is not None:
            lost.set_user_attr("status", status)
        study.tell(trial.number, state=TrialState.FAIL)
    except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
        return  # it was told just before the end, or another machine was quicker


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
                lose(study, trial, "its worker was killed", status="interrupted")
                abandoned += 1
        except filelock.Timeout:
            continue
    return abandoned


def fail_silent(study: optuna.Study) -> None:
    """Mark trials that have not beaten for `GRACE_S`: other machines' workers that are gone."""
    with _without_experimental_warnings():
        optuna.storages.fail_stale_trials(study)


@contextmanager
def _without_experimental_warnings() -> Iterator[None]:
    """Heartbeats and QMC are called experimental; the version is pinned."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def _first_line(error: BaseException) -> str:
    """What an error says, without SQLAlchemy's and Optuna's explanations around it."""
    inner = getattr(error, "orig", None) or error.__cause__ or error
    lines = str(inner).strip().splitlines()
    return lines[0] if lines else type(inner).__name__


def _short(value: Any) -> str:
    text = json.dumps(value) if isinstance(value, list | dict) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
