"""`python -m ablations` on a small table, in a folder of its own."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from study_fixtures import TINY, environment, write_text

from ablations.cells import TableWork
from ablations.facts import measured, table_facts
from reports.weigh.table import Report, read_table
from search.objectives import Targets
from search.recipe import Recipe
from search.record import Reading, Record, Run
from search.runs import write_record
from search.states import Status
from search.study.plan import Attempt, Cell

RECIPE = Recipe(tokens=100_000, precision="fp32")
WITHOUT = ("space", "study")

TABLE = """
caption: Are two blocks better shared?
budget: 100k
seeds: 2
proxy:
  - name: two blocks
    baseline: none
    source: nowhere
    base: {num_blocks: 2}
    arms:
      none: {sharing: none, published: 44.6}
      immediate: {sharing: immediate x2, published: 45.0}
"""


def options(folder: Path, *more: str) -> list[str]:
    """Of the command on its small table, which is in `folder`."""
    path = folder / "text.jsonl"
    if not path.is_file():
        write_text(folder)
    if not (folder / "small.yaml").is_file():
        (folder / "small.yaml").write_text(TABLE)
    given = {text.split("=")[0] for text in more}
    own = [x for x in TINY if x.split(".")[0].split("=")[0] not in WITHOUT]
    defaults = ["table=small.yaml", "report=true", f"data.path={path}"]
    usual = [x for x in own if not x.startswith(("report", "budget"))] + defaults
    return [*(x for x in usual if x.split("=")[0] not in given), *more]


def make(
    folder: Path, *more: str, program: Sequence[str] = ("-m", "ablations")
) -> "subprocess.CompletedProcess[str]":
    """The command, run to its end in `folder` on its small table."""
    return subprocess.run(
        [sys.executable, *program, *options(folder, *more)],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )


def made(
    work: TableWork, targets: Targets, record_of: Callable[[Run], Record], folder: Path
) -> Report:
    """The report of a table whose runs all ended so, from a `study.json` in `folder`."""
    attempts: list[Attempt] = []
    while isinstance(cell := work.next(attempts, 0), Cell):
        run = work.run(cell.params, cell.seed)
        record = record_of(run)
        (folder / "runs" / run.key).mkdir(parents=True, exist_ok=True)
        write_record(folder / "runs" / run.key, record)
        attempts.append(
            Attempt(
                number=len(attempts),
                state="COMPLETE",
                params=cell.params,
                key=run.key,
                seed=cell.seed,
                value=targets.first.of(record),
                status=Status.FINISHED,
            )
        )
    after, runs = work.after(attempts, 0), folder / "runs"
    content = {
        "table": table_facts(after.resolved),
        "places": [
            place | ({} if targets.plain else measured(after, place, targets, runs, {}))
            for place in after.places()
        ],
        **targets.facts(),
        "runs": str(runs),
        "trials": [],
    }
    path = folder / "outputs" / "tables" / "made"
    path.mkdir(parents=True, exist_ok=True)
    (path / "study.json").write_text(json.dumps(content))
    return read_table("made", folder / "outputs", None)


def ended(run: Run) -> Record:
    """Of a deeper run a larger loss."""
    loss = run.architecture.num_layers + 0.01 * run.seed
    reading = Reading(tokens=run.recipe.tokens, val_loss=loss, val_bpb=loss)
    return Record(run=run, status=Status.FINISHED, readings=(reading,))
