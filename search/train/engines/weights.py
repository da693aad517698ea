"""A model's parameters and gradients as two flat buffers."""

from collections.abc import Iterable

import torch
from torch import Tensor

from space.model import MLP, Attention, Decoder

ALIGNED = 64
"""Elements to a multiple of which matrices that are not read together are placed."""


class Weights:
    """A model's parameters in one flat buffer, and their gradients in another.

    Matrices that read the same input stand side by side, so that one product serves them: q, k and
    v, and gate and up. Parameters keep their names and become views.
    """

    def __init__(self, model: Decoder) -> None:
        groups = list(_side_by_side(model))
        starts, end = [], 0
        for group in groups:
            starts.append(end)
            end += -(-sum(p.numel() for p in group) // ALIGNED) * ALIGNED
        device = model.lm_head.weight.device
        self.values = torch.zeros(end, device=device)
        self.gradients = torch.zeros(end, device=device)
        self.places: dict[Tensor, slice] = {}
        for start, group in zip(starts, groups, strict=True):
            for p in group:
                self.places[p] = place = slice(start, start + p.numel())
                self.values[place].copy_(p.detach().flatten())
                p.data = self.values[place].view_as(p)
                p.grad = self.gradients[place].view_as(p)
                start = place.stop

    def of(self, buffer: Tensor, *parameters: Tensor) -> Tensor:
        """The part of a buffer like `values` that belongs to parameters that stand side by side:
        (their rows together, columns), or (elements) of vectors."""
        first, last = self.places[parameters[0]], self.places[parameters[-1]]
        return buffer[first.start : last.stop].view(-1, *parameters[0].shape[1:])


def _side_by_side(model: Decoder) -> Iterable[list[Tensor]]:
    """Every parameter once, in groups that stand together."""
    seen: set[Tensor] = set()
    for module in model.modules():
        if isinstance(module, Attention):
            projections = [module.q_proj, module.k_proj, module.v_proj]
            groups = [[p.weight for p in projections]]
            groups += [[p.bias for p in projections]] if projections[0].bias is not None else []
        elif isinstance(module, MLP) and module.gated:
            groups = [[module.gate_proj.weight, module.up_proj.weight]]
        else:
            groups = []
        groups += [[p] for p in module.parameters(recurse=False)]
        for group in groups:
            if group[0] not in seen:
                seen.update(group)
                yield group
