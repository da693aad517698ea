"""Locks of one machine: who works in a run's folder, and in a study's."""

import socket
import tempfile
from pathlib import Path

import filelock

HOST = socket.gethostname()


def run_lock(runs: Path, key: str) -> filelock.FileLock:
    """The lock of a run's folder, held while a process works in it."""
    (runs / key).mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(runs / key / ".lock")


def hold_study(folder: Path, verb: str, naming: str) -> filelock.FileLock:
    """The study's folder, held for this machine until the process ends.

    Raises:
        ValueError: another start on this machine has it, or it cannot be written.
    """
    require_writable(folder, "outputs")
    lock = filelock.FileLock(folder / f".lock.{HOST}")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise ValueError(
            f"{folder} must be free, but another {verb} on this machine works in it; wait for "
            f"it, stop it, or choose another name with {naming}=NAME"
        ) from None
    return lock


def require_writable(folder: Path, option: str) -> None:
    """Raises: ValueError where nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"{option} must be a folder that can be written, but {folder} is not: "
            f"{error.strerror}; set {option}=FOLDER"
        ) from None
