"""The one decoder: a pre-norm Llama-like transformer that executes a layer map.

Parameters carry Hugging Face's names, and a shared block appears under the name of each layer that
executes it, so that `state_dict()` is a plain, unrolled Llama checkpoint.
"""

# B batch, T new positions, S all positions (cached ones first), D hidden_size, N
# num_attention_heads, K num_key_value_heads, G = N / K, H head_dim, F intermediate_size, V
# vocab_size

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from space.arch import Architecture
from space.cost import cost
from space.words import join

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "relu": F.relu,
    "gelu": F.gelu,
}


Finish = Callable[[Tensor], Tensor]
"""What a part does to each logit by itself: any shape to the same."""
Joint = tuple[Tensor, Tensor | None]
"""The weights of several projections side by side, as one matrix, and their biases, if any."""


class KVCache:
    """Keys and values of the positions seen so far, one pair per *layer*: a block executed twice
    has two."""

    def __init__(self, num_layers: int) -> None:
        self.keys: list[Tensor | None] = [None] * num_layers
        self.values: list[Tensor | None] = [None] * num_layers
        self.seen = [0] * num_layers

    def __len__(self) -> int:
        """Positions seen, of which a layer with a span keeps the last."""
        return self.seen[-1]

    def extend(
        self, layer: int, k: Tensor, v: Tensor, span: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Append new keys and values (B, K, T, H) of a layer; return those that the new positions
        may look at (B, K, S, H), and keep the last `span`."""
        old_k, old_v = self.keys[layer], self.values[layer]
        self.seen[layer] += k.shape[2]
        k = k if old_k is None else torch.cat((old_k, k), dim=2)
        v = v if old_v is None else torch.cat((old_v, v), dim=2)
        last = slice(None if span is None else -span, None)
        self.keys[layer], self.values[layer] = k[:, :, last], v[:, :, last]
        return k, v

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order; one may come several times."""
        self.keys = [None if k is None else k[rows] for k in self.keys]
        self.values = [None if v is None else v[rows] for v in self.values]


class RMSNorm(nn.Module):
    """Root-mean-square norm with a gain (arXiv:1910.07467)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Over the last dimension, in float32; the result has x's type."""
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        return (y * self.weight.float()).to(x.dtype)


class Attention(nn.Module):
    """Causal grouped-query attention (arXiv:2305.13245) with rotary positions
    (arXiv:2104.09864)."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        queries, keys = arch.num_attention_heads * arch.head_size, arch.kv_heads * arch.head_size
        self.head_dim = arch.head_size
        self.fused = True
        self.joint: Joint | None = None
        """Of q, k and v, where an engine has put them side by side."""
        self.q_proj = nn.Linear(arch.hidden_size, queries, bias=arch.attention_bias)
        self.k_proj = nn.Linear(arch.hidden_size, keys, bias=arch.attention_bias)
        self.v_proj = nn.Linear(arch.hidden_size, keys, bias=arch.attention_bias)
        self.o_proj = nn.Linear(queries, arch.hidden_size, bias=False)
        if arch.qk_norm:
            self.q_norm = RMSNorm(arch.head_size, arch.rms_norm_eps)
            self.k_norm = RMSNorm(arch.head_size, arch.rms_norm_eps)
        self.qk_norm = arch.qk_norm

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        layer: int = 0,
        cache: KVCache | None = None,
        span: int | None = None,
    ) -> Tensor:
        """x, result: (B, T, D); cos, sin: (T, H). `layer` says which part of the cache is this
        one's, `span` how many positions each looks at."""
        B, T, _ = x.shape
        q, k, v = project(x, self.q_proj, self.k_proj, self.v_proj, joint=self.joint)
        q = q.view(B, T, -1, self.head_dim)  # (B, T, N, H)
        k = k.view(B, T, -1, self.head_dim)  # (B, T, K, H)
        v = v.view(B, T, -1, self.head_dim).transpose(1, 2)  # (B, K, T, H)
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q = rotate(q.transpose(1, 2), cos, sin)  # (B, N, T, H)
        k = rotate(k.transpose(1, 2), cos, sin)  # (B, K, T, H)
        if cache is not None:
            k, v = cache.extend(layer, k, v, span)  # (B, K, S, H)
        attend = fused_attention if self.fused else matmul_attention
        y = attend(q, k, v, span).transpose(1, 2).reshape(B, T, -1)  # (B, T, N·H)
        return self.o_proj(y)  # type: ignore[no-any-return]


def project(x: Tensor, *projections: nn.Linear, joint: Joint | None = None) -> Sequence[Tensor]:
    """What each projection makes of x (B, T, D), in one product where their weights are given side
    by side: (B, T, outputs) each."""
    if joint is None:
        return [projection(x) for projection in projections]
    return torch.split(F.linear(x, *joint), [p.out_features for p in projections], -1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (i, i + H/2) by its position's angle, as Hugging Face's Llama does. x: (B,
    heads, T, H)."""
    a, b = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-b, a), dim=-1) * sin).to(x.dtype)


def fused_attention(q: Tensor, k: Tensor, v: Tensor, span: int | None = None) -> Tensor:
    """torch's kernel. q, result: (B, N, T, H); k, v: (B, K, S, H)."""
    T, S = q.shape[2], k.shape[2]
    if T == S and (span is None or span >= T):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    mask = causal_mask(T, S, q.device, span)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)


def matmul_attention(q: Tensor, k: Tensor, v: Tensor, span: int | None = None) -> Tensor:
    """Two batched products with a softmax between: faster on CPUs than the fused kernel.

    The G query heads of a group share their keys, so they are stacked along T. Autocast would do
    the softmax on float32 copies; torch's bf16 softmax sums in float32 and moves half the bytes.
    Shapes as in `fused_attention`.
    """
    B, N, T, H = q.shape
    K, S = k.shape[1], k.shape[2]
    mask = torch.zeros(T, S, dtype=q.dtype, device=q.device)
    mask = mask.masked_fill(~causal_mask(T, S, q.device, span), float("-inf"))
    with torch.autocast(q.device.type, enabled=False):
        stacked = q.reshape(B * K, -1, H)  # (B·K, G·T, H)
        keys, values = k.reshape(B * K, S, H), v.reshape(B * K, S, H).to(q.dtype)
        scores = torch.bmm(stacked, keys.transpose(1, 2)).view(B * K, -1, T, S)
        weights = (scores * H**-0.5 + mask).softmax(-1).view(B * K, -1, S)  # (B·K, G·T, S)
        return torch.bmm(weights, values).view(B, N, T, H)


def causal_mask(T: int, S: int, device: torch.device, span: int | None = None) -> Tensor:
    """Which of S positions each of the last T may look at: (T, S), True where it may; of those
    before it, with itself, the last `span`."""
    mask = torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)
    return mask if span is None else mask.triu(S - T - span + 1)


