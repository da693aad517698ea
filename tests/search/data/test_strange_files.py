"""Files of others are read as what they are, or refused: text, tokens and tokenizers."""

import gzip
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from search.data.cache import prepare
from search.data.config import DataConfig
from search.data.hashes import FileHashes
from search.data.packed import Data
from search.data.readers import (
    LONGEST_CUT,
    TEXT_KINDS,
    find_files,
    kind,
    read_text,
    read_tokens,
)
from search.data.tokenizer import train_tokenizer

WORDS = "the cat sat on the mat and Saw a Café near the naïve ÉCOLE while été came".split()
TEXTS = [" ".join(WORDS[(i * j) % len(WORDS)] for j in range(3, 60)) for i in range(1, 60)]


def packed(texts: list[str], level: int = 3, frames: int = 1) -> bytes:
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    made = zstandard.ZstdCompressor(level=level)
    parts = ["".join(lines[i::frames]).encode() for i in range(frames)]
    return b"".join(map(made.compress, parts))


@pytest.mark.parametrize("frames", [1, 3])
def test_a_zst_file_is_read_whole(frames: int, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.zst").write_bytes(packed(TEXTS, frames=frames))
    assert sorted(read_text(tmp_path / "a.jsonl.zst", "text")) == sorted(TEXTS)


@pytest.mark.parametrize("share", [0.001, 0.3, 0.5, 0.9, 0.999])
def test_a_zst_file_that_is_cut_is_an_error(share: float, tmp_path: Path) -> None:
    lines = [f"{i} {text}" for i in range(300) for text in TEXTS]
    content = packed(lines)
    (tmp_path / "a.jsonl.zst").write_bytes(content[: max(1, int(share * len(content)))])
    with pytest.raises(ValueError, match=r"must be a whole \.zst file.*it ends in the middle"):
        list(read_text(tmp_path / "a.jsonl.zst", "text"))


def test_json_of_lines_is_read_as_lines(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    path = tmp_path / "c4.json.gz"
    path.write_bytes(gzip.compress(lines.encode()))
    assert list(read_text(path, "text")) == TEXTS
    assert kind(Path("a.ndjson.zst")) == ".jsonl"
    path.write_bytes(gzip.compress(b'[{"text": "a"},\n {"text": "b"}]'))
    with pytest.raises(ValueError, match="line 1 must be JSON"):
        list(read_text(path, "text"))


def test_one_null_text_is_no_document_wherever_it_is(tmp_path: Path) -> None:
    texts = [*TEXTS[:30], None, *TEXTS[30:]]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "train.jsonl").write_text(lines)
    common: dict[str, Any] = {"vocab_size": 300, "cache": str(tmp_path / "cache")}
    made = [
        quietly(DataConfig(source="text", path=str(tmp_path / name), **common))
        for name in ("a.parquet", "a.jsonl")
    ]
    made.append(quietly(DataConfig(source="hf", name=str(tmp_path / "hub"), **common)))
    assert len({data.fingerprint for data in made}) == 1


def test_one_enormous_line_is_trained_on(tmp_path: Path) -> None:
    text = " ".join(TEXTS * 100)
    (tmp_path / "line.txt").write_text(text)
    documents = list(read_text(tmp_path / "line.txt", "text"))
    assert len(documents) > 3
    assert max(map(len, documents)) < 3 * LONGEST_CUT
    assert " ".join(documents) == text, "no word is cut"


def test_an_enormous_word_is_cut_somewhere(tmp_path: Path) -> None:
    text = "x" * (5 * LONGEST_CUT)
    (tmp_path / "word.txt").write_text(text)
    documents = list(read_text(tmp_path / "word.txt", "text"))
    assert ("".join(documents), len(documents) > 1) == (text, True)


# --- Tokens ---------------------------------------------------------------------------------------

IDS = np.random.default_rng(0).integers(0, 50257, 4000)


def llm_c(ids: Any, magic: int, version: int, dtype: str) -> bytes:
    """As llm.c's data scripts write it."""
    header = np.zeros(256, dtype="<i4")
    header[:3] = magic, version, len(ids)
    return header.tobytes() + ids.astype(dtype).tobytes()


@pytest.mark.parametrize(
    ("magic", "version", "dtype", "ids"),
    [(20240520, 1, "<u2", IDS), (20240801, 7, "<u4", IDS + 70_000)],
)
def test_headers_of_llm_c_are_no_tokens(
    magic: int, version: int, dtype: str, ids: Any, tmp_path: Path
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(llm_c(ids, magic, version, dtype))
    read = np.concatenate([tokens for _, tokens in read_tokens(path, None)])
    assert read.tolist() == ids.tolist()
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match="must hold the 4000 tokens that its header says"):
        list(read_tokens(path, None))


def megatron(folder: Path, dtype: str, code: int, documents: list[Any]) -> Path:
    """As megatron/core/datasets/readme.md says: each document two sequences."""
    sequences = [part for each in documents for part in np.array_split(each, 2)]
    lengths = np.array([len(each) for each in sequences], "<i4")
    places = (np.cumsum(lengths) - lengths) * np.dtype(dtype).itemsize
    bounds = np.arange(0, len(sequences) + 1, 2)
    np.concatenate(sequences).astype(dtype).tofile(folder / "a.bin")
    head = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, code, len(lengths), len(bounds))
    arrays = [lengths.tobytes(), places.astype("<i8").tobytes(), bounds.astype("<i8").tobytes()]
    (folder / "a.idx").write_bytes(head + b"".join(arrays))
    return folder / "a.bin"


