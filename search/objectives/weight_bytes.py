"""Bytes of distinct weights at a precision: `weight_bytes@int4`; bf16 where none is said."""

from search.objectives import MeterObjective
from space.meters import meter_of


class WeightBytes(MeterObjective):
    kind, example = "weight_bytes", "int4"
    meter = meter_of("weight_bytes")


OBJECTIVE = WeightBytes()
