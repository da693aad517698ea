"""A table of `python -m ablations`: its records weighed, and shown in every form.

The same records give the same bytes: nothing here depends on when or how often they were asked for.
"""

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pandas as pd

from ablations.bracket import CARRIED, EDGE, is_carried
from ablations.stats.effects import compare
from ablations.stats.sequential import verdicts
from reports.show.figures import drawn
from reports.show.tables import (
    Cell,
    Column,
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
from reports.views import scores
from reports.weigh.answer import UNITS, count
from search.recipe import Recipe
from search.record import DIVERGED, FINISHED
from search.runs import CorruptRecord, read_record
from space.arch import Architecture
from space.budget import MAX_DEVIATION, Budget
from space.cost import cost

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = (
    Column("arm", "arm", str, "what is compared", numeric=False),
    Column("num_hidden_layers", "layers", whole, "layers executed"),
    Column("parameters", "parameters", whole, "distinct weights, a shared or tied one once"),
    Column("off_budget", "off budget", percent(2, sign=True), "deviation from the budget"),
    Column("forward_flops_per_token", "FLOPs/token", megas, "one forward pass"),
    Column("kv_bytes_per_token", "KV B/token", whole, "bytes of key-value cache a token"),
    Column(
        "decode_bytes_per_token",
        "decode B/token",
        megas,
        "bytes moved to decode one token, adjacent repeats of a block once",
    ),
    Column("tokens", "tokens", whole, "tokens each run is trained on"),
    Column("lr", "rate", rate, "the best learning rate, on seeds that are not reported"),
    Column("of", "n", str, "seeds with a result, and of how many where some are missing", False),
    Column("mean", "mean", decimals(4), "of the metric over these seeds; lower is better"),
    Column("sd", "sd", decimals(4), "the arm's own standard deviation over seeds"),
    Column("diff", "difference", signed(4), "to the baseline at equal seeds; negative is better"),
    Column(
        "interval",
        "95% interval",
        str,
        "of the difference; all of a panel hold together, over all looks",
        False,
    ),
    Column("p_adjusted", "adj. p", probability, "adjusted for all comparisons of the panel"),
    Column(
        "mdd",
        "MDD",
        decimals(4),
        "minimum detectable difference: a true one as large gets a verdict with 80% power",
    ),
    Column("verdict", "verdict", str, "unresolved where the interval contains zero", False),
    Column(
        "flag",
        "flag",
        str,
        f"{EDGE}: the best learning rate was the lowest or highest tried, and a better one may lie "
        f"beyond; {CARRIED}: the parametrisation carries no rate from the base shape to this one "
        "(sp to none, mup to no other depth, completep to no fewer layers). Either way a "
        "difference may be one of tuning",
        False,
    ),
    Column("look", "look", whole, "seeds of the look at which verdict and numbers were reached"),
    Column(
        "spread",
        "spread",
        str,
        "whose makes the interval as wide as it is, of three that the difference must hold by: "
        "pooled over all arms; the baseline's beside all others'; the baseline's and the arm's own",
        False,
    ),
    Column(
        "spread_p",
        "p of spread",
        probability,
        "that the arm spreads no more than the others, F test",
    ),
    Column("outliers", "outliers", str, "seeds far from the model, flagged and kept", False),
    Column("published", "published", decimals(1), "the source's average; higher is better"),
    Column("direction", "direction", str, "whether ours and the published one agree", False),
)
NOT_RUN = "not run"
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


@dataclass(frozen=True)
class Panel:
    """One comparison, weighed."""

    name: str
    source: str | None
    baseline: str
    rows: pd.DataFrame
    """One row an arm, the names of `COLUMNS` and `runs`, the keys of its runs."""
    missing: tuple[str, ...]
    """Each cell that has no result, and why."""


@dataclass(frozen=True)
class Report:
    """A table, weighed."""

    folder: Path
    name: str
    caption: str
    metric: str
    panels: tuple[Panel, ...]
    cells: pd.DataFrame
    """`panel arm seed key status reason` and the metric, one row a cell."""
    note: str = ""
    """How arms came to their learning rates, and what that cost."""
    equal_arms: bool = False
    """All arms are one thing but for their initial weights: any verdict is a false one."""
    table: Mapping[str, Any] = field(default_factory=dict)
    """What `study.json` says of it."""
    runs: Path = Path("runs")
    """The folder that their records are in."""
    scores: dict[str, pd.DataFrame] | None = None
    """Zero-shot scores by panel (`reports.views.scores.gather`); only of panels that have any."""


def read_table(name: str, outputs: str | Path, runs: str | None) -> Report:
    """The table under `outputs/tables/<name>/` with the records of its runs.

    Raises:
        ValueError: no such table, or a `study.json` that describes none.
    """
    tables = Path(outputs) / "tables"
    path = tables / name / "study.json"
    if not path.is_file():
        known = ", ".join(sorted(p.parent.name for p in tables.glob("*/study.json")))
        advice = f"choose one of {known}" if known else "run `python -m ablations` first"
        raise ValueError(f"table must name a folder of {tables}, but got {name!r}; {advice}")
    try:
        return _read(json.loads(path.read_text()), path.parent, runs)
    except CorruptRecord:  # which names a file of its own
        raise
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} must describe a table, but lacks it ({error}); start the same table again"
        ) from None


