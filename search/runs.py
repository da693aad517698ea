"""Folders of runs: read, written, and collected in a frame.

runs/<key>/run.yaml        what was asked for
runs/<key>/metrics.jsonl   the curve, flushed as it goes
runs/<key>/windows.npy     what each held-out window came to at the end
runs/<key>/checkpoint/     the state to go on from, until the run is done
runs/<key>/record.json     the result, written last and atomically, with the digests of the others
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
from typing import TYPE_CHECKING, Any

import yaml

from search.record import (
    NUMERICS_VERSION,
    Reading,
    Record,
    Run,
    architecture_id,
    run_from_dict,
)
from search.states import Status
from space.files import Fence, file_atomically, nothing, write_atomically
from space.parts import DOOR, part_fields
from space.seals import (
    Damaged,
    digest,
    digest_of_file,
    parse_json,
    require_digest,
    set_aside,
    write_json,
)

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    Array = NDArray[np.floating]

CURVE, WINDOWS, WEIGHTS = "metrics.jsonl", "windows.npy", "weights.safetensors"
SEAL = "# digest "
"""Begins the last line of `run.yaml`."""
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""Of these no other run would fare better."""


class CorruptRecord(ValueError):
    """A record that cannot be used. Caught where it is set aside."""


class UnknownParts(CorruptRecord):
    """A record of an architecture with parts that are not there, or have changed. It is sound."""


def read_record(
    folder: Path, result_id: str | None = None, shared: dict[str, Any] | None = None
) -> Record | None:
    """The record of a run folder, or None without one; `shared` as for `Record.from_dict`.

    Raises:
        CorruptRecord: the file is damaged, belongs to another key than its folder says, or came to
            another result than the one whose `result_id` a study kept.
        UnknownParts: its architecture cannot be made here.
    """
    path = folder / "record.json"
    try:
        values, sealed = parse_json(path.read_bytes())
        _require_parts(path, values)
        record = Record.from_dict(values, shared)
    except FileNotFoundError:
        return None
    except UnknownParts:
        raise
    except (ValueError, AttributeError, OverflowError) as error:
        raise CorruptRecord(f"{path} must hold a run's record, but {error}") from None
    if values.get("key") != folder.name:
        raise CorruptRecord(f"{path} belongs to run {values.get('key')}, not to its folder")
    if not sealed and values.get("numerics_version") == NUMERICS_VERSION:
        if (key := record.run.key) != folder.name:  # all that decides the result is in the key
            raise CorruptRecord(f"{path} must be as it was written, but describes the run {key}")
    if result_id is not None and record.result_id != result_id:
        raise CorruptRecord(f"{path} must be the one that the study saw, but has other results")
    return record


def usable_record(folder: Path, result_id: str | None = None) -> Record | None:
    """The record of a run folder; a damaged one is set aside as `record.json.corrupt`, named, and
    not used. One of parts that have changed since, as while a study runs, is named and stays."""
    try:
        return read_record(folder, result_id)
    except UnknownParts as error:
        _say_once(f"warning: {error}; the record stays as it is and is not used")
        return None
    except CorruptRecord as error:
        with suppress(FileNotFoundError):  # another process has set it aside
            aside = set_aside(folder / "record.json")
            print(f"warning: {error}; it was set aside as {aside.name} and the run is done again")
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
        run = asked_run(folder)
    except (OSError, ValueError):
        return None
    scored = [line for line in read_metrics(folder) if "horizon" in line and "val_loss" in line]
    names = ("tokens", "val_loss", "val_bpb", "sources")
    found = ({name: line[name] for name in names if name in line} for line in scored)
    readings = tuple(map(Reading.from_dict, found))
    return Record(run=run, status=Status.PRUNED, reason=reason, readings=readings)


def write_record(folder: Path, record: Record, fence: Fence = nothing) -> None:
    """Write `record.json` at once or not at all."""
    write_json(folder / "record.json", record.to_dict(), fence)


def write_run(folder: Path, run: Run, fence: Fence = nothing) -> None:
    """Write `run.yaml`: what was asked for, with a digest of the text in its last line."""
    text = yaml.safe_dump(run.to_dict(), sort_keys=False)
    write_atomically(folder / "run.yaml", f"{text}{SEAL}{digest(text.encode())}\n", fence)


def read_asked(folder: Path) -> dict[str, Any]:
    """What `run.yaml` says, as `Run.to_dict` described it.

    Raises:
        Damaged: it is not as it was written, or belongs to another folder.
        OSError: it cannot be read.
    """
    path = folder / "run.yaml"
    body, found, end = path.read_bytes().rpartition(SEAL.encode())
    if found and end != f"{digest(body)}\n".encode():
        raise Damaged(f"{path} must be as it was written, but its content has another digest")
    try:
        asked = yaml.safe_load(body if found else end)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        said = str(error).splitlines()[0]
        raise Damaged(f"{path} must say what was asked for, but {said}") from None
    if not isinstance(asked, dict) or "architecture" not in asked:
        raise Damaged(f"{path} must say what was asked for, but does not")
    return asked


