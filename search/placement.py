"""Where and how a run is executed: what may change its speed but not its meaning."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Device choices of one worker. None and `auto` are settled on the machine and pinned by the checkpoint."""

    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: CUDA where there is one."""
    threads: int | None = None
    """CPU threads of one worker. Default: the cores divided among the workers."""
    micro_batch: int | None = None
    """Sequences in one forward and backward pass; the rest of the batch is accumulated."""
    attention: str = "auto"
    """`sdpa` (torch's fused kernel), `matmul` (two batched products), or `auto`."""
    compile: str = "auto"
    """`yes`, `no`, or `auto`: where a compiler is there and the run is long enough to pay for it."""
