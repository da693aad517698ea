"""Runs that a study has finished and whose records were damaged or removed since, or whose trials
were: done again."""

from pathlib import Path

import optuna

from search.runs import CorruptRecord, UnknownParts, read_record, usable_record
from search.states import State, Status
from search.study.plan import Attempt, distinct
from search.study.storage import LOST, damaged, read_attempts
from space.words import count


def name_damaged(study: optuna.Study) -> None:
    """Say which trials are not as they ended. They are left out, so that their runs are open."""
    if numbers := damaged(study):
        named = ", ".join(map(str, numbers[:5])) + (", …" if len(numbers) > 5 else "")
        print(
            f"warning: {count(len(numbers), 'trial')} ({named}) of study {study.study_name} "
            f"{'is' if len(numbers) == 1 else 'are'} not in the storage as written and left out; "
            "finished runs are taken from their records, others are done again"
        )


def reopen_lost(study: optuna.Study, runs: Path) -> None:
    """Mark the trials whose record is not the one that they ended with, or not there. Their runs
    are then open, for this start and all later ones until they are done.

    Raises:
        ValueError: of several records none is there, as in another folder.
    """
    ended = [run for run in distinct(read_attempts(study)) if has_record(run)]
    lost = [run for run in ended if not _is_kept(runs / str(run.key), run.result_id)]
    if not lost:
        return
    if len(lost) == len(ended) and not any((runs / str(run.key)).is_dir() for run in lost):
        raise ValueError(
            f"runs must be the folder with the {count(len(ended), 'record')} of study "
            f"{study.study_name}, but {runs} has none of them; set runs=FOLDER, or choose another "
            "name for the study"
        )
    known = study.user_attrs.get(LOST, [])
    study.set_user_attr(LOST, sorted({*known, *(run.number for run in lost)}))
    number = count(len(lost), "run")
    print(f"{number} of the study lost the record; what the study still asks for is done again")


def has_record(run: Attempt) -> bool:
    """Whether a trial ended with one, which it should still have."""
    ended = run.state == State.COMPLETE or run.status == Status.DIVERGED
    return ended and run.key is not None


def _is_kept(folder: Path, result_id: str | None) -> bool:
    """Whether a run's record is there and whole; a damaged one is set aside."""
    try:
        record = read_record(folder, result_id)
    except UnknownParts:
        return True  # sound, and of no use here
    except CorruptRecord:
        record = usable_record(folder, result_id)
    return record is not None and record.final
