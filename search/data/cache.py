"""The cache of prepared data: existing entries are opened at once, missing ones built once.

`prepare` reads documents, holds some out for validation, trains a byte-level BPE on the others (or
takes a tokenizer file), packs both splits into memory-mapped files and leaves them in the cache,
under a key of content and settings.
"""

import json
import os
import platform
import shutil
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import BaseFileLock, FileLock

from search.artifacts import Artifacts
from search.data.build import FORMAT, Encoded, encode_text, pack
from search.data.config import DataConfig
from search.data.corpora import CORPORA, Corpus
from search.data.encode import Progress
from search.data.hashes import FileHashes, digest_of, seal
from search.data.in_place import train_split
from search.data.packed import Data
from search.data.readers import mapped
from search.data.tokenizer import tokenizer_file
from space.files import folder_atomically, remove_parts, umask, write_atomically
from space.seals import Damaged


def prepare(
    config: DataConfig, progress: Progress = print, artifacts: Artifacts | None = None
) -> Data:
    """The data that a configuration asks for, from the cache, else brought there from `artifacts`,
    or else built into it and sent there.

    A build is atomic, and simultaneous ones wait for each other. Damaged files in the cache are
    named, set aside and built again.

    Raises:
        ValueError, OSError: what is asked for cannot be read or does not fit together.
    """
    if config.in_place and artifacts is not None:
        raise ValueError(
            "data.in_place must be left out with artifacts, through which data are sent to hosts "
            "that have no folder in common, but is true"
        )
    cache = Path(config.cache)
    with suppress(PermissionError):  # what is there may be all that is needed
        cache.mkdir(parents=True, exist_ok=True)
    corpus = config.corpus()
    recipe = _recipe(config, corpus)
    folder = cache / f"{config.label}-{digest_of(recipe)}"
    if not os.access(cache, os.W_OK):
        return replace(_there(folder), name=str(config.name))
    with _alone_here(folder):
        if not (_usable(folder, progress) or _bring(folder, artifacts)):
            _build(config, corpus, recipe, folder, progress)
        if artifacts is not None:
            _send(folder, artifacts)
        return replace(open_data(folder), name=str(config.name))


def _alone_here(folder: Path) -> BaseFileLock:
    """The lock of who prepares the data on this host."""
    return _lock(folder.with_name(f".{folder.name}-{platform.node()}.lock"))


def _lock(path: Path) -> BaseFileLock:
    return FileLock(path, mode=0o666 & ~umask())


def _usable(folder: Path, progress: Progress) -> bool:
    """Whether the data are there; damaged ones are set aside."""
    with _lock(folder.with_suffix(".lock")):
        if not folder.exists():
            return False
        try:
            open_data(folder)
        except ValueError as error:
            aside = _set_aside(folder)
            progress(f"{error}; set aside as {aside}, building again")
            return False
    return True


def bring_data(folder: Path, artifacts: Artifacts | None) -> Data:
    """What `prepare` built, here or on another host.

    Raises:
        ValueError: it is nowhere, or damaged.
    """
    if artifacts is not None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone_here(folder):
            if not folder.exists():
                _bring(folder, artifacts)
    return open_data(folder)


def _bring(folder: Path, artifacts: Artifacts | None) -> bool:
    """Whether the data came from there, whole."""
    if artifacts is None or (found := artifacts.latest(f"data/{folder.name}")) is None:
        return False
    try:
        with folder_atomically(folder) as part:
            artifacts.get(found, part, list(found.files))
            part.chmod(0o777 & ~umask())
        open_data(folder)
    except (Damaged, FileNotFoundError, ValueError) as error:
        print(f"warning: what artifacts have of {folder.name} is not used: {error}")
        shutil.rmtree(folder, ignore_errors=True)
        return False
    return True


def _send(folder: Path, artifacts: Artifacts) -> None:
    """Send the data, unless they are there."""
    place = f"data/{folder.name}"
    if artifacts.latest(place) is None:
        artifacts.put(place, {path.name: path for path in folder.iterdir()})


def _there(folder: Path) -> Data:
    """The data of a cache that cannot be written.

    Raises:
        ValueError: they are not there.
    """
    if not folder.is_dir():
        raise ValueError(
            "data.cache must be a folder that can be written, or hold the data, but "
            f"{folder.parent} cannot be written and has no {folder.name}; set data.cache=FOLDER"
        )
    return open_data(folder)


