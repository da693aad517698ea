"""The columns of a table of arms, in the words and digits of the objective that arms are compared
by."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ablations.stats.block import LEVEL
from ablations.stats.bracket import CARRIED, EDGE
from ablations.stats.looks import in_percent
from ablations.stats.sequential import ALPHAS, LOOKS
from reports.read.study import OTHER
from reports.show.tables import (
    decimals,
    figures,
    megas,
    percent,
    places,
    probability,
    rate,
    signed,
    whole,
)
from reports.weigh.table import FEASIBLE, Panel
from search.objectives import LOSSES, hint_of
from space.tables import Column
from space.words import join

COLUMNS = (
    Column("arm", "arm", str, "what is compared", numeric=False),
    Column("verdict", "verdict", str, "unresolved if the interval contains zero", False),
    Column("mean", "mean", decimals(4), "of the metric over these seeds; lower is better"),
    Column("diff", "difference", signed(4), "from the baseline at equal seeds; negative is better"),
    Column(
        "interval",
        "95% interval",
        str,
        "of the difference, simultaneous over a panel and over all looks",
        False,
    ),
    Column("of", "n", str, "seeds with a result, and of how many if some are missing", False),
    Column("sd", "sd", decimals(4), "the arm's own standard deviation over seeds"),
    Column("p_adjusted", "adj. p", probability, "adjusted for all comparisons of the panel"),
    Column(
        "mdd",
        "MDD",
        decimals(4),
        "minimum detectable difference: one of this size is resolved with 80% power",
    ),
    Column(
        "flag",
        "flag",
        str,
        f"{EDGE}: the best learning rate was the lowest or highest tried, so a better one may lie "
        f"beyond; {CARRIED}: the parametrisation does not transfer the learning rate from the base "
        "shape to this one (sp to none, mup to no other depth, completep to no fewer layers). In "
        "both cases a difference may be due to tuning",
        False,
    ),
    Column("look", "look", whole, "seeds of the look at which the verdict was reached"),
    Column(
        "spread",
        "spread",
        str,
        "which of three estimates of the standard deviation makes the interval widest: pooled over "
        "all arms; one for the baseline and one for all others; the baseline's and the arm's own",
        False,
    ),
    Column(
        "spread_p",
        "p of spread",
        probability,
        "of a standard deviation no larger than the others', F test",
    ),
    Column("outliers", "outliers", str, "seeds with large residuals, flagged and kept", False),
    Column("lr", "rate", rate, "the best learning rate, found with seeds that are not reported"),
    Column("tokens", "tokens", whole, "tokens each run is trained on"),
    Column("num_hidden_layers", "layers", whole, "layers executed"),
    Column(
        "parameters", "parameters", whole, "distinct weights; shared and tied ones counted once"
    ),
    Column("off_budget", "off budget", percent(2, sign=True), "deviation from the budget"),
    Column("forward_flops_per_token", "FLOPs/token", megas, "one forward pass"),
    Column("kv_bytes_per_token", "KV B/token", whole, "bytes of key-value cache per token"),
    Column(
        "decode_bytes_per_token",
        "decode B/token",
        megas,
        "bytes read to decode one token, adjacent repeats of a block counted once",
    ),
    Column("published", "published", decimals(1), "the source's average; higher is better"),
    Column(
        "direction",
        "direction",
        str,
        "whether our difference and the published one agree in sign",
        False,
    ),
)
MEASURED = (
    "of",
    "mean",
    "sd",
    "diff",
    "interval",
    "p_adjusted",
    "mdd",
    "verdict",
    "look",
    "spread",
    "spread_p",
    "outliers",
    "direction",
)
DETAILS = (
    *("look", "spread", "spread_p", "outliers", "tokens", "off_budget"),
    *("forward_flops_per_token", "kv_bytes_per_token", "decode_bytes_per_token"),
)
"""Columns that a page folds away."""
SPREADS = ("sd", "p_adjusted", "mdd")
"""Columns that LaTeX has besides those where they are asked for."""


@dataclass(frozen=True)
class Digits:
    """How values of a panel's objective read, and their differences."""

    value: Callable[[Any], str]
    difference: Callable[[Any], str]

    @classmethod
    def of(cls, panel: Panel) -> "Digits":
        """Four decimals of a loss; of another objective as many digits."""
        loss = panel.criteria.metric in LOSSES
        digits = 4 if loss else places(panel.rows["mean"])
        return cls(decimals(digits), signed(digits))


def columns_of(panel: Panel) -> list[Column]:
    """`COLUMNS` as the panel's objective has them, and what is shown besides after the result."""
    known = [_adapted(column, panel) for column in COLUMNS]
    place = 1 + [column.name for column in known].index("interval")
    return [*known[:place], *_besides(panel), *known[place:]]


def _besides(panel: Panel) -> Iterator[Column]:
    """Other objectives, and whether arms keep to the limits."""
    criteria = panel.criteria
    for name, said in criteria.others.items():
        hint = f"{hint_of(said)}; mean over the seeds"
        text = decimals(4) if name.partition("@")[0] in LOSSES else figures(4)
        yield Column(f"{OTHER}{name}", name.replace("_", " "), text, hint)
    if criteria.limits:
        hint = f"whether the means over the seeds keep to {' and '.join(criteria.limits)}"
        yield Column(FEASIBLE, "feasible", str, hint, numeric=False)


def at_a_look(column: Column, level: float) -> Column:
    """The interval, or p, of one of several looks; any other column, and of one look, as it is."""
    if level == LEVEL or column.name not in ("interval", "p_adjusted"):
        return column
    if column.name == "interval":
        return replace(
            column, heading=f"{in_percent(level)} interval", hint=f"{column.hint}, at 95%"
        )
    return _not_for_looks(column, f"at this look resolved below {1 - level:.2g}")


def _not_for_looks(p: Column, resolved: str) -> Column:
    """The column of p where there were several looks, whose levels it does not hold."""
    return replace(p, hint=f"{p.hint}, not for the looks: {resolved}")


BY_AUTO = join(
    [f"{alpha:.2g} at {seeds} seeds" for seeds, alpha in zip(LOOKS, ALPHAS, strict=True)]
)


def _adapted(column: Column, panel: Panel) -> Column:
    """A column in the words and digits of the panel's objective and level."""
    criteria = panel.criteria
    if panel.auto and column.name == "p_adjusted":
        return _not_for_looks(column, f"resolved below {BY_AUTO}")
    if (at_look := at_a_look(column, panel.level)) is not column:
        return at_look
    if criteria.metric in LOSSES:
        return column
    digits, hint = Digits.of(panel), column.hint
    texts = dict.fromkeys(("mean", "sd", "mdd"), digits.value) | {"diff": digits.difference}
    hint = hint.replace("of the metric", f"{criteria.title},")
    if not criteria.lower_is_better and column.name in ("mean", "diff"):
        hint = hint.replace("lower is", "higher is").replace("negative is", "positive is")
    return replace(column, text=texts.get(column.name, column.text), hint=hint)
