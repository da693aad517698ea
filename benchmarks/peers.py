"""Other ways to train the same shape: what `benchmarks.proxy` compares with.

Each function makes a step: the same sequences, AdamW (fused) and clipping, in another's hands.
"""

# B sequences, T positions, D hidden_size, N, K query and key/value heads, H head_dim,
# F intermediate_size, V vocab_size

import importlib
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.turns import WARM_UP, Step, timed
from search.data.packed import Data, batch
from search.record import Run
from search.train.loop import Training
from search.train.placement import Placement, autocast
from space.arch import Architecture
from space.cost import cost

PACKAGES = {"space", "search", "ablations", "reports", "benchmarks"}
PEERS = Path(".cache/peers")
"""Where `make peers` puts what must not share our environment."""
Loss = Callable[[Tensor, Tensor], Tensor]
"""Mean nats per token of targets, given inputs: ids (B, T) each."""


def ours(run: Run, data: Data, folder: Path, placement: Placement) -> Step:
    """A step of the training loop."""
    return Training(run, data, folder, placement, lambda _: None).timed_step


def checkout(folder: Path, shape: str) -> Step:
    """`ours` for a shape of `benchmarks.proxy`, by the code in another folder: in this process
    nothing of ours is imported from here any more."""
    for name in list(sys.modules):
        if name.partition(".")[0] in PACKAGES:
            del sys.modules[name]
    sys.path.insert(0, str(folder))
    there: Any = importlib.import_module("benchmarks.proxy")
    run = there.run_of(shape)
    step: Step = there.engine(there.OURS, run, there.settle(there.Placement(), run))
    return step


