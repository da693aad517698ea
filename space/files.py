"""Files that readers see whole, the old one or the new one and never a part, and what may be
their name."""

import os
import tempfile
from pathlib import Path

NOT_IN_NAMES = set("/\\\0#?%:\n\r\t")
"""Of folders and of W&B runs."""
LONGEST_NAME = 100
"""Bytes. A file name takes 255 and the id of a W&B run 128, a run's key among them."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file by `content`, atomically.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


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
