"""How numbers, times, lists and commands read in sentences: one form of each, for all verbs."""

import shlex
from collections.abc import Sequence
from typing import Any


def count(n: int, noun: str) -> str:
    """ "1 trial", "2 trials"."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def done_of(done: int, total: int, at_most: bool = False) -> str:
    """ "3 of 8 runs done", "3 of up to 8 runs done", and "8 runs done" where fewer were asked
    for."""
    if done > total:
        return f"{count(done, 'run')} done"
    return f"{done} of {'up to ' if at_most else ''}{total} runs done"


def join(words: Sequence[str]) -> str:
    """ "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def command(module: str, *options: str) -> str:
    """ "python -m search 'budget=[1m,2m]'": what a shell takes as it stands."""
    return shlex.join(["python", "-m", module, *options])


SMOKE_RUN = "Smoke run: ignore the numbers."
FEWEST_TOKENS, FEWEST_PER_PARAMETER = 50_000, 0.1
"""Under which a run shows that everything works, and nothing else."""


def is_smoke(tokens: float, per_parameter: float) -> bool:
    """Whether the numbers of a run mean nothing, and every form of them is to say `SMOKE_RUN`."""
    return tokens < FEWEST_TOKENS or per_parameter < FEWEST_PER_PARAMETER


def plain(value: Any) -> str:
    """A value without the ".0" that a column with gaps gives to whole numbers."""
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else str(value)


def switched(name: str, on: bool) -> str:
    """ "layer scale", "no layer scale": what is on or off; "tied", "untied"."""
    if name == "tie_word_embeddings":
        return "tied" if on else "untied"
    words = name.replace("_", " ")
    return words if on else f"no {words}"


def magnitude(value: float) -> str:
    """ "1.0M", "125M", "1.5B": sizes of models, two or three figures."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            scaled = value / size
            return f"{scaled:.1f}{letter}" if scaled < 9.95 else f"{scaled:.0f}{letter}"
    return f"{value:.0f}"


def amount(value: float) -> str:
    """ "950", "12.3k", "1M", "250B": tokens, at most three figures."""
    for limit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"


def flops(value: float) -> str:
    """ "950 FLOPs", "16.2 EFLOPs": three figures and a unit of SI."""
    for prefix in ("", "k", "M", "G", "T", "P", "E", "Z", "Y"):
        if value < 999.5 or prefix == "Y":
            break
        value /= 1000
    return f"{value:.3g} {prefix}FLOPs"


def prefixed(value: float) -> str:
    """ "950", "12.3M", "1.24G": three figures and a unit's prefix."""
    for prefix in ("", "k", "M", "G", "T"):
        if value < 999.5 or prefix == "T":
            break
        value /= 1000
    digits = 0 if prefix == "" or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f}{prefix}"


def percent(share: float, digits: int | None = None, *, sign: bool = False) -> str:
    """ "12.5%": with so many decimals, or as many as it has; "+12.5%" with its sign."""
    form = "+" * sign + ("g" if digits is None else f",.{digits}f")
    return f"{100 * share:{form}}%"


def duration(seconds: float) -> str:
    """ "45 s", "12 min", "3.5 h", "4 days", "13 years": what something will take, about."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < 172800:
        return f"{seconds / 3600:.1f} h"
    days = seconds / 86400
    return f"{days:.0f} days" if days < 730 else f"{days / 365:.0f} years"


def exact_duration(seconds: float) -> str:
    """ "9 min 40 s": what something took."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (rest, "s")]
    return " ".join(f"{n} {unit}" for n, unit in parts if n) or "0 s"
