"""`python -m ablations table=NAME`: arms × seeds on one budget, and which differences are real.

`make` is the whole of it, as `main` of a search is; only that every cell is known beforehand.

What opens a storage is imported where it is used, since `--help` and wrong options need none.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from ablations.ask import ask, require_vocabulary, targets_of
from ablations.cells import TableWork
from ablations.config import AblationConfig
from ablations.files import TableFile, table_names
from ablations.questions import QUESTIONS, Question, standalone, table_stem
from ablations.table import Table
from ablations.timing import FILE, Timing
from search.data.packed import require_tokens
from search.objectives import USUAL
from search.states import End, State
from space.app import as_meant, configuration, files_of, option_of, verb
from space.cli import one_line_errors
from space.overrides import CONF, value_of
from space.several import Several

if TYPE_CHECKING:
    from search.study.session import Groundwork, Session


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
    asked = [str(value_of(text)) for text in given if option_of(text) == "table"]
    if not asked or asked[-1] in ("help", "all") or standalone(asked[-1]):
        return []
    file = TableFile.read(asked[-1])
    try:
        own = as_meant(file.overrides, AblationConfig, "ablations")
    except ValueError as error:
        raise ValueError(f"overrides of table {file.name}: {error}") from None
    return [text for text in own if option_of(text) not in taken]


def name_of(given: Sequence[str], folders: Sequence[Path] = (CONF,)) -> str:
    """The table that these options are of. Raises: ValueError where one of them is wrong."""
    config = configuration("ablations", AblationConfig, [*usual(given), *given], folders)
    if config.table in ("help", "all"):
        raise ValueError(f"-m must come with tables by name, but got table={config.table}")
    if standalone(str(config.table)) is None:
        check(config)
    return config.table_name


@verb("ablations", AblationConfig, usual, Several(naming="called", name=name_of))
def main(config: AblationConfig) -> None:
    """Make a table, all of them, or list them."""
    if config.table == "help":
        from ablations.help import help_text

        with one_line_errors():
            print(help_text(lambda name: with_overrides(name, config)))
        return
    with one_line_errors():
        question = standalone(str(config.table))
    if question is not None and not question.trains:
        raise SystemExit(measure(question, config))
    names = tables_of_one_proxy(config) if config.table == "all" else [str(config.table)]
    if len(names) > 1:  # an option that one table does not take is refused before any training
        with one_line_errors():
            for name in names:
                check(replace(config, table=name))
    raise SystemExit(max([make(replace(config, table=name)) for name in names]))


def measure(question: Question, config: AblationConfig) -> int:
    """A table that trains nothing. Its exit code."""
    from ablations.measured import note_look, note_unknown
    from search.study.ending import make_report

    folder = Path(config.outputs) / "tables" / table_stem(str(config.table))
    with one_line_errors():
        note_unknown(folder)
    runs = question.measure(config)
    if runs:
        with one_line_errors():
            note_look(folder, str(config.study), runs, config.looks)
    return 0 if make_report({"table": str(config.table), "outputs": config.outputs}) else 1


def make(config: AblationConfig) -> int:
    """One table, from wherever it stands. Its exit code."""
    from ablations.looks import note_look
    from search.study.ending import conclude, finish
    from search.study.session import look_ahead

    with one_line_errors():
        check(config)
    if not config.train:
        return look_ahead(config, open_table)
    with one_line_errors():
        session = open_table(config)
        outlook = session.estimate()
    print(outlook, flush=True)
    ending = session.train(outlook)
    with one_line_errors():
        if ending.kind == End.DONE:
            note_look(session)
        reported = conclude(session, ending)
    return finish(session, ending, reported)


def with_overrides(name: str, config: AblationConfig) -> AblationConfig:
    """The configuration with what the table's file overrides and the command line does not."""
    overrides = HydraConfig.get().overrides.task
    given = [*(text for text in overrides if option_of(text) != "table"), f"table={name}"]
    if not (own := usual(given)):
        return config
    made = OmegaConf.to_object(compose("ablations", [*own, *given]))
    assert isinstance(made, AblationConfig), "conf/ablations.yaml begins with its schema"
    return made


def tables_of_one_proxy(config: AblationConfig) -> list[str]:
    """All tables but those that choose a proxy of their own, or need what is not given."""
    files = [TableFile.read(name) for name in table_names()]
    return [
        file.name
        for file in files
        if not file.overrides and all(attrgetter(option)(config) for option in file.needs)
    ]


def check(config: AblationConfig) -> None:
    """Find what is wrong before anything is written. Raises: ValueError."""
    table = ask(config, config.recipe, config.data.vocab_size)
    if config.data.tokenizer is None and not standalone(str(config.table)):
        require_vocabulary(table, config.data.vocab_size)
    targets_of(config, table, usual=USUAL).require_sources(config.data.sources)
    if config.looks:
        from ablations.stats.looks import Looks

        Looks.given(config.looks, table.seeds)


