"""The budget solver: given depth, ratios, tying, sharing and vocabulary, the widths that use it up.

Nothing is drawn and rejected. The width is the multiple of the head dimension whose FFN ratio comes
nearest its target, and `intermediate_size` closes the budget; heads never move to close it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import lru_cache
from itertools import pairwise
from math import ceil, floor, inf, isfinite, log, log2, log10, sqrt
from typing import Any, NamedTuple, Self

from space.arch import FIELDS, Architecture, Shape
from space.constraints import FREE, Constraints, keeps
from space.cost import ClosedForm, Cost
from space.device import QUANTITIES, pinned, unpinned
from space.meters import KINDS, Counted, Heads, Line, Meter, Weights, meter_of
from space.near import hint
from space.parts import DOOR, part_fields
from space.ranges import ANY, SUFFIXES
from space.words import join

BYTES = {
    **{"kb": 10**3, "mb": 10**6, "gb": 10**9},
    **{"kib": 2**10, "mib": 2**20, "gib": 2**30},
}
OF_BYTES = ("weight_bytes", "kv_bytes")
OF_WEIGHTS = ("parameters", "non_embedding_parameters")

ROUND_DEVIATION = 0.001
"""`intermediate_size` is a multiple of the largest power of two that comes this near the budget."""
MAX_DEVIATION = 0.0015
"""Where none does, a multiple of 1 may come this near. One unit of FFN width is a coarse step below
some million parameters, and a width at which it cannot come nearer is not on the budget."""
COARSE_DEVIATION = 0.01
"""Where `intermediate_size` must be a multiple of a number, it may miss the budget by half of that
step, and by so much at most."""
ROUND_RATIO = 0.02
"""Where the FFN width closes nothing, it is rounded so far from its target ratio at most."""
LARGEST_MULTIPLE = 256
SMALLEST_VOCABULARY = 257
"""Of byte-level tokenizers: every byte and the end token."""
FFN_TOLERANCE = 2.0
"""The FFN ratio that closes the budget stays within this factor of its target."""
GROUPING_TOLERANCE = 2.5
"""`heads_per_kv_target` is met by a divisor of the heads within this factor, or the width is not
used: eleven heads have no grouping near three."""
NEIGHBOURS = 8
"""Widths tried on each side of the ideal one."""

HEAD_DIM_RANGE = (8, 128)
RATIOS = ("ffn_ratio", "heads_per_kv", "heads_per_kv_target", "head_dim_scale")
"""What `fit` understands besides the fields of an `Architecture`."""
SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)
"""The fields that `fit` finds where they are not given."""


class Unfit(ValueError):
    """Nothing lies on the budget. Caught where an arm may then be left out."""


@dataclass(frozen=True)
class Budget:
    """So much of what `space.meters` can count: weights, their bytes, bytes of cache, or what a
    device takes."""

    kind: str
    value: float
    """Whole, but for what a device takes."""
    at: str | None = None
    """Where it is counted: a precision, a length, or a device with these (`space.device.Use`),
    whose file is pinned."""

    def __post_init__(self) -> None:
        if self.at is not None and self.kind in QUANTITIES:
            object.__setattr__(self, "at", pinned(self.at))
        _ = self.meter
        if self.kind not in QUANTITIES and isinstance(self.value, float):
            object.__setattr__(self, "value", round(self.value))  # of JSON, which has one number
        if self.value <= 0 or (self.value < 1 and self.kind not in QUANTITIES):
            least = "above 0" if self.kind in QUANTITIES else "at least 1"
            raise ValueError(f"a budget must be {least}, but got {self.value}")
        ANY.require("a budget", self.value)

    @classmethod
    def parse(cls, text: "str | int | float | Budget", kind: str = "parameters") -> "Budget":
        """The budget of `125m`, `1.5b`, `124635456` or `non_embedding_parameters:100m`, of
        `weight_bytes:64mb@int4`, `kv_bytes:8mb@2048` or `decode_ms:16@iphone_13`.

        Raises:
            ValueError: no number, an unknown suffix or kind, less than one weight or byte, or an
                unknown precision or device.
        """
        if isinstance(text, Budget):
            return text
        before, _, at = str(text).strip().partition("@")
        head, _, tail = before.rpartition(":")
        kind = head or kind
        value = _number(tail.strip().lower().replace("_", "").replace(",", ""), kind)
        if not isfinite(value):
            such = {
                "weight_bytes": "a number of bytes such as weight_bytes:64mb@int4",
                "kv_bytes": "a number of bytes such as kv_bytes:2kb, or kv_bytes:4mb@2048",
            }
            such |= dict.fromkeys(QUANTITIES, f"a number such as {kind}:16@iphone_13")
            usual = "a number of parameters such as 125m, 1.5b or 2000000"
            raise ValueError(f"budget must be {such.get(kind, usual)}, but got {str(text)!r}")
        return cls(kind, value if kind in QUANTITIES else round(value), at or None)

    @property
    def meter(self) -> Meter:
        """What it counts."""
        return meter_of(self.kind, self.at)

    @property
    def tolerance(self) -> float:
        """How far an architecture may lie off the budget, as a share of it."""
        return self.meter.tolerance or MAX_DEVIATION

    @property
    def label(self) -> str:
        """The one spelling of it that names and settings have, the shortest: `1m`, `1.5b`,
        `1234567`, `non_embedding_parameters:100m` or `weight_bytes:64mb@int4`."""
        suffixes = SUFFIXES if self.kind in OF_WEIGHTS else {}
        suffixes = {name: BYTES[name] for name in BYTES if self.kind in OF_BYTES} or suffixes
        texts = [f"{self.value:.12g}" if self.kind in QUANTITIES else str(self.value)]
        for suffix, factor in suffixes.items():
            share = Decimal(self.value) / factor
            if share >= 1:
                texts.append(f"{share.normalize():f}{suffix}")
        text = min(reversed(texts), key=len)
        text += f"@{unpinned(self.at)}" if self.at else ""
        return text if self.kind == KINDS[0] else f"{self.kind}:{text}"

    def of(self, counts: Cost) -> int:
        """What an architecture of this cost uses of a budget of weights."""
        return int(getattr(counts, self.kind))

    def spent(self, arch: Architecture) -> float:
        """What an architecture uses of it."""
        return self.meter.spent(arch)

    def deviation(self, arch: Architecture) -> float:
        """How far an architecture lies over (positive) or under the budget, as a fraction of it."""
        return self.spent(arch) / self.value - 1

    def to_dict(self) -> dict[str, Any]:
        """As `Budget(**…)` takes it."""
        values = {"kind": self.kind, "value": self.value}
        return values | ({} if self.at is None else {"at": self.at})

    def __str__(self) -> str:
        value = f"{self.value:,.4g}" if self.kind in QUANTITIES else f"{self.value:,}"
        return f"{value} {self.meter.unit}"


def _number(digits: str, kind: str) -> float:
    """The number that a budget of this kind is written as; infinite where it is none."""
    suffixes = SUFFIXES if kind not in (*OF_BYTES, *QUANTITIES) else {}
    suffixes = BYTES if kind in OF_BYTES else suffixes
    found = [name for name in sorted(suffixes, key=len, reverse=True) if digits.endswith(name)]
    factor = suffixes[found[0]] if found else 1
    try:
        return float(digits.removesuffix(found[0] if found else "")) * factor
    except ValueError:
        return inf


def fit(
    partial: Mapping[str, Any],
    budget: Budget | str,
    *,
    ffn_ratio: float | None = None,
    ffn_tolerance: float = FFN_TOLERANCE,
    constraints: Constraints = FREE,
    instead: Sequence[Mapping[str, Any]] = (),
) -> Architecture:
    """The architecture with the fields of `partial` that lies on the budget, to within 0.15%; to
    within 5% of one of cache, which whole key/value heads close, with an FFN of the target ratio.

    `partial` takes fields of `Architecture` by name, at least `vocab_size` and `num_blocks` (or
    `num_hidden_layers`, or `layer_map`), and these, which are kept while the width is sought:

    - `ffn_ratio`: target of intermediate_size / hidden_size. Default: 8/3 for a gated FFN and 4 for
      a plain one, which give both the same weights. The result stays within a factor
      `ffn_tolerance` of it, unless the width is given.
    - `heads_per_kv`: query heads a key/value head, exactly. Default: 1.
    - `heads_per_kv_target`: the same as a wish: the divisor of the heads nearest to it (by ratio)
      is taken, so that most widths can be used. With 3 it gives all five MobileLLM sizes' heads.
    - `head_dim_scale`: factor on the default head dimension, `default_head_dim`. Default: 1.

    Heads are as many as head dimensions fit in the width. Where `num_attention_heads` is given, the
    head dimension is the width's share, as in Hugging Face configurations; where both are given,
    the width is free of them. With `constraints` the sizes keep to them. A larger budget that an
    error suggests fits `partial` or one of `instead`.

    Raises:
        ValueError: fields that are unknown, contradict each other or are out of range.
        Unfit: nothing such lies on the budget: the message names the nearest architectures that
            do.
    """
    limit = Budget.parse(budget)
    given = dict(partial)
    if ffn_ratio is not None:
        given["ffn_ratio"] = ffn_ratio
    shape = solve(given, limit, ffn_tolerance, constraints)
    if shape is None:
        raise Unfit(_explain(given, limit, ffn_tolerance, constraints, [given, *instead]))
    return closed(given, shape, limit)


def solve(
    partial: Mapping[str, Any],
    budget: Budget,
    ffn_tolerance: float = FFN_TOLERANCE,
    constraints: Constraints = FREE,
) -> Shape | None:
    """The sizes that `fit` would find, or None where nothing lies on the budget; with constraints
    those that keep to them.

    Raises:
        ValueError: fields that are unknown, contradict each other or are out of range.
    """
    return next(shapes(partial, budget, ffn_tolerance, constraints), None)


def shapes(
    partial: Mapping[str, Any],
    budget: Budget,
    ffn_tolerance: float = FFN_TOLERANCE,
    constraints: Constraints = FREE,
) -> Iterator[Shape]:
    """The sizes of each width that lies on the budget, the best first: those that `solve` finds.

    Without constraints the widths are a few about the best, and with them all that have an FFN
    ratio within its tolerance.

    Raises:
        ValueError: fields that are unknown, contradict each other or are out of range.
    """
    return _Problem.of(partial, budget, ffn_tolerance, constraints).shapes()


def with_shape(partial: Mapping[str, Any], shape: Shape) -> Architecture:
    """The architecture of `partial`'s fields with the sizes found for it."""
    return Architecture.from_dict({**_without_ratios(partial), **shape._asdict()})


