"""`python -m benchmarks.faults --executor ray --kills 20`: what random kills cost a study.

A study is run undisturbed, and once more while its parts are killed at random: workers, hosts, the
command, the database. The command is started again whenever it has ended before its time. At the
end there must be

- exactly as many distinct finished runs as were asked for, with bit-identical losses;
- at most one checkpoint interval of training done again for each worker that was killed, and none
  where it could write a checkpoint;
- no process and no lock left, and no trial that waits or runs.

Steps sleep (`benchmarks.sleeping`). Ray has hosts in network namespaces, Slurm daemons of this
machine; both need root. A kind of fault is a function of a `Site`, listed in `FAULTS`.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import optuna

from benchmarks import sleeping
from benchmarks.servers import alive, is_command, left_of
from benchmarks.servers.place import EXECUTORS, Place, place_of
from benchmarks.show import heading, leave, parser, say, table
from benchmarks.trial import write_text
from search.runs import read_metrics, read_record
from search.train.placement import Placement

STUDY = "faults"
STEPS = 60
"""Of a run: six seconds."""
CHECKPOINT_S = 1.0
SLACK_S = 0.5
"""For writing a checkpoint, on a machine that is busy."""
PAUSE_S = (1.0, 5.0)
"""Between two faults, at least: the study must have made a step since."""
AWAY_S = 3.0
"""Of a node of Slurm that is lost."""
LIMIT_S = 120.0
"""For a fault, of waiting for the study to go on."""


@dataclass
class Site:
    """A study in its place, and what of it can be killed."""

    place: Place
    options: Sequence[str]
    chance: random.Random
    command: "subprocess.Popen[bytes] | None" = None
    starts: int = 0
    done: Counter[str] = field(default_factory=Counter)
    """Faults."""
    killed: int = 0
    """Workers that were given no time."""
    steps_before: int = 0
    """That had been done at the last fault."""

    @property
    def folder(self) -> Path:
        return self.place.folder

    def start(self) -> None:
        """Give the command."""
        with open(self.folder / "command.log", "ab") as log:
            self.command = subprocess.Popen(
                self.place.home.command(sys.executable, "-m", "search", *self.options),
                cwd=self.folder,
                env={**os.environ, **self.place.variables},
                stdout=log,
                stderr=log,
            )
        self.starts += 1

    def workers(self) -> list[int]:
        """Process ids of workers, on any host."""
        pids = [pid for pid in left_of(self.folder) if alive(pid)]
        return [pid for pid in pids if is_command(pid, "search.study.worker")]

    def of_command(self) -> list[int]:
        """The command's own process."""
        pids = [pid for pid in left_of(self.folder) if alive(pid)]
        return [pid for pid in pids if is_command(pid, "-m search ")]

    def steps(self) -> int:
        """That have been done, those done again included."""
        with suppress(FileNotFoundError):
            return (self.folder / sleeping.STEPS).stat().st_size
        return 0

    def kill(self, pids: Sequence[int]) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


Fault = Callable[[Site], int | None]
"""Does harm; returns how many workers it killed, None where there was nothing to harm."""


def worker(site: Site) -> int | None:
    """Kill one."""
    victims = site.workers()[:]
    site.chance.shuffle(victims)
    site.kill(victims[:1])
    return 1 if victims else None


def driver(site: Site) -> int | None:
    """Kill the command. Its workers end at a checkpoint; those of Slurm go on."""
    victims = site.of_command()
    site.kill(victims)
    return 0 if victims else None


def database(site: Site) -> int:
    """Crash the database, and start it again."""
    site.place.database.kill()
    time.sleep(1)
    site.place.database.start()
    return 0


def host(site: Site) -> int | None:
    """Kill all processes of a node, and bring it back."""
    before = set(site.workers())
    if site.place.ray is not None:
        node = site.chance.choice(site.place.nodes)
        node.kill()
        killed = len(before - set(site.workers()))
        site.place.ray.join(node)
        return killed
    if (queue := site.place.slurm) is not None:
        name = site.chance.choice(queue.nodes)
        queue.kill(name)
        killed = len(before - set(site.workers()))
        queue.miss(name)
        time.sleep(AWAY_S)  # what Slurm sends it of its jobs is meant for the one that is gone
        queue.start_node(name)
        return killed
    return None


def leaving(site: Site) -> int | None:
    """Have Slurm put a job back into the queue, as it does with one that it pre-empts."""
    if site.place.slurm is None or not (running := site.place.slurm.jobs("RUNNING")):
        return None
    site.place.slurm.says("scontrol", "requeue", site.chance.choice(running))
    return 0


FAULTS: Mapping[str, Fault] = {
    "worker": worker,
    "host": host,
    "driver": driver,
    "database": database,
    "leaving": leaving,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    options = parser(__doc__)
    options.add_argument("--executor", choices=EXECUTORS, default="local")
    options.add_argument("--kills", type=int, default=20)
    options.add_argument("--seed", type=int, default=0, help="of the faults")
    options.add_argument("--faults", nargs="+", choices=tuple(FAULTS), default=list(FAULTS))
    chosen = options.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="faults") as name:
        Path(name).chmod(0o755)  # the database has a user of its own
        text = measured(Path(name), chosen.executor, chosen.kills, chosen.faults, chosen.seed)
    text = f"{heading(Placement(device='cpu', threads=1), ('torch', 'optuna'))}\n\n{text}"
    leave(f"faults_{chosen.executor}", text, None, chosen.save)


