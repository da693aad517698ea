"""What studies of several budgets must have for a law, as far as it is known before training."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, log10

from space.arch import Architecture
from space.axes import DEPTH, Space
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

    space: Space
    tried: int
    """So many of them, at most."""
    tokens: int
    """Of each run, as asked."""
    tokens_per_step: int

    @property
    def budget(self) -> Budget:
        return self.space.budget

    @property
    def architectures(self) -> list[Architecture]:
        """Of its space."""
        return self.space.enumerate()

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
        there = depths_of(planned.space)
        if min(planned.tried, len(there)) < FEWEST_DEPTHS:
            raise ValueError(
                f"study {name} must try at least {FEWEST_DEPTHS} depths for a law over budgets, "
                + (
                    f"but {fitting_in_words(there)} on {planned.budget}; "
                    f"{_what_has_more(planned.space)}"
                    if len(there) < FEWEST_DEPTHS
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


def depths_of(space: Space) -> list[int]:
    """Layers executed of the architectures of a space, from few to many."""
    return sorted({architecture.num_layers for architecture in space.enumerate()})


def fitting_in_words(depths: Sequence[int]) -> str:
    """ "its space has 2 (1 and 2 layers)"."""
    return f"its space has {len(depths)} ({join([str(depth) for depth in depths])} layers)"


DEEPEST_SOUGHT = 24
"""Blocks up to which other depths are looked for."""
GROWTH, MOST_GROWN = 1.25, 64.0
"""By which factor budgets grow that are looked at, and up to which."""


def _what_has_more(space: Space) -> str:
    """Which depths have four on this budget, and the smallest budget on which this space has four,
    as far as either is found."""
    ways = []
    if fitting := _fitting(space):
        ways.append(f"give space.axes.num_blocks=[{','.join(map(str, fitting))}], which fit here")
    if (budget := _large_enough(space)) is not None:
        ways.append(
            f"take {budget.label} as the smallest budget, on which it has {FEWEST_DEPTHS} or more"
        )
    return ", or ".join(ways) or "take larger budgets"


def _fitting(space: Space) -> list[int]:
    """Numbers of blocks that fit on the space's budget; none where these are too few."""
    try:
        wider = replace(space, axes={**space.axes, DEPTH: list(range(1, DEEPEST_SOUGHT + 1))})
    except ValueError:
        return []
    enough = len(depths_of(wider)) >= FEWEST_DEPTHS
    return sorted({each.params[DEPTH] for each in wider.candidates()}) if enough else []


def _large_enough(space: Space) -> Budget | None:
    """The smallest budget, about, on which the space has four depths."""
    factor = GROWTH
    while factor <= MOST_GROWN:
        budget = replace(space.budget, value=float(f"{space.budget.value * factor:.2g}"))
        try:
            if len(depths_of(replace(space, budget=budget))) >= FEWEST_DEPTHS:
                return budget
        except ValueError:  # nothing fits
            pass
        factor *= GROWTH
    return None


def _require_one_length(studies: Mapping[str, Planned]) -> None:
    ratios = {name: planned.ratio for name, planned in studies.items()}
    low, high = min(ratios, key=ratios.__getitem__), max(ratios, key=ratios.__getitem__)
    if ratios[high] / ratios[low] - 1 <= TOKENS_TOLERANCE:
        return
    asked = [planned.tokens / planned.budget.value for planned in studies.values()]
    if max(asked) / min(asked) - 1 <= TOKENS_TOLERANCE:
        step = max(planned.tokens_per_step for planned in studies.values())
        smallest = min(planned.budget.value for planned in studies.values())
        enough = _rounded_up(step / (TOKENS_TOLERANCE * smallest))
        advice = (
            f"whole steps of {step:,} tokens round them; raise tokens_per_parameter, such as to "
            f"{enough:g}, or lower recipe.batch_size"
        )
    else:
        advice = f"add tokens_per_parameter={ratios[high]:.2g}, in place of recipe.tokens"
    raise ValueError(
        f"for a law over budgets tokens per parameter must lie within {TOKENS_TOLERANCE:.0%} of "
        f"each other, but are {ratios[low]:.3g} in {low} and {ratios[high]:.3g} in {high}; "
        f"{advice}, or use -m budget=…, which makes no law"
    )


def _rounded_up(ratio: float) -> float:
    """To two figures."""
    digits = 1 - floor(log10(ratio))
    return ceil(ratio * 10.0**digits) / 10.0**digits


def _mean_share(architectures: Sequence[Architecture]) -> float:
    counts = [cost(arch) for arch in dict.fromkeys(architectures)]
    return sum(c.embedding_parameters / c.parameters for c in counts) / len(counts)
