"""What a joint law predicts: budgets that are left out, budgets to come, and what it would take.

A forecast is a file that is written before its budget is trained, and held beside the runs later.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri, stdtrit

from reports.read.study import Study
from reports.weigh.evaluation import OfRuns
from reports.weigh.fits import Interval
from reports.weigh.growth import determined, growth
from reports.weigh.joint import NAMES, OF_LEVEL, Joint, Runs, joint
from reports.weigh.valley import INSIDE, NONE, Valley
from space.budget import COARSE_DEVIATION, Budget
from space.commit import commit
from space.seals import sealed_json, whole_json
from space.words import join, magnitude

EXPONENTS = {
    0.0: "the best depth does not grow",
    0.24: "Depth Delusion, arXiv:2601.20994, from C^0.12 and C as N^2",
    1 / 3: "Inverse Depth, arXiv:2602.05970, width in proportion to depth",
}
"""Published growth of the best depth with parameters."""
ALPHA = 0.05
"""For all of these together (Bonferroni)."""
POWER = 0.8
FIELDS = ("budget", "commit", "studies", "records", "best_depth", "architectures")
"""Of a forecast's file, which hold it beside what came."""
MOST = 64
"""Times the runs there are, and budgets beyond the largest: where a power calculation ends."""


@dataclass(frozen=True)
class JointLaw:
    """A joint law with what it predicts."""

    cells: pd.DataFrame
    law: Joint
    valleys: Sequence[Valley]
    """Of each budget by itself."""
    ratio: float
    """Tokens per parameter of the studies."""
    budget_of: Mapping[float, str]
    """The study of each budget."""
    text: OfRuns | None = None
    """How far losses would be others on other held-out text; None where that is not known of all
    runs. Then the growth, the best depth and what it would take hold it; what is predicted of
    further runs does not, since these read the same text."""

    @classmethod
    def of(
        cls,
        cells: pd.DataFrame,
        studies: Sequence[Study],
        valleys: Sequence[Valley],
        ratio: float,
        text: OfRuns | None = None,
    ) -> "JointLaw | None":
        """None where there are too few runs for one."""
        try:
            if text is not None and not {*cells.key} <= {*text.covariance}:
                text = None  # records beside the studies have none
            law = joint(cells, None if text is None else text.covariance) if len(cells) else None
        except ValueError:
            return None
        names = {float(s.facts["budget"]["value"]): s.name for s in studies}
        return None if law is None else cls(cells, law, valleys, ratio, names, text)

    @cached_property
    def left_out(self) -> pd.DataFrame:
        """A row for each budget, predicted from all other runs: `budget`; the best depth `found`
        by the budget's own valley with its ends, NaN outside the depths tried; `joint` and `line`
        with theirs; `regret`, what the joint law's choice costs by that valley, and `line_regret`;
        `off`, the root of the mean square of differences between architectures, and how many of
        these lie `inside` of `among`; `level`, by how much all lie above the prediction."""
        return pd.DataFrame([row for v in self.valleys if (row := self._left_out(v)) is not None])

    def _left_out(self, valley: Valley) -> dict[str, Any] | None:
        study = self.budget_of[valley.budget]
        own = self.cells.group.str.startswith(f"{study} ")
        try:
            law = joint(self.cells[~own])
        except ValueError:
            return None
        tokens = float(self.cells.tokens[own].max())
        mine = self.cells[own & (self.cells.tokens == tokens)]
        row: dict[str, Any] = {"budget": valley.budget}
        low, high = (math.nan,) * 2 if valley.status == NONE else valley.interval
        found = valley.best if valley.status == INSIDE else math.nan
        row |= {"found": found, "found_low": low, "found_high": high}
        ends = law.best_interval(valley.budget, tokens)
        row |= _ends("joint", law.best(valley.budget, tokens), ends)
        row |= {"regret": _regret(valley, row["joint"])} | score(law, mine)
        line = growth([v for v in self.valleys if v is not valley])
        if line is not None:
            best = float(line.best(valley.budget))
            row |= _ends("line", best, line.predicted(valley.budget))
            row |= {"line_regret": _regret(valley, best)}
        return row

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """Of each parameter that is fitted."""
        return {NAMES[place]: self.law.interval(NAMES[place]) for place in self.law.free}

    @cached_property
    def exponents(self) -> pd.DataFrame:
        """`exponent source p refuted` of each published one."""
        rows = [
            {"exponent": value, "source": source, "p": self.law.p("growth", value)}
            for value, source in EXPONENTS.items()
        ]
        frame = pd.DataFrame(rows)
        return frame.assign(refuted=(frame.p < ALPHA / len(EXPONENTS)) & self.knows_growth)

    @property
    def knows_growth(self) -> bool:
        """Whether these runs determine how the best depth grows, from both sides."""
        return all(map(math.isfinite, self.intervals["growth"]))

    @property
    def unweighable(self) -> str:
        """Why these runs do not say how many more would be needed; empty where they do. Errors of
        other runs are extrapolated from the slopes of the fitted curve: these say little of a
        growth whose interval is open, or of a valley at a bound of its parameters."""
        if not self.knows_growth:
            return "the growth itself is not determined"
        held = [name for name in self.law.at_bound if name not in OF_LEVEL]
        return f"the best fit has {join(held)} at a bound" if held else ""

    @cached_property
    def needed(self) -> pd.DataFrame:
        """What it would take to refute one exponent if its neighbour is true, with 80% power: `one
        other plan runs compute`, the two last in multiples of what there is; NaN where no number
        tried is enough. No rows where these runs do not say (`unweighable`)."""
        if self.unweighable:
            return pd.DataFrame()
        values = sorted(EXPONENTS)
        return pd.DataFrame(
            [
                {"one": one, "other": other, "plan": name, **self._needed(plan, other - one)}
                for one, other in pairwise(values)
                for name, plan in PLANS.items()
            ]
        )

    def _needed(self, plan: Any, difference: float) -> dict[str, float]:
        for times in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, MOST):
            if (cells := plan(self.cells, times)) is None:
                break
            runs = Runs.of(cells)
            df = max(1, int(runs.architecture.max()) + 1 - len(self.law.free))
            needs = float(stdtrit(df, 1 - ALPHA / len(EXPONENTS) / 2)) + float(ndtri(POWER))
            if self.law.error_of("growth", runs) * needs <= difference:
                compute = [(c.parameters * c.tokens).sum() for c in (cells, self.cells)]
                return {"runs": len(cells) / len(self.cells), "compute": compute[0] / compute[1]}
        return {"runs": math.nan, "compute": math.nan}


