"""`python -m benchmarks.losses`: the loss over a large vocabulary, in our slices and otherwise.

From the residual stream and the output matrix to the loss and the gradients of both, in float32 on
a CPU: with all logits at once, in the slices of `search/train/engines/autograd.py`, and by torch's
`linear_cross_entropy` in its chunks, where the loss of each token is wanted and where their mean
is. Each has its own process, and they take turns. Liger's fused loss is not among them: it is
written in triton, which needs a GPU.
"""

# N tokens, D hidden size, V vocabulary

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from statistics import median
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.show import heading, leave, parser, say, spread, table
from benchmarks.turns import Contender, Step
from search.train.engines.autograd import AutogradEngine
from search.train.placement import Placement, cores
from space.model import Decoder

SIZES = ((8192, 32000), (2048, 128256))
"""Tokens and vocabulary: as many logits each, 2^28, which are two slices."""
HIDDEN_SIZE = 256
HERE = Placement(device="cpu", engine="autograd", compile="no")
COLUMNS = ("loss", "vocabulary", "tokens", "seconds", "of plain's", "memory")


class Readout(nn.Module):
    """The end of a decoder, after a residual stream that is a parameter."""

    finish = None

    def __init__(self, tokens: int, vocabulary: int, hidden_size: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.stream = nn.Parameter(torch.randn(1, tokens, hidden_size, generator=generator))
        self.lm_head = nn.Linear(hidden_size, vocabulary, bias=False)
        nn.init.normal_(self.lm_head.weight, std=hidden_size**-0.5, generator=generator)
        self.targets = torch.randint(vocabulary, (1, tokens), generator=generator)

    def hidden(self, inputs: Tensor) -> Tensor:
        """(1, N, D)."""
        return self.stream


def plain(model: Readout) -> Tensor:
    """All logits at once. The loss of each token (N,), after its backward pass."""
    nll = F.cross_entropy(model.lm_head(model.stream[0]), model.targets[0], reduction="none")
    nll.mean().backward()  # type: ignore[no-untyped-call]
    return nll.detach()


def slices(model: Readout) -> Tensor:
    """Ours."""
    engine = AutogradEngine(cast(Decoder, model), HERE, "fp32")
    return engine.nll(model.targets, model.targets, 1 / model.targets.numel())[0]


def chunks(model: Readout) -> Tensor:
    """torch's, with the loss of each token."""
    nll = chunked(model, "none")
    nll.mean().backward()  # type: ignore[no-untyped-call]
    return nll.detach()


def chunks_mean(model: Readout) -> Tensor:
    """torch's, with their mean alone ()."""
    mean = chunked(model, "mean")
    mean.backward()  # type: ignore[no-untyped-call]
    return mean.detach()


def chunked(model: Readout, reduction: str) -> Tensor:
    options = nn.LinearCrossEntropyOptions()
    hidden, output = model.stream[0], model.lm_head.weight
    return F.linear_cross_entropy(
        hidden, output, model.targets[0], reduction=reduction, options=options
    )


LOSSES: dict[str, Callable[[Readout], Tensor]] = {
    "plain": plain,
    "isoparam, slices": slices,
    "torch, chunks, a loss per token": chunks,
    "torch, chunks, their mean alone": chunks_mean,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=3)
    chosen = options.parse_args(arguments)
    placement = Placement(device="cpu", engine="autograd", threads=cores())
    rows = [row for size in SIZES for row in compared(*size, chosen.rounds)]
    text = f"# The loss over a large vocabulary\n\n{heading(placement, ['torch'])}\n\n"
    text += f"Width {HIDDEN_SIZE}, float32, the loss and the gradients of the residual stream and "
    text += f"the output matrix. Medians of {chosen.rounds} rounds, with the lowest and the "
    text += "highest; memory is the process's at its peak, beyond what importing takes.\n\n"
    leave("losses", text + table(COLUMNS, rows), None, chosen.save)


def compared(tokens: int, vocabulary: int, rounds: int) -> list[list[str]]:
    """The rows of a size."""
    with ExitStack() as stack:
        everyone = {
            name: stack.enter_context(
                Contender(step, name, tokens, vocabulary, HIDDEN_SIZE, threads=cores())
            )
            for name in LOSSES
        }
        for name, one in everyone.items():
            say(f"{vocabulary:,}: {name} warms up")
            one.seconds()
        turns = []
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            turns.append({name: one.seconds() for name, one in everyone.items()})
        memory = {name: one.memory() for name, one in everyone.items()}
    return [
        [
            name,
            f"{vocabulary:,}",
            f"{tokens:,}",
            spread([turn[name] for turn in turns], "{:.2f}".format),
            f"{median(turn[name] / turn['plain'] for turn in turns):.2f}",
            f"{memory[name] / 1e9:.2f} GB",
        ]
        for name in LOSSES
    ]


def step(name: str, tokens: int, vocabulary: int, hidden_size: int) -> Step:
    """One of the losses, forth and back. Called in the contender's own process."""
    model = Readout(tokens, vocabulary, hidden_size)

    def take() -> None:
        model.zero_grad()
        LOSSES[name](model)

    return take


if __name__ == "__main__":
    main()
