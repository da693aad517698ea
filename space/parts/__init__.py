"""Parts: what an architecture may have besides a Llama's, one module each.

A part declares its fields, what they cost in closed form, what they do to the decoder, and who else
knows them. An architecture names the fields beside its own:

    intermediate_size: 384
    ffn_scaling: 0.5..1.5          a field of space/parts/ffn_scaling.py
    parts: [mine.py]               parts from outside the project: files, modules
    gate: true                     a field of mine.py

Whatever does not know a part refuses it: a part is unknown to all engines but autograd and to every
export until it says otherwise. See docs/doors/part.md.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from space.doors import Door
from space.near import hint

if TYPE_CHECKING:
    from space.arch import Architecture, Shape
    from space.model import Decoder

Value = bool | int | float | str
"""What a field may hold: it is hashed, written as JSON, and drawn by samplers."""


@dataclass(frozen=True)
class Field:
    """A field that a part adds to architectures."""

    name: str
    """No other part, and no architecture, may have a field of the same name."""
    default: Value
    """At which the part changes nothing; architectures then do not have it."""
    parse: Callable[[Any], Value]
    """The value that architectures keep, from what was given. Raises ValueError, and says what must
    hold; its message goes on after the field's name, as in `must be positive, but got -1`."""
    meaning: str
    """A line for readers."""


class Extra(NamedTuple):
    """Weights that a part adds to one attention block, one FFN block or the stack."""

    matrices: int = 0
    """In matrix products: 2 FLOPs each per token."""
    vectors: int = 0
    """Gains, biases and scalars, whose FLOPs are not counted."""

    @property
    def weights(self) -> int:
        """All of them."""
        return self.matrices + self.vectors

    def plus(self, other: "Extra") -> "Extra":
        """Both together.

        Raises:
            ValueError: the other is something else, as a part of one's own may have returned.
        """
        if not isinstance(other, Extra):
            raise ValueError(
                "attention, ffn and stack of a part must return Extra(matrices=…, vectors=…), but "
                f"got {other!r:.80}"
            )
        return Extra(self.matrices + other.matrices, self.vectors + other.vectors)


NOTHING = Extra()


