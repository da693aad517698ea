"""A law over several budgets, from the records of one study each: read, checked, fitted, shown.

`reports.weigh.fits` has the statistics. Within a law tokens per parameter are fixed and all else of
the recipe is the same, so that budgets differ in size alone.
"""

import io
import json
import math
import shlex
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from reports.read.study import Study, read_study
from reports.show.figures import SERIES, mixed
from reports.show.page import in_script, recipe_in_words
from reports.show.tables import (
    Cell,
    Column,
    csv_text,
    decimals,
    escape,
    fill,
    latex_table,
    markdown_table,
    percent,
    printed_rows,
    span,
    whole,
)
from reports.views import law_figures
from reports.weigh.answer import KINDS, UNITS, count, join, magnitude
from reports.weigh.fits import (
    EDGE,
    FEWEST_DEPTHS,
    FEWEST_FOR_FLOOR,
    INSIDE,
    NONE,
    Growth,
    HeldOut,
    Quality,
    Valley,
    growth,
    held_out,
    quality,
    valley,
)
from search.record import Record
from space.arch import Architecture
from space.cli import option_of
from space.cost import cost

SEED = 20_402
"""Of the generators that intervals are drawn with: the same records give the same page."""
TOKENS_TOLERANCE = 0.02
"""Tokens per parameter of the studies of a law lie this close together."""
SHARE_TOLERANCE = 0.03
"""And so, where all parameters are the variable, do the embeddings' mean shares of them."""
LARGER = {"MobileLLM-125M": "mobilellm_125m", "MobileLLM-350M": "mobilellm_350m"}
"""Published architectures (arXiv:2402.14905) that the best depth is foretold beside: 30 and 32
layers."""

BUDGETS = (
    Column("study", "study", str, numeric=False),
    Column("budget", "budget", magnitude, "of the parameters that the law counts"),
    Column("lowest", "lowest tried", whole, "the depth with the lowest mean"),
    Column("best", "best depth", str, "at the bottom of the fitted valley", numeric=False),
    Column("interval", "95% interval", str, "of the best depth", numeric=False),
    Column("at_best", "at the bottom", decimals(4), "fitted value of the metric there"),
    Column("curvature", "curvature", decimals(4), "what one e-fold of depth away from it costs"),
    Column("tried", "depths tried", str, "layers executed", numeric=False),
    Column("runs", "runs", whole, "finished ones"),
    Column("seeds", "seeds", str, "of a depth, fewest to most", numeric=False),
    Column("tokens", "tokens", whole, "of each run"),
    Column("ratio", "tokens/parameter", decimals(2), "of the parameters that the law counts"),
    Column("shares", "embeddings’ share", str, "of all parameters, over the depths", numeric=False),
)
FORETOLD = (
    Column("name", "model", str, numeric=False),
    Column("size", "size", magnitude, "of the parameters that the law counts"),
    Column("reach", "beyond the largest budget", str, "extrapolation by this factor", False),
    Column("depth", "best depth, foretold", lambda depth: _at_least_one(depth, 1)),
    Column("interval", "95% interval", str, numeric=False),
    Column("layers", "its layers", whole, "what its authors settled on"),
)
PARAMETERS = (
    Column("name", "parameter", str, numeric=False),
    Column("value", "value", decimals(4)),
    Column("interval", "95% interval", str, numeric=False),
    Column("told", "meaning", str, numeric=False),
)


@dataclass(frozen=True)
class Law:
    """All that the page knows."""

    studies: tuple[Study, ...]
    """By budget."""
    valleys: tuple[Valley, ...]
    growth: Growth | None
    held_out: HeldOut | None
    quality: Quality

    @property
    def kind(self) -> str:
        """Which parameters the variable counts."""
        return str(self.studies[0].facts["budget"]["kind"])

    @property
    def counted(self) -> str:
        """That in words."""
        return KINDS[self.kind]

    @property
    def ratio(self) -> float:
        """Tokens per parameter."""
        return float(np.mean([_ratio(study) for study in self.studies]))

    @property
    def name(self) -> str:
        """Of its folder."""
        return "+".join(study.name for study in self.studies)

    @cached_property
    def foretold(self) -> pd.DataFrame:
        """A row for each published architecture that a best depth is foretold beside."""
        rows = []
        for name, file in LARGER.items():
            architecture = Architecture.from_yaml(file)
            size = float(getattr(cost(architecture), self.kind))
            row: dict[str, Any] = {"name": name, "size": size, "layers": architecture.num_layers}
            if self.growth is not None:
                low, high = self.growth.predicted(size)
                times = self.growth.reach(size)
                how = f"extrapolation, {times:.3g} ×" if times > 1 else "within"
                row |= {"times": times, "reach": how}
                row |= {"depth": float(self.growth.best(size)), "low": low, "high": high}
                row |= {"interval": _depths(low, high, 1)}
            rows.append(row)
        return pd.DataFrame(rows)


