"""Text encoded by several processes and hosts is that of one, whatever is killed between."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_fixtures import prose, write_jsonl
from hypothesis import given
from hypothesis import strategies as st
from process_fixtures import wait_for
from study_fixtures import environment
from tokenizers import Tokenizer

from search.data import build, cache, encode, stretches
from search.data.cache import open_data, prepare
from search.data.config import DataConfig
from search.data.encode import REPORT_S, Meter, Part, Queue
from search.data.packed import Data
from search.data.readers import ranges, read_text
from search.data.split import content_hash, hold_out, threshold
from search.data.tokenizer import train_tokenizer

SMALL = 4096
"""Bytes in a stretch."""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataConfig:
    """Of two files in some dozen stretches."""
    monkeypatch.setattr(stretches, "STRETCH_BYTES", SMALL)
    (tmp_path / "in").mkdir()
    write_jsonl(tmp_path / "in" / "a.jsonl", [*prose(), "", " \n"])
    write_jsonl(tmp_path / "in" / "b.jsonl", prose(30, seed=1))
    train_tokenizer(prose(), 300).save(str(tmp_path / "tokenizer.json"))
    return DataConfig(
        source="text",
        path=str(tmp_path / "in"),
        tokenizer=str(tmp_path / "tokenizer.json"),
        validation_fraction=0.2,
        cache=str(tmp_path / "cache"),
        processes=1,
    )


def expected(config: DataConfig) -> dict[str, list[int]]:
    """The splits, one document after the other by `tokenizers` alone."""
    tokenizer = Tokenizer.from_file(str(config.tokenizer))
    end = tokenizer.token_to_id("<|end|>")
    texts = [*prose(), *prose(30, seed=1)]
    hashes = np.array([content_hash(text.encode()) for text in texts], dtype=np.uint64)
    limit = int(config.validation_fraction * (2**64 - 1))
    assert hashes.min() <= limit < hashes.max()
    made: dict[str, list[int]] = {"train": [], "validation": []}
    for text, own in zip(texts, hashes.tolist(), strict=True):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        made["validation" if own <= limit else "train"] += [*ids, end]
    return made


def require_whole(data: Data, config: DataConfig) -> None:
    made = {"train": data.train.tolist(), "validation": data.validation.tolist()}
    assert made == expected(config)


@pytest.mark.parametrize("processes", [1, 3])
def test_parts_are_joined_to_what_one_pass_gives(processes: int, config: DataConfig) -> None:
    said: list[str] = []
    config = replace(config, processes=processes)
    data = prepare(config, said.append)
    require_whole(data, config)
    assert any("takes" in line for line in said), "before anything is written"
    assert not (Path(config.cache) / ".parts").exists(), "nothing is left"


BUILD = """
import platform, sys
from search.data import stretches
from search.data.cache import prepare
from search.data.config import DataConfig
stretches.STRETCH_BYTES = {size}
platform.node = lambda: {host!r}
print(prepare(DataConfig(**{options!r}), lambda message: None).fingerprint)
"""


def start(config: DataConfig, host: str = "here") -> "subprocess.Popen[str]":
    names = "source path tokenizer validation_fraction cache processes".split()
    code = BUILD.format(size=SMALL, host=host, options={n: getattr(config, n) for n in names})
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def parts(config: DataConfig) -> dict[Path, int]:
    """Those that are whole, and which file each is."""
    found = (Path(config.cache) / ".parts").glob("*.npy")
    return {path: path.stat().st_ino for path in found}


def test_a_killed_build_keeps_its_parts(config: DataConfig) -> None:
    write_jsonl(Path(str(config.path)) / "c.jsonl", prose(300, seed=2))
    two = replace(config, processes=2)
    with start(two) as process:
        done = wait_for(lambda: len(found := parts(two)) > 4 and found)
        os.killpg(process.pid, signal.SIGKILL)
    assert not any(path.name.startswith("text") for path in Path(two.cache).glob("*/")), "no data"
    said: list[str] = []
    after = prepare(two, said.append)
    kept = next(line for line in said if "encoded already" in line)
    assert int(kept.split()[1]) >= len(done)
    whole = prepare(replace(config, cache=str(Path(two.cache).parent / "other")), lambda _: None)
    assert (after.fingerprint, after.folder.name) == (whole.fingerprint, whole.folder.name)


def test_damaged_parts_of_a_killed_build_are_encoded_again(config: DataConfig) -> None:
    write_jsonl(Path(str(config.path)) / "c.jsonl", prose(300, seed=2))
    with start(config) as process:
        done = wait_for(lambda: len(found := parts(config)) > 4 and sorted(found))
        os.killpg(process.pid, signal.SIGKILL)
    for path in (done[0], done[1].with_suffix(".bin")):
        content = bytearray(path.read_bytes())
        content[-40] ^= 1
        path.write_bytes(content)
    said: list[str] = []
    after = prepare(config, said.append)
    damaged = {line.split()[1] for line in said if "is damaged" in line}
    assert damaged == {str(done[0]), str(done[1])}
    whole = prepare(replace(config, cache=str(Path(config.cache).parent / "other")), print)
    assert after.fingerprint == whole.fingerprint


def test_two_hosts_build_into_one_cache(config: DataConfig) -> None:
    both = [start(replace(config, processes=2), host) for host in ("one", "two")]
    said = [process.communicate(timeout=100)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert said[0] == said[1] != ""
    [folder] = [path for path in Path(config.cache).glob("text-*/") if path.is_dir()]
    require_whole(open_data(folder), config)


def test_a_host_whose_parts_are_gone_takes_what_another_has_packed(
    config: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has packed removes the parts, also from under a host that still looks at one."""
    built = prepare(config)
    aside = built.folder.rename(built.folder.with_name("aside"))

    def late(*_: object) -> None:
        aside.rename(built.folder)
        raise FileNotFoundError("a part")

    def failed(*_: object) -> None:
        raise FileNotFoundError("a file of text")

    monkeypatch.setattr(cache, "encode_text", failed)
    with pytest.raises(FileNotFoundError, match="a file of text"):
        prepare(config)
    monkeypatch.setattr(cache, "encode_text", late)
    assert prepare(config).fingerprint == built.fingerprint


