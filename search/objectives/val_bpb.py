"""Bits per byte of the validation slice: comparable across vocabularies."""

from search.objectives import LossObjective


class ValBpb(LossObjective):
    """None where the data does not state its bytes per token."""

    field = "val_bpb"
    title, unit = "Validation bits per byte", "bits per byte"


OBJECTIVE = ValBpb()
