"""`python -m benchmarks.fuzz`: what nonsense does, in configurations of all verbs and in files.

Configurations are overrides of a verb, one or a few at once, drawn from what its schema takes and
from nonsense. Each goes through the verb itself, in process, up to where it would read data or
train. It must be taken, or refused by one line and exit code 2.

Files are small valid ones with bytes flipped, cut, doubled or swapped, and JSON with values
replaced: configurations, checkpoints, tokenizers, text, tokens, spaces, tables, scores. What reads
one must give a result, or raise a `ValueError` or an `OSError` of one line.

A run is known by its seed and its number, so that a finding can be had again with `--only`.
"""

import io
import json
import logging
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, is_dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints
from unittest.mock import patch

from hydra._internal.hydra import Hydra
from hydra.types import RunMode

from benchmarks.damage import Hangs, time_limit
from benchmarks.show import heading, leave, parser, say, table
from search.train.placement import Placement
from space.app import CONF
from space.words import command

LIMIT_S = 120
"""For one of them, by the clock of a machine that may be busy: what takes longer hangs."""
MEMORY_BYTES = 8 << 30
"""Of address space, so that a finding does not take the machine with it."""


class Taken(BaseException):
    """A configuration was taken: data would be read, or a model trained."""


@dataclass(frozen=True)
class Verb:
    """A command."""

    module: str
    schema: str
    """Name of its configuration's class in the module."""
    stops: tuple[str, ...] = ()
    """Names in the module behind which data are read, or models trained."""
    usual: tuple[str, ...] = ()
    """Overrides without which it asks for something."""


VERBS = {
    "space": Verb("space.__main__", "Config"),
    "search": Verb("search.__main__", "SearchConfig", ("open_search",)),
    "ablations": Verb(
        "ablations.__main__", "AblationConfig", ("open_table",), ("table=depth_width",)
    ),
    "reports": Verb("reports.__main__", "ReportsConfig"),
    "search.run": Verb("search.run", "RunConfig", ("prepare",), ("architecture=mobilellm_125m",)),
    "search.evaluate": Verb(
        "search.evaluate.__main__", "EvaluateConfig", ("build",), ("model=none",)
    ),
    "search.paired": Verb(
        "search.paired", "PairedConfig", (), ("baseline=a.json", "candidate=b.json")
    ),
    "search.coordinate_check": Verb(
        "search.coordinate_check", "CoordinateCheckConfig", ("prepare",), ("proxy=smoke",)
    ),
    "search.measure": Verb(
        "search.measure.__main__", "MeasureConfig", ("measure",), ("model=mobilellm_125m",)
    ),
    "reports.serve": Verb("reports.serve.__main__", "ServeConfig", ("Watch",)),
    "search.status": Verb("search.status", "StatusConfig", ("All",), ("study=a",)),
    "search.whose": Verb("search.whose", "WhoseConfig"),
    "search.join": Verb("search.join", "StatusConfig", (), ("study=a",)),
}

NONSENSE = (
    *("nan", "inf", "-inf", "-1", "0", "1", "2", "3.5", "1e300", "-1e300", "1e-300", "9" * 31),
    *("null", "true", "no", "''", '""', "' '", "[]", "{}", "[1]", "{a:1}", "[nan]", "[[1],2]"),
    *("2025_11_25", "8041237e46551902", "0x10", "007", "1_0", "auto", "none", "???", "help"),
    *("~", "~/c", "a=b", "a b", "(", ")", "[", "]", "{", "a,b", "a:b", "${x}", "${oc.env:HOME}"),
    *("../../evil", "/nonesuch/file", "a/b", ".", "..", "'книги/o'", "книги", "宽", "\u0301", "'"),
    *(
        "\\",
        "\\\\",
        '"',
        "'a\nb'",
        "a\0b",
        "x" * 300,
        "[" * 60 + "]" * 60,
        "1..9",
        "1..99999999999",
    ),
    *(
        "[1,2,3]",
        "[0.5]",
        "[0.5,0.25]",
        "[-1,nan]",
        "['kv_bytes<=1']",
        "['kv_bytes<=x']",
        "{a:{b:}",
    ),
)
MARKS = ("", "", "", "", "", "+", "++", "~")
"""Before an override: Hydra's ways to add and to take out."""


def options_of(schema: Any, at: str = "") -> Iterator[str]:
    """Every option that a schema has, groups among them."""
    for name, hint in get_type_hints(schema).items():
        if name.startswith("_") or name in ("door", "given_as"):
            continue
        yield f"{at}{name}"
        for kind in (hint, *get_args(hint)):
            if is_dataclass(kind):
                yield from options_of(kind, f"{at}{name}.")


