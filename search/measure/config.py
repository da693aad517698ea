"""With which engine, and how, models are measured: conf/measure/."""

from dataclasses import dataclass, replace
from typing import ClassVar

from search.engines import ENGINES, Engine
from space.arch import Architecture
from space.doors import Door
from space.formats import FORMATS, require, require_installed


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """How models are measured; by default not at all."""

    door: ClassVar[Door[Engine]] = replace(ENGINES, field="engine")
    engine: str | None = None
    """`llama_cpp`, `executorch`, or yours: `mine.py`. None: nothing is measured."""
    precision: str | None = None
    """Of the weights; None: the first of the engine's format."""
    context: int = 128
    """Tokens of the prompt, after which tokens are decoded."""
    steps: int = 32
    """Tokens that are decoded."""
    repeats: int = 5
    """Processes, each of which loads the model once."""
    threads: int = 1
    """Of the engine."""
    shared: bool = False
    """Whether layers that share a block read one copy of its weights where the engine would keep
    one for each."""

    def __post_init__(self) -> None:
        for name in ("context", "steps", "repeats", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, but got {getattr(self, name)}")
        if self.engine is None:
            return
        found = ENGINES.load(self.engine, "engine")
        kinds = FORMATS.load(found.format).precisions
        if self.precision is None:
            object.__setattr__(self, "precision", kinds[0])
        if self.precision not in kinds:
            raise ValueError(
                f"precision of engine={self.engine} must be one of {', '.join(kinds)}, but got "
                f"{self.precision!r}"
            )
        if self.shared and not found.shares:
            raise ValueError(
                f"shared must be false for engine={self.engine}, which cannot be made to keep one "
                "copy of what layers share"
            )

    @property
    def kind(self) -> str:
        """The precision."""
        assert self.precision is not None, "filled in where there is an engine"
        return self.precision

    @property
    def room(self) -> int:
        """Tokens that the cache must hold."""
        return self.context + self.steps

    def require(self, *architectures: Architecture) -> None:
        """Find what is missing before anything is trained or measured.

        Raises:
            ValueError: the engine is not installed, or cannot execute one of the architectures.
        """
        if self.engine is None:
            return
        found = ENGINES.load(self.engine)
        require_installed(f"engine={self.engine}", found.package, found.extra)
        for arch in architectures:
            require(found.format, arch, self.precision)
            if self.room > arch.max_position_embeddings:
                raise ValueError(
                    f"context + steps must be at most the model's {arch.max_position_embeddings} "
                    f"positions, but are {self.room}; lower context"
                )
