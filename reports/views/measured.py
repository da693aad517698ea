"""What engines measured of each arm, as tables: a table for each engine and precision."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from reports.show.tables import NONE, Cell, csv_text, decimals, markdown_table
from reports.views.scores import Section, latex
from space.tables import Column

SHOWN = {
    "decode_ms": "decode (ms)",
    "decode_cpu_ms": "… its thread ran",
    "prefill_ms": "prefill (ms)",
    "load_ms": "load (ms)",
    "init_ms": "init (ms)",
    "peak_mb": "peak (MB)",
    "file_mb": "file (MB)",
}
"""Quantities, and their headings."""


def sections(frames: Mapping[str, pd.DataFrame]) -> list[Section]:
    """The tables of `reports.weigh.measured.gather`'s frames, per comparison and label."""
    return [
        _section(f"Measured: {label}{', ' if name else ''}{name}", part)
        for name, frame in frames.items()
        if len(frame)
        for label, part in frame.groupby("label", sort=False)
    ]


def _section(title: str, frame: pd.DataFrame) -> Section:
    first = frame.iloc[0]
    copies = ", layers that share a block read one copy of it" if first.shared else ""
    note = (
        f"Medians, and from p10 to p90, over {first.repeats} processes that took turns. "
        f"{first.engine} {first.version}, {first.precision}, prompt of {first.context}, "
        f"{first.steps} tokens decoded, threads {first.threads}{copies}; {first.machine}; random "
        "weights. Decoding is per token."
    )
    columns = [Column("arm", "arm", str, numeric=False)]
    columns += [Column(name, heading, str) for name, heading in SHOWN.items()]
    rows = [
        [Cell(str(arm), str(arm), False, "")]
        + [_spread(of_arm[of_arm.quantity == name]) for name in SHOWN]
        for arm, of_arm in frame.groupby("arm", sort=False)
    ]
    return Section(title, note, columns, rows)


def _spread(found: pd.DataFrame) -> Cell:
    if found.empty:
        return Cell(NONE, "", True, "")
    low, middle, high = (float(found[name].iloc[0]) for name in ("p10", "p50", "p90"))
    digits = decimals(2 if middle < 100 else 0)
    around = "" if low == high else f" ({digits(low)} to {digits(high)})"
    return Cell(digits(middle) + around, repr(middle), True, "")


def files(frames: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    """`measured.md`, `measured.tex` and `measured.csv`; nothing if nothing was measured."""
    shown = sections(frames)
    if not shown:
        return {}
    together: Any = pd.concat([frame.assign(panel=name) for name, frame in frames.items()])
    return {
        "measured.md": "\n".join(
            f"**{s.title}.** {s.note}\n\n{markdown_table(s.columns, s.rows)}" for s in shown
        ),
        "measured.tex": latex(shown),
        "measured.csv": csv_text(together),
    }