def open_data(folder: str | Path) -> Data:
    """What `prepare` built. Nothing is built here.

    Raises:
        ValueError: a file is missing or damaged; it is named.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder / "manifest.json")
    for name, expected in manifest["files"].items():
        if (found := seal(folder / name)) != expected:
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
        train=train_split(folder, manifest["dtype"]),
        validation=mapped(folder / "validation.bin", manifest["dtype"]),
        token_bytes=np.load(folder / "token_bytes.npy") if known else None,
        tokenizer=folder / "tokenizer.json" if known else None,
    )


def find_data(cache: str | Path, fingerprint: str) -> Path | None:
    """The folder of the data with this fingerprint."""
    for path in sorted(Path(cache).glob("*/manifest.json")):
        with suppress(ValueError):  # set aside when its data are prepared again
            if _read_manifest(path)["fingerprint"] == fingerprint:
                return path.parent
    return None


def _recipe(config: DataConfig, corpus: Corpus) -> dict[str, Any]:
    """All that the packed tokens follow from. Paths and dates do not belong to it, content does."""
    hashes = FileHashes(Path(config.cache) / "hashes.json")
    source = CORPORA.identity(config.source)
    recipe = {
        "format": FORMAT,
        "source": source,
        "vocab_size": config.vocab_size,
        "tokenizer": hashes.of([tokenizer_file(config.tokenizer)]) if config.tokenizer else None,
        "end_token": config.end_token,
        "validation_fraction": config.validation_fraction,
        "max_bytes": config.max_bytes,
        "text": corpus.identity(hashes),
    }
    if config.validation_tokens is not None:
        recipe["validation_tokens"] = config.validation_tokens
    if config.in_place:
        recipe["in_place"] = True
    from_outside = source != config.source
    return recipe | ({"options": config.outside_options()} if from_outside else {})


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        sealed = json.loads(path.read_bytes())
        manifest: dict[str, Any] = sealed["manifest"]
        if sealed["digest"] == digest_of(manifest):
            return manifest
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"{path} must be as it was written, but is missing or damaged")


def _set_aside(folder: Path) -> Path:
    """Rename a damaged folder, in place of one set aside before."""
    aside = folder.with_suffix(".corrupt")
    shutil.rmtree(aside, ignore_errors=True)
    return folder.rename(aside)


def _build(
    config: DataConfig, corpus: Corpus, recipe: dict[str, Any], folder: Path, progress: Progress
) -> None:
    """Build it as a whole or not at all. Several hosts encode together; who has the lock packs."""
    progress(f"data: reading {config.path or config.name}")
    parts = folder.parent / PARTS
    try:
        made = None
        if corpus.kind == "text":
            parts.mkdir(exist_ok=True)
            hashes = FileHashes(Path(config.cache) / "hashes.json")
            made = encode_text(config, corpus, hashes, parts / folder.name, progress)
        with _lock(folder.with_suffix(".lock")):
            if not folder.exists():  # another host may have been faster
                _pack(config, corpus, recipe, made, folder, progress)
    finally:
        _tidy(parts, folder.name)


def _pack(
    config: DataConfig,
    corpus: Corpus,
    recipe: dict[str, Any],
    made: Encoded | None,
    folder: Path,
    progress: Progress,
) -> None:
    """Only the holder of the lock packs, so what an earlier one left half-made can go."""
    remove_parts(folder)
    try:
        with folder_atomically(folder) as part:
            manifest = pack(config, corpus, made, part, progress)
            files = sorted(part.iterdir())
            manifest |= {"recipe": recipe, "files": {path.name: seal(path) for path in files}}
            sealed = {"digest": digest_of(manifest), "manifest": manifest}
            write_atomically(part / "manifest.json", json.dumps(sealed, indent=1))
            part.chmod(0o777 & ~umask())  # until now it is its maker's alone
    except ValueError:
        if made is not None:
            made.remove()  # other documents or another tokenizer are wanted
        raise
    if made is not None:
        made.remove()


PARTS = ".parts"
"""Folder of what is encoded and not yet packed."""
ABANDONED_S = 7 * 24 * 3600
"""After which what no build came back for is removed by another."""


def _tidy(parts: Path, name: str) -> None:
    """Remove what a build needs no more; of others, what nobody writes any more."""
    if not parts.is_dir():
        return
    if (parts.parent / name).exists():
        (parts / f"{name}.tokenizer.json").unlink(missing_ok=True)
    for left in parts.iterdir():
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED_S:
                left.unlink()
    with suppress(OSError):
        parts.rmdir()  # unless there is something in it
