"""FLOPs of a forward pass per token, at the recipe's sequence length."""

from search.objectives import CostObjective


class ForwardFlops(CostObjective):
    title, unit, field = (
        "Forward FLOPs per token",
        "FLOPs per token",
        "forward_flops_per_token",
    )


OBJECTIVE = ForwardFlops()
