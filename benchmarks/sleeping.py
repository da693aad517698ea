"""An optimiser whose steps take a tenth of a second each, most of it asleep: work of known length.

Two cores hold sixteen workers of it. Each step that is done adds a byte to the file `STEPS`. While
there is a file `SLOWLY`, steps take ten times as long, so that a run lasts until it is gone.
"""

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search.train.optimizers import Group
from search.train.optimizers.adamw import OPTIMIZER as ADAMW

if TYPE_CHECKING:
    import torch

    from search.recipe import Recipe

STEP_S = float(os.environ.get("ISOPARAM_STEP_S", "0.1"))
"""Of a step. Numbers do not depend on it."""
STEPS, SLOWLY = "steps", "slowly"
"""Files of the folder that workers are in."""
SLOWER = 10


class Sleeping:
    """AdamW that sleeps."""

    state_per_weight = ADAMW.state_per_weight

    def build(self, groups: Sequence[Group], recipe: "Recipe") -> "torch.optim.Optimizer":
        built = ADAMW.build(groups, recipe)
        built.register_step_post_hook(Pace())
        return built

    def growth(self, fan_in: float) -> float:
        return ADAMW.growth(fan_in)

    def describe(self, recipe: "Recipe") -> str:
        return f"{ADAMW.describe(recipe)}, a step every {STEP_S:g} s"


class Pace:
    """Ends each step so long after the one before, and counts it."""

    def __init__(self) -> None:
        self.next = time.monotonic()
        self.file = os.open(STEPS, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def __call__(self, *_: Any) -> None:
        os.write(self.file, b".")
        self.next += STEP_S * (SLOWER if os.path.exists(SLOWLY) else 1)
        time.sleep(max(0.0, self.next - time.monotonic()))


OPTIMIZER = Sleeping()
