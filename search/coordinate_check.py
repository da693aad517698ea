"""`python -m search.coordinate_check`: does a parametrisation treat all shapes alike?

If one learning rate is to serve all shapes, its first steps must change what each kind of layer
computes by as much in a wide or a deep model as in the base shape. The check trains the base shape
and its multiples for a few steps, by the training loop with its warmup, and fits the slope of log
size against log multiple: 0 where a kind of layer is treated alike, 1 where it doubles with the
shape. It leaves a picture and a table, and ends with exit code 1 where a slope is out of tolerance.

Two things are measured, root mean squares over tokens and over all layers of a kind:

- the *size* of an activation after these steps. It must not follow the shape, but for the logits,
  which start at 1/√width on purpose: a random readout times the multiplier 1/width.
- its *change* by these steps. It must not follow the shape, whatever is measured. What an
  activation changes by comes from all layers before it, beside which that of one matrix is easily
  lost; so each matrix inside layers is also measured alone: what its change makes of the input it
  now reads.

The theory is a limit: of more width than there are tokens in a step, since the overlaps of
unrelated tokens in D dimensions fall as 1/√D beside that of a token with itself; and of many
layers, each of which adds little, since a sum over few is not yet the integral (the scores of a
layer read a stream to which the layers before it have added: of three, the middle one reads a
third). So steps are of few tokens, the tokens looked at are those that were trained on, and steps
are as small as a warmup's first ones, so that what changes is small beside what was there.
`reports/log.md` has what the slopes become outside that regime.
"""

# B sequences, T positions, D hidden_size, N query heads, H head_dim, V vocab_size

import math
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search.data.cache import prepare
from search.data.config import DataConfig
from search.data.packed import Data, batch, require_tokens
from search.recipe import Recipe
from search.record import Run
from search.train.loop import Training
from search.train.parametrisations import DEPTH, PARAMETRISATIONS, WIDTH
from search.train.parametrise import scales
from search.train.placement import Placement
from space.app import PRINT_STYLE, verb
from space.arch import Architecture
from space.cli import one_line_errors
from space.files import file_atomically, write_atomically
from space.model import MLP, Attention, Decoder, rotate
from space.overrides import Place
from space.ranges import AtLeast1, NotNegative, settle_numbers
from space.sharing import PATTERNS
from space.tables import in_markdown

EMBEDDING, SCORES, ATTENTION, FFN = "embedding", "attention scores", "attention out", "FFN out"
STREAM, LOGITS = "residual stream", "logits of targets"
KINDS = (EMBEDDING, SCORES, ATTENTION, FFN, STREAM, LOGITS)
"""Branches are measured before their multiplier, the residual stream where the final norm reads it,
and of all logits those of the tokens that follow: what training pushes."""
QKV, UP, OUT = "q, k, v alone", "gate, up alone", "o, down alone"
MATRICES = {
    "q_proj": QKV,
    "k_proj": QKV,
    "v_proj": QKV,
    "gate_proj": UP,
    "up_proj": UP,
    "o_proj": OUT,
    "down_proj": OUT,
}
SIZE, CHANGE = "size", "change"
HEAD_DIM = "head_dim"
SHAPES = (WIDTH, DEPTH, HEAD_DIM)
OWN_FIELDS = {
    *("vocab_size", "hidden_size", "num_blocks", "num_attention_heads", "head_dim"),
    *("intermediate_size", "sharing", "repeats"),
}
"""What the check sets itself."""
NOT_JUDGED = {(LOGITS, SIZE)}
COLORS = (
    *("#3f77bd", "#d9752f", "#2f9a78", "#b9505f", "#8563b5", "#87873c"),
    *("#4b4e54", "#8a8d93", "#c3c5c9"),
)


