"""`data.in_place=true`: files of token ids, trained on where they lie. Nothing is copied."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from search.data.packed import Array
from search.data.readers import mapped, stored_tokens
from space.files import write_atomically

LIST = "train.json"
"""In the folder of prepared data, in place of the packed training split: its files."""
CHUNK_TOKENS = 1 << 24


class Joined:
    """Arrays one behind the other, as one."""

    def __init__(self, parts: Sequence[Array]) -> None:
        self.parts = parts
        self.starts = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, places: Array) -> Array:
        """What is at these places: int64 of their shape."""
        flat = places.ravel()
        found = np.empty(flat.shape, np.int64)
        inside = np.searchsorted(self.starts, flat, side="right") - 1
        for part in np.unique(inside):
            own = inside == part
            found[own] = self.parts[part][flat[own] - self.starts[part]]
        return found.reshape(places.shape)


def list_files(files: Sequence[Path], folder: Path) -> None:
    """Write down which files are the training split, in their order.

    Raises:
        ValueError: one does not hold token ids as they are stored.
    """
    parts = []
    for path in files:
        tokens = stored_tokens(path)
        own = {"offset": tokens.offset, "tokens": len(tokens), "dtype": tokens.dtype.str}
        parts.append({"path": str(path.absolute()), **own, "stamp": stamp(path)})
    write_atomically(folder / LIST, json.dumps(parts, indent=1))


def stamp(path: Path) -> list[int]:
    """Size and date of a file; nothing of one that is not there. Its content was hashed when it was
    prepared: every worker opens the data, and a corpus is hundreds of gigabytes."""
    if not path.is_file():
        return []
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def joined(folder: Path) -> Joined:
    """The training split of a folder with such a list.

    Raises:
        ValueError: a file is gone, or another by now.
    """
    parts = json.loads((folder / LIST).read_text())
    for part in parts:
        if stamp(Path(part["path"])) != part["stamp"]:
            raise ValueError(
                f"{part['path']} must be as it was when it was prepared, but is gone or has "
                "another size or date: with data.in_place=true it is read where it lies; put it "
                "back, or let the data be prepared again"
            )
    return Joined([mapped(p["path"], p["dtype"], p["offset"], p["tokens"]) for p in parts])


def digest_of_tokens(tokens: Joined, vocab_size: int, dtype: np.dtype[Any]) -> bytes:
    """SHA-256 of a split as it would be packed, which is gone through once.

    Raises:
        ValueError: an id is not of the vocabulary.
    """
    digest = hashlib.sha256()
    for start, chunk in _chunks(tokens):
        if len(wrong := np.flatnonzero((chunk < 0) | (chunk >= vocab_size))):
            raise ValueError(
                f"token ids must lie in [0, {vocab_size}), but token {start + wrong[0]} of the "
                f"training split is {chunk[wrong[0]]}; set data.vocab_size to what they were made "
                "with"
            )
        digest.update(chunk.astype(dtype, copy=False).tobytes())
    return digest.digest()


def _chunks(tokens: Joined) -> Iterator[tuple[int, Array]]:
    """Consecutive ids, each with its place."""
    for first, part in zip(tokens.starts.tolist(), tokens.parts, strict=False):
        for start in range(0, len(part), CHUNK_TOKENS):
            yield first + start, part[start : start + CHUNK_TOKENS]


def train_split(folder: Path, dtype: str) -> Any:
    """The training split of prepared data: packed, or in files elsewhere."""
    return joined(folder) if (folder / LIST).is_file() else mapped(folder / "train.bin", dtype)