DOCUMENTS = np.split(IDS, [100, 101, 1700])


@pytest.mark.parametrize(("dtype", "code"), [("<u2", 8), ("<i4", 4), ("<i8", 5)])
def test_documents_of_megatron_are_those_of_its_index(
    dtype: str, code: int, tmp_path: Path
) -> None:
    path = megatron(tmp_path, dtype, code, DOCUMENTS)
    read = [ids.tolist() for _, ids in read_tokens(path, None)]
    assert read == [each.tolist() for each in DOCUMENTS]


@pytest.mark.parametrize("damage", ["bin", "idx", "magic", "version", "type", "other", "bounds"])
def test_a_megatron_index_that_does_not_fit_is_refused(damage: str, tmp_path: Path) -> None:
    path = megatron(tmp_path, "<u2", 8, DOCUMENTS)
    index = bytearray((tmp_path / "a.idx").read_bytes())
    if damage == "bin":
        path.write_bytes(path.read_bytes()[:-2])
    elif damage == "idx":
        index = index[:-8]
    elif damage == "bounds":
        index[-8:] = struct.pack("<q", 1)
    else:
        places = {"magic": (0, 0), "version": (9, 2), "type": (17, 6), "other": (17, 4)}
        place, value = places[damage]
        index[place] = value
    (tmp_path / "a.idx").write_bytes(index)
    with pytest.raises(ValueError, match=r"a\.bin: .*(must be what its index|index beside it)"):
        list(read_tokens(path, None))


def test_an_index_is_part_of_what_data_follow_from(tmp_path: Path) -> None:
    path = megatron(tmp_path, "<u2", 8, DOCUMENTS)
    config = DataConfig(source="tokens", path=str(path), vocab_size=51_000)

    def identity() -> Any:
        return config.corpus().identity(FileHashes(tmp_path / "hashes.json"))

    before = identity()
    megatron(tmp_path, "<u2", 8, [*DOCUMENTS[:2], np.concatenate(DOCUMENTS[2:])])
    assert identity() != before


@pytest.mark.parametrize("shards", [1, 3])
def test_a_saved_data_set_is_the_same_data_as_its_rows(shards: int, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"n": list(range(len(TEXTS))), "text": TEXTS})
    rows.select(range(len(TEXTS))).save_to_disk(str(tmp_path / "saved"), num_shards=shards)
    (tmp_path / "saved" / "cache-123.arrow").write_bytes(b"what datasets keeps besides")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    common: dict[str, Any] = {"vocab_size": 300, "cache": str(tmp_path / "cache")}
    made = [
        quietly(DataConfig(source="text", path=str(tmp_path / name), **common))
        for name in ("saved", "a.jsonl")
    ]
    assert made[0].fingerprint == made[1].fingerprint


def test_saved_data_sets_that_are_not_understood_are_refused(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"text": TEXTS})
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(str(tmp_path / "both"))
    with pytest.raises(ValueError, match=r"must be one split .* holds test, train"):
        find_files(str(tmp_path / "both"), TEXT_KINDS)
    [file] = find_files(str(tmp_path / "both" / "train"), TEXT_KINDS)
    with pytest.raises(ValueError, match="must have the column 'body', but has text"):
        list(read_text(file, "body"))
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(ValueError, match="must be a whole Arrow stream"):
        list(read_text(file, "text"))


