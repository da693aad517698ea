"""Arms against their baseline: the table in every form, and the forest of its effects."""

import base64
import math
from typing import TYPE_CHECKING, Any

import pandas as pd

from ablations.stats.bracket import CARRIED, EDGE
from reports.show.figures import drawn
from reports.show.tables import (
    Cell,
    csv_text,
    decimals,
    escape,
    fill,
    intervals,
    latex_float,
    latex_table,
    markdown_table,
    megas,
    percent,
    printed_rows,
    probability,
    rate,
    signed,
    whole,
)
from reports.views import Shown, scores
from reports.weigh.table import Panel, Report
from search.objectives import Measure
from search.record import DIVERGED
from space.tables import Column

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = (
    Column("arm", "arm", str, "what is compared", numeric=False),
    Column("num_hidden_layers", "layers", whole, "layers executed"),
    Column(
        "parameters", "parameters", whole, "distinct weights; shared and tied ones counted once"
    ),
    Column("off_budget", "off budget", percent(2, sign=True), "deviation from the budget"),
    Column("forward_flops_per_token", "FLOPs/token", megas, "one forward pass"),
    Column("kv_bytes_per_token", "KV B/token", whole, "bytes of key-value cache per token"),
    Column(
        "decode_bytes_per_token",
        "decode B/token",
        megas,
        "bytes read to decode one token, adjacent repeats of a block counted once",
    ),
    Column("tokens", "tokens", whole, "tokens each run is trained on"),
    Column("lr", "rate", rate, "the best learning rate, found with seeds that are not reported"),
    Column("of", "n", str, "seeds with a result, and of how many if some are missing", False),
    Column("mean", "mean", decimals(4), "of the metric over these seeds; lower is better"),
    Column("sd", "sd", decimals(4), "the arm's own standard deviation over seeds"),
    Column("diff", "difference", signed(4), "from the baseline at equal seeds; negative is better"),
    Column(
        "interval",
        "95% interval",
        str,
        "of the difference, simultaneous over a panel and over all looks",
        False,
    ),
    Column("p_adjusted", "adj. p", probability, "adjusted for all comparisons of the panel"),
    Column(
        "mdd",
        "MDD",
        decimals(4),
        "minimum detectable difference: one of this size is resolved with 80% power",
    ),
    Column("verdict", "verdict", str, "unresolved if the interval contains zero", False),
    Column(
        "flag",
        "flag",
        str,
        f"{EDGE}: the best learning rate was the lowest or highest tried, so a better one may lie "
        f"beyond; {CARRIED}: the parametrisation does not transfer the learning rate from the base "
        "shape to this one (sp to none, mup to no other depth, completep to no fewer layers). In "
        "both cases a difference may be due to tuning",
        False,
    ),
    Column("look", "look", whole, "seeds of the look at which the verdict was reached"),
    Column(
        "spread",
        "spread",
        str,
        "which of three estimates of the standard deviation makes the interval widest: pooled over "
        "all arms; one for the baseline and one for all others; the baseline's and the arm's own",
        False,
    ),
    Column(
        "spread_p",
        "p of spread",
        probability,
        "of a standard deviation no larger than the others', F test",
    ),
    Column("outliers", "outliers", str, "seeds with large residuals, flagged and kept", False),
    Column("published", "published", decimals(1), "the source's average; higher is better"),
    Column(
        "direction",
        "direction",
        str,
        "whether our difference and the published one agree in sign",
        False,
    ),
)
MEASURED = (
    "of",
    "mean",
    "sd",
    "diff",
    "interval",
    "p_adjusted",
    "mdd",
    "verdict",
    "look",
    "spread",
    "spread_p",
    "outliers",
    "direction",
)
COLORS = {"better": "#2f9a78", "worse": "#b9505f", "unresolved": "#63666b", "baseline": "#1c1d1f"}


