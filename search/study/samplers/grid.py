"""Every architecture of the space in turn, evenly spread where `n_trials` has room for fewer."""

from search.study.samplers import OptunaSampler


class Grid(OptunaSampler):
    """The plan enqueues the cells (`search.study.plan.Exploration`), which leaves none to sample:
    the sampler is there because Optuna has one in every study."""

    kind = "RandomSampler"
    exhaustive = True


SAMPLER = Grid()