def read_law(names: Sequence[str], outputs: str | Path, runs: str | None = None) -> Law:
    """The law of these studies.

    Raises:
        ValueError: fewer than two, a study that is not there or not finished, studies that differ
            in more than budget and tokens, tokens per parameter or shares of embeddings that cannot
            be compared, too few depths.
    """
    if len(set(names)) < 2:
        raise ValueError(
            "a law needs studies of at least two budgets, but got "
            f"{join(list(names)) or 'none'}; give study=[A,B,C]"
        )
    studies = [read_study(name, outputs, runs) for name in dict.fromkeys(names)]
    studies.sort(key=lambda study: int(study.facts["budget"]["value"]))
    for study in studies:
        _check(study)
    _check_together(studies)
    generator = np.random.default_rng(SEED)
    valleys = [valley(_cells(s), float(s.facts["budget"]["value"]), generator) for s in studies]
    return Law(
        tuple(studies),
        tuple(valleys),
        growth(valleys),
        held_out(valleys),
        quality(valleys, generator),
    )


def _cells(study: Study) -> pd.DataFrame:
    columns = {"num_hidden_layers": "depth", "seed": "seed", study.metric: "value"}
    cells = study.finished[list(columns)].rename(columns=columns)
    return cells.astype({"depth": int})  # float where another trial has none


def _check(study: Study) -> None:
    """That a study can be one of a law's."""
    busy = study.trials.status.isin(["running", "waiting"]).sum()
    if not study.facts.get("finished", True) or busy:
        raise ValueError(
            f"study {study.name} must be finished, but {len(study.finished)} of "
            f"{study.facts.get('n_trials', len(study.trials))} runs are; start its search again"
        )
    done = study.finished
    depths = done.num_hidden_layers.nunique() if len(done) else 0
    if depths < FEWEST_DEPTHS:
        raise ValueError(
            f"study {study.name} must have at least {FEWEST_DEPTHS} depths for a valley, "
            f"but has {depths}; raise n_trials, or give more rungs"
        )
    arms = done.groupby("num_hidden_layers").arm.nunique()
    if (arms > 1).any():
        raise ValueError(
            f"study {study.name} must have one architecture a depth, but has {arms.max()} of "
            f"{arms.idxmax()} layers; take a study of space=depth_width"
        )


def _check_together(studies: Sequence[Study]) -> None:
    """That the studies differ in budget and tokens alone."""
    known: dict[str, tuple[str, Any]] = {}
    for study in studies:
        for key in study.finished.key:
            for name, value in _settings(study, study.records[key]).items():
                where, before = known.setdefault(name, (study.name, value))
                if before != value:
                    raise ValueError(
                        f"studies of a law must differ in budget and tokens alone, but {name} is "
                        f"{before} in {where} and {value} in {_also(study.name, where)}; take "
                        "studies of one recipe"
                    )
    values = [study.facts["budget"]["value"] for study in studies]
    if len(set(values)) < len(values):
        twice = max(values, key=values.count)
        raise ValueError(
            f"studies of a law must have different budgets, but two have {twice:,}; leave one out"
        )
    _check_close(
        {study.name: _ratio(study) for study in studies},
        "tokens per parameter",
        lambda low, high: high / low - 1 <= TOKENS_TOLERANCE,
        f"{TOKENS_TOLERANCE:.0%} of each other",
        decimals(3),
        "start each with the same tokens_per_parameter",
    )
    if studies[0].facts["budget"]["kind"] == "parameters":
        _check_close(
            {study.name: float(_shares(study).mean()) for study in studies},
            "the embeddings’ mean share of all parameters",
            lambda low, high: high - low <= SHARE_TOLERANCE,
            f"{100 * SHARE_TOLERANCE:.0f} points of each other",
            percent(1),
            "use budget=non_embedding_parameters:…, or a vocabulary that grows with the budget",
        )


