"""Tokens to train on: prepared once, cached, opened in an instant.

`prepare` reads documents, holds some out for validation, trains a byte-level BPE on the others (or
takes a tokenizer file), packs both splits into memory-mapped files and leaves them in the cache,
under a key of content and settings. `batch` and `validation_windows` cut them for the model.
"""

import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from search.data import corpus
from search.data.readers import TEXT_KINDS, TOKEN_KINDS, Tokens, find_files, read_text, read_tokens
from space.end_tokens import END_TOKENS, end_token_of
from space.files import write_atomically

Progress = Callable[[str], None]
Array = np.ndarray[Any, np.dtype[Any]]

FORMAT = 1
"""Part of every cache key. Raise it when this file packs the same content differently."""

SOURCES = ("embedded", "text", "tokens", "hf")
BYTES = 256
END_TOKEN = END_TOKENS[0]

TOKENIZER_TRAINING_BYTES = 256 << 20
"""The tokenizer sees at most the first so many bytes of the training split: more text changes few
merges."""
ENCODING_BATCH_BYTES = 4 << 20
WHOLE_CHECK_BYTES = 256 << 20
"""Files up to this size are checked in full whenever they are opened (a second a gigabyte);
of larger ones the size and CHECK_BLOCKS evenly spread blocks are."""
CHECK_BLOCKS, CHECK_BLOCK_BYTES = 64, 1 << 20


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What to train on: `conf/data/`."""

    source: str = "embedded"
    """`embedded`: the corpus of `search.data.corpus`. `text`: files of text. `tokens`: files of
    token ids. `hf`: a data set of the Hugging Face hub."""
    path: str | None = None
    """`text`, `tokens`: a file, a folder or a glob."""
    name: str | None = None
    """`hf`: the data set's name on the hub, or a local folder. Else what records call the data;
    default: `embedded`, or the path with `_` for all but letters and digits."""
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    text_key: str = "text"
    """The key (jsonl) or column (parquet, hf) that holds the text."""
    max_bytes: int | None = None
    """Stop reading after so many bytes of text."""
    vocab_size: int = 4096
    """Size of the tokenizer to train, end token included; a tokenizer file brings its own. For
    `tokens` without a tokenizer: of the one that they were made with."""
    tokenizer: str | None = None
    """A tokenizer.json to take instead of training one."""
    end_token: int | None = None
    """Id of the token between documents. Default: the tokenizer's own."""
    validation_fraction: float = 0.05
    """Share of the documents that is held out. Which ones depends on their content alone, so that
    adding documents does not move others."""
    cache: str = ".cache/data"

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(
                f"data.source must be one of {', '.join(SOURCES)}, but got {self.source!r}"
            )
        if self.vocab_size <= BYTES:
            raise ValueError(
                f"data.vocab_size must be at least {BYTES + 1} (every byte and the end token), "
                f"but got {self.vocab_size}; choose a larger one"
            )
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                "data.validation_fraction must lie between 0 and 1, "
                f"but got {self.validation_fraction}"
            )
        if self.source == "hf" and self.name is None:
            raise ValueError("data.name must name a data set of the hub; add data.name=…")
        if self.name is None:
            name = re.sub(r"\W+", "_", self.path or self.source).strip("_")
            object.__setattr__(self, "name", name)


