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
from filelock import BaseFileLock, FileLock, Timeout

from search.artifacts import Artifacts
from search.data.build import FORMAT, Encoded, encode_text, pack
from search.data.config import DataConfig
from search.data.corpora import CORPORA, Corpus
from search.data.encode import Progress
from search.data.hashes import FileHashes, NoHashes, digest_of, seal
from search.data.in_place import Joined, train_split
from search.data.mixture import MIX, common_tokenizer, each_source, fingerprint_of, weights_of
from search.data.packed import Data, Source
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
    corpus = None if config.source == MIX else config.corpus()
    recipe = _recipe(config, corpus, _hashes(config))
    folder = cache / f"{config.label}-{digest_of(recipe)}"
    if not os.access(cache, os.W_OK):
        return replace(_there(folder), name=str(config.name))
    with _alone_here(folder) as lock:
        if not (_usable(folder, progress) or _bring(folder, artifacts)):
            try:
                if corpus is None:
                    _mix(config, recipe, folder, progress, artifacts)
                else:
                    _build(config, corpus, recipe, folder, progress)
            except ValueError:  # of data that are refused nothing stays
                _remove_lock(folder.with_suffix(".lock"))
                Path(lock.lock_file).unlink(missing_ok=True)
                raise
        if artifacts is not None:
            _send(folder, artifacts)
        return replace(open_data(folder), name=str(config.name))


def require_there(config: DataConfig) -> None:
    """Raises: ValueError, OSError where the files that data are made of are not there. None is
    read."""
    _recipe(config, None if config.source == MIX else config.corpus(), NoHashes())


def _alone_here(folder: Path) -> BaseFileLock:
    """The lock of who prepares the data on this host."""
    return _lock(folder.with_name(f".{folder.name}-{platform.node()}.lock"))


def _lock(path: Path) -> BaseFileLock:
    return FileLock(path, mode=0o666 & ~umask())


def _remove_lock(path: Path) -> None:
    """Remove the file of a lock, unless somebody has it. Who waits for it makes another."""
    with suppress(Timeout), _lock(path).acquire(timeout=0):
        path.unlink(missing_ok=True)


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
            for name in _sources_in(part):
                if not (folder.parent / name).exists():
                    _bring(folder.parent / name, artifacts)
        open_data(folder)
    except (Damaged, FileNotFoundError, ValueError) as error:
        print(f"warning: what artifacts have of {folder.name} is not used: {error}")
        shutil.rmtree(folder, ignore_errors=True)
        return False
    return True


def _send(folder: Path, artifacts: Artifacts) -> None:
    """Send the data, unless they are there; of a mixture its sources first."""
    for name in _sources_in(folder):
        _send(folder.parent / name, artifacts)
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
    if "sources" in manifest:
        return _open_mixture(folder, manifest)
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


def _open_mixture(folder: Path, manifest: dict[str, Any]) -> Data:
    """Its sources, which are beside it, as one."""
    sources = []
    for each in manifest["sources"]:
        data = open_data(folder.parent / each["folder"])
        if data.fingerprint != each["fingerprint"]:
            raise ValueError(
                f"{data.folder} must be as it was when it was mixed, with the fingerprint "
                f"{each['fingerprint']}, but has {data.fingerprint}"
            )
        sources.append(Source(each["name"], each["weight"], data))
    first = sources[0].data
    return Data(
        name=manifest["name"],
        folder=folder,
        fingerprint=manifest["fingerprint"],
        vocab_size=first.vocab_size,
        end_token=first.end_token,
        bytes_per_token=manifest["bytes_per_token"],
        train=Joined([source.data.train for source in sources]),  # type: ignore[arg-type]
        validation=Joined([source.data.validation for source in sources]),  # type: ignore[arg-type]
        token_bytes=first.token_bytes,
        tokenizer=None if first.tokenizer is None else folder / "tokenizer.json",
        sources=tuple(sources),
    )