def closed(partial: Mapping[str, Any], shape: Shape, budget: Budget) -> Architecture:
    """The same, which lies on the budget that the sizes were found for.

    Raises:
        ValueError: it does not, because a part from outside counts by something else than sizes.
    """
    arch = with_shape(partial, shape)
    if outside := [setting.name for setting in arch.parts if setting.outside]:
        off = budget.deviation(arch)
        if abs(off) > budget.tolerance:
            raise ValueError(
                f"an architecture with {join(outside)} must lie within {budget.tolerance:.2%} of "
                f"{budget}, but is {off:+.2%} off: `attention`, `ffn` and `stack` must count by "
                "the sizes of `shape`, their second argument, not by those of `arch`"
            )
    return arch


def default_head_dim(budget: Budget) -> int:
    """The largest power of two up to 64 · (budget / 100M)^¼, between 8 and 128.

    16 from 0.4M on, 32 from 6.25M, 64 from 100M, which is what MobileLLM has from 125M to 1.5B. Of
    other budgets than parameters, by about so many as use them up.
    """
    low, high = HEAD_DIM_RANGE
    parameters = budget.meter.parameters(budget.value)
    exponent = floor(log2(64 * (parameters / 100e6) ** 0.25))
    return min(max(int(2.0**exponent), low), high)


