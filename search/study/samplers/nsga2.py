"""A genetic algorithm: each generation is bred from the best of the one before."""

from search.study.samplers import OptunaSampler


class Nsga2(OptunaSampler):
    kind = "NSGAIISampler"


SAMPLER = Nsga2()
