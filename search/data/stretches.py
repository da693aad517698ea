"""Documents in stretches: what one process reads and encodes at once."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from search.data.hashes import FileHashes, digest_of
from search.data.readers import Range, ranges, read_text
from search.data.split import Array, content_hash

STRETCH_BYTES = 16 << 20
"""Of text in a stretch, about: some seconds of a core, which is what a kill costs."""
MANY_FILES = 64
"""So many files keep the cores busy though each must be read from its beginning."""


@dataclass(frozen=True)
class Piece:
    """Consecutive documents of one file."""

    path: str
    content: str
    """Hash of the file."""
    form: str
    """The suffixes that say how it is read."""
    n_bytes: int
    """Of text, about."""
    within: Range = None


@dataclass(frozen=True)
class Stretch:
    """Consecutive documents, of one file or of several small ones."""

    pieces: tuple[Piece, ...]
    key: str
    """Under which the text is in jsonl and parquet."""

    def documents(self) -> Iterator[str]:
        """As they are read. Raises: ValueError, OSError where they cannot be."""
        for piece in self.pieces:
            if piece.form == SPOOLED:
                yield from _spooled(piece)
            else:
                yield from read_text(Path(piece.path), self.key, piece.within)

    @property
    def n_bytes(self) -> int:
        """Of text, about."""
        return sum(piece.n_bytes for piece in self.pieces)

    @property
    def identity(self) -> str:
        """Hash of what the documents follow from."""
        own = [[piece.content, piece.form, piece.within] for piece in self.pieces]
        return digest_of([self.key, own])

    @staticmethod
    def of_json(content: Any) -> "Stretch":
        """From what `dataclasses.asdict` made of it."""
        made = [
            Piece(**{**piece, "within": piece["within"] and tuple(piece["within"])})
            for piece in content["pieces"]
        ]
        return Stretch(tuple(made), content["key"])


def stretches_of(files: Sequence[Path], key: str, hashes: FileHashes) -> list[Stretch] | None:
    """All documents of text files, in their order. None where a large file can only be read from
    its beginning, and there are few: they are written out first.

    Raises:
        ValueError, OSError: a file cannot be read.
    """
    pieces = [
        Piece(str(path), content, "".join(path.suffixes), n_bytes, within)
        for path, content in zip(files, hashes.of(files), strict=True)
        for within, n_bytes in ranges(path, key, STRETCH_BYTES)
    ]
    longest = max((p.n_bytes for p in pieces if p.within is None), default=0)
    if longest > 4 * STRETCH_BYTES and len(files) < MANY_FILES:
        return None
    return [Stretch(tuple(some), key) for some in _together(pieces)]


def _together(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Lists of consecutive ones, of a stretch's size but for the last."""
    some: list[Piece] = []
    for piece in pieces:
        some.append(piece)
        if sum(p.n_bytes for p in some) >= STRETCH_BYTES:
            yield some
            some = []
    if some:
        yield some


def checked(documents: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Those that are not blank, and their UTF-8.

    Raises:
        ValueError: one is no text.
    """
    for document in documents:
        if not isinstance(document, str):
            raise ValueError(
                f"documents of kind text must be str, but one is {type(document).__name__}"
            )
        if not document.strip():
            continue
        try:
            yield document, document.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"text must be valid Unicode, but a document has half a surrogate pair: "
                f"{document[error.start - 20 : error.end + 20]!r}; mend the escapes"
            ) from error


SPOOLED = ".spool"


class Spool:
    """Documents on disk, so that a source is read once however often they are gone through.

    Attributes:
        hashes: (documents,) uint64, from content.
        n_bytes: of all text, as UTF-8.
        stretches: what was written.
    """

    def __init__(self, path: Path, documents: Iterable[str]) -> None:
        self._path, self.stretches = path, list[Stretch]()
        hashes, self.n_bytes = [], 0
        start, size, digest = 0, 0, hashlib.sha256()
        with path.open("wb") as file:
            for document, content in checked(documents):
                hashes.append(content_hash(content))
                self.n_bytes += len(content)
                line = json.dumps(document, ensure_ascii=False).encode() + b"\n"
                file.write(line)
                digest.update(line)
                size += len(line)
                if size >= STRETCH_BYTES:
                    self._add(digest.hexdigest(), start, size)
                    start, size, digest = start + size, 0, hashlib.sha256()
        if size:
            self._add(digest.hexdigest(), start, size)
        self.hashes: Array = np.array(hashes, dtype=np.uint64)

    def _add(self, content: str, start: int, size: int) -> None:
        piece = Piece(str(self._path), content, SPOOLED, size, (start, start + size))
        self.stretches.append(Stretch((piece,), SPOOLED))


def _spooled(piece: Piece) -> Iterator[str]:
    assert piece.within is not None, "a spool is written in ranges"
    with open(piece.path, "rb") as file:
        file.seek(piece.within[0])
        for line in file.read(piece.within[1] - piece.within[0]).split(b"\n")[:-1]:
            yield json.loads(line)
