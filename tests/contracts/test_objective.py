"""What every objective must do. On your own: `--implementation mine.py`."""

import json
import subprocess
import sys
from dataclasses import replace
from math import isfinite
from pathlib import Path

import optuna
import pandas as pd
import pytest
from contract_fixtures import failures_of
from study_fixtures import environment, open_search, records, run, sent, study_json, work
from table_fixtures import RECIPE, TABLE, made

from ablations.cells import TableWork
from ablations.files import TableFile
from reports.read.study import read_study
from reports.show.tables import places
from reports.views.arms import csv, latex, markdown
from reports.views.arms import html as table_html
from reports.views.study import Findings, html
from reports.weigh.answer import answer, weigh
from search.config import SearchConfig
from search.models import WEIGHTS
from search.objectives import (
    DIRECTIONS,
    OBJECTIVES,
    Limit,
    Measure,
    Objective,
    Targets,
    dominated,
    in_digits,
)
from search.recipe import Recipe
from search.record import Reading, Record, Run
from search.states import Status
from search.study.ending import conclude, describe, finish
from search.study.plan import Cell
from search.study.pool import Ending
from search.study.storage import read_attempts
from space.app import configuration
from space.arch import Architecture
from space.budget import Budget, fit
from space.cost import cost
from space.device import QUANTITIES, Device

DOOR = OBJECTIVES


def named(name: str) -> list[str]:
    """As configurations name it: one that takes something behind an @ with what it gives as its
    example, and without where that is an objective too."""
    example = (
        getattr(OBJECTIVES.load(name), "example", None) if name in OBJECTIVES.names() else None
    )
    alone = [] if name in QUANTITIES else [name]
    return alone + ([] if example is None else [f"{name}@{example}"])


def run_of(layers: int = 3) -> Run:
    arch: Architecture = fit({"vocab_size": 300, "num_blocks": layers}, Budget.parse("100k"))
    recipe = Recipe(tokens=10**5, horizons=(0.5,), precision="fp32")
    return Run(architecture=arch, recipe=recipe, data_fingerprint="text")


READINGS = (
    Reading(tokens=50_000, val_loss=3.0, val_bpb=1.5),
    Reading(tokens=100_000, val_loss=2.0, val_bpb=1.0),
)
RECORD = Record(
    run=run_of(), status=Status.FINISHED, readings=READINGS, train_s=2.0, tokens_per_s=5e4
)


def test_it_says_what_it_is(implementation: str) -> None:
    objective = Measure(implementation).objective
    assert objective.direction in DIRECTIONS
    assert isinstance(objective.needs_training, bool)
    for text in (objective.title, objective.unit):
        assert text
        assert "\n" not in text


def test_it_is_a_number_of_a_finished_run(implementation: str) -> None:
    value = Measure(implementation).of(RECORD)
    assert value is not None
    assert isfinite(value)
    assert Measure(implementation).of(RECORD) == value, "and the same each time"


def test_it_is_read_from_the_record_as_it_is_kept(implementation: str) -> None:
    """Reports and later starts have only the file."""
    kept = Record.from_dict(json.loads(json.dumps(RECORD.to_dict())))
    assert Measure(implementation).of(kept) == Measure(implementation).of(RECORD)


def test_before_training_it_is_known_or_is_not_asked(implementation: str) -> None:
    untrained = Record(run=run_of(), status=Status.FINISHED)
    measure = Measure(implementation)
    value = measure.of(untrained)
    assert (value is None) == measure.objective.needs_training


def test_at_a_horizon_it_is_a_number_or_unknown(implementation: str) -> None:
    value = Measure(implementation).at(run_of(), READINGS[0])
    assert value is None or isfinite(value)


def test_workers_get_it_by_its_name(implementation: str) -> None:
    measure = sent(Measure(implementation))
    assert measure.of(RECORD) == Measure(implementation).of(RECORD)
    assert measure.short.partition("@")[0].isidentifier(), "it names columns"


def record_of(run: Run) -> Record:
    """Of a deeper run larger losses and more seconds, by far more than seeds vary."""
    size = run.architecture.num_layers + 0.01 * (run.seed % 3)
    reading = Reading(tokens=run.recipe.tokens, val_loss=2 * size, val_bpb=size)
    return Record(
        run=run, status=Status.FINISHED, readings=(reading,), train_s=size, tokens_per_s=5e4
    )


