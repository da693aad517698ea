"""Which documents are held out for validation: a matter of their content alone."""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def content_hash(content: bytes) -> int:
    """64 bits."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def capped(hashes: Array, held_out: Array, lengths: Array, most: int) -> Array:
    """Which of the documents that are held out stay so: those with the lowest hashes, one at least,
    as long as they have no more than `most` tokens together. Equal documents stay together. The
    others are for training.

    hashes: (documents,). held_out: (documents,). lengths: tokens of those that are held out.
    """
    places = np.flatnonzero(held_out)
    order = np.lexsort((places, hashes[places]))
    enough = max(1, int(np.searchsorted(np.cumsum(lengths[order]), most, side="right")))
    kept = np.zeros_like(held_out)
    kept[places[order[:enough]]] = True
    return np.asarray(kept | held_out & np.isin(hashes, hashes[kept]))


def threshold(hashes: Iterable[int], fraction: float, source: str) -> int:
    """The documents with hashes up to this one are validation: those with the lowest, at least one
    and not all. Equal documents are on one side, and added ones move no others. No more hashes are
    looked at than decide it.

    Raises:
        ValueError: all documents are equal; `source` is where they come from.
    """
    limit = int(fraction * (2**64 - 1))
    n, lowest, highest = 0, 2**64, -1
    for each in map(int, hashes):
        n, lowest, highest = n + 1, min(lowest, each), max(highest, each)
        if lowest <= limit < highest:
            return limit
    if lowest >= highest:
        raise ValueError(
            "text must have two different documents, one of them to hold out, but "
            f"{source} has {n} (a txt file is cut into documents at blank lines, every 4 to 64 "
            "thousand characters); give more text"
        )
    return lowest if lowest > limit else highest - 1


def hold_out(hashes: Array, fraction: float, source: str) -> Array:
    """Which documents are validation, by `threshold`. hashes: (documents,) uint64."""
    return np.asarray(hashes <= np.uint64(threshold(hashes, fraction, source)))
