"""`python -m ablations table=NAME`: arms × seeds on one budget, and which differences are real.

The story is that of a search (`search.study.story`); only that every cell is known beforehand.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from ablations.ask import ask, require_vocabulary
from ablations.cells import TableWork
from ablations.config import AblationConfig
from ablations.facts import search_facts, table_facts
from ablations.files import TableFile, table_names
from ablations.help import help_text
from ablations.questions import QUESTIONS, standalone
from ablations.timing import FILE, Timing
from search.data.dataset import Data, require_tokens
from search.executors.local import share_cores
from search.recipe import Recipe
from search.study.samplers import SamplerConfig
from search.study.story import Story, data_settings, make_report
from space.cli import one_line_errors, option_of, verb


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
    if not asked or asked[-1] in ("help", "all") or standalone(asked[-1]):
        return []
    own = TableFile.read(asked[-1]).overrides
    return [text for text in own if option_of(text) not in taken]


@verb("ablations", AblationConfig, usual)
def main(config: AblationConfig) -> None:
    """Make a table, all of them, or list them."""
    if config.table == "help":
        with one_line_errors():
            print(help_text(lambda name: with_overrides(name, config)))
        return
    with one_line_errors():
        question = standalone(str(config.table))
    if question is not None and not question.trains:
        question.measure(config)
        make_report([f"table={config.table}", f"outputs={config.outputs}"])
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
        table = ask(config, config.recipe, config.data.vocab_size)
        if config.data.tokenizer is None and not standalone(str(config.table)):
            require_vocabulary(table, config.data.vocab_size)
        return SamplerConfig()

    @classmethod
    def plan(cls, config: AblationConfig, recipe: Recipe, data: Data) -> TableWork:
        timing = Timing(config.folder / FILE)
        table = ask(config, recipe, data.vocab_size, timing)
        if timing.missing:
            placement = share_cores(config.placement, config.workers)
            timing.measure(data, placement)
            table = ask(config, recipe, data.vocab_size, timing)
        if timing.content:
            table = replace(table, caption=f"{table.caption} {timing.words()}")
        for panel in table.panels:
            for arm in panel.arms:
                require_tokens(data, arm.recipe.seq_len, arm.recipe.batch_size)
        require_vocabulary(table, data.vocab_size)
        return TableWork(
            table=table,
            data_fingerprint=data.fingerprint,
            first_seed=config.seed if table.first_seed is None else table.first_seed,
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
        seeds, search = QUESTIONS.load(table.question).seeds_in_words(table), self.work.search
        rates = "" if search.name == "none" else f", {len(search.factors)} learning rates or more"
        return f"table {table.name}: {arms} arms, {seeds}{rates}"

    def facts(self) -> dict[str, Any]:
        facts = table_facts(self.work.resolved)
        if self.work.search.name != "none":
            facts["lr_search"] = search_facts(self.work)
        return {"table": facts, "places": list(self.work.places())}

    def report(self) -> None:
        super().report()
        if (study := self.work.table.quoted_by) is not None and self.config.report:
            make_report([f"study={study}", f"outputs={self.config.outputs}"])

    def page(self) -> list[str]:
        return [f"table={self.config.table_name}"]

    @property
    def kept_arms(self) -> int:
        return 1


if __name__ == "__main__":
    main()
