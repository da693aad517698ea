"""The looks that a table had, counted in its study's storage.

A look is a table that was made whole. The same seeds again, after a crash or to make the report
anew, are the same look; more of them are another. What a start that was stopped shows is none: it
has fewer seeds than were decided on. A look counts for later tables that have some run of it.
"""

from typing import Any

import optuna

from ablations.cells import TableWork
from ablations.config import AblationConfig
from ablations.stats.looks import Looks
from ablations.stats.sequential import LOOKS as AUTO_LOOKS
from search.study.patience import PatientStorage
from search.study.session import Session
from search.study.storage import is_begun, read_attempts

LOOKS = "looks"
"""The attribute of the study: `seeds keys` of each look, and whether it was `counted` as it was
made."""


def looks_of(session: Session[TableWork]) -> Looks:
    """Those that the table had, this one among them; as they are stated, where they are.

    Raises:
        ValueError: what is stated does not fit.
    """
    config, work = session.config, session.work
    assert isinstance(config, AblationConfig), "a table's session has a table's options"
    keys = {place["key"] for place in work.places()}
    if config.looks:
        return Looks.given(config.looks, work.table.seeds)
    earlier = [look for look in _noted(session.study) if keys & set(look["keys"])]
    now = len({place["seed"] for place in work.places()}) if work.table.auto else work.table.seeds
    own = [n for n in AUTO_LOOKS if n <= now] if work.table.auto else []
    counted = all(look["counted"] for look in earlier)
    return Looks.of([*own, *(look["seeds"] for look in earlier)], now, counted)


def note_look(session: Session[TableWork]) -> None:
    """Keep that the table is made now."""
    looks, work = looks_of(session), session.work
    keys = sorted({place["key"] for place in work.places()})
    noted = [look for look in _noted(session.study) if not set(look["keys"]) & set(keys)]
    noted += [{"seeds": n, "keys": keys, "counted": looks.counted} for n in looks.seeds]
    session.study.set_user_attr(LOOKS, noted)


def require_no_fewer(
    storage: PatientStorage | None, config: AblationConfig, work: TableWork
) -> None:
    """Raises: ValueError where the table was read with more seeds than are asked for. The first of
    several looks has next to nothing of the 5%: its intervals would be thousands wide."""
    if work.table.auto or config.looks or storage is None or not is_begun(storage, config.name):
        return
    study = optuna.load_study(study_name=config.name, storage=storage.as_optunas)
    keys = {place["key"] for place in work.after(read_attempts(study), 0).places()}
    earlier = [look["seeds"] for look in _noted(study) if keys & set(look["keys"])]
    if (most := max(earlier, default=0)) > work.table.seeds:
        raise ValueError(
            f"seeds must be at least {most}, with which table {config.table_name} was read before, "
            f"but got {work.table.seeds}; add seeds={most}, which shows all of them, or "
            "called=NAME for another table"
        )


def note_unknown(session: Session[TableWork]) -> None:
    """Keep, of a study from before looks were counted, that it may have had any."""
    if LOOKS in session.study.user_attrs:
        return
    done = [run for run in session.runs() if run.value is not None]
    before = {
        "seeds": len({run.seed for run in done}),
        "keys": sorted(str(run.key) for run in done),
        "counted": False,
    }
    session.study.set_user_attr(LOOKS, [before] if done else [])


def _noted(study: optuna.Study) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = study.user_attrs.get(LOOKS, [])
    return found
