"""How far a proxy can be trusted: a grid's orders at shorter horizons and smaller budgets beside
those at the target. What a study's page quotes of it is `reports.views.trust_quoted`."""

import base64
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from ablations.stats.trust import CEILING, PREDICTOR, PROXY, WANTED, Scale, measure, sufficient
from reports.show.figures import SERIES, drawn
from reports.show.tables import (
    Cell,
    csv_text,
    decimals,
    fill,
    intervals,
    latex_float,
    latex_table,
    legend,
    markdown_table,
    meanings,
    percent,
    printed_rows,
    probability,
    slug,
    whole,
)
from reports.views import Shown, arms
from reports.views.arms import warned
from reports.weigh.table import Report
from search.recipe import Recipe
from search.runs import read_record
from search.states import Status
from space.arch import Architecture
from space.tables import Column
from space.words import magnitude

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = (
    Column("scale", "budget", str, numeric=False),
    Column("name", "chosen by", str, "what orders the arms, from one seed", numeric=False),
    Column(
        "saved",
        "saved",
        percent(0),
        "of the target's training FLOPs, when trained as a run of its own",
    ),
    Column(
        "accuracy",
        "decision accuracy",
        percent(1),
        "of the pairs that the target resolves, the share ordered as the target does; one seed "
        "chooses, the others judge, each in turn",
    ),
    Column(
        "interval",
        "95% interval",
        str,
        "of the accuracy, for architectures and seeds like these: both are resampled",
        numeric=False,
    ),
    Column("pairs", "pairs", decimals(1), "resolved, mean over the choosing seeds"),
    Column(
        "regret",
        "regret",
        decimals(4),
        "how much worse at the target the arm chosen as the best is than the best there, in the "
        "metric's units, mean over the choosing seeds; noise of the judging seeds makes it too "
        "high, by the same in every row: compare with the noise ceiling",
    ),
    Column("worst", "largest regret", decimals(4), "over the choosing seeds"),
    Column(
        "interaction",
        "interaction",
        decimals(4),
        "standard deviation of what differences between arms change by from here to the target, "
        "beyond noise",
    ),
    Column(
        "interaction_p",
        "p of none",
        probability,
        "F test of arm by scale, one spread for all arms, not adjusted for the number of rows",
    ),
    Column("tau", "tau", decimals(2), "Kendall's, over all pairs, resolved or not"),
    Column("tau_interval", "95% interval of tau", str, numeric=False),
    Column(
        "direction",
        "direction",
        str,
        "of a count: the better of the two, chosen with hindsight and so too optimistic, and in "
        "brackets the accuracy of the other; constant: the same for all arms by construction",
        numeric=False,
    ),
)
SUFFICIENT = (
    Column("wanted", "wanted", percent(0), "decision accuracy"),
    Column("scale", "budget", str, numeric=False),
    Column("tokens", "tokens", whole, "fewest from which all longer readings reach it, too"),
    Column("saved", "saved", percent(0), "of the target's training FLOPs"),
    Column("sure", "sure", str, "whether the whole intervals lie above it", numeric=False),
)


def trust_files(report: Report) -> tuple[dict[str, bytes], str]:
    """The further files of such a table, by name, and its summary; a line with the reason if it
    cannot be computed yet."""
    try:
        rows = measured(report)
    except ValueError as error:
        reason = f"no result yet: {error}"
        return {"trust.md": f"{reason}\n".encode()}, reason
    texts = {
        "trust.md": markdown(report, rows),
        "trust.tex": latex(report, rows),
        "trust.csv": csv_text(rows.assign(about_looks=report.looks_in_words, **warned(report))),
        "sufficient.csv": csv_text(sufficient(rows).assign(**warned(report))),
        "trust.html": html(report, rows),
    }
    drawn = {f"trust.{form}": picture(report, rows, form) for form in ("png", "pdf")}
    return {name: text.encode() for name, text in texts.items()} | drawn, summary(rows)


def measured(report: Report) -> pd.DataFrame:
    """The rows of `ablations.stats.trust.measure`.

    Raises:
        ValueError: too few runs so far, or runs that do not belong together.
    """
    return measure(list(_scales(report)), report.level)