def measured(folder: Path, executor: str, kills: int, faults: Sequence[str], seed: int) -> str:
    """Both studies, compared.

    Raises:
        AssertionError: something was lost, done twice or left.
    """
    runs = max(6, kills * 6 // 5)  # the study is to last longer than its faults
    write_text(folder / "text.jsonl")
    say(f"{runs} runs undisturbed")
    calm = undisturbed(folder, runs)
    with site_of(executor, folder, runs, random.Random(seed)) as site:
        began = time.monotonic()
        disturb(site, kills, faults)
        wall_s = time.monotonic() - began
        after = results(site.folder / "runs")
        left = what_is_left(site)
    again_s = (site.steps() - STEPS * len(after)) * sleeping.STEP_S
    bound_s = site.killed * (CHECKPOINT_S + sleeping.STEP_S + SLACK_S)
    rows = [
        ["faults", str(sum(site.done.values())), str(kills)],
        *([f"… {name}", str(count), ""] for name, count in sorted(site.done.items())),
        ["workers killed", str(site.killed), ""],
        ["starts of the command", str(site.starts), ""],
        ["distinct finished runs", str(len(after)), str(runs)],
        ["… with the losses of the undisturbed study", str(_equal(calm, after)), str(runs)],
        ["training done again", f"{again_s:.1f} s", f"at most {bound_s:.1f} s"],
        ["… for each worker killed", f"{again_s / max(1, site.killed):.2f} s", ""],
        ["processes, locks and trials left", str(len(left)), "0"],
        ["wall time", f"{wall_s:.0f} s", ""],
    ]
    text = table([f"executor={executor}", "measured", "wanted"], rows)
    assert len(after) == runs, text
    assert _equal(calm, after) == runs, text
    assert again_s <= bound_s, text
    assert not left, f"{text}\n{left}"
    return text


def undisturbed(folder: Path, runs: int) -> dict[str, Any]:
    """The results of the study when nothing happens to it and nobody sleeps."""
    calm = folder / "calm"
    calm.mkdir()
    subprocess.run(
        [sys.executable, "-m", "search", *study(folder, runs), "workers=2"],
        cwd=calm,
        env={**os.environ, "ISOPARAM_STEP_S": "0"},
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return results(calm / "runs")


def study(folder: Path, runs: int) -> list[str]:
    """Options of the study, but for where it runs."""
    tokens = 4 * 32 * STEPS
    return [
        *("budget=100k", "space.axes.num_blocks=[2,3,5,7]", f"n_trials={runs}"),
        *("replicates.top=3", f"replicates.seeds={runs}", f"study={STUDY}"),
        *("data=text", f"data.path={folder}/text.jsonl", f"data.cache={folder}/data"),
        *("data.vocab_size=300", "proxy=smoke", f"recipe.tokens={tokens}", "recipe.seq_len=32"),
        *("recipe.batch_size=4", "recipe.eval_tokens=512", "recipe.optimizer=benchmarks.sleeping"),
        *("placement.device=cpu", "placement.threads=1", f"placement.checkpoint_s={CHECKPOINT_S}"),
        *("tracker=none", "report=false"),
    ]


@contextmanager
def site_of(executor: str, folder: Path, runs: int, chance: random.Random) -> Iterator[Site]:
    """A place for the study, with its servers."""
    with place_of(executor, folder / executor) as place:
        options = [*study(folder, runs), *place.options, "workers=2"]
        site = Site(place=place, options=options, chance=chance)
        try:
            yield site
        finally:
            site.kill([pid for pid in left_of(place.folder) if is_command(pid, "search")])


def disturb(site: Site, kills: int, faults: Sequence[str]) -> None:
    """Run the study to its end, with so many faults on the way."""
    site.start()
    stalled = time.monotonic()
    while True:
        time.sleep(site.chance.uniform(*PAUSE_S))
        if site.place.slurm is not None:
            site.place.slurm.hurry()
        code = site.command.poll() if site.command is not None else None
        if code == 0:
            return
        if code is not None:
            said = (site.folder / "command.log").read_text()[-1000:]
            assert site.starts < kills + 5, f"the command ends again and again: {said}"
            site.start()
            continue
        if sum(site.done.values()) >= kills or site.steps() == site.steps_before:
            assert time.monotonic() - stalled < LIMIT_S * 10, "the study does not go on"
            continue
        name = site.chance.choice(list(faults))
        if (killed := FAULTS[name](site)) is not None:
            site.done[name] += 1
            site.killed += killed
            site.steps_before = site.steps()
            stalled = time.monotonic()
            say(f"{sum(site.done.values())} of {kills}: {name}")


def results(runs: Path) -> dict[str, Any]:
    """Of each finished run its readings and its curve, but for what clocks say."""
    found = {}
    for folder in runs.iterdir():
        record = read_record(folder)
        if record is not None and record.final:
            curve = [{k: v for k, v in x.items() if k != "elapsed_s"} for x in read_metrics(folder)]
            found[folder.name] = (record.readings, curve)
    return found


def what_is_left(site: Site) -> list[str]:
    """Processes of the study, locks that are held, and trials that are not over."""
    time.sleep(2)
    left = [f"process {pid}" for pid in site.workers() + site.of_command()]
    for path in (site.folder / "runs").glob("*/.lock"):
        try:
            filelock.FileLock(path).acquire(timeout=0)
        except filelock.Timeout:
            left.append(str(path))
    trials = optuna.load_study(study_name=STUDY, storage=site.place.database.url()).trials
    return left + [f"trial {t.number} {t.state}" for t in trials if not t.state.is_finished()]


def _equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> int:
    """How many runs are the same in both."""
    return sum(one[key] == other.get(key) for key in one)


if __name__ == "__main__":
    main()
