"""Runs shown in Weights & Biases: a run for each trial, and one for the study."""

import base64
import http.client
import json
import os
import shutil
import threading
import urllib.request
from collections.abc import Mapping
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from search.record import Record
from search.show.trackers import (
    COLUMNS,
    Tracker,
    TrackerConfig,
    configuration,
    curve,
    finished,
    summary,
    table,
)
from search.show.workspace import saved, workspace
from search.states import Status

if TYPE_CHECKING:
    from search.study.plan import Attempt

REACH_S = 3.0
"""How long the server may take to answer before the study goes on offline."""


OF_ONE_RUN = tuple(
    f"WANDB_{name}"
    for name in (
        "RUN_ID",
        "RUN_GROUP",
        "SWEEP_ID",
        "SWEEP_PARAM_PATH",
        "NAME",
        "RESUME",
        "JOB_TYPE",
    )
)
"""Variables of the surroundings that would make one run of all that are shown."""


class WandbTracker(Tracker):
    """Mirrors into W&B; its files are under `<study>/wandb`."""

    title = "W&B"

    def __init__(self, config: TrackerConfig, study: str, folder: Path) -> None:
        self.study, self.folder = study, folder.resolve()
        self.project, self.mode = config.project, config.mode
        if (place := self.folder / "wandb").exists() and not place.is_dir():
            raise NotADirectoryError(f"{place} must be a folder, but is a file")
        # W&B's own places for these are in the home folder.
        os.environ.setdefault("WANDB_CACHE_DIR", str(self.folder / "wandb" / "cache"))
        os.environ.setdefault("WANDB_DATA_DIR", str(self.folder / "wandb" / "staging"))
        os.environ.update(WANDB_SILENT="true", WANDB_CONSOLE="off", WANDB_DIR=str(self.folder))
        for name in OF_ONE_RUN:
            os.environ.pop(name, None)
        if self.mode == "online" and (obstacle := unreachable()):
            self._go_offline(obstacle)
        self.reports = config.report
        if self.reports and self.mode == "offline":
            print(
                "tracker.report=true makes a workspace on W&B's server, so none is made offline: "
                "it needs `wandb login` and tracker.mode=online"
            )

    def show_run(self, attempt: "Attempt", record: Record, folder: Path) -> None:
        run = self._open(
            record.run.key,
            job_type="trial",
            name=f"trial {attempt.number}",
            tags=[str(attempt.role), str(record.status)],  # W&B shows enums by their names
            config=configuration(attempt, record),
        )
        for step, values in curve(folder):
            run.log(values, step=step)
        run.summary.update(summary(record))
        run.finish(exit_code=0 if record.status in (Status.FINISHED, Status.PRUNED) else 1)

    def show_study(self, runs: Path, content: Mapping[str, Any], plot: Path) -> None:
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
        best_of = max if content["direction"] == "maximize" else min
        best = {f"best_{metric}": best_of(values)} if values else {}
        pruned = {k: content[k] for k in ("pruned", "saved_tokens") if content.get("pruned")}
        totals = {"runs": len(values), "wall_s": content["wall_s"], **best, **pruned}
        run.summary.update(totals)
        run.finish()
        if self.reports and self.mode == "online":
            new = workspace(run.entity, run.project, self.study, metric, f"{plot.stem}_plot")
            print(f"W&B: {saved(new, self.folder / 'wandb')}")

    def _open(self, part: str, **facts: Any) -> Any:
        """A W&B run, begun anew: what an earlier start left of it offline is removed."""
        import wandb

        identity = f"{self.study}-{part}"
        (self.folder / "wandb").mkdir(parents=True, exist_ok=True)  # a refused start leaves none
        for old in (self.folder / "wandb").glob(f"offline-run-*-{escape(identity)}"):
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
        """W&B's settings: no output, short timeouts, no data on the machine (see the record)."""
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


def unreachable() -> str | None:
    """Why W&B's server cannot be used, known within seconds; None if it can be used."""
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
    """The error when the server is asked for the owner of the key; None without one."""
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


TRACKER = WandbTracker
