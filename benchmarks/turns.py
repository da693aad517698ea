"""Contenders that take turns, each in a process of its own.

What one has compiled, allocated or left running then neither helps nor hinders another, and its
peak memory is its own. A machine whose speed drifts drifts for all: within a round every contender
works, and only figures of the same round are divided by each other.
"""

import multiprocessing
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import torch

Step = Callable[[], object]
"""Does a piece of work once."""
WARM_UP = 2
"""Steps before the first that is counted: they compile, and fill caches."""


class Contender:
    """A process that builds a training step and takes it on request.

    `make` and its arguments are pickled; as a context it ends the process.
    """

    def __init__(self, make: Callable[..., Step], *arguments: Any, threads: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(
            target=_serve, args=(theirs, threads, make, arguments), daemon=True
        )
        self.process.start()
        theirs.close()

    def seconds(self, steps: int = 1) -> float:
        """How long so many steps take."""
        self.begin(steps)
        return self.end()

    def begin(self, steps: int) -> None:
        """Let it take steps while others do."""
        self._ask(steps)

    def end(self) -> float:
        """Wait for the steps that were begun: their seconds."""
        return float(self._answer())

    def memory(self) -> int:
        """Bytes by which the process, or what it holds of the GPU, grew beyond what importing
        took."""
        self._ask(None)
        return int(self._answer())

    def _ask(self, steps: int | None) -> None:
        with suppress(OSError):  # it has ended; its answer says why
            self.pipe.send(steps)

    def _answer(self) -> float:
        try:
            answer = self.pipe.recv()
        except (EOFError, ConnectionError):
            raise RuntimeError(
                "a contender ended before it answered; memory may be short"
            ) from None
        if isinstance(answer, str):
            raise RuntimeError(f"a contender failed:\n{answer}")
        return float(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.pipe.close()
        self.process.join(timeout=10)
        if self.process.is_alive():
            self.process.kill()


def _serve(
    pipe: Connection, threads: int, make: Callable[..., Step], arguments: tuple[Any, ...]
) -> None:
    """A contender's process: numbers of steps in, seconds out; None in, bytes out."""
    torch.set_num_threads(threads)
    before = _memory("VmRSS")
    try:
        step = make(*arguments)
        while True:
            steps = pipe.recv()
            pipe.send(_grown(before) if steps is None else timed(step, steps))
    except (EOFError, BrokenPipeError):  # the other side has left
        return
    except Exception:
        pipe.send(traceback.format_exc())


def timed(step: Step, steps: int = 1) -> float:
    """Seconds of so many steps, on the GPU too where there is one."""
    synchronize()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    synchronize()
    return time.perf_counter() - started


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _grown(before: int) -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return _memory("VmHWM") - before


def _memory(name: str) -> int:
    """Bytes of this process that the kernel counts under a name; 0 where it does not say.

    `VmHWM` is the highest that `VmRSS` was. `ru_maxrss` would begin with the parent's.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)
