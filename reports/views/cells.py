"""Published cells judged again: the verdicts of a `cells.csv` or `trials.csv`, at the level of the
looks that it had. Intervals lack the choice of held-out windows, of which cells say nothing."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ablations.stats.effects import compare
from ablations.stats.looks import Looks
from ablations.stats.trust import FEWEST_SEEDS, Target
from reports.show.tables import intervals, markdown_table, printed_rows, signed
from reports.views.arm_columns import COLUMNS, at_a_look
from search.objectives import USUAL
from search.states import Status

SHOWN = ("arm", "verdict", "mean", "diff", "interval", "of", "p_adjusted", "mdd")


def judged(path: Path, looks: Sequence[int] = (), baseline: str | None = None) -> str:
    """A table in Markdown for each panel of the file: every arm against the baseline.

    Raises:
        ValueError: no such file, or one without arms, seeds and bits per byte, looks that do not
            fit, or no baseline.
    """
    frame = read(path)
    now = int(frame.groupby("arm").seed.nunique().max())
    had = Looks.given(list(looks), now) if looks else Looks.of([], now)
    unsaid = "" if looks else ", if that was the only one; cells do not say, looks=[…] does"
    parts = [f"Looks: {had.words}{unsaid}.\n"]
    for name, panel in frame.groupby("panel", sort=False):
        parts += [f"**{name!s}**\n"] if name else []
        parts.append(_table(panel, path, had, baseline))
        parts += [_pairs(panel, had)] if now >= FEWEST_SEEDS else []
    return "\n".join(parts)


def read(path: Path) -> pd.DataFrame:
    """`panel arm seed` and bits per byte of each run; the arms of a search are its depths."""
    if not path.is_file():
        raise ValueError(f"cells must name a CSV file, but there is no {path}")
    try:
        frame = pd.read_csv(path, keep_default_na=False, na_values={USUAL: ""})
    except ValueError:  # of pandas, which says where its parser stopped
        raise ValueError(
            f"cells must name a CSV file, but {path} is none; give a cells.csv of a table, or the "
            "trials.csv of a study over depths"
        ) from None
    lacks = [name for name in ("arm", "seed", USUAL) if name not in frame]
    if lacks:
        raise ValueError(
            f"{path} must have the columns arm, seed and {USUAL}, but lacks {', '.join(lacks)}; "
            "give a cells.csv of a table, or the trials.csv of a study over depths"
        )
    if "num_hidden_layers" in frame:
        frame["arm"] = frame.num_hidden_layers.astype(str) + " layers"
        frame = frame[frame.status == Status.FINISHED].drop_duplicates(["arm", "seed"])
    return frame if "panel" in frame else frame.assign(panel="")


def _table(panel: pd.DataFrame, path: Path, had: Looks, baseline: str | None) -> str:
    name = str(panel.panel.iloc[0])
    rows = compare(panel, baseline or _baseline(path, name), USUAL, level=had.level)
    rows = rows.assign(
        interval=intervals(rows.ci_low, rows.ci_high, signed(4)),
        diff=rows["diff"].where(rows.verdict != "baseline"),
        of=rows.n.astype(str),
    )
    known = [at_a_look(column, had.level) for column in COLUMNS]
    columns = [column for name in SHOWN for column in known if column.name == name]
    return markdown_table(*printed_rows(rows, columns))


def _baseline(path: Path, panel: str) -> str:
    beside = path.parent / "table.csv"
    if beside.is_file():
        table = pd.read_csv(beside, keep_default_na=False)
        found = table.baseline[table.panel == panel].unique()
        if len(found) == 1:
            return str(found[0])
    raise ValueError(
        f"baseline must name the arm that others are compared with, but got none, and no table.csv "
        f"beside {path} names it; give baseline=ARM"
    )


def _pairs(panel: pd.DataFrame, had: Looks) -> str:
    """How many pairs judging seeds resolve, as in a table of trust."""
    values = panel.pivot(index="arm", columns="seed", values=USUAL)
    target = Target.of(values, had.level)
    arms = len(target.arms)
    pairs = abs(target.resolved).sum() / 2 / len(target.seeds)
    return (
        f"With one seed left out {pairs:.1f} of {arms * (arms - 1) // 2} pairs are resolved on "
        "average.\n"
    )
