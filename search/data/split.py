"""Which documents are held out for validation: a matter of their content alone."""

import hashlib
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


def hold_out(hashes: Array, fraction: float, source: str) -> Array:
    """Which documents are validation: those with the lowest hashes, at least one.

    hashes: (documents,) uint64. Equal documents are on one side, and added ones move no others.

    Raises:
        ValueError: all documents are equal; `source` is where they come from.
    """
    if len(np.unique(hashes)) < 2:
        raise ValueError(
            "text must have two different documents, one of them to hold out, but "
            f"{source} has {len(hashes)}; give more text"
        )
    limit = np.uint64(int(fraction * (2**64 - 1)))
    held_out = hashes <= max(limit, hashes.min())
    return np.asarray(held_out if not held_out.all() else hashes < hashes.max())
