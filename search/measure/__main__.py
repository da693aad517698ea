"""`python -m search.measure model=mobilellm_125m engine=llama_cpp`: a model timed in an engine.

Load, initialisation, prefill and decoding, beside what the model of a device predicts. Several
models, `'model=[a,b,c]'`, take turns.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from search.engines import ENGINES
from search.measure.config import Measuring
from search.measure.measured import measure
from search.models import best_in_words, is_run, named
from search.record import Measured
from search.runs import read_asked
from space.app import verb
from space.arch import ARCHITECTURES, Architecture
from space.cli import one_line_errors
from space.cost import cost
from space.device import THIS, Device, measured_here
from space.files import require_writable, write_atomically
from space.overrides import Names, Place
from space.stored import ORIGIN, read_origin
from space.tables import Column, aligned
from space.words import magnitude

QUANTITIES = ("load_ms", "init_ms", "prefill_ms", "decode_ms", "peak_mb", "file_mb")
PER_SECOND = ("prefill_ms", "decode_ms")


@dataclass(frozen=True, kw_only=True)
class MeasureConfig(Measuring):
    """What `conf/measure.yaml` holds."""

    model: Names
    study: str | None = None
    outputs: Place = "outputs"
    device: str | None = None
    runs: Place = "runs"
    """Where runs are."""
    to: Place | None = None


@verb("measure", MeasureConfig)
def main(config: MeasureConfig) -> None:
    """Measure the models, print the table and keep it where that is asked for."""
    with one_line_errors():
        if config.to is not None:
            require_writable(Path(config.to), "to", "file", whole=True)
        if config.engine is None:
            raise ValueError(f"engine must be one of {', '.join(ENGINES.names())}, but got none")
        names = [named(name, config.study, config.outputs) for name in names_of(config.model)]
        architectures = [architecture_of(name, config.runs) for name in names]
        device = chosen(config.device)
        if config.study is not None:
            print(best_in_words(config.study, config.outputs), flush=True)
        found = measure(architectures, config, say)
    rows = [
        row
        for name, arch, measured in zip(names, architectures, found, strict=True)
        for row in rows_of(name, arch, measured, device)
    ]
    print(title(found[0]) + "\n")
    print(aligned(COLUMNS, rows, "table"))
    print(*verdicts(rows, found, device), sep="\n")
    if config.to is not None:
        kept = [
            {"model": name, "architecture": arch.to_dict(), **asdict(measured)}
            for name, arch, measured in zip(names, architectures, found, strict=True)
        ]
        with one_line_errors((OSError,)):
            write_atomically(Path(config.to), json.dumps(kept, indent=1) + "\n")


def names_of(given: Any) -> list[str]:
    """One model's name, or each of a list.

    Raises:
        ValueError: it is neither.
    """
    names = given if isinstance(given, list) else [given]
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"model must be a name or a list of names, but got {given!r}")
    return names


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def architecture_of(name: str, runs: str) -> Architecture:
    """Of a run, a file of `conf/architecture/`, a YAML file, an export, a folder or a hub id.
    Weights are not needed.

    Raises:
        ValueError: it is none of these.
    """
    for folder in (Path(runs) / name, Path(name)):
        if is_run(folder):
            return Architecture.from_dict(read_asked(folder)["architecture"])
        if (folder / ORIGIN).is_file():
            return read_origin(folder)
    if name.endswith((".yaml", ".yml")) or (ARCHITECTURES / f"{name}.yaml").is_file():
        return Architecture.from_yaml(name)
    from space.hf import architecture_of as of_hub

    try:
        return of_hub(name)
    except ValueError as error:
        why = str(error).partition(", but ")[2] or str(error)
        raise ValueError(
            "model must be a run, a file of conf/architecture/, a YAML file, a folder or a hub id, "
            f"but {why}"
        ) from None


def chosen(device: str | None) -> Device | None:
    """The device that predicts: the one named, else this machine if it was measured."""
    if device is not None:
        return Device.from_yaml(device)
    return Device.from_yaml(THIS) if (measured_here() / f"{THIS}.yaml").is_file() else None


def rows_of(
    name: str, arch: Architecture, measured: Measured, device: Device | None
) -> Iterator[dict[str, Any]]:
    """A row for each quantity."""
    for quantity in QUANTITIES:
        found = measured.values[quantity]
        value, expected = measured.counted(quantity), predicted(device, arch, measured, quantity)
        tokens = measured.context if quantity == "prefill_ms" else 1
        rate = 1e3 * tokens / found["p50"] if quantity in PER_SECOND else None
        yield {
            "model": name,
            "parameters": cost(arch).parameters,
            "quantity": quantity,
            **found,
            "rate": rate,
            "counted": value,
            "predicted": expected,
            "error": None if expected is None else expected / value - 1,
        }


def predicted(
    device: Device | None, arch: Architecture, measured: Measured, quantity: str
) -> float | None:
    """None where the device was not measured for it."""
    if device is None or quantity not in device.terms:
        return None
    lengths = {"prefill_ms": measured.context, "peak_mb": measured.context + measured.steps}
    length = lengths.get(quantity, measured.context + measured.steps // 2)
    try:
        return device.predict(quantity, arch, measured.precision, length)
    except ValueError:
        return None


def title(measured: Measured) -> str:
    """How it was measured, in a line."""
    copies = ", one copy of shared weights" if measured.shared else ""
    return (
        f"{measured.engine} {measured.version}, {measured.precision}, "
        f"prompt of {measured.context}, {measured.steps} tokens decoded, threads "
        f"{measured.threads}{copies}, {measured.repeats} processes, "
        f"{measured.machine}; random weights"
    )


def verdicts(
    rows: Sequence[dict[str, Any]], found: Sequence[Measured], device: Device | None
) -> Iterator[str]:
    """Lines below the table: how busy the machine was, and how good predictions are."""
    waits = [m.values["decode_ms"]["p50"] / m.values["decode_cpu_ms"]["p50"] for m in found]
    if found[0].threads == 1 and max(waits) > 1.1:
        yield (
            f"the machine was shared: decoding took up to {max(waits):.1f} times as long as its "
            "thread ran; predictions are compared with the time that it ran"
        )
    if device is None:
        yield "no prediction: run `python -m benchmarks.device` once, or set device=NAME"
        return
    for quantity in QUANTITIES:
        pairs = [(r["counted"], r["predicted"]) for r in rows if r["quantity"] == quantity]
        pairs = [pair for pair in pairs if pair[1] is not None]
        if pairs:
            yield f"{quantity} by {device.name}: {agreement(pairs)}"


def agreement(pairs: Sequence[tuple[float, float]]) -> str:
    """The largest error of predictions, and Kendall's rank correlation where there are three."""
    from scipy.stats import kendalltau

    worst = max((p / m - 1 for m, p in pairs), key=abs)
    said = f"largest error {worst:+.1%}"
    if len(pairs) < 3:
        return said
    return f"{said}, rank correlation {kendalltau(*zip(*pairs, strict=True)).statistic:.2f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


COLUMNS = [
    Column("model", "model"),
    Column("parameters", "parameters", magnitude),
    Column("quantity", "quantity"),
    Column("p10", "p10", _number),
    Column("p50", "p50", _number),
    Column("p90", "p90", _number),
    Column("rate", "tokens/s", _number),
    Column("counted", "counted", _number),
    Column("predicted", "predicted", _number),
    Column("error", "error", lambda value: "–" if value is None else f"{value:+.1%}"),
]


if __name__ == "__main__":
    main()
