"""Gaussian process with expected improvement: for costly runs, up to a few hundred of them."""

from search.study.samplers import OptunaSampler


class GaussianProcess(OptunaSampler):
    kind = "GPSampler"


SAMPLER = GaussianProcess()
