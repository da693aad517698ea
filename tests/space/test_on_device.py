"""The program that ExecuTorch gets, held to the decoder while it is still torch's."""

from typing import Any

import pytest
import torch
from model_fixtures import TINY, randomise

from space.arch import Architecture
from space.formats._on_device import OnDevice
from space.formats.executorch import once, rounded_rows
from space.model import Decoder

IDS = [5, 17, 33, 90, 8, 41, 3, 7, 66]
SHAPES: list[dict[str, Any]] = [
    {"sharing": "cycle", "repeats": 2},
    {"qk_norm": True, "attention_bias": True},
    {"hidden_act": "gelu", "tie_word_embeddings": False},
    {"sliding_window": "3, global 1"},
    {"ffn_scaling": "0.5..1.5"},
]


def built(fields: dict[str, Any]) -> Decoder:
    model = Decoder(Architecture.from_dict({**TINY, "num_blocks": 2, **fields})).eval()
    randomise(model)
    return model


@torch.no_grad()
@pytest.mark.parametrize("fields", SHAPES, ids=lambda fields: "-".join(fields))
def test_a_prompt_and_single_tokens_give_the_decoders_logits(fields: dict[str, Any]) -> None:
    model = built(fields)
    program = OnDevice(model, room=12)
    program(torch.tensor([[1, 2, 3, 4]]), torch.arange(4))  # an earlier prompt
    for start, stop in ((0, 5), (5, 6), (6, 7), (7, 9)):
        ids, positions = torch.tensor([IDS[start:stop]]), torch.arange(start, stop)
        wanted = model(torch.tensor([IDS[:stop]]))[:, -1:]
        torch.testing.assert_close(program(ids, positions), wanted, rtol=1e-5, atol=1e-5)


def test_a_shared_matrix_is_taken_once() -> None:
    model = built({"sharing": "cycle", "repeats": 2})
    takes = once(lambda name: not name.endswith("lm_head"))
    named = model.named_modules(remove_duplicate=False)
    assert sum(takes(module, name) for name, module in named) == 2 * 7


def test_an_embedding_of_8_bits_is_what_torch_rounds_it_to() -> None:
    embedding = torch.nn.Embedding(50, 16)
    weight, ids = embedding.weight.detach(), torch.tensor([[3, 49, 3]])
    scales, zero = weight.abs().amax(1) / 127, torch.zeros(50, dtype=torch.int32)
    wanted = torch.fake_quantize_per_channel_affine(weight, scales, zero, 0, -127, 127)
    made = rounded_rows(embedding)
    torch.testing.assert_close(made(ids), wanted[ids])
    stored = sum(tensor.numel() * tensor.element_size() for tensor in made.state_dict().values())
    assert stored == 50 * 16 + 50 * 4
