"""How a micro-batch goes through the model and back: by torch's autograd, or on CPUs by kernels.

Both engines work on `Weights`, add gradients up in float32 and multiply in the recipe's precision.
`KernelEngine` writes the backward pass of `space.model.Decoder` out: the products are torch's,
everything between them is fused in `search/kernels.cpp`, and every activation has its place in
memory that is taken once. It needs no compiling, and equals the other to rounding
(`tests/test_engine.py`).
"""

# B sequences, T positions, R = B·T rows, D hidden_size, N, K query and key/value heads, H head_dim,
# F intermediate_size, V vocab_size

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from search.kernels import call, run
from search.placement import Placement, autocast
from space.model import MLP, Attention, Decoder, DecoderLayer, RMSNorm, token_nll

ALIGNED = 64
"""Elements to a multiple of which matrices that are not read together are placed."""
ACTIVATION_KINDS = {"silu": 0, "relu": 1, "gelu": 2}
PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}


class Engine(Protocol):
    """Computes the loss of a micro-batch, and its gradients."""

    def nll(self, inputs: Tensor, targets: Tensor, scale: float | None = None) -> Tensor:
        """Negative log-likelihood in nats (B, T) of targets, given inputs: ids (B, T).

        With a scale, the gradients of scale times their sum are added to `Weights.gradients`.
        """
        ...

    def refresh(self) -> None:
        """Take note that the weights have changed."""
        ...


