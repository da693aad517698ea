"""`table=quantization`: what each arm loses, paired by seed, and whether the order survives."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablations.stats.block import LEVEL
from ablations.stats.effects import compare, resolved_pairs
from ablations.stats.looks import Looks, in_percent
from ablations.stats.tails import t_isf
from reports.show.tables import csv_text
from reports.views import Shown
from reports.weigh.table import Report
from space.seals import whole_json

EQUAL = 0.01
"""Bytes that differ by less are equal: rows of other lengths have other numbers of scales."""
REFERENCE = "fp16"
UNIT = {"val_bpb": "bits per byte", "val_loss": "nats per token"}


def read_measured(folder: Path) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """What `python -m ablations table=quantization study=NAME` has left, by study; nothing before.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / "measured.json"
    if not path.is_file():
        return {}
    return dict(whole_json(path, "measured runs", "remove it to measure anew"))


def cells_of(runs: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """`arm seed key layers form bytes value`, a row for each run and form."""
    return pd.DataFrame(
        {**{name: run[name] for name in ("arm", "seed", "key", "layers")}, "form": form, **found}
        for run in runs
        for form, found in run["forms"].items()
    )


def losses(cells: pd.DataFrame, level: float = LEVEL) -> pd.DataFrame:
    """A row for each arm and form: `arm layers n form bytes mean loss ci_low ci_high`, the loss
    against fp16 of the same run, its interval by t over the arm's seeds; and `more`, by how much it
    is more than that of the first arm, with a verdict of all arms together (`compare`). All at this
    level, that of the looks that there were."""
    plain = cells[cells.form == REFERENCE].set_index("key").value
    rows = []
    for form, part in cells[cells.form != REFERENCE].groupby("form", sort=False):
        part = part.assign(loss=part.value - part.key.map(plain))
        against = _against_the_first(part, level)
        for arm, of_arm in part.groupby("arm", sort=False):
            low, high = _interval(of_arm.loss, level)
            rows.append(
                {
                    **{"arm": arm, "layers": of_arm.layers.iloc[0], "n": len(of_arm)},
                    **{"form": form, "bytes": int(of_arm.bytes.iloc[0])},
                    **{"mean": of_arm.value.mean(), "loss": of_arm.loss.mean()},
                    **{"ci_low": low, "ci_high": high, **against.get(arm, {})},
                }
            )
    return pd.DataFrame(rows)


def _interval(values: pd.Series, level: float) -> tuple[float, float]:
    if len(values) < 2:
        return np.nan, np.nan
    half = float(t_isf((1 - level) / 2, len(values) - 1) * values.std() / np.sqrt(len(values)))
    return values.mean() - half, values.mean() + half


def _against_the_first(part: pd.DataFrame, level: float) -> dict[Any, dict[Any, Any]]:
    if part.arm.nunique() < 2:
        return {}
    found = compare(part, str(part.arm.iloc[0]), "loss", level=level)
    found = found.rename(columns={"diff": "more"})
    return found.set_index("arm")[["more", "verdict"]].to_dict("index")


def orders(cells: pd.DataFrame, level: float = LEVEL) -> pd.DataFrame:
    """For each form: `form bytes_low bytes_high tau resolved kept reversed lost gained level`:
    Kendall's tau of the arms' means with those at fp16; of the pairs that are resolved at fp16 how
    many keep their order, are reversed and are no longer resolved; how many are resolved only then;
    and how many of those resolved are of equal bytes, to `EQUAL`."""
    from scipy.stats import kendalltau  # as few reports need it, it is loaded here

    parts = dict(iter(cells.groupby("form", sort=False)))
    means = {form: part.groupby("arm", sort=False).value.mean() for form, part in parts.items()}
    above = np.triu_indices(len(means[REFERENCE]), 1)
    signs = {
        form: resolved_pairs(part, "value", level=level).to_numpy()[above]
        for form, part in parts.items()
    }
    before, rows = signs[REFERENCE], []
    for form, part in parts.items():
        after = signs[form]
        rows.append(
            {
                "form": form,
                "bytes_low": int(part.bytes.min()),
                "bytes_high": int(part.bytes.max()),
                "tau": float(kendalltau(means[REFERENCE], means[form]).statistic),
                "resolved": int((before != 0).sum()),
                "kept": int(((before != 0) & (after == before)).sum()),
                "reversed": int(((before != 0) & (after == -before)).sum()),
                "lost": int(((before != 0) & (after == 0)).sum()),
                "gained": int(((before == 0) & (after != 0)).sum()),
                "level": int(((before != 0) & _equal_bytes(part)[above]).sum()),
            }
        )
    return pd.DataFrame(rows)


def _equal_bytes(part: pd.DataFrame) -> "np.ndarray[Any, np.dtype[np.bool_]]":
    """Of each pair of arms, by name as in `resolved_pairs`, whether their bytes are equal."""
    size = part.groupby("arm").bytes.first().to_numpy(float)
    equal: np.ndarray[Any, np.dtype[np.bool_]] = np.abs(size[:, None] / size[None, :] - 1) <= EQUAL
    return equal


def markdown(study: str, runs: Sequence[Mapping[str, Any]], looks: Looks | None) -> str:
    """The tables of one study, at the level of its looks."""
    level = level_of(looks)
    cells, unit = cells_of(runs), UNIT[str(runs[0]["metric"])]
    lines = [
        f"**{study}**: {cells.arm.nunique()} arms, {cells.key.nunique()} runs, {unit}. Nothing was "
        "trained for it. All matrices are rounded, the embedding too: w8a8 has weights of 8 bits "
        "with a scale per row and activations of 8 bits from minimum to maximum of each token, w4 "
        "weights of 4 bits with a scale per 32.\n",
        f"Looks: {in_words(looks)}.\n",
        "| arm | layers | n | form | bytes | mean | loss against fp16 | "
        f"{in_percent(level)} interval | more than {cells.arm.iloc[0]} | verdict |",
        "| :--- | ---: | ---: | :--- | ---: | ---: | ---: | :--- | ---: | :--- |",
        *(_line(row) for row in losses(cells, level).to_dict("records")),
        "",
        "| form | bytes of the arms | Kendall's tau with fp16 | pairs resolved at fp16 | of equal "
        "bytes | same order | reversed | no longer resolved | resolved only then |",
        "| :--- | :--- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    found = orders(cells, level)
    for row in found.to_dict("records"):
        counts = [row[n] for n in ("resolved", "level", "kept", "reversed", "lost", "gained")]
        lines.append(
            f"| {row['form']} | {row['bytes_low']:,} to {row['bytes_high']:,} | {row['tau']:.2f} | "
            + " | ".join(map(str, counts))
            + " |"
        )
    return "\n".join([*lines, "", verdict(found), ""])


def level_of(looks: Looks | None) -> float:
    """The confidence level of a study's intervals."""
    return looks.level if looks else LEVEL


def in_words(looks: Looks | None) -> str:
    """How many looks a study had, and what intervals stand at."""
    return looks.words if looks else "not counted when it was measured; intervals at 95%"


def _line(row: Mapping[Any, Any]) -> str:
    interval = "–"
    if row["ci_low"] == row["ci_low"]:
        interval = f"{row['ci_low']:+.5f} to {row['ci_high']:+.5f}"
    more = row.get("more")
    given = "–" if more is None or more != more else f"{more:+.5f}"
    return (
        f"| {row['arm']} | {row['layers']} | {row['n']} | {row['form']} | {row['bytes']:,} | "
        f"{row['mean']:.4f} | {row['loss']:+.5f} | {interval} | {given} | "
        f"{row.get('verdict') or '–'} |"
    )


def verdict(found: pd.DataFrame) -> str:
    """Whether the order survives, in a sentence for each form."""
    said = []
    for row in found[found.form != REFERENCE].to_dict("records"):
        apart = row["bytes_high"] / row["bytes_low"] - 1
        bytes_ = f"bytes within {apart:.1%}"
        if not row["resolved"]:
            said.append(
                f"{row['form']} ({bytes_}): no pair is resolved at fp16, so that no order can be "
                "lost."
            )
            continue
        said.append(
            f"{row['form']} ({bytes_}): of {row['resolved']} resolved pairs, {row['level']} of "
            f"them at equal bytes, {row['kept']} keep their order, {row['reversed']} are reversed, "
            f"{row['lost']} are no longer resolved."
        )
    return " ".join(said)


class Quantization:
    """The view of what quantisation costs."""

    def show(self, report: Report) -> Shown:
        measured = read_measured(report.folder)
        if not measured:
            return Shown({}, ["nothing was quantised; add study=NAME"])
        frames = {study: cells_of(runs) for study, runs in measured.items()}
        looks = {study: report.looks_of.get(study) for study in measured}
        at = {study: level_of(had) for study, had in looks.items()}
        said = {study: in_words(had) for study, had in looks.items()}
        texts = {
            "table.md": "\n".join(markdown(s, runs, looks[s]) for s, runs in measured.items()),
            "table.csv": _together({s: losses(f, at[s]) for s, f in frames.items()}, said),
            "pairs.csv": _together({s: orders(f, at[s]) for s, f in frames.items()}, said),
            "cells.csv": _together(frames, {}),
        }
        lines = [f"{s}: {verdict(orders(cells, at[s]))}" for s, cells in frames.items()]
        files = {name: text.encode() for name, text in texts.items()}
        return Shown(files, [*lines, f"table: {report.folder / 'table.md'}"])


def _together(frames: Mapping[str, pd.DataFrame], looks: Mapping[str, str]) -> str:
    """All studies' rows, with what is said of their looks."""
    named = {study: frame.assign(study=study) for study, frame in frames.items()}
    said = [f.assign(about_looks=looks[s]) if s in looks else f for s, f in named.items()]
    return csv_text(pd.concat(said))


VIEW = Quantization()
