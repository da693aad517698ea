"""The joint law on the page of a law, and a forecast beside what came."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from reports.show.tables import (
    Cell,
    csv_text,
    decimals,
    escape,
    latex_table,
    markdown_table,
    printed_rows,
    probability,
    signed,
    whole,
)
from reports.views.law_words import (
    BY_JOINT,
    NOT_DETERMINED,
    bounded,
    depths,
    in_layers,
    interval_in_words,
    predicted,
    spanned,
    times,
)
from reports.weigh.forecast import ALPHA, EXPONENTS, MOST, JointLaw, beside, best_ends
from reports.weigh.growth import determined
from reports.weigh.joint import BOUNDS
from space.sharing import MOST_LAYERS
from space.tables import Column
from space.words import count, join, magnitude

Part = tuple[str, Sequence[Column], Sequence[Sequence[Cell]]]

LEFT_OUT = (
    Column("budget", "budget", magnitude, "left out, and predicted from all other runs"),
    Column(
        "found",
        "found",
        decimals(1),
        "best depth by its own quadratic, where that lies inside the depths tried",
    ),
    Column("found_ends", "95% interval", str, numeric=False),
    Column(
        "joint",
        "joint law",
        lambda depth: in_layers(depth, 1),
        "best depth that the joint law predicts",
    ),
    Column("joint_ends", "95% interval of it", str, numeric=False),
    Column("joint_off", "off by", partial(times, digits=2), "factor from the depth found"),
    Column("regret", "costs", decimals(4), "what that depth costs by the budget's own quadratic"),
    Column(
        "line",
        "line",
        lambda depth: in_layers(depth, 1),
        "best depth that the line through best depths predicts",
    ),
    Column("line_ends", "95% interval of the line", str, numeric=False),
    Column("line_off", "line off by", partial(times, digits=2), "factor from the depth found"),
    Column("line_regret", "line costs", decimals(4), "what its depth costs"),
    Column("off", "differences off", decimals(4), "root mean square over the budget's depths"),
    Column("within", "inside", str, "depths whose difference lies in its interval", numeric=False),
    Column("level", "level off", signed(4), "found less predicted, mean over the depths"),
)
PARAMETERS = (
    Column("name", "parameter", str, numeric=False),
    Column("value", "value", decimals(3)),
    Column("ends", "95% interval", str, "of the profile", numeric=False),
    Column("meaning", "meaning", str, numeric=False),
)
MEANINGS = {
    "floor": "E, irreducible",
    "alpha": "exponent of parameters",
    "beta": "exponent of tokens",
    "gamma": "exponent of the curvature in parameters",
    "asymmetry": "of the valley: negative is steeper on the shallow side",
    "growth": "d log best depth / d log N at equal tokens per parameter",
    "tokens": "d log best depth / d log tokens at equal N",
}
PUBLISHED = (
    Column("exponent", "growth", decimals(2)),
    Column("source", "from", str, numeric=False),
    Column("p", "p", probability, "that it is the growth, by the profile"),
    Column("answer", "answer", str, numeric=False),
)
NEEDED = (
    Column("pair", "to refute", str, numeric=False),
    Column("plan", "by", str, numeric=False),
    Column("runs", "runs", str, numeric=False),
    Column("compute", "compute", str, "training FLOPs", numeric=False),
)
FORECAST = (
    Column("depth", "layers", whole),
    Column("value", "predicted", decimals(4)),
    Column("ends", "95% interval", str, numeric=False),
    Column("came", "came", decimals(4), "mean over the seeds"),
    Column("relative", "predicted, less the mean", signed(4)),
    Column("relative_ends", "95% interval of it", str, numeric=False),
    Column("relative_came", "came, less the mean", signed(4)),
    Column("inside", "inside", str, numeric=False),
)


def parts(joined: JointLaw) -> list[Part]:
    """The tables: title, columns, cells."""
    tables = (
        ("The joint law: each budget predicted from all other runs", LEFT_OUT, _left_out(joined)),
        ("The joint law: parameters", PARAMETERS, _parameters(joined)),
        ("The joint law: published growths of the best depth", PUBLISHED, _published(joined)),
        (
            "The joint law: runs that would refute one growth if the other is true, as multiples "
            f"of those there are, looked for up to {MOST} times",
            NEEDED,
            _needed(joined),
        ),
    )
    return [(title, *printed_rows(rows, columns)) for title, columns, rows in tables if len(rows)]


def words(joined: JointLaw) -> list[str]:
    """What the joint law says, and how far it can be trusted."""
    law, rows = joined.law, joined.left_out
    low, high = joined.intervals["growth"]
    apart = "separated" if law.runs.apart else "not separated, since tokens grow with N"
    readings = f"joint law of {len(joined.cells)} readings"
    grows = (
        f"The {readings} has the best depth grow as N^{decimals(2)(law.parameter('growth'))} "
        f"({spanned(low, high, 2)}), with"
        if joined.knows_growth
        else f"By the {readings} it is {NOT_DETERMINED} how the best depth grows; it has"
    )
    sentences = [
        f"{grows} an asymmetric valley whose curvature changes with N; N and D are {apart}."
    ]
    if at := law.at_bound:
        sentences.append(f"{_at_bound(at)}; intervals do not take {_it(at)} for known.")
    sentences.append(_refuted(joined.exponents))
    if len(rows):
        sentences.append(kept_promises(rows))
    if joined.unweighable:
        sentences.append(
            "How many runs would refute one growth if another is true is not computed, since "
            f"{joined.unweighable}."
        )
    return sentences


def _at_bound(names: Sequence[str]) -> str:
    return f"The best fit has {join(names)} at a bound of what the law allows"


def _it(names: Sequence[str]) -> str:
    return "it" if len(names) == 1 else "them"


def _refuted(rows: pd.DataFrame) -> str:
    """Which published growths the law refutes."""
    refuted, kept = (
        join([decimals(2)(value) for value in rows.exponent[of]])
        for of in (rows.refuted, ~rows.refuted)
    )
    level = f"at {ALPHA:.0%} for all {len(EXPONENTS)} together"
    if not refuted:
        return f"It refutes none of the published growths {kept}, {level}."
    but = f" and not {kept}" if kept else ""
    return f"Within its form it refutes the published growths {refuted}{but}, {level}."


def kept_promises(rows: pd.DataFrame) -> str:
    """How the left-out budgets came out."""
    open_at = rows.budget[~_determined(rows, "joint")].map(magnitude)
    nowhere = [magnitude(b) for b in rows.budget[rows.found.isna() & _determined(rows, "joint")]]
    left = " ".join(
        f"At {join(list(places))} {why}."
        for places, why in (
            (open_at, f"the prediction is {NOT_DETERMINED}"),
            (nowhere, "no optimum was found inside the depths tried"),
        )
        if len(places)
    )
    known = rows[rows.found.notna() & _determined(rows, "joint")]
    if not len(known):
        return f"No best depth can be held beside its prediction from the others. {left}".rstrip()
    held = (known.joint_low <= known.found) & (known.found <= known.joint_high)
    out = missed(rows)
    factor = (known.joint_high / known.joint_low).median()
    wide = f", which is a factor of {times(factor)} wide (median)" if math.isfinite(factor) else ""
    inside = [magnitude(budget) for budget in known.budget[held]]
    text = "Of each budget the best depth is predicted from the others. What was found there lies "
    text += f"inside the 95% interval at {join(inside)}" if inside else "inside no 95% interval"
    said = f"{text}{wide}" + (f"; outside at {join(out)}" if out else "")
    if out:
        said += ", so the form fails there, and what it refutes is refuted within the form only"
    return f"{said}. {left}".rstrip()


def missed(rows: pd.DataFrame) -> list[str]:
    """The budgets whose best depth lies outside what the joint law predicts from the others."""
    known = rows[rows.found.notna() & _determined(rows, "joint")] if len(rows) else rows
    return [
        magnitude(row["budget"])
        for row in known.to_dict("records")
        if not row["joint_low"] <= row["found"] <= row["joint_high"]
    ]


def forecast_in_words(joined: JointLaw, content: bytes) -> str:
    """The best depth that a forecast's file says, and whether to trust it, as part of a
    sentence."""
    said = json.loads(content)
    interval = bounded(*best_ends(said), 1, MOST_LAYERS, decimals(1))
    value = said["best_depth"]["value"]
    depth = f"{value:.1f} layers" if value >= 1 else "under 1 layer"
    text = (
        f"forecast by the joint law at {magnitude(said['budget']['value'])}: best depth {depth} "
        f"(95% interval {interval})"
    )
    if not joined.knows_growth:
        text += "; the growth itself is not determined, so trust it less"
    if at := joined.law.at_bound:
        text += f"; {join(at)} at a bound, which intervals do not take for known"
    out = missed(joined.left_out)
    return (
        f"{text}; it missed {join(out)}, predicted from the others: trust it less" if out else text
    )


def _determined(rows: pd.DataFrame, name: str) -> "pd.Series[bool]":
    """Of which budgets the best depth of that name is determined."""
    ends = zip(rows[f"{name}_low"], rows[f"{name}_high"], strict=True)
    return pd.Series([determined(*pair) for pair in ends], rows.index)


def _left_out(joined: JointLaw) -> pd.DataFrame:
    rows = joined.left_out
    if not len(rows):
        return rows
    own = {valley.budget: interval_in_words(valley) for valley in joined.valleys}
    rows = rows.assign(found_ends=rows.budget.map(own))
    for name, costs in (("joint", "regret"), ("line", "line_regret")):
        if name in rows:
            ends = zip(rows[f"{name}_low"], rows[f"{name}_high"], strict=True)
            shown = [depths(low, high, 1) if low == low else None for low, high in ends]
            known = _determined(rows, name)
            rows = rows.assign(**{n: rows[n].where(known) for n in (name, costs)})
            off = [_factor(*pair) for pair in zip(rows[name], rows.found, strict=True)]
            rows = rows.assign(**{f"{name}_ends": pd.Series(shown, dtype=object)})
            rows = rows.assign(**{f"{name}_off": off})
    return rows.assign(within=[f"{n} of {m}" for n, m in zip(rows.inside, rows.among, strict=True)])


def _factor(one: float, other: float) -> float:
    known = one > 0 and other > 0
    return math.exp(abs(math.log(one / other))) if known else math.nan


def _parameters(joined: JointLaw) -> pd.DataFrame:
    law, rows = joined.law, list[dict[str, Any]]()
    for name, meaning in MEANINGS.items():
        if name in joined.intervals:
            ends = _within_bounds(name, *joined.intervals[name])
            label = BY_JOINT if name == "growth" else name
            rows.append({"name": label, "value": law.parameter(name), "ends": ends})
            held = "; the best fit is at a bound" if name in law.at_bound else ""
            rows[-1]["meaning"] = f"{meaning}{held}"
    for name, variance in vars(law.variances).items():
        rows.append({"name": f"sd of {name}", "value": math.sqrt(variance), "ends": None})
        rows[-1]["meaning"] = "deviations from the law, restricted maximum likelihood"
    return pd.DataFrame(rows)


def _within_bounds(name: str, low: float, high: float) -> str:
    """An interval whose ends that are not determined are the parameter's bounds."""
    first, last = BOUNDS[name]
    low = max(low, 0.0) if first == 0 and math.isfinite(high) else low
    return bounded(low, high, first, last, decimals(2))


