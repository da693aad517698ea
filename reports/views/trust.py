"""How far a proxy can be trusted: a grid's orders at shorter horizons and smaller budgets beside
those at the target, and what a study's page says of its own proxy."""

import base64
import json
import math
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ablations.stats.trust import CEILING, PREDICTOR, PROXY, WANTED, Scale, measure, sufficient
from reports.read.study import HORIZON_TOLERANCE, Study
from reports.show.figures import SERIES, drawn
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
    percent,
    printed_rows,
    whole,
)
from reports.views import Shown, arms
from reports.weigh import table
from reports.weigh.table import Report
from search.recipe import Recipe
from search.record import FINISHED, Run
from search.runs import read_record
from space.arch import Architecture
from space.tables import Column
from space.words import magnitude

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = (
    Column("scale", "budget", str, numeric=False),
    Column("name", "chosen by", str, "what orders the arms, from one seed", numeric=False),
    Column("saved", "saved", percent(0), "of the target's training FLOPs, as a run of its own"),
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
    Column("pairs", "pairs", decimals(1), "resolved, in the mean over the choosing seeds"),
    Column("tau", "tau", decimals(2), "Kendall's, over all pairs, resolved or not"),
    Column("tau_interval", "95% interval of tau", str, numeric=False),
    Column(
        "direction",
        "direction",
        str,
        "of a count, the better one with hindsight, which flatters it, and in brackets what the "
        "other has; constant: the same for all arms by construction, so that it decides nothing",
        numeric=False,
    ),
)
SUFFICIENT = (
    Column("wanted", "wanted", percent(0), "decision accuracy"),
    Column("scale", "budget", str, numeric=False),
    Column("tokens", "tokens", whole, "fewest from which on all readings reach it"),
    Column("saved", "saved", percent(0), "of the target's training FLOPs"),
    Column("sure", "sure", str, "whether the intervals lie above it, too", numeric=False),
)
LEFT_OUT = ("tokens", "horizons", "warmup_fraction", "evaluations")
"""What two recipes may differ in and be one proxy: the warmup is compared in steps, and how often
a run is looked at changes nothing of it."""


def trust_files(report: Report) -> tuple[dict[str, bytes], str]:
    """What such a table leaves besides, by name, and the summary of it; before it can be judged, a
    line that says why."""
    try:
        rows = measured(report)
    except ValueError as error:
        told = f"nothing to judge yet: {error}"
        return {"trust.md": f"{told}\n".encode()}, told
    texts = {
        "trust.md": markdown(report, rows),
        "trust.tex": latex(report, rows),
        "trust.csv": csv_text(rows),
        "sufficient.csv": csv_text(sufficient(rows)),
        "trust.html": html(report, rows),
    }
    drawn = {f"trust.{form}": picture(rows, form) for form in ("png", "pdf")}
    return {name: text.encode() for name, text in texts.items()} | drawn, summary(rows)


def measured(report: Report) -> pd.DataFrame:
    """The rows of `ablations.stats.trust.measure`.

    Raises:
        ValueError: too few runs as yet, or runs that do not belong together.
    """
    return measure(list(_scales(report)))


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
            for cell in cells[cells.status == FINISHED].to_dict("records")
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
    told = [
        f"{direction} ({percent(1)(1 - right)})" if math.isfinite(right) else direction
        for direction, right in zip(rows.direction, rows.accuracy, strict=True)
    ]
    return pd.Series(told, rows.index, dtype=object).where(rows.direction.notna())


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
    for told, row in zip(known, cells, strict=True):
        if not told and place is not None:
            row[place] = replace(row[place], text="none tried")
    return columns, cells


def grid_words(report: Report, rows: pd.DataFrame) -> str:
    """What was measured on how much."""
    target = rows[rows.kind == CEILING].iloc[0]
    arms, seeds = report.cells.arm.nunique(), report.cells.seed.nunique()
    where = f" of {target.scale}" if target.scale else ""
    pairs = arms * (arms - 1) // 2
    text = (
        f"{arms} arms × {seeds} seeds. The target: {target.tokens:,.0f} tokens{where}; with one "
        f"seed left out it resolves {target.pairs:.1f} of {pairs} pairs in the mean."
    )
    lost = int((report.cells.status != FINISHED).sum())
    return text + (f" {lost} cells have no result and enter nothing." if lost else "")


