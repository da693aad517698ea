"""What a teacher adds to the loss of a batch."""

# B sequences, T positions, D hidden_size, V vocab_size

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from search.recipe import Recipe
from search.teacher import source
from search.train.placement import Placement, autocast
from space.hf import load
from space.model import Attention, Decoder, Finish, finished


@dataclass
class Teaching:
    """A teacher at work: its predictions, and how far a run's are from them."""

    model: Decoder
    weight: float
    temperature: float
    placement: Placement
    precision: str

    @classmethod
    def of(cls, recipe: Recipe, placement: Placement) -> "Teaching | None":
        """The recipe's, on the placement's device; None where it has none.

        Raises:
            ValueError: the teacher is not there, or not what it was.
        """
        if not recipe.teacher:
            return None
        model = load(source(recipe.teacher)).to(placement.device)
        for module in model.modules():
            if isinstance(module, Attention):
                module.fused = placement.device == "cuda"
        return cls.by(model, recipe, placement)

    @classmethod
    def by(cls, model: Decoder, recipe: Recipe, placement: Placement) -> "Teaching":
        """A model's, as a recipe wants it."""
        weight, temperature = recipe.distillation_weight, recipe.distillation_temperature
        frozen = model.requires_grad_(False)
        return cls(frozen, weight, temperature, placement, recipe.precision)

    @torch.no_grad()
    def hidden(self, inputs: Tensor) -> Tensor:
        """The teacher's residual stream (B, T, D) for ids (B, T)."""
        with autocast(self.placement, self.precision):
            return self.model.hidden(inputs)

    def loss(
        self,
        nll: Tensor,
        hidden: Tensor,
        output: Tensor,
        taught: Tensor,
        finish: Finish | None = None,
    ) -> Tensor:
        """`weight` of the distance to the teacher and the rest of `nll`, (B, T) in nats. hidden (B,
        T, D) and taught (1, B·T, D) are both models' streams, output (V, D) is the run's matrix and
        `finish` what it does to logits."""
        with torch.no_grad():
            wanted = self.model.logits(taught).view(*nll.shape, -1)
        found = finished(F.linear(hidden, output), finish)
        apart = distance(found, wanted, self.temperature)
        return (1 - self.weight) * nll + self.weight * apart


def distance(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """The Kullback-Leibler divergence from wanted to logits, (…, V), each divided by a temperature
    t, times t²: so its gradients stay as large as those of the text (Hinton et al.,
    arXiv:1503.02531, section 2). Result (…) in nats."""
    found = F.log_softmax(logits.float() / temperature, -1)
    target = F.log_softmax(wanted.float() / temperature, -1)
    apart = F.kl_div(found, target, reduction="none", log_target=True).sum(-1)
    return temperature**2 * apart
