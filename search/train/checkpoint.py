"""The state that a run goes on from: read, and replaced at once or not at all.

runs/<key>/checkpoint/state.pt     of the trunk
runs/<key>/checkpoint/branch.pt    of a decay branch in progress, which left the trunk at `state.pt`

Training is held up for a copy of the state in memory, which a thread then writes.
"""

import copy
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from search.runs import disk_error
from space.files import Fence, file_atomically, nothing, remove_begun
from space.seals import Damaged, Digesting, digest_of_file, set_aside

TRUNK, BRANCH = "state.pt", "branch.pt"
Saved = dict[str, Any]
SEAL = b"\nblake2b "
"""Stands between a checkpoint and its digest, 32 hexadecimal digits, at the end of the file."""
SEAL_BYTES = len(SEAL) + 32


def load(folder: Path, key: str) -> Saved | None:
    """The checkpoint of a run folder: of the branch that the trunk's one waits for, or the trunk's
    own. One that is damaged, or belongs to another run than `key`, is set aside."""
    trunk, branch = (_read(folder / "checkpoint" / name, key) for name in (TRUNK, BRANCH))
    if trunk is None or branch is None:
        return trunk
    left, here = trunk["state"], branch["state"]
    waits = (left["step"], left["readings"]) == (here["trunk_step"], here["readings"])
    return branch if waits else trunk


def load_trunk(folder: Path, key: str) -> Saved | None:
    """The checkpoint of a run folder that a branch left; None where it is damaged."""
    return _read(folder / "checkpoint" / TRUNK, key)


def write(folder: Path, key: str, saved: Saved, *, branch: bool, fence: Fence = nothing) -> None:
    """Replace the checkpoint of a run folder by that of run `key`, its digest after it. A branch
    has its own beside the trunk's, and on the trunk none is left."""
    place = folder / "checkpoint"
    place.mkdir(exist_ok=True)
    path = place / (BRANCH if branch else TRUNK)
    with file_atomically(path, fence=fence) as part, part.open("wb") as file:
        sealed = Digesting(file)
        torch.save({**saved, "key": key}, sealed)  # type: ignore[arg-type]  # it only writes
        file.write(SEAL + sealed.hash.hexdigest().encode())
    if not branch:
        (place / BRANCH).unlink(missing_ok=True)


def snapshot(saved: Saved) -> Saved:
    """A copy in the host's memory, which later steps do not change. What is on a GPU goes into
    pinned memory, and all of it is waited for once."""
    copied: Saved = _copied(saved)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.current_stream().synchronize()
    return copied


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        here = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)
        return here.copy_(value.detach(), non_blocking=True)
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_copied, value))
    return copy.deepcopy(value)


class Writer:
    """Writes the checkpoints of a run in a thread, one at a time. At its end, however that comes,
    none is being written; what went wrong with the last is raised, unless something else is."""

    def __init__(self, folder: Path, key: str, fence: Fence = nothing) -> None:
        self.folder, self.key, self.fence = folder, key, fence
        self.cpu_s = 0.0
        """Seconds of a core that the last took."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._thread.shutdown()
        if error is None:
            self.wait()

    @property
    def busy(self) -> bool:
        """Whether one is being written."""
        return self._writing is not None and not self._writing.done()

    def begin(
        self,
        saved: Saved,
        *,
        branch: bool,
        before: Callable[[], None] = nothing,
        after: Callable[[], None] = nothing,
    ) -> None:
        """Write a snapshot, as `write` does, once the one before is written. The thread calls
        `before`, and `after` when it is in its place.

        Raises:
            Exception: what went wrong with the one before.
        """
        self.wait()
        self._writing = self._thread.submit(self._write, saved, branch, before, after)

    def check(self) -> None:
        """Raise what went wrong, where that is known."""
        if not self.busy:
            self.wait()

    def wait(self) -> None:
        """Until all that was begun is on the disk. Raises: Exception: what went wrong with it."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(
        self, saved: Saved, branch: bool, before: Callable[[], None], after: Callable[[], None]
    ) -> None:
        began = time.thread_time()
        try:
            before()
            write(self.folder, self.key, saved, branch=branch, fence=self.fence)
            saved.clear()  # makes room: what follows may take long
            after()
        except Exception as error:
            if (disk := disk_error(error)) is not None:  # known by what it is raised in here
                raise disk from error
            raise
        finally:
            self.cpu_s = time.thread_time() - began


def take_over(folder: Path) -> None:
    """Remove what the process that worked in a run folder before was about to put there."""
    remove_begun(folder)
    remove_begun(folder / "checkpoint")


def remove(folder: Path) -> None:
    """Of a run that is done."""
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)


def _read(path: Path, key: str) -> Saved | None:
    """A checkpoint; a damaged one is set aside, named, and what it held is done again."""
    if not path.is_file():
        return None
    try:
        sealed = _require_whole(path)
        saved: Saved = torch.load(path, map_location="cpu", weights_only=True)
        if sealed or "key" in saved:  # those of earlier versions have neither
            _require_own(saved, key, sealed)
        return saved
    except Exception as error:  # torch raises many kinds for a damaged file
        with suppress(FileNotFoundError):  # another rank has set it aside
            set_aside(path)
        said = (str(error).splitlines() or [type(error).__name__])[0]
        print(
            f"warning: {path} cannot be used ({said}); it was set aside as {path.name}.corrupt and "
            "what it held is done again"
        )
        return None


def _require_whole(path: Path) -> bool:
    """Whether a file ends with a digest. Raises: Damaged where it is not that of the rest."""
    size = path.stat().st_size - SEAL_BYTES
    with path.open("rb") as file:
        file.seek(max(size, 0))
        mark, known = file.read(len(SEAL)), file.read()
    if mark != SEAL:
        return False
    if digest_of_file(path, size).encode() != known:
        raise Damaged("its content has another digest")
    return True


def _require_own(saved: Saved, key: str, sealed: bool) -> None:
    """Raises: Damaged where a checkpoint has lost its digest or belongs to another run."""
    if not sealed:
        raise Damaged("its digest is gone")
    if saved.get("key") != key:
        raise Damaged(f"it belongs to run {saved.get('key')}")
