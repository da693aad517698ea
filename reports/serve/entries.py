"""A study, a table or a law as lists show it: what it was asked, and what its page answers."""

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

from reports.weigh.answer import budget_in_words
from search.states import State
from space.overrides import outputs_of
from space.seals import read_json
from space.words import command, join

STUDY, TABLE, LAW = "study", "table", "law"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".tex": "text/plain; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".pdf": "application/pdf",
}
"""Files that are shown, by how their names end. No other leaves the machine's disk."""
FILES = "/files/"
"""Where they are shown."""
PAGES = ("report.html", "table.html", "trust.html")
READ_BYTES, MOST_READ = 1 << 16, 1 << 20
"""Of a page, in search of its answer: at once, and at most."""
UNREADABLE = (OSError, ValueError, TypeError, LookupError, AttributeError)
"""What a file raises that is none, or not of this kind."""
NO_SETTINGS = (
    *("study", "outputs", "runs", "storage", "tracker", "executor", "workers", "placement"),
    *("report", "keep", "grace_s", "artifacts", "data.cache", "data.processes"),
)
"""Of a configuration: what changes no result."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A study, a table or a law."""

    name: str
    """Its folder under `outputs`: `depth_width_1m`, `tables/heads`, `laws/mine`."""
    kind: str
    asked: str = ""
    """The command, or a table's caption."""
    answer: str = ""
    """As its page begins; of what cannot be read, why."""
    finished: bool = True
    spaces: tuple[str, ...] = ()
    """Of a table which it is."""
    budgets: tuple[str, ...] = ()
    corpora: tuple[str, ...] = ()
    tokens: tuple[int, ...] = ()
    """That a run is trained on, in whole steps."""
    seeds: tuple[int, ...] = ()
    runs: str = ""
    started: str = ""
    """Day and time."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """All that decides results, by dotted name."""
    keys: frozenset[str] = frozenset()
    """Of its runs."""
    studies: tuple[str, ...] = ()
    """That a law rests on."""
    files: Mapping[str, Path] = field(default_factory=dict)
    """What is shown, by name."""
    progress: Mapping[str, Any] = field(default_factory=dict)
    """Where it runs: what `search.status` says."""
    looked: bool = False
    """Whether it is known if it runs, and how many runs there will be."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Of its name."""
        return tuple(self.name.split("/"))

    @property
    def page(self) -> str | None:
        """The file that is its page."""
        readable = (name for name in self.files if name.endswith(".md"))
        return next((name for name in PAGES if name in self.files), next(readable, None))

    def url(self, file: str) -> str:
        """Where one of its files is shown."""
        parts = (quote(os.fsencode(part), safe="") for part in (*self.parts, file))
        return f"{FILES}{'/'.join(parts)}"


def state_of(path: Path) -> tuple[int, int]:
    try:
        facts = path.stat()
    except OSError:
        return 0, 0
    return facts.st_mtime_ns, facts.st_size


def read(kind: str, name: str, files: Mapping[str, Path]) -> Entry:
    entry = Entry(name=name, kind=kind, files=files)
    entry = replace(entry, answer=_answer(files, entry.page), started=_date(files, entry.page))
    try:
        if kind == LAW:
            return replace(
                entry, studies=tuple(_studies(files)), asked="a law over several budgets"
            )
        if "study.json" not in files:
            return replace(entry, finished=entry.page is not None)
        entry = replace(entry, **_facts(kind, read_json(files["study.json"])))
        return replace(entry, answer=entry.answer or _how_to_make(entry))
    except UNREADABLE as error:
        what = " ".join(str(error).split()) or type(error).__name__
        return replace(entry, answer=f"cannot be read: {what}")


