"""What a terminal shows: on 80 columns too, from the first second on, of runs that have names."""

import io
import re

import pytest
from rich.console import Console
from train_fixtures import ARCH

from reports.weigh.answer import _level as in_page
from search.recipe import Recipe
from search.record import Run
from search.show.progress import BAR, Bars, Tally, View, ended, identity, named, shape
from search.states import Kind, Status

RUN = Run(architecture=ARCH, recipe=Recipe(tokens=10_000, precision="fp32"), data_fingerprint="a")
LONG = {"num_blocks": 8, "sharing": "middle_sequence x2", "tie_word_embeddings": True}


def bars(width: int) -> tuple[Bars, Console]:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system="standard")
    return Bars(Tally(total=12, metric="val_bpb", expected_s=3000.0), console), console


def shown(view: Bars, console: Console) -> list[str]:
    with console.capture() as captured:
        console.print(view.progress.get_renderable())
    return re.sub(r"\x1b\[[\d;]*m", "", captured.get()).splitlines()


@pytest.mark.parametrize("width", [80, 100, 200])
def test_bars_and_the_time_left_fit_a_terminal(width: int) -> None:
    view, console = bars(width)
    view.show(0, {"event": Kind.START, "number": 3, **identity(RUN, LONG)})
    step = {"step": 50, "of": 100, "tokens": 5000, "tokens_per_s": 100.0, "train_loss": 3.2}
    view.show(0, {"event": Kind.STEP, **step})
    overall, worker = shown(view, console)
    for line in (overall, worker):
        assert len(line) <= width
        assert re.search(rf"[━╸╺]{{{BAR}}}", line), "the bar has all its columns"
        assert " left" in line
    assert "50 s left" in worker
    assert "0/12 done" in overall


@pytest.mark.parametrize(("tied", "said"), [(True, "tied"), (False, "untied")])
def test_tying_is_said_as_the_page_says_it(tied: bool, said: str) -> None:
    assert named({"num_blocks": 3, "tie_word_embeddings": tied, "qk_norm": False}) == (
        f"{said}, no qk norm"
    )
    assert in_page("axis.tie_word_embeddings", tied) == said


def test_before_the_first_run_it_says_that_workers_start() -> None:
    assert "starting workers" in shown(*bars(80))[0]
    said: list[str] = []
    with View(Tally(total=2, metric="val_bpb"), said.append):
        pass
    assert said == ["starting workers; a line follows when a run ends"]
    said.clear()
    with View(Tally(total=2, metric="val_bpb", done=2), said.append):
        pass
    assert said == [], "nothing is left to start"


def test_the_number_of_runs_may_change_while_they_run() -> None:
    view, console = bars(80)
    view.tally.total = 1
    end = {"event": Kind.END, "number": 0, "status": Status.FINISHED, "reason": None, "value": 3.0}
    view.show(0, {**end, "reused": True, "seconds": 0.0, **identity(RUN, {})})
    (overall, *_) = shown(view, console)
    assert "1/1 done" in overall
    view.tally.total, view.tally.at_most = 3, True
    assert str(view.tally).startswith("1 of up to 3 done")
    assert re.search(rf"━{{{BAR}}}", overall), "the bar is full"
    assert view.progress.tasks[0].percentage == 100


def test_arms_of_one_shape_have_their_names() -> None:
    first, second = ({"panel": "p", "arm": arm} for arm in ("immediate ×2", "cycle ×2"))
    words = [shape(identity(RUN, params)) for params in (first, second)]
    assert words[0] != words[1]
    assert "immediate ×2" in words[0]
    assert named(LONG) == "middle_sequence x2, tied"
    assert named({"num_blocks": 4}) == ""
    assert named({"panel": "p", "arm": "a", "lr": 0.003}) == "a at 0.003"


def test_lines_of_finished_runs_say_which_they_were() -> None:
    said: list[str] = []
    view = View(Tally(total=2, metric="val_bpb"), said.append)
    view.show(0, ended(RUN, 1, {"arm": "tied"}, status=Status.FINISHED, reason=None, value=2.0))
    assert "tied" in said[0]
    assert "failed" not in said[0]


def test_the_best_of_the_terminal_keeps_to_the_constraints() -> None:
    said: list[str] = []
    view = View(Tally(total=3, metric="val_bpb"), said.append)
    for number, (value, missed) in enumerate([(1.5, "kv_bytes<=64 by 8"), (2.0, ""), (2.5, "")]):
        end = ended(RUN, number, {}, status=Status.FINISHED, reason=None, value=value)
        view.show(0, {**end, "missed": missed})
    assert "misses kv_bytes<=64 by 8" in said[0]
    assert "none keeps to the constraints so far" in said[0]
    assert all("best 2.0000" in line for line in said[1:])
