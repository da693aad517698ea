"""What every kind of question must do. On your own: `--implementation mine.py`."""

import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from contract_fixtures import failures_of
from report_fixtures import default_study
from study_fixtures import ROOT, environment, records, sent
from table_fixtures import RECIPE, TABLE, make

from ablations.ask import ask
from ablations.cells import TableWork
from ablations.config import AblationConfig
from ablations.facts import table_facts
from ablations.files import TableFile
from ablations.help import kinds
from ablations.questions import QUESTIONS
from ablations.table import Table
from reports.views import view_of
from reports.weigh.table import read_table
from search.config import DataConfig
from search.record import Reading, Record
from search.runs import write_record
from search.states import Status
from search.study.plan import Attempt, Cell, Step

DOOR = QUESTIONS
MOST = 200
"""Cells that no example takes."""
Outcome = tuple[str, float | None]


def table_of(name: str, folder: Path) -> Table:
    """The question's own example; of one without a file, with a search in `folder` to ask about."""
    question = QUESTIONS.load(name)
    if question.standalone:
        study = default_study(folder)
        study.write()
        data = DataConfig(source="embedded", path=None)
        outputs, runs = str(folder / "outputs"), str(folder / "runs")
        config = AblationConfig(
            table=name, data=data, recipe=RECIPE, study=study.name, outputs=outputs, runs=runs
        )
        return ask(config, RECIPE, 1024)
    path = folder / "example.yaml"
    path.write_text(question.example)
    return TableFile.read(str(path)).table("proxy", RECIPE, 300)


@pytest.fixture
def work(implementation: str, tmp_path: Path) -> TableWork:
    """What the workers of the example see."""
    if not QUESTIONS.load(implementation).trains:
        pytest.skip("nothing is trained for it")
    return TableWork(table=table_of(implementation, tmp_path), data_fingerprint="a", first_seed=3)


def outcome(work: TableWork, cell: Cell, number: int) -> Outcome:
    """How a cell ends: a value that depends on the cell alone."""
    key = work.run(cell.params, cell.seed).key
    return Status.FINISHED, 3.0 + random.Random(key).gauss(0, 0.1)


def attempt(work: TableWork, cell: Cell, number: int, ended: Outcome) -> Attempt:
    status, value = ended
    return Attempt(
        number=number,
        state="COMPLETE" if status == Status.FINISHED else "FAIL",
        params=cell.params,
        key=work.run(cell.params, cell.seed).key,
        seed=cell.seed,
        value=value,
        status=status,
    )


def told(work: TableWork, ends: Any = outcome) -> list[Attempt]:
    """The trials of a study whose workers did all that `work` asked for."""
    attempts: list[Attempt] = []
    while isinstance(cell := work.next(attempts, 0), Cell):
        number = len(attempts)
        attempts.append(attempt(work, cell, number, ends(work, cell, number)))
        assert number < MOST, "it must end"
    assert cell is Step.DONE
    return attempts


def test_it_says_what_it_asks_takes_and_leaves(implementation: str) -> None:
    question = QUESTIONS.load(implementation)
    assert question.asks
    assert question.takes
    assert question.leaves
    assert question.standalone or "caption" in yaml.safe_load(question.example)
    if implementation in QUESTIONS.names():
        assert f"takes {question.takes}\n    leaves {', '.join(question.leaves)}" in kinds()


def test_its_example_makes_a_table_of_its_kind(implementation: str, work: TableWork) -> None:
    assert work.table.question == implementation
    for panel in work.table.panels:
        names = [arm.name for arm in panel.arms]
        assert panel.baseline in names
        assert len(set(names)) == len(names)


def test_it_wants_no_cell_twice_and_ends(work: TableWork) -> None:
    keys = [a.key for a in told(work)]
    assert keys
    assert len(set(keys)) == len(keys)
    asked = {place["key"] for place in work.after(told(work), 0).places()}
    assert asked == set(keys), "what is shown is what was trained"


def test_it_wants_at_most_the_seeds_of_the_table(work: TableWork) -> None:
    frame_limits = work.after([], 0).limits or {}
    arms = {(panel.name, arm.name) for panel in work.table.panels for arm in panel.arms}
    assert set(frame_limits) <= arms, "arms of the table alone"
    assert all(0 <= seeds <= work.table.seeds for seeds in frame_limits.values())


