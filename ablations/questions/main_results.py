"""`table=main_results models=[…]`: zero-shot scores of checkpoints, beside published ones.

Nothing is trained. What was measured is kept in `measured.json`, one model after another, and
`reports.views.main_results` sets it beside what is printed.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.questions.power import Untrained
from space.cli import one_line_errors
from space.cost import cost
from space.seals import whole_json, write_json

if TYPE_CHECKING:
    from ablations.config import AblationConfig
    from search.evaluate.tasks import TaskSpec


class MainResults(Untrained):
    """Models that are scored here, beside what was published."""

    asks = "MobileLLM's zero-shot tables, compared with ours; models=[…]; nothing is trained."
    takes = "models, evaluate"
    leaves = tuple(f"table.{form}" for form in ("md", "tex", "csv", "html"))
    view = "main_results"

    def measure(self, config: "AblationConfig") -> tuple[()]:
        measure(config)
        return ()  # a model is one run


def measure(config: "AblationConfig") -> None:
    """Score the models that are named, and keep the scores."""
    from search.evaluate.score import be_quiet, find_model, open_model, score  # torch
    from search.evaluate.tasks import build, chosen, group

    asked, kept = config.evaluate, config.folder / "measured.json"
    with one_line_errors():
        specs = _published_kinds(chosen(asked.tasks or group("commonsense")))
        folders = {_name(model): find_model(model, config.runs) for model in config.models}
        if len(folders) < len(config.models):
            raise ValueError(
                "models must have names of their own, which are the last parts of their paths, but "
                f"got {', '.join(map(_name, config.models))}"
            )
        be_quiet()
        tasks = build(specs, asked.source, Path(asked.package))
        for name, folder in folders.items():
            lm = open_model(folder, config.data.cache)
            scores = []
            for spec, task in zip(specs, tasks, strict=True):
                found = score(lm, task, asked.source, asked.limit, spec.group)
                scores.append(asdict(found.without_documents()))
                print(f"{name}: {spec.name} in {found.seconds:.0f} s", flush=True)
            _keep(kept, name, {"parameters": cost(lm.model.arch).parameters, "scores": scores})


def _name(model: str) -> str:
    """The model's row: the last part of a path or hub id."""
    return model.rstrip("/").split("/")[-1]


def _published_kinds(specs: "Sequence[TaskSpec]") -> "Sequence[TaskSpec]":
    if own := [spec.name for spec in specs if spec.pairs]:
        raise ValueError(
            f"table=main_results must ask what others published, but {own[0]} is made of a run's "
            "text; set evaluate=commonsense, qa or reading"
        )
    return specs


def _keep(path: Path, name: str, measured: dict[str, Any]) -> None:
    """Add a model to those measured before; its earlier scores of other tasks stay."""
    with one_line_errors((ValueError,)):
        known = (
            whole_json(path, "measured scores", "remove it to measure anew")
            if path.is_file()
            else {}
        )
    new = {score["task"] for score in measured["scores"]}
    before = known.get(name, {}).get("scores", [])
    measured["scores"] = [s for s in before if s["task"] not in new] + measured["scores"]
    write_json(path, known | {name: measured})


QUESTION = MainResults()
