"""Milliseconds to decode a token on a device, as its file predicts: `decode_ms@iphone_13`."""

from search.objectives import MeterObjective


class DecodeMs(MeterObjective):
    kind = "decode_ms"


OBJECTIVE = DecodeMs()
