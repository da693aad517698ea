"""Does each kernel compute what torch does? Asked once per process, on tiny inputs.

A compiler, a processor or a calling convention that nobody has tried may make a kernel wrong, and a
wrong one would train models that are only worse. References are torch's, with autograd, on the
inputs as the element type has them. No global state of torch's is read or changed.
"""

# B sequences, T positions, R = B·T rows, D width, N, K query and key/value heads, H head_dim,
# F FFN width, V vocabulary

import ctypes
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from search.train.kernels import Argument, bound

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Largest distance, relative to the size of what is wanted."""
B, T, N, K, H, D, V = 2, 19, 4, 2, 10, 21, 37
R, EPS = B * T, 1e-5
Pairs = Iterator[tuple[Tensor, Tensor]]
"""What a kernel made, and what torch did."""


class Inputs:
    """Numbers of one element type, the same each time, and the kernels of that type."""

    def __init__(self, loaded: ctypes.CDLL, dtype: torch.dtype) -> None:
        self.loaded, self.dtype = loaded, dtype
        self.generator = torch.Generator().manual_seed(0)

    def draw(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.randn(shape, generator=self.generator).to(dtype or self.dtype)

    def room(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """For a result; what nothing is written to is never right."""
        return torch.full(shape, torch.nan, dtype=dtype or self.dtype)

    def vector(self, size: int) -> Tensor:
        return 1 + self.draw(size, dtype=torch.float32) / 4

    def call(self, name: str, *arguments: Argument) -> None:
        bound(self.loaded, name, self.dtype, *arguments)()


def accumulation(i: Inputs) -> Pairs:
    to, x = i.draw(R, dtype=torch.float32), i.draw(R)
    wanted = to + x.float()
    i.call("accumulate", to, x, R)
    yield to, wanted


def norms(i: Inputs) -> Pairs:
    before, delta, gain = i.draw(R, D, dtype=torch.float32), i.draw(R, D), i.vector(D)
    dy, dx, dgain = i.draw(R, D), i.draw(R, D, dtype=torch.float32), torch.zeros(D)
    x, rstd = i.room(R, D, dtype=torch.float32), i.room(R, dtype=torch.float32)
    y, out = i.room(R, D), i.room(R, D)
    leaf, scale = _leaf(before + delta.float()), _leaf(gain)
    wanted = F.rms_norm(leaf, (D,), scale, EPS)
    of_x, of_gain = _gradients(wanted, dy, leaf, scale)
    behind = dx + of_x
    i.call("norm_forward", before, delta, gain, x, y, rstd, R, D, EPS)
    yield x, leaf.detach()
    yield y, wanted
    i.call("norm_backward", dy, x, rstd, gain, dx, out, dgain, R, D)
    yield dx, behind
    yield out, behind
    yield dgain, of_gain


def activations(i: Inputs) -> Pairs:
    gates: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda x: F.silu(x[:, :D]) * x[:, D:],
        F.relu,
        F.gelu,
    )
    for kind, function in enumerate(gates):
        x = i.draw(R, 2 * D if kind == 0 else D)
        h, dh, dx = i.room(R, D), i.draw(R, D), i.room(*x.shape)
        leaf = _leaf(x)
        wanted = function(leaf)
        i.call("activate", x, h, dh, dx, R, D, kind)
        yield h, wanted
        yield dx, _gradients(wanted, dh, leaf)[0]


def losses(i: Inputs) -> Pairs:
    logits, scale = i.draw(R, V), 0.5
    targets, nll = torch.arange(R) * 7 % V, i.room(R, dtype=torch.float32)
    leaf = _leaf(logits)
    wanted = F.cross_entropy(leaf, targets, reduction="none")
    i.call("cross_entropy", logits, targets, nll, R, V, scale, 1)
    yield nll, wanted
    yield logits, _gradients(wanted, torch.full((R,), scale), leaf)[0]


def embeddings(i: Inputs) -> Pairs:
    ids, dx = torch.arange(R) * 5 % V, i.draw(R, D, dtype=torch.float32)
    to = i.draw(V, D, dtype=torch.float32)
    wanted = to.index_add(0, ids, dx)
    bound(i.loaded, "embedding_backward", None, ids, dx, to, R, D)()
    yield to, wanted


def attention(i: Inputs) -> Pairs:
    qkv, dy = i.draw(R, (N + 2 * K) * H), i.draw(R, N * H)
    gains, dgains = (i.vector(H), i.vector(H)), (torch.zeros(H), torch.zeros(H))
    angles = torch.arange(T)[:, None] / 10 ** (torch.arange(H // 2) / 2)  # (T, H / 2)
    rotary = angles.cos(), angles.sin()
    leaves = _leaf(qkv), *map(_leaf, gains)
    wanted = _attention(leaves[0], leaves[1], leaves[2], *rotary)
    y, lse, dqkv = i.room(R, N * H), i.room(B, N, T, dtype=torch.float32), i.room(*qkv.shape)
    heads = (*rotary, *gains, EPS, B, T, N, K, H)
    i.call("attention_forward", qkv, y, lse, *heads)
    yield y, wanted
    i.call("attention_backward", qkv, y, lse, dy, dqkv, *dgains, *heads)
    yield from zip((dqkv, *dgains), _gradients(wanted, dy, *leaves), strict=True)


def _attention(qkv: Tensor, q_gain: Tensor, k_gain: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Causal, with norms of queries and keys. qkv: (R, (N + 2K)·H); result: (R, N·H)."""
    q, k, v = torch.split(qkv.view(B, T, N + 2 * K, H).transpose(1, 2), [N, K, K], dim=1)
    q, k = (
        _rotate(F.rms_norm(x, (H,), gain, EPS), cos, sin) for x, gain in ((q, q_gain), (k, k_gain))
    )
    k, v = (x.repeat_interleave(N // K, dim=1) for x in (k, v))  # (B, N, T, H)
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    weights = (q @ k.mT * H**-0.5).masked_fill(future, -torch.inf).softmax(-1)
    y: Tensor = weights @ v  # (B, N, T, H)
    return y.transpose(1, 2).reshape(R, N * H)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


CHECKS = {
    "accumulate": accumulation,
    "norm": norms,
    "activate": activations,
    "cross_entropy": losses,
    "embedding_backward": embeddings,
    "attention": attention,
}


def wrong_kernels(loaded: ctypes.CDLL) -> list[str]:
    """Names of kernels, with their element type, that do not compute what torch does.

    Whatever context of torch's the caller is in, references are made with gradients, in float32.
    """
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False):
        return _wrong(loaded)


def _wrong(loaded: ctypes.CDLL) -> list[str]:
    return [
        f"{name} in {str(dtype).removeprefix('torch.')}"
        for dtype in TOLERANCE
        for name, check in CHECKS.items()
        if not all(_equal(found, wanted, dtype) for found, wanted in check(Inputs(loaded, dtype)))
    ]


def _equal(found: Tensor, wanted: Tensor, dtype: torch.dtype) -> bool:
    """A NaN is never equal."""
    wanted = wanted.detach()
    return bool((found.float() - wanted).norm() <= TOLERANCE[dtype] * wanted.norm())


def _gradients(y: Tensor, dy: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    """Those of leaves, given that of y. (Of a sum: given any other, torch imports sympy.)"""
    return torch.autograd.grad((y * dy.float()).sum(), leaves)


def _leaf(x: Tensor) -> Tensor:
    return x.detach().float().clone().requires_grad_()
