"""The page of a law of sharing (`reports.weigh.sharing`): its words, table and figure."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from reports.read.study import plain
from reports.show.figures import SERIES, Json, print_files, xy
from reports.show.html import packed, packed_plotly
from reports.show.recipes import recipe_in_words
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
from reports.weigh.sharing import FEWEST_FOR_FLOOR, NONE, PUBLISHED, SharingLaw
from reports.weigh.worth import smoke_line
from space.tables import Column
from space.words import command, count, join, magnitude

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS = 60
"""Of the curve."""
MOST_NAMED = 3
"""Patterns in the headline."""
SOFT = "#63666b"
SYMBOLS = {"circle": "o", "diamond": "D", "square": "s", "triangle-up": "^"}
"""Plotly's names of them and matplotlib's; the first is for what shares nothing."""
COLUMNS = (
    Column("pattern", "pattern", str, numeric=False),
    Column("phi", "φ", decimals(2), "1: as good as blocks of its own; 0: as one executed once"),
    Column("interval", "95% interval", str, "from refits to residuals drawn again", numeric=False),
    Column("worth", "2 executions count", decimals(2), "as so many blocks: 2 to the power of φ"),
    Column("repeats", "executions", str, "of a shared block, at most", numeric=False),
    Column("layers", "layers", str, "executed", numeric=False),
    Column("runs", "runs", whole),
    Column("seeds", "seeds", whole),
)


def opening(law: SharingLaw) -> list[str]:
    """What comes before the answer: that it means nothing, where runs are too short for one."""
    sizes = law.runs.weights.map(lambda weights: sum(weights.values()))
    return smoke_line(law.runs.assign(parameters=sizes))


def headline(law: SharingLaw) -> str:
    """Phi of each pattern, in a sentence; of many the lowest and the highest."""
    said = "A block executed r times counts as r^φ blocks"
    known = sorted(filter(law.known, law.patterns), key=law.parameters.__getitem__)
    if len(law.patterns) <= MOST_NAMED or len(known) < 2:
        return f"{said}: {join(_phis(law, law.patterns))}."
    low, high = _phis(law, (known[0], known[-1]))
    return f"{said}: of {len(law.patterns)} patterns from {low} to {high}."


def _phis(law: SharingLaw, patterns: Sequence[str]) -> list[str]:
    found = []
    for pattern in patterns:
        said = f"{_signed(law.parameters[pattern])} ({_interval(law, pattern)})"
        found.append(f"{pattern} φ = {said}" if law.known(pattern) else f"{pattern} not determined")
    return found


def _interval(law: SharingLaw, pattern: str) -> str:
    return " to ".join(map(_signed, law.interval(pattern)))


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def hedges(law: SharingLaw) -> list[str]:
    """What the numbers assume, and what they are not."""
    unshared = law.runs[law.runs.pattern == NONE]
    sizes = [sum(weights.values()) for weights in unshared.weights]
    shared = law.runs[law.runs.pattern != NONE]
    floor = (
        f"E, below which no size gets, is fitted: {law.parameters['floor']:.3f}."
        if law.floor_fitted
        else f"E, below which no size gets, is held at 0: fitting it needs {FEWEST_FOR_FLOOR} "
        "sizes."
    )
    return [
        f"By {count(len(law.runs), 'run')} of {magnitude(min(sizes))} to {magnitude(max(sizes))} "
        f"weights on {law.runs.tokens.iloc[0]:,.0f} tokens each.",
        f"Published is {PUBLISHED} over 116 larger and longer runs (arXiv:2604.21106).",
        floor,
        f"Layers executed are {_span(shared.layers)} with sharing and {_span(unshared.layers)} "
        "without: where these differ, φ has an effect of depth in it.",
        *_of_rates(law),
    ]


def _of_rates(law: SharingLaw) -> list[str]:
    """What intervals assume, and how learning rates were chosen."""
    notes = {source.note for source in law.studies if source.note}
    if len(notes) < len(law.studies):
        return ["Intervals assume that the law holds and that each has a rate that suits it."]
    return ["Intervals assume that the law holds.", *sorted(notes)]


def _span(values: "pd.Series[int]") -> str:
    low, high = values.min(), values.max()
    return str(low) if low == high else f"{low} to {high}"


def rows(law: SharingLaw) -> pd.DataFrame:
    """A row for each pattern."""
    found = []
    for pattern in law.patterns:
        runs, (low, high) = law.runs[law.runs.pattern == pattern], law.interval(pattern)
        found.append(
            {
                "pattern": pattern,
                "phi": law.parameters[pattern],
                "low": low,
                "high": high,
                "interval": _interval(law, pattern) if law.known(pattern) else "not determined",
                "worth": 2 ** law.parameters[pattern],
                "repeats": _span(runs.repeats),
                "layers": _span(runs.layers),
                "runs": len(runs),
                "seeds": runs.seed.nunique(),
            }
        )
    return pd.DataFrame(found)


def _table(law: SharingLaw) -> tuple[list[Column], list[list[Cell]]]:
    return printed_rows(rows(law), COLUMNS)


def curve(law: SharingLaw) -> tuple[list[float], list[float]]:
    """The law over effective weights."""
    low, high = law.runs.effective.min(), law.runs.effective.max()
    effective = np.geomspace(0.95 * low, 1.05 * high, POINTS)
    floor, level = law.parameters["floor"], law.parameters["level"]
    values = floor + (level - floor) * (effective / law.middle) ** -law.parameters["alpha"]
    return effective.tolist(), values.tolist()


def _drawn(law: SharingLaw) -> Json:
    line = {"color": "var(--soft)", "width": 1.2}
    data = [xy(*curve(law), mode="lines", line=line, hoverinfo="skip", showlegend=False)]
    for number, pattern in enumerate([NONE, *law.patterns]):
        runs = law.runs[law.runs.pattern == pattern]
        color, symbol = _style(number)
        shown = "var(--soft)" if color is None else f"var(--series-{color + 1})"
        marker = {"color": shown, "symbol": symbol, "size": 7}
        text = [
            f"{pattern}, {n} layers, seed {s}" for n, s in zip(runs.layers, runs.seed, strict=True)
        ]
        data.append(
            xy(runs.effective, runs.value, mode="markers", marker=marker)
            | {"name": pattern, "text": text, "hoverinfo": "text"}
        )
    title = law.studies[0].metric_title
    layout = {
        "xaxis": {"title": {"text": "Effective weights"}, "type": "log"},
        "yaxis": {"title": {"text": title, "standoff": 14}},
        "showlegend": True,
        "hovermode": "closest",
    }
    figure: Json = plain({"data": data, "layout": layout})
    return figure


def _style(number: int) -> tuple[int | None, str]:
    """Of a group of runs the number of its colour, none for what shares nothing, and its symbol:
    there are fewer colours than patterns."""
    if number == 0:
        return None, "circle"
    return (number - 1) % len(SERIES), list(SYMBOLS)[1 + (number - 1) // len(SERIES) % 3]


def _print(law: SharingLaw) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(*curve(law), color=SOFT, lw=1.0, zorder=1)
    for number, pattern in enumerate([NONE, *law.patterns]):
        runs = law.runs[law.runs.pattern == pattern]
        color, symbol = _style(number)
        shown = SOFT if color is None else SERIES[color]
        marker = SYMBOLS[symbol]
        axes.scatter(
            runs.effective, runs.value, 18, shown, marker=marker, alpha=0.8, lw=0, label=pattern
        )
    axes.set_xscale("log")
    axes.set_xlabel("Effective weights")
    axes.set_ylabel(law.studies[0].metric_title)
    axes.spines["top"].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return figure


def render(law: SharingLaw) -> dict[str, bytes]:
    """The files of a law of sharing by name."""
    shown, cells = _table(law)
    said = [*opening(law), headline(law), *hedges(law)]
    content = {
        "studies": [study.name for study in law.studies],
        "answer": said,
        "parameters": law.parameters,
        "patterns": rows(law).to_dict("records"),
    }
    texts = {
        "report.html": _html(law, shown, cells),
        "table.md": f"{' '.join(said)}\n\n{markdown_table(shown, cells)}",
        "table.tex": "\n".join(
            [
                f"% {escape(' '.join([*opening(law), headline(law)]))}",
                "% needs \\usepackage{booktabs}",
                latex_table(shown, cells),
                "",
            ]
        ),
        "table.json": json.dumps(plain(content), indent=1, ensure_ascii=False) + "\n",
        "table.csv": csv_text(rows(law)),
        "runs.csv": csv_text(law.runs.assign(weights=law.runs.weights.map(json.dumps))),
    }
    return {name: text.encode() for name, text in texts.items()} | print_files(
        "sharing", lambda: _print(law), " ".join(opening(law))
    )


def _html(law: SharingLaw, shown: list[Column], cells: list[list[Cell]]) -> str:
    recipe = law.studies[0].recipe
    assert recipe is not None, "a law has runs"
    names = [study.name for study in law.studies]
    return fill(
        "sharing_law.html.j2",
        name=", ".join(names),
        command=command("reports", "page=sharing_law", f"study=[{','.join(names)}]"),
        opening=" ".join(opening(law)),
        title=headline(law),
        hedges=hedges(law),
        columns=shown,
        rows=cells,
        metric=law.studies[0].metric_title,
        recipe=recipe_in_words(recipe),
        figures=packed({"sharing": _drawn(law)}),
        described={"sharing": f"{law.studies[0].metric_title} over weights. {headline(law)}"},
        plotly=packed_plotly(),
    )
