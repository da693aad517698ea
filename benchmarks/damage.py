"""`python -m benchmarks.damage`: is damage to what is kept noticed?

A small study is trained and one of its runs is stopped in a branch. Then one file after the other
is damaged: bits flipped, parts cut off, zeroed, exchanged or added, digits and lines changed, or
another file in its place; and read as the project reads it. Each damage follows from its number
and the seed alone.

*Noticed*: the file was refused. *Harmless*: what was read is what had been written. *Wrong*: it was
read as something else. *Traceback*: an error that its readers do not expect. *Hang*: reading took
over `LIMIT_S`.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any

import optuna
import torch

from ablations.timing import FILE as TIMING
from ablations.timing import Timing
from benchmarks.show import heading, leave, parser, say, table
from benchmarks.trial import write_text
from reports.read.study import read_study
from reports.views.trials import trials_csv
from search.data.cache import open_data
from search.data.hashes import FileHashes
from search.models import stored_run
from search.recipe import Recipe
from search.record import Run
from search.runs import (
    CURVE,
    WEIGHTS,
    WINDOWS,
    asked_run,
    read_metrics,
    read_record,
    read_windows,
)
from search.study.storage import damaged as damaged_trials
from search.study.storage import open_storage, read_attempts, require_settings
from search.train import checkpoint
from search.train.loop import Stop, train
from search.train.placement import Placement, settle
from space.budget import Budget, fit
from space.cost import cost as space_cost
from space.seals import digest_of_file, whole_json, write_json

LIMIT_S = 60
ROUNDS = 20
RUN_S = 24
"""Training of a run of the default sweep on one core: the median of `reports/results/laws`."""
STUDY, MEASURED = "damage", "measured.json"
SMALL = (
    "budget=100k",
    "space.axes.num_blocks=[2,3,5,7]",
    "data=text",
    "data.vocab_size=300",
    "proxy=smoke",
    "recipe.tokens=8192",
    "recipe.seq_len=32",
    "recipe.batch_size=4",
    "recipe.horizons=[0.5]",
    "recipe.eval_tokens=512",
    "placement.device=cpu",
    "placement.threads=1",
    f"study={STUDY}",
    "n_trials=6",
    "replicates.top=1",
    "replicates.seeds=2",
    "tracker=none",
    "keep=all",
    "report=false",
    "workers=1",
)
"""Four architectures, and a second seed of two."""
OUTCOMES = ("noticed", "harmless", "wrong", "traceback", "hang")

Damage = Callable[[bytes, Random, bytes], bytes]
"""A file's content, damaged; the third is that of another file of its kind."""


def flip(content: bytes, source: Random, other: bytes, times: int = 1) -> bytes:
    """Single bits changed."""
    changed = bytearray(content)
    for _ in range(times):
        changed[source.randrange(len(changed))] ^= 1 << source.randrange(8)
    return bytes(changed)


def flip_many(content: bytes, source: Random, other: bytes) -> bytes:
    """Up to twenty bits changed."""
    return flip(content, source, other, source.randint(2, 20))


def digit(content: bytes, source: Random, other: bytes) -> bytes:
    """One digit exchanged for another."""
    places = [i for i, byte in enumerate(content) if 48 <= byte < 58]
    if not places:
        return flip(content, source, other)
    changed, place = bytearray(content), source.choice(places)
    changed[place] = source.choice([d for d in range(48, 58) if d != changed[place]])
    return bytes(changed)


def cut(content: bytes, source: Random, other: bytes) -> bytes:
    """The end cut off."""
    return content[: source.randrange(len(content))]


def cut_little(content: bytes, source: Random, other: bytes) -> bytes:
    """Up to 64 bytes of the end cut off."""
    return content[: -source.randint(1, 64)]


def zero(content: bytes, source: Random, other: bytes) -> bytes:
    """A block of zeros, as after a crash of the machine."""
    start, size = source.randrange(len(content)), source.choice([16, 512, 4096])
    return content[:start] + bytes(len(content[start : start + size])) + content[start + size :]


def add(content: bytes, source: Random, other: bytes) -> bytes:
    """Junk at the end."""
    return content + source.choice([b"\0" * 100, source.randbytes(50), content[-200:], content])


