"""Tree-structured Parzen estimator, Optuna's default."""

from search.study.samplers import OptunaSampler


class Tpe(OptunaSampler):
    kind = "TPESampler"


SAMPLER = Tpe()
