"""`best` in place of a run's key: the best run of a study, from its study.json alone."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from report_fixtures import RECIPE, ladder
from study_fixtures import environment

from search.evaluate import __main__ as evaluate
from search.measure import __main__ as measuring
from search.models import best, instead, named
from search.record import Run
from search.runs import WEIGHTS, write_run
from space.arch import Architecture
from space.budget import fit


def write(folder: Path, values: dict[str, list[float]], **facts: Any) -> None:
    """A study with these values of each arm, the first of which explored."""
    trials = [
        {
            "number": number,
            "state": "COMPLETE",
            "params": {},
            "key": f"{arm}{seed}",
            "arm": arm,
            "seed": seed,
            "role": "replicate" if seed else "explore",
            "value": value,
        }
        for number, (arm, seed, value) in enumerate(
            (arm, seed, value) for arm, of in values.items() for seed, value in enumerate(of)
        )
    ]
    folder.mkdir(parents=True)
    (folder / "study.json").write_text(json.dumps({"runs": "r", "trials": trials, **facts}))


def test_it_is_a_run_of_the_best_arm_by_seeds_that_did_not_choose_it(tmp_path: Path) -> None:
    write(tmp_path / "s", {"a": [1.0, 3.0, 3.0], "b": [2.0, 2.0, 2.1], "lucky": [0.5]})
    assert best("s", tmp_path) in (Path("r/b0"), Path("r/b1"))
    assert named("best", "s", str(tmp_path)) == str(best("s", tmp_path))


def test_more_may_be_better_and_tables_are_found(tmp_path: Path) -> None:
    write(tmp_path / "tables" / "t", {"a": [1.0], "b": [2.0]}, direction="maximize")
    assert best("t", tmp_path) == Path("r/b0")


def test_of_runs_that_all_break_a_constraint_none_is_best(tmp_path: Path) -> None:
    write(tmp_path / "s", {"a": [1.0], "b": [2.0]})
    path = tmp_path / "s" / "study.json"
    content = json.loads(path.read_text())
    for trial, excess in zip(content["trials"], (0.04102400000000017, 0.0), strict=True):
        trial["excesses"] = {"peak_mb<=7": excess}
    path.write_text(json.dumps(content))
    assert best("s", tmp_path) == Path("r/b0")
    content["trials"][1]["excesses"] = {"peak_mb<=7": 1.0}
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"misses peak_mb<=7 by 0\.04102; give its key .*: a0"):
        best("s", tmp_path)


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    write(tmp_path / "depth_1m", {"a": []})
    with pytest.raises(ValueError, match=r"got 'dpeth_1m'; did you mean depth_1m\?"):
        best("dpeth_1m", tmp_path)
    with pytest.raises(ValueError, match="none of depth_1m has ended"):
        best("depth_1m", tmp_path)
    with pytest.raises(ValueError, match="best must come with study=NAME"):
        named("best", None, "outputs")
    with pytest.raises(ValueError, match="study must come with the model best"):
        named("8041237e", "depth_1m", "outputs")


def run_of(folder: Path, architecture: Architecture, kept: bool) -> str:
    """A run that was asked for, and where `kept` a file for its weights; its key."""
    run = Run(architecture=architecture, recipe=RECIPE, data_fingerprint="5f0c9", seed=0)
    write_run(folder / run.key, run)
    if kept:
        (folder / run.key / WEIGHTS).write_bytes(b"weights")
    return run.key


@pytest.mark.parametrize("verb", ["evaluate", "measure"])
def test_scores_and_times_of_the_best_run_say_which_it_is(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = run_of(tmp_path / "runs", ladder([2])[0], True)
    write(tmp_path / "outputs" / "s", {"a": [1.0]})
    path = tmp_path / "outputs" / "s" / "study.json"
    content = json.loads(path.read_text()) | {"runs": "runs"}
    content["trials"][0]["key"] = key
    path.write_text(json.dumps(content))

    def stopped(*_: object) -> None:
        raise ValueError("so far")

    for name in ("chosen", "build"):
        monkeypatch.setattr(evaluate, name, lambda *_: [])
    for name in ("find_model", "open_model"):
        monkeypatch.setattr(evaluate, name, lambda *_: None)
    monkeypatch.setattr(evaluate, "table", lambda _: "scores")
    monkeypatch.setattr(measuring, "measure", stopped)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [verb, "model=best", "study=s"])
    if verb == "evaluate":
        evaluate.main()
    else:
        sys.argv.append("engine=llama_cpp")
        with pytest.raises(SystemExit, match="2"):
            measuring.main()
    said = capsys.readouterr().out
    assert (
        f"it is the best run of the architecture with the best mean in s, {key}: 2 layers × "
        in said
    )
    assert "seed 0, 1.0000 bits per byte" in said


def test_in_place_of_a_best_run_that_no_format_holds_the_best_that_can_be_exported_is_named(
    tmp_path: Path,
) -> None:
    gated = ladder([2], attn_output_gate="headwise")[0]
    plain, worse = ladder([2, 4])
    runs = tmp_path / "runs"
    keys = [run_of(runs, gated, True), run_of(runs, plain, True), run_of(runs, worse, True)]
    arms = {"gated": [1.0], "plain": [1.1], "worse": [1.2]}
    write(tmp_path / "outputs" / "gates", arms, command="python -m search study=gates keep=best")
    path = tmp_path / "outputs" / "gates" / "study.json"
    content = json.loads(path.read_text()) | {"runs": "runs"}
    for trial, key in zip(content["trials"], keys, strict=True):
        trial["key"] = key
    path.write_text(json.dumps(content))

    def exported() -> str:
        made = [sys.executable, "-m", "space", "export=best", "study=gates", "to=here"]
        ended = subprocess.run(
            made, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
        )
        assert ended.returncode == 2
        return ended.stderr

    said = exported()
    assert said.startswith("error: an architecture must be one that transformers has a model for")
    assert said.endswith(f"; the best run of gates that can be is export=runs/{keys[1]}\n")
    assert "leave it out" not in said
    (runs / keys[1] / WEIGHTS).unlink()
    (runs / keys[1] / "record.json").write_text("{}")
    said = exported()
    assert f"is export=runs/{keys[1]}; runs/{keys[1]} must hold {WEIGHTS}" in said
    assert "then `python -m search study=gates keep=all`" in said
    assert instead("gates", tmp_path / "outputs", lambda arch: False) == ""


def test_widths_that_a_precision_cannot_hold_are_said_with_what_can(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    narrow = fit({"num_blocks": 3, "vocab_size": 512}, "100k")
    assert narrow.hidden_size % 32
    key = run_of(tmp_path / "runs", narrow, True)
    write(tmp_path / "outputs" / "tiny", {"a": [1.0]})
    path = tmp_path / "outputs" / "tiny" / "study.json"
    path.write_text(path.read_text().replace('"a0"', f'"{key}"').replace('"r"', '"runs"'))
    given = ["export=best", "study=tiny", "to=here", "format=gguf", "precision=q8_0"]
    ended = subprocess.run(
        [sys.executable, "-m", "space", *given],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: hidden_size must be a multiple of 32 for precision=q8_0")
    assert ended.stderr.endswith(
        f"but is {narrow.hidden_size}; use precision=fp16 or format=hf, or train one with "
        """'space.constraints={hidden_size: "%32", intermediate_size: "%32"}' """
        "(no run of tiny can be exported so)\n"
    )
