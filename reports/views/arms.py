"""Arms against their baseline: the table in every form, and the forest of its effects."""

import base64
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from ablations.stats.block import LEVEL
from ablations.stats.looks import in_percent
from reports.read.study import OTHER
from reports.show.about import (
    Facts,
    facts_of,
    folded,
    in_a_sentence,
    in_columns,
    in_comments,
    in_list,
)
from reports.show.figures import WIDTHS, drawn
from reports.show.html import in_script
from reports.show.tables import (
    Cell,
    best_in_bold,
    chosen,
    csv_text,
    escape,
    fill,
    intervals,
    latex_float,
    latex_table,
    legend,
    markdown_table,
    meanings,
    printed_rows,
    resolved,
    slug,
    whole,
)
from reports.views import Shown, horizons, measured, scores
from reports.views.arm_columns import COLUMNS, DETAILS, MEASURED, SPREADS, Digits, columns_of
from reports.views.layers import as_built
from reports.weigh.table import Panel, Report
from search.objectives import LOSSES
from search.states import Status
from space.tables import Column

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = {"better": "#2f9a78", "worse": "#b9505f", "unresolved": "#63666b", "baseline": "#1c1d1f"}


def table_rows(panel: Panel) -> tuple[list[Column], list[list[Cell]]]:
    """The columns that are not empty, and the cells, each with the keys of its runs."""
    columns, signed = columns_of(panel), Digits.of(panel).difference
    frame = panel.rows.assign(interval=intervals(panel.rows.ci_low, panel.rows.ci_high, signed))
    base = frame.loc[frame.arm == panel.baseline, "runs"].iloc[0]
    frame["own"] = "runs " + frame.runs
    frame["both"] = ("runs " + frame.runs + "; baseline " + base).where(
        frame.arm != panel.baseline, "runs " + frame.runs
    )
    alone = ("of", "mean", "sd")
    hints = {
        c.name: "both" if c.name in MEASURED and c.name not in alone else "own" for c in columns
    }
    shown, rows = printed_rows(frame, columns, hints)
    best_in_bold(shown, rows, _best(panel), ("arm", "mean"))
    return shown, rows


def _best(panel: Panel) -> int | None:
    """The row with the best mean, where seeds say how sure means are."""
    means = panel.rows["mean"].where(panel.rows.n > 1)
    if means.isna().all():
        return None
    return int(means.argmin() if panel.criteria.lower_is_better else means.argmax())


SHAPE = tuple(
    column
    for name in (
        *("arm", "num_hidden_layers", "parameters", "forward_flops_per_token"),
        *("kv_bytes_per_token", "decode_bytes_per_token"),
    )
    for column in COLUMNS
    if column.name == name
)
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
        digits = Digits.of(panel)
        frame[result] = [_result(row, digits) for row in rows.to_dict("records")]
        frame["runs " + result] = "runs " + rows.runs
        hints |= {tokens: "runs " + result, result: "runs " + result}
        columns.append(Column(tokens, "tokens", whole, f"each run is trained on: {panel.name}"))
        hint = f"mean of the metric, and difference from {panel.baseline} with its verdict"
        columns.append(Column(result, panel.name, str, hint, numeric=False))
    return printed_rows(frame, columns, hints)


def _result(row: dict[Any, Any], digits: Digits) -> str | None:
    if row["mean"] != row["mean"]:
        return None
    mean = digits.value(row["mean"])
    away = f"{digits.difference(row['diff'])}, " if row["diff"] == row["diff"] else ""
    flag = f", {row['flag']}" if isinstance(row["flag"], str) else ""
    return f"{mean} ({away}{row['verdict']}{flag})"


def render(report: Report) -> dict[str, bytes]:
    """The files of a table by name."""
    texts = {
        "table.md": markdown(report),
        "table.tex": latex(report),
        "table.csv": csv(report),
        "cells.csv": csv_text(_plain(report.cells).assign(**warned(report))),
        "table.html": html(report),
    }
    texts |= scores.files(report.scores or {}) | measured.files(report.measured or {})
    drawn = {f"forest.{form}": forest(report, form) for form in ("png", "pdf")}
    drawn |= horizons.files(report.horizons, report.criteria.unit, report.warning)
    return {name: text.encode() for name, text in texts.items()} | drawn


def warned(report: Report) -> dict[str, str]:
    """That the numbers mean nothing, as a column; none where they mean something."""
    return {"about_worth": report.warning} if report.warning else {}


def markdown(report: Report) -> str:
    """All panels in GitHub's Markdown, where they come from, and what the columns say."""
    worth = report.worth.in_words() if report.worth else []
    texts = [report.caption, " ".join(worth), report.note]
    parts = [f"{text}\n" for text in texts if text]
    if (beside := side_by_side(report)) is not None:
        parts.append(markdown_table(*beside))
    for panel in report.panels:
        name = f"**{panel.name}.** " if panel.name else ""
        shown = chosen(*table_rows(panel), report.columns)
        parts.append(f"{name}{_title(panel)}\n\n{markdown_table(*shown)}")
        parts.append(folded("Architectures", architectures(panel)))
        parts += [f"No result: {text}.\n" for text in panel.missing]
    parts.append(in_list(about(report)))
    parts.append(folded("Columns", meanings(shown_columns(report))))
    return "\n".join(parts)


