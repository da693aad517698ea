"""What is wrong with a command is one line on standard error and exit code 2, before training."""

import subprocess
import sys
from pathlib import Path

import pytest
from study_fixtures import command, environment, open_search, run, write_text

from search.__main__ import main


def complain(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path, *more: str
) -> str:
    """The one line that the command line answers with."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["search", *command(folder, *more)[3:]])
    before = set(folder.glob("outputs/**/*"))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert not list((folder / "runs").glob("*/metrics.jsonl")), "something was trained"
    assert set(folder.glob("outputs/**/*")) == before, "what is refused leaves nothing"
    return line.removeprefix("error: ")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["n_trails=3"], ["n_trails"]),
        (["+n_trails=3"], ["n_trails must be an option", "did you mean n_trials"]),
        (["--multirun", "n_trials=3,no"], ["n_trials", "no"]),
        (["-m", "budget=100k,1q"], ["budget", "1q"]),
        (["-m", "seed=1,1"], ["each value once", "seed=1 twice"]),
        (
            ["-m", "--cfg", "job", "seed=1,2"],
            ["several starts take no flags but --config-dir", "--cfg"],
        ),
        (["budget=[100k,1q]"], ["budget", "1q"]),
        (["budget=[300k]"], ["two or more", "got 300k;", "without brackets"]),
        (["budget=[300k,0.3m]"], ["two or more that differ", "300k and 300k"]),
        (["budget=[300k,400k,300k]"], ["each value once", "budget=300k twice"]),
        (["device=iphone_13"], ["one of python -m space", "placement.device"]),
        (["constraints=[kv_bytes=2048]"], ["constraints", "kv_bytes<=2048", "kv_bytes=2048"]),
        (["budget=non_embeding_parameters:100k"], ["did you mean non_embedding_parameters?"]),
        (["executor=slurm", "executor.time=4hours"], ["executor.time", "4hours", "4:00:00"]),
        (["lr_search=bracket"], ["lr_search must be an option of this command"]),
        (["recipe.lrr=3"], ["recipe.lrr", "did you mean recipe.lr?"]),
        (["+recipe.weight_decy=0"], ["recipe.weight_decy", "did you mean recipe.weight_decay"]),
        (["recipe.lr=fast"], ["recipe.lr", "fast"]),
        (["recipe.optimizer=adamw@000000000000"], ["adamw.py must be as it was", "ask for adamw"]),
        (["recipe.lr=-1"], ["lr must be positive", "-1"]),
        (["sampler=tpee"], ["sampler", "tpee", "grid", "tpe"]),
        (["proxy=day"], ["proxy", "day", "smoke"]),
        (["executor=kubernetes"], ["executor", "kubernetes", "local"]),
        (["tracker=mlflow"], ["tracker", "mlflow", "wandb"]),
        (["tracker=none", "+tracker.options.pace=3"], ["tracker.options", "pace"]),
        (["tracker.mode=dry"], ["tracker.mode", "offline, online", "dry"]),
        (["sampler=nofile.py"], ["sampler", "'nofile.py', and there is no such file"]),
        (["recipe.schedule=linear"], ["recipe.schedule must be one of wsd, cosine"]),
        (["recipe.precision=fp8"], ["recipe.precision must be one of auto, bf16, fp32"]),
        (
            ["space.axes.num_blokcs=[1,2]"],
            ["is not; did you mean num_blocks? Another axis is added with +space.axes.NAME=…"],
        ),
        (["space.axes.qk_norm=[true]"], ["but is not; add it with +space.axes.qk_norm=…"]),
        (["sampler.name=best"], ["sampler.name", "grid", "best"]),
        (["sampler=tpe", "sampler.pace=3"], ["sampler.pace", "TPESampler"]),
        (["sampler=tpe", "sampler.n_startup=3"], ["did you mean n_startup_trials?"]),
        (["sampler.options.pace=3"], ["sampler.pace", "sampler=grid", "it takes none"]),
        (["pruner=best"], ["pruner", "best", "asha", "wilcoxon"]),
        (["pruner.name=best"], ["pruner.name", "hyperband", "best"]),
        (["pruner=median", "recipe.horizons=[]"], ["pruner=median", "recipe.horizons=[0.25,0.5]"]),
        (
            ["pruner=asha", "recipe.tokens=9999", "pruner.pace=3"],
            ["pruner.pace", "SuccessiveHalvingPruner"],
        ),
        (["pruner=median"], ["horizons", "decay for one at least", "8 steps"]),
        (["recipe.horizons=[0.5,0.25]"], ["horizons must be ascending", "[0.5, 0.25]"]),
        (["recipe.horizons=often"], ["recipe.horizons", "often"]),
        (["keep=some"], ["keep must be one of best, all, none", "some"]),
        (["tokens_per_parameter=2"], ["tokens_per_parameter", "recipe.tokens", "take one out"]),
        (["tokens_per_parameter=0"], ["tokens_per_parameter must be positive", "0"]),
        (["n_trials=0"], ["n_trials must be at least 1", "0; train=false says what a study takes"]),
        (["workers=0"], ["workers must be at least 1", "0"]),
        (["workers=two"], ["workers", "two"]),
        (["replicates.seeds=0"], ["replicates", "seeds", "0"]),
        (["budget=much"], ["budget must be a number", "much"]),
        (["budget=1k"], ["1,000 parameters"]),
        (["space.axes.num_blocks=[]"], ["num_blocks", "at least one value"]),
        (["study=a/b"], ["study must be a name", "a/b"]),
        (
            ["placement.cuda_graph=yes", "tracker=wandb"],
            ["placement.cuda_graph=yes needs a GPU"],
        ),
        (["study=laws"], ["study must not be one of tables, laws", "but got 'laws'"]),
        (["study=tables"], ["study must not be one of tables, laws", "but got 'tables'"]),
        (["study=coordinate_check"], ["study must not be", "but got 'coordinate_check'"]),
        (["storage=nonsense"], ["storage", "SQLAlchemy URL", "but what was given is no URL"]),
        (["evaluate.limit=5"], ["evaluate.limit must come with tasks", "add evaluate=commonsense"]),
        (
            ["n_trials=2", "+n_trials=3"],
            ["n_trials must be given once", "got n_trials=2 and +n_trials=3; leave one out"],
        ),
        (["storage=sqlite:////nowhere/at/all.db"], ["storage", "unable to open database file"]),
        (["storage=nodriver://host/name"], ["storage", "nodriver is no database that SQLAlchemy"]),
        (["storage=mysql://host/name"], ["storage", "MySQLdb", "install its driver"]),
        (["storage=sqlite:///:memory:"], ["storage", "in memory", "name a file"]),
        (["storage=sqlite://"], ["storage", "in memory", "name a file"]),
        (["grace_s=1"], ["grace_s must be at least 3", "got 1"]),
        (["grace_s=nan"], ["grace_s must be a finite number"]),
        (["data.path=missing.txt"], ["missing.txt"]),
        (["placement.device=cuda"], ["placement.device must be there", "no GPU is seen; use cpu"]),
        (
            ["recipe.seq_len=100000", "recipe.tokens=200000"],
            ["recipe.tokens must be at least the", "of one step", "100,000", "got 200,000"],
        ),
        (["recipe.seq_len=1"], ["recipe.seq_len must be at least 2", "got 1"]),
        (["objectives=[foo]"], ["objectives must be one of", "val_bpb", "got 'foo'"]),
        (["columns=[foo]"], ["columns must be one of", "val_bpb", "got 'foo'"]),
        (
            ["recipe.seq_len=100000", "recipe.tokens=1m"],
            ["training split", "tokens", "smaller recipe.seq_len"],
        ),
        (["data.vocab_size=100000"], ["vocab"]),
    ],
    ids=lambda value: value[-1] if value and "=" in value[-1] else "",
)
def test_a_wrong_value_is_named_in_one_line(
    given: list[str],
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    line = complain(capsys, monkeypatch, tmp_path, *given)
    assert all(word in line for word in words), line


def test_a_file_in_the_place_of_a_folder_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for name in ("outputs", "runs"):
        line = complain(capsys, monkeypatch, tmp_path, f"{name}=file/inside")
        assert f"{name} must be a folder that can be written" in line
        assert "file/inside" in line


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+nodriver://me:secret@host/name",
        "postgresql://me:secret@localhost:1/name",
        "postgresql://localhost:1/name?user=me&password=secret",
    ],
)
def test_a_password_in_a_storage_url_is_not_shown(
    url: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    assert "secret" not in complain(capsys, monkeypatch, tmp_path, f"storage='{url}'")


def test_a_change_under_the_same_name_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    search = open_search(tmp_path)
    search.study.ask()
    search.lock.release()
    line = complain(capsys, monkeypatch, tmp_path, "recipe.lr=0.004")
    assert "recipe.lr was 0.003, is 0.004; choose another name with study=NAME" in line


def test_data_that_are_not_there_leave_no_study(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gone, there = (
        "{source: text, path: nowhere.txt, weight: 1}",
        "{source: text, path: text.jsonl, weight: 1}",
    )
    mixed = ["data=mix", f"+data.sources={{a: {gone}, b: {there}}}"]
    for given in (["data.path=nowhere.txt"], [*mixed, "data.path=null"]):
        assert "nothing is at nowhere.txt" in complain(capsys, monkeypatch, tmp_path, *given)
    assert [path.name for path in tmp_path.iterdir()] == ["text.jsonl"]


def test_a_misspelt_key_is_refused_by_the_command_itself(tmp_path: Path) -> None:
    write_text(tmp_path)
    ended = subprocess.run(
        [sys.executable, "-m", "search", "n_trails=3"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    (line,) = ended.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert "n_trails" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.jsonl"], "nothing is left"


SAMPLER = """
from optuna.samplers import RandomSampler
from search.study.samplers import Sampler

