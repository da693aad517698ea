"""What benchmarks print, and what they leave in `benchmarks/results/`."""

import argparse
import platform
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import matplotlib

from search.train.placement import Placement
from search.train.provenance import device_name
from space.commit import commit
from space.files import file_atomically, write_atomically
from space.tables import in_markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"
STYLE: dict[Any, Any] = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}


def parser(about: str | None) -> argparse.ArgumentParser:
    """Of a benchmark's command line, with the option that all have."""
    made = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--save", action="store_true", help="leave table and picture in benchmarks/results/"
    )
    return made


def say(text: str) -> None:
    """Tell who waits how far it is."""
    print(text, file=sys.stderr, flush=True)


def heading(placement: Placement, packages: Iterable[str] = ("torch", "numpy")) -> str:
    """Date, machine and versions, in a line."""
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return (
        f"{date.today()}, commit {commit()}, {device_name(placement.device)}, "
        f"{placement.threads} threads, {placement.engine}, Python {platform.python_version()}, "
        f"{versions}."
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose first column is text and whose others are numbers."""
    return in_markdown(columns, rows, [n > 0 for n in range(len(columns))], left="---")


def spread(values: Sequence[float], form: Callable[[float], str]) -> str:
    """The median, and between which values all lie."""
    low, middle, high = (form(f(values)) for f in (min, median, max))
    return middle if low == high else f"{middle} ({low} to {high})"


def style() -> AbstractContextManager[None]:
    """How pictures look."""
    matplotlib.use("Agg")
    return matplotlib.rc_context(STYLE)


def of_device(name: str, device: str) -> str:
    """A result's name: one from a GPU has the card's in it, and so stands beside a CPU's."""
    if device != "cuda":
        return name
    return f"{name}_" + re.sub(r"\W+", "_", device_name(device).lower()).strip("_")


def last_line(error: Exception) -> str:
    """Of what it says: for a contender's traceback, the error itself."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def missing(left_out: Iterable[str]) -> str:
    """What a benchmark could not measure, as a list with the reasons."""
    lines = "".join(f"- {each}\n" for each in left_out)
    return f"\nLeft out:\n\n{lines}" if lines else ""


def leave(name: str, text: str, figure: "Figure | None", save: bool) -> None:
    """Print a benchmark's text, and write it with its picture where that is wanted."""
    print(text, flush=True)
    if save:
        keep(name, text, figure)


def keep(name: str, text: str, figure: "Figure | None" = None) -> None:
    """Write a benchmark's text and picture, in place of what it wrote before."""
    if figure is not None:
        metadata: dict[str, Any] = {"Software": None}
        with file_atomically(RESULTS / f"{name}.png") as part:
            figure.savefig(part, format="png", dpi=160, metadata=metadata)
        text += f"\n![{name}]({name}.png)\n"
    write_atomically(RESULTS / f"{name}.md", text)