def _facts(kind: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a `study.json` says, as fields of an entry."""
    config, trials, table = facts.get("config", {}), facts["trials"], facts.get("table", {})
    panels = table.get("panels", ())
    budgets = [panel["budget"] for panel in panels] or [facts["budget"]]
    recipes = [arm["recipe"] for panel in panels for arm in panel["arms"]]
    recipes = recipes or [config.get("recipe", {})]
    done = sum(trial["state"] == State.COMPLETE for trial in trials)
    space = table.get("name", "table") if kind == TABLE else facts["space"].get("name")
    return {
        "asked": str(table.get("caption") or facts.get("command", "")),
        "finished": bool(facts.get("finished", True)),
        "spaces": (str(space),),
        "budgets": tuple(dict.fromkeys(map(budget_in_words, budgets))),
        "corpora": tuple(_corpora(config.get("data", {}))),
        "tokens": _tokens(recipes),
        "seeds": tuple(sorted({t["seed"] for t in trials if isinstance(t.get("seed"), int)})),
        "runs": f"{done} of {len(trials)}",
        "started": _minute(str(facts.get("started") or "")),
        "settings": dict(_flat(config)),
        "keys": frozenset(str(trial["key"]) for trial in trials if trial.get("key")),
    }


def _how_to_make(entry: Entry) -> str:
    """The command that makes a page where there is none."""
    if entry.page is not None or entry.runs.startswith("0 "):
        return ""
    outputs = entry.files["study.json"].parents[len(entry.parts)]
    made = command("reports", f"{entry.kind}={entry.parts[-1]}", *outputs_of(outputs))
    return f"no page yet: {made}"


def _tokens(recipes: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    return tuple(sorted({_in_whole_steps(recipe) for recipe in recipes if recipe.get("tokens")}))


def _in_whole_steps(recipe: Mapping[str, Any]) -> int:
    """As pages have them. Of any version, so not by `search.recipe`."""
    step = int(recipe.get("batch_size", 1)) * int(recipe.get("seq_len", 1))
    return -(-int(recipe["tokens"]) // step) * step


def _corpora(data: Mapping[str, Any]) -> Iterator[str]:
    """What was trained on: its name, by which a study's settings know it too, or the source."""
    if found := data.get("name") or data.get("path") or data.get("source"):
        yield str(found)


def _flat(values: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if f"{at}{name}" in NO_SETTINGS:
            continue
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{at}{name}.")
        else:
            yield f"{at}{name}", "" if value in (None, [], {}) else _as_yaml(value)


def _as_yaml(value: Any) -> str:
    """A value as it is given: `[true, false]`."""
    plain = isinstance(value, str | int | float) and not isinstance(value, bool)
    return str(value) if plain else json.dumps(value, ensure_ascii=False)


def _minute(time: str) -> str:
    return time[:16].replace("T", " ")


def _date(files: Mapping[str, Path], page: str | None) -> str:
    """When a page was made, for what does not say when it began."""
    if page is None:
        return ""
    made = datetime.fromtimestamp(state_of(files[page])[0] / 1e9, UTC)
    return _minute(made.isoformat())


def _studies(files: Mapping[str, Path]) -> list[str]:
    """That a law rests on, as its tables say."""
    if "table.json" in files:
        return [str(name) for name in read_json(files["table.json"])["studies"]]
    if "budgets.csv" not in files:
        return []
    with files["budgets.csv"].open(encoding="utf-8", newline="") as file:
        return [row["study"] for row in csv.DictReader(file)]


class _Answer(HTMLParser):
    """The text of the element that a page calls its answer, with whether that means anything, and
    without what it is worth in detail."""

    def __init__(self) -> None:
        super().__init__()
        self.tag, self.words, self.ended, self.aside = "", list[str](), False, False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.aside = ("class", "lead") in attrs
        if not self.tag and ("id", "answer") in attrs:
            self.tag = tag

    def handle_data(self, data: str) -> None:
        if self.tag and not self.ended and not self.aside:
            self.words.append(data)

    def handle_endtag(self, tag: str) -> None:
        self.aside = False
        self.ended = self.ended or tag == self.tag


def _answer(files: Mapping[str, Path], page: str | None) -> str:
    """What a page begins with."""
    if page is None:
        return ""
    try:
        with files[page].open(encoding="utf-8", errors="replace") as file:
            if page.endswith(".md"):
                return next((line.strip("*#| \n") for line in file if line.strip()), "")
            parser = _Answer()
            for _ in range(MOST_READ // READ_BYTES):
                parser.feed(file.read(READ_BYTES))
                if parser.ended:
                    break
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return " ".join("".join(parser.words).split())


def with_studies(found: Mapping[str, Entry]) -> dict[str, Entry]:
    """Laws have the spaces, budgets, corpora and runs of the studies that they rest on."""
    return {
        name: _law(entry, found) if entry.kind == LAW else entry for name, entry in found.items()
    }


def _law(law: Entry, found: Mapping[str, Entry]) -> Entry:
    names = [name for study in law.studies for name in (study, f"tables/{study}") if name in found]
    under = [found[name] for name in names]
    asked = f"a law over {join(list(law.studies))}" if law.studies else law.asked

    def all_of(name: str) -> Any:
        return tuple(dict.fromkeys(value for each in under for value in getattr(each, name)))

    return replace(
        law,
        asked=asked,
        spaces=all_of("spaces"),
        budgets=all_of("budgets"),
        corpora=all_of("corpora"),
        tokens=tuple(sorted(all_of("tokens"))),
        seeds=tuple(sorted(all_of("seeds"))),
        keys=frozenset(all_of("keys")),
    )


def with_progress(entry: Entry, said: Mapping[str, Any] | None) -> Entry:
    """The entry with what its storage says, which has how many runs there will be: `study.json` has
    those that have begun. Before the first has ended, also what it was asked."""
    if said is None or entry.kind == LAW:
        return entry
    if not entry.keys and (settings := said.get("settings")):
        try:
            entry = replace(entry, **_begun(settings), started=_minute(said["started"] or ""))
        except UNREADABLE:
            pass  # of another version
    if "error" in said:
        return entry if entry.asked else replace(entry, answer=f"cannot be read: {said['error']}")
    entry = replace(entry, runs=f"{said['finished']} of {said['total']}")
    return replace(entry, progress=said) if is_alive(said) else entry


def is_alive(said: Mapping[str, Any]) -> bool:
    """Whether somebody works on a study of which `search.status` says this."""
    return bool(said.get("workers") or said.get("starts"))


def _begun(settings: Mapping[str, Any]) -> dict[str, Any]:
    space, recipe = settings.get("space", {}), settings.get("recipe", {})
    return {
        "spaces": tuple(str(space[name]) for name in ("name",) if name in space),
        "budgets": tuple(budget_in_words(space[name]) for name in ("budget",) if name in space),
        "corpora": tuple(_corpora(settings.get("data", {}))),
        "tokens": _tokens([recipe]),
        "finished": False,
    }
