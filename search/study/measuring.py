"""Runs of a study timed in an engine.

Weights do not matter to it, and neither do seeds. Where nothing depends on the times, each
architecture is measured once on a machine when all runs are done and workers have left, in turns
with the others, and every run of it gets the result into its record. Where an objective is
measured, a worker measures each run of its own when it has trained it: the sampler needs to know,
and seeds then say how far times vary as they say it of losses.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from search.engines import ENGINES
from search.measure.config import Measuring
from search.measure.measured import identity, measure
from search.objectives import Targets
from search.record import Measured, Record
from search.runs import usable_record, write_record
from search.states import Status
from search.study.locks import HOST, run_lock
from space.arch import Architecture
from space.files import Fence
from space.words import count

if TYPE_CHECKING:
    from search.study.session import Session

POLL_S = 0.3
"""Between looks at whether another measures."""


def measure_runs(session: "Session[Any]") -> None:
    """Measure what was not measured so; trouble is said in one line and harms no run."""
    how, runs, targets = session.config.measure, session.job.runs, session.job.targets
    if how.engine is None:
        return
    keys = [str(run.key) for run in session.runs() if run.value is not None]
    records = [
        r for key in keys if (r := usable_record(runs / key)) and r.status == Status.FINISHED
    ]
    known = {r.run.architecture: m for r in records if (m := find(r, how)) is not None}
    lacking = [r for r in records if find(r, how) is None and not is_measured(r, targets)]
    new = list(
        dict.fromkeys(r.run.architecture for r in lacking if r.run.architecture not in known)
    )
    print_plan(new, how)
    try:
        known |= dict(zip(new, measure(new, how), strict=True)) if new else {}
    except ValueError as error:
        print(f"nothing was measured: {error}")
        return
    for record in lacking:
        add(runs, record.run.key, known[record.run.architecture])


def to_measure(record: Record, how: Measuring, targets: Targets) -> bool:
    """Whether an objective reads what was not measured of a run."""
    finished = record.status == Status.FINISHED
    return finished and bool(targets.measured) and find(record, how) is None


def measure_run(
    record: Record, folder: Path, how: Measuring, fence: Fence, check: Callable[[], None]
) -> Record:
    """The record with what the engine takes for its architecture, written to the run's folder.
    `fence` is asked before the writing, and `check` all along: it raises where this is to end.

    Raises:
        ValueError: the engine cannot execute it.
    """
    with _alone(folder.parent, check):
        (found,) = measure([record.run.architecture], how, lambda text: check())
    record = _with(record, found)
    write_record(folder, record, fence)
    return record


@contextmanager
def _alone(runs: Path, check: Callable[[], None]) -> Iterator[None]:
    """One measurement at a time on a host: all keep to the same processors."""
    lock = filelock.FileLock(runs / f".measuring-{HOST}")
    while not lock.is_locked:
        check()
        with suppress(filelock.Timeout):
            lock.acquire(timeout=POLL_S)
    try:
        yield
    finally:
        lock.release()


def require_measured(how: Measuring, targets: Targets) -> None:
    """Raises: ValueError where an objective is measured in an engine, and runs are not."""
    for objective in targets.measured:
        if objective.engine is not None:
            objective.engine.require(how, objective.short)


def measure_settings(how: Measuring, targets: Targets) -> dict[str, Any]:
    """What must not change under a study's name: how runs are measured, where that decides."""
    deciding = [*targets.objectives, *(limit.measure for limit in targets.limits)]
    if how.engine is None or not any(measure.engine for measure in deciding):
        return {}
    own = {name: value for name, value in asdict(how).items() if name != "repeats"}
    return {"measure": own | {"engine": ENGINES.identity(how.engine)}}


def print_plan(new: Sequence[Architecture], how: Measuring) -> None:
    if new:
        what = count(len(new), "architecture")
        print(f"measuring {what} with {how.engine}, {how.repeats} times each", flush=True)


def find(record: Record, how: Measuring) -> Measured | None:
    """What a record has that was measured so, on such a machine."""
    wanted = identity(how)
    return next(
        (m for m in record.measured if all(getattr(m, k) == v for k, v in wanted.items())), None
    )


def is_measured(record: Record, targets: Targets) -> bool:
    """Whether a record has all that objectives read, on whichever machine it was measured."""
    return bool(targets.measured) and all(
        m.engine and m.engine.find(record) for m in targets.measured
    )


def add(runs: Path, key: str, measured: Measured) -> None:
    """Give a run's record a measurement, in place of an earlier one under its columns' names."""
    with run_lock(runs, key):
        record = usable_record(runs / key)
        if record is not None:
            write_record(runs / key, _with(record, measured))


def _with(record: Record, measured: Measured) -> Record:
    others = tuple(m for m in record.measured if m.label != measured.label)
    return replace(record, measured=(*others, measured))
