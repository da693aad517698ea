"""The end of a study's process: `study.json`, cleanup, report and exit code."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.objectives import Unreadable
from search.runs import WEIGHTS
from search.states import End, State
from search.study.copies import bring_weights, drop_weights, share_ended
from search.study.describe import entries, write_study
from search.study.measuring import measure_runs
from search.study.plan import Attempt, best_runs, distinct
from search.study.pool import Ending
from search.study.storage import without_password
from space.app import in_short, option_of
from space.cli import fail
from space.overrides import quoted
from space.seals import read_json
from space.words import command

if TYPE_CHECKING:
    from search.study.session import Session

ASKED = ("command", "config", "workers", "n_trials", "planned")
"""What `study.json` says of how the study was asked for."""


def conclude(session: "Session[Any]", ending: Ending) -> bool:
    """Describe, tidy and report; on a full disk as far as possible. Whether all pages were made.

    Raises:
        KeyboardInterrupt: it was stopped; the message says what goes on.
    """
    done = ending.kind == End.DONE
    session.known.clear()  # records may have been given scores since
    try:
        if done:
            measure_runs(session)
        content = describe(session, finished=done)
        tidy(session, done=done)
        reported = report(session, content)
        if done and session.config.keep == "best" and not content.get("best_kept", True):
            print(f"the best run kept no weights when it was trained; {_how_to_keep(session)}")
        return reported
    except (OSError, Unreadable):
        if ending.kind != End.FATAL:
            raise
        return False
    except KeyboardInterrupt:
        ended, total = session.count_done(), session.work.total
        raise KeyboardInterrupt(
            f"stopped before the page was written; {ended} of {total} runs are done, and the same "
            f"command {'writes it' if ended >= total else 'continues'}"
        ) from None


def describe(session: "Session[Any]", finished: bool) -> dict[str, Any]:
    """Write `study.json`, mirror the ended runs, and return what was written."""
    attempts = session.attempts()
    share_ended(session.artifacts, session.job.runs, attempts, session.shared)
    content = {
        **_common_facts(session, finished),
        **session.subject.facts(session),
        "trials": entries(attempts, session.job.targets, session.job.runs, session.known),
        "started": session.study.user_attrs.get("started"),
    }
    if finished:
        best = _best(session, attempts, done=True)
        if best and session.artifacts is None:
            content["best_kept"] = (session.job.runs / str(best[0].key) / WEIGHTS).is_file()
        content |= _asked_before(session.job.folder / "study.json", content)
    write_study(session.job.folder, content)
    session.tracker.mirror(session.job.runs, distinct(attempts))
    return content


def _asked_before(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """How an earlier start asked for what this one only shows again, such as with fewer trials than
    there are: who copies its command gets what the page shows. Nothing where they differ."""
    try:
        earlier = dict(read_json(path))
    except (OSError, ValueError, TypeError):
        return {}
    shown = json.loads(json.dumps({k: v for k, v in content.items() if k not in ASKED}))
    same = all(earlier.get(name) == shown[name] for name in shown if name != "wall_s")
    return {name: earlier[name] for name in ASKED if name in earlier} if same else {}


def _how_to_keep(session: "Session[Any]") -> str:
    where = session.config.outputs
    places = [] if where == "outputs" else [f"outputs={quoted(where)}"]
    asked = command("space", "export=best", f"study={session.job.study}", *places, "to=FOLDER")
    return f"`{asked}` says what trains it again"


def tidy(session: "Session[Any]", done: bool = False) -> None:
    """Delete weights that this study wrote and does not keep: see `keep`. Until it is done, any of
    its contenders may become the best, and weights that are not scored yet stay.
    Then the store of `artifacts` keeps no others, and this host has them."""
    if session.config.keep == "all":
        return
    attempts, keep_best = session.attempts(), session.config.keep == "best"
    kept = {run.key for run in _best(session, attempts, done)} if keep_best else set()
    for run in distinct(attempts):
        key = str(run.key)
        ended_here = run.state == State.COMPLETE and not run.reused
        weights = session.job.runs / key / WEIGHTS
        if not ended_here or key in kept or session.unscored([key]):
            continue
        if weights.is_file() or done:
            weights.unlink(missing_ok=True)
            drop_weights(session.artifacts, [key])
    if done:
        bring_weights(session.artifacts, session.job.runs, map(str, kept))


def _best(session: "Session[Any]", attempts: Sequence[Attempt], done: bool) -> list[Attempt]:
    """The best run, and until the study is done that of each contender."""
    maximize = session.job.targets.first.maximize
    best = best_runs(attempts, arms=len(attempts), maximize=maximize)
    contenders = () if done else session.subject.contenders(attempts)
    return [run for run in best if run is best[0] or run.arm in contenders]


def report(session: "Session[Any]", content: dict[str, Any]) -> bool:
    """Make pages, figures and tables in a process of their own; show them in W&B. Whether all
    pages were made."""
    pages = session.subject.pages if session.config.report else ()
    if pages:
        print("writing the page, its figures and tables", flush=True)
    made = [make_report({**page, "outputs": session.config.outputs}) for page in pages]
    plot = session.job.folder / session.subject.plot
    session.tracker.summarise(session.job.runs, content, plot)
    return all(made)


def make_report(options: Mapping[str, str]) -> bool:
    """Run `python -m reports`; an error there is printed. Whether there was none."""
    given = [f"{option}={quoted(value)}" for option, value in options.items()]
    command = [sys.executable, "-m", "reports", *given]
    made = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if made.returncode:
        lines = made.stderr.strip().splitlines() or ["no reason given"]
        print(f"the report could not be made: {lines[-1]}", file=sys.stderr)
    return made.returncode == 0


def finish(session: "Session[Any]", ending: Ending, reported: bool) -> int:
    """Print how the study ended. Its exit code: 0 where it is complete and has its report.

    Raises:
        SystemExit: it was stopped before its end.
    """
    done, total = session.count_done(), session.work.total
    if ending.kind == End.FATAL:
        fail(
            f"{ending.reason}; the study stopped and keeps its {done} finished runs; fix this "
            "and run the same command again"
        )
    if ending.kind == End.CRASHED:
        print(f"error: {ending.reason}; see {session.job.folder / 'workers'}", file=sys.stderr)
        raise SystemExit(1)
    if ending.kind == End.INTERRUPTED:
        print(f"stopped with {done} of {total} runs; the same command continues")
        raise SystemExit(130)
    if ending.kind == End.LEFT:
        print(f"{done} of {total} runs; {ending.reason}; the same command says how far it is")
        return 0
    runs = session.runs()
    if failed := sum(run.state == State.FAIL and not run.done for run in runs):
        print(f"{done} of {total} runs; {failed} failed, and the same command retries them")
    elif busy := sum(run.busy for run in runs):
        print(f"{done} of {total} runs; {busy} in progress elsewhere: the same command goes on")
    elif runs and not any(run.state in (State.COMPLETE, State.PRUNED) for run in runs):
        print(f"error: all {done} runs diverged: {runs[-1].reason}", file=sys.stderr)
    else:
        return 0 if reported else 1
    return 1


def _common_facts(session: "Session[Any]", finished: bool) -> dict[str, Any]:
    config, job = session.config, session.job
    configuration = asdict(config)
    configuration["storage"] = without_password(job.storage)
    configuration["recipe"] = config.recipe.to_dict() | {
        "precision": job.work.typical.recipe.precision
    }
    return {
        "study": job.study,
        **job.targets.facts(),
        "workers": session.job.workers,
        "runs": config.runs,
        "config": configuration,
        "command": command(session.verb, *given(session.given, job.storage, type(config))),
        "wall_s": session.before_s + time.monotonic() - session.started,
        "finished": finished,
    }


def given(options: Sequence[str], url: str, schema: type[Any]) -> list[str]:
    """The options that were given for a schema, in short, without the storage's password however
    that is spelt."""
    shown = f"storage={without_password(url)}"
    return in_short([shown if option_of(text) == "storage" else text for text in options], schema)
