"""Doors: the places where the project is extended, by one new file each.

A door is a protocol and a package, each of whose modules defines one thing that keeps it. Others
come from outside, without a fork: by an entry point of an installed package, by the name of a
module, or by the path of a file.

    executor=local             search/executors/local.py defines EXECUTOR
    executor=mine              the entry point `mine` of the group isoparam.executor
    executor=lab.cluster       the module lab/cluster.py of the Python path
    executor=mine.py           that file, from the current folder
"""

import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

from space.near import hint

T = TypeVar("T")


class Changed(ValueError):
    """A pinned source has changed. Caught where a study ends: no run can go on."""


@cache
def _modules(package: str) -> list[str]:
    """Names of the project's own implementations; looked up once, for each recipe names two."""
    path = importlib.import_module(package).__path__
    return [m.name for m in iter_modules(path) if not m.name.startswith("_")]


@dataclass(frozen=True)
class Door(Generic[T]):
    """One kind of thing that users may add."""

    name: str
    """As messages, options and the entry points' group `isoparam.<name>` have it."""
    package: str
    """Whose modules are the project's own; those with a leading underscore are not."""
    protocol: type[T]
    """What each must be."""
    field: str = "name"
    """Of a configuration's group, which names one: `sampler.name`."""
    short: bool = False
    """Whether commands take `executor.nodes=4` for `executor.options.nodes=4`."""

    @property
    def member(self) -> str:
        """What a module must define."""
        return self.name.upper()

    def names(self) -> list[str]:
        """Those of the project and of installed packages, sorted."""
        return sorted({*self._own(), *(point.name for point in self._installed())})

    def knows(self, name: str) -> bool:
        """Whether there is an implementation of this name, module or file, good or bad."""
        return self._find(name) is not None

    def load(self, name: str, option: str | None = None) -> T:
        """The implementation of this name, module or file.

        Raises:
            ValueError: there is none, or it lacks what the protocol asks for. The message names
                the option that was given, by default the door.
            Changed: it is pinned, and its source has changed since or is gone.
        """
        option = option or self.name
        if not isinstance(name, str):
            raise ValueError(f"{option} must be a name, but got {name!r}")
        bare, digest = _unpinned(name)
        try:
            return self._load(bare, digest, option)
        except ValueError as error:
            if digest is None:
                raise
            raise Changed(str(error)) from error

    def _load(self, name: str, digest: str | None, option: str) -> T:
        module = self._find(name)
        if module is None:
            raise ValueError(
                f"{option} must be one of {', '.join(self.names())}, a module or a file, but "
                f"got {name!r}{', and there is no such file' if name.endswith('.py') else ''}"
                f"{self._choices(name)}"
            )
        where = getattr(module, "__file__", None) or name
        if digest not in (None, _digest(module)):
            raise ValueError(
                f"{where} must be as it was when it was asked for, {name}@{digest}, but has "
                f"changed; restore it, or ask for {name} anew"
            )
        found = getattr(module, self.member, None)
        if found is None:
            raise ValueError(f"{where} must define {self.member}, but does not")
        if lacking := [m for m in members(self.protocol) if not hasattr(found, m)]:
            raise ValueError(
                f"{self.member} of {where} must have {', '.join(members(self.protocol))}, but "
                f"lacks {', '.join(lacking)}"
            )
        return cast(T, found)

    def pinned(self, name: str) -> str:
        """The name as what is kept has it: that of one of the project's own; of another
        `name@digest`, by which it is known where the file is not, and not loaded once it has
        changed. `./mine.py` is `mine.py`.

        Raises:
            ValueError: as `load` does; not for a name that is pinned already.
        """
        if name in self._own():
            return name
        if not isinstance(name, str) or not (digest := _unpinned(name)[1]):
            self.load(name)
            module = self._find(name)
            assert module is not None, "it was loaded"
            digest = _digest(module)
        bare = _unpinned(name)[0]
        return f"{os.path.normpath(bare) if bare.endswith('.py') else bare}@{digest}"

    def identity(self, name: str) -> str:
        """What run keys hold: the name of one of the project's own; of another its module's name
        and a digest of its source, so that a changed file is another thing."""
        name, digest = _unpinned(self.pinned(name))
        stem = Path(name).stem if name.endswith(".py") else name
        return f"{stem}@{digest}" if digest else name

    def all(self) -> Iterator[tuple[str, T]]:
        """Each of `names` with its implementation."""
        for name in self.names():
            yield name, self.load(name)

    def _own(self) -> list[str]:
        return _modules(self.package)

    def _installed(self) -> tuple[EntryPoint, ...]:
        return tuple(entry_points(group=f"isoparam.{self.name}"))

    def _find(self, name: str) -> ModuleType | None:
        if name in self._own():
            return importlib.import_module(f"{self.package}.{name}")
        for point in self._installed():
            if point.name == name:
                return _imported(point.module)
        if name.endswith(".py"):
            path = Path(name).resolve()
            return _from_file(path, path.read_bytes()) if path.is_file() else None
        return _imported(name) if "." in name and _is_module(name) else None

    def _choices(self, name: str) -> str:
        return hint(name, self.names())


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A group of a configuration: an implementation of a door by its name, and its arguments."""

    door: ClassVar[Door[Any]]
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    """Arguments of the implementation."""

    def __post_init__(self) -> None:
        self.door.load(self.name, f"{self.door.name}.{self.door.field}")

    def pinned(self) -> Self:
        """The same, by which workers that start later refuse an edited file."""
        return replace(self, name=self.door.pinned(self.name))


def label(name: str) -> str:
    """An implementation's name in names of files and studies: of a file, its stem; of a module,
    all of its name, for `lab.fast` and `lab.slow` are two."""
    stem = Path(name).stem if name.endswith(".py") else name
    return re.sub(r"\W+", "_", stem)


def bare(name: str) -> str:
    """An implementation's name as it was given, without the digest that it may be pinned to."""
    return _unpinned(name)[0]


