"""Engines that people run models with on devices: a file for each, and users' own
(docs/doors/engine.md).

An engine loads the file that its format writes (`space.formats`), reads a prompt and decodes token
by token. `python -m search.measure` times it in a process of its own.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from space.arch import Architecture
from space.doors import Door


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a session is opened with."""

    folder: Path
    """As the engine's format left it."""
    architecture: Architecture
    context: int
    """Tokens that there must be room for, the prompt's and those decoded."""
    threads: int = 1
    shared: bool = False
    """Whether layers that share a block shall read one copy of its weights, where the engine keeps
    one for each."""


class Session(Protocol):
    """A model that is loaded, in this process. `clocked` sets the times."""

    load_ms: float = 0.0
    """Opening the file."""
    load_cpu_ms: float = 0.0
    init_ms: float = 0.0
    """Making it ready for the first token."""
    init_cpu_ms: float = 0.0

    def prefill(self, ids: Sequence[int]) -> None:
        """Forget what was read, and read this prompt."""
        ...

    def decode(self, token: int) -> None:
        """Read one token more."""
        ...

    def logits(self) -> "np.ndarray[Any, np.dtype[np.float32]]":
        """What follows the last token: (V,)."""
        ...


@contextmanager
def clocked(session: Session, phase: str) -> Iterator[None]:
    """Sets `load_ms` and `load_cpu_ms` of a session, or those of `init`, to what is done in here:
    by the clock, and of the processors."""
    started, busy = time.perf_counter(), time.process_time()
    yield
    setattr(session, f"{phase}_cpu_ms", 1e3 * (time.process_time() - busy))
    setattr(session, f"{phase}_ms", 1e3 * (time.perf_counter() - started))


class Engine(Protocol):
    """Something that executes models."""

    format: str
    """Of the files that it loads."""
    package: str
    """Which must be importable to run it, and whose version is kept with every measurement."""
    extra: str
    """Of `pip install 'isoparam[…]'`, which brings the package."""
    shares: bool
    """Whether it can do what `Asked.shared` asks."""

    def open(self, asked: Asked) -> Session:
        """The model, loaded and ready. Import the package here: choosing an engine does without."""
        ...


ENGINES = Door("engine", __name__, Engine)  # type: ignore[type-abstract]
