"""A model's parameters and gradients as two flat buffers."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from space.compat import is_hooked
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

    def join(self, model: Decoder) -> None:
        """Let the model multiply by matrices that stand side by side at once.

        Its parameters stay as they are, over the same memory: gradients of the joint matrix are
        added up where theirs are. Projections that a part wraps or replaces stay apart.
        """
        module: Any
        for module in model.modules():
            if (projections := _reading_together(module)) and self._can_join(projections):
                weight, *bias = map(self._leaf, _groups(projections))
                module.joint = weight, bias[0] if bias else None

    def _can_join(self, projections: list[nn.Linear]) -> bool:
        """Whether one product is all that these projections do."""
        return (
            all(type(p) is nn.Linear and not is_hooked(p) for p in projections)
            and len({p.bias is None for p in projections}) == 1
            and all(map(self._stand_together, _groups(projections)))
        )

    def _stand_together(self, parameters: list[Tensor]) -> bool:
        """Whether all of these learn, and nothing is between them."""
        neighbours = pairwise(self.places[p] for p in parameters)
        return all(p.requires_grad for p in parameters) and all(
            one.stop == other.start for one, other in neighbours
        )

    def _leaf(self, parameters: list[Tensor]) -> Tensor:
        """A tensor over the memory of parameters that stand side by side, and over that of their
        gradients."""
        leaf = self.of(self.values, *parameters).detach().requires_grad_()
        leaf.grad = self.of(self.gradients, *parameters)
        return leaf


def _side_by_side(model: Decoder) -> Iterable[list[Tensor]]:
    """Every parameter once, in groups that stand together."""
    seen: set[Tensor] = set()
    for module in model.modules():
        groups = _groups(_reading_together(module))
        groups += [[p] for p in module.parameters(recurse=False)]
        for group in groups:
            if group[0] not in seen:
                seen.update(group)
                yield group


def _reading_together(module: nn.Module) -> list[nn.Linear]:
    """Projections of a module that read the same input."""
    found: list[nn.Module] = []
    if isinstance(module, Attention):
        found = [module.q_proj, module.k_proj, module.v_proj]
    elif isinstance(module, MLP) and module.gated:
        found = [module.gate_proj, module.up_proj]
    linear = [p for p in found if isinstance(p, nn.Linear)]
    return linear if len(linear) == len(found) else []  # a part may replace some


def _groups(projections: list[nn.Linear]) -> list[list[Tensor]]:
    """Their weights, and their biases where all have one: what is to stand side by side."""
    weights: list[Tensor] = [p.weight for p in projections]
    biases: list[Tensor] = [p.bias for p in projections if p.bias is not None]
    return [kind for kind in (weights, biases) if kind and len(kind) == len(weights)]
