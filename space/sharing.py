"""Layer maps: which block each layer executes.

A *sharing pattern* is a function from (blocks, repeats) to the order in which blocks are executed.
The general form of all of them is the layer map, a pair (attention block, FFN block) for every
layer.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

Order = tuple[int, ...]
LayerMap = tuple[tuple[int, int], ...]

SCOPES = ("block", "ffn", "attention")
MOST_LAYERS = 10_000
"""Executed: ten times the deepest published (arXiv:2203.00555). A layer map has an entry each."""


def none(blocks: int, repeats: int) -> Order:
    """Every block once: 0 1 2."""
    _require("none", repeats == 1, "repeats must be 1", repeats, "choose a sharing pattern")
    return tuple(range(blocks))


def immediate(blocks: int, repeats: int) -> Order:
    """Each block `repeats` times in a row: 0 0 1 1 2 2 (MobileLLM-LS, arXiv:2402.14905;
    SEQUENCE)."""
    return tuple(b for b in range(blocks) for _ in range(repeats))


def cycle(blocks: int, repeats: int) -> Order:
    """The whole stack, again and again: 0 1 2 0 1 2 (repeat-all-over; CYCLE, arXiv:2104.06022)."""
    return tuple(range(blocks)) * repeats


def reverse(blocks: int, repeats: int) -> Order:
    """The stack forwards, then backwards: 0 1 2 2 1 0 (MobileLLM's reverse)."""
    _require("reverse", repeats == 2, "repeats must be 2", repeats, "for more use cycle_reverse")
    return cycle_reverse(blocks, repeats)


def cycle_reverse(blocks: int, repeats: int) -> Order:
    """The stack `repeats` times, the last pass reversed: 0 1 2 0 1 2 2 1 0 (CYCLE (REV),
    arXiv:2104.06022)."""
    return tuple(range(blocks)) * (repeats - 1) + tuple(reversed(range(blocks)))


def sandwich(blocks: int, repeats: int) -> Order:
    """First and last block once, the one between `repeats` times: 0 1 1 2 (Subformer,
    arXiv:2101.00234)."""
    _require(
        "sandwich", blocks == 3, "num_blocks must be 3", blocks, "for more use middle_sequence"
    )
    return middle_sequence(blocks, repeats)


def middle_cycle(blocks: int, repeats: int) -> Order:
    """First and last block once, the middle cycled: 0 1 2 1 2 3 (Mixture-of-Recursions,
    arXiv:2507.10524)."""
    return _between_ends("middle_cycle", cycle, blocks, repeats)


def middle_sequence(blocks: int, repeats: int) -> Order:
    """First and last block once, each middle block repeated: 0 1 1 2 2 3 (arXiv:2507.10524)."""
    return _between_ends("middle_sequence", immediate, blocks, repeats)


def all_shared(blocks: int, repeats: int) -> Order:
    """One block for all layers: 0 0 0 0 (ALBERT, arXiv:1909.11942)."""
    _require("all", blocks == 1, "num_blocks must be 1", blocks, "set repeats to the layers wanted")
    return (0,) * repeats


PATTERNS: dict[str, Callable[[int, int], Order]] = {
    "none": none,
    "immediate": immediate,
    "cycle": cycle,
    "reverse": reverse,
    "cycle_reverse": cycle_reverse,
    "sandwich": sandwich,
    "middle_cycle": middle_cycle,
    "middle_sequence": middle_sequence,
    "all": all_shared,
}


@lru_cache(maxsize=4096)
def layer_map(sharing: str, num_blocks: int, repeats: int, scope: str = "block") -> LayerMap:
    """The (attention block, FFN block) of each layer, for a pattern of `PATTERNS`.

    With scope `ffn` or `attention` the pattern maps that half; the other half is one per layer.

    Raises:
        ValueError: unknown pattern or scope, or blocks and repeats that the pattern does not allow.
    """
    if sharing not in PATTERNS:
        known = ", ".join([*PATTERNS, "custom"])
        raise ValueError(f"sharing must be one of {known}, but got {sharing!r}")
    if num_blocks < 1 or repeats < 1:
        raise ValueError(
            f"num_blocks and repeats must be at least 1, but got {num_blocks} and {repeats}"
        )
    if num_blocks * repeats > MOST_LAYERS:
        raise ValueError(
            f"num_blocks x repeats must be at most {MOST_LAYERS} layers, but got {num_blocks} and "
            f"{repeats}"
        )
    order = PATTERNS[sharing](num_blocks, repeats)
    return from_order(order, scope)


def from_order(order: Sequence[int], scope: str = "block") -> LayerMap:
    """The layer map that executes the shared blocks (or halves) in the given order.

    Raises:
        ValueError: unknown scope.
    """
    if scope == "block":
        return tuple((b, b) for b in order)
    if scope == "ffn":
        return tuple((layer, b) for layer, b in enumerate(order))
    if scope == "attention":
        return tuple((b, layer) for layer, b in enumerate(order))
    raise ValueError(f"sharing_scope must be one of {', '.join(SCOPES)}, but got {scope!r}")


def uses(blocks: Sequence[int]) -> tuple[int, ...]:
    """How many layers execute each block, given the block of every layer."""
    return tuple(blocks.count(b) for b in range(max(blocks) + 1))


def _between_ends(
    name: str, pattern: Callable[[int, int], Order], blocks: int, repeats: int
) -> Order:
    _require(
        name, blocks >= 3, "num_blocks must be at least 3", blocks, "it keeps both ends unshared"
    )
    middle = pattern(blocks - 2, repeats)
    return (0, *(b + 1 for b in middle), blocks - 1)


def _require(pattern: str, holds: bool, rule: str, given: int, advice: str) -> None:
    if not holds:
        raise ValueError(f"with sharing={pattern} {rule}, but got {given}; {advice}")
