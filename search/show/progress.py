"""Progress of a running study: bars on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Column

from search.executors import Event
from search.objectives import Measure, in_digits
from search.record import Run
from search.states import Kind, Status
from space.axes import DEPTH
from space.words import amount, count, duration, switched

BAR = 12
"""Columns of a bar, whatever the terminal's width."""


@dataclass
class Tally:
    """What is done so far, from the workers' events."""

    total: int
    metric: str
    """The objective's name, as it was given."""
    done: int = 0
    """Runs finished, at earlier starts too."""
    pruned: int = 0
    failed: int = 0
    """Runs failed or diverged."""
    best: float | None = None
    best_shape: str = ""
    beyond: int = 0
    """Runs finished that do not keep to the constraints."""
    expected_s: float = 0.0
    """What all that was left at the start would take."""
    at_most: bool = False
    """Whether the total may come down, by what is found."""
    started: float = field(default_factory=time.monotonic)
    shares: dict[int, float] = field(default_factory=dict)
    """Of each worker's run in progress, how much is done."""
    left_at_start: int = 0
    worked: float = 0.0
    """Runs trained since the start."""

    def __post_init__(self) -> None:
        self.left_at_start = self.left
        self.maximize = Measure(self.metric).maximize

    @property
    def left(self) -> int:
        return max(0, self.total - self.done - self.pruned - self.failed)

    def count(self, worker: int, event: Event) -> None:
        """Take note of an event."""
        kind = event["event"]
        if kind == Kind.STEP:
            self.shares[worker] = event["step"] / event["of"]
        if kind in (Kind.END, Kind.DEATH):
            self.shares.pop(worker, None)
        if kind == Kind.END:
            self.worked += 0 if event["reused"] else 1
            if event["status"] == Status.FINISHED:
                self.done += 1
                self.consider(event["value"], shape(event), bool(event.get("missed")))
            elif event["status"] == Status.PRUNED:
                self.pruned += 1
            else:
                self.failed += 1

    def consider(self, value: float | None, of: str, beyond: bool = False) -> None:
        """Keep a value if it is the best so far of those that keep to the constraints."""
        self.beyond += beyond
        if value is None or beyond:
            return
        if self.best is None or (value > self.best if self.maximize else value < self.best):
            self.best, self.best_shape = value, of

    @property
    def seconds_left(self) -> float | None:
        """By the pace since the start; at first by the estimate."""
        under_way = sum(self.shares.values())
        left = max(0.0, self.left - under_way)
        if self.worked + under_way < 0.5:
            share = left / self.left_at_start if self.left_at_start else 0.0
            return self.expected_s * share or None
        return (time.monotonic() - self.started) / (self.worked + under_way) * left

    def __str__(self) -> str:
        left = self.seconds_left
        of = " of up to " if self.at_most else "/"
        parts = [f"{self.done}{of}{self.total} done"]
        parts += [f"{duration(left)} left"] if left and self.left else []
        parts += [f"{self.pruned} pruned"] if self.pruned else []
        parts += [f"{self.failed} failed"] if self.failed else []
        if self.best is not None:
            parts.append(f"best {in_digits(self.metric, self.best)} ({self.best_shape})")
        elif self.beyond:
            parts.append("none keeps to the constraints so far")
        return ", ".join(parts)


def identity(run: Run, params: Mapping[str, Any]) -> Event:
    """The fields of events that identify a run; `params` are those of its trial."""
    return {
        "key": run.key,
        "layers": run.architecture.num_layers,
        "width": run.architecture.hidden_size,
        "seed": run.seed,
        "named": named(params),
    }


def named(params: Mapping[str, Any]) -> str:
    """What tells a run from others of its shape: a table's arm by its name, and its rate where that
    is searched; a search's values of all axes but depth."""
    if "arm" in params:
        rate = f" at {params['lr']:.3g}" if "lr" in params else ""
        return f"{params['arm']}{rate}"
    return ", ".join(_level(name, value) for name, value in params.items() if name != DEPTH)


