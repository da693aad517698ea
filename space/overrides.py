"""What overrides mean: names that look like numbers, places on disk, and what must be quoted."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import is_dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from space.compat import child_nodes, names_of
from space.files import place
from space.ranges import SUFFIXES

CONF = Path(__file__).parent.parent / "conf"

Names = Annotated[Any, "names"]
"""A field that takes a name or a list of names."""
Place = Annotated[str, "place"]
"""A field that takes a file or a folder; `~` at its beginning is the home folder."""


OUTPUTS = "outputs"
"""The folder of studies and tables where none is given."""


def quoted(value: str) -> str:
    """The value as an override has to hold it, whatever it is made of."""
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', value)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return f'"{escaped}"'


def spelt(value: str) -> str:
    """The value as an override holds it, in quotes only where it needs them."""
    try:
        plain = value_of(f"x={value}") == value
    except HydraException:
        plain = False
    return value if plain else quoted(value)


def outputs_of(folder: Path) -> list[str]:
    """The option that says where outputs are, from the current folder where they lie in it; none
    where they are where commands look for them anyway."""
    folder, here = folder.resolve(), Path.cwd().resolve()
    if folder == here / OUTPUTS:
        return []
    shown = folder.relative_to(here) if folder.is_relative_to(here) else folder
    return [f"outputs={spelt(str(shown))}"]


def value_of(override: str) -> Any:
    """What Hydra reads as the value of an override."""
    return OverridesParser.create().parse_override(override).value()


def as_text(override: str, schema: type[Any]) -> str:
    """The override with its value quoted where the schema wants text and Hydra would read a number:
    `study=2025_11_25`, `model=8041237e46551902`.

    Raises:
        ValueError: it cannot be read; the message shows how text is spelt.
    """
    option, equals, value = override.partition("=")
    path = option.lstrip("+")
    if not equals or option.startswith(("~", "hydra")) or "${" in value:
        return override
    wants_text = _wants_text(schema, path.split("."))
    if wants_text and (elements := re.fullmatch(r"\[([^][{}()'\"]*)\]", value)):
        words = [word.strip() for word in elements[1].split(",")]
        return f"{option}=[{','.join(word and _word(word) for word in words)}]"
    if wants_text:
        _require_readable(option, value, Place in kinds_at(schema, path.split(".")))
        return f"{option}={_word(value)}"
    _require_one(option, value)
    if counted := _in_digits(schema, path.split("."), value):
        return f"{option}={counted}"
    _require_value(option, value, override)
    _require_file(path, override)
    return override


def _in_digits(schema: Any, path: Sequence[str], value: str) -> str | None:
    """`300k` as 300000, where the field at this path takes a whole number; None where it is not
    written so."""
    match = re.fullmatch(r"([\d_]+(?:\.\d+)?)([kmbKMB])", value.strip())
    if match is None or int not in kinds_at(schema, path):
        return None
    count = Decimal(match[1].replace("_", "")) * SUFFIXES[match[2].lower()]
    return str(int(count)) if count == int(count) else None


def _word(text: str) -> str:
    """Quoted where Hydra would read a number, or nothing: who wants the text says what is wrong."""
    try:
        read = value_of(f"x={text}")
    except HydraException:
        return quoted(text.strip())
    return quoted(text.strip()) if isinstance(read, int | float) else text


def _require_one(option: str, value: str) -> None:
    """Raises: ValueError for several plain values, which Hydra would try in turn."""
    if not re.fullmatch(r"[\w.+-]+(,[\w.+-]+)+", value):
        return
    verb, a_list = "ablations" if option == "table" else "search", f"{option}=[{value}]"
    raise ValueError(
        f"{option} must be one value, but got {value:.80}; a list is {shlex.quote(a_list):.80}, "
        f"and a search or a table for each is python -m {verb} -m {option}={value:.80}"
    )


def _require_readable(option: str, value: str, names_place: bool) -> None:
    """Raises: ValueError where Hydra cannot read text, or would try several values."""
    try:
        several = OverridesParser.create().parse_override(f"{option}={value}").is_sweep_override()
        if not several:
            return
    except HydraException:
        several = False
    if several and not names_place:
        _require_one(option, value)
    as_given = f"{option}={quoted(value)}"
    value_of(as_given)  # raises where it is the option that is wrong
    what = (
        "would be several values (a list is key=[value1,value2])" if several else "cannot be read"
    )
    raise ValueError(
        f"{option}={value:.80} {what}; where it is meant as text, quote it twice: "
        f"{shlex.quote(as_given)}"
    )


def _require_value(option: str, value: str, override: str) -> None:
    """Raises: ValueError where Hydra cannot read a value, such as a list without its end."""
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        raise ValueError(
            f"{option} must be a value that can be read, but got {value:.80}; close its brackets "
            "and quotes, and put the option in quotes of the shell"
        ) from None


def _require_file(group: str, override: str) -> None:
    """Raises: ValueError for a group of `conf/` that is given something other than a name."""
    folder = CONF / group
    if not group or not folder.is_dir():
        return
    given = value_of(override)
    names = given if isinstance(given, list) else [given]
    wrong = [name for name in names if not isinstance(name, str | dict | None)]
    if wrong:
        known = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
        raise ValueError(f"{group} must be one of {known}, but got {wrong[0]!r}")


def _wants_text(schema: Any, path: Sequence[str]) -> bool:
    """Whether the field at this path takes text and no number, one or a list of it."""
    texts, numbers, kinds = (str, list[str], Place, Names), (int, float), kinds_at(schema, path)
    return any(kind in texts for kind in kinds) and not any(kind in numbers for kind in kinds)


def kinds_at(schema: Any, path: Sequence[str]) -> tuple[Any, ...]:
    """What the field at this path takes: its type and those that it is made of; nothing where there
    is no such field."""
    if not is_dataclass(schema) or not isinstance(schema, type):
        return ()
    hint = get_type_hints(schema, include_extras=True).get(path[0])
    kinds = () if get_origin(hint) is dict else _kinds(hint)
    if path[1:]:
        return kinds_at(next(filter(is_dataclass, kinds), None), path[1:])
    return tuple(inner for kind in kinds for inner in _kinds(kind))


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The hint, and those that it is made of where it allows None."""
    return hint, *get_args(hint)


def settle_places(node: DictConfig, schema: type[Any], at: str = "") -> None:
    """Write out `~` in the fields that name files and folders.

    Raises:
        ValueError: one names nothing, or there is no such home folder.
    """
    hints = get_type_hints(schema, include_extras=True)
    for name in names_of(node):
        if Place in _kinds(hints.get(name)) and node[name] is not None:
            node[name] = place(f"{at}{name}", node[name])
    for name, child in child_nodes(node):
        if is_dataclass(inner := OmegaConf.get_type(child)):
            settle_places(child, inner, f"{at}{name}.")
