"""What the choice of held-out windows adds to the intervals of tables and studies."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import pandas as pd

from ablations.stats.evaluation import FEWEST, Array, covariance, standard_error
from search.objectives import LOSSES
from search.record import Record
from search.runs import CorruptRecord, read_record, read_windows
from search.states import Status

Records = Callable[[str], Record | None]
"""The record of a key; None where it cannot be read."""


@dataclass(frozen=True)
class Windows:
    """What held-out windows came to, as far as runs have kept it."""

    of_arms: Mapping[str, tuple[Array, Array]]
    """By arm, nats (W,) on average over its runs, and units (W,), both by the window's weight."""

    @classmethod
    def read(cls, cells: pd.DataFrame, runs: Path, records: Records, metric: str) -> Self:
        """Those of `cells` with columns `arm key`, finished runs; none where the metric is not a
        loss on held-out text."""
        if metric not in LOSSES:
            return cls({})
        found = {arm: _means(g.key, runs, records, metric) for arm, g in cells.groupby("arm")}
        return cls({str(arm): means for arm, means in found.items() if means is not None})

    def errors(self, baseline: str) -> dict[str, float]:
        """The standard error of each arm's difference to the baseline, where it is known."""
        if (base := self.of_arms.get(baseline)) is None:
            return {}
        return {
            arm: standard_error(nats, base[0], base[1])
            for arm, (nats, units) in self.of_arms.items()
            if arm != baseline and np.array_equal(units, base[1])
        }

    @property
    def of_means(self) -> dict[str, float]:
        """The standard error of each arm's own mean, where it is known: that of its difference to
        an arm without any loss."""
        return {
            arm: standard_error(nats, np.zeros_like(nats), units)
            for arm, (nats, units) in self.of_arms.items()
        }

    @property
    def covariance(self) -> pd.DataFrame | None:
        """(A, A) of the arms' losses over the choice of windows; None where they were not all
        scored on the same ones."""
        if not self.of_arms:
            return None
        units = next(iter(self.of_arms.values()))[1]
        same = all(np.array_equal(of, units) for _, of in self.of_arms.values())
        if not same or len(units) < FEWEST:
            return None
        found = covariance(np.array([nats for nats, _ in self.of_arms.values()]), units)
        return pd.DataFrame(found, index=[*self.of_arms], columns=[*self.of_arms])

    def count(self, arm: str) -> int:
        """How many windows an arm was scored on; 0 where they were not kept."""
        return len(self.of_arms[arm][1]) if arm in self.of_arms else 0


@dataclass(frozen=True)
class Evaluation:
    """Standard errors of the differences of a table or study, as far as its runs have kept their
    windows."""

    windows: int
    """How many each run was scored on."""
    errors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By panel and arm, of the difference to the panel's baseline."""

    @classmethod
    def of(
        cls, panels: Sequence[Mapping[str, Any]], cells: pd.DataFrame, runs: Path, metric: str
    ) -> Self | None:
        """That of `cells` with columns `panel arm key status`; None where the metric is not a loss
        on held-out text."""
        if metric not in LOSSES:
            return None
        done, windows, errors = cells[cells.status == Status.FINISHED], 0, {}
        for panel in panels:
            mine = done[done.panel == panel["name"]]
            found = Windows.read(mine, runs, lambda key: _readable(runs / key), metric)
            errors[panel["name"]] = found.errors(panel["baseline"])
            windows = max(windows, found.count(panel["baseline"]))
        return cls(windows, errors)

    @property
    def largest(self) -> float | None:
        """Of the errors; None where none is known."""
        return max((e for panel in self.errors.values() for e in panel.values()), default=None)

    @property
    def in_words(self) -> str:
        """What intervals hold of it."""
        if self.largest is None:
            return "left out of the intervals: these runs did not keep what each window came to"
        return (
            f"the choice of {self.windows:,} windows is in the intervals; by itself it gives a "
            f"difference a standard error of {self.largest:.2g} at most"
        )


