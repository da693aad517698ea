"""What a loop does besides executing its blocks again: the input that it began with, and norms.

    loop_input: true     each further pass begins with x = exp(-s r) x + s (1 + g) e instead of x
    loop_norm: true      each pass, the first one too, begins with a norm of its own

`e` is what the loop began with, after its norm where it has one, and s = log(1 + exp(step)), r =
exp(rate) and g are numbers for each channel, of the loop and not of a pass. Since exp(-s r) is
below 1 whatever is learned, what earlier passes left dies away and cannot grow without bound. At
first half of it is kept, and log 2 of `e` is added.

A pass begins at a layer that executes its block more often than the layer before did its own:
`cycle` 0 1 2 0 1 2 is one loop of two passes, `immediate` 0 0 1 1 two loops. Without a block that
is executed again there is no loop, and the fields change nothing.

Source: Parcae, arXiv:2604.12946, whose input has a matrix where g is, whose norm is that of `e`
alone, and which draws the number of passes anew for each sequence.
"""

from typing import TYPE_CHECKING, Any

from space.parts import NOTHING, Extra, Field, Part, Value

if TYPE_CHECKING:
    from torch import Tensor

    from space.arch import Architecture, Shape
    from space.model import Decoder

CYCLED = {"sharing": "cycle", "repeats": 2, "sharing_scope": "block"}
VECTORS = 3
"""Of an input: rate, step and gain."""


def parse(given: Any) -> bool:
    if not isinstance(given, bool):
        raise ValueError(f"must be true or false, but got {given!r}")
    return given


class Loops(Part):
    """Input and norms of loops."""

    fields = (
        Field("loop_input", False, parse, "each further pass of a loop gets what the loop got"),
        Field("loop_norm", False, parse, "each pass of a loop begins with a norm of its own"),
    )
    examples = (
        {"loop_input": True, **CYCLED},
        {"loop_norm": True, **CYCLED},
        {"loop_input": True, "loop_norm": True, **CYCLED},
    )

    def canonical(self, arch: "Architecture") -> dict[str, Value]:
        """Nothing where there is no loop."""
        return self.given(arch) if passes(arch) else {}

    def stack(self, arch: "Architecture", shape: "Shape") -> Extra:
        """Vectors of each loop and norms of each pass; a loop's vectors are moved once."""
        if not (found := passes(arch)):
            return NOTHING
        inputs = VECTORS * len(found) if arch.value("loop_input") else 0
        norms = sum(map(len, found)) if arch.value("loop_norm") else 0
        return Extra(vectors=(inputs + norms) * shape.hidden_size)

    def build(self, model: "Decoder") -> None:
        arch, layers = model.arch, model.model.layers
        for loop in passes(arch):
            equip([layers[at] for at in loop], arch)


def passes(arch: "Architecture") -> list[tuple[int, ...]]:
    """For each loop the layers at which its passes begin."""
    begins: dict[tuple[int, int], list[int]] = {}
    times: list[int] = []
    for layer, block in enumerate(arch.layers):
        times.append(arch.layers[:layer].count(block))
        if times[-1] == 0 or times[-1] > times[-2]:
            begins.setdefault(block, []).append(layer)
    return [tuple(found) for found in begins.values() if len(found) > 1]


def equip(layers: list[Any], arch: "Architecture") -> None:
    """Give the layers at which a loop's passes begin its input and norms."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    from space.model import RMSNorm

    class Input(nn.Module):
        """The loop's input, added to what the last pass left."""

        def __init__(self) -> None:
            super().__init__()
            self.rate, self.step, self.gain = (
                nn.Parameter(torch.zeros(arch.hidden_size)) for _ in range(VECTORS)
            )

        def forward(self, x: "Tensor", e: "Tensor") -> "Tensor":
            """x, e, result: (B, T, D)."""
            step = F.softplus(self.step)
            kept, added = torch.exp(-step * self.rate.exp()), step * (1 + self.gain)
            return (kept * x + added * e).to(x.dtype)

    shared, began = (Input(), Began()) if arch.value("loop_input") else (None, None)
    for number, layer in enumerate(layers):
        layer.loop_began = began
        layer.loop_place = number, len(layers) - 1
        layer.loop_input = shared if number else None
        layer.loop_norm = None
        if arch.value("loop_norm"):
            layer.loop_norm = RMSNorm(arch.hidden_size, arch.rms_norm_eps)
        layer.register_forward_pre_hook(enter)


class Began:
    """What a loop began with, while it runs."""

    x: Any = None


def enter(layer: Any, inputs: Any) -> Any:
    """What the layer gets as a pass begins."""
    x, *rest = inputs
    if layer.loop_input is not None:
        x = layer.loop_input(x, layer.loop_began.x)
    if layer.loop_norm is not None:
        x = layer.loop_norm(x)
    if layer.loop_began is not None:
        _keep(layer.loop_began, x, *layer.loop_place)
    return x, *rest


def _keep(began: Began, x: "Tensor", number: int, last: int) -> None:
    """The first pass's x for the others; nothing stays after the last."""
    if number == 0:
        began.x = x
    elif number == last:
        began.x = None


PART = Loops()
