"""Where a study is shown besides the report: a file per tracker, and users' own
(docs/doors/tracker.md).

A run is shown when it has ended, from its record and its `metrics.jsonl`: these are flushed to disk
as they grow, which a tracker's files may not be, and a run that was interrupted is shown once.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

from search.record import Record, architecture_id
from search.runs import disk_error, pruned_record, read_metrics, usable_record
from search.show.workspace import EXTRA, PACKAGE
from search.states import State
from space.doors import Chosen, Door, label, require_arguments, taking_options
from space.seals import Damaged, digest

if TYPE_CHECKING:
    from search.study.plan import Attempt

OF_A_START = ("wall_s", "command", "config")
"""What `study.json` says that may differ though no run has changed."""
MODES = ("offline", "online")


class Tracker(Protocol):
    """A mirror of a study's records: `TRACKER` is the class, made anew at each start of a study.

    What it raises is said, and does the study no harm.
    """

    title: str = "the tracker"
    """As messages name it."""
    shows: bool = True
    """Whether there is anything to show."""

    def __init__(self, config: "TrackerConfig", study: str, folder: Path, **options: Any) -> None:
        """For a study of this name, whose folder is under `outputs`.

        Options are `tracker.options`; a TypeError says that one of them is not taken.
        """

    def show_run(self, attempt: "Attempt", record: Record, folder: Path) -> None:
        """Show a run that has ended, in place of what was shown of it before; its folder has
        `metrics.jsonl`, see `curve`."""
        ...

    def show_study(self, runs: Path, content: Mapping[str, Any], plot: Path) -> None:
        """Show the study as `study.json` has it, and the plot of it where that is a file."""
        ...


TRACKERS = Door("tracker", __name__, Tracker)  # type: ignore[type-abstract]


@dataclass(frozen=True, kw_only=True)
class TrackerConfig(Chosen):
    """Where runs are shown besides the report."""

    door: ClassVar[Door[Tracker]] = TRACKERS
    name: str = "wandb"
    """`wandb`, `jsonl`, `none`, or yours: `mine.py`."""
    mode: str = "offline"
    """Of W&B. `offline`: files under the study's folder, which `wandb sync` sends; `online`."""
    project: str = "isoparam"
    """Of W&B."""
    report: bool = False
    """Of W&B, online: whether it gets a workspace with quality over depth and width."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in MODES:
            raise ValueError(
                f"tracker.mode must be one of {', '.join(MODES)}, but got {self.mode!r}"
            )
        if self.report and self.name != "wandb":
            raise ValueError(
                f"tracker.report must go with tracker=wandb, but got tracker={self.name}"
            )
        if self.report and find_spec(PACKAGE) is None:
            raise ValueError(
                f"tracker.report=true needs wandb-workspaces; pip install 'isoparam[{EXTRA}]'"
            )


class Mirror:
    """Shows each run of a study once, over all its starts, and again when it has changed."""

    def __init__(self, tracker: Tracker, ledger: Path, scored: bool = False) -> None:
        self.tracker = tracker
        self.shown = ledger
        """Lists what was shown."""
        self.scored = scored
        """Whether runs that are shown may get scores later."""
        self.gave_up = not tracker.shows

    def mirror(self, runs: Path, attempts: "Sequence[Attempt]") -> None:
        """Show the runs that ended and are not shown yet."""
        done = self._done()
        for attempt in attempts:
            if self.gave_up:
                return
            known = f"{attempt.key}:{attempt.status}" in done
            if attempt.busy or (known and not self.scored):
                continue
            record = _ended(runs / str(attempt.key), attempt)
            if record is None or (state := _state(record)) in done:
                continue
            with self._harmless():
                self.tracker.show_run(attempt, record, runs / record.run.key)
                self._note(state)

    def summarise(self, runs: Path, content: Mapping[str, Any], plot: Path) -> None:
        """Show the study: a table of its runs, and the plot of it, under the plot's name; once for
        each state that it comes to."""
        kept = {name: value for name, value in content.items() if name not in OF_A_START}
        state = f"study:{digest(json.dumps(kept, sort_keys=True, default=str).encode())}"
        if self.gave_up or state in self._done():
            return
        with self._harmless():
            self.tracker.show_study(runs, content, plot)
            self._note(state)

    def _done(self) -> set[str]:
        return set(self.shown.read_text().split()) if self.shown.is_file() else set()

    def _note(self, state: str) -> None:
        self.shown.parent.mkdir(parents=True, exist_ok=True)
        with open(self.shown, "a") as file:
            file.write(f"{state}\n")

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        """Say what the tracker could not take, and go on without it: the next start shows what is
        missing. It may raise errors of many kinds; a full disk is the study's too."""
        try:
            yield
        except Exception as error:
            if isinstance(error, OSError) and disk_error(error) is not None:
                raise
            self.gave_up = True
            said = (str(error).splitlines() or [type(error).__name__])[0]
            title = self.tracker.title
            print(
                f"{title} has not taken it: {said}; the study goes on without {title}, and its "
                "next start shows there what is missing"
            )


