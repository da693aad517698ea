"""The verbs that train, for notebooks and scripts. `docs/python.md` shows them at work.

Options are the command line's, as strings: `run_study("budget=4m", "n_trials=12")`. What the
command refuses raises ValueError with the same words.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from search.__main__ import check, open_search
from search.comparable import comparable_cells
from search.config import SearchConfig
from search.models import attempt_of
from search.record import Record
from search.run import RunConfig, prepare_run, train_alone
from search.runs import load_records
from search.states import End, Status
from search.study.ending import conclude
from space.app import configuration, option_of
from space.arch import Architecture
from space.seals import read_json


def train_run(architecture: Architecture | str, *options: str) -> Record:
    """The record of one architecture, trained as `python -m search.run` does, or of the run that is
    there already. `architecture` is one, or a name of `conf/architecture/`.

    Raises:
        ValueError: something in the options does not fit.
    """
    name = architecture if isinstance(architecture, str) else "mobilellm_125m"  # replaced below
    config = configuration("run", RunConfig, [f"architecture={name}", *options])
    if isinstance(architecture, Architecture):
        config = replace(config, architecture=architecture.to_dict())
    return train_alone(*prepare_run(config), config)


def run_study(*options: str) -> "StudyResult":
    """The study of `python -m search` with these options, resumed until it is done.

    Raises:
        ValueError: something in the options does not fit.
        KeyboardInterrupt: it was stopped; the same call goes on.
        RuntimeError: workers kept dying, or no run can be written.
    """
    require_one_budget(options)
    config = configuration("search", SearchConfig, options)
    if not config.train:
        raise ValueError(
            "train must be true for run_study, but is false; `python -m search train=false` says "
            "what a study takes"
        )
    check(config)
    session = open_search(config, options)
    try:
        outlook = session.estimate()
        print(outlook, flush=True)
        ending = session.train(outlook)
        conclude(session, ending)
    finally:
        session.lock.release()
    if ending.kind == End.INTERRUPTED:
        raise KeyboardInterrupt
    if ending.kind != End.DONE:
        raise RuntimeError(f"{ending.reason}; see {session.job.folder / 'workers'}")
    return StudyResult(folder=config.folder, runs=Path(config.runs))


def require_one_budget(options: Sequence[str]) -> None:
    """Raises: ValueError where a list of budgets is given, which are several studies."""
    for word in options:
        if option_of(word) == "budget" and word.partition("=")[2].lstrip().startswith("["):
            raise ValueError(
                f"run_study must have one budget, but got {word}; call it for each, or give the "
                "list to `python -m search`, which makes their law too"
            )


@dataclass(frozen=True)
class StudyResult:
    """What a study has left in its folder, `outputs/<study>`. A notebook shows its picture and a
    row for each architecture."""

    folder: Path
    runs: Path

    @cached_property
    def facts(self) -> dict[str, Any]:
        """`study.json`."""
        facts: dict[str, Any] = read_json(self.folder / "study.json")
        return facts

    @cached_property
    def frame(self) -> pd.DataFrame:
        """A row for each finished run at its last reading, in the order of the study's trials as
        `trials.csv` has them, with the columns of `load_records`; `arm` is the architecture in
        words, and `role` says whether the run explored or is a further seed."""
        trials = sorted(self.facts["trials"], key=lambda trial: trial["number"])
        roles = {trial["key"]: trial["role"] for trial in trials}  # each where it is first
        frame = load_records(self.runs)
        frame = frame[frame.key.isin(roles) & (frame.status == Status.FINISHED)]
        frame = frame.sort_values("tokens").groupby("key", as_index=False).last()
        places = {key: place for place, key in enumerate(roles)}
        frame = frame.sort_values("key", key=lambda keys: keys.map(places), ignore_index=True)
        return frame.assign(arm=self._names(frame), role=frame.key.map(roles))

    @cached_property
    def compared(self) -> pd.DataFrame:
        """`arm`, `seed` and the metric of the runs that the page compares: those that keep to all
        constraints, and of further seeds alone, where architectures were chosen for these by their
        first runs."""
        metric = self.facts["metric"]
        runs = {trial["key"]: attempt_of(trial) for trial in self.facts["trials"]}
        values = {key: run.value for key, run in runs.items() if run.feasible}
        done = self.frame[self.frame.key.isin(values)]
        return comparable_cells(done.assign(**{metric: done.key.map(values)}), metric)[0]

    @property
    def baseline(self) -> str | None:
        """The arm of middle depth that others are compared with."""
        arms = {trial["key"]: trial["arm"] for trial in self.facts["trials"]}
        found = self.frame[self.frame.key.map(arms) == self.facts["baseline"]]
        return None if found.empty else str(found.arm.iloc[0])

    @property
    def page(self) -> Path:
        """The report."""
        return self.folder / "report.html"

    @property
    def figure(self) -> Path:
        """The picture of it: the metric against depth."""
        return self.folder / "depth_vs_width.png"

    def _names(self, frame: pd.DataFrame) -> "pd.Series[str]":
        """Layers and width of each run; with the architecture's id where that leaves two alike."""
        names = frame.num_hidden_layers.astype(str) + " layers × " + frame.hidden_size.astype(str)
        alike = frame.groupby(names).arm.transform("nunique") > 1
        return names.where(~alike, names + " (" + frame.arm + ")")

    def _repr_html_(self) -> str:
        metric = self.facts["metric"]
        table = self.frame.groupby("arm")[metric].agg(["count", "mean", "std"]).sort_values("mean")
        html = f"<p>study {self.folder.name}, {metric}</p>{table.to_html()}"
        if self.figure.is_file():
            picture = base64.b64encode(self.figure.read_bytes()).decode()
            html += f'<img alt="{metric} against depth" src="data:image/png;base64,{picture}">'
        return html
