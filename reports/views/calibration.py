"""How far our verdicts can be trusted: simulated error rates and power, and what a table of equal
arms says of the model's assumptions."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd
from scipy import stats

from ablations.stats.calibration import (
    SEEDS_AUTO,
    TABLES,
    Rate,
    aa_test,
    power,
    sequential_aa_test,
    unequal,
    ways,
)
from ablations.stats.effects import Spread, compare, equal_spread, residuals, spreads
from reports.show.tables import (
    Cell,
    Column,
    csv_text,
    decimals,
    intervals,
    markdown_table,
    percent,
    printed_rows,
    probability,
    whole,
)
from reports.views.ablation import Panel, Report
from reports.weigh.answer import UNITS

LOUD = 0.05
"""Chance that a table of equally spread arms is told to have a loud one (Bonferroni)."""
DESIGN = (
    Column("arms", "arms", whole, "the baseline among them"),
    Column("seeds", "seeds", str, "of each arm", numeric=False),
)
POWER = (
    *DESIGN,
    Column("effect", "effect", decimals(1), "planted in one arm, in standard deviations of a run"),
    Column("computed", "computed power", percent(1), "what the MDD rests on"),
    Column("pooled", "found, pooled", percent(1), "simulated, equal spread taken for granted"),
    Column("found", "found", percent(1), "simulated, by the rule in use"),
    Column("interval", "95% interval", str, "of the rate found", numeric=False),
    Column("mdd", "MDD", decimals(2), "effect with a computed power of 80%, in the same unit"),
)
FALSE = (
    *DESIGN,
    Column("spread", "spread", str, "which arms spread more than the others", numeric=False),
    Column("pooled", "pooled", percent(1), "tables with a false verdict, equal spread assumed"),
    Column("rule", "rule", percent(1), "tables with a false verdict by the rule in use"),
    Column("interval", "95% interval", str, "of the rule's rate", numeric=False),
    Column("upper", "upper bound", percent(1), "one-sided 95% bound of the rule's rate"),
    Column("tables", "tables", whole, "tables simulated"),
)
WAYS = (
    *DESIGN,
    Column("paired_t", "paired t needs", decimals(1), "one paired t per arm, Bonferroni over them"),
    Column("paired", "it finds", decimals(1), "the difference that this finds four times in five"),
    Column("pooled", "pooled finds", decimals(1), "one spread for all arms, Dunnett"),
    Column("rule", "rule finds", decimals(1), "the rule in use: all three spreads"),
)
CHECKS = (
    Column("check", "check", str, "of the real runs", numeric=False),
    Column("value", "value", str, "what was found", numeric=False),
    Column("p", "p", probability, "of what was found, if the assumption holds"),
    Column("expected", "expected", str, "if the assumption holds", numeric=False),
)


def power_files(tables: int = TABLES) -> dict[str, bytes]:
    """The files of `table=power`: no run is needed."""
    found = _with_interval(power(tables))
    false, needed = unequal(tables), ways()
    worst = false.iloc[int(false.rule.argmax())]
    text = (
        "Simulated with normal errors. The spreads of errors and seeds change no rate.\n\n"
        "**What a verdict takes**, in standard deviations of a difference between two runs of a "
        f"seed\n\n{_printed(WAYS, needed)}\n"
        "**Planted effects and how often they are found**, where one arm differs and all spread "
        f"equally\n\n{_printed(POWER, found)}\n"
        f"{_told((*WAYS, *POWER))}\n"
        "**Tables with a false verdict, of arms that are equal but for their spread**, by arms × "
        f"seeds (looks at {SEEDS_AUTO}: `seeds=auto`), of {tables:,} each; in brackets with equal "
        "spread taken for granted\n\n"
        f"{_by_design(false)}\n"
        f"The worst is {percent(1)(worst.rule)}, with an upper 95% bound of "
        f"{percent(1)(worst.upper)}; with equal spread the highest upper bound is "
        f"{percent(1)(false.upper[false.spread == 'equal'].max())}.\n"
    )
    frames = {"table.csv": found, "unequal.csv": false, "ways.csv": needed}
    return {"table.md": text.encode()} | {name: _csv(frame) for name, frame in frames.items()}


def _by_design(false: pd.DataFrame) -> str:
    """A row a pattern of spreads, a column a design."""
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


def is_aa_test(report: Report) -> bool:
    """Whether all arms of a table are equal but for their initial weights."""
    return report.equal_arms and len(report.panels) == 1


def aa_files(report: Report, tables: int = TABLES) -> dict[str, bytes]:
    """What a table of equal arms leaves besides: simulation with the spreads of its runs, and
    whether these bear out the model. Without enough runs only a line that says so."""
    (panel,) = report.panels
    frame = report.cells.rename(columns={report.metric: "value"})
    try:
        spread = spreads(frame, "value")
    except ValueError as error:
        return {"calibration.md": f"Nothing to calibrate with yet: {error}\n".encode()}
    arms, seeds = frame.arm.nunique(), frame.seed.nunique()
    false = _with_interval(_false(spread, arms, seeds, tables))
    checks = pd.DataFrame(real_checks(panel, frame))
    text = (
        f"{report.caption}\n\nSpreads fitted to the runs: {spread.residual:.5f} "
        f"{UNITS[report.metric]} of a run's error, {spread.seed:.5f} of what a seed adds to all "
        f"arms.\n\n**False verdicts of equal arms, simulated**\n\n{_printed(FALSE, false)}\n"
        f"**The real runs**\n\n{_printed(CHECKS, checks)}\n{_told((*FALSE, *CHECKS))}"
    )
    fits = pd.DataFrame([asdict(spread) | {"arms": arms, "seeds": seeds}])
    return {
        "calibration.md": text.encode(),
        "calibration.csv": _csv(false),
        "checks.csv": _csv(checks),
        "spread.csv": _csv(fits),
    }


def real_checks(panel: Panel, frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The assumptions, each with what the runs say of it.

    Shapiro and Wilk's test takes residuals for independent, which those of a table are only nearly.
    """
    rows = compare(frame, panel.baseline, "value")
    told = int(rows.verdict.isin(["better", "worse"]).sum())
    left = residuals(frame, "value").to_numpy().ravel()
    left = left[left == left]
    normal = stats.shapiro(left)
    flagged = ", ".join(
        f"{arm} seed {seeds}" for arm, seeds in zip(rows.arm, rows.outliers, strict=True) if seeds
    )
    tests = rows.spread_p.notna().sum()
    loud = ", ".join(rows.arm[rows.spread_p * tests < LOUD])
    return [
        {
            "check": "verdicts",
            "value": f"{told} of {len(rows) - 1}",
            "p": float(rows.p_adjusted.min()),
            "expected": "none",
        },
        {
            "check": "errors are normal",
            "value": f"W = {normal.statistic:.4f}",
            "p": float(normal.pvalue),
            "expected": "p above 0.05",
        },
        {
            "check": "arms spread equally",
            "value": f"loud: {loud}" if loud else "no loud arm",
            "p": equal_spread(frame, "value"),
            "expected": "p above 0.05",
        },
        {
            "check": "outliers",
            "value": flagged or "none",
            "p": None,
            "expected": "none in 95% of tables",
        },
    ]


def _false(spread: Spread, arms: int, seeds: int, tables: int) -> pd.DataFrame:
    """False verdicts of equal arms, with all seeds at once and with `seeds=auto`."""
    return pd.DataFrame(
        [
            _rate(arms, str(seeds), aa_test(spread, arms, seeds, tables=tables)),
            _rate(arms, SEEDS_AUTO, sequential_aa_test(spread, arms, tables=tables)),
        ]
    )


def _rate(arms: int, seeds: str, rate: Rate) -> dict[str, Any]:
    low, high = rate.interval
    found = {"arms": arms, "seeds": seeds, "spread": "equal", "rule": rate.rate}
    return found | {"low": low, "high": high, "upper": rate.upper, "tables": rate.tables}


def _with_interval(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(interval=intervals(rows.low, rows.high, percent(1)))


def _printed(columns: Sequence[Column], rows: pd.DataFrame) -> str:
    return markdown_table(*printed_rows(rows, columns))


def _told(columns: Sequence[Column]) -> str:
    named = {column.heading: column for column in columns}
    return "".join(f"- **{column.heading}**: {column.hint}\n" for column in named.values())


def _csv(rows: pd.DataFrame) -> bytes:
    return csv_text(rows.drop(columns="interval", errors="ignore")).encode()
