"""A batch through the model and back by torch's autograd."""

# B sequences of a micro-batch, T positions, D hidden_size, V vocab_size

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from search.train.engines import micro_batches
from search.train.engines.captured import Captured
from search.train.engines.distillation import Teaching
from search.train.placement import Placement, autocast
from space.model import Decoder, Finish, finished, token_nll

LOGITS = 2**27
"""So many at most are held at once. In float32 they are half a gigabyte, and the loss needs several
times that: of a micro-batch of 32,768 tokens with 128,256 entries of vocabulary all would be 16 GiB
each time."""


class AutogradEngine:
    """torch's own way, compiled where the placement says so."""

    def __init__(
        self,
        model: Decoder,
        placement: Placement,
        precision: str,
        teaching: Teaching | None = None,
        z_loss: float = 0.0,
    ) -> None:
        self.model, self.placement, self.precision = model, placement, precision
        self.teaching, self.z_loss = teaching, z_loss
        self.compiled = placement.compile == "yes"
        self.token_nll = torch.compile(token_nll, dynamic=False) if self.compiled else token_nll
        self.captured = Captured() if placement.cuda_graph == "yes" else None

    def nll(self, inputs: Tensor, targets: Tensor, scale: float | None = None) -> Tensor:
        """One micro-batch after the other; of each only the result stays."""
        learn = partial(self.captured, self._learn) if self.captured else self._learn
        parts = []
        for rows in micro_batches(len(inputs), self.placement.micro_batch):
            if scale is None:
                parts.append(self._score(inputs[rows], targets[rows]))
            else:
                parts.append(learn(inputs[rows], targets[rows], scale))
        return torch.cat(parts)

    def _score(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Without a graph. Where layers are compiled, a smaller last micro-batch is filled up, for
        it would be compiled anew."""
        given, size = len(inputs), self.placement.micro_batch
        if self.compiled and size and given < size:
            rows = torch.arange(size, device=inputs.device).clamp(max=given - 1)
            inputs, targets = inputs[rows], targets[rows]
        with torch.no_grad(), autocast(self.placement, self.precision):
            hidden = self.model.hidden(inputs)  # (B, T, D)
            parts = [
                self.token_nll(h, self.model.lm_head.weight, t, self.model.finish)
                for h, t in self._slices(hidden, targets)
            ]
        return torch.cat(parts, 1).view_as(targets)[:given]

    def _learn(self, inputs: Tensor, targets: Tensor, scale: float) -> Tensor:
        """Where there are several slices, each goes back to the residual stream at once, so that
        the logits of one are held; its gradient then goes back through the layers."""
        with autocast(self.placement, self.precision):
            hidden = self.model.hidden(inputs)  # (B, T, D)
        sliced = self._slices(hidden, targets)
        taught = self._taught(inputs, targets, len(sliced))
        if len(sliced) == 1:
            return self._back(hidden, targets, scale, taught[0])
        stream = hidden.detach().requires_grad_()
        parts = [
            self._back(h, t, scale, of_teacher)
            for (h, t), of_teacher in zip(self._slices(stream, targets), taught, strict=True)
        ]
        hidden.backward(stream.grad)  # type: ignore[no-untyped-call]
        return torch.cat(parts, 1).view_as(targets)

    def _taught(self, inputs: Tensor, targets: Tensor, slices: int) -> Sequence[Tensor | None]:
        """The teacher's residual stream of each slice; None where there is no teacher."""
        if self.teaching is None:
            return [None] * slices
        return [hidden for hidden, _ in self._slices(self.teaching.hidden(inputs), targets)]

    def _back(self, hidden: Tensor, targets: Tensor, scale: float, taught: Tensor | None) -> Tensor:
        """The loss of these positions, whose gradients have been added up, with what else the
        recipe wants."""
        output, finish = self.model.lm_head.weight, self.model.finish
        with autocast(self.placement, self.precision):
            loss = nll = self.token_nll(hidden, output, targets, finish)
            if self.teaching is not None and taught is not None:
                loss = self.teaching.loss(nll, hidden, output, taught, finish)
            if self.z_loss:
                sums = log_sum_exp(nll, hidden, output, targets, finish)
                loss = loss + self.z_loss * sums.square()
        (loss.sum() * scale).backward()  # type: ignore[no-untyped-call]
        return nll.detach()

    def _slices(self, hidden: Tensor, targets: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Consecutive positions, (1, n, D) and (1, n), of at most `LOGITS` logits; of equal length
        where that divides."""
        positions = targets.numel()
        count = -(-positions * len(self.model.lm_head.weight) // LOGITS)
        even = (n for n in range(count, 2 * count) if positions % n == 0)
        size = -(-positions // next(even, count))
        all_hidden, all_targets = hidden.flatten(0, 1)[None], targets.flatten()[None]
        hidden_parts, target_parts = (
            torch.split(all_hidden, size, 1),
            torch.split(all_targets, size, 1),
        )
        return list(zip(hidden_parts, target_parts, strict=True))

    def refresh(self) -> None:
        """Nothing: the weights are read where they are."""


def log_sum_exp(
    nll: Tensor, hidden: Tensor, output: Tensor, targets: Tensor, finish: Finish | None = None
) -> Tensor:
    """Of each position's logits (B, T), without them: the loss is that less the target's logit.
    hidden (B, T, D), output (V, D)."""
    logit = (hidden.float() * output[targets].float()).sum(-1)
    return nll + finished(logit, finish)