def _read(content: Mapping[str, Any], folder: Path, runs: str | None) -> Report:
    """The table of a `study.json`; what that lacks raises whatever asked for it."""
    table, places, metric = content["table"], content["places"], content["metric"]
    caption, described = table["caption"], table["panels"]
    if not described:
        raise ValueError("no panels")
    reasons = {trial["key"]: trial.get("reason") for trial in content["trials"]}
    things = [
        (Architecture.from_dict(arm["architecture"]), Recipe(**arm["recipe"]))
        for panel in described
        for arm in panel["arms"]
    ]
    where = Path(runs or content.get("runs") or "runs")
    rows = [_cell(place, where, metric, reasons) for place in places]
    cells = pd.DataFrame(rows)
    auto, search = table.get("auto", False), table.get("lr_search")
    panels = tuple(
        _panel(p, cells[cells.panel == p["name"]], metric, auto, table) for p in described
    )
    return Report(
        folder=folder,
        name=folder.name,
        caption=caption,
        note=_search_note(search, where) if search else "",
        metric=metric,
        panels=panels,
        cells=cells,
        table=table,
        runs=where,
        scores=_scores(cells, where),
        equal_arms=all(thing == things[0] for thing in things),
    )


def _cell(
    place: dict[str, Any], runs: Path, metric: str, reasons: dict[str, str | None]
) -> dict[str, Any]:
    blank = {metric: math.nan, "status": NOT_RUN, "reason": reasons.get(place["key"])}
    try:
        record = read_record(runs / place["key"])
    except (CorruptRecord, OSError) as error:
        return {**place, **blank, "status": "missing", "reason": str(error)}
    if record is None:
        return {**place, **blank}
    value = record.value(metric)
    ended = {"status": record.status, "reason": record.reason}
    usable = record.status == FINISHED and value is not None
    return {**place, **ended, metric: value if usable else math.nan}


def _scores(cells: pd.DataFrame, runs: Path) -> dict[str, pd.DataFrame]:
    done = cells[cells.status == FINISHED]
    frames = {
        str(name): scores.gather(
            (cell["arm"], cell["seed"], read_record(runs / cell["key"]))
            for cell in panel.to_dict("records")
        )
        for name, panel in done.groupby("panel", sort=False)
    }
    return {name: frame for name, frame in frames.items() if len(frame)}


def _rates(panel: dict[str, Any], table: Mapping[str, Any]) -> pd.DataFrame:
    """Of each arm `arm lr flag`: the rate that was chosen for it, and what makes it doubtful."""
    searched = {
        arm["arm"]: arm
        for arm in (table.get("lr_search") or {}).get("arms", ())
        if arm["panel"] == panel["name"]
    }
    rows = []
    for arm in panel["arms"]:
        found, flag = searched.get(arm["name"]), None
        if found is not None:
            flag = EDGE if found["edge"] else None
        elif not table.get("transfer"):  # whose arms are rates
            recipe = Recipe(**arm["recipe"])
            carried = is_carried(Architecture.from_dict(arm["architecture"]), recipe)
            flag = None if carried else CARRIED
        rows.append({"arm": arm["name"], "lr": found and found["chosen"], "flag": flag})
    return pd.DataFrame(rows, dtype=object)


def _search_note(search: dict[str, Any], runs: Path) -> str:
    """What choosing rates cost."""
    tries = {place["key"]: place for place in search["tries"]}
    records = [r for key in tries if (r := read_record(runs / key)) is not None]
    seeds = sorted({place["seed"] for place in tries.values()})
    factors = ", ".join(f"{factor:g}" for factor in search["factors"])
    tokens = sum(record.run.recipe.trained_tokens for record in records)
    seconds = sum(record.seconds for record in records)
    return (
        f"Each arm has the best of {factors} times its learning rate, and of up to "
        f"{search['extensions']} more beyond an edge, chosen on seeds that are not reported "
        f"({', '.join(map(str, seeds))}). That cost {len(records)} runs more: {tokens:,} tokens, "
        f"{seconds:,.0f} s of training."
    )


