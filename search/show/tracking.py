"""Runs shown in Weights & Biases: a run for each trial, and one for the study.

A run is mirrored when it has ended, from its record and its `metrics.jsonl`: these are flushed to
disk as they grow, which W&B's files are not, and a run that was interrupted is one clean W&B run.
"""

import base64
import http.client
import json
import os
import shutil
import threading
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from search.config import TrackerConfig
from search.record import FINISHED, PRUNED, Record, architecture_id
from search.runs import disk_error, pruned_record, read_metrics, usable_record
from search.study.plan import Attempt

REACH_S = 3.0
"""How long the server may take to answer before the study goes on offline."""
COLUMNS = (
    "num_hidden_layers",
    "num_blocks",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
)
"""Of the architecture, in the study's table."""


class Tracker:
    """Shows nothing anywhere: `tracker=none`."""

    def mirror(self, runs: Path, attempts: Sequence[Attempt]) -> None:
        """Show the runs that ended and are not shown yet."""

    def summarise(self, runs: Path, content: Mapping[str, Any], plot: Path) -> None:
        """Show the study: a table of its runs, and the plot of it, under the plot's name."""


class WandbTracker(Tracker):
    """Mirrors into W&B; its files are under `<study>/wandb`."""

    def __init__(
        self, config: TrackerConfig, study: str, folder: Path, scored: bool = False
    ) -> None:
        self.study, self.folder = study, folder.resolve()
        self.scored = scored
        """Whether runs that are shown may get scores later."""
        self.project, self.mode = config.project, config.mode
        self.gave_up = False
        self.mirrored = self.folder / "wandb" / "mirrored.txt"
        self.mirrored.parent.mkdir(parents=True, exist_ok=True)
        # W&B's own places for these are in the home folder.
        os.environ.setdefault("WANDB_CACHE_DIR", str(self.folder / "wandb" / "cache"))
        os.environ.setdefault("WANDB_DATA_DIR", str(self.folder / "wandb" / "staging"))
        os.environ.update(WANDB_SILENT="true", WANDB_CONSOLE="off", WANDB_DIR=str(self.folder))
        if self.mode == "online" and (obstacle := unreachable()):
            self._go_offline(obstacle)

    def mirror(self, runs: Path, attempts: Sequence[Attempt]) -> None:
        done = set(self.mirrored.read_text().split()) if self.mirrored.is_file() else set()
        for attempt in attempts:
            if self.gave_up:
                return
            known = f"{attempt.key}:{attempt.status}" in done
            if attempt.busy or (known and not self.scored):
                continue
            folder = runs / str(attempt.key)
            record = usable_record(folder)
            if record is None and attempt.state == "PRUNED":
                record = pruned_record(folder, attempt.reason)
            if record is None or (state := _state(record)) in done:
                continue
            with self._harmless():
                self._mirror_run(attempt, record, runs / record.run.key)
                with open(self.mirrored, "a") as file:
                    file.write(f"{state}\n")

    def _mirror_run(self, attempt: Attempt, record: Record, folder: Path) -> None:
        run = self._open(
            record.run.key,
            job_type="trial",
            name=f"trial {attempt.number}",
            tags=[attempt.role, record.status],
            config=configuration(attempt, record),
        )
        for step, values in curve(folder):
            run.log(values, step=step)
        run.summary.update(summary(record))
        run.finish(exit_code=0 if record.status in (FINISHED, PRUNED) else 1)

    def summarise(self, runs: Path, content: Mapping[str, Any], plot: Path) -> None:
        if self.gave_up:
            return
        with self._harmless():
            self._mirror_study(runs, content, plot)

    def _mirror_study(self, runs: Path, content: Mapping[str, Any], plot: Path) -> None:
        import wandb

        known = ("metric", "budget", "space", "sampler", "pruner", "table")
        facts = {name: content[name] for name in known if name in content}
        run = self._open("summary", job_type="study", name=self.study, config=facts)
        metric = content["metric"]
        shown: dict[str, Any] = {
            plot.stem: wandb.Table(
                columns=["trial", "seed", "role", *COLUMNS, "parameters", metric],
                data=[list(row) for row in table(runs, content)],
            )
        }
        if plot.is_file():
            shown[f"{plot.stem}_plot"] = wandb.Image(str(plot))
        run.log(shown, step=0)
        values = [trial["value"] for trial in finished(content)]
        best = {f"best_{metric}": min(values)} if values else {}
        pruned = {k: content[k] for k in ("pruned", "saved_tokens") if content.get("pruned")}
        told = {"runs": len(values), "wall_s": content["wall_s"], **best, **pruned}
        run.summary.update(told)
        run.finish()

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        """Say what W&B could not take, and go on without it: it is a mirror, and the next start
        shows what is missing. It raises errors of many kinds; a full disk is the study's too."""
        try:
            yield
        except Exception as error:
            if isinstance(error, OSError) and disk_error(error) is not None:
                raise
            self.gave_up = True
            said = (str(error).splitlines() or [type(error).__name__])[0]
            print(
                f"W&B has not taken it: {said}; the study goes on without W&B, and its next start "
                "shows there what is missing"
            )

    def _open(self, part: str, **facts: Any) -> Any:
        """A W&B run, begun anew: what an earlier start left of it offline is removed."""
        import wandb

        identity = f"{self.study}-{part}"
        for old in (self.folder / "wandb").glob(f"offline-run-*-{identity}"):
            shutil.rmtree(old)
        common = {"project": self.project, "group": self.study, "id": identity, **facts}
        if self.mode == "online":
            try:
                return wandb.init(
                    mode="online", resume="allow", settings=self._settings(), **common
                )
            except (wandb.errors.CommError, wandb.errors.UsageError) as error:
                wandb.teardown()  # it keeps the name of a run that could not begin
                self._go_offline(str(error).splitlines()[0])
        return wandb.init(mode="offline", settings=self._settings(), **common)

    def _settings(self) -> Any:
        """Quiet, quick to give up, and nothing about this machine: the record has that."""
        import wandb

        return wandb.Settings(
            root_dir=str(self.folder),
            silent=True,
            console="off",
            init_timeout=REACH_S,
            login_timeout=REACH_S,
            symlink=False,
            disable_git=True,
            disable_code=True,
            save_code=False,
            x_disable_stats=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
        )

    def _go_offline(self, obstacle: str) -> None:
        self.mode = "offline"
        print(
            f"tracker.mode=online is not possible: {obstacle}; going on offline. "
            f"Send it later with: wandb sync {self.folder / 'wandb'}/offline-run-*"
        )


