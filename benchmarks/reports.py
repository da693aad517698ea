"""`python -m benchmarks.reports`: what a report over many records takes.

A study of made-up records is written: every architecture of `space=full` with several bases of its
rotary embedding, one seed each, further seeds for a few, each with a curve of 200 points. Then
`python -m reports` makes its page in a process of its own, several times. Seconds are those of the
clock and those of the processor, which other work on the machine changes less; megabytes are the
most that the process ever held.
"""

import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice, product
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.show import heading, leave, parser, spread, table
from search.recipe import Recipe
from search.record import Reading, Record, Run, architecture_id
from search.runs import CURVE
from search.states import Status
from search.train.placement import Placement, settle
from space.arch import Architecture
from space.axes import Space
from space.budget import Budget
from space.seals import digest, sealed_json

STUDY = "many"
BUDGET = Budget("parameters", 1_000_000)
VOCABULARY = 1024
BASES = (1e4, 2e4, 4e4, 8e4, 1.6e5, 3.2e5, 6.4e5, 1.28e6)
"""Of the rotary embedding: they change no count."""
RECIPE = Recipe(tokens=800_000, seq_len=128, batch_size=4, precision="bf16")
POINTS, CURVES = 200, 20
"""Points of a curve, and how many differ."""
BYTES_PER_TOKEN = 2.5
FURTHER = 8
"""Runs of the first four architectures on further seeds."""
ROUNDS = 3


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    options = parser(__doc__)
    options.add_argument("--records", type=int, default=10_000)
    options.add_argument("--rounds", type=int, default=ROUNDS)
    chosen = options.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        write_study(Path(folder), chosen.records)
        measured = [made(Path(folder)) for _ in range(chosen.rounds)]
    wall, processor, memory, size = zip(*measured, strict=True)
    rows = [
        ["seconds by the clock", spread(wall, "{:.1f}".format), "5"],
        ["seconds of the processor", spread(processor, "{:.1f}".format), ""],
        ["megabytes at most", spread(memory, "{:.0f}".format), "300"],
        ["megabytes of the page", spread(size, "{:.1f}".format), ""],
    ]
    typical = settle(Placement(), next(runs()))
    text = (
        f"{heading(typical, ('pandas', 'matplotlib'))}\n\n{chosen.records:,} records, median of "
        f"{chosen.rounds} rounds.\n\n{table(['', 'measured', 'wanted'], rows)}"
    )
    leave("reports", text, None, chosen.save)


def made(folder: Path) -> tuple[float, float, float, float]:
    """Make the page: seconds by the clock and of the processor, megabytes held and of the page."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "reports", f"study={STUDY}", f"outputs={folder}/outputs"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    page = folder / "outputs" / STUDY / "report.html"
    return wall, processor, after.ru_maxrss / 1e3, page.stat().st_size / 1e6


def runs() -> Iterator[Run]:
    """Runs of many architectures on one budget, first of all with one seed."""
    space = Space.from_yaml("full", budget=BUDGET, vocab_size=VOCABULARY)
    shapes = Random(0).sample(list(space.candidates()), space.size)
    for base, shape in product(BASES, shapes):
        yield run_of(replace(shape.architecture, rope_theta=base), 0)


def run_of(architecture: Architecture, seed: int) -> Run:
    """A run by the recipe of all."""
    return Run(architecture=architecture, recipe=RECIPE, data_fingerprint="made up", seed=seed)


def write_study(folder: Path, records: int) -> None:
    """`study.json` and the folders of its runs, as a search leaves them."""
    explored = list(islice(runs(), records - FURTHER))
    further = [
        run_of(run.architecture, seed) for seed in (1, 2) for run in explored[: FURTHER // 2]
    ]
    curves = [curve(number) for number in range(CURVES)]
    trials = []
    for number, run in enumerate([*explored, *further]):
        role = "explore" if number < len(explored) else "replicate"
        trials.append(write_run(folder / "runs", run, number, role, curves[number % CURVES]))
    content = {
        "study": STUDY,
        "metric": "val_bpb",
        "direction": "minimize",
        "budget": {"kind": BUDGET.kind, "value": BUDGET.value},
        "space": {"name": "full", "axes": {}, "size": len(explored)},
        "sampler": "random",
        "n_trials": records,
        "workers": 8,
        "runs": str(folder / "runs"),
        "baseline": trials[0]["arm"],
        "importance": {"num_blocks": 0.6, "sharing": 0.4},
        "config": {},
        "command": f"python -m search study={STUDY}",
        "wall_s": 1e5,
        "started": "2026-11-29T00:00:00+00:00",
        "finished": True,
        "trials": trials,
    }
    place = folder / "outputs" / STUDY
    place.mkdir(parents=True)
    (place / "study.json").write_bytes(sealed_json(content))


def write_run(runs: Path, run: Run, number: int, role: str, curve: bytes) -> dict[str, Any]:
    """A run's folder, and its entry in `study.json`. Files are not brought to the disk."""
    shape, noise = run.architecture, Random(f"{architecture_id(run.architecture)} {run.seed}")
    bpb = 1.7 + 0.05 * math.log(shape.num_layers / 5) ** 2 + noise.gauss(0, 0.01)
    reading = Reading(
        tokens=RECIPE.tokens, val_loss=bpb * BYTES_PER_TOKEN * math.log(2), val_bpb=bpb
    )
    record = Record(
        run=run,
        status=Status.FINISHED,
        readings=(reading,),
        data={"name": "made up", "fingerprint": "made up", "bytes_per_token": BYTES_PER_TOKEN},
        train_s=24.0 + noise.random(),
        eval_s=0.5,
        tokens_per_s=33e3,
        commit="0123abc",
        versions={"python": "3.11.7", "torch": "2.13.0"},
        device={"device": "cpu", "threads": 1, "name": "a processor"},
        started="2026-11-29T00:00:00+00:00",
        files={CURVE: digest(curve)},
    )
    folder = runs / run.key
    folder.mkdir(parents=True)
    (folder / "record.json").write_bytes(sealed_json(record.to_dict()))
    (folder / CURVE).write_bytes(curve)
    return {
        "number": number,
        "state": "COMPLETE",
        "params": {"num_blocks": shape.num_blocks, "sharing": f"{shape.sharing} x{shape.repeats}"},
        "seed": run.seed,
        "key": run.key,
        "arm": architecture_id(shape),
        "role": role,
        "value": bpb,
        "reason": None,
        "reused": False,
        "attempts": 1,
        "result_id": record.result_id,
    }


def curve(number: int) -> bytes:
    """A curve of made-up losses."""
    source, lines = Random(number), []
    for point in range(1, POINTS + 1):
        step = point * RECIPE.steps // POINTS
        loss = 4 + 3 * math.exp(-6 * point / POINTS) + source.gauss(0, 0.03)
        seen = {"step": step, "tokens": step * RECIPE.tokens_per_step}
        lines.append(seen | {"train_loss": loss, "lr": 3e-3, "grad_norm": 0.7, "elapsed_s": 1.0})
        if point % (POINTS // 4) == 0:
            lines.append(seen | {"val_loss": loss, "val_bpb": loss / 2, "elapsed_s": 1.0})
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


if __name__ == "__main__":
    main()
