"""`python -m ablations table=NAME`: arms × seeds on one budget, and which differences are real.

The story is that of a search (`search.study.story`); only that every cell is known beforehand.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from ablations.arms import Table, TableFile, table_names
from ablations.cells import TableWork
from ablations.config import CONFIRM, MAIN_RESULTS, POWER, AblationConfig
from ablations.questions.confirm import confirmation
from ablations.questions.main_results import measure
from ablations.stats.sequential import LOOKS
from ablations.timing import FILE, Timing
from search.data.dataset import Data, require_tokens
from search.executors.local import share_cores
from search.recipe import Recipe
from search.show.estimate import estimate
from search.show.progress import count, duration
from search.study.samplers import SamplerConfig
from search.study.story import Story, data_settings, make_report
from search.train.placement import settle, settle_precision
from space.cli import one_line_errors, option_of, verb

OTHERS = """confirm: The best candidates of a search and its baseline over fresh seeds; study=NAME.

power: How often planted effects are found and equal arms get a verdict; nothing is trained.

main_results: MobileLLM's zero-shot tables, and ours beside; models=[…]; nothing is trained."""
"""The tables that no file describes."""


def usual(given: Sequence[str]) -> list[str]:
    """The overrides that the file of the table asked for has, but for those that were given.

    Raises:
        ValueError: there is no such table, or fields of a space without the space.
    """
    taken = [option_of(text) for text in given]
    changed = [option for option in taken if option.startswith("space.")]
    if changed and "space" not in taken:
        raise ValueError(
            f"{changed[0]} must come with the space that it changes, but got no space=NAME; for "
            "proxy_horizon and proxy_scale add space=depth_width, or another of conf/space/, other "
            "tables have none"
        )
    asked = [text.partition("=")[2] for text in given if option_of(text) == "table"]
    if not asked or asked[-1] in ("help", "all", CONFIRM, POWER, MAIN_RESULTS):
        return []
    own = TableFile.read(asked[-1]).overrides
    return [text for text in own if option_of(text) not in taken]


@verb("ablations", AblationConfig, usual)
def main(config: AblationConfig) -> None:
    """Make a table, all of them, or list them."""
    if config.table == "help":
        with one_line_errors():
            told = [describe_table(name, with_overrides(name, config)) for name in table_names()]
            print("\n\n".join([*told, OTHERS]))
        return
    if config.table == POWER:
        make_report([f"table={POWER}", f"outputs={config.outputs}"])
        return
    if config.table == MAIN_RESULTS:
        measure(config)
        make_report([f"table={MAIN_RESULTS}", f"outputs={config.outputs}"])
        return
    names = tables_of_one_proxy() if config.table == "all" else [str(config.table)]
    if len(names) > 1:  # what one of them cannot be told is known before the first is trained
        with one_line_errors():
            for name in names:
                Comparison.check(replace(config, table=name))
    for name in names:
        with one_line_errors():
            comparison = Comparison.open(replace(config, table=name))
        comparison.tell()


def with_overrides(name: str, config: AblationConfig) -> AblationConfig:
    """The configuration with what the table's file overrides and the command line does not."""
    told = HydraConfig.get().overrides.task
    given = [*(text for text in told if option_of(text) != "table"), f"table={name}"]
    if not (own := usual(given)):
        return config
    made = OmegaConf.to_object(compose("ablations", [*own, *given]))
    assert isinstance(made, AblationConfig), "conf/ablations.yaml begins with its schema"
    return made


def tables_of_one_proxy() -> list[str]:
    """All tables but those that choose a proxy of their own."""
    return [name for name in table_names() if not TableFile.read(name).overrides]