def ffn_target(values: Mapping[str, Any]) -> float:
    """The FFN ratio aimed at: the one given, or 8/3 for three matrices and 4 for two.

    Either of these gives an FFN eight times the squared width.
    """
    gated = values.get("hidden_act", "silu") == "silu"
    return float(values.get("ffn_ratio") or (8 / 3 if gated else 4))


def ffn_multiple(arch: Architecture) -> int:
    """The power of two that `intermediate_size` is a multiple of, up to 256."""
    return min(arch.intermediate_size & -arch.intermediate_size, LARGEST_MULTIPLE)


@dataclass(frozen=True)
class _Heads:
    """How heads follow from the width."""

    head_dim: int | None
    """None: the width's share of `query` heads."""
    query: int | None
    """None: as many as fit in the width."""
    kv: int | None
    per_kv: int
    per_kv_target: float | None

    @classmethod
    def of(cls, given: Mapping[str, Any], budget: Budget, constraints: Constraints = FREE) -> Self:
        query, kv = given.get("num_attention_heads"), given.get("num_key_value_heads")
        if query and kv and query % kv:
            raise ValueError(
                f"num_key_value_heads must divide num_attention_heads, but got {kv} and {query}; "
                "choose a divisor"
            )
        head_dim = given.get("head_dim")
        if head_dim is not None and head_dim % 2:
            raise ValueError(f"head_dim must be even, because RoPE turns pairs, but got {head_dim}")
        per_kv = given.get("heads_per_kv") or 1
        if query and not kv and query % per_kv:
            raise ValueError(
                f"heads_per_kv must divide num_attention_heads, but got {per_kv} and {query}; "
                "choose a divisor"
            )
        if head_dim is None and query is None:
            head_dim = _free_head_dim(given, budget, kv or per_kv, constraints)
        return cls(head_dim, query, kv, per_kv, given.get("heads_per_kv_target"))

    @property
    def step(self) -> int:
        """Widths are multiples of this."""
        if self.query:
            return self.head_dim or 2 * self.query
        assert self.head_dim is not None, "query heads or head_dim are known"
        return self.head_dim * (self.kv or self.per_kv)

    def at(self, width: int) -> tuple[int, int, int] | None:
        """(query heads, key/value heads, head dimension) at a multiple of `step`, or None."""
        head_dim = self.head_dim or width // (self.query or 1)
        query = self.query or width // head_dim
        if self.kv:
            return query, self.kv, head_dim
        if self.per_kv_target is None:
            return query, query // self.per_kv, head_dim
        group = _grouping(query, self.per_kv_target)
        return (query, query // group, head_dim) if group else None

    def about(self, width: float) -> tuple[float, float, float]:
        """The same at any width, as real numbers."""
        head_dim = self.head_dim or width / (self.query or 1)
        query = self.query or width / head_dim
        return query, self.kv or query / (self.per_kv_target or self.per_kv), head_dim


def _free_head_dim(
    given: Mapping[str, Any], budget: Budget, group: int, constraints: Constraints
) -> int:
    """The default head dimension; where the width is given, the nearest that divides it; where it
    is constrained, the nearest power of two, or else even number, that keeps to that."""
    wish = float(default_head_dim(budget) * given.get("head_dim_scale", 1))
    if wish != int(wish) or wish < 2 or wish % 2:
        raise ValueError(
            "head_dim_scale must give an even head_dim of at least 2, but got "
            f"{given['head_dim_scale']} of {default_head_dim(budget)}; choose a power of two"
        )
    width = given.get("hidden_size")
    if width is None:
        own = "head_dim_scale" in given  # which says it, so that nothing else may
        return int(wish) if own else _near_head_dim(wish, constraints)
    low, high = HEAD_DIM_RANGE
    powers = [2**i for i in range(1, 9) if width % (2**i * group) == 0]
    powers = [p for p in powers if keeps(constraints, {"head_dim": p})] or powers
    usual = [p for p in powers if low <= p <= high] or powers
    if not usual:
        raise ValueError(
            f"hidden_size must be a multiple of {2 * group} for heads of an even size, "
            f"but got {width}; choose another or set head_dim"
        )
    nearest: int = min(usual, key=lambda p: abs(log(p / wish)))
    return nearest


def _near_head_dim(wish: float, constraints: Constraints) -> int:
    powers, even = [2**i for i in range(1, 9)], range(2, 513, 2)
    allowed = (
        [size for size in sizes if keeps(constraints, {"head_dim": size})]
        for sizes in ([int(wish)], powers, even)
    )
    return min(next(filter(None, allowed), [int(wish)]), key=lambda p: abs(log(p / wish)))


@lru_cache(maxsize=65536)
def _grouping(heads: int, target: float) -> int | None:
    """The divisor of `heads` nearest to `target`, or None where none is near."""
    divisors = [d for d in range(1, heads + 1) if heads % d == 0]
    best = min(divisors, key=lambda d: abs(log(d / target)))
    return best if abs(log(best / target)) <= log(GROUPING_TOLERANCE) else None


class _Place(NamedTuple):
    """A width with its heads."""

    drift: float
    """By how much the FFN ratio that closes the budget misses its target, as a logarithm."""
    width: int
    heads: tuple[int, int, int]
    rest: float
    slope: float


@dataclass(frozen=True)
class _Problem:
    """All that is known before the width is."""

    form: ClosedForm
    """The weights of any shape."""
    meter: Meter
    counted: Counted
    """What the budget counts, of any shape."""
    budget: float
    heads: _Heads
    hidden_size: int | None
    intermediate_size: int | None
    ffn_ratio: float
    ffn_tolerance: float
    constraints: Constraints

    @classmethod
    def of(
        cls,
        partial: Mapping[str, Any],
        budget: Budget,
        ffn_tolerance: float,
        constraints: Constraints = FREE,
    ) -> Self:
        _check(partial, ffn_tolerance)
        form, meter = _closed_form(partial), budget.meter
        found = cls(
            form=form,
            meter=meter,
            counted=meter.of(form),
            budget=budget.value,
            heads=_Heads.of(partial, budget, constraints),
            hidden_size=partial.get("hidden_size"),
            intermediate_size=partial.get("intermediate_size"),
            ffn_ratio=ffn_target(partial),
            ffn_tolerance=inf if partial.get("hidden_size") else ffn_tolerance,
            constraints=constraints,
        )
        if meter.tolerance and found.heads.kv and not found.hidden_size:
            raise ValueError(
                f"num_key_value_heads must be left open on a budget of {meter.unit}, which they "
                "close, or come with hidden_size"
            )
        return found

    def shapes(self) -> Iterator[Shape]:
        """The sizes of each width that closes the budget, the ones nearest the target ratio
        first."""
        arch = self.form.arch
        depth = {"num_hidden_layers": arch.num_layers, "num_blocks": arch.num_blocks or 0}
        if not keeps(self.constraints, depth):
            return
        if self.meter.tolerance:
            yield from self._by_heads(self.meter.tolerance)
            return
        found = (self._shape(place, self._most(place)) for place in self._places())
        yield from filter(None, found)

    def _places(self) -> list["_Place"]:
        """The widths with their heads, the ones nearest the target ratio first."""
        found = []
        for width, heads in self._headed():
            rest, slope = self._line(width, heads)
            exact = (self.budget - rest) / slope
            if exact > 0:
                drift = abs(log(exact / width / self.ffn_ratio))
                found.append(_Place(drift, width, heads, rest, slope))
        return sorted(found)

    def _most(self, place: "_Place") -> float:
        """How far off the budget sizes may be: as near as the step of the FFN width comes."""
        allowed = self.constraints.get("intermediate_size")
        step = 1 if allowed is None else allowed.multiple
        half = step * place.slope / 2 / self.budget if step > 1 else 0.0
        return max(MAX_DEVIATION, min(half, COARSE_DEVIATION))

    def _headed(self) -> Iterator[tuple[int, tuple[int, int, int]]]:
        """The widths with their heads that the constraints allow."""
        for width in self._widths():
            heads = self.heads.at(width)
            if heads is not None and (not self.constraints or self._allows(width, heads)):
                yield width, heads

    def _allows(self, width: int, heads: tuple[int, int, int]) -> bool:
        names = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")
        return keeps(self.constraints, dict(zip(names, (width, *heads), strict=True)))

    def _shape(self, place: "_Place", most: float) -> Shape | None:
        """The sizes at this width, if they come so near the budget."""
        _, width, heads, rest, slope = place
        ffn = self._close(width, rest, slope, most)
        if ffn is not None and self.form.parts and not isinstance(self.meter, Weights):
            # FFN widths that differ are rounded, which counts where some are moved more often.
            off = self._spent(Shape(width, *heads, ffn)) - (rest + slope * ffn)
            ffn = self._close(width, rest + off, slope, most)
            if ffn and self._deviation(self._spent(Shape(width, *heads, ffn))) > most:
                return None
        if ffn is None or not self._all_keep(shape := Shape(width, *heads, ffn)):
            return None
        return shape

    def _all_keep(self, shape: Shape) -> bool:
        """Whether each FFN block keeps to what their mean does, where a part makes them differ."""
        allowed = self.constraints.get("intermediate_size")
        if allowed is None or not self.form.parts:
            return True
        return all(width in allowed for width in self._arch(shape).ffn_widths)

    def _arch(self, shape: Shape) -> Architecture:
        return replace(self.form.arch, **shape._asdict())

    def _spent(self, shape: Shape) -> float:
        return self.meter.spent(self._arch(shape))

    def _by_heads(self, tolerance: float) -> Iterator[Shape]:
        """Where the FFN width changes nothing: the heads that come nearest, of equal ones those
        nearest their grouping, with an FFN of the target ratio."""
        ranked = []
        for width, heads in self._headed():
            off = self._deviation(self._line(width, heads)[0])
            if off <= tolerance:
                query, kv, _ = heads
                group = self.heads.per_kv_target or self.heads.per_kv
                ranked.append((off, abs(log(query / kv / group)), width, heads))
        for *_, width, heads in sorted(ranked):
            ffn = self.intermediate_size or self._near_ratio(width)
            if ffn and self._ffn_allowed(ffn, width) and self._all_keep(Shape(width, *heads, ffn)):
                yield Shape(width, *heads, ffn)

    def _ffn_allowed(self, ffn: int, width: int) -> bool:
        allowed = self.constraints.get("intermediate_size")
        return allowed is None or (ffn in allowed and self._tolerates(ffn / width))

    def _near_ratio(self, width: int) -> int | None:
        """The FFN width of the target ratio, as a multiple of the largest power of two that keeps
        it within 2%."""
        exact, multiple = self.ffn_ratio * width, LARGEST_MULTIPLE
        while multiple > 1:
            ffn = self._nearest_ffn(exact, multiple)
            if ffn and abs(ffn / exact - 1) <= ROUND_RATIO:
                return ffn
            multiple //= 2
        return self._nearest_ffn(exact, 1)

    def _nearest_ffn(self, exact: float, multiple: int) -> int | None:
        """The multiple that comes nearest, of those that the constraint allows."""
        allowed = self.constraints.get("intermediate_size")
        if allowed is None:
            return max(1, round(exact / multiple)) * multiple
        return allowed.nearest(exact, multiple)

    @property
    def narrowest(self) -> int:
        """The smallest width that heads and constraints allow."""
        allowed, step = self.constraints.get("hidden_size"), self.heads.step
        return self.hidden_size or (allowed and allowed.nearest(0, step)) or step

    def smallest(self) -> tuple[float, float]:
        """What the narrowest width and FFN use: the embeddings, where weights are counted, and the
        rest."""
        width = self.narrowest
        head_dim = self.heads.head_dim or width // (self.heads.query or 1)
        query = self.heads.query or width // head_dim
        total = sum(self.counted.line(width, (query, self.heads.kv or 1, head_dim)))
        counted = isinstance(self.meter, Weights) and self.meter.embeddings
        embeddings = self.form.embeddings(width) if counted else 0
        return embeddings, total - embeddings

    def _widths(self) -> Iterator[int]:
        """Multiples of the step about the width at which the FFN ratio would be its target."""
        step = self.heads.step
        if self.hidden_size is not None:
            if self.hidden_size % step:
                raise ValueError(
                    f"hidden_size must be a multiple of {step} with these heads, "
                    f"but got {self.hidden_size}; choose another, or set head_dim"
                )
            yield self.hidden_size
            return
        low, high = (width / step for width in self._span())
        first = max(1, floor(low) - NEIGHBOURS + 1)
        yield from range(first * step, (ceil(high) + NEIGHBOURS) * step, step)

    def _span(self) -> tuple[float, float]:
        """The widths about which sizes are sought: the ideal one; where it may not be allowed, all
        that have a ratio, or a grouping of heads, within its tolerance."""
        middle = self._ideal_width(self.ffn_ratio)
        if not self.constraints:
            return middle, middle
        if self.meter.tolerance:
            factor = GROUPING_TOLERANCE if self.heads.per_kv_target else 1.0
            return middle / factor, middle * factor
        ratio, factor = self.ffn_ratio, self.ffn_tolerance
        return self._ideal_width(ratio * factor), self._ideal_width(ratio / factor)

    def _ideal_width(self, ratio: float) -> float:
        """Where the ratio would be this: the root of a·width² + b·width + c = budget."""
        c, one, two = (self._about(width, ratio) for width in (0.0, 1.0, 2.0))
        a = (two - 2 * one + c) / 2
        b = one - c - a
        left = max(self.budget - c, 0.0)
        return 2 * left / (b + sqrt(b * b + 4 * a * left))

    def _about(self, width: float, ratio: float) -> float:
        """What is used at this width and ratio, as a real number; of weights, biases and
        norms of heads, which hardly count, are left out."""
        heads = self.heads.about(width)
        ffn = self.intermediate_size or ratio * width
        rest, slope = self._line(width, heads)
        counted = isinstance(self.meter, Weights)
        small = self.form.attention_blocks * self.form.attention(0, *heads) if counted else 0  # type: ignore[arg-type]
        return float(rest + slope * ffn - small)

    def _line(self, width: float, heads: Heads) -> Line:
        """What is used of the budget without any FFN, and for each unit of its width."""
        return self.counted.line(width, heads)

    def _close(self, width: int, rest: float, slope: float, most: float) -> int | None:
        """The FFN width that comes nearest, a multiple of the largest power of two possible."""
        if (given := self.intermediate_size) is not None:
            near = self._deviation(rest + slope * given) <= MAX_DEVIATION
            return given if near and keeps(self.constraints, {"intermediate_size": given}) else None
        exact = (self.budget - rest) / slope
        multiple = LARGEST_MULTIPLE
        while multiple:
            ffn = self._nearest_ffn(exact, multiple)
            allowed = ROUND_DEVIATION if multiple > 1 else most
            if ffn and self._deviation(rest + slope * ffn) <= allowed:
                return ffn if self._tolerates(ffn / width) else None
            multiple //= 2
        return None

    def _deviation(self, count: float) -> float:
        return abs(count - self.budget) / self.budget

    def _tolerates(self, ratio: float) -> bool:
        return 1 / self.ffn_tolerance <= ratio / self.ffn_ratio <= self.ffn_tolerance


def _without_ratios(partial: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in partial.items() if k not in RATIOS}


def _closed_form(partial: Mapping[str, Any]) -> ClosedForm:
    """Of the narrowest architecture, which checks what does not depend on the size sought."""
    values = {k: v for k, v in _without_ratios(partial).items() if k not in SIZES}
    if isinstance(values.get("parts"), list):
        values["parts"] = tuple(values["parts"])
    if isinstance(values.get("layer_map"), list):
        values["layer_map"] = tuple(
            tuple(x) if isinstance(x, list) else x for x in values["layer_map"]
        )
    key, sources = tuple(values.items()), tuple(map(DOOR.identity, values.get("parts") or ()))
    try:
        return _form_of(key, sources)
    except TypeError:  # a mapping, or what is refused, cannot be looked up
        return _form_of.__wrapped__(key, sources)


@lru_cache(maxsize=65536)
def _form_of(values: tuple[tuple[str, Any], ...], sources: tuple[str, ...]) -> ClosedForm:
    """`sources` are the parts' as they are now: a file may change under its name."""
    narrow = {"hidden_size": 2, "head_dim": 2, "num_attention_heads": 1, "intermediate_size": 1}
    return ClosedForm(Architecture.from_dict({**dict(values), **narrow}))


_INTEGERS = frozenset(
    (*SIZES, "vocab_size", "num_blocks", "num_hidden_layers", "repeats", "heads_per_kv")
)
_KNOWN = frozenset((*FIELDS, *RATIOS))


def _check(partial: Mapping[str, Any], ffn_tolerance: float) -> None:
    """What `Architecture` cannot check, because it never sees it.

    Raises:
        ValueError: a missing, unknown, contradictory or impossible value.
    """
    for name, value in partial.items():
        if name not in _KNOWN and name not in part_fields(partial.get("parts") or ()):
            raise ValueError(
                f"fit takes fields of an architecture and {', '.join(RATIOS)}, but got {name!r}"
                f"{hint(name, [*_KNOWN, *part_fields(partial.get('parts') or ())])}"
            )
        if name in _INTEGERS and value is not None:
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, but got {value!r}")
        elif name in RATIOS and not (isinstance(value, (int, float)) and 0 < value < inf):
            raise ValueError(f"{name} must be a positive number, but got {value!r}")
    if "vocab_size" not in partial:
        raise ValueError("vocab_size must be given, but got none; a tokenizer has one")
    groupings = {"heads_per_kv", "heads_per_kv_target", "num_key_value_heads"} & set(partial)
    if len(groupings) > 1:
        raise ValueError(f"only one of {', '.join(sorted(groupings))} may be given; choose one")
    if "head_dim" in partial and "head_dim_scale" in partial:
        raise ValueError("only one of head_dim and head_dim_scale may be given; choose one")
    if not ffn_tolerance >= 1:
        raise ValueError(f"ffn_tolerance is a factor of at least 1, but got {ffn_tolerance}")


def _explain(
    partial: Mapping[str, Any],
    budget: Budget,
    ffn_tolerance: float,
    constraints: Constraints,
    points: Sequence[Mapping[str, Any]],
) -> str:
    """Why nothing fits, and the nearest that does."""
    asked = ", ".join(f"{k}={v}" for k, v in partial.items() if k != "layer_map")
    problem = _Problem.of(partial, budget, ffn_tolerance, constraints)
    embeddings, _ = problem.smallest()
    if embeddings and 2 * embeddings >= budget.value:
        reason = f"the embeddings alone are {embeddings:,} at width {problem.narrowest}"
    elif not isinstance(problem.meter, Weights) and sum(problem.smallest()) > budget.value:
        reason = f"at width {problem.narrowest} it uses {sum(problem.smallest()):,.4g} already"
    elif problem.hidden_size or problem.intermediate_size:
        reason = "no other size can close it"
    elif problem.meter.tolerance:
        reason = "no whole number of key/value heads comes nearer"
    else:
        reason = (
            f"the FFN ratio would leave {ffn_tolerance:g} times its target {problem.ffn_ratio:.2f}"
            " or a step of intermediate_size is too coarse"
        )
    nearest = list(_alternatives(partial, budget, ffn_tolerance, constraints))
    advice = (
        f"nearest that fit: {'; '.join(nearest)}"
        if nearest
        else _raised(points, budget, ffn_tolerance, constraints)
    )
    return (
        f"an architecture must lie within {budget.tolerance:.2%} of {budget}, but with {asked} "
        f"none does ({reason}); {advice}"
    )


def _raised(
    points: Sequence[Mapping[str, Any]],
    budget: Budget,
    ffn_tolerance: float,
    constraints: Constraints,
) -> str:
    """The smallest larger budget of two figures on which one of them fits, up to a thousandfold."""
    raised = budget
    for _ in range(3 * 90):
        digits = 1 - floor(log10(raised.value))
        raised = replace(raised, value=round(raised.value + 0.51 * 10.0**-digits, digits))
        if any(solve(point, raised, ffn_tolerance, constraints) for point in points):
            return f"raise the budget, such as to {raised.label}"
    return "raise the budget"


def _alternatives(
    partial: Mapping[str, Any], budget: Budget, ffn_tolerance: float, constraints: Constraints
) -> Iterator[str]:
    """Changes of one value that make it fit: depth both ways, smaller heads or vocabulary."""

    def tried(name: str, value: int) -> Shape | None:
        rest = {k: v for k, v in partial.items() if name != "head_dim" or k != "head_dim_scale"}
        try:
            return solve({**rest, name: value}, budget, ffn_tolerance, constraints)
        except ValueError:  # the pattern cannot have this depth, or the width these heads
            return None

    def first(name: str, values: Iterable[int]) -> Iterator[str]:
        for last, value in pairwise(values):
            if tried(name, value) is None:
                continue
            finer = range(last, value, 1 if last < value else -1)  # those that were stepped over
            nearest = next((v for v in finer if tried(name, v)), value)
            shape = tried(name, nearest)
            assert shape is not None, "one of those tried"
            yield f"{name}={nearest} ({shape.hidden_size} wide, FFN {shape.intermediate_size})"
            return

    problem = _Problem.of(partial, budget, ffn_tolerance)
    embeddings, blocks = problem.smallest()
    depth = "num_blocks" if partial.get("num_blocks") else "num_hidden_layers"
    if partial.get(depth) and partial.get("layer_map") is None:
        deepest = int(partial[depth] * max(0, budget.value - embeddings) // blocks) + 1
        yield from first(depth, _fewer(min(partial[depth], deepest), 1000))
        yield from first(depth, _more(partial[depth], deepest))
    if "hidden_size" in partial:
        yield from _without_width(partial, budget, ffn_tolerance, constraints)
    elif partial.get("num_attention_heads") is None:
        head_dim = problem.heads.head_dim or 0
        for size in (head_dim >> i for i in range(1, 6)):
            if size >= 4 and (shape := tried("head_dim", size)):
                yield f"head_dim={size} ({shape.hidden_size} wide, FFN {shape.intermediate_size})"
                break
    if blocks < budget.value:
        fewer = _fewer(partial["vocab_size"], 8)
        yield from first("vocab_size", (size for size in fewer if size >= SMALLEST_VOCABULARY))


def _without_width(
    partial: Mapping[str, Any], budget: Budget, ffn_tolerance: float, constraints: Constraints
) -> Iterator[str]:
    free = {name: value for name, value in partial.items() if name not in SIZES}
    shape = solve(free, budget, ffn_tolerance, constraints)
    if shape is not None:
        yield f"hidden_size={shape.hidden_size} with intermediate_size={shape.intermediate_size}"


def _fewer(value: int, fineness: int) -> Iterator[int]:
    """Downwards from `value`, one by one or in steps of a fraction of it."""
    while value >= 1:
        yield value
        value -= max(1, value // fineness)


def _more(value: int, last: int) -> Iterator[int]:
    """Upwards from `value`, one by one at first, until it is no neighbour any more."""
    last = min(last, 8 * value + 64)
    while value <= last:
        yield value
        value += max(1, value // 32)
