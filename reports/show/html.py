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

PLOTLY = Path(__file__).parent / "plotly" / "plotly-basic.min.js.gz"
"""As published on npm, compressed: `make plotly`."""
KEPT_TOGETHER = re.compile(
    r"\d+ layers? × \d+ wide|(?:depths )?(?:[\d.]+, )*[\d.]+ (?:and|to) [\d.]+"
    r"|[\d.,]+[kMBT]? (?:bits per byte|nats per token|[a-z]+)"
)


def unbroken(sentence: str) -> str:
    """The sentence with no line break allowed within a size, a span or a number and its unit."""
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
    """plotly.js, its basic bundle, as text that `page.js.j2` unpacks: 0.5 MB for 1.2."""
    return _in_base64(PLOTLY.read_bytes())


def _in_base64(content: bytes) -> Markup:
    return Markup(base64.b64encode(content).decode())
