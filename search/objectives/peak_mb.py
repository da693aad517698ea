"""Resident memory on a device at a full context, as its file predicts: `peak_mb@oneplus_12`."""

from search.objectives import MeterObjective


class PeakMb(MeterObjective):
    kind, example = "peak_mb", "oneplus_12"


OBJECTIVE = PeakMb()
