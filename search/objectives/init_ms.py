"""Milliseconds to initialise a loaded model on a device, as predicted: `init_ms@iphone_13`."""

from search.objectives import MeterObjective


class InitMs(MeterObjective):
    kind = "init_ms"


OBJECTIVE = InitMs()
