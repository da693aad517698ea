"""A study as its report sees it: `study.json` and the records of its runs, in one frame."""

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from search.objectives import measures_of
from search.record import Record, Run, architecture_id
from search.runs import CURVE, CorruptRecord, UnknownParts, asked_run, read_metrics, read_record
from search.states import Role, State, Status
from space.arch import Architecture
from space.budget import OF_WEIGHTS, Budget
from space.cost import Cost, cost
from space.meters import KINDS
from space.near import hint
from space.seals import Damaged, read_json
from space.sharing import LayerMap
from space.words import count

REQUIRED = ("study", "metric", "budget", "space", "trials")


class Open(StrEnum):
    """What a trial is called that has no record and no end known."""

    RUNNING = "running"
    WAITING = "waiting"
    MISSING = "missing"
    """Its record should be there, and cannot be read."""


WITHOUT_RECORD: dict[str, StrEnum] = {
    State.RUNNING: Open.RUNNING,
    State.WAITING: Open.WAITING,
    State.PRUNED: Status.PRUNED,
    State.FAIL: Status.FAILED,
    State.COMPLETE: Open.MISSING,
}
"""What a trial without a record is called, by its state."""
MOST_SHOWN = 500
"""Rows of a table, and curves, that a page has at most: those of the best runs. Browsers take no
more, and `trials.csv` has all."""
OTHER = "objective."
"""Before the names of further objectives, where they are columns beside others."""
AGAIN = "the study's command does the run again"
HORIZON_TOLERANCE = 0.01
"""Runs whose last readings are this close in tokens were trained equally long."""


@dataclass(frozen=True)
class Study:
    """All that a report knows."""

    folder: Path
    facts: dict[str, Any]
    """`study.json`."""
    trials: pd.DataFrame
    """One row per trial, by number: what `study.json` says of it, its architecture, cost and last
    reading (NaN where it has none), and `status`: finished, diverged, failed, pruned, running,
    waiting or missing. Where a pruner stopped runs, `pruned_at` are the tokens after which it did,
    and `pruned_value` is what it saw there."""
    records: dict[str, Record]
    """The readable records, by key of the run."""
    curves: dict[str, pd.DataFrame]
    """`tokens`, `train_loss`, `val_loss`, `val_bpb` of each run that left metrics, by key; of more
    than `MOST_SHOWN` runs only of the best."""
    missing: list[tuple[str, str]]
    """What should be there and cannot be read: (name, reason)."""
    runs: str | None = None
    """The folder of the runs where it was asked for; otherwise each `study.json` says its own."""

    @property
    def where(self) -> Path:
        """The folder of the runs."""
        return Path(self.runs or self.facts.get("runs") or "runs")

    @property
    def name(self) -> str:
        """The study's name."""
        return str(self.facts["study"])

    @property
    def metric(self) -> str:
        """The objective by which arms are compared."""
        return str(self.facts["metric"])

    @property
    def metric_title(self) -> str:
        """The metric in words, as headings and captions begin with it."""
        return str(self.measures[self.metric]["title"])

    @property
    def unit(self) -> str:
        """As it stands after a value of the metric."""
        return str(self.measures[self.metric]["unit"])

    @property
    def lower_is_better(self) -> bool:
        """Of the metric."""
        return self._lower_is_better(self.metric)

    @cached_property
    def measures(self) -> dict[str, dict[str, Any]]:
        """`name title unit direction` of all objectives and columns, by name; `exact` of those of
        which an architecture has one value."""
        return measures_of(self.facts)

    @property
    def objectives(self) -> dict[str, bool]:
        """Each that the study optimises, the metric first, and whether lower is better."""
        names = [str(each["name"]) for each in self.facts.get("objectives", ())] or [self.metric]
        return {name: self._lower_is_better(name) for name in names}

    def _lower_is_better(self, name: str) -> bool:
        return bool(self.measures[name]["direction"] == "minimize")

    @property
    def constraints(self) -> list[str]:
        """What architectures were to keep to: `kv_bytes<=2048`."""
        return list(self.facts.get("constraints", ()))

    @cached_property
    def eligible(self) -> pd.DataFrame:
        """Of `finished` those that keep to all constraints."""
        return self.finished[self.finished.feasible] if self.constraints else self.finished

    @cached_property
    def finished(self) -> pd.DataFrame:
        """One row for each finished (arm, seed) trained to the study's horizon, by number."""
        done = self.trials[self.trials.status == Status.FINISHED].dropna(subset=self.metric)
        done = done.drop_duplicates(["arm", "seed"])
        if done.empty:
            return done
        done = done.astype({"seed": int})  # float where another trial has none yet
        horizon = float(done.tokens.mode().max())
        return done[(done.tokens / horizon - 1).abs() <= HORIZON_TOLERANCE]

    @property
    def finished_elsewhere(self) -> int:
        """Finished runs in no comparison, because they were trained longer or shorter."""
        done = self.trials[self.trials.status == Status.FINISHED].drop_duplicates(["arm", "seed"])
        return len(done) - len(self.finished)


