"""A study small enough to run in a test: real text, real runs of a fraction of a second."""

import hashlib
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import optuna
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from search.__main__ import check
from search.__main__ import open_search as open_session
from search.config import SearchConfig
from search.record import Record, Score
from search.study.job import converter
from search.study.session import Session
from search.study.worker import Worker
from space.app import CONF

ROOT = Path(__file__).parent.parent

T = TypeVar("T")

TINY = (
    "budget=100k",
    "space.axes.num_blocks=[2,3,5,7]",
    "data=text",
    "data.vocab_size=300",
    "proxy=smoke",
    "recipe.tokens=1024",
    "recipe.seq_len=32",
    "recipe.batch_size=4",
    "recipe.eval_tokens=512",
    "placement.device=cpu",
    "placement.compile=no",
    "placement.threads=1",
    "study=tiny",
    "tracker=none",
    "report=false",
    "workers=1",
)
"""Four architectures, eight steps per run."""


def write_text(folder: Path) -> Path:
    """A file of 60 documents of made-up words, the same everywhere."""
    source = random.Random(0)
    words = ["".join(source.choices("abcdefghij", k=source.randint(2, 7))) for _ in range(300)]
    texts = [" ".join(source.choices(words, k=200)) for _ in range(60)]
    path = folder / "text.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def overrides(*more: str) -> list[str]:
    """Those of `TINY` that `more` does not replace, and `more`; of an option the last."""
    replaced = {text.split("=")[0].lstrip("+~") for text in more}
    last = {text.split("=")[0]: text for text in more}
    return [text for text in TINY if text.split("=")[0] not in replaced] + list(last.values())


def configured(folder: Path, *more: str) -> SearchConfig:
    """What the command line would get in `folder`, which is the current one."""
    path = folder / "text.jsonl"
    if not path.is_file():
        write_text(folder)
    with initialize_config_dir(CONF, version_base="1.3"):
        config = compose("search", overrides(f"data.path={path}", *more))
    values = OmegaConf.to_object(config)
    assert isinstance(values, SearchConfig)
    check(values)
    return values


def open_search(folder: Path, *more: str) -> Session:
    """The search that the command line would open in `folder`, which is the current one."""
    return open_session(configured(folder, *more))


def sent(value: T) -> T:
    """A part of a job as a worker gets it."""
    plain = json.loads(json.dumps(converter().unstructure(value)))
    return converter().structure(plain, type(value))


def work(search: Session, number: int = 0) -> list[dict[str, Any]]:
    """The events of a worker, in this process, that does what is left."""
    events: list[dict[str, Any]] = []
    Worker(search.job, number, events.append, threading.Event()).work()
    return events


def command(folder: Path, *more: str) -> list[str]:
    """The command line that does the same."""
    path = folder / "text.jsonl"
    if not path.is_file():
        write_text(folder)
    return [sys.executable, "-m", "search", *overrides(f"data.path={path}", *more)]


def environment() -> dict[str, str]:
    """Of a command that finds the project wherever it runs."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def start(folder: Path, *more: str, **options: Any) -> "subprocess.Popen[str]":
    """The command, running in `folder`."""
    return subprocess.Popen(
        command(folder, *more),
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def run(folder: Path, *more: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    """The command, run to its end in `folder`."""
    return subprocess.run(
        command(folder, *more),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
        **options,
    )


def study_json(folder: Path, study: str = "tiny") -> dict[str, Any]:
    """What the study says of itself."""
    content: dict[str, Any] = json.loads((folder / "outputs" / study / "study.json").read_text())
    return content


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """All records by key."""
    paths: Sequence[Path] = sorted((folder / "runs").glob("*/record.json"))
    return {path.parent.name: json.loads(path.read_text()) for path in paths}


def snapshot(folder: Path) -> dict[str, str]:
    """What is in each file of the runs."""
    files = [path for path in (folder / "runs").rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def plant(search: Session, value: float = 0.01) -> None:
    """A finished trial so good that every other one is worse at every horizon."""
    recipe = search.subject.work.recipe
    steps = {branch.end * recipe.tokens_per_step: value for branch in recipe.branches}
    search.study.add_trial(
        optuna.create_trial(
            state=optuna.trial.TrialState.COMPLETE,
            value=value,
            params={},
            intermediate_values=steps,
        )
    )


def with_scores(record: Record, values: dict[str, dict[str, float]]) -> Record:
    """The record with scores of these tasks and metrics."""
    found = tuple(
        Score(
            task=task,
            split="validation",
            source="package",
            limit=None,
            n=500,
            values=metrics,
            errors={},
            seconds=1.0,
        )
        for task, metrics in values.items()
    )
    last = record.readings[-1]
    return replace(record, readings=(replace(last, scores=found),))
