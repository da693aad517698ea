"""One measurement, in the process that runs this: a job of JSON in, times out.

The process keeps to as many processors as it has threads. Times are the clock's and, beside it,
those that its threads ran: on a machine that others use the second is what the model took.
"""

import json
import os
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

Times = dict[str, list[float]]


def main() -> None:
    """Measure what standard input asks for; the last line of standard output has the times."""
    job = json.load(sys.stdin)
    pin(job["asked"]["threads"])
    from search.engines import ENGINES, Asked
    from space.arch import Architecture

    values = job["asked"]
    values["architecture"] = Architecture.from_dict(values["architecture"])
    asked = Asked(**{**values, "folder": Path(values["folder"])})
    engine = ENGINES.load(job["engine"])
    import_module(engine.package)
    times: Times = {}
    try:
        measure(lambda: engine.open(asked), job["context"], job["steps"], asked, times)
    except ValueError as error:
        sys.exit(str(error))
    print(json.dumps(times))


def pin(threads: int) -> None:
    """Keep to so many processors, the last of those that there are: the first serves interrupts."""
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, allowed[-threads:])


def measure(open_: Callable[[], Any], context: int, steps: int, asked: Any, times: Times) -> None:
    """Load a model, read a prompt of random tokens twice and decode: milliseconds and megabytes
    into `times`. The first reading finds nothing in the caches, and is not counted."""
    before = memory("VmRSS")
    session = open_()
    for name in ("load_ms", "load_cpu_ms", "init_ms", "init_cpu_ms"):
        times[name] = [getattr(session, name)]
    draw = random.Random(0)
    ids = [draw.randrange(asked.architecture.vocab_size) for _ in range(context + steps)]
    session.prefill(ids[:context])
    clocked("prefill", lambda: session.prefill(ids[:context]), times)
    for token in ids[context:]:
        clocked("decode", partial(session.decode, token), times)
    times["peak_mb"] = [(memory("VmHWM") - before) / 1e6]


def clocked(name: str, step: Callable[[], None], times: Times) -> None:
    """Add what a step takes: by the clock, and of the processors."""
    started, busy = time.perf_counter(), time.process_time()
    step()
    times.setdefault(f"{name}_cpu_ms", []).append(1e3 * (time.process_time() - busy))
    times.setdefault(f"{name}_ms", []).append(1e3 * (time.perf_counter() - started))


def memory(name: str) -> int:
    """Bytes of this process that the kernel counts under a name; 0 where it does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)


if __name__ == "__main__":
    main()