def read_study(name: str | None, outputs: str | Path = "outputs", runs: str | None = None) -> Study:
    """The study under `outputs/<name>/`; its runs are where it says unless `runs` is given.

    A record that cannot be read is named in `missing` and its trial keeps the status missing.

    Raises:
        ValueError: no such study, or a `study.json` that is not one.
    """
    folder = find_study(name, Path(outputs))
    facts = _read_facts(folder / "study.json")
    where = Path(runs or facts.get("runs") or "runs")
    records: dict[str, Record] = {}
    missing: list[tuple[str, str]] = []
    rows, shared = [], dict[str, Any]()
    for trial in sorted(facts["trials"], key=lambda t: t["number"]):
        record = _record_of(trial, where, records, missing, shared)
        asked = record.run if record else _asked_for(where / str(trial.get("key")))
        rows.append(_row(trial, asked, record, facts))
    require_records(facts["trials"], set(records), where)
    trials = pd.DataFrame(rows, columns=_columns(rows, facts))
    del rows
    keys = _shown(facts)
    curves = {key: _curve_of(where / key, records.get(key), missing) for key in keys}
    curves = {key: curve for key, curve in curves.items() if len(curve)}
    return Study(folder, facts, trials, records, curves, missing, runs)


def require_records(
    trials: Sequence[Mapping[str, Any]], found: Collection[str], runs: Path
) -> None:
    """Raises: ValueError where of finished runs none has a record, by key: a page without any would
    take the place of a good one."""
    ended = {str(t["key"]) for t in trials if t.get("state") == State.COMPLETE and t.get("key")}
    if ended and not ended & set(found):
        raise ValueError(
            f"runs must be the folder with the records of {count(len(ended), 'finished run')}, but "
            f"none can be read in {runs}; give it with runs=FOLDER, or start the same command "
            "again, which does them again"
        )


def find_study(name: str | None, outputs: Path) -> Path:
    """The folder of a study.

    Raises:
        ValueError: there is none of this name; the message lists those there are.
    """
    known = sorted(path.parent.name for path in outputs.glob("*/study.json"))
    if name in known:
        return outputs / str(name)
    there = f"choose one of {', '.join(known)}" if known else "run `python -m search` first"
    given, near = "none was given", ""
    if name is not None:
        given, near = f"got {name!r}", hint(name, known)
        if (outputs / "tables" / name / "study.json").is_file():
            near = f"; table={name} is a table of this name"
    raise ValueError(
        f"study must name a folder of {outputs} with a study.json, but {given}; {there}{near}"
    )


def _read_facts(path: Path) -> dict[str, Any]:
    try:
        facts = read_json(path)
    except Damaged as error:
        raise ValueError(_broken(path, str(error))) from None
    except OSError as error:
        raise ValueError(_broken(path, f"it cannot be read: {error}")) from None
    if not isinstance(facts, dict):
        raise ValueError(_broken(path, f"it holds a {type(facts).__name__}"))
    if absent := [key for key in REQUIRED if key not in facts]:
        raise ValueError(_broken(path, f"it lacks {', '.join(absent)}"))
    if wrong := _misfit(facts):
        raise ValueError(_broken(path, wrong))
    return facts


