"""Processes that a test waits for."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def wait_for(what: Callable[[], Any], seconds: float = 300) -> Any:
    """The first true answer."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := what():
            return answer
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def is_gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


def workers_of(parent: "subprocess.Popen[str]") -> list[int]:
    """Process ids of a search's workers."""
    return children_of(parent.pid, b"search.study.worker")


def children_of(parent: int, module: bytes) -> list[int]:
    """Process ids of a process's children that run a module."""
    children = [pid for task in _listed(f"/proc/{parent}/task") for pid in _children(task)]
    return [pid for pid in children if module in _command_line(pid)]


def _listed(folder: str) -> list[Path]:
    try:
        return list(Path(folder).iterdir())
    except OSError:
        return []  # the process has ended


def _children(task: Path) -> list[int]:
    try:
        return [int(pid) for pid in (task / "children").read_text().split()]
    except OSError:
        return []  # the thread has ended


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
