"""The kinds of question a table may ask: each is one object, in a module here or in a file outside.

A question makes the panels of its table, says how many seeds each arm shall have given the results
so far, and names the view that shows them. See `docs/doors/question.md`.
"""

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ablations.arms import make_panel
from ablations.table import ARMS, Panel, Table, seeds_of
from ablations.timing import Timing
from search.recipe import Recipe
from space.axes import SpaceConfig
from space.budget import Budget
from space.doors import Door
from space.words import join

if TYPE_CHECKING:
    import pandas as pd

PROXY, PAPER = "proxy", "paper"
"""The scales of a table: the paper's proportions on a budget, or its shapes as printed."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """All that a table is made from: its file, the command line and the recipe."""

    recipe: Recipe
    vocab_size: int
    question: str = ARMS
    """By which name it was found."""
    name: str = ""
    caption: str = ""
    scale: str = PROXY
    content: Mapping[str, Any] = field(default_factory=dict)
    """What the file holds under the question's `key`."""
    panels: Sequence[Mapping[str, Any]] = ()
    """Those that the file lists at this scale."""
    file_budget: str = "1m"
    file_seeds: int | str = 5
    budget: str | None = None
    """Of the command line, like all below; None: the file's."""
    seeds: int | str | None = None
    budgets: Sequence[str] = ()
    space: SpaceConfig | None = None
    study: str | None = None
    top: int = 4
    equal: str | None = None
    """What the arms of further panels are equal to their baseline in: `flops`, `time`, or what a
    budget counts, such as `decode_ms@iphone_13`."""
    outputs: Path = Path("outputs")
    runs: Path = Path("runs")
    timing: Timing | None = None
    """How long arms train, once recipe and data are settled; None while a table is only checked."""

    def table(self, panels: Sequence[Mapping[str, Any]]) -> Table:
        """The table of these panels, as a file would list them.

        Raises:
            ValueError: no panels, two of one name, or an arm that does not fit.
        """
        if not panels:
            raise ValueError(
                f"table {self.name} has no panels at scale={self.scale}; choose another"
            )
        seeds = seeds_of(self.seeds or self.file_seeds)
        if self.scale == PAPER and self.budget is not None:
            raise ValueError("budget must be left out at scale=paper: its shapes are as printed")
        made = tuple(self._panel(content) for content in [*panels, *self._equal_panels(panels)])
        names = Counter(panel.name for panel in made)
        if twice := [name for name, times in names.items() if times > 1]:
            raise ValueError(
                f"panels of table {self.name} must have names of their own, but got {twice[0]!r} "
                f"{names[twice[0]]} times; rename all but one"
            )
        left_out = [
            f" No shape of {join(list(panel.left_out))} is {panel.name}."
            for panel in made
            if panel.left_out
        ]
        return Table(
            name=self.name,
            caption=self.caption + "".join(left_out),
            question=self.question,
            panels=made,
            **seeds,
        )

    def _equal_panels(self, panels: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The panels again, with arms equal in what `equal` says, of those that are at equal
        budgets alone."""
        if self.equal is None:
            return []
        if self.scale == PAPER:
            raise ValueError("equal must be left out at scale=paper: its shapes are as printed")
        plain = [content for content in panels if not says_equal(content)]
        if not plain:
            raise ValueError(
                f"equal must go with panels at equal budgets, but table {self.name} has none"
            )
        name = f"equal {self.equal}"
        return [
            {
                **content,
                "equal": self.equal,
                "name": name if len(plain) == 1 else _joined(content, name),
            }
            for content in plain
        ]

    def _panel(self, content: Mapping[str, Any]) -> Panel:
        limit = Budget.parse(self.budget or content.get("budget") or self.file_budget)
        exact, timing = self.scale == PROXY, self.timing or Timing()
        return make_panel(content, limit, self.recipe, self.vocab_size, exact, timing)


def says_equal(panel: Mapping[str, Any]) -> bool:
    """Whether a panel, or an arm of it, says what it is equal in."""
    arms = (panel.get("arms") or {}).values()
    return "equal" in panel or any("equal" in (arm or {}) for arm in arms)


def _joined(panel: Mapping[str, Any], name: str) -> str:
    return ", ".join(filter(None, [str(panel.get("name") or ""), name]))


Wanted = Mapping[tuple[str, str], int]
"""How many seeds each arm shall have, by panel and arm."""


class Question(Protocol):
    """A kind of table. Subclass it and define `QUESTION`, an instance, in a module or a file."""

    asks: str
    """What it asks, in a line."""
    takes: str
    """What a table of this kind holds, and which options it has: a line of `table=help`."""
    leaves: tuple[str, ...]
    """Names of the files that its view may leave."""
    view: Any
    """How it is shown: the name of a module of `reports.views`, which defines `VIEW`, or an object
    that keeps `reports.views.View` itself. Reports are made without torch, so import none."""
    example: str = ""
    """A small table of 100 thousand parameters, as a file would hold it; none where none can."""
    key: str = ""
    """Of a table's file, what holds the question's own content. A file with this key asks it."""
    standalone: bool = False
    """Whether no file describes the table, and `table=` names the question itself."""
    trains: bool = True
    """Whether there are cells to train; if not, `measure` is all that is done."""
    options: tuple[str, ...] = ()
    """Those of `budgets`, `space`, `equal` and `objectives` that it reads; others are refused. With
    `objectives` arms may be compared by any of them, else by the loss on validation text alone;
    columns and constraints are shown in any table."""
    common_recipe: str = ""
    """Why no arm may search for a learning rate of its own; empty where it may."""

    def parts(self, content: Mapping[str, Any]) -> Iterator[tuple[str, Any, type]]:
        """Each part of `content`, what it is called and the type it must be, an outer one before
        those in it."""
        yield from ()

    @abstractmethod
    def table(self, asked: Asked) -> Table:
        """The panels, their arms and the most seeds of each.

        Raises:
            ValueError: something in the file or the options does not fit.
        """

    def wanted(self, table: Table, cells: "pd.DataFrame") -> Wanted | None:
        """How many seeds each arm shall have by what has ended so far; None: all of them.

        A pure function, so that a restart asks for the same. `cells` has a row for each arm and
        seed: `panel arm seed key done value`; the value is NaN where a run is missing or failed.
        """
        return None

    def seeds_in_words(self, table: Table) -> str:
        """How many seeds each arm gets."""
        return "1 seed each" if table.seeds == 1 else f"{table.seeds} seeds each"

    def measure(self, config: Any) -> Sequence[Mapping[str, Any]]:
        """What is done instead of training, given the `AblationConfig`: nothing. Returns the runs
        of its `study` that were measured, `arm seed key`, whose looks are counted as those of a
        trained table; none where seeds are no replicates of it."""
        return ()


QUESTIONS: Door[Question] = Door("question", "ablations.questions", Question)  # type: ignore[type-abstract]


def standalone(name: str) -> Question | None:
    """The question that `table=name` names itself; None where that names a table of a file."""
    module = "." in name and Path(name).suffix not in (".yaml", ".yml") and QUESTIONS.knows(name)
    if not module and not name.endswith(".py") and name not in QUESTIONS.names():
        return None
    found = QUESTIONS.load(name)
    return found if found.standalone else None


def table_stem(name: str) -> str:
    """What `table=name` is called, in names of folders: the stem of a file; of a module all of its
    name."""
    path = Path(name)
    return path.stem if path.suffix in (".yaml", ".yml", ".py") else name.replace(".", "_")


def standalone_names() -> list[str]:
    """The project's and installed questions that need no file."""
    return [name for name, question in QUESTIONS.all() if question.standalone]
