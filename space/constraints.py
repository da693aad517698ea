"""Constraints on shapes: what sizes every architecture of a space must have.

    constraints: {hidden_size: ">=64", intermediate_size: "%8"}

The budget solver looks at no other sizes, so that nothing is found and then rejected. What is
counted or measured (`kv_bytes<=2048`) is a constraint of a study instead: see `search.objectives`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd, inf, lcm, log
from typing import Any, Self

from space.near import hint
from space.ranges import Range

FIELDS = (
    "hidden_size",
    "intermediate_size",
    "head_dim",
    "num_attention_heads",
    "num_key_value_heads",
    "num_hidden_layers",
    "num_blocks",
)
"""What constraints may be on."""
OPTION = "space.constraints"
OF_STUDY = (
    "; what is counted or measured is a constraint of the study, 'constraints=[kv_bytes<=2048]'"
)
NUMBERS = Range(1, 2**32)
_CONDITION = re.compile(r"\s*(>=|<=|==|>|<|%)\s*(\d+)\s*")
_OF_STUDY = re.compile(r"\s*(\w+)\s*([<>]=?|==|%)\s*(\d+)\s*")


@dataclass(frozen=True)
class Allowed:
    """The whole numbers that a field may be: multiples of a number, from one bound to another."""

    conditions: tuple[str, ...]
    """As they are written: `>=64`, `%8`."""
    low: int = 1
    high: float = inf
    multiple: int = 1

    @classmethod
    def parse(cls, name: str, given: Any) -> Self:
        """What conditions such as `>=64` allow, one or a list of which all hold.

        Raises:
            ValueError: something else, or conditions that no number meets.
        """
        texts = [given] if isinstance(given, str) else given
        matches = [_CONDITION.fullmatch(str(t)) for t in texts] if _is_list(texts) else []
        if not matches or None in matches:
            raise ValueError(
                f"the constraint on {name} must be such as '>=64', '<=512', '>64', '<512', '==64' "
                f"or '%8' (a multiple of 8), or a list of these, but got {given!r}"
            )
        low, high, multiple, written = 1, inf, 1, []
        for sign, digits in (match.groups() for match in matches if match):
            number = int(digits)
            NUMBERS.require(f"the constraint on {name}", number)
            written.append(f"{sign}{number}")
            low = max(low, {">=": number, ">": number + 1, "==": number}.get(sign, low))
            high = min(high, {"<=": number, "<": number - 1, "==": number}.get(sign, high))
            multiple = lcm(multiple, number) if sign == "%" else multiple
        found = cls(tuple(written), low, high, multiple)
        if found.nearest(low) is None:
            raise ValueError(
                f"the constraint on {name} must be met by some number, but got {found}, which no "
                "number meets"
            )
        return found

    def __str__(self) -> str:
        return " and ".join(self.conditions)

    def __contains__(self, value: int) -> bool:
        return self.low <= value <= self.high and value % self.multiple == 0

    def nearest(self, exact: float, multiple: int = 1) -> int | None:
        """The multiple of `multiple` that comes nearest, or None where none is allowed."""
        step = lcm(self.multiple, multiple)
        first, last = -(-self.low // step), self.high // step
        return None if first > last else int(min(max(round(exact / step), first), last)) * step

    def distance(self, value: int) -> float:
        """How far off a number is, by ratio; 0 where it is allowed."""
        return abs(log(value / (self.nearest(value) or inf)))

    def loosened(self, value: int) -> list[str]:
        """The conditions that this number does not meet, changed so that it does; none of those on
        multiples of which nothing is left."""
        return [text for each in self.conditions for text in _loosened(each, value)]


def _is_list(given: Any) -> bool:
    return isinstance(given, Sequence) and not isinstance(given, str)


def _loosened(condition: str, value: int) -> list[str]:
    if value in Allowed.parse("", condition):
        return [condition]
    sign = condition.rstrip("0123456789")
    if sign == "%":
        common = gcd(int(condition[1:]), value)
        return [f"%{common}"] if common > 1 else []
    return [f"{sign[0]}={value}"]


Constraints = Mapping[str, Allowed]
"""By the name of the field. What is not named is free."""
FREE: Constraints = {}


def parse(given: Any) -> Constraints:
    """The constraints of a space's file; none of null, which takes those of a file out.

    Raises:
        ValueError: something else; what belongs to a study is said to.
    """
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise _no_mapping(given)
    for name in given:
        if name not in FIELDS:
            meant = hint(str(name), FIELDS)
            raise ValueError(
                f"{OPTION} must be on sizes of shapes, {', '.join(FIELDS)}, but got {name!r}"
                f"{meant or OF_STUDY}"
            )
    return {name: Allowed.parse(name, condition) for name, condition in given.items()}


def _no_mapping(given: Any) -> ValueError:
    return ValueError(
        f"{OPTION} must be a mapping from sizes of shapes, such as {{hidden_size: '>=64'}}, but "
        f"got {given}{OF_STUDY}"
    )


def written(constraints: Constraints) -> str:
    """`hidden_size >=64 and intermediate_size %8`."""
    return " and ".join(f"{name} {allowed}" for name, allowed in constraints.items())


def keeps(constraints: Constraints, values: Mapping[str, int]) -> bool:
    """Whether all of these fields have a value that is allowed."""
    return all(value in constraints[name] for name, value in values.items() if name in constraints)


def require_of_study(text: str) -> None:
    """Raises: ValueError where a constraint of a study is on a size of shapes."""
    match = _OF_STUDY.fullmatch(str(text))
    if match is not None and match[1] in FIELDS:
        name, sign, number = match.groups()
        raise ValueError(
            "constraints of a study are on what is counted or measured, such as kv_bytes<=2048, "
            f"but got {text!r}; sizes of shapes are constraints of the space, "
            f"'{OPTION}={{{name}: \"{sign}{number}\"}}'"
        )


def as_override(text: str) -> str:
    """An override of a space's constraints as Hydra reads it: added to those of the file, with
    conditions quoted. Others stay.

    Raises:
        ValueError: the study's constraints are given in the form of a space's, or the other way
            round.
    """
    option, _, value = text.partition("=")
    if option == "constraints" and value.lstrip().startswith("{"):
        raise ValueError(
            "constraints of a study must be a list such as [kv_bytes<=2048], but got "
            f"{value}; sizes of shapes are constraints of the space, '{OPTION}={value}'"
        )
    if not re.fullmatch(rf"\+*{re.escape(OPTION)}(\.\w+)?", option):
        return text
    if option.endswith(OPTION) and value.lstrip().startswith("["):
        raise _no_mapping(value)
    quoted = re.sub(r"(?<![\"'<>=%\d])\s*((?:[<>]=?|==|%)\s*\d+)(?![\"'\d])", r' "\1"', value)
    return f"++{option.lstrip('+')}={quoted.strip()}"
