"""Mixtures: shares of windows, caches that are referred to, losses by source."""

import json
import math
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from study_fixtures import open_search, work
from train_fixtures import ARCH, HERE, RECIPE, losses

from search.artifacts import Artifacts
from search.data.cache import bring_data, find_data, open_data, prepare
from search.data.config import DataConfig
from search.data.mixture import place_in, weights_of
from search.data.packed import Data, batch, losses_of, validation_spans, validation_windows
from search.record import Reading, Run
from search.runs import load_records, read_windows
from search.train.loop import Stop, train

SMALL = 300
WEIGHTS = {"web": 0.7, "code": 0.2, "books": 0.1}


def quiet(text: str) -> None: ...


def write_texts(folder: Path) -> dict[str, dict[str, Any]]:
    """Three sources, each of words of its own letters: text, text and a
    local data set."""
    rng, sources = np.random.default_rng(0), {}
    for name, letters in (("web", "abcdef"), ("code", "ghijkl"), ("books", "mnopqr")):
        words = ["".join(rng.choice(list(letters), rng.integers(2, 7))) for _ in range(200)]
        lines = [json.dumps({"text": " ".join(rng.choice(words, 100))}) for _ in range(60)]
        (folder / name).mkdir()
        (folder / name / "a.jsonl").write_text("\n".join(lines))
        sources[name] = {"source": "text", "path": str(folder / name), "weight": WEIGHTS[name]}
    sources["books"] = {"source": "hf", "name": str(folder / "books"), "weight": 0.1}
    return sources


def mix(folder: Path, sources: dict[str, dict[str, Any]], **more: Any) -> DataConfig:
    own = {"vocab_size": SMALL, "cache": str(folder / "cache"), "processes": 1}
    return DataConfig(source="mix", sources=sources, **own | more)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mixture")


@pytest.fixture(scope="module")
def sources(here: Path) -> dict[str, dict[str, Any]]:
    return write_texts(here)


@pytest.fixture(scope="module")
def data(here: Path, sources: dict[str, dict[str, Any]]) -> Data:
    return prepare(mix(here, sources), quiet)


def reweighted(sources: dict[str, dict[str, Any]], *weights: float) -> dict[str, dict[str, Any]]:
    return {n: s | {"weight": w} for (n, s), w in zip(sources.items(), weights, strict=True)}


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=9), st.integers(1, 400))
def test_every_beginning_of_a_run_has_its_shares(weights: list[int], n: int) -> None:
    """To half a window for each halving of the sources; and each source's windows are numbered."""
    seen = Counter[int]()
    for position in range(n):
        source, before = place_in(weights, position)
        assert before == seen[source]
        seen[source] += 1
        for i, weight in enumerate(weights):
            share = (position + 1) * weight / sum(weights)
            assert abs(seen[i] - share) <= math.ceil(math.log2(len(weights))) / 2 + 1e-9


@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=9), st.integers(0, 10**12))
def test_a_place_far_into_a_run_is_known_at_once(weights: list[int], position: int) -> None:
    source, before = place_in(weights, position)
    share = position * weights[source] / sum(weights)
    assert abs(before - share) <= math.ceil(math.log2(len(weights))) / 2 + 1


@given(st.lists(st.integers(1, 50), min_size=2, max_size=6), st.sampled_from([1, 3, 0.1, 0.25]))
def test_weights_count_beside_each_other(weights: list[int], factor: float) -> None:
    given = {f"s{i}": {"weight": w} for i, w in enumerate(weights)}
    scaled = {name: {"weight": round(s["weight"] * factor, 6)} for name, s in given.items()}
    assert weights_of(given) == weights_of(scaled)
    assert math.gcd(*weights_of(given).values()) == 1


def test_a_source_has_its_share_and_the_order_that_it_has_alone(data: Data) -> None:
    """Over several passes of the smallest."""
    by_name = {source.name: source.data for source in data.sources}
    ids = np.concatenate([batch(data, 3, step, 100, 64)[0] for step in range(50)])
    alone = {
        name: np.concatenate([batch(part, 3, step, 100, 64)[0] for step in range(50)])
        for name, part in by_name.items()
    }
    taken = Counter[str]()
    weights = tuple(source.weight for source in data.sources)
    for position, row in enumerate(ids):
        name = data.sources[place_in(weights, position)[0]].name
        assert (row == alone[name][taken[name]]).all()
        taken[name] += 1
    assert taken == {"web": 3500, "code": 1000, "books": 500}
    assert 500 > (len(by_name["books"].train) - 1) // 64, "it has come round"
    assert data.passes(1000)["web"] == pytest.approx(700 / len(by_name["web"].train))


def test_rows_of_a_rank_are_those_of_the_batch(data: Data) -> None:
    whole = batch(data, 0, 7, 9, 16)
    for rows in (slice(0, 4), slice(4, 9), slice(3, 3)):
        part = batch(data, 0, 7, 9, 16, rows)
        assert all((a[rows] == b).all() for a, b in zip(whole, part, strict=True))


