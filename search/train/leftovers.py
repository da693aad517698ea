"""Memory that a process would keep of the runs before: its caches are bounded, and what is free is
given back."""

import ctypes
import os
from contextlib import suppress

import torch

CACHED_PRIMITIVES = 128
"""Compiled products that oneDNN and torch's wrapper of it each keep, instead of 1,024. A run needs
three for each of the six or seven shapes of matrices in a layer; each takes about 0.1 MB."""

for _name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
    os.environ.setdefault(_name, str(CACHED_PRIMITIVES))  # read at the first product in bfloat16


def give_back() -> None:
    """Return free memory to the system. glibc keeps it where small blocks that live on lie between
    the large ones of earlier shapes."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
    with suppress(OSError, AttributeError):  # other libraries of C have no such function
        ctypes.CDLL(None).malloc_trim(0)