def architectures(panel: Panel) -> list[tuple[str, str]]:
    """What the arms of a panel are as built, (arms, words): those of one architecture together."""
    arms: dict[str, list[str]] = {}
    for arm, architecture in panel.architectures.items():
        arms.setdefault(as_built(architecture), []).append(arm)
    everyone = len(arms) == 1 < len(panel.architectures)
    return [("all arms" if everyone else "; ".join(names), text) for text, names in arms.items()]


def shown_columns(report: Report) -> list[Column]:
    """Every column that some panel shows, once."""
    shown = [chosen(*table_rows(panel), report.columns)[0] for panel in report.panels]
    return list({column.name: column for columns in shown for column in columns}.values())


def about(report: Report) -> Facts:
    """What the numbers are and where they come from, (term, text)."""
    criteria, rows = report.criteria, pd.concat([panel.rows for panel in report.panels])
    fewest, most = int(rows.tokens.min()), int(rows.tokens.max())
    tokens = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
    cells = report.cells
    return facts_of(
        metric=f"{criteria.title} ({criteria.metric})",
        direction=f"{'lower' if criteria.lower_is_better else 'higher'} is better",
        data=cells.data if "data" in cells else (),
        tokens=f"{tokens} per run",
        command=report.command,
        commit=cells.commit if "commit" in cells else (),
        looks=report.looks_in_words,
        evaluation=report.evaluation.in_words if report.evaluation else "",
        worth=report.warning,
        columns=report.columns,
    )


def _title(panel: Panel, brief: bool = False) -> str:
    """What stands above a panel; brief where it is said already that nothing is resolved."""
    source = f" Published: {panel.source}." if panel.source else ""
    said = _against(panel, "Compared with") if brief else _resolved(panel)
    return f"{said}{source}{_one_seed_only(panel)}"


def _resolved(panel: Panel) -> str:
    """Against what arms are compared, and which differences are resolved."""
    if not panel.rows.verdict.isin(["better", "worse"]).any() and panel.rows.asked.max() == 1:
        return _against(panel)
    return f"{_against(panel)} {_differences(panel)}"


def _differences(panel: Panel) -> str:
    rows = panel.rows.assign(label=panel.rows.arm)
    return resolved(rows, Digits.of(panel).difference)


def _against(panel: Panel, how: str = "Against") -> str:
    criteria = panel.criteria
    if criteria.metric in LOSSES:
        return f"{how} {panel.baseline}."
    better = "lower" if criteria.lower_is_better else "higher"
    return f"{how} {panel.baseline}, by {criteria.title} ({better} is better)."


def _one_seed_only(panel: Panel) -> str:
    alone = panel.rows.asked.max() == 1
    return " With one seed per arm there are no intervals and no verdicts." if alone else ""


def latex(report: Report) -> str:
    """All panels for LaTeX, a float of booktabs each with the label `tab:NAME`."""
    lines = in_comments(about(report))
    name, several = slug(report.name), len(report.panels) > 1
    note = [escape(report.note)] if report.note else []
    if (beside := side_by_side(report)) is not None:
        notes = [*note, *legend(beside[0])]
        caption = " ".join([report.caption, *warned(report).values()])
        lines += latex_float(caption, latex_table(*beside), label=name, notes=notes)
    for panel in report.panels:
        title = f" {panel.name}." if panel.name else ""
        caption = f"{report.caption}{title} {_resolved(panel)}{_one_seed_only(panel)}"
        columns, rows = _in_print(panel, report.columns)
        missing = [f"% no result: {text}" for text in panel.missing]
        label = f"{name}-{slug(panel.name)}" if several and panel.name else name
        lines += latex_float(
            f"{caption} {in_a_sentence(about(report))}",
            latex_table(columns, rows),
            missing,
            label=label,
            notes=[*note, *legend(columns)],
        )
    return "\n".join(lines)


def _in_print(panel: Panel, names: Sequence[str] | None) -> tuple[list[Column], list[list[Cell]]]:
    """The columns of these names; none given, as many as can be read in a column of a paper."""
    columns, rows = table_rows(panel)
    usual = [column.name for column in columns if column.name not in (*DETAILS, *SPREADS)]
    return chosen(columns, rows, usual if names is None else names)


