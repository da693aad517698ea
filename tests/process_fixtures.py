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


def workers_of(parent: "subprocess.Popen[str]") -> list[int]:
    """Process ids of a search's workers."""
    try:
        tasks = Path(f"/proc/{parent.pid}/task").iterdir()
        children = " ".join((task / "children").read_text() for task in tasks).split()
        return [int(pid) for pid in children if b"search.study.worker" in _command_line(int(pid))]
    except OSError:
        return []


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