def _more_seeds(cells: pd.DataFrame, times: int) -> pd.DataFrame | None:
    copies = [cells.assign(seed=cells.seed.astype(str) + f" {n}") for n in range(times)]
    return pd.concat(copies, ignore_index=True) if times <= 16 else None


def _more_depths(cells: pd.DataFrame, times: int) -> pd.DataFrame | None:
    copies = [
        cells.assign(architecture=cells.architecture.astype(str) + f" {n}") for n in range(times)
    ]
    return pd.concat(copies, ignore_index=True) if times <= 16 else None


def _more_budgets(cells: pd.DataFrame, times: int) -> pd.DataFrame | None:
    """Budgets of twice, four times … the largest, with its depths and seeds and tokens in
    proportion."""
    if times > 8:
        return None
    largest = cells[cells.parameters > 0.8 * cells.parameters.max()]
    largest = pd.DataFrame(largest[largest.tokens == largest.tokens.max()])
    more = [
        largest.assign(
            parameters=largest.parameters * 2.0**n,
            tokens=largest.tokens * 2.0**n,
            architecture=largest.architecture.astype(str) + f" {n}",
            group=f"further {n}",
        )
        for n in range(1, times)
    ]
    return pd.concat([cells, *more], ignore_index=True)


PLANS = {
    "more seeds of the same": _more_seeds,
    "more depths on the same budgets": _more_depths,
    "further budgets, each twice the last": _more_budgets,
}


def _ends(name: str, value: float, ends: Interval) -> dict[str, float]:
    return {name: value, f"{name}_low": ends[0], f"{name}_high": ends[1]}


def _regret(valley: Valley, depth: float) -> float:
    """What a depth costs by a budget's own valley; NaN where that has no bottom inside."""
    if valley.status != INSIDE:
        return math.nan
    return float(valley.at(min(max(depth, 1.0), 1e3)) - valley.at(valley.best))


def score(law: Joint, mine: pd.DataFrame) -> dict[str, float]:
    """A law's predictions beside the runs of one budget, by their means."""
    means = mine.groupby("architecture").agg(
        parameters=("parameters", "first"),
        tokens=("tokens", "first"),
        depth=("depth", "first"),
        value=("value", "mean"),
        seeds=("seed", "nunique"),
    )
    size, tokens, depth = (means[n].to_numpy(float) for n in ("parameters", "tokens", "depth"))
    said = law.prediction(size, tokens, depth, int(means.seeds.min()))
    return beside(said.set_index(means.index), means.value)


def beside(said: pd.DataFrame, values: "pd.Series[float]") -> dict[str, float]:
    """Predictions of some architectures beside their means: `off level inside among`."""
    relative = values - values.mean()
    inside = (said.relative_low <= relative) & (relative <= said.relative_high)
    off = relative - (said.relative - said.relative.mean())
    return {
        "off": math.sqrt(float((off**2).mean())),
        "level": float((values - said.value).mean()),
        "inside": int(inside.sum()),
        "among": len(values),
    }


