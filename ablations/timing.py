"""How long the arms of a table train, measured once and then kept.

Equal training time fixes numbers of tokens. Measured anew they would be others, and with them the
runs; so they follow from one timing, kept in a file beside the table with its date and machine.
"""

import platform
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from search.recipe import Recipe
from search.record import Run, training_flops
from space.arch import Architecture
from space.seals import whole_json, write_json

if TYPE_CHECKING:
    from search.data.packed import Data
    from search.train.placement import Placement

FILE = "timing.json"
ROUNDS, ROUND_S = 5, 0.5
"""How often the arms take turns, and for how long at least."""


class Timing:
    """Seconds that a token takes in training, by architecture and recipe. What was not measured yet
    is put in proportion by FLOPs, which will do to check a table."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.content: dict[str, Any] = {}
        if path is not None and path.is_file():
            self.content = whole_json(path, "how long arms train", "delete it to time anew")
        self.missing: dict[str, Run] = {}
        self.used: set[str] = set()
        """Keys of what was asked for and is known."""

    def __call__(self, architecture: Architecture, recipe: Recipe) -> float:
        """Seconds a token, up to a factor that all have in common."""
        flops = training_flops(architecture, recipe)
        if self.path is None:
            return flops
        run = Run(
            architecture=architecture,
            recipe=replace(recipe, tokens=10 * recipe.tokens_per_step),
            data_fingerprint="timing",
        )
        known = self.content.get("seconds_per_token", {})
        if run.key in known:
            self.used.add(run.key)
            return float(known[run.key])
        self.missing[run.key] = run
        if (reference := self._reference()) is None:
            return flops
        return float(known[reference.key]) * flops / _flops(reference)

    def _reference(self) -> Run | None:
        """A run that was timed, by its key of today: of other numerics it would be another run."""
        known = self.content.get("seconds_per_token", {})
        for given in self.content.get("runs", {}).values():
            architecture = Architecture.from_dict(given["architecture"])
            recipe = Recipe(**given["recipe"])
            run = Run(architecture=architecture, recipe=recipe, data_fingerprint="timing")
            if run.key in known:
                return run
        return None

    def measure(self, data: "Data", placement: "Placement") -> None:
        """Time what is missing and write the file; what it has already stays as it is.

        Arms take turns, so that a machine whose speed drifts is compared with itself; an arm that
        joins later is timed beside one that is there already, and put in proportion to it.
        """
        from search.train.card import name_apart
        from search.train.placement import settle_apart
        from space.commit import commit

        assert self.path is not None, "given where tables are trained"
        known = dict(self.content.get("seconds_per_token", {}))
        runs, kept = dict(self.missing), dict(self.content.get("runs", {}))
        if (reference := self._reference()) is not None:
            runs[reference.key] = reference
        print(f"timing {len(self.missing)} arms, whose tokens follow from it", flush=True)
        found = timed(list(runs.values()), data, placement)
        times = dict(zip(runs, found, strict=True))
        scale = known[reference.key] / times[reference.key] if reference is not None else 1.0
        known |= {key: times[key] * scale for key in self.missing}
        settled = settle_apart(placement, next(iter(runs.values())))
        origin = {
            "date": datetime.now(UTC).date().isoformat(),
            "machine": name_apart(settled.device) or platform.machine(),
            "threads": settled.threads,
            "commit": commit(),
        }
        kept |= {
            key: {
                "architecture": run.architecture.to_dict(),
                "recipe": run.recipe.to_dict(),
                **origin,
            }
            for key, run in self.missing.items()
        }
        self.content = {**self.content, "seconds_per_token": known, "runs": kept}
        write_json(self.path, self.content)
        self.missing = {}

    def words(self) -> str:
        """Where the token counts come from: every timing that was used, once; all where none was
        asked for yet."""
        whole = {name: value for name, value in self.content.items() if name != "runs"}
        runs = self.content.get("runs", {})
        entries = [entry for key, entry in runs.items() if key in self.used or not self.used]
        # Of older files one origin is that of all runs.
        entries += [{}] if not entries or self.used - set(runs) else []
        origins = list(dict.fromkeys(_origin({**whole, **entry}) for entry in entries))
        of = "a timing of" if len(origins) == 1 else "timings of"
        return f"Tokens at equal training time follow from {of} {', '.join(origins)}."


def _origin(said: Mapping[str, Any]) -> str:
    commit = f", {said['commit'][:10]}" if said.get("commit") else ""
    threads = "1 thread" if said["threads"] == 1 else f"{said['threads']} threads"
    return f"{said['date']} ({said['machine']}, {threads}{commit})"


def _flops(run: Run) -> float:
    return training_flops(run.architecture, run.recipe)


def timed(runs: list[Run], data: "Data", placement: "Placement") -> list[float]:
    """Seconds per token of each run. On a GPU another process trains them: this one starts workers,
    and is to have no CUDA context."""
    from search.train.placement import gpus

    if placement.device == "cpu" or not gpus():
        return seconds_per_token(runs, data, placement)
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other:
        return other.submit(_timed_there, runs, data.folder, placement).result()


def _timed_there(runs: list[Run], folder: Path, placement: "Placement") -> list[float]:
    from search.data.cache import open_data

    return seconds_per_token(runs, open_data(folder), placement)


def seconds_per_token(runs: list[Run], data: "Data", placement: "Placement") -> list[float]:
    """Of a training step of each run: medians over rounds in which all take turns."""
    from search.train.loop import Training

    with tempfile.TemporaryDirectory() as folder:
        trainings = [
            Training(run, data, Path(folder) / run.key, placement, lambda _: None) for run in runs
        ]
        for training in trainings:
            training.timed_step()  # compiles and warms caches
        rounds = [[_steps(training) for training in trainings] for _ in range(ROUNDS)]
    times = [median(times) for times in zip(*rounds, strict=True)]
    return [s / run.recipe.tokens_per_step for s, run in zip(times, runs, strict=True)]


def _steps(training: Any) -> float:
    """Seconds of a step, the mean over a round."""
    steps, before = 0, training.state.train_s
    while training.state.train_s - before < ROUND_S:
        training.timed_step()
        steps += 1
    return float((training.state.train_s - before) / steps)
