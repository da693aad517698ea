"""Builds, loads and tests `kernels.cpp`: built once per machine, tested once per process.

g++ takes a few seconds; the library is kept under a name made of its source, the compiler and the
processor. Where there is no compiler, or a kernel computes something else than torch does
(`search.train.kernels.selftest`), `library` says why and training does without.
"""

import ctypes
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from space.files import file_atomically

if TYPE_CHECKING:  # the parent process does without torch
    import torch
    from torch import Tensor

Argument = Union["Tensor", int, float, None]

SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-shared", "-fopenmp-simd")
ARITHMETIC = ("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
WIDE = "-mprefer-vector-width=512"
NAMES = {"torch.bfloat16": "bf16", "torch.float32": "fp32"}
"""Of the element types, by `str(dtype)`."""
MAX_HEAD_DIM = 1024
"""What the kernels reserve for one row of a head."""


class Unavailable(Exception):
    """The kernels cannot be used here; the message says why. Caught where another engine is
    taken."""


@cache
def library() -> ctypes.CDLL:
    """The kernels, built if they are not there, and tested.

    Raises:
        Unavailable: no compiler, or it failed; or a kernel is wrong on this machine.
    """
    loaded = _load()
    from search.train.kernels.selftest import wrong_kernels  # with torch

    if wrong := wrong_kernels(loaded):
        raise Unavailable(
            f"the kernels must compute what torch does, but {', '.join(wrong)} did not"
        )
    return loaded


def _load() -> ctypes.CDLL:
    wanted = os.environ.get("CXX", "g++")
    compiler = shutil.which(wanted)
    if compiler is None:
        raise Unavailable(f"no {wanted} is installed")
    flags = [*FLAGS, *ARITHMETIC, *([WIDE] if platform.machine() == "x86_64" else [])]
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    parts = (SOURCE.read_text(), version, " ".join(flags), _processor())
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    folder = _cache()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"kernels-{key}.so"
        if not path.is_file():
            _build([compiler, *flags, str(SOURCE)], path)
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise Unavailable(f"the kernels could not be built or loaded: {error}") from None


def _cache() -> Path:
    """Where built kernels are kept: below the temporary folder, one of this user alone, where there
    is no home that can be written."""
    given = os.environ.get("XDG_CACHE_HOME")
    home = os.path.expanduser("~")
    usual = Path(given) if given else Path(home) / ".cache"
    if (given or home != "~") and usual.is_absolute():
        with suppress(OSError):
            (usual / "isoparam").mkdir(parents=True, exist_ok=True)
            if os.access(usual / "isoparam", os.W_OK):
                return usual / "isoparam"
    own = Path(tempfile.gettempdir()) / f"isoparam-{os.getuid()}"
    own.mkdir(mode=0o700, exist_ok=True)
    if own.stat().st_uid != os.getuid():
        raise Unavailable(f"{own} must be a folder of this user, but is another's")
    return own


def _build(command: list[str], path: Path) -> None:
    """Compile it as a whole, so that workers that build at once do no harm."""
    with file_atomically(path) as part:
        made = subprocess.run([*command, "-o", str(part)], capture_output=True, text=True)
        if made.returncode:
            lines = made.stderr.strip().splitlines() or ["no reason given"]
            raise Unavailable(f"{command[0]} failed: {lines[0]}")


def _processor() -> str:
    """What `-march=native` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return "\n".join(sorted(set(named)))


@cache
def declarations() -> dict[str, list[type[Any]]]:
    """The types of the arguments of each kernel, read from its declaration in the C++ source."""
    source = SOURCE.read_text()
    exported = source[source.index("#define KERNELS") :].replace("\\\n", " ")
    found = re.findall(r"\bvoid (\w+?)(?:_##name)?\(([^)]*)\)", exported)
    return {name: [_c_type(argument) for argument in given.split(",")] for name, given in found}


def _c_type(argument: str) -> type[Any]:
    """Of `const float* gain` an address, of `long rows` a long."""
    if "*" in argument:
        return ctypes.c_void_p
    named: dict[str, type[Any]] = {
        "int": ctypes.c_int,
        "long": ctypes.c_long,
        "float": ctypes.c_float,
    }
    return named[argument.split()[0]]


def kernel(name: str, dtype: "torch.dtype | None", *arguments: Argument) -> Callable[[], object]:
    """A call of a kernel for an element type, or of one that has none, ready to be made.

    Tensors are passed by address: the caller keeps them. Arguments are in the order of the C++
    source, which has the shapes too.
    """
    return bound(library(), name, dtype, *arguments)


def bound(
    loaded: ctypes.CDLL, name: str, dtype: "torch.dtype | None", *arguments: Argument
) -> Callable[[], object]:
    """See `kernel`. Arguments become what the declaration says here, once, and not at each call,
    as they would by the function's `argtypes`: that would cost half a microsecond each time."""
    function = getattr(loaded, name if dtype is None else f"{name}_{NAMES[str(dtype)]}")
    given = (a if isinstance(a, int | float | None) else a.data_ptr() for a in arguments)
    return partial(function, *(t(a) for t, a in zip(declarations()[name], given, strict=True)))
