"""A table's file of `conf/ablation/`, or of the user's own."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from ablations.arms import RECIPE
from ablations.questions import PAPER, PROXY, QUESTIONS, Asked, Question, standalone_names
from ablations.table import ARMS, Table
from search.recipe import Recipe
from space.arch import read_mapping
from space.axes import SpaceConfig
from space.near import absent, hint
from space.words import join

TABLES = Path(__file__).parent.parent / "conf" / "ablation"
WANTED: dict[type, str] = {
    list: "a list",
    dict: "a mapping of names to values",
    str: "of the form OPTION=VALUE",
}
"""What each part of a file must be, in words."""


@dataclass(kw_only=True)
class TableFile:
    """What a file of `conf/ablation/` holds."""

    name: str
    caption: str
    budget: str = "1m"
    seeds: int | str = 5
    """Or `auto`."""
    proxy: list[Any] = field(default_factory=list)
    """Panels with the paper's proportions, on the budget."""
    paper: list[Any] = field(default_factory=list)
    """Panels as printed."""
    question: str = ARMS
    """The kind of table: a name, a module or a file of the door of `ablations.questions`."""
    content: dict[str, Any] = field(default_factory=dict)
    """What the file holds under that question's key."""
    objectives: list[str] = field(default_factory=list)
    """The first is what arms are compared by, the others are columns."""
    columns: list[str] = field(default_factory=list)
    """Objectives that are shown besides."""
    constraints: list[str] = field(default_factory=list)
    """What arms are to keep to: `kv_bytes<=2048`."""
    overrides: list[str] = field(default_factory=list)
    """Of the command line, where that says nothing else: `proxy=default`."""
    needs: list[str] = field(default_factory=list)
    """Options without which there is no such table, such as `recipe.teacher`."""

    @classmethod
    def read(cls, name: str) -> Self:
        """The file of this name in `conf/ablation/`, or at this path.

        Raises:
            ValueError: no such file, or one that describes no table.
        """
        path = Path(name)
        if path.suffix not in (".yaml", ".yml"):
            path = TABLES / f"{name}.yaml"
        if not path.is_file():
            raise absent("table", name, [*table_names(), "all", "help", *standalone_names()])
        values = read_mapping(path, _holds(_known()))
        question, key = _question_of(values, path)
        may_hold = _known() | ({key} if key else set())
        if "caption" not in values or set(values) - may_hold:
            raise ValueError(
                f"{path} must hold {_holds(may_hold)}, but {_what_is_wrong(values, may_hold)}"
            )
        for what, given, kind in _parts(values, QUESTIONS.load(question), key):
            if not isinstance(given, kind):
                raise ValueError(f"{what} in {path} must be {WANTED[kind]}, but got {given!r}")
        content = values.pop(key, {}) if key else {}
        return cls(name=path.stem, **{**values, "question": question}, content=content)

    def table(
        self,
        scale: str,
        recipe: Recipe,
        vocab_size: int,
        *,
        budgets: Sequence[str] = (),
        space: SpaceConfig | None = None,
        **options: Any,
    ) -> Table:
        """The table with its architectures; `options` are further fields of `Asked`.

        Raises:
            ValueError: an arm that does not fit, a baseline that is none of the arms, no such
                scale, or an option that is not the question's.
        """
        question = QUESTIONS.load(self.question)
        given = {"budgets": budgets, "space": space}
        if [name for name, value in given.items() if value and name not in question.options]:
            raise ValueError(
                f"budgets and space are of tables of trust, such as proxy_scale, but {self.name} "
                "is none; leave them out"
            )
        if options.get("equal") is not None and "equal" not in question.options:
            raise ValueError(
                f"equal must go with a table of arms, but {self.name} asks {self.question}; leave "
                "it out"
            )
        asked = Asked(
            question=self.question,
            name=self.name,
            caption=self.caption,
            scale=scale,
            recipe=recipe,
            vocab_size=vocab_size,
            content=self.content,
            panels=getattr(self, scale),
            file_budget=self.budget,
            file_seeds=self.seeds,
            budgets=budgets,
            space=space,
            **options,
        )
        return replace(
            question.table(asked),
            objectives=tuple(self.objectives),
            columns=tuple(self.columns),
            constraints=tuple(self.constraints),
        )


def table_names() -> list[str]:
    """All tables of `conf/ablation/`."""
    return sorted(path.stem for path in TABLES.glob("*.yaml"))


def _keys() -> dict[str, str]:
    """The project's and installed questions by their key."""
    return {question.key: name for name, question in QUESTIONS.all() if question.key}


def _question_of(values: Mapping[str, Any], path: Path) -> tuple[str, str]:
    """Name and key of the question that a file asks: the one it names, or whose key it has."""
    known = _keys()
    keys = [key for key in known if key in values]
    given = values.get("question")
    if given is None:
        given = known[keys[0]] if keys else ARMS
    question = QUESTIONS.load(given)
    if question.standalone:
        raise ValueError(
            f"question of {path} must be one that a file describes, but {given} is asked by "
            f"table={given}"
        )
    if others := [key for key in keys if key != question.key]:
        raise ValueError(
            f"{path} must ask one question, but has {others[0]} beside "
            f"{question.key or f'question {given}'}; make two tables of it"
        )
    return str(given), question.key


def _known() -> set[str]:
    """What a file may hold, whatever it asks."""
    return {f.name for f in fields(TableFile)} - {"name", "content"} | set(_keys())


def _holds(known: set[str]) -> str:
    return f"caption and may hold {', '.join(sorted(known - {'caption'}))}"


def _what_is_wrong(values: Mapping[str, Any], may_hold: set[str]) -> str:
    unknown = [str(name) for name in values if name not in may_hold]
    if not unknown:
        return f"has {join(list(map(str, values))) or 'nothing'}; add caption: …"
    said = f"; {RECIPE}" if unknown[0] == "recipe" else hint(unknown[0], may_hold)
    return f"has {unknown[0]}{said}"


def _parts(
    values: Mapping[str, Any], question: Question, key: str
) -> Iterator[tuple[str, Any, type]]:
    """Each part of a file, what it is called and what it must be, the outer one before those in
    it."""
    overrides = values.get("overrides", [])
    yield "overrides", overrides, list
    for override in overrides:
        yield "an override", override, str
    for name in ("objectives", "columns", "constraints", "needs"):
        yield name, values.get(name, []), list
    if key:
        content = values.get(key, {})
        yield key, content, dict
        yield from question.parts(content)
    for scale in (PROXY, PAPER):
        panels = values.get(scale, [])
        yield scale, panels, list
        for place, panel in enumerate(panels, 1):
            yield f"panel {place} of {scale}", panel, dict
            base, arms = panel.get("base") or {}, panel.get("arms") or {}
            yield f"base of panel {place}", base, dict
            yield f"arms of panel {place}", arms, dict
            for name, arm in arms.items():
                yield f"arm {name} of panel {place}", arm or {}, dict
                recipe = (arm or {}).get("recipe") or {}
                yield f"recipe of arm {name} of panel {place}", recipe, dict
