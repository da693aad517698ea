"""Which differences between arms are significant.

Arms share their seeds, and a seed fixes the order of the data. So the model is a randomised block,

    value[arm, seed] = effect of the arm + effect of the seed + error,

with one standard deviation of the errors ("spread"), pooled over all arms. From three seeds, the
spread of a single arm has two degrees of freedom and resolves almost nothing; the pooled spread of
ten arms has eighteen. If cells are missing, the effects are least-squares estimates.

Example: ten arms and three seeds. A paired t test per arm with Bonferroni's correction over ten
needs t = 14.1; the difference that it finds with 80% power is 10.4 standard deviations of a
difference. The pooled model needs 2.98 and finds 2.24; the rule below finds 3.4.

Arms may have unequal spreads, and few seeds cannot rule that out: to test for it first, and to
change the method if the test rejects, fails where the test has no power. So every difference must
be significant with three estimates of the spread, and its interval is the widest of the three:

- *pooled*: one spread for all arms, Dunnett's critical value;
- *baseline*: one for the baseline and one for all others, because a noisy baseline shifts all
  differences together. The critical value is that of a multivariate t with the correlations that
  the two spreads give and Satterthwaite's degrees of freedom;
- *own*: the baseline's and the arm's own, Welch's t at half of the level. It is not corrected for
  the number of arms: if many arms are noisy, the pooled spread is large as well.

`spread_p` tests each arm's spread (F test of its residual variance against that of all others,
exact in this model with any missing cells). It is reported and changes no verdict. With two arms
all three are the paired t test. `pooled=True` assumes equal spreads.

`python -m ablations table=power` shows the rate of false verdicts and the power.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ablations.stats.block import LEVEL, cells_of, contrasts, describe, fit_of, in_order_of
from ablations.stats.detectable import POWER, reach
from ablations.stats.evaluation import Array, widened
from ablations.stats.variances import outliers, spread_tests
from ablations.stats.widths import half_widths_around, ways_of_table


def compare(
    frame: pd.DataFrame,
    baseline: str,
    metric: str = "val_bpb",
    *,
    lower_is_better: bool = True,
    level: float = LEVEL,
    power: float = POWER,
    pooled: bool = False,
    evaluation: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Every arm against the baseline, one row per arm in the order of their first rows:

    - `arm`
    - `n`: runs with a finite metric
    - `mean`, `sd`: of these runs as they are; `sd` is the arm's own, with n - 1
    - `diff`: effect of the arm minus effect of the baseline at equal seeds. Where cells are missing
      this is not the difference of the means, for their seeds differ too.
    - `ci_low`, `ci_high`: interval of `diff`; all of them hold together with 95% (Dunnett)
    - `p_adjusted`: two-sided p of `diff`, adjusted for all comparisons made here (Dunnett)
    - `mdd`: minimum detectable difference: if the true one is as large, the chance of a verdict is
      80%. It is the width found times a factor of the design (arms, seeds, level) for normal errors
      of equal spread, so it is as uncertain as the width.
    - `verdict`: `better`, `worse` or `unresolved`; `baseline` for the baseline itself, whose `diff`
      is 0
    - `of`: runs asked for, finite or not: an arm with a diverged run has `n` of `of`
    - `spread_p`: p of the hypothesis that the arm spreads no more than the others, not adjusted;
      NaN where too few runs can say
    - `spread`: which of the three spreads makes the interval as wide as it is
    - `outliers`: seeds of runs that lie too far from the model (externally studentised residual,
      Bonferroni over all runs of the table, 5%). They are flagged and kept.

    `frame` has the columns `arm`, `seed` and the metric, and one row per arm and seed, all at one
    horizon; a metric that is not finite is a missing cell. Nothing is resolved, and intervals are
    NaN, where no degree of freedom is left for a spread (one seed; an arm or baseline with one
    run). Where no chain of common seeds links an arm with the baseline, `diff` is NaN too and the
    arm is not counted in adjusting.

    `evaluation` has, by arm, the standard error that `diff` has because other text might have been
    held out (`ablations.stats.evaluation`): intervals, `p_adjusted` and `mdd` then hold that too.

    Raises:
        ValueError: a column is missing, a cell is there twice, there are fewer than two arms, or
            the baseline is none of them.

    Source: Dunnett, JASA 50:1096 (1955) and Biometrics 20:482 (1964), with the correlations that
    the design at hand gives (Hsu, Multiple Comparisons, 1996, chapters 3 and 7); with those that
    unequal spreads give, Hasler and Hothorn, Biometrical Journal 50:793 (2008); Welch, Biometrika
    34:28 (1947); an arm's own variance in a block, Grubbs, JASA 43:243 (1948).
    """
    cells = cells_of(frame, metric)
    if baseline not in cells.index:
        raise ValueError(
            f"the baseline must be one of the arms, but got {baseline!r}; "
            f"choose among {', '.join(map(str, cells.index))}"
        )
    fit = fit_of(cells)
    against = contrasts(fit, list(cells.index).index(baseline))
    others = cells.index[against.others]
    rows = describe(cells).assign(
        diff=np.nan, ci_low=np.nan, ci_high=np.nan, p_adjusted=np.nan, mdd=np.nan, spread=""
    )
    rows.loc[others, "diff"] = against.diff
    if fit.df and len(others):
        ways = ways_of_table(fit, against, two_sided=True)[: 1 if pooled else None]
        halves = np.stack([way.half(1 - level) for way in ways])
        narrow = halves.max(0)  # NaN where one of them is
        half = _holding(evaluation, others, narrow, level)
        rows.loc[others, "ci_low"] = against.diff - half
        rows.loc[others, "ci_high"] = against.diff + half
        seen = against.diff * np.divide(narrow, half, out=np.ones_like(half), where=half > 0)
        rows.loc[others, "p_adjusted"] = np.max([way.p(seen) for way in ways], axis=0)
        seeds = None if len(ways) == 1 else max(2, round(rows.n[[baseline, *others]].mean()))
        critical = ways[0].critical(1 - level)
        times = reach(critical, fit.df, len(others), seeds, 1 - level, power)
        rows.loc[others, "mdd"] = times * half
        rows.loc[others, "spread"] = [ways[widest].name for widest in halves.argmax(0)]
    below, above = ("better", "worse") if lower_is_better else ("worse", "better")
    rows["verdict"] = np.select([rows.ci_high < 0, rows.ci_low > 0], [below, above], "unresolved")
    rows.loc[[baseline], ["diff", "verdict"]] = 0.0, "baseline"
    rows["of"] = frame.groupby("arm").size()
    rows["spread_p"], rows["spread"] = spread_tests(fit), rows.pop("spread")
    rows["outliers"] = outliers(fit, cells.columns)
    return in_order_of(frame, rows)


