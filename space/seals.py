"""Digests of what is kept: text that carries its own, and files whose digest is kept elsewhere.

BLAKE2b of 16 bytes, at about a gigabyte per second. Files of earlier versions carry none and are
read as before.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from space.files import Fence, nothing, write_atomically

FIELD = "digest"
BLOCK = 1 << 20
BEFORE, AFTER = f',\n "{FIELD}": "'.encode(), b'"\n}\n'
"""What stands around the digest at the end of a JSON file; it is that of all text before."""


class Damaged(ValueError):
    """A file that is not as it was written. Caught where it is set aside."""


def digest(content: bytes) -> str:
    """32 hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def digest_of_file(path: Path, size: int | None = None) -> str:
    """As `digest`, of a file's first `size` bytes or of all, without holding it in memory."""
    made, left = hashlib.blake2b(digest_size=16), path.stat().st_size if size is None else size
    with path.open("rb") as file:
        while left > 0 and (block := file.read(min(left, BLOCK))):
            made.update(block)
            left -= len(block)
    return made.hexdigest()


class Digesting:
    """A file to write to, and the digest of what was written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.hash = file, hashlib.blake2b(digest_size=16)

    def write(self, content: Any) -> int:
        self.hash.update(content)
        return self.file.write(content)

    def flush(self) -> None:
        self.file.flush()


def write_json(path: Path, values: Mapping[str, Any], fence: Fence = nothing) -> None:
    """Write values with their digest as the last field, at once or not at all."""
    write_atomically(path, sealed_json(values), fence)


def sealed_json(values: Mapping[str, Any]) -> bytes:
    """What `write_json` writes."""
    body = json.dumps(values, indent=1).removesuffix("\n}").encode()
    return body + BEFORE + digest(body).encode() + AFTER


def read_json(path: Path) -> Any:
    """What `write_json` wrote, without the digest; or any JSON without one.

    Raises:
        Damaged: it is not as it was written, or no JSON; the message does not name the file.
        OSError: it cannot be read.
    """
    return parse_json(path.read_bytes())[0]


def whole_json(path: Path, holds: str, remedy: str) -> Any:
    """As `read_json`, of a mapping; where it is damaged, what it `holds` and a `remedy` are said.

    Raises:
        ValueError: it is not as it was written.
        OSError: it cannot be read.
    """
    try:
        values = read_json(path)
        if isinstance(values, dict):
            return values
        what = f"it holds a {type(values).__name__}"
    except Damaged as error:
        what = str(error)
    raise ValueError(f"{path} must hold {holds}, but {what}; {remedy}")


def parse_json(content: bytes) -> tuple[Any, bool]:
    """As `read_json`, and whether there was a digest."""
    body, found, end = content.rpartition(BEFORE)
    if found and end != digest(body).encode() + AFTER:
        raise Damaged("its content and its digest do not belong together")
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"it cannot be read: {error}") from None
    if found:
        del values[FIELD]
    elif isinstance(values, dict) and (near := [name for name in values if _was_field(name)]):
        raise Damaged(f"its digest is called {near[0]!r} there")
    return values, bool(found)


def _was_field(name: str) -> bool:
    """Whether a name is the digest's, but for a few letters."""
    same = sum(a == b for a, b in zip(name, FIELD, strict=False))
    return len(name) == len(FIELD) and same >= len(FIELD) // 2


def require_digest(path: Path, known: str | None) -> None:
    """Raises: Damaged where a file is not the one whose digest is known."""
    if known is not None and digest_of_file(path) != known:
        raise Damaged(f"{path} must be as it was written, but its content has another digest")


def set_aside(path: Path) -> Path:
    """The name under which a damaged file stays: `record.json.corrupt`, an earlier one replaced."""
    aside = path.with_name(f"{path.name}.corrupt")
    path.replace(aside)
    return aside
