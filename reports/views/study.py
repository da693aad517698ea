"""`report.html`: one self-contained page."""

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from ablations.stats.block import spreads
from reports.read.study import MOST_SHOWN, Open, Study, is_number
from reports.show.figures import Json
from reports.show.html import in_script, marked, packed, packed_plotly, unbroken
from reports.show.recipes import recipe_in_words
from reports.show.tables import fill
from reports.views import (
    confirm,
    curves,
    depth_figure,
    front,
    measured,
    scores,
    sources,
    trials,
    trust_quoted,
)
from reports.views.curves import curve_of, evaluated_once, learning_curves
from reports.views.depth_figure import depth_vs_width
from reports.views.layers import pictures
from reports.weigh.answer import Evidence, answer, budget_words, on_selection, weigh
from reports.weigh.front import Front, front_of, in_words
from reports.weigh.measured import of_study as measured_of
from reports.weigh.scores import of_study
from reports.weigh.worth import Worth, worth_of
from search.objectives import WITHOUT_BYTES, Measure
from search.record import Record
from search.states import Role, Status
from space.overrides import outputs_of
from space.words import command, count, exact_duration, join

Facts = list[tuple[str, str]]

EXPLORED_PER_AXIS = 10
"""Architectures from which on shares of axes are shown."""
MOST_NOISE = 0.5
"""Share of the variance that may be noise of seeds, where shares of axes are shown."""

OUTCOMES = (
    *(Status.FINISHED, Status.DIVERGED, Status.FAILED, Open.MISSING),
    *(Status.PRUNED, Open.RUNNING, Open.WAITING),
)
"""Outcomes of a trial, in the order in which the page counts them."""


@dataclass(frozen=True)
class Findings:
    """Results of a study that several outputs use, computed once."""

    evidence: Evidence
    confirmed: confirm.Confirmation | None
    trust: str
    front: Front | None = None
    """Of studies with several objectives."""
    worth: Worth | None = None
    """None where nothing has finished."""

    @classmethod
    def of(cls, study: Study) -> Self:
        """The evidence of a study, and what tables of the same outputs say of it."""
        confirmed = confirm.confirmed(study.name, study.folder.parent, study.runs)
        evidence = weigh(study)
        trust = trust_quoted.of_study(study)
        return cls(
            evidence,
            confirmed,
            trust,
            front_of(study, evidence),
            worth_of(study, evidence.evaluation),
        )

    @property
    def trust_known(self) -> bool:
        """Whether a table has measured how far the proxy can be trusted."""
        return not self.trust.startswith(trust_quoted.UNKNOWN)

    @property
    def opening(self) -> list[str]:
        """What comes before the answer, in sentences: what it is worth."""
        return self.worth.in_words() if self.worth else []


def html(study: Study, found: Findings) -> str:
    """The page, complete with style, script, data and plotly.js, packed."""
    evidence = found.evidence
    first, *rest = answer(study, evidence)
    drawn, listed = page_figures(study, found), trials.arms_of_rows(study, evidence)
    front_columns, front_rows = front.rows(study, found.front) if found.front else ([], [])
    arm_columns, arm_rows = trials.arm_rows(study, evidence)
    trial_columns, trial_rows = trials.trial_rows(study)
    return fill(
        "page.html.j2",
        study=study,
        evidence=evidence,
        budget=budget_words(study),
        title=title(study),
        quality_over=quality_over(study),
        smoke=found.worth is not None and found.worth.is_smoke,
        opening=found.opening,
        outcomes=outcomes(study),
        answer=unbroken(first),
        hedges=rest,
        selection=on_selection(evidence) if len(study.eligible) else "",
        drawn=set(drawn),
        shifted=drawn.get("depth", {}).get("layout", {}).get("showlegend"),
        depth_colors=curves.named_colors(study),
        width_axis="xaxis2" in drawn.get("depth", {}).get("layout", {}),
        front_words=in_words(found.front) if found.front else [],
        front_columns=front_columns,
        front_rows=front_rows,
        front_arms=found.front.arms.arm.tolist() if found.front else [],
        differences=trials.differences(evidence),
        no_differences=trials.no_differences(study, evidence),
        markdown=in_script(summary(study, found)),
        fewer_arms=trials.left_out(len(evidence.arms), "architectures"),
        fewer_trials=trials.left_out(len(study.trials), "trials"),
        fewer_curves=fewer_curves(study),
        nearest=trials.nearest_rows(study),
        arm_columns=arm_columns,
        arm_rows=arm_rows,
        of_few=trials.of_few(arm_rows),
        trial_columns=trial_columns,
        trial_rows=trial_rows,
        scored=[
            *sources.sections(study, evidence),
            *scores.sections({"": of_study(study, evidence)}),
            *measured.sections({"": measured_of(study, evidence)}),
        ],
        importance=importance(study, evidence),
        unhappy=unhappy(study),
        facts=[*how_it_was_run(study), *how_it_was_scored(evidence)],
        trusted=marked(found.trust),
        trust_known=found.trust_known,
        trust_cost=trust_quoted.cost(study),
        figures=packed(drawn),
        described=described(study, found, drawn),
        axes_differ=axes_differ(study) if {"train", "validation"} <= set(drawn) else "",
        arms=packed(pictures(study, evidence)),
        first=evidence.best or next(iter(listed["architectures"]), None),
        arms_of=listed,
        confirmed=found.confirmed,
        plotly=packed_plotly(),
    )


