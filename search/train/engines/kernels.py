"""A batch through the model and back by kernels, on CPUs.

`KernelEngine` writes the forward and the backward pass of `space.model.Decoder` out: the products
are torch's, everything between them is fused in `kernels.cpp`, and every activation has its place
in memory that is taken once. Threads share no product: each takes micro-batches of its own, so that
its activations stay in its core's cache. It needs no compiling, and equals autograd to rounding
(`tests/search/train/engines/test_engines.py`).
"""

# B sequences, T positions, R = B·T rows, D hidden_size, N, K query and key/value heads, H head_dim,
# F intermediate_size, V vocab_size

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from search.train.engines import micro_batches
from search.train.engines.weights import Weights
from search.train.kernels import kernel
from search.train.placement import Placement, unknown_to_kernels
from space.model import Decoder, DecoderLayer, RMSNorm

ACTIVATION_KINDS = {"silu": 0, "relu": 1, "gelu": 2}
PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}


Step = Callable[[], object]
"""A call with all its arguments, so that what is done a thousand times a second costs Python
little."""


@dataclass(frozen=True)
class Matrix:
    """A weight matrix (outputs, inputs) as products read it, and where its gradient goes."""

    weight: Tensor
    gradient: Tensor

    def forward(self, x: Tensor, out: Tensor) -> Iterator[Step]:
        """x (R, inputs) → out (R, outputs)."""
        yield partial(torch.mm, x, self.weight.t(), out=out)

    def backward(self, dy: Tensor, x: Tensor, room: Tensor, out: Tensor | None) -> Iterator[Step]:
        """The gradient of the matrix, added to `gradient`, and of x, into `out`."""
        if out is not None:
            yield partial(torch.mm, dy, self.weight, out=out)
        if dy.dtype == torch.float32:
            yield partial(self.gradient.addmm_, dy.t(), x)
            return
        product = room[: self.weight.numel()].view_as(self.weight)
        yield partial(torch.mm, dy.t(), x, out=product)
        yield kernel("accumulate", dy.dtype, self.gradient, product, product.numel())


@dataclass(frozen=True)
class Norm:
    """An RMS norm's gain, its gradient and its epsilon."""

    gain: Tensor
    gradient: Tensor
    eps: float

    def forward(
        self, before: Tensor, delta: Tensor | None, x: Tensor, y: Tensor, rstd: Tensor
    ) -> Step:
        """x = before + delta (R, D) in float32; y its norm; rstd (R)."""
        parts = (before, delta, self.gain, x, y, rstd)
        return kernel("norm_forward", y.dtype, *parts, *x.shape, self.eps)

    def backward(self, dy: Tensor, x: Tensor, rstd: Tensor, dx: Tensor, out: Tensor) -> Step:
        """dx, the gradient of x behind the norm, becomes that before it; out is its copy."""
        parts = (dy, x, rstd, self.gain, dx, out, self.gradient)
        return kernel("norm_backward", dy.dtype, *parts, *x.shape)


@dataclass(frozen=True)
class Layer:
    """What one layer of the map executes."""

    before_attention: Norm
    qkv: Matrix
    qkv_bias: Matrix | None
    q_norm: Norm | None
    k_norm: Norm | None
    o: Matrix
    before_mlp: Norm
    up: Matrix
    down: Matrix


