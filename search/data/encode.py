"""Stretches of documents encoded into parts: files that stay until all are there.

Each part is named by what it follows from and put in place as a whole, by whichever process or
host: what one has made no other makes again, and two that make the same make the same bytes.
`python -m search.data.encode JOB` is one process of them. It is given numbers of stretches, a line
each, and answers each by a line.
"""

import io
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from search.data.hashes import digest_of
from search.data.split import Array, content_hash
from search.data.stretches import Stretch, checked
from search.data.tokenizer import encoded
from space.files import file_atomically, write_atomically
from space.seals import digest, digest_of_file
from space.words import duration

Progress = Callable[[str], None]
REPORT_S = 2
DIGITS = 32
"""Of a digest, at the end of a file."""


class Part(NamedTuple):
    """The encoded documents of a stretch: their tokens in one file, what is known of each in
    another, which is written last and ends with a digest of both."""

    tokens: Path
    known: Path

    def there(self) -> bool:
        """Whether it is whole."""
        return self.known.exists() and self.tokens.exists()

    def sound(self) -> bool:
        """Whether it is whole, and as it was written."""
        if not self.there():
            return False
        content = self.known.read_bytes()
        return content[-DIGITS:] == self._digest(content[:-DIGITS])

    def finish(self, documents: Array) -> None:
        """Write what is known of its documents, once its tokens are there."""
        made = io.BytesIO()
        np.save(made, documents)
        write_atomically(self.known, made.getvalue() + self._digest(made.getvalue()))

    def _digest(self, known: bytes) -> bytes:
        return digest(digest_of_file(self.tokens).encode() + known).encode()

    def documents(self) -> Array:
        """(documents, 3) uint64: hash of the content, tokens, bytes of UTF-8."""
        found: Array = np.load(self.known)
        return found

    def claim(self) -> bool:
        """Whether nobody said before that it makes this one. It is a hint: others come first."""
        try:
            self.known.with_suffix(".claim").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def remove(self) -> None:
        """Once it is not needed any more."""
        for path in (self.known, self.tokens, self.known.with_suffix(".claim")):
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Job:
    """Stretches to encode by one tokenizer."""

    folder: Path
    """Of the parts."""
    tokenizer: str
    """As its JSON."""
    end_token: int
    dtype: str
    stretches: Sequence[Stretch]

    @cached_property
    def parts(self) -> list[Part]:
        """A part for each stretch."""
        by = [digest_of(self.tokenizer), self.end_token, self.dtype]
        names = [digest_of([each.identity, *by]) for each in self.stretches]
        return [Part(self.folder / f"{n}.bin", self.folder / f"{n}.npy") for n in names]

    def make(self, number: int, tokenizer: Tokenizer) -> tuple[int, int]:
        """Encode a stretch: (tokens, bytes).

        Raises:
            ValueError, OSError: its documents cannot be read, or the part cannot be written.
        """
        part, known = self.parts[number], list[tuple[int, int]]()

        def texts() -> Iterator[str]:
            for text, content in checked(self.stretches[number].documents()):
                known.append((content_hash(content), len(content)))
                yield text

        lengths: list[int] = []
        with file_atomically(part.tokens) as path, path.open("wb") as file:
            for ids, of_each in encoded(tokenizer, texts(), self.end_token):
                np.array(ids, dtype=self.dtype).tofile(file)
                lengths += of_each
        rows = [(each, n, size) for (each, size), n in zip(known, lengths, strict=True)]
        index = np.array(rows, dtype=np.uint64).reshape(-1, 3)
        part.finish(index)
        return int(index[:, 1].sum()), int(index[:, 2].sum())

    def write(self, path: Path) -> None:
        """For other processes."""
        write_atomically(path, json.dumps(asdict(self), default=str))

    @staticmethod
    def read(path: Path) -> "Job":
        """What `write` wrote."""
        content = json.loads(path.read_text())
        stretches = [Stretch.of_json(each) for each in content["stretches"]]
        return Job(**{**content, "folder": Path(content["folder"]), "stretches": stretches})


def encode(job: Job, processes: int, progress: Progress) -> list[Part]:
    """The parts of all stretches. Those that are missing or damaged are encoded, in so many
    processes.

    Raises:
        ValueError, OSError: a document cannot be read, or a process was killed.
    """
    missing = [n for n, part in enumerate(job.parts) if not part.sound()]
    for number in missing:
        if job.parts[number].there():
            progress(f"data: {job.parts[number].known} is damaged, and encoded again")
            job.parts[number].remove()
    meter = Meter(sum(job.stretches[n].n_bytes for n in missing), progress)
    if kept := len(job.parts) - len(missing):
        progress(f"data: {kept} of {len(job.parts)} parts are encoded already")
    queue = Queue(job.parts, missing)
    if len(missing) == 1 or processes == 1:
        tokenizer = Tokenizer.from_str(job.tokenizer)
        for number in queue:
            meter.add(job.stretches[number].n_bytes, *job.make(number, tokenizer))
    elif missing:
        _in_processes(job, queue, min(processes, len(missing)), meter)
    return job.parts