@dataclass(kw_only=True)
class CoordinateCheckConfig:
    """What `conf/coordinate_check.yaml` holds."""

    data: DataConfig
    recipe: Recipe
    """Of the base shape; its parametrisation is checked."""
    proxy: str = "custom"
    """Name of the file that the recipe came from."""
    beside: str | None = None
    """Another parametrisation that must be seen to drift, or else the check shows nothing."""
    axes: list[str] = field(default_factory=list)
    """`width`, `depth`, `head_dim` (at equal width), or sharing patterns, over repeats."""
    multiples: list[int] = field(default_factory=list)
    """Of the base shape; repeats of a pattern."""
    head_dim: AtLeast1 = 16
    """Of the base shape."""
    architecture: dict[str, Any] = field(default_factory=dict)
    """Further fields of all shapes."""
    steps: AtLeast1 = 10
    """Of training, before and after which is measured."""
    seeds: AtLeast1 = 3
    """Over which measurements are averaged."""
    tolerance: NotNegative = 0.1
    """Largest slope, up or down."""
    placement: Placement = field(default_factory=Placement)
    outputs: Place = "outputs"

    def __post_init__(self) -> None:
        settle_numbers(self)
        known = (*SHAPES, *(pattern for pattern in PATTERNS if pattern != "none"))
        unknown = [axis for axis in self.axes if axis not in known]
        if unknown or not self.axes:
            got = repr(unknown[0]) if unknown else "none"
            raise ValueError(f"axes must be one or more of {', '.join(known)}, but got {got}")
        if taken := sorted(OWN_FIELDS & set(self.architecture)):
            raise ValueError(
                f"architecture must leave {taken[0]} to the check, which multiplies the base "
                "shape, but got one; set recipe.base_hidden_size, recipe.base_num_hidden_layers, "
                "head_dim or axes"
            )
        if len(set(self.multiples)) < 2 or min(self.multiples) < 1:
            raise ValueError(
                f"multiples must be two or more whole numbers from 1, but got {self.multiples}"
            )
        if self.tolerance <= 0:
            raise ValueError(f"tolerance must be positive, but got {self.tolerance}")
        if self.recipe.base_hidden_size % self.head_dim:
            raise ValueError(
                "the base shape's width must be a multiple of head_dim, but got "
                f"{self.recipe.base_hidden_size} and {self.head_dim}; "
                "change recipe.base_hidden_size or head_dim"
            )
        width, sizes = self.recipe.base_hidden_size, [self.head_dim * m for m in self.multiples]
        odd = [size for size in sizes if width % size]
        if HEAD_DIM in self.axes and odd:
            raise ValueError(
                f"heads of every size must fill the base shape's width, but got {width} and heads "
                f"of {odd[0]}; choose other multiples"
            )
        if self.beside is not None:
            replace(self.recipe, parametrisation=self.beside)  # finds an unknown one


@dataclass(frozen=True)
class Row:
    """One kind of layer along one axis, under one parametrisation."""

    axis: str
    kind: str
    measure: str
    values: tuple[float, ...]
    """At each multiple: geometric mean over seeds."""
    slope: float
    """Of log value against log multiple: mean over seeds."""
    spread: float
    """Standard error of that mean; NaN with one seed."""

    @property
    def judged(self) -> bool:
        return (self.kind, self.measure) not in NOT_JUDGED

    def drifts(self, tolerance: float) -> bool:
        """Whether the slope is out of tolerance; one that is no number is."""
        return self.judged and not abs(self.slope) <= tolerance


@verb("coordinate_check", CoordinateCheckConfig)
def main(config: CoordinateCheckConfig) -> None:
    """Check, tell, and leave picture and table."""
    with one_line_errors():
        data = prepare(config.data)
        require_tokens(data, config.recipe.seq_len, config.recipe.batch_size)
        checked = config.recipe.parametrisation
        beside = [config.beside] if config.beside not in (None, checked) else []
        names = [checked, *map(str, beside)]
        found = {name: check(config, name, data) for name in names}
        folder = Path(config.outputs) / "coordinate_check" / _folder(config.recipe)
        write_atomically(folder / "table.md", tables_of(config, found))
        draw(config, found, folder / "slopes.png")
    drifting = {
        name: [r for r in rows if r.drifts(config.tolerance)] for name, rows in found.items()
    }
    for name, rows in drifting.items():
        print(f"{name}: {verdict(rows, found[name], config.tolerance)}")
    print(f"table and picture: {folder}")
    silent = [axis for name in beside for axis in silent_axes(config, name, drifting[name])]
    if silent:
        print(
            f"{config.beside} should drift over {' and '.join(silent)} and does not: at this size "
            "the check shows nothing there"
        )
    if drifting[checked] or silent:
        raise SystemExit(1)