@dataclass(frozen=True)
class Data:
    """Packed tokens, ready to train on."""

    name: str
    folder: Path
    fingerprint: str
    """Hash of the packed tokens and of what they stand for: equal fingerprints train equally."""
    vocab_size: int
    end_token: int | None
    bytes_per_token: float | None
    """Of the validation split. None where the tokens' text is not known."""
    train: Array = field(repr=False)
    """Token ids (n,), memory-mapped: uint16, or uint32 where the vocabulary needs it."""
    validation: Array = field(repr=False)
    token_bytes: Array | None = field(repr=False)
    """Bytes of text that each token stands for (vocab_size,), 0 for special ones. None where that
    is not known."""
    tokenizer: Path | None

    def score(self, nll: float, targets: Array) -> tuple[float, float | None]:
        """(loss in nats per token, bits per byte or None) of targets whose negative
        log-likelihoods add up to `nll` nats."""
        loss = nll / targets.size
        if self.token_bytes is None:
            return loss, None
        return loss, nll / math.log(2) / float(self.token_bytes[targets].sum())

    def describe(self) -> dict[str, Any]:
        """What a record says of its data."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "vocab_size": self.vocab_size,
            "bytes_per_token": self.bytes_per_token,
            "train_tokens": len(self.train),
            "validation_tokens": len(self.validation),
        }


# --- Windows --------------------------------------------------------------------------------------


def batch(data: Data, seed: int, step: int, batch_size: int, seq_len: int) -> tuple[Tokens, Tokens]:
    """(inputs, targets) of one step, (batch_size, seq_len) each: a pure function of its arguments.

    Windows of seq_len + 1 tokens lie seq_len apart, so that every token is a target once an epoch;
    each epoch has its own order.
    """
    n_windows = _n_windows(data.train, seq_len)
    position = np.arange(step * batch_size, (step + 1) * batch_size)
    windows = [
        _cached_order(n_windows, seed, epoch)[place]
        for epoch, place in zip(*(a.tolist() for a in divmod(position, n_windows)), strict=True)
    ]
    return _cut(data.train, np.array(windows), seq_len)


def window_order(n_windows: int, seed: int, epoch: int) -> Tokens:
    """A permutation of the windows. Philox's raw stream, unlike numpy's shuffles, never changes
    between versions."""
    keys = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)).random_raw(n_windows)
    return np.argsort(keys, kind="stable")


_cached_order = lru_cache(maxsize=4)(window_order)


def validation_windows(data: Data, seq_len: int, n_tokens: int) -> tuple[Tokens, Tokens]:
    """(inputs, targets) of the fixed validation slice, (windows, seq_len) each: about n_tokens
    targets, or all there are, spread evenly over the split; the same for every run."""
    available = _n_windows(data.validation, seq_len)
    wanted = max(1, min(available, n_tokens // seq_len))
    return _cut(data.validation, np.arange(wanted) * available // wanted, seq_len)


def require_tokens(data: Data, seq_len: int, batch_size: int) -> None:
    """Raises: ValueError unless there is one batch to train on and one window to validate on."""
    for split, tokens, windows in (
        ("training", data.train, batch_size),
        ("validation", data.validation, 1),
    ):
        if len(tokens) < windows * seq_len + 1:
            raise ValueError(
                f"the {split} split must hold {windows * seq_len + 1} tokens, {windows} windows of "
                f"{seq_len}, but {data.name} has {len(tokens)}; give more text, or a smaller "
                f"seq_len{' or batch_size' if split == 'training' else ''}"
            )


def _n_windows(tokens: Array, seq_len: int) -> int:
    n_windows = (len(tokens) - 1) // seq_len
    if n_windows < 1:
        raise ValueError(
            f"a split must hold {seq_len + 1} tokens for a window of {seq_len}, but has "
            f"{len(tokens)}; give more text, or a smaller seq_len"
        )
    return n_windows


def _cut(tokens: Array, windows: Tokens, seq_len: int) -> tuple[Tokens, Tokens]:
    rows = tokens[windows[:, None] * seq_len + np.arange(seq_len + 1)].astype(np.int64)
    return rows[:, :-1], rows[:, 1:]


def held_out_documents(data: Data) -> list[str]:
    """The texts of the validation split.

    Raises:
        ValueError: the data came as tokens, without the tokenizer that made them.
    """
    if data.tokenizer is None:
        raise ValueError(
            f"{data.folder} must have a tokenizer to give its text, but came as token ids without; "
            "prepare it with data.tokenizer=FILE"
        )
    tokenizer = _load_tokenizer(data.tokenizer)
    ends = np.flatnonzero(data.validation == data.end_token)
    parts = np.split(data.validation, ends)
    ids = [part[1:] if i else part for i, part in enumerate(parts)]  # without the end token
    return [tokenizer.decode(part.tolist()) for part in ids if len(part)]


# --- The cache ------------------------------------------------------------------------------------


def prepare(config: DataConfig, progress: Progress = print) -> Data:
    """The data that a configuration asks for, from the cache or else built into it.

    A build is atomic, and simultaneous ones wait for each other. Damaged files in the cache are
    named, set aside and built again.

    Raises:
        ValueError, OSError: what is asked for cannot be read or does not fit together.
    """
    cache = Path(config.cache)
    cache.mkdir(parents=True, exist_ok=True)
    recipe = _recipe(config)
    folder = cache / f"{config.source}-{_digest(recipe)}"
    with FileLock(folder.with_suffix(".lock")):
        if folder.exists():
            try:
                return replace(open_data(folder), name=str(config.name))
            except ValueError as error:
                aside = _set_aside(folder)
                progress(f"{error}; set aside as {aside}, building again")
        _build(config, recipe, folder, progress)
    return open_data(folder)


def open_data(folder: str | Path) -> Data:
    """What `prepare` built. Nothing is built here.

    Raises:
        ValueError: a file is missing or damaged; it is named.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder / "manifest.json")
    for name, expected in manifest["files"].items():
        if (found := _check(folder / name)) != expected:
            raise ValueError(
                f"{folder / name} must be as it was written, {expected}, but is {found}"
            )
    known = "token_bytes.npy" in manifest["files"]
    return Data(
        name=manifest["name"],
        folder=folder,
        fingerprint=manifest["fingerprint"],
        vocab_size=manifest["vocab_size"],
        end_token=manifest["end_token"],
        bytes_per_token=manifest["bytes_per_token"],
        train=np.memmap(folder / "train.bin", dtype=manifest["dtype"], mode="r"),
        validation=np.memmap(folder / "validation.bin", dtype=manifest["dtype"], mode="r"),
        token_bytes=np.load(folder / "token_bytes.npy") if known else None,
        tokenizer=folder / "tokenizer.json" if known else None,
    )


