"""One of the ranks that a worker starts (`search.train.ranks`): it trains its share of each run.

Standard input brings a JSON object a line: the placement, then each run with its data and folder.
Where it closes, nothing is left to train.
"""

import ctypes
import json
import os
import signal
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

PARENT = "ISOPARAM_FIRST_RANK"
"""In its environment: the process id of the worker."""


def main() -> None:
    """Live no longer than the worker, and train what it says."""
    _die_with(int(os.environ[PARENT]))
    train_what_comes()


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when the one that started it dies, even while it is
    stopped. Elsewhere than on Linux it ends at its next sum."""
    if sys.platform == "linux":
        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit("the first rank is gone")


def train_what_comes() -> None:
    """Join the others, and train until standard input closes."""
    import torch.distributed as dist  # takes seconds, in which the worker may die

    from search.data.cache import open_data
    from search.record import run_from_dict
    from search.train.agree import join
    from search.train.leftovers import give_back
    from search.train.loop import Stop, train
    from search.train.placement import Placement, world

    placement = Placement(**json.loads(sys.stdin.readline()))
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), world())  # type: ignore[attr-defined]
    join(placement, store)
    opened = cache(open_data)
    for line in sys.stdin:
        order = json.loads(line)
        run, data = run_from_dict(order["run"]), opened(order["data"])
        with suppress(Stop):
            train(run, data, Path(order["folder"]), placement=placement)
        give_back()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
