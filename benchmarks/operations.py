"""The kernels as operations of torch's autograd: what one readable forward pass would cost.

Each product of a weight, norm, attention, activation and loss is a `torch.autograd.Function`, so
that the forward pass reads as `space.model.Decoder` does and autograd finds the way back. It
computes what `KernelEngine` computes. `benchmarks.engines` measures it beside that one.
"""

# B sequences, T positions, R = B·T rows, D hidden_size, N, K query and key/value heads, H head_dim,
# F intermediate_size, V vocab_size

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from search.train.engines.kernels import KernelEngine, KernelPass, Layer, Matrix, Norm
from search.train.kernels import NAMES, declarations, library


def call(name: str, dtype: torch.dtype | None, *arguments: Any) -> None:
    """A kernel at once, where `kernel` prepares a call that is made many times."""
    function = getattr(library(), name if dtype is None else f"{name}_{NAMES[str(dtype)]}")
    if function.argtypes is None:
        function.argtypes, function.restype = declarations()[name], None
    function(*(a.data_ptr() if isinstance(a, Tensor) else a for a in arguments))


class Embedding(torch.autograd.Function):
    """Rows of the table (V, D) in float32."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, ids: Tensor, gradient: Tensor) -> Tensor:
        ctx.parts = ids, gradient
        return table.index_select(0, ids)

    @staticmethod
    def backward(ctx: Any, dx: Tensor) -> Any:
        ids, gradient = ctx.parts
        call("embedding_backward", None, ids, dx, gradient, *dx.shape)
        return None, None, None


class AddAndNorm(torch.autograd.Function):
    """x = before + delta (R, D) in float32, and its norm."""

    @staticmethod
    def forward(ctx: Any, before: Tensor, delta: Tensor | None, norm: Norm, dtype: Any) -> Any:
        x, y = torch.empty_like(before), torch.empty(before.shape, dtype=dtype)
        rstd = torch.empty(len(x))
        call("norm_forward", dtype, before, delta, norm.gain, x, y, rstd, *x.shape, norm.eps)
        ctx.norm, ctx.added = norm, delta is not None
        ctx.save_for_backward(x, rstd)
        ctx.set_materialize_grads(False)
        return x, y

    @staticmethod
    def backward(ctx: Any, dx: Tensor | None, dy: Tensor) -> Any:
        x, rstd = ctx.saved_tensors
        dx, out = torch.zeros_like(x) if dx is None else dx, torch.empty_like(dy)
        parts = dy, x, rstd, ctx.norm.gain, dx, out, ctx.norm.gradient
        call("norm_backward", dy.dtype, *parts, *x.shape)
        return dx, out if ctx.added else None, None, None


class Product(torch.autograd.Function):
    """x (R, inputs) times a matrix whose gradient is added up in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Matrix, room: Tensor) -> Tensor:
        ctx.matrix, ctx.room = matrix, room
        ctx.save_for_backward(x)
        return x @ matrix.weight.t()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        dx = torch.empty_like(x)
        for step in ctx.matrix.backward(dy, x, ctx.room, dx):
            step()
        return dx, None, None


class Attention(torch.autograd.Function):
    """y (R, N·H) of qkv (R, (N + 2K)·H)."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: tuple[Any, ...], gains: Any) -> Tensor:
        *_, B, T, N, _, H = heads
        y, lse = torch.empty(B * T, N * H, dtype=qkv.dtype), torch.empty(B * T, N)
        call("attention_forward", qkv.dtype, qkv, y, lse, *heads)
        ctx.heads, ctx.gains = heads, gains
        ctx.save_for_backward(qkv, y, lse)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        qkv, y, lse = ctx.saved_tensors
        dqkv = torch.empty_like(qkv)
        call("attention_backward", dy.dtype, qkv, y, lse, dy, dqkv, *ctx.gains, *ctx.heads)
        return dqkv, None, None


class Activation(torch.autograd.Function):
    """h (R, F) of gate and up side by side."""

    @staticmethod
    def forward(ctx: Any, up: Tensor, size: int, kind: int) -> Tensor:
        h = torch.empty(len(up), size, dtype=up.dtype)
        call("activate", up.dtype, up, h, None, None, len(up), size, kind)
        ctx.kind = kind
        ctx.save_for_backward(up, h)
        return h

    @staticmethod
    def backward(ctx: Any, dh: Tensor) -> Any:
        up, h = ctx.saved_tensors
        call("activate", dh.dtype, up, h, dh, up, *dh.shape, ctx.kind)
        return up, None, None


class Loss(torch.autograd.Function):
    """Negative log-likelihoods (R); their gradients are made in the place of the logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, scale: float) -> Tensor:
        nll = torch.empty(len(targets))
        call("cross_entropy", logits.dtype, logits, targets, nll, *logits.shape, scale, 1)
        ctx.save_for_backward(logits)
        return nll

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> Any:
        return ctx.saved_tensors[0], None, None


embed: Callable[..., Any] = Embedding.apply
add_and_norm: Callable[..., Any] = AddAndNorm.apply
product: Callable[..., Any] = Product.apply
attend: Callable[..., Any] = Attention.apply
activate: Callable[..., Any] = Activation.apply
loss: Callable[..., Any] = Loss.apply


class OperationsEngine(KernelEngine):
    """A training step with one forward pass that is read from top to bottom."""

    def nll(self, inputs: Tensor, targets: Tensor, scale: float | None = None) -> Tensor:
        """Of one micro-batch, with gradients."""
        assert scale is not None, "a prototype that trains"
        own, (B, T) = self.passes[0], inputs.shape
        ids, dtype = inputs.flatten(), own.dtype
        table = own.weights.of(own.gradients, own.embedding)
        x, delta = embed(own.embedding, ids, table), None
        for layer in own.layers:
            x, y = add_and_norm(x, delta, layer.before_attention, dtype)
            delta = self._attention(own, layer, y, B * T, T)
            x, y = add_and_norm(x, delta, layer.before_mlp, dtype)
            up = product(y, layer.up, own.room)
            h = activate(up, layer.down.weight.shape[1], own.kind)
            delta = product(h, layer.down, own.room)
        _, y = add_and_norm(x, delta, own.norm, dtype)
        logits = product(y, own.output, own.room)
        nll: Tensor = loss(logits, targets.flatten(), scale)
        nll.sum().backward()  # type: ignore[no-untyped-call]
        return nll.detach().view_as(targets)

    def _attention(self, own: KernelPass, layer: Layer, y: Tensor, R: int, T: int) -> Any:
        qkv = product(y, layer.qkv, own.room)
        gains = [n.gradient if n else None for n in (layer.q_norm, layer.k_norm)]
        return product(attend(qkv, own._heads(layer, R, T), gains), layer.o, own.room)
