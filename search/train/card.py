"""The GPU of this machine, as a short-lived process finds it.

A process that has looked at a GPU keeps a CUDA context there until it ends: hundreds of megabytes
that workers then lack, and in exclusive mode the GPU itself. So the process that starts workers
asks another one, `python -m search.train.card`, which prints a line of JSON.
"""

import json
import math
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Self

from search.train.provenance import device_name

COMMAND = (sys.executable, "-m", "search.train.card")
MEASURED_S = 0.2
SIDE = 4096
"""Of the matrices that a GPU multiplies."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """The GPU that is a process's first."""

    name: str
    memory: int
    """Bytes."""
    flops_per_s: Mapping[str, float]
    """Of a matrix product, by precision."""

    @classmethod
    def here(cls) -> Self:
        """As this process finds it, which has a CUDA context from then on."""
        import torch

        found = torch.cuda.get_device_properties(torch.cuda.current_device())
        speeds = {name: product_speed("cuda", SIDE, name) for name in ("bf16", "fp32")}
        return cls(name=found.name, memory=found.total_memory, flops_per_s=speeds)


@cache
def card() -> Card:
    """As another process finds it: this one gets no CUDA context.

    Raises:
        ValueError: it does not answer.
    """
    asked = subprocess.run(COMMAND, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if asked.returncode:
        said = asked.stderr.strip().splitlines() or [f"exit code {asked.returncode}"]
        raise ValueError(
            f"a GPU that is seen must answer, but: {said[-1].strip()}; free it, or use "
            "placement.device=cpu"
        )
    return Card(**json.loads(asked.stdout.splitlines()[-1]))


def name_apart(device: str) -> str:
    """The processor's or the GPU's name, by a process that gets no CUDA context."""
    return card().name if device == "cuda" else device_name(device)


def product_speed(device: str, side: int, precision: str) -> float:
    """FLOPs per second of a product of two square matrices: of the fastest in a fifth of a second,
    since others may have waited for cores that were busy."""
    import torch

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a = torch.randn(side, side, device=device).to(dtype)
    a @ a
    fastest, end = math.inf, time.perf_counter() + MEASURED_S
    while (before := time.perf_counter()) < end:
        (a @ a)[0, 0].item()
        fastest = min(fastest, time.perf_counter() - before)
    return 2 * side**3 / fastest


if __name__ == "__main__":
    print(json.dumps(asdict(Card.here())))
