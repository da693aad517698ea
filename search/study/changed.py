"""What has changed under a study's name, and what takes it back: a command, or files.

A study is made of options and of what these name: the file of a space, a file of code, a corpus.
Where the options are those of before, no command takes a change back.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from space.app import option_of
from space.doors import alike, bare
from space.words import command, join

FREE = (
    *("study", "called", "storage", "outputs", "runs", "artifacts", "tracker", "report", "keep"),
    *("n_trials", "replicates", "sampler", "pruner", "seeds", "top", "looks", "train", "grace_s"),
    *("workers", "executor", "placement", "evaluate", "data.cache", "data.processes"),
)
"""Options, and groups of them, that may change under a study's name."""
FINGERPRINT = "data.fingerprint"
OF_READ_DATA = (FINGERPRINT, "space.vocab_size")
"""Settings that are known once data are read."""
OF_DATA = ("data", "proxy", "experiment", "table", "scale")
"""Options that a fingerprint follows from, besides what is read."""
PARTS = "space.parts."
"""Before the names of files of parts, as changes have them."""
MOST_SHOWN = 3


@dataclass(frozen=True)
class Change:
    """One value of a study's settings."""

    name: str
    """Dotted."""
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.name} was {_short(self.old)}, is {_short(self.new)}"

    @property
    def code(self) -> str | None:
        """The file of code that is not as it was; None where none is named."""
        if not (isinstance(self.old, str) and isinstance(self.new, str)):
            return None
        name = bare(self.new)
        if name == self.new or Path(bare(self.old)).name != Path(name).name:
            return None
        return self.name.removeprefix(PARTS) if self.name.startswith(PARTS) else name


@dataclass(frozen=True)
class Origin:
    """Where the settings of a start come from."""

    given: Sequence[str] = ()
    """Its options."""
    files: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The files that settings are read from, by their first name: `space`, `recipe`."""
    corpus: str = ""
    """What is read, in words: `the text at books/*.txt`."""


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], at: str = ""
) -> Iterator[Change]:
    """What changed between two nested mappings: `recipe.lr was 0.003, is 0.004`."""
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differences(old, new, f"{at}{name}.")
        elif not alike(old, new):
            yield Change(f"{at}{name}", old, new)


def refusal(
    study: str,
    changes: Sequence[Change],
    made: Mapping[str, Any] | None,
    origin: Origin,
    naming: str,
) -> ValueError:
    """The error for a study with changed settings; `made` says how it was last started."""
    before = [] if made is None else made["given"]
    unchanged = made is not None and _deciding(before) == _deciding(origin.given)
    same_data = made is not None and _deciding(before, OF_DATA) == _deciding(origin.given, OF_DATA)
    said, files, by_options = list[str](), list[str](), False
    for change in sorted(changes, key=lambda change: change.name == FINGERPRINT):  # it says least
        text = str(change)
        if change.name == FINGERPRINT and same_data and origin.corpus:
            text = f"{origin.corpus} is not the same as before ({text})"
            files.append(origin.corpus)
        elif change.code is not None:
            files.append(change.code)
        elif unchanged:
            files += origin.files.get(change.name.partition(".")[0], ())
        else:
            by_options = True
        said.append(text)
    more = f" (and {len(said) - MOST_SHOWN} more)" if len(said) > MOST_SHOWN else ""
    back = [f"restore {join(list(dict.fromkeys(files)))}"] if files else []
    if by_options:
        again = "" if made is None else f": {command(made['verb'], *before)}"
        back.append(f"take the change back{again}")
    elif not files:
        back.append("ask what its options named before, for they are the same")
    return ValueError(
        f"study {study} must keep its space, data and recipe, but {'; '.join(said[:MOST_SHOWN])}"
        f"{more}; choose another name with {naming}=NAME, or {' and '.join(back)}"
    )


def _deciding(given: Sequence[str], groups: Sequence[str] = ()) -> dict[str, str]:
    """The options that decide settings, with the values that count; only those of some groups,
    where such are named."""
    words = {option_of(word): word.partition("=")[2] for word in given}
    return {
        option: value
        for option, value in words.items()
        if not _is_of(option, FREE) and (not groups or _is_of(option, groups))
    }


def _is_of(option: str, groups: Sequence[str]) -> bool:
    return option in groups or any(option.startswith(f"{group}.") for group in groups)


def _short(value: Any) -> str:
    text = json.dumps(value) if isinstance(value, list | dict) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