def test_a_table_compares_arms_by_it_and_shows_it(implementation: str, tmp_path: Path) -> None:
    """What is known before training is shown alone."""
    (tmp_path / "small.yaml").write_text(TABLE.replace("seeds: 2", "seeds: 3"))
    table = TableFile.read(str(tmp_path / "small.yaml")).table("proxy", RECIPE, 300)
    cells, measure = TableWork(table=table, data_fingerprint="a"), Measure(implementation)
    if measure.objective.needs_training:
        targets = Targets.of([implementation])
        (panel,) = made(cells, targets, record_of, tmp_path / "first").panels
        row = panel.rows.set_index("arm").loc["immediate"]
        if row.verdict != "unresolved":
            assert (row["diff"] > 0) == ((row.verdict == "better") == measure.maximize)
        runs = [cells.run({"panel": "two blocks", "arm": "immediate"}, seed) for seed in range(3)]
        values = [float(measure.of(record_of(run)) or 0.0) for run in runs]
        assert row["mean"] == pytest.approx(sum(values) / 3)
    first = "val_loss" if measure.short == "val_bpb" else "val_bpb"
    report = made(cells, Targets.of([first], [implementation]), record_of, tmp_path / "shown")
    (panel,) = report.panels
    assert f"objective.{measure.short}" in panel.rows or measure.short == "parameters"
    heading = measure.short.replace("_", " ")
    for text in (
        markdown(report),
        latex(report),
        table_html(report),
        csv(report).replace("_", " "),
    ):
        assert heading in text


# What studies make of objectives.


@pytest.mark.parametrize(
    ("text", "value", "excess"),
    [("kv_bytes<=2048", 2050, 2), ("val_bpb >= 1.5", 1.0, 0.5), ("kv_bytes<=2_048", 2000, -48)],
)
def test_a_limit_says_by_how_much_it_is_exceeded(text: str, value: float, excess: float) -> None:
    assert Limit.parse(text).excess(value) == excess