class Asked(RandomSampler):
    def sample_independent(self, study, trial, name, distribution):
        good = super().sample_independent(study, trial, name, distribution)
        return good if trial.number < GOOD else "banana"

class Mine(Sampler):
    def make(self, seed, shift=0):
        return Asked(seed=seed + shift)

SAMPLER = Mine()
"""
"""Of a user's own; its first `GOOD` proposals are of the space."""


def test_a_sampler_that_proposes_nothing_of_the_space_is_refused_before_workers_start(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(SAMPLER.replace("GOOD", "0"))
    line = complain(capsys, monkeypatch, tmp_path, "sampler=mine.py")
    assert "sampler=mine.py must propose values that the axes of the space have" in line
    assert "banana" in line


@pytest.mark.slow
def test_a_sampler_that_goes_wrong_later_is_named_once(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SAMPLER.replace("GOOD", "1"))
    write_text(tmp_path)
    ended = run(tmp_path, "sampler=mine.py", "n_trials=3", "replicates.seeds=1", "workers=1")
    assert ended.returncode == 2
    assert (ended.stdout + ended.stderr).count("banana") == 1
    assert "sampler=mine.py must propose values" in ended.stderr
    assert "keeps its 1 finished run" in ended.stderr


def test_an_option_that_an_own_sampler_fails_with_is_named_with_its_place(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(SAMPLER.replace("GOOD", "9"))
    line = complain(capsys, monkeypatch, tmp_path, "sampler=mine.py", "sampler.shift=abc")
    assert "sampler.options must be what sampler=mine.py takes, but with shift='abc'" in line
    assert "mine.py, line 12, in make: TypeError: unsupported operand" in line
