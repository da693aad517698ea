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
from typing import Any, NoReturn

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

ADVICE = re.compile(
    r"To append to your default list use \S+|3\. To sweep over it, add --multirun.*"
)
"""Of Hydra, which leads to nothing here."""
NOT_THERE = re.compile(r"Could not override '(\w+\.[\w.]+)'")
"""Hydra's words for a key of a mapping that the file does not have."""


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


def describe(error: BaseException) -> str:
    """One line for an error: its own message, and its cause's where Hydra hides what is wrong
    there."""
    if isinstance(error, RecursionError):
        return "values must not be nested so deeply that they cannot be read"
    if added := NOT_THERE.search(str(error)):
        return f"{added[1]} must be there to be changed, but is not; add it with +{added[1]}=…"
    texts = [_first_lines(error)]
    if isinstance(error, YAMLError):  # where it is stands in the message
        texts.insert(0, "files of the configuration must be YAML, but one is not")
    if isinstance(error, TypeError | AttributeError | AssertionError):  # from within Hydra
        texts.insert(0, "options must fit together, but do not")
    cause: Any = error.__cause__
    if isinstance(error, HydraException) and cause is not None:
        texts.append(_first_lines(cause))
    return ": ".join(dict.fromkeys(texts))


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
