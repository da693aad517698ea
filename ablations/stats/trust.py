"""How far a proxy can be trusted: does it order architectures as the target does?

Arms × seeds are evaluated at several budgets and numbers of tokens. Each of these is a proxy; the
largest budget with most tokens is the target. The measure follows a study: it chooses by one seed
at the proxy, and the choice is right or wrong at the target.

*Decision accuracy* is the share of pairs of arms that the proxy orders as the target does
(DataDecide, arXiv:2504.11393, section 3.3). One seed chooses, the others judge, and each seed is
the chooser once: the readings of a run share data order and initial weights, so a run that judged
itself would look too good. Only pairs count that the judging seeds resolve at the target
(`ablations.stats.effects.resolved_pairs`), again without the chooser. *Kendall's tau*
(tau-b) is between the chooser's values and the means of the others, over all arms.

The *noise ceiling* is the accuracy of the target itself as the proxy: with one seed, no proxy can
be expected to do better.

*Regret* is how much worse at the target the arm is that the chooser takes as the best than the best
arm there, both by the means of the judging seeds: what a wrong choice costs, where accuracy says
how many are wrong. The lowest of noisy means lies too low, so that regret is too high, by the same
in every row: what a row has more than the noise ceiling is free of that.

*Interaction* is arm by scale: whether differences between arms are others at the proxy than at the
target, beyond noise. A run's seed is the same at both, so that it is the F test of arms in the
randomised block of the differences, target less proxy (Scheffé, The Analysis of Variance, 1959,
section 4.3, of a contrast of repeated measures), one spread for all arms. An interaction need not
turn an order: differences may only grow.

*Intervals* resample arms and seeds, each with replacement and independently (the pigeonhole
bootstrap of Owen, Annals of Applied Statistics 1:386, 2007): arms, since the figure is quoted for
similar architectures outside the grid, and since pairs share arms and are not independent; choosing
seeds, since a study draws one. Verdicts at the target are not resampled: a seed drawn twice among
the judges would count as independent evidence. The variance is converted to an interval by the
number of independent decisions that would have it (Jeffreys' interval, Brown, Cai and DasGupta,
Statistical Science 16:101, 2001), at most the number of pairs. Percentiles of the resamples would
be a single point if no decision was wrong: with nine arms, four seeds and a true accuracy of 99%
they cover it in 55% of simulated grids, at 95% in 86%; this interval covers it in 95 to 100%.

*Predictors* need no training: counts of the architecture. A tie is half right, so their tau is
tau-a. Each is used in the direction that orders more of all pairs as the target does. That is too
optimistic, so a proxy that beats it is better all the more. (If the other pairs chose the
direction, a predictor that orders half of them right would always be used the wrong way round.)
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import betainccinv, betaincinv

from ablations.stats.block import LEVEL, fit_of
from ablations.stats.effects import resolved_pairs
from ablations.stats.tails import f_sf
from space.arch import Architecture
from space.budget import MAX_DEVIATION
from space.cost import cost

Array = NDArray[np.float64]

WANTED = (0.8, 0.9, 0.95)
"""Decision accuracies for which the shortest sufficient proxy is reported."""
RESAMPLES = 2000
FEWEST_SEEDS = 3
"""One chooses, and a spread takes two that judge."""
CONSTANT = 2 * MAX_DEVIATION
"""Relative range within which a count is the same for all arms: what closing a budget leaves."""


@dataclass(frozen=True)
class Share:
    """A share of decisions, with its interval."""

    value: float
    low: float
    high: float
    n: float
    """Decisions it is the share of, in the mean over the choosing seeds."""


@dataclass(frozen=True)
class Target:
    """What the longest readings of the largest budget say, for each seed that they do not have."""

    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    values: Array
    """(A, S), NaN where a run has no result."""
    resolved: Array
    """(S, A, A): which pairs the other seeds resolve, as `resolved_pairs` says it."""
    order: Array
    """(S, A, A): sign of the difference of the other seeds' means, resolved or not."""
    means: Array
    """(S, A) over the other seeds; the differences behind `order` are at equal seeds."""
    level: float = LEVEL
    """At which pairs are resolved, and of the intervals of what is measured."""

    @classmethod
    def of(cls, values: pd.DataFrame, level: float = LEVEL) -> "Target":
        """Of arms × seeds.

        Raises:
            ValueError: too few arms or seeds.
        """
        require_arms(len(values.index))
        require_seeds(values.shape[1])
        resolved, order, means = [], [], []
        for seed in values:
            others = values.drop(columns=seed)
            resolved.append(_resolved(others, level))
            each = others.to_numpy()
            with np.errstate(invalid="ignore"):
                gaps = each[:, None] - each[None]
                counted = np.isfinite(gaps).sum(-1)
                order.append(np.sign(np.nansum(gaps, axis=-1) / np.where(counted, counted, np.nan)))
            means.append(others.mean(axis=1).to_numpy())
        return cls(
            tuple(map(str, values.index)),
            tuple(map(int, values.columns)),
            values.to_numpy(),
            np.array(resolved, dtype=float),
            np.array(order),
            np.array(means),
            level,
        )

    def choices(self, values: Array) -> Array:
        """(S, A, A) how each seed of (A, S) orders each pair: -1, 0, 1, NaN where it cannot."""
        gaps: Array = np.sign(values.T[:, :, None] - values.T[:, None, :])
        return gaps