def test_parts_are_encoded_once_and_those_of_the_dead_last(tmp_path: Path) -> None:
    some = [Part(tmp_path / f"{i}.bin", tmp_path / f"{i}.npy") for i in range(5)]
    some[0].claim()
    for path in some[2]:
        path.touch()
    first, second = Queue(some, range(5)), Queue(some, range(5))
    assert next(iter(first)) == 1
    assert list(second) == [3, 4, 0, 1]


def test_an_error_names_file_and_line_and_what_is_done_stays(config: DataConfig) -> None:
    bad = Path(str(config.path)) / "z.jsonl"
    lines = [json.dumps({"text": text}) for text in prose(40, seed=3)]
    bad.write_text("\n".join([*lines, '{"body": 1}']))
    with pytest.raises(ValueError, match=r"z\.jsonl: line 41 must have the key 'text'"):
        prepare(replace(config, processes=2), lambda _: None)
    assert parts(config)
    bad.unlink()
    said: list[str] = []
    require_whole(prepare(config, said.append), config)
    assert any("encoded already" in line for line in said)


def test_what_nobody_comes_back_for_is_removed(config: DataConfig) -> None:
    folder = Path(config.cache) / ".parts"
    folder.mkdir(parents=True)
    for name in ("old.npy", "new.npy"):
        (folder / name).touch()
    os.utime(folder / "old.npy", (1, 1))
    prepare(config, lambda _: None)
    assert [path.name for path in folder.iterdir()] == ["new.npy"]


def test_without_room_nothing_is_written(
    config: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = shutil.disk_usage(config.path or "")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usual._replace(free=5000))
    with pytest.raises(ValueError, match=r"data\.cache must have room .* set data\.cache=FOLDER"):
        prepare(config, lambda _: None)
    assert not [path for path in Path(config.cache).iterdir() if path.is_dir()]


