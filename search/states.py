"""The states that trials, runs and studies can be in (docs/states.md).

Files and storage hold the strings.
"""

from enum import StrEnum


class State(StrEnum):
    """Of a trial in the study's storage: Optuna's."""

    WAITING = "WAITING"
    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAIL = "FAIL"


class Status(StrEnum):
    """How a run or a trial ended. Records hold the first three."""

    FINISHED = "finished"
    """Final."""
    DIVERGED = "diverged"
    """Final: its loss became infinite or NaN."""
    FAILED = "failed"
    """Memory or a crash: tried again when it is asked for again."""
    PRUNED = "pruned"
    """Stopped at a horizon: its checkpoint stays, and it goes on when it is asked for again."""
    INTERRUPTED = "interrupted"
    """The study was stopped: the next start goes on."""
    DUPLICATE = "duplicate"
    """The study has the run already, which came to no value."""
    RULED_OUT = "ruled_out"
    """Not trained: it is known to be beyond a constraint."""


class Kind(StrEnum):
    """Of an event that a worker tells its parent, or the parent its listener."""

    START = "start"
    """Of a run."""
    STEP = "step"
    """Of training."""
    ASK = "ask"
    """A zero-shot task is asked."""
    MEASURE = "measure"
    """A run is timed in an engine."""
    PRINT = "print"
    """A line of text to be shown."""
    IDLE = "idle"
    """Nothing can be decided before a run in progress ends."""
    END = "end"
    """Of a trial."""
    DONE = "done"
    """Nothing is left to do."""
    FATAL = "fatal"
    """No run can go on."""
    DEATH = "death"
    """A worker ended that was not to."""
    INTERRUPT = "interrupt"
    """The study was asked to stop."""


class Role(StrEnum):
    """What a trial of a search is for."""

    EXPLORE = "explore"
    """The first seed of an architecture."""
    REPLICATE = "replicate"
    """A further seed of a selected architecture."""


class End(StrEnum):
    """How one start of a study ended."""

    DONE = "done"
    INTERRUPTED = "interrupted"
    FATAL = "fatal"
    """No run can go on, as on a full disk."""
    LEFT = "left"
    """Workers go on by themselves, and nobody waits for them."""
    CRASHED = "crashed"
    """Workers keep dying."""
