"""A line of JSON per run that has ended, for `jq`, pandas and editors: `runs.jsonl` in the study's
folder, the last line of a key the valid one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.record import Record
from search.show.trackers import Tracker, TrackerConfig, configuration, summary

if TYPE_CHECKING:
    from search.study.plan import Attempt


class Lines(Tracker):
    """Appends to one file, which needs no account and no library."""

    title = "runs.jsonl"

    def __init__(
        self, config: TrackerConfig, study: str, folder: Path, file: str = "runs.jsonl"
    ) -> None:
        self.study, self.path = study, folder / file

    def show_run(self, attempt: "Attempt", record: Record, folder: Path) -> None:
        known = {"study": self.study, "trial": attempt.number}
        line = json.dumps({**known, **configuration(attempt, record), **summary(record)})
        with open(self.path, "a") as file:
            file.write(f"{line}\n")

    def show_study(self, runs: Path, content: Mapping[str, Any], plot: Path) -> None:
        """`study.json` lies beside it."""


TRACKER = Lines
