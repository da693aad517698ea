"""Where a result comes from: the commit, the versions and the processor that made it."""

import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path


@cache
def versions() -> dict[str, str]:
    """Versions of what decides numbers."""
    packages = ("torch", "numpy", "tokenizers", "optuna")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


@cache
def device_name(kind: str) -> str:
    """The processor's or the card's name."""
    if kind == "cuda":
        import torch

        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.split(":")[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