@pytest.mark.parametrize("text", ["kv_bytes", "kv_bytes<2", "kv_bytes<=much", "<=2", ""])
def test_a_limit_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"constraints must be such as 'kv_bytes<=2048'"):
        Limit.parse(text)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["parameters"], "must begin with one that needs training"),
        (["val_bpb", "val_bpb"], "must have different names, but got val_bpb twice"),
        (["val_bbp"], "did you mean val_bpb"),
    ],
)
def test_wrong_objectives_are_refused_in_one_line(given: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Targets.of(given)


def test_two_measures_of_one_name_are_refused(tmp_path: Path) -> None:
    files = [tmp_path / folder / "speed.py" for folder in "ab"]
    for file in files:
        file.parent.mkdir()
        file.write_text("from search.objectives.train_s import OBJECTIVE\n")
    with pytest.raises(ValueError, match=r"must have different names, but .* are both speed"):
        Targets.of(["val_bpb"], list(map(str, files)))
    assert Targets.of(["val_bpb"], ["train_s", "train_s"], ["train_s<=1"]), "one thing, thrice"


def test_the_default_leaves_no_trace_in_settings_and_study_json() -> None:
    for name in ("val_bpb", "val_loss"):
        plain = Targets.of([name])
        assert plain.settings(name) == {}
        assert plain.facts() == {"metric": name, "direction": "minimize"}
    assert Targets.of(["val_bpb"], ["kv_bytes"]).settings("val_bpb") == {}, "columns may change"
    assert Targets.of(["val_loss"]).settings("val_bpb") == {"objectives": ["val_loss"]}
    limited = Targets.of(["val_bpb", "train_s"], [], ["kv_bytes<=2048"])
    assert limited.settings("val_bpb") == {
        "objectives": ["val_bpb", "train_s"],
        "constraints": ["kv_bytes<=2048"],
    }


def test_a_limit_of_another_source_is_another_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = "from search.objectives.kv_bytes import OBJECTIVE\n"
    Path("memory.py").write_text(source)
    before = Targets.of(["val_bpb"], [], ["memory.py<=2048"]).settings("val_bpb")
    Path("memory.py").write_text(f"{source}# changed\n")
    after = Targets.of(["val_bpb"], [], ["memory.py<=2048"]).settings("val_bpb")
    assert before != after
    assert before["constraints"][0].startswith("memory@")


def test_values_have_the_digits_that_their_size_asks_for() -> None:
    assert in_digits("val_bpb", 1.96771) == "1.9677"
    assert in_digits("val_loss", 1.96771, 3) == "1.968"
    assert in_digits("train_s", 12.3456789) == "12.3457"
    assert in_digits("train_flops", 1.234567e15) == "1.23457e+15"
    assert places(pd.Series([0.00123, -0.5])) == 5
    assert places(pd.Series([123456.0])) == 0
    assert places(pd.Series([float("nan")])) == 4


def test_dominance_knows_directions() -> None:
    assert dominated([2.0, 1.0], [1.0, 1.0], ["minimize", "maximize"])
    assert not dominated([1.0, 1.0], [1.0, 1.0], ["minimize", "maximize"])
    assert not dominated([2.0, 2.0], [1.0, 1.0], ["minimize", "maximize"])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_pruner_and_some_samplers_want_one_objective(here: Path) -> None:
    both = "objectives=[val_bpb,decode_bytes]"
    for given in ("pruner=median", "sampler=cmaes"):
        with pytest.raises(ValueError, match=rf"{given} must have one objective"):
            open_search(here, both, given, "recipe.tokens=5120")


def test_more_may_be_better(here: Path) -> None:
    """The deepest is preferred: a further seed goes to it, and its weights are kept."""
    (here / "deepest.py").write_text(DEEPEST)
    search = open_search(
        here, "objectives=[deepest.py]", "study=null", "n_trials=6", "replicates={top: 1, seeds: 2}"
    )
    assert search.config.name.endswith("_deepest")
    work(search)
    assert str(search.study.direction) == "2", "maximize"
    content = describe(search, finished=True)
    assert (content["metric"], content["direction"]) == ("deepest", "maximize")
    conclude(search, Ending("done"))
    explored = [run for run in read_attempts(search.study) if run.role == "explore"]
    best = max(explored, key=lambda run: run.value or 0)
    further = {run.arm for run in read_attempts(search.study) if run.role == "replicate"}
    assert best.arm in further
    there = [
        run
        for run in read_attempts(search.study)
        if (here / "runs" / str(run.key) / WEIGHTS).is_file()
    ]
    assert {run.arm for run in there} == {best.arm}
    study = read_study(search.config.name)
    assert study.unit == "layers"
    evidence = weigh(study)
    assert not evidence.lower_is_better


PHONE = """
name: Mine
source: a stopwatch
terms: {decode_ms: [moved_mb]}
measured:
  - {architecture: mobilellm_125m, precision: fp16, decode_ms: 10}
"""


def test_a_device_of_ones_own_is_pinned_to_its_file(here: Path) -> None:
    phone = here / "phone.yaml"
    phone.write_text(PHONE)
    measure = sent(Measure("decode_ms@phone.yaml:2048"))
    assert measure.short == "decode_ms@phone:2048"
    first = measure.of(RECORD)
    before = Targets.of(["val_bpb", "decode_ms@phone.yaml"]).settings("val_bpb")
    phone.write_text(PHONE.replace("10", "20"))
    assert Measure("decode_ms@phone.yaml:2048").of(RECORD) == pytest.approx(2 * first)
    assert Targets.of(["val_bpb", "decode_ms@phone.yaml"]).settings("val_bpb") != before
    assert measure.of(RECORD) == first, "in a process that has loaded it"
    later = "import sys; from search.objectives import Measure; Measure(sys.argv[1])"
    command = [sys.executable, "-c", later, measure.name]
    worker = subprocess.run(command, capture_output=True, env=environment(), cwd=here, text=True)
    said = worker.stderr.splitlines()[-1]
    assert said.startswith("space.doors.Changed: device phone.yaml must be as it was")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("decode_ms", "decode_ms must name a device, as in decode_ms@iphone_13"),
        ("decode_ms@iphone_99", "device must be one of h100, iphone_13"),
        ("decode_ms@nowhere.yaml", r"device must be one of .* but got 'nowhere\.yaml'"),
        ("decode_ms@iphone_13:int3", "precision must be one of fp32"),
        ("decode_ms@iphone_13:int4", "iPhone 13 must have been measured at precision int4"),
        ("decode_ms@iphone_13:0", "a number of tokens from 1 on"),
        ("decode_ms@iphone_13:1:2", "a number of tokens from 1 on"),
        ("peak_mb@iphone_13", "peak_mb of iPhone 13 must have been measured"),
        ("weight_bytes@iphone_13", "precision must be one of"),
        ("kv_bytes@int4:int8", "a number of tokens from 1 on"),
        ("val_bpb@iphone_13", "objective val_bpb must have nothing behind @, but got 'iphone_13'"),
    ],
)
def test_what_stands_behind_an_at_is_checked(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Measure(name)


def test_a_published_phone_gives_the_published_milliseconds() -> None:
    """MobileLLM (arXiv:2402.14905), table 7: 15.6 and 16.0 ms on an iPhone 13."""
    for name, published in (("mobilellm_125m", 15.6), ("mobilellm_ls_125m", 16.0)):
        run = replace(RECORD.run, architecture=Architecture.from_yaml(name))
        value = Measure("decode_ms@iphone_13:1").of(replace(RECORD, run=run, readings=()))
        assert value == pytest.approx(published, rel=0.02)


DEEPEST = '''
"""The depth, of which more is better here."""

from search.objectives import Objective


class Deepest(Objective):
    title, unit, direction = "Depth", "layers", "maximize"

    def value(self, record):
        return record.run.architecture.num_layers + record.readings[-1].val_loss / 1000


OBJECTIVE = Deepest()
'''


def test_an_objective_that_raises_is_a_failed_run_with_its_reason(here: Path) -> None:
    (here / "broken.py").write_text(DEEPEST.replace("record.run.architecture", "record.nothing"))
    search = open_search(here, "objectives=[broken.py]", "n_trials=1", "replicates.seeds=1")
    work(search)
    [attempt] = read_attempts(search.study)
    assert attempt.status == "failed"
    assert "broken could not be read from run" in str(attempt.reason)


def test_a_column_that_raises_ends_the_study_with_its_reason(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "broken.py").write_text(DEEPEST.replace("record.run.architecture", "record.nothing"))
    given = ("columns=[broken.py]", "executor=inline", "n_trials=2", "replicates.seeds=1")
    search = open_search(here, *given)
    ending = search.train(search.estimate())
    assert ending.kind == "fatal"
    conclude(search, ending)
    with pytest.raises(SystemExit):
        finish(search, ending, reported=False)
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "broken could not be read from run" in line
    assert "no attribute 'nothing'" in line
    assert "fix this and run the same command again" in line


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "grid", "random", "qmc", "gp"])
def test_several_objectives_are_optimised_together(here: Path, sampler: str) -> None:
    given = ("objectives=[val_bpb,decode_bytes]", f"sampler={sampler}", "n_trials=4")
    search = open_search(here, *given, "replicates.seeds=1")
    work(search)
    content = describe(search, finished=True)
    values = {t["number"]: t["values"] for t in content["trials"]}
    assert len(values) == 4
    for trial in content["trials"]:
        assert trial["value"] == trial["values"]["val_bpb"]
        record = records(here)[trial["key"]]
        assert trial["values"]["decode_bytes"] == record["cost"]["decode_bytes_per_token"]
    pairs = {n: (v["val_bpb"], v["decode_bytes"]) for n, v in values.items()}
    best = [
        n
        for n, (a, b) in pairs.items()
        if not any(x <= a and y <= b and (x, y) != (a, b) for x, y in pairs.values())
    ]
    assert sorted(content["front"]) == sorted(best)


