"""Text and data as they stand in HTML."""

import json
import re
from typing import Any

from markupsafe import Markup, escape

from reports.read.study import plain


def unbroken(sentence: str) -> str:
    """The sentence with no line break allowed in the middle of a size."""
    return re.sub(r"\d+ layers × \d+ wide", lambda m: m[0].replace(" ", "\u00a0"), sentence)


def in_script(value: Any) -> Markup:
    """JSON that no text in it can end the script element around it."""
    text = json.dumps(plain(value), sort_keys=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def marked(text: str) -> Markup:
    """The text with commands set as such."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))
