"""Numbers that users give: each is finite, and in the range that its field states.

    lr: Positive = 3e-3
    threads: Annotated[int, Range(1, 4096)] | None = None

A field of a dataclass that states none still takes no NaN, no infinity and nothing beyond LARGEST.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from math import isfinite
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

Number = TypeVar("Number", int, float)

SUFFIXES = {"k": 10**3, "m": 10**6, "b": 10**9}
"""Of whole numbers on the command line."""
LARGEST = 10**15
"""Of numbers whose fields state no other bound: counts of tokens and weights stay below it."""


@dataclass(frozen=True)
class Range:
    """Where a number must lie."""

    low: float = -LARGEST
    high: float = LARGEST
    positive: bool = False
    """Whether 0 is out, where `low` is 0."""
    below: str = ""
    """What to do instead of giving less than `low`."""

    def require(self, name: str, value: float) -> None:
        """Raises: ValueError where the value is outside; `name` is what it is given for."""
        if not isfinite(value):
            raise ValueError(f"{name} must be a finite number, but got {value}")
        if value < self.low or value > self.high or (self.positive and value <= self.low):
            advice = f"; {self.below}" if self.below and value < self.low else ""
            raise ValueError(f"{name} must {self._words(value)}, but got {value:.15g}{advice}")

    def holds(self, value: float) -> bool:
        """Whether a number lies there; NaN does not."""
        return (self.low < value if self.positive else self.low <= value) and value <= self.high

    def _words(self, value: float) -> str:
        if value > self.high and self.high not in (0, 1):
            return f"be at most {self.high:.15g}"
        if self.positive:
            return "be positive"
        if self.low == 0 and self.high == LARGEST:
            return "not be negative"
        if self.low == 0 and self.high == 1:
            return "lie in [0, 1]"
        return f"be at least {self.low:.15g}"


ANY = Range()
Positive = Annotated[float, Range(0, positive=True)]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
Count = Annotated[int, Range(0, positive=True)]
AtLeast1 = Annotated[int, Range(1)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
"""As numpy and Optuna take them."""


def number(name: str, value: Any, kind: type[Number], within: Range | None = None) -> Number:
    """The value as an int or a float, within a range.

    Raises:
        ValueError: it is no number, something would be lost by it, or it is out of range.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        (within or ANY).require(name, value)
        if kind(value) == value:
            return kind(value)
    wanted = "a whole number" if kind is int else "a number"
    raise ValueError(f"{name} must be {wanted}, but got {value!r}")


@cache
def ranges_of(schema: type[Any]) -> Mapping[str, tuple[type[Any], Range]]:
    """Of each field of a dataclass that is a number or None: its kind and its range."""
    hints = get_type_hints(schema, include_extras=True)
    found = ((f.name, _range_of(hints[f.name])) for f in fields(schema))
    return {name: kind for name, kind in found if kind is not None}


def _range_of(hint: Any) -> tuple[type[Any], Range] | None:
    if hint in (int, float):
        return hint, ANY
    if hasattr(hint, "__metadata__"):
        kind, stated = get_args(hint)
        return (kind, stated) if isinstance(stated, Range) else None
    inner = [part for part in get_args(hint) if part is not type(None)]
    optional = len(inner) == 1 and type(None) in get_args(hint)
    return _range_of(inner[0]) if optional else None


def settle_numbers(owner: Any, at: str = "") -> None:
    """Check the numbers of a dataclass, frozen or not, and keep each as its field's kind. Errors
    name the field, with `at` before it.

    Raises:
        ValueError: one is none, or out of range.
    """
    schema: Any = type(owner)
    for name, (kind, within) in ranges_of(schema).items():
        value = getattr(owner, name)
        if value is not None and not (type(value) is kind and within.holds(value)):
            object.__setattr__(owner, name, number(f"{at}{name}", value, kind, within))


def require_numbers(values: Any, schema: Any = None, at: str = "") -> None:
    """Check every number in nested mappings and lists of a configuration, before anything is made
    of them.

    Raises:
        ValueError: one is not finite, or not in the range that its field of the schema states.
    """
    for path, value, within in _numbers(values, schema, at):
        within.require(path, value)


def _numbers(values: Any, schema: Any, at: str) -> Iterator[tuple[str, float, Range]]:
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield from _field(str(name), value, schema, at)
    elif isinstance(values, list | tuple):
        for place, value in enumerate(values):
            yield from _numbers(value, None, f"{at}[{place}]")
    elif isinstance(values, int | float) and not isinstance(values, bool):
        yield at, values, schema if isinstance(schema, Range) else ANY


def _field(name: str, value: Any, schema: Any, at: str) -> Iterator[tuple[str, float, Range]]:
    path = f"{at}.{name}" if at else name
    if not is_dataclass(schema) or not isinstance(schema, type):
        yield from _numbers(value, None, path)
    elif name in (ranges := ranges_of(schema)):
        yield from _numbers(value, ranges[name][1], path)
    else:
        yield from _numbers(value, _dataclass_of(get_type_hints(schema).get(name)), path)


def _dataclass_of(hint: Any) -> Any:
    """The dataclass in a hint, which may allow None."""
    return next((kind for kind in (hint, *get_args(hint)) if is_dataclass(kind)), None)