def test_keys_of_runs_know_nothing_of_objectives(here: Path) -> None:
    plain = open_search(here, "n_trials=1", "replicates.seeds=1")
    work(plain)
    given = ("objectives=[val_bpb,decode_bytes]", "constraints=['val_loss<=1']", "study=other")
    other = open_search(here, *given, "n_trials=1", "replicates.seeds=1")
    events = work(other)
    assert [event["reused"] for event in events if event["event"] == "end"] == [True]
    assert len(records(here)) == 1


def test_other_objectives_under_the_same_name_are_refused(here: Path) -> None:
    one = ("n_trials=1", "replicates.seeds=1")
    search = open_search(here, *one)
    work(search)
    search.lock.release()
    with pytest.raises(ValueError, match=r"objectives was None, is \[.val_bpb., .decode_bytes.\]"):
        open_search(here, *one, "objectives=[val_bpb,decode_bytes]")


def limited(here: Path, limit: str) -> list[str]:
    """The answer of a search with a limit."""
    given = (f"constraints=['{limit}']", "columns=[decode_bytes,kv_bytes]", "n_trials=8")
    search = open_search(here, *given, "replicates.top=1", "replicates.seeds=3")
    work(search)
    describe(search, finished=True)
    study = read_study("tiny")
    assert set(study.trials.columns) >= {"decode_bytes", "kv_bytes", "feasible"}
    return answer(study, weigh(study))


