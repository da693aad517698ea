"""What studies of several budgets must have for a law, as far as it is known before training."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from space.arch import Architecture
from space.budget import Budget
from space.cost import cost
from space.words import join

FEWEST_DEPTHS = 4
"""That a study must have tried, for a valley through them: a quadratic takes three."""
TOKENS_TOLERANCE = 0.02
"""By how much tokens per parameter may differ between studies of a law: steps round them."""
SHARE_TOLERANCE = 0.03
"""Where all parameters are the variable, the embeddings' mean shares of them lie this close
together."""


@dataclass(frozen=True)
class Planned:
    """What a study will try."""

    architectures: Sequence[Architecture]
    """Of its space."""
    tried: int
    """So many of them, at most."""
    budget: Budget
    tokens: int
    """Of each run, as asked."""
    tokens_per_step: int

    @property
    def ratio(self) -> float:
        """Tokens per parameter, in whole steps."""
        steps = -(-self.tokens // self.tokens_per_step)
        return steps * self.tokens_per_step / self.budget.value


def require_law(studies: Mapping[str, Planned]) -> None:
    """Raises: ValueError where studies, by name, cannot make one."""
    apart = len({planned.budget.value for planned in studies.values()})
    if apart < max(2, len(studies)):
        raise ValueError(
            "a list of budgets must have two or more that differ, for a law, but got "
            f"{join([planned.budget.label for planned in studies.values()])}; "
            "give budget=… without brackets for one study"
        )
    shares = {}
    for name, planned in studies.items():
        there = len({arch.num_layers for arch in planned.architectures})
        if min(planned.tried, there) < FEWEST_DEPTHS:
            few = there < FEWEST_DEPTHS
            raise ValueError(
                f"study {name} must try at least {FEWEST_DEPTHS} depths for a law over budgets, "
                + (
                    f"but its space has {there} on this budget; take larger budgets, or give "
                    "space.axes.num_blocks depths that fit"
                    if few
                    else f"but will try {planned.tried}; raise n_trials"
                )
            )
        of_one = Counter(arch.num_layers for arch in dict.fromkeys(planned.architectures))
        layers, most = of_one.most_common(1)[0]
        if most > 1:
            raise ValueError(
                f"study {name} must have one architecture per depth for a law over budgets, but "
                f"its space has {most} of {layers} layers; take space=depth_width, or -m "
                "budget=…, which makes no law"
            )
        if planned.budget.kind == "parameters":
            shares[name] = _mean_share(planned.architectures)
    _require_one_length(studies)
    if not shares:
        return
    low, high = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
    if shares[high] - shares[low] > SHARE_TOLERANCE:
        raise ValueError(
            "for a law over budgets the embeddings' mean share of all parameters must lie within "
            f"{100 * SHARE_TOLERANCE:.0f} points, but is {shares[low]:.1%} in {low} and "
            f"{shares[high]:.1%} in {high}; use non_embedding_parameters:… for each budget, or -m "
            "budget=…, which makes no law"
        )


def _require_one_length(studies: Mapping[str, Planned]) -> None:
    ratios = {name: planned.ratio for name, planned in studies.items()}
    low, high = min(ratios, key=ratios.__getitem__), max(ratios, key=ratios.__getitem__)
    if ratios[high] / ratios[low] - 1 <= TOKENS_TOLERANCE:
        return
    asked = [planned.tokens / planned.budget.value for planned in studies.values()]
    if max(asked) / min(asked) - 1 <= TOKENS_TOLERANCE:
        step = max(planned.tokens_per_step for planned in studies.values())
        advice = (
            f"whole steps of {step:,} tokens round them; raise tokens_per_parameter, or lower "
            "recipe.batch_size"
        )
    else:
        advice = f"add tokens_per_parameter={ratios[high]:.2g}, in place of recipe.tokens"
    raise ValueError(
        f"for a law over budgets tokens per parameter must lie within {TOKENS_TOLERANCE:.0%} of "
        f"each other, but are {ratios[low]:.3g} in {low} and {ratios[high]:.3g} in {high}; "
        f"{advice}, or use -m budget=…, which makes no law"
    )


def _mean_share(architectures: Sequence[Architecture]) -> float:
    counts = [cost(arch) for arch in dict.fromkeys(architectures)]
    return sum(c.embedding_parameters / c.parameters for c in counts) / len(counts)
