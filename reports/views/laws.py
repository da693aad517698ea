"""The page of a law over several budgets (`reports.weigh.law`): its tables in every form."""

import io
import json
import math
import tarfile
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from reports.show.html import packed, packed_plotly
from reports.show.tables import (
    Cell,
    csv_text,
    decimals,
    escape,
    fill,
    latex_table,
    markdown_table,
    printed_rows,
    whole,
)
from reports.views import joint_law, law_figures
from reports.views.law_words import (
    BY_LINE,
    BY_ONE_VALLEY,
    best_in_words,
    command,
    depths,
    grows,
    headline,
    hedges,
    how_it_was_made,
    in_layers,
    interval_in_words,
    lowest_tried,
    on_embeddings,
    opening,
    share_range,
    spanned,
    unknown,
)
from reports.weigh.fits import raised
from reports.weigh.growth import determined
from reports.weigh.law import Law, tokens_per_parameter
from reports.weigh.valley import INSIDE, NONE
from search.objectives import Measure
from search.runs import WINDOWS
from space.sharing import MOST_LAYERS
from space.tables import Column
from space.words import magnitude

VAGUE = 3.0
"""Ratio of an interval's ends beyond which a loss is not determined by runs that measure it to a
thousandth."""
BUDGETS = (
    Column("budget", "budget", magnitude, "of the parameters that the law counts"),
    Column(
        "best", "best depth, by its own valley", str, "at the bottom of the fitted valley", False
    ),
    Column("interval", "95% interval", str, "of the best depth", numeric=False),
    Column(
        "on_line",
        "best depth, by the line",
        lambda depth: in_layers(depth, 1),
        "by the line through the budgets' best depths, which smooths them",
    ),
    Column("lowest", "lowest tried", whole, "the depth with the lowest mean"),
    Column("at_best", "at the bottom", decimals(4), "fitted value of the metric there"),
    Column(
        "curvature",
        "curvature",
        decimals(4),
        "increase of the metric one e-fold of depth away from it",
    ),
    Column("tried", "depths tried", str, "layers executed", numeric=False),
    Column("runs", "runs", whole, "finished ones"),
    Column("seeds", "seeds", str, "per depth, fewest to most", numeric=False),
    Column("tokens", "tokens", whole, "of each run"),
    Column("ratio", "tokens/parameter", decimals(2), "of the parameters that the law counts"),
    Column(
        "shares",
        "embeddings’ share",
        str,
        "of all parameters, range over the depths",
        numeric=False,
    ),
    Column("study", "study", str, numeric=False),
)
PREDICTED = (
    Column("name", "model", str, numeric=False),
    Column("size", "size", magnitude, "of the parameters that the law counts"),
    Column("reach", "beyond the largest budget", str, "extrapolation by this factor", False),
    Column("depth", "predicted best depth", lambda depth: in_layers(depth, 1)),
    Column("interval", "95% interval", str, numeric=False),
    Column("layers", "its layers", whole, "as published"),
)
PARAMETERS = (
    Column("name", "parameter", str, numeric=False),
    Column("value", "value", decimals(4)),
    Column("interval", "95% interval", str, numeric=False),
    Column("told", "meaning", str, numeric=False),
)


def budget_rows(law: Law) -> pd.DataFrame:
    """One row per budget."""
    rows = []
    for study, v in zip(law.studies, law.valleys, strict=True):
        few, many = v.seeds
        inside = v.status == INSIDE
        low, high = (math.nan, math.nan) if v.status == NONE else v.interval
        rows.append(
            {
                "study": study.name,
                "budget": v.budget,
                "tried": ", ".join(f"{depth:g}" for depth in sorted(set(v.cells.depth))),
                "runs": len(v.cells),
                "seeds": f"{few}" if few == many else f"{few} to {many}",
                "tokens": int(study.finished.tokens.iloc[0]),
                "ratio": tokens_per_parameter(study),
                "shares": share_range(study),
                "lowest": lowest_tried(v),
                "best": best_in_words(v),
                "interval": interval_in_words(v),
                "on_line": math.nan if law.growth is None else law.growth.best(v.budget),
                "at_best": v.at(v.best) if inside else math.nan,
                "curvature": v.curvature,
                "status": v.status,
                "best_depth": v.best if inside else math.nan,
                "best_low": low,
                "best_high": high,
            }
        )
    return pd.DataFrame(rows)


