"""How far our verdicts can be trusted: simulated error rates and power, and what a table of equal
arms says of the model's assumptions."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd
from scipy import stats

from ablations.calibration import (
    TABLES,
    UNEQUAL_TABLES,
    Rate,
    Spread,
    aa_test,
    fitted,
    power,
    sequential_aa_test,
    unequal,
)
from ablations.effects import compare, equal_spread, residuals
from reports.ablation import Panel, Report
from reports.tables import (
    Column,
    decimals,
    markdown_table,
    percent,
    printed_rows,
    probability,
    whole,
)

EQUAL_DESIGN = (12, 6)
"""Arms × seeds of the smallest table of equal arms that is taken for a calibration."""
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
CHECKS = (
    Column("check", "check", str, "of the real runs", numeric=False),
    Column("value", "value", str, "what was found", numeric=False),
    Column("p", "p", probability, "of what was found, if the assumption holds"),
    Column("expected", "expected", str, "if the assumption holds", numeric=False),
)


def power_files(tables: int = UNEQUAL_TABLES) -> dict[str, bytes]:
    """The files of `table=power`: no run is needed."""
    found = _with_interval(power(tables))
    equal = _false(Spread(1.0, 1.0), *EQUAL_DESIGN, TABLES)
    false = _with_interval(pd.concat([equal, unequal(tables).assign(tables=tables)]))
    text = (
        "Simulated with normal errors. The spreads of errors and seeds change no rate.\n\n"
        "**Planted effects and how often they are found**, where one arm differs and all spread "
        f"equally\n\n{_printed(POWER, found)}\n"
        "**False verdicts of arms that are equal, but for their spread where it says so**\n\n"
        f"{_printed(FALSE, false)}\n{_told((*POWER, *FALSE))}"
    )
    return {"table.md": text.encode(), "table.csv": _csv(found), "unequal.csv": _csv(false)}


def is_aa_test(report: Report) -> bool:
    """Whether all arms of a table are equal but for their initial weights."""
    return report.equal_arms and len(report.panels) == 1


def aa_files(report: Report, tables: int = TABLES) -> dict[str, bytes]:
    """What a table of equal arms leaves besides: simulation with the spreads of its runs, and
    whether these bear out the model. Without enough runs only a line that says so."""
    (panel,) = report.panels
    frame = report.cells.rename(columns={report.metric: "value"})
    try:
        spread = fitted(frame, "value")
    except ValueError as error:
        return {"calibration.md": f"Nothing to calibrate with yet: {error}\n".encode()}
    arms, seeds = frame.arm.nunique(), frame.seed.nunique()
    false = _with_interval(_false(spread, arms, seeds, tables))
    checks = pd.DataFrame(real_checks(panel, frame))
    unit = {"val_bpb": "bits per byte", "val_loss": "nats per token"}[report.metric]
    text = (
        f"{report.caption}\n\nSpreads fitted to the runs: {spread.residual:.5f} {unit} of a run's "
        f"error, {spread.seed:.5f} of what a seed adds to all arms.\n\n**False verdicts of equal "
        f"arms, simulated**\n\n{_printed(FALSE, false)}\n**The real runs**\n\n"
        f"{_printed(CHECKS, checks)}\n{_told((*FALSE, *CHECKS))}"
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
    loud = ", ".join(rows.arm[rows.spread == "own"])
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
            "value": f"treated: {loud}" if loud else "no arm treated",
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
            _rate(arms, seeds, aa_test(spread, arms, seeds, tables=tables)),
            _rate(arms, "4, 6, 10", sequential_aa_test(spread, arms, tables=tables)),
        ]
    )


def _rate(arms: int, seeds: int | str, rate: Rate) -> dict[str, Any]:
    low, high = rate.interval
    found = {"arms": arms, "seeds": seeds, "spread": "equal", "rule": rate.rate}
    return found | {"low": low, "high": high, "upper": rate.upper, "tables": rate.tables}


def _with_interval(rows: pd.DataFrame) -> pd.DataFrame:
    shown = [
        f"{percent(1)(low)} to {percent(1)(high)}"
        for low, high in zip(rows.low, rows.high, strict=True)
    ]
    return rows.assign(interval=shown)


def _printed(columns: Sequence[Column], rows: pd.DataFrame) -> str:
    return markdown_table(*printed_rows(rows, columns))


def _told(columns: Sequence[Column]) -> str:
    named = {column.heading: column for column in columns}
    return "".join(f"- **{column.heading}**: {column.hint}\n" for column in named.values())


def _csv(rows: pd.DataFrame) -> bytes:
    return str(rows.drop(columns="interval", errors="ignore").to_csv(index=False)).encode()