def test_the_answer_is_about_what_keeps_to_the_constraints(here: Path) -> None:
    look = open_search(here, "study=look", "n_trials=4", "replicates.seeds=1")
    work(look)
    losses = sorted(run.value for run in read_attempts(look.study) if run.value is not None)
    bound = (losses[0] + losses[1]) / 2  # the best alone keeps to it, on this seed
    first, *others = limited(here, f"val_bpb<={bound}")
    assert any(f"do not meet val_bpb<={bound:.12g}, and are not compared" in s for s in others)
    met = {int(depth) for depth in read_study("tiny").eligible.num_hidden_layers}
    assert any(f"{depth} layers" in first for depth in met)


@pytest.mark.parametrize("sampler", ["grid", "tpe", "nsga2", "random", "gp"])
def test_what_is_known_to_be_beyond_a_constraint_is_not_trained(here: Path, sampler: str) -> None:
    space = open_search(here, "study=look").work.space
    caches = {arch.num_layers: cost(arch, 32).kv_bytes_per_token for arch in space.enumerate()}
    bound = sorted(caches.values())[1]
    met = {depth for depth, cache in caches.items() if cache <= bound}
    assert len(met) == 2
    given = (f"constraints=['kv_bytes<={bound}','val_bpb<=100']", f"sampler={sampler}")
    search = open_search(here, *given, "n_trials=6", "replicates={top: 1, seeds: 3}")
    assert f"2 are known to be beyond kv_bytes<={bound}, and are not trained" in str(
        search.estimate()
    )
    work(search)
    trained = [record["architecture"]["num_hidden_layers"] for record in records(here).values()]
    assert set(trained) == met
    assert len(trained) == 6, "three seeds of each: what is ruled out counts for nothing"
    content = describe(search, finished=True)
    assert content["ruled_out"] == 2
    assert {trial["state"] for trial in content["trials"]} == {"COMPLETE"}
    refused = [t for t in search.study.get_trials() if t.user_attrs.get("status") == "ruled_out"]
    for trial in refused:
        assert f"is beyond kv_bytes<={bound}" in trial.user_attrs["reason"]
        assert trial.constraints[f"kv_bytes<={bound}"] > 0
    assert (sampler == "grid") <= (not refused)
    page = html(read_study("tiny"), Findings.of(read_study("tiny")))
    assert "2 are by their costs known to be beyond" in page


def test_a_failed_run_that_is_ruled_out_since_is_not_tried_again(here: Path) -> None:
    """As of a study from before constraints were looked at beforehand."""
    search = open_search(here, "constraints=['kv_bytes<=100000']", "n_trials=1")
    middle = search.work.plan.spread[0]
    attrs = {"key": "a", "arm": middle.arm, "cell": dict(middle.params), "status": "failed"}
    failed = optuna.create_trial(state=optuna.trial.TrialState.FAIL, user_attrs=attrs)
    search.study.add_trial(failed)
    attempts, plan = read_attempts(search.study), search.work.plan
    assert plan.next(attempts, since=1) == Cell(params=middle.params, seed=0)
    others = tuple(option for option in plan.options if option.arm != middle.arm)
    without = replace(plan, options=others, ruled_out=(middle.arm,), n_trials=2)
    asked = without.next(attempts, since=1)
    assert isinstance(asked, Cell)
    assert asked.params != middle.params


def test_where_nothing_keeps_to_the_constraints_the_nearest_is_named(here: Path) -> None:
    first, *others = limited(here, "val_loss<=1")
    assert "nothing that was tried meets val_loss<=1" in first
    assert others[0].startswith("Nearest is ")
    assert "misses val_loss<=1 by " in others[0]


def test_constraints_that_nothing_in_the_space_meets_are_refused_with_the_nearest(
    here: Path,
) -> None:
    """By arithmetic from the published table: one bandwidth of the iPhone, moved bytes of each."""
    device = Device.from_yaml("iphone_13")
    space = open_search(here, "study=look").work.space
    times = {device.decode_ms(arch, 2048): arch for arch in space.enumerate()}
    fastest = times[min(times)]
    for given in ("decode_ms@iphone_13<=0.0001", "decode_ms@iphone_13:2048<=0.0001"):
        with pytest.raises(ValueError, match=r"none of 4 meets decode_ms@iphone_13") as refused:
            open_search(here, f"constraints=['{given}']", "study=refused")
        named = f"nearest is {fastest.num_layers} layers × {fastest.hidden_size} wide with"
        assert named in str(refused.value)
        assert f"of {min(times):.4g}" in str(refused.value)
    assert not (here / "runs").exists() or not records(here), "nothing was trained"