def summary(study: Study, found: Findings) -> str:
    """What to paste elsewhere, in Markdown: the answer, its table, and where they come from."""
    evidence = found.evidence
    said = " ".join([*found.opening, *answer(study, evidence)])
    title = f"**{study.name}: {budget_words(study)}.** {said}"
    return f"{title}\n\n{trials.document(study, evidence)}"


def page_figures(study: Study, found: Findings) -> dict[str, Json]:
    """The figures that have data, by the id of their place on the page."""
    evidence = found.evidence
    drawn: dict[str, Json | None] = {
        "depth": depth_vs_width(study, evidence) if len(evidence.arms) else None,
        "train": learning_curves(study, "train_loss"),
        "validation": None if evaluated_once(study) else learning_curves(study, curve_of(study)),
    }
    drawn |= front.drawn(study, found.front) if found.front else {}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def described(study: Study, found: Findings, drawn: Mapping[str, Json]) -> dict[str, str]:
    """Each figure in words, by its place."""
    said = front.described(study, found.front) if found.front else {}
    if "depth" in drawn:
        said["depth"] = depth_figure.described(study, found.evidence)
    columns = {"train": curves.NOISY, "validation": curve_of(study)}
    return said | {
        place: curves.described(study, column)
        for place, column in columns.items()
        if place in drawn
    }


def axes_differ(study: Study) -> str:
    """That the vertical axes of the two panels of curves are not one."""
    unit = Measure(curve_of(study)).unit
    if unit == Measure(WITHOUT_BYTES).unit:
        return "The vertical axes have different ranges."
    return f"The vertical axes differ: {Measure(WITHOUT_BYTES).unit} first, then {unit}."


def fewer_curves(study: Study) -> str:
    """Which curves are drawn, in a sentence, where not all are."""
    runs = study.trials.key.nunique()
    return "" if runs <= MOST_SHOWN else f" Of {runs:,} runs the best {MOST_SHOWN:,} are drawn."


def outcomes(study: Study) -> str:
    """ "20 finished, 1 diverged and 1 failed"."""
    states = study.trials.status.value_counts()
    known = [*OUTCOMES, *sorted(set(states.index) - set(OUTCOMES))]
    return join([f"{states[name]} {name}" for name in known if name in states]) or "none"


@dataclass(frozen=True)
class Importance:
    """How much each axis of the space matters, where the runs can say so."""

    note: str
    """What the shares are of and worth, or why there are none."""
    shares: Sequence[tuple[str, float]] = ()
    """Axes by their share of the metric's variance, largest first."""
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """The 95% interval of each, where the study has them."""


def importance(study: Study, evidence: Evidence) -> Importance | None:
    """Which axis matters; None without architectures and of a single axis, which always gets all of
    the variance. Shares come from the exploring runs, one seed each, so that seeds must show how
    much of them is noise."""
    shares = study.facts.get("importance") or {}
    if len(shares) < 2 or evidence.arms.empty:
        return None
    tried, needed = len(evidence.arms), EXPLORED_PER_AXIS * len(shares)
    if tried < needed:
        return Importance(
            f"Not shown: {count(tried, 'architecture')} cannot tell {len(shares)} axes apart from "
            f"noise; it takes {needed} and more."
        )
    noise = _noise_share(evidence)
    if not noise < MOST_NOISE:
        why = (
            "further seeds would tell how much of it is noise"
            if math.isnan(noise)
            else f"seeds alone make {noise:.0%} of the variation between architectures"
        )
        return Importance(f"Not shown: {why}.")
    note = (
        f"Share of the variance of {study.metric} explained by each axis of the space, from the "
        f"exploring runs of {tried} architectures. Seeds alone make {noise:.0%} of that variance: "
        "shares of that size say nothing."
    )
    intervals = study.facts.get("importance_intervals") or {}
    note += (
        " Thin lines: 95% intervals, from samples of these architectures with replacement."
        if intervals
        else " The study has no intervals of these shares: it has not ended, or is older than they."
    )
    return Importance(note, sorted(shares.items(), key=lambda s: (-s[1], s[0])), intervals)


