"""NVIDIA's Multi-Process Service (MPS): processes that share a GPU use it at once, not in turns.

A control daemon (`nvidia-cuda-mps-control -d`) serves the processes that find its sockets in
CUDA_MPS_PIPE_DIRECTORY. One that is there already is used as it is; else an executor starts one of
its own for its workers, and ends it when they have. Variables and commands are those of
docs.nvidia.com/deploy/mps. CUDA_MPS_ACTIVE_THREAD_PERCENTAGE stays as the user has it, by default
unset: it would hold the last worker of a study to a share of a GPU that is otherwise idle.
"""

import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from search.train.placement import Placement, gpus

CONTROL = "nvidia-cuda-mps-control"
PIPES, LOGS, VISIBLE = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY", "CUDA_VISIBLE_DEVICES"
FOLDERS = "/tmp"
"""Where folders of daemons are made: on this machine, and with a short name, for the path of a
socket has 108 bytes at most."""
ANSWER_S = 20.0
"""For the daemon to start, and to end."""


def require(placement: Placement) -> None:
    """Raises: ValueError where MPS is asked for and cannot be had on this machine."""
    if placement.mps != "yes" or os.environ.get(PIPES):
        return
    if shutil.which(CONTROL) is None:
        raise ValueError(
            f"placement.mps=yes needs {CONTROL}, which is not on the PATH; install NVIDIA's MPS, "
            "or use auto"
        )
    if not gpus():
        raise ValueError("placement.mps=yes needs a GPU, and none is seen; use auto")


def is_wanted(placement: Placement) -> bool:
    """Whether a daemon is to be started for workers that are placed so."""
    shared = placement.sharing > 1 and placement.device != "cpu"
    if not shared or placement.mps == "no" or os.environ.get(PIPES):
        return False
    return (placement.mps == "yes" or shutil.which(CONTROL) is not None) and bool(gpus())


@dataclass(frozen=True)
class Daemon:
    """A control daemon that this process has started."""

    held: "tempfile.TemporaryDirectory[str]"

    @property
    def folder(self) -> Path:
        """Of its sockets and its log."""
        return Path(self.held.name)

    @classmethod
    def start(cls) -> "Daemon":
        """Start one.

        Raises:
            OSError: it does not start; the message says why.
        """
        daemon = cls(tempfile.TemporaryDirectory(prefix="isoparam-mps-", dir=FOLDERS))
        try:
            for place in daemon.variables.values():
                Path(place).mkdir()
            daemon._call("-d")
        except OSError:
            daemon._remove()
            raise
        return daemon

    @property
    def variables(self) -> dict[str, str]:
        """Those by which a process finds it."""
        return {PIPES: str(self.folder / "pipe"), LOGS: str(self.folder / "log")}

    def quit(self) -> None:
        """End it, and leave nothing of it."""
        with suppress(OSError):  # it may be dead
            self._call(says="quit\n")
        self._remove()

    def _remove(self) -> None:
        with suppress(OSError):
            self.held.cleanup()

    def _call(self, *arguments: str, says: str = "") -> None:
        """Call the daemon's program. What it prints goes to a file, for what it leaves running
        keeps that open.

        Raises:
            OSError: it fails, or does not answer.
        """
        printed = self.folder / "printed"
        try:
            with printed.open("w") as file:
                subprocess.run(
                    [CONTROL, *arguments],
                    input=says,
                    text=True,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env={**_machine(), **self.variables},
                    timeout=ANSWER_S,
                    check=True,
                    start_new_session=True,  # the terminal's interrupt comes to the parent alone
                )
        except subprocess.SubprocessError as error:
            said = printed.read_text(errors="replace").strip().splitlines()
            raise OSError(f"{CONTROL}: {said[-1] if said else error}") from None


def _machine() -> dict[str, str]:
    """The environment in which a daemon sees GPUs by the numbers that its clients use: it would
    count those of CUDA_VISIBLE_DEVICES from 0. GPUs that are named by their UUIDs it may see."""
    variables = dict(os.environ)
    if not variables.get(VISIBLE, "").startswith(("GPU-", "MIG-")):
        variables.pop(VISIBLE, None)
    return variables
