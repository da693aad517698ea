"""The table that a configuration asks for."""

from pathlib import Path
from typing import Any

from ablations.config import AblationConfig
from ablations.files import TableFile
from ablations.questions import QUESTIONS, Asked, standalone, table_stem
from ablations.table import Table
from ablations.timing import Timing
from search.objectives import LOSSES, Targets
from search.recipe import Recipe
from space.doors import bare


def ask(
    config: AblationConfig, recipe: Recipe, vocab_size: int, timing: Timing | None = None
) -> Table:
    """The table, of a file or of a question that needs none. `timing` goes with a settled recipe.

    Raises:
        ValueError: something in it does not fit.
    """
    name, options = str(config.table), options_of(config, timing)
    if (question := standalone(name)) is not None:
        if config.equal is not None:
            raise ValueError(f"equal must go with a table of arms, but got table={name}")
        given = Asked(
            question=name, name=table_stem(name), recipe=recipe, vocab_size=vocab_size, **options
        )
        return question.table(given)
    table = TableFile.read(name).table(config.scale, recipe, vocab_size, **options)
    why = QUESTIONS.load(table.question).common_recipe
    if why and config.lr_search.name != "none":
        raise ValueError(
            f"lr_search must be none for table {table.name}, whose {why}, but got "
            f"{config.lr_search.name}"
        )
    return table


def options_of(config: AblationConfig, timing: Timing | None) -> dict[str, Any]:
    """What the command line says, as fields of `Asked`."""
    return {
        "budget": config.budget,
        "seeds": config.seeds,
        "budgets": config.budgets,
        "space": config.space,
        "study": config.study,
        "top": config.top,
        "equal": config.equal,
        "outputs": Path(config.outputs),
        "runs": Path(config.runs),
        "timing": timing,
    }


def targets_of(config: AblationConfig, table: Table, usual: str) -> Targets:
    """By what arms are compared, what is shown besides and what they are to keep to: as the command
    line says, else the table.

    Raises:
        ValueError: one of these is none, or the question compares by the loss alone.
    """
    found = Targets.of(
        config.objectives or table.objectives or [usual],
        config.columns or table.columns,
        config.constraints or table.constraints,
    ).by_first()
    if found.first.name not in LOSSES and (
        "objectives" not in QUESTIONS.load(table.question).options
    ):
        raise ValueError(
            f"objectives must begin with {' or '.join(LOSSES)} in table {table.name}, which asks "
            f"{table.question}, but got {bare(found.first.name)}; show it with columns"
        )
    return found


def require_vocabulary(table: Table, vocab_size: int) -> None:
    """Raises: ValueError where an arm was made for another vocabulary than the data's."""
    for panel in table.panels:
        for arm in panel.arms:
            if arm.architecture.vocab_size != vocab_size:
                raise ValueError(
                    f"vocab_size of arm {arm.name} must be the data's, but got "
                    f"{arm.architecture.vocab_size} and {vocab_size}; "
                    "scale=paper goes with proxy=paper_exploration"
                )
