"""Stops a run whose reading is worse than the median of the finished runs' at the same horizon."""

from search.study.pruners import OptunaPruner


class Median(OptunaPruner):
    kind = "MedianPruner"


PRUNER = Median()