def _panel(
    content: dict[str, Any],
    cells: pd.DataFrame,
    metric: str,
    auto: bool,
    table: Mapping[str, Any] = MappingProxyType({}),
) -> Panel:
    arms = pd.DataFrame([_costs(arm, content["budget"]) for arm in content["arms"]])
    if auto:
        effects = verdicts(cells.assign(done=cells.status != NOT_RUN), content["baseline"], metric)
    else:
        effects = compare(cells, baseline=content["baseline"], metric=metric)
    effects["spread"] = effects.spread.where(effects.spread != "")
    effects["outliers"] = effects.outliers.where(effects.outliers != "")
    rows = arms.merge(_rates(content, table), on="arm").merge(effects, on="arm")
    asked = cells.groupby("arm").seed.count()
    rows["asked"] = rows.arm.map(asked)
    rows["of"] = [
        str(n) if n == m else f"{n} of {m}" for n, m in zip(rows.n, rows.asked, strict=True)
    ]
    others = rows.arm != content["baseline"]
    rows["interval"] = intervals(rows.ci_low, rows.ci_high, signed(4))
    rows["diff"] = rows["diff"].where(others)
    rows["direction"] = _directions(rows, content["baseline"])
    rows["runs"] = rows.arm.map(cells.groupby("arm").key.agg(" ".join))
    if rows.off_budget.abs().max() <= MAX_DEVIATION:
        rows["off_budget"] = None
    gone = cells[cells[metric].isna()]
    missing = tuple(
        f"{c['arm']}, seed {c['seed']}: {c['status']}{_why(c['reason'])}"
        for c in gone.to_dict("records")
    )
    return Panel(content["name"], content.get("source"), content["baseline"], rows, missing)


def _why(reason: Any) -> str:
    return f" ({reason})" if reason else ""


def _costs(arm: dict[str, Any], budget: dict[str, Any]) -> dict[str, Any]:
    architecture, recipe = Architecture.from_dict(arm["architecture"]), Recipe(**arm["recipe"])
    counts = cost(architecture, recipe.seq_len)
    return {
        "arm": arm["name"],
        "num_hidden_layers": architecture.num_layers,
        "parameters": counts.parameters,
        "off_budget": Budget(**budget).deviation(architecture),
        "forward_flops_per_token": counts.forward_flops_per_token,
        "kv_bytes_per_token": counts.kv_bytes_per_token,
        "decode_bytes_per_token": counts.decode_bytes_per_token,
        "tokens": recipe.steps * recipe.tokens_per_step,
        "published": arm["published"],
    }


def _directions(rows: pd.DataFrame, baseline: str) -> list[str | None]:
    """Whether our verdict goes the way of the published average (higher is better there)."""
    base = rows.loc[rows.arm == baseline, "published"].iloc[0]

    def direction(row: Any) -> str | None:
        if row.arm == baseline or pd.isna(row.published) or pd.isna(base):
            return None
        gain = row.published - base
        if row.verdict == "unresolved" or gain == 0:
            return "unresolved"
        return "agrees" if (gain > 0) == (row.verdict == "better") else "differs"

    return [direction(row) for row in rows.itertuples()]


def table_rows(panel: Panel) -> tuple[list[Column], list[list[Cell]]]:
    """The columns that hold anything, and the cells; each names the runs that it rests on."""
    frame = panel.rows.copy()
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
"""What an arm is, whatever it is trained on."""


def side_by_side(report: Report) -> tuple[list[Column], list[list[Cell]]] | None:
    """One row an arm and all panels beside each other, where they compare the same arms: tokens,
    and mean with difference and verdict."""
    first, *others = report.panels
    shape = [column.name for column in SHAPE]
    if not others or any(not p.rows[shape].equals(first.rows[shape]) for p in others):
        return None
    frame, columns = first.rows[shape].copy(), list(SHAPE)
    hints: dict[str, str] = {}
    for number, panel in enumerate(report.panels):
        rows, tokens, told = panel.rows, f"tokens {number}", f"told {number}"
        frame[tokens] = rows.tokens
        frame[told] = [_told(row) for row in rows.to_dict("records")]
        frame["runs " + told] = "runs " + rows.runs
        hints |= {tokens: "runs " + told, told: "runs " + told}
        columns.append(Column(tokens, "tokens", whole, f"each run is trained on: {panel.name}"))
        hint = f"mean of the metric, and difference to {panel.baseline} with its verdict"
        columns.append(Column(told, panel.name, str, hint, numeric=False))
    return printed_rows(frame, columns, hints)


