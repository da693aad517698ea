"""What there is in a folder of outputs: studies, tables and laws."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from reports.serve.entries import (
    KINDS,
    LAW,
    STUDY,
    TABLE,
    Entry,
    is_alive,
    read,
    state_of,
    with_progress,
    with_studies,
)
from space.files import APART

PLACES = {STUDY: "*", TABLE: "tables/*", LAW: "laws/*"}
"""Where their folders are."""
DB = "study.db"
"""SQLite's file in the folder of a study."""


class Outputs:
    """The entries of a folder; what has not changed is not read again."""

    def __init__(self, folder: Path) -> None:
        self.root = folder.resolve()
        self.left_out: list[str] = []
        """Names that lead out of the folder."""
        self._known: dict[str, tuple[Any, Entry]] = {}

    def entries(self, running: Mapping[str, Mapping[str, Any]] | None = None) -> list[Entry]:
        """All there are, those that run first, then the newest first; `running` is what
        `search.status` says, None before its first look."""
        looked, folders = running is not None, list(self._folders())
        self.left_out = [name for _, name, path in folders if not self._is_inside(path)]
        known = {name: self._entry(kind, name, path) for kind, name, path in folders}
        found = {name: entry for name, entry in known.items() if entry is not None}
        running = {
            n: said for n, said in (running or {}).items() if self._is_inside(self.root / n / DB)
        }
        found |= {n: _elsewhere(n) for n in running if n not in found and is_alive(running[n])}
        shown = [with_progress(e, running.get(n)) for n, e in with_studies(found).items()]
        shown = [replace(entry, looked=looked or entry.kind == LAW) for entry in shown]
        shown.sort(key=lambda entry: entry.name)
        shown.sort(key=lambda entry: entry.started, reverse=True)
        return sorted(shown, key=lambda entry: not entry.progress)

    def _folders(self) -> Iterator[tuple[str, str, Path]]:
        for kind, pattern in PLACES.items():
            for path in self.root.glob(pattern):
                name = path.relative_to(self.root).as_posix()
                if name not in APART and not path.name.startswith(".") and path.is_dir():
                    yield kind, name, path

    def _files(self, folder: Path) -> Iterator[Path]:
        with os.scandir(folder) as found:
            for each in found:
                path = Path(each.path)
                if each.is_file() and (not each.is_symlink() or self._is_inside(path)):
                    yield path

    def _is_inside(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.root)

    def _entry(self, kind: str, name: str, folder: Path) -> Entry | None:
        """None where nothing is shown of a folder."""
        if not self._is_inside(folder):
            return None
        try:
            there = sorted(self._files(folder))
        except OSError:
            return None
        shown = {path.name: path for path in there if path.suffix in KINDS and path.name[0] != "."}
        if not shown and not any(path.name == DB for path in there):
            return None
        state = tuple((path.name, *state_of(path)) for path in shown.values())
        before = self._known.get(name)
        if before is None or before[0] != state:
            self._known[name] = state, read(kind, name, shown)
        return self._known[name][1]


def _elsewhere(name: str) -> Entry:
    """A study that runs and has left nothing in the folder yet."""
    return Entry(name=name, kind=TABLE if name.startswith("tables/") else STUDY, finished=False)