def open_tracker(config: TrackerConfig, study: str, folder: Path, scored: bool = False) -> Tracker:
    """The tracker of a configuration. Says so where `online` is not possible."""
    return WandbTracker(config, study, folder, scored) if config.name == "wandb" else Tracker()


def _state(record: Record) -> str:
    """What of a run is to be shown: a failed one may be tried again, and scores may be added."""
    scores = [score.task for reading in record.readings for score in reading.scores]
    return ":".join([record.run.key, record.status, *scores])


def unreachable() -> str | None:
    """Why W&B's server cannot be used, found within some seconds; None where it can."""
    import wandb

    settings = wandb.setup().settings
    key = settings.api_key or wandb.api.api_key
    if not key:
        return "there is no API key (wandb login)"
    host = urlsplit(settings.base_url).hostname
    answers: list[str | None] = []
    looking = threading.Thread(  # name servers have a patience of their own
        target=lambda: answers.append(_ask_who(settings.base_url, key)), daemon=True
    )
    looking.start()
    looking.join(REACH_S + 0.5)
    obstacle = answers[0] if answers else "no answer"
    return obstacle and f"{host}: {obstacle}"


def _ask_who(server: str, key: str) -> str | None:
    """What is wrong when the server is asked whose key this is; None for a good answer."""
    login = base64.b64encode(f"api:{key}".encode()).decode()
    request = urllib.request.Request(
        f"{server}/graphql",
        data=json.dumps({"query": "query { viewer { id } }"}).encode(),
        headers={"Authorization": f"Basic {login}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=REACH_S) as response:
            known = json.load(response)["data"]["viewer"]
    except TimeoutError:
        return "no answer"
    except OSError as error:
        return str(getattr(error, "reason", error))
    except (ValueError, KeyError, TypeError, http.client.HTTPException):
        return "it does not answer as W&B does"
    return None if known else "it does not know this API key"


def configuration(attempt: Attempt, record: Record) -> dict[str, Any]:
    """What W&B shows as a run's configuration."""
    return {
        "key": record.run.key,
        "arm": architecture_id(record.run.architecture),
        "seed": record.run.seed,
        "init_seed": record.run.init_seed,
        "role": attempt.role,
        "axes": dict(attempt.params),
        "architecture": record.run.architecture.to_dict(),
        "recipe": record.run.recipe.to_dict(),
        "cost": asdict(record.cost),
        "data": dict(record.data),
    }


def summary(record: Record) -> dict[str, Any]:
    """What W&B shows as a run's summary: its last reading, scores as `task.metric`, and its
    times."""
    last = record.readings[-1].numbers() if record.readings else {}
    names = ("train_s", "eval_s", "branch_s", "tokens_per_s")
    times = {name: getattr(record, name) for name in names}
    return {**last, **times, "status": record.status, "reason": record.reason}


def curve(folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each step of `metrics.jsonl` with all that was measured at it, training and validation.

    What a branch to a horizon measured is `branch/<name>`, at the step that it had come to.
    """
    in_order = sorted(read_metrics(folder), key=lambda line: int(line["step"]))
    for step, lines in groupby(in_order, key=lambda line: line["step"]):
        values: dict[str, Any] = {}
        for line in lines:
            where = "branch/" if "horizon" in line else ""
            values |= {f"{where}{name}": value for name, value in line.items() if name != "step"}
        yield int(step), {name: value for name, value in values.items() if value is not None}


def finished(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The trials of a `study.json` with a value of their run's end; a pruned one's is earlier."""
    return [t for t in content["trials"] if t["value"] is not None and t["state"] == "COMPLETE"]


def table(runs: Path, content: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """The finished runs: trial, seed, role, shape, parameters, value."""
    for trial in finished(content):
        record = usable_record(runs / trial["key"])
        if record is not None:
            arch = record.run.architecture
            dims = (getattr(arch, name) for name in COLUMNS)
            own = (trial["number"], trial["seed"], trial["role"])
            yield (*own, *dims, record.cost.parameters, trial["value"])
