"""What the figures of all views have in common: colours, and files for print.

A page figure is a plain `{"data": …, "layout": …}` as plotly.js takes it. Colours written
`var(--name)` are those of the page's style sheet, which differ between light and dark.
"""

import io
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from space.app import PRINT_STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Json = dict[str, Any]

SERIES = ("#3f77bd", "#d9752f", "#2f9a78", "#b9505f", "#8563b5", "#87873c")
"""Colours of the series, distinct for most colour-blind readers. The page's style sheet has them as
`--series-1` and so on, and lighter ones for the dark."""
RAMP = ("#3565b0", "#3a8fb7", "#35a08c", "#7fa548", "#cf9f35", "#d9752f", "#b2404f")
"""From shallow to deep."""
WARNING = "#b2404f"
WIDTHS = (6.4, 4.0)
"""Of pictures on a screen, or in print, and on a phone, in inches."""
ON_A_PAGE: dict[Any, Any] = {"font.family": "DejaVu Sans", "mathtext.fontset": "dejavusans"}
"""What a page's pictures have in place of the serifs for print."""
NO_METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "svg": {"Date": None, "Creator": None},
}
"""By form of a figure, what leaves out when and by what it was drawn."""


def ramp(n: int) -> list[str]:
    """`n` colours from shallow to deep."""
    places = [i * (len(RAMP) - 1) / max(n - 1, 1) for i in range(n)]
    return [mixed(RAMP[math.floor(p)], RAMP[math.ceil(p)], p % 1) for p in places]


def mixed(a: str, b: str, share: float) -> str:
    """The colour that is `share` of the way from one to another."""
    channels = [(int(a[i : i + 2], 16), int(b[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(x + share * (y - x)):02x}" for x, y in channels)


def xy(x: Any, y: Any, **style: Any) -> Json:
    """A trace of plotly.js."""
    return {"type": "scatter", "x": list(x), "y": list(y), **style}


def print_files(name: str, draw: Callable[[], "Figure"], warning: str = "") -> dict[str, bytes]:
    """A figure as `name.png` and `name.pdf`, under a warning where there is one."""
    with _for_print({"axes.spines.top": True}):
        figure = _warned(draw(), warning)
        return {f"{name}.{form}": _saved(figure, form) for form in ("png", "pdf")}


def drawn(
    draw: Callable[[], "Figure"],
    form: str,
    *,
    dpi: int = 200,
    style: dict[Any, Any] | None = None,
    warning: str = "",
) -> bytes:
    """A figure in the style for print as `png`, `pdf` or `svg`, under a warning where there is one:
    the same bytes whenever drawn from the same runs. An SVG is for a page and has the letters of
    one."""
    with _for_print((ON_A_PAGE if form == "svg" else {}) | (style or {})):
        return _saved(_warned(draw(), warning), form, dpi)


def _warned(figure: "Figure", warning: str) -> "Figure":
    if warning:
        figure.suptitle(warning, fontsize=9, color=WARNING)
    return figure


@contextmanager
def _for_print(style: dict[Any, Any] | None) -> Iterator[None]:
    import matplotlib  # half a second, and only this function needs it

    matplotlib.use("Agg")
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # tells of every glyph it keeps
    with matplotlib.rc_context(style, fname=PRINT_STYLE):
        yield


def _saved(figure: "Figure", form: str, dpi: int = 200) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, dpi=dpi, metadata=NO_METADATA[form])
    return buffer.getvalue()
