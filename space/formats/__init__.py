"""Formats that a model leaves in: a file for each, and users' own (docs/doors/format.md).

    python -m space export=RUN to=FOLDER                        for transformers
    python -m space export=RUN to=FOLDER format=gguf precision=q4_0     for llama.cpp
    python -m space export=RUN to=FOLDER format=executorch      for ExecuTorch

A format refuses by name what it cannot hold, and what its package is installed by.
"""

from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from space.arch import Architecture, unknown_fields
from space.doors import Door

if TYPE_CHECKING:
    from space.model import Decoder
    from space.stored import Stored


class Format(Protocol):
    """A kind of file that a runtime loads."""

    title: str
    """Who loads it."""
    precisions: tuple[str, ...]
    """Names of `space.device.PRECISIONS` that weights may have; the first is the default."""
    package: str = ""
    """Which must be importable to write it."""
    extra: str = ""
    """Of `pip install 'isoparam[…]'`, which brings the package."""

    def require(self, arch: Architecture, precision: str) -> None:
        """Raise ValueError where it cannot hold the architecture; the message names what."""
        ...

    def write(
        self,
        model: "Decoder",
        folder: Path,
        tokenizer: Any = None,
        record: Any = None,
        precision: str = "",
        room: int | None = None,
    ) -> Path:
        """The folder, written as a whole or not at all. Arguments as of `space.hf.export`; `room`:
        tokens that a cache of fixed size has room for, by default all that the model can read.

        Raises:
            ValueError: as `require` does, or for the folder or the tokenizer as `export` does.
        """
        ...


class OneFile(Format):
    """A format of one file, with the origin of its model and a model card beside it."""

    library: ClassVar[str]
    """Which the card says loads it."""
    layers: ClassVar[str]
    """What the card says of layers that share a block."""

    def fill(
        self, model: "Decoder", folder: Path, tokenizer: Any, precision: str, room: int | None
    ) -> None:
        """Write the file into a folder that is there. Arguments as of `write`."""
        raise NotImplementedError

    def write(
        self,
        model: "Decoder",
        folder: Path,
        tokenizer: Any = None,
        record: Any = None,
        precision: str = "",
        room: int | None = None,
    ) -> Path:
        from space.hf.card import model_card
        from space.hf.write import half_made, require_replaceable, write_origin

        precision = precision or self.precisions[0]
        self.require(model.arch, precision)
        require_replaceable(folder)
        with half_made(folder) as part:
            self.fill(model, part, tokenizer, precision, room)
            write_origin(part, model.arch, self.package, precision)
            card = model_card(model.arch, record, self.library, self.layers)
            (part / "README.md").write_text(card)
        return folder


FORMATS = Door("format", __name__, Format)  # type: ignore[type-abstract]


class NotHeld(ValueError):
    """An architecture that a format cannot hold."""

    def __init__(self, message: str, options: str = "") -> None:
        super().__init__(message)
        self.options = options
        """Of a search whose architectures it can hold, where such are known."""


def require(format: str, arch: Architecture, precision: str | None = None) -> str:
    """The precision that will be written, by default the format's first.

    Raises:
        ValueError: no such format or precision, or a package that is not installed.
        NotHeld: an architecture that the format cannot hold.
    """
    found = FORMATS.load(format)
    require_installed(f"format={format}", found.package, found.extra)
    precision = precision or found.precisions[0]
    if precision not in found.precisions:
        raise ValueError(
            f"precision of format={format} must be one of {', '.join(found.precisions)}, but got "
            f"{precision!r}"
        )
    try:
        found.require(arch, precision)
    except NotHeld:
        raise
    except ValueError as error:
        raise NotHeld(str(error)) from None
    return precision


def holds(format: str, arch: Architecture, precision: str | None = None) -> bool:
    """Whether the format can hold an architecture.

    Raises:
        ValueError: as `require`, of anything else.
    """
    try:
        require(format, arch, precision)
    except NotHeld:
        return False
    return True


def held_in(format: str, arch: Architecture) -> list[str]:
    """The precisions in which the format can hold an architecture."""
    return [name for name in FORMATS.load(format).precisions if holds(format, arch, name)]


def require_installed(what: str, package: str, extra: str) -> None:
    """Raises: ValueError where a package is not installed, with the command that installs it."""
    if package and find_spec(package) is None:
        raise ValueError(
            f"{what} must have the package {package}, but it is not installed; run "
            f"`pip install 'isoparam[{extra}]'`, from a checkout `pip install -e '.[{extra}]' "
            "-c constraints.txt`"
        )


def require_known(
    arch: Architecture, known: Collection[str], what: str, parts: Collection[str] = ()
) -> None:
    """Raises: ValueError where an architecture has a part that is none of `parts`, or a field of
    its own that is neither `known` nor at its default: they are named."""
    if unknown := unknown_fields(arch, known):
        raise ValueError(
            f"an architecture must have no {unknown[0]} to be written as {what}, which does not "
            "know it; leave it out"
        )
    for setting in arch.parts:
        if setting.name not in parts and (given := setting.part.given(arch)):
            said = ", ".join(f"{name}={value}" for name, value in given.items())
            other = ", or use format=hf" if not_exportable(arch) is None else ""
            raise ValueError(
                f"an architecture must have no {said} to be written as {what}, which does not know "
                f"it; leave it out{other}"
            )


def not_exportable(arch: Architecture) -> str | None:
    """Why `transformers` has no model that computes what an architecture does; None if it has."""
    from space.hf.config import config_of

    try:
        config_of(arch)
    except ValueError as error:
        return str(error)
    return None


def export_as(
    format: str,
    source: "str | Path | Stored",
    folder: str | Path,
    tokenizer: str | None = None,
    precision: str | None = None,
) -> Path:
    """The export of any model that `space.hf.load` reads, with its own tokenizer where none is
    given, and its record.

    Raises:
        ValueError: as `space.hf.load`, `require` and the format's `write` do.
    """
    from space.hf import architecture_of, find, load
    from space.hf.write import require_replaceable
    from space.stored import Stored

    folder = Path(folder)
    require_replaceable(folder)
    precision = require(format, architecture_of(source), precision)
    record = None
    if isinstance(source, Stored):
        tokenizer, record = tokenizer or str(source.tokenizer()), source.record
    else:
        source = find(source)
        tokenizer = tokenizer or str(source)
    return FORMATS.load(format).write(load(source), folder, tokenizer, record, precision)