def _recipe(config: DataConfig) -> dict[str, Any]:
    """All that the packed tokens follow from. Paths and dates do not belong to it, content does."""
    hashes = FileHashes(Path(config.cache) / "hashes.json")
    recipe: dict[str, Any] = {
        "format": FORMAT,
        "source": config.source,
        "vocab_size": config.vocab_size,
        "tokenizer": hashes.of([_tokenizer_file(config)]) if config.tokenizer else None,
        "end_token": config.end_token,
        "validation_fraction": config.validation_fraction,
        "max_bytes": config.max_bytes,
    }
    if config.source == "embedded":
        recipe["text"] = corpus.identity()
    elif config.source == "text":
        files = find_files(config.path, TEXT_KINDS)
        recipe["text"] = [config.text_key, [p.suffixes for p in files], hashes.of(files)]
    elif config.source == "tokens":
        files = find_files(config.path, TOKEN_KINDS)
        recipe["text"] = [[p.suffixes for p in files], hashes.of(files)]
    else:
        files = sorted(p for p in Path(str(config.name)).rglob("*") if p.is_file())
        recipe["text"] = [
            hashes.of(files) if files else config.name,
            config.subset,
            config.split,
            config.revision,
            config.text_key,
        ]
    return recipe


class FileHashes:
    """Content hashes, remembered by size and date so that large files are read once."""

    def __init__(self, memo: Path) -> None:
        self.memo = memo

    def of(self, files: Sequence[Path]) -> list[str]:
        """SHA-256 of each file."""
        try:
            known = json.loads(self.memo.read_text())
        except (OSError, ValueError):
            known = {}
        before = dict(known)
        hashes = [self._hash(path, known) for path in files]
        if known != before:
            write_atomically(self.memo, json.dumps(known, indent=1))
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


def _check(path: Path) -> str:
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


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        sealed = json.loads(path.read_bytes())
        manifest: dict[str, Any] = sealed["manifest"]
        if sealed["digest"] == _digest(manifest):
            return manifest
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"{path} must be as it was written, but is missing or damaged")