class MLP(nn.Module):
    """The FFN: SwiGLU (arXiv:2002.05202) for `silu`, else two matrices with the activation
    between."""

    def __init__(self, arch: Architecture, width: int) -> None:
        super().__init__()
        self.joint: Joint | None = None
        """Of gate and up, where an engine has put them side by side."""
        if arch.gated:
            self.gate_proj = nn.Linear(arch.hidden_size, width, bias=False)
        self.up_proj = nn.Linear(arch.hidden_size, width, bias=False)
        self.down_proj = nn.Linear(width, arch.hidden_size, bias=False)
        self.activation = ACTIVATIONS[arch.hidden_act]
        self.gated = arch.gated

    def forward(self, x: Tensor) -> Tensor:
        """x, result: (B, T, D)."""
        if self.gated:
            gate, up = project(x, self.gate_proj, self.up_proj, joint=self.joint)
            y = self.activation(gate) * up  # (B, T, F)
        else:
            y = self.activation(self.up_proj(x))  # (B, T, F)
        return self.down_proj(y)  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """One execution of an attention half and an FFN half, each with its norm, on the residual
    stream."""

    def __init__(
        self,
        self_attn: Attention,
        mlp: MLP,
        input_layernorm: RMSNorm,
        post_attention_layernorm: RMSNorm,
        span: int | None = None,
    ) -> None:
        super().__init__()
        self.span = span
        self.self_attn = self_attn
        self.mlp = mlp
        self.input_layernorm = input_layernorm
        self.post_attention_layernorm = post_attention_layernorm

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, layer: int = 0, cache: KVCache | None = None
    ) -> Tensor:
        """x, result: (B, T, D); cos, sin: (T, H)."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, layer, cache, self.span)
        return x + self.mlp(self.post_attention_layernorm(x))  # type: ignore[no-any-return]


class Stack(nn.Module):
    """Embedding, layers and final norm: what Hugging Face calls `model`."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(arch.vocab_size, arch.hidden_size)
        self.layers = nn.ModuleList(_layers(arch))
        self.norm = RMSNorm(arch.hidden_size, arch.rms_norm_eps)