class Comparison(Story[AblationConfig, TableWork]):
    """A table as a study whose every trial is enqueued."""

    verb, naming, plot = "ablations", "called", "forest.png"

    @classmethod
    def check(cls, config: AblationConfig) -> SamplerConfig:
        table, _ = read_table(config, config.recipe, config.data.vocab_size)
        if config.data.tokenizer is None and config.table != CONFIRM:
            _require_vocabulary(table, config.data.vocab_size)
        return SamplerConfig()

    @classmethod
    def plan(cls, config: AblationConfig, recipe: Recipe, data: Data) -> TableWork:
        timing = Timing(config.folder / FILE)
        table, first_seed = read_table(config, recipe, data.vocab_size, timing)
        if timing.missing:
            placement = share_cores(config.placement, config.workers)
            timing.measure(data, placement)
            table, first_seed = read_table(config, recipe, data.vocab_size, timing)
        if timing.content:
            table = replace(table, caption=f"{table.caption} {timing.words()}")
        for panel in table.panels:
            for arm in panel.arms:
                require_tokens(data, arm.recipe.seq_len, arm.recipe.batch_size)
        _require_vocabulary(table, data.vocab_size)
        return TableWork(
            table=table,
            data_fingerprint=data.fingerprint,
            first_seed=first_seed,
            search=config.lr_search,
        )

    @classmethod
    def settings(
        cls, work: TableWork, recipe: Recipe, data: Data, config: AblationConfig
    ) -> dict[str, Any]:
        """Arms and seeds may change: their cells are known by key."""
        budgets = {panel.name: str(panel.budget) for panel in work.table.panels}
        return {
            "scale": config.scale,
            "budget": next(iter(budgets.values())),
            "recipe": recipe.to_dict(),
            "data": data_settings(data),
        }

    def attempts(self) -> Any:
        """Of cells that the table has now."""
        return [a for a in super().attempts() if a.key is None or a.key in self.work.cells]

    def estimate(self) -> str:
        self.look()
        return super().estimate()

    def describe(self, finished: bool) -> None:
        self.look()
        super().describe(finished)

    def look(self) -> None:
        """Narrow what is left to the seeds that are wanted as yet."""
        self.work = self.work.after(self.attempts(), self.job.since)

    def train(self) -> Any:
        if not self.config.train:
            self.expected = replace(self.expected, runs=0)
            self.job = replace(self.job, unscored=())  # whoever asks them would train, too
        return super().train()

    def headline(self) -> str:
        table = self.work.table
        arms = sum(len(panel.arms) for panel in table.panels)
        search = self.work.search
        rates = "" if search.name == "none" else f", {len(search.factors)} learning rates or more"
        return f"table {table.name}: {arms} arms, {seeds_words(table)}{rates}"

    def facts(self) -> dict[str, Any]:
        facts = table_facts(self.work.resolved)
        if self.work.search.name != "none":
            facts["lr_search"] = search_facts(self.work)
        return {"table": facts, "places": list(self.work.places())}

    def report(self) -> None:
        super().report()
        if self.config.table == CONFIRM and self.config.report:
            make_report([f"study={self.config.study}", f"outputs={self.config.outputs}"])

    def page(self) -> list[str]:
        return [f"table={self.config.table_name}"]

    @property
    def kept_arms(self) -> int:
        return 1


def seeds_words(table: Table) -> str:
    """How many seeds each arm gets."""
    if table.auto:
        return f"{LOOKS[0]} seeds each, up to {LOOKS[-1]} where nothing is resolved"
    if table.transfer:
        return f"1 seed each, {table.seeds} near the best rates"
    return "1 seed each" if table.seeds == 1 else f"{table.seeds} seeds each"


def _require_vocabulary(table: Table, vocab_size: int) -> None:
    for panel in table.panels:
        for arm in panel.arms:
            if arm.architecture.vocab_size != vocab_size:
                raise ValueError(
                    f"vocab_size of arm {arm.name} must be the data's, but got "
                    f"{arm.architecture.vocab_size} and {vocab_size}; "
                    "scale=paper goes with proxy=paper_exploration"
                )


def read_table(
    config: AblationConfig, recipe: Recipe, vocab_size: int, timing: Timing | None = None
) -> tuple[Table, int]:
    """The table of a configuration, and its first seed. `timing` goes with a settled recipe.

    Raises:
        ValueError: something in it does not fit.
    """
    if config.table == CONFIRM:
        return confirmation(
            config.study,
            config.top,
            config.seeds,
            Path(config.outputs),
            Path(config.runs),
            recipe if timing is not None else None,
        )
    file = TableFile.read(str(config.table))
    table = file.table(
        config.scale,
        recipe,
        vocab_size,
        budget=config.budget,
        seeds=config.seeds,
        timing=timing,
        budgets=config.budgets,
        space=config.space,
    )
    if (table.transfer or table.trust) and config.lr_search.name != "none":
        why = "arms are learning rates" if table.transfer else "arms share the recipe it measures"
        raise ValueError(
            f"lr_search must be none for table {table.name}, whose {why}, but got "
            f"{config.lr_search.name}"
        )
    return table, config.seed


def table_facts(table: Table) -> dict[str, Any]:
    """What a report needs of a table, in plain types."""
    return {
        "name": table.name,
        "caption": table.caption,
        "seeds": table.seeds,
        "auto": table.auto,
        "transfer": table.transfer,
        "trust": table.trust,
        "panels": [
            {
                "name": panel.name,
                "budget": asdict(panel.budget),
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


def describe_table(name: str, config: AblationConfig) -> str:
    """A table's caption, arms and what all of it would take on this machine."""
    recipe = settle_precision(config.recipe, config.placement)
    vocab_size = config.data.vocab_size
    file = TableFile.read(name)
    try:
        table = file.table(
            config.scale,
            recipe,
            vocab_size,
            budget=config.budget,
            seeds=config.seeds,
            budgets=config.budgets,
            space=config.space,
            timing=Timing(replace(config, table=name).folder / FILE),
        )
    except ValueError as error:
        return f"{name}: {file.caption}\n  {error}"
    work = TableWork(table=table, data_fingerprint="").after([], 0)
    placement = settle(share_cores(config.placement, config.workers), work.typical)
    whole = estimate(work, 0, config.workers, placement, Path(config.runs), 0)
    lines = [f"{name}: {table.caption}"]
    for panel in table.panels:
        arms = "; ".join(arm.name for arm in panel.arms)
        lines.append(f"  {panel.name or 'arms'} ({panel.budget}): {arms}")
    lines.append(
        f"  {work.total} runs with {seeds_words(table)}, {count(whole.tokens)} tokens, about "
        f"{duration(whole.seconds)} here ({whole.basis})"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