def values_for(option: str) -> list[str]:
    """What may be given: names of files of its group are sense, the others may be."""
    group = Path(CONF) / option
    return [path.stem for path in sorted(group.glob("*.yaml"))] if group.is_dir() else []


def draw(rng: random.Random, verb: Verb, options: list[str]) -> list[str]:
    """Overrides of a verb."""
    given = list(verb.usual)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        option = rng.choice(options)
        if rng.random() < 0.05:
            option += rng.choice((".x", ".options.x", "[0]", "@y", " ", "."))
        sense = values_for(option)
        value = rng.choice(sense) if sense and rng.random() < 0.4 else rng.choice(NONSENSE)
        equals = "" if rng.random() < 0.01 else "="
        text = f"{rng.choice(MARKS)}{option}{equals}{value}"
        given = [kept for kept in given if kept.partition("=")[0] != option]
        given.insert(rng.randrange(len(given) + 1), text)
    return given


def outcome(command: Callable[[], None]) -> tuple[str, str]:
    """What a command did, in a word, and what it said where that is wrong."""
    errors = io.StringIO()
    try:
        with time_limit(LIMIT_S), redirect_stdout(io.StringIO()), redirect_stderr(errors):
            command()
    except Taken:
        return "taken", ""
    except Hangs:
        return "hangs", ""
    except SystemExit as ended:
        return judged(ended.code, errors.getvalue())
    except BaseException as error:
        return "traceback", f"{type(error).__name__}: {error}\n{last_frames(error)}"
    return "done", ""


def judged(code: Any, said: str) -> tuple[str, str]:
    """Of exit code and standard error."""
    lines = said.strip().splitlines()
    if code == 2 and len(lines) == 1 and lines[0].startswith("error: "):
        return "refused", ""
    return ("done", "") if code in (0, None) else ("wrong exit", f"exit code {code}: {said[-500:]}")


def last_frames(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(frames))


def configurations(count: int, seed: int, only: set[int]) -> Iterator[tuple[str, str, str, str]]:
    """(verb, what, outcome, said) of so many configurations."""
    modules = {name: import_module(verb.module) for name, verb in VERBS.items()}
    options = {
        name: list(options_of(getattr(modules[name], verb.schema))) for name, verb in VERBS.items()
    }
    for number in range(count):
        rng = random.Random(f"{seed} configuration {number}")
        name = rng.choice(list(VERBS))
        verb, module = VERBS[name], modules[name]
        given = draw(rng, verb, options[name])
        if only and number not in only:
            continue
        with nothing_runs(module, verb), patch.object(sys, "argv", [name, *given]), composed_once():
            word, said = outcome(module.main)
        yield name, f"{number}: {command(name, *given)}", word, said


def composed_once() -> Any:
    """While it lasts, Hydra does not compose a configuration just to see whether it is for several
    starts, which verbs refuse before: half of the time."""
    return patch.object(Hydra, "get_mode", return_value=RunMode.RUN)


@contextmanager
def nothing_runs(module: Any, verb: Verb) -> Iterator[None]:
    """While it lasts, a verb raises Taken where it would begin."""

    def taken(*_: Any, **__: Any) -> None:
        raise Taken

    before = {stop: getattr(module, stop) for stop in verb.stops}
    for stop in before:
        setattr(module, stop, taken)
    try:
        yield
    finally:
        for stop, function in before.items():
            setattr(module, stop, function)


# --- Files ----------------------------------------------------------------------------------------


def mutated(rng: random.Random, content: bytes) -> bytes:
    """The content with something wrong in it."""
    if rng.random() < 0.4:
        with suppress(ValueError):
            return json.dumps(replaced(rng, json.loads(content))).encode()
    data = bytearray(content)
    at = rng.randrange(len(data) + 1)
    how = rng.randrange(6)
    if how == 0:  # flipped bits
        for _ in range(rng.choice((1, 1, 8, 64))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif how == 1:
        del data[at:]
    elif how == 2:
        data[at:at] = rng.randbytes(rng.choice((1, 16, 4096)))
    elif how == 3:
        data[at:at] = data[: rng.randrange(len(data) + 1)]
    elif how == 4:
        data[at : at + 64] = rng.choice((b"\0", b"\xff", b"9", b"[", b"{")) * 64
    else:
        data[:] = rng.choice((b"", b"\0", b"null", b"[]", b"{}", b"5", b'"x"', b"[" * 100_000))
    return bytes(data)


WRONG: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 0.5, 1e300, 10**30, float("nan"), "", "x", "../../evil", [], {}),
    *([1], [[0, 0]], {"a": 1}, "9" * 400, 10**9, 10**12),
)


