"""From documents to packed files: both splits, their tokenizer and what a manifest says of them."""

import hashlib
import platform
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from search.data.config import DataConfig
from search.data.corpora import Corpus, TokenDocument
from search.data.encode import Job, Part, Progress, encode
from search.data.hashes import FileHashes
from search.data.in_place import Joined, digest_of_tokens, list_files, train_split
from search.data.readers import UNPACKED, limited
from search.data.split import Array, capped, content_hash, hold_out, threshold
from search.data.stretches import SPOOLED, STRETCH_BYTES, Spool, Stretch, checked
from search.data.tokenizer import (
    encoded,
    end_token_id,
    load_tokenizer,
    token_bytes,
    tokenizer_file,
    train_tokenizer,
    vocab_size_of,
)
from search.train.placement import cores
from space.seals import Damaged, read_json, write_json
from space.words import count

FORMAT = 1
"""Part of every cache key. Raise it when the same content is packed differently."""


@dataclass(frozen=True)
class Encoded:
    """The documents of a corpus of text as parts, not yet in splits."""

    parts: Sequence[Part]
    tokenizer: Tokenizer
    end_token: int
    threshold: int
    """Documents whose hash is not above it are held out."""

    def remove(self) -> None:
        """Once they are packed, or refused."""
        for part in self.parts:
            part.remove()


def encode_text(
    config: DataConfig, corpus: Corpus, hashes: FileHashes, work: Path, progress: Progress
) -> Encoded:
    """All documents, encoded. Files go to the path `work`, with suffixes: what is done stays for
    another start.

    Raises:
        ValueError, OSError: the documents cannot be read, do not fit together or have no room.
    """
    spool = work.with_name(f"{work.name}-{platform.node()}{SPOOLED}")
    if say := getattr(corpus, "said_of_files", None):
        progress(f"data: {say()}")
    try:
        stretches, threshold = _stretches(config, corpus, hashes, spool, progress)
        tokenizer = _tokenizer(config, stretches, threshold, work, progress)
        job = Job(
            folder=work.parent,
            tokenizer=tokenizer.to_str(),
            end_token=end_token_id(tokenizer, config.end_token),
            dtype=_dtype(vocab_size_of(tokenizer)).name,
            stretches=stretches,
        )
        require_room(job, progress)
        parts = encode(job, config.processes or cores(), progress)
    finally:
        spool.unlink(missing_ok=True)
    return Encoded(parts, tokenizer, job.end_token, threshold)


def _stretches(
    config: DataConfig, corpus: Corpus, hashes: FileHashes, spool: Path, progress: Progress
) -> tuple[Sequence[Stretch], int]:
    """All documents, and up to which hash they are held out. Where they cannot be read in
    stretches from where they are they are written out first, by one process."""
    divide = getattr(corpus, "stretches", None)
    found = divide(hashes) if divide and config.max_bytes is None else None
    fraction, source = config.validation_fraction, str(config.path or config.name)
    if found is not None:
        known = (content_hash(c) for each in found for _, c in checked(each.documents()))
        return found, threshold(known, fraction, source)
    require_room_for_text(config, corpus, spool.parent, progress)
    written = Spool(spool, limited(corpus.documents(), config.max_bytes))
    progress(f"data: read {len(written.hashes)} documents, {written.n_bytes / 1e6:.1f} MB of text")
    return written.stretches, threshold(written.hashes, fraction, source)


def _tokenizer(
    config: DataConfig,
    stretches: Sequence[Stretch],
    threshold: int,
    work: Path,
    progress: Progress,
) -> Tokenizer:
    """The one that is given, or that of an earlier start, or a new one."""
    kept = work.with_name(f"{work.name}.tokenizer.json")
    if config.tokenizer:
        return load_tokenizer(tokenizer_file(config.tokenizer))
    with suppress(FileNotFoundError, Damaged, KeyError):  # the last: of an earlier version
        return Tokenizer.from_str(read_json(kept)["tokenizer"])
    progress(f"data: training a tokenizer of {config.vocab_size} tokens")
    texts = (
        text
        for each in stretches
        for text, content in checked(each.documents())
        if content_hash(content) > threshold
    )
    made = train_tokenizer(texts, config.vocab_size).to_str()
    write_json(kept, {"tokenizer": made})
    return Tokenizer.from_str(made)


TEXT_PER_TOKEN = 4
"""Bytes of text to a token, about, before there is a tokenizer to count with."""