def _resolved(values: pd.DataFrame, level: float) -> Array:
    frame = values.melt(ignore_index=False, var_name="seed").reset_index(names="arm").dropna()
    found = pd.DataFrame(0, values.index, values.index)
    if frame.arm.nunique() > 1:
        resolved = resolved_pairs(frame, "value", level=level)
        found.loc[resolved.index, resolved.index] = resolved
    return found.to_numpy(dtype=float)


def require_arms(arms: int) -> None:
    """Raises: ValueError where a grid has too few arms to be ordered."""
    if arms < 2:
        raise ValueError(
            f"a grid must have at least two arms to be ordered, but has {arms}; choose a space or "
            "budgets with more"
        )


def require_seeds(seeds: int) -> None:
    """Raises: ValueError where a grid has too few seeds for one to choose and others to judge."""
    if seeds < FEWEST_SEEDS:
        raise ValueError(
            f"trust takes at least {FEWEST_SEEDS} seeds, one that chooses and two that judge, but "
            f"got {seeds}; set seeds={FEWEST_SEEDS} or more"
        )


def accuracy(target: Target, choices: Array) -> Share:
    """Share of the resolved pairs that are ordered as the target is, for (S, A, A) choices."""
    return _share(choices, target.resolved, target.level)


def tau(target: Target, values: Array, choices: Array) -> Share:
    """Kendall's tau of each seed's values (A, S) with the others' means, averaged over seeds; its
    interval is that of the share of all pairs ordered alike, of which it is a linear function."""
    from scipy.stats import kendalltau  # as few reports need it, it is loaded here

    found = [
        kendalltau(mine[known], means[known]).statistic
        for mine, means in zip(values.T, target.means, strict=True)
        if (known := np.isfinite(mine) & np.isfinite(means)).sum() > 1
    ]
    alike = _share(choices, target.order, target.level)
    value = float(np.mean(found)) if found else np.nan
    return Share(value, 2 * alike.low - 1, 2 * alike.high - 1, alike.n)


@dataclass(frozen=True)
class Regret:
    """What the choice of one seed costs at the target, in units of the metric."""

    value: float
    """The mean over the choosing seeds."""
    worst: float
    """The largest of them."""


def regret(target: Target, values: Array) -> Regret:
    """Of each seed's choice of the lowest of the values (A, S); NaN without any."""
    found = []
    for mine, means in zip(values.T, target.means, strict=True):
        known = np.isfinite(mine) & np.isfinite(means)
        if known.any():
            found.append(means[known][mine[known].argmin()] - np.nanmin(means))
    if not found:
        return Regret(np.nan, np.nan)
    return Regret(float(np.mean(found)), float(max(found)))


@dataclass(frozen=True)
class Interaction:
    """Of arm by scale."""

    sd: float
    """Standard deviation, by moments, of what the arms' differences change by between two scales,
    in units of the metric; 0 where noise explains it."""
    p: float
    """Of none; NaN where no degree of freedom is left."""


def interaction(target: Target, values: Array) -> Interaction:
    """Between the target and a proxy's values (A, S)."""
    apart = pd.DataFrame(target.values - values).dropna(how="all").dropna(axis=1, how="all")
    if len(apart) < 2:
        return Interaction(np.nan, np.nan)
    fit = fit_of(apart)
    between = len(apart) - len(set(fit.group))
    if not fit.df or not between or not fit.sigma > 0:
        return Interaction(np.nan, np.nan)
    left = float(np.nansum(fit.residuals**2))
    of_arms = float(np.nansum((apart - apart.mean()).to_numpy() ** 2)) - left
    ratio = of_arms / between / (left / fit.df)
    seeds = float(apart.count(axis=1).mean())
    sd = np.sqrt(max(ratio - 1, 0.0) * left / fit.df / seeds)
    return Interaction(float(sd), float(f_sf(ratio, between, fit.df)))