def _folder(recipe: Recipe) -> str:
    """`completep`, `completep_muon`."""
    named = recipe.canonical()
    return "_".join(
        [named["parametrisation"], *([named["optimizer"]] if "optimizer" in named else [])]
    )


def silent_axes(
    config: CoordinateCheckConfig, parametrisation: str, drifting: Sequence[Row]
) -> list[str]:
    """The axes that a parametrisation does not follow and along which it was not seen to drift all
    the same. Attention scores count as 1/√head_dim in all of them, and repeats are depth."""
    follows = PARAMETRISATIONS.load(parametrisation).follows
    followed = {HEAD_DIM, *follows, *(PATTERNS if DEPTH in follows else ())}
    seen = {row.axis for row in drifting}
    return [axis for axis in config.axes if axis not in followed | seen]


def verdict(drifting: Sequence[Row], rows: Sequence[Row], tolerance: float) -> str:
    """The result in one line."""
    if not drifting:
        steepest = max((r for r in rows if r.judged), key=lambda r: abs(r.slope))
        return f"all slopes within ±{tolerance:g}; the steepest is {_named(steepest)}"
    worst = sorted(drifting, key=lambda r: -abs(r.slope))
    named = ", ".join(map(_named, worst[:3])) + (", …" if len(worst) > 3 else "")
    return f"{len(worst)} slopes outside ±{tolerance:g}: {named}"


def _named(row: Row) -> str:
    return f"{row.slope:+.2f} of {row.kind} ({row.measure}) over {row.axis}"


def check(config: CoordinateCheckConfig, parametrisation: str, data: Data) -> list[Row]:
    """The slopes of one parametrisation, axis by axis."""
    recipe = replace(config.recipe, parametrisation=parametrisation)
    rows: list[Row] = []
    for axis in config.axes:
        shapes = [shape(config, axis, multiple, data.vocab_size) for multiple in config.multiples]
        runs = [
            [measured(Run(architecture=a, recipe=recipe, data_fingerprint=data.fingerprint,
                          seed=seed), data, config) for seed in range(config.seeds)]
            for a in shapes
        ]  # fmt: skip
        for kind, measure in runs[0][0]:
            values = np.array([[seed[kind, measure] for seed in runs_] for runs_ in runs])
            rows.append(_row(axis, kind, measure, values, config.multiples))
    return rows


def _row(axis: str, kind: str, measure: str, values: Any, multiples: Sequence[int]) -> Row:
    """values: (multiples, seeds)"""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(values)
        x = np.log(multiples) - np.log(multiples).mean()
        slopes = x @ logs / (x @ x)
    many = len(slopes) > 1
    return Row(
        axis,
        kind,
        measure,
        tuple(np.exp(logs.mean(1))),
        float(slopes.mean()),
        float(slopes.std(ddof=1) / math.sqrt(len(slopes))) if many else math.nan,
    )


def shape(config: CoordinateCheckConfig, axis: str, multiple: int, vocab_size: int) -> Architecture:
    """The base shape, with one axis multiplied."""
    recipe = config.recipe
    width = recipe.base_hidden_size * (multiple if axis == WIDTH else 1)
    blocks = recipe.base_num_hidden_layers * (multiple if axis == DEPTH else 1)
    head_dim = config.head_dim * (multiple if axis == HEAD_DIM else 1)
    repeated = axis in PATTERNS and multiple > 1
    return Architecture.from_dict(
        {
            "vocab_size": vocab_size,
            "hidden_size": width,
            "num_blocks": blocks,
            "num_attention_heads": width // head_dim,
            "head_dim": head_dim,
            "intermediate_size": round(width * 8 / 3),
            "sharing": axis if repeated else "none",
            "repeats": multiple if repeated else 1,
            **config.architecture,
        }
    )


