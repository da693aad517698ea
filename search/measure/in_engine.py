"""What an engine measured of a run, as an objective: `decode_ms@llama_cpp:q4_0`."""

from dataclasses import dataclass
from typing import Self

from search.engines import ENGINES
from search.measure.config import Measuring
from search.record import Measured, Record
from space.doors import bare, label
from space.formats import FORMATS

SHARED = "shared"


def is_engine(where: str) -> bool:
    """Whether what stands behind the `@` of an objective begins with an engine; else a device."""
    return ENGINES.knows(_name_of(where))


def _name_of(where: str) -> str:
    return bare(str(where).partition(":")[0])


@dataclass(frozen=True)
class InEngine:
    """An engine, and how it is to be used."""

    engine: str
    """Pinned to its source."""
    precision: str
    context: int | None = None
    """Tokens of the prompt; None: as many as are measured."""
    shared: bool = False

    @classmethod
    def parse(cls, where: str) -> Self:
        """From `llama_cpp`, `llama_cpp:512:q4_0`, `llama_cpp:q8_0:shared`.

        Raises:
            ValueError: there is no such engine, or it does not know what follows its name.
        """
        name, *options = str(where).split(":")
        known = FORMATS.load(ENGINES.load(name).format).precisions
        lengths = [option for option in options if option.isdigit()]
        precisions = [option for option in options if option in known]
        unknown = set(options) - {*lengths, *precisions, SHARED}
        if unknown or len(lengths) > 1 or len(precisions) > 1 or "0" in lengths:
            raise ValueError(
                f"behind {bare(name)} must stand a number of tokens, one of {', '.join(known)}, or "
                f"shared, each once at most and after a colon, but got {bare(str(where))!r}"
            )
        return cls(
            engine=ENGINES.pinned(name),
            precision=precisions[0] if precisions else known[0],
            context=int(lengths[0]) if lengths else None,
            shared=SHARED in options,
        )

    def __str__(self) -> str:
        return self._written(self.engine)

    @property
    def short(self) -> str:
        """As columns name it: of an engine's file its stem."""
        return self._written(label(bare(self.engine)))

    def _written(self, engine: str) -> str:
        options = [str(self.context)] * (self.context is not None) + [self.precision]
        return ":".join([engine, *options, *[SHARED] * self.shared])

    def find(self, record: Record) -> Measured | None:
        """What a record has that was measured so."""
        return next(filter(self._is, record.measured), None)

    def _is(self, found: Measured) -> bool:
        return (
            found.engine == ENGINES.identity(self.engine)
            and (found.precision, found.shared) == (self.precision, self.shared)
            and self.context in (None, found.context)
        )

    def require(self, how: Measuring, objective: str) -> None:
        """That a study's `measure` measures it.

        Raises:
            ValueError: it does not; the message says what does.
        """
        own = None if how.engine is None else ENGINES.pinned(how.engine)
        given = (own, how.precision, how.shared, how.context)
        context = how.context if self.context is None else self.context
        if given == (self.engine, self.precision, self.shared, context):
            return
        wanted = [f"measure={bare(self.engine)}", f"measure.precision={self.precision}"]
        wanted += [f"measure.context={self.context}"] if self.context is not None else []
        wanted += ["measure.shared=true"] if self.shared else []
        raise ValueError(
            f"{objective} must be measured, but this study measures "
            + ("nothing" if how.engine is None else f"otherwise ({_said(how)})")
            + f"; add {' '.join(wanted)}"
        )


def _said(how: Measuring) -> str:
    shared = f", {SHARED}" if how.shared else ""
    return f"{bare(str(how.engine))}, {how.precision}, prompt of {how.context}{shared}"