def replaced(rng: random.Random, value: Any) -> Any:
    """A JSON value with something in it that is wrong, or gone."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = rng.choice(list(value))
        if rng.random() < 0.15:
            return {k: v for k, v in value.items() if k != name}
        return value | {name: replaced(rng, value[name])}
    if isinstance(value, list) and value and rng.random() < 0.7:
        place = rng.randrange(len(value))
        return [replaced(rng, v) if i == place else v for i, v in enumerate(value)]
    return rng.choice(WRONG)


@dataclass(frozen=True)
class Reader:
    """Something that reads files of others."""

    name: str
    make: Callable[[Path], Path]
    """A valid file in a folder, with what must lie beside it: the one that is mutated."""
    read: Callable[[Path], Any]


def readers() -> list[Reader]:
    """All kinds of files that come from outside."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import zstandard

    from ablations.files import TableFile
    from search.data.cache import prepare
    from search.data.config import DataConfig
    from search.data.tokenizer import train_tokenizer
    from search.paired import compare
    from search.paired import read as read_scores
    from search.recipe import Recipe
    from space.arch import Architecture
    from space.axes import Space
    from space.device import Device
    from space.hf import architecture_of, export, load
    from space.hf.weights import INDEX, stored_tensors
    from space.hf.write import write_origin
    from space.model import Decoder
    from space.stored import ORIGIN, read_origin

    texts = [f"the cat number {i} sat on the mat of house {i * 7 % 13}, " * 9 for i in range(60)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    arch = Architecture(
        vocab_size=300, hidden_size=32, num_blocks=2, num_attention_heads=4, intermediate_size=48
    )
    model, tokenizer = Decoder(arch), train_tokenizer(texts, 300)

    def written(name: str, content: bytes) -> Callable[[Path], Path]:
        def make(folder: Path) -> Path:
            (folder / name).write_bytes(content)
            return folder / name

        return make

    def exported(name: str) -> Callable[[Path], Path]:
        def make(folder: Path) -> Path:
            return export(model, folder / "model", tokenizer) / name

        return make

    def sharded(folder: Path) -> Path:
        path = exported("model.safetensors")(folder)
        names = dict.fromkeys(stored_tensors(path).files, path.name)
        path.with_name(INDEX).write_text(json.dumps({"weight_map": names}))
        return path.with_name(INDEX)

    def origin(folder: Path) -> Path:
        write_origin(folder, arch, "gguf", "q8_0")
        return folder / ORIGIN

    def parquet(folder: Path) -> Path:
        pq.write_table(pa.table({"text": texts}), folder / "a.parquet")
        return folder / "a.parquet"

    def text(path: Path) -> Any:
        cache = str(path.parent / "cache")
        return quietly(DataConfig(source="text", path=str(path), vocab_size=300, cache=cache))

    def tokens(path: Path) -> Any:
        cache = str(path.parent / "cache")
        return quietly(DataConfig(source="tokens", path=str(path), vocab_size=300, cache=cache))

    def own_tokenizer(path: Path) -> Any:
        (path.parent / "a.jsonl").write_text(lines)
        text, cache = str(path.parent / "a.jsonl"), str(path.parent / "cache")
        return quietly(DataConfig(source="text", path=text, tokenizer=str(path), cache=cache))

    def quietly(config: DataConfig) -> Any:
        return prepare(config, lambda message: None)

    def space(path: Path) -> Any:
        return Space.from_yaml(path, "1m", 4096).size

    def device(path: Path) -> Any:
        return Device.from_yaml(path).decode_ms(arch)

    def scores(path: Path) -> Any:
        return compare(read_scores(path), read_scores(path))

    def a_table(path: Path) -> Any:
        recipe = Recipe(tokens=100_000)
        return TableFile.read(str(path)).table("proxy", recipe, 1024)

    def conf(kind: str, name: str) -> Callable[[Path], Path]:
        return written(f"{name}.yaml", (Path(CONF) / kind / f"{name}.yaml").read_bytes())

    documents = [
        {"id": i, "hash": str(i), "group": str(i % 5), "values": {"acc": i % 2}} for i in range(9)
    ]
    score = {"task": "t", "source": "s", "split": "v", "n": 9, "values": {"acc": 0.4}}
    packed = zstandard.ZstdCompressor().compress(lines.encode())
    ids = np.random.default_rng(0).integers(0, 300, 40_000).astype("<u2").tobytes()
    token_lines = "".join(
        json.dumps({"token_ids": list(range(i, i + 90))}) + "\n" for i in range(60)
    )
    scored = json.dumps([score | {"documents": documents}]).encode()
    return [
        Reader("config.json", exported("config.json"), architecture_of),
        Reader("config.json, with weights", exported("config.json"), lambda p: load(p.parent)),
        Reader("model.safetensors", exported("model.safetensors"), lambda p: load(p.parent)),
        Reader("model.safetensors.index.json", sharded, lambda p: load(p.parent)),
        Reader("isoparam.json", origin, lambda p: read_origin(p.parent)),
        Reader("tokenizer.json", exported("tokenizer.json"), own_tokenizer),
        Reader("text.txt", written("a.txt", "\n\n".join(texts).encode()), text),
        Reader("text.jsonl", written("a.jsonl", lines.encode()), text),
        Reader("text.jsonl.zst", written("a.jsonl.zst", packed), text),
        Reader("text.parquet", parquet, text),
        Reader("tokens.bin", written("a.bin", ids), tokens),
        Reader("tokens.jsonl", written("a.jsonl", token_lines.encode()), tokens),
        Reader("a space", conf("space", "gqa"), space),
        Reader("an architecture", conf("architecture", "smollm2_135m"), Architecture.from_yaml),
        Reader("a device", conf("device", "iphone_13"), device),
        Reader("a table", conf("ablation", "heads"), a_table),
        Reader("a table of trust", conf("ablation", "proxy_horizon"), a_table),
        Reader("scores", written("a.json", scored), scores),
    ]


def files(count: int, seed: int, only: set[int]) -> Iterator[tuple[str, str, str, str]]:
    """(kind, what, outcome, said) of so many files."""
    known = readers() if count else []
    for reader in known:  # else what is refused would show nothing
        with tempfile.TemporaryDirectory() as made:
            reader.read(reader.make(Path(made)))
    for number in range(count):
        rng = random.Random(f"{seed} file {number}")
        reader = known[number % len(known)]
        if only and number not in only:
            continue
        with tempfile.TemporaryDirectory() as made:
            path = reader.make(Path(made))
            path.write_bytes(mutated(rng, path.read_bytes()))
            word, said = outcome(partial(as_command, reader, path))
        yield reader.name, f"{number}: {reader.name}", word, said


def as_command(reader: Reader, path: Path) -> None:
    """What is wrong with the file ends as it ends a verb."""
    from space.cli import one_line_errors

    with one_line_errors():
        reader.read(path)


WORDS = ("taken", "done", "refused", "traceback", "hangs", "wrong exit")
GOOD = WORDS[:3]


def summary(title: str, found: list[tuple[str, str, str, str]]) -> str:
    """A row for each verb or kind of file."""
    counts: dict[str, Counter[str]] = {}
    for name, _, word, _ in found:
        counts.setdefault(name, Counter())[word] += 1
        counts.setdefault("all", Counter())[word] += 1
    last = counts.pop("all", Counter())
    rows = [[name, *(f"{n[word]:,}" for word in WORDS)] for name, n in sorted(counts.items())]
    return table([title, *WORDS], [*rows, ["all", *(f"{last[word]:,}" for word in WORDS)]])


def watched(
    kind: str, runs: Iterator[tuple[str, str, str, str]]
) -> list[tuple[str, str, str, str]]:
    """All of them, findings said at once."""
    found, started = [], time.monotonic()
    for run in runs:
        found.append(run)
        if run[2] not in GOOD:
            say(f"{run[2]}: {run[1]}\n  {run[3]}")
        if len(found) % 500 == 0:
            say(f"{kind}: {len(found)} in {time.monotonic() - started:.0f} s")
    return found


def main() -> None:
    """Print both tables; exit with 1 where something was found."""
    options = parser(__doc__)
    options.add_argument("--configurations", type=int, default=10_000)
    options.add_argument("--files", type=int, default=1600)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--only", type=int, nargs="*", default=[], help="numbers of findings")
    given = options.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, hard))
    logging.disable(logging.WARNING)
    os.environ["HF_HUB_OFFLINE"] = "1"
    only, home = set(given.only), Path.cwd()
    sys.path.insert(0, str(home))
    with tempfile.TemporaryDirectory() as empty:
        os.chdir(empty)
        try:
            configured = watched(
                "configurations", configurations(given.configurations, given.seed, only)
            )
            read = watched("files", files(given.files, given.seed, only))
            left = sorted(path.name for path in Path(empty).iterdir())
        finally:
            os.chdir(home)
            shutil.rmtree(empty, ignore_errors=True)
            Path(empty).mkdir()
    wrong = sum(run[2] not in GOOD for run in (*configured, *read))
    text = (
        "# What nonsense does\n\n"
        f"{heading(Placement(threads=1), ('hydra-core', 'omegaconf', 'transformers'))} "
        f"Seed {given.seed}. `python -m benchmarks.fuzz`\n\n"
        "Taken: it goes on to data or training. Done: it ended with exit code 0. Refused: one line "
        "on standard error and exit code 2.\n\n"
        f"{summary('configurations', configured)}\n{summary('files', read)}\n"
        f"Left behind in the current folder: {', '.join(left) or 'nothing'}.\n"
    )
    leave("fuzz", text, None, given.save and not only)
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
