"""Folders of runs between a host and the store of `artifacts`: brought before a run goes on, sent
while it trains and when it has ended. Without a store nothing happens.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from search.artifacts import Artifacts, Away, Version
from search.runs import (
    CURVE,
    WEIGHTS,
    WINDOWS,
    CorruptRecord,
    UnknownParts,
    read_record,
    usable_record,
)
from search.states import State
from search.study.lost import has_record
from search.study.plan import Attempt, distinct
from space.files import Fence, nothing, write_atomically
from space.seals import Damaged

RECORD, ASKED = "record.json", "run.yaml"
CHECKPOINT = ("checkpoint/state.pt", "checkpoint/branch.pt")
"""As `search.train.checkpoint` calls them, which needs torch; a finished study needs none."""
MARK = ".version"
"""Holds the name of the version that a run's folder came from, or was last sent as."""
SHARE = 0.01
"""Of a run's time that sending checkpoints may take."""
AT_ONCE = 8
"""Runs that are brought at the same time."""


class Copy:
    """A run's folder on this host and in the store, while it is this worker's."""

    def __init__(
        self,
        artifacts: Artifacts | None,
        folder: Path,
        fence: Fence = nothing,
        *,
        weights: bool = False,
        keep: bool = True,
    ) -> None:
        """`weights`: whether those of a run that has ended are wanted here; `keep`: whether they
        are sent."""
        self.artifacts, self.folder, self.fence = artifacts, folder, fence
        self.place, self.weights, self.keep = place_of(folder.name), weights, keep
        self.version: Version | None = None
        self.resumes = 0.0
        """From when checkpoints are sent again."""

    @contextmanager
    def travelling(self) -> Iterator["Copy"]:
        """The folder is as the store has it, and what it is at the end is sent there; not where
        this worker has lost it."""
        from search.train.loop import Stop

        self.bring()
        try:
            yield self
        except Stop:
            self.fence()
            self._send_if_it_answers()
            raise
        self.send()

    def bring(self) -> None:
        """Take what the store has over what is here, unless this is where that came from; what
        earlier owners send from now on is not taken."""
        if self.artifacts is None:
            return
        found = self.artifacts.latest(self.place)
        if found is not None and not self._is_newer(found):
            found = self._take(found)
        if found is None or RECORD not in found.files:
            found = self.artifacts.inherit(self.place, found, self.fence)
        self.version = found
        mark(self.folder, found)

    def checkpointed(self) -> None:
        """Send a checkpoint that was written, where sending them took little of the time so far. A
        store that does not answer is tried again with a later one. Training goes on meanwhile, so
        the curve grows, and is not sent: the checkpoint holds it."""
        if self.artifacts is None or time.monotonic() < self.resumes:
            return
        began = time.monotonic()
        self._send_if_it_answers(training=True)
        now = time.monotonic()
        self.resumes = now + (now - began) / SHARE

    def send(self) -> None:
        """Send the record with what belongs to it, or the checkpoint.

        Raises:
            Away: the store did not answer for too long.
        """
        if self.artifacts is not None:
            self._send(self.artifacts)

    def _send_if_it_answers(self, training: bool = False) -> None:
        if self.artifacts is None:
            return
        try:
            self._send(replace(self.artifacts, wait_s=0), training)
        except Away as error:
            print(f"run {self.folder.name}: its checkpoint was not sent: {error}")

    def _send(self, artifacts: Artifacts, training: bool = False) -> None:
        record = usable_record(self.folder)
        ended = record is not None and record.final
        done = [ASKED, CURVE, WINDOWS, *([WEIGHTS] * self.keep), RECORD]
        paths = [p for p in (done if ended else _going_on()) if p != CURVE or not training]
        files = {path: self.folder / path for path in paths if (self.folder / path).is_file()}
        had = self.version is not None and RECORD in self.version.files
        carried = [WEIGHTS] if had else []
        self.version = artifacts.put(self.place, files, self.version, carried, self.fence)
        mark(self.folder, self.version)

    def _is_newer(self, found: Version) -> bool:
        """Whether what is here came after what the store has."""
        record = usable_record(self.folder)
        if RECORD not in found.files and record is not None and record.final:
            return True
        marked = (self.folder / MARK).is_file() and (self.folder / MARK).read_text() == found.name
        return not found.files or (marked and all(map(self._has, self._wanted(found))))

    def _take(self, found: Version) -> Version | None:
        """The version that was brought; None where what it held cannot be used."""
        assert self.artifacts is not None, "there is a version"
        for path in {CURVE, WINDOWS, *CHECKPOINT} - set(found.files):
            (self.folder / path).unlink(missing_ok=True)
        try:
            self.artifacts.get(found, self.folder, self._wanted(found))
        except (Damaged, FileNotFoundError) as error:
            print(f"warning: what artifacts have of run {found.place} is not used: {error}")
            return replace(found, files={})
        return found

    def _wanted(self, found: Version) -> list[str]:
        ended = [ASKED, CURVE, WINDOWS, RECORD, *([WEIGHTS] * self.weights)]
        wanted = ended if RECORD in found.files else _going_on()
        return [path for path in wanted if path in found.files]

    def _has(self, path: str) -> bool:
        return (self.folder / path).is_file()