def _check_close(
    values: dict[str, float], what: str, close: Any, within: str, text: Any, advice: str
) -> None:
    low, high = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    if not close(values[low], values[high]):
        raise ValueError(
            f"{what} must lie within {within}, but got {text(values[low])} in {low} and "
            f"{text(values[high])} in {high}; {advice}"
        )


def _also(study: str, where: str) -> str:
    return "another run of it" if study == where else study


def _settings(study: Study, record: Record) -> dict[str, Any]:
    """What must be the same in all runs that have it, by the name it is told by."""
    architecture = record.run.architecture
    recipe = {f"recipe.{name}": value for name, value in asdict(record.run.recipe).items()}
    del recipe["recipe.tokens"]
    return recipe | {
        "metric": study.metric,
        "the kind of budget": study.facts["budget"]["kind"],
        "data": record.data.get("name"),
        # a vocabulary of another size makes other tokens of the same text
        f"the data at a vocabulary of {architecture.vocab_size}": record.run.data_fingerprint,
        "sharing": architecture.sharing,
        "tie_word_embeddings": architecture.tie_word_embeddings,
    }


def _ratio(study: Study) -> float:
    return float(study.finished.tokens.iloc[0]) / float(study.facts["budget"]["value"])


def _shares(study: Study) -> pd.Series:
    """The embeddings' share of all parameters, an architecture each."""
    return study.finished.drop_duplicates("arm").embedding_share


# The words.


def headline(law: Law) -> str:
    """How the best depth grows, in a sentence that stands alone."""
    line = law.growth
    if line is None:
        inside = sum(v.status == INSIDE for v in law.valleys)
        return (
            f"How the best depth grows cannot be told: {inside} of {len(law.valleys)} budgets have "
            "one inside the depths tried."
        )
    first, last = min(line.budgets), max(line.budgets)
    low, high = line.interval
    fitted = [f"{line.best(n):.1f} layers at {magnitude(n)}" for n in (first, last)]
    said = f"as N^{decimals(2)(line.exponent)} (95% interval {_span(low, high, 2)})"
    if low > 0 or high < 0:
        grows = "grows" if low > 0 else "falls"
        return f"The best depth {grows} {said}: from {fitted[0]} to {fitted[1]} {law.counted}."
    return (
        f"Whether the best depth grows is unresolved: {said}, with {fitted[0]} and {fitted[1]} "
        f"{law.counted}."
    )


def hedges(law: Law) -> list[str]:
    """What the answer is worth: the largest budget held out, the extrapolation, what was left
    out."""
    return [held_out_in_words(law), *_extrapolated(law), *_left_out(law)]


def held_out_in_words(law: Law) -> str:
    """Whether the smaller budgets foretell the largest."""
    held = law.held_out
    if held is None:
        return (
            "The largest budget could not be held out: it takes a best depth there, and one inside "
            "the depths tried at two smaller budgets."
        )
    place = "lies inside" if held.inside else "lies outside"
    if held.inside and held.found[0] < held.found[1]:
        place = "may lie inside"
    return (
        f"Foretold from the smaller budgets, the best depth at {magnitude(held.budget)} is "
        f"{held.predicted:.1f} ({_depths(*held.interval, 1)}, a factor of {held.width:.1f} wide); "
        f"found is {best_in_words(law.valleys[-1])} ({interval_in_words(law.valleys[-1])}), which "
        f"{place}."
    )


