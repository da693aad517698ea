"""What a model costs on a device: time to decode, prefill, load and initialise, and memory.

Every quantity is linear in counts of the architecture (`space.cost`), because at batch one a device
is limited by what it moves:

    decode_ms   moved_mb / bandwidth + layers × overhead
    prefill_ms  gflops / rate + layers × overhead
    load_ms     stored_mb / rate + layers × overhead
    init_ms     stored_mb / rate + layers × overhead
    peak_mb     stored_mb + cache_mb + constant

Which terms a device needs, and the measurements that they are fitted to, stand in its file in
`conf/device/`. A fit is by least squares of relative errors with coefficients of at least zero.
`Device.held_out` says how far to trust it: each measurement beside its prediction from the others.
Nothing here needs torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from operator import mul
from pathlib import Path
from typing import Any, Self

import numpy as np

from space.arch import Architecture, number, read_mapping
from space.cost import cost

DEVICES = Path(__file__).parent.parent / "conf" / "device"
MB = 1e6
QUANTITIES = ("decode_ms", "prefill_ms", "load_ms", "init_ms", "peak_mb")


@dataclass(frozen=True)
class Precision:
    """Bytes that each kind of number takes."""

    weight: float
    """A weight of a matrix inside a layer, scales included."""
    embedding: float
    """A weight of the embedding or the output matrix."""
    cache: float
    """A key or a value."""
    ties: bool = True
    """Whether a tied matrix is stored once: quantisation stores a second copy for the output."""


PRECISIONS = {
    "fp32": Precision(4, 4, 4),
    "fp16": Precision(2, 2, 2),
    "bf16": Precision(2, 2, 2),
    "8da4w": Precision(4 / 8 + 4 / 32, 1, 4, ties=False),  # 4 bits, a float32 scale for 32 weights
}
"""`8da4w` is ExecuTorch's: activations of 8 bits, weights of 4 in groups of 32, embeddings of 8."""


@dataclass(frozen=True)
class Moved:
    """What a device moves, stores and computes for one architecture."""

    moved_mb: float
    """For one token: weights, an immediate repeat of a block counted once, and the cache."""
    stored_mb: float
    """Distinct weights."""
    cache_mb: float
    """Keys and values of the whole context."""
    gflops: float
    """Of a prefill; the output matrix is applied to the last token alone."""
    layers: float
    """Executed layers."""
    constant: float = 1.0

    @classmethod
    def of(cls, arch: Architecture, precision: str, context: int, tokens: int) -> Self:
        """The counts at a context of `context` tokens, and for a prefill of `tokens`.

        Raises:
            ValueError: an unknown precision, or a length below one.
        """
        if precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise ValueError(f"precision must be one of {known}, but got {precision!r}")
        size, counts, prompt = PRECISIONS[precision], cost(arch, context, 1), cost(arch, tokens, 1)
        output = arch.vocab_size * arch.hidden_size
        cache = context * counts.kv_bytes_per_token  # one byte each
        inside = counts.decode_bytes_per_token - cache - output
        stored = counts.embedding_parameters
        stored += output if arch.tie_word_embeddings and not size.ties else 0
        distinct = counts.non_embedding_parameters
        return cls(
            moved_mb=(inside * size.weight + output * size.embedding + cache * size.cache) / MB,
            stored_mb=(distinct * size.weight + stored * size.embedding) / MB,
            cache_mb=cache * size.cache / MB,
            gflops=(tokens * (prompt.forward_flops_per_token - 2 * output) + 2 * output) / 1e9,
            layers=arch.num_layers,
        )


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What was measured of one model on a device."""

    architecture: Architecture
    precision: str
    context: int = 1
    """Tokens in the cache: while decoding, or the room that it has at the peak of memory."""
    tokens: int = 1
    """Length of the prefill."""
    decode_ms: float | None = None
    """For one token."""
    prefill_ms: float | None = None
    load_ms: float | None = None
    init_ms: float | None = None
    peak_mb: float | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The measurement of a row of `measured` in a device's file.

        Raises:
            ValueError: an unknown or a missing field, or no such architecture.
        """
        known = [f.name for f in fields(cls)]
        if set(values) - set(known) or not {"architecture", "precision"} <= set(values):
            raise ValueError(
                f"a measurement must have architecture and precision and may have "
                f"{', '.join(known[2:])}, but has {', '.join(map(str, values)) or 'nothing'}"
            )
        given = values["architecture"]
        architecture = (
            Architecture.from_dict(given)
            if isinstance(given, Mapping)
            else Architecture.from_yaml(given)
        )
        numbers: dict[str, Any] = {
            name: number(name, value, int if name in ("context", "tokens") else float)
            for name, value in values.items()
            if name not in ("architecture", "precision")
        }
        return cls(architecture=architecture, precision=values["precision"], **numbers)

    @cached_property
    def counts(self) -> Moved:
        """What the device moved for it."""
        return Moved.of(self.architecture, self.precision, self.context, self.tokens)


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """A measurement beside its prediction from the others."""

    quantity: str
    measurement: Measurement
    measured: float
    predicted: float

    @property
    def error(self) -> float:
        """Relative error of the prediction."""
        return self.predicted / self.measured - 1