def test_held_out_text_of_each_source_is_that_of_the_source_alone(data: Data) -> None:
    inputs, targets = validation_windows(data, 16, 600)
    spans = validation_spans(data, 16, 600)
    for source, span in zip(data.sources, spans, strict=True):
        alone = validation_windows(source.data, 16, 200)
        assert (inputs[span] == alone[0]).all()
        assert (targets[span] == alone[1]).all()
    assert spans[-1].stop == len(inputs)


def test_other_weights_encode_nothing(
    here: Path, sources: dict[str, dict[str, Any]], data: Data
) -> None:
    said: list[str] = []
    other = prepare(mix(here, reweighted(sources, 1, 1, 5)), said.append)
    assert said == []
    assert [s.data.folder for s in other.sources] == [s.data.folder for s in data.sources]
    assert {f.name for f in other.folder.iterdir()} == {"manifest.json", "tokenizer.json"}
    assert other.fingerprint != data.fingerprint
    same = prepare(mix(here, reweighted(sources, 70, 20, 10)), said.append)
    assert (same.fingerprint, same.folder, said) == (data.fingerprint, data.folder, [])
    assert find_data(here / "cache", data.fingerprint) == data.folder


def test_a_source_alone_has_the_cache_that_the_mixture_refers_to(
    here: Path, sources: dict[str, dict[str, Any]], data: Data
) -> None:
    own = {k: v for k, v in sources["web"].items() if k != "weight"}
    tokenizer = str(next((here / "cache").glob("tokenizer-*/tokenizer.json")))
    cache = {"cache": str(here / "cache"), "tokenizer": tokenizer, "vocab_size": SMALL}
    alone = prepare(DataConfig(**own, **cache), quiet)
    [web] = (source.data for source in data.sources if source.name == "web")
    assert (alone.folder, alone.fingerprint) == (web.folder, web.fingerprint)


def test_token_files_of_one_vocabulary_need_no_tokenizer(tmp_path: Path) -> None:
    """One packed, one trained on where it lies; with a tokenizer text may stand beside them."""
    rng = np.random.default_rng(0)
    for name in ("a_train", "a_val", "b_train", "b_val"):
        (tmp_path / name[0]).mkdir(exist_ok=True)
        ids = rng.integers(0, SMALL, 2000).astype("<u2")
        ids.tofile(tmp_path / name[0] / f"{name}_0.bin")
    given = {
        name: {"source": "tokens", "path": str(tmp_path / name), "weight": 1} for name in ("a", "b")
    }
    given["b"]["in_place"] = True
    data = prepare(mix(tmp_path, given), quiet)
    assert (data.tokenizer, data.token_bytes, data.bytes_per_token) == (None, None, None)
    assert data.vocab_size == SMALL
    targets, spans = validation_windows(data, 16, 500)[1], validation_spans(data, 16, 500)
    found = losses_of(data, [2.0 * targets[s].size for s in spans], targets, spans)
    assert found["val_loss"] == pytest.approx(2.0)
    assert found["val_bpb"] is None
    assert [each["val_bpb"] for each in found["sources"]] == [None, None]
    assert batch(data, 0, 3, 7, 16)[0].shape == (7, 16)


def test_what_is_damaged_is_made_again(
    here: Path, sources: dict[str, dict[str, Any]], data: Data, tmp_path: Path
) -> None:
    shutil.copytree(here / "cache", tmp_path / "cache")
    mine = tmp_path / "cache"
    (mine / data.sources[0].data.folder.name / "train.bin").write_bytes(b"short")
    next(mine.glob("tokenizer-*/tokenizer.json")).write_text("{}")
    with pytest.raises(ValueError, match=r"train\.bin must be as it was written"):
        open_data(mine / data.folder.name)
    again = prepare(mix(tmp_path, sources), quiet)
    assert again.fingerprint == data.fingerprint


def test_it_travels_with_its_sources(
    here: Path, sources: dict[str, dict[str, Any]], data: Data, tmp_path: Path
) -> None:
    store = Artifacts.at(str(tmp_path / "store"))
    prepare(mix(here, sources), quiet, store)
    brought = bring_data(tmp_path / "elsewhere" / data.folder.name, store)
    assert brought.fingerprint == data.fingerprint
    assert [s.data.fingerprint for s in brought.sources] == [
        s.data.fingerprint for s in data.sources
    ]


def run_of(data: Data) -> Run:
    arch = replace(ARCH, vocab_size=data.vocab_size)
    return Run(architecture=arch, recipe=RECIPE, data_fingerprint=data.fingerprint)