def _holding(
    evaluation: Mapping[str, float] | None, arms: "pd.Index[Any]", half: Array, level: float
) -> Array:
    if not evaluation:
        return half
    return widened(half, np.array([evaluation.get(arm, np.nan) for arm in arms]), level)


def resolved_pairs(
    frame: pd.DataFrame, metric: str = "val_bpb", *, level: float = LEVEL
) -> pd.DataFrame:
    """Which pairs of arms differ significantly, arms × arms: -1 where the row's arm has the
    smaller value, 1 where it has the larger one, 0 where the pair is unresolved.

    Each arm in turn is the baseline of `compare`, at a level that holds for all of these families
    together (Bonferroni over one fewer than the arms, which have every pair between them), and a
    pair must be resolved whichever of its two arms is the baseline. With 95% chance no pair of
    equal arms is. Arms that no chain of common seeds links are unresolved. `frame` and errors are
    those of `compare`.
    """
    cells = cells_of(frame, metric)
    fit = fit_of(cells)
    signs = np.zeros((len(cells), len(cells)), dtype=int)
    for group in np.unique(fit.group):
        arms = np.flatnonzero(fit.group == group)
        if len(arms) < 2:
            continue
        each = 1 - (1 - level) / max(len(cells) - 1, 1)
        half = half_widths_around(fit, arms, each, pooled=False, two_sided=True)
        apart = np.subtract.outer(fit.effects[arms], fit.effects[arms])
        with np.errstate(invalid="ignore"):
            differ = np.abs(apart) > np.maximum(half, half.T)  # itself: NaN, which is not
        signs[np.ix_(arms, arms)] = np.where(differ, np.sign(apart), 0)
    return pd.DataFrame(signs, cells.index, cells.index)