@dataclass(frozen=True, kw_only=True)
class Device:
    """A phone or a machine, as measurements on it say."""

    name: str
    source: str
    """Where the measurements come from."""
    terms: Mapping[str, tuple[str, ...]]
    """Counts of `Moved` that each quantity is linear in."""
    measured: tuple[Measurement, ...]

    @classmethod
    def from_yaml(cls, name: str | Path) -> Self:
        """The device of `conf/device/<name>.yaml`, or of a YAML file given by its path.

        Raises:
            ValueError: no such file, or one that does not describe a device.
        """
        path = Path(name)
        if path.suffix not in (".yaml", ".yml"):
            path = DEVICES / f"{name}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(p.stem for p in DEVICES.glob("*.yaml")))
            raise ValueError(f"device must be one of {known}, or a path, but got {str(name)!r}")
        values = read_mapping(path, "name, source, terms and measured")
        if set(values) != {"name", "source", "terms", "measured"}:
            raise ValueError(
                f"{path} must hold name, source, terms and measured, but holds "
                f"{', '.join(map(str, values))}"
            )
        known_terms = {f.name for f in fields(Moved)}
        for quantity, terms in values["terms"].items():
            if quantity not in QUANTITIES or not set(terms) <= known_terms:
                raise ValueError(
                    f"terms in {path} must give {', '.join(QUANTITIES)} by counts among "
                    f"{', '.join(sorted(known_terms))}, but got {quantity}: {terms}"
                )
        rows = tuple(Measurement.from_dict(row) for row in values["measured"])
        terms = {quantity: tuple(names) for quantity, names in values["terms"].items()}
        return cls(name=values["name"], source=values["source"], terms=terms, measured=rows)

    def decode_ms(self, arch: Architecture, context: int = 1, precision: str = "fp16") -> float:
        """Milliseconds to decode one token after `context` others.

        Raises:
            ValueError: it was never measured at this precision.
        """
        return self._predict("decode_ms", arch, precision, context=context)

    def prefill_ms(self, arch: Architecture, tokens: int, precision: str = "fp16") -> float:
        """Milliseconds to read a prompt of `tokens`. Raises: as `decode_ms`."""
        return self._predict("prefill_ms", arch, precision, tokens=tokens)

    def load_ms(self, arch: Architecture, precision: str = "fp16") -> float:
        """Milliseconds to load the file. Raises: as `decode_ms`."""
        return self._predict("load_ms", arch, precision)

    def init_ms(self, arch: Architecture, precision: str = "fp16") -> float:
        """Milliseconds to initialise the model once it is loaded. Raises: as `decode_ms`."""
        return self._predict("init_ms", arch, precision)

    def peak_bytes(self, arch: Architecture, context: int = 2048, precision: str = "fp16") -> float:
        """Resident memory with a cache for `context` tokens. Raises: as `decode_ms`."""
        return self._predict("peak_mb", arch, precision, context=context) * MB

    def held_out(self, quantity: str) -> list[HeldOut]:
        """Each measurement of a quantity beside its prediction from the others of its precision;
        none where the others are fewer than the terms."""
        found = []
        for row in self.measured:
            others = [r for r in self._rows(quantity, row.precision) if r is not row]
            value = getattr(row, quantity)
            if value is None or len(others) < len(self.terms[quantity]):
                continue
            predicted = self._value(quantity, row.counts, self._fit(quantity, others))
            found.append(
                HeldOut(quantity=quantity, measurement=row, measured=value, predicted=predicted)
            )
        return found

    def coefficients(self, quantity: str, precision: str) -> dict[str, float]:
        """The fitted coefficient of each term, in milliseconds (or MB) a unit of it.

        Raises:
            ValueError: the quantity was never measured at this precision.
        """
        rows = self._rows(quantity, precision) if quantity in self.terms else []
        if not rows:
            known = sorted({r.precision for q in self.terms for r in self._rows_of(q)})
            raise ValueError(
                f"{quantity} of {self.name} must have been measured at precision {precision}, but "
                f"was not; it has measurements of {', '.join(self.terms)} at {', '.join(known)}"
            )
        return dict(zip(self.terms[quantity], self._fit(quantity, rows), strict=True))

    def _predict(
        self, quantity: str, arch: Architecture, precision: str, context: int = 1, tokens: int = 1
    ) -> float:
        fitted = list(self.coefficients(quantity, precision).values())
        return self._value(quantity, Moved.of(arch, precision, context, tokens), fitted)

    def _rows_of(self, quantity: str) -> list[Measurement]:
        return [row for row in self.measured if getattr(row, quantity) is not None]

    def _rows(self, quantity: str, precision: str) -> list[Measurement]:
        return [row for row in self._rows_of(quantity) if row.precision == precision]

    def _fit(self, quantity: str, rows: Sequence[Measurement]) -> list[float]:
        from scipy.optimize import nnls

        counts = np.array([[getattr(r.counts, t) for t in self.terms[quantity]] for r in rows])
        wanted = np.array([getattr(r, quantity) for r in rows])
        rest = wanted - [_known(quantity, r.counts) for r in rows]
        solution, _ = nnls(counts / wanted[:, None], rest / wanted)
        return [float(value) for value in solution]

    def _value(self, quantity: str, counts: Moved, fitted: Sequence[float]) -> float:
        terms = (getattr(counts, term) for term in self.terms[quantity])
        return _known(quantity, counts) + sum(map(mul, fitted, terms), 0.0)


def _known(quantity: str, counts: Moved) -> float:
    """The part of a quantity that is arithmetic."""
    return counts.stored_mb + counts.cache_mb if quantity == "peak_mb" else 0.0