def csv(report: Report) -> str:
    """Every arm of every panel at full precision, with the keys of its runs; the last columns say
    where the numbers come from."""
    frames = [
        panel.rows.drop(columns="of").assign(
            panel=panel.name, baseline=panel.baseline, missing="; ".join(panel.missing)
        )
        for panel in report.panels
    ]
    whole_table = pd.concat(frames)
    first = ["panel", "arm", "baseline"]
    rest = [name for name in whole_table if name not in first]
    return csv_text(_plain(whole_table[first + rest]).assign(**in_columns(about(report))))


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Objectives under their own names, where no other column has these."""
    names = {name: name.removeprefix(OTHER) for name in map(str, frame) if name.startswith(OTHER)}
    return frame.rename(columns={name: own for name, own in names.items() if own not in frame})


def html(report: Report) -> str:
    """One self-contained page."""
    none = not _how_many_resolved(report)
    return fill(
        "table.html.j2",
        report=report,
        summary=summary(report),
        panels=[
            (panel, _title(panel, none).replace("**", ""), *table_rows(panel), architectures(panel))
            for panel in report.panels
        ],
        beside=side_by_side(report),
        opening=report.worth.in_words() if report.worth else [],
        smoke=bool(report.warning),
        about=about(report),
        columns=meanings(shown_columns(report)),
        details=DETAILS,
        markdown=in_script(markdown(report)),
        described=described(report),
        over_tokens=horizons.sections(report.horizons),
        curves=_curves(report),
        scored=[
            *scores.sections(report.scores or {}),
            *measured.sections(report.measured or {}),
        ],
        picture=[_embedded(forest(report, "svg", narrow)) for narrow in (False, True)],
    )


def _curves(report: Report) -> list[str]:
    """Differences over tokens as a picture for screens and one for phones; none where runs have one
    horizon."""
    if not report.horizons:
        return []
    given = report.horizons, report.criteria.unit, report.warning
    return [_embedded(horizons.picture(*given, narrow=narrow)) for narrow in (False, True)]


def _embedded(svg: bytes) -> str:
    return base64.b64encode(svg).decode()


def described(report: Report) -> str:
    """What the forest shows, for those who do not see it."""
    said = [f"{p.name}: {_differences(p)}" if p.name else _differences(p) for p in report.panels]
    unit = report.criteria.unit
    level = in_percent(LEVEL if report.table.get("auto") else report.level)
    return f"Differences from the baseline in {unit}, with {level} intervals. {' '.join(said)}"


def summary(report: Report) -> str:
    """What was resolved, in a sentence."""
    compared = sum((panel.rows.verdict != "baseline").sum() for panel in report.panels)
    lost = sum(len(panel.missing) for panel in report.panels)
    text = f"{_how_many_resolved(report)} of {compared} differences from the baseline are resolved"
    if any(map(_one_seed_only, report.panels)):
        text += ", because one seed per arm is too few"
    diverged = int((report.cells.status == Status.DIVERGED).sum())
    gaps = f"; {lost} cells have no result, {diverged} of them diverged" if lost else ""
    return f"{report.name}: {text}{gaps}."


def _how_many_resolved(report: Report) -> int:
    return sum(int(p.rows.verdict.isin(["better", "worse"]).sum()) for p in report.panels)


def forest(report: Report, form: str, narrow: bool = False) -> bytes:
    """Effects with their simultaneous intervals; `narrow`: for a phone, verdicts as colours."""
    style = {"axes.spines.left": False}
    return drawn(lambda: _forest(report, form, narrow), form, style=style, warning=report.warning)


def _forest(report: Report, form: str, narrow: bool) -> "Figure":
    from matplotlib.figure import Figure

    heights = [len(panel.rows) + 1 for panel in report.panels]
    size = (WIDTHS[narrow], 0.29 * sum(heights) + 0.55 * len(heights) + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(heights), squeeze=False, sharex=True, height_ratios=heights)
    for axes, panel in zip(grid[:, 0], report.panels, strict=True):
        _draw(axes, panel, narrow)
    unit, side = report.criteria.unit, "left" if report.criteria.lower_is_better else "right"
    between = "\n" if narrow else " "
    grid[-1, 0].set_xlabel(f"Difference from the baseline in{between}{unit}; {side} is better")
    if report.looks and len(report.looks.seeds) > 1 and form != "svg":  # a page has it as text
        figure.supxlabel(f"Looks: {report.looks_in_words}", fontsize=7)
    return figure


def _draw(axes: Any, panel: Panel, narrow: bool) -> None:
    axes.axvline(0, color="#9a9da2", lw=0.8, zorder=0)
    names = list(panel.rows.arm)
    for place, row in enumerate(panel.rows.to_dict("records")):
        color = COLORS[row["verdict"]]
        effect = 0.0 if row["verdict"] == "baseline" else row["diff"]
        if math.isfinite(row["ci_low"]):
            axes.plot([row["ci_low"], row["ci_high"]], [place, place], color=color, lw=1.4)
        axes.plot([effect], [place], "o", ms=5, color=color)
        axes.annotate(
            "" if narrow else row["verdict"],
            (1.01, place),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=9,
            color=color,
        )
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    if narrow:
        axes.locator_params(axis="x", nbins=4)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_title(panel.name, loc="left", fontsize=10)


class Arms:
    """The view of arms against a baseline."""

    def show(self, report: Report) -> Shown:
        lines = [summary(report), f"table: {report.folder / 'table.html'}"]
        return Shown(render(report), lines)


VIEW = Arms()
