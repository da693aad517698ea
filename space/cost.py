"""What an architecture costs, in closed form and without torch.

The counts equal the built model's and `transformers`' own (`tests/test_cost.py`).
"""

from dataclasses import dataclass
from functools import lru_cache

from space.arch import Architecture


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Counts of one architecture. "Parameters" are distinct weights, a tied or shared matrix
    counted once."""

    parameters: int
    """All distinct weights: embeddings, blocks, norms, biases."""
    embedding_parameters: int
    """Input embedding, and the output matrix where it is untied."""
    non_embedding_parameters: int
    weight_bytes: int
    """`parameters` × bytes a weight."""
    forward_flops_per_token: int
    """Matrix products of one forward pass over `seq_len` tokens, divided by them; a multiply-add is
    2 FLOPs, causal attention counts half of the square, a shared block once per use, the output
    matrix included, lookups free."""
    train_flops_per_token: int
    """Three times the forward pass: the backward pass needs two products for each."""
    kv_bytes_per_token: int
    """Keys and values kept for one token, one cache per *layer*, shared or not."""
    decode_bytes_per_token: int
    """Moved from memory to decode one token after `seq_len` others: the weights of every layer (a
    half that the layer before has just used is still at hand, and counted once), the output matrix,
    one embedding row, and the cache."""

    @property
    def embedding_share(self) -> float:
        """`embedding_parameters` / `parameters`."""
        return self.embedding_parameters / self.parameters


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Parameters of each part of an architecture, where they are stored once."""

    embedding: int
    output: int
    """0 where it is tied."""
    attention: int
    """One attention half, without its norm."""
    ffn: int
    """One FFN half, without its norm."""
    norm: int
    """One RMSNorm."""


def parts(arch: Architecture) -> Parts:
    """The sizes of which every count is made."""
    matrix = arch.vocab_size * arch.hidden_size
    return Parts(
        embedding=matrix,
        output=0 if arch.tie_word_embeddings else matrix,
        attention=_attention_matrices(arch) + _attention_extras(arch),
        ffn=_ffn_matrices(arch),
        norm=arch.hidden_size,
    )


def num_norms(arch: Architecture) -> int:
    """Distinct norms inside the layers: one for every half, or one for every layer's halves."""
    if arch.norms_per_layer:
        return 2 * arch.num_layers
    return arch.num_attention_blocks + arch.num_ffn_blocks


@lru_cache(maxsize=65536)
def cost(arch: Architecture, seq_len: int = 2048, dtype_bytes: int = 2) -> Cost:
    """The cost of an architecture at a sequence length, with weights and cache of `dtype_bytes`
    bytes each.

    Raises:
        ValueError: a length or size below one.
    """
    if seq_len < 1 or dtype_bytes < 1:
        raise ValueError(
            f"seq_len and dtype_bytes must be at least 1, but got {seq_len} and {dtype_bytes}"
        )
    part = parts(arch)
    embeddings = part.embedding + part.output
    blocks = (
        arch.num_attention_blocks * part.attention
        + arch.num_ffn_blocks * part.ffn
        + num_norms(arch) * part.norm
    )
    parameters = embeddings + blocks + part.norm  # the final norm
    forward = _forward_flops(arch, seq_len)
    kv_bytes = 2 * arch.num_layers * arch.kv_heads * arch.head_size * dtype_bytes
    return Cost(
        parameters=parameters,
        embedding_parameters=embeddings,
        non_embedding_parameters=parameters - embeddings,
        weight_bytes=parameters * dtype_bytes,
        forward_flops_per_token=forward,
        train_flops_per_token=3 * forward,
        kv_bytes_per_token=kv_bytes,
        decode_bytes_per_token=_weights_moved(arch, part) * dtype_bytes + seq_len * kv_bytes,
    )


def _attention_matrices(arch: Architecture) -> int:
    heads = 2 * arch.num_attention_heads + 2 * arch.kv_heads  # q and o, k and v
    return arch.hidden_size * arch.head_size * heads


def _attention_extras(arch: Architecture) -> int:
    norms = 2 * arch.head_size if arch.qk_norm else 0
    biases = arch.head_size * (arch.num_attention_heads + 2 * arch.kv_heads)
    return norms + (biases if arch.attention_bias else 0)


def _ffn_matrices(arch: Architecture) -> int:
    return (3 if arch.gated else 2) * arch.hidden_size * arch.intermediate_size


def _forward_flops(arch: Architecture, seq_len: int) -> int:
    matrices = _attention_matrices(arch) + _ffn_matrices(arch)
    scores = 2 * arch.num_attention_heads * arch.head_size * seq_len  # q·k and p·v: half of 4·N·H·T
    output = arch.vocab_size * arch.hidden_size
    return arch.num_layers * (2 * matrices + scores) + 2 * output


def _weights_moved(arch: Architecture, part: Parts) -> int:
    moved = arch.vocab_size * arch.hidden_size  # the output matrix, tied or not
    moved += arch.hidden_size + part.norm  # one row of the embedding, the final norm
    before: tuple[int, int] = (-1, -1)
    for layer in arch.layers:
        for half, size in enumerate((part.attention, part.ffn)):
            again = layer[half] == before[half]
            moved += 0 if again else size
            moved += 0 if again and not arch.norms_per_layer else part.norm
        before = layer
    return moved
