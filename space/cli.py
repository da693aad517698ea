"""How a command ends: an error in what the user gave is one line and exit code 2.

Hydra alone prints several lines and exits with 1.
"""

import codecs
import io
import locale
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

from hydra.errors import HydraException
from omegaconf.errors import (
    ConfigKeyError,
    ConfigTypeError,
    OmegaConfBaseException,
    ValidationError,
)
from yaml import YAMLError

from space.near import hint

ADVICE = re.compile(
    r"To append to your default list use \S+|3\. To sweep over it, add --multirun.*"
)
"""Of Hydra, which leads to nothing here."""
NOT_THERE = re.compile(r"Could not override '(\w+\.[\w.]+)'")
"""Hydra's words for a key of a mapping that the file does not have."""
NOT_GIVEN = re.compile(r"Missing mandatory value: (\w+)")
"""Hydra's words for a value within what nobody has given."""

IN_FILE = re.compile(r"In '([^']+)':")
"""Hydra's words for the file of a group that a value stands in."""
KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list such as [a,b]",
    tuple: "a list such as [a,b]",
    dict: "a mapping such as {name: value}",
    NoneType: "null",
}
OPTIONS = "given by its own options"
"""Of a field that holds a dataclass."""


def speak_utf8() -> None:
    """Text in files is UTF-8 whatever the surroundings say, and no letter stops a print. Python
    cannot change the first once it runs, so that it may begin anew here."""
    named = codecs.lookup(locale.getpreferredencoding(False)).name
    if named != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and codecs.lookup(stream.encoding).name != "utf-8":
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def one_line_errors(
    kinds: Sequence[type[BaseException]] = (
        ValueError,
        OSError,
        HydraException,
        OmegaConfBaseException,
        RecursionError,
    ),
) -> Iterator[None]:
    """What is wrong in here with what the user gave ends the program with one line and exit code
    2."""
    try:
        yield
    except tuple(kinds) as error:
        fail(error)


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """A reader of standard output, such as `head`, that has seen enough is no error, and changes
    no exit code."""
    try:
        with suppress(BrokenPipeError):
            yield
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def fail(error: BaseException | str) -> NoReturn:
    """End the program with one line on standard error and exit code 2."""
    text = error if isinstance(error, str) else describe(error)
    print(f"error: {text}", file=sys.stderr)
    raise SystemExit(2)


def _not_there(option: str) -> str:
    """Of a key of a mapping: the name that was probably meant, or how another one is added."""
    from space.arch import FIELDS
    from space.axes import AXES
    from space.parts import part_fields

    group, _, name = option.rpartition(".")
    kinds = {"space.axes": ("axis", [*AXES]), "architecture": ("field", [*FIELDS, *part_fields()])}
    what, known = kinds.get(group, ("", []))
    if known and name not in known:
        said = hint(name, known) or f"; known are {', '.join(sorted(known))}."
        return (
            f"{option} must be there to be changed, but is not{said} Another {what} is added with "
            f"+{group}.NAME=…"
        )
    return f"{option} must be there to be changed, but is not; add it with +{option}=…"


def describe(error: BaseException) -> str:
    """One line for an error: its own message, and its cause's where Hydra hides what is wrong
    there."""
    if isinstance(error, RecursionError):
        return "values must not be nested so deeply that they cannot be read"
    if added := NOT_THERE.search(str(error)):
        return _not_there(added[1])
    if lacking := NOT_GIVEN.search(f"{error} {error.__cause__}"):
        return f"{lacking[1]} must be given, but is not; add {lacking[1]}=… (--help lists choices)"
    if wrong := wrong_kind(error) or unknown_key(error):
        return wrong
    texts = [_first_lines(error)]
    if isinstance(error, YAMLError):  # where it is stands in the message
        texts.insert(0, "files of the configuration must be YAML, but one is not")
    if isinstance(error, TypeError | AttributeError | AssertionError):  # from within Hydra
        texts.insert(0, "options must fit together, but do not")
    cause: Any = error.__cause__
    if isinstance(error, HydraException) and cause is not None:
        texts.append(_first_lines(cause))
    return ": ".join(dict.fromkeys(texts))


def wrong_kind(error: BaseException) -> str:
    """The line for a value of another kind than its option takes, on the command line or in a file;
    empty where an error says something else."""
    found: Any = error if isinstance(error, HydraException | OmegaConfBaseException) else None
    while not isinstance(found, ValidationError | ConfigTypeError | NoneType):
        found = found.__cause__ or found.__context__
    kind = _kind_of(found) if getattr(found, "full_key", None) else None
    if found is None or kind is None:
        return ""
    file = IN_FILE.match(str(error))
    name = f"{found.full_key} in {file[1]}.yaml" if file else found.full_key
    given = "null" if found.value is None else repr(found.value)
    if found.key is None:  # a whole, whose value is not kept
        given = "a mapping" if kind == KINDS[list] else "a list"
    advice = "--help shows its meaning and its usual value"
    if OPTIONS in kind:
        advice = f"write {name}.NAME=VALUE, --help lists them"
    return f"{name} must be {kind}, but got {given:.80}; {advice}"


def unknown_key(error: BaseException) -> str:
    """The line for a key that a mapping does not have, in a file or on the command line; empty
    where an error says something else."""
    found: Any = error if isinstance(error, HydraException | OmegaConfBaseException) else None
    while not isinstance(found, ConfigKeyError | NoneType):
        found = found.__cause__ or found.__context__
    if found is None or not found.full_key or not is_dataclass(found.object_type):
        return ""
    file = IN_FILE.match(str(error))
    at = f" of {file[1]}.yaml" if file else ""
    known = [field.name for field in fields(found.object_type)]
    said = hint(str(found.key), known) or f"; known are {', '.join(sorted(known))}"
    return f"{found.full_key}{at} must be a key that is known there, but is none{said}"


def _kind_of(error: Any) -> str | None:
    """What the field takes that OmegaConf raised this for; None where that is not known."""
    owner, hint = error.object_type, error.ref_type
    if is_dataclass(owner) and error.key is not None:
        hint = get_type_hints(owner).get(error.key)
    elif error.key is not None:  # an element
        hint = next((x for x in reversed(get_args(hint)) if x is not Ellipsis), None)
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    words = [_in_words(get_origin(kind) or kind) for kind in kinds]
    return " or ".join(words) if all(words) else None


def _in_words(kind: Any) -> str:
    return OPTIONS if is_dataclass(kind) else KINDS.get(kind, "")


def _first_lines(error: BaseException) -> str:
    """The message without what Hydra and OmegaConf append about keys, types and search paths."""
    noise = (
        "full_key:",
        "reference_type=",
        "object_type=",
        "Config search path",
        "provider=",
        "See https://hydra.cc",
        "Set the environment variable HYDRA_FULL_ERROR",
        "To append to your config use",
    )
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(x for x in lines if not x.startswith(noise)) or type(error).__name__
    return ADVICE.sub("", text).strip()
