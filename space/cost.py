"""What an architecture costs, in closed form and without torch.

The counts equal the built model's and `transformers`' own (`tests/space/test_cost.py`).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from space.arch import Architecture, Shape
from space.parts import NOTHING, Extra
from space.sharing import LayerMap

WIDE = 2**20
"""An FFN so wide that how its parts are rounded does not matter."""


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
    """Keys and values kept of `seq_len` tokens, divided by them; one cache per *layer*, shared or
    not, in which a layer with a window keeps no more tokens than that."""
    decode_bytes_per_token: int
    """Moved from memory to decode one token after `seq_len` others: the weights of every layer (a
    half that the layer before has just used is still at hand, and counted once), the output matrix,
    one embedding row, and the cache."""

    @property
    def embedding_share(self) -> float:
        """`embedding_parameters` / `parameters`."""
        return self.embedding_parameters / self.parameters


class Parts(NamedTuple):
    """Parameters of each part of an architecture, where they are stored once."""

    embedding: int
    output: int
    """0 where it is tied."""
    attention: int
    """One attention half, without its norm."""
    ffn: int
    """One FFN half, without its norm; where widths differ, one of the mean width."""
    norm: int
    """One RMSNorm."""
    stack: int
    """What the whole model has besides."""


class ClosedForm:
    """The weights of an architecture as a function of its sizes.

    The budget solver calls it for every width that it looks at, so that all else is worked out
    before. Sizes may be real numbers.
    """

    __slots__ = ("arch", "attention_blocks", "bias", "ffn_matrices", "norms", "parts", "qk_norm")

    def __init__(self, arch: Architecture) -> None:
        self.arch, self.parts = arch, arch.active
        self.attention_blocks, self.norms = arch.num_attention_blocks, num_norms(arch) + 1
        self.qk_norm, self.bias = arch.qk_norm, arch.attention_bias
        self.ffn_matrices = arch.ffn_matrices

    def embeddings(self, width: int) -> int:
        """The input embedding, and the output matrix where it is untied."""
        return self.arch.vocab_size * width * (1 if self.arch.tie_word_embeddings else 2)

    def line(self, width: int, query: int, kv: int, head_dim: int) -> tuple[int, int]:
        """All but the embeddings over the FFN width, of which they are linear: without any FFN, and
        for each unit of its width."""
        attention = self.attention(width, query, kv, head_dim)
        rest = self.attention_blocks * attention + self.norms * width
        slope = self.arch.num_ffn_blocks * self.ffn_matrices * width
        if not self.parts:
            return rest, slope
        none, one = (self._more(Shape(width, query, kv, head_dim, ffn)) for ffn in (0, 1))
        return rest + none, slope + one - none

    def attention(self, width: int, query: int, kv: int, head_dim: int) -> int:
        """One attention block of a plain architecture: matrices, norms of heads, biases."""
        count = 2 * width * head_dim * (query + kv)  # q and o, k and v
        if self.qk_norm:
            count += 2 * head_dim
        if self.bias:
            count += head_dim * (query + 2 * kv)
        return count

    def extras(self, shape: Shape) -> tuple[Extra, Extra, Extra]:
        """What parts add to an attention block, to an FFN block and to the stack."""
        attention = ffn = stack = NOTHING
        for part in self.parts:
            attention = attention.plus(part.attention(self.arch, shape))
            ffn = ffn.plus(part.ffn(self.arch, shape))
            stack = stack.plus(part.stack(self.arch, shape))
        return attention, ffn, stack

    def ffn_shares(self) -> list[float]:
        """Width of each FFN block in units of their mean, as it is where rounding does not
        matter."""
        if not self.parts:
            return [1.0] * self.arch.num_ffn_blocks
        widths = replace(self.arch, intermediate_size=WIDE).ffn_widths
        return [width / WIDE for width in widths]

    def _more(self, shape: Shape) -> int:
        attention, ffn, stack = (extra.weights for extra in self.extras(shape))
        return self.attention_blocks * attention + self.arch.num_ffn_blocks * ffn + stack


class Moves(NamedTuple):
    """What decoding one token moves from memory: a half that the layer before has just used is
    still at hand, and is not moved again."""

    attention: int
    """Attention halves."""
    ffn: tuple[int, ...]
    """The block of each FFN half."""
    norms: int
    """Norms of layers."""


def moves(arch: Architecture) -> Moves:
    """What decoding one token moves, layer by layer."""
    return _moves(arch.layers, arch.norms_per_layer)


@lru_cache(maxsize=4096)
def _moves(layers: LayerMap, norms_per_layer: bool) -> Moves:
    pairs = list(zip(layers, [(-1, -1), *layers[:-1]], strict=True))
    attention = sum(here[0] != there[0] for here, there in pairs)
    ffn = tuple(here[1] for here, there in pairs if here[1] != there[1])
    norms = 2 * len(layers) if norms_per_layer else attention + len(ffn)
    return Moves(attention, ffn, norms)


def parts(arch: Architecture) -> Parts:
    """The sizes of which every count is made."""
    form, shape = ClosedForm(arch), arch.shape
    matrix = arch.vocab_size * arch.hidden_size
    attention, ffn, stack = (extra.weights for extra in form.extras(shape))
    return Parts(
        embedding=matrix,
        output=0 if arch.tie_word_embeddings else matrix,
        attention=form.attention(*shape[:4]) + attention,
        ffn=form.ffn_matrices * arch.hidden_size * arch.intermediate_size + ffn,
        norm=arch.hidden_size,
        stack=stack,
    )


def weights_by_use(arch: Architecture) -> dict[int, int]:
    """Distinct weights inside the layers by how often a forward pass uses them; together they are
    the non-embedding parameters, the final norm and what the stack has besides among those used
    once."""
    part, sizes = parts(arch), _ffn_sizes(arch)
    rest = part.ffn - sum(sizes) // len(sizes)
    own = part.norm if not arch.norms_per_layer else 0
    found = Counter({1: part.norm + part.stack})
    found[1] += 2 * arch.num_layers * part.norm if arch.norms_per_layer else 0
    for uses in Counter(a for a, _ in arch.layers).values():
        found[uses] += part.attention + own
    for block, uses in Counter(f for _, f in arch.layers).items():
        found[uses] += sizes[block] + rest + own
    return dict(found)


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
    form = ClosedForm(arch)
    embeddings = form.embeddings(arch.hidden_size)
    rest, slope = form.line(*arch.shape[:4])
    blocks = rest + slope * arch.intermediate_size
    forward = _forward_flops(form, seq_len)
    cache = dtype_bytes * cached(arch, seq_len)
    return Cost(
        parameters=embeddings + blocks,
        embedding_parameters=embeddings,
        non_embedding_parameters=blocks,
        weight_bytes=(embeddings + blocks) * dtype_bytes,
        forward_flops_per_token=forward,
        train_flops_per_token=3 * forward,
        kv_bytes_per_token=cache // seq_len,
        decode_bytes_per_token=_weights_moved(arch) * dtype_bytes + cache,
    )


def cached(arch: Architecture, seq_len: int) -> int:
    """Keys and values, as single numbers, that are kept of a sequence of that length."""
    return 2 * arch.kv_heads * arch.head_size * sum(kept(arch, seq_len))


def kept(arch: Architecture, seq_len: int) -> list[int]:
    """Tokens in each layer's cache after a sequence of that length."""
    return [min(span or seq_len, seq_len) for span in arch.spans]