@pytest.mark.parametrize("form", ["txt", "txt.gz", "jsonl under max_bytes"])
def test_without_room_no_text_is_written_out(
    form: str, config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of files that are read from their beginning, by one process. The text alone has room, with
    its tokens, of two bytes for each four of text, it has not."""
    text, given = "\n\n".join(prose(100)).encode(), config
    if form.startswith("txt"):
        path = tmp_path / f"a.{form}"
        path.write_bytes(gzip.compress(text) if form.endswith("gz") else text)
        size = 4 * path.stat().st_size if form.endswith("gz") else len(text)
        given = replace(config, path=str(path))
    else:
        size = 20_000
        given = replace(config, max_bytes=size)
    usual = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usual._replace(free=size + size // 3))
    monkeypatch.setattr(build, "Spool", lambda *_: pytest.fail("it is written out"))
    with pytest.raises(ValueError, match=r"room for about .* of text, which is written out first"):
        prepare(given, lambda _: None)
    assert not [path for path in Path(config.cache).iterdir() if path.is_dir()]


def test_text_that_is_written_out_makes_room_for_its_tokens(
    config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is gone before they are packed, so beside it there need be room for one copy of them."""
    monkeypatch.setattr(build, "STRETCH_BYTES", SMALL)
    (tmp_path / "a.txt").write_text("\n\n".join(prose(200)))
    given = replace(config, path=str(tmp_path / "a.txt"))
    data = prepare(given, lambda _: None)
    packed = 2 * (len(data.train) + len(data.validation))
    usual, free = shutil.disk_usage(tmp_path), [10**9, packed * 4 // 3]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usual._replace(free=free.pop(0)))
    said: list[str] = []
    prepare(replace(given, cache=str(tmp_path / "other")), said.append)
    assert free == []
    assert any("of text are written out first; takes" in line for line in said)


def test_of_a_corpus_of_unknown_size_its_limit_is_said(
    config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`data=hf`, from a folder."""
    said: list[str] = []
    usual = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usual._replace(free=10**8))
    hub = replace(config, source="hf", name=config.path, path=None, max_bytes=10**9)
    prepare(hub, said.append)
    assert "data: 1.00 GB of text at most are written out first; 0.10 GB are free" in said


@pytest.mark.parametrize("form", ["jsonl", "crlf", "parquet", "gz", "txt"])
def test_ranges_of_a_file_hold_its_documents(form: str, tmp_path: Path) -> None:
    texts = prose(50)
    path = tmp_path / f"a.{'jsonl' if form == 'crlf' else form}"
    if form == "parquet":
        pq.write_table(pa.table({"text": texts}), path, row_group_size=7)
    elif form == "txt":
        path.write_text("\n\n".join(texts))
    else:
        text = ("\r\n" if form == "crlf" else "\n").join(json.dumps({"text": t}) for t in texts)
        path = path.with_suffix(".jsonl.gz") if form == "gz" else path
        path.write_bytes(gzip.compress(text.encode()) if form == "gz" else text.encode())
    found = ranges(path, "text", 3000)
    assert len(found) > 3 or form in ("gz", "txt")
    read = [document for within, _ in found for document in read_text(path, "text", within)]
    assert read == list(read_text(path, "text"))


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20), st.floats(0.001, 0.999))
def test_the_split_is_known_before_all_is_read(hashes: list[int], fraction: float) -> None:
    every = np.array(hashes, dtype=np.uint64)
    if len(set(hashes)) < 2:
        with pytest.raises(ValueError, match="two different documents"):
            threshold(hashes, fraction, "x")
        return
    held_out = hold_out(every, fraction, "x")
    assert held_out.any()
    assert not held_out.all()
    limit = int(fraction * (2**64 - 1))
    if min(hashes) <= limit < max(hashes):
        assert held_out.tolist() == [each <= limit for each in hashes]

        def some() -> Any:
            yield min(hashes)
            yield max(hashes)
            raise AssertionError("two decide it")

        assert threshold(some(), fraction, "x") == limit


def test_progress_says_the_rate_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter in 100 s: three more take 300. Between two lines there is some time."""
    clock, said = SimpleNamespace(now=0.0), list[str]()
    monkeypatch.setattr(encode, "time", SimpleNamespace(monotonic=lambda: clock.now))
    meter = Meter(2 * 10**9, said.append)
    for now, n_bytes in (
        (REPORT_S / 2, 0),
        (100, 5 * 10**8),
        (100 + REPORT_S / 2, 0),
        (200, 10**9),
    ):
        clock.now = now
        meter.add(n_bytes, n_bytes // 4, n_bytes)
    assert said == [
        "data: encoded 0.50 of 2.00 GB, 125.0 M tokens, 1.25 M/s, 5 min left",
        "data: encoded 1.50 of 2.00 GB, 375.0 M tokens, 1.88 M/s, 67 s left",
    ]
