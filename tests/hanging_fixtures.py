"""A pool whose worker hangs, in a process of its own: others leave in theirs what takes signals."""

import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from study_fixtures import open_search

from search.executors import Deliver
from search.study.pool import Pool


@dataclass
class Hung:
    """A worker that takes no notice of being stopped."""

    deliver: Deliver
    name: str = "host:1"
    log: str = ""
    stops: list[float] = field(default_factory=list)

    def stop(self) -> None:
        self.stops.append(time.monotonic())

    def kill(self) -> None:
        self.deliver(None)

    def last_words(self) -> str:
        return "killed"


@dataclass
class Hanging:
    """An executor of such workers."""

    worker: Hung | None = None

    def slots(self, workers: int) -> int:
        return workers

    def environment(self, job: Any, number: int) -> dict[str, str]:
        return {}

    def start(self, job: Any, number: int, deliver: Deliver) -> Hung:
        self.worker = Hung(deliver)
        return self.worker

    def close(self) -> None: ...


class Slow(Pool):
    """Its signal handler outlasts the wait for an event: CPython's `SimpleQueue.get` then waits on
    without an end, unless something was put."""

    def __setattr__(self, name: str, value: object) -> None:
        if name == "interrupts" and value:
            time.sleep(0.6)
        super().__setattr__(name, value)


def main(number: int) -> None:
    """Send this process a signal while its pool runs; print how that ends."""
    signal.signal(number, signal.SIG_DFL)  # children inherit what a test's process ignores
    search = open_search(Path.cwd())
    executor = Hanging()
    pool = Slow(search.job, search.study, 1, lambda *_: None, executor, patience_s=0.1)  # type: ignore[arg-type]
    threading.Timer(0.5, os.kill, (os.getpid(), number)).start()
    ending = pool.run()
    search.lock.release()
    assert executor.worker is not None
    print(f"{ending.kind}, {'asked first' if executor.worker.stops else 'at once'}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
