"""Equal arms: checks of the model's assumptions, and simulations with their standard deviations."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from ablations.stats.block import LEVEL, Spread, residuals, spreads
from ablations.stats.calibration import (
    SEEDS_AUTO,
    TABLES,
    Rate,
    aa_test,
    sequential_aa_test,
)
from ablations.stats.effects import compare
from ablations.stats.variances import equal_spread
from reports.show.tables import (
    csv_text,
    intervals,
    markdown_table,
    percent,
    printed_rows,
    probability,
    whole,
)
from reports.views import Shown, arms
from reports.weigh.table import Panel, Report
from space.tables import Column

NOISY = 0.05
"""Chance that a table of equally noisy arms is said to have a noisier one (Bonferroni)."""
DESIGN = (
    Column("arms", "arms", whole, "the baseline among them"),
    Column("seeds", "seeds", str, "of each arm", numeric=False),
)
FALSE = (
    *DESIGN,
    Column("spread", "spread", str, "which arms have a larger standard deviation", numeric=False),
    Column(
        "pooled",
        "pooled",
        percent(1),
        "tables with a false verdict if equal standard deviations are assumed",
    ),
    Column("rule", "rule", percent(1), "tables with a false verdict by the rule in use"),
    Column("interval", "95% interval", str, "of the rule's rate", numeric=False),
    Column("upper", "upper bound", percent(1), "one-sided 95% bound of the rule's rate"),
    Column("tables", "tables", whole, "tables simulated"),
)
CHECKS = (
    Column("check", "check", str, "of the real runs", numeric=False),
    Column("value", "value", str, "what was found", numeric=False),
    Column("p", "p", probability, "of the value, if the assumption holds"),
    Column("expected", "expected", str, "if the assumption holds", numeric=False),
)


def aa_files(report: Report, tables: int = TABLES) -> dict[str, bytes]:
    """The further files of a table of equal arms: simulations with the standard deviations of its
    runs, and checks of the model on the runs. With too few runs only a line that says so."""
    (panel,) = report.panels
    frame = report.cells.rename(columns={report.metric: "value"})
    try:
        spread = spreads(frame, "value")
    except ValueError as error:
        return {"calibration.md": f"Not calibrated yet: {error}\n".encode()}
    arms, seeds = frame.arm.nunique(), frame.seed.nunique()
    false = with_interval(_false(spread, arms, seeds, tables))
    checks = pd.DataFrame(real_checks(panel, frame, report.level))
    looks = f"Looks: {said}.\n\n" if (said := report.looks_in_words) else ""
    text = (
        f"{report.caption}\n\n{looks}Standard deviations fitted to the runs: "
        f"{spread.residual:.5f} {report.criteria.unit} of a run's error, "
        f"{spread.seed:.5f} of a seed's common effect on all arms.\n\n"
        f"**False verdicts of equal arms, simulated**\n\n{printed(FALSE, false)}\n"
        f"**The real runs**\n\n{printed(CHECKS, checks)}\n{explained((*FALSE, *CHECKS))}"
    )
    fits = pd.DataFrame([asdict(spread) | {"arms": arms, "seeds": seeds}])
    return {
        "calibration.md": text.encode(),
        "calibration.csv": csv_bytes(false),
        "checks.csv": csv_bytes(checks),
        "spread.csv": csv_bytes(fits),
    }


def real_checks(panel: Panel, frame: pd.DataFrame, level: float = LEVEL) -> list[dict[str, Any]]:
    """The assumptions of the model, each tested on the runs.

    Shapiro and Wilk's test assumes independent residuals; those of a table are only nearly so.
    """
    from scipy.stats import shapiro  # as few reports need it, it is loaded here

    rows = compare(frame, panel.baseline, "value", level=level)
    resolved = int(rows.verdict.isin(["better", "worse"]).sum())
    left = residuals(frame, "value").to_numpy().ravel()
    left = left[left == left]
    normal = shapiro(left)
    flagged = ", ".join(
        f"{arm} seed {seeds}" for arm, seeds in zip(rows.arm, rows.outliers, strict=True) if seeds
    )
    tests = rows.spread_p.notna().sum()
    noisy = ", ".join(rows.arm[rows.spread_p * tests < NOISY])
    return [
        {
            "check": "verdicts",
            "value": f"{resolved} of {len(rows) - 1}",
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
            "check": "equal standard deviations",
            "value": f"noisier: {noisy}" if noisy else "no noisier arm",
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


def with_interval(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(interval=intervals(rows.low, rows.high, percent(1)))


def printed(columns: Sequence[Column], rows: pd.DataFrame) -> str:
    return markdown_table(*printed_rows(rows, columns))


def explained(columns: Sequence[Column]) -> str:
    named = {column.heading: column for column in columns}
    return "".join(f"- **{column.heading}**: {column.hint}\n" for column in named.values())


def csv_bytes(rows: pd.DataFrame) -> bytes:
    return csv_text(rows.drop(columns="interval", errors="ignore")).encode()


class Calibration:
    """The view of equal arms: the arms', then the checks of the model."""

    def show(self, report: Report) -> Shown:
        common = arms.VIEW.show(report)
        if not report.equal_arms:  # their learning rates were searched, and chosen apart
            return common
        line = f"calibration: {report.folder / 'calibration.md'}"
        return Shown(common.files | aa_files(report), [line, *common.lines])


VIEW = Calibration()
