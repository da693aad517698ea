"""Folders of runs: read, written, and collected in a frame.

runs/<key>/run.yaml        what was asked for
runs/<key>/metrics.jsonl   the curve, flushed as it goes
runs/<key>/checkpoint/     the state to go on from, until the run is done
runs/<key>/record.json     the result, written last and atomically
"""

import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from search.record import PRUNED, Reading, Record, Run, architecture_id, run_from_dict
from space.files import write_atomically
from space.parts import DOOR, part_fields

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""Of these no other run would fare better."""


class CorruptRecord(ValueError):
    """A record that cannot be used. Caught where it is set aside."""


class UnknownParts(CorruptRecord):
    """A record of an architecture with parts that are not there, or have changed. It is sound."""


def read_record(folder: Path) -> Record | None:
    """The record of a run folder, or None without one.

    Raises:
        CorruptRecord: the file is damaged, or belongs to another key than its folder says.
        UnknownParts: its architecture cannot be made here.
    """
    path = folder / "record.json"
    try:
        values = json.loads(path.read_text())
        _require_parts(path, values)
        record = Record.from_dict(values)
    except FileNotFoundError:
        return None
    except UnknownParts:
        raise
    except (ValueError, UnicodeDecodeError) as error:
        raise CorruptRecord(f"{path} must hold a run's record, but {error}") from None
    if values.get("key") != folder.name:
        raise CorruptRecord(f"{path} belongs to run {values.get('key')}, not to its folder")
    return record


def usable_record(folder: Path) -> Record | None:
    """The record of a run folder; a damaged one is set aside as `record.json.corrupt`, named, and
    not used. One of parts that have changed since, as while a study runs, is named and stays."""
    try:
        return read_record(folder)
    except UnknownParts as error:
        _say_once(f"warning: {error}; the record stays as it is and is not used")
        return None
    except CorruptRecord as error:
        with suppress(FileNotFoundError):  # another process has set it aside
            os.replace(folder / "record.json", folder / "record.json.corrupt")
            print(
                f"warning: {error}; it was set aside as record.json.corrupt and the run is done "
                "again"
            )
        return None


def _require_parts(path: Path, values: Any) -> None:
    """Raises: UnknownParts where parts of a record's architecture are not what they were."""
    try:
        named = values["architecture"].get("parts", {}).items()
    except (TypeError, KeyError, AttributeError):
        return  # no record, which is said elsewhere
    for part, identity in named:
        try:
            changed = DOOR.identity(part) != identity
        except ValueError as error:
            raise UnknownParts(f"{path} needs the part {part}, but {error}") from None
        if changed:
            raise UnknownParts(f"{path} needs the part {part} as it was: its source has changed")


@cache
def _say_once(text: str) -> None:
    print(text)


def pruned_record(folder: Path, reason: str | None) -> Record | None:
    """What there is to show of a run that was stopped at a horizon, from its `run.yaml` and its
    curve; None where these are not there. It is not written: the run may go on."""
    try:
        run = run_from_dict(yaml.safe_load((folder / "run.yaml").read_text()))
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return None
    scored = [line for line in read_metrics(folder) if "horizon" in line and "val_loss" in line]
    names = ("tokens", "val_loss", "val_bpb")
    readings = tuple(Reading(**{name: line[name] for name in names}) for line in scored)
    return Record(run=run, status=PRUNED, reason=reason, readings=readings)


def write_record(folder: Path, record: Record) -> None:
    """Write `record.json` at once or not at all."""
    write_atomically(folder / "record.json", json.dumps(record.to_dict(), indent=1) + "\n")


def write_run(folder: Path, run: Run) -> None:
    """Write `run.yaml`: what was asked for."""
    write_atomically(folder / "run.yaml", yaml.safe_dump(run.to_dict(), sort_keys=False))


def disk_error(error: BaseException) -> OSError | None:
    """The full or failing disk behind an error: torch and safetensors raise errors of their own."""
    own = next((e for e in (error, error.__context__) if isinstance(e, OSError)), None)
    said = re.search(r"os error (\d+)", str(error))
    number = own.errno if own is not None else int(said[1]) if said else None
    if number is None or number not in DISK_ERRORS:
        return None
    return OSError(number, os.strerror(number), own and own.filename)


def load_records(runs: str | Path) -> pd.DataFrame:
    """All records of a runs folder, one row per reading (a run without a reading has one row with
    blanks).

    Columns: key, arm, status, reason, seed, init_seed, data, tokens, val_loss, val_bpb, seconds (of
    which train_s, eval_s and branch_s), tokens_per_s; zero-shot scores as `task.metric`; medians of
    what engines measured as `engine_precision.quantity`; the
    architecture's and the cost's fields under their own names; the recipe's as `recipe_<name>`.
    Damaged records are left out; `frame.attrs["corrupt"]` lists what is wrong with each.
    """
    rows: list[dict[str, Any]] = []
    corrupt: list[str] = []
    for path in sorted(Path(runs).glob("*/record.json")):
        try:
            record = read_record(path.parent)
        except CorruptRecord as error:
            corrupt.append(str(error))
            continue
        if record is not None:
            rows.extend(_rows(path.parent.name, record))
    frame = pd.DataFrame(rows)
    named = {name for row in rows for name in row.get("parts", ())}
    for name, field in part_fields(sorted(named)).items():
        if name in frame:  # architectures without the part have its default
            frame[name] = [row.get(name, field.default) for row in rows]
    frame.attrs["corrupt"] = corrupt
    return frame


def read_metrics(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of `metrics.jsonl`; a last line cut off by a crash is left out. Those of a branch
    say which in `horizon`, the share of the tokens that it decays to."""
    path = folder / "metrics.jsonl"
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            yield json.loads(line)
        except ValueError:
            return


def _rows(key: str, record: Record) -> Iterator[dict[str, Any]]:
    run = record.run
    common = {
        "key": key,
        "arm": architecture_id(run.architecture),
        "status": record.status,
        "reason": record.reason,
        "seed": run.seed,
        "init_seed": run.init_seed,
        "data": run.data_fingerprint,
        "seconds": record.seconds,
        "train_s": record.train_s,
        "eval_s": record.eval_s,
        "branch_s": record.branch_s,
        "tokens_per_s": record.tokens_per_s,
        **run.architecture.to_dict(),
        **asdict(record.cost),
        **{f"recipe_{k}": v for k, v in run.recipe.to_dict().items()},
        **{name: value for found in record.measured for name, value in found.numbers().items()},
    }
    blank = {"tokens": None, "val_loss": None, "val_bpb": None}
    for reading in [r.numbers() for r in record.readings] or [blank]:
        yield {**common, **reading}
