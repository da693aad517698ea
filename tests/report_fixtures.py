"""A study folder in the real format, its numbers from a formula: it tests how reports read it."""

import base64
import gzip
import json
import math
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from search.recipe import Recipe
from search.record import Reading, Record, Run, architecture_id
from search.runs import digests, write_record, write_run, write_windows
from space.arch import Architecture
from space.budget import Budget, fit
from space.files import nothing

DEPTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24)
BUDGET = Budget("parameters", 1_000_000)
RECIPE = Recipe(tokens=1_024_000, seq_len=256, batch_size=4, precision="fp32")
BYTES_PER_TOKEN = 3.1


def figures_of(page: str) -> dict[str, Any]:
    """The figures that a page holds, as plotly.js takes them."""
    packed = re.findall(r'id="figures">(.*?)</script>', page)
    figures: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(packed[0])))
    return figures


def ladder(
    depths: Iterable[int] = DEPTHS, budget: Budget = BUDGET, **fields: Any
) -> list[Architecture]:
    """One architecture a depth, on the budget."""
    given = {"vocab_size": 1024, **fields}
    return [fit(given | {"num_blocks": depth}, budget) for depth in depths]


def bits_per_byte(architecture: Architecture, seed: int, noise: float = 0.004) -> float:
    """A valley around five layers, with noise that depends on architecture and seed alone."""
    draw = random.Random(f"{architecture_id(architecture)} {seed}").gauss(0, noise)
    shared = random.Random(seed).gauss(0, 0.01)
    untied = 0.0 if architecture.tie_word_embeddings else 0.03
    depth = architecture.num_hidden_layers or 1
    return 1.70 + 0.045 * math.log(depth / 5) ** 2 + untied + draw + shared


class StudyFolder:
    """Writes runs and a `study.json` under a folder, trial by trial."""

    def __init__(self, root: Path, name: str = "depth_1m", **facts: Any) -> None:
        self.root, self.name = root, name
        self.runs = root / "runs"
        self.trials: list[dict[str, Any]] = []
        self.facts = {
            "study": name,
            "metric": "val_bpb",
            "direction": "minimize",
            "budget": {"kind": BUDGET.kind, "value": BUDGET.value},
            "space": {"name": "depth_width", "axes": {"num_blocks": list(DEPTHS)}, "size": 9},
            "sampler": "grid",
            "n_trials": 22,
            "workers": 2,
            "runs": str(self.runs),
            "baseline": None,
            "importance": {},
            "config": {},
            "command": f"python -m search study={name} budget=1m",
            "wall_s": 571.3,
            "started": "2026-11-20T09:30:00+00:00",
            "finished": True,
        } | facts

    @property
    def folder(self) -> Path:
        """`outputs/<study>`."""
        return self.root / "outputs" / self.name

    def add(
        self,
        architecture: Architecture,
        seed: int = 0,
        role: str = "explore",
        state: str = "COMPLETE",
        status: str = "finished",
        reason: str | None = None,
        params: Mapping[str, Any] | None = None,
        bpb: float | None = None,
        points: int = 300,
        bytes_known: bool = True,
        recipe: Recipe = RECIPE,
        windows: Sequence[float] = (),
    ) -> str:
        """Add a trial with its run folder, and what each held-out window came to in bits per byte;
        returns the run's key."""
        run = Run(architecture=architecture, recipe=recipe, data_fingerprint="5f0c9", seed=seed)
        value = bits_per_byte(architecture, seed) if bpb is None else bpb
        nats = value * BYTES_PER_TOKEN * math.log(2)
        reading = Reading(
            tokens=recipe.tokens, val_loss=nats, val_bpb=value if bytes_known else None
        )
        record = Record(
            run=run,
            status=status,
            reason=reason,
            readings=(reading,) if status == "finished" else (),
            data={"name": "embedded", "fingerprint": "5f0c9", "bytes_per_token": BYTES_PER_TOKEN},
            train_s=41.5 + run.architecture.num_layers,
            eval_s=2.25,
            tokens_per_s=RECIPE.tokens / 45,
            commit="0123abc",
            versions={"torch": "2.13.0", "python": "3.11.7"},
            device={"type": "cpu", "name": "a processor", "threads": 1, "checkpoint_s": None},
            started="2026-11-20T09:31:00+00:00",
        )
        folder = self.runs / run.key
        write_run(folder, run)
        if windows:
            text = np.full(len(windows), 400.0)
            nats = math.log(2) * text * np.array(windows)
            write_windows(folder, (nats, text, np.ones(len(windows))), nothing)
            record = replace(record, files=digests(folder))
        write_record(folder, record)
        (folder / "metrics.jsonl").write_text(_metrics(value, points, bytes_known))
        depth = {"num_blocks": architecture.num_blocks}
        self.trials.append(
            {
                "number": len(self.trials),
                "state": state,
                "params": depth if params is None else dict(params),
                "seed": seed,
                "key": run.key,
                "arm": architecture_id(run.architecture),
                "role": role,
                "value": (value if bytes_known else nats) if status == "finished" else None,
                "reason": reason,
            }
        )
        return run.key

    def add_unstarted(self, state: str = "WAITING", reason: str | None = None) -> None:
        """Add a trial that has no run yet."""
        number = len(self.trials)
        fields = {"params": {}, "seed": None, "key": None, "arm": None, "role": "explore"}
        trial = {"number": number, "state": state, "value": None, "reason": reason}
        self.trials.append(trial | fields)

    def write(self) -> Path:
        """Write `study.json`; returns the study's folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.facts | {"trials": self.trials}, indent=1)
        (self.folder / "study.json").write_text(text)
        return self.folder


def default_study(root: Path, **facts: Any) -> StudyFolder:
    """Like the default job: all depths once, three of them and a baseline on further seeds."""
    study = StudyFolder(root, **facts)
    architectures = ladder()
    for architecture in architectures:
        study.add(architecture)
    for architecture in architectures[2:6]:
        for seed in (1, 2, 3):
            study.add(architecture, seed=seed, role="replicate")
    study.facts["baseline"] = architecture_id(architectures[5])
    study.write()
    return study


def _metrics(bpb: float, points: int, bytes_known: bool) -> str:
    lines: list[dict[str, Any]] = []
    steps, noise = RECIPE.steps, random.Random(bpb)
    for point in range(1, points + 1):
        step = point * steps // points
        share = step / steps
        nats = bpb * BYTES_PER_TOKEN * math.log(2) + 3.2 * math.exp(-6 * share) - 0.02 * share
        tokens = step * RECIPE.tokens_per_step
        seen = {"step": step, "tokens": tokens, "elapsed_s": 45 * share}
        jitter = noise.gauss(0, 0.03)
        lines.append(seen | {"train_loss": nats + jitter, "lr": 3e-3, "grad_norm": 0.7})
        if point % max(points // 4, 1) == 0:
            bits = nats / BYTES_PER_TOKEN / math.log(2) if bytes_known else None
            lines.append(seen | {"val_loss": nats, "val_bpb": bits})
    return "".join(json.dumps(line) + "\n" for line in lines)
