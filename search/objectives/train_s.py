"""Seconds that training took: of one machine, with its other load."""

from search.objectives import Objective
from search.record import Record


class TrainSeconds(Objective):
    title, unit = "Seconds of training", "s"

    def value(self, record: Record) -> float | None:
        return record.train_s


OBJECTIVE = TrainSeconds()
