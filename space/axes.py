"""The search space: axes from YAML, and the architectures on the budget that they span.

A space is finite: every combination of the other axes (a *corner*) has its own ladder of depths
that lie on the budget. Samplers see one distribution an axis, the same in every trial, and what
they suggest is moved to the nearest architecture that the space has: nothing is rejected.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import pairwise, product
from math import log, prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Protocol, Self

from space.arch import KEYED, Architecture, Shape, read_mapping
from space.budget import (
    FFN_TOLERANCE,
    RATIOS,
    SIZES,
    Budget,
    Unfit,
    closed,
    ffn_target,
    fit,
    solve,
)
from space.constraints import Constraints, written
from space.constraints import parse as parse_constraints
from space.cost import cost
from space.files import require_name
from space.near import absent, hint
from space.parts import DOOR, part_fields, value_of
from space.ranges import Range, require_numbers
from space.sharing import MOST_LAYERS, PATTERNS, SCOPES
from space.unmet import Wanted
from space.words import join

if TYPE_CHECKING:
    import pandas as pd

SPACES = Path(__file__).parent.parent / "conf" / "space"
DEPTH = "num_blocks"
DEPTHS = Range(1, MOST_LAYERS)
MOST_POINTS = 10**6
"""Combinations of the axes' values, all of which are looked at."""
NO_AXES = (*SIZES, "vocab_size", "max_position_embeddings", "layer_map", "norms")
"""Fields that close the budget, come with the data, or are said by the sharing axis."""
AXES = (
    DEPTH,
    "sharing",
    *RATIOS,
    "head_dim",
    *(name for name in KEYED if name not in NO_AXES),
)
"""What an axis may vary, besides every field of a part. All of it decides which architecture it is:
depth and sharing make the layer map, ratios the sizes, and the others are in its identity."""
FIXED_BLOCKS = {"all": (1, 0), "sandwich": (3, 2)}
"""Patterns of so many blocks, so many of them not repeated: the depth axis counts their layers."""


