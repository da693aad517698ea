"""Every architecture of the space in turn, evenly spread where `n_trials` has room for fewer."""

from typing import TYPE_CHECKING, Any

from search.study.samplers import OptunaSampler
from space.doors import require_arguments

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


class Grid(OptunaSampler):
    """The plan enqueues the cells (`search.study.plan.Exploration`), which leaves none to sample:
    the sampler is there because Optuna has one in every study."""

    kind = "RandomSampler"
    exhaustive = True

    def make(self, seed: int, **options: Any) -> "BaseSampler":
        require_arguments("sampler", "sampler=grid", Grid, options)
        return super().make(seed)


SAMPLER = Grid()