@pytest.mark.parametrize("dtype", ["<u4", "<i4", "<i8"])
def test_wider_ids_are_never_read_as_two_bytes(dtype: str, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(IDS.astype(dtype).tobytes())
    with pytest.raises(ValueError, match="must hold two bytes per token, but seems to hold four"):
        list(read_tokens(tmp_path / "a.bin", None))


@given(st.lists(st.integers(0, 2**16 - 1), min_size=10, max_size=200))
def test_ids_of_two_bytes_are_read_as_they_are(ids: list[int]) -> None:
    from tempfile import TemporaryDirectory

    mixed = np.tile(np.array(ids, dtype="<u2"), 1 + 40 // len(ids))
    if np.mean(mixed[1::2] < 16) > 0.9:
        return  # which no text has
    with TemporaryDirectory() as folder:
        (Path(folder) / "a.bin").write_bytes(mixed.tobytes())
        read = [tokens for _, tokens in read_tokens(Path(folder) / "a.bin", None)]
    assert np.concatenate(read).tolist() == mixed.tolist()


# --- Tokenizers: bits per byte count the bytes of the source --------------------------------------


def byte_level() -> Tokenizer:
    return train_tokenizer(TEXTS, 300)


def lower_cased() -> Tokenizer:
    made = byte_level()
    made.normalizer = normalizers.Sequence(
        [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    return made


def with_added() -> Tokenizer:
    made = byte_level()
    made.add_tokens([AddedToken("Café"), AddedToken("ÉCOLE")])
    return made


def word_piece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    special = ["[UNK]", "</s>"]
    made.train_from_iterator(
        [text.replace("naïve", "") for text in TEXTS],
        trainers.WordPieceTrainer(vocab_size=60, special_tokens=special, show_progress=False),
    )
    return made


def with_prefix_space() -> Tokenizer:
    made = byte_level()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return made


def quietly(config: DataConfig) -> Data:
    return prepare(config, lambda message: None)


@pytest.mark.parametrize(
    "make", [byte_level, lower_cased, with_added, word_piece, with_prefix_space]
)
def test_bits_per_byte_count_the_bytes_of_the_source(make: Any, tmp_path: Path) -> None:
    make().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    config = DataConfig(
        source="text",
        path=str(tmp_path / "a.jsonl"),
        validation_fraction=0.3,
        cache=str(tmp_path / "cache"),
        tokenizer=str(tmp_path / "tokenizer.json"),
    )
    data, plain = quietly(config), quietly(replace(config, tokenizer=None, vocab_size=300))
    tokenizer = Tokenizer.from_file(str(plain.tokenizer))
    ids = plain.validation[plain.validation != plain.end_token]
    source = len(tokenizer.decode(ids.tolist()).encode())
    assert data.token_bytes is not None
    nats = 1234.5
    _, bpb = data.score(nats, np.asarray(data.validation))
    assert bpb == pytest.approx(nats / np.log(2) / source, rel=1e-12)


def test_a_tokenizer_that_knows_nothing_of_the_text_is_refused(tmp_path: Path) -> None:
    made = Tokenizer(models.WordLevel({"[UNK]": 0, "</s>": 1, "zzz": 2}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    config = DataConfig(
        source="text",
        path=str(tmp_path / "a.jsonl"),
        cache=str(tmp_path / "cache"),
        tokenizer=str(tmp_path / "tokenizer.json"),
    )
    with pytest.raises(ValueError, match=r"data\.tokenizer must have tokens for the text"):
        quietly(config)


@pytest.mark.parametrize(
    ("name", "content", "settings"),
    [
        ("a.bin", bytes(range(256)) * 400, {}),
        ("a.txt", b"one document", {}),
        (
            "a.txt",
            "\n\n".join(f"line {i} " * 900 for i in range(40)).encode(),
            {"vocab_size": 9999},
        ),
    ],
    ids=["no text", "too little text", "too large a vocabulary"],
)
def test_data_that_are_refused_leave_no_locks(
    name: str, content: bytes, settings: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    config = DataConfig(source="text", path=str(tmp_path / name), **settings)
    cache = tmp_path / "cache"
    with pytest.raises(ValueError, match=r"must be|must have"):
        prepare(replace(config, cache=str(cache)))
    assert {path.name for path in cache.rglob("*")} <= {"hashes.json"}
