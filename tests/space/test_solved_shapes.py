"""The solver finds what it found before it read the closed form of `space.cost`: golden shapes."""

import json
from pathlib import Path

from space.budget import Budget, solve

GOLDEN = Path(__file__).parent / "solved_shapes.jsonl"
"""A line each: what was asked for, kind and value of the budget, tolerance, and the shape found."""


def test_shapes_found_before_are_found_again() -> None:
    different = []
    for line in GOLDEN.read_text().splitlines():
        partial, kind, value, tolerance, shape = json.loads(line)
        found = solve(partial, Budget(kind, value), tolerance)
        if (found and list(found)) != shape:
            different.append((line, found))
    assert different == []
