"""A joint law of quality through all runs: parameters, tokens and depth at once.

    E + A N^-alpha + B D^-beta + c N^gamma v(log L - log best(N, D))
    log best(N, D) = log_depth + growth log N + tokens log(D / N)

N and D are relative to a centre. v is the LINEX function 2 (exp(s x) - 1 - s x) / s^2 (Varian 1975,
Zellner, JASA 81:446, 1986): x^2 where the asymmetry s is 0, steeper on the deep side where it is
positive. Where tokens per parameter are the same in all runs, N and D cannot be separated: then B
and `tokens` are left out, and `growth` is that of both together, as it is in any case along a ray.

A reading's deviation from the law has four parts: that of its group, all runs at one budget and
number of tokens (lack of fit of the level); its architecture's (lack of fit of the valley, the same
for all its seeds and readings); its seed's, the same within a group; and its own. Their variances
are estimated by restricted maximum likelihood at the fitted curve, and the curve by generalised
least squares with these variances, in turns (Lindstrom and Bates, Biometrics 46:673, 1990).
Intervals are profiles of that sum of squares, with Student's t of as many degrees of freedom as
there are architectures beyond the parameters: more seeds of the same architectures do not make them
narrower than the lack of fit allows. `python -m benchmarks.joint_law` measures their coverage.

All runs are scored on the same held-out text, and what differs by its choice between architectures
is in all their seeds. The fit takes that for the architectures' own; intervals of parameters are
widened by its known variance besides, which makes them somewhat too wide rather than too narrow.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import brentq, least_squares, minimize
from scipy.special import stdtr, stdtrit

from reports.weigh.fits import Array, Interval, raised
from reports.weigh.quality import FEWEST_FOR_FLOOR

BOUNDS: Mapping[str, Interval] = {
    "floor": (0.0, math.inf),
    "log_a": (-20.0, 10.0),
    "alpha": (1e-3, 3.0),
    "log_b": (-20.0, 10.0),
    "beta": (1e-3, 3.0),
    "log_c": (-16.0, 4.0),
    "gamma": (-2.0, 2.0),
    "asymmetry": (-2.5, 2.5),
    "log_depth": (-6.0, 12.0),
    "growth": (-4.0, 4.0),
    "tokens": (-4.0, 4.0),
}
"""Of the parameters, in the order of `theta`."""
NAMES = tuple(BOUNDS)
OF_LEVEL = ("floor", "log_a", "alpha", "log_b", "beta")
OF_TOKENS = ("log_b", "beta", "tokens")
"""What needs runs that differ in tokens per parameter."""
APART = 1.2
"""Tokens per parameter differ by at least this factor where N and D are separated."""
TURNS = 8
"""Of curve and variances; they settle in three to five."""


@dataclass(frozen=True)
class Runs:
    """What a law is fitted to, an entry for each reading of a run."""

    size: Array
    """log N."""
    tokens: Array
    """log D."""
    depth: Array
    """log L."""
    value: Array
    architecture: Any
    """Numbers from 0, the same for all seeds and readings of one."""
    block: Any
    """Numbers from 0: seeds within groups."""
    group: Any
    """Numbers from 0."""
    text: Array | None = None
    """(n, n) covariance of the values over the choice of held-out text; None where not known."""

    @classmethod
    def of(cls, cells: pd.DataFrame, text: pd.DataFrame | None = None) -> "Runs":
        """Of rows with `parameters tokens depth seed value architecture group`; with `key` where
        `text` has the covariance of runs over held-out text by key. It is that at their ends,
        which is taken for that of their earlier readings, too."""
        size, tokens, depth = (
            np.log(cells[name].to_numpy(float)) for name in ("parameters", "tokens", "depth")
        )
        return cls(
            size,
            tokens,
            depth,
            cells.value.to_numpy(float),
            cells.groupby("architecture").ngroup().to_numpy(),
            cells.groupby(["group", "seed"]).ngroup().to_numpy(),
            cells.groupby("group").ngroup().to_numpy(),
            None if text is None else text.loc[cells.key, cells.key].to_numpy(),
        )

    @property
    def apart(self) -> bool:
        """Whether N and D can be separated."""
        return float(np.ptp(self.tokens - self.size)) > math.log(APART)


def _t(df: int, level: float) -> float:
    """Of how many standard errors an interval has on either side."""
    return float(stdtrit(df, 0.5 + level / 2)) if df > 0 else math.inf


def valley(x: Array, asymmetry: float) -> Array:
    """LINEX: how much is lost so far from the best depth, in log depth, in units of `c`."""
    s = asymmetry
    if abs(s) < 1e-3:
        found: Array = x**2 + s * x**3 / 3
        return found
    return np.asarray(2 * (np.expm1(np.clip(s * x, -50, 50)) - s * x) / s**2)


def curve(theta: Array, z: Array, w: Array, depth: Array, apart: bool) -> Array:
    """The law's value at z = log N and w = log D less their centres."""
    floor, a, alpha, b, beta, c, gamma, s, *best = theta
    x = depth - best[0] - best[1] * z
    value = floor + np.exp(a - alpha * z)
    if apart:
        x = x - best[2] * (w - z)
        value = value + np.exp(b - beta * w)
    return np.asarray(value + np.exp(c + gamma * z) * valley(x, s))


