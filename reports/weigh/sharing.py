"""What one more execution of a shared block is worth: a law of quality through runs that share.

    value = E + (level - E) (N / N0)^-alpha,   N = sum over blocks of (weights) r^phi

where a block is executed r times, and `phi` is one number for each pattern of sharing. At 1 a
repeated block is worth as many blocks of its own, at 0 one that is executed once. Tokens are equal
in all runs, so that what depends on them is a part of E.

Source: Schwethelm, Rueckert and Kaissis, arXiv:2604.21106, whose N_once is here what is executed
once, embeddings included where budgets count them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from reports.read.study import HORIZON_TOLERANCE, Study, read_study
from reports.weigh.fits import HUBER, Array, Generator, Interval, interval
from reports.weigh.table import Report, read_table
from search.recipe import Recipe
from search.record import Run
from search.runs import read_record
from search.states import Status
from space.arch import Architecture
from space.cost import cost, weights_by_use
from space.words import join

SEED = 20_402
REFITS = 300
FEWEST_FOR_FLOOR = 4
"""Sizes without sharing that are needed before E can be fitted."""
SPAN = 1.2
"""By at least this factor the largest unshared size is above the smallest."""
PHI = (-3.0, 4.0)
"""Between these it is sought."""
PUBLISHED = 0.46
NONE = "none"


@dataclass(frozen=True)
class Source:
    """A study or a table whose runs a law goes through."""

    name: str
    metric: str
    metric_title: str
    runs: pd.DataFrame
    """`study key arm pattern repeats layers tokens seed value weights`."""
    recipe: Recipe | None = None
    """That of its first run."""
    note: str = ""
    """How its arms came to their learning rates, where each has its own."""


@dataclass(frozen=True)
class SharingLaw:
    """A law of sharing, and the runs behind it."""

    studies: tuple[Source, ...]
    runs: pd.DataFrame
    """`study key arm pattern repeats layers seed value`, `weights` (by how often they are used),
    `effective` weights by the fit, and `residual`, what seeds add taken out."""
    parameters: dict[str, float]
    """`floor` E, `level`, `alpha`, and `phi` of each pattern by its name."""
    draws: pd.DataFrame
    """The same of each refit."""
    middle: float
    """N0."""
    floor_fitted: bool
    """Whether E was fitted; else it is 0."""

    @property
    def patterns(self) -> list[str]:
        """Of sharing, in the order of their names."""
        return sorted(set(self.runs.pattern) - {NONE})

    def interval(self, name: str) -> Interval:
        """The middle 95% of a parameter's refits."""
        return interval(self.draws[name].to_numpy())

    def known(self, pattern: str) -> bool:
        """Whether the runs bound a pattern's phi on both sides."""
        low, high = self.interval(pattern)
        return PHI[0] + 0.01 < low and high < PHI[1] - 0.01


def read_sharing(names: Sequence[str], outputs: str | Path, runs: str | None = None) -> SharingLaw:
    """The law through the runs of these studies, and of tables of arms.

    Raises:
        ValueError: a study that is not there, or studies that differ in metric, tokens or
            vocabulary; too few sizes without sharing, or no sharing.
    """
    if not names:
        raise ValueError("a law of sharing needs studies, but got none; give study=[A,B]")
    sources = [_source(name, outputs, runs) for name in dict.fromkeys(names)]
    frame = pd.concat([source.runs for source in sources], ignore_index=True)
    _check(sources, frame)
    return law_of(tuple(sources), frame, np.random.default_rng(SEED))


def _source(name: str, outputs: str | Path, runs: str | None) -> Source:
    if (Path(outputs) / "tables" / name / "study.json").is_file():
        return _of_table(read_table(name, outputs, runs))
    return _of_study(read_study(name, outputs, runs))


def _of_study(study: Study) -> Source:
    kinds = {"": str(study.facts["budget"]["kind"])}
    found = [
        ({**run, "panel": ""}, study.records[run["key"]].run)
        for run in study.finished.to_dict("records")
    ]
    rows = [_run(study.name, study.metric, cell, ran, kinds) for cell, ran in found]
    recipe = found[0][1].recipe if found else None
    return Source(study.name, study.metric, study.metric_title, pd.DataFrame(rows), recipe)