def _extrapolated(law: Law) -> list[str]:
    if law.growth is None:
        return []
    rows = law.foretold[law.foretold.times > 1].to_dict("records")
    if not rows:
        return []
    said = [
        f"{_layers(row['depth'])} ({_depths(row['low'], row['high'], 0)}) for {row['name']}, "
        f"which has {row['layers']}"
        for row in rows
    ]
    factors = join([f"{row['times']:.3g}" for row in rows])
    return [
        f"Extrapolated by a factor of {factors} in {law.counted}: {'; '.join(said)}. MobileLLM was "
        "trained on far more tokens a parameter."
    ]


def _layers(depth: float) -> str:
    return "under one layer" if depth < 1 else f"{depth:.0f} layers"


def _left_out(law: Law) -> list[str]:
    out = [v for v in law.valleys if v.status != INSIDE]
    if not out:
        return []
    at = join([f"{magnitude(v.budget)} ({best_in_words(v)})" for v in out])
    return [f"Without a best depth inside the depths tried, and so no part of the growth: {at}."]


def best_in_words(valley: Valley) -> str:
    """The best depth; a bound where it lies at the edge of the depths tried."""
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
        return f"<{valley.lowest:.0f}"
    if low > valley.deepest:
        return f">{valley.deepest:.0f}"
    lower = f"{low:.1f}" if low >= valley.lowest else f"<{valley.lowest:.0f}"
    upper = f"{high:.1f}" if high <= valley.deepest else f">{valley.deepest:.0f}"
    return f"{lower} to {upper}"


def _at_least_one(depth: float, digits: int) -> str:
    """There is no model of less than a layer."""
    return "<1" if depth < 1 else decimals(digits)(depth)


def _depths(low: float, high: float, digits: int) -> str:
    return span(low, high, lambda depth: _at_least_one(depth, digits))


def _span(low: float, high: float, digits: int) -> str:
    return span(low, high, decimals(digits))


def unknown(law: Law) -> list[str]:
    """What these runs cannot tell."""
    q, budgets = law.quality, [valley.budget for valley in law.valleys]
    factor = f"{max(budgets) / min(budgets):.3g}"
    told = [
        f"The exponent of tokens by themselves: tokens per parameter are fixed at {law.ratio:.2f}, "
        "so that the exponent is that of size and tokens together, and of steps, which grow alike.",
        "Depth apart from width: on one budget a deeper shape is a thinner one.",
        "How well each budget is tuned: one base rate and one batch serve all. Were a lower rate "
        "better for the longer runs, that would stand in the exponent.",
    ]
    if uneven := [magnitude(v.budget) for v in law.valleys if v.seeds[0] < v.seeds[1]]:
        told.append(
            f"Selection: at {join(uneven)} some depths have more seeds than others. The seed that "
            "chose them flatters them a little, and it is part of the fit."
        )
    if stopped := [
        f"{count(n, 'run')} at {magnitude(v.budget)}"
        for study, v in zip(law.studies, law.valleys, strict=True)
        if (n := int((study.trials.status == "pruned").sum()))
    ]:
        told.append(
            f"Depths that a pruner stopped: {join(stopped)} are no part of the fit, and readings "
            "at shorter horizons chose what is."
        )
    if not q.floor_fitted:
        told.append(
            f"E, a loss that no size removes: it takes {FEWEST_FOR_FLOOR} budgets; held at 0."
        )
    elif not q.floor_known:
        told.append(
            f"E, a loss that no size removes: budgets that span a factor of {factor} leave it "
            f"anywhere from {_span(*q.interval('floor'), 2)}, and the exponent with it, which is "
            f"{decimals(3)(q.without_floor)} where E is held at 0."
        )
    return told


def on_embeddings(law: Law) -> str:
    """Which parameters are the variable, and what embeddings take."""
    ranges = [_share_range(study) for study in law.studies]
    at = join([f"{r} at {magnitude(v.budget)}" for r, v in zip(ranges, law.valleys, strict=True)])
    vocabularies = {int(v) for study in law.studies for v in study.finished.vocab_size}
    words = join([f"{v:,}" for v in sorted(vocabularies)])
    tilt = ""
    if law.kind != "parameters":
        tilt = " Shallow, wide shapes have more parameters in all than deep ones of their budget."
        means = [float(_shares(study).mean()) for study in law.studies]
        if max(means) - min(means) > SHARE_TOLERANCE:
            tilt += (
                " That favours shallow shapes most where the share is largest, and some of what "
                "the best depth does over budgets may be due to it: a vocabulary that grows as the "
                "square root of the budget keeps the shares level."
            )
    return (
        f"N counts {law.counted}. With a vocabulary of {words}, embeddings are {at} of all "
        f"parameters, from the deepest shape to the shallowest.{tilt}"
    )


