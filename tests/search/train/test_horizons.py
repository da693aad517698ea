"""Readings at several horizons: decay branches that leave the trunk as it is."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from run_fixtures import TORCHRUN
from run_fixtures import run as run_command
from study_fixtures import ROOT, write_text

from search.data.cache import prepare
from search.data.config import DataConfig
from search.data.packed import Data
from search.recipe import Recipe
from search.record import Reading, Record, Run, run_from_dict
from search.runs import load_records, read_metrics, write_record
from search.show.trackers import curve
from search.states import Status
from search.train.loop import Stop, train
from search.train.parametrise import lr_factor
from search.train.placement import Placement
from space.arch import Architecture

STEP = 4 * 32
RECIPE = Recipe(
    tokens=40 * STEP,
    seq_len=32,
    batch_size=4,
    decay_fraction=0.3,
    eval_tokens=1024,
    evaluations=2,
    precision="fp32",
)
HORIZONS = replace(RECIPE, horizons=(0.25, 0.5))
"""They end after 10 and 20 steps, and leave the trunk after 7 and 14."""
STEPS_IN_ALL = 40 + 3 + 6
ARCH = Architecture(
    vocab_size=300,
    hidden_size=32,
    num_blocks=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    intermediate_size=64,
)
HERE = Placement(device="cpu", threads=1, checkpoint_s=0.001)
RARELY = replace(HERE, checkpoint_s=1e6)
"""Nothing is written but where a branch begins and ends."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("data")
    config = DataConfig(
        source="text", path=str(write_text(folder)), vocab_size=300, cache=str(folder / "cache")
    )
    return prepare(config, progress=lambda _: None)


def run_of(data: Data, recipe: Recipe = HORIZONS) -> Run:
    return Run(architecture=ARCH, recipe=recipe, data_fingerprint=data.fingerprint)


def lines(folder: Path, branch: bool | None = None) -> list[dict[str, Any]]:
    """The curve without the clock: of the trunk, of the branches, or of both."""
    found = [dict(line) for line in read_metrics(folder)]
    chosen = [line for line in found if branch in (None, "horizon" in line)]
    return [{k: v for k, v in line.items() if k != "elapsed_s"} for line in chosen]


@pytest.fixture(scope="module")
def whole(data: Data, tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, Path]:
    """A run with horizons that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    return train(run_of(data), data, folder, placement=RARELY), folder


def test_the_trunk_is_that_of_a_run_without_horizons(
    data: Data, tmp_path: Path, whole: tuple[Record, Path]
) -> None:
    plain = train(run_of(data, RECIPE), data, tmp_path, placement=HERE)
    record, folder = whole
    assert record.readings[-1] == plain.readings[-1]
    assert lines(folder, branch=False) == lines(tmp_path)
    assert (folder / "weights.safetensors").read_bytes() == (
        tmp_path / "weights.safetensors"
    ).read_bytes()
    assert [reading.tokens for reading in record.readings] == [10 * STEP, 20 * STEP, 40 * STEP]
    assert record.branch_s > 0 == plain.branch_s
    assert not (folder / "checkpoint").exists()


@pytest.mark.parametrize("i", [0, 1])
def test_a_reading_is_that_of_a_run_of_its_horizon(
    data: Data, tmp_path: Path, whole: tuple[Record, Path], i: int
) -> None:
    """Bit for bit, given the same steps of warmup."""
    share = HORIZONS.horizons[i]
    short = replace(
        RECIPE, tokens=round(share * RECIPE.tokens), warmup_fraction=RECIPE.warmup_fraction / share
    )
    alone = train(run_of(data, short), data, tmp_path, placement=HERE)
    assert whole[0].readings[i] == alone.readings[-1]
    branch = [
        line["lr"]
        for line in lines(whole[1], branch=True)
        if line.get("horizon") == share and "lr" in line
    ]
    assert branch == [line["lr"] for line in lines(tmp_path) if "lr" in line][-len(branch) :]


class Killed(BaseException):
    """As SIGKILL in this process: nothing of the run handles it."""


def at(step: int, error: type[BaseException]) -> Callable[[dict[str, Any]], None]:
    def progress(event: dict[str, Any]) -> None:
        assert event["of"] == STEPS_IN_ALL
        if event["step"] == step:
            raise error

    return progress


@pytest.mark.parametrize(
    ("error", "placement", "steps"),
    [
        (Stop, RARELY, (3, 7, 8, 10, 11, 17, 20, 23, 24, 45)),
        (Killed, RARELY, (3, 7, 8, 10, 11, 17, 20, 23, 24, 45)),
        (Killed, HERE, (9, 20)),
    ],
)
def test_a_run_broken_off_anywhere_gives_the_same_readings(
    data: Data,
    tmp_path: Path,
    whole: tuple[Record, Path],
    error: type[BaseException],
    placement: Placement,
    steps: Sequence[int],
) -> None:
    for step in steps:
        folder = tmp_path / str(step)
        with pytest.raises(error):
            train(run_of(data), data, folder, placement=placement, progress=at(step, error))
        record = train(run_of(data), data, folder, placement=placement)
        assert record.readings == whole[0].readings, step
        assert lines(folder) == lines(whole[1]), step


def test_a_run_broken_off_in_every_branch_gives_the_same_readings(
    data: Data, tmp_path: Path, whole: tuple[Record, Path]
) -> None:
    """Each start gets a little farther than the one before, and none writes but at branches."""
    for step in (8, 10, 18, 22, 23, 30):
        with pytest.raises(Killed):
            train(run_of(data), data, tmp_path, placement=RARELY, progress=at(step, Killed))
    assert train(run_of(data), data, tmp_path, placement=HERE).readings == whole[0].readings
    assert lines(tmp_path) == lines(whole[1])


def test_the_checkpoint_of_an_earlier_branch_is_not_taken_for_a_later_ones(
    data: Data, tmp_path: Path, whole: tuple[Record, Path]
) -> None:
    with pytest.raises(Killed):
        train(run_of(data), data, tmp_path, placement=HERE, progress=at(9, Killed))
    stale = (tmp_path / "checkpoint" / "branch.pt").read_bytes()
    with pytest.raises(Killed):
        train(run_of(data), data, tmp_path, placement=RARELY, progress=at(19, Killed))
    (tmp_path / "checkpoint" / "branch.pt").write_bytes(stale)
    assert train(run_of(data), data, tmp_path, placement=HERE).readings == whole[0].readings


KILLED = """
import json, os, signal, sys
from pathlib import Path
from search.data.cache import open_data
from search.train.placement import Placement
from search.record import run_from_dict
from search.train.loop import train
run, data = run_from_dict(json.loads(sys.argv[1])), open_data(sys.argv[2])
def die(event):
    # a thread writes checkpoints: that of the branch has to be there
    if event["step"] >= 20 and Path(sys.argv[3], "checkpoint", "branch.pt").exists():
        os.kill(os.getpid(), signal.SIGKILL)
