"""`python -m search.join STUDY outputs=…`: more workers for a study that runs, from anywhere.

The study's storage says how it was started. That command is given again here, in the same folder
where there is one, with what is given besides: `workers=4`, `executor=ray`, `runs=…`. With
`storage=URL` nothing but the storage must be reached; the command that it keeps has no password.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna

from search.status import StatusConfig, name_of, storage_of
from search.study.storage import COMMAND
from space.app import option_of
from space.cli import fail, one_line_errors

HELP = """python -m search.join STUDY outputs=… workers=…: more workers for a study that runs.

The command that started the study is given again, with what is given here besides:
  outputs=FOLDER   where the study is, by default outputs
  storage=URL      instead: the database that it was started with
  runs=FOLDER      and every other option of that command, such as workers=4 or executor=ray

python -m search.status lists the studies that there are."""


def main() -> None:
    """Become the command that joins."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(HELP)
        return
    with one_line_errors():
        verb, given, folder = joining(sys.argv[1:])
    if folder.is_dir():
        os.chdir(folder)
    else:
        print(f"{folder}, where it was started, is not here; paths begin at {os.getcwd()}")
    os.execv(sys.executable, [sys.executable, "-m", verb, *given])


def joining(words: Sequence[str]) -> tuple[str, list[str], Path]:
    """The verb, options and folder of the start that joins.

    Raises:
        ValueError: no such study.
    """
    names = [word for word in words if "=" not in word and not word.startswith("-")]
    given = {option_of(word): word for word in words if "=" in word}
    names += [given.pop("study").partition("=")[2]] if "study" in given else []
    if len(names) != 1:
        fail("give one study to join: python -m search.join STUDY outputs=… workers=…")
    asked = started(names[0], given)
    more = [_in_full(word) for word in given.values()]
    kept = [word for word in asked["given"] if option_of(word) not in given]
    return asked["verb"], [*kept, *more], Path(asked["folder"])


def started(study: str, given: dict[str, str]) -> dict[str, Any]:
    """How a study was started, as its storage has it.

    Raises:
        ValueError: it was not.
    """
    values = {name: word.partition("=")[2] for name, word in given.items()}
    where = StatusConfig(
        study=study, storage=values.get("storage"), outputs=values.get("outputs", "outputs")
    )
    storage = storage_of(where)
    found = optuna.load_study(
        study_name=name_of(storage, study), storage=storage.as_optunas
    ).user_attrs.get(COMMAND)
    if found is None:
        raise ValueError(f"study {study} must have been started by this version or a later one")
    return dict(found)


def _in_full(word: str) -> str:
    """An option that holds wherever the command runs: `outputs` is a place, seen from here."""
    name, _, value = word.partition("=")
    places = ("outputs", "runs", "artifacts")
    return f"{name}={Path(value).resolve()}" if name in places and "://" not in value else word


if __name__ == "__main__":
    main()