@pytest.mark.parametrize(
    "given", ["[kv_bytes<=1, parameters >= 5]", "['kv_bytes<=1','parameters>=5']"]
)
def test_a_comparison_needs_no_quotes_of_its_own(tmp_path: Path, given: str) -> None:
    """Hydra's grammar has no `<`."""
    done = run(tmp_path, f"constraints={given}", "replicates.seeds=0")
    assert done.returncode == 2
    assert "seeds must be at least 1" in done.stderr, "read, and the next mistake found"


def test_a_comparison_that_is_none_is_shown_one() -> None:
    with pytest.raises(ValueError, match=r"must be such as 'kv_bytes<=2048' .* got 'kv_bytes<1'"):
        configuration("search", SearchConfig, ["constraints=[kv_bytes<1]"])


def test_the_nearest_misses_several_constraints_by_the_least_share(here: Path) -> None:
    """Each is met by some architecture, and both by none."""
    space = open_search(here, "study=look").work.space
    caches = [cost(arch, 32).kv_bytes_per_token for arch in space.enumerate()]
    least, deepest = min(caches), max(caches)
    both = f"constraints=['kv_bytes<={least}','kv_bytes>={deepest}']"
    with pytest.raises(ValueError, match=rf"meets kv_bytes<={least} and kv_bytes>={deepest}"):
        open_search(here, both, "study=refused")


def test_samplers_see_the_constraints(here: Path) -> None:
    given = ("sampler=tpe", "constraints=['val_loss<=1','val_bpb>=0']", "n_trials=2")
    search = open_search(here, *given, "replicates.seeds=1")
    work(search)
    for trial in search.study.get_trials(states=(optuna.trial.TrialState.COMPLETE,)):
        assert set(trial.constraints) == {"val_loss<=1", "val_bpb>=0"}
        assert trial.constraints["val_loss<=1"] > 0 > trial.constraints["val_bpb>=0"]


MINE = '''
"""Bits per byte, with a price on the key-value cache."""

from search.objectives import Objective


class Priced(Objective):
    title = "Priced bits per byte"
    unit = "priced bits"

    def value(self, record):
        return record.readings[-1].val_bpb + 0.01 * record.cost.kv_bytes_per_token / 1024


OBJECTIVE = Priced()
'''


@pytest.mark.slow
def test_an_objective_of_ones_own_leads_a_search_to_its_report(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    given = ("objectives=[mine.py]", "columns=[val_bpb,kv_bytes]", "report=true", "sampler=tpe")
    done = run(tmp_path, *given, "n_trials=6", "replicates.top=1", "replicates.seeds=2")
    assert done.returncode == 0, done.stderr
    assert "priced bits" in done.stdout
    content = study_json(tmp_path)
    assert content["metric"] == "mine"
    for trial in content["trials"]:
        values = trial["values"]
        price = values["val_bpb"] + 0.01 * values["kv_bytes"] / 1024
        assert trial["value"] == values["mine"] == pytest.approx(price)
    folder = tmp_path / "outputs" / "tiny"
    page = (folder / "report.html").read_text()
    assert "Priced bits per byte" in page
    assert {"mine", "kv_bytes", "val_bpb"} <= set(pd.read_csv(folder / "trials.csv").columns)


BAD = """
import random


class Bad:
    title, unit, direction, needs_training = "", "x\\ny", "minimize", False

    def value(self, record):
        return random.random() + record.readings[-1].val_bpb


OBJECTIVE = Bad()
"""


@pytest.mark.slow
def test_the_contract_names_what_a_bad_objective_lacks(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(BAD)
    assert failures_of(Path(__file__), tmp_path / "bad.py") == {
        "test_it_says_what_it_is",
        "test_it_is_a_number_of_a_finished_run",
        "test_it_is_read_from_the_record_as_it_is_kept",
        "test_before_training_it_is_known_or_is_not_asked",
        "test_workers_get_it_by_its_name",
    }


def test_a_direction_that_is_none_is_refused(here: Path) -> None:
    (here / "mine.py").write_text(MINE.replace("unit =", "direction = 'down'\n    unit ="))
    with pytest.raises(ValueError, match=r"direction of objective mine\.py must be one of"):
        Measure("mine.py")


def test_the_protocol_has_defaults_for_those_who_inherit_it() -> None:
    assert (Objective.direction, Objective.needs_training) == ("minimize", True)
    assert replace(RECORD, status="failed").value("val_bpb") is None
