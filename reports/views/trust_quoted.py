"""How far a study's proxy can be trusted, by the tables of trust in the same outputs."""

import math
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from ablations.stats.trust import CEILING, PREDICTOR
from reports.read.study import HORIZON_TOLERANCE, Study
from reports.show.tables import decimals
from reports.views.trust import accuracy_in_words, measured
from reports.weigh import table
from reports.weigh.table import Report
from search.recipe import Recipe
from search.record import Run
from search.runs import read_record
from search.states import Status
from space import words
from space.app import CONF, folder_flags
from space.overrides import outputs_of
from space.seals import read_json
from space.words import duration

UNKNOWN = "Not measured for this proxy"
TABLE = "proxy_horizon"
"""The table that measures it."""
LEFT_OUT = ("tokens", "horizons", "warmup_fraction", "evaluations")
"""Fields in which two recipes of one proxy may differ: the warmup is compared in steps, and the
number of evaluations does not change the run."""


def of_study(study: Study) -> str:
    """How far the study's proxy can be trusted, by the tables of trust in the same outputs; or the
    command that would measure it."""
    quoted = [text for table in _tables(study) if (text := _quoted(study, table)) is not None]
    if quoted:
        return " ".join(quoted)
    return f"{UNKNOWN}; measure it with `{command(study)}`."


def cost(study: Study) -> str:
    """About what that command takes, in a sentence, branches to shorter horizons left out; empty
    where nothing has finished."""
    run, size = _typical(study), study.facts["space"].get("size")
    if run is None:
        return ""
    table = yaml.safe_load((Path(CONF) / "ablation" / f"{TABLE}.yaml").read_text())
    asked = table["trust"]
    arms = min(int(asked["arms"]), int(size or asked["arms"]))
    runs, longest = arms * int(table["seeds"]), max(asked["lengths"])
    seconds = runs * longest * float(study.finished.train_s.mean())
    return (
        f"That trains {runs} runs of {longest * run.recipe.tokens:,.0f} tokens: about "
        f"{duration(seconds)} of training by the speed of these runs, over all workers."
    )


def _tables(study: Study) -> Iterator[Report]:
    """The tables of trust beside a study that can be read."""
    outputs = study.folder.parent
    for path in sorted(outputs.glob("tables/*/study.json")):
        if not _says_trust(path):
            continue
        try:
            yield table.read_table(path.parent.name, outputs, study.runs)
        except ValueError:
            continue


def _says_trust(path: Path) -> bool:
    """Whether a table asks for trust, before its records are read."""
    try:
        return bool(read_json(path)["table"].get("trust"))
    except (ValueError, LookupError, TypeError, AttributeError):
        return False


def _quoted(study: Study, report: Report) -> str | None:
    """What a table says of the proxy of a study, None where it is of another."""
    table, run = report.table, _typical(study)
    first = table["panels"][0]
    if run is None or not _same_proxy(study, run, table, _data(report)):
        return None
    try:
        rows = measured(report)
    except ValueError:
        return None
    tokens = run.recipe.steps * run.recipe.tokens_per_step
    mine = rows[(rows.kind != PREDICTOR) & (rows.scale == first["name"])]
    there = mine[(mine.tokens / tokens - 1).abs() <= HORIZON_TOLERANCE]
    if there.empty:
        return None
    row, ceiling = there.iloc[0], rows[rows.kind == CEILING].iloc[0]
    arms, seeds = report.cells.arm.nunique(), report.cells.seed.nunique()
    of = f" of {ceiling.scale}" if ceiling.scale else ""
    source = f"({arms} arms × {seeds} seeds; {report.name})"
    if row.kind == CEILING:
        return (
            f"Nothing longer than its own {tokens:,} tokens was measured; one seed agrees with the "
            f"others in {_decided(row)} {source}."
        )
    return (
        f"One seed at {tokens:,} tokens orders architectures as others at "
        f"{ceiling.tokens:,.0f} tokens{of} do in {_decided(row)}; the noise ceiling is "
        f"{_decided(ceiling, short=True)} {source}."
    )


def _decided(row: Any, short: bool = False) -> str:
    if not math.isfinite(row.accuracy):
        low, high = decimals(2)(row.tau_low), decimals(2)(row.tau_high)
        return f"no pair, as none is resolved (Kendall's tau {row.tau:.2f}, {low} to {high})"
    return accuracy_in_words(row) + ("" if short else " of the pairs that they resolve")


def _typical(study: Study) -> Run | None:
    """A run of the comparison."""
    finished = study.finished
    record = study.records.get(str(finished.key.iloc[0])) if len(finished) else None
    return None if record is None else record.run


def _data(report: Report) -> str | None:
    """The fingerprint of what a table was trained on."""
    done = report.cells[report.cells.status == Status.FINISHED]
    record = read_record(report.runs / done.key.iloc[0]) if len(done) else None
    return None if record is None else record.run.data_fingerprint


def _same_proxy(study: Study, run: Run, table: Mapping[str, Any], data: str | None) -> bool:
    """Whether a table measured the proxy of a study: its recipe apart from the length, its data,
    budget and kind of space."""
    space, budget = study.facts["space"], study.facts["budget"]
    try:
        kind = table["trust"]["space"]
        same_space = all(space.get(name) == value for name, value in kind.items())
        same_space &= bool(space.get("constraints")) == bool(kind.get("constraints"))
        measured_recipe = Recipe(**table["trust"]["recipe"])
    except (ValueError, LookupError, TypeError, AttributeError):  # of another version, or damaged
        return False
    return (
        same_space
        and table["panels"][0]["budget"] == budget
        and data == run.data_fingerprint
        and _essence(measured_recipe) == _essence(run.recipe)
    )


def _essence(recipe: Recipe) -> dict[str, Any]:
    kept = {name: value for name, value in asdict(recipe).items() if name not in LEFT_OUT}
    warmup = round(recipe.warmup_fraction * recipe.tokens / recipe.tokens_per_step)
    return {**kept, "warmup_steps": warmup}


PASSED_ON = ("space", "budget", "proxy", "recipe", "data", "runs", "placement")
"""Options that a search and a table of trust have in common."""


def command(study: Study) -> str:
    """The command that would measure the proxy of a study."""
    given = shlex.split(str(study.facts.get("command") or ""))[3:]
    own = [text for text in given if text.lstrip("+").split("=")[0].split(".")[0] in PASSED_ON]
    own = [text for text in own if not text.startswith("recipe.horizons=")]  # it has its own
    changed = any(text.startswith("space.") for text in own)
    if changed and not any(text.startswith("space=") for text in own):
        own.insert(0, f"space={study.facts['space']['name']}")
    if any(text.startswith("tokens_per_parameter=") for text in given) and (run := _typical(study)):
        own.append(f"recipe.tokens={run.recipe.tokens}")  # a table of trust takes tokens only
    own += outputs_of(study.folder.parent)
    own += [f"called={TABLE}_{study.name}"] if own else []
    return words.command("ablations", *folder_flags(given), f"table={TABLE}", *own)