def _of_table(report: Report) -> Source:
    kinds = {str(p["name"]): str(p["budget"]["kind"]) for p in report.table["panels"]}
    rows, recipe = [], None
    for cell in report.cells[report.cells.status == Status.FINISHED].to_dict("records"):
        record = read_record(report.runs / cell["key"])
        if record is None or not np.isfinite(cell[report.metric]):
            continue
        recipe = recipe or record.run.recipe
        cell["tokens"] = record.readings[-1].tokens
        rows.append(_run(report.name, report.metric, cell, record.run, kinds))
    title, frame = report.criteria.title, pd.DataFrame(rows)
    if not frame.empty:  # panels may have arms in common
        frame = frame.drop_duplicates("key")
    return Source(report.name, report.metric, title, frame, recipe, report.note)


def _run(
    name: str, metric: str, cell: Mapping[Any, Any], run: Run, kinds: Mapping[str, str]
) -> dict[str, Any]:
    arch, embeddings = run.architecture, kinds[cell["panel"]] != "non_embedding_parameters"
    return {
        "study": name,
        **{name: cell[name] for name in ("key", "arm", "seed", "tokens")},
        "value": float(cell[metric]),
        "pattern": pattern_of(arch),
        "repeats": max(weights_by_use(arch)),
        "layers": arch.num_layers,
        "weights": _weights(arch, embeddings),
    }


def pattern_of(arch: Architecture) -> str:
    """The pattern of sharing and what it shares: `none`, `immediate`, `ffn: cycle`."""
    if max(weights_by_use(arch)) == 1:
        return NONE
    scope = "" if arch.sharing_scope == "block" else f"{arch.sharing_scope}: "
    return f"{scope}{arch.sharing}"


def _weights(arch: Architecture, embeddings: bool) -> dict[int, int]:
    found = weights_by_use(arch)
    found[1] += cost(arch).embedding_parameters if embeddings else 0
    return found


def _check(studies: Sequence[Source], frame: pd.DataFrame) -> None:
    metrics = sorted({study.metric for study in studies})
    if len(metrics) > 1:
        raise ValueError(f"studies of a law must have one metric, but have {join(metrics)}")
    if frame.empty:
        raise ValueError("a law of sharing needs finished runs, but these studies have none")
    if frame.tokens.max() / frame.tokens.min() > 1 + HORIZON_TOLERANCE:
        raise ValueError(
            "runs of a law of sharing must be trained on equally many tokens, but have "
            f"{frame.tokens.min():,.0f} to {frame.tokens.max():,.0f}; set recipe.tokens alike"
        )
    if set(frame.pattern) == {NONE}:
        raise ValueError("a law of sharing needs architectures that share, but these share nothing")
    sizes = [sum(weights.values()) for weights in frame.weights[frame.pattern == NONE]]
    if not sizes or max(sizes) < SPAN * min(sizes):
        raise ValueError(
            "a law of sharing needs architectures that share nothing of two sizes or more, a "
            f"factor {SPAN} apart, but has {_range(sizes)}"
            "; give studies of two budgets, study=[A,B]"
        )


def _range(sizes: Sequence[int]) -> str:
    return f"{min(sizes):,} to {max(sizes):,}" if sizes else "none"


def law_of(
    studies: tuple[Source, ...], frame: pd.DataFrame, rng: Generator, refits: int = REFITS
) -> SharingLaw:
    """The law through runs with `pattern weights seed value`."""
    points = _Points.of(frame)
    start = points.start()
    rough = points.fit(start, np.inf)
    size = float(np.median(np.abs(points.left(rough)))) / 0.6745
    threshold = HUBER * max(size, 1e-9)
    theta = points.fit(rough, threshold)
    left, seeds = points.left(theta), points.seeds(theta)
    spread = left * np.sqrt(len(left) / max(len(left) - len(theta), 1))
    draws = []
    for _ in range(refits):
        y = points.of_theta(theta) + seeds + rng.choice(spread, len(spread))
        draws.append(points.with_values(y).fit(theta, threshold))
    names = ["floor", "level", "alpha", *points.patterns]
    runs = frame.assign(effective=points.effective(theta), residual=left)
    return SharingLaw(
        studies,
        runs,
        dict(zip(names, map(float, theta), strict=True)),
        pd.DataFrame(draws, columns=names),
        points.middle,
        points.floor,
    )


