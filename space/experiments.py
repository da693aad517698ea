"""Experiments: files of `conf/experiment/`, each of one command."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

COMMAND = re.compile(r"^#.*?python -m ([\w.]+)", re.MULTILINE)
"""In the comments of a file: the command that it is of."""


def require_own_experiment(
    given: Sequence[str], schema: type[Any], verb: str, folders: Iterable[Path]
) -> None:
    """What is wrong with an experiment of another command, before Hydra says it of a key.

    Raises:
        ValueError: `experiment=NAME` is a file of one of these folders of configurations that sets
            what is no option of the command.
    """
    known = {field.name for field in fields(schema)} | {"defaults"}
    for name in (text.partition("=")[2] for text in given if text.startswith("experiment=")):
        for path in (folder / "experiment" / f"{name}.yaml" for folder in folders):
            text = path.read_text() if path.is_file() else ""
            others = [key for key in _keys(text) if key not in known]
            if not others:
                continue
            stated = [command for command in COMMAND.findall(text) if command != verb]
            start = f"python -m {stated[0]} experiment={name}" if stated else "the command it is of"
            raise ValueError(
                f"experiment={name} must be one of python -m {verb}, but sets {others[0]}, which "
                f"is no option of that; start {start}"
            )


def _keys(text: str) -> list[str]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError:  # which Hydra says better
        return []
    return list(map(str, values)) if isinstance(values, dict) else []
