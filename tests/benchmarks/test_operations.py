"""The kernels as operations of autograd compute what the passes written out do, bit for bit."""

import re
from pathlib import Path

import pytest
import torch

from benchmarks import engines, show
from benchmarks.operations import OperationsEngine
from search.train.engines.kernels import KernelEngine
from search.train.engines.weights import Weights
from search.train.kernels import Unavailable, library
from search.train.placement import Placement
from space.arch import Architecture
from space.model import Decoder

try:
    library()
except Unavailable as reason:
    pytest.skip(f"no kernels: {reason}", allow_module_level=True)

ARCH = Architecture(
    vocab_size=97,
    hidden_size=48,
    num_blocks=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=72,
)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_both_make_the_same_loss_and_gradients(precision: str) -> None:
    ids = torch.arange(3 * 21).view(3, 21) * 7 % 97
    made = []
    for kind in (KernelEngine, OperationsEngine):
        torch.manual_seed(0)
        model = Decoder(ARCH)
        weights = Weights(model)
        engine = kind(model, weights, Placement(device="cpu", threads=1), precision)
        made.append((engine.nll(ids[:, :-1], ids[:, 1:], 0.01), weights.gradients))
    (nll, gradients), (others_nll, others) = made
    assert torch.equal(nll, others_nll)
    assert torch.equal(gradients, others)
    assert gradients.any()


@pytest.mark.slow
def test_the_two_take_turns_and_leave_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(show, "RESULTS", tmp_path)
    engines.main(["--save", "--turns", "2", "--seconds", "0", "--depths", "2"])
    assert re.search(r"^\| 2 × 192 \|", (tmp_path / "engines.md").read_text(), re.MULTILINE)