def table_rows(panel: Panel) -> tuple[list[Column], list[list[Cell]]]:
    """The columns that are not empty, and the cells, each with the keys of its runs."""
    frame = panel.rows.assign(interval=intervals(panel.rows.ci_low, panel.rows.ci_high, signed(4)))
    base = frame.loc[frame.arm == panel.baseline, "runs"].iloc[0]
    frame["own"] = "runs " + frame.runs
    frame["both"] = ("runs " + frame.runs + "; baseline " + base).where(
        frame.arm != panel.baseline, "runs " + frame.runs
    )
    alone = ("of", "mean", "sd")
    hints = {
        c.name: "both" if c.name in MEASURED and c.name not in alone else "own" for c in COLUMNS
    }
    return printed_rows(frame, COLUMNS, hints)


SHAPE = COLUMNS[:3] + COLUMNS[4:7]
"""Properties of an arm that do not depend on its training."""


def side_by_side(report: Report) -> tuple[list[Column], list[list[Cell]]] | None:
    """One row per arm with all panels side by side, if they compare the same arms: tokens, and mean
    with difference and verdict. None otherwise."""
    first, *others = report.panels
    shape = [column.name for column in SHAPE]
    if not others or any(not p.rows[shape].equals(first.rows[shape]) for p in others):
        return None
    frame, columns = first.rows[shape].copy(), list(SHAPE)
    hints: dict[str, str] = {}
    for number, panel in enumerate(report.panels):
        rows, tokens, result = panel.rows, f"tokens {number}", f"result {number}"
        frame[tokens] = rows.tokens
        frame[result] = [_result(row) for row in rows.to_dict("records")]
        frame["runs " + result] = "runs " + rows.runs
        hints |= {tokens: "runs " + result, result: "runs " + result}
        columns.append(Column(tokens, "tokens", whole, f"each run is trained on: {panel.name}"))
        hint = f"mean of the metric, and difference from {panel.baseline} with its verdict"
        columns.append(Column(result, panel.name, str, hint, numeric=False))
    return printed_rows(frame, columns, hints)


def _result(row: dict[Any, Any]) -> str | None:
    if row["mean"] != row["mean"]:
        return None
    mean = decimals(4)(row["mean"])
    away = f"{signed(4)(row['diff'])}, " if row["diff"] == row["diff"] else ""
    flag = f", {row['flag']}" if isinstance(row["flag"], str) else ""
    return f"{mean} ({away}{row['verdict']}{flag})"


def render(report: Report) -> dict[str, bytes]:
    """The files of a table by name."""
    texts = {
        "table.md": markdown(report),
        "table.tex": latex(report),
        "table.csv": csv(report),
        "cells.csv": csv_text(report.cells),
        "table.html": html(report),
    }
    texts |= scores.files(report.scores or {})
    drawn = {f"forest.{form}": forest(report, form) for form in ("png", "pdf")}
    return {name: text.encode() for name, text in texts.items()} | drawn


def markdown(report: Report) -> str:
    """All panels in GitHub's Markdown, and what the columns say."""
    parts = [f"{report.caption}\n", *([f"{report.note}\n"] if report.note else [])]
    if (beside := side_by_side(report)) is not None:
        parts.append(markdown_table(*beside))
    for panel in report.panels:
        name = f"**{panel.name}.** " if panel.name else ""
        parts.append(f"{name}{_title(panel)}\n\n{markdown_table(*table_rows(panel))}")
        parts += [f"No result: {text}.\n" for text in panel.missing]
    parts.append("".join(f"- **{c.heading}**: {c.hint}\n" for c in shown_columns(report)))
    return "\n".join(parts)


def shown_columns(report: Report) -> list[Column]:
    """Every column that some panel shows, once."""
    return list({c.name: c for panel in report.panels for c in table_rows(panel)[0]}.values())


def _title(panel: Panel) -> str:
    source = f" Published: {panel.source}." if panel.source else ""
    return f"Against {panel.baseline}.{source}{_one_seed_only(panel)}"


def _one_seed_only(panel: Panel) -> str:
    alone = panel.rows.asked.max() == 1
    return " With one seed per arm there are no intervals and no verdicts." if alone else ""


