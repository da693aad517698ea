"""`python -m search`: try the architectures of a space on one budget, and leave a report.

The story (`search.study.story`): check everything, say what it will take, let workers train,
describe what they found.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from hydra.core.hydra_config import HydraConfig

from search.config import SearchConfig
from search.data.dataset import Data, require_tokens
from search.executors.local import Ending
from search.recipe import Recipe
from search.study.describe import exploration_facts, pruning_facts
from search.study.exploration import SearchWork
from search.study.plan import distinct
from search.study.pruners import PrunerConfig, make_pruner
from search.study.samplers import SamplerConfig, make_sampler
from search.study.story import Story, data_settings
from space.axes import Space
from space.cli import one_line_errors, verb


@verb("search", SearchConfig)
def main(config: SearchConfig) -> None:
    """Run a study, from wherever it stands."""
    with one_line_errors():
        require_one_length(HydraConfig.get().overrides.task)
        search = Search.open(config)
    search.tell()


def require_one_length(given: Sequence[str]) -> None:
    """Raises: ValueError where overrides set both of what exclude each other."""
    values = dict(text.lstrip("+").split("=", 1) for text in given if "=" in text)
    if values.get("tokens_per_parameter", "null") != "null" and "recipe.tokens" in values:
        raise ValueError(
            "tokens_per_parameter must come without recipe.tokens, which it is in place of, but "
            f"got {values['tokens_per_parameter']} and {values['recipe.tokens']}; take one out"
        )


class Search(Story[SearchConfig, SearchWork]):
    """The exploration of a space."""

    verb, naming, plot = "search", "study", "depth_vs_width.png"

    @classmethod
    def check(cls, config: SearchConfig) -> SamplerConfig:
        make_sampler(config.sampler, config.seed)
        make_pruner(config.pruner, config.recipe)
        if config.data.tokenizer is None:  # whose vocabulary is known once it is read
            Space.from_config(config.space, config.budget, config.data.vocab_size)
        return config.sampler

    @classmethod
    def pruner(cls, config: SearchConfig) -> PrunerConfig:
        return config.pruner

    @classmethod
    def plan(cls, config: SearchConfig, recipe: Recipe, data: Data) -> SearchWork:
        space = Space.from_config(config.space, config.budget, data.vocab_size)
        require_tokens(data, recipe.seq_len, recipe.batch_size)
        return SearchWork.of(
            space,
            recipe,
            data.fingerprint,
            n_trials=config.n_trials,
            replicates=config.replicates,
            grid=config.sampler.exhaustive,
            first_seed=config.seed,
        )

    @classmethod
    def settings(
        cls, work: SearchWork, recipe: Recipe, data: Data, config: SearchConfig
    ) -> dict[str, Any]:
        return {
            "space": work.space.to_dict(),
            "recipe": recipe.to_dict(),
            "data": data_settings(data),
            "seed": config.seed,
        }

    def headline(self) -> str:
        plan, space = self.work.plan, self.work.space
        return (
            f"study {self.job.study}: {plan.explorations} of {space.size} architectures of "
            f"{space.budget}, {self.work.total - plan.explorations} further seeds"
            + self._pruning()
            + self._left_out()
        )

    def _pruning(self) -> str:
        if self.config.pruner.name == "none":
            return ""
        where = " or ".join(f"{share:.0%}" for share in self.work.recipe.horizons)
        return f"; {self.config.pruner.name} may stop the former after {where} of their tokens"

    def _left_out(self) -> str:
        """`benchmarks.samplers` has what such a grid costs."""
        plan = self.work.plan
        left = self.work.space.size - plan.explorations
        if not plan.grid or not left:
            return ""
        return f"; a grid leaves {left} out, sampler=tpe pruner=asha chooses among all"

    def facts(self) -> dict[str, Any]:
        space, config = self.work.space, self.config
        return {
            "budget": asdict(space.budget),
            "space": {**space.kind, "size": space.size},
            "sampler": config.sampler.name,
            "pruner": config.pruner.name,
            "n_trials": config.n_trials,
            **exploration_facts(self.study, self.attempts()),
            **pruning_facts(self.attempts(), self.work.recipe),
        }

    def page(self) -> list[str]:
        return [f"study={self.job.study}"]

    @property
    def kept_arms(self) -> int:
        return self.config.replicates.top + 1

    @property
    def pausing_runs(self) -> int:
        return 0 if self.config.pruner.name == "none" else self.work.plan.explorations

    def finish(self, ending: Ending) -> None:
        super().finish(ending)
        done, asked, plan = self.count_done(), self.config.n_trials, self.work.plan
        if pruned := self.content["pruned"]:
            horizons = ",".join(map(str, self.work.recipe.horizons))
            print(
                f"{pruned} of {done} runs were stopped early; they go on by the same command with "
                f"study={self.job.study} pruner=none 'recipe.horizons=[{horizons}]' instead of "
                f"pruner={self.config.pruner.name}"
            )
            if len(distinct(self.attempts())) < self.work.total:
                print(f"they left too few for the {self.work.total} runs that were planned")
        if self.work.total <= done < asked:
            print(
                f"{done} of {asked} runs: {plan.explorations} of "
                f"{self.work.space.size} architectures tried, {plan.replicates.seeds} seeds each "
                "of those worth it; there is no more to do in this space"
            )


if __name__ == "__main__":
    main()
