"""Covariance matrix adaptation; needs two numeric axes, and draws the others at random."""

from search.study.samplers import OptunaSampler


class CmaEs(OptunaSampler):
    kind = "CmaEsSampler"
    several = False


SAMPLER = CmaEs()
