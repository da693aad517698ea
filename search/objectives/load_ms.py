"""Milliseconds to load a model on a device, as its file predicts: `load_ms@iphone_13`."""

from search.objectives import MeterObjective


class LoadMs(MeterObjective):
    kind = "load_ms"


OBJECTIVE = LoadMs()