def transformers_llama(run: Run, data: Data, placement: Placement, precision: str) -> Step:
    """`transformers`' Llama as its users train it: SDPA, the whole batch at once."""
    import transformers

    a = run.architecture
    library: Any = transformers  # its types lag behind its arguments
    config = library.LlamaConfig(
        vocab_size=a.vocab_size,
        hidden_size=a.hidden_size,
        num_hidden_layers=a.num_layers,
        num_attention_heads=a.num_attention_heads,
        num_key_value_heads=a.num_key_value_heads,
        intermediate_size=a.intermediate_size,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
    model = library.LlamaForCausalLM(config).to(placement.device)

    def loss(inputs: Tensor, targets: Tensor) -> Tensor:
        targets = targets.contiguous()
        return model(input_ids=inputs, labels=targets, shift_labels=targets).loss  # type: ignore[no-any-return]

    return training_step(model, loss, run, data, placement, run.recipe.batch_size, precision)


def litgpt_is_there() -> bool:
    """Whether `make peers` was run."""
    return (PEERS / "litgpt").is_dir()


def litgpt(run: Run, data: Data, placement: Placement) -> Step:
    """litgpt's GPT as `litgpt pretrain` trains it: bf16 autocast, four sequences at a time, its own
    chunked loss; but compiled block by block, which takes seconds where compiling the whole takes
    minutes."""
    sys.path.append(str(PEERS))
    from litgpt.config import Config  # type: ignore[import-not-found]
    from litgpt.model import GPT  # type: ignore[import-not-found]
    from litgpt.utils import chunked_cross_entropy  # type: ignore[import-not-found]

    a = run.architecture
    config = Config(
        block_size=run.recipe.seq_len,
        vocab_size=a.vocab_size,
        padded_vocab_size=a.vocab_size,
        n_layer=a.num_layers,
        n_embd=a.hidden_size,
        n_head=a.num_attention_heads,
        n_query_groups=a.kv_heads,
        head_size=a.head_size,
        intermediate_size=a.intermediate_size,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
    )
    model = GPT(config)
    model.apply(model._init_weights)
    model.transformer.wte.weight = model.lm_head.weight  # its train.tie_embeddings
    model.to(placement.device)
    for block in model.transformer.h:
        block.compile(dynamic=False)

    def loss(inputs: Tensor, targets: Tensor) -> Tensor:
        mean: Tensor = chunked_cross_entropy(model(inputs), targets)
        return mean

    return training_step(model, loss, run, data, placement, 4, "bf16")


def lean_loop(run: Run, data: Data, placement: Placement) -> Step:
    """What someone who knows torch would write: `Lean` with compiled blocks, bf16 autocast, and the
    best of two micro-batches and two forms of attention, by a short measurement."""

    def step(micro_batch: int, flash: bool) -> Step:
        torch.manual_seed(0)
        model = Lean(run.architecture, flash).to(placement.device)
        for block in model.blocks:
            block.compile(dynamic=False)
        head = torch.compile(model.loss, dynamic=False)

        def loss(inputs: Tensor, targets: Tensor) -> Tensor:
            return head(model(inputs), targets)

        return training_step(model, loss, run, data, placement, micro_batch, "bf16")

    def seconds(choice: tuple[int, bool]) -> float:
        torch.compiler.reset()
        candidate = step(*choice)
        timed(candidate, WARM_UP)
        return min(timed(candidate) for _ in range(2))

    whole = run.recipe.batch_size
    sizes = sorted({max(1, whole // 4), whole})
    best = min(((size, flash) for size in sizes for flash in (True, False)), key=seconds)
    torch.compiler.reset()
    return step(*best)


class Lean(nn.Module):
    """A Llama in few lines, with the parameters of an architecture that shares no block."""

    def __init__(self, arch: Architecture, flash: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(arch.vocab_size, arch.hidden_size)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.blocks = nn.ModuleList(LeanBlock(arch, flash) for _ in range(arch.num_layers))
        self.norm = nn.RMSNorm(arch.hidden_size)
        self.head_size, self.theta = arch.head_size, arch.rope_theta

    def forward(self, ids: Tensor) -> Tensor:
        """ids (B, T) → (B, T, D)."""
        positions = torch.arange(ids.shape[1], device=ids.device)
        powers = torch.arange(0, self.head_size, 2, device=ids.device) / self.head_size
        angles = positions[:, None] * self.theta**-powers  # (T, H / 2)
        cos, sin = angles.cos(), angles.sin()
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.norm(x)  # type: ignore[no-any-return]

    def loss(self, x: Tensor, targets: Tensor) -> Tensor:
        """x (B, T, D), targets (B, T) → mean nats per token."""
        logits = F.linear(x, self.embedding.weight)  # (B, T, V)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


class LeanBlock(nn.Module):
    """Attention and FFN, with one product for q, k and v and one for gate and up."""

    def __init__(self, arch: Architecture, flash: bool) -> None:
        super().__init__()
        D, F_, H = arch.hidden_size, arch.intermediate_size, arch.head_size
        N, K = arch.num_attention_heads, arch.kv_heads
        self.heads, self.flash = (N, K, K), flash
        self.norm1, self.norm2 = nn.RMSNorm(D), nn.RMSNorm(D)
        self.qkv = nn.Linear(D, (N + 2 * K) * H, bias=False)
        self.o = nn.Linear(N * H, D, bias=False)
        self.up, self.down = nn.Linear(D, 2 * F_, bias=False), nn.Linear(F_, D, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        B, T, _ = x.shape
        qkv = self.qkv(self.norm1(x)).view(B, T, sum(self.heads), -1).transpose(1, 2)
        q, k, v = qkv.split(self.heads, dim=1)  # (B, N or K, T, H)
        y = self.attend(rotated(q, cos, sin), rotated(k, cos, sin), v)
        x = x + self.o(y.transpose(1, 2).reshape(B, T, -1))
        gate, up = self.up(self.norm2(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)  # type: ignore[no-any-return]

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (B, N, T, H), k, v (B, K, T, H) → (B, N, T, H), causally."""
        if self.flash:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        N, K, _ = self.heads
        k, v = (t.repeat_interleave(N // K, dim=1) for t in (k, v))
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5  # (B, N, T, T)
        later = torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1)
        shares = scores.masked_fill(later, -torch.inf).float().softmax(-1)
        mixed: Tensor = shares.to(v.dtype) @ v
        return mixed


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, ·, T, H) turned by its positions; cos, sin (T, H / 2)."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


def training_step(
    model: nn.Module,
    loss: Loss,
    run: Run,
    data: Data,
    placement: Placement,
    micro_batch: int,
    precision: str,
) -> Step:
    """A plain optimiser step on the next batch, so many sequences at a time.

    Raises:
        ValueError: the model has not the parameters of the run's, to a percent.
    """
    recipe = run.recipe
    wanted = cost(run.architecture).parameters
    if not 0.99 < (has := sum(p.numel() for p in model.parameters())) / wanted < 1.01:
        raise ValueError(f"a peer must have about {wanted:,} parameters, but has {has:,}")
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-3, betas=(recipe.beta1, recipe.beta2), fused=True
    )
    numbers = count()

    def step() -> None:
        ids = batch(data, run.seed, next(numbers), recipe.batch_size, recipe.seq_len)
        read, asked = (torch.from_numpy(part).to(placement.device) for part in ids)
        for row in range(0, recipe.batch_size, micro_batch):
            inputs, targets = (t[row : row + micro_batch] for t in (read, asked))
            with autocast(placement, precision):
                mean = loss(inputs, targets)
            (mean * (len(inputs) / recipe.batch_size)).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), recipe.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