def _share_range(study: Study) -> str:
    shares = _shares(study)
    return span(shares.min(), shares.max(), percent(0))


def how_it_was_made(law: Law) -> list[tuple[str, str]]:
    """The particulars of a law, (term, text)."""
    runs = [study.records[key] for study in law.studies for key in study.finished.key]
    lost = {s.name: int((s.trials.status == "diverged").sum()) for s in law.studies}
    diverged = [f"{count(n, 'run')} of {name}" for name, n in lost.items() if n]
    return [
        ("Studies", "; ".join(f"{s.name}: {command(s.facts)}" for s in law.studies)),
        ("Variable", on_embeddings(law)),
        ("Tokens", f"{law.ratio:.2f} for each of these parameters, the same at all budgets."),
        (
            "Recipe",
            f"{recipe_in_words(runs[0].run.recipe)}. At other budgets alike but for tokens.",
        ),
        ("Data", str(runs[0].data.get("name"))),
        ("Commits", join(sorted({str(record.commit) for record in runs}))),
        ("Diverged", join(diverged) if diverged else "none"),
    ]


# The tables.


def budget_rows(law: Law) -> pd.DataFrame:
    """A row a budget."""
    rows = []
    for study, v in zip(law.studies, law.valleys, strict=True):
        few, many = v.seeds
        inside = v.status == INSIDE
        low, high = (math.nan, math.nan) if v.status == NONE else v.interval
        rows.append(
            {
                "study": study.name,
                "budget": v.budget,
                "tried": ", ".join(f"{depth:g}" for depth in sorted(set(v.cells.depth))),
                "runs": len(v.cells),
                "seeds": f"{few}" if few == many else f"{few} to {many}",
                "tokens": int(study.finished.tokens.iloc[0]),
                "ratio": _ratio(study),
                "shares": _share_range(study),
                "lowest": v.cells.groupby("depth").adjusted.mean().idxmin(),
                "best": best_in_words(v),
                "interval": interval_in_words(v),
                "at_best": v.at(v.best) if inside else math.nan,
                "curvature": v.curvature,
                "status": v.status,
                "best_depth": v.best if inside else math.nan,
                "best_low": low,
                "best_high": high,
            }
        )
    return pd.DataFrame(rows)


def parameter_rows(law: Law) -> pd.DataFrame:
    """A row for each parameter of the law of quality and of the growth of best depth."""
    q, at = law.quality, magnitude(law.quality.middle)
    unit = UNITS[law.studies[0].metric]
    known = "" if q.floor_known else "not identified: " if q.floor_fitted else "held at 0: "
    told = {
        "floor": ("E", f"{known}{unit} that no size removes"),
        "level": ("E + A", f"{unit} of the best depth at N0 = {at}"),
        "exponent": ("α", "how fast the rest falls with N, tokens growing alike"),
        "curvature": ("c", f"{unit} that one e-fold of depth away from the best costs"),
        "log_depth": ("best depth at N0", "the joint fit's"),
        "depth_exponent": ("growth of best depth, joint", "d log best depth / d log N"),
    }
    rows: list[dict[str, Any]] = []
    for name, (symbol, meaning) in told.items():
        value, (low, high) = q.parameters[name], q.interval(name)
        if name == "log_depth":
            value, low, high = math.exp(value), math.exp(low), math.exp(high)
        fixed = name == "floor" and not q.floor_fitted
        ends = None if fixed else _span(low, high, 4)
        rows.append({"name": symbol, "value": value, "interval": ends, "told": meaning})
    if (line := law.growth) is not None:
        by = (
            f"; widened by {line.widened:.1f}, as the points lie off it" if line.widened > 1 else ""
        )
        meaning = f"the line through the budgets' best depths{by}"
        ends = _span(*line.interval, 4)
        rows.append(
            {"name": "growth of best depth, line", "value": line.exponent, "interval": ends}
            | {"told": meaning}
        )
    return pd.DataFrame(rows)