def _scales(report: Report) -> Iterator[Scale]:
    for panel in report.table["panels"]:
        recipes = [Recipe(**arm["recipe"]) for arm in panel["arms"]]
        if mixed := sorted(
            {a["name"] for a, r in zip(panel["arms"], recipes, strict=True) if r != recipes[0]}
        ):
            raise ValueError(
                f"the arms of a grid must share one recipe, but {mixed[0]} of "
                f"{panel['name'] or report.name} has another than {panel['arms'][0]['name']}"
            )
        cells = report.cells[(report.cells.panel == panel["name"])]
        rows = [
            {"arm": cell["arm"], "seed": cell["seed"], "tokens": tokens, "value": value}
            for cell in cells[cells.status == Status.FINISHED].to_dict("records")
            for tokens, value in _readings(report, cell["key"])
        ]
        yield Scale(
            name=panel["name"],
            architectures={
                arm["name"]: Architecture.from_dict(arm["architecture"]) for arm in panel["arms"]
            },
            readings=pd.DataFrame(rows, columns=["arm", "seed", "tokens", "value"]),
            seq_len=recipes[0].seq_len,
        )


def _readings(report: Report, key: str) -> Iterator[tuple[int, float]]:
    record = read_record(report.runs / key)
    for reading in record.readings if record is not None else ():
        value = getattr(reading, report.metric)
        if value is not None:
            yield reading.tokens, float(value)


def shown(rows: pd.DataFrame) -> tuple[list[Column], list[list[Cell]]]:
    """The table as it is printed."""
    frame = rows.assign(
        scale=rows.scale.where(rows.scale != ""),
        interval=intervals(rows.low, rows.high, percent(1)),
        tau_interval=intervals(rows.tau_low, rows.tau_high, decimals(2)),
        saved=rows.saved.where(rows.kind != CEILING),
        direction=_directions(rows),
    )
    return printed_rows(frame, ROWS)


def _directions(rows: pd.DataFrame) -> "pd.Series[Any]":
    words = [
        f"{direction} ({percent(1)(1 - right)})" if math.isfinite(right) else direction
        for direction, right in zip(rows.direction, rows.accuracy, strict=True)
    ]
    return pd.Series(words, rows.index, dtype=object).where(rows.direction.notna())


def shown_sufficient(rows: pd.DataFrame) -> tuple[list[Column], list[list[Cell]]]:
    """What suffices, as it is printed."""
    frame = sufficient(rows)
    known = frame.tokens.notna()
    sure = ["yes" if x is True else "no" if x is False else None for x in frame.sure]
    frame = frame.assign(
        scale=frame.scale.where(frame.scale != ""), sure=pd.Series(sure, dtype=object)
    )
    columns, cells = printed_rows(frame, SUFFICIENT)
    place = [column.name for column in columns].index("tokens") if known.any() else None
    for found, row in zip(known, cells, strict=True):
        if not found and place is not None:
            row[place] = replace(row[place], text="none tried")
    return columns, cells


def grid_words(report: Report, rows: pd.DataFrame) -> str:
    """The size of the grid: arms, seeds, the target and its resolved pairs."""
    target = rows[rows.kind == CEILING].iloc[0]
    arms, seeds = report.cells.arm.nunique(), report.cells.seed.nunique()
    where = f" of {target.scale}" if target.scale else ""
    pairs = arms * (arms - 1) // 2
    text = "".join(f"{said} " for said in warned(report).values())
    text += (
        f"{arms} arms × {seeds} seeds. The target: {target.tokens:,.0f} tokens{where}; with one "
        f"seed left out it resolves {target.pairs:.1f} of {pairs} pairs on average."
    )
    lost = int((report.cells.status != Status.FINISHED).sum())
    text += f" {lost} cells have no result and are left out." if lost else ""
    return text + (f" Looks: {said}." if (said := report.looks_in_words) else "")


def markdown(report: Report, rows: pd.DataFrame) -> str:
    """The table, what suffices, and what the columns say."""
    return (
        f"{report.caption}\n\n{grid_words(report, rows)}\n\n{markdown_table(*shown(rows))}\n"
        f"**What suffices**\n\n{_sufficient_markdown(rows)}\n"
        + "".join(f"- **{heading}**: {meaning}\n" for heading, meaning in _meanings(rows))
    )


def _meanings(rows: pd.DataFrame) -> list[tuple[str, str]]:
    return meanings((*shown(rows)[0], *SUFFICIENT))


def _sufficient_markdown(rows: pd.DataFrame) -> str:
    if sufficient(rows).tokens.notna().any():
        return markdown_table(*shown_sufficient(rows))
    return f"No reading reaches {WANTED[0]:.0%}.\n"


