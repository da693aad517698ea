"""Files and folders that readers see whole, the old one or the new one and never a part, and what
may be their name."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Fence = Callable[[], None]
"""Asked when a file is whole, before it takes its place. What it raises leaves what was there."""
PART = ".part"
"""What names of files end in that are being written."""
NOT_IN_NAMES = set("/\\\0#?%:\n\r\t")
"""Of folders and of W&B runs."""
APART = ("tables", "laws", "coordinate_check")
"""Folders under `outputs` that are no study: what they hold is of another kind."""
LONGEST_NAME = 100
"""Bytes. A file name takes 255 and the id of a W&B run 128, a run's key among them."""


def nothing() -> None:
    """A fence where nobody else writes."""


def write_atomically(
    path: Path, content: str | bytes, fence: Fence = nothing, mode: int = 0o666
) -> None:
    """Replace a file by `content`, atomically; `mode` and the umask say who may read it.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    with file_atomically(path, mode=mode, fence=fence) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def file_atomically(path: Path, *, mode: int = 0o666, fence: Fence = nothing) -> Iterator[Path]:
    """A file beside this one, to be written as a whole; it takes this one's place when all went
    well, and is on the disk then.

    Args:
        mode: who may read it, once it is in its place, less what the umask takes.
        fence: asked before it takes its place.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _new_file(path)
    try:
        yield part
        sync(part)
        take_place(part, path, fence, mode)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def take_place(part: Path, path: Path, fence: Fence = nothing, mode: int = 0o666) -> None:
    """Give a file that is whole its name.

    The fence is asked while the part is there, and who takes a folder over removes all parts
    first: so a process that was stopped after it asked finds its part gone, and replaces nothing.
    """
    fence()
    try:
        part.chmod(mode & ~umask())
        part.replace(path)
    except FileNotFoundError:
        fence()
        raise


def remove_begun(folder: Path) -> None:
    """Remove the files that others, dead or stopped, were about to put into this folder."""
    for part in folder.glob(f".*{PART}"):
        part.unlink(missing_ok=True)


def _new_file(path: Path) -> Path:
    """An empty file beside this one, that no other writer has."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PART)
    os.close(handle)
    return Path(name)


@contextmanager
def folder_atomically(folder: Path) -> Iterator[Path]:
    """A folder beside this one, private to the user, to be filled as a whole; it takes this one's
    place when all went well, and is on the disk then.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield part
        for path in (*part.rglob("*"), part):
            sync(path)
        if folder.exists() and any(folder.iterdir()):
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
            folder.replace(old)  # onto an empty folder
            part.replace(folder)
            shutil.rmtree(old)
        else:
            part.replace(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def remove_parts(folder: Path) -> None:
    """Remove what killed writers of a folder left. For the holder of its lock alone."""
    for left in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(left, ignore_errors=True)


def sync(path: Path) -> None:
    """Bring a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def umask() -> int:
    """Permissions that new files of this process do not have."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("Umask:")[2].split()[0], 8)
    except (OSError, ValueError, IndexError):
        return 0o022


def place(option: str, given: str) -> str:
    """A file or folder as it was given, `~` at its beginning standing for the home folder.

    Raises:
        ValueError: it is empty, or no home folder is known.
    """
    found = os.path.expanduser(given)
    if not given or "\0" in given or found.startswith("~"):
        raise ValueError(
            f"{option} must name a file or a folder, but got {given!r}"
            + ("; no such home folder is known, write it in full" if given else "")
        )
    return found


def require_writable(path: Path, option: str, kind: str = "folder", whole: bool = False) -> None:
    """Nothing is made there.

    Args:
        kind: what the option names, a `folder` or a `file`.
        whole: it is replaced by what is written beside it, as `file_atomically` does.

    Raises:
        ValueError: nothing can be written there, or what is not there cannot be made.
    """
    if kind == "file" and path.is_dir():
        raise ValueError(f"{option} must be a file, but {path} is a folder; name a file in it")
    there = path.absolute().parent if whole else path.absolute()
    try:
        there = next(folder for folder in (there, *there.parents) if folder.exists())
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise ValueError(
            f"{option} must be a {kind} that can be written, but in {there} nothing can be "
            f"({error.strerror}), and so not {path}; set {option}={kind.upper()}"
        ) from None


def require_name(option: str, name: str) -> None:
    """Raises: ValueError where a folder or a W&B run cannot have the name."""
    if len(os.fsencode(name)) > LONGEST_NAME:
        raise ValueError(
            f"{option} must have at most {LONGEST_NAME} bytes, as names of folders and of W&B runs "
            f"have, but {name[:40]}… has {len(os.fsencode(name))}; choose a shorter one"
        )
    if not name or set(name) & NOT_IN_NAMES or name in (".", ".."):
        raise ValueError(
            f"{option} must be a name that a folder and a W&B run can have, not empty, . or .. and "
            f"without any of / \\ # ? % :, but got {name!r}"
        )
