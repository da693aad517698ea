"""Models measured: exported with random weights, and timed in turns, each time in a new process.

What a model's weights are does not decide how fast they are multiplied, so that an architecture is
enough. Within a round every model is measured once: a machine whose speed drifts drifts for all.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from search.engines import ENGINES
from search.measure.config import Measuring
from search.record import Measured
from search.train.provenance import device_name
from space.arch import Architecture
from space.formats import FORMATS

SHOWN = (10, 50, 90)
"""Percentiles that are kept."""
Said = Callable[[str], None]


def measure(
    architectures: Sequence[Architecture], how: Measuring, say: Said = lambda text: None
) -> list[Measured]:
    """The measurement of each, in the order given.

    Raises:
        ValueError: the engine is not installed, or cannot execute one of them.
    """
    how.require(*architectures)
    with tempfile.TemporaryDirectory(prefix="isoparam-") as made:
        folders = []
        for number, arch in enumerate(architectures):
            say(f"writing {number + 1} of {len(architectures)}")
            folders.append(exported(arch, how, Path(made) / str(number)))
        rounds: list[list[dict[str, list[float]]]] = []
        for turn in range(how.repeats):
            say(f"measuring, round {turn + 1} of {how.repeats}")
            rounds.append([timed(a, f, how) for a, f in zip(architectures, folders, strict=True)])
        sizes = [max(p.stat().st_size for p in f.iterdir()) / 1e6 for f in folders]
    return [summary(how, size, [turn[i] for turn in rounds]) for i, size in enumerate(sizes)]


def exported(arch: Architecture, how: Measuring, folder: Path) -> Path:
    """The model with random weights, as the engine's format writes it."""
    import torch

    from space.model import Decoder

    assert how.engine is not None, "required"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Decoder(arch).eval()
    format = FORMATS.load(ENGINES.load(how.engine).format)
    return format.write(model, folder, None, None, how.kind, how.room)


def timed(arch: Architecture, folder: Path, how: Measuring) -> dict[str, list[float]]:
    """What one process measured.

    Raises:
        ValueError: it failed; the message has its last line.
    """
    asked = {"folder": str(folder), "architecture": arch.to_dict(), "context": how.room}
    asked |= {"threads": how.threads, "shared": how.shared}
    job = {"engine": how.engine, "asked": asked, "context": how.context, "steps": how.steps}
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    done = subprocess.run(
        [sys.executable, "-m", "search.measure.process"],
        input=json.dumps(job),
        env=os.environ | dict.fromkeys(names, str(how.threads)),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ValueError(f"engine={how.engine} could not execute the model: {said[-1]}")
    times: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return times


def summary(how: Measuring, file_mb: float, turns: Sequence[dict[str, list[float]]]) -> Measured:
    """Percentiles over all processes and steps."""
    values: dict[str, dict[str, float]] = {"file_mb": dict.fromkeys(map(_name, SHOWN), file_mb)}
    for quantity in turns[0]:
        found = [value for turn in turns for value in turn[quantity]]
        percentiles = np.percentile(found, SHOWN)
        values[quantity] = {_name(p): float(v) for p, v in zip(SHOWN, percentiles, strict=True)}
    return Measured(**identity(how), repeats=how.repeats, values=values)


def _name(percentile: int) -> str:
    return f"p{percentile}"


def identity(how: Measuring) -> dict[str, Any]:
    """What tells one kind of measurement from another, on this machine and with what is installed
    here."""
    assert how.engine is not None, "required"
    own = {f.name: getattr(how, f.name) for f in fields(Measuring) if f.name != "repeats"}
    return own | {
        "engine": ENGINES.identity(how.engine),
        "version": _version(ENGINES.load(how.engine).package),
        "machine": device_name("cpu"),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # it is installed under another name
        return "unknown"
