"""How often planted effects are found and equal arms get a false verdict, by simulation alone."""

import pandas as pd

from ablations.stats.calibration import SEEDS_AUTO, TABLES, extended, power, unequal, ways
from reports.show.tables import Cell, decimals, markdown_table, percent
from reports.views import Shown
from reports.views.calibration import DESIGN, csv_bytes, explained, printed, with_interval
from reports.weigh.table import Report
from space.tables import Column

POWER = (
    *DESIGN,
    Column("effect", "effect", decimals(1), "planted in one arm, in standard deviations of a run"),
    Column("computed", "computed power", percent(1), "the MDD is derived from it"),
    Column("pooled", "found, pooled", percent(1), "simulated, equal standard deviations assumed"),
    Column("found", "found", percent(1), "simulated, with the rule in use"),
    Column("interval", "95% interval", str, "of the rate found", numeric=False),
    Column("mdd", "MDD", decimals(2), "effect with a computed power of 80%, in the same unit"),
)
WAYS = (
    *DESIGN,
    Column("paired_t", "paired t needs", decimals(1), "one paired t per arm, Bonferroni over them"),
    Column("paired", "it finds", decimals(1), "difference that it finds with 80% power"),
    Column("pooled", "pooled finds", decimals(1), "one standard deviation for all arms, Dunnett"),
    Column(
        "rule",
        "rule finds",
        decimals(1),
        "the rule in use: all three estimates of the standard deviation",
    ),
)
EXTENDED = (
    DESIGN[0],
    Column("looks", "looks at", str, "seeds of each arm at each look", numeric=False),
    Column("level", "spent at the last", percent(2), "the error that the last look compares at"),
    Column("each", "each at 5%", percent(1), "false tables, every look read at 5%"),
    Column("told", "first at 5%", percent(1), "the first look at 5%, further ones at their share"),
    Column("spent", "spent", percent(1), "every look at its share of the 5%"),
    Column("last", "last alone", percent(1), "the last look alone at 5%, whatever the first said"),
)


def power_files(tables: int = TABLES) -> dict[str, bytes]:
    """The files of `table=power`: no run is needed."""
    found = with_interval(power(tables))
    false, needed, longer = unequal(tables), ways(), extended(tables)
    worst = false.iloc[int(false.rule.argmax())]
    text = (
        "Simulated with normal errors. The standard deviations of errors and seeds change no "
        "rate.\n\n**What a verdict requires**, in standard deviations of a difference between two "
        f"runs of a seed\n\n{printed(WAYS, needed)}\n"
        "**Planted effects and how often they are found**, where one arm differs and all have "
        f"the same standard deviation\n\n{printed(POWER, found)}\n"
        f"{explained((*WAYS, *POWER))}\n"
        "**Tables with a false verdict, of arms that differ only in their standard deviation**, "
        f"by arms × seeds (looks at {SEEDS_AUTO}: `seeds=auto`), of {tables:,} each; in brackets "
        "with equal standard deviations assumed\n\n"
        f"{_by_design(false)}\n"
        f"The worst is {percent(1)(worst.rule)}, with an upper 95% bound of "
        f"{percent(1)(worst.upper)}; with equal standard deviations the highest upper "
        f"bound is "
        f"{percent(1)(false.upper[false.spread == 'equal'].max())}.\n\n"
        "**Tables of equal arms that get more seeds until something is resolved**: with a false "
        f"verdict at any look, of {tables:,} each\n\n{printed(EXTENDED, longer)}\n"
        f"{explained(EXTENDED)}"
    )
    frames = {"table.csv": found, "unequal.csv": false, "ways.csv": needed}
    frames["extended.csv"] = longer
    return {"table.md": text.encode()} | {name: csv_bytes(frame) for name, frame in frames.items()}


def _by_design(false: pd.DataFrame) -> str:
    """One row per pattern of standard deviations, one column per design."""
    designs = false.arms.astype(str) + " × " + false.seeds
    rates = [
        percent(1)(rule) + (f" ({percent(1)(pooled)})" if pooled == pooled else "")
        for rule, pooled in zip(false.rule, false.pooled, strict=True)
    ]
    frame = false.assign(design=designs, rate=rates)
    wide = frame.pivot(index="spread", columns="design", values="rate")
    wide = wide.loc[frame.spread.unique(), designs.unique()].reset_index()
    columns = [
        Column("spread", "spread", str, numeric=False),
        *[Column(design, design, str) for design in designs.unique()],
    ]
    shown = [[Cell(str(value), "", False) for value in row] for row in wide.to_numpy()]
    return markdown_table(columns, shown)


class Power:
    """The view of simulated power, for which no run is needed."""

    def show(self, report: Report) -> Shown:
        return Shown(power_files(), [f"table: {report.folder / 'table.md'}"])


VIEW = Power()