def measured(run: Run, data: Data, config: CoordinateCheckConfig) -> dict[tuple[str, str], float]:
    """Size and change of each kind of activation after the first steps of a run."""
    recipe = run.recipe
    windows = [
        batch(data, run.seed, step, recipe.batch_size, recipe.seq_len)
        for step in range(config.steps)
    ]
    with tempfile.TemporaryDirectory() as folder:
        training = Training(run, data, Path(folder), config.placement, lambda _: None)
        device = training.placement.device
        inputs, targets = (
            torch.from_numpy(np.concatenate(ids)).to(device) for ids in zip(*windows, strict=True)
        )
        model = training.model
        initial = {name: p.detach().clone() for name, p in model.named_parameters()}
        before = activations(model, recipe, inputs, targets)
        for _ in range(config.steps):
            training.timed_step()
        after = activations(model, recipe, inputs, targets)
        alone = updates(model, recipe, inputs, initial)
    found: dict[tuple[str, str], float] = {}
    for kind in KINDS:
        pairs = list(zip(after[kind], before[kind], strict=True))
        found[kind, SIZE] = rms([a for a, _ in pairs])
        found[kind, CHANGE] = rms([a - b for a, b in pairs])
    return found | {(kind, CHANGE): rms(changes) for kind, changes in alone.items()}


@torch.no_grad()
def activations(
    model: Decoder, recipe: Recipe, inputs: Tensor, targets: Tensor
) -> dict[str, list[Tensor]]:
    """What one forward pass over ids (B, T) computes, by kind: a tensor for each execution."""
    seen: dict[str, list[Tensor]] = defaultdict(list)
    stack = model.model
    cos, sin = model.rotary(0, inputs.shape[1], stack.embed_tokens.weight)
    branch = multipliers(model, recipe)

    def see(module: nn.Module, kind: str, multiplier: float = 1.0) -> Any:
        return module.register_forward_hook(
            lambda module, given, result: seen[kind].append(result / multiplier)
        )

    def see_scores(module: Attention, given: tuple[Tensor, ...], result: Tensor) -> None:
        seen[SCORES].append(scores(module, given[0], cos, sin))

    hooks = [see(stack.embed_tokens, EMBEDDING)]
    for module in stack.modules():  # a shared one is named once, and seen at each execution
        if isinstance(module, Attention):
            hooks.append(module.register_forward_hook(see_scores))
            hooks.append(see(module, ATTENTION, branch["o_proj"]))
        elif isinstance(module, MLP):
            hooks.append(see(module, FFN, branch["down_proj"]))
    hooks.append(
        stack.norm.register_forward_hook(lambda module, given, _: seen[STREAM].append(given[0]))
    )
    logits = model(inputs)  # (B, T, V)
    seen[LOGITS].append(logits.gather(-1, targets[..., None]))
    for hook in hooks:
        hook.remove()
    return seen


@torch.no_grad()
def updates(
    model: Decoder, recipe: Recipe, inputs: Tensor, initial: Mapping[str, Tensor]
) -> dict[str, list[Tensor]]:
    """What the change of each matrix, since it was as in `initial`, makes of its input in one
    forward pass over ids (B, T), by kind, before the branch's multiplier."""
    seen: dict[str, list[Tensor]] = {kind: [] for kind in (QKV, UP, OUT)}
    branch = multipliers(model, recipe)

    def see(name: str, part: str) -> Any:
        return lambda module, given, _: seen[MATRICES[part]].append(
            F.linear(given[0], module.weight - initial[f"{name}.weight"]) / branch[part]
        )

    hooks = [
        module.register_forward_hook(see(name, part))
        for name, module in model.named_modules()
        if (part := name.rsplit(".")[-1]) in MATRICES
    ]
    model(inputs)
    for hook in hooks:
        hook.remove()
    return seen


def multipliers(model: Decoder, recipe: Recipe) -> dict[str, float]:
    """By the last part of a module's name."""
    return {
        name.rsplit(".", 2)[1]: scale.multiplier for name, scale in scales(model, recipe).items()
    }


