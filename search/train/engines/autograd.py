"""A batch through the model and back by torch's autograd."""

import torch
from torch import Tensor

from search.train.engines import micro_batches
from search.train.placement import Placement, autocast
from space.model import Decoder, token_nll


class AutogradEngine:
    """torch's own way, compiled where the placement says so."""

    def __init__(self, model: Decoder, placement: Placement, precision: str) -> None:
        self.model, self.placement, self.precision = model, placement, precision
        compiled = placement.compile == "yes"
        self.token_nll = torch.compile(token_nll, dynamic=False) if compiled else token_nll

    def nll(self, inputs: Tensor, targets: Tensor, scale: float | None = None) -> Tensor:
        """Gradients stay enabled where none is taken: the training step's compiled graph then
        serves for scoring too."""
        parts = []
        for rows in micro_batches(len(inputs), self.placement.micro_batch):
            with autocast(self.placement, self.precision):
                hidden = self.model.hidden(inputs[rows])
                nll = self.token_nll(hidden, self.model.lm_head.weight, targets[rows])
            if scale is not None:
                (nll.sum() * scale).backward()  # type: ignore[no-untyped-call]
            parts.append(nll.detach())
        return torch.cat(parts)

    def refresh(self) -> None:
        """Nothing: the weights are read where they are."""