class Part:
    """What a part of an architecture is: subclass it, and override what the part changes.

    `arch` is an architecture that has the part, `arch.value(name)` a field of it; `shape` holds the
    sizes to count with, which are not those of `arch` while the budget solver looks for them.
    """

    fields: tuple[Field, ...]
    examples: tuple[Mapping[str, Any], ...]
    """Values that change something in an architecture of two layers or more, with those of its own
    fields that this needs, such as `sharing`: for the contract suite and for readers."""
    engines: frozenset[str] = frozenset()
    """Training engines that compute it, besides autograd, which computes whatever the decoder
    does."""

    def check(self, arch: "Architecture") -> None:
        """Raise ValueError where the values do not suit the architecture."""

    def canonical(self, arch: "Architecture") -> Mapping[str, Value]:
        """The values that decide what is computed; empty where they change nothing. Architectures
        that compute the same must have the same."""
        return self.given(arch)

    def attention(self, arch: "Architecture", shape: "Shape") -> Extra:
        """Weights that each attention block has more."""
        return NOTHING

    def ffn(self, arch: "Architecture", shape: "Shape") -> Extra:
        """Weights that each FFN block has more, at the same width."""
        return NOTHING

    def stack(self, arch: "Architecture", shape: "Shape") -> Extra:
        """Weights that the whole model has more, used once per token."""
        return NOTHING

    def ffn_width(self, arch: "Architecture", block: int) -> int | None:
        """Width of an FFN block, or None for `intermediate_size`, which must stay the mean of all
        blocks: the budget is closed by it."""
        return None

    def span(self, arch: "Architecture", layer: int) -> int | None:
        """How many positions, its own included, a token attends to in a layer, or None for all
        before it. FLOPs, cache and mask follow."""
        return None

    def build(self, model: "Decoder") -> None:
        """Change the decoder, which has its weights, spans and FFN widths already. Import torch
        here: counting does without it."""

    def export(self, arch: "Architecture", config: dict[str, Any]) -> dict[str, Any]:
        """`config.json` of the model of `transformers` that computes the same, given that of the
        architecture without this part.

        Raises:
            ValueError: there is none, which is the default.
        """
        said = ", ".join(f"{name}={value}" for name, value in self.given(arch).items())
        raise ValueError(
            f"an architecture must be one that transformers has a model for, but none has {said}; "
            "leave it out"
        )

    def read(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """The fields that a `config.json` of `transformers` states, completed with its defaults;
        none where it says nothing of this part. Called for installed parts alone: a checkpoint must
        not name code.

        Raises:
            ValueError: it asks for more than the part can do.
        """
        return {}

    def given(self, arch: "Architecture") -> dict[str, Value]:
        """The fields that are not at their default."""
        values = {field.name: arch.value(field.name) for field in self.fields}
        return {f.name: values[f.name] for f in self.fields if values[f.name] != f.default}


DOOR = Door("part", "space.parts", Part)


@dataclass(frozen=True)
class Setting:
    """A part that an architecture has, and the values of its fields that are not at their
    default."""

    name: str
    """By which `DOOR` loads it."""
    identity: str
    """What run keys hold: of a part from outside a digest of its source."""
    values: tuple[tuple[str, Value], ...]

    @property
    def part(self) -> Part:
        """The part itself.

        Raises:
            ValueError: it is not there, or not what it was.
        """
        return _load(self.name, self.identity)

    @property
    def outside(self) -> bool:
        """Whether architectures must name it, because it is none of the project's."""
        return self.identity != self.name


def settings(
    values: Mapping[str, Any], named: Iterable[str | Setting] | Mapping[str, str] = ()
) -> tuple[Setting, ...]:
    """The parts whose fields these values are; those that are at their default are left out.

    `named` are parts from outside: their names, or the identity of each, which must still hold; or
    settings, whose values are kept where no others are given.

    Raises:
        ValueError: a field of no part, a value that its part refuses, or a part that is not there
            or has changed.
    """
    values, named = _with_earlier(values, named)
    names = _names(named)
    owners = _owners(_identified(names))
    chosen: dict[str, dict[str, Value]] = {}
    for name, given in values.items():
        if name not in owners:
            raise _unknown(name, owners)
        part, field = owners[name]
        kept = value_of(field, given)
        if kept != field.default:
            chosen.setdefault(part, {})[name] = kept
    found = [
        Setting(name, DOOR.identity(name), tuple(sorted(kept.items())))
        for name, kept in sorted(chosen.items())
    ]
    for setting in found:
        if isinstance(named, Mapping) and setting.name in named:
            _require_same(setting.name, named[setting.name], setting.identity)
    return tuple(found)


def _with_earlier(values: Mapping[str, Any], named: Any) -> tuple[Mapping[str, Any], Any]:
    """Values with those of settings among `named`, and the latter with the names of these."""
    earlier = [part for part in named if isinstance(part, Setting)]
    if not earlier:
        return values, named
    kept = {name: value for setting in earlier for name, value in setting.values}
    names = {setting.name: setting.identity for setting in earlier if setting.outside}
    return {**kept, **values}, names


def _names(named: Any) -> tuple[str, ...]:
    given = isinstance(named, Collection) and not isinstance(named, str)
    if not given or not all(isinstance(name, str) for name in named):
        raise ValueError(f"parts must be a list of files or modules, but got {named!r}")
    return tuple(named)


def part_fields(named: Iterable[str] = ()) -> dict[str, Field]:
    """Every field that architectures may have besides their own: of the project's parts, of
    installed ones, and of those named.

    Raises:
        ValueError: a part that is not there, or two with one field.
    """
    owners = _owners(_identified(_names(named)))
    return {name: field for name, (_, field) in owners.items()}


def _identified(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Each with its identity: a file may change, or another folder be the current one."""
    return tuple((name, DOOR.identity(name)) for name in names)


@lru_cache(maxsize=256)
def _owners(named: tuple[tuple[str, str], ...]) -> dict[str, tuple[str, Field]]:
    """Each of those fields, with the name of its part."""
    from space.arch import Architecture  # which imports this module

    found: dict[str, tuple[str, Field]] = {}
    own = Architecture.__dataclass_fields__
    for part in dict.fromkeys((*DOOR.names(), *(name for name, _ in named))):
        for field in DOOR.load(part).fields:
            if field.name in own or field.name in found:
                other = found[field.name][0] if field.name in found else "every architecture"
                raise ValueError(
                    f"a field of a part must have a name of its own, but {field.name} of {part} is "
                    f"one of {other}; rename it"
                )
            found[field.name] = part, field
    return found


def field_of(name: str, named: Iterable[str] = ()) -> Field:
    """The field of a part by its name.

    Raises:
        ValueError: no part has it, of the project's, installed ones and those named.
    """
    known = part_fields(named)
    if name not in known:
        raise _unknown(name, known)
    return known[name]


def _unknown(name: str, known: Iterable[str]) -> ValueError:
    from space.arch import FIELDS  # which imports this module

    fields = sorted({*FIELDS, *known})
    return ValueError(
        f"fields of an architecture must be among {', '.join(fields)}, but got "
        f"{name!r}{hint(name, fields)}; parts from outside the project must be named, as in parts: "
        "[mine.py]"
    )


def value_of(field: Field, given: Any) -> Value:
    """What architectures keep for what was given for a field.

    Raises:
        ValueError: the part refuses it.
    """
    try:
        return field.parse(given)
    except ValueError as error:
        raise ValueError(f"{field.name} {error}") from None


@lru_cache(maxsize=256)
def _load(name: str, identity: str) -> Part:
    part = DOOR.load(name)
    _require_same(name, identity, DOOR.identity(name))
    return part


def _require_same(name: str, wanted: str, found: str) -> None:
    if wanted != found:
        raise ValueError(
            f"part {name} must be {wanted}, but is {found} now: its source has changed; restore "
            "it, or start anew"
        )