def is_pinned(name: str) -> bool:
    """Whether a name has a digest, as `Door.pinned` gives it to all but the project's own."""
    return _unpinned(name)[1] is not None


def alike(one: Any, other: Any) -> bool:
    """Whether two values are equal, or names that are pinned to one source, in whichever folder its
    file is."""
    if not isinstance(one, str) or not isinstance(other, str):
        return bool(one == other)
    (name, digest), (other_name, other_digest) = _unpinned(one), _unpinned(other)
    return one == other or (
        digest is not None and digest == other_digest and Path(name).name == Path(other_name).name
    )


@contextmanager
def taking_options(
    option: str,
    who: str,
    given: Mapping[str, Any],
    kinds: tuple[type[Exception], ...] = (TypeError,),
) -> Iterator[None]:
    """Turn errors about the options that a user gave into one line.

    Raises:
        ValueError: instead of one of `kinds`; of most callables a `TypeError` says that they do not
            take an option. What goes wrong with it within a user's own file is said with its place
            there.
    """
    try:
        yield
    except kinds as error:
        if place := place_of(error):
            values = ", ".join(f"{name}={value!r}" for name, value in given.items()) or "none"
            raise ValueError(
                f"{option} must be what {who} takes, but with {values} it fails: {place}"
            ) from None
        said = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{option} must be what {who} takes, but {said[0]}") from None


def require_arguments(
    option: str, who: str, kind: Callable[..., Any], given: Iterable[str], ours: Sequence[str] = ()
) -> None:
    """Raises: ValueError for an option that a callable does not take; `ours` are arguments that are
    no options."""
    parameters = inspect.signature(kind).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    taken = [name for name in parameters if name not in ours]
    for name in given:
        if name not in taken:
            known = f"it takes {', '.join(sorted(taken)) or 'none; is another one meant?'}"
            said = hint(name, taken) or f"; {known}"
            raise ValueError(f"{option}.{name} must be an option of {who}, but is none{said}")


def require_plain_arguments(option: str, kind: type[Any], given: Mapping[str, Any]) -> None:
    """Raises: ValueError where arguments are not of the plain types that a class states for them:
    few classes look at what they are given before it is too late. No count is negative."""
    stated = inspect.signature(kind).parameters
    for name, value in given.items():
        hint = getattr(stated.get(name), "annotation", "")
        said = hint.__name__ if isinstance(hint, type) else str(hint)
        kinds = {kind.strip() for kind in said.split("|")}
        own = "None" if value is None else type(value).__name__
        known = not kinds <= PLAIN or own in kinds or (own == "int" and "float" in kinds)
        if not known or (own == "int" and value < 0):
            wanted = " or ".join(sorted(kinds & PLAIN, key="None".__eq__)) or "what its class takes"
            raise ValueError(f"{option}.{name} must be {wanted}, but got {value!r}")


PLAIN = {"int", "float", "bool", "str", "None"}


def members(protocol: type[Any]) -> list[str]:
    """The public names that a protocol asks for, in the order in which it states them."""
    names: dict[str, None] = {}
    for base in reversed(protocol.__mro__):
        if base is object or not getattr(base, "_is_protocol", True) or base.__name__ == "Protocol":
            continue
        stated = [*getattr(base, "__annotations__", {}), *vars(base)]
        names |= dict.fromkeys(n for n in stated if not n.startswith("_"))
    return list(names)


OWN_FILE = "isoparam_door_"
"""What names of modules from users' files begin with."""


def place_of(error: BaseException) -> str | None:
    """Where in a file of the user's own an error was raised, and the error, in one line; None where
    it went through no such file."""
    frames = [
        (frame.f_code, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).startswith(OWN_FILE)
    ]
    if not frames:
        return None
    code, line = frames[-1]
    text = f"{code.co_filename}, line {line}, in {code.co_name}: {type(error).__name__}: {error}"
    return " ".join(text.split())


@cache
def _from_file(path: Path, source: bytes) -> ModuleType:
    """A module from its file, once for each process and content."""
    digest = hashlib.sha256(str(path).encode() + source).hexdigest()[:8]
    name = f"{OWN_FILE}{path.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look themselves up there
    try:
        # Not by the loader: it takes cached bytecode of a source of equal size and second.
        exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ValueError(f"{path} could not be loaded: {type(error).__name__}: {error}") from error
    return module


def _imported(name: str) -> ModuleType:
    """A module of the Python path.

    Raises:
        ValueError: it cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise ValueError(
            f"module {name} could not be loaded: {type(error).__name__}: {error}"
        ) from error


@cache
def _digest(module: ModuleType) -> str:
    """Of the source as it was when the module was loaded: Python imports a module once, and what
    changes in its file afterwards is not what runs."""
    return hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest()[:12]


def _unpinned(name: str) -> tuple[str, str | None]:
    """A name and the digest that it was pinned to."""
    pinned = re.fullmatch(r"(.+)@([0-9a-f]{12})", name)
    return (pinned[1], pinned[2]) if pinned else (name, None)


def _is_module(name: str) -> bool:
    """Whether a file of the Python path has it: a folder without `__init__.py` has no source."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    except Exception:  # of the package that it is in: importing it says which
        return True
    return spec is not None and spec.has_location
