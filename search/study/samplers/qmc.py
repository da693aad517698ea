"""A scrambled Sobol sequence: spread more evenly than at random."""

from search.study.samplers import OptunaSampler


class Qmc(OptunaSampler):
    """Optuna keeps in the study how far the sequence has come, for all who have its seed."""

    kind = "QMCSampler"
    one_sequence = True


SAMPLER = Qmc()
