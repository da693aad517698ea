"""The decoder against `transformers`, against itself with a cache, and under sharing."""

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from model_fixtures import REFERENCES, TINY, randomise, reference
from strategies import architectures

from space.arch import Architecture
from space.cost import cost
from space.model import Decoder, KVCache


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("fused", [True, False])
def test_logits_equal_those_of_transformers(name: str, tied: bool, fused: bool) -> None:
    fields = {**TINY, "num_blocks": 3, "tie_word_embeddings": tied, **REFERENCES[name][2]}
    arch = Architecture(**fields)
    theirs = reference(name, arch)
    ours = Decoder(arch).eval()
    state = theirs.state_dict()
    if tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    ours.load_state_dict(state)
    for layer in ours.model.layers:
        layer.self_attn.fused = fused
    ids = torch.randint(0, arch.vocab_size, (2, 29), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("sharing", ["none", "immediate", "cycle", "reverse"])
def test_cached_decoding_equals_the_full_pass(sharing: str, fused: bool) -> None:
    repeats = 1 if sharing == "none" else 2
    model = Decoder(Architecture(**TINY, num_blocks=2, sharing=sharing, repeats=repeats)).eval()
    randomise(model)
    for layer in model.model.layers:
        layer.self_attn.fused = fused
    ids = torch.randint(0, 97, (2, 11), generator=torch.Generator().manual_seed(1))
    cache = KVCache(model.arch.num_layers)
    with torch.no_grad():
        pieces = [model(piece, cache) for piece in ids.split([4, 1, 1, 3, 2], dim=1)]
        torch.testing.assert_close(torch.cat(pieces, dim=1), model(ids), rtol=1e-5, atol=1e-5)
    assert len(cache) == 11


@settings(max_examples=60, deadline=None)
@given(arch=architectures())
def test_closed_form_counts_equal_the_built_model(arch: Architecture) -> None:
    with torch.device("meta"):
        model = Decoder(arch)
    expected = cost(arch)
    assert expected.parameters == sum(p.numel() for p in model.parameters())
    embeddings = {model.model.embed_tokens.weight, model.lm_head.weight}
    assert expected.embedding_parameters == sum(p.numel() for p in embeddings)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(arch=architectures(parts=[]))
def test_closed_form_counts_equal_those_of_transformers(arch: Architecture) -> None:
    """Of the same layers with weights of their own, where `transformers` has such a model."""
    kinds = {(False, False): "llama", (True, False): "qwen2", (False, True): "qwen3"}
    name = kinds.get((arch.attention_bias, arch.qk_norm))
    assume(name is not None and arch.gated)
    assume(arch.hidden_size % arch.num_attention_heads == 0)
    plain = unrolled(arch)
    with torch.device("meta"):
        theirs = reference(str(name), plain, randomised=False)
    assert cost(plain).parameters == sum(p.numel() for p in theirs.parameters())


@settings(max_examples=25, deadline=None)
@given(arch=architectures(parts=["sliding_window"]))
def test_gradients_of_shared_blocks_are_the_sum_over_their_uses(arch: Architecture) -> None:
    shared = Decoder(arch).double()
    plain = Decoder(unrolled(arch)).double()
    plain.load_state_dict(shared.state_dict())
    ids = torch.randint(0, arch.vocab_size, (1, 5), generator=torch.Generator().manual_seed(1))
    for model in (shared, plain):
        model(ids).square().mean().backward()
    gradients = {n: p.grad for n, p in plain.named_parameters()}
    for p in shared.parameters():
        names = [n for n, q in shared.named_parameters(remove_duplicate=False) if q is p]
        uses = [gradients[n] for n in names if n in gradients]
        torch.testing.assert_close(p.grad, torch.stack(uses).sum(0))  # type: ignore[arg-type]


def unrolled(arch: Architecture) -> Architecture:
    """The same layers, each with weights of its own."""
    plain = {"sharing": "none", "repeats": 1, "sharing_scope": "block", "norms": "block"}
    sizes = {"num_blocks": arch.num_layers, "num_hidden_layers": None, "layer_map": None}
    return Architecture.from_dict({**arch.to_dict(), **plain, **sizes})
