"""`python -m search.whose`: which studies and tables each run of `runs/` belongs to.

A run does not know: it is trained once, by the first who asks for it, and several may have it. So
all of `outputs` is asked, each `study.json`, and each storage for what is not in there yet. Nothing
is written.
"""

import json
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna

from search.record import Reading, Run
from search.runs import CorruptRecord, asked_run, read_record
from search.show.progress import named
from search.status import PLACES, databases, look, names_in
from search.study.patience import PatientStorage
from search.study.storage import (
    OPENING_ERRORS,
    first_line,
    open_there,
    open_to_read,
    read_attempts,
)
from space.app import verb
from space.cli import one_line_errors
from space.near import hint
from space.overrides import Place
from space.seals import read_json
from space.tables import in_columns
from space.words import count

FORMATS = ("text", "json")
NOBODY = "–"
HEADINGS = ("run", "of", "state", "model", "seed", "tokens", "bits per byte", "MB")


@dataclass(kw_only=True)
class WhoseConfig:
    """What `conf/whose.yaml` holds."""

    run: str | None = None
    """The key of a run, or its beginning. Default: all."""
    runs: Place = "runs"
    outputs: Place = "outputs"
    """Folder of studies and tables, which are asked."""
    storage: str | None = None
    """SQLAlchemy URL of studies that are in no `study.db` under `outputs`."""
    format: str = "text"
    """`text` or `json`, a list of runs."""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"format must be text or json, but got {self.format!r}")


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A study or table that has a run."""

    study: str
    """Its folder under `outputs`."""
    trial: int
    arm: str
    """Of a table, or what else tells the trial from others."""

    def __str__(self) -> str:
        return f"{self.study}: {self.arm or f'trial {self.trial}'}"


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A run's folder, and whose it is."""

    run: str
    of: Sequence[Owner]
    state: str
    """As its record says; `running`, `unfinished` or `damaged` without one."""
    model: str
    seed: int | None
    tokens: int | None
    val_bpb: float | None
    bytes: int


@verb("whose", WhoseConfig)
def main(config: WhoseConfig) -> None:
    """Print a line for each run."""
    with one_line_errors():
        folders = folders_of(config)
        owners, running = asked(config)
        found = [kept(folder, owners, running) for folder in folders]
    if config.format == "json":
        print(json.dumps([asdict(each) for each in found]))
    else:
        print(in_words(found, config.outputs))


def folders_of(config: WhoseConfig) -> list[Path]:
    """The folders of the runs that are asked about.

    Raises:
        ValueError: there is none.
    """
    there = sorted(path for path in Path(config.runs).glob("[0-9a-f]*") if path.is_dir())
    if not Path(config.runs).is_dir():
        raise ValueError(f"runs must be a folder that is there, but {config.runs} is not")
    found = [path for path in there if path.name.startswith(config.run or "")]
    if config.run and not found:
        near = hint(config.run, [path.name for path in there])
        raise ValueError(
            f"run must be a run of {config.runs}, or the beginning of its key, but got "
            f"{config.run!r}{near}"
        )
    return found


Owners = dict[str, dict[str, Owner]]
"""By the key of a run and the name of the study."""


def asked(config: WhoseConfig) -> tuple[Owners, set[str]]:
    """Who has which run, and the keys of those that somebody trains now. What cannot be read is
    named on standard error: its runs may look like nobody's."""
    owners, running = Owners(), set[str]()
    outputs = Path(config.outputs)
    for path in sorted(p for place in PLACES for p in outputs.glob(f"{place}/study.json")):
        name = path.parent.relative_to(outputs).as_posix()
        with _named(path):
            for trial in read_json(path)["trials"]:
                _add(owners, name, trial.get("key"), trial["number"], trial.get("params") or {})
    for path in databases(outputs):
        with _named(path), open_to_read(path) as storage:
            running |= _ask(storage, owners, path.parent.relative_to(outputs).as_posix())
    if config.storage is not None:
        running |= _ask(open_there(config.storage), owners)
    return owners, running


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What cannot be read is said, and is no end."""
    try:
        yield
    except (*OPENING_ERRORS, OSError, LookupError, TypeError, AttributeError) as error:
        print(f"warning: {path} cannot be read ({first_line(error)})", file=sys.stderr)


def _ask(storage: PatientStorage, owners: Owners, folder: str | None = None) -> set[str]:
    """Add what studies of a storage have; the keys of the runs that their workers train."""
    names = names_in(storage, folder)
    for name, place in names.items():
        study = optuna.load_study(study_name=name, storage=storage.as_optunas)
        for run in read_attempts(study):
            _add(owners, place, run.key, run.number, run.params)
    looks = [look(storage, name) for name in names]
    return {str(worker["key"]) for found in looks for worker in found["workers"]}


def _add(
    owners: Owners, study: str, key: str | None, number: int, params: Mapping[str, Any]
) -> None:
    if key is not None:
        owner = Owner(study=study, trial=number, arm=named(params))
        owners.setdefault(key, {}).setdefault(study, owner)


def kept(folder: Path, owners: Owners, running: Collection[str]) -> Kept:
    """What is in a run's folder, and whose it is."""
    state, run, last = _run_of(folder, folder.name in running)
    arch = run and run.architecture
    return Kept(
        run=folder.name,
        of=sorted(owners.get(folder.name, {}).values(), key=lambda owner: owner.study),
        state=state,
        model=f"{count(arch.num_layers, 'layer')} × {arch.hidden_size}" if arch else "",
        seed=run.seed if run else None,
        tokens=last.tokens if last else None,
        val_bpb=last.val_bpb if last else None,
        bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    )


def _run_of(folder: Path, is_running: bool) -> tuple[str, Run | None, Reading | None]:
    """State, run and last reading."""
    try:
        record = read_record(folder)
    except CorruptRecord:
        return "damaged", None, None
    if record is not None:
        return record.status, record.run, record.readings[-1] if record.readings else None
    state = "running" if is_running else "unfinished"
    try:
        return state, asked_run(folder), None
    except (OSError, ValueError):
        return state, None, None


def in_words(found: Sequence[Kept], outputs: str) -> str:
    """A line for each run, and what nobody has."""
    lost = [each for each in found if not each.of]
    size = sum(each.bytes for each in found)
    total = f"{count(len(found), 'run')}, {_megabytes(size)} MB"
    if lost:
        free = _megabytes(sum(each.bytes for each in lost))
        total += f"; {len(lost)} of no study or table of {outputs}, {free} MB"
    return "\n".join([in_columns([HEADINGS, *map(_row, found)]), total])


def _row(each: Kept) -> list[str]:
    tokens = None if each.tokens is None else f"{each.tokens:,}"
    quality = None if each.val_bpb is None else f"{each.val_bpb:.4f}"
    return [
        each.run,
        "; ".join(map(str, each.of)) or NOBODY,
        each.state,
        each.model or NOBODY,
        *(NOBODY if number is None else str(number) for number in (each.seed, tokens, quality)),
        _megabytes(each.bytes),
    ]


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f}"


if __name__ == "__main__":
    main()
