"""The losses of a study by the sources of its mixture, as a table beside the total."""

import pandas as pd

from reports.read.study import Study
from reports.show.tables import NONE, Cell, csv_text, decimals, markdown_table, percent, whole
from reports.views.scores import Section, latex
from reports.weigh.answer import Evidence
from search.objectives import USUAL, WITHOUT_BYTES
from search.record import Record
from space.tables import Column

TOTAL = "total"
UNITS = {USUAL: "bits per byte", WITHOUT_BYTES: "nats per token"}


def gather(study: Study, evidence: Evidence) -> pd.DataFrame:
    """The losses of a study's finished runs, its architectures in the order of the evidence:
    `arm seed key source share val_bpb val_loss compared`, a row for each source, the total first;
    `compared` says whether the run is in the comparison of architectures. Empty where the data are
    no mixture."""
    done = study.finished
    compared = set(evidence.cells[["arm", "seed"]].itertuples(index=False, name=None))
    rows = [
        {"arm": label, "seed": seed, "key": key, **losses, "compared": (arm, seed) in compared}
        for arm, label in zip(evidence.arms.arm, evidence.arms.label, strict=True)
        for seed, key in done.loc[done.arm == arm, ["seed", "key"]].itertuples(index=False)
        for losses in _losses(study.records.get(key))
    ]
    return pd.DataFrame(rows)


def _losses(record: Record | None) -> list[dict[str, object]]:
    if record is None or not record.readings or not record.readings[-1].sources:
        return []
    last, known = record.readings[-1], record.data.get("sources", {})
    names = (WITHOUT_BYTES, USUAL)
    total = {"source": TOTAL, "share": 1.0, **{name: getattr(last, name) for name in names}}
    return [
        total,
        *(
            {"source": each.source, "share": known.get(each.source, {}).get("share")}
            | {name: getattr(each, name) for name in names}
            for each in last.sources
        ),
    ]


def sections(study: Study, evidence: Evidence) -> list[Section]:
    """The table, where the data are a mixture."""
    frame = gather(study, evidence)
    if frame.empty:
        return []
    enough = frame.groupby("arm").compared.transform("any")
    frame = frame[frame.compared | ~enough]
    metric = USUAL if frame[USUAL].notna().all() else WITHOUT_BYTES
    shares = frame.drop_duplicates("source").set_index("source").share
    columns = [
        Column("arm", "architecture", str, numeric=False),
        Column("runs", "n", whole, "seeds"),
        *(Column(str(s), _heading(str(s), share), decimals(4)) for s, share in shares.items()),
    ]
    rows = [
        [
            Cell(str(arm), str(arm), False),
            Cell(whole(n := of_arm.seed.nunique()), repr(float(n)), True),
            *(_mean(of_arm.loc[of_arm.source == source, metric]) for source in shares.index),
        ]
        for arm, of_arm in frame.groupby("arm", sort=False)
    ]
    note = (
        f"Validation loss in {UNITS[metric]}, on held-out text of each source and of all mixed by "
        "their shares of the tokens; lower is better. Mean ± standard deviation over the "
        "seeds of the comparison; of architectures with too few, over those there are. "
        "Which differences are resolved is said of the objective alone."
    )
    return [Section("By source", note, columns, rows)]


def _heading(source: str, share: float) -> str:
    return source if source == TOTAL else f"{source} ({percent(1)(share)})"


def _mean(values: "pd.Series[float]") -> Cell:
    if values.empty:
        return Cell(NONE, "", True)
    text, spread = decimals(4), values.std()
    around = "" if pd.isna(spread) else f" ± {text(spread)}"
    return Cell(text(values.mean()) + around, repr(float(values.mean())), True)


def files(study: Study, evidence: Evidence) -> dict[str, str]:
    """`sources.md`, `sources.tex` and `sources.csv`; nothing where the data are no mixture."""
    shown = sections(study, evidence)
    if not shown:
        return {}
    [one] = shown
    table = markdown_table(one.columns, one.rows)
    return {
        "sources.md": f"**{one.title}.** {one.note}\n\n{table}",
        "sources.tex": latex(shown),
        "sources.csv": csv_text(gather(study, evidence)),
    }
