"""The commit that this code stands at."""

import subprocess
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent.parent


@cache
def commit(root: Path = HERE) -> str | None:
    """The commit that this code, or that of another checkout, stands at, marked where files differ
    from it; None outside a clone."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()
