"""ExecuTorch, by the runtime that its wheel brings."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from search.engines import Asked, Engine, Session, clocked
from space.compat import set_executorch_threads
from space.formats.executorch import FILE, quiet


class ExecuTorchSession(Session):
    """A program in ExecuTorch's runtime."""

    def __init__(self, asked: Asked) -> None:
        import torch

        with quiet():
            from executorch.runtime import Runtime, Verification

        self.torch, self.position = torch, 0
        set_executorch_threads(asked.threads)
        runtime, path = Runtime.get(), asked.folder / FILE
        try:
            with clocked(self, "load"):
                verification = Verification.Minimal
                program = runtime.load_program(os.fspath(path), verification=verification)
            with clocked(self, "init"):
                self.method: Any = program.load_method("forward")
        except RuntimeError as error:
            said = str(error).splitlines()[0]
            raise ValueError(f"{path} must be a model that ExecuTorch loads, but {said}") from None

    def prefill(self, ids: Sequence[int]) -> None:
        self.position = 0  # what stood there before is masked, and then overwritten
        self._read(ids)

    def decode(self, token: int) -> None:
        self._read([token])

    def _read(self, ids: Sequence[int]) -> None:
        positions = self.torch.arange(self.position, self.position + len(ids))
        self.last = self.method.execute((self.torch.tensor([list(ids)]), positions))[0]
        self.position += len(ids)

    def logits(self) -> "np.ndarray[Any, np.dtype[np.float32]]":
        return np.array(self.last[0, -1].numpy())


class ExecuTorch(Engine):
    """`engine=executorch`."""

    format = "executorch"
    package = "executorch"
    extra = "executorch"
    shares = False

    def open(self, asked: Asked) -> Session:
        return ExecuTorchSession(asked)


ENGINE = ExecuTorch()