def _layers(arch: Architecture) -> list[DecoderLayer]:
    """The layers of the map; those that share a half hold the same module."""
    attentions = [Attention(arch) for _ in range(arch.num_attention_blocks)]
    mlps = [MLP(arch, width) for width in arch.ffn_widths]

    def norms(owners: int) -> list[RMSNorm]:
        count = arch.num_layers if arch.norms_per_layer else owners
        return [RMSNorm(arch.hidden_size, arch.rms_norm_eps) for _ in range(count)]

    before_attention, before_mlp = norms(len(attentions)), norms(len(mlps))
    return [
        DecoderLayer(
            attentions[a],
            mlps[f],
            before_attention[layer if arch.norms_per_layer else a],
            before_mlp[layer if arch.norms_per_layer else f],
            span,
        )
        for layer, ((a, f), span) in enumerate(zip(arch.layers, arch.spans, strict=True))
    ]


class Decoder(nn.Module):
    """A language model of the given architecture, with torch's default initial weights."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch = arch
        self.model = Stack(arch)
        self.lm_head = nn.Linear(arch.hidden_size, arch.vocab_size, bias=False)
        if arch.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.finish: Finish | None = None
        for part in arch.active:
            part.build(self)
        if arch.parts:
            self._require_count()

    def _require_count(self) -> None:
        """Raises: ValueError where a part built other weights than it counts."""
        built, counted = sum(p.numel() for p in self.parameters()), cost(self.arch).parameters
        if built != counted:
            names = join([setting.name for setting in self.arch.parts])
            raise ValueError(
                f"a part must count the weights that it builds, but with {names} {counted:,} are "
                f"counted and {built:,} built; correct what its attention, ffn and stack return"
            )

    def forward(self, input_ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """Logits (B, T, V) for token ids (B, T), which follow those the cache holds."""
        return self.logits(self.hidden(input_ids, cache))

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (…, V) of what `hidden` returned, (…, D)."""
        return finished(self.lm_head(hidden), self.finish)

    def hidden(self, input_ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """The normed residual stream (B, T, D) that the output matrix reads."""
        start = 0 if cache is None else len(cache)
        x = self.model.embed_tokens(input_ids)  # (B, T, D)
        cos, sin = self.rotary(start, input_ids.shape[1], x)
        for i, layer in enumerate(self.model.layers):
            x = layer(x, cos, sin, i, cache)
        return self.model.norm(x)  # type: ignore[no-any-return]

    def rotary(self, start: int, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine (T, H) of each position's angles, computed in float32."""
        frequency = self.frequencies(like.device)
        position = torch.arange(start, start + length, device=like.device, dtype=torch.float32)
        angle = torch.outer(position, frequency).repeat(1, 2)
        return angle.cos().to(like.dtype), angle.sin().to(like.dtype)

    def frequencies(self, device: torch.device | str = "cpu") -> Tensor:
        """By how much a position turns each pair, in radians: (H / 2,)."""
        half = torch.arange(0, self.arch.head_size, 2, device=device, dtype=torch.float32)
        frequency = self.arch.rope_theta ** (-half / self.arch.head_size)
        if (scaling := self.arch.rope_scaling) is not None:
            turns = frequency * scaling.original_max_position_embeddings / (2 * math.pi)
            low, high = scaling.low_freq_factor, scaling.high_freq_factor
            kept = ((turns - low) / (high - low)).clamp(0, 1)
            frequency = frequency * (kept + (1 - kept) / scaling.factor)
        return frequency


def finished(logits: Tensor, finish: Finish | None) -> Tensor:
    """Logits as a part wants them."""
    return logits if finish is None else finish(logits)


def token_nll(
    hidden: Tensor, output: Tensor, targets: Tensor, finish: Finish | None = None
) -> Tensor:
    """Negative log-likelihood in nats (B, T) of targets (B, T), read off hidden (B, T, D) by the
    output matrix (V, D)."""
    logits = finished(F.linear(hidden, output).flatten(0, 1).float(), finish)  # (B·T, V)
    return F.cross_entropy(logits, targets.flatten(), reduction="none").view_as(targets)
