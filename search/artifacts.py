"""A place that all hosts reach by a URL, for hosts without a shared disk: versions of folders.

URL/runs/KEY/VERSION.version       which files the version has, and their digests; written last
URL/runs/KEY/VERSION.state.pt      a file: written once, under a name of its own, never changed
URL/data/NAME/…                    the same of prepared data

The latest whole version counts, and what arrives is held to its digest. So nothing depends on what
a store promises of replaced files (docs/decisions/091-artifacts-are-versions.md).
"""

import posixpath
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

import fsspec
from fsspec.core import url_to_fs
from fsspec.registry import known_implementations

from search.runs import disk_error
from space.files import Fence, file_atomically, nothing
from space.seals import Damaged, digest_of_file, parse_json, sealed_json

WAIT_S, PROBE_S = 600.0, 5.0
"""How long a store may be away: in the middle of a study, and at its start."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0
"""Between two attempts; each pause is twice the one before."""
VERSION = ".version"
BY_ARROW = ("s3", "gs", "gcs")
"""What pyarrow reads too, where fsspec's own package is not installed. That of s3 wants a botocore
that is older than the one whose text is `data=embedded`."""

T = TypeVar("T")


class Away(OSError):
    """The store did not answer for too long. Caught by workers, whose study it ends."""


@dataclass(frozen=True)
class Version:
    """A folder as it was at one time."""

    place: str
    name: str
    files: Mapping[str, Mapping[str, str]]
    """By path in the folder: `at`, the name in the store, and `digest`."""

    def following(self, *, owner: bool = False) -> str:
        """The name of the next version, of this owner or of another. Names of owners that came
        later are larger, and so are an owner's later ones."""
        number, own = (int(part) for part in self.name.split(".")[:2])
        return _name(number + 1, 0) if owner else _name(number, own + 1)


