"""Hashes of content: of files that are read, of files that were written, of settings."""

import hashlib
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from space.seals import read_json, write_json

WHOLE_CHECK_BYTES = 256 << 20
"""Files up to this size are checked in full whenever they are opened (a second per gigabyte);
of larger ones the size and CHECK_BLOCKS evenly spread blocks are."""
CHECK_BLOCKS, CHECK_BLOCK_BYTES = 64, 1 << 20


class FileHashes:
    """Content hashes, remembered by size and date so that large files are read once."""

    def __init__(self, memo: Path) -> None:
        self.memo = memo

    def of(self, files: Sequence[Path]) -> list[str]:
        """SHA-256 of each file."""
        try:
            known = dict(read_json(self.memo))
        except (OSError, ValueError, TypeError):  # then all is read again
            known = {}
        before = dict(known)
        with ThreadPoolExecutor() as pool:  # to hash is most of it, and lets others run
            hashes = list(pool.map(lambda path: self._hash(path, known), files))
        if known != before:
            with suppress(PermissionError):  # of a cache that is only read
                write_json(self.memo, known)
        return hashes

    def _hash(self, path: Path, known: dict[str, Any]) -> str:
        status = path.stat()
        stamp = [status.st_size, status.st_mtime_ns]
        remembered = known.get(str(path.absolute()))
        if remembered and remembered[:2] == stamp:
            return str(remembered[2])
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if time.time_ns() - status.st_mtime_ns > 2e9:  # else a change may leave the date as it is
            known[str(path.absolute())] = [*stamp, digest]
        return digest


class NoHashes(FileHashes):
    """For a look at which files there are: none is read."""

    def __init__(self) -> None:
        super().__init__(Path())

    def of(self, files: Sequence[Path]) -> list[str]:
        """Raises: OSError where a file is not there."""
        return [str(path.stat().st_size) for path in files]


def seal(path: Path) -> str:
    """Size and hash of a file; of a large one, hash of evenly spread blocks."""
    if not path.is_file():
        return "missing"
    size = path.stat().st_size
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        if size <= WHOLE_CHECK_BYTES:
            digest.update(file.read())
        else:
            for block in range(CHECK_BLOCKS):
                file.seek((size - CHECK_BLOCK_BYTES) * block // (CHECK_BLOCKS - 1))
                digest.update(file.read(CHECK_BLOCK_BYTES))
    return f"{size} bytes, {digest.hexdigest()}"


def digest_of(value: Any) -> str:
    """A short hash of what JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