def parameter_rows(law: Law) -> pd.DataFrame:
    """A row for each parameter of the law of quality and of the growth of best depth."""
    q, at = law.quality, magnitude(law.quality.middle)
    unit = Measure(law.studies[0].metric).unit
    known = "" if q.floor_known else "not identified: " if q.floor_fitted else "fixed at 0: "
    meanings = {
        "floor": ("E", f"{known}irreducible {unit}"),
        "level": ("E + A", f"{unit} of the best depth at N0 = {at}"),
        "exponent": ("α", "exponent of the rest in N, tokens growing in proportion"),
        "curvature": ("c", f"increase in {unit} one e-fold of depth away from the best"),
        "log_depth": ("best depth at N0", "by this formula"),
        "depth_exponent": (
            BY_ONE_VALLEY,
            "d log best depth / d log N by this formula, which has one curvature for all budgets",
        ),
    }
    rows: list[dict[str, Any]] = []
    for name, (symbol, meaning) in meanings.items():
        value, (low, high) = q.parameters[name], q.interval(name)
        if name == "log_depth":
            value, low, high = math.exp(value), raised(low), raised(high)
            if not (determined(low, high) and 1 <= value <= MOST_LAYERS):
                value = math.nan  # no model can have it
        if name == "depth_exponent" and not grows((low, high)):
            value, low, high = math.nan, -math.inf, math.inf
        if name == "level" and high > VAGUE * low:
            value, low, high = math.nan, -math.inf, math.inf
        fixed = name == "floor" and not q.floor_fitted
        text = depths if name == "log_depth" else spanned
        ends = None if fixed else text(low, high, 4)
        rows.append({"name": symbol, "value": value, "interval": ends, "told": meaning})
    if (line := law.growth) is not None:
        by = (
            f"; interval widened {line.widened:.1f} times, for the scatter of the points around it"
            if line.widened > 1
            else ""
        )
        meaning = f"the line through the budgets' best depths{by}"
        ends = spanned(*line.interval, 4)
        rows.append({"name": BY_LINE, "value": line.exponent, "interval": ends} | {"told": meaning})
    return pd.DataFrame(rows)


def predicted_rows(law: Law) -> pd.DataFrame:
    """The best depth predicted for published architectures, with its interval in words."""
    rows = law.predicted
    if law.growth is None:
        return rows
    ends = list(zip(rows.low, rows.high, strict=True))
    known = pd.Series([determined(*pair) for pair in ends], rows.index)
    return rows.assign(
        depth=rows.depth.where(known), interval=[depths(low, high, 1) for low, high in ends]
    )


FORMULA = "E + A (N / N0)^−α + c (log L − log L*(N))², log L*(N) linear in log N"

Part = tuple[str, Sequence[Column], Sequence[Sequence[Cell]]]


def parts(law: Law) -> list[Part]:
    """The tables: title, columns, cells."""
    larger = ("Compared with larger published models", PREDICTED, predicted_rows(law))
    described = (
        ("Best depth at each budget", BUDGETS, budget_rows(law)),
        *([] if law.growth is None else [larger]),
        (f"{law.studies[0].metric_title} = {FORMULA}", PARAMETERS, parameter_rows(law)),
    )
    return [(title, *printed_rows(rows, columns)) for title, columns, rows in described]


def forecasts_in_words(law: Law, written: Mapping[str, bytes]) -> list[str]:
    """What the files of forecasts say, each as part of a sentence."""
    if law.joined is None:
        return []
    return [joint_law.forecast_in_words(law.joined, content) for content in written.values()]


def unlike_headline(law: Law) -> list[str]:
    """Which of the two to believe, where the joint law and the headline say different things of
    whether the best depth grows."""
    assert law.joined is not None, "asked only where there is one"
    exponents = law.joined.exponents
    refuted = bool(exponents.refuted[exponents.exponent == 0].any())
    low, high = law.growth.interval if law.growth else (-math.inf, math.inf)
    resolved = low > 0 or high < 0
    if refuted == resolved:
        return []
    by_line = "resolves that it changes with N" if resolved else "does not resolve it"
    by_law = "refutes" if refuted else "does not refute"
    return [
        f"The headline differs: on whether the best depth changes at all, its line {by_line}, and "
        f"the joint law {by_law} 0.00, which is no change. Trust the headline, as it says why."
    ]


def joined_words(law: Law, forecasts: Sequence[str]) -> list[str]:
    """What the joint law says, with the forecasts that it is asked for."""
    said = [f"{text[0].upper()}{text[1:]}." for text in forecasts]
    return [*joint_law.words(law.joined), *unlike_headline(law), *said] if law.joined else []


