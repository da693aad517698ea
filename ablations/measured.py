"""The looks of tables that train nothing: they have no storage, so that a file beside what was
measured keeps them.

As of trained tables (`ablations.looks`), a look is what was measured whole and shown, and one
counts for later ones that have some run of it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ablations.stats.looks import FILE, Looks, all_counted, noted_looks
from space.seals import whole_json, write_json

MEASURED = "measured.json"


def note_unknown(folder: Path) -> None:
    """Keep, of what was measured before looks were counted, that it may have had any."""
    path = folder / MEASURED
    if (folder / FILE).is_file() or not path.is_file():
        return
    known = whole_json(path, "measured runs", "remove it to measure anew")
    noted = {study: [_look(runs, False)] for study, runs in known.items() if _are_runs(runs)}
    if noted:
        write_json(folder / FILE, noted)


def note_look(
    folder: Path, study: str, runs: Sequence[Mapping[str, Any]], stated: list[int]
) -> None:
    """Keep that these runs, with `arm seed key`, are shown now; `stated` are looks that a reader
    states instead of those that were counted.

    Raises:
        ValueError: what is stated does not fit.
    """
    now, all_noted = _look(runs, True), noted_looks(folder)
    keys = set(now["keys"])
    if stated:
        seeds = Looks.given(stated, now["seeds"]).seeds
        noted = [now | {"seeds": n} for n in seeds]
    else:
        earlier = [look for look in all_noted.get(study, []) if keys & set(look["keys"])]
        noted = [look for look in earlier if look["seeds"] != now["seeds"]]
        now["counted"] = all_counted(earlier)
        noted.append(now)
    write_json(folder / FILE, all_noted | {study: noted})


def _look(runs: Sequence[Mapping[str, Any]], counted: bool) -> dict[str, Any]:
    """Its seeds are those of the arm that has most."""
    seeds = pd.DataFrame(runs).groupby("arm").seed.nunique().max()
    return {"seeds": int(seeds), "keys": sorted(str(r["key"]) for r in runs), "counted": counted}


def _are_runs(found: Any) -> bool:
    return (
        isinstance(found, list)
        and len(found) > 0
        and all(isinstance(run, dict) and {"arm", "seed", "key"} <= set(run) for run in found)
    )