def latex(report: Report, rows: pd.DataFrame) -> str:
    """Both tables for LaTeX with booktabs."""
    tables = [("trust", f"{report.caption} {grid_words(report, rows)}", shown(rows))]
    if sufficient(rows).tokens.notna().any():
        tables.append(("suffices", "What suffices.", shown_sufficient(rows)))
    lines = ["% needs \\usepackage{booktabs,graphicx}"]
    for part, caption, (columns, cells) in tables:
        tabular, label = latex_table(columns, cells), f"{slug(report.name)}-{part}"
        lines += latex_float(caption, tabular, label=label, notes=legend(columns))
    return "\n".join(lines)


def html(report: Report, rows: pd.DataFrame) -> str:
    """One self-contained page."""
    enough = sufficient(rows).tokens.notna().any()
    return fill(
        "trust.html.j2",
        report=report,
        grid=grid_words(report, rows),
        summary=summary(rows).splitlines(),
        picture=base64.b64encode(picture(report, rows, "svg")).decode(),
        table_of=shown(rows),
        sufficient=shown_sufficient(rows) if enough else None,
        columns=_meanings(rows),
    )


def picture(report: Report, rows: pd.DataFrame, form: str) -> bytes:
    """Accuracy against tokens with intervals, the noise ceiling, and the best count."""
    return drawn(lambda: _figure(rows), form, warning=report.warning)


def _figure(rows: pd.DataFrame) -> "Figure":
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    ceiling = rows[rows.kind == CEILING].iloc[0]
    proxies = rows[rows.kind == PROXY]
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.subplots()
    if math.isfinite(ceiling.accuracy):
        axes.axhspan(ceiling.low, ceiling.high, color="#9a9da2", alpha=0.15, lw=0)
        axes.axhline(ceiling.accuracy, color="#63666b", lw=1, label="noise ceiling")
        axes.plot([ceiling.tokens], [ceiling.accuracy], "o", ms=4.5, color="#63666b")
    for color, (scale, mine) in zip(SERIES, proxies.groupby("scale", sort=False)):  # noqa: B905
        bars = [mine.accuracy - mine.low, mine.high - mine.accuracy]
        label = str(scale) or "one seed at this horizon"
        axes.errorbar(
            mine.tokens,
            mine.accuracy,
            bars,
            fmt="o-",
            ms=4.5,
            color=color,
            capsize=2.5,
            lw=1.1,
            label=label,
        )
    counts = rows[(rows.kind == PREDICTOR) & rows.accuracy.notna()]
    if len(counts):
        best = counts.iloc[int(counts.accuracy.argmax())]
        label = f"best count: {best['name']}"
        axes.axhline(best.accuracy, color=SERIES[2], lw=1, ls=":", label=label)
    axes.axhline(0.5, color="#9a9da2", lw=0.8, ls="--")
    ticks = sorted({*proxies.tokens, ceiling.tokens})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [magnitude(t) for t in ticks])
    axes.set_xlim(ticks[0] / 1.3, ticks[-1] * 1.3)
    axes.minorticks_off()
    axes.set_ylim(0, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set(xlabel="tokens of the run that chooses", ylabel="decision accuracy")
    figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=2)
    return figure


def summary(rows: pd.DataFrame) -> str:
    """The result, one line per wanted accuracy."""
    ceiling = rows[rows.kind == CEILING].iloc[0]
    if not math.isfinite(ceiling.accuracy):
        return (
            f"no pair of arms is resolved at {ceiling.tokens:,.0f} tokens, so there is no decision "
            f"accuracy; Kendall's tau has a ceiling of {decimals(2)(ceiling.tau)}; add seeds"
        )
    lines = [f"noise ceiling: {accuracy_in_words(ceiling)}"]
    for wanted, found in sufficient(rows).groupby("wanted"):
        enough = [_suffices(row) for row in found.dropna(subset="tokens").to_dict("records")]
        lines.append(f"{wanted:.0%}: {'; '.join(enough) or 'no reading reaches it'}")
    return "\n".join(lines)


def _suffices(row: Mapping[Any, Any]) -> str:
    scale = f" of {row['scale']}" if row["scale"] else ""
    sure = "" if row["sure"] else ", though its interval reaches below"
    saved = percent(0)(row["saved"])
    return f"{row['tokens']:,.0f} tokens{scale} suffice and save {saved} of the training{sure}"


def accuracy_in_words(row: Any) -> str:
    return f"{row.accuracy:.0%} ({row.low:.0%} to {row.high:.0%})"


class Trust:
    """The view of a grid: the arms', then how its proxies order them."""

    def show(self, report: Report) -> Shown:
        common, (files, text) = arms.VIEW.show(report), trust_files(report)
        page = "trust.html" if "trust.html" in files else "trust.md"
        lines = [text, f"trust: {report.folder / page}"]
        return Shown(common.files | files, [*lines, *common.lines])


VIEW = Trust()
