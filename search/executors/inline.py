"""One worker in this process: for debuggers, profilers and notebooks.

An interrupt stops it as it does others: it writes a checkpoint and ends.
"""

import ctypes
import os
import threading
import traceback

from search.executors import Deliver
from search.study.job import Job
from search.study.locks import HOST
from search.train.placement import Placement


class Inside(threading.Thread):
    """The worker in a thread of its own, for interrupts come to the main one."""

    def __init__(self, job: Job, number: int, deliver: Deliver) -> None:
        self.owner, self.stopping = f"{HOST}:{os.getpid()}", threading.Event()
        self.job, self.number, self.deliver = job, number, deliver
        self.path = job.log(number)
        self.words = "it ended without a word"
        super().__init__(name=self.owner, daemon=True)

    @property
    def log(self) -> str:
        return str(self.path)

    def run(self) -> None:
        from search.study.worker import work  # with torch, which only workers need

        try:
            work(self.job, self.number, self.deliver, self.stopping, self.owner)
        except BaseException as error:
            self.words = traceback.format_exception_only(error)[-1].strip()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a") as log:
                traceback.print_exception(error, file=log)

    def start(self) -> None:
        super().start()
        threading.Thread(target=self._deliver_its_end, daemon=True).start()

    def _deliver_its_end(self) -> None:
        """In a thread of its own, which no `kill` interrupts."""
        self.join()
        self.deliver(None)

    def stop(self) -> None:
        self.stopping.set()

    def kill(self) -> None:
        """Raise KeyboardInterrupt in the thread, at its next line of Python."""
        self.stop()
        if self.ident is not None and self.is_alive():
            raised = ctypes.py_object(KeyboardInterrupt)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.ident), raised)

    def last_words(self) -> str:
        return self.words


class Inline:
    """`executor=inline`."""

    def slots(self, workers: int) -> int:
        return 1

    def require(self, placement: Placement, workers: int) -> None:
        """Raises: ValueError for runs of several ranks: one that dies would end this process. And
        for MPS, which is for several workers."""
        if placement.mps == "yes":
            raise ValueError(
                "placement.mps must be auto or no with executor=inline, which has one worker, but "
                "got yes; use executor=local"
            )
        if placement.gpus_per_run > 1:
            raise ValueError(
                "placement.gpus_per_run must be 1 with executor=inline, which trains in this "
                f"process, but got {placement.gpus_per_run}; use executor=local"
            )

    def environment(self, job: Job, number: int) -> dict[str, str]:
        return {}

    def start(self, job: Job, number: int, deliver: Deliver) -> Inside:
        worker = Inside(job, number, deliver)
        worker.start()
        return worker

    def close(self) -> None: ...


EXECUTOR = Inline