@dataclass(frozen=True)
class Artifacts:
    """The store at a URL."""

    url: str
    fs: fsspec.AbstractFileSystem
    root: str
    wait_s: float = WAIT_S
    stopping: threading.Event = field(default_factory=threading.Event)
    """Once set, nothing is waited for."""

    @classmethod
    def at(cls, url: str, **options: Any) -> "Artifacts":
        """Raises: ValueError where the URL is none, or needs a package that is not installed."""
        if urlsplit(url).password:
            raise ValueError(
                "artifacts must be a URL without a password, which would be shown and kept, but "
                "got one; give it as the store's own environment variables or files do"
            )
        here = url if "://" in url else str(Path(url).resolve())
        return cls(here, *_filesystem(here), **options)

    def require(self) -> None:
        """Raises: ValueError where nothing can be written or read there."""
        probe = posixpath.join(self.root, f"probe-{uuid4().hex}")
        try:
            self._patiently(lambda: self._write(probe, b"probe"))
            self._patiently(lambda: self.fs.cat_file(probe))
            self._patiently(lambda: self.fs.rm_file(probe))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"artifacts must be a place that can be written, but {self.url} is not: "
                f"{_line(error.__cause__ or error)}"
            ) from None

    def latest(self, place: str) -> Version | None:
        """The last whole version of a folder; None where there is none."""
        while True:
            names = [name for name in self._list(place) if name.endswith(VERSION)]
            found = (self._at(place, name) for name in sorted(names, reverse=True))
            try:
                return next((version for version in found if version), None)
            except FileNotFoundError:
                continue  # replaced meanwhile

    def inherit(self, place: str, before: Version | None, fence: Fence = nothing) -> Version:
        """A version of a new owner, with what the one before had: what earlier owners send from now
        on is not taken."""
        if before is None:
            return self._conclude(Version(place, _name(0, 0), {}), fence)
        return self._conclude(Version(place, before.following(owner=True), before.files), fence)

    def put(
        self,
        place: str,
        files: Mapping[str, Path],
        before: Version | None = None,
        carried: Collection[str] = (),
        fence: Fence = nothing,
    ) -> Version:
        """Make these files the latest version, with those of `before` that are `carried`; then
        remove what older versions had besides. What is as it was is not sent again.

        `fence` is asked before the version counts, and before anything is removed.
        """
        name = before.following() if before else _name(0, 0)
        known = before.files if before else {}
        kept = {path: known[path] for path in carried if path in known}
        for path, file in files.items():
            kept[path] = self._send(place, name, file, known.get(path))
        if before is not None and kept == before.files:
            return before
        return self._conclude(Version(place, name, kept), fence)

    def drop(self, version: Version, path: str) -> Version:
        """The version without one of its files, which is removed."""
        others = [name for name in version.files if name != path]
        return self.put(version.place, {}, version, carried=others)

    def get(self, version: Version, folder: Path, paths: Collection[str]) -> None:
        """Bring files of a version into a folder, each whole or not at all; those that are there
        already are not fetched.

        Raises:
            Damaged: what arrives is not what was sent.
            FileNotFoundError: it was removed meanwhile.
        """
        for path in paths:
            if (file := version.files.get(path)) is None:
                continue
            here = folder / path
            if not (here.is_file() and digest_of_file(here) == file["digest"]):
                self._patiently(lambda: self._fetch(version.place, file, here))  # noqa: B023

    def _fetch(self, place: str, file: Mapping[str, str], here: Path) -> None:
        with file_atomically(here) as part:
            self.fs.get_file(self._path(place, file["at"]), str(part))
            if digest_of_file(part) != file["digest"]:
                raise Damaged(f"{file['at']} must be as it was sent, but has another digest")

    def _send(
        self, place: str, version: str, file: Path, known: Mapping[str, str] | None
    ) -> Mapping[str, str]:
        digest = digest_of_file(file)
        if known is not None and known["digest"] == digest:
            return known
        at = f"{version}.{file.name}"
        self._patiently(lambda: self._to(self._path(place, at), file))
        return {"at": at, "digest": digest}

    def _conclude(self, version: Version, fence: Fence) -> Version:
        fence()
        content = sealed_json({"files": version.files})
        path = self._path(version.place, f"{version.name}{VERSION}")
        self._patiently(lambda: self._write(path, content))
        fence()
        used, there = {file["at"] for file in version.files.values()}, self._list(version.place)
        if any(name.endswith(VERSION) and name > f"{version.name}{VERSION}" for name in there):
            return version  # a later owner has what was here, and may need it
        for name in there:
            if name < version.name and name not in used:
                self._remove(self._path(version.place, name))
        return version

    def _at(self, place: str, name: str) -> Version | None:
        """A version; None where its file is a part of one."""
        content = self._patiently(lambda: self.fs.cat_file(self._path(place, name)))
        try:
            values, sealed = parse_json(content)
        except Damaged:
            return None
        return Version(place, name.removesuffix(VERSION), values["files"]) if sealed else None

    def _list(self, place: str) -> list[str]:
        """Names in a folder of the store."""

        def names() -> list[str]:
            self.fs.invalidate_cache()
            return list(self.fs.ls(self._path(place), detail=False))

        try:
            return [posixpath.basename(path) for path in self._patiently(names)]
        except FileNotFoundError:
            return []

    def _write(self, path: str, content: bytes) -> None:
        self._with_folder(path, lambda: self.fs.pipe_file(path, content))

    def _to(self, path: str, file: Path) -> None:
        self._with_folder(path, lambda: self.fs.put_file(str(file), path))

    def _with_folder(self, path: str, write: Callable[[], Any]) -> None:
        try:
            write()
        except FileNotFoundError:  # stores with folders want them made
            self.fs.makedirs(posixpath.dirname(path), exist_ok=True)
            write()

    def _remove(self, path: str) -> None:
        try:
            self._patiently(lambda: self.fs.rm_file(path))
        except FileNotFoundError:
            return

    def _path(self, *parts: str) -> str:
        return posixpath.join(self.root, *parts)

    def _patiently(self, call: Callable[[], T]) -> T:
        """What a call gives, which is repeated where the store fails.

        Raises:
            FileNotFoundError, Damaged: at once, or where it stays so.
            OSError: a disk is full.
            Away: it failed for too long.
        """
        began, pause = time.monotonic(), FIRST_PAUSE_S
        while True:
            try:
                return call()
            except FileNotFoundError:
                raise
            except Exception as error:
                if (disk := disk_error(error)) is not None:
                    raise disk from error
                over = time.monotonic() + pause - began > self.wait_s or self.stopping.is_set()
                if over and isinstance(error, Damaged):
                    raise
                if over:
                    raise Away(f"artifacts={self.url} does not answer: {_line(error)}") from error
                if pause == 2 * FIRST_PAUSE_S:
                    self._say(error)
            self.stopping.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _say(self, error: Exception) -> None:
        wait = f"waiting up to {self.wait_s:.0f} seconds"
        print(
            f"artifacts do not answer ({_line(error)}); {wait}",
            file=sys.stderr,
            flush=True,
        )


def _name(owner: int, number: int) -> str:
    """Of a version. Its end is its writer's alone."""
    return f"{owner:08}.{number:06}.{uuid4().hex[:8]}"


def _filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a URL, and the path in it."""
    protocol = url.partition("://")[0] if "://" in url else "file"
    try:
        found, root = url_to_fs(url)
        return found, str(root).rstrip("/")
    except ImportError as error:
        if protocol in BY_ARROW:
            return _by_arrow(url)
        package = known_implementations[protocol]["class"].partition(".")[0]
        hint = "" if package == "fsspec" else f"; run: pip install {package}"
        raise ValueError(
            f"artifacts={url} must be of a protocol whose package is installed, but {_line(error)}"
            f"{hint}"
        ) from None
    except ValueError as error:
        raise ValueError(
            f"artifacts must be a folder or a URL that fsspec knows, but got {url}: {_line(error)}"
        ) from None


def _by_arrow(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow.fs import FileSystem

    try:
        found, root = FileSystem.from_uri(url)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"artifacts must be a URL of a bucket, but {url}: {_line(error)}"
        ) from None
    return ArrowFSWrapper(found), root.rstrip("/")


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