@dataclass(frozen=True)
class OfRuns:
    """How far the losses of single runs would be others on other held-out text."""

    covariance: pd.DataFrame
    """(runs, runs), by key. Runs that were scored on other windows are taken for independent."""
    windows: int
    """The most that a run was scored on."""

    @classmethod
    def read(cls, runs: Sequence[tuple[Path, Record]], metric: str) -> Self | None:
        """Of the folders and records of finished runs; None where not all have kept what each
        window came to, or the metric is not a loss on held-out text."""
        if metric not in LOSSES or not runs:
            return None
        found = {r.run.key: _of_run(folder, r, metric) for folder, r in runs}
        known = {key: each for key, each in found.items() if each is not None}
        if len(known) < len(found) or min(len(u) for _, u, _ in known.values()) < FEWEST:
            return None
        alike: dict[bytes, list[str]] = {}
        for key, (*_, which) in known.items():
            alike.setdefault(which, []).append(key)
        whole = pd.DataFrame(0.0, [*known], [*known])
        for keys in alike.values():
            nats, units = np.array([known[key][0] for key in keys]), known[keys[0]][1]
            whole.loc[keys, keys] = covariance(nats, units)
        return cls(whole, max(len(units) for _, units, _ in known.values()))

    def drawn(self, rng: np.random.Generator, draws: int) -> pd.DataFrame:
        """(draws, runs) by how much losses would be others, normal, by key."""
        values, vectors = np.linalg.eigh(self.covariance.to_numpy())
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        made = rng.standard_normal((draws, len(root))) @ root.T
        return pd.DataFrame(made, columns=self.covariance.columns)


def _of_run(folder: Path, record: Record, metric: str) -> tuple[Array, Array, bytes] | None:
    """What the windows came to in nats (W,), and their units (W,), both by the window's weight; and
    which they were: the text and weight of each."""
    if (windows := read_windows(folder, record)) is None:
        return None
    nats, text, weights = windows.astype(float)
    units = weights * (np.log(2) * text if metric == "val_bpb" else record.run.recipe.seq_len)
    which = np.stack([text, weights]).tobytes()
    return (weights * nats, units, which) if np.isfinite(units).all() else None


def _means(
    keys: "pd.Series[str]", runs: Path, records: Records, metric: str
) -> tuple[Array, Array] | None:
    """What the windows came to in nats (W,), on average over an arm's runs, and how many units each
    has (W,), tokens or bytes as so many bits; both by the window's weight."""
    known = [(key, record) for key in keys if (record := records(key)) is not None]
    found = [w for key, r in known if (w := _of_run(runs / key, r, metric)) is not None]
    if len({which for *_, which in found}) != 1:
        return None
    return np.mean([nats for nats, *_ in found], axis=0), found[0][1]


class Compared(Protocol):
    """A study as `search.run_study` returns it."""

    @property
    def runs(self) -> Path: ...
    @property
    def facts(self) -> Mapping[str, Any]: ...
    @property
    def frame(self) -> pd.DataFrame: ...
    @property
    def compared(self) -> pd.DataFrame: ...
    @property
    def baseline(self) -> str | None: ...


def held_out_errors(study: Compared) -> dict[str, float]:
    """What the choice of held-out windows adds to the differences from a study's baseline, in the
    metric's unit, by arm: the `evaluation` with which `ablations.effects.compare` has the intervals
    of the study's page. Empty where runs have kept no windows, or there is no baseline."""
    if study.baseline is None:
        return {}
    keys = study.frame[["arm", "seed", "key"]]
    compared = study.compared.merge(keys, on=["arm", "seed"])
    metric = str(study.facts["metric"])
    found = Windows.read(compared, study.runs, lambda key: _readable(study.runs / key), metric)
    return found.errors(study.baseline)


def _readable(folder: Path) -> Record | None:
    try:
        return read_record(folder)
    except (CorruptRecord, OSError):
        return None
