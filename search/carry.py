"""One base recipe for all batch sizes and lengths: what its rates become in a run.

A recipe says at which batch and for how many tokens its rates were measured
(`reference_batch_tokens`, `reference_tokens`), and by which `rules` they are carried to those of
the run. With b and d the run's batch and tokens over these:

    rule       changes             by                           source
    lr_batch   lr; eps             √b; 1/√b                     arXiv:2205.10287, gradient noise
    lr_tokens  lr                  d^-0.32                      arXiv:2409.19913
    beta2      beta2               becomes beta2^b: its half-   arXiv:2507.07101
                                   life in tokens stays, down
                                   to beta1
    decay      weight decay        b·d^-0.48 over what lr       arXiv:2505.13738, in which batch /
                                   was multiplied by            (lr·decay·tokens) goes as d^-0.52

They follow the run and not the shape, which the parametrisation follows; a width's scales multiply
what is left here. √b holds while a batch is small beside the one beyond which noise no longer
limits a step: `critical_batch_tokens` caps b there for `lr_batch`. The third rule was found for
smaller batches. Followed without end to larger ones it fails: 16 times 512 tokens would make 0.44
of 0.95, and such runs ended at up to 59 bits per byte here. The fourth one's exponent is over
tokens per parameter; at one size that is over tokens. A reading at a horizon is of a run whose
rates suit its end. At half a million parameters no rule was better than one common rate
(reports/log/2026-11-30-batch-and-tokens.md): they are off unless a recipe names a reference. No
torch: reports say what a run's rates were.
"""

from dataclasses import replace
from math import sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search.recipe import Recipe

RULES = ("lr_batch", "lr_tokens", "beta2", "decay")
LR_OVER_TOKENS = -0.32
TIMESCALE_OVER_TOKENS = -0.52


def carried(recipe: "Recipe") -> "Recipe":
    """The recipe whose rates are those of its own batch and tokens; itself where it names no
    reference."""
    if not recipe.reference_batch_tokens and not recipe.reference_tokens:
        return recipe
    b, d = ratios(recipe)
    on = {rule: rule in recipe.rules for rule in RULES}
    cap = recipe.critical_batch_tokens
    limited = min(b, cap / recipe.reference_batch_tokens) if cap else b
    by_batch = sqrt(limited) if on["lr_batch"] else 1.0
    by_tokens = d**LR_OVER_TOKENS if on["lr_tokens"] else 1.0
    decay = b * d ** (-1 - TIMESCALE_OVER_TOKENS) / (by_batch * by_tokens) if on["decay"] else 1.0
    return replace(
        recipe,
        lr=recipe.lr * by_batch * by_tokens,
        eps=recipe.eps / by_batch,
        beta2=_second(recipe, b) if on["beta2"] else recipe.beta2,
        weight_decay=recipe.weight_decay * decay,
        reference_batch_tokens=0,
        reference_tokens=0,
        critical_batch_tokens=0,
    )


def _second(recipe: "Recipe", b: float) -> float:
    """beta2 whose half-life in tokens is the reference's, if that is beyond beta1."""
    floor = min(recipe.beta1, recipe.beta2)
    return float(max(recipe.beta2**b, floor))


def ratios(recipe: "Recipe") -> tuple[float, float]:
    """Batch and tokens of a recipe over those of its reference; 1 where it names none."""
    batch, tokens = recipe.reference_batch_tokens, recipe.reference_tokens
    b = recipe.tokens_per_step / batch if batch else 1.0
    return b, recipe.tokens / tokens if tokens else 1.0