def asked_run(folder: Path) -> Run:
    """The run that `run.yaml` describes.

    Raises:
        ValueError: it is damaged, or another folder's.
        OSError: it cannot be read.
    """
    asked = read_asked(folder)
    if asked.get("key") != folder.name:
        raise Damaged(f"{folder / 'run.yaml'} belongs to run {asked.get('key')}")
    try:
        return run_from_dict(asked)
    except (KeyError, TypeError) as error:
        raise Damaged(f"{folder / 'run.yaml'} does not describe a run: {error}") from None


def digests(folder: Path) -> dict[str, str]:
    """Of the files beside the record of a run that has ended."""
    there = (folder / name for name in (CURVE, WINDOWS, WEIGHTS))
    return {path.name: digest_of_file(path) for path in there if path.is_file()}


def write_windows(folder: Path, windows: "tuple[Array, Array, Array]", fence: Fence) -> None:
    """Leave of each held-out window (W,) its negative log-likelihood in nats, its bytes of text,
    NaN where they are not known, and its weight in the losses."""
    import numpy as np

    with file_atomically(folder / WINDOWS, fence=fence) as part, part.open("wb") as file:
        np.save(file, np.stack(windows).astype(np.float32))


def read_windows(folder: Path, record: Record) -> "Array | None":
    """What `write_windows` left: nats, bytes and weights (3, W). None for runs of before it did,
    and where the file is not as the record knows it."""
    import numpy as np

    if WINDOWS not in record.files:
        return None
    try:
        require_digest(folder / WINDOWS, record.files[WINDOWS])
        return np.load(folder / WINDOWS)  # type: ignore[no-any-return]
    except (OSError, ValueError):
        return None


def disk_error(error: BaseException) -> OSError | None:
    """The full or failing disk behind an error: torch and safetensors raise errors of their own."""
    own = next((e for e in (error, error.__context__) if isinstance(e, OSError)), None)
    said = re.search(r"os error (\d+)", str(error))
    number = own.errno if own is not None else int(said[1]) if said else None
    if number is None or number not in DISK_ERRORS:
        return None
    return OSError(number, os.strerror(number), own and own.filename)


def load_records(runs: str | Path) -> "pd.DataFrame":
    """All records of a runs folder, one row per reading (a run without a reading has one row with
    blanks).

    Columns: key, arm, status, reason, seed, init_seed, data, tokens, val_loss, val_bpb, seconds (of
    which train_s, eval_s and branch_s), tokens_per_s; zero-shot scores as `task.metric`; losses on
    the sources of a mixture as `val_bpb@source`; medians of
    what engines measured as `engine_precision.quantity`; the
    architecture's and the cost's fields under their own names; the recipe's as `recipe_<name>`.
    Damaged records are left out; `frame.attrs["corrupt"]` lists what is wrong with each.

    Raises:
        ValueError: there is no such folder.
    """
    if not Path(runs).is_dir():
        raise ValueError(
            f"runs must be a folder of runs, but there is no {runs}; check the spelling (it is "
            "relative to the current folder)"
        )
    import pandas as pd  # the commands that train do without it

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
    parts = [[], *([name] for name in sorted(named))]  # apart: two may share a field's name
    defaults = {name: field.default for part in parts for name, field in part_fields(part).items()}
    for name, default in defaults.items():
        if name in frame:  # architectures without the part have its default
            frame[name] = [row.get(name, default) for row in rows]
    frame.attrs["corrupt"] = corrupt
    return frame


def read_metrics(folder: Path, known: str | None = None) -> Iterator[dict[str, Any]]:
    """The lines of `metrics.jsonl`; a last line cut off by a crash is left out. Those of a branch
    say which in `horizon`, the share of the tokens that it decays to.

    `known`: the digest that the file must have, from the record of a run that has ended.

    Raises:
        Damaged: the file has another digest, or a line before the last is none.
    """
    path = folder / CURVE
    if not path.is_file():
        return
    content = path.read_bytes()
    if known is not None and digest(content) != known:
        raise Damaged(f"{path} must be as it was written, but its content has another digest")
    lines = content.splitlines()
    if known is not None:
        with suppress(ValueError):  # a line cut off is found below
            yield from json.loads(b"[" + b",".join(lines) + b"]")  # faster than one by one
            return
    for number, line in enumerate(lines, 1):
        try:
            yield json.loads(line)
        except ValueError as error:
            if number < len(lines):
                raise Damaged(
                    f"{path} must hold a line of JSON per step: line {number} is none ({error})"
                ) from None


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
