"""Token files that are trained on where they lie."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.artifacts import Artifacts
from search.data.cache import open_data, prepare
from search.data.config import DataConfig
from search.data.in_place import Joined
from search.data.packed import batch, validation_windows

VOCABULARY = 300


def ids(n: int, seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, VOCABULARY, n).astype("<u2")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Two shards as modded-nanogpt names them, one with llm.c's header, and one to validate on."""
    folder = tmp_path / "text"
    folder.mkdir()
    header = np.zeros(256, "<i4")
    header[:3] = 20240520, 1, 3000
    (folder / "web_train_000001.bin").write_bytes(header.tobytes() + ids(3000, 1).tobytes())
    (folder / "web_train_000002.bin").write_bytes(ids(1001, 2).tobytes())
    (folder / "web_val_000000.bin").write_bytes(ids(900, 3).tobytes())
    return folder


def config(files: Path, cache: str, **more: Any) -> DataConfig:
    own = {"path": str(files), "vocab_size": VOCABULARY, "cache": str(files.parent / cache)}
    return DataConfig(source="tokens", **own, **more)


def quiet(text: str) -> None: ...


def test_it_trains_like_a_copy(files: Path) -> None:
    """The same fingerprint, and so the same run keys; the same batches."""
    packed = prepare(config(files, "packed"), quiet)
    lying = prepare(config(files, "lying", in_place=True), quiet)
    assert lying.fingerprint == packed.fingerprint
    assert not (lying.folder / "train.bin").exists()
    assert isinstance(lying.train, Joined)
    assert len(lying.train) == len(packed.train) == 4001
    for step in range(40):  # through two epochs, over the seam of the files
        for mine, theirs in zip(
            batch(lying, 0, step, 6, 32), batch(packed, 0, step, 6, 32), strict=True
        ):
            assert mine.dtype == theirs.dtype
            assert (mine == theirs).all()
    held_out = validation_windows(lying, 32, 500)
    theirs = validation_windows(packed, 32, 500)
    assert all((a == b).all() for a, b in zip(held_out, theirs, strict=True))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.data())
def test_joined_arrays_are_one(lengths: list[int], data: st.DataObject) -> None:
    parts = [np.arange(n, dtype=np.uint16) + 100 * i for i, n in enumerate(lengths)]
    whole = np.concatenate(parts)
    assert len(Joined(parts)) == len(whole)
    if len(whole):
        places = np.array(data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=2)))
        shaped = places[: len(places) // 2 * 2].reshape(2, -1)
        assert (Joined(parts)[shaped] == whole[shaped]).all()


def test_a_file_that_changed_or_went_is_named(files: Path) -> None:
    folder = prepare(config(files, "lying", in_place=True), quiet).folder
    shard = files / "web_train_000002.bin"
    shard.write_bytes(ids(1001, 4).tobytes())
    with pytest.raises(ValueError, match=r"web_train_000002.bin must be as it was when it was"):
        open_data(folder)
    shard.unlink()
    with pytest.raises(ValueError, match=r"web_train_000002.bin .* but is gone"):
        open_data(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: (f / "web_val_000000.bin").unlink(), "files named val… to hold out, but"),
        (lambda f: (f / "web_train_000002.bin").write_bytes(b"abc"), "of an odd size"),
        (
            lambda f: (f / "web_train_000002.bin").write_bytes(np.uint16([1, 300]).tobytes()),
            "token 3001 of the training split is 300; set data.vocab_size",
        ),
        (lambda f: (f / "web_train_000003.jsonl").write_text("{}"), "must be a .bin file"),
    ],
)
def test_what_cannot_be_used_where_it_lies_is_refused(change: Any, said: str, files: Path) -> None:
    change(files)
    with pytest.raises(ValueError, match=said):
        prepare(config(files, "lying", in_place=True), quiet)


def test_it_is_refused_where_there_is_nothing_to_leave_in_place(files: Path) -> None:
    with pytest.raises(ValueError, match=r"data.in_place must be left out with data.source=text"):
        DataConfig(source="text", path=str(files), in_place=True)
    store = Artifacts.at(str(files.parent / "store"))
    with pytest.raises(ValueError, match=r"data.in_place must be left out with artifacts"):
        prepare(config(files, "lying", in_place=True), quiet, artifacts=store)


def test_a_header_of_another_version_is_refused(files: Path) -> None:
    header = np.zeros(256, "<i4")
    header[:3] = 20240520, 2, 10
    (files / "web_train_000002.bin").write_bytes(header.tobytes() + ids(10, 1).tobytes())
    with pytest.raises(ValueError, match=r"must have version 1 in its header of llm.c, but has 2"):
        prepare(config(files, "packed"), quiet)
