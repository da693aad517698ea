"""Locks of one machine: who works in a run's folder, of studies in different storages."""

import os
import socket
from pathlib import Path

import filelock

HOST = socket.gethostname()


def run_lock(runs: Path, key: str) -> filelock.FileLock:
    """The lock of a run's folder, held while a process works in it."""
    (runs / key).mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(runs / key / ".lock")


def holder_of(lock: filelock.BaseFileLock) -> int | None:
    """The process that has a file's lock; None where none has, or the system does not say."""
    try:
        node = os.stat(lock.lock_file).st_ino
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    fields = [line.split() for line in lines]
    found = [f[4] for f in fields if f[1] == "FLOCK" and f[5].rpartition(":")[2] == str(node)]
    return int(found[0]) if found else None


def state_of(process: int) -> str:
    """The letter that Linux has for what a process does: `T` and `t` wait for SIGCONT, `Z` has
    ended and nobody has taken note of it. Empty where there is none, or elsewhere."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def is_of_another_host(process: int) -> bool:
    """Whether a process of this machine has another host name, as in a container."""
    try:
        return os.readlink(f"/proc/{process}/ns/uts") != os.readlink("/proc/self/ns/uts")
    except OSError:
        return False
