"""llama.cpp, by the library that the wheel of xllamacpp brings: no compiler is needed.

Its C interface is called by ctypes. Two structures of parameters are passed by value and grow from
version to version; they are taken from the library's own defaults, and of their fields only the
first two are set. `pyproject.toml` pins the version with which this is tested.

llama.cpp has no layers that share weights. With `shared`, the tensors of a block's later layers are
made to point to those of its first, after loading: what is moved then is what an engine would move
that knows of sharing, and the results stay the same.
"""

import ctypes as c
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from search.engines import Asked, Engine, Session, clocked
from space.formats.gguf import FILE, PLACES

POINTER = c.c_void_p
TENSOR_BYTES = 336
"""Of a `ggml_tensor`, within which its pointer to data lies."""
TOKEN_IDS = c.POINTER(c.c_int32)


class Parameters(c.Structure):
    """Larger than either structure of parameters."""

    _fields_ = (("bytes", c.c_uint8 * 1024),)


class Batch(c.Structure):
    """`llama_batch`, which only the library fills in."""

    _fields_ = (("tokens", c.c_int32), ("rest", POINTER * 6), ("more", c.c_uint8 * 64))


FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "llama_backend_init": (None, []),
    "llama_log_set": (None, [POINTER, POINTER]),
    "llama_model_default_params": (Parameters, []),
    "llama_context_default_params": (Parameters, []),
    "llama_model_load_from_file": (POINTER, [c.c_char_p, Parameters]),
    "llama_init_from_model": (POINTER, [POINTER, Parameters]),
    "llama_set_n_threads": (None, [POINTER, c.c_int32, c.c_int32]),
    "llama_get_memory": (POINTER, [POINTER]),
    "llama_memory_clear": (None, [POINTER, c.c_bool]),
    "llama_batch_get_one": (Batch, [TOKEN_IDS, c.c_int32]),
    "llama_decode": (c.c_int32, [POINTER, Batch]),
    "llama_get_logits_ith": (c.POINTER(c.c_float), [POINTER, c.c_int32]),
    "ggml_get_data": (POINTER, [POINTER]),
}
FIND_TENSOR = "_ZNK11llama_model10get_tensorEPKc"
"""`llama_model::get_tensor`, as C++ names it."""
LOG = c.CFUNCTYPE(None, c.c_int, c.c_char_p, POINTER)
WARNINGS = (3, 4)


def _log(level: int, text: bytes, _: Any) -> None:
    if level in WARNINGS:
        sys.stderr.write(text.decode(errors="replace"))


CALLED_BACK = LOG(_log)
"""The library calls it as long as the process lives."""


@cache
def library() -> Any:
    """The library, ready to load models."""
    import xllamacpp

    path = next(Path(xllamacpp.__file__).parent.glob("xllamacpp*.so"))
    found = c.CDLL(str(path))
    for name, (result, arguments) in FUNCTIONS.items():
        getattr(found, name).restype, getattr(found, name).argtypes = result, arguments
    found.llama_log_set(c.cast(CALLED_BACK, POINTER), None)
    found.llama_backend_init()
    return found


class LlamaCppSession(Session):
    """A model in llama.cpp."""

    def __init__(self, asked: Asked) -> None:
        self.library, self.vocab_size = library(), asked.architecture.vocab_size
        with clocked(self, "load"):
            model = self._load(asked.folder / FILE)
        if asked.shared:
            share(self.library, model, asked)
        with clocked(self, "init"):
            self.context = self._make_ready(model, asked.context)
        self.library.llama_set_n_threads(self.context, asked.threads, asked.threads)
        self.memory = self.library.llama_get_memory(self.context)

    def _load(self, path: Path) -> int:
        parameters = self.library.llama_model_default_params()
        model = self.library.llama_model_load_from_file(str(path).encode(), parameters)
        if not model:
            raise ValueError(f"{path} must be a model that llama.cpp loads, but it does not")
        return int(model)

    def _make_ready(self, model: int, room: int) -> int:
        parameters = self.library.llama_context_default_params()
        lengths = c.cast(c.byref(parameters), c.POINTER(c.c_uint32))
        lengths[0] = lengths[1] = room  # and tokens that are read at once
        context = self.library.llama_init_from_model(model, parameters)
        if not context:
            raise ValueError(f"llama.cpp must have room for {room} tokens, but has not")
        return int(context)

    def prefill(self, ids: Sequence[int]) -> None:
        self.library.llama_memory_clear(self.memory, True)
        self._read(ids)

    def decode(self, token: int) -> None:
        self._read([token])

    def _read(self, ids: Sequence[int]) -> None:
        tokens = (c.c_int32 * len(ids))(*ids)
        batch = self.library.llama_batch_get_one(tokens, len(ids))
        if code := self.library.llama_decode(self.context, batch):
            raise ValueError(f"llama.cpp must read {len(ids)} tokens, but ended with code {code}")

    def logits(self) -> "np.ndarray[Any, np.dtype[np.float32]]":
        found = self.library.llama_get_logits_ith(self.context, -1)
        return np.ctypeslib.as_array(found, (self.vocab_size,)).copy()


def share(library: Any, model: int, asked: Asked) -> None:
    """Make layers that share a block read the weights of the first of them."""
    for name, first in copies(asked):
        ours, theirs = (_tensor(library, model, place) for place in (name, first))
        old, new = library.ggml_get_data(ours), library.ggml_get_data(theirs)
        words = (c.c_uint64 * (TENSOR_BYTES // 8)).from_address(ours)
        places = [i for i, word in enumerate(words) if word == old]
        if len(places) != 1:
            raise ValueError(
                "xllamacpp must be of the version that shared=true is written for, but its tensors "
                "are laid out differently; install the pinned one, or set shared=false"
            )
        words[places[0]] = new


def copies(asked: Asked) -> Iterator[tuple[str, str]]:
    """Each matrix that is a copy, and the one that it is a copy of."""
    seen: dict[tuple[str, int], int] = {}
    for layer, (attention, ffn) in enumerate(asked.architecture.layers):
        for half, block in (("self_attn", attention), ("mlp", ffn)):
            first = seen.setdefault((half, block), layer)
            if first != layer:
                for module, place in PLACES.items():
                    if module.startswith(half) and module.endswith("_proj"):
                        yield f"blk.{layer}.{place}.weight", f"blk.{first}.{place}.weight"


def _tensor(library: Any, model: int, name: str) -> int:
    find = library[FIND_TENSOR]
    find.restype, find.argtypes = POINTER, [POINTER, c.c_char_p]
    return int(find(model, name.encode()))


class LlamaCpp(Engine):
    """`engine=llama_cpp`."""

    format = "gguf"
    package = "xllamacpp"
    extra = "llama"
    shares = True

    def open(self, asked: Asked) -> Session:
        return LlamaCppSession(asked)


ENGINE = LlamaCpp()