def markdown(report: Report, rows: pd.DataFrame) -> str:
    """The table, what suffices, and what the columns say."""
    return (
        f"{report.caption}\n\n{grid_words(report, rows)}\n\n{markdown_table(*shown(rows))}\n"
        f"**What suffices**\n\n{_sufficient_markdown(rows)}\n"
        + "".join(
            f"- **{c.heading}**: {c.hint}\n" for c in (*shown(rows)[0], *SUFFICIENT) if c.hint
        )
    )


def _sufficient_markdown(rows: pd.DataFrame) -> str:
    if sufficient(rows).tokens.notna().any():
        return markdown_table(*shown_sufficient(rows))
    return f"No reading reaches {WANTED[0]:.0%}.\n"


def latex(report: Report, rows: pd.DataFrame) -> str:
    """Both tables for LaTeX with booktabs."""
    tables = [(report.caption + " " + grid_words(report, rows), latex_table(*shown(rows)))]
    if sufficient(rows).tokens.notna().any():
        tables.append(("What suffices.", latex_table(*shown_sufficient(rows))))
    lines = ["% needs \\usepackage{booktabs,graphicx}"]
    for caption, tabular in tables:
        lines += latex_float(caption, tabular)
    told = [f"\\textbf{{{escape(c.heading)}}}: {escape(c.hint)}." for c in ROWS if c.hint]
    return "\n".join([*lines, "{\\footnotesize\\noindent", *told, "\\par}", ""])


def html(report: Report, rows: pd.DataFrame) -> str:
    """One page that needs nothing but itself."""
    enough = sufficient(rows).tokens.notna().any()
    return fill(
        "trust.html.j2",
        report=report,
        grid=grid_words(report, rows),
        summary=summary(rows).splitlines(),
        picture=base64.b64encode(picture(rows, "svg")).decode(),
        table_of=shown(rows),
        sufficient=shown_sufficient(rows) if enough else None,
        columns=[column for column in (*shown(rows)[0], *SUFFICIENT) if column.hint],
    )


def picture(rows: pd.DataFrame, form: str) -> bytes:
    """Accuracy against tokens with intervals, the noise ceiling, and the best count."""
    return drawn(lambda: _figure(rows), form)


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
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def summary(rows: pd.DataFrame) -> str:
    """What was found, a line for each accuracy wanted."""
    ceiling = rows[rows.kind == CEILING].iloc[0]
    if not math.isfinite(ceiling.accuracy):
        return (
            f"no pair of arms is resolved at {ceiling.tokens:,.0f} tokens, so no accuracy can be "
            f"told; Kendall's tau has a ceiling of {decimals(2)(ceiling.tau)}; add seeds"
        )
    lines = [f"noise ceiling: {_with_interval(ceiling)}"]
    for wanted, found in sufficient(rows).groupby("wanted"):
        told = [_suffices(row) for row in found.dropna(subset="tokens").to_dict("records")]
        lines.append(f"{wanted:.0%}: {'; '.join(told) or 'no reading reaches it'}")
    return "\n".join(lines)


def _suffices(row: Mapping[Any, Any]) -> str:
    scale = f" of {row['scale']}" if row["scale"] else ""
    sure = "" if row["sure"] else ", though its interval reaches below"
    saved = percent(0)(row["saved"])
    return f"{row['tokens']:,.0f} tokens{scale} suffice and save {saved} of the training{sure}"


def _with_interval(row: Any) -> str:
    return f"{row.accuracy:.0%} ({row.low:.0%} to {row.high:.0%})"


# What a study's page says.


def of_study(study: Study) -> str:
    """How far the study's proxy can be trusted, by the tables of trust in the same outputs; or that
    none measured it, and the command that would."""
    told = [text for table in _tables(study) if (text := _quoted(study, table)) is not None]
    if told:
        return " ".join(told)
    return f"Not measured for this proxy; `{command(study)}` would."


def _tables(study: Study) -> Iterator[Report]:
    """The tables of trust beside a study that can be read."""
    outputs = study.folder.parent
    for path in sorted(outputs.glob("tables/*/study.json")):
        if not _says_trust(path):
            continue
        try:
            yield table.read_table(path.parent.name, outputs, study.runs)
        except ValueError:
            continue


def _says_trust(path: Path) -> bool:
    """Whether a table asks for trust, before its records are read."""
    try:
        return bool(json.loads(path.read_text())["table"].get("trust"))
    except (ValueError, LookupError, TypeError, AttributeError):
        return False


