"""How many ranks a run may have, where, and what is refused before it trains."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from train_fixtures import HERE, data, run_of  # noqa: F401

from search.data.packed import Data
from search.train import placement
from search.train.agree import _each_tensor
from search.train.loop import train
from search.train.placement import Placement, require_room, settle, share_cores, usual_workers
from search.train.ranks import NoRoom, require_gpus

TWO = replace(HERE, gpus_per_run=2)


@pytest.fixture(name="text", scope="module")
def of_this_project(data: Data) -> Data:  # noqa: F811
    return data


def test_tensors_are_found_wherever_a_checkpoint_has_them() -> None:
    state = {"weights": {"a": torch.ones(1)}, "groups": [{"lr": 0.1, "t": torch.ones(())}], "n": 3}
    doubled = _each_tensor(state, lambda tensor: 2 * tensor)
    assert doubled == {"weights": {"a": 2}, "groups": [{"lr": 0.1, "t": 2}], "n": 3}


def test_a_run_alone_leaves_no_trace_of_ranks(text: Data) -> None:
    assert settle(HERE, run_of(text)) == settle(replace(HERE, gpus_per_run=1), run_of(text))
    assert settle(TWO, run_of(text)).gpus_per_run == 2


def test_ranks_share_a_workers_cores_and_there_is_a_worker_for_each_slot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(placement, "cores", lambda: 8)
    monkeypatch.setattr(placement, "gpus", lambda: [])
    assert share_cores(replace(TWO, threads=None), 2).threads == 2
    assert usual_workers(TWO) == 4
    monkeypatch.setattr(placement, "gpus", lambda: list("01234567"))
    for ranks, workers in ((1, 8), (2, 4), (3, 2), (8, 1)):
        assert usual_workers(Placement(gpus_per_run=ranks)) == workers
        require_room(Placement(gpus_per_run=ranks), workers)


def test_more_ranks_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "gpus", lambda: list("01234567"))
    for ranks, workers in ((16, 1), (4, 3), (2, 5)):
        with pytest.raises(ValueError, match=rf"got {ranks} × {workers} and 8; ask for fewer"):
            require_room(Placement(gpus_per_run=ranks), workers)
    require_room(Placement(gpus_per_run=16, device="cpu"), 3)
    with pytest.raises(ValueError, match="workers_per_gpu=2 and gpus_per_run=4; leave one at 1"):
        Placement(gpus_per_run=4, workers_per_gpu=2)


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="it has GPUs for two ranks")
def test_a_worker_that_sees_too_few_gpus_says_so() -> None:
    with pytest.raises(NoRoom, match="must fit the GPUs that a worker has, but got 2 and"):
        require_gpus(Placement(gpus_per_run=2))


def test_a_batch_has_a_sequence_for_each_rank(text: Data) -> None:
    with pytest.raises(ValueError, match=r"batch_size must be at least .* but got 4 and 5"):
        settle(replace(TWO, gpus_per_run=5), run_of(text))


def test_a_process_that_trains_alone_refuses_ranks(text: Data, tmp_path: Path) -> None:
    record = train(run_of(text), text, tmp_path, placement=TWO)
    assert "placement.gpus_per_run must be 1 where one process trains" in str(record.reason)