class Weights:
    """A model's parameters in one flat buffer, and their gradients in another.

    Matrices that read the same input stand side by side, so that one product serves them: q, k and
    v, and gate and up. Parameters keep their names and become views.
    """

    def __init__(self, model: Decoder) -> None:
        groups = list(_side_by_side(model))
        starts, end = [], 0
        for group in groups:
            starts.append(end)
            end += -(-sum(p.numel() for p in group) // ALIGNED) * ALIGNED
        device = model.lm_head.weight.device
        self.values = torch.zeros(end, device=device)
        self.gradients = torch.zeros(end, device=device)
        self.places: dict[Tensor, slice] = {}
        for start, group in zip(starts, groups, strict=True):
            for p in group:
                self.places[p] = place = slice(start, start + p.numel())
                self.values[place].copy_(p.detach().flatten())
                p.data = self.values[place].view_as(p)
                p.grad = self.gradients[place].view_as(p)
                start = place.stop

    def of(self, buffer: Tensor, *parameters: Tensor) -> Tensor:
        """The part of a buffer like `values` that belongs to parameters that stand side by side:
        (their rows together, columns), or (elements) of vectors."""
        first, last = self.places[parameters[0]], self.places[parameters[-1]]
        return buffer[first.start : last.stop].view(-1, *parameters[0].shape[1:])


def _side_by_side(model: Decoder) -> Iterable[list[Tensor]]:
    """Every parameter once, in groups that stand together."""
    seen: set[Tensor] = set()
    for module in model.modules():
        if isinstance(module, Attention):
            projections = [module.q_proj, module.k_proj, module.v_proj]
            groups = [[p.weight for p in projections]]
            groups += [[p.bias for p in projections]] if projections[0].bias is not None else []
        elif isinstance(module, MLP) and module.gated:
            groups = [[module.gate_proj.weight, module.up_proj.weight]]
        else:
            groups = [[p] for p in module.parameters(recurse=False)]
        for group in groups:
            if group[0] not in seen:
                seen.update(group)
                yield group


class AutogradEngine:
    """torch's own way, compiled where the placement says so."""

    def __init__(self, model: Decoder, placement: Placement, precision: str) -> None:
        self.model, self.placement, self.precision = model, placement, precision
        compiled = placement.compile == "yes"
        self.token_nll = torch.compile(token_nll, dynamic=False) if compiled else token_nll

    def nll(self, inputs: Tensor, targets: Tensor, scale: float | None = None) -> Tensor:
        """Gradients stay enabled where none is taken: the training step's compiled graph then
        serves for scoring too."""
        with autocast(self.placement, self.precision):
            nll = self.token_nll(self.model.hidden(inputs), self.model.lm_head.weight, targets)
        if scale is not None:
            (nll.sum() * scale).backward()  # type: ignore[no-untyped-call]
        return nll.detach()

    def refresh(self) -> None:
        """Nothing: the weights are read where they are."""


@dataclass(frozen=True)
class Matrix:
    """A weight matrix (outputs, inputs) as products read it, and where its gradient goes."""

    weight: Tensor
    gradient: Tensor

    def forward(self, x: Tensor, out: Tensor) -> Tensor:
        """x (R, inputs) → out (R, outputs)."""
        return torch.mm(x, self.weight.t(), out=out)

    def backward(self, dy: Tensor, x: Tensor, room: Tensor, out: Tensor | None) -> None:
        """The gradient of the matrix, added to `gradient`, and of x, into `out`."""
        if out is not None:
            torch.mm(dy, self.weight, out=out)
        if dy.dtype == torch.float32:
            self.gradient.addmm_(dy.t(), x)
            return
        product = room[: self.weight.numel()].view_as(self.weight)
        torch.mm(dy.t(), x, out=product)
        call("accumulate", dy.dtype, self.gradient, product, product.numel())


@dataclass(frozen=True)
class Norm:
    """An RMS norm's gain, its gradient and its epsilon."""

    gain: Tensor
    gradient: Tensor
    eps: float

    def forward(
        self, before: Tensor, delta: Tensor | None, x: Tensor, y: Tensor, rstd: Tensor
    ) -> None:
        """x = before + delta (R, D) in float32; y its norm; rstd (R)."""
        rows, width = x.shape
        call("norm_forward", y.dtype, before, delta, self.gain, x, y, rstd, rows, width, self.eps)

    def backward(self, dy: Tensor, x: Tensor, rstd: Tensor, dx: Tensor, out: Tensor) -> None:
        """dx, the gradient of x behind the norm, becomes that before it; out is its copy."""
        rows, width = x.shape
        parts = (dy, x, rstd, self.gain, dx, out, self.gradient)
        call("norm_backward", dy.dtype, *parts, rows, width)


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

    def __init__(self, model: Decoder, weights: Weights, precision: str) -> None:
        self.arch, self.weights = model.arch, weights
        self.dtype = PRECISIONS[precision]
        same = self.dtype == torch.float32
        self.read = weights.values if same else torch.zeros_like(weights.values, dtype=self.dtype)
        """The weights as products read them."""
        self.layers = [self._layer(layer) for layer in model.model.layers]  # type: ignore[arg-type]
        self.norm = self._norm(model.model.norm)
        self.output = self._matrix(model.lm_head.weight)
        self.embedding = model.model.embed_tokens.weight
        self.rotary: tuple[Tensor, Tensor] | None = None
        self.model = model
        self.kind = ACTIVATION_KINDS[self.arch.hidden_act]
        largest = max(m.weight.numel() for m in self._matrices())
        self.room = torch.empty(0 if same else largest, dtype=self.dtype)
        self.memory: dict[str, Tensor] = {}
        self.refresh()

    def nll(self, inputs: Tensor, targets: Tensor, scale: float | None = None) -> Tensor:
        """See `Engine`."""
        with torch.no_grad():
            nll, logits = self._forward(inputs, targets.flatten(), scale)
            if scale is not None:
                self._backward(inputs, logits)
        return nll.view_as(targets).clone()

    def refresh(self) -> None:
        """Round the weights, once for all micro-batches of a step."""
        if self.read is not self.weights.values:
            self.read.copy_(self.weights.values)

    def _forward(
        self, inputs: Tensor, targets: Tensor, scale: float | None
    ) -> tuple[Tensor, Tensor]:
        """The loss (R) and the gradient of the logits (R, V), or the logits without a scale."""
        a, R = self.arch, inputs.numel()
        heads, kv, D, Fi = a.num_attention_heads, a.kv_heads, a.hidden_size, a.intermediate_size
        x = self._take("x0", R, D, dtype=torch.float32)
        torch.index_select(self.embedding.detach(), 0, inputs.flatten(), out=x)
        delta = None
        for i, layer in enumerate(self.layers):
            before, x = x, self._take(f"x{2 * i}", R, D, dtype=torch.float32)
            n = self._take(f"n{2 * i}", R, D)
            layer.before_attention.forward(before, delta, x, n, self._rstd(2 * i, R))
            qkv = layer.qkv.forward(n, self._take(f"qkv{i}", R, (heads + 2 * kv) * a.head_size))
            if layer.qkv_bias is not None:
                qkv += layer.qkv_bias.weight
            y = self._take(f"y{i}", R, heads * a.head_size)
            lse = self._take(f"lse{i}", R, heads, dtype=torch.float32)
            call("attention_forward", self.dtype, qkv, y, lse, *self._heads(layer, inputs))
            delta = layer.o.forward(y, self._take("delta", R, D))
            before, x = x, self._take(f"x{2 * i + 1}", R, D, dtype=torch.float32)
            n = self._take(f"n{2 * i + 1}", R, D)
            layer.before_mlp.forward(before, delta, x, n, self._rstd(2 * i + 1, R))
            up = layer.up.forward(n, self._take(f"up{i}", R, layer.up.weight.shape[0]))
            h = self._take("h", R, Fi)
            call("activate", self.dtype, up, h, None, None, R, Fi, self.kind)
            delta = layer.down.forward(h, self._take("delta", R, D))
        last = 2 * len(self.layers)
        before, x = x, self._take(f"x{last}", R, D, dtype=torch.float32)
        n = self._take(f"n{last}", R, D)
        self.norm.forward(before, delta, x, n, self._rstd(last, R))
        logits = self.output.forward(n, self._take("logits", R, a.vocab_size))
        nll = self._take("nll", R, dtype=torch.float32)
        wanted = (float(scale or 0), int(scale is not None))
        call("cross_entropy", self.dtype, logits, targets, nll, R, a.vocab_size, *wanted)
        return nll, logits

    def _backward(self, inputs: Tensor, dlogits: Tensor) -> None:
        """From the logits' gradient back to every weight's."""
        a, R = self.arch, inputs.numel()
        D, Fi, last = a.hidden_size, a.intermediate_size, 2 * len(self.layers)
        dn, delta = self._take("dn", R, D), self._take("delta", R, D)
        dx = self._take("dx", R, D, dtype=torch.float32).zero_()
        self.output.backward(dlogits, self._take(f"n{last}", R, D), self.room, dn)
        self._norm_backward(self.norm, last, dn, dx, delta)
        for i, layer in reversed(list(enumerate(self.layers))):
            up = self._take(f"up{i}", R, layer.up.weight.shape[0])
            h, dh = self._take("h", R, Fi), self._take("dh", R, Fi)
            torch.mm(delta, layer.down.weight, out=dh)
            call("activate", self.dtype, up, h, dh, up, R, Fi, self.kind)
            layer.down.backward(delta, h, self.room, None)
            layer.up.backward(up, self._take(f"n{2 * i + 1}", R, D), self.room, dn)
            self._norm_backward(layer.before_mlp, 2 * i + 1, dn, dx, delta)
            qkv = self._take(f"qkv{i}", R, layer.qkv.weight.shape[0])
            y = self._take(f"y{i}", R, layer.o.weight.shape[1])
            dy, dqkv = self._take("dy", *y.shape), self._take("dqkv", *qkv.shape)
            layer.o.backward(delta, y, self.room, dy)
            lse = self._take(f"lse{i}", R, a.num_attention_heads, dtype=torch.float32)
            gains = [n.gradient if n else None for n in (layer.q_norm, layer.k_norm)]
            parts = (qkv, y, lse, dy, dqkv)
            call("attention_backward", self.dtype, *parts, *gains, *self._heads(layer, inputs))
            if layer.qkv_bias is not None:
                layer.qkv_bias.gradient.add_(dqkv.sum(0, dtype=torch.float32))
            layer.qkv.backward(dqkv, self._take(f"n{2 * i}", R, D), self.room, dn)
            self._norm_backward(layer.before_attention, 2 * i, dn, dx, delta)
        gradient = self.weights.of(self.weights.gradients, self.embedding)
        run("embedding_backward", inputs.contiguous(), dx, gradient, R, D)

    def _norm_backward(self, norm: Norm, i: int, dn: Tensor, dx: Tensor, out: Tensor) -> None:
        rows, width = dx.shape
        x = self._take(f"x{i}", rows, width, dtype=torch.float32)
        norm.backward(dn, x, self._rstd(i, rows), dx, out)

    def _heads(self, layer: Layer, inputs: Tensor) -> tuple[Any, ...]:
        """What both attention kernels are told of the heads."""
        a, (B, T) = self.arch, inputs.shape
        if self.rotary is None or len(self.rotary[0]) < T:
            half = a.head_size // 2
            cos, sin = self.model.rotary(0, T, self.weights.values)
            self.rotary = cos[:, :half].contiguous(), sin[:, :half].contiguous()
        gains = [norm.gain if norm else None for norm in (layer.q_norm, layer.k_norm)]
        shape = (B, T, a.num_attention_heads, a.kv_heads, a.head_size)
        return (*self.rotary, *gains, a.rms_norm_eps, *shape)

    def _take(self, name: str, rows: int, *width: int, dtype: torch.dtype | None = None) -> Tensor:
        """The named place (rows, width), of which smaller micro-batches use the first rows."""
        held = self.memory.get(name)
        if held is None or len(held) < rows:
            self.memory[name] = held = torch.empty(rows, *width, dtype=dtype or self.dtype)
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
        of, weights = self.weights.of, self.weights
        return Matrix(of(self.read, *parameters), of(weights.gradients, *parameters))

    def _norm(self, norm: RMSNorm) -> Norm:
        of, weights = self.weights.of, self.weights
        gain = of(weights.values, norm.weight)
        return Norm(gain, of(weights.gradients, norm.weight), norm.eps)

    def _matrices(self) -> Iterable[Matrix]:
        for layer in self.layers:
            yield from (layer.qkv, layer.o, layer.up, layer.down)
        yield self.output
