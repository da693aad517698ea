"""No tracker: the report, `study.json` and the records are all there is."""

from pathlib import Path

from search.show.trackers import Tracker, TrackerConfig


class Nowhere(Tracker):
    shows = False

    def __init__(self, config: TrackerConfig, study: str, folder: Path) -> None:
        """It takes no options."""


TRACKER = Nowhere
