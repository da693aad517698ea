"""A search's best candidates and its baseline, run again over fresh seeds.

Whoever is chosen for looking best looks better than it is (the winner's curse): only seeds that
chose nothing can say by how much.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from ablations.arms import Arm, Panel, Table, seeds_of
from search.recipe import Recipe
from search.runs import read_record
from search.study.plan import Attempt, best_runs
from space.budget import Budget

SEEDS = 5


def confirmation(
    study: str | None,
    top: int,
    seeds: int | str | None,
    outputs: Path,
    runs: Path,
    recipe: Recipe | None,
) -> tuple[Table, int]:
    """The table of the best `top` candidates of a search against its baseline, with the search's
    own recipe; and its first seed, the first that the search has not used.

    Raises:
        ValueError: no such search, one without a baseline, or records of another recipe than
            `recipe`, where that is given.
    """
    content = _read(study, outputs)
    trials = [t for t in content["trials"] if t["state"] == "COMPLETE" and t["key"]]
    keys = {t["arm"]: t["key"] for t in reversed(trials)}
    base = content.get("baseline")
    if base not in keys:
        raise ValueError(f"study {study} must have a finished baseline to confirm, but has none")
    attempts = [Attempt(**{name: t[name] for name in FIELDS}) for t in trials]
    ranked = [a.arm for a in best_runs(attempts, len(keys)) if a.arm != base]
    arms = [_arm(runs, keys[str(arm)]) for arm in [base, *ranked[:top]]]
    if len(arms) < 2:
        raise ValueError(
            f"study {study} must have tried two architectures, but has tried one; give it more "
            "trials first"
        )
    for arm in arms:
        if recipe is not None and arm.recipe != recipe:
            raise ValueError(
                f"the records of study {study} must have the recipe given here, but {arm.name} was "
                "trained with another; give the study's own proxy and recipe"
            )
    panel = Panel(
        name=f"the best of {study}",
        budget=Budget(**content["budget"]),
        baseline=arms[0].name,
        arms=tuple(_named_apart(arms)),
    )
    caption = f"The best candidates of {study} and its baseline over fresh seeds."
    table = Table(
        name=f"confirm_{study}", caption=caption, panels=(panel,), **seeds_of(seeds or SEEDS)
    )
    return table, 1 + max(t["seed"] for t in content["trials"] if t["seed"] is not None)


FIELDS = ("number", "state", "params", "key", "arm", "seed", "role", "value")


def _read(study: str | None, outputs: Path) -> dict[str, Any]:
    path = outputs / str(study) / "study.json"
    if study is None or not path.is_file():
        known = ", ".join(sorted(p.parent.name for p in outputs.glob("*/study.json"))) or "none"
        raise ValueError(f"study must name a search under {outputs} ({known}), but got {study!r}")
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def _arm(runs: Path, key: str) -> Arm:
    record = read_record(runs / key)
    if record is None:
        raise ValueError(f"{runs / key / 'record.json'} must be there to confirm it, but is not")
    arch = record.run.architecture
    name = f"{arch.num_layers} layers × {arch.hidden_size}"
    return Arm(name=name, architecture=arch, recipe=record.run.recipe)


def _named_apart(arms: list[Arm]) -> list[Arm]:
    """Arms with names of their own: those of one size get their place."""
    names = [arm.name for arm in arms]
    return [
        replace(arm, name=f"{arm.name} ({place})") if arm.name in names[:place] else arm
        for place, arm in enumerate(arms)
    ]