def _set_aside(folder: Path) -> Path:
    """Rename a damaged folder, in place of one set aside before."""
    aside = folder.with_suffix(".corrupt")
    shutil.rmtree(aside, ignore_errors=True)
    return folder.rename(aside)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


# --- Building -------------------------------------------------------------------------------------


def _build(config: DataConfig, recipe: dict[str, Any], folder: Path, progress: Progress) -> None:
    """Build beside the folder, then rename: it is there as a whole or not at all. Only the holder
    of its lock builds it, so what an earlier builder left half-made can go."""
    for left in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(left, ignore_errors=True)
    half_made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        if config.source == "tokens":
            manifest = _build_from_tokens(config, half_made, progress)
        else:
            manifest = _build_from_text(config, half_made, progress)
        files = sorted(half_made.iterdir())
        manifest |= {"recipe": recipe, "files": {path.name: _check(path) for path in files}}
        sealed = {"digest": _digest(manifest), "manifest": manifest}
        write_atomically(half_made / "manifest.json", json.dumps(sealed, indent=1))
        for path in (*files, half_made):
            _fsync(path)
        half_made.rename(folder)
        _fsync(folder.parent)
    finally:
        shutil.rmtree(half_made, ignore_errors=True)


def _build_from_text(config: DataConfig, folder: Path, progress: Progress) -> dict[str, Any]:
    progress(f"data: reading {config.path or config.name}")
    with tempfile.TemporaryFile("w+", dir=folder, encoding="utf-8") as file:
        spool = Spool(file, _limited(_documents(config), config.max_bytes))
        held_out = _hold_out(spool.hashes, config)
        progress(f"data: {len(spool.hashes)} documents, {spool.n_bytes / 1e6:.1f} MB of text")
        if config.tokenizer:
            tokenizer = _load_tokenizer(_tokenizer_file(config))
        else:
            progress(f"data: training a tokenizer of {config.vocab_size} tokens")
            tokenizer = train_tokenizer(spool.texts(~held_out), config.vocab_size)
        end_token = _end_token(tokenizer, config)
        vocab_size = _vocab_size(tokenizer)
        for split, chosen in (("train", ~held_out), ("validation", held_out)):
            tokens = _encoded(tokenizer, spool.texts(chosen), end_token)
            _write_tokens(folder / f"{split}.bin", tokens, vocab_size, split, progress)
    tokenizer.save(str(folder / "tokenizer.json"))
    np.save(folder / "token_bytes.npy", token_bytes(tokenizer))
    return _summary(config, folder, vocab_size, end_token)


def _build_from_tokens(config: DataConfig, folder: Path, progress: Progress) -> dict[str, Any]:
    vocab_size = config.vocab_size
    if config.tokenizer:
        tokenizer = _load_tokenizer(_tokenizer_file(config))
        vocab_size = _vocab_size(tokenizer)
        tokenizer.save(str(folder / "tokenizer.json"))
        np.save(folder / "token_bytes.npy", token_bytes(tokenizer))
    files = find_files(config.path, TOKEN_KINDS)
    progress(f"data: reading {len(files)} files of token ids")
    held_out = _held_out_tokens(files, config)
    for split, wanted in (("train", False), ("validation", True)):
        chosen = (
            tokens
            for (where, tokens), held in zip(_token_documents(files, config), held_out, strict=True)
            if held == wanted and _require_ids(tokens, vocab_size, where)
        )
        _write_tokens(folder / f"{split}.bin", chosen, vocab_size, split, progress)
    return _summary(config, folder, vocab_size, config.end_token)


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
    written, told = 0, time.monotonic()
    with path.open("wb") as file:
        for tokens in documents:
            file.write(tokens.astype(dtype).tobytes())
            written += len(tokens)
            if time.monotonic() - told > 2:
                progress(f"data: packing the {split} split, {written / 1e6:.1f} M tokens")
                told = time.monotonic()
    if not written:
        raise ValueError(f"the {split} split must hold tokens, but is empty; give more documents")
    progress(f"data: packed the {split} split, {written / 1e6:.2f} M tokens")


