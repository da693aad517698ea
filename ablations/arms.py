"""A designed comparison: panels of arms, read from YAML.

A table has one or more panels. The arms of a panel are compared with its baseline over shared seeds
and shared data; each arm is a few overrides of architecture (`fit` closes the budget, unless every
size is given) and of the recipe.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from ablations.questions import transfer, trust
from ablations.stats.sequential import AUTO, LOOKS
from ablations.timing import Timing
from search.recipe import Recipe
from space.arch import Architecture, number, read_mapping
from space.axes import SpaceConfig, parse_sharing
from space.budget import FFN_TOLERANCE, MAX_DEVIATION, SIZES, Budget, fit
from space.cost import cost

TABLES = Path(__file__).parent.parent / "conf" / "ablation"
OWN = ("recipe", "init_shift", "like", "spend", "off_budget", "published", "equal", "ffn_tolerance")
"""What an arm may say besides fields of its architecture."""
WANTED: dict[type, str] = {
    list: "a list",
    dict: "a mapping of names to values",
    str: "of the form OPTION=VALUE",
}
"""What each part of a file must be, in words."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One thing compared."""

    name: str
    architecture: Architecture
    recipe: Recipe
    init_shift: int = 0
    """`init_seed` is the seed plus this."""
    published: float | None = None
    """The source's average for it, in percent; higher is better."""

    def at(self, lr: float) -> "Arm":
        """This arm at another learning rate."""
        return replace(self, recipe=replace(self.recipe, lr=lr))


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Arms that are compared with one baseline."""

    name: str
    budget: Budget
    baseline: str
    arms: tuple[Arm, ...]
    source: str | None = None
    """Of what is published."""

    def arm(self, name: str) -> Arm:
        """The arm of this name.

        Raises:
            ValueError: there is none.
        """
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise _unknown(f"arm of panel {self.name!r}", self.arms, name)


@dataclass(frozen=True, kw_only=True)
class Table:
    """All panels of a question."""

    name: str
    caption: str
    seeds: int
    """Of each arm; at most, if they are given as they are needed."""
    panels: tuple[Panel, ...]
    auto: bool = False
    """Seeds are given as they are needed: see `ablations.stats.sequential`."""
    transfer: bool = False
    """Arms are learning rates, and seeds go where the best are (`ablations.questions.transfer`)."""
    trust: Mapping[str, Any] | None = None
    """Arms are a grid whose readings are proxies of the longest (`ablations.questions.trust`): its
    space, and the recipe of the proxy in question."""

    @property
    def adaptive(self) -> bool:
        """Whether what is trained next depends on what was found."""
        return self.auto or self.transfer

    def panel(self, name: str) -> Panel:
        """The panel of this name.

        Raises:
            ValueError: there is none.
        """
        for panel in self.panels:
            if panel.name == name:
                return panel
        raise _unknown(f"panel of table {self.name}", self.panels, name)


def _unknown(what: str, known: Iterable[Arm] | Iterable[Panel], name: str) -> ValueError:
    return ValueError(
        f"{what} must be one of {', '.join(repr(one.name) for one in known)}, but got {name!r}; if "
        "an earlier start asked for it and it was renamed or taken out since, start the table again"
    )


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
    transfer: dict[str, Any] = field(default_factory=dict)
    """Instead of panels: shapes at several learning rates (`ablations.questions.transfer`)."""
    trust: dict[str, Any] = field(default_factory=dict)
    """Instead of panels: a grid of a space at several horizons (`ablations.questions.trust`)."""
    overrides: list[str] = field(default_factory=list)
    """Of the command line, where that says nothing else: `proxy=default`."""

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
            known = ", ".join([*table_names(), "all", "help", "confirm", "power", "main_results"])
            raise ValueError(f"table must be one of {known}, or a path, but got {name!r}")
        known_keys = {f.name for f in fields(cls)} - {"name"}
        holds = f"caption and may hold {', '.join(sorted(known_keys - {'caption'}))}"
        values = read_mapping(path, holds)
        if "caption" not in values or set(values) - known_keys:
            raise ValueError(f"{path} must hold {holds}, but has {', '.join(map(str, values))}")
        for what, given, kind in _parts(values):
            if not isinstance(given, kind):
                raise ValueError(f"{what} in {path} must be {WANTED[kind]}, but got {given!r}")
        return cls(name=path.stem, **values)

    def table(
        self,
        scale: str,
        recipe: Recipe,
        vocab_size: int,
        *,
        budget: str | None = None,
        seeds: int | str | None = None,
        timing: Timing | None = None,
        budgets: Sequence[str] = (),
        space: SpaceConfig | None = None,
    ) -> Table:
        """The table with its architectures. Tokens at equal time follow from `timing`; `budgets`
        and `space` are for a table of trust.

        Raises:
            ValueError: an arm that does not fit, a baseline that is none of the arms, or no such
                scale.
        """
        if not self.trust and (budgets or space is not None):
            raise ValueError(
                f"budgets and space are of tables of trust, such as proxy_scale, but {self.name} "
                "is none; leave them out"
            )
        panels = getattr(self, scale)
        if self.transfer and scale == "proxy":
            panels = [*panels, *transfer.panels(self.transfer)]
        if self.trust and scale == "proxy":
            asked = budgets or ([budget] if budget else self.trust.get("budgets") or [self.budget])
            panels = [*panels, *trust.panels(self.trust, recipe, vocab_size, asked, space)]
        if not panels:
            raise ValueError(f"table {self.name} has no panels at scale={scale}; choose another")
        given = seeds_of(seeds or self.seeds)
        if self.trust:
            trust.require_seeds(given["seeds"])
        if self.trust and given["auto"]:
            raise ValueError(
                "seeds of a table of trust must be a number, but got auto; set seeds=5"
            )
        if scale == "paper" and budget is not None:
            raise ValueError("budget must be left out at scale=paper: its shapes are as printed")
        made = []
        for content in panels:
            limit = Budget.parse(budget or content.get("budget") or self.budget)
            exact = scale == "proxy"
            made.append(_panel(content, limit, recipe, vocab_size, exact, timing or Timing()))
        names = Counter(panel.name for panel in made)
        if twice := [name for name, times in names.items() if times > 1]:
            raise ValueError(
                f"panels of table {self.name} must have names of their own, but got {twice[0]!r} "
                f"{names[twice[0]]} times; rename all but one"
            )
        return Table(
            name=self.name,
            caption=self.caption,
            panels=tuple(made),
            transfer=bool(self.transfer),
            trust=trust.described(self.trust, recipe, space) if self.trust else None,
            **given,
        )


def seeds_of(given: int | str) -> dict[str, Any]:
    """What a table says of its seeds, for a number or `auto`.

    Raises:
        ValueError: neither.
    """
    if given == AUTO:
        return {"seeds": max(LOOKS), "auto": True}
    if type(given) is not int or given < 1:
        raise ValueError(f"seeds of a table must be at least 1, or auto, but got {given!r}")
    return {"seeds": given, "auto": False}


def table_names() -> list[str]:
    """All tables of `conf/ablation/`."""
    return sorted(path.stem for path in TABLES.glob("*.yaml"))


def _parts(values: Mapping[str, Any]) -> Iterator[tuple[str, Any, type]]:
    """Each part of a file, what it is called and what it must be, the outer one before those in
    it."""
    overrides = values.get("overrides", [])
    yield "overrides", overrides, list
    for override in overrides:
        yield "an override", override, str
    for kind, lists in (
        ("transfer", ("parametrisations", "rates")),
        ("trust", ("lengths", "budgets")),
    ):
        content = values.get(kind, {})
        yield kind, content, dict
        for name in lists:
            yield f"{name} of {kind}", content.get(name) or [], list
    base, shapes = (values.get("transfer", {}).get(name) or {} for name in ("base", "shapes"))
    yield "base of transfer", base, dict
    yield "shapes of transfer", shapes, dict
    for name, shape in shapes.items():
        yield f"shape {name} of transfer", shape or {}, dict
    for scale in ("proxy", "paper"):
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


def _panel(
    content: Mapping[str, Any],
    budget: Budget,
    recipe: Recipe,
    vocab_size: int,
    exact: bool,
    timing: Timing,
) -> Panel:
    name, baseline = str(content.get("name") or ""), str(content.get("baseline"))
    arms = {str(label): given for label, given in (content.get("arms") or {}).items()}
    if baseline not in arms:
        raise ValueError(
            f"the baseline of panel {name!r} must be one of its arms, but got {baseline!r}; "
            f"choose among {', '.join(arms)}"
        )
    if len(arms) < 2:
        raise ValueError(f"panel {name!r} must have at least two arms, but has {len(arms)}")
    base = {"vocab_size": vocab_size, **(content.get("base") or {})}
    made: dict[str, Arm] = {}
    for label, given in arms.items():
        try:
            arm = _arm(label, dict(given or {}), base, budget, recipe, made, timing)
        except (ValueError, KeyError) as error:
            raise ValueError(f"arm {label} of panel {name!r}: {error}") from None
        off = budget.deviation(arm.architecture)
        if exact and abs(off) > MAX_DEVIATION and not (given or {}).get("off_budget"):
            raise ValueError(
                f"arm {label} of panel {name!r} must lie within {MAX_DEVIATION:.2%} of {budget}, "
                f"but is {off:+.2%} off; change it, or say off_budget: true"
            )
        made[arm.name] = arm
    return Panel(
        name=name,
        budget=budget,
        baseline=baseline,
        arms=tuple(made.values()),
        source=content.get("source"),
    )


def _arm(
    name: str,
    given: dict[str, Any],
    base: Mapping[str, Any],
    budget: Budget,
    recipe: Recipe,
    made: Mapping[str, Arm],
    timing: Timing,
) -> Arm:
    own = {key: given.pop(key) for key in OWN if key in given}
    overrides = own.get("recipe") or {}
    if unknown := sorted(set(overrides) - {f.name for f in fields(Recipe)}):
        raise ValueError(f"recipe has no {unknown[0]!r}")
    values = {**base, **given}
    if " " in str(values.get("sharing", "")):
        values |= parse_sharing(values["sharing"])
    architecture, trained = (
        _architecture(values, given, own, budget, made),
        replace(recipe, **overrides),
    )
    if "equal" in own:
        trained = _as_long(architecture, trained, str(own["equal"]), made, timing)
    published = own.get("published")
    return Arm(
        name=name,
        architecture=architecture,
        recipe=trained,
        init_shift=number("init_shift", own.get("init_shift", 0), int),
        published=None if published is None else number("published", published, float),
    )


def _architecture(
    values: dict[str, Any],
    given: Mapping[str, Any],
    own: Mapping[str, Any],
    budget: Budget,
    made: Mapping[str, Arm],
) -> Architecture:
    """An earlier arm's shape with changes, the sizes as they are given, or those that fit."""
    if "spend" in own and (own["spend"] != "depth" or "like" not in own):
        raise ValueError(
            f"spend must be depth, in an arm that is like another, but got {own['spend']!r}"
            f"{'' if 'like' in own else ' without like'}"
        )
    if "like" in own:
        if (like := str(own["like"])) not in made:
            raise ValueError(f"like must name an arm above it, but got {like!r}")
        shape = made[like].architecture
        if "spend" in own:
            return _deeper(values, shape, budget)
        kept = {f.name: getattr(shape, f.name) for f in fields(shape)}
        return Architecture.from_dict({**kept, **given})
    if {"hidden_size", "intermediate_size", "num_attention_heads"} <= set(values):
        return Architecture.from_dict(values)
    tolerance = number("ffn_tolerance", own.get("ffn_tolerance", FFN_TOLERANCE), float)
    return fit(values, budget, ffn_tolerance=tolerance)