def _noise_share(evidence: Evidence) -> float:
    """How much of the variance between architectures one run's noise would make; NaN where
    no seeds tell."""
    if evidence.best is None:
        return math.nan
    residual = spreads(evidence.cells, evidence.metric).residual
    return float(residual**2 / evidence.arms.once.var())


AXES = {
    "num_blocks": "depth",
    "heads_per_kv": "KV heads",
    "heads_per_kv_target": "KV heads",
    "head_dim_scale": "head dimension",
    "ffn_ratio": "FFN ratio",
    "ffn_scaling": "FFN scaling",
    "tie_word_embeddings": "tying",
    "sliding_window": "windows",
}


def title(study: Study) -> str:
    """What the study asks, as a browser's tab shows it: "depth and tying at 1.0M parameters"."""
    varied = [*(study.facts["space"].get("axes") or ()), *_axes_of(study)]
    words = list(dict.fromkeys(AXES.get(name, name.replace("_", " ")) for name in varied))
    asked = "depth against width" if words in ([], ["depth"]) else join(words)
    return f"{asked} at {budget_words(study)}"


def _axes_of(study: Study) -> list[str]:
    return [
        name.removeprefix("axis.") for name in map(str, study.trials) if name.startswith("axis.")
    ]


def quality_over(study: Study) -> str:
    """The heading of the figure over depth."""
    alone = title(study).startswith("depth against width")
    return "Depth against width" if alone else "Quality over depth"


def unhappy(study: Study) -> list[tuple[str, str, str]]:
    """(trial, what happened, why) of every trial that was run and has no result."""
    lost = [Status.DIVERGED, Status.FAILED, Status.PRUNED]
    rows = study.trials[study.trials.status.isin(lost)]
    reasons = [
        (f"trial {row['number']}", str(row["status"]), str(row["reason"] or "no reason recorded"))
        for row in rows.to_dict("records")
    ]
    return reasons + [(f"run {key}", str(Open.MISSING), reason) for key, reason in study.missing]


def _export(study: Study) -> str | None:
    """The command that exports the best run, with the places of the study and its data, and whether
    its weights were kept; none before one has ended that keeps to the constraints."""
    if study.eligible.empty:
        return None
    given = shlex.split(str(study.facts.get("command") or ""))
    cache = [text.removeprefix("data.") for text in given if text.startswith("data.cache=")]
    places = [*outputs_of(study.folder.parent), *cache]
    take = command("space", "export=best", f"study={study.name}", *places, "to=FOLDER")
    if not study.facts.get("best_kept", True):
        return f"the best run kept no weights when it was trained; {take} says what trains it again"
    return take


def how_it_was_scored(evidence: Evidence) -> Facts:
    """What intervals hold of the choice of held-out text, (term, text)."""
    evaluation = evidence.evaluation
    return [("Held-out text", evaluation.in_words)] if evaluation else []


def how_it_was_run(study: Study) -> Facts:
    """The particulars of a study, (term, text)."""
    facts, records = study.facts, list(study.records.values())
    known = dict(trials.about(study))
    said: list[tuple[str, str | None]] = [
        ("Command", facts.get("command")),
        ("Metric", f"{known['metric']}, {known['direction']}"),
        ("Budget", _budget(study)),
        ("Space", _space(facts["space"]) + _ruled_out(study)),
        ("Trials", _trials(study)),
        ("Seeds", _seeds(study)),
        ("Recipe", _agreed(_of_each(records, lambda r: id(r.run.recipe), _recipe))),
        ("Data", _agreed(_of_each(records, lambda r: (id(r.data), r.run.data_fingerprint), _data))),
        ("Time", _time(study)),
        ("Device", _agreed(_of_each(records, lambda r: id(r.device), _device))),
        ("Commit", _agreed([str(r.commit) for r in records if r.commit])),
        (
            "Versions",
            _agreed(_of_each(records, lambda r: id(r.versions), lambda r: _pairs(r.versions))),
        ),
        ("Started", facts.get("started")),
        ("Take the best with you", _export(study)),
    ]
    return [(term, text) for term, text in said if text]


def _budget(study: Study) -> str:
    worst = study.trials.get("budget_deviation")
    text = f"{study.facts['budget']['value']:,} {budget_words(study).split(maxsplit=1)[1]}"
    if worst is None or worst.isna().all():
        return text
    return f"{text}; the trials are at most {100 * worst.abs().max():.2f}% off"