def _dtype(vocab_size: int) -> np.dtype[Any]:
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- Documents ------------------------------------------------------------------------------------


def _documents(config: DataConfig) -> Iterator[str]:
    if config.source == "embedded":
        yield from corpus.documents()
    elif config.source == "text":
        for path in find_files(config.path, TEXT_KINDS):
            yield from read_text(path, config.text_key)
    else:
        yield from _hub_documents(config)


def _hub_documents(config: DataConfig) -> Iterator[str]:
    """A data set of the hub, streamed; a local folder of files will do."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        rows = load_dataset(
            config.name,
            config.subset,
            split=config.split,
            revision=config.revision,
            streaming=True,
        )
    except (DatasetsError, OSError, ValueError) as error:
        raise ValueError(
            f"data.name must be a data set that can be loaded, but {config.name!r} with subset "
            f"{config.subset!r} and split {config.split!r} cannot: {' '.join(str(error).split())}"
        ) from error
    for number, row in enumerate(rows):
        if not isinstance(row.get(config.text_key), str):
            raise ValueError(
                f"row {number} of {config.name} must have text under {config.text_key!r}, but has "
                f"the columns {', '.join(row)}; set data.text_key"
            )
        yield row[config.text_key]


def _limited(documents: Iterable[str], max_bytes: int | None) -> Iterator[str]:
    """The documents until they are max_bytes long together; the one that crosses is the last."""
    read = 0
    for document in documents:
        yield document
        read += len(document.encode("utf-8", "replace"))
        if max_bytes is not None and read >= max_bytes:
            return


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
            if not document.strip():
                continue
            try:
                encoded = document.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"text must be valid Unicode, but a document has half a surrogate pair: "
                    f"{document[error.start - 20 : error.end + 20]!r}; mend the escapes"
                ) from error
            hashes.append(_hash(encoded))
            self.n_bytes += len(encoded)
            file.write(json.dumps(document, ensure_ascii=False) + "\n")
        self.hashes = np.array(hashes, dtype=np.uint64)

    def texts(self, chosen: Array) -> Iterator[str]:
        """Those documents whose entry in `chosen` is true."""
        self._file.seek(0)
        for line, wanted in zip(self._file, chosen, strict=True):
            if wanted:
                yield json.loads(line)


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def _hold_out(hashes: Array, config: DataConfig) -> Array:
    """Which documents are validation: those with the lowest hashes, at least one."""
    if len(np.unique(hashes)) < 2:
        raise ValueError(
            "text must have two different documents, one of them to hold out, but "
            f"{config.path or config.name} has {len(hashes)}; give more text"
        )
    limit = np.uint64(int(config.validation_fraction * (2**64 - 1)))
    held_out = hashes <= max(limit, hashes.min())
    return np.asarray(held_out if not held_out.all() else hashes < hashes.max())


# --- Documents of token ids -----------------------------------------------------------------------


def _token_documents(files: Sequence[Path], config: DataConfig) -> Iterator[tuple[str, Tokens]]:
    read = (pair for path in files for pair in read_tokens(path, config.end_token))
    for where, tokens in read:
        if not len(tokens):
            continue
        if config.end_token is not None and tokens[-1] != config.end_token:
            tokens = np.append(tokens, config.end_token)
        yield where, tokens


def _held_out_tokens(files: Sequence[Path], config: DataConfig) -> list[bool]:
    """Which documents are validation: those of files named val…, or, lacking these, by hash."""
    named = [path.name.startswith("val") for path in files]
    if any(named) and not all(named):
        return [
            is_validation
            for path, is_validation in zip(files, named, strict=True)
            for _ in _token_documents([path], config)
        ]
    hashes = [_hash(tokens.tobytes()) for _, tokens in _token_documents(files, config)]
    return list(_hold_out(np.array(hashes, dtype=np.uint64), config))


def _require_ids(tokens: Tokens, vocab_size: int, where: str) -> bool:
    """True. Raises: ValueError where an id is not of the vocabulary."""
    wrong = tokens[(tokens < 0) | (tokens >= vocab_size)]
    if len(wrong):
        raise ValueError(
            f"{where}: token ids must lie in [0, {vocab_size}), but one is {wrong[0]}; "
            "set data.vocab_size or data.tokenizer to the one that they were made with"
        )
    return True


# --- Tokenizers -----------------------------------------------------------------------------------


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE with GPT-2's split of words; its end token comes last.

    Raises:
        ValueError: the text has fewer different pairs than vocab_size asks for.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_limited(texts, TOKENIZER_TRAINING_BYTES), trainer)
    tokenizer.add_special_tokens([END_TOKEN])
    if (reached := _vocab_size(tokenizer)) < vocab_size:
        raise ValueError(
            f"data.vocab_size must be supported by the text, but {vocab_size} was asked for and "
            f"the training split has pairs for {reached}; lower it to that, or give more text"
        )
    return tokenizer


def token_bytes(tokenizer: Tokenizer) -> Array:
    """Bytes of UTF-8 text that each token stands for (vocab_size,), 0 for special tokens and
    unused ids. For byte-level BPE they add up to the length of the text; for vocabularies in the
    manner of SentencePiece, to that of the text with the space put before it."""
    size = np.zeros(_vocab_size(tokenizer), dtype="<i8")
    parts = json.loads(tokenizer.to_str())
    byte_level = "ByteLevel" in json.dumps([parts["pre_tokenizer"], parts["decoder"]])
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    for token, i in tokenizer.get_vocab().items():
        if i not in special:
            size[i] = len(token) if byte_level else _piece_bytes(token)
    return size


def _piece_bytes(token: str) -> int:
    """Length of a SentencePiece token's text: ▁ is a space, <0x0A> one byte."""
    is_byte = len(token) == 6 and token.startswith("<0x") and token.endswith(">")
    return 1 if is_byte else len(token.replace("▁", " ").encode())