def _in_processes(job: Job, queue: "Queue", processes: int, meter: "Meter") -> None:
    path = job.folder / f"{platform.node()}-{os.getpid()}.job"
    job.write(path)
    try:
        with ThreadPoolExecutor(processes) as pool:
            try:
                told = [pool.submit(_tell, job, path, queue, meter) for _ in range(processes)]
                for each in told:
                    each.result()
            finally:
                queue.close()
    finally:
        path.unlink(missing_ok=True)


def _tell(job: Job, path: Path, queue: "Queue", meter: "Meter") -> None:
    """Give numbers to a process of one's own until there are no more."""
    try:
        with _process(path) as (ask, answers):
            for number in queue:
                print(number, file=ask, flush=True)
                answer = answers.readline()
                if not answer:
                    raise ValueError(
                        "processes that encode must live, but one was killed, perhaps for want of "
                        "memory; the same command goes on, with fewer by data.processes=N"
                    )
                meter.add(job.stretches[number].n_bytes, *_answered(json.loads(answer)))
    except BaseException:
        queue.close()
        raise


def _answered(answer: dict[str, Any]) -> tuple[int, int]:
    """Raises: ValueError, OSError where it is an error."""
    if "error" in answer:
        raise (ValueError if answer["kind"] == "value" else OSError)(answer["error"])
    return answer["tokens"], answer["bytes"]


@contextmanager
def _process(job: Path) -> Iterator[tuple[IO[str], IO[str]]]:
    """(what it is given, what it answers by). It ends when nothing more is given, this
    process' death included."""
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "search.data.encode", str(job)]
    own = {"PYTHONPATH": paths, "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
    with subprocess.Popen(
        command,
        env={**os.environ, **own},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        assert process.stdin is not None, "a pipe"
        assert process.stdout is not None, "a pipe"
        try:
            yield process.stdin, process.stdout
        finally:
            with suppress(BrokenPipeError):
                process.stdin.close()


class Queue:
    """What is still to be encoded, for several threads: first what nobody else says that it makes,
    at last the rest, for they may be dead."""

    def __init__(self, parts: Sequence[Part], missing: Sequence[int]) -> None:
        self._parts, self._lock = parts, threading.Lock()
        self._left, self._claimed = deque(missing), deque[int]()

    def __iter__(self) -> Iterator[int]:
        while (number := self._next()) is not None:
            yield number

    def _next(self) -> int | None:
        with self._lock:
            while self._left:
                number = self._left.popleft()
                if self._parts[number].there():
                    continue
                if self._parts[number].claim():
                    return number
                self._claimed.append(number)
            while self._claimed:
                number = self._claimed.popleft()
                if not self._parts[number].there():
                    return number
            return None

    def close(self) -> None:
        """Nothing more is given out."""
        with self._lock:
            self._left.clear()
            self._claimed.clear()


class Meter:
    """How far encoding is, said now and then."""

    def __init__(self, n_bytes: int, progress: Progress) -> None:
        self._progress, self._lock = progress, threading.Lock()
        self._all, self._done, self._tokens = n_bytes, 0, 0
        self._started = self._told = time.monotonic()

    def add(self, n_bytes: int, tokens: int, text_bytes: int) -> None:
        """A stretch of so many bytes, as they were estimated, is done."""
        with self._lock:
            self._done += n_bytes
            self._tokens += tokens
            now = time.monotonic()
            if now - self._told > REPORT_S:
                self._told = now
                self._progress(self._said(now - self._started))

    def _said(self, seconds: float) -> str:
        left = duration(seconds * (self._all / max(1, self._done) - 1))
        return (
            f"data: encoded {self._done / 1e9:.2f} of {self._all / 1e9:.2f} GB, "
            f"{self._tokens / 1e6:.1f} M tokens, {self._tokens / seconds / 1e6:.2f} M/s, "
            f"{left} left"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Encode what standard input says."""
    job = Job.read(Path((arguments or sys.argv[1:])[0]))
    tokenizer = Tokenizer.from_str(job.tokenizer)
    with suppress(KeyboardInterrupt):  # it is the parent's, which then closes the input
        for line in sys.stdin:
            try:
                tokens, n_bytes = job.make(int(line), tokenizer)
                answer: dict[str, Any] = {"tokens": tokens, "bytes": n_bytes}
            except ValueError as error:
                answer = {"error": str(error), "kind": "value"}
            except OSError as error:
                answer = {"error": str(error), "kind": "disk"}
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
