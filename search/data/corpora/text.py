"""`data=text`: files of text, as txt, jsonl or parquet, plain or compressed; folders that
`datasets` saved."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from search.data.corpora import Kind
from search.data.hashes import FileHashes
from search.data.readers import TEXT_KINDS, find_files, ranges, read_text
from search.data.stretches import Stretch, checked, stretches_of
from space.words import count

SMALL_BYTES = 4096
"""Files up to this size are opened before all are read, to see whether they hold any text."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """Documents of text files."""

    kind: ClassVar[Kind] = "text"
    path: str | None = None
    text_key: str = "text"

    def identity(self, hashes: FileHashes) -> Any:
        """Content and form of the files, not their names."""
        files = find_files(self.path, TEXT_KINDS)
        return [self.text_key, [file.suffixes for file in files], hashes.of(files)]

    def stretches(self, hashes: FileHashes) -> list[Stretch] | None:
        """The same documents, for several processes."""
        return stretches_of(find_files(self.path, TEXT_KINDS), self.text_key, hashes)

    def said_of_files(self) -> str:
        """How many there are, and how many of them hold no text: of the small ones, since a large
        one is as good as never without."""
        files = find_files(self.path, TEXT_KINDS)
        small = [file for file in files if file.stat().st_size <= SMALL_BYTES]
        empty = sum(next(checked(read_text(f, self.text_key)), None) is None for f in small)
        return count(len(files), "file") + (f", {empty} of them without text" if empty else "")

    def text_bytes(self) -> int:
        """How many bytes of text there are, about."""
        files = find_files(self.path, TEXT_KINDS)
        return sum(n for file in files for _, n in ranges(file, self.text_key, sys.maxsize))

    def documents(self) -> Iterator[str]:
        """File by file, sorted by name."""
        for file in find_files(self.path, TEXT_KINDS):
            yield from read_text(file, self.text_key)


CORPUS = Text