@lru_cache(maxsize=8)
def _resamples(n: int, resamples: int, stream: int) -> Array:
    """(R, n) how often each of n is drawn in each resample; a stream is always the same."""
    rng = np.random.Generator(np.random.Philox(stream))
    return rng.multinomial(n, np.full(n, 1 / n), resamples).astype(float)


def _share(choices: Array, truth: Array, level: float = LEVEL) -> Share:
    """Share of the decisions (S, A, A) that agree with the truth, where there is one; a decision
    not taken (0) is half right."""
    arms, seeds = choices.shape[1], choices.shape[0]
    once = np.triu(np.ones((arms, arms)), 1)
    counted = once * (truth != 0) * np.isfinite(truth) * np.isfinite(choices)
    right = np.where(counted > 0, (1 + np.nan_to_num(choices) * np.nan_to_num(truth)) / 2, 0.0)
    total = counted.sum()
    if not total:
        return Share(np.nan, np.nan, np.nan, 0.0)
    value = float((right * counted).sum() / total)
    of_arms, of_seeds = _resamples(arms, RESAMPLES, 0), _resamples(seeds, RESAMPLES, 1)
    agreed, all_ = (
        np.einsum("rs,srj,rj->r", of_seeds, np.matmul(of_arms, each), of_arms)
        for each in (right * counted, counted)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = np.nanvar(agreed / np.where(all_ > 0, all_, np.nan))
    own, most = value * (1 - value), float(total / seeds)
    n = min(own / variance, most) if variance > 0 and own > 0 else most
    tail, ends = (1 - level) / 2, (0.5 + n * value, 0.5 + n * (1 - value))
    low = float(betaincinv(*ends, tail)) if value > 0 else 0.0
    high = float(betainccinv(*ends, tail)) if value < 1 else 1.0
    return Share(value, low, high, most)


@dataclass(frozen=True)
class Scale:
    """All runs on one budget."""

    name: str
    architectures: Mapping[str, Architecture]
    """By arm; the same arms at every scale."""
    readings: pd.DataFrame
    """`arm seed tokens value`, one row per reading of a finished run."""
    seq_len: int

    @property
    def horizons(self) -> list[int]:
        """Tokens at which runs were read."""
        return sorted(int(tokens) for tokens in self.readings.tokens.unique())

    def at(self, tokens: int) -> pd.DataFrame:
        """Arms × seeds, as far as there are any."""
        there = self.readings[self.readings.tokens == tokens]
        return there.pivot(index="arm", columns="seed", values="value")

    def counts(self) -> dict[str, Array]:
        """What is known of the architectures before anything is trained, (A,) each."""
        arms = [(arch, cost(arch, self.seq_len)) for arch in self.architectures.values()]
        return {
            "parameters": np.array([float(c.parameters) for _, c in arms]),
            "non-embedding parameters": np.array(
                [float(c.non_embedding_parameters) for _, c in arms]
            ),
            "training FLOPs": np.array([c.train_flops_per_token for _, c in arms]),
            "depth": np.array([float(a.num_layers) for a, _ in arms]),
            "aspect ratio (width / depth)": np.array(
                [a.hidden_size / a.num_layers for a, _ in arms]
            ),
        }

    def flops(self, tokens: int) -> float:
        """Training FLOPs of a run so long, in the mean over the arms."""
        return float(tokens * self.counts()["training FLOPs"].mean())


PROXY, CEILING, PREDICTOR = "proxy", "ceiling", "predictor"


def measure(scales: Sequence[Scale], level: float = LEVEL) -> pd.DataFrame:
    """How each proxy orders the target, the longest readings of the last scale. One row per proxy,
    from the cheapest scale and the shortest horizon on, then the noise ceiling, then predictors:

    - `kind`: `proxy`, `ceiling` or `predictor`; `name`; `scale` and `tokens` of what is trained
    - `saved`: share of the target's training FLOPs that it does not take, as a run of its own
    - `accuracy low high`: decision accuracy with its interval of this level; NaN where no pair is
      resolved
    - `pairs`: resolved pairs, in the mean over the choosing seeds
    - `tau tau_low tau_high`: Kendall's, over all pairs
    - `regret worst`: what the choice costs at the target, mean and largest over the choosing seeds
    - `interaction interaction_p`: of a proxy, arm by scale, its standard deviation and its p
    - `direction`: of a predictor, which of its two was taken, the other having the rest of all
      pairs; `constant` where it is the same for all arms by construction, and so decides nothing

    Raises:
        ValueError: too few arms or seeds with a result, or nothing but the target was read.
    """
    *_, last = scales
    of = f" of {last.name}" if last.name else ""
    if not len(last.readings):
        raise ValueError(f"some run{of} must have ended to be judged, but none has")
    longest = last.horizons[-1]
    values = last.at(longest).reindex(list(last.architectures))
    target = Target.of(values.dropna(axis="columns", how="all"), level)
    rows = list(_proxies(scales, target, longest))
    if not rows:
        raise ValueError(
            "runs must be read at a shorter horizon or on a smaller budget too, but there are "
            f"readings{of} at {longest:,} tokens alone; set recipe.horizons"
        )
    own = {"kind": CEILING, "name": "noise ceiling", "scale": last.name, "tokens": longest}
    rows.append({**own, "saved": 0.0, **_row(target, target.values)})
    rows += [_predicted(target, name, counted) for name, counted in last.counts().items()]
    names = ["kind", "name", "scale", "tokens", "saved", "accuracy", "low", "high", "pairs"]
    names += ["tau", "tau_low", "tau_high", "regret", "worst", "interaction", "interaction_p"]
    return pd.DataFrame(rows).reindex(columns=[*names, "direction"])


def _proxies(scales: Sequence[Scale], target: Target, longest: int) -> Iterator[dict[str, Any]]:
    whole = scales[-1].flops(longest)
    first = True
    for scale in scales:
        for tokens in scale.horizons:
            if scale is scales[-1] and tokens == longest:
                continue
            values = scale.at(tokens).reindex(index=target.arms, columns=target.seeds)
            yield {
                "kind": PROXY,
                "name": f"{tokens:,} tokens" + (", the first reading" if first else ""),
                "scale": scale.name,
                "tokens": tokens,
                "saved": 1 - scale.flops(tokens) / whole,
                **_row(target, values.to_numpy(dtype=float)),
                **_changed(target, values.to_numpy(dtype=float)),
            }
            first = False


def _row(target: Target, values: Array) -> dict[str, float]:
    choices = target.choices(values)
    found = _measured(accuracy(target, choices), tau(target, values, choices))
    return found | _costs(regret(target, values))


def _costs(cost: Regret) -> dict[str, float]:
    return {"regret": cost.value, "worst": cost.worst}


def _changed(target: Target, values: Array) -> dict[str, float]:
    found = interaction(target, values)
    return {"interaction": found.sd, "interaction_p": found.p}


def _measured(right: Share, ordered: Share) -> dict[str, float]:
    found = {"accuracy": right.value, "low": right.low, "high": right.high, "pairs": right.n}
    return found | {"tau": ordered.value, "tau_low": ordered.low, "tau_high": ordered.high}


def _predicted(target: Target, name: str, counted: Array) -> dict[str, Any]:
    row = {"kind": PREDICTOR, "name": name, "saved": 1.0}
    if np.ptp(counted) <= CONSTANT * np.abs(counted).mean():
        return row | {"direction": "constant"}
    less = np.broadcast_to(np.sign(np.subtract.outer(counted, counted)), target.order.shape)
    alike = _share(less, target.order, target.level)
    choices, direction = less, "less is better"
    if alike.value < 0.5:
        choices, direction = -less, "more is better"
        alike = _share(choices, target.order, target.level)
    ordered = Share(2 * alike.value - 1, 2 * alike.low - 1, 2 * alike.high - 1, alike.n)
    signed = counted if direction == "less is better" else -counted
    cost = regret(target, np.broadcast_to(signed[:, None], target.values.shape))
    measured = _measured(accuracy(target, choices), ordered) | _costs(cost)
    return {**row, **measured, "direction": direction}


def sufficient(rows: pd.DataFrame) -> pd.DataFrame:
    """What suffices, for the rows of `measure`: one row per wanted accuracy and scale:
    `wanted scale`, the fewest `tokens` from which on every reading of that scale reaches it (NaN:
    none does), the training FLOPs `saved`, and `sure`, whether their whole intervals lie above it,
    too."""
    found = []
    proxies = rows[rows.kind == PROXY]
    for wanted in WANTED:
        for scale, mine in proxies.groupby("scale", sort=False):
            longest_first = mine.sort_values("tokens", ascending=False)
            reached = (longest_first.accuracy >= wanted).astype(int).cummin().astype(bool)
            row: dict[str, Any] = {"wanted": wanted, "scale": scale}
            if reached.any():
                at = longest_first[reached].iloc[-1]
                sure = bool((longest_first[reached].low >= wanted).all())
                row |= {"tokens": int(at.tokens), "saved": float(at.saved), "sure": sure}
            found.append(row)
    return pd.DataFrame(found).reindex(columns=["wanted", "scale", "tokens", "saved", "sure"])