def _sources_in(folder: Path) -> list[str]:
    """Folders beside this one that it refers to: none, but of a mixture."""
    manifest = _read_manifest(folder / "manifest.json")
    return [each["folder"] for each in manifest.get("sources", ())]


def find_data(cache: str | Path, fingerprint: str) -> Path | None:
    """The folder of the data with this fingerprint."""
    for path in sorted(Path(cache).glob("*/manifest.json")):
        with suppress(ValueError):  # set aside when its data are prepared again
            if _read_manifest(path)["fingerprint"] == fingerprint:
                return path.parent
    return None


def _hashes(config: DataConfig) -> FileHashes:
    return FileHashes(Path(config.cache) / "hashes.json")


def _recipe(config: DataConfig, corpus: Corpus | None, hashes: FileHashes) -> dict[str, Any]:
    """All that the packed tokens follow from. Paths and dates do not belong to it, content does."""
    if corpus is None:
        own = each_source(config, lambda source: _recipe(source, source.corpus(), hashes))
        return {"format": FORMAT, "weights": weights_of(config.sources), "sources": own}
    source = CORPORA.identity(config.source)
    recipe = {
        "format": FORMAT,
        "source": source,
        # of one that is given it decides nothing, whatever a proxy says
        "vocab_size": DataConfig.vocab_size if config.tokenizer else config.vocab_size,
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
            try:
                made = encode_text(config, corpus, _hashes(config), parts / folder.name, progress)
            except OSError:
                if not folder.exists():
                    raise
                return  # another host has packed what all encoded, and removed that
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
            _seal(part, pack(config, corpus, made, part, progress), recipe)
    except ValueError:
        if made is not None:
            made.remove()  # other documents or another tokenizer are wanted
        raise
    if made is not None:
        made.remove()


def _mix(
    config: DataConfig,
    recipe: dict[str, Any],
    folder: Path,
    progress: Progress,
    artifacts: Artifacts | None,
) -> None:
    """Prepare each source, and write down which they are."""
    tokenizer = common_tokenizer(config, recipe["sources"], progress)
    made = each_source(
        config, lambda source: prepare(replace(source, tokenizer=tokenizer), progress, artifacts)
    )
    with _lock(folder.with_suffix(".lock")):
        remove_parts(folder)
        with folder_atomically(folder) as part:
            first = next(iter(made.values()))
            if first.tokenizer is not None:
                shutil.copyfile(first.tokenizer, part / "tokenizer.json")
            _seal(part, _account(config, recipe["weights"], made), recipe)


def _account(config: DataConfig, weights: dict[str, int], made: dict[str, Data]) -> dict[str, Any]:
    """The manifest's account of a mixture."""
    sources: list[dict[str, Any]] = [
        {
            "name": name,
            "weight": weights[name],
            "folder": data.folder.name,
            "fingerprint": data.fingerprint,
        }
        for name, data in made.items()
    ]
    sizes = [(weights[name], data.bytes_per_token) for name, data in made.items()]
    known = [(weight, size) for weight, size in sizes if size is not None]
    mean = sum(weight * size for weight, size in known) / sum(weights.values())
    return {
        "name": config.name,
        "fingerprint": fingerprint_of(
            [(s["name"], s["fingerprint"], s["weight"]) for s in sources]
        ),
        "bytes_per_token": mean if len(known) == len(sizes) else None,
        "sources": sources,
    }


def _seal(part: Path, manifest: dict[str, Any], recipe: dict[str, Any]) -> None:
    """Write the manifest of files that lie in a folder, which is then open to others."""
    files = {path.name: seal(path) for path in sorted(part.iterdir())}
    manifest = manifest | {"recipe": recipe, "files": files}
    sealed = {"digest": digest_of(manifest), "manifest": manifest}
    write_atomically(part / "manifest.json", json.dumps(sealed, indent=1))
    part.chmod(0o777 & ~umask())  # until now it is its maker's alone


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
