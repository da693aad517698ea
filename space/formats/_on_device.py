"""The decoder as a program for devices: one sequence, a fixed cache, nothing allocated."""

# T new tokens, S room of the cache, N query heads, K key/value heads, H head_dim

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from space.model import Decoder, rotate


class OnDevice(nn.Module):
    """A decoder that reads its next tokens at given positions, and keeps keys and values."""

    cos: Tensor
    sin: Tensor

    def __init__(self, decoder: Decoder, room: int) -> None:
        super().__init__()
        self.decoder, self.room = decoder, room
        arch = decoder.arch
        for layer in range(arch.num_layers):
            empty = torch.zeros(1, arch.kv_heads, room, arch.head_size)
            self.register_buffer(f"keys{layer}", empty)
            self.register_buffer(f"values{layer}", empty.clone())
        cos, sin = decoder.rotary(0, room, torch.zeros(1))
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Logits (1, 1, V) that follow the last of ids (1, T), which stand at positions (T,)."""
        stack = self.decoder.model
        x = stack.embed_tokens(ids)
        layer: Any
        for i, layer in enumerate(stack.layers):
            seen = self._seen(positions, layer.span)
            x = x + self._attend(layer.self_attn, i, layer.input_layernorm(x), positions, seen)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return self.decoder.lm_head(stack.norm(x[:, -1:]))  # type: ignore[no-any-return]

    def _seen(self, positions: Tensor, span: int | None) -> Tensor:
        """Which places of the cache each position looks at: (T, S)."""
        place, here = torch.arange(self.room)[None, :], positions[:, None]
        seen = place <= here
        return seen if span is None else seen & (place > here - span)

    def _attend(
        self, attention: Any, layer: int, x: Tensor, positions: Tensor, seen: Tensor
    ) -> Tensor:
        """As `Attention`, with keys and values in the buffers of a layer."""
        T, H = x.shape[1], attention.head_dim
        cos, sin = self.cos[positions], self.sin[positions]
        q = attention.q_proj(x).view(1, T, -1, H)
        k = attention.k_proj(x).view(1, T, -1, H)
        v = attention.v_proj(x).view(1, T, -1, H).transpose(1, 2)
        if attention.qk_norm:
            q, k = attention.q_norm(q), attention.k_norm(k)
        q, k = rotate(q.transpose(1, 2), cos, sin), rotate(k.transpose(1, 2), cos, sin)
        keys, values = getattr(self, f"keys{layer}"), getattr(self, f"values{layer}")
        keys.index_copy_(2, positions, k)
        values.index_copy_(2, positions, v)
        group = q.shape[1] // k.shape[1]
        keys, values = keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)
        y = F.scaled_dot_product_attention(q, keys, values, attn_mask=seen)
        return attention.o_proj(y.transpose(1, 2).reshape(1, T, -1))  # type: ignore[no-any-return]