def open_tracker(config: TrackerConfig, study: str, folder: Path, scored: bool = False) -> Mirror:
    """The tracker of a configuration.

    Raises:
        ValueError: an option that the tracker does not take.
    """
    kind = cast(type[Tracker], TRACKERS.load(config.name))
    who, ours = f"tracker={config.name}", ("config", "study", "folder")
    require_arguments("tracker.options", who, kind, config.options, ours)
    try:
        with taking_options("tracker.options", who, config.options):
            tracker = kind(config, study, folder, **config.options)
    except OSError as error:
        if disk_error(error) is not None:
            raise
        print(f"{kind.title} cannot be used: {error}; the study goes on without {kind.title}")
        tracker = cast(type[Tracker], TRACKERS.load("none"))(config, study, folder)
    return Mirror(tracker, folder / label(config.name) / "mirrored.txt", scored)


def _ended(folder: Path, attempt: "Attempt") -> Record | None:
    """The record of a run, whole or up to where it was stopped."""
    record = usable_record(folder)
    if record is None and attempt.state == State.PRUNED:
        return pruned_record(folder, attempt.reason)
    return record


def _state(record: Record) -> str:
    """The state of a run that was shown: a failed one may be retried, and scores may be added."""
    scores = [score.task for reading in record.readings for score in reading.scores]
    return ":".join([record.run.key, record.status, *scores])


COLUMNS = (
    "num_hidden_layers",
    "num_blocks",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
)
"""Of the architecture, in the study's table."""


def configuration(attempt: "Attempt", record: Record) -> dict[str, Any]:
    """The settings of a run, shown with its curve."""
    return {
        "key": record.run.key,
        "arm": architecture_id(record.run.architecture),
        "seed": record.run.seed,
        "init_seed": record.run.init_seed,
        "role": str(attempt.role),
        "axes": dict(attempt.params),
        "architecture": record.run.architecture.to_dict(),
        "recipe": record.run.recipe.to_dict(),
        "cost": asdict(record.cost),
        "data": dict(record.data),
    }


def summary(record: Record) -> dict[str, Any]:
    """What a run came to: its last reading, scores as `task.metric`, and its
    times."""
    last = record.readings[-1].numbers() if record.readings else {}
    names = ("train_s", "eval_s", "branch_s", "tokens_per_s")
    times = {name: getattr(record, name) for name in names}
    return {**last, **times, "status": str(record.status), "reason": record.reason}


def curve(folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each step of `metrics.jsonl` with all that was measured at it, training and validation.

    What a branch to a horizon measured is `branch/<name>`, at the step that it had come to. Of a
    damaged file only what stands before the damage is there.
    """
    in_order = sorted(_sound_lines(folder), key=lambda line: int(line["step"]))
    for step, lines in groupby(in_order, key=lambda line: line["step"]):
        values: dict[str, Any] = {}
        for line in lines:
            where = "branch/" if "horizon" in line else ""
            values |= {f"{where}{name}": value for name, value in line.items() if name != "step"}
        yield int(step), {name: value for name, value in values.items() if value is not None}


def _sound_lines(folder: Path) -> Iterator[dict[str, Any]]:
    try:
        yield from read_metrics(folder)
    except Damaged as error:
        print(f"warning: {error}; what stands before it is shown")


def finished(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The trials of a `study.json` with a value of their run's end; a pruned one's is earlier."""
    return [t for t in content["trials"] if t["value"] is not None and t["state"] == State.COMPLETE]


def table(runs: Path, content: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """The finished runs: trial, seed, role, shape, parameters, value."""
    for trial in finished(content):
        record = usable_record(runs / trial["key"])
        if record is not None:
            arch = record.run.architecture
            dims = (getattr(arch, name) for name in COLUMNS)
            own = (trial["number"], trial["seed"], trial["role"])
            yield (*own, *dims, record.cost.parameters, trial["value"])
