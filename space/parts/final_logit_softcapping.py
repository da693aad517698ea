"""Logits that stay within a cap, smoothly.

    final_logit_softcapping: 30    each logit z becomes 30 · tanh(z / 30), before the softmax

It adds no weights, and its FLOPs, one tanh for each logit, are not counted, as those of activations
are not. `recipe.z_loss` is the other way to keep logits small.

Source: Gemma 2 (arXiv:2408.00118, section 2), whose value is 30; the name is its `config.json`'s.
"""

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

from space.parts import Field, Part

if TYPE_CHECKING:
    from torch import Tensor

    from space.model import Decoder


def parse(given: Any) -> float:
    """A cap; 0 or null for none."""
    if given is None:
        return 0.0
    if isinstance(given, bool) or not isinstance(given, int | float) or not isfinite(given):
        raise ValueError(f"must be a number, but got {given!r}")
    if given < 0:
        raise ValueError(f"must be positive, or 0 for none, but got {given:g}")
    return float(given)


class SoftCap(Part):
    """A function of each logit."""

    fields = (Field("final_logit_softcapping", 0.0, parse, "bound of logits, smooth; 0: none"),)
    examples = ({"final_logit_softcapping": 30.0}, {"final_logit_softcapping": 2.0})

    def build(self, model: "Decoder") -> None:
        model.finish = Capped(float(model.arch.value("final_logit_softcapping")))


@dataclass(frozen=True)
class Capped:
    """z becomes cap · tanh(z / cap)."""

    cap: float

    def __call__(self, logits: "Tensor") -> "Tensor":
        return self.cap * (logits / self.cap).tanh()


PART = SoftCap()