@dataclass(frozen=True)
class Variances:
    """Of the four parts of a deviation."""

    level: float
    architecture: float
    seed: float
    run: float

    def matrix(self, runs: Runs) -> Array:
        """(n, n) covariance of the values."""
        alike = runs.architecture[:, None] == runs.architecture
        block = runs.block[:, None] == runs.block
        group = runs.group[:, None] == runs.group
        own: Array = self.level * group + self.architecture * alike + self.seed * block
        return own + self.run * np.eye(len(runs.value))


@dataclass(frozen=True)
class Joint:
    """The law, fitted."""

    runs: Runs
    centre: tuple[float, float]
    """log N and log D."""
    theta: Array
    variances: Variances

    @property
    def free(self) -> list[int]:
        """Places of the parameters that are fitted."""
        held = {"floor"} if self.groups < FEWEST_FOR_FLOOR else set()
        held |= set() if self.runs.apart else set(OF_TOKENS)
        return [i for i, name in enumerate(NAMES) if name not in held]

    @property
    def groups(self) -> int:
        return int(self.runs.group.max()) + 1

    @property
    def df_level(self) -> int:
        """Groups beyond the parameters of the level."""
        return self.groups - sum(NAMES[i] in OF_LEVEL for i in self.free)

    @property
    def df(self) -> int:
        """Architectures beyond the parameters."""
        return max(1, int(self.runs.architecture.max()) + 1 - len(self.free))

    def parameter(self, name: str) -> float:
        return float(self.theta[NAMES.index(name)])

    def at(self, parameters: Any, tokens: Any, depth: Any) -> Array:
        """Predicted values."""
        size, data, layers = (np.log(np.asarray(v, float)) for v in (parameters, tokens, depth))
        return self._at(self.theta, size, data, layers)

    def best(self, parameters: float, tokens: float) -> float:
        """The best depth."""
        z, w = math.log(parameters) - self.centre[0], math.log(tokens) - self.centre[1]
        away = self.parameter("tokens") * (w - z) if self.runs.apart else 0.0
        return math.exp(self.parameter("log_depth") + self.parameter("growth") * z + away)

    def best_interval(self, parameters: float, tokens: float, level: float = 0.95) -> Interval:
        """Of the best depth: the profile of the depth at a centre that lies there. An end that the
        runs do not determine is 0 or infinite."""
        there = self.centred(math.log(parameters), math.log(tokens))
        low, high = there.interval("log_depth", level)
        return raised(low), raised(high)

    def interval(self, name: str, level: float = 0.95) -> Interval:
        """Of a parameter; infinite where it is not determined within its bounds."""
        at, most = self.parameter(name), _t(self.df, level) ** 2 * self._widening(name)
        low, high = (min(abs(bound - at), 6.0) for bound in BOUNDS[name])
        return self._end(name, most, -low), self._end(name, most, high)

    def _end(self, name: str, most: float, away: float) -> float:
        """Where the sum of squares has risen by `most`; infinite where nowhere up to there."""
        at, excess = self.parameter(name), self._excess(name, most)
        end = at + away
        excess(end)  # fitted from afar; the next fit begins with it
        last = excess(end)  # kept: a third fit may differ again
        if last <= 0:
            return math.copysign(math.inf, away)
        return float(brentq(lambda x: last if x == end else excess(x), at, end, xtol=1e-4))

    def p(self, name: str, value: float) -> float:
        """Of the hypothesis that a parameter has this value, two-sided."""
        rise = max(0.0, self._excess(name, 0.0)(value)) / self._widening(name)
        return float(2 * stdtr(self.df, -math.sqrt(rise)))

    def _widening(self, name: str) -> float:
        """By which factor the choice of held-out text raises the variance of a parameter."""
        place = self.free.index(NAMES.index(name))
        own = float(self.covariance[place, place])
        return 1 + self._of_text(place) / own if own > 0 else 1.0

    def _of_text(self, place: int) -> float:
        """The variance of a free parameter over the choice of held-out text, by the slopes at the
        fitted curve. Other runs that read the same text do not lessen it."""
        if self.runs.text is None:
            return 0.0
        runs = self.runs
        slope = self._slopes(runs.size, runs.tokens, runs.depth)
        pull = cho_solve(cho_factor(self.variances.matrix(runs)), slope) @ self.covariance[place]
        return float(pull @ runs.text @ pull)

    def _excess(self, name: str, most: float) -> Any:
        """How much more than `most` the sum of squares rises where a parameter is held."""
        place, start = NAMES.index(name), {self.parameter(name): self.theta}
        whitened = Whitened.of(self.runs, self.centre, self.variances)
        lowest = whitened.sum_of_squares(self.theta)

        def excess(value: float) -> float:
            if value == self.parameter(name):
                return -most
            near = start[min(start, key=lambda known: abs(known - value))].copy()
            near[place] = value
            free = [i for i in self.free if i != place]
            found = whitened.fit(near, free)
            start[value] = found
            return whitened.sum_of_squares(found) - lowest - most

        return excess

    def prediction(
        self, parameters: Array, tokens: Array, depth: Array, seeds: int, level: float = 0.95
    ) -> pd.DataFrame:
        """Means over so many seeds of architectures of one budget that are not among the runs:
        `value low high`, and `relative relative_low relative_high`, which is less the mean of
        these architectures, so that the level of the budget is not in it.

        Intervals have what is not known of the curve, of these architectures, of their runs and,
        but for the relative ones, of the budget's level; they are infinite where no degree of
        freedom is left for the latter.
        """
        size, data, layers = (np.log(np.asarray(v, float)) for v in (parameters, tokens, depth))
        slope, value = self._slopes(size, data, layers), self._at(self.theta, size, data, layers)
        v, n = self.variances, len(value)
        own = (v.architecture + v.run / seeds) * np.eye(n) + slope @ self.covariance @ slope.T
        centred = np.eye(n) - 1 / n
        relative, among = centred @ value, np.diag(centred @ own @ centred)
        error = np.sqrt(np.diag(own) + v.level + v.seed / seeds)
        half = error * _t(self.df_level, level)
        rest = np.sqrt(among) * _t(self.df, level)
        ends = {"value": value, "low": value - half, "high": value + half, "relative": relative}
        return pd.DataFrame(
            ends | {"relative_low": relative - rest, "relative_high": relative + rest}
        )

    @cached_property
    def covariance(self) -> Array:
        """Of the free parameters, by the slopes at the fitted curve, as if there were no bounds."""
        return self.covariance_of(self.runs)

    def covariance_of(self, runs: Runs, variances: Variances | None = None) -> Array:
        """What it would be of other runs, if the law is as it was fitted."""
        slope = self._slopes(runs.size, runs.tokens, runs.depth)
        matrix = (variances or self.variances).matrix(runs)
        weighed = slope.T @ cho_solve(cho_factor(matrix), slope)
        scale = np.sqrt(np.maximum(np.diag(weighed), 1e-30))
        inner = np.linalg.pinv(weighed / np.outer(scale, scale), rcond=1e-10, hermitian=True)
        return np.asarray(inner / np.outer(scale, scale))

    @property
    def at_bound(self) -> list[str]:
        """The fitted parameters that lie at a bound."""
        return [NAMES[place] for place in self.free if self._held(place)]

    def _held(self, place: int) -> bool:
        low, high = BOUNDS[NAMES[place]]
        return not low + 1e-6 < self.theta[place] < high - 1e-6

    def error_of(self, name: str, runs: Runs, variances: Variances | None = None) -> float:
        """The standard error that a parameter would have with other runs; infinite at a bound."""
        if name in self.at_bound:
            return math.inf
        place = self.free.index(NAMES.index(name))
        own = float(self.covariance_of(runs, variances)[place, place])
        return math.sqrt(own + self._of_text(place))

    def centred(self, size: float, tokens: float) -> "Joint":
        """The same law, its parameters relative to another centre: log N, log D."""
        dz, dw = size - self.centre[0], tokens - self.centre[1]
        t = dict(zip(NAMES, self.theta, strict=True))
        t["log_a"] -= t["alpha"] * dz
        t["log_b"] -= t["beta"] * dw
        t["log_c"] += t["gamma"] * dz
        t["log_depth"] += t["growth"] * dz
        t["log_depth"] += t["tokens"] * (dw - dz) if self.runs.apart else 0.0
        return Joint(self.runs, (size, tokens), np.array(list(t.values())), self.variances)

    def _at(self, theta: Array, size: Array, tokens: Array, depth: Array) -> Array:
        z, w = size - self.centre[0], tokens - self.centre[1]
        return curve(theta, z, w, depth, self.runs.apart)

    def _slopes(self, size: Array, tokens: Array, depth: Array) -> Array:
        """(n, free parameters) central differences, across its bound for a parameter at one: that
        the fit ends there does not make the parameter known."""
        columns = []
        for place in self.free:
            step = 1e-5 * max(1.0, abs(self.theta[place]))
            ends = [self.theta + sign * step * (np.arange(len(NAMES)) == place) for sign in (1, -1)]
            up, down = (self._at(end, size, tokens, depth) for end in ends)
            columns.append((up - down) / (2 * step))
        return np.column_stack(columns)


