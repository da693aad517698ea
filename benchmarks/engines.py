"""`python -m benchmarks.engines`: what one readable forward pass would cost the default sweep.

The kernels as operations of torch's autograd (`benchmarks.operations`) beside the passes written
out (`search.train.engines.kernels`): whole optimiser steps of the default sweep's shapes and batch,
bf16, one thread. The two take turns, each in a process of its own, in turns of a fraction of a
second, and only turns that follow each other are divided. Intervals are of the median ratio over
turns, by 2,000 resamplings.
"""

import random
from collections.abc import Sequence
from statistics import median

import torch

from benchmarks.operations import OperationsEngine
from benchmarks.show import heading, leave, parser, say, table
from benchmarks.turns import WARM_UP, Contender, Step
from search.recipe import Recipe
from search.train.engines.kernels import KernelEngine
from search.train.engines.weights import Weights
from search.train.optimizers import OPTIMIZERS
from search.train.parametrise import initialise, parameter_groups
from search.train.placement import Placement
from space.arch import Architecture
from space.axes import Space
from space.budget import Budget
from space.model import Decoder

RECIPE = Recipe(tokens=800_000, seq_len=128, batch_size=4, precision="bf16")
HERE = Placement(device="cpu", threads=1, engine="kernels", micro_batch=4, compile="no")
DEPTHS = (2, 7, 22, 39)
ENGINES = {"written out": KernelEngine, "operations": OperationsEngine}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    options = parser(__doc__)
    options.add_argument("--turns", type=int, default=60)
    options.add_argument("--seconds", type=float, default=0.3, help="of a turn")
    options.add_argument("--depths", type=int, nargs="+", default=DEPTHS)
    chosen = options.parse_args(arguments)
    rows = [row(depth, chosen.turns, chosen.seconds) for depth in chosen.depths]
    columns = ["layers × width", "written out, ms", "operations, ms", "ratio", "95% interval"]
    leave("engines", f"{heading(HERE)}\n\n{table(columns, rows)}", None, chosen.save)


def row(depth: int, turns: int, seconds: float) -> list[str]:
    """Shape, both times of a step, and how many times the operations' is the other's."""
    shape = f"{depth} × {architecture(depth).hidden_size}"
    say(shape)
    times: dict[str, list[float]] = {name: [] for name in ENGINES}
    with (
        Contender(step_of, "written out", depth, threads=1) as program,
        Contender(step_of, "operations", depth, threads=1) as other,
    ):
        contenders = {"written out": program, "operations": other}
        for contender in contenders.values():
            contender.seconds(WARM_UP)
        steps = max(1, round(seconds * WARM_UP / program.seconds(WARM_UP)))
        for turn in range(turns):
            for name in sorted(ENGINES, reverse=turn % 2 == 1):
                times[name].append(contenders[name].seconds(steps) / steps)
    ratios = [b / a for a, b in zip(times["written out"], times["operations"], strict=True)]
    low, high = interval(ratios)
    shown = [f"{1000 * median(times[name]):.1f}" for name in ENGINES]
    return [shape, *shown, f"{median(ratios):.3f}", f"{low:.3f} to {high:.3f}"]


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """Of their median, 95%."""
    draw = random.Random(0)
    medians = sorted(median(draw.choices(ratios, k=len(ratios))) for _ in range(2000))
    return medians[50], medians[-51]


def architecture(depth: int) -> Architecture:
    """Of the default search's space and budget."""
    space = Space.from_yaml("depth_width", budget=Budget.parse("1m"), vocab_size=1024)
    return next(arch for arch in space.enumerate() if arch.num_blocks == depth)


def step_of(name: str, depth: int) -> Step:
    """An optimiser step of the default recipe, on random tokens."""
    arch = architecture(depth)
    model = Decoder(arch)
    initialise(model, RECIPE, init_seed=0)
    weights = Weights(model)
    engine = ENGINES[name](model, weights, HERE, RECIPE.precision)
    optimizer = OPTIMIZERS.load("adamw").build(parameter_groups(model, RECIPE), RECIPE)
    generator = torch.Generator().manual_seed(0)
    shape = RECIPE.batch_size, RECIPE.seq_len + 1
    ids = torch.randint(arch.vocab_size, shape, generator=generator)
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def step() -> object:
        weights.gradients.zero_()
        loss = engine.nll(inputs, targets, 1 / RECIPE.tokens_per_step)
        torch.linalg.vector_norm(weights.gradients)
        optimizer.step()
        engine.refresh()
        return loss

    return step


if __name__ == "__main__":
    main()
