"""`python -m search.status study=depth_width_1m`: how far a study is, and what its workers do.

It looks at the study's storage alone, from any machine that reaches it, and changes nothing there.
Without `study` it looks at all studies and tables of `outputs`, or of the storage, and writes
nothing there. `--watch` looks again every few seconds; `format=json` is for programs.
"""

import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from sqlalchemy import inspect

from search.states import State, Status
from search.study.leases import START, TABLE, WORKER, Lease, read
from search.study.patience import PatientStorage
from search.study.plan import distinct
from search.study.storage import (
    AT_MOST,
    OPENING_ERRORS,
    TOTAL,
    first_line,
    open_there,
    open_to_read,
    read_attempts,
)
from space.app import verb
from space.cli import one_line_errors
from space.near import hint
from space.overrides import Place
from space.ranges import Positive, settle_numbers
from space.tables import in_columns
from space.words import amount, done_of

FORMATS = ("text", "json")
DB = "study.db"
"""SQLite's file in the folder of a study."""
PLACES = ("*", "tables/*")
"""Of these folders under `outputs`."""


@dataclass(kw_only=True)
class StatusConfig:
    """What `conf/status.yaml` holds."""

    study: str | None = None
    """Its name; of a table, that of its folder. Default: all of `outputs`, or of the storage."""
    storage: str | None = None
    """SQLAlchemy URL, as the study was started with. Default: SQLite in the study's folder."""
    outputs: Place = "outputs"
    """Folder of studies and tables."""
    format: str = "text"
    """`text` or `json`, an object a look; of all studies, one of their objects by folder."""
    watch: bool = False
    """Whether to look again until the study is done; at all studies, until it is stopped."""
    every_s: Positive = 5.0

    def __post_init__(self) -> None:
        settle_numbers(self)
        if self.format not in FORMATS:
            raise ValueError(f"format must be text or json, but got {self.format!r}")


@verb("status", StatusConfig, flags={"--watch": "watch=true"})
def main(config: StatusConfig) -> None:
    """Print where the study stands; with `watch` until it is done."""
    with one_line_errors():
        if config.study is None:
            if config.storage is None and not Path(config.outputs).is_dir():
                raise ValueError(
                    f"outputs must be a folder that is there, but {config.outputs} is not; "
                    "`python -m search` makes it, or set outputs=FOLDER"
                )
            _show_all(config)
            return
        storage = storage_of(config)
        name = name_of(storage, str(config.study))
        while True:
            found = look(storage, name)
            print(json.dumps(found) if config.format == "json" else in_words(found), flush=True)
            if not config.watch or found["done"] >= found["total"]:
                return
            time.sleep(config.every_s)


def _show_all(config: StatusConfig) -> None:
    every = All(config)
    while True:
        found = every.look()
        texts = map(in_words, sorted(found.values(), key=lambda each: not is_alive(each)))
        print(
            json.dumps(found)
            if config.format == "json"
            else "\n".join(texts) or "no study has been started here",
            flush=True,
        )
        if not config.watch:
            return
        time.sleep(config.every_s)


class All:
    """All studies of a folder, or of one storage, looked at again and again. Files that nobody
    has written to since are not read again."""

    def __init__(self, config: StatusConfig) -> None:
        self.outputs = Path(config.outputs)
        self.shared = None if config.storage is None else open_there(config.storage)
        self.quiet: dict[Path, tuple[tuple[int, int], dict[str, Any]]] = {}
        """Files behind which nobody worked at the last look: their state then, and what it was."""

    def look(self) -> dict[str, dict[str, Any]]:
        """As `look` of each study, by its folder under `outputs`; `started` and `settings` besides.
        One that cannot be read has an `error` instead."""
        if self.shared is not None:
            return dict(_each(self.shared))
        paths = databases(self.outputs)
        return {name: found for path in paths for name, found in self._of(path).items()}

    def _of(self, path: Path) -> dict[str, dict[str, Any]]:
        name = path.parent.relative_to(self.outputs).as_posix()
        try:
            facts = path.stat()
            state = (facts.st_mtime_ns, facts.st_size)
            if (before := self.quiet.get(path)) is not None and before[0] == state:
                return before[1]
            with open_to_read(path) as storage:
                found = dict(_each(storage, name))
        except (*OPENING_ERRORS, OSError) as error:
            return {name: {"study": path.parent.name, "error": first_line(error)}}
        self.quiet.pop(path, None)
        if not any(map(is_alive, found.values())):
            self.quiet[path] = (state, found)
        return found


def databases(outputs: Path) -> list[Path]:
    """The files of SQLite of all studies and tables."""
    return sorted(path for place in PLACES for path in outputs.glob(f"{place}/{DB}"))


def names_in(storage: PatientStorage, folder: str | None = None) -> dict[str, str]:
    """The studies of a storage, and the folder of each under `outputs`: the storage's own, where it
    has one study, which may have been copied or moved; else by its name."""
    names = optuna.get_all_study_names(storage.as_optunas)
    if folder is not None and len(names) == 1:
        return {names[0]: folder}
    return {name: re.sub("^table_", "tables/", name) for name in names}


