"""From documents to packed files: both splits, their tokenizer and what a manifest says of them."""

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from tokenizers import Tokenizer

from search.data.config import DataConfig
from search.data.corpora import Corpus, TokenDocument
from search.data.readers import Tokens, limited
from search.data.split import Array, capped, content_hash, hold_out
from search.data.tokenizer import (
    encoded,
    end_token_id,
    load_tokenizer,
    token_bytes,
    tokenizer_file,
    train_tokenizer,
    vocab_size_of,
)

Progress = Callable[[str], None]

FORMAT = 1
"""Part of every cache key. Raise it when the same content is packed differently."""


def pack(config: DataConfig, corpus: Corpus, folder: Path, progress: Progress) -> dict[str, Any]:
    """The manifest of the packed files, written to the folder.

    Raises:
        ValueError, OSError: the documents cannot be read, or do not fit together.
    """
    progress(f"data: reading {config.path or config.name}")
    packer = _pack_text if corpus.kind == "text" else _pack_tokens
    vocab_size, end_token = packer(config, corpus, folder, progress)
    return _summary(config, folder, vocab_size, end_token)


def _pack_text(
    config: DataConfig, corpus: Corpus, folder: Path, progress: Progress
) -> tuple[int, int]:
    """(vocabulary size, end token)."""
    with tempfile.TemporaryFile("w+", dir=folder, encoding="utf-8") as file:
        spool = Spool(file, limited(corpus.documents(), config.max_bytes))
        held_out = _hold_out(spool.hashes, config)
        progress(f"data: {len(spool.hashes)} documents, {spool.n_bytes / 1e6:.1f} MB of text")
        if config.tokenizer:
            tokenizer = load_tokenizer(tokenizer_file(config.tokenizer))
        else:
            progress(f"data: training a tokenizer of {config.vocab_size} tokens")
            tokenizer = train_tokenizer(spool.texts(~held_out), config.vocab_size)
        end_token = end_token_id(tokenizer, config.end_token)
        vocab_size = vocab_size_of(tokenizer)
        if config.validation_tokens is not None:
            of_these = encoded(tokenizer, spool.texts(held_out), end_token)
            lengths = np.array([len(ids) for ids in of_these])
            held_out = capped(spool.hashes, held_out, lengths, config.validation_tokens)
        for split, chosen in (("train", ~held_out), ("validation", held_out)):
            tokens = encoded(tokenizer, spool.texts(chosen), end_token)
            _write_tokens(folder / f"{split}.bin", tokens, vocab_size, split, progress)
        source_bytes = sum(len(text.encode()) for text in spool.texts(held_out))
    sizes = token_bytes(tokenizer)
    sizes[end_token] = 0
    _keep_tokenizer(tokenizer, folder, _of_source(sizes, folder, source_bytes))
    return vocab_size, end_token


def _of_source(sizes: Array, folder: Path, source_bytes: int) -> Array:
    """The bytes of each token such that those of validation add up to the source's.

    Those of byte-level tokens do. Others count what a normaliser made of the text, spaces put
    before it, or nothing for what has no token: all are scaled alike.

    Raises:
        ValueError: no token of validation stands for text.
    """
    tokens = np.memmap(folder / "validation.bin", dtype=_dtype(len(sizes)), mode="r")
    counted = int(np.bincount(tokens, minlength=len(sizes)) @ sizes)
    if counted == source_bytes:
        return sizes
    if not counted:
        raise ValueError(
            "data.tokenizer must have tokens for the text, but has none for that of the "
            f"validation split, {source_bytes} bytes; choose another"
        )
    return sizes * (source_bytes / counted)


def _pack_tokens(
    config: DataConfig, corpus: Corpus, folder: Path, progress: Progress
) -> tuple[int, int | None]:
    """(vocabulary size, end token where it is known)."""
    vocab_size = config.vocab_size
    if config.tokenizer:
        tokenizer = load_tokenizer(tokenizer_file(config.tokenizer))
        vocab_size = vocab_size_of(tokenizer)
        _keep_tokenizer(tokenizer, folder, token_bytes(tokenizer))
    held_out = _held_out_tokens(corpus, config)
    for split, wanted in (("train", False), ("validation", True)):
        chosen = (
            document.ids
            for document, held in zip(_token_documents(corpus, config), held_out, strict=True)
            if held == wanted and _require_ids(document, vocab_size)
        )
        _write_tokens(folder / f"{split}.bin", chosen, vocab_size, split, progress)
    return vocab_size, config.end_token


def _keep_tokenizer(tokenizer: Tokenizer, folder: Path, sizes: Array) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    np.save(folder / "token_bytes.npy", sizes)


def _hold_out(hashes: Array, config: DataConfig) -> Array:
    return hold_out(hashes, config.validation_fraction, str(config.path or config.name))


def _token_documents(corpus: Corpus, config: DataConfig) -> Iterator[TokenDocument]:
    """Those that are not empty, with their end token."""
    end = config.end_token
    for document in corpus.documents():
        if not isinstance(document, TokenDocument):
            raise ValueError(
                "documents of kind tokens must be TokenDocument, but one is "
                f"{type(document).__name__}"
            )
        ids = document.ids
        if len(ids):
            whole = ids if end is None or ids[-1] == end else np.append(ids, end)
            yield document._replace(ids=whole)


