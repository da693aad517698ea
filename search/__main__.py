"""`python -m search`: try the architectures of a space on one budget, and leave a report.

`main` is the whole of it: check and open, estimate, train, describe and report. The training is
done by workers, wherever the executor runs them: read on in `search.study.worker`.

What opens a storage is imported where it is used, since `--help` and wrong options need none.
"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig

from search.config import SearchConfig
from search.data.packed import require_tokens
from search.law import Planned, require_law
from search.objectives import USUAL, Targets
from search.show.progress import named
from search.states import Role, State
from search.study.exploration import Exploration, Replicates, SearchWork
from search.study.plan import Attempt
from search.study.pruners import make_pruner
from search.study.samplers import make_sampler, require_proposal
from space.app import configuration, files_of, verb
from space.axes import Space
from space.cli import one_line_errors
from space.overrides import CONF
from space.seals import read_json
from space.several import Several
from space.words import count, join

if TYPE_CHECKING:
    from search.study.session import Session

MOST_NAMED = 6
"""Architectures that are named one by one."""


def name_of(given: Sequence[str], folders: Sequence[Path] = (CONF,)) -> str:
    """The study that these options are of. Raises: ValueError where one of them is wrong."""
    config = configuration("search", SearchConfig, given, folders)
    require_one_length(given, config.tokens_per_parameter)
    check(config)
    return config.name


def require_one_law(
    studies: Mapping[str, Sequence[str]], folders: Sequence[Path] = (CONF,)
) -> None:
    """Raises: ValueError where the studies of these options, by name, cannot make a law."""
    configs = {
        name: configuration("search", SearchConfig, given, folders)
        for name, given in studies.items()
    }
    if any(config.data.tokenizer is not None for config in configs.values()):
        return  # its vocabulary is known once it is read
    require_law({name: planned(config) for name, config in configs.items()})


def planned(config: SearchConfig) -> Planned:
    """What a study will try."""
    space = Space.from_config(config.space, config.budget, config.data.vocab_size)
    work = SearchWork.of(
        space,
        config.recipe,
        "",
        n_trials=config.n_trials,
        replicates=config.replicates,
        grid=config.sampler.exhaustive,
    )
    tokens, step = config.recipe.tokens, config.recipe.tokens_per_step
    return Planned(space, work.plan.explorations, tokens, step)


@verb("search", SearchConfig, several=Several(naming="study", name=name_of, law=require_one_law))
def main(config: SearchConfig) -> None:
    """Run a study, or resume it."""
    from search.study.ending import conclude, finish
    from search.study.session import look_ahead

    with one_line_errors():
        require_one_length(HydraConfig.get().overrides.task, config.tokens_per_parameter)
        check(config)
    if not config.train:
        raise SystemExit(look_ahead(config, open_search))
    with one_line_errors():
        session = open_search(config)
        outlook = session.estimate()
    print(outlook, flush=True)
    ending = session.train(outlook)
    with one_line_errors():
        reported = conclude(session, ending)
    code = finish(session, ending, reported)
    say_what_is_left(session, config)
    raise SystemExit(code)


def require_one_length(given: Sequence[str], ratio: float | None) -> None:
    """Raises: ValueError where the command line gives tokens that the ratio would replace."""
    values = dict(text.lstrip("+").split("=", 1) for text in given if "=" in text)
    if ratio is not None and "recipe.tokens" in values:
        raise ValueError(
            "tokens_per_parameter must come without recipe.tokens, which it is in place of, but "
            f"got {ratio:g} and {values['recipe.tokens']}; take one out, or add "
            "tokens_per_parameter=null where an experiment sets it"
        )


def check(config: SearchConfig) -> None:
    """Find what is wrong before anything is written. Raises: ValueError."""
    make_sampler(config.sampler, config.seed)
    make_pruner(config.pruner, config.recipe)
    config.targets(USUAL).require_sources(config.data.sources)
    if config.data.tokenizer is None:  # whose vocabulary is known once it is read
        Space.from_config(config.space, config.budget, config.data.vocab_size)


def open_search(config: SearchConfig, given: Sequence[str] | None = None) -> "Session[SearchWork]":
    """The study of a space: created, or resumed. `given` are the options where they are not those
    of the command line.

    Raises:
        ValueError: something in the configuration, or a change under the same name.
    """
    from search.study.session import (
        Session,
        Subject,
        data_settings,
        lay_groundwork,
        require_bytes,
        usual_objective,
    )

    options = sys.argv[1:] if given is None else given
    ground = lay_groundwork(
        config,
        verb="search",
        naming="study",
        options=options,
        known={"seed": config.seed, **space_settings(config)},
        files={
            "space": files_of(options, "space", config.space.name),
            "recipe": files_of(options, "proxy", config.proxy),
            "objectives": [name for name in config.objectives if name.endswith(".py")],
        },
    )
    data, recipe = ground.data, ground.recipe
    space = Space.from_config(config.space, config.budget, data.vocab_size)
    require_tokens(data, recipe.seq_len, recipe.batch_size)
    targets = config.targets(usual_objective(data)).with_sources(data.shares, usual_objective(data))
    require_bytes(targets, data)
    work = SearchWork.of(
        space,
        recipe,
        data.fingerprint,
        n_trials=config.n_trials,
        replicates=config.replicates,
        grid=config.sampler.exhaustive,
        first_seed=config.seed,
        maximize=targets.first.maximize,
        directions=targets.directions,
    )
    targets.require_possible([work.run(option.params, config.seed) for option in work.plan.options])
    work = work.keeping_to(targets)
    require_proposal(config.sampler, config.seed, targets.directions, work.suggest)
    subject = Subject(
        work=work,
        headline=partial(headline, config, targets),
        settings={
            "space": space.to_dict(),
            "recipe": recipe.to_dict(),
            "data": data_settings(data),
            "seed": config.seed,
            **targets.settings(usual_objective(data)),
        },
        targets=targets,
        facts=partial(facts, config),
        pages=[{"study": config.name}],
        plot="depth_vs_width.png",
        sampler=config.sampler,
        pruner=config.pruner,
        kept_arms=config.replicates.top + 1,
        contenders=work.plan.contenders,
        pausing_runs=0 if config.pruner.name == "none" else work.plan.explorations,
    )
    return Session.open(ground, subject)


def space_settings(config: SearchConfig) -> dict[str, Any]:
    """What settings say of the space, where that is known before data are read."""
    if config.data.tokenizer is not None:
        return {}
    space = Space.from_config(config.space, config.budget, config.data.vocab_size)
    return {"space": space.to_dict()}


def headline(config: SearchConfig, targets: Targets, work: SearchWork) -> str:
    """What the study is, in a line."""
    plan, space = work.plan, work.space
    seeds, up_to = work.total - plan.explorations, "up to " if work.at_most else ""
    line = (
        f"study {config.name}: {plan.explorations} of {space.size} architectures of "
        f"{space.budget}, {up_to}{seeds} further seeds"
    )
    if not seeds and config.replicates.top and config.replicates.seeds > 1:
        line += f" (n_trials={config.n_trials} leaves none, so no difference can be resolved)"
    if config.n_trials < (begun := len(plan.runs)):
        line += f"; n_trials={config.n_trials} takes away none of the {begun} runs that were begun"
    if said := space.said_of_depths():
        line += f"; {said}"
    if said := space.said_of_constraints():
        line += f"; {said}"
    if config.pruner.name != "none":
        where = " or ".join(f"{share:.0%}" for share in work.recipe.horizons)
        line += f"; {config.pruner.name} may stop the former after {where} of their tokens"
    if plan.ruled_out:
        limits = " or ".join(map(str, targets.known_limits))
        line += f"; {len(plan.ruled_out)} are known to be beyond {limits}, and are not trained"
    tried = {run.arm for run in plan.explored}
    untried = sum(option.arm not in tried for option in plan.options)
    left = untried - (plan.explorations - len(plan.explored))
    if plan.grid and left:  # `benchmarks.samplers` has what such a grid costs
        line += (
            f"; a grid leaves {left} out: n_trials={plan.enough} tries all, sampler=tpe chooses "
            "among all"
        )
    return line


def facts(config: SearchConfig, session: "Session[SearchWork]") -> dict[str, Any]:
    """What `study.json` says of a search."""
    from search.study.describe import exploration_facts, pruning_facts

    work, attempts = session.subject.work, session.attempts()
    space = work.space
    return {
        "budget": space.budget.to_dict(),
        "space": {
            **space.kind,
            "size": space.size,
            **({"note": said} if (said := space.said_of_depths()) else {}),
        },
        **({"ruled_out": len(ruled_out)} if (ruled_out := work.plan.ruled_out) else {}),
        "sampler": config.sampler.name,
        "pruner": config.pruner.name,
        "n_trials": config.n_trials,
        "planned": session.work.total,
        **exploration_facts(
            session.study,
            attempts,
            work.plan.baseline,
            earlier_facts(config) if session.count_done() >= work.total else None,
        ),
        **pruning_facts(attempts, work.recipe),
    }


def earlier_facts(config: SearchConfig) -> dict[str, Any]:
    """What `study.json` says so far; nothing where it cannot be read."""
    try:
        found: dict[str, Any] = read_json(config.folder / "study.json")
    except (OSError, ValueError):
        return {}
    return found


def say_what_is_left(session: "Session[SearchWork]", config: SearchConfig) -> None:
    """How to go on with runs that were stopped early; that a space is used up."""
    runs, work = session.runs(), session.work
    done, pruned = session.count_done(), sum(run.state == State.PRUNED for run in runs)
    if pruned:
        horizons = f"recipe.horizons=[{','.join(map(str, work.recipe.horizons))}]"
        changed = shlex.join([f"study={session.job.study}", "pruner=none", horizons])
        print(
            f"{pruned} of {done} runs were stopped early; they go on by the same command with "
            f"{changed} instead of pruner={config.pruner.name}"
        )
        if len(runs) < work.total:
            print(f"they left too few for the {work.total} runs that were planned")
    if done < work.total:
        return
    if work.plan.lacking:
        say_what_lacks_seeds(work.plan)
    elif done < config.n_trials:
        print(
            f"{done} of {config.n_trials} runs: {work.plan.explorations} of {work.space.size} "
            f"architectures tried, {what_gives_more(work.plan)}"
        )


def say_what_lacks_seeds(plan: Exploration) -> None:
    """Which of the best have fewer seeds than asked, and what gives them these. Nothing where a
    larger `n_trials` would try other architectures first."""
    larger = replace(plan, n_trials=len(plan.runs) + plan.lacking_seeds)
    if larger.explorations == len(plan.explored):
        replicates = plan.replicates
        print(
            f"fewer than {count(replicates.seeds, 'seed')} of {in_words(plan.lacking)}, now the "
            f"baseline or among the best {replicates.top}; `n_trials={larger.n_trials}` gives the "
            "rest"
        )


def what_gives_more(plan: Exploration) -> str:
    """In a space that is used up: which architectures have one seed, and the options that give them
    more; where all have several, those that give each another."""
    ended = [run for run in plan.explored if run.state == State.COMPLETE]
    if len(ended) < 2:
        return "there is no more to do in this space"
    further = {run.arm for run in plan.runs if run.role == Role.REPLICATE}
    single = [run for run in ended if run.arm not in further]
    seeds = plan.replicates.seeds
    usual = Replicates().seeds if seeds == 1 else seeds
    wider = Replicates(top=len(ended) - 1, seeds=usual if single else seeds + 1)
    larger = replace(plan, replicates=wider)
    needed = len(plan.runs) + larger.lacking_seeds
    options = {
        "replicates.top": (plan.replicates.top, wider.top),
        "replicates.seeds": (seeds, wider.seeds),
        "n_trials": (plan.n_trials, max(plan.n_trials, needed)),
    }
    changed = " ".join(f"{name}={new}" for name, (old, new) in options.items() if new != old)
    those = f"one seed of {in_words(single)}" if single else "several seeds of each"
    return f"{those}; `{changed}` gives more"


def in_words(runs: Sequence[Attempt]) -> str:
    """Architectures by their layers, and by other axes where there are such: "2 and 6 layers"."""
    if len(runs) > MOST_NAMED:
        return count(len(runs), "architecture")
    runs = sorted(runs, key=lambda run: run.layers)
    if any(named(run.params) for run in runs):
        return join([f"{count(run.layers, 'layer')} ({named(run.params)})" for run in runs])
    unit = "layer" if runs[-1].layers == 1 else "layers"
    return f"{join([str(run.layers) for run in runs])} {unit}"


if __name__ == "__main__":
    main()