FORMULA = "E + A (N / N0)^−α + c (log L − log L*(N))², log L*(N) linear in log N"

Part = tuple[str, Sequence[Column], Sequence[Sequence[Cell]]]


def parts(law: Law) -> list[Part]:
    """The tables: title, columns, cells."""
    described = (
        ("Best depth at each budget", BUDGETS, budget_rows(law)),
        ("Beside larger models", FORETOLD, law.foretold),
        (f"{law.studies[0].metric_title} = {FORMULA}", PARAMETERS, parameter_rows(law)),
    )
    return [(title, *printed_rows(rows, columns)) for title, columns, rows in described]


def markdown(law: Law) -> str:
    """All that is said and tabled, in GitHub's Markdown."""
    tables = "".join(
        f"**{title}**\n\n{markdown_table(columns, rows)}\n" for title, columns, rows in parts(law)
    )
    said = " ".join([headline(law), *hedges(law)])
    items = "".join(f"- {text}\n" for text in unknown(law))
    return f"{said}\n\n{on_embeddings(law)}\n\n{tables}What these runs cannot tell:\n\n{items}"


def latex(law: Law) -> str:
    """The tables for LaTeX with booktabs."""
    lines = [f"% {escape(headline(law))}", "% needs \\usepackage{booktabs}"]
    for title, columns, rows in parts(law):
        lines += [f"% {escape(title)}", latex_table(columns, rows)]
    return "\n".join([*lines, ""])


def runs_csv(law: Law) -> str:
    """Every run at full precision, with its residual under the valley and under the law."""
    frame = pd.concat([v.cells.assign(budget=v.budget) for v in law.valleys], ignore_index=True)
    frame = frame.rename(columns={"value": law.studies[0].metric, "residual": "valley_residual"})
    frame = frame.assign(law_residual=law.quality.residuals.residual)
    first = ["budget", "depth", "seed"]
    ordered = frame[[*first, *(name for name in frame if name not in first)]]
    return csv_text(ordered)


def records(law: Law) -> bytes:
    """All that the page is made of, as a `.tar.xz` to publish: unpacked elsewhere,
    `python -m reports page=laws` makes the same page of it. Without the storage's URL."""
    files: dict[str, Any] = {}
    for study in law.studies:
        facts = {**study.facts, "runs": "runs"}
        if "config" in facts:
            facts["config"] = {k: v for k, v in facts["config"].items() if k != "storage"}
        if "command" in facts:
            facts["command"] = command(facts)
        files[f"outputs/{study.name}/study.json"] = facts
        for key, record in study.records.items():
            files[f"runs/{key}/record.json"] = record.to_dict()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as archive:
        for name, content in sorted(files.items()):
            text = json.dumps(content).encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
    return packed.getvalue()


def command(facts: Mapping[str, Any]) -> str:
    """What started a study, without the storage's URL."""
    given = shlex.split(facts.get("command", ""))
    return shlex.join(argument for argument in given if option_of(argument) != "storage")


def html(law: Law) -> str:
    """The page, complete with style, script, data and plotly.js."""
    from plotly.offline import get_plotlyjs

    return fill(
        "laws.html.j2",
        law=law,
        title=headline(law),
        hedges=hedges(law),
        embeddings=on_embeddings(law),
        parts=parts(law),
        unknown=unknown(law),
        facts=how_it_was_made(law),
        series=SERIES,
        light_series=[mixed(color, "#ffffff", 0.25) for color in SERIES],
        figures=in_script(law_figures.interactive(law)),
        plotly=Markup(get_plotlyjs()),
    )


def render(law: Law) -> dict[str, bytes]:
    """The files of a law by name."""
    texts = {
        "report.html": html(law),
        "table.md": markdown(law),
        "table.tex": latex(law),
        "budgets.csv": csv_text(budget_rows(law)),
        "parameters.csv": csv_text(parameter_rows(law)),
        "runs.csv": runs_csv(law),
    }
    files = {name: text.encode() for name, text in texts.items()} | law_figures.printed(law)
    return files | {"records.tar.xz": records(law)}
