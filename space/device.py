"""What a model costs on a device: time to decode, prefill, load and initialise, and memory.

Every quantity is linear in counts of the architecture (`space.cost`), because at batch one a device
is limited by what it moves:

    decode_ms   moved_mb / bandwidth + repeated_mb / bandwidth of the cache + layers × overhead
    prefill_ms  gflops / rate + layers × overhead
    load_ms     stored_mb / rate + layers × overhead
    init_ms     stored_mb / rate + layers × overhead
    peak_mb     stored_mb + cache_mb + constant

A block that is repeated immediately is moved from memory once, and its repeats are read from the
processor's cache. On a phone's accelerator they cost nothing that was measured; on a CPU whose
arithmetic is the limit they cost nearly as much. So `repeated_mb` is a term of its own. `copies_mb`
are the further copies that an engine keeps which knows nothing of sharing. Where each row of a
matrix has an overhead, `rows` stand for layers.

Which terms a device needs, and the measurements that they are fitted to, stand in its file in
`conf/device/`. A fit is by least squares of relative errors with coefficients of at least zero.
`Device.intervals` says how far each coefficient is determined, and `Device.held_out` how far to
trust predictions: each measurement beside its prediction from the others.
Nothing here needs torch.
"""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from operator import mul
from pathlib import Path
from typing import Any, Self

import numpy as np

from space.arch import Architecture, read_mapping
from space.cost import cached, cost, rows_executed, weights_executed
from space.doors import Changed
from space.near import hint
from space.ranges import number
from space.words import count, magnitude

DEVICES = Path(__file__).parent.parent / "conf" / "device"
THIS = "this"
"""Name of the machine that one works at, once it was measured."""
MB = 1e6
QUANTITIES = ("decode_ms", "prefill_ms", "load_ms", "init_ms", "peak_mb")
NOUNS = {"init": "initialisation", "peak": "memory"}
LENGTH = 2048
"""Tokens of context, or of the prompt, where nothing else is said."""
Numbers = np.ndarray[Any, np.dtype[np.float64]]


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
    "int8": Precision(1 + 2 / 32, 1 + 2 / 32, 2),  # 8 bits, a float16 scale for 32 weights
    "int4": Precision(4 / 8 + 2 / 32, 4 / 8 + 2 / 32, 2),
    "q8_0": Precision(1 + 2 / 32, 1 + 2 / 32, 2),
    "q4_0": Precision(4 / 8 + 2 / 32, 4 / 8 + 2 / 32, 2),
    "8da8w": Precision(1, 1, 4, ties=False),
    "8da4w": Precision(4 / 8 + 4 / 32, 1, 4, ties=False),  # 4 bits, a float32 scale for 32 weights
}
"""`q8_0` and `q4_0` are llama.cpp's, which `int8` and `int4` count as, whatever the engine: all
weights in blocks of 32 with one scale. `8da8w` and `8da4w` are ExecuTorch's:
activations of 8 bits, weights of 8, or of 4 in groups of 32, embeddings of 8."""


def precision_of(name: str) -> Precision:
    """The precision of this name.

    Raises:
        ValueError: there is none.
    """
    if name not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, but got {name!r}")
    return PRECISIONS[name]