def latex(report: Report) -> str:
    """All panels for LaTeX, a booktabs tabular each, scaled to the line."""
    lines = ["% needs \\usepackage{booktabs,graphicx}"]
    if (beside := side_by_side(report)) is not None:
        lines += latex_float(report.caption, latex_table(*beside))
    for panel in report.panels:
        name = f" {panel.name}." if panel.name else ""
        caption = f"{report.caption}{name} Against {panel.baseline}.{_one_seed_only(panel)}"
        missing = [f"% no result: {text}" for text in panel.missing]
        lines += latex_float(caption, latex_table(*table_rows(panel)), missing)
    notes = [
        f"\\textbf{{{escape(column.heading)}}}: {escape(column.hint)}."
        for column in shown_columns(report)
    ]
    note = [escape(report.note)] if report.note else []
    lines += ["{\\footnotesize\\noindent", *note, *notes, "\\par}", ""]
    return "\n".join(lines)


def csv(report: Report) -> str:
    """Every arm of every panel at full precision, with the keys of its runs."""
    frames = [
        panel.rows.drop(columns="of").assign(
            panel=panel.name, baseline=panel.baseline, missing="; ".join(panel.missing)
        )
        for panel in report.panels
    ]
    whole_table = pd.concat(frames)
    first = ["panel", "arm", "baseline"]
    rest = [name for name in whole_table if name not in first]
    return csv_text(whole_table[first + rest])


def html(report: Report) -> str:
    """One self-contained page."""
    picture = base64.b64encode(forest(report, "svg")).decode()
    return fill(
        "table.html.j2",
        report=report,
        panels=[
            (panel, _title(panel).replace("**", ""), *table_rows(panel)) for panel in report.panels
        ],
        beside=side_by_side(report),
        columns=shown_columns(report),
        scored=scores.sections(report.scores or {}),
        picture=picture,
    )


def summary(report: Report) -> str:
    """What was resolved, in a sentence."""
    verdicts = pd.concat([panel.rows.verdict for panel in report.panels])
    resolved = (verdicts.isin(["better", "worse"])).sum()
    compared = (verdicts != "baseline").sum()
    lost = sum(len(panel.missing) for panel in report.panels)
    text = f"{resolved} of {compared} differences from the baseline are resolved"
    if any(map(_one_seed_only, report.panels)):
        text += ", because one seed per arm is too few"
    diverged = int((report.cells.status == DIVERGED).sum())
    gaps = f"; {lost} cells have no result, {diverged} of them diverged" if lost else ""
    return f"{report.name}: {text}{gaps}."


def forest(report: Report, form: str) -> bytes:
    """Effects with their simultaneous intervals."""
    return drawn(lambda: _forest(report), form, style={"axes.spines.left": False})


def _forest(report: Report) -> "Figure":
    from matplotlib.figure import Figure

    heights = [len(panel.rows) + 1 for panel in report.panels]
    size = (6.4, 0.29 * sum(heights) + 0.55 * len(heights) + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(heights), squeeze=False, sharex=True, height_ratios=heights)
    for axes, panel in zip(grid[:, 0], report.panels, strict=True):
        _draw(axes, panel)
    unit = Measure(report.metric).unit
    grid[-1, 0].set_xlabel(f"Difference from the baseline in {unit}; left is better")
    return figure


def _draw(axes: Any, panel: Panel) -> None:
    axes.axvline(0, color="#9a9da2", lw=0.8, zorder=0)
    names = list(panel.rows.arm)
    for place, row in enumerate(panel.rows.to_dict("records")):
        color = COLORS[row["verdict"]]
        effect = 0.0 if row["verdict"] == "baseline" else row["diff"]
        if math.isfinite(row["ci_low"]):
            axes.plot([row["ci_low"], row["ci_high"]], [place, place], color=color, lw=1.4)
        axes.plot([effect], [place], "o", ms=5, color=color)
        axes.annotate(
            row["verdict"],
            (1.01, place),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=9,
            color=color,
        )
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_title(panel.name, loc="left", fontsize=10)


class Arms:
    """The view of arms against a baseline."""

    def show(self, report: Report) -> Shown:
        lines = [summary(report), f"table: {report.folder / 'table.html'}"]
        return Shown(render(report), lines)


VIEW = Arms()