def require_room_for_text(
    config: DataConfig, corpus: Corpus, folder: Path, progress: Progress
) -> None:
    """Say how much text will be written out before it is encoded, where that is known.

    Raises:
        ValueError: there is no room for it and for its tokens.
    """
    measure = getattr(corpus, "text_bytes", None)
    known = measure() if measure else None
    text = min((n for n in (known, config.max_bytes) if n is not None), default=None)
    free = shutil.disk_usage(folder).free
    if text is None:
        return
    if known is None:
        most = f"{text / 1e9:.2f} GB of text at most"
        progress(f"data: {most} are written out first; {free / 1e9:,.2f} GB are free")
        return
    vocab_size = config.vocab_size
    if config.tokenizer:
        vocab_size = vocab_size_of(load_tokenizer(tokenizer_file(config.tokenizer)))
    needed = text + text // TEXT_PER_TOKEN * _dtype(vocab_size).itemsize
    said = f"{needed / 1e9:.2f} GB of the {free / 1e9:,.2f} GB that are free"
    if needed > free:
        raise ValueError(
            f"data.cache must have room for about {text / 1e6:,.0f} MB of text, which is written "
            f"out first, and for its tokens, but that is {said} (a compressed file is counted as "
            f"{UNPACKED} times its size); set data.cache=FOLDER, or take less by data.max_bytes"
        )
    if text > STRETCH_BYTES:
        progress(f"data: about {text / 1e9:.2f} GB of text are written out first; takes {said}")


def require_room(job: Job, progress: Progress) -> None:
    """Say what will be written, from what the first documents come to.

    Raises:
        ValueError: it is more than there is room for.
    """
    every = sum(each.n_bytes for each in job.stretches)
    pairs = zip(job.stretches, job.parts, strict=True)
    missing = sum(each.n_bytes for each, part in pairs if not part.there())
    per_byte = _tokens_per_byte(job)
    itemsize = np.dtype(job.dtype).itemsize
    pieces = (piece for each in job.stretches for piece in each.pieces)
    spooled = sum(piece.n_bytes for piece in pieces if piece.form == SPOOLED)
    packed = max(0, per_byte * itemsize * every - spooled)  # what is spooled is gone by then
    needed = int(per_byte * itemsize * missing + packed)
    free = shutil.disk_usage(job.folder).free
    said = f"{needed / 1e9:.2f} GB of the {free / 1e9:,.2f} GB that are free"
    if needed > free:
        raise ValueError(
            f"data.cache must have room for about {every * per_byte / 1e6:,.0f} M tokens and the "
            f"parts that they are made of, but that is {said}; set data.cache=FOLDER, or take less "
            "by data.max_bytes"
        )
    if len(job.stretches) > 1:
        until = "" if spooled else ", half of it until it is done"
        progress(
            f"data: {every / 1e9:.2f} GB of text, about {every * per_byte / 1e6:,.0f} M tokens; "
            f"takes {said}{until}"
        )


def require_room_for_tokens(n_tokens: int, vocab_size: int, folder: Path) -> None:
    """Raises: ValueError where there is no room for them."""
    needed, free = n_tokens * _dtype(vocab_size).itemsize, shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"data.cache must have room for {n_tokens / 1e6:,.2f} M tokens, but that is "
            f"{needed / 1e9:.2f} GB of the {free / 1e9:,.2f} GB that are free; set "
            "data.cache=FOLDER, or data.in_place=true where all are .bin files and some are named "
            "val…"
        )


SAMPLE_CHARACTERS = 1 << 18


def _tokens_per_byte(job: Job) -> float:
    """Of the first documents."""
    texts, length = list[str](), 0
    for text, _ in checked(job.stretches[0].documents()):
        texts.append(text[:SAMPLE_CHARACTERS])
        length += len(texts[-1])
        if length >= SAMPLE_CHARACTERS:
            break
    tokenizer = Tokenizer.from_str(job.tokenizer)
    tokens = sum(len(ids) for ids, _ in encoded(tokenizer, texts, job.end_token))
    return tokens / sum(len(text.encode()) for text in texts)


def pack(
    config: DataConfig, corpus: Corpus, made: Encoded | None, folder: Path, progress: Progress
) -> dict[str, Any]:
    """The manifest of the packed files, written to the folder. `made`: of a corpus of text.

    Raises:
        ValueError, OSError: the documents cannot be read, or do not fit together.
    """
    if made is not None:
        vocab_size, end_token = _pack_text(config, made, folder, progress)
        return _summary(config, folder, vocab_size, end_token)
    return _summary(config, folder, *_pack_tokens(config, corpus, folder, progress))


def _pack_text(
    config: DataConfig, made: Encoded, folder: Path, progress: Progress
) -> tuple[int, int]:
    """(vocabulary size, end token)."""
    of_parts = [part.documents() for part in made.parts]
    every = np.concatenate(of_parts)
    hashes, lengths, n_bytes = every.T
    held_out = hashes <= np.uint64(made.threshold)
    if config.validation_tokens is not None:
        held_out = capped(hashes, held_out, lengths[held_out], config.validation_tokens)
    progress(f"data: {len(every)} documents, {n_bytes.sum() / 1e6:.1f} MB of text")
    vocab_size = vocab_size_of(made.tokenizer)
    for split, wanted in (("train", held_out), ("validation", ~held_out)):
        of_each = np.split(~wanted, np.cumsum([len(each) for each in of_parts])[:-1])
        runs = (
            run
            for part, index, chosen in zip(made.parts, of_parts, of_each, strict=True)
            for run in _runs(part, index[:, 1].astype(np.int64), chosen, _dtype(vocab_size))
        )
        _write_tokens(folder / f"{split}.bin", runs, vocab_size, split, progress)
    sizes = token_bytes(made.tokenizer)
    sizes[made.end_token] = 0
    source_bytes = int(n_bytes[held_out].sum())
    _keep_tokenizer(made.tokenizer, folder, _of_source(sizes, folder, source_bytes))
    return vocab_size, made.end_token


