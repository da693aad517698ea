"""What `study.json` says of a table: all that a report needs of it."""

from dataclasses import asdict
from typing import Any

from ablations.cells import TableWork
from ablations.table import Table


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
