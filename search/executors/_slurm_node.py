"""What a job of Slurm runs on its node: workers, until nothing is left or the job must leave."""

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from search.executors import Deliver, Event
from search.executors.local import Child, Local
from search.states import End
from search.study.job import Job

BEGUN = "begun"
"""An event of a node about one of its workers, which goes no further."""


def serve(job_file: str, events: str, first: int, size: int) -> None:
    """Do a study's work with workers `first` to `first` + `size` − 1. Where Slurm wants the node
    back, they write checkpoints, and the job goes into the queue again."""
    leaving = Leaving()
    job = replace(Job.from_json(Path(job_file).read_text()), workers=size)
    with open(events, "a") as file:
        try:
            ending = run(job, Teller(file, first))
        except KeyboardInterrupt:  # before there were workers
            ending = End.INTERRUPTED
    if ending == End.INTERRUPTED and leaving.asked:
        requeue(os.environ)
    if ending in (End.CRASHED, End.FATAL):
        raise SystemExit(1)


def run(job: Job, teller: "Teller") -> End:
    """Start workers and replace those that die, to the end."""
    from search.study.pool import Pool
    from search.study.pruners import make_pruner
    from search.study.samplers import make_sampler
    from search.study.storage import load_study

    sampler = make_sampler(job.sampler, job.seed)
    study = load_study(job, sampler, make_pruner(job.pruner, job.work.typical.recipe))
    stopping = (signal.SIGINT,)
    here: Any = Numbered(teller)
    ending = Pool(job, study, job.workers, teller.tell, here, stopping=stopping).run()
    print(f"{ending.kind}: {ending.reason}" if ending.reason else ending.kind)
    return ending.kind


class Leaving:
    """Takes the signals by which Slurm wants the node back: SIGUSR1 some time before the job's
    limit, SIGTERM when it is pre-empted or cancelled. Interrupts the workers once."""

    def __init__(self) -> None:
        self.asked = False
        for each in (signal.SIGUSR1, signal.SIGTERM):
            signal.signal(each, self._take)

    def _take(self, signum: int, frame: Any) -> None:
        if not self.asked:
            self.asked = True
            signal.raise_signal(signal.SIGINT)


def requeue(variables: Mapping[str, str]) -> None:
    """Put this job back into the queue, unless Slurm does so itself or a user has cancelled it."""
    job = variables["SLURM_JOB_ID"]
    asked = ["squeue", "--noheader", "--format=%T", "-j", job]
    state = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    if state == "RUNNING":
        array, task = variables.get("SLURM_ARRAY_JOB_ID"), variables.get("SLURM_ARRAY_TASK_ID")
        subprocess.run(["scontrol", "requeue", f"{array}_{task}" if array else job], check=False)


@dataclass(frozen=True)
class Teller:
    """Writes what workers report, a line each, for the command that waits."""

    file: TextIO
    first: int

    def tell(self, number: int, event: Event) -> None:
        self.file.write(json.dumps([self.first + number, event]) + "\n")
        self.file.flush()


class Numbered(Local):
    """Processes of this node, by their numbers in the whole study. Slurm signals every process of a
    job; these leave it to their parent."""

    def __init__(self, teller: Teller) -> None:
        self.teller = teller

    def command(self) -> list[str]:
        deaf = "trap '' INT TERM USR1; exec \"$@\""
        return ["sh", "-c", deaf, "sh", *super().command()]

    def start(self, job: Job, number: int, deliver: Deliver) -> Child:
        child = super().start(job, self.teller.first + number, deliver)
        self.teller.tell(number, {"event": BEGUN, "name": child.name, "log": child.log})
        return child
