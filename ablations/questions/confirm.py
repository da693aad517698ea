"""A search's best candidates and its baseline, run again over fresh seeds.

The value of a candidate selected as the best is biased (the winner's curse). Only seeds that took
no part in the selection give an unbiased estimate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ablations.questions import Asked
from ablations.questions.arms import Arms
from ablations.table import Arm, Panel, Table, seeds_of
from search.recipe import Recipe
from search.runs import read_record
from search.states import State
from search.study.plan import Attempt, best_runs
from space.budget import Budget
from space.seals import Damaged, read_json

SEEDS = 5


class Confirm(Arms):
    """The best candidates of a search against its baseline, with the search's own recipe, from the
    first seed that the search has not used."""

    asks = "The best candidates of a search and its baseline over fresh seeds; study=NAME."
    takes = "study, top, seeds as a number or auto, objectives (default: the search's)"
    view = "confirm"
    standalone = True

    def table(self, asked: Asked) -> Table:
        """The table of the best `top` candidates.

        Raises:
            ValueError: no such search, one without a baseline, or records of another recipe than
                the one that is to be trained with.
        """
        if (study := asked.study) is None:
            raise ValueError(
                "study must name the search whose best are confirmed, but got none; add study=NAME"
            )
        content = _read(study, asked.outputs)
        arms = [_arm(asked.runs, key) for key in _keys(content, asked.top)]
        _require_several(arms, study)
        if asked.timing is not None:
            _require_recipe(arms, asked.recipe, content)
        panel = Panel(
            name=f"the best of {study}",
            budget=Budget(**content["budget"]),
            baseline=arms[0].name,
            arms=tuple(_named_apart(arms)),
        )
        table = Table(
            name=f"confirm_{study}",
            caption=f"The best candidates of {study} and its baseline over fresh seeds.",
            panels=(panel,),
            question=asked.question,
            first_seed=1 + max(t["seed"] for t in content["trials"] if t["seed"] is not None),
            quoted_by=study,
            **seeds_of(asked.seeds or SEEDS),
        )
        return replace(table, **_targets(content))


def _keys(content: dict[str, Any], top: int) -> list[str]:
    """Keys of runs of the baseline and of the best others."""
    trials = [t for t in content["trials"] if t["state"] == State.COMPLETE and t["key"]]
    keys = {t["arm"]: t["key"] for t in reversed(trials)}
    base = content.get("baseline")
    if base not in keys:
        raise ValueError(
            f"study {content['study']} must have a finished baseline to confirm, but has none"
        )
    attempts = [
        Attempt(**{name: t[name] for name in FIELDS}, excesses=t.get("excesses", {}))
        for t in trials
    ]
    best = best_runs(attempts, len(keys), maximize=content.get("direction") == "maximize")
    ranked = [a.arm for a in best if a.arm != base]
    return [keys[arm] for arm in [base, *ranked[:top]]]


def _require_several(arms: Sequence[Arm], study: str) -> None:
    if len(arms) < 2:
        raise ValueError(
            f"study {study} must have tried two architectures, but has tried one; give it more "
            "trials first"
        )


def _require_recipe(arms: Sequence[Arm], recipe: Recipe, content: Mapping[str, Any]) -> None:
    for arm in arms:
        if arm.recipe != recipe:
            raise ValueError(
                f"the records of study {content['study']} must have the recipe given here, but "
                f"{arm.name} was trained with another; give those of the study, "
                f"as in {content.get('command', 'its command')}"
            )


def _targets(content: Mapping[str, Any]) -> dict[str, Any]:
    """The objectives, columns and constraints of a search."""
    given = content.get("config", {})
    return {name: tuple(given.get(name, ())) for name in ("objectives", "columns", "constraints")}


FIELDS = ("number", "state", "params", "key", "arm", "seed", "role", "value")


def _read(study: str, outputs: Path) -> dict[str, Any]:
    path = outputs / str(study) / "study.json"
    if not path.is_file():
        known = ", ".join(sorted(p.parent.name for p in outputs.glob("*/study.json"))) or "none"
        raise ValueError(f"study must name a search under {outputs} ({known}), but got {study!r}")
    try:
        content: dict[str, Any] = read_json(path)
    except Damaged as error:
        raise ValueError(
            f"{path} must describe a study, but {error}; start the same search again to rewrite it"
        ) from None
    return content


def _arm(runs: Path, key: str) -> Arm:
    record = read_record(runs / key)
    if record is None:
        raise ValueError(f"{runs / key / 'record.json'} must be there to confirm it, but is not")
    arch = record.run.architecture
    name = f"{arch.num_layers} layers × {arch.hidden_size}"
    return Arm(name=name, architecture=arch, recipe=record.run.recipe)


def _named_apart(arms: list[Arm]) -> list[Arm]:
    """Arms with unique names: those of one size get their place added."""
    names = [arm.name for arm in arms]
    return [
        replace(arm, name=f"{arm.name} ({place})") if arm.name in names[:place] else arm
        for place, arm in enumerate(arms)
    ]


QUESTION = Confirm()
