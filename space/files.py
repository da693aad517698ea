"""Files that readers see whole, the old one or the new one and never a part, and what may be
their name."""

import os
import tempfile
from pathlib import Path

NOT_IN_NAMES = set("/\\\0#?%:")
"""Of folders and of W&B runs."""


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


def require_name(option: str, name: str) -> None:
    """Raises: ValueError where a folder or a W&B run cannot have the name."""
    if not name or set(name) & NOT_IN_NAMES or name in (".", ".."):
        raise ValueError(
            f"{option} must be a name that a folder and a W&B run can have, not empty, . or .. and "
            f"without any of / \\ # ? % :, but got {name!r}"
        )