def markdown(law: Law, forecasts: Sequence[str] = ()) -> str:
    """All sentences and tables in GitHub's Markdown."""
    tables = "".join(
        f"**{title}**\n\n{markdown_table(columns, rows)}\n" for title, columns, rows in parts(law)
    )
    said = " ".join([*opening(law), headline(law), *hedges(law)])
    joined = joined_words(law, forecasts)
    tables += f"{' '.join(joined)} [More](joint.md).\n\n" if joined else ""
    items = "".join(f"- {text}\n" for text in unknown(law))
    return f"{said}\n\n{on_embeddings(law)}\n\n{tables}What these runs cannot answer:\n\n{items}"


def latex(law: Law) -> str:
    """The tables for LaTeX with booktabs."""
    said = " ".join([*opening(law), headline(law)])
    lines = [f"% {escape(said)}", "% needs \\usepackage{booktabs}"]
    for title, columns, rows in parts(law):
        lines += [f"% {escape(title)}", latex_table(columns, rows)]
    return "\n".join([*lines, ""])


def runs_csv(law: Law) -> str:
    """Every run at full precision, with its residual under the valley and under the law."""
    frame = pd.concat([v.cells.assign(budget=v.budget) for v in law.valleys], ignore_index=True)
    frame = frame.drop(columns="key").rename(
        columns={"value": law.studies[0].metric, "residual": "valley_residual"}
    )
    frame = frame.assign(law_residual=law.quality.residuals.residual)
    first = ["budget", "depth", "seed"]
    ordered = frame[[*first, *(name for name in frame if name not in first)]]
    return csv_text(ordered)


def records(law: Law) -> bytes:
    """All records behind the page, as a `.tar.xz` to publish: from its unpacked files
    `python -m reports page=laws` makes the same page. Without the storage's URL."""
    files: dict[str, bytes] = {}
    for study in law.studies:
        facts = {**study.facts, "runs": "runs"}
        if "config" in facts:
            facts["config"] = {k: v for k, v in facts["config"].items() if k != "storage"}
        if "command" in facts:
            facts["command"] = command(facts)
        files[f"outputs/{study.name}/study.json"] = json.dumps(facts).encode()
        for key, record in study.records.items():
            files[f"runs/{key}/record.json"] = json.dumps(record.to_dict()).encode()
            if law.text is not None and key in law.text.covariance:
                files[f"runs/{key}/{WINDOWS}"] = (study.where / key / WINDOWS).read_bytes()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as archive:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def described(law: Law) -> dict[str, str]:
    """The figures for those who do not see them."""
    valleys = [(magnitude(v.budget), best_in_words(v)) for v in law.valleys]
    best = "; ".join(f"{budget}: best depth {depth}" for budget, depth in valleys)
    metric, left = law.studies[0].metric_title, law.quality.residuals.residual
    return {
        "depth": f"{metric} over layers, a valley for each budget. {best}.",
        "growth": f"Best depth over parameters, with published models. {headline(law)}",
        "residuals": f"Residuals over layers, from {left.min():.4f} to {left.max():.4f}.",
    }


def html(law: Law, forecasts: Sequence[str] = ()) -> str:
    """The page, complete with style, script, data and plotly.js, packed."""
    return fill(
        "laws.html.j2",
        law=law,
        opening=" ".join(opening(law)),
        title=headline(law),
        hedges=hedges(law),
        embeddings=on_embeddings(law),
        parts=[*parts(law), *(joint_law.parts(law.joined) if law.joined else [])],
        joined=joined_words(law, forecasts),
        unknown=unknown(law),
        facts=how_it_was_made(law),
        figures=packed(law_figures.interactive(law)),
        described=described(law),
        plotly=packed_plotly(),
    )


def render(law: Law, forecasts: Sequence[str] = ()) -> dict[str, bytes]:
    """The files of a law by name, with forecasts in words."""
    texts = {
        "report.html": html(law, forecasts),
        "table.md": markdown(law, forecasts),
        "table.tex": latex(law),
        "budgets.csv": csv_text(budget_rows(law)),
        "parameters.csv": csv_text(parameter_rows(law)),
        "runs.csv": runs_csv(law),
        **(joint_law.files(law.joined) if law.joined else {}),
    }
    files = {name: text.encode() for name, text in texts.items()} | law_figures.printed(
        law, " ".join(opening(law))
    )
    return files | {"records.tar.xz": records(law)}