def scores(attention: Attention, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """What the softmax reads (B, N, T, T), zero above the diagonal, of normed x (B, T, D)."""
    B, T, _ = x.shape
    q = attention.q_proj(x).view(B, T, -1, attention.head_dim)  # (B, T, N, H)
    k = attention.k_proj(x).view(B, T, -1, attention.head_dim)  # (B, T, K, H)
    if attention.qk_norm:
        q, k = attention.q_norm(q), attention.k_norm(k)
    q, k = (rotate(z.transpose(1, 2), cos, sin) for z in (q, k))
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)  # (B, N, T, H)
    return (q @ k.mT).tril() * float(attention.head_dim**-0.5)


def rms(tensors: Sequence[Tensor]) -> float:
    """Root mean square over all of them."""
    total = sum(float(t.double().square().sum()) for t in tensors)
    return math.sqrt(total / sum(t.numel() for t in tensors))


def tables_of(config: CoordinateCheckConfig, found: dict[str, list[Row]]) -> str:
    """One table per parametrisation: slopes, and the sizes that they are fitted to."""
    recipe, times = config.recipe, [f"{m}×" for m in config.multiples]
    text = (
        f"Base shape {recipe.base_num_hidden_layers} layers × {recipe.base_hidden_size}; "
        f"{config.steps} steps of {recipe.tokens_per_step} tokens, warming up to {recipe.lr:g} "
        f"over {recipe.warmup_fraction * recipe.steps:.0f} steps; {config.seeds} seeds. "
        f"Slopes of log RMS against log multiple, ± standard error; "
        f"**bold** where outside ±{config.tolerance:g}.\n"
    )
    headings = ["over", "layer type", "of its", "slope", *times]
    numeric = [name not in headings[:3] for name in headings]
    for name, rows in found.items():
        cells = [_cells(row, config.tolerance) for row in rows]
        text += f"\n**{name}**\n\n{in_markdown(headings, cells, numeric)}"
    return text


def _cells(row: Row, tolerance: float) -> list[str]:
    slope = f"{row.slope:+.2f}".replace("-", "\u2212")
    slope = f"**{slope}**" if row.drifts(tolerance) else slope
    slope += f" ± {row.spread:.2f}" if math.isfinite(row.spread) else ""
    slope += "" if row.judged else " (not judged)"
    return [row.axis, row.kind, row.measure, slope, *(f"{value:.3g}" for value in row.values)]


def draw(config: CoordinateCheckConfig, found: dict[str, list[Row]], path: Path) -> None:
    """Changes against multiples: one row per parametrisation, one column per axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    with matplotlib.rc_context(fname=PRINT_STYLE):
        size = (0.9 + 2.3 * len(config.axes), 0.7 + 2.1 * len(found))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(found), len(config.axes), squeeze=False, sharey=True)
        for axes, (name, axis, rows) in zip(grid.flat, _panels(config, found), strict=True):
            for row, color in zip(rows, COLORS, strict=True):
                values = np.array(row.values) / row.values[0]
                axes.plot(config.multiples, values, "o-", ms=3, lw=1.2, color=color, label=row.kind)
            axes.set(xscale="log", yscale="log", title=f"{name}, {axis}")
            axes.set_xticks(config.multiples, [f"{m}×" for m in config.multiples])
            axes.minorticks_off()
            axes.grid(axis="y", lw=0.4, color="#d5d7da")
        for axes in grid[:, 0]:
            axes.set_ylabel("change, of 1×'s")
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=5,
            frameon=False,
            fontsize=9,
        )
        with file_atomically(path) as part:
            figure.savefig(part, format="png", dpi=100, metadata={"Software": None})


def _panels(
    config: CoordinateCheckConfig, found: dict[str, list[Row]]
) -> Iterator[tuple[str, str, list[Row]]]:
    for name, rows in found.items():
        for axis in config.axes:
            yield name, axis, [r for r in rows if r.axis == axis and r.measure == CHANGE]


if __name__ == "__main__":
    main()