@dataclass(frozen=True)
class Whitened:
    """Runs whose deviations are made independent, with variance 1."""

    runs: Runs
    centre: tuple[float, float]
    root: Array
    """Lower triangular root of the covariance."""

    @classmethod
    def of(cls, runs: Runs, centre: tuple[float, float], variances: Variances) -> "Whitened":
        return cls(runs, centre, np.linalg.cholesky(variances.matrix(runs)))

    def residuals(self, theta: Array) -> Array:
        z, w = self.runs.size - self.centre[0], self.runs.tokens - self.centre[1]
        off = curve(theta, z, w, self.runs.depth, self.runs.apart) - self.runs.value
        return np.asarray(solve_triangular(self.root, off, lower=True, check_finite=False))

    def sum_of_squares(self, theta: Array) -> float:
        return float((self.residuals(theta) ** 2).sum())

    def fit(self, start: Array, free: list[int]) -> Array:
        """Least squares near a start, over the free parameters."""
        low, high = np.array([BOUNDS[NAMES[i]] for i in free]).T
        high = np.minimum(high, [self.runs.value.min() if i == 0 else math.inf for i in free])

        def whole(part: Array) -> Array:
            theta = start.copy()
            theta[free] = part
            return theta

        begin = np.clip(start[free], low + 1e-9, high - 1e-9)
        found = least_squares(
            lambda part: self.residuals(whole(part)),
            begin,
            bounds=(low, high),
            x_scale=np.maximum(np.abs(begin), 0.1),
            max_nfev=200,
        )
        return whole(found.x)


