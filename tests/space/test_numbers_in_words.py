"""`space.words`: how numbers, times and lists read."""

import subprocess
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from space.words import (
    amount,
    command,
    count,
    duration,
    exact_duration,
    flops,
    join,
    magnitude,
    percent,
    plain,
    prefixed,
)


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        (amount, 950, "950"),
        (amount, 12_345, "12.3k"),
        (amount, 1e6, "1M"),
        (flops, 950, "950 FLOPs"),
        (flops, 3.2e15, "3.2 PFLOPs"),
        (flops, 1.62e19, "16.2 EFLOPs"),
        (magnitude, 1e6, "1.0M"),
        (magnitude, 9.94e6, "9.9M"),
        (magnitude, 124_635_456, "125M"),
        (prefixed, 999.4, "999"),
        (prefixed, 999.6, "1.00k"),
        (prefixed, 12_340_000, "12.3M"),
        (prefixed, 2e15, "2000T"),
        (percent, 0.125, "12.5%"),
        (percent, 0.2, "20%"),
        (partial(percent, digits=1), 0.2, "20.0%"),
        (partial(percent, digits=2, sign=True), 0.0012, "+0.12%"),
        (duration, 89, "89 s"),
        (duration, 90, "2 min"),
        (duration, 5400, "1.5 h"),
        (duration, 172_800, "2 days"),
        (exact_duration, 0.2, "0 s"),
        (exact_duration, 580, "9 min 40 s"),
        (exact_duration, 3600, "1 h"),
        (plain, 3.0, "3"),
        (plain, 3.5, "3.5"),
        (plain, "none", "none"),
        (join, [], ""),
        (join, ["a"], "a"),
        (join, ["a", "b", "c"], "a, b and c"),
    ],
)
def test_a_value_reads_as_it_is_printed(form: Callable[[Any], str], value: Any, text: str) -> None:
    assert form(value) == text


def test_one_is_singular() -> None:
    assert [count(n, "run") for n in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]


OPTIONS = ("budget=[1m,2m]", "constraints=[kv_bytes<=2048]", "space.constraints={hidden_size: %32}")
FURTHER = ("data.path=books/it's *.txt", "~space.fixed.x", 'study="1e3"', "a=$HOME `b` !c \\d", "")


def test_a_command_is_what_a_shell_takes() -> None:
    text = command("search", *OPTIONS, *FURTHER)
    read = f"for word in {text}; do printf '%s\\0' \"$word\"; done"
    found = subprocess.run(["bash", "-c", read], capture_output=True, text=True, check=True).stdout
    assert found.split("\0")[:-1] == ["python", "-m", "search", *OPTIONS, *FURTHER]
    assert command("space", "export=best", "study=a_b") == "python -m space export=best study=a_b"
