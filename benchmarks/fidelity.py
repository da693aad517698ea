"""`python -m benchmarks.fidelity`: whether the fast path trains what plain float32 trains.

The default proxy on the embedded corpus, at nine layers of a million parameters, by this machine's
fastest way and by a reference: eager autograd in float32. For each initialisation both see the same
batches in the same order, so that the curves differ by arithmetic alone; two initialisations
differ by the noise between seeds, of which that difference must be a small part. The data order is
the same for all, which makes this noise as small as it can be.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from benchmarks.show import heading, leave, parser, table
from search.data.cache import prepare
from search.data.config import DataConfig
from search.data.packed import Data, batch
from search.recipe import Recipe
from search.record import Run
from search.runs import read_metrics
from search.train.loop import Training, train
from search.train.placement import Placement, settle, settle_precision
from space.app import CONF
from space.arch import Architecture
from space.budget import fit

REFERENCE = Placement(device="cpu", engine="autograd", compile="no")
Curve = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


@dataclass(frozen=True)
class Pair:
    """One initialisation, trained both ways."""

    run: Run
    ours: Curve
    """Training losses along the run, in nats per token."""
    reference: Curve
    val_loss: tuple[float, float]
    """Ours and the reference's, at the end."""
    gradient_errors: dict[str, tuple[float, float]]
    """Of the fast path, and of autograd in its precision: distance to the reference's gradient over
    its length, at the start and at the end."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=4)
    options.add_argument("--tokens", type=int, default=200_000, help="a run's")
    chosen = options.parse_args(arguments)
    config, recipe = default_proxy()
    data = prepare(config)
    arch = fit({"vocab_size": data.vocab_size, "num_blocks": 9, "heads_per_kv_target": 3}, "1m")
    pairs = compare(arch, replace(recipe, tokens=chosen.tokens), data, chosen.seeds)
    text = heading(settle(Placement(), pairs[0].run), ("torch",))
    leave("fidelity", f"{text}\n\n{described(pairs)}", None, chosen.save)


def default_proxy() -> tuple[DataConfig, Recipe]:
    """Of `python -m search`."""
    proxy = OmegaConf.load(Path(CONF) / "proxy" / "default.yaml")
    return DataConfig(**proxy.data), Recipe(**proxy.recipe)


def compare(arch: Architecture, recipe: Recipe, data: Data, seeds: int) -> list[Pair]:
    """Train each initialisation both ways."""
    return [compared(arch, recipe, data, seed) for seed in range(seeds)]


def compared(arch: Architecture, recipe: Recipe, data: Data, init_seed: int) -> Pair:
    ours, plain = (
        Run(
            architecture=arch,
            recipe=settle_precision(replace(recipe, precision=precision), Placement()),
            data_fingerprint=data.fingerprint,
            seed=0,
            init_seed=init_seed,
        )
        for precision in ("auto", "fp32")
    )
    with tempfile.TemporaryDirectory() as folder:
        curves, ends, folders = [], [], []
        for name, run, placement in (("ours", ours, Placement()), ("plain", plain, REFERENCE)):
            folders.append(Path(folder) / name / run.key)
            record = train(run, data, folders[-1], placement=placement)
            assert record.readings, f"a run ended with {record.status}: {record.reason}"
            lines = [line for line in read_metrics(folders[-1]) if "train_loss" in line]
            curves.append(np.array([line["train_loss"] for line in lines]))
            ends.append(record.readings[-1].val_loss)
        trained = load_file(folders[-1] / "weights.safetensors")
    gradients = {
        "ours": gradients_of(ours, data, Placement(), trained),
        "autograd": gradients_of(ours, data, REFERENCE, trained),
        "reference": gradients_of(plain, data, REFERENCE, trained),
    }
    errors = {
        name: (distance(ga, gradients["reference"][0]), distance(gb, gradients["reference"][1]))
        for name, (ga, gb) in gradients.items()
        if name != "reference"
    }
    return Pair(ours, curves[0], curves[1], (ends[0], ends[1]), errors)


def gradients_of(
    run: Run, data: Data, placement: Placement, trained: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The whole gradient on the first batch, with initial and with trained weights."""
    training = Training(run, data, Path(os.devnull), placement, lambda _: None)
    recipe = run.recipe
    ids = batch(data, run.seed, 0, recipe.batch_size, recipe.seq_len)
    inputs, targets = (torch.from_numpy(part).to(training.placement.device) for part in ids)
    results = []
    for weights in ({}, trained):
        with torch.no_grad():
            for name, p in training.model.named_parameters():
                p.copy_(weights.get(name, p))
        training.engine.refresh()
        training.weights.gradients.zero_()
        training.engine.nll(inputs, targets, 1 / targets.numel())
        results.append(training.weights.gradients.cpu().clone())
    return results[0], results[1]


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def rms(values: Sequence[Curve]) -> float:
    return float(np.sqrt(np.mean(np.square(np.concatenate(values)))))


def arithmetic(pairs: Sequence[Pair]) -> float:
    """How far the curves of one initialisation lie apart: root mean square, nats per token."""
    return rms([pair.ours - pair.reference for pair in pairs])


def noise(pairs: Sequence[Pair]) -> float:
    """How far the reference's curves of two initialisations lie apart."""
    return rms([a.reference - b.reference for a, b in combinations(pairs, 2)])


def described(pairs: Sequence[Pair]) -> str:
    """The tables, as Markdown."""
    recipe = pairs[0].run.recipe
    ours, plain = zip(*(pair.val_loss for pair in pairs), strict=True)
    rows = [
        [f"{pair.run.init_seed}", *losses(*pair.val_loss, arithmetic([pair]))] for pair in pairs
    ]
    rows.append(["mean", *losses(mean(ours), mean(plain), arithmetic(pairs))])
    words = (
        f"{recipe.tokens:,} tokens per run; {recipe.precision} against float32. Between seeds the "
        f"reference's final losses have a standard deviation of {stdev(plain):.4f}, and its curves "
        f"lie {noise(pairs):.4f} apart.\n\n"
    )
    columns = ["initialisation", "final loss", "reference", "difference", "curves apart"]
    text = words + table(columns, rows)
    text += "\nRelative error of the whole gradient, at the start and at the end:\n\n"
    named = {"ours": "ours", "autograd": f"autograd, {recipe.precision}"}
    return text + table(
        ["", "start", "end"],
        [
            [title, *(f"{mean(p.gradient_errors[name][i] for p in pairs):.2%}" for i in (0, 1))]
            for name, title in named.items()
        ],
    )


def losses(ours: float, reference: float, apart: float) -> list[str]:
    return [f"{ours:.4f}", f"{reference:.4f}", f"{ours - reference:+.4f}", f"{apart:.4f}"]


if __name__ == "__main__":
    main()
