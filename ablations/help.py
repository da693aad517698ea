"""The text of `table=help`: every table with its cost on this machine, and every kind of table."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ablations.ask import options_of
from ablations.cells import TableWork
from ablations.config import AblationConfig
from ablations.files import TableFile, table_names
from ablations.questions import QUESTIONS, standalone_names
from ablations.timing import FILE, Timing
from search.show.estimate import estimate
from search.train.placement import settle_apart, settle_precision, share_cores
from space.words import amount, duration


def help_text(config_of: Callable[[str], AblationConfig]) -> str:
    """All tables, those without a file, and the kinds; `config_of` has each table's overrides."""
    tables = [describe_table(name, config_of(name)) for name in table_names()]
    others = [f"{name}: {QUESTIONS.load(name).asks}" for name in standalone_names()]
    return "\n\n".join([*tables, *others, kinds()])


def kinds() -> str:
    """Input and output of each kind of table."""
    lines = ["Kinds of table (a file has the key, or question: NAME or mine.py):"]
    for name, question in QUESTIONS.all():
        how = f"table={name}" if question.standalone else question.asks
        lines.append(f"  {name}: {how}")
        lines.append(f"    takes {question.takes}")
        lines.append(f"    leaves {', '.join(question.leaves)}")
    return "\n".join(lines)


def describe_table(name: str, config: AblationConfig) -> str:
    """A table's caption, arms and what all of it would take on this machine."""
    recipe = settle_precision(config.recipe, config.placement)
    file = TableFile.read(name)
    timing = Timing(replace(config, table=name).folder / FILE)
    try:
        table = file.table(
            config.scale, recipe, config.data.vocab_size, **options_of(config, timing)
        )
        work = TableWork(table=table, data_fingerprint="").after([], 0)
    except ValueError as error:
        return f"{name}: {file.caption}\n  {error}"
    placement = settle_apart(share_cores(config.placement, config.workers_of()), work.typical)
    whole = estimate(work, 0, config.workers_of(), placement, Path(config.runs), 0)
    lines = [f"{name}: {table.caption}"]
    for panel in table.panels:
        arms = "; ".join(arm.name for arm in panel.arms)
        lines.append(f"  {panel.name or 'arms'} ({panel.budget}): {arms}")
    seeds = QUESTIONS.load(table.question).seeds_in_words(table)
    lines.append(
        f"  {work.total} runs with {seeds}, {amount(whole.tokens)} tokens, about "
        f"{duration(whole.seconds)} here ({whole.basis})"
    )
    return "\n".join(lines)
