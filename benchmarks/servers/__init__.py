"""Servers of this machine for tests and benchmarks, each in a folder of its own.

Slurm and Ray's network need root, as containers of continuous integration have it.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path


class Missing(Exception):
    """What a server needs is not here: a program, or a right. Caught by tests, which say so."""


def wait_until(what: Callable[[], bool], seconds: float, why: str) -> None:
    """Return once it is so.

    Raises:
        TimeoutError: it was not in time; the message is `why`.
    """
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            raise TimeoutError(why)
        time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def says(command: Sequence[str | Path], **options: object) -> str:
    """Standard output of a command.

    Raises:
        RuntimeError: it failed; the message is what it said.
    """
    done = subprocess.run(command, capture_output=True, text=True, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr or done.stdout}")
    return str(done.stdout)


def end(pid: int, seconds: float = 10) -> None:
    """End a process, by SIGKILL if it takes too long: with 0 seconds at once."""
    with suppress(ProcessLookupError):
        if seconds:
            os.kill(pid, signal.SIGTERM)
            with suppress(TimeoutError):
                wait_until(lambda: not alive(pid), seconds, "")
                return
        os.kill(pid, signal.SIGKILL)


def left_of(folder: Path) -> list[int]:
    """Processes that have a server's folder in their environment: its own, and their children."""
    mark = str(folder).encode()
    pids = (int(path.name) for path in Path("/proc").glob("[0-9]*"))
    return [pid for pid in pids if pid != os.getpid() and mark in environment_of(pid)]


def environment_of(pid: int) -> bytes:
    """Of a process, as the kernel has it; nothing where there is none."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def is_command(pid: int, words: str) -> bool:
    """Whether a process has these words in its command line."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return False
    return words in line


def parent_of(pid: int) -> int:
    """The process that started it; 0 where it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
