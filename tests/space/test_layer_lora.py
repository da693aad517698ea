"""`layer_lora`: against merged weights, against peft's LoRA, and as training starts."""

from typing import Any

import pytest
import torch
from model_fixtures import ODD, drawn

from search.recipe import Recipe
from search.train.parametrise import initialise
from space.arch import Architecture
from space.cost import cost
from space.model import Decoder

MATRICES = {
    "self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}


def factors(model: Decoder, layer: int, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B."""
    lora, stem = model.model.layers[layer].lora, name.removesuffix("_proj")
    last = lora[name] if name in ("o_proj", "down_proj") else lora[f"{stem}_out"]
    return lora[f"{stem}_in"].weight, last.weight.T


@pytest.mark.parametrize("sharing", ["immediate", "cycle"])
@torch.no_grad()
def test_a_shared_model_is_one_of_layers_with_merged_weights(sharing: str) -> None:
    """W + B A in each layer, with the layer's own A and B."""
    shared = Architecture(**ODD, num_blocks=2, repeats=2, sharing=sharing, layer_lora=3)
    model, merged = drawn(shared), Decoder(Architecture(**ODD, num_blocks=4)).double().eval()
    merged.model.embed_tokens.weight.copy_(model.model.embed_tokens.weight)
    merged.model.norm.weight.copy_(model.model.norm.weight)
    for i, (mine, theirs) in enumerate(zip(merged.model.layers, model.model.layers, strict=True)):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            getattr(mine, norm).weight.copy_(getattr(theirs, norm).weight)
        for half, names in MATRICES.items():
            for name in names:
                a, b = factors(model, i, name)
                weight = getattr(getattr(theirs, half), name).weight
                getattr(getattr(mine, half), name).weight.copy_(weight + b @ a)
    ids = torch.randint(0, 61, (2, 9))
    torch.testing.assert_close(model(ids), merged(ids))


@torch.no_grad()
def test_an_unshared_model_is_what_peft_makes_of_llama() -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    model = drawn(Architecture(**ODD, num_blocks=2, layer_lora=3))
    config = transformers.LlamaConfig(
        **ODD, num_hidden_layers=2, tie_word_embeddings=True, rms_norm_eps=1e-5, rope_theta=1e4
    )
    llama = transformers.LlamaForCausalLM(config).double().eval()
    plain = {n: p for n, p in model.state_dict().items() if ".lora." not in n}
    llama.load_state_dict(plain, strict=False)
    names = [name for names in MATRICES.values() for name in names]
    wanted = peft.LoraConfig(r=3, lora_alpha=3, target_modules=names, lora_dropout=0.0)
    adapted = peft.get_peft_model(llama, wanted).double().eval()
    for i, layer in enumerate(adapted.model.model.layers):
        for half, names in MATRICES.items():
            for name in names:
                a, b = factors(model, i, name)
                matrix = getattr(getattr(layer, half), name)
                matrix.lora_A["default"].weight.copy_(a)
                matrix.lora_B["default"].weight.copy_(b)
    ids = torch.randint(0, 61, (2, 9))
    torch.testing.assert_close(adapted(ids).logits, model(ids), rtol=1e-5, atol=1e-5)


def test_its_weights_are_those_of_the_paper() -> None:
    """Rank × (inputs + outputs) of seven matrices in each of six layers, by hand."""
    base = Architecture(**ODD, num_blocks=3, repeats=2, sharing="immediate")
    lora = Architecture(**ODD, num_blocks=3, repeats=2, sharing="immediate", layer_lora=5)
    each = 2 * (24 + 24) + 2 * (24 + 8) + 3 * (24 + 40)
    assert cost(lora).parameters - cost(base).parameters == 6 * 5 * each


def test_branches_that_start_closed_stay_closed_and_learn() -> None:
    """By the default recipe each layer adds nothing at first; the second factor gets a gradient at
    once, since the first is not zero."""
    model = Decoder(Architecture(**ODD, num_blocks=2, repeats=2, sharing="cycle", layer_lora=2))
    initialise(model, Recipe(tokens=1024, residual_init=0.0), 0)
    ids = torch.randint(0, 61, (2, 9))
    x = model.model.embed_tokens(ids)
    torch.testing.assert_close(model.hidden(ids), model.model.norm(x))
    model(ids).logsumexp(-1).sum().backward()
    for layer in range(4):
        for name in ("o_proj", "down_proj"):
            first, _ = factors(model, layer, name)
            gradient = model.model.layers[layer].lora[name].weight.grad
            assert gradient is not None
            assert gradient.any()
            assert first.any(), "not drawn at zero, or neither would ever learn"


@pytest.mark.parametrize("rank", [-1, 1.5, True, "many"])
def test_a_rank_that_is_none_is_refused(rank: Any) -> None:
    with pytest.raises(ValueError, match=r"layer_lora must be a rank, a whole number from 0 on"):
        Architecture(**ODD, num_blocks=2, layer_lora=rank)


def test_it_does_not_go_with_ffns_of_several_widths() -> None:
    with pytest.raises(ValueError, match="layer_lora must come with FFNs of one width"):
        Architecture(**ODD, num_blocks=2, layer_lora=2, ffn_scaling="0.5..1.5")