def test_a_stopped_run_goes_on_bit_for_bit_and_its_losses_are_by_source(
    data: Data, tmp_path: Path
) -> None:
    """Losses are those of a plain pass of the saved weights over each source's slice."""
    from safetensors.torch import load_file
    from torch.nn import functional as F

    from space.model import Decoder

    run = run_of(data)
    whole = train(run, data, tmp_path / "whole", placement=HERE)

    def stop_at_17(event: dict[str, Any]) -> None:
        if event["step"] == 17:
            raise Stop

    with pytest.raises(Stop):
        train(run, data, tmp_path / "halves", placement=HERE, progress=stop_at_17)
    record = train(run, data, tmp_path / "halves", placement=HERE)
    assert losses(tmp_path / "halves") == losses(tmp_path / "whole")
    assert record.readings == whole.readings
    last = record.readings[-1]
    assert Reading.from_dict(json.loads(json.dumps(last.to_dict()))) == last
    windows = read_windows(tmp_path / "halves", record)
    assert windows is not None
    nats, text, weights = windows.astype(float)
    assert (weights * nats).sum() / weights.sum() / 32 == pytest.approx(last.val_loss)
    bits = (weights * nats).sum() / np.log(2)
    assert bits / (weights * text).sum() == pytest.approx(last.val_bpb)

    model = Decoder(run.architecture)
    model.load_state_dict(load_file(tmp_path / "whole" / "weights.safetensors"), strict=False)
    loss = n_bytes = 0.0
    for source, each in zip(data.sources, last.sources, strict=True):
        inputs, targets = map(
            torch.tensor, validation_windows(source.data, 32, RECIPE.eval_tokens // 3)
        )
        with torch.no_grad():
            own = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).item()
        assert source.data.token_bytes is not None
        mean = float(source.data.token_bytes[targets.numpy()].mean())
        assert each.source == source.name
        assert each.val_loss == pytest.approx(own, rel=1e-5)
        assert each.val_bpb == pytest.approx(own / math.log(2) / mean, rel=1e-5)
        loss, n_bytes = loss + WEIGHTS[source.name] * own, n_bytes + WEIGHTS[source.name] * mean
    assert last.val_loss == pytest.approx(loss, rel=1e-5)
    assert last.val_bpb == pytest.approx(loss / math.log(2) / n_bytes, rel=1e-5)


def test_readings_without_sources_are_written_as_before() -> None:
    values = {"tokens": 5, "val_loss": 2.0, "val_bpb": 1.0}
    assert Reading.from_dict(values).to_dict() == values


def test_a_study_on_a_mixture_shows_each_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ",".join(
        f"{name}: {{source: {s['source']}, {'path' if 'path' in s else 'name'}: {name}, weight: "
        f"{s['weight']}}}"
        for name, s in write_texts(tmp_path).items()
    )
    search = open_search(
        tmp_path,
        *("data=mix", f"+data.sources={{{given}}}", "data.path=null"),
        *("n_trials=1", "replicates.seeds=1", "objectives=[val_bpb@code]"),
    )
    said = str(search.estimate())
    assert "a run reads of each source, and how often its training text: 10% books" in said
    work(search)
    [row] = load_records("runs").to_dict("records")
    assert search.study.trials[0].value == row["val_bpb@code"]
    assert set(search.job.targets.measures) == {f"val_bpb@{name}" for name in WEIGHTS}
    total = sum(WEIGHTS[name] * row[f"val_loss@{name}"] for name in WEIGHTS)
    assert row["val_loss"] == pytest.approx(total)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"web": None, "code": None}, "data.sources must name two sources or more"),
        ({"web": {"weight": 0}}, r"data.sources.web.weight must be a positive number"),
        ({"web": {"weight": None}}, r"data.sources.web.weight must be a positive number"),
        ({"web": {"weight": math.inf}}, r"data.sources.web.weight must be a positive number"),
        ({"web": {"weight": "much"}}, r"data.sources.web.weight must be a positive number"),
        ({"web": {"pth": "x"}}, r"data.sources.web.pth: Key 'pth' not in 'DataConfig'"),
        ({"web": {"vocab_size": 400}}, "web must leave out vocab_size, which all sources have"),
        ({"web": {"source": "mix"}}, "web must be a source, but is a mixture"),
        ({"web": {"source": "txt"}}, "data.sources.web: .*one of embedded, hf, text, tokens"),
        ({"web": {"source": "tokens"}}, "data.tokenizer must be the one that the token ids of"),
        ({"a b": {"weight": 1}}, "data.sources must have names of letters"),
        ({"deadbeef0123": {"weight": 1}}, "data.sources must have names of letters"),
        ({"total": {"weight": 1}}, "data.sources must have names of letters"),
        ({"h100": {"weight": 1}}, "data.sources must have names of letters"),
        ({"more": {"weight": 1}}, "data.sources.more.source must say what it is"),
    ],
)
def test_what_is_no_mixture_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    given: dict[str, Any] = write_texts(tmp_path)
    for name, own in change.items():
        given[name] = None if own is None else given.get(name, {}) | own
    given = {name: own for name, own in given.items() if own is not None}
    with pytest.raises(ValueError, match=said):
        mix(tmp_path, given)