def _held_out_tokens(corpus: Corpus, config: DataConfig) -> list[bool]:
    """Which documents are validation: as they say, or, where they do not, by hash."""
    said, hashes, lengths = [], [], []
    for document in _token_documents(corpus, config):
        said.append(document.held_out)
        lengths.append(len(document.ids))
        if document.held_out is None:
            hashes.append(content_hash(document.ids.tobytes()))
    if hashes and len(hashes) < len(said):
        raise ValueError(
            f"all documents of {config.source} must say whether they are held out, or none, but "
            f"{len(hashes)} of {len(said)} do not"
        )
    if said and not hashes:
        if config.validation_tokens is not None:
            raise ValueError(
                f"data.validation_tokens must be left out with data.source={config.source}, which "
                f"says itself what is held out, but is {config.validation_tokens}"
            )
        return [bool(held) for held in said]
    every = np.array(hashes, dtype=np.uint64)
    held_out = _hold_out(every, config)
    if config.validation_tokens is not None:
        own = np.array(lengths)[held_out]
        held_out = capped(every, held_out, own, config.validation_tokens)
    return list(held_out)


def _require_ids(document: TokenDocument, vocab_size: int) -> bool:
    """True. Raises: ValueError where an id is not of the vocabulary."""
    tokens = document.ids
    wrong = tokens[(tokens < 0) | (tokens >= vocab_size)]
    if len(wrong):
        raise ValueError(
            f"{document.where}: token ids must lie in [0, {vocab_size}), but one is {wrong[0]}; "
            "set data.vocab_size or data.tokenizer to the one that they were made with"
        )
    return True


def _summary(
    config: DataConfig, folder: Path, vocab_size: int, end_token: int | None
) -> dict[str, Any]:
    """The manifest's account of packed files."""
    dtype, has_text = _dtype(vocab_size), (folder / "token_bytes.npy").exists()
    text_size = np.load(folder / "token_bytes.npy") if has_text else None
    digest = hashlib.sha256(f"{dtype} {vocab_size} {end_token}".encode())
    digest.update(b"" if text_size is None else text_size.tobytes())
    for file in ("train.bin", "validation.bin"):
        with (folder / file).open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    n_train = (folder / "train.bin").stat().st_size // dtype.itemsize
    if n_train < vocab_size:
        raise ValueError(
            "the training split must have a token for each entry of the vocabulary, but "
            f"{config.name} has {n_train} for {vocab_size}; give more text or a smaller tokenizer"
        )
    bytes_per_token = None
    if text_size is not None:
        tokens = np.memmap(folder / "validation.bin", dtype=dtype, mode="r")
        bytes_per_token = float(np.bincount(tokens, minlength=vocab_size) @ text_size / len(tokens))
    return {
        "name": config.name,
        "fingerprint": digest.hexdigest()[:16],
        "vocab_size": vocab_size,
        "end_token": end_token,
        "dtype": dtype.name,
        "bytes_per_token": bytes_per_token,
    }


def _write_tokens(
    path: Path, documents: Iterable[Tokens], vocab_size: int, split: str, progress: Progress
) -> None:
    """Pack documents one after another."""
    dtype = _dtype(vocab_size)
    written, reported = 0, time.monotonic()
    with path.open("wb") as file:
        for tokens in documents:
            file.write(tokens.astype(dtype).tobytes())
            written += len(tokens)
            if time.monotonic() - reported > 2:
                progress(f"data: packing the {split} split, {written / 1e6:.1f} M tokens")
                reported = time.monotonic()
    if not written:
        raise ValueError(f"the {split} split must hold tokens, but is empty; give more documents")
    progress(f"data: packed the {split} split, {written / 1e6:.2f} M tokens")


def _dtype(vocab_size: int) -> np.dtype[Any]:
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


class Spool:
    """Documents on disk, so that a source is read once however often they are gone through.

    Attributes:
        hashes: (documents,) uint64, from content.
        n_bytes: of all text, as UTF-8.
    """

    def __init__(self, file: IO[str], documents: Iterable[str]) -> None:
        self._file = file
        hashes, self.n_bytes = [], 0
        for document in documents:
            if not isinstance(document, str):
                raise ValueError(
                    f"documents of kind text must be str, but one is {type(document).__name__}"
                )
            if not document.strip():
                continue
            try:
                encoded = document.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"text must be valid Unicode, but a document has half a surrogate pair: "
                    f"{document[error.start - 20 : error.end + 20]!r}; mend the escapes"
                ) from error
            hashes.append(content_hash(encoded))
            self.n_bytes += len(encoded)
            file.write(json.dumps(document, ensure_ascii=False) + "\n")
        self.hashes = np.array(hashes, dtype=np.uint64)

    def texts(self, chosen: Array) -> Iterator[str]:
        """Those documents whose entry in `chosen` is true."""
        self._file.seek(0)
        for line, wanted in zip(self._file, chosen, strict=True):
            if wanted:
                yield json.loads(line)
