"""Who runs workers where: a file for each executor, and users' own (docs/doors/executor.md).

An executor starts workers and says how they ended. What is common to all of them, watching workers,
replacing those that die and stopping them, is `search.study.pool`.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from search.states import Kind
from space.doors import Door, require_arguments, taking_options

if TYPE_CHECKING:
    from search.study.job import Job

Event = dict[str, Any]
"""What a worker reports: `event` says of what kind it is, the rest is of that kind. It is JSON."""
Deliver = Callable[[Event | None], None]
"""Takes a worker's events in their order, from any thread, and None once it has ended."""


class Handle(Protocol):
    """A worker that was started.

    It may have `lost` besides: whether it ended because its host was taken from it, which is no
    fault of its run. Asked for after its end. And `watched`: whether its host replaces it where it
    hangs; else a worker that is silent for too long is killed.
    """

    name: str
    """Of the owner of its trials: what the worker itself was given, or `host:process id`."""
    log: str
    """Where to read what it printed, as messages have it."""

    def stop(self) -> None:
        """Ask it to write a checkpoint and end. Does nothing if it has ended."""
        ...

    def kill(self) -> None:
        """End it at once. Does nothing if it has ended."""
        ...

    def last_words(self) -> str:
        """Why it ended, in a line. Asked for after its end."""
        ...


class Executor(Protocol):
    """Who runs workers where. It is made of `executor.options`; making it starts nothing.

    It may have `leave(job)` besides, for workers that need no parent: see to it that they work on
    the job, and return what to tell the user, who is not to wait for them; None: wait.
    `usual_workers(placement)`: how many workers `workers=auto` is, where that does not follow from
    this machine. `hosts()`: on how many machines they are to run; SQLite is refused for several.
    And `require(placement, workers)`, which raises ValueError where so many workers cannot have
    what the placement asks for, such as GPUs.
    """

    def slots(self, workers: int) -> int:
        """How many workers it runs at once where `workers` are asked for."""
        ...

    def environment(self, job: "Job", number: int) -> Mapping[str, str]:
        """Variables that worker `number` has besides those of the process that starts it, such as
        its threads and its GPU."""
        ...

    def start(self, job: "Job", number: int, deliver: Deliver) -> Handle:
        """Start worker `number` on the job, which runs `search.study.worker`, and return at once.

        Each event goes to `deliver`, and when the worker has ended, however it did, None.

        Raises:
            ValueError: no worker can have what the placement asks for; the study ends.
        """
        ...

    def close(self) -> None:
        """Let go of what it holds. No worker is left."""
        ...


EXECUTORS = Door("executor", __name__, Executor, short=True)  # type: ignore[type-abstract]


@dataclass(frozen=True, kw_only=True)
class ExecutorConfig:
    """Where workers run."""

    door: ClassVar[Door[Executor]] = EXECUTORS
    name: str = "local"
    """`local`: processes on this machine; `inline`: one worker in this process; or yours:
    `mine.py`. More machines join by the same command."""
    options: dict[str, Any] = field(default_factory=dict)
    """Arguments of the executor."""

    def __post_init__(self) -> None:
        EXECUTORS.load(self.name, "executor.name")

    def make(self) -> Executor:
        """The executor with its options.

        Raises:
            ValueError: an option that it does not take.
        """
        kind: Any = EXECUTORS.load(self.name)
        require_arguments("executor", f"executor={self.name}", kind, self.options)
        with taking_options("executor.options", f"executor={self.name}", self.options):
            made: Executor = kind(**self.options)
        return made


def read_event(line: bytes) -> Event:
    """The event of a line of JSON; a line that is not JSON becomes an event without a kind, which
    shows it."""
    try:
        event: Event = json.loads(line)
    except ValueError:
        return {"text": line.decode(errors="replace").strip()}
    return event


TEXT, NUMBER = (str,), (int, float)
NOTHING = type(None)
RUN = {"key": TEXT, "layers": NUMBER, "width": NUMBER, "seed": NUMBER}
NEEDS: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    Kind.START: {"number": NUMBER, **RUN},
    Kind.STEP: dict.fromkeys(("step", "of", "tokens", "tokens_per_s", "train_loss"), NUMBER),
    Kind.ASK: {"task": TEXT},
    Kind.MEASURE: {"engine": TEXT},
    Kind.PRINT: {"text": TEXT},
    Kind.END: {
        "number": NUMBER,
        **RUN,
        "status": TEXT,
        "reason": (*TEXT, NOTHING),
        "value": (*NUMBER, NOTHING),
        "reused": (bool,),
        "seconds": NUMBER,
    },
    Kind.FATAL: {"reason": TEXT},
    Kind.DEATH: {"reason": TEXT, "log": TEXT},
}
"""The fields that events of each kind must have, for they are shown. Other kinds need none."""
IN_WORDS = {str: "text", int: "a number", bool: "true or false"}


def require_event(event: object) -> Event:
    """The event.

    Raises:
        ValueError: it is none, or lacks what is shown of its kind; the message shows what it is.
    """
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        raise ValueError(
            f"an event must be a mapping with a name as `event`, but got {event!r:.200}"
        )
    kind = event["event"]
    if kind not in set(Kind):
        raise ValueError(f"an event must be one of {', '.join(Kind)}, but got {event!r:.200}")
    for name, types in NEEDS.get(kind, {}).items():
        if name not in event or not isinstance(event[name], types):
            raise ValueError(
                f"an event of kind {kind} must have {IN_WORDS[types[0]]} as `{name}`, but got "
                f"{event!r:.200}"
            )
    return event