@dataclass(frozen=True)
class Moved:
    """What a device moves, stores and computes for one architecture."""

    moved_mb: float
    """For one token: weights, an immediate repeat of a block counted once, and the cache."""
    stored_mb: float
    """Distinct weights."""
    repeated_mb: float
    """For one token: weights of immediate repeats, which were moved for the layer before."""
    copies_mb: float
    """What an engine stores besides which keeps weights of its own for every layer."""
    cache_mb: float
    """Keys and values of the whole context."""
    gflops: float
    """Of a prefill; the output matrix is applied to the last token alone."""
    rows: float
    """For one token: thousands of rows of executed matrices, each a product of two vectors."""
    layers: float
    """Executed layers."""
    vocabulary: float
    """Thousands of tokens, whose texts a file holds too."""
    constant: float = 1.0

    @classmethod
    def of(cls, arch: Architecture, precision: str, context: int, tokens: int) -> Self:
        """The counts at a context of `context` tokens, and for a prefill of `tokens`.

        Raises:
            ValueError: an unknown precision, or a length below one.
        """
        size = precision_of(precision)
        counts, prompt = cost(arch, context, 1), cost(arch, tokens, 1)
        output = arch.vocab_size * arch.hidden_size
        cache = cached(arch, context)
        inside = counts.decode_bytes_per_token - cache - output
        stored = counts.embedding_parameters
        stored += output if arch.tie_word_embeddings and not size.ties else 0
        distinct, executed = counts.non_embedding_parameters, weights_executed(arch) - output
        return cls(
            moved_mb=(inside * size.weight + output * size.embedding + cache * size.cache) / MB,
            rows=rows_executed(arch) / 1000,
            vocabulary=arch.vocab_size / 1000,
            stored_mb=(distinct * size.weight + stored * size.embedding) / MB,
            repeated_mb=(executed - inside) * size.weight / MB,
            copies_mb=(executed - arch.hidden_size - distinct) * size.weight / MB,
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
        """The device of `conf/device/<name>.yaml`, one that was measured here, such as `this`, or
        that of a YAML file given by its path.

        Raises:
            ValueError: no such file, or one that does not describe a device.
        """
        path = _file_of(name)
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

    @property
    def sizes(self) -> tuple[int, int]:
        """Parameters of the smallest and the largest model that it was measured with."""
        counts = [cost(row.architecture).parameters for row in self.measured]
        return min(counts), max(counts)

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

    def predict(self, quantity: str, arch: Architecture, precision: str, length: int) -> float:
        """One of `QUANTITIES` at a context, or for a prompt, of `length` tokens. Raises: as
        `decode_ms`."""
        return self._predict(quantity, arch, precision, context=length, tokens=length)

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
        if (known := self._fits.get((quantity, precision))) is not None:
            return known
        rows = self._rows(quantity, precision) if quantity in self.terms else []
        if not rows:
            there = sorted({r.precision for q in self.terms for r in self._rows_of(q)})
            raise ValueError(
                f"{quantity} of {self.name} must have been measured at precision {precision}, but "
                f"was not; it has measurements of {', '.join(self.terms)} at {', '.join(there)}"
            )
        fitted = dict(zip(self.terms[quantity], self._fit(quantity, rows), strict=True))
        return self._fits.setdefault((quantity, precision), fitted)

    def intervals(self, quantity: str, precision: str) -> dict[str, tuple[float, float] | None]:
        """The 95% interval of each of the `coefficients`, by Student's t of the relative errors;
        None where there are no more measurements than terms, which say nothing of their errors.

        Raises:
            ValueError: as `coefficients` does.
        """
        from scipy.special import stdtrit

        fitted = self.coefficients(quantity, precision)
        counts, wanted = self._relative(quantity, self._rows(quantity, precision))
        freedom = len(wanted) - len(fitted)
        if freedom < 1:
            return dict.fromkeys(fitted)
        errors = wanted - counts @ list(fitted.values())
        variances = np.diag(np.linalg.pinv(counts.T @ counts)) * (errors @ errors) / freedom
        half = stdtrit(freedom, 0.975) * np.sqrt(variances)
        return {
            term: (max(0.0, value - float(by)), value + float(by))
            for (term, value), by in zip(fitted.items(), half, strict=True)
        }

    def precisions(self, quantity: str) -> list[str]:
        """Those that the quantity was measured at, in the order of the file."""
        return list(dict.fromkeys(row.precision for row in self._rows_of(quantity)))

    @cached_property
    def _fits(self) -> dict[tuple[str, str], dict[str, float]]:
        """What `coefficients` has found, by quantity and precision."""
        return {}

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

        solution, _ = nnls(*self._relative(quantity, rows))
        return [float(value) for value in solution]

    def _relative(self, quantity: str, rows: Sequence[Measurement]) -> tuple[Numbers, Numbers]:
        """Of each measurement its counts (rows, terms) and what these must explain (rows,), as
        shares of what was measured."""
        counts = np.array([[getattr(r.counts, t) for t in self.terms[quantity]] for r in rows])
        wanted = np.array([getattr(r, quantity) for r in rows])
        rest = wanted - [_known(quantity, r.counts) for r in rows]
        return counts / wanted[:, None], rest / wanted

    def _value(self, quantity: str, counts: Moved, fitted: Sequence[float]) -> float:
        terms = (getattr(counts, term) for term in self.terms[quantity])
        return _known(quantity, counts) + sum(map(mul, fitted, terms), 0.0)


def _known(quantity: str, counts: Moved) -> float:
    """The part of a quantity that is arithmetic."""
    return counts.stored_mb + counts.cache_mb if quantity == "peak_mb" else 0.0


@dataclass(frozen=True)
class Use:
    """A device and how it is used, as options name it: `iphone_13`, `oneplus_12:8da4w` or
    `phones/mine.yaml:4096`."""

    text: str
    """As it was given."""
    device: Device
    length: int = LENGTH
    """Tokens of context while decoding, at the peak of memory, or of the prompt."""
    precision: str | None = None
    """None: the first that the device's file has of what is asked for."""

    @classmethod
    def parse(cls, text: str, length: int = LENGTH) -> Self:
        """The device of a text, with a number of tokens and a precision behind colons, in any
        order. `length` is that of a text without one.

        Raises:
            ValueError: no such device or precision, or something twice.
            Changed: the text is `pinned`, and the device's file has changed or is gone.
        """
        return _use(pinned(text), length)  # type: ignore[return-value]

    @property
    def short(self) -> str:
        """As names of columns have it: of a device's file its stem, and what was said of it."""
        return short(self.text)

    @property
    def quantities(self) -> list[str]:
        """Those that the device has measurements of, at the precision if one is given."""
        known = {q: self.device.precisions(q) for q in QUANTITIES if q in self.device.terms}
        return [q for q, found in known.items() if found and self.precision in (None, *found)]

    def precision_for(self, quantity: str) -> str:
        """At which a quantity is predicted.

        Raises:
            ValueError: the device has no measurements of it.
        """
        if self.precision is not None:
            self.device.coefficients(quantity, self.precision)
            return self.precision
        if not (known := self.device.precisions(quantity)):
            raise ValueError(
                f"{quantity} of {self.device.name} must have been measured, but was not; it has "
                f"measurements of {', '.join(self.device.terms)}"
            )
        return known[0]

    def predict(self, quantity: str, arch: Architecture) -> float:
        """Milliseconds or MB, as `Device` has them. Raises: as `precision_for`."""
        return self.device.predict(quantity, arch, self.precision_for(quantity), self.length)

    def words(self, quantity: str) -> str:
        """How it is used for this quantity: `iPhone 13 (fp16, 2,048 tokens)`."""
        counted = quantity not in ("load_ms", "init_ms")
        length = f", {count(self.length, 'token')}" if counted else ""
        return f"{self.device.name} ({self.precision_for(quantity)}{length})"

    @property
    def reach(self) -> str:
        """For which sizes it holds, in words."""
        low, high = map(magnitude, self.device.sizes)
        span = low if low == high else f"{low} to {high}"
        return f"measured with models of {span} parameters, far from which a prediction is rough"


def noun_of(quantity: str) -> str:
    """What a quantity is of, in a word: `decode`, `memory`."""
    noun = quantity.partition("_")[0]
    return NOUNS.get(noun, noun)


def unit_of(quantity: str) -> str:
    """`ms` or `MB`."""
    unit = quantity.rpartition("_")[2]
    return {"mb": "MB"}.get(unit, unit)


def options_of(text: str) -> tuple[str, int | None, str | None]:
    """What stands before the first colon; a number of tokens and a precision behind it.

    Raises:
        ValueError: a length below one, an unknown precision, or either of them twice.
    """
    head, *rest = text.split(":")
    lengths = [option for option in rest if option.isdigit()]
    precisions = [option for option in rest if not option.isdigit()]
    if len(lengths) > 1 or len(precisions) > 1 or "0" in lengths:
        raise ValueError(
            "behind a colon must stand a number of tokens from 1 on, a precision, or both, but got "
            f"{text!r}"
        )
    for name in precisions:
        precision_of(name)
    return head, int(lengths[0]) if lengths else None, precisions[0] if precisions else None


def pinned(text: str) -> str:
    """A text of `Use` as what is kept has it: with a digest of the device's file, unless it is one
    of the project's own. A pinned text stays as it is.

    Raises:
        ValueError: as `Use.parse` does.
    """
    if re.fullmatch(r".+@[0-9a-f]{12}", text):
        return text
    path = _file_of(options_of(text)[0])
    return text if path.parent == DEVICES else f"{text}@{_digest(path)}"


def unpinned(text: str) -> str:
    """The text as it was given."""
    return re.sub(r"@[0-9a-f]{12}$", "", text)


def short(text: str) -> str:
    """A text of `Use` as names of columns have it: of a device's file its stem."""
    name, *rest = unpinned(text).split(":")
    return ":".join([Path(name).stem if name.endswith((".yaml", ".yml")) else name, *rest])


@lru_cache(maxsize=256)
def _use(text: str, length: int) -> Use:
    """Once for each process and pinned text: all values of a study are of one device."""
    bare = unpinned(text)
    name, given, precision = options_of(bare)
    if text != bare:
        try:
            now = pinned(bare)
        except ValueError as error:
            raise Changed(str(error)) from error
        if now != text:
            raise Changed(f"device {name} must be as it was when it was asked for, but has changed")
    use = Use(bare, Device.from_yaml(name), given or length, precision)
    if not use.quantities:
        known = {p: None for q in use.device.terms for p in use.device.precisions(q)}
        raise ValueError(
            f"{use.device.name} must have been measured at precision {precision}, but was not; it "
            f"has measurements at {', '.join(known)}"
        )
    return use


def measured_here() -> Path:
    """The folder of devices that `python -m benchmarks.device` has measured."""
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(config) / "isoparam" / "device"


def _file_of(name: str | Path) -> Path:
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        places = (folder / f"{name}.yaml" for folder in (DEVICES, measured_here()))
        path = next(filter(Path.is_file, places), DEVICES / f"{name}.yaml")
    if str(name) == THIS and not path.is_file():
        raise ValueError(
            "device this must have been measured, but was not; run `python -m benchmarks.device` "
            "once, at a quiet moment"
        )
    if not path.is_file():
        known = sorted(p.stem for p in DEVICES.glob("*.yaml"))
        raise ValueError(
            f"device must be one of {', '.join(known)}, this, or a path, but got {str(name)!r}"
            f"{hint(str(name), known)}"
        )
    return path


def is_known(name: str) -> bool:
    """Whether there is a device of this name."""
    try:
        return _file_of(name).is_file()
    except ValueError:
        return False


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