def _going_on() -> list[str]:
    """What a run goes on from."""
    return [ASKED, CURVE, WINDOWS, *CHECKPOINT]


def place_of(key: str) -> str:
    """Of a run in the store."""
    return f"runs/{key}"


def mark(folder: Path, version: Version) -> None:
    """Note that a folder is as a version of it."""
    write_atomically(folder / MARK, version.name)


def share_ended(
    artifacts: Artifacts | None, runs: Path, attempts: Sequence[Attempt], shared: set[str]
) -> None:
    """Bring what is to be shown of runs that ended on other hosts, and send what ended here before
    there was a store. `shared` has the keys for which that is done, and gets those it was done
    for."""
    if artifacts is None:
        return
    ended = [run for run in distinct(attempts) if run.key not in shared and _has_ended(run)]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(partial(_share, artifacts, runs), ended))
    shared.update(str(run.key) for run in ended)


def _has_ended(run: Attempt) -> bool:
    return run.key is not None and (run.state == State.PRUNED or has_record(run))


def _share(artifacts: Artifacts, runs: Path, run: Attempt) -> None:
    folder = runs / str(run.key)
    if run.state == State.PRUNED:
        if not (folder / ASKED).is_file():
            _bring(artifacts, folder, [ASKED, CURVE])
    elif not _is_here(folder, run.result_id):
        _bring(artifacts, folder, [ASKED, CURVE, RECORD])
    elif not (folder / MARK).is_file():
        copy = Copy(artifacts, folder)
        copy.version = artifacts.latest(copy.place)
        if copy.version is None or RECORD not in copy.version.files:
            copy.send()


def _is_here(folder: Path, result_id: str | None) -> bool:
    try:
        record = read_record(folder, result_id)
    except UnknownParts:
        return True
    except CorruptRecord:
        return False
    return record is not None and record.final


def _bring(artifacts: Artifacts, folder: Path, paths: Sequence[str]) -> None:
    """Bring files of a run, those that the store has. What arrives damaged is said, and left to
    those who miss it."""
    found = artifacts.latest(place_of(folder.name))
    if found is None or (RECORD in paths and RECORD not in found.files):
        return
    try:
        artifacts.get(found, folder, paths)
    except (Damaged, FileNotFoundError) as error:
        print(f"warning: what artifacts have of run {folder.name} is not used: {error}")
    else:
        if RECORD in paths:
            mark(folder, found)


def bring_weights(artifacts: Artifacts | None, runs: Path, keys: Iterable[str]) -> None:
    """Bring the weights of runs that have ended, where they were kept."""
    for key in keys:
        if artifacts is not None and not (runs / key / WEIGHTS).is_file():
            _bring(artifacts, runs / key, [WEIGHTS])


def drop_weights(artifacts: Artifacts | None, keys: Iterable[str]) -> None:
    """Remove the weights of runs from the store."""
    if artifacts is None:
        return
    for key in keys:
        found = artifacts.latest(place_of(key))
        if found is not None and RECORD in found.files and WEIGHTS in found.files:
            artifacts.drop(found, WEIGHTS)


def has_weights(artifacts: Artifacts | None, runs: Path, key: str) -> bool:
    """Whether a run's weights are here or can be brought."""
    if (runs / key / WEIGHTS).is_file() or artifacts is None:
        return (runs / key / WEIGHTS).is_file()
    found = artifacts.latest(place_of(key))
    return found is not None and WEIGHTS in found.files