def _as_long(
    architecture: Architecture, recipe: Recipe, what: str, made: Mapping[str, Arm], timing: Timing
) -> Recipe:
    """As many tokens as use up the training FLOPs or time of the panel's first arm."""
    kinds: dict[str, Callable[[Architecture, Recipe], float]] = {
        "flops": _flops_per_token,
        "time": timing,
    }
    if what not in kinds or not made:
        raise ValueError(
            f"equal must be flops or time, of an arm below the first, but got {what!r}"
        )
    first, per_token = next(iter(made.values())), kinds[what]
    share = per_token(first.architecture, first.recipe) / per_token(architecture, recipe)
    steps = max(1, round(first.recipe.steps * share))
    return replace(recipe, tokens=steps * recipe.tokens_per_step)


def _flops_per_token(architecture: Architecture, recipe: Recipe) -> float:
    return cost(architecture, recipe.seq_len).train_flops_per_token


def _deeper(values: dict[str, Any], shape: Architecture, budget: Budget) -> Architecture:
    """As wide as a shape, and as deep as leaves its FFN nearest to what it was."""
    kept = {k: getattr(shape, k) for k in SIZES if k != "intermediate_size"}
    rest = {k: v for k, v in values.items() if k not in ("heads_per_kv", "heads_per_kv_target")}
    found = []
    for blocks in range(shape.num_blocks or 1, 2 * shape.num_layers + 2):
        try:
            found.append(fit({**rest, **kept, "num_blocks": blocks}, budget))
        except ValueError:
            continue
    if not found:
        raise ValueError(f"no depth of {shape.hidden_size} wide layers closes {budget}")
    return min(found, key=lambda arch: abs(arch.intermediate_size - shape.intermediate_size))