@dataclass(frozen=True)
class _Points:
    """What the law is fitted to."""

    uses: Array
    """(U,) how often weights are used."""
    weights: Array
    """(runs, U) as many as that."""
    pattern: Array
    """(runs,) index into `patterns`; -1 where nothing is shared."""
    patterns: tuple[str, ...]
    seed: Array
    """(runs,) index of the seed."""
    y: Array
    middle: float
    floor: bool

    @classmethod
    def of(cls, frame: pd.DataFrame) -> "_Points":
        uses = sorted({use for weights in frame.weights for use in weights})
        patterns = tuple(sorted(set(frame.pattern) - {NONE}))
        table = [[weights.get(use, 0) for use in uses] for weights in frame.weights]
        total = np.array(table, float).sum(axis=1)
        unshared = frame.pattern.to_numpy() == NONE
        sizes = len({round(float(np.log(size) / np.log(SPAN))) for size in total[unshared]})
        return cls(
            uses=np.array(uses, float),
            weights=np.array(table, float),
            pattern=np.array([-1 if p == NONE else patterns.index(p) for p in frame.pattern]),
            patterns=patterns,
            seed=np.unique(frame.seed, return_inverse=True)[1],
            y=frame.value.to_numpy(float),
            middle=float(np.exp(np.log(total).mean())),
            floor=sizes >= FEWEST_FOR_FLOOR,
        )

    def with_values(self, y: Array) -> "_Points":
        """The same runs with other values."""
        return _Points(**{**vars(self), "y": y})

    def effective(self, theta: Array) -> Array:
        """N of each run."""
        phi = np.append(theta[3:], 0.0)[self.pattern]
        powers: Array = self.uses[None, :] ** phi[:, None]
        total: Array = (self.weights * powers).sum(axis=1)
        return total

    def of_theta(self, theta: Array) -> Array:
        """The law's value at each run."""
        floor, level, alpha = theta[:3]
        value: Array = floor + (level - floor) * (self.effective(theta) / self.middle) ** -alpha
        return value

    def seeds(self, theta: Array) -> Array:
        """What each run's seed adds in the mean, in all nothing."""
        rest = self.y - self.of_theta(theta)
        each = np.bincount(self.seed, rest) / np.bincount(self.seed)
        added: Array = each[self.seed]
        centred: Array = added - added.mean()
        return centred

    def left(self, theta: Array) -> Array:
        """Residuals, what seeds add taken out."""
        rest: Array = self.y - self.of_theta(theta) - self.seeds(theta)
        return rest

    def start(self) -> Array:
        """Where the fit begins: at the published phi and a usual exponent of what is above E."""
        floor, alpha = (0.5 * float(self.y.min()), 0.3) if self.floor else (0.0, 0.1)
        return np.array([floor, float(self.y.mean()), alpha, *[PUBLISHED] * len(self.patterns)])

    def fit(self, start: Array, threshold: float) -> Array:
        """Parameters near a start; an infinite threshold makes least squares of it."""
        free = slice(0 if self.floor else 1, None)
        low = np.array([0.0, 0.0, 0.0, *[PHI[0]] * len(self.patterns)])[free]
        high = np.array([self.y.min(), np.inf, 5.0, *[PHI[1]] * len(self.patterns)])[free]

        def rest(values: Array) -> Array:
            return self.left(np.append(start[:1] if not self.floor else [], values))

        options: dict[str, Any] = {}
        if np.isfinite(threshold):
            options = {"loss": "huber", "f_scale": threshold}
        begin = np.clip(start[free], low + 1e-9, high - 1e-9)
        found = least_squares(rest, begin, bounds=(low, high), x_scale="jac", **options).x
        return np.append(start[:1] if not self.floor else [], found)
