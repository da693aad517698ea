"""`data=tokens`: files of token ids, jsonl as MobileLLM has them, .bin as nanoGPT, llm.c and
Megatron have."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from search.data.corpora import Kind, TokenDocument
from search.data.hashes import FileHashes
from search.data.readers import TOKEN_KINDS, find_files, index_beside, read_tokens

HELD_OUT = re.compile(r"(^|[_.-])val")
"""As in val.bin and fineweb_val_000000.bin."""


@dataclass(frozen=True, kw_only=True)
class TokenFiles:
    """Documents of token files. Files named val…, or …_val…, are held out where others are not
    named so."""

    kind: ClassVar[Kind] = "tokens"
    path: str | None = None
    end_token: int | None = None

    def identity(self, hashes: FileHashes) -> Any:
        """Content and form of the files; of their names, which are held out for theirs."""
        files, held_out = self._files
        own_split = [] if None in held_out else [held_out]
        indices = [index for file in files if (index := index_beside(file)) is not None]
        of_indices = [hashes.of(indices)] if indices else []
        return [[file.suffixes for file in files], hashes.of(files), *own_split, *of_indices]

    def documents(self) -> Iterator[TokenDocument]:
        """File by file, sorted by name."""
        for file, held_out in zip(*self._files, strict=True):
            yield from self._read(file, held_out)

    def _read(self, file: Path, held_out: bool | None) -> Iterator[TokenDocument]:
        for where, ids in read_tokens(file, self.end_token):
            yield TokenDocument(ids, where, held_out)

    def in_place(self) -> tuple[list[Path], Iterator[TokenDocument]]:
        """Files to train on, to be used where they lie, and the held-out documents.

        Raises:
            ValueError: no file is held out by its name.
        """
        files, held_out = self._files
        if None in held_out:
            raise ValueError(
                "data.in_place must have files to train on and files named val… to hold out, but "
                f"{self.path} has only the one kind; name one so, or leave data.in_place out"
            )
        named = list(zip(files, held_out, strict=True))
        documents = (doc for file, held in named if held for doc in self._read(file, held))
        return [file for file, held in named if not held], documents

    @cached_property  # found once: the cache of packed files may be in the same folder
    def _files(self) -> tuple[list[Path], list[bool | None]]:
        """The files, and which of them are held out; None for each where their names do not say."""
        files = find_files(self.path, TOKEN_KINDS)
        named = [HELD_OUT.search(file.name) is not None for file in files]
        own_split = any(named) and not all(named)
        return files, [is_validation if own_split else None for is_validation in named]


CORPUS = TokenFiles