def _published(joined: JointLaw) -> pd.DataFrame:
    rows = joined.exponents
    return rows.assign(answer=["refuted" if r else "not refuted" for r in rows.refuted])


def _needed(joined: JointLaw) -> pd.DataFrame:
    rows = joined.needed
    if not len(rows):
        return rows
    text = decimals(2)
    return pd.DataFrame(
        {
            "pair": [f"{text(a)} or {text(b)}" for a, b in zip(rows.one, rows.other, strict=True)],
            "plan": rows.plan,
            "runs": [_times(value) for value in rows.runs],
            "compute": [_times(value) for value in rows.compute],
        }
    )


def _times(value: float) -> str:
    return f"over {MOST} ×" if value != value else f"{value:.3g} ×"


def files(joined: JointLaw) -> dict[str, str]:
    """The joint law's own files by name."""
    found = parts(joined)
    tables = "".join(
        f"**{title}**\n\n{markdown_table(columns, rows)}\n" for title, columns, rows in found
    )
    lines = ["% needs \\usepackage{booktabs}"]
    for title, columns, rows in found:
        lines += [f"% {escape(title)}", latex_table(columns, rows)]
    return {
        "joint.md": f"{' '.join(words(joined))}\n\n{tables}",
        "joint.tex": "\n".join([*lines, ""]),
        "joint.csv": csv_text(joined.left_out),
        "joint_runs.csv": csv_text(joined.cells),
    }


