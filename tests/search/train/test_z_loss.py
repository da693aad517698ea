"""The square of log-sum-exp in the loss: against torch's, over all logits at once."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from train_fixtures import ARCH, RECIPE

from search.recipe import Recipe
from search.record import Run
from search.train.engines import autograd
from search.train.engines.autograd import AutogradEngine
from search.train.engines.weights import Weights
from search.train.placement import Placement, settle
from space.model import Decoder

PLAIN = Placement(device="cpu", engine="autograd", compile="no", threads=1)


@pytest.mark.parametrize("logits", [autograd.LOGITS, 2000])
@pytest.mark.parametrize("tied", [True, False])
def test_gradients_are_those_of_torchs_logsumexp(
    logits: int, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a slice of the logits at a time."""
    monkeypatch.setattr(autograd, "LOGITS", logits)
    torch.manual_seed(0)
    model = Decoder(replace(ARCH, tie_word_embeddings=tied))
    drawn = torch.randint(0, 300, (2, 10), generator=torch.Generator().manual_seed(1))
    inputs, targets = drawn[:, :-1], drawn[:, 1:]
    all_logits = F.linear(model.hidden(inputs), model.lm_head.weight)
    plain = F.cross_entropy(all_logits.flatten(0, 1), targets.flatten(), reduction="sum")
    squares = torch.logsumexp(all_logits, -1).square().sum()
    expected = torch.autograd.grad((plain + 0.03 * squares) / 18, list(model.parameters()))
    weights = Weights(model)
    nll = AutogradEngine(model, PLAIN, "fp32", z_loss=0.03).nll(inputs, targets, 1 / 18)
    assert float(nll.sum()) == pytest.approx(plain.item()), "what is reported is the text's"
    for parameter, wanted in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(weights.of(weights.gradients, parameter), wanted)


def test_kernels_leave_it_to_autograd_and_keys_know_it() -> None:
    plain, run = (
        Run(architecture=ARCH, recipe=recipe, data_fingerprint="a")
        for recipe in (RECIPE, replace(RECIPE, z_loss=1e-4))
    )
    assert settle(Placement(device="cpu"), run).engine == "autograd"
    assert run.key != plain.key
    with pytest.raises(ValueError, match="kernels know no z_loss"):
        settle(Placement(device="cpu", engine="kernels"), run)
    assert "z_loss" not in RECIPE.to_dict()
    with pytest.raises(ValueError, match="z_loss must not be negative"):
        Recipe(tokens=1000, z_loss=-1.0)
