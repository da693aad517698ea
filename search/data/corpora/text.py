"""`data=text`: files of text, as txt, jsonl or parquet, plain or compressed; folders that
`datasets` saved."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from search.data.corpora import Kind
from search.data.hashes import FileHashes
from search.data.readers import TEXT_KINDS, find_files, ranges, read_text
from search.data.stretches import Stretch, stretches_of


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

    def text_bytes(self) -> int:
        """How many bytes of text there are, about."""
        files = find_files(self.path, TEXT_KINDS)
        return sum(n for file in files for _, n in ranges(file, self.text_key, sys.maxsize))

    def documents(self) -> Iterator[str]:
        """File by file, sorted by name."""
        for file in find_files(self.path, TEXT_KINDS):
            yield from read_text(file, self.text_key)


CORPUS = Text
