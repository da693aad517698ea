"""What an export of the best run says of it, and of what the study's page advises."""

from pathlib import Path

from report_fixtures import StudyFolder, ladder

from reports.weigh.advice import besides_the_best
from search.models import best, best_in_words
from search.runs import WEIGHTS

EXPLORED = {3: 1.75, 4: 1.70, 5: 2.20}
"""By depth; further seeds have 1.75, 1.701 and 1.70: the best of these is the worst of all."""


def study_of(root: Path, explored: dict[int, float]) -> StudyFolder:
    study = StudyFolder(root)
    for architecture, further in zip(ladder([3, 4, 5]), (1.75, 1.701, 1.70), strict=True):
        depth = architecture.num_hidden_layers or 0
        study.add(architecture, bpb=explored[depth])
        for seed in (1, 2):
            study.add(architecture, seed, "replicate", bpb=further + 0.001 * seed)
    study.write()
    return study


def test_the_best_run_is_said_with_its_value(tmp_path: Path) -> None:
    study = study_of(tmp_path, EXPLORED)
    outputs = tmp_path / "outputs"
    key = best(study.name, outputs).name
    width = ladder([5])[0].hidden_size
    assert best_in_words(study.name, outputs) == (
        f"it is the best run of the architecture with the best mean in {study.name}, {key}: "
        f"5 layers × {width}, seed 1, "
        "1.7010 bits per byte"
    )


def test_what_the_page_advises_is_said_where_it_is_another(tmp_path: Path) -> None:
    study = study_of(tmp_path / "apart", EXPLORED)
    outputs = tmp_path / "apart" / "outputs"
    runs = tmp_path / "apart" / "runs"
    said = besides_the_best(study.name, outputs, runs, best(study.name, outputs).name)
    (key,) = (t["key"] for t in study.trials if (t["params"]["num_blocks"], t["seed"]) == (4, 0))
    assert said.startswith("Its page advises another. By all runs together, taking 4 layers")
    assert said.endswith(f" Its best run kept no weights; export={key} says how to train it again.")
    (runs / key / WEIGHTS).touch()
    said = besides_the_best(study.name, outputs, runs, best(study.name, outputs).name)
    assert said.endswith(f" Its best run with weights is export={key}.")
    alike = study_of(tmp_path / "alike", {3: 1.75, 4: 1.705, 5: 1.70})
    outputs = tmp_path / "alike" / "outputs"
    assert besides_the_best(alike.name, outputs, runs, best(alike.name, outputs).name) == ""
