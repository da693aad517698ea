"""What `study.json` says of a table: all that a report needs of it."""

from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ablations.cells import TableWork
from ablations.table import Table
from search.objectives import Targets
from search.record import Record
from search.states import Status
from search.study.describe import values


def table_facts(table: Table) -> dict[str, Any]:
    """What a report needs of a table, in plain types."""
    return {
        "name": table.name,
        "caption": table.caption,
        "seeds": table.seeds,
        "auto": table.auto,
        "question": table.question,
        **table.facts,
        "panels": [
            {
                "name": panel.name,
                "budget": panel.budget.to_dict(),
                "baseline": panel.baseline,
                "source": panel.source,
                "arms": [
                    {
                        "name": arm.name,
                        "architecture": arm.architecture.to_dict(),
                        "recipe": arm.recipe.to_dict(),
                        "published": arm.published,
                    }
                    for arm in panel.arms
                ],
            }
            for panel in table.panels
        ],
    }


def measured(
    work: TableWork,
    place: Mapping[str, Any],
    targets: Targets,
    runs: Path,
    known: dict[str, dict[str, Any]],
    failed: Collection[str | None] = (),
) -> dict[str, Any]:
    """What `study.json` says of the result in a place besides its loss. `known` keeps what
    was read of records, by key."""
    if not work.is_asked(place):
        run = work.run(place, place["seed"])
        return {
            "ruled_out": "; ".join(targets.beyond(run)),
            "values": targets.row(Record(run=run, status=Status.FINISHED)),
            "excesses": targets.known_excesses(run),
        }
    if place["key"] in failed:
        return {"values": {}, "excesses": {}}
    return values(place["key"], targets, runs, known)


def search_facts(work: TableWork) -> dict[str, Any]:
    """What a report needs of the search for learning rates, in plain types."""
    return {
        **asdict(work.search),
        "arms": [
            {"panel": panel.name, "arm": arm.name, **asdict(choice)}
            for panel in work.table.panels
            for arm in panel.arms
            if (choice := work.choice(panel, arm)) is not None
        ],
        "tries": work.tries,
    }