def _misfit(facts: Mapping[str, Any]) -> str | None:
    """What in a `study.json` with all its parts is not as it must be."""
    budget, trials = facts["budget"], facts["trials"]
    if not isinstance(budget, dict) or not budget.get("value"):
        return "its budget has no kind or value"
    if budget.get("kind") not in KINDS:
        return f"its budget is of an unknown kind, {budget.get('kind')!r}"
    if not isinstance(facts["space"], dict):
        return "its space is not described"
    if not isinstance(trials, list):
        return "its trials are not a list"
    numbered = [isinstance(t, dict) and isinstance(t.get("number"), int) for t in trials]
    return None if all(numbered) else "it has a trial without a number"


def _broken(path: Path, what: str) -> str:
    return f"{path} must describe a study, but {what}; start the same search again to rewrite it"


def _record_of(
    trial: Mapping[str, Any],
    runs: Path,
    records: dict[str, Record],
    missing: list[tuple[str, str]],
    shared: dict[str, Any],
) -> Record | None:
    """The record of a trial's run, kept in `records`; what should be there goes to `missing`."""
    key = trial.get("key")
    if key is None or key in records:
        return records.get(key) if key else None
    try:
        record = read_record(runs / key, trial.get("result_id"), shared)
    except UnknownParts as error:
        _note(missing, key, f"{error}; restore its file")
        return None
    except (CorruptRecord, OSError) as error:
        _note(missing, key, f"{error}; {AGAIN}")
        return None
    if record is None and trial.get("state") == State.COMPLETE:
        _note(missing, key, f"{runs / key / 'record.json'} is not there; {AGAIN}")
    if record is not None:
        records[key] = record
    return record


def _note(missing: list[tuple[str, str]], key: str, reason: str) -> None:
    if (key, reason) not in missing:
        missing.append((key, reason))


