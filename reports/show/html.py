"""Text and data as they stand in HTML."""

import base64
import gzip
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from reports.read.study import plain

BASIC = Path(__file__).parents[2] / ".cache" / "plotly-basic.min.js.gz"
"""plotly's basic bundle, which is on npm alone: `make` brings it here."""
KEPT_TOGETHER = re.compile(
    r"\d+ layers? × \d+ wide|(?:depths )?(?:[\d.]+, )?[\d.]+ (?:and|to) [\d.]+"
    r"|\d(?:[\d.,]*\d)?[kMBT]? (?:bits per byte|nats per token|[a-z]+)"
)


def unbroken(sentence: str) -> str:
    """The sentence with no line break allowed within a size, the end of a list or a number and its
    unit: what is kept together is shorter than a line of a phone."""
    return KEPT_TOGETHER.sub(lambda m: m[0].replace(" ", "\u00a0"), sentence)


def in_script(value: Any) -> Markup:
    """JSON that no text in it can end the script element around it."""
    text = json.dumps(plain(value), sort_keys=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def marked(text: str) -> Markup:
    """The text with commands set as such."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def packed(value: Any) -> Markup:
    """JSON compressed, as text that `page.js.j2` unpacks."""
    return _in_base64(gzip.compress(in_script(value).encode(), mtime=0))


@cache
def packed_plotly() -> Markup:
    """plotly.js, as text that `page.js.j2` unpacks: 0.5 MB of the basic bundle where it is there,
    else 2.0 of the whole one, which the Python package has."""
    if BASIC.is_file():
        return _in_base64(BASIC.read_bytes())
    from plotly.offline import get_plotlyjs

    return _in_base64(gzip.compress(get_plotlyjs().encode(), mtime=0))


def _in_base64(content: bytes) -> Markup:
    return Markup(base64.b64encode(content).decode())
