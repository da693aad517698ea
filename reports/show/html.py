"""Text and data as they stand in HTML."""

import base64
import gzip
import json
import re
from functools import cache
from typing import Any

from markupsafe import Markup, escape

from reports.read.study import plain

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


@cache
def packed_plotly() -> Markup:
    """plotly.js compressed, as text that `page.js.j2` unpacks: 2.0 MB for 4.8."""
    from plotly.offline import get_plotlyjs

    packed = gzip.compress(get_plotlyjs().encode(), compresslevel=6, mtime=0)
    return Markup(base64.b64encode(packed).decode())