def test_a_restart_wants_the_same(work: TableWork) -> None:
    """What is wanted follows from what has ended alone: not from the process, nor from the order in
    which runs ended."""
    attempts = told(work)
    for ended in (0, 1, len(attempts) // 2, len(attempts) - 1):
        some = attempts[:ended]
        again = sent(work)
        assert work.next(some, 0) == again.next(some, 0)
        mixed = random.Random(ended).sample(some, len(some))
        assert set(again.after(mixed, 0).wanted) == set(work.after(some, 0).wanted)


def test_it_ends_when_runs_fail_or_diverge(work: TableWork) -> None:
    def unlucky(work: TableWork, cell: Cell, number: int) -> Outcome:
        lost = ((Status.FAILED, None), (Status.DIVERGED, None))
        return (outcome(work, cell, number), *lost)[number % 3]

    assert told(work, unlucky)
    assert told(work, lambda work, cell, number: (Status.FAILED, None))


def test_what_it_does_not_know_is_refused_in_one_line(implementation: str, tmp_path: Path) -> None:
    question = QUESTIONS.load(implementation)
    if question.standalone:
        pytest.skip("no file describes it")
    wrong = [yaml.safe_load(question.example) | {"no_such_key": 1}]
    if question.key:
        content = yaml.safe_load(question.example)
        wrong.append(content | {question.key: content[question.key] | {"no_such_key": 1}})
        wrong.append(content | {question.key: 5})
    for content in wrong:
        path = tmp_path / "wrong.yaml"
        path.write_text(yaml.safe_dump(content))
        with pytest.raises(ValueError, match="must") as error:
            TableFile.read(str(path)).table("proxy", RECIPE, 300)
        assert "\n" not in str(error.value)


def write_table(work: TableWork, folder: Path, lost: int = 0) -> Path:
    """A folder of outputs and runs as the table's study leaves it, its first `lost` runs diverged.
    Every run was read at each horizon of its recipe."""
    attempts = told(work)
    for place, ended in enumerate(attempts):
        run = work.run(ended.params, ended.seed)
        horizons = [round(share * run.recipe.tokens) for share in run.recipe.horizons]
        readings = [
            Reading(tokens=tokens, val_loss=4.0, val_bpb=(ended.value or 0.0) + 1000 / tokens)
            for tokens in [*horizons, run.recipe.tokens]
        ]
        kept = (Status.DIVERGED, ()) if place < lost else (Status.FINISHED, tuple(readings))
        (folder / "runs" / run.key).mkdir(parents=True, exist_ok=True)
        record = Record(run=run, status=kept[0], readings=kept[1])
        write_record(folder / "runs" / run.key, record)
    after = work.after(attempts, 0)
    path = folder / "outputs" / "tables" / "example"
    path.mkdir(parents=True)
    content = {
        "table": table_facts(after.resolved),
        "places": list(after.places()),
        "metric": "val_bpb",
        "runs": str(folder / "runs"),
        "trials": [],
    }
    (path / "study.json").write_text(json.dumps(content))
    return folder


SHOW = """
import hashlib, json, sys
from reports.views import view_of
from reports.weigh.table import read_table

report = read_table("example", sys.argv[1], None)
shown = view_of(report.question).show(report)
assert "torch" not in sys.modules, "a report must be made without torch"
print(json.dumps({n: hashlib.sha256(c).hexdigest() for n, c in shown.files.items()}))
"""


def test_its_report_is_the_same_bytes_twice_and_needs_no_torch(
    implementation: str, work: TableWork, tmp_path: Path
) -> None:
    folder = write_table(work, tmp_path)
    report = read_table("example", folder / "outputs", None)
    shown = view_of(implementation).show(report)
    assert shown.files
    assert set(shown.files) <= set(QUESTIONS.load(implementation).leaves)
    command = [sys.executable, "-c", SHOW, str(folder / "outputs")]
    again = subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=False, timeout=300
    )
    assert again.returncode == 0, again.stderr
    first = {name: hashlib.sha256(c).hexdigest() for name, c in shown.files.items()}
    assert json.loads(again.stdout) == first


def test_it_names_what_is_missing(implementation: str, work: TableWork, tmp_path: Path) -> None:
    folder = write_table(work, tmp_path, lost=2)
    report = read_table("example", folder / "outputs", None)
    shown = view_of(implementation).show(report)
    text = "\n".join(
        content.decode() for name, content in shown.files.items() if name.endswith((".md", ".csv"))
    )
    assert report.missing
    assert [words for words in report.missing if words not in text] == []


# One of the user's own, in a single file.

MINE = '''
"""Which arm has the smallest spread over its seeds?"""

from ablations.questions import Question
from reports.views import Shown


class Spreads:
    """A line for each arm, the steadiest first."""

    def show(self, report):
        cells = report.cells.dropna(subset=report.metric)
        spreads = cells.groupby("arm")[report.metric].std().sort_values(kind="stable")
        lines = [f"| {arm} | {spread:.6f} |" for arm, spread in spreads.items()]
        lines += [f"No result: {text}." for text in report.missing]
        table = "\\n".join(["| arm | sd |", "| --- | ---: |", *lines]) + "\\n"
        return Shown({"spread.md": table.encode()}, [f"steadiest: {spreads.index[0]}"])


class Spread(Question):
    """All arms get the same seeds, at least `fewest` of them."""

    asks = "Which arm has the smallest spread over its seeds?"
    takes = "panels of arms; spread: fewest, the fewest seeds"
    leaves = ("spread.md",)
    view = Spreads()
    key = "spread"
    example = """
caption: Which is steadier?
budget: 100k
seeds: 3
question: FILE
spread: {fewest: 2}
proxy:
  - name: two blocks
    baseline: none
    base: {num_blocks: 2}
    arms:
      none: {sharing: none}
      immediate: {sharing: immediate x2}
""".replace("FILE", __file__)

    def table(self, asked):
        table, content = asked.table(asked.panels), dict(asked.content)
        fewest = content.pop("fewest", 2)
        if content:
            raise ValueError(f"spread must hold fewest alone, but has {', '.join(content)}")
        if table.seeds < fewest:
            raise ValueError(f"seeds must be at least {fewest}, but got {table.seeds}")
        return table


QUESTION = Spread()
'''
ASKED = TABLE.replace("seeds: 2", "seeds: 3\nquestion: mine.py\nspread: {fewest: 2}")


