"""Nats per token of the validation slice: comparable for one vocabulary alone."""

from search.objectives import Objective
from search.record import Record


class ValLoss(Objective):
    title, unit = "Validation loss (nats per token)", "nats per token"

    def value(self, record: Record) -> float | None:
        return record.readings[-1].val_loss


OBJECTIVE = ValLoss()
