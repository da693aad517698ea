"""Uniform over the axes."""

from search.study.samplers import OptunaSampler


class Random(OptunaSampler):
    kind = "RandomSampler"


SAMPLER = Random()
