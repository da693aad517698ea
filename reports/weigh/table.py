"""A table of `python -m ablations`: its records read, and its arms weighed against each other.

The same records give the same numbers: nothing here depends on when or how often they were asked
for.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import pandas as pd

from ablations.questions import standalone, table_stem
from ablations.stats.block import LEVEL
from ablations.stats.bracket import CARRIED, EDGE, is_carried
from ablations.stats.effects import compare
from ablations.stats.looks import Looks, auto_words, read_looks
from ablations.stats.sequential import verdicts
from ablations.table import ARMS
from reports.read.study import OTHER, Open, deviation, require_records
from reports.weigh import horizons, measured, scores
from reports.weigh.evaluation import Evaluation
from reports.weigh.worth import Worth
from search.objectives import USUAL, measures_of
from search.recipe import Recipe
from search.record import Record
from search.runs import CorruptRecord, read_record
from search.states import Status
from space.arch import Architecture
from space.budget import MAX_DEVIATION
from space.cost import cost
from space.seals import read_json
from space.words import join

NOT_RUN, RULED_OUT = "not run", "not trained"
"""Of cells without a record: the latter are known by their costs to be beyond a constraint."""
SAID = ("values", "excesses", "ruled_out")
"""What `study.json` says of a place besides which it is."""
EXCESS, FEASIBLE = "beyond ", "feasible"
"""Columns of by how much a run is beyond a limit, and of whether an arm keeps to all limits."""


@dataclass(frozen=True)
class Criteria:
    """By what arms are compared, and what is shown of them besides."""

    metric: str
    """The objective by which they are compared."""
    measures: Mapping[str, Mapping[str, str]]
    """`name title unit direction` of it and of the others, by name."""
    limits: tuple[str, ...] = ()
    """What arms were to keep to: `kv_bytes<=2048`."""

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """Those of a `study.json`."""
        limits = tuple(map(str, content.get("constraints", ())))
        return cls(str(content["metric"]), measures_of(content), limits)

    @property
    def lower_is_better(self) -> bool:
        return self.measures[self.metric]["direction"] == "minimize"

    @property
    def title(self) -> str:
        return self.measures[self.metric]["title"]

    @property
    def unit(self) -> str:
        return self.measures[self.metric]["unit"]

    @property
    def others(self) -> dict[str, Mapping[str, str]]:
        """The measures that are shown besides, by name; `parameters` every table has."""
        return {n: m for n, m in self.measures.items() if n not in (self.metric, "parameters")}


BY_BPB = Criteria.of({"metric": USUAL})


@dataclass(frozen=True)
class Panel:
    """One comparison, weighed."""

    name: str
    source: str | None
    baseline: str
    rows: pd.DataFrame
    """One row per arm, the names of `COLUMNS` and `runs`, the keys of its runs."""
    missing: tuple[str, ...]
    """Each cell that has no result, and why."""
    criteria: Criteria = BY_BPB
    level: float = LEVEL
    """The confidence level of its intervals; of `seeds=auto`, whose looks have their own, of all
    looks together."""
    auto: bool = False
    """Whether its looks are those of `seeds=auto`."""
    architectures: Mapping[str, Architecture] = field(default_factory=dict)
    """Of each arm, by its name."""


@dataclass(frozen=True)
class Report:
    """A table, weighed."""

    folder: Path
    name: str
    caption: str
    metric: str
    panels: tuple[Panel, ...]
    cells: pd.DataFrame
    """`panel arm seed key status reason commit data` and the metric, one row per cell."""
    note: str = ""
    """How arms came to their learning rates, and what that cost."""
    question: str = ARMS
    """The kind of table: its name at the door of `ablations.questions`."""
    equal_arms: bool = False
    """All arms are one thing but for their initial weights: any verdict is a false one."""
    table: Mapping[str, Any] = field(default_factory=dict)
    """What `study.json` says of it."""
    runs: Path = Path("runs")
    """The folder that their records are in."""
    criteria: Criteria = BY_BPB
    measured: dict[str, pd.DataFrame] | None = None
    """What engines measured, by panel (`reports.weigh.measured.gather`), where they did."""
    scores: dict[str, pd.DataFrame] | None = None
    """Zero-shot scores by panel (`reports.weigh.scores.gather`); only of panels that have any."""
    horizons: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """Differences at each horizon by panel (`reports.weigh.horizons.weigh`); only of panels whose
    runs have several, and not with `seeds=auto`, whose looks have levels of their own."""
    command: str = ""
    """What made it."""
    worth: Worth | None = None
    """None where nothing has finished."""
    evaluation: Evaluation | None = None
    """What the choice of held-out text adds to intervals; None where no loss is compared."""
    looks_of: Mapping[str, Looks] = field(default_factory=dict)
    """Of a table that trains nothing, the looks of each study that it measured."""
    columns: Sequence[str] | None = None
    """Those that Markdown and LaTeX show, by name or heading; all where none are given."""

    @property
    def warning(self) -> str:
        """What every form says; empty where numbers mean something."""
        return self.worth.warning if self.worth else ""

    @property
    def looks(self) -> Looks | None:
        """Those that the table had; None where that was not kept."""
        return Looks.read(self.table)

    @property
    def level(self) -> float:
        """The confidence level of its intervals."""
        return _level(self.table)

    @property
    def looks_in_words(self) -> str:
        """How many looks there were, and what intervals stand at; empty where nothing is known of
        the table."""
        if not self.table:
            return ""
        if self.looks is None:
            return "not counted when the table was made; intervals at the level of one look, 95%"
        return auto_words(self.looks) if self.table.get("auto") else self.looks.words

    @property
    def missing(self) -> list[str]:
        """Each cell that has no result, and why: a view must name them all."""
        return [text for panel in self.panels for text in panel.missing]


def _level(table: Mapping[str, Any]) -> float:
    """Of the intervals of a table as `study.json` describes it, but for `seeds=auto`."""
    looks = Looks.read(table)
    return looks.level if looks else LEVEL


def read_table(
    name: str, outputs: str | Path, runs: str | None, looks: Sequence[int] = ()
) -> Report:
    """The table under `outputs/tables/<name>/` with the records of its runs; one that trains
    nothing has no panels. `looks` are seeds at each look, instead of those that were counted.

    Raises:
        ValueError: no such table, a `study.json` that describes none, or looks that do not fit.
    """
    tables = Path(outputs) / "tables"
    if (question := standalone(name)) is not None and not question.trains:
        folder = tables / table_stem(name)
        had, none = read_looks(folder), pd.DataFrame()
        return Report(folder, folder.name, "", "", (), none, question=name, looks_of=had)
    path = tables / name / "study.json"
    if not path.is_file():
        known = ", ".join(sorted(p.parent.name for p in tables.glob("*/study.json")))
        advice = f"choose one of {known}" if known else "run `python -m ablations` first"
        raise ValueError(f"table must name a folder of {tables}, but got {name!r}; {advice}")
    try:
        content = read_json(path)
        table = content["table"]
        seeds = int(table["seeds"]) if looks else 0
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _no_table(path, error) from None
    if looks:  # that a reader states
        table["looks"] = Looks.given(list(looks), seeds).to_dict()
    try:
        report = _read(content, path.parent, runs)
    except CorruptRecord:  # which names a file of its own
        raise
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _no_table(path, error) from None
    wanted = {place["key"] for place in content["places"]}
    read = report.cells.key[~report.cells.status.isin([NOT_RUN, "missing"])]
    require_records([t for t in content["trials"] if t["key"] in wanted], set(read), report.runs)
    return report


def _no_table(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path} must describe a table, but lacks it ({error}); start the same table again"
    )


def _read(content: Mapping[str, Any], folder: Path, runs: str | None) -> Report:
    """The table of a `study.json`; a missing entry raises the error of its reader."""
    table, places, metric = content["table"], content["places"], content["metric"]
    criteria = Criteria.of(content)
    caption, described = table["caption"], table["panels"]
    if not described:
        raise ValueError("no panels")
    trials = {trial["key"]: trial for trial in content["trials"]}
    things = [
        (Architecture.from_dict(arm["architecture"]), Recipe(**arm["recipe"]))
        for panel in described
        for arm in panel["arms"]
    ]
    where = Path(runs or content.get("runs") or "runs")
    rows = [_cell(place, where, criteria, trials.get(place["key"], {})) for place in places]
    cells = pd.DataFrame(rows)
    equal_arms = all(thing == things[0] for thing in things)
    several = any(recipe.horizons for _, recipe in things)
    auto, search = table.get("auto", False), table.get("lr_search")
    evaluation = Evaluation.of(described, cells, where, metric)
    errors = evaluation.errors if evaluation else {}
    panels = tuple(
        weigh_panel(
            p, cells[cells.panel == p["name"]], metric, auto, table, criteria, errors.get(p["name"])
        )
        for p in described
    )
    return Report(
        folder=folder,
        name=folder.name,
        caption=caption,
        note=_search_note(search, where) if search else "",
        metric=metric,
        panels=panels,
        cells=cells,
        table=table,
        runs=where,
        criteria=criteria,
        scores=_scores(cells, where),
        measured=_measured(cells, where),
        horizons=_horizons(panels, cells, where, metric) if several and not auto else {},
        question=table.get("question") or _question_of(table, equal_arms),
        equal_arms=equal_arms,
        command=str(content.get("command") or ""),
        worth=_worth(panels, cells, where, metric, evaluation),
        evaluation=evaluation,
    )


def _question_of(table: Mapping[str, Any], equal_arms: bool) -> str:
    """What a table asks that was written before `study.json` said so."""
    for name in ("transfer", "trust"):
        if table.get(name):
            return name
    return "calibration" if equal_arms and len(table["panels"]) == 1 else ARMS


def _cell(
    place: dict[str, Any], runs: Path, criteria: Criteria, trial: Mapping[str, Any]
) -> dict[str, Any]:
    """A place with what its record says. What `study.json` has of values stands for it: the files
    of objectives are not needed here."""
    metric = criteria.metric
    said, excesses = place.get("values"), place.get("excesses")
    ruled_out = place.get("ruled_out")
    place = {name: value for name, value in place.items() if name not in SAID}
    blank = {metric: math.nan, "status": NOT_RUN, "reason": trial.get("reason")}
    for name in criteria.others:
        place[f"{OTHER}{name}"] = (said or {}).get(name)
    for limit in criteria.limits:
        place[f"{EXCESS}{limit}"] = (excesses or {}).get(limit)
    if ruled_out is not None:
        return {**place, **blank, "status": RULED_OUT, "reason": ruled_out}
    try:
        record = read_record(runs / place["key"], trial.get("result_id"))
    except (CorruptRecord, OSError) as error:
        return {**place, **blank, "status": Open.MISSING, "reason": str(error)}
    if record is None:
        return {**place, **blank}
    value = record.value(metric) if said is None else said.get(metric)
    usable = record.status == Status.FINISHED and value is not None
    reason = record.reason or (None if usable else blank["reason"])
    ended = {"status": record.status, "reason": reason}
    ended |= {"commit": record.commit, "data": data_words(record)}
    found = {name: v for m in record.measured for name, v in m.numbers().items()}
    return {**place, **ended, metric: value if usable else math.nan, **found}


def _worth(
    panels: Sequence[Panel],
    cells: pd.DataFrame,
    runs: Path,
    metric: str,
    evaluation: Evaluation | None,
) -> Worth | None:
    done = cells[cells.status == Status.FINISHED]
    record = read_record(runs / done.key.iloc[0]) if len(done) else None
    if record is None:
        return None
    worth = Worth.of(pd.concat([panel.rows for panel in panels]), record, metric)
    return replace(worth, measured=evaluation.largest if evaluation else None)


def data_words(record: Record) -> str:
    """What a run was trained on: the name of its data, of a mixture its sources, and its
    fingerprint."""
    data = dict(record.data)
    parts = [f"{100 * s['share']:.3g}% {name}" for name, s in data.get("sources", {}).items()]
    name = data.get("name", "data") + (f" of {join(parts)}" if parts else "")
    return f"{name}, fingerprint {record.run.data_fingerprint}"


def _scores(cells: pd.DataFrame, runs: Path) -> dict[str, pd.DataFrame]:
    done = cells[cells.status == Status.FINISHED]
    frames = {
        str(name): scores.gather(
            (cell["arm"], cell["seed"], read_record(runs / cell["key"]))
            for cell in panel.to_dict("records")
        )
        for name, panel in done.groupby("panel", sort=False)
    }
    return {name: frame for name, frame in frames.items() if len(frame)}


def _measured(cells: pd.DataFrame, runs: Path) -> dict[str, pd.DataFrame]:
    done = cells[cells.status == Status.FINISHED]
    frames = {
        str(name): measured.gather(
            (cell["arm"], read_record(runs / cell["key"])) for cell in panel.to_dict("records")
        )
        for name, panel in done.groupby("panel", sort=False)
    }
    return {name: frame for name, frame in frames.items() if len(frame)}


def _horizons(
    panels: Sequence[Panel], cells: pd.DataFrame, runs: Path, metric: str
) -> dict[str, pd.DataFrame]:
    done = cells[cells.status == Status.FINISHED]
    found = {}
    for panel in panels:
        readings = horizons.gather(
            (
                (cell["arm"], cell["seed"], read_record(runs / cell["key"]))
                for cell in done[done.panel == panel.name].to_dict("records")
            ),
            metric,
        )
        found[panel.name] = horizons.weigh(readings, panel.baseline, metric, panel.level)
    return {name: frame for name, frame in found.items() if len(frame)}


def _rates(panel: dict[str, Any], table: Mapping[str, Any]) -> pd.DataFrame:
    """Of each arm `arm lr flag`: the rate that was chosen for it, and what makes it doubtful."""
    searched = {
        arm["arm"]: arm
        for arm in (table.get("lr_search") or {}).get("arms", ())
        if arm["panel"] == panel["name"]
    }
    arms_are_rates = table.get("arms_are_rates") or table.get("transfer")  # an earlier name of it
    rows = []
    for arm in panel["arms"]:
        found, flag = searched.get(arm["name"]), None
        if found is not None:
            flag = EDGE if found["edge"] else None
        elif not arms_are_rates:
            recipe = Recipe(**arm["recipe"])
            carried = is_carried(Architecture.from_dict(arm["architecture"]), recipe)
            flag = None if carried else CARRIED
        rows.append({"arm": arm["name"], "lr": found and found["chosen"], "flag": flag})
    return pd.DataFrame(rows, dtype=object)


def _search_note(search: dict[str, Any], runs: Path) -> str:
    """What choosing rates cost."""
    tries = {place["key"]: place for place in search["tries"]}
    records = [record for key in tries if (record := _readable(runs / key)) is not None]
    seeds = sorted({place["seed"] for place in tries.values()})
    factors = ", ".join(f"{factor:g}" for factor in search["factors"])
    tokens = sum(record.run.recipe.trained_tokens for record in records)
    seconds = sum(record.seconds for record in records)
    return (
        f"Each arm has the best of {factors} times its learning rate, and of up to "
        f"{search['extensions']} more beyond an edge, chosen on seeds that are not reported "
        f"({', '.join(map(str, seeds))}). That cost {len(records)} runs more: {tokens:,} tokens, "
        f"{seconds:,.0f} s of training."
    )


def _readable(folder: Path) -> Record | None:
    try:
        return read_record(folder)
    except CorruptRecord:
        return None


def weigh_panel(
    content: dict[str, Any],
    cells: pd.DataFrame,
    metric: str,
    auto: bool,
    table: Mapping[str, Any] = MappingProxyType({}),
    criteria: Criteria = BY_BPB,
    evaluation: Mapping[str, float] | None = None,
) -> Panel:
    """The arms of a panel against its baseline; `content` and `table` as `study.json` has them,
    `evaluation` as `compare` takes it."""
    arms = pd.DataFrame([_costs(arm, content["budget"]) for arm in content["arms"]])
    baseline = content["baseline"]
    better = criteria.lower_is_better
    effects = _effects(cells, baseline, metric, auto, better, _level(table), evaluation)
    rows = arms.merge(_rates(content, table), on="arm").merge(effects, on="arm")
    asked = cells.groupby("arm").seed.count()
    rows["asked"] = rows.arm.map(asked)
    rows["of"] = [
        str(n) if n == m else f"{n} of {m}" for n, m in zip(rows.n, rows.asked, strict=True)
    ]
    rows["diff"] = rows["diff"].where(rows.arm != baseline)
    rows["direction"] = _directions(rows, baseline)
    rows["runs"] = rows.arm.map(cells.groupby("arm").key.agg(" ".join))
    rows = rows.assign(**_besides(rows.arm, cells, criteria))
    if rows.off_budget.abs().max() <= MAX_DEVIATION:
        rows["off_budget"] = None
    gone = cells[cells[metric].isna()]
    missing = tuple(
        f"{c['arm']}, seed {c['seed']}: {c['status']}{_why(c['reason'])}"
        for c in gone.to_dict("records")
    )
    return Panel(
        name=content["name"],
        source=content.get("source"),
        baseline=baseline,
        rows=rows,
        missing=missing,
        criteria=criteria,
        level=LEVEL if auto else _level(table),
        auto=auto,
        architectures={
            arm["name"]: Architecture.from_dict(arm["architecture"]) for arm in content["arms"]
        },
    )


def _effects(
    cells: pd.DataFrame,
    baseline: str,
    metric: str,
    auto: bool,
    lower_is_better: bool,
    level: float,
    evaluation: Mapping[str, float] | None,
) -> pd.DataFrame:
    """Differences and verdicts: of all seeds, or of the looks that `seeds=auto` had."""
    out = cells.arm[cells.status == RULED_OUT]
    cells = cells[~cells.arm.isin(out)]
    if auto:
        seen = cells.assign(done=cells.status != NOT_RUN)
        effects = verdicts(
            seen, baseline, metric, lower_is_better=lower_is_better, evaluation=evaluation
        )
    else:
        effects = compare(
            cells,
            baseline,
            metric,
            lower_is_better=lower_is_better,
            level=level,
            evaluation=evaluation,
        )
    if len(out):
        blank = {"n": 0, "of": 0, "verdict": "unresolved", "spread": "", "outliers": ""}
        untrained = pd.DataFrame([{"arm": arm, **blank} for arm in out])
        effects = pd.concat([effects, untrained])
    effects["spread"] = effects.spread.where(effects.spread != "")
    effects["outliers"] = effects.outliers.where(effects.outliers != "")
    return effects


def _besides(
    arms: "pd.Series[Any]", cells: pd.DataFrame, criteria: Criteria
) -> dict[str, "pd.Series[Any]"]:
    """Of each arm the mean of each further measure over its seeds, and whether it keeps to all
    limits by these means."""
    names = [f"{OTHER}{name}" for name in criteria.others]
    limits = [f"{EXCESS}{limit}" for limit in criteria.limits]
    if not names and not limits:
        return {}
    means = cells[[*names, *limits]].astype(float).groupby(cells.arm).mean()
    found = {name: arms.map(means[name]) for name in names}
    if limits:
        beyond = arms.map(means[limits].max(axis=1, skipna=False))
        found[FEASIBLE] = pd.Series(
            [None if x != x else "no" if x > 0 else "yes" for x in beyond], arms.index, dtype=object
        )
    return found


def _why(reason: Any) -> str:
    return f" ({reason})" if reason else ""


def _costs(arm: dict[str, Any], budget: dict[str, Any]) -> dict[str, Any]:
    architecture, recipe = Architecture.from_dict(arm["architecture"]), Recipe(**arm["recipe"])
    counts, off = cost(architecture, recipe.seq_len), deviation(architecture, budget)
    return {
        "arm": arm["name"],
        "num_hidden_layers": architecture.num_layers,
        "parameters": counts.parameters,
        "off_budget": math.nan if off is None else off,
        "forward_flops_per_token": counts.forward_flops_per_token,
        "kv_bytes_per_token": counts.kv_bytes_per_token,
        "decode_bytes_per_token": counts.decode_bytes_per_token,
        "tokens": recipe.steps * recipe.tokens_per_step,
        "published": arm["published"],
    }


def _directions(rows: pd.DataFrame, baseline: str) -> list[str | None]:
    """Whether our verdict goes the way of the published average (higher is better there)."""
    base = rows.loc[rows.arm == baseline, "published"].iloc[0]

    def direction(row: Any) -> str | None:
        if row.arm == baseline or pd.isna(row.published) or pd.isna(base):
            return None
        gain = row.published - base
        if row.verdict == "unresolved" or gain == 0:
            return "unresolved"
        return "agrees" if (gain > 0) == (row.verdict == "better") else "differs"

    return [direction(row) for row in rows.itertuples()]