def _each(
    storage: PatientStorage, folder: str | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, place in names_in(storage, folder).items():
        kept = optuna.load_study(study_name=name, storage=storage.as_optunas).user_attrs
        facts = {"started": kept.get("started"), "settings": kept.get("settings", {})}
        yield place, look(storage, name) | facts


def is_alive(found: Mapping[str, Any]) -> bool:
    """Whether somebody works on a study that was looked at."""
    return bool(found.get("workers") or found.get("starts"))


def storage_of(config: StatusConfig) -> PatientStorage:
    """The study's storage, which must be there.

    Raises:
        ValueError: it is not, or cannot be opened.
    """
    url = config.storage or f"sqlite:///{_file_of(config)}"
    return open_there(url)


def name_of(storage: PatientStorage, given: str) -> str:
    """A study's name in its storage: a table's begins with `table_`.

    Raises:
        ValueError: there is no such study.
    """
    known = optuna.get_all_study_names(storage.as_optunas)
    for name in (given, f"table_{given}"):
        if name in known:
            return name
    there = ", ".join(known[:5]) or "no study yet"
    raise ValueError(f"study must be one of its storage, but got {given!r}; there is {there}")


def _file_of(config: StatusConfig) -> Path:
    """SQLite's file in the folder of a search, or of a table."""
    outputs, study = Path(config.outputs), str(config.study)
    folders = [outputs / study, outputs / "tables" / study.removeprefix("table_")]
    for folder in folders:
        if (found := folder / DB).is_file():
            return found
    known = [path.parent.name for path in databases(outputs)]
    there = f"there is {', '.join(known) or 'none yet'}"
    raise ValueError(
        f"study must be one that was started, but {folders[0] / DB} is not there; {there}"
        f"{hint(study, known)}; set outputs=… to where it is, or storage=… to the database that it "
        "was started with"
    )


def look(storage: PatientStorage, name: str) -> dict[str, Any]:
    """Where a study stands: runs by how they ended, and what each worker does that lives."""
    study = optuna.load_study(study_name=name, storage=storage.as_optunas)
    runs = distinct(read_attempts(study))
    leases, starts = (_living(storage, kind, name) for kind in (WORKER, START))
    workers = [_worker(lease) for lease in leases]
    idle = [worker["idle"] for worker in workers if worker["idle"] is not None]
    return {
        "study": name,
        "done": sum(run.done for run in runs),
        "total": study.user_attrs.get(TOTAL, len(runs)),
        "at_most": study.user_attrs.get(AT_MOST, False),
        "finished": sum(run.state == State.COMPLETE for run in runs),
        "pruned": sum(run.state == State.PRUNED for run in runs),
        "diverged": sum(run.status == Status.DIVERGED for run in runs),
        "failed": sum(run.status == Status.FAILED for run in runs),
        "running": sum(run.state == State.RUNNING for run in runs),
        "tokens_per_s": sum(worker["tokens_per_s"] for worker in workers),
        "idle": sum(idle) / len(idle) if idle else None,
        "starts": sorted(lease.host for lease in starts),
        "workers": sorted(workers, key=lambda worker: (worker["host"], worker["worker"])),
    }


def _living(storage: PatientStorage, kind: str, name: str) -> list[Lease]:
    """Leases that have not run out; none in a storage of an earlier version, which had no such."""
    if not inspect(storage.engine).has_table(TABLE.name):
        return []
    return [lease for lease in read(storage.engine, kind, name) if lease.left_s > 0]


def _worker(lease: Lease) -> dict[str, Any]:
    said = lease.said
    return {
        "host": lease.host,
        "worker": lease.owner,
        "doing": said.get("doing", "starting"),
        "trial": said.get("trial"),
        "key": said.get("key"),
        "task": said.get("task"),
        "step": said.get("step"),
        "of": said.get("of"),
        "tokens_per_s": said.get("tokens_per_s") or 0.0,
        "idle": said.get("idle"),
        "lease_s": round(lease.left_s, 1),
    }


def in_words(found: Mapping[str, Any]) -> str:
    """The same for people: a line of the study, and a table of its workers by host."""
    if "error" in found:
        return f"{called(found['study'])} cannot be read: {found['error']}"
    kinds = ("running", "pruned", "diverged", "failed")
    counts = "".join(f", {found[kind]} {kind}" for kind in kinds if found[kind])
    done = done_of(found["done"], found["total"], found["at_most"])
    head = f"{called(found['study'])}: {done}{counts}"
    workers: Sequence[Mapping[str, Any]] = found["workers"]
    if not workers:
        return f"{head}; no worker is alive"
    hosts = Counter(worker["host"] for worker in workers)
    where = ", ".join(f"{number} on {host}" for host, number in hosts.items())
    speed = f"{amount(found['tokens_per_s'])} tokens/s"
    idle = "" if found["idle"] is None else f", {found['idle']:.0%} idle"
    rows = [["host", "worker", "does", "trial", "run", "done", "tokens/s", "idle"]]
    return f"{head}; workers: {where}; {speed}{idle}\n{in_columns([*rows, *map(_row, workers)])}"


def called(study: str) -> str:
    """As commands have it: `table heads` is the study `table_heads` of a storage."""
    table = study.removeprefix("table_")
    return f"study {study}" if table == study else f"table {table}"


def _row(worker: Mapping[str, Any]) -> list[str]:
    part = f"{worker['step'] / worker['of']:.0%}" if worker["of"] else ""
    trial = "" if worker["trial"] is None else str(worker["trial"])
    speed = amount(worker["tokens_per_s"]) if worker["tokens_per_s"] else ""
    idle = "" if worker["idle"] is None else f"{worker['idle']:.0%}"
    doing = f"asking {worker['task']}" if worker["task"] else str(worker["doing"])
    name = str(worker["worker"]).removeprefix(f"{worker['host']}:")
    return [str(worker["host"]), name, doing, trial, worker["key"] or "", part, speed, idle]


if __name__ == "__main__":
    main()
