"""What a budget counts, in closed form over the sizes of an architecture.

    parameters, non_embedding_parameters   distinct weights
    weight_bytes                           as they are stored at a precision
    kv_bytes                               keys and values, per token or of a whole context
    decode_ms, prefill_ms, …               what a device takes (`space.device`)

All but the cache are linear in the FFN width, which therefore closes a budget of them. The cache
does not depend on it: key/value heads close that, as near as whole heads come.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Protocol

from space.arch import Architecture, Shape
from space.cost import ClosedForm, cached, cost, kept, moves
from space.device import (
    LENGTH,
    MB,
    QUANTITIES,
    Moved,
    Precision,
    Use,
    noun_of,
    options_of,
    precision_of,
    unit_of,
)
from space.near import hint
from space.words import count

Heads = tuple[float, float, float]
"""Query heads, key/value heads and head dimension; real numbers where a width is estimated."""
Line = tuple[float, float]
"""Without any FFN, and for each unit of its width."""
STORED = "bf16"
"""Precision of weights and cache where none is said."""
USUAL_CACHE = 23040 / 125e6**0.8
"""Bytes per token and parameter to the power of 0.8 that MobileLLM-125M caches; its larger sizes
have 0.8 to 1.2 times as many."""


class Counted(Protocol):
    """A meter read for architectures that differ in their sizes alone."""

    def line(self, width: float, heads: Heads) -> Line:
        """What an architecture of these sizes uses, over its FFN width."""
        ...


class Meter(ABC):
    """What a budget counts."""

    tolerance: ClassVar[float | None] = None
    """How near whole heads must come where the FFN width cannot close it; None where it can."""

    @property
    @abstractmethod
    def unit(self) -> str:
        """As it stands after a value."""

    @property
    @abstractmethod
    def title(self) -> str:
        """As headings and axes show it."""

    note: str = ""
    """How far it reaches, where that is limited."""

    @abstractmethod
    def spent(self, arch: Architecture) -> float:
        """What an architecture uses."""

    @abstractmethod
    def of(self, form: ClosedForm) -> Counted:
        """The same for any sizes."""

    @abstractmethod
    def parameters(self, value: float) -> float:
        """About how many weights use up so much: it chooses the default head dimension."""


@dataclass(frozen=True)
class Weights(Meter):
    """Distinct weights."""

    embeddings: bool
    """Whether these are counted."""

    @property
    def unit(self) -> str:
        return "parameters" if self.embeddings else "non-embedding parameters"

    @property
    def title(self) -> str:
        return self.unit.capitalize()

    def spent(self, arch: Architecture) -> float:
        counts = cost(arch)
        return counts.parameters if self.embeddings else counts.non_embedding_parameters

    def of(self, form: ClosedForm) -> "CountedWeights":
        return CountedWeights(form, 1, 1 if self.embeddings else 0)

    def parameters(self, value: float) -> float:
        return value


@dataclass(frozen=True)
class CountedWeights:
    """Weights in units of so many for each inside layers, and for each of the embeddings."""

    form: ClosedForm
    inside: float
    embedding: float
    again: int = 0
    """1 where a tied matrix is stored a second time."""

    def line(self, width: float, heads: Heads) -> Line:
        rest, slope = self.form.line(width, *heads)  # type: ignore[arg-type]
        if self.embedding:
            matrix = self.form.arch.vocab_size * width
            stored = self.form.embeddings(width) + self.again * matrix  # type: ignore[arg-type]
            return rest * self.inside + stored * self.embedding, slope * self.inside
        return rest * self.inside, slope * self.inside


@dataclass(frozen=True)
class WeightBytes(Meter):
    """Bytes of distinct weights as they are stored."""

    precision: str

    @property
    def unit(self) -> str:
        return f"bytes of weights at {self.precision}"

    @property
    def title(self) -> str:
        return f"Weights at {self.precision} (bytes)"

    def spent(self, arch: Architecture) -> float:
        return Moved.of(arch, self.precision, 1, 1).stored_mb * MB

    def of(self, form: ClosedForm) -> CountedWeights:
        size = precision_of(self.precision)
        again = form.arch.tie_word_embeddings and not size.ties
        return CountedWeights(form, size.weight, size.embedding, int(again))

    def parameters(self, value: float) -> float:
        return value / precision_of(self.precision).weight


@dataclass(frozen=True)
class CacheBytes(Meter):
    """Bytes of keys and values."""

    length: int | None
    """Of so many tokens together; None: per token."""
    precision: str
    tolerance = 0.05

    @property
    def unit(self) -> str:
        of = "per token" if self.length is None else f"at {count(self.length, 'token')}"
        return f"bytes of key-value cache {of}"

    @property
    def title(self) -> str:
        return f"Key-value cache {self.unit.partition('cache ')[2]} (bytes)"

    def each(self) -> float:
        """Bytes that a number in the cache of the whole context adds."""
        return precision_of(self.precision).cache / (LENGTH if self.length is None else 1)

    def spent(self, arch: Architecture) -> float:
        return cached(arch, self.length or LENGTH) * self.each()

    def of(self, form: ClosedForm) -> "CountedCache":
        return CountedCache(2 * sum(kept(form.arch, self.length or LENGTH)) * self.each())

    def parameters(self, value: float) -> float:
        per_token = value / (self.length or 1) / precision_of(self.precision).cache * 2
        return float((per_token / USUAL_CACHE) ** 1.25)


@dataclass(frozen=True)
class CountedCache:
    """A cache in units of so many for each channel of a key/value head."""

    each: float

    def line(self, width: float, heads: Heads) -> Line:
        _, kv, head_dim = heads
        return self.each * kv * head_dim, 0.0


@dataclass(frozen=True)
class OnDevice(Meter):
    """One of the quantities of a device."""

    quantity: str
    use: Use

    @property
    def unit(self) -> str:
        what = noun_of(self.quantity)
        return f"{unit_of(self.quantity)} of {what} on {self.use.words(self.quantity)}"

    @property
    def title(self) -> str:
        words = self.use.words(self.quantity).replace(" (", ", ").rstrip(")")
        return f"{noun_of(self.quantity).capitalize()} on {words} ({unit_of(self.quantity)})"

    @property
    def note(self) -> str:  # type: ignore[override]
        return self.use.reach

    def spent(self, arch: Architecture) -> float:
        return self.use.predict(self.quantity, arch)

    def of(self, form: ClosedForm) -> "CountedOnDevice":
        precision = self.use.precision_for(self.quantity)
        coefficients = self.use.device.coefficients(self.quantity, precision)
        counts = Counts.of(form, precision_of(precision), self.use.length)
        known = ("stored_mb", "cache_mb") if self.quantity == "peak_mb" else ()
        return CountedOnDevice(counts, coefficients, known)

    def parameters(self, value: float) -> float:
        """As many as a device moves or stores in that time: its other terms are left out."""
        precision = self.use.precision_for(self.quantity)
        factors = self.use.device.coefficients(self.quantity, precision)
        if self.quantity == "peak_mb":
            factors = {"stored_mb": 1.0}
        if factors.get("gflops"):
            return value / factors["gflops"] * 1e9 / (2 * self.use.length)
        each = factors.get("moved_mb") or factors.get("stored_mb")
        if not each:
            raise ValueError(
                f"{self.quantity} of {self.use.device.name} must grow with weights to be a budget, "
                f"but follows from {', '.join(factors)} alone"
            )
        return value / each * MB / precision_of(precision).weight


@dataclass(frozen=True)
class CountedOnDevice:
    """A quantity as the sum of terms."""

    counts: "Counts"
    coefficients: dict[str, float]
    known: tuple[str, ...]
    """Terms that count besides, as they are."""

    def line(self, width: float, heads: Heads) -> Line:
        none, one = (self._at(width, heads, ffn) for ffn in (0, 1))
        return none, one - none

    def _at(self, width: float, heads: Heads, ffn: int) -> float:
        counts = self.counts.at(Shape(width, *heads, ffn))  # type: ignore[arg-type]
        terms = [(1.0, name) for name in self.known]
        terms += [(factor, name) for name, factor in self.coefficients.items()]
        return float(sum(factor * getattr(counts, name) for factor, name in terms))


@dataclass(frozen=True)
class Counts:
    """What `Moved.of` counts, for any sizes."""

    form: ClosedForm
    size: Precision
    length: int
    attention: int
    """Attention halves that one token moves,"""
    norms: int
    """norms that it moves,"""
    ffn: float
    """and FFN halves, in units of one of the mean width."""
    ffn_halves: int
    executed: float
    """FFN halves of all layers, in the same unit."""
    seen: int
    """Twice the pairs of tokens that see each other in a prompt, over all layers, per token."""
    cached: int
    """Tokens that a key/value head keeps, over all layers."""

    @classmethod
    def of(cls, form: ClosedForm, size: Precision, length: int) -> "Counts":
        arch = form.arch
        moved, shares, each = moves(arch), form.ffn_shares(), kept(arch, length)
        return cls(
            form=form,
            size=size,
            length=length,
            attention=moved.attention,
            norms=moved.norms,
            ffn=sum(shares[block] for block in moved.ffn),
            ffn_halves=len(moved.ffn),
            executed=sum(shares[block] for _, block in arch.layers),
            seen=sum(2 * seen * length - seen * seen for seen in each),
            cached=sum(each),
        )

    def at(self, shape: Shape) -> Moved:
        """The counts at these sizes."""
        form, size, arch = self.form, self.size, self.form.arch
        width, query, kv, head_dim, _ = shape
        attention, ffn, stack = form.extras(shape)
        matrix = form.ffn_matrices * width * shape.intermediate_size
        output = arch.vocab_size * width
        cache = 2 * kv * head_dim * self.cached
        each = form.attention(*shape[:4]) + attention.weights
        inside = 2 * width + stack.weights + self.norms * width + self.ffn * matrix
        inside += self.attention * each + self.ffn_halves * ffn.weights
        executed = 2 * width + stack.weights + self.executed * matrix
        executed += arch.num_layers * (2 * width + each + ffn.weights)
        stored = CountedWeights(form, size.weight, size.embedding, _twice(arch, size))
        rest, slope = stored.line(width, (query, kv, head_dim))
        blocks, more = CountedWeights(form, 1, 0).line(width, (query, kv, head_dim))
        copies = executed - width - (blocks + more * shape.intermediate_size)
        projections = 2 * width * head_dim * (query + kv) + attention.matrices + ffn.matrices
        products = arch.num_layers * projections + stack.matrices + self.executed * matrix
        scores = 2 * query * head_dim * self.seen
        rows: float = arch.num_layers * (head_dim * (query + 2 * kv) + 2 * width) + arch.vocab_size
        rows += (form.ffn_matrices - 1) * self.executed * shape.intermediate_size
        return Moved(
            moved_mb=(inside * size.weight + output * size.embedding + cache * size.cache) / MB,
            rows=rows / 1000,
            vocabulary=arch.vocab_size / 1000,
            stored_mb=(rest + slope * shape.intermediate_size) / MB,
            repeated_mb=(executed - inside) * size.weight / MB,
            copies_mb=copies * size.weight / MB,
            cache_mb=cache * size.cache / MB,
            gflops=(2 * self.length * products + scores + 2 * output) / 1e9,
            layers=arch.num_layers,
        )


def _twice(arch: Architecture, size: Precision) -> int:
    return int(arch.tie_word_embeddings and not size.ties)


KINDS = ("parameters", "non_embedding_parameters", "weight_bytes", "kv_bytes", *QUANTITIES)
"""What a budget may be of."""


@lru_cache(maxsize=256)
def meter_of(kind: str, at: str | None = None) -> Meter:
    """The meter of a kind of budget. `at` says where: a precision for `weight_bytes`, a number of
    tokens and a precision for `kv_bytes`, a device for what it takes.

    Raises:
        ValueError: an unknown kind, or an `at` that does not go with it.
    """
    if kind in QUANTITIES:
        if at is None:
            raise ValueError(
                f"{kind} must name a device, as in {kind}@iphone_13, or {kind}:16@iphone_13 for a "
                "budget, but names none"
            )
        return _on_device(kind, Use.parse(at))
    if kind == "weight_bytes":
        precision_of(at or STORED)
        return WeightBytes(at or STORED)
    if kind == "kv_bytes":
        head, length, precision = options_of(f":{at}" if at else "")
        assert not head, "all of it stands behind a colon"
        return CacheBytes(length, precision or STORED)
    if kind not in KINDS:
        raise ValueError(
            f"budget must be of a kind {', '.join(KINDS)}, but got {kind!r}{hint(kind, KINDS)}"
        )
    if at is not None:
        raise ValueError(f"a budget of {kind} must have nothing behind @, but got {at!r}")
    return Weights(embeddings=kind == "parameters")


def _on_device(quantity: str, use: Use) -> OnDevice:
    meter = OnDevice(quantity, use)
    meter.parameters(1.0)  # which raises where weights do not matter
    return meter
