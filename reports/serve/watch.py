"""What runs, as `python -m search.status` sees it, in a process of its own.

A page never waits for a storage that is away, and a damaged one stops no page.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from space.overrides import quoted

IDLE_S = 60.0
"""Nobody has asked for so long: the process ends, and begins again with the next question."""
AGAIN_S = 10.0
"""Between two starts of it."""

Found = Mapping[str, Mapping[str, Any]]


class Watch:
    """The last look at all studies of `outputs`, or of a storage, for pages that ask for it."""

    def __init__(self, outputs: Path, storage: str | None, every_s: float) -> None:
        given = [f"outputs={quoted(str(outputs))}", "format=json", "watch=true"]
        given += [f"every_s={every_s}"]
        given += [] if storage is None else [f"storage={quoted(storage)}"]
        self.every_s = every_s
        self.command = [sys.executable, "-m", "search.status", *given]
        self.found: Found | None = None
        """None before the first look."""
        self.trouble = ""
        """What the process said besides."""
        self._process: subprocess.Popen[str] | None = None
        self._asked = self._started = -AGAIN_S
        self._lock = threading.Lock()

    def look(self) -> Found | None:
        """The last look, by folder under `outputs`; None while there was none."""
        with self._lock:
            self._asked = time.monotonic()
            ended = self._process is None or self._process.poll() is not None
            if ended and self._asked - self._started >= AGAIN_S:
                self._start()
        return self.found

    def _start(self) -> None:
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # Ctrl-C is for this process, which ends that one
        )
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None, "it is a pipe"
        for line in process.stdout:
            try:
                found = json.loads(line)
            except ValueError:
                self.trouble = line.strip()
                continue
            if isinstance(found, dict):
                self.found, self.trouble = found, ""
            if time.monotonic() - self._asked > IDLE_S:
                process.terminate()
        process.wait()
        self.found = None  # what it last saw is true no more

    def close(self) -> None:
        """End the process."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()
