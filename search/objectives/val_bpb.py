"""Bits per byte of the validation slice: comparable across vocabularies."""

from search.objectives import Objective
from search.record import Record


class ValBpb(Objective):
    title, unit = "Validation bits per byte", "bits per byte"

    def value(self, record: Record) -> float | None:
        """None where the data does not state its bytes per token."""
        return record.readings[-1].val_bpb


OBJECTIVE = ValBpb()
