"""Small models, and those of `transformers` that they are held to."""

from typing import Any

import torch
import transformers
from torch import nn

from space.arch import Architecture
from space.model import Decoder

TINY: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
}

ODD: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "intermediate_size": 40,
}
"""Sizes of which no two are alike."""

REFERENCES: dict[str, tuple[type[Any], type[Any], dict[str, Any]]] = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM, {}),
    "qwen2": (
        transformers.Qwen2Config,
        transformers.Qwen2ForCausalLM,
        {"attention_bias": True, "rms_norm_eps": 1e-6},
    ),
    "qwen3": (
        transformers.Qwen3Config,
        transformers.Qwen3ForCausalLM,
        {"qk_norm": True, "head_dim": 16, "rope_theta": 1e6},
    ),
}


def reference(name: str, arch: Architecture, randomised: bool = True) -> nn.Module:
    """`transformers`' model of an unshared architecture, with random weights of a visible size."""
    config_class, model_class, _ = REFERENCES[name]
    config = config_class(
        vocab_size=arch.vocab_size,
        hidden_size=arch.hidden_size,
        num_hidden_layers=arch.num_layers,
        num_attention_heads=arch.num_attention_heads,
        num_key_value_heads=arch.num_key_value_heads,
        head_dim=arch.head_dim,
        intermediate_size=arch.intermediate_size,
        tie_word_embeddings=arch.tie_word_embeddings,
        rms_norm_eps=arch.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": arch.rope_theta},
        max_position_embeddings=arch.max_position_embeddings,
    )
    model: nn.Module = model_class(config)
    if randomised:
        randomise(model)
    return model.eval()


def randomise(model: nn.Module) -> None:
    """Weights in which a wrong norm, bias or rotation shows."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            mean = 1.0 if p.ndim == 1 else 0.0
            p.copy_(mean + 0.2 * torch.randn(p.shape, generator=generator))


def drawn(arch: Architecture) -> Decoder:
    """The model in float64, with drawn weights: norms around 1, all else around 0."""
    model, generator = Decoder(arch).double().eval(), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator) + (p.ndim == 1))
    return model
