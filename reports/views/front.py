"""The front of a study with several objectives: its table in every form, its figures, and words."""

import json
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from ablations.stats.front import DOMINATED, FRONT, UNRESOLVED
from reports.read.study import Study, plain
from reports.show.about import in_columns, in_comments, in_list
from reports.show.figures import SERIES, Json, print_files, xy
from reports.show.tables import (
    Cell,
    csv_text,
    decimals,
    figures,
    intervals,
    latex_float,
    latex_table,
    markdown_table,
    printed_rows,
    signed,
    slug,
    whole,
)
from reports.views.trials import about
from reports.weigh.answer import budget_words
from reports.weigh.front import ONCE, Front, in_words
from reports.weigh.worth import warning
from search.objectives import hint_of
from space.tables import Column
from space.words import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKS = {
    FRONT: ("var(--series-1)", "circle", SERIES[0]),
    UNRESOLVED: ("var(--series-2)", "circle-open", SERIES[1]),
    DOMINATED: ("var(--soft)", "x-thin-open", "#63666b"),
    ONCE: ("var(--line)", "circle-open", "#b4b6ba"),
}
"""Of each verdict: colour and symbol on the page, colour in print."""
PRINTED = {FRONT: "o", UNRESOLVED: "o", DOMINATED: "x", ONCE: "o"}
TEXT = "of this mean alone, had other text of the same kind been held out"
NAMED = {FRONT: "on the front", UNRESOLVED: "unresolved", DOMINATED: "dominated", ONCE: ONCE}


def columns(study: Study, front: Front) -> list[Column]:
    """Of the table of the front: what a phone shows without scrolling comes first."""
    measured = [name for name in front.objectives if name not in front.exact]
    rest = "the other objectives" if len(measured) == 1 else "exact objectives"
    shown = [
        Column("verdict", "verdict", lambda v: NAMED[v], "all hold together at 95%", numeric=False),
        Column("depth", "layers", whole, "layers executed"),
        Column("width", "width", whole, "hidden_size"),
        Column("series", "other axes", str, numeric=False),
    ]
    around = []
    for name in front.objectives:
        quantity, at, where = name.partition("@")
        heading = f"{quantity.replace('_', ' ')}{f' {at} {where}' if at else ''}"
        text = decimals(4) if name in measured else figures(4)
        shown.append(Column(name, heading, text, hint_of(study.measures[name])))
        if name in measured:
            of, alone = f"95% interval of {heading}", "of this mean alone, not simultaneous"
            around.append(Column(f"{name}.interval", of, str, alone, numeric=False))
            on_text = Column(f"{name}.text", f"{of} on such text", str, TEXT, numeric=False)
            around.append(on_text)
    behind = f"to the best that is as good in {rest}; negative is ahead of all of these"
    return [
        *shown,
        Column("n", "n", whole, "seeds that compare it"),
        *around,
        Column("diff", "behind", signed(4), behind),
        Column("interval", "95% interval of it", str, "simultaneous over all rows", numeric=False),
        Column("rival", "rival", str, f"the strongest that is as good in {rest}", numeric=False),
    ]


def rows(study: Study, front: Front) -> tuple[list[Column], list[list[Cell]]]:
    """The table: columns that hold anything, and a row an architecture."""
    frame = front.arms.copy()
    frame["series"] = frame.series.replace("", None)
    frame["interval"] = intervals(frame.ci_low, frame.ci_high, signed(4))
    for name in front.objectives:
        if f"{name}.low" in frame:
            ends = frame[f"{name}.low"], frame[f"{name}.high"]
            frame[f"{name}.interval"] = intervals(*ends, decimals(4))
        if f"{name}.text_low" in frame:
            ends = frame[f"{name}.text_low"], frame[f"{name}.text_high"]
            frame[f"{name}.text"] = intervals(*ends, decimals(4))
    return printed_rows(frame, columns(study, front))


def files(study: Study, front: Front) -> dict[str, bytes]:
    """`front.md`, `.csv`, `.tex`, `.json`, `.png` and `.pdf`."""
    words = in_words(front)
    content = {
        "study": study.name,
        "objectives": [study.measures[name] for name in front.objectives],
        "seeds": list(front.seeds),
        "answer": words,
        "architectures": [plain(row) for row in front.arms.astype(object).to_dict("records")],
        "hypervolume": front.volume.to_dict("records"),
    }
    shown, cells = rows(study, front)
    known = about(study)
    caption = f"Front of study {study.name}: {budget_words(study)}. {' '.join(words)}"
    tabular = latex_table(shown, cells)
    float_ = latex_float(caption, tabular, label=f"{slug(study.name)}-front")
    texts = {
        "front.md": f"{' '.join(words)}\n\n{markdown_table(shown, cells)}\n{in_list(known)}",
        "front.csv": csv_text(front.arms.assign(**in_columns(known))),
        "front.tex": "\n".join([*in_comments(known), *float_]),
        "front.json": json.dumps(plain(content), indent=1, ensure_ascii=False) + "\n",
    }
    made = {name: text.encode() for name, text in texts.items()}
    return made | print_files("front", lambda: _print(study, front), warning(study))


def axes_of(front: Front) -> tuple[str, str]:
    """The objectives of the figure: across, one that is exact if there is one; upwards, the
    first."""
    first, *others = front.objectives
    across = next((name for name in others if name in front.exact), others[0])
    return across, first