def _runs(part: Part, lengths: Array, chosen: Array, dtype: np.dtype[Any]) -> Iterator[Array]:
    """The tokens of a part's chosen documents, neighbours together."""
    ends = np.cumsum(lengths)
    if part.tokens.stat().st_size != int(lengths.sum()) * dtype.itemsize:
        part.remove()
        raise ValueError(f"{part.tokens} must be as it was written, but is not; start again")
    if not chosen.any():
        return
    tokens = np.memmap(part.tokens, dtype=dtype, mode="r")
    edges = np.flatnonzero(np.diff(chosen, prepend=False, append=False))
    for first, after in edges.reshape(-1, 2):
        yield tokens[ends[first] - lengths[first] : ends[after - 1]]


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
    if config.in_place:
        _list_training_files(config, corpus, folder, vocab_size, progress)
        return vocab_size, config.end_token
    held_out, n_tokens = _held_out_tokens(corpus, config)
    require_room_for_tokens(n_tokens, vocab_size, folder)
    for split, wanted in (("train", False), ("validation", True)):
        chosen = (
            document.ids
            for document, held in zip(_token_documents(corpus, config), held_out, strict=True)
            if held == wanted and _require_ids(document, vocab_size)
        )
        _write_tokens(folder / f"{split}.bin", chosen, vocab_size, split, progress)
    return vocab_size, config.end_token


def _list_training_files(
    config: DataConfig, corpus: Corpus, folder: Path, vocab_size: int, progress: Progress
) -> None:
    """Training files stay where they lie; the held-out ones are packed."""
    files, held_out = corpus.in_place()  # type: ignore[attr-defined]  # configurations see to it
    list_files(files, folder)
    documents = _with_ends(held_out, config.end_token)
    chosen = (document.ids for document in documents if _require_ids(document, vocab_size))
    _write_tokens(folder / "validation.bin", chosen, vocab_size, "validation", progress)
    progress(f"data: {count(len(files), 'training file')} used where they lie; reading them once")


def _keep_tokenizer(tokenizer: Tokenizer, folder: Path, sizes: Array) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    np.save(folder / "token_bytes.npy", sizes)


def _hold_out(hashes: Array, config: DataConfig) -> Array:
    return hold_out(hashes, config.validation_fraction, str(config.path or config.name))


def _token_documents(corpus: Corpus, config: DataConfig) -> Iterator[TokenDocument]:
    """Those that are not empty, with their end token."""
    return _with_ends(corpus.documents(), config.end_token)


def _with_ends(documents: Iterable[TokenDocument], end: int | None) -> Iterator[TokenDocument]:
    for document in documents:
        if not isinstance(document, TokenDocument):
            raise ValueError(
                "documents of kind tokens must be TokenDocument, but one is "
                f"{type(document).__name__}"
            )
        ids = document.ids
        if len(ids):
            whole = ids if end is None or ids[-1] == end else np.append(ids, end)
            yield document._replace(ids=whole)


def _held_out_tokens(corpus: Corpus, config: DataConfig) -> tuple[list[bool], int]:
    """Which documents are validation: as they say, or, where they do not, by hash. And how many
    tokens all have."""
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
        return [bool(held) for held in said], sum(lengths)
    every = np.array(hashes, dtype=np.uint64)
    held_out = _hold_out(every, config)
    if config.validation_tokens is not None:
        own = np.array(lengths)[held_out]
        held_out = capped(every, held_out, own, config.validation_tokens)
    return list(held_out), sum(lengths)


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
    train = train_split(folder, dtype.name)
    if isinstance(train, Joined):
        digest.update(digest_of_tokens(train, vocab_size, dtype))
    else:
        digest.update(_digest_of_file(folder / "train.bin"))
    digest.update(_digest_of_file(folder / "validation.bin"))
    n_train = len(train)
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


def _digest_of_file(path: Path) -> bytes:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()


def _write_tokens(
    path: Path, documents: Iterable[Array], vocab_size: int, split: str, progress: Progress
) -> None:
    """Pack documents one after another."""
    dtype = _dtype(vocab_size)
    written, reported = 0, time.monotonic()
    with path.open("wb") as file:
        for tokens in documents:
            tokens.astype(dtype, copy=False).tofile(file)
            written += len(tokens)
            if time.monotonic() - reported > 2:
                progress(f"data: packing the {split} split, {written / 1e6:.1f} M tokens")
                reported = time.monotonic()
    if not written:
        raise ValueError(f"the {split} split must hold tokens, but is empty; give more documents")
    progress(f"data: packed the {split} split, {written / 1e6:.2f} M tokens")


def _dtype(vocab_size: int) -> np.dtype[Any]:
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)