@pytest.mark.slow
def test_a_question_of_ones_own_is_asked_and_shown(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "small.yaml").write_text(ASKED)
    made = make(tmp_path)
    assert made.returncode == 0, made.stderr
    assert "steadiest: " in made.stdout
    folder = tmp_path / "outputs" / "tables" / "small"
    before = (folder / "spread.md").read_bytes()
    assert not (folder / "table.md").exists(), "its own view alone"
    assert len(records(tmp_path)) == 6
    (folder / "spread.md").unlink()
    command = [sys.executable, "-m", "reports", "table=small"]
    again = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert again.stdout in made.stdout
    assert (folder / "spread.md").read_bytes() == before


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("mine.py", "yours.py", "question must be one of .* but got 'yours.py'"),
        ("{fewest: 2}", "{fewest: 4}", "seeds must be at least 4, but got 3"),
        ("{fewest: 2}", "{most: 4}", "spread must hold fewest alone, but has most"),
        ("{fewest: 2}", "[2]", "spread in .* must be a mapping"),
        ("mine.py\n", "mine.py\ntrust: {}\n", "must ask one question, but has trust beside spread"),
        ("mine.py", "power", "must be one that a file describes, but power is asked by table=pow"),
        ("mine.py", "arms", "must hold caption and may hold .*, but has .*spread"),
    ],
)
def test_a_wrong_file_of_ones_own_question_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "small.yaml").write_text(ASKED.replace(old, new))
    with pytest.raises(ValueError, match=words):
        TableFile.read("small.yaml").table("proxy", RECIPE, 300)


@pytest.mark.slow
def test_a_good_question_of_ones_own_passes_the_contract(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider"]
    command += [str(Path(__file__)), "--implementation", str(tmp_path / "mine.py")]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


UNTRAINED = '''
"""How many models are named?"""

from ablations.questions import Question
from reports.views import Shown


class Number:
    def show(self, report):
        known = (report.folder / "number.txt").read_bytes()
        return Shown({"number.md": b"models: " + known}, ["counted"])


class Count(Question):
    asks = "How many models are named?"
    takes = "models"
    leaves = ("number.md",)
    view = Number()
    standalone = True
    trains = False

    def table(self, asked):
        raise NotImplementedError

    def measure(self, config):
        config.folder.mkdir(parents=True, exist_ok=True)
        (config.folder / "number.txt").write_text(str(len(config.models)))


QUESTION = Count()
'''


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "file", "folder"),
    [("count.py", "count.py", "count"), ("lab.count", "lab/count.py", "lab_count")],
)
def test_a_question_of_ones_own_may_need_neither_file_nor_training(
    tmp_path: Path, name: str, file: str, folder: str
) -> None:
    """It is a file, or a module of the Python path."""
    (tmp_path / "lab").mkdir()
    (tmp_path / file).write_text(UNTRAINED)
    made = make(tmp_path, f"table={name}", "models=[a,b]")
    assert made.returncode == 0, made.stderr
    assert made.stdout.endswith("counted\n")
    assert (tmp_path / "outputs" / "tables" / folder / "number.md").read_bytes() == b"models: 2"
    assert not (tmp_path / "runs").exists()


BAD = (
    MINE.replace(
        "    def table(self, asked):",
        """    def wanted(self, table, cells):
        import random

        places = [(p.name, a.name) for p in table.panels for a in p.arms]
        return {place: random.randint(1, table.seeds) for place in places}

    def table(self, asked):""",
    )
    .replace("for text in report.missing]", "for text in ()]")
    .replace(
        '{"spread.md": table.encode()}', '{"spread.md": table.encode(), "undeclared.txt": b""}'
    )
)


@pytest.mark.slow
def test_the_contract_names_what_a_bad_question_lacks(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(BAD)
    failed = failures_of(Path(__file__), tmp_path / "bad.py")
    assert {
        "test_a_restart_wants_the_same",
        "test_its_report_is_the_same_bytes_twice_and_needs_no_torch",
        "test_it_names_what_is_missing",
    } <= failed


def test_a_question_without_a_table_is_named_with_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text(MINE.replace("def table(self, asked)", "def tables(self, asked)"))
    with pytest.raises(ValueError, match=r"bad\.py could not be loaded: .* abstract .*table"):
        QUESTIONS.load(str(path))
    other = tmp_path / "other.py"
    other.write_text(
        MINE.replace("Spread(Question)", "Spread").replace("    takes =", "    take =")
    )
    with pytest.raises(ValueError, match=r"QUESTION of .*other\.py must have .*, but lacks takes,"):
        QUESTIONS.load(str(other))