def _quoted(study: Study, report: Report) -> str | None:
    """What a table says of the proxy of a study, None where it is of another."""
    table, run = report.table, _typical(study)
    first = table["panels"][0]
    if run is None or not _same_proxy(study, run, table, _data(report)):
        return None
    try:
        rows = measured(report)
    except ValueError:
        return None
    tokens = run.recipe.steps * run.recipe.tokens_per_step
    mine = rows[(rows.kind != PREDICTOR) & (rows.scale == first["name"])]
    there = mine[(mine.tokens / tokens - 1).abs() <= HORIZON_TOLERANCE]
    if there.empty:
        return None
    row, ceiling = there.iloc[0], rows[rows.kind == CEILING].iloc[0]
    arms, seeds = report.cells.arm.nunique(), report.cells.seed.nunique()
    of = f" of {ceiling.scale}" if ceiling.scale else ""
    source = f"({arms} arms × {seeds} seeds; {report.name})"
    if row.kind == CEILING:
        return (
            f"Nothing longer than its own {tokens:,} tokens was measured; by one seed it agrees "
            f"with itself in {_decided(row)} {source}."
        )
    return (
        f"One seed at {tokens:,} tokens orders architectures as others at "
        f"{ceiling.tokens:,.0f} tokens{of} do in {_decided(row)}; the noise ceiling is "
        f"{_decided(ceiling, short=True)} {source}."
    )


def _decided(row: Any, short: bool = False) -> str:
    if not math.isfinite(row.accuracy):
        low, high = decimals(2)(row.tau_low), decimals(2)(row.tau_high)
        return f"no resolved pair, for there is none (Kendall's tau {row.tau:.2f}, {low} to {high})"
    return _with_interval(row) + ("" if short else " of the pairs that these resolve")


def _typical(study: Study) -> Run | None:
    """A run of the comparison."""
    finished = study.finished
    record = study.records.get(str(finished.key.iloc[0])) if len(finished) else None
    return None if record is None else record.run


def _data(report: Report) -> str | None:
    """The fingerprint of what a table was trained on."""
    done = report.cells[report.cells.status == FINISHED]
    record = read_record(report.runs / done.key.iloc[0]) if len(done) else None
    return None if record is None else record.run.data_fingerprint


def _same_proxy(study: Study, run: Run, table: Mapping[str, Any], data: str | None) -> bool:
    """Whether a table measured the proxy of a study: its recipe apart from the length, its data,
    budget and kind of space."""
    space, budget = study.facts["space"], study.facts["budget"]
    try:
        kind = table["trust"]["space"]
        same_space = all(space.get(name) == value for name, value in kind.items())
        measured_recipe = Recipe(**table["trust"]["recipe"])
    except (ValueError, LookupError, TypeError, AttributeError):  # of another version, or damaged
        return False
    return (
        same_space
        and table["panels"][0]["budget"] == budget
        and data == run.data_fingerprint
        and _essence(measured_recipe) == _essence(run.recipe)
    )


def _essence(recipe: Recipe) -> dict[str, Any]:
    kept = {name: value for name, value in asdict(recipe).items() if name not in LEFT_OUT}
    warmup = round(recipe.warmup_fraction * recipe.tokens / recipe.tokens_per_step)
    return {**kept, "warmup_steps": warmup}


PASSED_ON = ("space", "budget", "proxy", "recipe", "data", "runs", "outputs", "placement")
"""What a search and a table of trust are told alike."""


def command(study: Study) -> str:
    """The command that would measure the proxy of a study."""
    given = shlex.split(str(study.facts.get("command") or ""))[3:]
    own = [text for text in given if text.split("=")[0].split(".")[0] in PASSED_ON]
    own = [text for text in own if not text.startswith("recipe.horizons=")]  # it has its own
    changed = any(text.startswith("space.") for text in own)
    if changed and not any(text.startswith("space=") for text in own):
        own.insert(0, f"space={study.facts['space']['name']}")
    if any(text.startswith("tokens_per_parameter=") for text in given) and (run := _typical(study)):
        own.append(f"recipe.tokens={run.recipe.tokens}")  # a table of trust is told tokens alone
    called = [f"called=proxy_horizon_{study.name}"] if own else []
    return shlex.join(["python", "-m", "ablations", "table=proxy_horizon", *own, *called])


class Trust:
    """The view of a grid: the arms', then how its proxies order them."""

    def show(self, report: Report) -> Shown:
        common, (files, told) = arms.VIEW.show(report), trust_files(report)
        page = "trust.html" if "trust.html" in files else "trust.md"
        lines = [told, f"trust: {report.folder / page}"]
        return Shown(common.files | files, [*lines, *common.lines])


VIEW = Trust()
