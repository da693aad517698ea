"""What engines measured of each arm: records in, one frame out."""

from collections.abc import Iterable

import pandas as pd

from reports.read.study import Study
from reports.weigh.answer import Evidence
from search.record import Record

PERCENTILES = ("p10", "p50", "p90")


def gather(runs: Iterable[tuple[str, Record | None]]) -> pd.DataFrame:
    """The measurements of (arm, record): `arm label quantity p10 p50 p90` and how it was measured,
    once per arm: medians over its runs, where each was measured."""
    rows = [
        {
            **{"arm": arm, "label": m.label, "quantity": quantity, **percentiles},
            **{"engine": m.engine, "version": m.version, "precision": m.precision},
            **{"context": m.context, "steps": m.steps, "threads": m.threads},
            **{"shared": m.shared, "repeats": m.repeats, "machine": m.machine},
        }
        for arm, record in runs
        if record is not None
        for m in record.measured
        for quantity, percentiles in m.values.items()
    ]
    frame = pd.DataFrame(rows)
    if frame.empty:
        return frame
    one = ["arm", "label", "quantity"]
    found = frame.groupby(one, sort=False)[[*PERCENTILES]].transform("median")
    return frame.assign(**found).drop_duplicates(one)


def of_study(study: Study, evidence: Evidence) -> pd.DataFrame:
    """Of a study's architectures, in the order of the evidence."""
    labels = dict(zip(evidence.arms.arm, evidence.arms.label, strict=True))
    places = {arm: place for place, arm in enumerate(labels)}
    done = study.finished[["arm", "seed", "key"]]
    done = done[done.arm.isin(labels)]  # others are beyond a constraint
    done = done.assign(place=done.arm.map(places)).sort_values(["place", "seed"])
    return gather(
        (labels[arm], study.records.get(key)) for arm, key in zip(done.arm, done.key, strict=True)
    )
