"""Nats per token of the validation slice: comparable for one vocabulary alone."""

from search.objectives import LossObjective


class ValLoss(LossObjective):
    field = "val_loss"
    title, unit = "Validation loss (nats per token)", "nats per token"


OBJECTIVE = ValLoss()