placement = Placement(device="cpu", threads=1, checkpoint_s=0.001)
train(run, data, Path(sys.argv[3]), placement=placement, progress=die)
"""


@pytest.mark.slow
def test_a_run_killed_inside_a_branch_goes_on_bit_for_bit(
    data: Data, tmp_path: Path, whole: tuple[Record, Path]
) -> None:
    arguments = [json.dumps(run_of(data).to_dict()), str(data.folder), str(tmp_path)]
    died = subprocess.run([sys.executable, "-c", KILLED, *arguments], cwd=ROOT, check=False)
    assert died.returncode == -signal.SIGKILL
    assert (tmp_path / "checkpoint" / "branch.pt").is_file()
    record = train(run_of(data), data, tmp_path, placement=HERE)
    assert record.readings == whole[0].readings
    assert lines(tmp_path) == lines(whole[1])


def test_a_listener_hears_of_each_horizon_and_can_stop_the_run_there(
    data: Data, tmp_path: Path, whole: tuple[Record, Path]
) -> None:
    heard: list[Reading] = []

    def stop(reading: Reading) -> None:
        heard.append(reading)
        raise Stop

    with pytest.raises(Stop):
        train(run_of(data), data, tmp_path, placement=HERE, listener=stop)
    assert heard == [whole[0].readings[0]]
    again: list[Reading] = []
    record = train(run_of(data), data, tmp_path, placement=HERE, listener=again.append)
    assert again == list(whole[0].readings[:2]), "those that the checkpoint has come first"
    assert record.readings == whole[0].readings
    assert lines(tmp_path) == lines(whole[1])


def test_the_end_is_no_horizon_for_a_listener_of_a_run_that_was_stopped_there(
    data: Data, tmp_path: Path, whole: tuple[Record, Path]
) -> None:
    with pytest.raises(Stop):
        train(run_of(data), data, tmp_path, placement=RARELY, progress=at(STEPS_IN_ALL, Stop))
    heard: list[Reading] = []
    record = train(run_of(data), data, tmp_path, placement=HERE, listener=heard.append)
    assert heard == list(whole[0].readings[:2])
    assert record.readings == whole[0].readings


def test_no_horizons_leave_the_key_as_it_was_before_there_were_any() -> None:
    arch = replace(ARCH, sharing="immediate", repeats=2, num_hidden_layers=None, layer_map=None)
    recipe = Recipe(tokens=5120, base_num_hidden_layers=9, precision="fp32")
    run = Run(architecture=arch, recipe=recipe, data_fingerprint="5f0c9", seed=1)
    assert run.key == "cf7273aaa87f780e"
    assert "horizons" not in run.to_dict()["recipe"]
    longer = replace(run, recipe=replace(recipe, tokens=10**6))
    other = replace(run, recipe=replace(longer.recipe, horizons=(0.5,)))
    assert other.key != longer.key
    assert run_from_dict(json.loads(json.dumps(other.to_dict()))) == other


def test_a_record_has_a_row_for_each_reading(tmp_path: Path, whole: tuple[Record, Path]) -> None:
    record = whole[0]
    write_record(tmp_path / record.run.key, record)
    frame = load_records(tmp_path)
    assert list(frame.tokens) == [10 * STEP, 20 * STEP, 40 * STEP]
    assert list(frame.val_bpb) == [reading.val_bpb for reading in record.readings]
    assert set(frame.branch_s) == {record.branch_s}
    assert record.value("val_bpb") == record.readings[-1].val_bpb
    lost = replace(record, status=Status.DIVERGED, readings=record.readings[:2])
    assert lost.value("val_bpb") is None, "a horizon is not the end"


def test_branches_are_counted_in_what_is_trained(data: Data) -> None:
    assert HORIZONS.branch_tokens == 9 * STEP
    plain, more = run_of(data, RECIPE), run_of(data)
    assert more.train_flops / plain.train_flops == pytest.approx(STEPS_IN_ALL / 40)
    assert RECIPE.branch_tokens == 0


def test_curves_shown_elsewhere_do_not_go_back(whole: tuple[Record, Path]) -> None:
    steps = [step for step, _ in curve(whole[1])]
    assert steps == sorted(set(steps))
    at_ten = dict(curve(whole[1]))[10]
    assert at_ten["branch/val_bpb"] == whole[0].readings[0].val_bpb
    assert at_ten["train_loss"] != at_ten["branch/train_loss"]


@given(
    steps=st.integers(10, 3000),
    percent=st.integers(1, 99),
    decay=st.sampled_from([0.1, 0.15, 0.2, 0.3, 0.5, 0.7]),
    warmup=st.sampled_from([0.0, 0.02, 0.1]),
)
@example(steps=100, percent=55, decay=0.2, warmup=0.1)  # 55.00000000000001 steps in floats
def test_a_branch_leaves_the_trunk_at_the_last_step_that_they_share(
    steps: int, percent: int, decay: float, warmup: float
) -> None:
    """In exact arithmetic: a run of that share of the tokens ends there, and its rate is the
    trunk's until then."""
    try:
        recipe = replace(
            RECIPE,
            tokens=steps * STEP,
            decay_fraction=decay,
            warmup_fraction=warmup,
            horizons=(percent / 100,),
        )
    except ValueError:
        assume(False)
    (branch,) = recipe.branches
    assert branch.end == ceil(Fraction(percent, 100) * steps)
    last = branch.start - 1
    assert last < 0 or lr_factor(recipe, last, branch.end) == lr_factor(recipe, last)
    assert lr_factor(recipe, branch.start + 1, branch.end) < 1


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"horizons": (0.5, 0.25)}, "ascending shares"),
        ({"horizons": (0.5, 0.5)}, "ascending shares"),
        ({"horizons": (0.5, 1.0)}, "ascending shares"),
        ({"horizons": (0.0, 0.5)}, "ascending shares"),
        ({"horizons": (0.1,)}, "after the warmup of 4 steps, but 0.1 would after 3"),
        ({"horizons": (0.51, 0.52)}, "a step apart"),
        ({"horizons": (0.5, 0.99)}, "a step apart"),
        ({"horizons": (0.5,), "decay_fraction": 0.0}, "decay for one at least"),
        ({"horizons": (0.5,), "schedule": "cosine"}, "schedule=wsd"),
    ],
)
def test_horizons_that_cannot_be_are_refused(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        replace(RECIPE, **given)


@pytest.mark.slow
def test_two_processes_read_what_one_does(tmp_path: Path) -> None:
    """Under torchrun, over gloo, at the same global batch."""
    readings = []
    for name, before in (("one", None), ("two", TORCHRUN)):
        (tmp_path / name).mkdir()
        horizons = ("recipe.horizons=[0.5,0.75]", "recipe.tokens=10240")
        code, printed = run_command(tmp_path / name, *horizons, before=before)
        assert code == 0, printed
        readings.append(load_records(tmp_path / name / "runs"))
    one, two = readings
    assert list(one.tokens) == list(two.tokens) == [5120, 7680, 10240]
    assert list(one.val_loss) == pytest.approx(list(two.val_loss), rel=1e-4)