def staircase(front: Front) -> pd.DataFrame:
    """The means that no other mean dominates in the figure's two objectives, across."""
    across, up = axes_of(front)
    signs = [1 if front.objectives[name] else -1 for name in (across, up)]
    found = front.arms[[across, up]].mul(signs).sort_values([across, up], ignore_index=True)
    kept = found[found[up] < found[up].cummin().shift(fill_value=float("inf"))]
    return kept.mul(signs)


def drawn(study: Study, front: Front) -> dict[str, Json]:
    """The figures of the page, by the id of their place."""
    return {"front": _front(study, front), "hypervolume": _hypervolume(front)}


def described(study: Study, front: Front) -> dict[str, str]:
    """The figures for those who do not see them."""
    share = float(front.volume.share.iloc[-1]) if len(front.volume) else 0.0
    across, up = (study.measures[name]["title"] for name in axes_of(front))
    tried = count(len(front.volume), "architecture")
    return {
        "front": f"{up} against {across}. {' '.join(in_words(front))}",
        "hypervolume": f"Hypervolume after {tried}: {share:.2f}.",
    }


def _front(study: Study, front: Front) -> Json:
    across, up = axes_of(front)
    steps = staircase(front)
    shape = {"shape": "hv" if front.objectives[across] else "vh", "dash": "dot", "width": 1.2}
    line = {"color": "var(--soft)", **shape}
    data = [xy(steps[across], steps[up], mode="lines", line=line)]
    data[0] |= {"hoverinfo": "skip", "showlegend": False}
    for verdict, (color, symbol, _) in MARKS.items():
        arms = front.arms[front.arms.verdict == verdict]
        if arms.empty:
            continue
        marker = {"color": color, "symbol": symbol, "size": 9, "line": {"color": color, "width": 2}}
        data.append(
            xy(arms[across], arms[up], mode="markers", marker=marker)
            | {"customdata": arms.arm.tolist()}
            | {"name": NAMED[verdict], "text": _hover(study, front, arms), "hoverinfo": "text"}
            | _bars(arms, up, "error_y", color)
            | _bars(arms, across, "error_x", color)
        )
    layout = {
        "xaxis": {"title": {"text": study.measures[across]["title"]}},
        "yaxis": {"title": {"text": study.measures[up]["title"], "standoff": 14}},
        "showlegend": True,
        "hovermode": "closest",
    }
    figure: Json = plain({"data": data, "layout": layout})
    return figure


def _bars(arms: pd.DataFrame, name: str, bars: str, color: str) -> Json:
    if f"{name}.low" not in arms or arms[f"{name}.low"].isna().all():
        return {}
    above, below = arms[f"{name}.high"] - arms[name], arms[name] - arms[f"{name}.low"]
    ends = {"array": above.tolist(), "arrayminus": below.tolist()}
    return {bars: {**ends, "color": color, "thickness": 1.4, "width": 4}}


def _hover(study: Study, front: Front, arms: pd.DataFrame) -> list[str]:
    found = []
    for arm in arms.to_dict("records"):
        values = [f"{arm[name]:.5g} {study.measures[name]['unit']}" for name in front.objectives]
        found.append("<br>".join([f"<b>{arm['label']}</b>", NAMED[arm["verdict"]], *values]))
    return found


def _hypervolume(front: Front) -> Json:
    tried = list(range(1, len(front.volume) + 1))
    line = {"color": "var(--series-1)", "shape": "hv", "width": 1.6}
    layout = {
        "xaxis": {"title": {"text": "Architectures tried"}},
        "yaxis": {"title": {"text": "Hypervolume", "standoff": 14}, "range": [0, 1.02]},
        "showlegend": False,
    }
    figure: Json = plain({"data": [xy(tried, front.volume.share, mode="lines", line=line)]})
    return figure | {"layout": layout}


def _print(study: Study, front: Front) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.subplots()
    across, up = axes_of(front)
    steps = staircase(front)
    where: Literal["post", "pre"] = "post" if front.objectives[across] else "pre"
    axes.step(steps[across], steps[up], where=where, color="#63666b", ls=":", lw=1.0, zorder=1)
    for verdict in MARKS:
        _print_marks(axes, front.arms[front.arms.verdict == verdict], verdict, across, up)
    axes.set_xlabel(study.measures[across]["title"])
    axes.set_ylabel(study.measures[up]["title"])
    axes.set_title(budget_words(study), fontsize=10, loc="left")
    axes.spines["top"].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return figure


def _print_marks(axes: "Axes", arms: pd.DataFrame, verdict: str, across: str, up: str) -> None:
    if arms.empty:
        return
    style: dict[str, Any] = {"ms": 5, "lw": 0, "capsize": 2.5, "elinewidth": 1.0}
    style |= {} if verdict == FRONT else {"mfc": "white"}
    bars: Any = [
        None
        if f"{name}.low" not in arms or arms[f"{name}.low"].isna().all()
        else [arms[name] - arms[f"{name}.low"], arms[f"{name}.high"] - arms[name]]
        for name in (across, up)
    ]
    axes.errorbar(
        arms[across],
        arms[up],
        xerr=bars[0],
        yerr=bars[1],
        fmt=PRINTED[verdict],
        color=MARKS[verdict][2],
        label=NAMED[verdict],
        **style,
    )
