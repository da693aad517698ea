"""`-m`: which starts options stand for, and what their studies are called."""

import pytest

from ablations.__main__ import name_of as table_of
from search.__main__ import name_of
from space import several
from space.several import Job, Several, _laws, jobs_of, wants_law

SEARCH = Several(naming="study", name=name_of, law=lambda studies, folders: None)
TABLES = Several(naming="called", name=table_of)
FEW = ("proxy=smoke", "data.vocab_size=300")


def studies(*given: str, how: Several = SEARCH) -> list[str]:
    return [job.study for job in jobs_of([*FEW, *given], how)]


def test_each_combination_is_a_start_with_a_name_of_its_own() -> None:
    assert studies("budget=100k,200k", "seed=0,1") == [
        "depth_width_100k_smoke_seed0",
        "depth_width_100k_smoke_seed1",
        "depth_width_200k_smoke_seed0",
        "depth_width_200k_smoke_seed1",
    ]


def test_what_the_default_name_tells_is_not_said_again() -> None:
    assert studies("budget=100k,200k") == ["depth_width_100k_smoke", "depth_width_200k_smoke"]


def test_a_name_that_was_given_is_told_apart_by_all_that_differs() -> None:
    named = studies("study=mine", "budget=100k,200k", "recipe.lr=0.001,0.002")
    assert named == [
        "mine_budget100k_lr0.001",
        "mine_budget100k_lr0.002",
        "mine_budget200k_lr0.001",
        "mine_budget200k_lr0.002",
    ]
    assert studies("study=a,b") == ["a", "b"]
    kinds = "non_embedding_parameters"
    jobs = jobs_of([*FEW, "study=mine", f"budget={kinds}:100k,{kinds}:200k"], SEARCH)
    assert jobs[0].given[-1] == f"study=mine_budget_{kinds}_100k"


def test_each_start_is_given_what_its_study_is_named_after() -> None:
    jobs = jobs_of([*FEW, "budget=100k", "seed=range(0,3)"], SEARCH)
    assert [name_of(job.given) for job in jobs] == [job.study for job in jobs]
    assert [job.swept for job in jobs] == [{"seed": "0"}, {"seed": "1"}, {"seed": "2"}]


def test_lists_of_other_options_and_commas_in_quotes_are_one_value() -> None:
    given = ["columns=[kv_bytes,decode_bytes]", "budget=100k", "data.name='a,b'"]
    (job,) = jobs_of([*FEW, *given], SEARCH)
    assert job.given == (*FEW, *given)


def test_a_list_of_budgets_wants_a_law_and_one_budget_does_not() -> None:
    assert wants_law(["budget=[100k,200k]"], SEARCH)
    assert studies("budget=[100k,200k]") == studies("budget=100k,200k")
    for word in ("budget=100k", "budget=100k,200k", "columns=[kv_bytes]"):
        assert not wants_law([word], SEARCH)
    assert not wants_law(["budget=[100k,200k]"], TABLES)


def test_a_law_is_over_studies_that_differ_in_budget_alone() -> None:
    jobs = [
        Job(("outputs=o",), f"{budget}_{seed}", {"budget": budget, "seed": seed})
        for budget in ("1m", "2m")
        for seed in ("0", "1")
    ]
    assert _laws(jobs) == [
        ["reports", "page=laws", "study=[1m_0,2m_0]", "outputs=o"],
        ["reports", "page=laws", "study=[1m_1,2m_1]", "outputs=o"],
    ]
    assert _laws([jobs[0], jobs[1]]) == [], "one budget"


@pytest.mark.parametrize(
    ("codes", "law"),
    [
        ([2, 2, 2], ""),
        ([2, 2, 0], ""),
        ([0, 2, 1], "study=[1m,4m]"),
        ([0, 1, 0], "study=[1m,2m,4m]"),
    ],
)
def test_a_law_is_not_over_studies_whose_options_were_refused(
    codes: list[int],
    law: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    left = iter(codes)
    monkeypatch.setattr(several, "_run", lambda words: next(left))
    jobs = [Job((), budget, {"budget": budget}) for budget in ("1m", "2m", "4m")]
    assert several.start("search", [], jobs, law=True, make=True) == max(codes)
    said = capsys.readouterr().out
    assert ("a law over these studies" in said) == bool(law)
    assert law in said


def test_tables_are_told_apart_too() -> None:
    few = ("table=embedding_tying,layer_sharing", "seeds=3")
    assert [job.study for job in jobs_of(few, TABLES)] == ["embedding_tying", "layer_sharing"]
    named = jobs_of(["table=heads", "recipe.lr=0.001,0.002"], TABLES)
    assert [job.study for job in named] == ["heads_lr0.001", "heads_lr0.002"]


@pytest.mark.parametrize(
    ("word", "said"),
    [("seed=0,x", "seed"), ("recipe.lrr=1,2", "recipe.lr"), ("budget=1m,1q", "1q")],
)
def test_a_wrong_value_of_any_start_is_an_error_of_all(word: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        jobs_of([*FEW, word], SEARCH)
