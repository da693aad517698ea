"""`python -m benchmarks.data`: how fast text becomes packed tokens, and what a kill costs.

Text is made and a tokenizer trained. A process encodes stretch after stretch as builds do, and the
same texts by `tokenizers` alone, in turns: processor time, which others' work on the machine
changes little. Then whole builds, by one process and by one per core, and one that is killed with
all its processes in the middle and started again. All must leave the same bytes.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median

import numpy as np
from tokenizers import Tokenizer

from benchmarks.show import heading, leave, parser, say, table
from search.data.encode import Job
from search.data.hashes import FileHashes
from search.data.stretches import stretches_of
from search.data.tokenizer import ENCODING_BATCH_BYTES, groups, train_tokenizer
from search.train.placement import Placement, cores

FILE_BYTES = 1 << 26
TURNS = 6
BUILD = """
import sys
from search.data.cache import prepare
from search.data.config import DataConfig
path, tokenizer, cache, processes = sys.argv[1:]
config = DataConfig(
    source="text", path=path, tokenizer=tokenizer, cache=cache, processes=int(processes)
)
print(prepare(config, lambda said: print(said, flush=True)).folder)
"""


def make_text(folder: Path, n_bytes: int, seed: int = 0) -> None:
    """Files of documents of made-up words, whose frequencies fall as those of words do."""
    source = np.random.default_rng(seed)
    letters = np.array(list("etaoinshrdlucmfwypvbgkqjxz"))
    lengths = source.integers(2, 10, 30_000)
    words = np.array(["".join(source.choice(letters[:20], n)) for n in lengths])
    odds = 1 / np.arange(10, len(words) + 10)
    odds /= odds.sum()
    left = n_bytes
    for number in range(-(-n_bytes // FILE_BYTES)):
        with (folder / f"{number:04}.jsonl").open("w") as file:
            while file.tell() < min(FILE_BYTES, left):
                text = " ".join(source.choice(words, source.integers(50, 2000), p=odds))
                file.write(json.dumps({"text": text}) + "\n")
            left -= file.tell()


def job_of(text: Path, tokenizer: Path, folder: Path) -> Job:
    """A job as builds have."""
    files = sorted(text.iterdir())
    stretches = stretches_of(files, "text", FileHashes(folder / "hashes.json"))
    assert stretches is not None, "lines of JSON are divided"
    return Job(folder, tokenizer.read_text(), 0, "uint16", stretches)


def turns(job: Job) -> tuple[list[float], list[float]]:
    """(ours, tokenizers' own): M tokens per second of a core, turn by turn."""
    ours, own = list[float](), list[float]()
    tokenizer = Tokenizer.from_str(job.tokenizer)
    tokenizer.encode_special_tokens = True
    for number in range(TURNS):
        place = number % len(job.stretches)
        texts = list(job.stretches[place].documents())
        alone = partial(encode_alone, tokenizer, texts)
        acts: list[Callable[[], object]] = [partial(job.make, place, tokenizer), alone]
        took = dict.fromkeys(acts, 0.0)
        for act in acts[:: -1 if number % 2 else 1]:
            took[act] = _core_s(act)
        n = int(job.parts[place].documents()[:, 1].sum())
        for rates, act in zip((ours, own), acts, strict=True):
            rates.append(n / took[act] / 1e6)
        job.parts[place].remove()
    return ours, own


def encode_alone(tokenizer: Tokenizer, texts: list[str]) -> None:
    """What `tokenizers` does of it, in the groups that builds make."""
    for group in groups(texts, ENCODING_BATCH_BYTES):
        tokenizer.encode_batch_fast(group, add_special_tokens=False)


def _core_s(act: Callable[[], object]) -> float:
    """Processor time of an act."""
    began = time.process_time()
    act()
    return time.process_time() - began


@dataclass
class Built:
    """A build, and what it took."""

    tokens: int
    wall_s: float
    core_s: float
    content: str
    """Hash of both splits."""

    def row(self, name: str) -> list[str]:
        """Of the table."""
        rates = [self.tokens / s / 1e6 for s in (self.wall_s, self.core_s)]
        return [name, f"{self.wall_s:.1f}", *(f"{rate:.2f}" for rate in rates), self.content]


def start(text: Path, tokenizer: Path, cache: Path, processes: int) -> "subprocess.Popen[str]":
    """A build in a process group of its own."""
    command = [sys.executable, "-c", BUILD, str(text), str(tokenizer), str(cache), str(processes)]
    own = {"RAYON_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        env={**os.environ, **own},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def build(text: Path, tokenizer: Path, cache: Path, processes: int) -> Built:
    """A whole one."""
    before, began = getrusage(RUSAGE_CHILDREN), time.perf_counter()
    with start(text, tokenizer, cache, processes) as process:
        assert process.stdout is not None, "a pipe"
        for line in process.stdout:
            say(line.strip())
    assert process.returncode == 0, "it builds"
    wall_s, after = time.perf_counter() - began, getrusage(RUSAGE_CHILDREN)
    core_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    folder, digest, size = Path(line.strip()), hashlib.sha256(), 0
    for name in ("train.bin", "validation.bin"):
        digest.update((folder / name).read_bytes())
        size += (folder / name).stat().st_size
    return Built(size // 2, wall_s, core_s, digest.hexdigest()[:12])


def killed(text: Path, tokenizer: Path, cache: Path, n_parts: int) -> int:
    """How many parts are done when a build is killed with all its processes, about half."""
    with start(text, tokenizer, cache, cores()) as process:
        while len(done := list((cache / ".parts").glob("*.npy"))) < max(1, n_parts // 2):
            assert process.poll() is None, "it is not done yet"
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    return len(done)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print, and save where that is asked for; exit code 1 where bytes differ."""
    options = parser(__doc__)
    options.add_argument("--bytes", type=float, default=1e8, help="of made text; default 100 MB")
    chosen = options.parse_args(arguments)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # before its first use
    with tempfile.TemporaryDirectory() as name:
        text, same = measured(Path(name), int(chosen.bytes))
    leave("data", text, None, chosen.save)
    raise SystemExit(0 if same else 1)


def measured(folder: Path, n_bytes: int) -> tuple[str, bool]:
    """The table, and whether all builds left the same bytes."""
    text, file, own_folder = folder / "text", folder / "tokenizer.json", folder / "turns"
    for each in (text, own_folder):
        each.mkdir()
    say("making text")
    make_text(text, n_bytes)
    train_tokenizer(first_texts(text), 8192).save(str(file))
    job = job_of(text, file, own_folder)
    ours, own = turns(job)
    builds = {"one process": build(text, file, folder / "one", 1)}
    builds[f"{cores()} processes"] = build(text, file, folder / "all", cores())
    kept = killed(text, file, folder / "killed", len(job.stretches))
    left = f"killed after {kept} of {len(job.stretches)} parts, then"
    builds[left] = build(text, file, folder / "killed", cores())
    columns = ["build", "s", "M tokens/s", "M tokens per core second", "bytes"]
    share = median(a / b for a, b in zip(ours, own, strict=True))
    return (
        f"{heading(Placement(threads=cores()), ('tokenizers', 'numpy'))}\n\n"
        f"{n_bytes / 1e9:.2f} GB of made text, {builds['one process'].tokens / 1e6:.0f} M tokens. "
        f"A core encodes {median(ours):.2f} M tokens/s, reading and writing included, "
        f"{share:.0%} of the {median(own):.2f} M/s that `tokenizers` makes of the same texts alone "
        f"(medians of {len(ours)} turns, processor time).\n\n"
        + table(columns, [made.row(name) for name, made in builds.items()])
    ), len({made.content for made in builds.values()}) == 1


def first_texts(text: Path) -> list[str]:
    """Documents to train a tokenizer on."""
    with (text / "0000.jsonl").open() as lines:
        return [json.loads(line)["text"] for line in islice(lines, 3000)]


if __name__ == "__main__":
    main()
