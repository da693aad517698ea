"""Several starts by one command: `-m budget=1m,2m seed=0,1` is a start for each combination.

They follow each other, each a process of its own with a study of its own; what is wrong with any of
them is said before the first. `budget=[1m,2m]` is the same over budgets, and makes their law.
"""

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from space.overrides import CONF, spelt
from space.words import command

REFUSED = 2
"""Exit code of a start whose options are wrong: its study is another than what was asked for."""
INTERRUPTED = 130
"""Exit code of a start that was stopped by a signal: no further one follows."""


@dataclass(frozen=True, kw_only=True)
class Several:
    """How a verb starts several times."""

    naming: str
    """The option that chooses a study's name."""
    name: Callable[[Sequence[str], Sequence[Path]], str]
    """The name of the study of these options, with configuration in these folders, once they were
    checked. Raises: ValueError."""
    law: Callable[[Mapping[str, Sequence[str]], Sequence[Path]], None] | None = None
    """Where studies of several budgets make a law: raises ValueError if those of these options, by
    name, cannot."""


@dataclass(frozen=True)
class Job:
    """One of the starts."""

    given: tuple[str, ...]
    """Its options, its study's name among them."""
    study: str
    swept: Mapping[str, str]
    """What it was given of the options of which there are several values."""


def jobs_of(given: Sequence[str], how: Several, folders: Sequence[Path] = (CONF,)) -> list[Job]:
    """A job for each combination of values, whose configuration lies in these folders.

    Raises:
        ValueError: one is wrong, or two would be the same study.
    """
    choices = [_values(word, how) for word in given]
    for each in choices:
        if twice := next((word for n, word in enumerate(each) if word in each[:n]), None):
            raise ValueError(f"a list must have each value once, but got {twice} twice")
    swept = [i for i, words in enumerate(choices) if len(words) > 1]
    made = [
        (words, {_option(words[i]): _value(words[i]) for i in swept}) for words in product(*choices)
    ]
    names = [how.name(words, folders) for words, _ in made]
    untold = _untold([values for _, values in made], names)
    jobs = []
    for (words, values), name in zip(made, names, strict=True):
        if untold:
            own = _in_name({option: values[option] for option in untold})
            kept = [word for word in words if _option(word) != how.naming]
            words = (*kept, f"{how.naming}={spelt(f'{name}_{own}')}")
            name = how.name(words, folders)
        jobs.append(Job(tuple(words), name, values))
    if len({job.study for job in jobs}) < len(jobs):
        named = ", ".join(job.study for job in jobs)
        raise ValueError(
            f"starts must have studies of different names, but got {named}; give each value once"
        )
    if how.law is not None and wants_law(given, how):
        how.law({job.study: job.given for job in jobs}, folders)
    return jobs


def wants_law(given: Sequence[str], how: Several) -> bool:
    """Whether a list of budgets was given."""
    return how.law is not None and any(
        _option(word) == "budget" and _is_list(word) for word in given
    )


def start(module: str, flags: Sequence[str], jobs: Sequence[Job], law: bool, make: bool) -> int:
    """Run the jobs one after the other, each with these flags. The worst of their exit codes.

    `law`: whether studies of several budgets make one, whose command is then said, without those
    whose options were refused; `make`: whether it is given too.
    """
    codes: list[int] = []
    for number, job in enumerate(jobs, 1):
        print(f"{number} of {len(jobs)}: {job.study}", flush=True)
        codes.append(_run([sys.executable, "-m", module, *flags, *job.given]))
        if codes[-1] == INTERRUPTED:
            left = len(jobs) - number
            print(f"stopped; {left} more were to follow, and the same command goes on")
            return INTERRUPTED
    able = [job for job, code in zip(jobs, codes, strict=True) if code != REFUSED]
    for words in _laws(able) if law else []:
        if make and max(codes) == 0:
            codes.append(_run([sys.executable, "-m", *words]))
        else:
            print(f"a law over these studies, once they are done: {command(*words)}")
    return max(codes)


def _run(command: Sequence[str]) -> int:
    """The exit code of a process, which gets the signals that this one gets meanwhile."""
    process = subprocess.Popen(command)

    def pass_on(number: int, _: FrameType | None) -> None:
        if number != signal.SIGINT:  # a terminal sends that to both
            process.send_signal(number)

    before = {s: signal.signal(s, pass_on) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 1


def _laws(jobs: Sequence[Job]) -> list[list[str]]:
    """The command of each law: of the studies that differ in budget alone."""
    groups: dict[tuple[tuple[str, str], ...], list[Job]] = {}
    for job in jobs:
        others = tuple((name, value) for name, value in job.swept.items() if name != "budget")
        groups.setdefault(others, []).append(job)
    return [
        [
            "reports",
            "page=laws",
            f"study=[{','.join(job.study for job in group)}]",
            *(word for word in group[0].given if _option(word) == "outputs"),
        ]
        for group in groups.values()
        if len({job.swept.get("budget") for job in group}) > 1
    ]


def _values(word: str, how: Several) -> list[str]:
    """The overrides that an override of several values stands for; else itself."""
    parsed = _parsed(word)
    if parsed is None:
        return [word]
    if how.law is not None and _option(word) == "budget" and _is_list(word):
        return [f"{parsed.get_key_element()}={value}" for value in parsed.value()]
    if not parsed.is_sweep_override():
        return [word]
    return [f"{parsed.get_key_element()}={text}" for text in parsed.sweep_string_iterator()]


def _is_list(word: str) -> bool:
    parsed = _parsed(word)
    return parsed is not None and not parsed.is_sweep_override() and type(parsed.value()) is list


def _parsed(word: str) -> Any:
    """An override as Hydra reads it; None where it does not, or only once it is written out."""
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        return None


def _untold(values: Sequence[Mapping[str, str]], names: Sequence[str]) -> list[str]:
    """The options whose values the names do not tell: two jobs that differ in one of them alone
    have one name."""

    def twins(option: str) -> bool:
        seen = set()
        for given, name in zip(values, names, strict=True):
            others = tuple(value for other, value in given.items() if other != option)
            if (others, name) in seen:
                return True
            seen.add((others, name))
        return False

    return [option for option in (values[0] if values else {}) if twins(option)]


def _in_name(values: Mapping[str, str]) -> str:
    """`seed1`, `budget_non_embedding_parameters_1m`, as it stands in a study's name."""
    parts = [
        f"{option.rpartition('.')[2]}{'' if value[:1].isdigit() else '_'}{value}"
        for option, value in values.items()
    ]
    return "_".join(re.sub(r"[^\w.+-]+", "_", part).strip("_") for part in parts)


def _option(word: str) -> str:
    return word.partition("=")[0].strip().lstrip("+~")


def _value(word: str) -> str:
    return word.partition("=")[2]
