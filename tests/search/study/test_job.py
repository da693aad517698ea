"""What a worker gets is what was decided: jobs as JSON."""

import json
from pathlib import Path

import pytest
from study_fixtures import open_search, sent
from table_fixtures import RECIPE

from ablations.cells import TableWork
from ablations.questions import Asked
from ablations.stats.bracket import LrSearch
from search.study.job import KIND, Job


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "given",
    [
        (),
        ("sampler=tpe", "+sampler.options={n_startup_trials: 3}", "seed=3"),
        (
            "objectives=[val_bpb,kv_bytes]",
            "constraints=['parameters<=101000']",
            "columns=[train_s]",
        ),
        (
            "recipe.tokens=5120",
            "recipe.horizons=[0.5]",
            "pruner=asha",
            "placement.checkpoint_s=1e9",
        ),
        ("+space.fixed.sliding_window=16", "+space.axes.sharing=[none,immediate x2]"),
    ],
)
def test_a_worker_gets_the_job_of_a_search(here: Path, given: tuple[str, ...]) -> None:
    job = open_search(here, *given).job
    text = job.to_json()
    again = Job.from_json(text)
    assert again == job
    assert "\n" not in text, "workers read a line"
    assert [again.work.run(option.params, 5).key for option in again.work.plan.options] == [
        job.work.run(option.params, 5).key for option in job.work.plan.options
    ]


@pytest.mark.parametrize("search", [LrSearch(), LrSearch(name="bracket")])
def test_a_worker_gets_the_work_of_a_table(search: LrSearch) -> None:
    arms = {
        "none": {"sharing": "none", "published": 44.6},
        "shared": {"sharing": "immediate x2", "recipe": {"lr": 1e-3}},
        "windows": {"sliding_window": "8, global every 2"},
        "custom": {"layer_map": [[0, 0], [1, 1], [0, 1]], "num_blocks": None},
    }
    panel = {"name": "a", "budget": "100k", "baseline": "none", "base": {"num_blocks": 2}}
    asked = Asked(recipe=RECIPE, vocab_size=300, caption="Which?", file_seeds=2)
    table = asked.table([{**panel, "arms": arms}])
    work = TableWork(table=table, data_fingerprint="a", first_seed=3, search=search)
    again = sent(work)
    assert again == work
    assert list(again.cells) == list(work.cells), "keys of runs"
    assert again.table.panels[0].arms[3].architecture.layers == ((0, 0), (1, 1), (0, 1))


def test_what_a_job_names_as_its_work_must_be_data(here: Path) -> None:
    text = json.loads(open_search(here).job.to_json())
    text["work"][KIND] = "os:system"
    with pytest.raises(ValueError, match="must be a dataclass, but got os:system"):
        Job.from_json(json.dumps(text))