def forecast_files(law: Any, budget: str | None) -> dict[str, bytes]:
    """The file of a forecast by name, from a `reports.weigh.law.Law`; none where none is asked for.

    Raises:
        ValueError: no budget that the law counts, one that it was made from, too few runs for a
            joint law, or runs that do not determine the best depth of the budget.
    """
    if budget is None:
        return {}
    if law.joined is None:
        raise ValueError(
            "a forecast takes a joint law, but these studies have too few architectures; give more "
            "budgets or depths"
        )
    asked = Budget.parse(budget if ":" in budget else f"{law.kind}:{budget}")
    if asked.kind != law.kind:
        raise ValueError(f"a forecast must count {law.kind}, as its law does, but got {budget}")
    for known, study in law.joined.budget_of.items():
        if _same(asked.value, known):
            raise ValueError(
                f"a forecast must be of a budget that is still to be trained, but {study}, which "
                f"the law is made from, has {magnitude(known)}; give another budget, or leave "
                f"{study} out of study=[…] to see it predicted"
            )
    metric = str(law.studies[0].metric)
    said = forecast(law.joined, float(asked.value), law.kind, metric, commit())
    if not determined(*best_ends(said)):
        raise ValueError(
            f"a forecast must have a best depth, but these studies leave it not determined at "
            f"{magnitude(asked.value)}; give more budgets or depths, with optima inside the depths "
            "tried"
        )
    return {f"forecast_{magnitude(asked.value)}.json": sealed_json(said)}


def _same(one: float, other: float) -> bool:
    """Whether two budgets differ by no more than their names round, or architectures miss them."""
    return magnitude(one) == magnitude(other) or abs(one / other - 1) <= COARSE_DEVIATION


def require_unwritten(folder: Path, files: Mapping[str, bytes]) -> None:
    """Raises: ValueError where another forecast of the same budget is there: one that was written
    before its runs stays as it was."""
    for name, content in files.items():
        path = folder / name
        if path.is_file() and path.read_bytes() != content:
            raise ValueError(
                f"a forecast must stay as it was written, but {path} has another; give called=NAME"
            )


def forecast(
    joined: JointLaw, budget: float, kind: str, metric: str, made_at: str | None
) -> dict[str, Any]:
    """What the law predicts of a budget: best depth, and values of the largest budget's depths
    over as many seeds as it has, in plain types."""
    largest = joined.cells[joined.cells.tokens == joined.cells.tokens.max()]
    depths = sorted({int(depth) for depth in largest.depth})
    seeds, tokens = int(largest.groupby("depth").seed.nunique().min()), joined.ratio * budget
    law, line = joined.law, growth(joined.valleys)
    sizes = np.full(len(depths), budget), np.full(len(depths), tokens)
    said = law.prediction(*sizes, np.array(depths, float), seeds).assign(depth=depths)
    low, high = law.best_interval(budget, tokens)
    found = {
        "budget": {"kind": kind, "value": round(budget)},
        "tokens": round(tokens),
        "metric": metric,
        "commit": made_at,
        "studies": list(joined.budget_of.values()),
        "records": sorted(set(joined.cells.key)),
        "seeds": seeds,
        "at_bound": law.at_bound,
        "best_depth": _plain({"value": law.best(budget, tokens), "low": low, "high": high}),
        "architectures": [_plain(row) for row in said.to_dict("records")],
    }
    if line is not None:
        ends = line.predicted(budget)
        by_line = {"value": float(line.best(budget)), "low": ends[0], "high": ends[1]}
        found["best_depth_by_the_line"] = _plain(by_line)
    return found


def best_ends(said: Mapping[str, Any]) -> Interval:
    """The interval of a forecast's best depth."""
    low, high = (said["best_depth"][end] for end in ("low", "high"))
    return low or 0.0, math.inf if high is None else high


def _plain(values: Mapping[Any, Any]) -> dict[str, float | None]:
    """For JSON, which knows no infinity: None."""
    return {str(k): float(v) if math.isfinite(v) else None for k, v in values.items()}


def read_forecast(path: Path) -> dict[str, Any]:
    """A forecast's file.

    Raises:
        ValueError: it is not there, not as it was written, or no forecast.
    """
    if not path.is_file():
        raise ValueError(f"forecast must be a budget or a file, but there is no {path}")
    remedy = "take it as it was committed, or write it anew: page=laws study=[…] forecast=BUDGET"
    content: dict[str, Any] = whole_json(path, "a forecast as it was written", remedy)
    if lacking := [name for name in FIELDS if name not in content]:
        raise ValueError(f"{path} must hold a forecast, but lacks {lacking[0]}; {remedy}")
    return content