def _row(
    trial: Mapping[str, Any], run: Run | None, record: Record | None, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """One trial's row, architecture and cost under their own names, an axis as `axis.<name>`."""
    state = str(trial.get("state"))
    row: dict[str, Any] = {
        "number": trial["number"],
        "key": trial.get("key"),
        "arm": trial.get("arm") or (run and architecture_id(run.architecture)),
        "seed": run.seed if run else trial.get("seed"),
        "role": trial.get("role", Role.EXPLORE),
        "state": state,
        "status": trial.get("status") or WITHOUT_RECORD.get(state, state.lower()),
        "reason": trial.get("reason"),
    }
    row |= {f"axis.{axis}": value for axis, value in (trial.get("params") or {}).items()}
    if run is not None:
        row |= {"init_seed": run.init_seed}
        row |= _architecture_columns(run.architecture)
        counts = cost(run.architecture, run.recipe.seq_len)
        row |= _cost_columns(counts)
        row |= {"budget_deviation": deviation(run.architecture, facts["budget"], counts)}
    if state == State.PRUNED:  # what it may have come to since is no part of this study
        return row | {"pruned_at": trial.get("pruned_at"), "pruned_value": trial.get("value")}
    if record is None:
        return row
    row |= {"status": record.status, "reason": record.reason or trial.get("reason")}
    row |= _last_reading(record) | _values(trial, str(facts["metric"]))
    row |= {name: v for found in record.measured for name, v in found.numbers().items()}
    timings = ("train_s", "eval_s", "compile_s", "tokens_per_s", "commit", "started")
    return row | {name: getattr(record, name) for name in timings}


def _values(trial: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """What `study.json` has of a finished run beyond its loss: other objectives, columns, and
    whether it keeps to the constraints."""
    if "values" not in trial:
        return {}
    feasible = all(excess <= 0 for excess in trial.get("excesses", {}).values())
    return {metric: trial.get("value"), **trial["values"], "feasible": feasible}


def _asked_for(folder: Path) -> Run | None:
    """The run of a folder that has no usable record, from its `run.yaml`."""
    try:
        return asked_run(folder)
    except (OSError, ValueError):
        return None


def _architecture_columns(architecture: Architecture) -> dict[str, Any]:
    columns = architecture.to_dict()
    columns["layer_map"] = _in_text(architecture.layers)
    return columns | {"ffn_ratio": architecture.ffn_ratio}


@lru_cache(maxsize=4096)
def _in_text(layers: LayerMap) -> str:
    return json.dumps(layers, separators=(",", ":"))


def _cost_columns(counts: Cost) -> dict[str, Any]:
    return vars(counts) | {"embedding_share": counts.embedding_share}


def deviation(
    architecture: Architecture, budget: Mapping[str, Any], counts: Cost | None = None
) -> float | None:
    """How far an architecture lies off the budget of a `study.json`, as a share; None where that is
    of a device whose file is not here or has changed. Its `counts` need not be made again."""
    try:
        asked = Budget(**budget)
        if counts is not None and asked.kind in OF_WEIGHTS:
            return asked.of(counts) / asked.value - 1
        return asked.deviation(architecture)
    except ValueError:
        return None


def _last_reading(record: Record) -> dict[str, Any]:
    """The reading after most tokens. A diverged run may have none."""
    readings = sorted(record.readings, key=lambda reading: reading.tokens)
    return readings[-1].numbers() if readings else {}


def _columns(rows: list[dict[str, Any]], facts: Mapping[str, Any]) -> list[str]:
    """The union of the rows' columns: what was asked for, what it is, what was measured."""
    always = "number key arm seed role state status reason".split()
    axes = sorted({name for row in rows for name in row if name.startswith("axis.")})
    measured = "tokens val_loss val_bpb train_s eval_s compile_s tokens_per_s".split()
    architecture = dict.fromkeys(name for row in rows for name in row)
    measured += [name for name in measures_of(facts) if name not in (*measured, *architecture)]
    measured += ["feasible"] if facts.get("constraints") and "feasible" not in architecture else []
    seen = {*always, *axes, *measured}
    return [*always, *axes, *(name for name in architecture if name not in seen), *measured]


def _shown(facts: Mapping[str, Any]) -> list[str]:
    """Keys of the runs whose curves are read, in the order of their trials."""
    trials = {trial["key"]: trial for trial in facts["trials"] if trial.get("key")}
    if len(trials) <= MOST_SHOWN:
        return list(trials)
    sign = -1 if facts.get("direction") == "maximize" else 1
    valued = [key for key, trial in trials.items() if is_number(trial.get("value"))]
    best = set(sorted(valued, key=lambda key: sign * trials[key]["value"])[:MOST_SHOWN])
    return [key for key in trials if key in best]


def _curve_of(folder: Path, record: Record | None, missing: list[tuple[str, str]]) -> pd.DataFrame:
    """A run's curve; a damaged one is named in `missing` and empty."""
    try:
        return _read_curve(folder, record.files.get(CURVE) if record else None)
    except (ValueError, TypeError, AttributeError, OSError) as error:
        _note(missing, folder.name, f"its curve cannot be drawn: {error}")
        return _read_curve(folder / "none")


def _read_curve(folder: Path, known: str | None = None) -> pd.DataFrame:
    """A run's curve, empty where it left none. Branches to shorter horizons are not part of it."""
    names = ["tokens", "train_loss", "val_loss", "val_bpb"]
    trunk = (line for line in read_metrics(folder, known) if "horizon" not in line)
    rows = [[line.get(name) for name in names] for line in trunk]
    points = np.array(rows, dtype=float).reshape(-1, len(names))
    return pd.DataFrame(points[~np.isnan(points[:, 0])], columns=names)


def is_number(value: object) -> bool:
    """Whether a cell holds a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def plain(value: Any) -> Any:
    """The value in types that JSON knows; what is not a finite number becomes null."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        if set(map(type, value)) <= {float, int, str} and not _odd(value):
            return list(value)  # curves are long
        return [plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _odd(values: Sequence[float | str]) -> bool:
    """Whether a number among them is not finite."""
    return not all(math.isfinite(value) for value in values if type(value) is float)


def shorten(points: pd.DataFrame, column: str, most: int) -> Iterator[tuple[float, float]]:
    """At most `most` (tokens, value) of a curve: means over equal stretches of it."""
    tokens, values = points["tokens"].to_numpy(), points[column].to_numpy()
    known = ~(np.isnan(tokens) | np.isnan(values))
    if known.sum() <= most:
        yield from zip(tokens[known].tolist(), values[known].tolist(), strict=True)
        return
    points = points[["tokens", column]].dropna()
    if len(points) > most:
        stretch = pd.Series(range(len(points)), index=points.index) * most // len(points)
        points = points.groupby(stretch).mean()
    yield from points.itertuples(index=False, name=None)
