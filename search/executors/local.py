"""Workers that are processes of this machine: what kills one run leaves the others.

Each gets an equal share of the cores, and a GPU where there are some, or `gpus_per_run` of them.
"""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from search.executors import Deliver, _mps, read_event
from search.states import Kind
from search.study.job import Job
from search.study.locks import HOST
from search.train.placement import Placement, gpus, require_room, share_cores


@dataclass(frozen=True)
class Child:
    """One worker process."""

    process: "subprocess.Popen[bytes]"
    path: Path
    start: int
    """Length of its log before it: earlier workers have written there."""

    @property
    def name(self) -> str:
        return f"{HOST}:{self.process.pid}"

    @property
    def log(self) -> str:
        return str(self.path)

    def stop(self) -> None:
        """Close its standard input, which it watches."""
        assert self.process.stdin is not None, "a pipe was asked for"
        with suppress(BrokenPipeError):  # it died before it had read its job
            self.process.stdin.close()

    def kill(self) -> None:
        self.process.kill()

    def last_words(self) -> str:
        """The last line of its log, or how it died."""
        code = self.process.returncode
        if code < 0:
            return f"its worker was killed by {signal.Signals(-code).name}"
        own = self.path.read_bytes()[self.start :].decode(errors="replace")
        lines = own.strip().splitlines()
        return lines[-1].strip() if lines else f"its worker ended with exit code {code}"


class Local:
    """`executor=local`."""

    mps: _mps.Daemon | None = None
    """That its workers share GPUs by, where it has started one."""
    mps_is_settled = False
    """Whether there is nothing to start."""

    def command(self) -> list[str]:
        """What starts a worker that reads its job from standard input."""
        return [sys.executable, "-m", "search.study.worker"]

    def slots(self, workers: int) -> int:
        return workers

    def require(self, placement: Placement, workers: int) -> None:
        """Raises: ValueError where this machine has too few GPUs, or lacks what they are to be
        shared by."""
        require_room(placement, workers)
        _mps.require(placement)

    def environment(self, job: Job, number: int) -> dict[str, str]:
        return environment(share_cores(job.placement, job.workers), number)

    def start(self, job: Job, number: int, deliver: Deliver) -> Child:
        self._share_gpus(job.placement, deliver)
        path = job.log(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab") as errors:
            start = errors.tell()
            process = subprocess.Popen(
                self.command(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={
                    **os.environ,
                    **self.environment(job, number),
                    **(self.mps.variables if self.mps else {}),
                },
                start_new_session=True,  # the terminal's interrupt comes to the parent alone
            )
        threading.Thread(target=listen, args=(process, deliver), daemon=True).start()
        assert process.stdin is not None, "a pipe was asked for"
        with suppress(BrokenPipeError):  # it died at once; the listener hears of it
            process.stdin.write(f"{number}\n{job.to_json()}\n".encode())
            process.stdin.flush()
        return Child(process, path, start)

    def _share_gpus(self, placement: Placement, deliver: Deliver) -> None:
        """Before the first worker: have them share GPUs by MPS, where that is wanted.

        Raises:
            ValueError: it was asked for and does not start.
        """
        if self.mps_is_settled:
            return
        self.mps_is_settled = True
        _mps.require(placement)
        if not _mps.is_wanted(placement):
            return
        try:
            self.mps = _mps.Daemon.start()
        except OSError as error:
            if placement.mps == "yes":
                raise ValueError(
                    f"placement.mps=yes must be possible, but {error}; use auto"
                ) from None
            text = f"workers use their GPU in turns, since MPS does not start: {error}"
            deliver({"event": Kind.PRINT, "text": text})

    def close(self) -> None:
        if self.mps is not None:
            self.mps.quit()
        self.mps, self.mps_is_settled = None, False


def listen(process: "subprocess.Popen[bytes]", deliver: Deliver) -> None:
    """Deliver the events of a process's standard output, a line each, and at its end None."""
    assert process.stdout is not None, "a pipe was asked for"
    try:
        for line in process.stdout:
            if not line.endswith(b"\n"):
                break  # cut off by its death
            deliver(read_event(line))
    finally:
        process.wait()
        deliver(None)


def environment(placement: Placement, number: int) -> dict[str, str]:
    """The threads of each of a worker's ranks, and its GPUs where there are some."""
    threads = str(placement.threads or 1)
    own = {name: threads for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    if placement.device != "cpu" and (cards := gpus()):
        own["CUDA_VISIBLE_DEVICES"] = ",".join(slot(cards, number, placement.gpus_per_run))
    return own


def slot(cards: list[str], number: int, size: int) -> list[str]:
    """The cards of worker `number`, `size` of them; workers beyond the last slot share."""
    first = number % max(1, len(cards) // size) * size
    return cards[first : first + size]


EXECUTOR = Local
