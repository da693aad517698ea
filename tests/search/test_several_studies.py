"""Several studies by one command, run for real."""

import json
from pathlib import Path

import pytest
from study_fixtures import run

from search.__main__ import name_of, require_one_law
from space.several import Several, jobs_of

pytestmark = pytest.mark.slow

TINY = ("n_trials=1", "replicates.seeds=1", "study=null")


def names(folder: Path) -> dict[str, int]:
    """Studies that were finished, with the runs of each."""
    found = {
        path.parent.name: json.loads(path.read_text())
        for path in folder.glob("outputs/*/study.json")
    }
    return {name: len(study["trials"]) for name, study in found.items() if study["finished"]}


def test_a_study_for_each_combination_and_a_line_for_the_law(tmp_path: Path) -> None:
    """Of a space in a folder of the user's."""
    own = tmp_path / "my conf" / "space" / "shallow.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("defaults: [depth_width, _self_]\naxes: {num_blocks: [1, 2]}\nname: shallow\n")
    few = (*TINY, "budget=100k,120k", "space=shallow")
    ended = run(tmp_path, "-m", "--config-dir", "my conf", *few)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    studies = ["shallow_100k_smoke_text", "shallow_120k_smoke_text"]
    assert names(tmp_path) == dict.fromkeys(studies, 1)
    assert f"1 of 2: {studies[0]}" in ended.stdout
    law = f"python -m reports page=laws 'study=[{','.join(studies)}]'"
    assert ended.stdout.splitlines()[-1].endswith(law)
    deeper = ("-m", "--config-dir", "my conf", *few, "space.axes.num_blocks=[1,2,3]", "train=false")
    refused = run(tmp_path, *deeper)
    assert refused.returncode == 2
    assert refused.stderr.count("choose another name with study=NAME") == 2
    assert "a law over these studies" not in refused.stdout
    named = run(tmp_path, *deeper, "study=deeper")
    assert named.returncode == 0, named.stderr
    assert "study=[deeper_budget100k,deeper_budget120k]" in named.stdout.splitlines()[-1]


def test_the_worst_exit_code_is_the_commands_and_the_others_are_done(tmp_path: Path) -> None:
    ended = run(tmp_path, "-m", *TINY, "recipe.lr=1e9,0.001", "budget=100k")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "all 1 runs diverged" in ended.stderr
    assert len(names(tmp_path)) == 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ("budget=[500k,4m]",),
            "is 5.6% in depth_width_4m_0.8_per_parameter and 16.4% in depth_width_500k_0",
        ),
        (
            ("budget=[1m,1_100k]", "n_trials=3"),
            "study depth_width_1m_0.8_per_parameter must try at least 4 depths.* raise n_trials",
        ),
        (
            ("budget=[1m,1_100k]", "space.axes.num_blocks=[2,3,4]"),
            r"its space has 3 \(2, 3 and 4 layers\) on 1,000,000 parameters; give "
            r"space\.axes\.num_blocks=\[1,2,3,4,.*\], which fit here$",
        ),
        (
            ("budget=[non_embedding_parameters:50k,non_embedding_parameters:200k]",),
            r"its space has 2 \(2 and 3 layers\) on 50,000 non-embedding parameters; take "
            "non_embedding_parameters:62k as the smallest budget, on which it has 4 or more",
        ),
    ],
)
def test_studies_that_can_make_no_law_are_refused_before_the_first(
    given: tuple[str, ...], said: str
) -> None:
    how = Several(naming="study", name=name_of, law=require_one_law)
    with pytest.raises(ValueError, match=said):
        jobs_of([*given, "tokens_per_parameter=0.8"], how)
    fine = "budget=[non_embedding_parameters:500k,non_embedding_parameters:4m]"
    assert len(jobs_of([fine, "tokens_per_parameter=0.8"], how)) == 2


def test_budgets_of_one_length_are_refused_as_a_law_with_what_to_add() -> None:
    how = Several(naming="study", name=name_of, law=require_one_law)
    kinds = "non_embedding_parameters"
    budgets = f"budget=[{kinds}:500k,{kinds}:1m]"
    with pytest.raises(ValueError, match=r"are 0\.8 in .* and 1\.6 in .*; add tokens_per_par"):
        jobs_of([budgets], how)
    assert len(jobs_of([budgets, "tokens_per_parameter=1.6"], how)) == 2
    small = [f"budget=[{kinds}:200k,{kinds}:250k]", "tokens_per_parameter=0.1"]
    rounded = r"whole steps of 512 tokens round them; raise tokens_per_parameter, such as to 0.13"
    with pytest.raises(ValueError, match=rounded):
        jobs_of(small, how)
    assert len(jobs_of([small[0], "tokens_per_parameter=0.13"], how)) == 2, "as advised"
    assert len(jobs_of([f"budget={kinds}:500k,{kinds}:1m"], how)) == 2, "-m makes no law"


def test_a_space_with_several_architectures_per_depth_makes_no_law() -> None:
    how = Several(naming="study", name=name_of, law=require_one_law)
    kinds = "non_embedding_parameters"
    given = [f"budget=[{kinds}:500k,{kinds}:1m]", "tokens_per_parameter=0.8", "space=tying"]
    with pytest.raises(ValueError, match=r"must have one architecture per depth .* has 2 of"):
        jobs_of(given, how)
