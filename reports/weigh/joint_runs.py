"""The runs of a joint law: those of a law's studies, and further records beside them.

Further records may differ in tokens per parameter, which separates parameters from tokens.
"""

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reports.read.study import Study
from search.objectives import LOSSES
from search.record import Record, architecture_id
from search.states import Status
from space.seals import parse_json

MAY_DIFFER = ("tokens", "warmup_fraction", "horizons", "evaluations")
"""Of the recipe: how long a run was, and where it was read."""


def cells(studies: Sequence[Study], besides: Sequence[Path] = ()) -> pd.DataFrame:
    """A row for each reading of a finished run: `parameters tokens depth seed value architecture
    group key`. The parameters are those that the studies' budgets count; a group is what one study
    or file has of one budget and number of tokens.

    Raises:
        ValueError: a place without records, a damaged one, or records of another recipe or text.
    """
    metric, kind = studies[0].metric, str(studies[0].facts["budget"]["kind"])
    if metric not in LOSSES:
        return pd.DataFrame()
    records = [(s.name, s.records[key]) for s in studies for key in s.finished.key]
    first = records[0][1]
    rows = [row for name, record in records for row in _rows(record, metric, kind, name)]
    known = {record.run.key for _, record in records}
    for path in besides:
        found = [record for record in _read(path) if record.run.key not in known]
        for record in found:
            _require_alike(first, record, path)
            known.add(record.run.key)
            octave = round(np.log2(record.cost.parameters))
            rows += _rows(record, metric, kind, f"{path.name} 2^{octave}")
    return pd.DataFrame(rows)


def _rows(record: Record, metric: str, kind: str, group: str) -> Iterator[dict[str, Any]]:
    run = record.run
    for reading in record.readings:
        if (value := getattr(reading, metric)) is not None:
            yield {
                "parameters": getattr(record.cost, kind),
                "tokens": reading.tokens,
                "depth": run.architecture.num_layers,
                "seed": run.seed,
                "value": value,
                "architecture": architecture_id(run.architecture),
                "group": f"{group} {reading.tokens}",
                "key": run.key,
            }


def _read(path: Path) -> list[Record]:
    """The finished records of a folder, or of a `records.tar.xz`."""
    if path.is_dir():
        texts = {str(file): file.read_bytes() for file in sorted(path.rglob("record.json"))}
    elif path.is_file() and tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            members = [m for m in archive.getmembers() if Path(m.name).name == "record.json"]
            files = {m.name: archive.extractfile(m) for m in sorted(members, key=lambda m: m.name)}
            texts = {f"{path}: {n}": file.read() for n, file in files.items() if file is not None}
    else:
        texts = {}
    records = [_record(*named) for named in texts.items()]
    found = [record for record in records if record.status == Status.FINISHED]
    if not found:
        raise ValueError(
            f"besides must name folders or archives of records, but {path} has no finished one"
        )
    return found


def _record(name: str, text: bytes) -> Record:
    try:
        return Record.from_dict(parse_json(text)[0])
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"{name} must hold a run's record, but {error}; take it as it was written, or leave it "
            "out of besides"
        ) from None


def _require_alike(first: Record, record: Record, path: Path) -> None:
    """Raises: ValueError where a record differs in more than a law's runs may."""
    settings = [
        {k: v for k, v in asdict(r.run.recipe).items() if k not in MAY_DIFFER}
        | {"data": dict(r.data).get("name"), "sharing": r.run.architecture.sharing}
        for r in (first, record)
    ]
    for name, value in settings[0].items():
        if settings[1][name] != value:
            raise ValueError(
                f"records beside a law must have its recipe and text, but {name} is "
                f"{settings[1][name]} in {path} and {value} in its studies; leave them out"
            )