def _told(row: dict[Any, Any]) -> str | None:
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
    return f"Against {panel.baseline}.{source}{_anecdote(panel)}"


def _anecdote(panel: Panel) -> str:
    alone = panel.rows.asked.max() == 1
    return " One seed an arm leaves no interval, and so no verdict." if alone else ""


def latex(report: Report) -> str:
    """All panels for LaTeX, a booktabs tabular each, scaled to the line."""
    lines = ["% needs \\usepackage{booktabs,graphicx}"]
    if (beside := side_by_side(report)) is not None:
        lines += latex_float(report.caption, latex_table(*beside))
    for panel in report.panels:
        name = f" {panel.name}." if panel.name else ""
        caption = f"{report.caption}{name} Against {panel.baseline}.{_anecdote(panel)}"
        missing = [f"% no result: {text}" for text in panel.missing]
        lines += latex_float(caption, latex_table(*table_rows(panel)), missing)
    told = [
        f"\\textbf{{{escape(column.heading)}}}: {escape(column.hint)}."
        for column in shown_columns(report)
    ]
    note = [escape(report.note)] if report.note else []
    lines += ["{\\footnotesize\\noindent", *note, *told, "\\par}", ""]
    return "\n".join(lines)


def csv(report: Report) -> str:
    """Every arm of every panel at full precision, with the keys of its runs."""
    frames = [
        panel.rows.drop(columns=["interval", "of"]).assign(
            panel=panel.name, baseline=panel.baseline, missing="; ".join(panel.missing)
        )
        for panel in report.panels
    ]
    whole_table = pd.concat(frames)
    first = ["panel", "arm", "baseline"]
    rest = [name for name in whole_table if name not in first]
    return csv_text(whole_table[first + rest])


def html(report: Report) -> str:
    """One page that needs nothing but itself."""
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


@dataclass(frozen=True)
class Confirmation:
    """What a search's best candidates came to over fresh seeds."""

    words: str
    table: tuple[list[Column], list[list[Cell]]] | None
    """None where the words say that it cannot be read."""


def confirmed(study: str, outputs: Path, runs: str | None) -> Confirmation | None:
    """The confirmation of a search (`table=confirm`), None where nothing of one has finished.

    One that cannot be read is a line and no error: the search's own report does not rest on it.
    """
    name = f"confirm_{study}"
    if not (outputs / "tables" / name / "study.json").is_file():
        return None
    try:
        report = read_table(name, outputs, runs)
    except ValueError as error:
        return Confirmation(f"What confirms this search cannot be read: {error}.", None)
    if not (report.cells.status == FINISHED).any():
        return None
    return Confirmation(order(report), table_rows(report.panels[0]))


def order(report: Report) -> str:
    """The confirmed order, best first, each with its difference to the baseline and verdict."""
    rows = pd.concat([panel.rows for panel in report.panels]).dropna(subset="mean")
    base = rows.verdict == "baseline"
    told = rows["diff"].map(signed(4), na_action="ignore").astype(object)
    told = told.fillna("no seed in common")
    told = told.mask(base, rows["mean"].map(decimals(4)))
    rows = rows.assign(told=told, diff=rows["diff"].mask(base, 0.0)).sort_values(["diff", "arm"])
    words = [f"{row['arm']} ({row['told']}, {row['verdict']})" for row in rows.to_dict("records")]
    common, asked = _seeds_in_common(report), int(rows.asked.min())
    of, seeds = "" if common == asked else f"{common} of ", count(asked, "fresh seed")
    opening = f"Confirmed over {of}{seeds}" if common else f"None of {seeds} has them all"
    return f"{opening}, best first: {'; '.join(words)}."


def _seeds_in_common(report: Report) -> int:
    """Seeds with a result of the baseline and of every arm that has one."""
    done = report.cells.dropna(subset=report.metric)
    arms = {*done.arm, *(panel.baseline for panel in report.panels)}
    return int((done.groupby("seed").arm.nunique() == len(arms)).sum())


def summary(report: Report) -> str:
    """What was resolved, in a sentence."""
    verdicts = pd.concat([panel.rows.verdict for panel in report.panels])
    told = (verdicts.isin(["better", "worse"])).sum()
    compared = (verdicts != "baseline").sum()
    lost = sum(len(panel.missing) for panel in report.panels)
    text = f"{told} of {compared} differences to the baseline are resolved"
    if any(map(_anecdote, report.panels)):
        text += ", for which one seed an arm is too few"
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
    unit = UNITS[report.metric]
    grid[-1, 0].set_xlabel(f"Difference to the baseline in {unit}; left is better")
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
