"""The pages: what there is, searched, and some of it side by side."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from reports.serve.entries import LAW, STUDY, TABLE, Entry
from reports.show.figures import SERIES, mixed
from reports.show.tables import fill
from space.words import amount, count, done_of, join

FEWEST = 2
"""Entries that are compared."""
MOST_SEEDS = 6
"""That are named one by one."""
KEY = re.compile("[0-9a-f]{4,16}")
"""How a run's key, or its beginning, is given."""
NOTHING = "–"
NOT_YET, UNCOUNTED = "not known yet", "…"
"""The state and the runs of what may run, before the first look at its storage."""
UNKNOWN = ("", NOT_YET, UNCOUNTED)
"""What differs from nothing."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """What is searched for; what is empty leaves nothing out."""

    name: str = ""
    """A part of the name, or of what was asked; or the key of a run, or its beginning."""
    kind: str = ""
    space: str = ""
    budget: str = ""
    corpus: str = ""
    since: str = ""
    """Days, as 2026-01-31."""
    until: str = ""

    @classmethod
    def of(cls, given: Mapping[str, Sequence[str]]) -> Self:
        """As an address has it; unknown names are ignored."""
        return cls(**{f.name: given[f.name][-1].strip() for f in fields(cls) if f.name in given})

    def takes(self, entry: Entry) -> bool:
        """Whether an entry is what is searched for."""
        day = entry.started[:10]
        wanted = (
            (self.kind, (entry.kind,)),
            (self.space, entry.spaces),
            (self.budget, entry.budgets),
            (self.corpus, entry.corpora),
        )
        return (
            self._names(entry)
            and all(not value or value in values for value, values in wanted)
            and (not self.since or day >= self.since)
            and (not self.until or ("" < day <= self.until))
        )

    def _names(self, entry: Entry) -> bool:
        text = self.name.casefold()
        if text in entry.name.casefold() or text in entry.asked.casefold():
            return True
        return bool(KEY.fullmatch(text)) and any(key.startswith(text) for key in entry.keys)


@dataclass(frozen=True)
class Choices:
    """What can be searched for, each value once."""

    spaces: list[str]
    budgets: list[str]
    corpora: list[str]
    kinds: Sequence[str] = (STUDY, TABLE, LAW)

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> Self:
        def all_of(name: str) -> list[str]:
            return sorted({value for entry in entries for value in getattr(entry, name)})

        return cls(all_of("spaces"), all_of("budgets"), all_of("corpora"))


def seeds_in_words(seeds: Sequence[int]) -> str:
    """ "0, 1, 2", or "10 from 0 to 9"."""
    if len(seeds) > MOST_SEEDS:
        return f"{len(seeds)} from {seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def budgets_in_words(budgets: Sequence[str]) -> str:
    """ "500k and 1.0M parameters": what they count is said once."""
    counted: dict[str, list[str]] = {}
    for budget in budgets:
        number, _, unit = budget.partition(" ")
        counted.setdefault(unit, []).append(number)
    return "; ".join(f"{join(numbers)} {unit}" for unit, numbers in counted.items())


def state(entry: Entry) -> str:
    """Whether it runs, and who works on it."""
    said = entry.progress
    if not said:
        return NOT_YET if not entry.looked else "finished" if entry.finished else "stopped"
    done = done_of(said["done"], said["total"], said["at_most"])
    if not said["workers"]:
        return f"starting, {done}"
    return (
        f"running, {done}, {count(len(said['workers']), 'worker')}, "
        f"{amount(said['tokens_per_s'])} tokens/s"
    )


def runs(entry: Entry) -> str:
    """How many have finished, of all there will be."""
    return UNCOUNTED if not entry.looked else entry.runs and f"{entry.runs} finished"


def share(entry: Entry) -> float | None:
    """Of its runs how much is done, those in progress by their steps; None where nothing runs."""
    said = entry.progress
    if not said or not said["total"]:
        return None
    begun: float = sum(worker["step"] / worker["of"] for worker in said["workers"] if worker["of"])
    return float(min(1.0, (said["done"] + begun) / said["total"]))


FACTS: dict[str, Callable[[Entry], str]] = {
    "state": state,
    "answer": lambda entry: entry.answer,
    "asked": lambda entry: entry.asked,
    "budget": lambda entry: budgets_in_words(entry.budgets),
    "space or table": lambda entry: "; ".join(entry.spaces),
    "corpus": lambda entry: "; ".join(entry.corpora),
    "tokens per run": lambda entry: "; ".join(f"{number:,}" for number in entry.tokens),
    "seeds": lambda entry: seeds_in_words(entry.seeds),
    "runs": runs,
    "started": lambda entry: entry.started,
}
"""Of an entry, by headings."""
IN_ROWS = ("budget", "budgets")
"""Settings that are rows of their own, where they also hold what a table's file says."""
WIDE = ("answer", "asked")
"""Sentences."""


def style() -> str:
    """The styles of both pages."""
    light = [mixed(color, "#ffffff", 0.25) for color in SERIES]
    return fill("serve.css.j2", series=SERIES, light_series=light)


def script(every_s: float) -> str:
    """Looks again every so many seconds, and shows what has changed."""
    return fill("serve.js.j2", every_ms=round(1000 * every_s))


def listing(
    entries: Sequence[Entry], query: Query, left_out: Sequence[str] = (), trouble: str = ""
) -> str:
    """What there is of what is searched for."""
    shown = [entry for entry in entries if query.takes(entry)]
    return _page(
        "serve.html.j2",
        shown,
        of=len(entries),
        query=query,
        choices=Choices.of(entries),
        left_out=left_out,
        trouble=trouble,
    )


def differ(texts: Sequence[str]) -> bool:
    """Whether two of these that are known differ."""
    return len(set(texts).difference(UNKNOWN)) > 1


def differing(entries: Sequence[Entry]) -> list[tuple[str, list[str]]]:
    """The settings in which entries differ, by name. What one kind is never asked, such as the
    trials of a table, differs from nothing."""
    groups: dict[str, set[str]] = {}
    for entry in entries:
        groups.setdefault(entry.kind, set()).update(map(_group, entry.settings))
    found = []
    for name in sorted({name for entry in entries for name in entry.settings}.difference(IN_ROWS)):
        asked = [entry for entry in entries if _group(name) in groups[entry.kind]]
        if len({entry.settings.get(name, "") for entry in asked}) > 1:
            found.append((name, [entry.settings.get(name, "") for entry in entries]))
    return found


def _group(name: str) -> str:
    """`recipe.` of `recipe.lr`, of which a file has what is not at its default; else the name."""
    first, dot, _ = name.partition(".")
    return first + dot


def comparison(entries: Sequence[Entry]) -> str:
    """Entries side by side, with the settings in which they differ."""
    facts = [(heading, [text(entry) for entry in entries]) for heading, text in FACTS.items()]
    rows = [(heading, texts, differ(texts)) for heading, texts in facts]
    return _page("compare.html.j2", entries, rows=rows, settings=differing(entries), fewest=FEWEST)


def _page(template: str, entries: Sequence[Entry], **values: Any) -> str:
    running = sum(bool(entry.progress) for entry in entries)
    live = running + sum(not entry.looked for entry in entries)
    shown = {"facts": FACTS, "wide": WIDE, "share": share, "nothing": NOTHING}
    return fill(template, entries=entries, running=running, live=live, **shown, **values)