def joint(cells: pd.DataFrame, text: pd.DataFrame | None = None) -> Joint:
    """The law through runs with `parameters tokens depth seed value architecture group`, and
    `text` as `Runs.of` takes it.

    Raises:
        ValueError: too few architectures or sizes.
    """
    runs = Runs.of(cells, text)
    sizes = len(np.unique(runs.size.round(1)))
    fewest = len(NAMES) if runs.apart else len(NAMES) - len(OF_TOKENS)
    if sizes < 2 or runs.architecture.max() < fewest:
        raise ValueError(
            f"a joint law needs two sizes and more than {fewest} architectures, but got {sizes} "
            f"and {runs.architecture.max() + 1}; try more depths, or more budgets"
        )
    return fitted(runs)


def fitted(runs: Runs, start: Joint | None = None) -> Joint:
    """The law, from a start near by or from several of its own."""
    centre = start.centre if start else (float(runs.size.mean()), float(runs.tokens.mean()))
    floors = (0.0, 0.5, 0.85) if runs.group.max() + 1 >= FEWEST_FOR_FLOOR else (0.0,)
    starts = [start.theta] if start else [_start(runs, centre, share) for share in floors]
    total = float(np.var(runs.value)) / 100
    variances = start.variances if start else Variances(total, total, total, total)
    whitened = Whitened.of(runs, centre, variances)
    free = Joint(runs, centre, starts[0], variances).free
    theta = min((whitened.fit(s, free) for s in starts), key=whitened.sum_of_squares)
    for _ in range(TURNS):
        before = theta
        variances = _restricted(Joint(runs, centre, theta, variances))
        theta = Whitened.of(runs, centre, variances).fit(theta, free)
        if np.abs(theta - before).max() < 1e-4:
            break
    return Joint(runs, centre, theta, variances)


