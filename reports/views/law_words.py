"""A law in sentences: how the best depth grows, how certain that is, and what is not known."""

import math
import shlex
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from reports.read.study import Study
from reports.show.recipes import recipe_in_words
from reports.show.tables import MINUS, decimals, percent, span, whole
from reports.weigh.fits import Interval
from reports.weigh.growth import determined
from reports.weigh.joint import BOUNDS
from reports.weigh.law import Law, embedding_shares
from reports.weigh.quality import FEWEST_FOR_FLOOR
from reports.weigh.valley import EDGE, INSIDE, NONE, Valley
from reports.weigh.worth import smoke_line
from search.law import SHARE_TOLERANCE
from search.objectives import LOSSES
from search.states import Status
from space.app import option_of
from space.sharing import MOST_LAYERS
from space.words import count, join, magnitude


def headline(law: Law) -> str:
    """How the best depth grows, in one sentence."""
    line = law.growth
    if line is None:
        inside = sum(v.status == INSIDE for v in law.valleys)
        return (
            f"How the best depth grows is {NOT_DETERMINED}: {inside} of {len(law.valleys)} budgets "
            "have their optimum inside the depths tried."
        )
    first, last = min(line.budgets), max(line.budgets)
    low, high = line.interval
    best = [in_layers(line.best(n), 1) for n in (first, last)]
    fitted = [
        f"{depth} {'layer' if depth == 'under 1' else 'layers'} at {magnitude(n)}"
        for depth, n in zip(best, (first, last), strict=True)
    ]
    said = f"as N^{decimals(2)(line.exponent)} (95% interval {spanned(low, high, 2)})"
    if low > 0 or high < 0:
        grows = "grows" if low > 0 else "falls"
        return (
            f"The best depth {grows} {said}: from {fitted[0]} to {fitted[1]} {law.counted}, by a "
            "line through the budgets' best depths."
        )
    return (
        f"Whether the best depth grows is unresolved: {said}, by a line through the budgets' best "
        f"depths with {fitted[0]} and {fitted[1]} {law.counted}."
    )


def opening(law: Law) -> list[str]:
    """What comes before the answer: that it means nothing, where runs are too short for one."""
    runs = [
        study.finished.assign(budget=magnitude(valley.budget))
        for study, valley in zip(law.studies, law.valleys, strict=True)
    ]
    return smoke_line(pd.concat(runs), "budget", "at")


def hedges(law: Law) -> list[str]:
    """How certain the answer is: which estimate of the growth it has, the prediction of the
    held-out largest budget, the extrapolation, the budgets left out, and held-out text."""
    said = [which_growth(law), held_out_in_words(law), *_extrapolated(law), *_left_out(law)]
    return [*said, *on_text(law)]


def on_text(law: Law) -> list[str]:
    """Whether intervals hold the choice of held-out text, of a loss."""
    if law.studies[0].metric not in LOSSES:
        return []
    if law.text is None:
        return [
            "Intervals leave out the choice of held-out text: not all runs kept what each of its "
            "windows came to."
        ]
    but = ""
    if law.joined is not None and law.joined.text is None:
        but = ", but for the joint law's: records beside the studies have no windows"
    return [f"Intervals hold the choice of {law.text.windows:,} held-out windows{but}."]


BY_LINE = "growth, line through best depths"
BY_ONE_VALLEY = "growth, one valley for all budgets"
BY_JOINT = "growth, joint law"
"""Three estimates of one quantity, as tables name them."""


def grows(interval: Interval) -> bool:
    """Whether the interval of a growth lies within what is taken for possible."""
    low, high = BOUNDS["growth"]
    return low < interval[0] and interval[1] < high


def which_growth(law: Law) -> str:
    """The growths in the tables, which of them to trust, and why."""
    text = decimals(2)
    by_one = law.quality.parameters["depth_exponent"]
    said = text(by_one) if grows(law.quality.interval("depth_exponent")) else NOT_DETERMINED
    others = [f"one valley for all budgets ({said})"]
    if law.joined is not None:
        known = all(map(math.isfinite, law.joined.intervals["growth"]))
        value = text(law.joined.law.parameter("growth")) if known else NOT_DETERMINED
        others.append(f"the joint law ({value})")
    if law.growth is None:
        return (
            f"Do not rely on the growth in the tables by {join(others)}: fewer than two budgets "
            "have a best depth by their own runs."
        )
    assume = "assume" if len(others) > 1 else "assumes"
    return (
        f"Of the growths in the tables the line's ({text(law.growth.exponent)}) assumes least: it "
        f"takes each best depth from that budget's runs alone, while {join(others)} {assume} what "
        "the valleys have in common."
    )