def _forward_flops(form: ClosedForm, seq_len: int) -> int:
    """A token sees half of those before it, and no more than its span: of T tokens those within W
    are W·T - W²/2 pairs, a rectangle without half a square."""
    arch = form.arch
    attention, ffn, stack = (extra.matrices for extra in form.extras(arch.shape))
    projections = 2 * arch.hidden_size * arch.head_size * (arch.num_attention_heads + arch.kv_heads)
    matrices = arch.num_layers * (projections + attention + ffn) + stack
    sizes = _ffn_sizes(arch)
    matrices += sum(sizes[f] for _, f in arch.layers)
    pairs = sum(2 * seen * seq_len - seen * seen for seen in kept(arch, seq_len))  # twice as many
    scores = 2 * arch.num_attention_heads * arch.head_size * pairs // seq_len  # q·k and p·v
    return 2 * matrices + scores + 2 * arch.vocab_size * arch.hidden_size


def _ffn_sizes(arch: Architecture) -> list[int]:
    """Weights in the matrices of each FFN block."""
    each = arch.ffn_matrices * arch.hidden_size
    return [each * width for width in arch.ffn_widths]


def _weights_moved(arch: Architecture) -> int:
    part, moved = parts(arch), moves(arch)
    layers = moved.attention * part.attention + moved.norms * part.norm
    return layers + _ffns(arch, part, moved.ffn) + _weights_besides(arch, part)


def weights_executed(arch: Architecture) -> int:
    """Weights that one token is multiplied with, those of a shared block once for every layer: as
    in `decode_bytes_per_token`, but for what is still at hand."""
    part = parts(arch)
    layers = arch.num_layers * (part.attention + 2 * part.norm)
    ffns = _ffns(arch, part, [ffn for _, ffn in arch.layers])
    return layers + ffns + _weights_besides(arch, part)


def rows_executed(arch: Architecture) -> int:
    """Rows of the matrices that one token is multiplied with, the output matrix included; those
    that parts add are left out."""
    attention = arch.head_size * (arch.num_attention_heads + 2 * arch.kv_heads)
    into_ffn = (2 if arch.gated else 1) * sum(arch.ffn_widths[ffn] for _, ffn in arch.layers)
    back = 2 * arch.hidden_size  # of attention and of the FFN
    return arch.num_layers * (attention + back) + into_ffn + arch.vocab_size


def _ffns(arch: Architecture, part: Parts, blocks: Sequence[int]) -> int:
    """Weights of FFN halves, each as often as it is listed."""
    sizes = _ffn_sizes(arch)
    rest = part.ffn - sum(sizes) // len(sizes)  # what parts add to each block
    return sum(sizes[block] + rest for block in blocks)


def _weights_besides(arch: Architecture, part: Parts) -> int:
    """Those that are moved once for a token, outside layers."""
    output = arch.vocab_size * arch.hidden_size  # tied or not
    row = arch.hidden_size  # one of the embedding
    return output + row + part.norm + part.stack