def _restricted(law: Joint) -> Variances:
    """The variances by restricted maximum likelihood, the curve linear at its parameters."""
    runs = law.runs
    left = runs.value - law._at(law.theta, runs.size, runs.tokens, runs.depth)
    slope = law._slopes(runs.size, runs.tokens, runs.depth)
    slope = slope[:, np.abs(slope).max(0) > 0]
    slope = np.linalg.qr(slope)[0]
    unit = float(left @ left) / max(1, len(left) - slope.shape[1])

    def criterion(logs: Array) -> float:
        matrix = Variances(*(unit * np.exp(logs))).matrix(runs)
        factor = cho_factor(matrix, lower=True, check_finite=False)
        inner = slope.T @ cho_solve(factor, slope)
        weighed = cho_solve(factor, left)
        projected = slope.T @ weighed
        return float(
            2 * np.log(np.diag(factor[0])).sum()
            + np.linalg.slogdet(inner)[1]
            + left @ weighed
            - projected @ np.linalg.solve(inner, projected)
        )

    own = np.array(list(vars(law.variances).values()))
    found = minimize(
        criterion,
        np.log(np.clip(own / unit, 1e-4, 1e2)),
        method="L-BFGS-B",
        bounds=[(-9.0, 7.0), (-9.0, 5.0), (-9.0, 5.0), (-6.0, 5.0)],
    )
    return Variances(*map(float, unit * np.exp(found.x)))


def _start(runs: Runs, centre: tuple[float, float], share: float) -> Array:
    """Where to begin, with that share of the lowest value as E."""
    z, w = runs.size - centre[0], runs.tokens - centre[1]
    floor = share * float(runs.value.min())
    lowest = pd.DataFrame({"z": z.round(1), "w": w.round(1), "x": runs.depth, "y": runs.value})
    rows = lowest.loc[lowest.groupby(["z", "w"]).y.idxmin()]
    falls = -np.polyfit(rows.z + rows.w, np.log(rows.y - floor), 1)[0] if len(rows) > 1 else 0.1
    at = math.log(max(float(rows.y.mean()) - floor, 1e-6))
    alpha = min(max(2 * falls if not runs.apart else falls, 0.02), 2.0)
    half = math.log(0.5) if runs.apart else 0.0
    theta = [floor, at + half, alpha, at + half, alpha, math.log(0.02), 0.0, 0.0]
    return np.array([*theta, float(rows.x.median()), 0.0, 0.0])
