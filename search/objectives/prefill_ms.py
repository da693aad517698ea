"""Milliseconds to read a prompt on a device, as its file predicts: `prefill_ms@oneplus_12`."""

from search.objectives import MeterObjective


class PrefillMs(MeterObjective):
    kind, example = "prefill_ms", "oneplus_12"


OBJECTIVE = PrefillMs()
