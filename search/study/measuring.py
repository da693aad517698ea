"""Architectures of a study timed in an engine, once its runs are done and its workers have left.

Weights do not matter to it, and neither do seeds: each architecture is measured once on a machine,
in turns with the others, and every run of it gets the result into its record.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.measure.config import Measuring
from search.measure.measured import identity, measure
from search.record import Measured, Record
from search.runs import usable_record, write_record
from search.states import Status
from search.study.locks import run_lock
from space.arch import Architecture
from space.words import count

if TYPE_CHECKING:
    from search.study.session import Session


def measure_runs(session: "Session[Any]") -> None:
    """Measure what was not measured so; trouble is said in one line and harms no run."""
    how, runs = session.config.measure, session.job.runs
    if how.engine is None:
        return
    keys = [str(run.key) for run in session.runs() if run.value is not None]
    records = [
        r for key in keys if (r := usable_record(runs / key)) and r.status == Status.FINISHED
    ]
    known = {r.run.architecture: m for r in records if (m := find(r, how)) is not None}
    lacking = [r for r in records if find(r, how) is None]
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


def add(runs: Path, key: str, measured: Measured) -> None:
    """Give a run's record a measurement, in place of an earlier one under its columns' names."""
    with run_lock(runs, key):
        record = usable_record(runs / key)
        if record is not None:
            others = tuple(m for m in record.measured if m.label != measured.label)
            write_record(runs / key, replace(record, measured=(*others, measured)))
