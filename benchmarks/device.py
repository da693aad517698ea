"""How fast this machine runs models: a dozen shapes measured in llama.cpp, and a device fitted.

`python -m benchmarks.device` leaves the profile that `device=this` names, in the user's folder of
configuration. Some shapes share blocks, and are measured with one copy of the weights that they
share, so that the profile has what a repeat costs which comes from the processor's cache. Ten
minutes on a quiet machine; times are those that the thread ran, which others' work changes little.
"""

from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

import yaml

from benchmarks.show import leave, parser, say, table
from search.measure.config import Measuring
from search.measure.measured import measure
from search.record import Measured
from space.arch import Architecture
from space.cost import cost
from space.device import THIS, Device, measured_here
from space.files import write_atomically
from space.words import magnitude

Fields = dict[str, Any]

TERMS = {
    "decode_ms": ["moved_mb", "repeated_mb", "rows"],
    "prefill_ms": ["gflops", "layers"],
    "load_ms": ["stored_mb", "copies_mb", "vocabulary", "constant"],
    "init_ms": ["layers", "constant"],
    "peak_mb": ["stored_mb", "copies_mb", "constant"],
}
"""What each quantity is linear in: see `space.device`."""
PRECISIONS = ("q8_0", "q4_0", "fp16")
TWICE: Fields = {"sharing": "immediate", "repeats": 2}
AGAIN: Fields = {"sharing": "cycle", "repeats": 2}


def shape(width: int, blocks: int, vocab_size: int, **fields: Any) -> Fields:
    """A shape with heads of 64 and three query heads for each of keys, where that divides."""
    heads = width // 64
    kv = heads // 3 if heads % 3 == 0 else heads // 2
    return {
        "vocab_size": vocab_size,
        "hidden_size": width,
        "num_blocks": blocks,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "intermediate_size": width * 8 // 3 // 64 * 64,
        **fields,
    }


SHAPES = (
    shape(256, 12, 2048),
    shape(256, 24, 32000),
    shape(384, 36, 8192),
    shape(512, 8, 8192),
    shape(512, 24, 32000),
    shape(512, 12, 8192, **TWICE),
    shape(512, 12, 8192, **AGAIN),
    shape(512, 8, 8192, **(TWICE | {"repeats": 4})),
    shape(576, 30, 32000),
    shape(576, 30, 32000, **TWICE),
    shape(768, 12, 8192),
    shape(1024, 10, 32000),
)
"""From 10 to 147 million parameters, over depth, width, vocabulary and sharing."""


def main(given: Sequence[str] | None = None) -> None:
    """Measure, fit, and leave the profile and a table of its errors."""
    options = parser(__doc__)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--repeats", type=int, default=3, help="processes for each shape")
    options.add_argument("--shapes", type=int, default=len(SHAPES), help="only the first of them")
    chosen = options.parse_args(given)
    shapes = SHAPES[: chosen.shapes]
    found = {p: measured_at(p, shapes, chosen.threads, chosen.repeats) for p in PRECISIONS}
    path = measured_here() / f"{THIS}.yaml"
    write_atomically(path, yaml.safe_dump(profile(shapes, found), sort_keys=False))
    say(f"profile: {path}; use it as device=this")
    leave("device", report(Device.from_yaml(path)), None, chosen.save)


def measured_at(
    precision: str, shapes: Sequence[Fields], threads: int, repeats: int
) -> list[Measured]:
    """Each shape at one precision."""
    how = Measuring(
        engine="llama_cpp", precision=precision, threads=threads, repeats=repeats, shared=True
    )
    return measure([Architecture(**s) for s in shapes], how, lambda t: say(f"{precision}: {t}"))


def profile(shapes: Sequence[Fields], found: dict[str, list[Measured]]) -> dict[str, Any]:
    """The content of the device's file."""
    rows = [
        row(fields, measured)
        for several in found.values()
        for fields, measured in zip(shapes, several, strict=True)
    ]
    one = next(iter(found.values()))[0]
    source = (
        f"python -m benchmarks.device, {date.today()}, {one.engine} {one.version}, "
        f"{one.machine}, threads {one.threads}, one copy of shared weights"
    )
    return {"name": one.machine, "source": source, "terms": TERMS, "measured": rows}


def row(fields: Fields, measured: Measured) -> dict[str, Any]:
    """One of its measurements."""
    return {
        "architecture": dict(fields),
        "precision": measured.precision,
        "context": measured.context + measured.steps // 2,
        "tokens": measured.context,
        **{quantity: round(measured.counted(quantity), 4) for quantity in TERMS},
    }


def report(device: Device) -> str:
    """What was measured, beside what the others predict of it."""
    parts = [f"# {device.name}\n\n{device.source}.\n"]
    for quantity, terms in TERMS.items():
        parts.append(f"\n## {quantity}: {', '.join(terms)}\n\n{errors(device, quantity)}")
        parts.append("\n" + "".join(f"{line}\n" for line in fitted(device, quantity)))
    return "".join(parts)


def errors(device: Device, quantity: str) -> str:
    """Each measurement beside its prediction from the others of its precision."""
    columns = ["shape", "precision", "measured", "predicted", "error"]
    return table(
        columns,
        (
            [
                in_words(held.measurement.architecture),
                held.measurement.precision,
                f"{held.measured:.2f}",
                f"{held.predicted:.2f}",
                f"{held.error:+.1%}",
            ]
            for held in device.held_out(quantity)
        ),
    )


def fitted(device: Device, quantity: str) -> Iterator[str]:
    """The coefficients at each precision, with their 95% intervals."""
    for precision in device.precisions(quantity):
        found = device.coefficients(quantity, precision)
        intervals = device.intervals(quantity, precision)
        said = ", ".join(
            f"{value:.4g}{_between(intervals[term])} for {term}" for term, value in found.items()
        )
        errors = sorted(
            abs(h.error) for h in device.held_out(quantity) if h.measurement.precision == precision
        )
        spread = (
            f"; held out, half of the errors are below {errors[len(errors) // 2]:.1%} and "
            + (f"all below {errors[-1]:.1%}")
            if errors
            else ""
        )
        yield f"- {precision}: {said}{spread}."


def _between(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else " ({:.4g} to {:.4g})".format(*interval)


def in_words(arch: Architecture) -> str:
    """A shape in a few words."""
    sharing = "" if arch.sharing == "none" else f", {arch.sharing} ×{arch.repeats}"
    return f"{arch.num_layers} × {arch.hidden_size}{sharing} ({magnitude(cost(arch).parameters)})"


if __name__ == "__main__":
    main()
