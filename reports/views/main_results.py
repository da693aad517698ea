"""`table=main_results`: what MobileLLM's paper prints, and what was measured here beside it.

A model that was measured fills the row of its name; others get rows of their own.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from reports.show.tables import csv_text, decimals, fill, markdown_table, printed_rows
from reports.views import Shown
from reports.views.scores import Section, latex
from reports.weigh.table import Report
from space.seals import whole_json
from space.tables import Column

MAIN_RESULTS = "main_results"
PUBLISHED = Path(__file__).parent.parent / "published" / f"{MAIN_RESULTS}.yaml"
CAPTION = "Published zero-shot results, and measured ones beside them"
METRICS = ("acc", "exact_match")
"""Of lm-eval, what a measured column shows."""

Measured = Mapping[str, Mapping[str, Any]]
"""By name of a model: `parameters`, and `scores` as records have them."""


def read_measured(folder: Path) -> Measured:
    """What `python -m ablations table=main_results models=[…]` has left; nothing before.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / "measured.json"
    if not path.is_file():
        return {}
    return dict(whole_json(path, "measured scores", "remove it to measure anew"))


def frames(measured: Measured) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """Each published table with its rows: `model`, each column in percent, and each measured one as
    `<column>_ours`, with what it rests on as `<column>_hint`."""
    content = yaml.safe_load(PUBLISHED.read_text())
    made = []
    for table in content["tables"]:
        columns = table["columns"]
        rows: dict[str, dict[str, Any]] = {
            name: {"model": name, **dict(zip(columns, cells, strict=True))}
            for name, cells in table["rows"].items()
        }
        by_small_letters = {name.lower(): name for name in rows}
        for name, model in measured.items():
            if ours := _ours(columns, model):
                own = by_small_letters.get(name.lower(), name)
                rows[own] = {"model": own} | rows.get(own, {}) | ours
        made.append((table | {"source": content["source"]}, pd.DataFrame(list(rows.values()))))
    return made


def _ours(columns: list[str], model: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured of a table's columns, in percent; the average only where all are there."""
    found: dict[str, Any] = {}
    for score in model["scores"]:
        values = [score["values"][metric] for metric in METRICS if metric in score["values"]]
        if score["task"] in columns and values:
            found[f"{score['task']}_ours"] = 100 * values[0]
            found[f"{score['task']}_hint"] = (
                f"{score['n']:,} documents, {score['split']} ({score['source']})"
            )
    tasks = [column for column in columns if column != "average"]
    if "average" in columns and all(f"{task}_ours" in found for task in tasks):
        found["average_ours"] = sum(found[f"{task}_ours"] for task in tasks) / len(tasks)
    return found


def sections(measured: Measured) -> list[Section]:
    """The tables as they are shown."""
    shown = []
    for table, frame in frames(measured):
        columns = [Column("model", "model", str, numeric=False)]
        hints: dict[str, str] = {}
        for name in table["columns"]:
            ours, hint = f"{name}_ours", f"{name}_hint"
            columns.append(Column(name, name, decimals(1), "published, in percent"))
            columns.append(Column(ours, f"{name}, ours", decimals(1), "measured, in percent"))
            hints |= {ours: hint} if hint in frame else {}
        note = f"{table['caption']}, in percent. Published: {table['source']}, table "
        note += f"{table['number']}. Ours: by lm-eval's definitions, {' or '.join(METRICS)}."
        note += f" {table['note'].strip()}" if "note" in table else ""
        shown.append(
            Section(f"Table {table['number']}", note, *printed_rows(frame, columns, hints))
        )
    return shown


def render(folder: Path) -> dict[str, bytes]:
    """The files of the table by name.

    Raises:
        ValueError: what was measured cannot be read.
    """
    measured = read_measured(folder)
    shown = sections(measured)
    together = pd.concat([f.assign(table=t["number"]) for t, f in frames(measured)])
    texts = {
        "table.md": "\n".join(
            f"**{s.title}.** {s.note}\n\n{markdown_table(s.columns, s.rows)}" for s in shown
        ),
        "table.tex": latex(shown),
        "table.csv": csv_text(together),
        "table.html": fill("main_results.html.j2", caption=CAPTION, name=MAIN_RESULTS, parts=shown),
    }
    return {name: text.encode() for name, text in texts.items()}


class MainResults:
    """The view of published scores with those measured here."""

    def show(self, report: Report) -> Shown:
        return Shown(render(report.folder), [f"table: {report.folder / 'table.html'}"])


VIEW = MainResults()
