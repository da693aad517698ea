"""Digests of trials that have ended, kept among their attributes: a bit that changes in the
database, or a line that is lost there, must not become a result.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, Trial, TrialState

from space.compat import as_known, note
from space.seals import digest

SEAL = "seal"
"""Of a trial: the digest of all else that is kept of it."""
SEALS = "seals"
"""Of a study: the digest of its settings. It says too that trials have seals when they have ended;
those of earlier versions have none."""


def seal(
    trial: Trial,
    state: TrialState,
    values: Sequence[float] = (),
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Write a trial's last attributes, and the digest of all that it ends with."""
    last = dict(attributes or {})
    made = _digest(as_known(trial), state, values, last)
    note(trial, {**last, SEAL: made})


def seal_of(settings: Mapping[str, Any]) -> str:
    """The digest of a study's settings."""
    return digest(json.dumps(settings, sort_keys=True).encode())


def is_damaged(trial: FrozenTrial, sealed: bool) -> bool:
    """Whether a trial is not as it ended; `sealed`: all of its study are to have a seal.

    One that failed is done again anyway, and may have been marked by another worker than its own.
    """
    if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
        return False
    if (known := trial.user_attrs.get(SEAL)) is None:
        return sealed
    values = trial.values or () if trial.state == TrialState.COMPLETE else ()
    return bool(known != _digest(trial, trial.state, values))


def _digest(
    trial: FrozenTrial,
    state: TrialState,
    values: Sequence[float],
    more: Mapping[str, Any] | None = None,
) -> str:
    attributes = {**trial.user_attrs, **(more or {})}
    content: dict[str, Any] = {
        "number": trial.number,
        "state": state.name,
        "values": [float(value) for value in values],
        "params": trial.params,
        "attributes": {name: value for name, value in attributes.items() if name != SEAL},
        "constraints": trial.constraints,
        "readings": trial.intermediate_values,
    }
    return digest(json.dumps(content, sort_keys=True).encode())