class KernelEngine:
    """The backward pass written out, on a CPU."""

    def __init__(
        self, model: Decoder, weights: Weights, placement: Placement, precision: str
    ) -> None:
        if unknown := unknown_to_kernels([model.arch]):
            raise ValueError(f"kernels must have all of a model, but do not have {unknown[0]}")
        self.weights, self.placement = weights, placement
        dtype = PRECISIONS[precision]
        same = dtype == torch.float32
        self.read = weights.values if same else torch.zeros_like(weights.values, dtype=dtype)
        """The weights as products read them."""
        self.passes = [KernelPass(model, weights, self.read, weights.gradients)]
        for _ in range(1, placement.threads or 1):
            gradients = torch.zeros_like(weights.gradients)
            self.passes.append(KernelPass(model, weights, self.read, gradients))
        others = len(self.passes) - 1
        self.pool = ThreadPoolExecutor(others, initializer=_one_thread) if others else None
        self.refresh()

    def nll(self, inputs: Tensor, targets: Tensor, scale: float | None = None) -> Tensor:
        """See `Engine`. Gradients are added up in the order of the threads, not of their end."""
        nll = torch.empty(inputs.shape)
        parts = list(micro_batches(len(inputs), self.placement.micro_batch))

        def work(i: int) -> None:
            with torch.no_grad():
                for rows in parts[i :: len(self.passes)]:
                    nll[rows] = self.passes[i].nll(inputs[rows], targets[rows], scale)

        with _products_of_one_thread():
            busy = min(len(self.passes), len(parts))
            others = [self.pool.submit(work, i) for i in range(1, busy)] if self.pool else []
            work(0)
            for other in others:
                other.result()
        if scale is not None:
            for done in self.passes[1:busy]:
                self.weights.gradients += done.gradients
                done.gradients.zero_()
        return nll

    def refresh(self) -> None:
        """Round the weights, once for all micro-batches of a step."""
        if self.read is not self.weights.values:
            self.read.copy_(self.weights.values)