def beside_what_came(forecast: Mapping[str, Any], cells: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """A forecast beside the runs of its budget, in Markdown, and its rows.

    Raises:
        ValueError: it was made from some of these runs, or has none of their depths.
    """
    if known := set(cells.key) & set(forecast["records"]):
        raise ValueError(
            f"a forecast must be scored on runs that it was not made from, but it knows "
            f"{len(known)} of these; give the study of its budget alone"
        )
    last = cells[cells.tokens == cells.tokens.max()]
    said = pd.DataFrame(forecast["architectures"]).astype(float).set_index("depth")
    came = last.groupby("depth").value.mean()
    best = int(came.idxmin())
    unpaired = _unpaired(said.index, came.index)
    both = [depth for depth in said.index if depth in came.index]
    if len(both) < 2:
        raise ValueError(
            f"a forecast must share two depths with what came, but has "
            f"{join([f'{d:g}' for d in said.index])} where runs have "
            f"{join([f'{d:g}' for d in came.index])}"
        )
    said, came = said.loc[both], came.loc[both]
    rows = said.assign(came=came, relative_came=came - came.mean()).reset_index()
    rows["relative"] -= (shift := rows.relative.mean())
    rows["relative_low"] -= shift
    rows["relative_high"] -= shift
    held = (rows.relative_low <= rows.relative_came) & (rows.relative_came <= rows.relative_high)
    rows = rows.assign(
        inside=["yes" if yes else "no" for yes in held],
        ends=_spans(rows.low, rows.high, 4),
        relative_ends=_spans(rows.relative_low, rows.relative_high, 4),
    )
    sizes = beside(rows, rows.came)
    text = (
        f"Forecast at commit {forecast['commit']} from {len(forecast['records'])} runs of "
        f"{join(forecast['studies'])}. Best depth: {_best(forecast)}; the lowest "
        f"mean came at {count(best, 'layer')}. Differences from the mean over the "
        f"depths of the table lie inside their intervals in {sizes['inside']} of {sizes['among']} "
        f"cases and are off by {sizes['off']:.4f} (root mean square); the mean itself came "
        f"{abs(sizes['level']):.4f} {'above' if sizes['level'] > 0 else 'below'} the prediction."
        f"{unpaired}"
    )
    if at := forecast.get("at_bound"):
        text += f" {_at_bound(at)} when it was made."
    text += "\n\n"
    return text + markdown_table(*printed_rows(rows, FORECAST)), rows


def _unpaired(said: Iterable[float], came: Iterable[float]) -> str:
    """The depths of only one side, in sentences."""
    ran, asked = (
        join([f"{depth:g}" for depth in sorted(set(own) - set(others))])
        for own, others in ((came, said), (said, came))
    )
    text = f" Not in the forecast, so not in the table: runs of {ran} layers." if ran else ""
    return f"{text} Without runs, so not in the table: {asked} layers." if asked else text


def _spans(low: "pd.Series[float]", high: "pd.Series[float]", digits: int) -> "pd.Series[Any]":
    pairs = zip(low, high, strict=True)
    shown = [spanned(a, b, digits) if a == a and b == b else None for a, b in pairs]
    return pd.Series(shown, low.index, dtype=object)


def _best(said: Mapping[str, Any]) -> str:
    return predicted(said["best_depth"]["value"], best_ends(said), 1)
