"""FLOPs of training a run, its decay branches included."""

from search.objectives import Objective
from search.record import Record


class TrainFlops(Objective):
    title, unit = "Training FLOPs", "FLOPs"
    needs_training = False

    def value(self, record: Record) -> float | None:
        return record.run.train_flops


OBJECTIVE = TrainFlops()