def _encoded(tokenizer: Tokenizer, texts: Iterable[str], end_token: int) -> Iterator[Tokens]:
    """Token ids of each text, end token included, encoded on all cores. A special token's name
    within a text is text like any other."""
    tokenizer.encode_special_tokens = True
    for group in _groups(texts, ENCODING_BATCH_BYTES):
        for encoding in tokenizer.encode_batch_fast(group, add_special_tokens=False):
            yield np.array([*encoding.ids, end_token], dtype=np.int64)


def _groups(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    """Lists of consecutive texts, of at least `size` characters but for the last."""
    group: list[str] = []
    length = 0
    for text in texts:
        group.append(text)
        length += len(text)
        if length >= size:
            yield group
            group, length = [], 0
    if group:
        yield group


def _vocab_size(tokenizer: Tokenizer) -> int:
    return max(tokenizer.get_vocab().values()) + 1


def _tokenizer_file(config: DataConfig) -> Path:
    path = Path(config.tokenizer or "")
    if path.is_file():
        return path
    if (path / "tokenizer.json").is_file():
        return path / "tokenizer.json"
    raise FileNotFoundError(
        f"data.tokenizer must be a tokenizer.json or its folder, but nothing is at {path}"
    )


def _load_tokenizer(path: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"{path} must be a tokenizer.json, but is not: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _end_token(tokenizer: Tokenizer, config: DataConfig) -> int:
    """The id asked for, or that of the first of END_TOKENS."""
    if config.end_token is not None:
        if not 0 <= config.end_token < _vocab_size(tokenizer):
            raise ValueError(
                f"data.end_token must lie in [0, {_vocab_size(tokenizer)}), "
                f"but got {config.end_token}"
            )
        return config.end_token
    if (name := end_token_of(tokenizer)) is not None:
        found: int = tokenizer.get_vocab()[name]
        return found
    raise ValueError(
        "the tokenizer must have a token to end documents with, but has none of "
        f"{', '.join(END_TOKENS)}; set data.end_token to its id"
    )
