"""The ranks of a worker's runs: the worker is the first, and starts the others here.

With `placement.gpus_per_run=k` a worker starts k - 1 processes when it first trains
(`search.train.rank`). Each trains its share of every run by `search.train.loop`, as the worker does
itself; all see the worker's GPUs, and take one each. A rank that dies takes its worker with it,
which the executor then replaces; a worker that dies takes its ranks.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # says no export, and has one

from search.data.packed import Data
from search.record import Record, Run
from search.train.agree import Parted, join
from search.train.loop import train
from search.train.placement import Placement, leave_group
from search.train.rank import PARENT

HERE = "127.0.0.1"
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo"}
"""All ranks are on one host, whose name need not lead anywhere."""
LEAVE_S = 20.0
"""For ranks that are to end; then they are killed."""


class NoRoom(ValueError):
    """Of a worker that sees fewer GPUs than a run is to have. Caught by workers."""


@dataclass
class Ranks:
    """This process and those that it trains runs with; alone, where there is one to a run."""

    placement: Placement
    others: list["subprocess.Popen[str]"] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    def train(self, run: Run, data: Data, folder: Path, **how: Any) -> Record:
        """See `search.train.loop.train`.

        Raises:
            NoRoom: this process sees too few GPUs.
        """
        if self.placement.gpus_per_run == 1:
            return train(run, data, folder, placement=self.placement, **how)
        if not self.others:
            self._start()
        self._order(run, data, folder)
        try:
            return train(run, data, folder, placement=self.placement, **how)
        except Parted as error:
            time.sleep(LEAVE_S)  # the thread that watches the dead one says more
            self._end(str(error))

    def close(self) -> None:
        """End the others, which have no run."""
        self.closing.set()
        if not self.others:
            return
        for other in self.others:
            assert other.stdin is not None, "a pipe was asked for"
            with suppress(BrokenPipeError):
                other.stdin.close()
        dist.destroy_process_group()
        leave_group()
        for other in self.others:
            try:
                other.wait(LEAVE_S)
            except subprocess.TimeoutExpired:
                other.kill()
                other.wait()
        self.others = []

    def _start(self) -> None:
        """Start the others and join them, on a port that is free."""
        size = self.placement.gpus_per_run
        require_gpus(self.placement)
        store = TCPStore(HERE, 0, size, is_master=True, wait_for_workers=False)
        os.environ |= LOOPBACK | _variables(0, size, store.port)
        for rank in range(1, size):
            other = subprocess.Popen(
                [sys.executable, "-m", "search.train.rank"],
                stdin=subprocess.PIPE,
                text=True,
                env=os.environ | _variables(rank, size, store.port) | {PARENT: str(os.getpid())},
                start_new_session=True,  # interrupts come to the first alone
            )
            self.others.append(other)
            threading.Thread(target=self._watch, args=(rank, other), daemon=True).start()
        for other in self.others:
            _write(other, asdict(self.placement))
        join(self.placement, store)

    def _order(self, run: Run, data: Data, folder: Path) -> None:
        for other in self.others:
            order = {"run": run.to_dict(), "data": str(data.folder), "folder": str(folder)}
            _write(other, order)

    def _watch(self, rank: int, other: "subprocess.Popen[str]") -> None:
        """End this process where a rank dies: it may be in a sum that never ends."""
        code = other.wait()
        if not self.closing.is_set():
            killed = code < 0
            how = f"was killed by {signal.Signals(-code).name}" if killed else f"ended with {code}"
            self._end(f"rank {rank} of {self.placement.gpus_per_run} {how}")

    def _end(self, reason: str) -> NoReturn:
        for other in self.others:
            other.kill()
        print(reason, file=sys.stderr, flush=True)
        os._exit(1)


def require_gpus(placement: Placement) -> None:
    """Raises: NoRoom where this process does not see a GPU for each rank."""
    if placement.device != "cpu" and (seen := torch.cuda.device_count()) < placement.gpus_per_run:
        raise NoRoom(
            f"placement.gpus_per_run must fit the GPUs that a worker has, but got "
            f"{placement.gpus_per_run} and {seen}; set it to {max(seen, 1)}, or give workers more"
        )


def _variables(rank: int, size: int, port: int) -> dict[str, str]:
    """Of one rank, as `torchrun` sets them."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    return {k: str(v) for k, v in numbers.items()} | {"MASTER_ADDR": HERE, "MASTER_PORT": str(port)}


def _write(other: "subprocess.Popen[str]", line: dict[str, Any]) -> None:
    assert other.stdin is not None, "a pipe was asked for"
    with suppress(BrokenPipeError):  # it is dead, which `_watch` notices
        other.stdin.write(json.dumps(line) + "\n")
        other.stdin.flush()