def _space(space: Mapping[str, Any]) -> str:
    size = space.get("size")
    axes = [f"{name}: {_compact(value)}" for name, value in (space.get("axes") or {}).items()]
    of = f" of {size:,} architectures" if is_number(size) else ""
    kept = [f"{name} {_compact(value)}" for name, value in (space.get("constraints") or {}).items()]
    keeps = f", keeping to {join(kept)}" if kept else ""
    note = f"; {said}" if (said := space.get("note")) else ""
    return f"{space.get('name')}{of}" + (f" ({'; '.join(axes)})" if axes else "") + keeps + note


def _ruled_out(study: Study) -> str:
    if not (ruled_out := study.facts.get("ruled_out")):
        return ""
    limits = join(study.constraints)
    return f"; {ruled_out:,} are by their costs known to be beyond {limits}, and were not trained"


def _compact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_compact(item)}" for name, item in value.items())
    return (
        ", ".join(map(str, value))
        if isinstance(value, Sequence) and not isinstance(value, str)
        else str(value)
    )


def _trials(study: Study) -> str:
    facts = study.facts
    asked, planned = facts.get("n_trials"), facts.get("planned")
    text = outcomes(study)
    if planned:
        text += f", of {planned} planned"
        text += f" (its last start asked for {asked})" if asked and asked < planned else ""
    elif asked:
        text += f", of {asked} requested"
    text += f"; sampler {facts['sampler']}" if facts.get("sampler") else ""
    text += f", {count(facts['workers'], 'worker')}" if facts.get("workers") else ""
    if (pruner := facts.get("pruner", "none")) != "none":
        text += (
            f"; pruner {pruner}: {count(facts['pruned'], 'run')} stopped early, which saved "
            f"{facts['saved_tokens']:,} tokens; branches took {facts['branch_tokens']:,}"
        )
    reused = sum(bool(trial.get("reused")) for trial in facts["trials"])
    text += f"; {count(reused, 'run')} reused from earlier studies" if reused else ""
    aside = study.finished_elsewhere
    return text + (f"; {count(aside, 'run')} of another length not compared" if aside else "")


def _seeds(study: Study) -> str:
    roles = study.trials.dropna(subset="seed").groupby("role").seed.unique()
    named: dict[Any, str] = {Role.EXPLORE: "exploring", Role.REPLICATE: "further"}
    return "; ".join(
        f"{named.get(role, role)}: {', '.join(f'{seed:.0f}' for seed in sorted(seeds))}"
        for role, seeds in roles.items()
    )


def _of_each(
    records: Sequence[Record], key: Callable[[Record], object], words: Callable[[Record], str]
) -> list[str]:
    """The words of each record, made once for those that have a key in common."""
    keys = [key(record) for record in records]
    said = {k: words(record) for k, record in dict(zip(keys, records, strict=True)).items()}
    return [said[k] for k in keys]


def _recipe(record: Record) -> str:
    return recipe_in_words(record.run.recipe)


def _data(record: Record) -> str:
    known = dict(record.data)
    fingerprint = known.pop("fingerprint", record.run.data_fingerprint)
    name = known.pop("name", "data")
    rest = f", {pairs}" if (pairs := _pairs(known)) else ""
    return f"{name}, fingerprint {fingerprint}{rest}"


def _figure(value: Any) -> str:
    if isinstance(value, bool) or not is_number(value):
        return str(value)
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"


def _device(record: Record) -> str:
    known = dict(record.device)
    name = known.pop("name", None) or known.pop("type", "")
    return f"{name}{', ' if name and known else ''}{_pairs(known)}"


def _versions(record: Record) -> str:
    return _pairs(record.versions)


def _pairs(values: Mapping[str, Any]) -> str:
    known = sorted(name for name, value in values.items() if value is not None)
    return ", ".join(f"{name.replace('_', ' ')} {_figure(values[name])}" for name in known)


def _time(study: Study) -> str:
    wall = study.facts.get("wall_s")
    parts = [f"{exact_duration(float(wall))} wall time"] if wall else []
    if study.records:
        training = sum(record.train_s for record in study.records.values())
        parts.append(f"{exact_duration(training)} of training summed over runs")
        branches = sum(record.branch_s for record in study.records.values())
        parts += [f"{exact_duration(branches)} of branches to horizons"] if branches else []
    return ", ".join(parts)


def _agreed(texts: Sequence[str]) -> str | None:
    """The text of all runs if it is the same, else each text with its number of runs."""
    different = {text: texts.count(text) for text in sorted(set(texts)) if text}
    if len(different) < 2:
        return next(iter(different), None)
    return "; ".join(f"{text} ({count(n, 'run')})" for text, n in different.items())