def held_out_in_words(law: Law) -> str:
    """Whether the smaller budgets predict the best depth of the largest, held out."""
    held = law.held_out
    if held is None:
        return (
            "The largest budget could not be held out: that needs an optimum there, and one inside "
            "the depths tried at two smaller budgets or more."
        )
    place = "lies inside" if held.inside else "lies outside"
    if held.inside and held.found[0] < held.found[1]:
        place = "may lie inside"
    wide = f", a factor of {times(held.width)} wide" if math.isfinite(held.width) else ""
    measured = interval_in_words(law.valleys[-1])
    known = determined(*held.interval) and measured != NOT_DETERMINED
    return (
        f"Predicted from the smaller budgets, the best depth at {magnitude(held.budget)} is "
        f"{predicted(held.predicted, held.interval, 1, wide)}; "
        f"measured is {best_in_words(law.valleys[-1])} "
        f"({measured}){f', which {place}' if known else ''}."
    )


def _extrapolated(law: Law) -> list[str]:
    if law.growth is None:
        return []
    rows = law.predicted[law.predicted.times > 1].to_dict("records")
    if not rows:
        return []
    said = [
        f"{predicted(row['depth'], (row['low'], row['high']), 0, unit=' layers')} for "
        f"{row['name']}, which has {row['layers']}"
        for row in rows
    ]
    factors = join([f"{row['times']:.3g}" for row in rows])
    return [
        f"Extrapolated by a factor of {factors} in {law.counted}: {'; '.join(said)}. MobileLLM was "
        "trained on far more tokens per parameter."
    ]


def _left_out(law: Law) -> list[str]:
    out = [v for v in law.valleys if v.status != INSIDE]
    if not out:
        return []
    at = join(
        [
            f"{magnitude(v.budget)} ({best_in_words(v)}; of those tried, the mean of "
            f"{count(lowest_tried(v), 'layer')} is lowest)"
            for v in out
        ]
    )
    said = (
        "By the curve through all depths no optimum inside those tried, so not part of the fitted "
        f"growth: {at}."
    )
    least = [v for v in out if v.status == EDGE and v.best < v.lowest <= 1]
    if least:
        said += (
            f" At {join([magnitude(v.budget) for v in least])} one layer was tried, and fewer "
            "cannot be: larger budgets or more tokens may have their best inside."
        )
    if len(least) == len(out):
        return [said]
    return [
        f"{said} More depths would show {'the others' if least else 'it'}, or more seeds. Depths: "
        "the same command with space.axes.num_blocks=[…] and another study=NAME, since a study "
        f"keeps its space. Seeds, of all depths: the same command with {_more_seeds(law)}."
    ]


FURTHER_SEEDS = 2


def _more_seeds(law: Law) -> str:
    """The options that give every architecture of these studies more seeds."""
    arms = max(study.finished.arm.nunique() for study in law.studies)
    seeds = max(study.finished.seed.nunique() for study in law.studies) + FURTHER_SEEDS
    return f"replicates.top={arms - 1} replicates.seeds={seeds} n_trials={arms * seeds}"


def lowest_tried(valley: Valley) -> int:
    """The depth with the lowest mean."""
    means = valley.cells.groupby("depth").adjusted.mean()
    return int(means.index.to_numpy()[means.to_numpy().argmin()])


def best_in_words(valley: Valley) -> str:
    """The best depth; a bound if it lies at the edge of the depths tried."""
    if valley.status == INSIDE:
        return f"{valley.best:.1f}"
    if valley.status == EDGE:
        low = valley.best < valley.lowest
        return f"≤ {valley.lowest:.0f}" if low else f"≥ {valley.deepest:.0f}"
    return "no optimum inside"


def interval_in_words(valley: Valley) -> str | None:
    """The interval of a best depth, an end beyond the depths tried as a bound; None without a
    best."""
    if valley.status == NONE:
        return None
    low, high = valley.interval
    if high < valley.lowest:
        return f"under {valley.lowest:.0f}"
    if low > valley.deepest:
        return f"over {valley.deepest:.0f}"
    return bounded(low, high, valley.lowest, valley.deepest, decimals(1))


NOT_DETERMINED = "not determined"
"""Of what runs leave open, wherever a law says it."""


def in_layers(depth: float, digits: int) -> str:
    """A depth, as a bound where no model can have it: "under 1", "over 10,000"."""
    if 1 <= depth <= MOST_LAYERS:
        return decimals(digits)(depth)
    return "under 1" if depth < 1 else f"over {whole(MOST_LAYERS)}"


def depths(low: float, high: float, digits: int) -> str:
    """An interval of depths."""
    ends = in_layers(low, digits), in_layers(high, digits)
    if high < 1 or low > MOST_LAYERS:
        return ends[0]
    return " to ".join(ends) if determined(low, high) else NOT_DETERMINED


def predicted(depth: float, ends: Interval, digits: int, more: str = "", unit: str = "") -> str:
    """A best depth in its interval: "2.4 (under 1 to 11.1)"; or that it is not determined."""
    if not determined(*ends):
        return NOT_DETERMINED
    return f"{in_layers(depth, digits)}{unit} ({depths(*ends, digits)}{more})"


MOST_TIMES = 1000
"""Beyond it a factor says no more than that nothing is known."""


def times(factor: float, digits: int = 1) -> str:
    """A factor of at least 1: "2.4", "31", "over 1,000"; one below 10 with so many decimals."""
    if factor > MOST_TIMES:
        return f"over {MOST_TIMES:,}"
    return f"{factor:.{digits if factor < 10 else 0}f}"