@contextmanager
def _products_of_one_thread() -> Iterator[None]:
    """Within it torch's products, of this thread and of those of a pool, take one thread each."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _one_thread() -> None:
    torch.get_num_threads()  # takes over what others have set, which torch would do later
    torch.set_num_threads(1)


def _add_columns(to: Tensor, of: Tensor) -> None:
    to.add_(of.sum(0, dtype=torch.float32))


@dataclass(frozen=True)
class Program:
    """All steps of a micro-batch of one shape, and where its input and its loss (R) stand."""

    ids: Tensor
    targets: Tensor
    nll: Tensor
    steps: list[Step]


class KernelPass:
    """What one thread has of its own: places in memory, gradients, and what to do with them."""

    def __init__(self, model: Decoder, weights: Weights, read: Tensor, gradients: Tensor) -> None:
        self.arch, self.weights = model.arch, weights
        self.read, self.gradients, self.dtype = read, gradients, read.dtype
        self.layers = [self._layer(layer) for layer in model.model.layers]  # type: ignore[arg-type]
        self.norm = self._norm(model.model.norm)
        self.output = self._matrix(model.lm_head.weight)
        self.embedding = model.model.embed_tokens.weight
        self.rotary: tuple[Tensor, Tensor] | None = None
        self.model = model
        self.kind = ACTIVATION_KINDS[self.arch.hidden_act]
        largest = max(m.weight.numel() for m in self._matrices())
        self.room = torch.empty(0 if read is weights.values else largest, dtype=self.dtype)
        self.memory: dict[str, Tensor] = {}
        self.programs: dict[tuple[int, int, float | None], Program] = {}

    def nll(self, inputs: Tensor, targets: Tensor, scale: float | None) -> Tensor:
        """See `Engine`, of one micro-batch; valid until the next."""
        B, T = inputs.shape
        program = self.programs.get((B, T, scale)) or self._write(B, T, scale)
        program.ids.copy_(inputs.flatten())
        program.targets.copy_(targets.flatten())
        for step in program.steps:
            step()
        return program.nll.view_as(targets)

    def _write(self, B: int, T: int, scale: float | None) -> Program:
        R = B * T
        ids, targets = (self._take(name, R, dtype=torch.int64) for name in ("ids", "targets"))
        nll = self._take("nll", R, dtype=torch.float32)
        steps = list(self._forward(ids, targets, nll, T, scale))
        if scale is not None:
            steps += self._backward(ids, T)
        program = self.programs[B, T, scale] = Program(ids, targets, nll, steps)
        return program

    def _forward(
        self, ids: Tensor, targets: Tensor, nll: Tensor, T: int, scale: float | None
    ) -> Iterator[Step]:
        """The loss (R), and the gradient of the logits (R, V) in their place if there is a
        scale."""
        a, R = self.arch, len(ids)
        heads, kv, D = a.num_attention_heads, a.kv_heads, a.hidden_size
        x = self._take("x0", R, D, dtype=torch.float32)
        yield partial(torch.index_select, self.embedding.detach(), 0, ids, out=x)
        delta = None
        for i, layer in enumerate(self.layers):
            before, x = x, self._take(f"x{2 * i}", R, D, dtype=torch.float32)
            n = self._take(f"n{2 * i}", R, D)
            yield layer.before_attention.forward(before, delta, x, n, self._rstd(2 * i, R))
            qkv = self._take(f"qkv{i}", R, (heads + 2 * kv) * a.head_size)
            yield from layer.qkv.forward(n, qkv)
            if layer.qkv_bias is not None:
                yield partial(qkv.add_, layer.qkv_bias.weight)
            y = self._take(f"y{i}", R, heads * a.head_size)
            lse = self._take(f"lse{i}", R, heads, dtype=torch.float32)
            yield kernel("attention_forward", self.dtype, qkv, y, lse, *self._heads(layer, R, T))
            delta = self._take("delta", R, D)
            yield from layer.o.forward(y, delta)
            before, x = x, self._take(f"x{2 * i + 1}", R, D, dtype=torch.float32)
            n = self._take(f"n{2 * i + 1}", R, D)
            yield layer.before_mlp.forward(before, delta, x, n, self._rstd(2 * i + 1, R))
            Fi = layer.down.weight.shape[1]
            up, h = self._take(f"up{i}", R, layer.up.weight.shape[0]), self._take(f"h{Fi}", R, Fi)
            yield from layer.up.forward(n, up)
            yield kernel("activate", self.dtype, up, h, None, None, R, Fi, self.kind)
            yield from layer.down.forward(h, delta)
        last = 2 * len(self.layers)
        before, x = x, self._take(f"x{last}", R, D, dtype=torch.float32)
        n, logits = self._take(f"n{last}", R, D), self._take("logits", R, a.vocab_size)
        yield self.norm.forward(before, delta, x, n, self._rstd(last, R))
        yield from self.output.forward(n, logits)
        wanted = (float(scale or 0), int(scale is not None))
        yield kernel("cross_entropy", self.dtype, logits, targets, nll, R, a.vocab_size, *wanted)

    def _backward(self, ids: Tensor, T: int) -> Iterator[Step]:
        """From the logits' gradient back to every weight's."""
        a, R = self.arch, len(ids)
        D, last = a.hidden_size, 2 * len(self.layers)
        dn, delta = self._take("dn", R, D), self._take("delta", R, D)
        dx, dlogits = (
            self._take("dx", R, D, dtype=torch.float32),
            self._take("logits", R, a.vocab_size),
        )
        yield dx.zero_
        yield from self.output.backward(dlogits, self._take(f"n{last}", R, D), self.room, dn)
        yield self._norm_backward(self.norm, last, dn, dx, delta)
        for i, layer in reversed(list(enumerate(self.layers))):
            up = self._take(f"up{i}", R, layer.up.weight.shape[0])
            Fi = layer.down.weight.shape[1]
            h, dh = self._take(f"h{Fi}", R, Fi), self._take(f"dh{Fi}", R, Fi)
            yield partial(torch.mm, delta, layer.down.weight, out=dh)
            yield kernel("activate", self.dtype, up, h, dh, up, R, Fi, self.kind)
            yield from layer.down.backward(delta, h, self.room, None)
            yield from layer.up.backward(up, self._take(f"n{2 * i + 1}", R, D), self.room, dn)
            yield self._norm_backward(layer.before_mlp, 2 * i + 1, dn, dx, delta)
            qkv = self._take(f"qkv{i}", R, layer.qkv.weight.shape[0])
            y = self._take(f"y{i}", R, layer.o.weight.shape[1])
            dy, dqkv = self._take("dy", *y.shape), self._take("dqkv", *qkv.shape)
            yield from layer.o.backward(delta, y, self.room, dy)
            lse = self._take(f"lse{i}", R, a.num_attention_heads, dtype=torch.float32)
            gains = [n.gradient if n else None for n in (layer.q_norm, layer.k_norm)]
            parts = (qkv, y, lse, dy, dqkv, *gains)
            yield kernel("attention_backward", self.dtype, *parts, *self._heads(layer, R, T))
            if layer.qkv_bias is not None:
                yield partial(_add_columns, layer.qkv_bias.gradient, dqkv)
            yield from layer.qkv.backward(dqkv, self._take(f"n{2 * i}", R, D), self.room, dn)
            yield self._norm_backward(layer.before_attention, 2 * i, dn, dx, delta)
        gradient = self.weights.of(self.gradients, self.embedding)
        yield kernel("embedding_backward", None, ids, dx, gradient, R, D)

    def _norm_backward(self, norm: Norm, i: int, dn: Tensor, dx: Tensor, out: Tensor) -> Step:
        rows, width = dx.shape
        x = self._take(f"x{i}", rows, width, dtype=torch.float32)
        return norm.backward(dn, x, self._rstd(i, rows), dx, out)

    def _heads(self, layer: Layer, R: int, T: int) -> tuple[Any, ...]:
        """The arguments of both attention kernels about the heads."""
        a = self.arch
        if self.rotary is None or len(self.rotary[0]) < T:
            half = a.head_size // 2
            cos, sin = self.model.rotary(0, T, self.weights.values)
            self.rotary = cos[:, :half].contiguous(), sin[:, :half].contiguous()
            self.programs.clear()  # they read the former
        gains = [norm.gain if norm else None for norm in (layer.q_norm, layer.k_norm)]
        shape = (R // T, T, a.num_attention_heads, a.kv_heads, a.head_size)
        return (*self.rotary, *gains, a.rms_norm_eps, *shape)

    def _take(self, name: str, rows: int, *width: int, dtype: torch.dtype | None = None) -> Tensor:
        """The named place (rows, width), of which smaller micro-batches use the first rows."""
        held = self.memory.get(name)
        if held is None or len(held) < rows:
            self.memory[name] = held = torch.empty(rows, *width, dtype=dtype or self.dtype)
            self.programs.clear()  # they work in the former
        return held[:rows]

    def _rstd(self, i: int, rows: int) -> Tensor:
        return self._take(f"rstd{i}", rows, dtype=torch.float32)

    def _layer(self, layer: DecoderLayer) -> Layer:
        attention, mlp = layer.self_attn, layer.mlp
        projections = [attention.q_proj, attention.k_proj, attention.v_proj]
        ups = [mlp.gate_proj.weight] if mlp.gated else []
        biased = projections[0].bias is not None
        return Layer(
            before_attention=self._norm(layer.input_layernorm),
            qkv=self._matrix(*(p.weight for p in projections)),
            qkv_bias=self._matrix(*(p.bias for p in projections)) if biased else None,
            q_norm=self._norm(attention.q_norm) if attention.qk_norm else None,
            k_norm=self._norm(attention.k_norm) if attention.qk_norm else None,
            o=self._matrix(attention.o_proj.weight),
            before_mlp=self._norm(layer.post_attention_layernorm),
            up=self._matrix(*ups, mlp.up_proj.weight),
            down=self._matrix(mlp.down_proj.weight),
        )

    def _matrix(self, *parameters: Tensor) -> Matrix:
        of = self.weights.of
        return Matrix(of(self.read, *parameters), of(self.gradients, *parameters))

    def _norm(self, norm: RMSNorm) -> Norm:
        gain = self.weights.of(self.weights.values, norm.weight)
        return Norm(gain, self.weights.of(self.gradients, norm.weight), norm.eps)

    def _matrices(self) -> Iterable[Matrix]:
        for layer in self.layers:
            yield from (layer.qkv, layer.o, layer.up, layer.down)
        yield self.output