@dataclass(kw_only=True)
class SpaceConfig:
    """Schema of the files in `conf/space/`."""

    name: str
    """Of the space, which studies are called after."""
    axes: dict[str, Any]
    """Name of each free value: a list of values; `2..40`, every whole number between; or, for
    `num_blocks`, `2..40 in 10 rungs`, so many well-proportioned depths between."""
    fixed: dict[str, Any] = field(default_factory=dict)
    """What all architectures of the space share: arguments of `space.budget.fit`."""
    ffn_tolerance: Annotated[float, Range(1)] = FFN_TOLERANCE
    """Factor of its target within which the FFN ratio stays; where it cannot, nothing fits."""
    constraints: Any = None
    """On sizes of shapes, `{hidden_size: ">=64", intermediate_size: "%8"}`: what each architecture
    keeps to. A study's `constraints` are on what is counted or measured."""

    def __post_init__(self) -> None:
        require_name("space.name", str(self.name))
        parse_constraints(self.constraints)

    @property
    def kind(self) -> dict[str, Any]:
        """In plain types. A field that was added since the first version is left out at its
        default."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: value for name, value in values.items() if name != "constraints" or value}

    @classmethod
    def read(cls, name: str | Path) -> Self:
        """The space of `conf/space/<name>.yaml`, or of a YAML file given by its path.

        Raises:
            ValueError: no such file, or one that describes no space.
        """
        path = Path(name)
        if path.suffix not in (".yaml", ".yml"):
            path = SPACES / f"{name}.yaml"
        if not path.is_file():
            raise absent("space", str(name), sorted(p.stem for p in SPACES.glob("*.yaml")))
        return cls.of(read_mapping(path, "the name, axes and fixed values of a space"))

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """The space of a file's content.

        Raises:
            ValueError: content that describes no space.
        """
        known = set(cls.__dataclass_fields__)
        if unknown := sorted(set(content) - known):
            raise ValueError(
                f"a space has {', '.join(sorted(known))}, but this one has {unknown[0]!r}"
            )
        if missing := sorted({"name", "axes"} - set(content)):
            raise ValueError(f"a space must have {missing[0]}, but this one has none")
        return cls(**content)


class Trial(Protocol):
    """What `suggest` needs of an Optuna trial."""

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int: ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


@dataclass(frozen=True)
class Candidate:
    """An architecture and the values of the axes that stand for it."""

    params: dict[str, Any]
    architecture: Architecture


_RUNGS = r"(?P<rungs>\d+(?=\s+rungs)|1(?=\s+rung\b))\s+rungs?"
_RANGE = re.compile(rf"(?P<low>\d+)\s*\.\.\s*(?P<high>\d+)(?:\s+in\s+{_RUNGS})?")


@dataclass(frozen=True)
class Axis:
    """The values that one parameter may take."""

    name: str
    values: tuple[Any, ...]
    """All of them, in their order; for a range every whole number."""
    is_range: bool
    rungs: int | None

    @classmethod
    def parse(cls, name: str, given: Any, parts: Sequence[str] = ()) -> Self:
        """The axis of a list, of `2..40`, or of `2..40 in 10 rungs`; of a field of a part too, if
        need be of one of these from outside the project.

        A range may also be a mapping with `low`, `high` and perhaps `rungs`.

        Raises:
            ValueError: an unknown name, no values, a value twice, or an empty range.
        """
        field = part_fields(parts).get(name)
        if name not in AXES and field is None:
            known = ", ".join((*AXES, *part_fields(parts)))
            said = hint(name, (*AXES, *part_fields(parts))) or f"; known are {known}"
            raise ValueError(f"an axis must be a field of architectures, but got {name!r}{said}")
        if isinstance(given, str) and (match := _RANGE.fullmatch(given.strip())):
            given = {k: int(v) for k, v in match.groupdict().items() if v is not None}
        if isinstance(given, Mapping):
            return cls._parse_range(name, given)
        if not isinstance(given, Sequence) or isinstance(given, str) or not given:
            raise ValueError(
                f"axis {name} must be a list of at least one value or a range such as 2..40"
                f"{' or 2..40 in 10 rungs' if name == DEPTH else ''}, but got {given!r}"
            )
        values = tuple(given if field is None else (value_of(field, value) for value in given))
        if len({repr(v) for v in values}) < len(values):
            raise ValueError(f"axis {name} must list each value once, but got {list(values)}")
        numbers = all(type(v) is int for v in values)
        require_numbers(given, at=f"axis {name}")
        if name == DEPTH and not (numbers and min(values) >= 1):
            raise ValueError(f"axis {name} must have whole numbers from 1 on, but got {given}")
        if name == DEPTH:
            DEPTHS.require(f"axis {name}", max(values))
        return cls(name, tuple(sorted(values)) if numbers else values, False, None)

    @classmethod
    def _parse_range(cls, name: str, given: Mapping[str, Any]) -> Self:
        if not {"low", "high"} <= set(given) <= {"low", "high", "rungs"}:
            raise ValueError(
                f"axis {name} must have low and high, and may have rungs, but got {dict(given)}"
            )
        if not all(type(v) is int for v in given.values()):
            raise ValueError(f"axis {name} must have whole numbers, but got {dict(given)}")
        low, high, rungs = given["low"], given["high"], given.get("rungs")
        if not 1 <= low <= high:
            back = f"; write {high}..{low}" if 1 <= high < low else ""
            raise ValueError(f"axis {name} must have 1 <= low <= high, but got {low}..{high}{back}")
        DEPTHS.require(f"the highest of axis {name}", high)
        if rungs is not None and (name != DEPTH or rungs < 1):
            raise ValueError(f"only {DEPTH} has rungs, at least 1, but got {rungs} for {name}")
        return cls(name, tuple(range(low, high + 1)), True, rungs)

    def suggest(self, trial: Trial) -> Any:
        """A value, from a distribution that is the same in every trial.

        Whole numbers are drawn as such, so that samplers know their order: evenly spaced ones with
        their step, a range or an uneven list by ratio.
        """
        if not all(type(v) is int for v in self.values):
            return trial.suggest_categorical(self.name, list(self.values))
        low, high = self.values[0], self.values[-1]
        steps = {b - a for a, b in pairwise(self.values)}
        if self.is_range or len(steps) > 1:
            return trial.suggest_int(self.name, low, high, log=True)
        return trial.suggest_int(self.name, low, high, step=max(steps, default=1))

    def index(self, value: Any) -> int:
        """Place of the value in the axis, for numbers of the nearest one by ratio.

        Raises:
            ValueError: no such value.
        """
        numbers = (int, float)
        if type(value) in numbers and all(type(v) in numbers and v > 0 for v in self.values):
            if value > 0:
                return min(range(len(self.values)), key=lambda i: abs(log(value / self.values[i])))
        if value not in self.values:
            raise ValueError(
                f"{self.name} must be one of {', '.join(map(str, self.values))}, but got {value!r}"
            )
        return self.values.index(value)


Corner = tuple[int, ...]
"""Index of the value of each axis but depth, in the order of the axes."""


@dataclass(frozen=True)
class Space:
    """All architectures that the axes span on one budget.

    Raises:
        ValueError: unknown axes or fields, empty axes, or axes whose values all miss the budget.
    """

    name: str
    budget: Budget
    vocab_size: int
    axes: dict[str, Any]
    fixed: dict[str, Any] = field(default_factory=dict)
    ffn_tolerance: float = FFN_TOLERANCE
    constraints: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.axes:
            raise ValueError(f"space {self.name} must have at least one axis, but has none")
        self._axes  # noqa: B018  reads them all, so that the first mistake is named first
        self._constraints  # noqa: B018
        if "vocab_size" in self.fixed:
            raise ValueError("vocab_size must not be fixed by a space: it comes with the data")
        if twice := sorted(set(self.axes) & set(self.fixed)):
            raise ValueError(f"{twice[0]} must be an axis or fixed, but is both; remove one")
        said = sorted({"repeats", "sharing_scope"} & set(self.fixed))
        if said and "sharing" in self.axes:
            raise ValueError(f"{said[0]} must be said by the sharing axis, as in ffn: immediate x2")
        if DEPTH not in {*self.axes, *self.fixed}:
            raise ValueError(f"{DEPTH} must be an axis or fixed, but is neither")
        if (points := prod(len(axis.values) for axis in self._axes.values())) > MOST_POINTS:
            raise ValueError(
                f"axes of space {self.name} must have at most {MOST_POINTS} combinations, but have "
                f"{points}; leave out values"
            )
        if not self.candidates():
            self._raise_unfit()

    @classmethod
    def from_config(
        cls, config: SpaceConfig | Mapping[str, Any], budget: Budget | str, vocab_size: int
    ) -> Self:
        """The space of a file's content, as a mapping or as Hydra gives it.

        Raises:
            ValueError: content that describes no space.
        """
        if not isinstance(config, SpaceConfig):
            config = SpaceConfig.of(config)
        return cls(
            name=config.name,
            budget=Budget.parse(budget),
            vocab_size=vocab_size,
            axes=dict(config.axes or {}),
            fixed=dict(config.fixed or {}),
            ffn_tolerance=config.ffn_tolerance,
            constraints=dict(config.constraints or {}),
        )

    @classmethod
    def from_yaml(cls, name: str | Path, budget: Budget | str, vocab_size: int) -> Self:
        """The space of `conf/space/<name>.yaml`, or of a YAML file given by its path.

        Raises:
            ValueError: no such file, or one that describes no space.
        """
        return cls.from_config(SpaceConfig.read(name), budget, vocab_size)

    @property
    def kind(self) -> dict[str, Any]:
        """The space apart from budget and vocabulary: what `SpaceConfig` holds, in plain types."""
        return {
            "name": self.name,
            "axes": self.axes,
            "fixed": self.fixed,
            "ffn_tolerance": self.ffn_tolerance,
            **({"constraints": self.constraints} if self.constraints else {}),
        }

    def to_dict(self) -> dict[str, Any]:
        """All that decides which architectures the space has, in plain types."""
        values = {**self.kind, "budget": self.budget.to_dict(), "vocab_size": self.vocab_size}
        parts = {name: DOOR.identity(name) for name in self.fixed.get("parts") or ()}
        return values | ({"parts": parts} if parts else {})

    @property
    def size(self) -> int:
        """Number of architectures."""
        return len(self.candidates())

    @property
    def missed(self) -> float:
        """By how much its architectures miss the budget at most, as a share of it."""
        return max(abs(self.budget.deviation(arch)) for arch in self.enumerate())

    def said_of_depths(self) -> str:
        """Which depths of a list do not lie on the budget, and what is taken for them; nothing
        where all do."""
        axis = self._axes.get(DEPTH)
        if axis is None or axis.is_range:
            return ""
        taken: dict[int, set[int]] = {}
        for ladder in self._table.values():
            for depth in axis.values:
                if depth not in ladder:
                    near = min(ladder, key=lambda d: (abs(log(d / depth)), d))
                    taken.setdefault(depth, set()).add(near)
        if not taken:
            return ""
        each = [f"{join(list(map(str, sorted(near))))} for {d}" for d, near in taken.items()]
        return f"depths that do not fit the budget become the nearest that do: {', '.join(each)}"

    def said_of_constraints(self) -> str:
        """What constraints its shapes keep to, and how near the budget; nothing without any."""
        if not self.constraints:
            return ""
        missed = f"within {self.missed:.2%} of the budget"
        usual = self.budget.tolerance
        if self.missed > usual:
            missed += f", where without the constraint on intermediate_size it is {usual:.2%}"
        return f"shapes keep to {written(self._constraints)}, {missed}"

    def enumerate(self) -> list[Architecture]:
        """Every architecture of the space once, in the order of the axes."""
        return [c.architecture for c in self.candidates()]

    def candidates(self) -> list[Candidate]:
        """`enumerate()` with the values of the axes, from which `architecture` gives it back."""
        return self._candidates

    def frame(self) -> "pd.DataFrame":
        """A row for each architecture: the values of the axes, its sizes and its cost, and how far
        it lies off the budget, as a share."""
        import pandas as pd  # not needed to count candidates

        rows = []
        for candidate in self.candidates():
            arch = candidate.architecture
            sizes = {name: getattr(arch, name) for name in ("num_hidden_layers", *SIZES)}
            off = {"budget_deviation": self.budget.deviation(arch)}
            rows.append({**candidate.params, **sizes, **asdict(cost(arch)), **off})
        return pd.DataFrame(rows)

    def _repr_html_(self) -> str:
        shown = ["num_hidden_layers", *SIZES, "parameters", "budget_deviation"]
        frame = self.frame()
        columns = dict.fromkeys([*self.axes, *(name for name in shown if name in frame)])
        return f"<p>space {self.name}, {self.budget}</p>{frame[[*columns]].to_html(index=False)}"

    def suggest(self, trial: Trial) -> Architecture:
        """The architecture of the space nearest to what the trial's sampler draws."""
        return self.architecture({name: axis.suggest(trial) for name, axis in self._axes.items()})

    def architecture(self, params: Mapping[str, Any]) -> Architecture:
        """The architecture nearest to these values of the axes: see `candidate`."""
        return self.candidate(params).architecture

    def candidate(self, params: Mapping[str, Any]) -> Candidate:
        """The candidate nearest to these values of the axes, with its own values.

        All values but the depth are kept, and the nearest depth (by ratio) that they have on the
        budget is taken; where they have none, the values that differ in the fewest axes are.

        Raises:
            ValueError: an axis missing or unknown, or a value that is none of the axis.
        """
        if set(params) != set(self.axes):
            raise ValueError(
                f"params must have the axes {', '.join(self.axes)}, but got {', '.join(params)}"
            )
        wished = tuple(axis.index(params[axis.name]) for axis in self._sides)
        ladder = self._table[self._nearest_corner(wished)]
        depth = params.get(DEPTH, self.fixed.get(DEPTH))
        if not isinstance(depth, int) or depth < 1:
            raise ValueError(f"{DEPTH} must be a whole number of at least 1, but got {depth!r}")
        return ladder[min(ladder, key=lambda d: (abs(log(d / depth)), d))]

    @cached_property
    def _axes(self) -> dict[str, Axis]:
        parts = self.fixed.get("parts") or ()
        return {name: Axis.parse(name, given, parts) for name, given in self.axes.items()}

    @cached_property
    def _constraints(self) -> Constraints:
        return parse_constraints(self.constraints)

    @cached_property
    def _sides(self) -> list[Axis]:
        """All axes but depth."""
        return [axis for name, axis in self._axes.items() if name != DEPTH]

    @cached_property
    def _table(self) -> dict[Corner, dict[int, Candidate]]:
        """The ladder of each corner that has one: candidate by depth.

        Equal architectures (one block repeated in a row is also one cycled) are one candidate.
        """
        first: dict[Any, Candidate] = {}
        table = {}
        for corner in product(*(range(len(axis.values)) for axis in self._sides)):
            ladder = {}
            for depth, shape in self._ladder(corner).items():
                arch = closed(self._partial(corner, depth), shape, self.budget)
                candidate = Candidate(self._params(corner, depth), arch)
                ladder[depth] = first.setdefault(arch.identity, candidate)
            if ladder:
                table[corner] = ladder
        return table

    @cached_property
    def _candidates(self) -> list[Candidate]:
        unique = {id(c): c for ladder in self._table.values() for c in ladder.values()}
        return sorted(unique.values(), key=self._order)

    def _order(self, candidate: Candidate) -> list[int]:
        return [
            candidate.params[name] if name == DEPTH else axis.values.index(candidate.params[name])
            for name, axis in self._axes.items()
        ]

    def _nearest_corner(self, wished: Corner) -> Corner:
        def distance(corner: Corner) -> tuple[int, int, Corner]:
            steps = [abs(a - b) for a, b in zip(corner, wished, strict=True)]
            return sum(s > 0 for s in steps), sum(steps), corner

        return wished if wished in self._table else min(self._table, key=distance)

    def _ladder(self, corner: Corner) -> dict[int, Shape]:
        """The depths of a corner that the space keeps, with their sizes."""
        axis = self._axes.get(DEPTH)
        if axis is None:
            return self._feasible(corner, [self.fixed[DEPTH]])
        if axis.is_range:
            feasible = self._feasible(corner, axis.values)
            return feasible if axis.rungs is None else self._rungs(corner, feasible, axis.rungs)
        exact = self._feasible(corner, axis.values)
        if len(exact) == len(axis.values):
            return exact
        between = self._feasible(corner, range(axis.values[0], axis.values[-1] + 1))
        taken = {min(between, key=lambda d: abs(log(d / v))) for v in axis.values if between}
        return {depth: between[depth] for depth in sorted(taken)}

    def _feasible(self, corner: Corner, depths: Sequence[int]) -> dict[int, Shape]:
        found = {}
        for depth in depths:
            partial = self._partial(corner, depth)
            if not _is_possible(partial):
                continue
            shape = solve(partial, self.budget, self.ffn_tolerance, self._constraints)
            if shape is not None:
                found[depth] = shape
        return found

    def _points(self) -> list[dict[str, Any]]:
        """What the solver is given for each combination of the axes' values, and depths between."""
        axis = self._axes.get(DEPTH)
        depths = [self.fixed[DEPTH]] if axis is None else range(axis.values[0], axis.values[-1] + 1)
        corners = product(*(range(len(axis.values)) for axis in self._sides))
        points = (self._partial(corner, depth) for corner in corners for depth in depths)
        return [point for point in points if _is_possible(point)]

    def _rungs(self, corner: Corner, feasible: dict[int, Shape], number: int) -> dict[int, Shape]:
        """So many depths, spread by ratio, each with an FFN ratio near its target.

        A width suits one depth best, and the other depths that share it pay with their FFN ratio:
        each width keeps its best. Where more are left than wanted, the most crowded go.
        """
        if not feasible:
            return {}
        target = ffn_target({**self.fixed, **self._params(corner, 1)})
        drift = {d: abs(log(s.ffn_ratio / target)) for d, s in feasible.items()}
        best: dict[int, float] = {}
        for depth, shape in feasible.items():
            width = shape.hidden_size
            best[width] = min(best.get(width, drift[depth]), drift[depth])
        # A pattern of fixed blocks has the same width at every depth: all of them are best.
        kept = [d for d, s in feasible.items() if drift[d] < best[s.hidden_size] + 1e-3]
        while len(kept) > number:
            kept.remove(_most_crowded(kept, drift))
        return {depth: feasible[depth] for depth in kept}

    def _params(self, corner: Corner, depth: int) -> dict[str, Any]:
        sides = {a.name: a.values[i] for a, i in zip(self._sides, corner, strict=True)}
        return {name: depth if name == DEPTH else sides[name] for name in self._axes}

    def _partial(self, corner: Corner, depth: int) -> dict[str, Any]:
        """What `fit` is given for a point."""
        values = {**self.fixed, **self._params(corner, depth), "vocab_size": self.vocab_size}
        sharing = values.get("sharing", "none")
        if "sharing" in self.axes or not isinstance(sharing, str) or " " in sharing:
            values |= parse_sharing(sharing)
        if values.get("sharing") in FIXED_BLOCKS:
            blocks, once = FIXED_BLOCKS[values["sharing"]]
            values |= {DEPTH: blocks, "repeats": depth - once}
        return values

    def _raise_unfit(self) -> NoReturn:
        """Say why the first of the space's points misses the budget, and what does not."""
        if self.constraints:
            asked = Wanted(self._points(), self.budget, self.ffn_tolerance, self._constraints)
            if reason := asked.why():
                raise Unfit(f"space {self.name}: {reason}")
        corner = tuple(0 for _ in self._sides)
        depths = self._axes[DEPTH].values if DEPTH in self._axes else (self.fixed[DEPTH],)
        points = [self._partial(corner, depth) for depth in depths]
        for point in points[len(points) // 2 :]:
            fit(
                point,
                self.budget,
                ffn_tolerance=self.ffn_tolerance,
                constraints=self._constraints,
                instead=[point for point in points if _is_possible(point)],
            )
        raise AssertionError(f"space {self.name} is empty, though its first points fit")


_SHARING = re.compile(
    r"(?:(?P<scope>\w+):\s*)?(?P<pattern>\w+)(?:\s+x(?P<repeats>\d+))?(?:,\s*norms=(?P<norms>\w+))?"
)


def parse_sharing(text: str) -> dict[str, Any]:
    """The fields that `immediate x2`, `ffn: cycle x3` or `immediate x2, norms=layer` stand for.

    One value says all of sharing, because not every combination of its four fields makes sense: an
    axis of them is one choice to a sampler. Repeats left out are 2, and 1 for `none`.

    Raises:
        ValueError: something else.
    """
    match = _SHARING.fullmatch(str(text).strip())
    known = match is not None and match["pattern"] in PATTERNS
    if match is None or not known or (match["scope"] or "block") not in SCOPES:
        raise ValueError(
            "sharing must be written like none, immediate x2, ffn: cycle x3 or all, with a pattern "
            f"of {', '.join(PATTERNS)} and a scope of {', '.join(SCOPES)}, but got {text!r}"
        )
    repeats = int(match["repeats"] or (1 if match["pattern"] == "none" else 2))
    values: dict[str, Any] = {"sharing": match["pattern"], "repeats": repeats}
    values["sharing_scope"] = match["scope"] or "block"
    return values | ({"norms": match["norms"]} if match["norms"] else {})


def describe_sharing(arch: Architecture) -> str:
    """The text that `parse_sharing` understands, or `custom`."""
    if arch.sharing in ("none", "custom"):
        return arch.sharing
    scope = "" if arch.sharing_scope == "block" else f"{arch.sharing_scope}: "
    norms = ", norms=layer" if arch.norms == "layer" and not scope else ""
    return f"{scope}{arch.sharing} x{arch.repeats}{norms}"


def _is_possible(values: Mapping[str, Any]) -> bool:
    """Whether the sharing pattern can be so shallow; what is none is for `fit` to refuse."""
    blocks, repeats = values[DEPTH], values.get("repeats", 1)
    pattern = PATTERNS.get(values.get("sharing", "none"))
    if pattern is None or not isinstance(blocks, int) or not isinstance(repeats, int):
        return True
    try:
        return repeats >= 1 and blocks * repeats <= MOST_LAYERS and bool(pattern(blocks, repeats))
    except ValueError:
        return False


def _most_crowded(depths: Sequence[int], drift: Mapping[int, float]) -> int:
    """The depth between the closest neighbours (by ratio), sooner one with drift; never an end."""
    if len(depths) <= 2:
        return max(depths, key=lambda d: drift[d])
    between = zip(depths, depths[1:], depths[2:], strict=False)
    return min(between, key=lambda near: log(near[2] / near[0]) - drift[near[1]])[1]