def move(content: bytes, source: Random, other: bytes) -> bytes:
    """Two blocks in each other's place."""
    size = max(1, min(512, len(content) // 4))
    a, b = sorted(source.sample(range(0, len(content) - size + 1), 2))
    b = max(b, min(a + size, len(content) - size))
    if b < a + size:
        return content[::-1]
    parts = content[:a], content[b : b + size], content[a + size : b], content[a : a + size]
    return b"".join(parts) + content[b + size :]


def line(content: bytes, source: Random, other: bytes) -> bytes:
    """A line lost or doubled."""
    lines = content.splitlines(keepends=True)
    place = source.randrange(len(lines))
    lines[place : place + 1] = source.choice([[], [lines[place]] * 2])
    return b"".join(lines)


def swap(content: bytes, source: Random, other: bytes) -> bytes:
    """Another run's file."""
    return other


def mix(content: bytes, source: Random, other: bytes) -> bytes:
    """The end of another run's file, as of a disk's wrong block."""
    place = source.randrange(len(content))
    return content[:place] + other[place:]


def empty(content: bytes, source: Random, other: bytes) -> bytes:
    """Nothing left."""
    return b""


DAMAGES: Sequence[Damage] = (
    flip,
    flip_many,
    digit,
    cut,
    cut_little,
    zero,
    add,
    move,
    line,
    swap,
    mix,
    empty,
)


@dataclass(frozen=True)
class Kept:
    """A file that is kept, and how it is read."""

    name: str
    path: Path
    other: Path
    """Another run's file of the kind."""
    read: Callable[[], Any]
    """What is compared; None where the file is refused without an error."""


class Hangs(BaseException):
    """It took too long; what handles errors lets it through."""


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raises: Hangs in here after so long."""

    def stop(signum: int, frame: Any) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(kept: Kept, whole: Any) -> str:
    """What reading a damaged file came to."""
    try:
        with time_limit(LIMIT_S), redirect_stdout(StringIO()):
            found = kept.read()
    except Hangs:
        return "hang"
    except (ValueError, OSError):
        return "noticed"
    except Exception:
        return "traceback"
    if found is None:
        return "noticed"
    return "harmless" if same(found, whole) else "wrong"


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal, tensors in them included."""
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return isinstance(one, type(other)) and torch.equal(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def damaged(kept: Kept, whole: Any, number: int, seed: int) -> tuple[str, str]:
    """The name of the damage of this number to a file, and what it came to. The file, and what
    readers set aside of it, is put back."""
    content = kept.path.read_bytes()
    source = Random(f"{seed} {kept.name} {number}")
    damage = source.choice(DAMAGES)
    changed = damage(content, source, kept.other.read_bytes())
    if changed == content:
        return damage.__name__, "harmless"
    kept.path.write_bytes(changed)
    try:
        return damage.__name__, outcome(kept, whole)
    finally:
        kept.path.with_name(f"{kept.path.name}.corrupt").unlink(missing_ok=True)
        kept.path.write_bytes(content)


def study(folder: Path) -> list[str]:
    """Train the study in `folder`; the keys of its runs."""
    write_text(folder / "text.jsonl")
    command = [sys.executable, "-m", "search", *SMALL, f"data.path={folder}/text.jsonl"]
    command += [f"data.cache={folder}/data", f"runs={folder}/runs", f"outputs={folder}/outputs"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ})
    content = json.loads((folder / "outputs" / STUDY / "study.json").read_text())
    return [trial["key"] for trial in content["trials"]]


def stopped_in_branch(folder: Path, key: str, data: Path) -> Path:
    """The folder of a run like that of `key`, with the checkpoints of its trunk and its branch."""
    own = asked_run(folder / "runs" / key)
    run = replace(own, seed=own.seed + 100, init_seed=own.seed + 100)
    branch = run.recipe.branches[0]
    place = folder / "stopped" / run.key

    def stop(event: dict[str, Any]) -> None:
        if event["step"] == branch.start + 2:
            raise Stop

    try:
        train(run, open_data(data), place, placement=Placement(threads=1), progress=stop)
    except Stop:
        return place
    raise AssertionError("the run has a branch that is longer than two steps")


def kept_files(folder: Path) -> list[Kept]:
    """All kinds of files, and how each is read."""
    keys = study(folder)
    one, two = (folder / "runs" / key for key in keys[:2])
    (data,) = (path.parent for path in (folder / "data").glob("*/manifest.json"))
    here, there = (stopped_in_branch(folder, key, data) for key in keys[:2])
    record = read_record(one)
    assert record is not None, "the study has ended"
    outputs, text, memo = folder / "outputs", folder / "text.jsonl", folder / "data" / "hashes.json"
    FileHashes(memo).of([text])  # of a file that is older than two seconds it remembers
    trunk, branch = (Path("checkpoint") / name for name in (checkpoint.TRUNK, checkpoint.BRANCH))

    def page() -> Any:
        read = read_study(STUDY, outputs)
        others = read.trials[read.trials.key != one.name]
        own = read.trials[read.trials.key == one.name]
        assert trials_csv(read), "the table is made"
        there = {one.name: trials_rows(own)} if one.name in read.records else {}
        return None if not there else (trials_rows(others), there)

    def data_read() -> Any:
        found = open_data(data)
        splits = found.train.tobytes(), found.validation.tobytes()
        sizes = None if found.token_bytes is None else found.token_bytes.tobytes()
        words = None if found.tokenizer is None else found.tokenizer.read_text()
        return found.fingerprint, found.vocab_size, found.end_token, splits, sizes, words

    def hashes() -> Any:
        return FileHashes(memo).of([text])

    def seconds() -> Any:  # entries are looked up by their keys: those of others are not used
        return Timing(folder / TIMING).content.get("seconds_per_token", {}).get("1a")

    def scores() -> Any:
        return whole_json(folder / MEASURED, "scores", "remove it").get("model 1")

    def trials() -> Any:
        storage = open_storage(f"sqlite:///{outputs / STUDY / 'study.db'}")
        try:
            if STUDY not in optuna.get_all_study_names(storage.as_optunas):
                return None  # a search makes it anew, from its records
            read = optuna.load_study(study_name=STUDY, storage=storage.as_optunas)
            require_settings(STUDY, read.user_attrs)
            return None if damaged_trials(read) else read_attempts(read)
        finally:
            storage.engine.dispose()

    def facts() -> Any:
        return read_study(STUDY, outputs).facts

    def weights() -> Any:
        return digest_of_file(Path(str(stored_run(one, folder / "data").weights)))

    def windows() -> Any:
        found = read_windows(one, record)
        return None if found is None else found.tolist()

    return [
        Kept("record.json", one / "record.json", two / "record.json", lambda: read_record(one)),
        Kept("record.json, in a report", one / "record.json", two / "record.json", page),
        Kept(
            "metrics.jsonl",
            one / CURVE,
            two / CURVE,
            lambda: list(read_metrics(one, record.files[CURVE])) or None,
        ),
        Kept("windows.npy", one / WINDOWS, two / WINDOWS, windows),
        Kept("weights.safetensors", one / WEIGHTS, two / WEIGHTS, weights),
        Kept("run.yaml", one / "run.yaml", two / "run.yaml", lambda: asked_run(one)),
        Kept("state.pt", here / trunk, there / trunk, lambda: trunk_of(here)),
        Kept("branch.pt", here / branch, there / branch, lambda: branch_of(here)),
        *(
            Kept(f"data: {name}", data / name, one / "record.json", data_read)
            for name in ("manifest.json", "train.bin", "validation.bin", "tokenizer.json")
        ),
        Kept("data: token_bytes.npy", data / "token_bytes.npy", one / "record.json", data_read),
        Kept("data: hashes.json", memo, one / "record.json", hashes),
        Kept("timing.json", *timings(folder), seconds),
        Kept("measured.json", *measurements(folder), scores),
        Kept("study.db", outputs / STUDY / "study.db", one / "record.json", trials),
        Kept("study.json", outputs / STUDY / "study.json", one / "record.json", facts),
    ]


def timings(folder: Path) -> tuple[Path, Path]:
    """What a table's arms took, as `ablations.timing` keeps it, and another table's."""
    return _two(folder, TIMING, lambda i: {"seconds_per_token": {f"{i}a": 1e-5 * i, f"{i}b": 2e-5}})


def measurements(folder: Path) -> tuple[Path, Path]:
    """What was measured of models, and of others."""
    return _two(folder, MEASURED, lambda i: {f"model {i}": {"parameters": i, "scores": [0.5 / i]}})


def _two(folder: Path, name: str, content: Callable[[int], dict[str, Any]]) -> tuple[Path, Path]:
    paths = folder / name, folder / f"other {name}"
    for number, path in enumerate(paths, 1):
        write_json(path, content(number))
    return paths


def trunk_of(folder: Path) -> Any:
    """The checkpoint that a branch returns to."""
    return checkpoint.load_trunk(folder, folder.name)


def branch_of(folder: Path) -> Any:
    """The checkpoint that a run goes on from; None where it is the trunk's."""
    saved = checkpoint.load(folder, folder.name)
    return saved if saved is not None and saved["state"]["trunk_step"] is not None else None


def trials_rows(trials: Any) -> str:
    """Rows of a study's table at full precision."""
    return str(trials.to_json(orient="records", double_precision=15))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table; exit code 1 where a damage was not noticed."""
    options = parser(__doc__)
    options.add_argument("--count", type=int, default=3000)
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        found, bad = damage_all(Path(folder), chosen.count, chosen.seed)
        share = cost(Path(folder))
    text = f"{heading(settle(Placement(), run_of_default()))}\n\n{described(found, bad, share)}"
    leave("damage", text, None, chosen.save)
    raise SystemExit(1 if bad else 0)


def damage_all(folder: Path, count: int, seed: int) -> tuple[Counter[tuple[str, str]], list[str]]:
    """How often each (file, outcome) was found, and each damage that was not noticed."""
    files = kept_files(folder)
    wholes = [kept.read() for kept in files]
    found, bad = Counter[tuple[str, str]](), []
    for number in range(count):
        kept, whole = files[number % len(files)], wholes[number % len(files)]
        name, what = damaged(kept, whole, number, seed)
        found[kept.name, what] += 1
        if what not in ("noticed", "harmless"):
            bad.append(f"{what}: {kept.name}, {name}, number {number}")
            say(bad[-1])
    return found, bad


def described(found: Counter[tuple[str, str]], bad: Sequence[str], share: str) -> str:
    """The table, as Markdown."""
    names = list(dict.fromkeys(name for name, _ in found))
    counts = {name: [found[name, o] for o in OUTCOMES] for name in names}
    total = [sum(column) for column in zip(*counts.values(), strict=True)]
    rows = [[n, str(sum(c)), *map(str, c)] for n, c in {**counts, "all": total}.items()]
    kinds = ", ".join(damage.__name__.replace("_", " ") for damage in DAMAGES)
    worst = "".join(f"- {text}\n" for text in bad)
    return (
        f"{sum(total):,} damages ({kinds}) to files of a study of six runs.\n\n"
        + table(["file", "damages", *OUTCOMES], rows)
        + (f"\n{worst}" if worst else "")
        + f"\n{share}\n"
    )


def cost(folder: Path) -> str:
    """What digests take of a run of the default sweep."""
    run = run_of_default()
    weights = 4 * space_cost(run.architecture).parameters
    path = folder / "weights"
    path.write_bytes(os.urandom(weights))
    started = time.perf_counter()
    for _ in range(ROUNDS):
        digest_of_file(path)
    each_s = (time.perf_counter() - started) / ROUNDS
    all_s = (1 + 1 + 2 * 3) * each_s
    return (
        f"Digests of a run of the default sweep: {1e3 * each_s:.1f} ms for weights of "
        f"{weights / 1e6:.1f} MB. These written and checked once, and two checkpoints of three "
        f"times the size, are {1e3 * all_s:.0f} ms, {all_s / RUN_S:.2%} of the {RUN_S} s that such "
        "a run trains on one core."
    )


def run_of_default() -> Run:
    """A run of the size of the default sweep."""
    architecture = fit({"vocab_size": 1024, "num_blocks": 9}, Budget("parameters", 1_000_000))
    return Run(
        architecture=architecture,
        recipe=Recipe(tokens=800_000, seq_len=128, batch_size=4, precision="bf16"),
        data_fingerprint="none",
    )


if __name__ == "__main__":
    main()
