"""`best` in place of a run's key: the best run of a study, from its study.json alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from search.models import best, named


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