def spanned(low: float, high: float, digits: int) -> str:
    """An interval with so many digits; its ends may be infinite."""
    text = decimals(digits)
    if math.isfinite(low) != math.isfinite(high):
        return f"over {text(low)}" if math.isfinite(low) else f"under {text(high)}"
    return span(low, high, text) if math.isfinite(low) else NOT_DETERMINED


def bounded(
    low: float, high: float, lowest: float, highest: float, text: Callable[[Any], str]
) -> str:
    """An interval as far as it lies within bounds: "under 2 to 7.0", "3.6 to over 10"."""
    if low < lowest and high > highest:
        return NOT_DETERMINED
    lower = text(low) if low >= lowest else f"under {lowest:g}"
    upper = text(high) if high <= highest else f"over {highest:g}"
    return f"{lower} to {upper}".replace("-", MINUS)


def unknown(law: Law) -> list[str]:
    """What these runs cannot answer."""
    q, budgets = law.quality, [valley.budget for valley in law.valleys]
    factor = f"{max(budgets) / min(budgets):.3g}"
    unknowns = [
        f"The exponent of tokens alone: they are {law.ratio:.2f} per {law.counted_one}, so the "
        "exponent is that of size, tokens and steps, which grow in proportion.",
        "Depth independent of width: at one budget a deeper shape is a thinner one.",
        "How well each budget is tuned: all use one base learning rate and one batch size. If "
        "longer runs needed a lower rate, the exponent would include that.",
    ]
    if uneven := [magnitude(v.budget) for v in law.valleys if v.seeds[0] < v.seeds[1]]:
        unknowns.append(
            f"Selection: at {join(uneven)} some depths have more seeds than others. The seed that "
            "selected them is slightly biased in their favour, and it is part of the fit."
        )
    if stopped := [
        f"{count(n, 'run')} at {magnitude(v.budget)}"
        for study, v in zip(law.studies, law.valleys, strict=True)
        if (n := int((study.trials.status == Status.PRUNED).sum()))
    ]:
        unknowns.append(
            f"Depths that a pruner stopped: {join(stopped)} are not part of the fit; readings at "
            "shorter horizons selected the runs that are."
        )
    if not q.floor_fitted:
        unknowns.append(
            f"E, the irreducible loss: fitting it needs {FEWEST_FOR_FLOOR} budgets; fixed at 0."
        )
    elif not q.floor_known:
        unknowns.append(
            f"E, the irreducible loss: budgets that span a factor of {factor} determine it only as "
            f"{spanned(*q.interval('floor'), 2)}. The exponent depends on it: it is "
            f"{decimals(3)(q.without_floor)} with E fixed at 0."
        )
    return unknowns


def on_embeddings(law: Law) -> str:
    """Which parameters are counted, and the share of embeddings."""
    ranges = [share_range(study) for study in law.studies]
    at = join([f"{r} at {magnitude(v.budget)}" for r, v in zip(ranges, law.valleys, strict=True)])
    vocabularies = {int(v) for study in law.studies for v in study.finished.vocab_size}
    words = join([f"{v:,}" for v in sorted(vocabularies)])
    tilt = ""
    if law.kind != "parameters":
        tilt = (
            " Shallow, wide shapes have more parameters in total than deep ones of the same budget."
        )
        means = [float(embedding_shares(study).mean()) for study in law.studies]
        if max(means) - min(means) > SHARE_TOLERANCE:
            tilt += (
                " That favours shallow shapes most where the share is largest, so part of the "
                "change of the best depth with the budget may be due to it. A vocabulary that "
                "grows as the square root of the budget keeps the shares equal."
            )
    return (
        f"N counts {law.counted}. With a vocabulary of {words}, embeddings are {at} of all "
        f"parameters, from the deepest shape to the shallowest.{tilt}"
    )


def share_range(study: Study) -> str:
    """The least and the largest share of embeddings."""
    shares = embedding_shares(study)
    return span(shares.min(), shares.max(), percent(0))


def how_it_was_made(law: Law) -> list[tuple[str, str]]:
    """The particulars of a law, (term, text)."""
    runs = [study.records[key] for study in law.studies for key in study.finished.key]
    lost = {s.name: int((s.trials.status == Status.DIVERGED).sum()) for s in law.studies}
    diverged = [f"{count(n, 'run')} of {name}" for name, n in lost.items() if n]
    return [
        *((f"Command of {study.name}", command(study.facts)) for study in law.studies),
        ("Variable", on_embeddings(law)),
        ("Tokens", f"{law.ratio:.2f} per counted parameter, at all budgets."),
        (
            "Recipe",
            f"{recipe_in_words(runs[0].run.recipe)}. The same at other budgets except for tokens.",
        ),
        ("Data", str(runs[0].data.get("name"))),
        ("Commits", join(sorted({str(record.commit) for record in runs}))),
        ("Diverged", join(diverged) if diverged else "none"),
    ]


def command(facts: Mapping[str, Any]) -> str:
    """What started a study, without the storage's URL."""
    given = shlex.split(facts.get("command", ""))
    return shlex.join(argument for argument in given if option_of(argument) != "storage")