def open_table(config: AblationConfig) -> "Session[TableWork]":
    """A table as a study whose every trial is enqueued: created, or resumed.

    Raises:
        ValueError: something in the configuration, or a change under the same name.
    """
    from ablations.looks import note_unknown, require_no_fewer
    from search.study.session import (
        Session,
        Subject,
        lay_groundwork,
        require_bytes,
        usual_objective,
    )

    options = sys.argv[1:]
    ground = lay_groundwork(
        config,
        verb="ablations",
        naming="called",
        options=options,
        known=known_settings(config),
        files={
            "recipe": files_of(options, "proxy", config.proxy),
            "budget": files_of(options, "ablation", str(config.table)),
            "objectives": [name for name in config.objectives if name.endswith(".py")],
        },
    )
    work = plan(config, ground)
    require_no_fewer(ground.storage, config, work)
    pages = [{"table": config.table_name}]
    quoted_by = work.table.quoted_by
    pages += [] if quoted_by is None else [{"study": quoted_by}]
    usual = usual_objective(ground.data)
    targets = targets_of(config, work.table, usual).with_sources(ground.data.shares, usual)
    require_bytes(targets, ground.data)
    work = replace(work, maximize=targets.first.maximize).keeping_to(targets)
    subject = Subject(
        work=work,
        headline=headline,
        settings={
            **settings(config, work, ground),
            **replace(targets, limits=()).settings(usual),  # columns and constraints may change
        },
        targets=targets,
        facts=facts,
        remark=remark,
        pages=pages,
        plot="forest.png",
        kept_arms=sum(len(panel.arms) for panel in work.table.panels),
    )
    session = Session.open(ground, subject)
    note_unknown(session)
    return session


def plan(config: AblationConfig, ground: "Groundwork") -> TableWork:
    """The table's cells."""
    from search.train.placement import share_cores

    data, recipe = ground.data, ground.recipe
    timing = Timing(config.folder / FILE)
    table = ask(config, recipe, data.vocab_size, timing)
    if timing.missing:
        config.folder.mkdir(parents=True, exist_ok=True)
        alone = replace(config.placement, gpus_per_run=1)  # what counts is how arms compare
        timing.measure(data, share_cores(alone, config.workers_of()))
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


def settings(config: AblationConfig, work: TableWork, ground: "Groundwork") -> dict[str, Any]:
    """What must not change under the study's name. Arms and seeds may: their cells are known by
    key."""
    from search.study.session import data_settings

    return {
        **of_file(config, work.table),
        "recipe": ground.recipe.to_dict(),
        "data": data_settings(ground.data),
    }


def known_settings(config: AblationConfig) -> dict[str, Any]:
    """What settings say of the table's file, where that is known before data are read."""
    if config.data.tokenizer is not None:
        return {}
    return of_file(config, ask(config, config.recipe, config.data.vocab_size))


def of_file(config: AblationConfig, table: Table) -> dict[str, Any]:
    """What settings say of the table's file."""
    return {"scale": config.scale, "budget": str(table.panels[0].budget)}


def headline(work: TableWork) -> str:
    """What the table is, in a line."""
    table, search = work.table, work.search
    arms = sum(len(panel.arms) for panel in table.panels)
    rates = "" if search.name == "none" else f", {len(search.factors)} learning rates or more"
    seeds = QUESTIONS.load(table.question).seeds_in_words(table)
    out = f" ({n} beyond a constraint and not trained)" if (n := len(work.ruled_out)) else ""
    return f"table {table.name}: {arms} arms{out}, {seeds}{rates}"


def facts(session: "Session[TableWork]") -> dict[str, Any]:
    """What `study.json` says of a table."""
    from ablations.facts import search_facts, table_facts
    from ablations.looks import looks_of

    work = session.work
    table = table_facts(work.resolved) | {"looks": looks_of(session).to_dict()}
    if work.search.name != "none":
        table["lr_search"] = search_facts(work)
    return {"table": table, "places": places(session, work)}


def remark(session: "Session[TableWork]") -> str:
    """What a further look costs, before it is taken; empty of a first one."""
    from ablations.looks import looks_of

    looks = looks_of(session)
    more = len(looks.seeds) > 1 and not session.work.table.auto
    return f"looks of this table: {looks.words}" if more else ""


def places(session: "Session[TableWork]", work: TableWork) -> list[dict[str, Any]]:
    """The table's places, each with its values where more than the loss is asked for."""
    from ablations.facts import measured

    job, found = session.job, list(work.places())
    if job.targets.plain:
        return found
    failed = {run.key for run in session.runs() if run.state == State.FAIL}
    return [
        place | measured(work, place, job.targets, job.runs, session.known, failed)
        for place in found
    ]


if __name__ == "__main__":
    main()
