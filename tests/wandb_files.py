"""Reads W&B's offline files back: LevelDB's log framing around protobuf records."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK = 32768
HEADER_BYTES = 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def payloads(path: Path) -> Iterator[bytes]:
    """The framed payloads of a `.wandb` file, joined where they cross blocks."""
    content = path.read_bytes()
    assert content[:4] == b":W&B", "not a W&B file"
    position, parts = HEADER_BYTES, b""
    while position + HEADER_BYTES <= len(content):
        if BLOCK - position % BLOCK < HEADER_BYTES:
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        position += HEADER_BYTES
        parts += content[position : position + length]
        position += length
        if kind in (FULL, LAST):
            yield parts
            parts = b""


def read(path: Path) -> dict[str, Any]:
    """What a file says: `run` facts, `config`, `history` (a mapping for each step), `summary`."""
    shown: dict[str, Any] = {"config": {}, "history": [], "summary": {}, "exit_code": None}
    for payload in payloads(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(payload)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            shown["run"] = {
                "id": run.run_id,
                "group": run.run_group,
                "job_type": run.job_type,
                "name": run.display_name,
                "tags": list(run.tags),
            }
            shown["config"] |= {u.key: json.loads(u.value_json) for u in run.config.update}
        elif kind == "history":
            shown["history"].append(_nested(record.history.item))
        elif kind == "summary":
            shown["summary"] |= _nested(record.summary.update)
        elif kind == "exit":
            shown["exit_code"] = record.exit.exit_code
    return shown


def _nested(items: Any) -> dict[str, Any]:
    """Items by key; those with a path of keys as mappings in mappings."""
    values: dict[str, Any] = {}
    for item in items:
        *path, last = [item.key] if item.key else item.nested_key
        inner = values
        for name in path:
            inner = inner.setdefault(name, {})
        inner[last] = json.loads(item.value_json)
    return values