def _level(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return switched(name, value)
    return str(value) if name == "sharing" else f"{name} {value}"


def ended(
    run: Run,
    number: int,
    params: Mapping[str, Any],
    *,
    status: Status,
    reason: str | None,
    value: float | None = None,
    missed: str = "",
    reused: bool = False,
    seconds: float = 0.0,
) -> Event:
    """The event of a trial's end; `missed` is what it is beyond and by how much."""
    return {
        "event": Kind.END,
        "number": number,
        "status": status,
        "reason": reason,
        "value": value,
        "missed": missed,
        "reused": reused,
        "seconds": seconds,
        **identity(run, params),
    }


class View:
    """Plain lines, one for each finished trial."""

    def __init__(self, tally: Tally, say: Callable[[str], None] = print) -> None:
        self.tally, self.say = tally, say

    def __enter__(self) -> Self:
        if self.tally.left:
            self.say("starting workers; a line follows when a run ends")
        return self

    def __exit__(self, *exception: object) -> None: ...

    def show(self, worker: int, event: Event) -> None:
        """Show an event. `worker` is -1 for events of the parent."""
        self.tally.count(worker, event)
        if (line := self._line(event)) is not None:
            self.say(line)

    def _line(self, event: Event) -> str | None:
        kind = event["event"]
        if kind == Kind.END:
            return f"{_outcome(event, self.tally.metric)}; {self.tally}"
        if kind == Kind.DEATH:
            return f"a worker died ({event['reason']}; see {event['log']}); another takes over"
        if kind == Kind.INTERRUPT:
            return "stopping: workers write their checkpoints; interrupt again to stop at once"
        return str(event["text"]) if kind == Kind.PRINT else None


class Bars(View):
    """A bar for each worker and one for all, redrawn in place; lines of events above them."""

    def __init__(self, tally: Tally, console: Console | None = None) -> None:
        self.console = console or Console()
        super().__init__(tally, say=lambda line: self.console.print(line, highlight=False))
        cut = Column(ratio=1, no_wrap=True, overflow="ellipsis")  # what matters most stands first
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=BAR),
            TextColumn("{task.fields[text]}", table_column=cut),
            console=self.console,
            expand=True,
        )
        self.live = Live(self.progress, console=self.console, refresh_per_second=4)
        self.tasks: dict[int, TaskID] = {}
        self.runs: dict[int, Event] = {}
        text = f"{tally}; starting workers" if tally.left else str(tally)
        self.overall = self.progress.add_task("all", total=tally.total, text=text)

    def __enter__(self) -> Self:
        self.live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.live.stop()

    def show(self, worker: int, event: Event) -> None:
        super().show(worker, event)
        if worker >= 0:
            self._update(worker, event)
        ended = self.tally.total - self.tally.left
        total = self.tally.total  # which changes with what is found
        self.progress.update(self.overall, total=total, completed=ended, text=str(self.tally))

    def _update(self, worker: int, event: Event) -> None:
        """Redraw a worker's bar."""
        if worker not in self.tasks:
            self.tasks[worker] = self.progress.add_task(f"{worker + 1}", total=1, text="")
        task, kind = self.tasks[worker], event["event"]
        if kind == Kind.START:
            self.runs[worker] = event
            self.progress.update(task, completed=0, text=f"starting {self._title(worker)}")
        elif kind == Kind.STEP:
            left = (event["of"] - event["step"]) * event["tokens"] / event["step"]
            text = (
                f"{duration(left / event['tokens_per_s'])} left, {self._title(worker)}, loss "
                f"{event['train_loss']:.3f}, {amount(event['tokens'])} tokens, "
                f"{amount(event['tokens_per_s'])}/s"
            )
            self.progress.update(task, completed=event["step"] / event["of"], text=text)
        elif kind in (Kind.ASK, Kind.MEASURE):
            what = f"asking {event['task']}" if kind == Kind.ASK else f"timing in {event['engine']}"
            text = f"{what}, {self._title(worker)}"
            self.progress.update(task, completed=1, text=text)
        elif kind in (Kind.IDLE, Kind.DONE, Kind.DEATH):
            self.progress.update(task, completed=0, text=kind)

    def _title(self, worker: int) -> str:
        run = self.runs.get(worker)
        return f"trial {run['number']}, {shape(run)}" if run else "its run"


def view(tally: Tally) -> View:
    """Bars on a terminal, lines elsewhere."""
    return Bars(tally) if sys.stdout.isatty() else View(tally, say=_say)


def shape(event: Event) -> str:
    """A run in a few words: `12 layers × 96, immediate x2, seed 0`."""
    parts = [f"{count(event['layers'], 'layer')} × {event['width']}", event.get("named", "")]
    return ", ".join(part for part in (*parts, f"seed {event['seed']}") if part)


def _outcome(event: Event, metric: str) -> str:
    what = f"trial {event['number']} ({shape(event)})"
    if event["status"] != Status.FINISHED:
        return f"{what} {event['status']}: {event['reason']}"
    how = "from its record" if event["reused"] else f"in {duration(event['seconds'])}"
    misses = f", misses {event['missed']}" if event.get("missed") else ""
    return f"{what}: {in_digits(metric, event['value'])} {Measure(metric).unit} {how}{misses}"


def _say(line: str) -> None:
    print(line, flush=True)
