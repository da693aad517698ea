"""Models as they would be after quantisation without training: rounded, and their bytes.

    fp16    as it is, weights in 16 bits: what the others are compared with
    w8a8    weights of 8 bits, symmetric with a scale for each row; activations of 8 bits, from the
            minimum to the maximum of each token (MobileLLM, arXiv:2402.14905, table 15)
    w4      weights of 4 bits, symmetric with a scale for 32 of a row; activations stay

All matrices are rounded, the embedding too, so that models of equal parameters have equal bytes but
for scales and norms. What enters the output matrix stays as it is.
"""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from space.model import Decoder

FORMS = ("fp16", "w8a8", "w4")
GROUP = 32
"""Weights that share a scale in `w4`; those of a row where it has no whole number of groups."""
SCALE_BITS = 16
TINY = 1e-9
"""Smallest scale: of weights or activations that are all zero."""


class Rounded(nn.Module):
    """A linear map with rounded weights, whose inputs are rounded as they come."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(rounded_tokens(x), self.weight, self.bias)  # type: ignore[arg-type]


def quantised(model: Decoder, form: str) -> Decoder:
    """A copy of the model in one of `FORMS`; a shared matrix is rounded once."""
    made = deepcopy(model).eval()
    if form == "fp16":
        return made
    seen: set[int] = set()
    with torch.no_grad():
        for weight in made.parameters():
            if weight.ndim == 2 and id(weight) not in seen:
                seen.add(id(weight))
                weight.copy_(rounded_weights(weight, form))
    if form == "w8a8":
        _round_inputs(made.model)
    return made


def _round_inputs(module: nn.Module) -> None:
    """Replace the linear maps in a module."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear):
            setattr(module, name, Rounded(child.weight.detach(), child.bias))
        else:
            _round_inputs(child)


def rounded_weights(weight: Tensor, form: str) -> Tensor:
    """A matrix (rows, columns) whose groups have been rounded and scaled back."""
    most, columns = (127 if form == "w8a8" else 7), group_of(weight, form)
    groups = weight.reshape(-1, columns)
    scale = (groups.abs().amax(1) / most).clamp(min=TINY)
    zero = torch.zeros(len(groups), dtype=torch.int32)
    rounded = torch.fake_quantize_per_channel_affine(groups, scale, zero, 0, -most, most)
    return rounded.view_as(weight)


def rounded_tokens(x: Tensor) -> Tensor:
    """Activations (…, features), each token's rounded to 256 steps from its minimum to its
    maximum."""
    flat = x.reshape(-1, x.shape[-1])
    low, high = flat.amin(1).clamp(max=0), flat.amax(1).clamp(min=0)
    scale = ((high - low) / 255).clamp(min=TINY)
    zero = (-low / scale).round().to(torch.int32)
    rounded = torch.fake_quantize_per_channel_affine(flat, scale, zero, 0, 0, 255)
    return rounded.view_as(x)


def group_of(weight: Tensor, form: str) -> int:
    """Weights of a row that share a scale."""
    columns = weight.shape[1]
    return GROUP if form == "w4" and columns % GROUP == 0 else columns


def stored_bytes(model: Decoder, form: str) -> int:
    """Of the distinct weights in one of `FORMS`; norms and biases have 16 bits."""
    bits = 0
    for weight in model.parameters():
        if form == "fp16" or weight.ndim < 2:
            bits += 16 * weight.numel()
        else:
            groups = weight.numel() // group_of(weight, form)
            bits += (8 if form == "w8a8" else 4) * weight.numel() + SCALE_BITS * groups
    return bits // 8
