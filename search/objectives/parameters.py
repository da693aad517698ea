"""Distinct weights, a tied or shared matrix counted once."""

from search.objectives import CostObjective


class Parameters(CostObjective):
    title, unit, field = "Parameters", "parameters", "parameters"


OBJECTIVE = Parameters()
