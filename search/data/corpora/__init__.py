"""The door of corpora: what there is to train on.

data=text data.path=book.txt        search/data/corpora/text.py
data.source=mine.py                 a file of the user's that defines CORPUS
'data.options={folder: poems}'      its options
"""

from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, get_args

from search.data.hashes import FileHashes
from search.data.readers import Tokens
from space.doors import Door

Kind = Literal["text", "tokens"]


class TokenDocument(NamedTuple):
    """A document of token ids."""

    ids: Tokens
    """(n,) whole numbers."""
    where: str
    """File and line, for errors."""
    held_out: bool | None = None
    """Whether it is validation; None: as its content decides. All documents say so, or none."""


class Corpus(Protocol):
    """Documents to train on, of text or of token ids.

    CORPUS is a dataclass whose fields are its options. Those named as fields of `DataConfig` are
    (path, text_key, …) are set by them, others by `data.options`. `__post_init__` raises ValueError
    for values that it can do nothing with: it runs before anything is read.
    """

    kind: ClassVar[Kind]
    """`text`: `documents` yields str. `tokens`: it yields TokenDocument."""

    def identity(self, hashes: FileHashes) -> Any:
        """What the documents follow from, as JSON can hold it: equal identities have equal
        documents. Hashes of the files that are read (`hashes.of`), versions of packages. Of a
        corpus from outside the project, its options but for `path` and the hash of its source file
        are added.

        Raises:
            ValueError, OSError: what is to be read is not there.
        """
        ...

    def documents(self) -> Iterator[Any]:
        """The documents, the same in the same order whenever they are asked for.

        Raises:
            ValueError, OSError: they cannot be read; file and line are named.
        """
        ...


CORPORA = Door("corpus", __name__, Corpus, field="source")  # type: ignore[type-abstract]


def corpus_named(source: str) -> type[Any]:
    """The dataclass of a corpus.

    Raises:
        ValueError: there is none of this name, or it does not keep the protocol.
    """
    found: Any = CORPORA.load(source, option="data.source")
    if not (isinstance(found, type) and is_dataclass(found)):
        raise ValueError(
            f"CORPUS of {source} must be a dataclass whose fields are its options, but is {found!r}"
        )
    corpus: type[Any] = found
    if corpus.kind not in get_args(Kind):
        raise ValueError(
            f"CORPUS.kind of {source} must be one of {', '.join(get_args(Kind))}, but is "
            f"{corpus.kind!r}"
        )
    return corpus
