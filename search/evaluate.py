"""`python -m search.evaluate model=RUN_KEY tasks=commonsense`: zero-shot scores of a model.

The model is a run, a folder or a hub id. Besides lm-eval's own metrics each multiple-choice task
gets two continuous ones, which tell small models apart where accuracy stays near chance: `bpb`,
bits per byte of the right answer, and `margin`, by how much the best wrong answer needs more.
"""

import hashlib
import json
import logging
import math
import os
import sys
import time
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache, partialmethod
from pathlib import Path
from typing import Any

from search.config import Evaluation
from search.paired import aligned, standard_error
from search.record import Score, write_atomically
from search.tasks import build, chosen, source_of
from space.cli import one_line_errors, verb

SHOTS_SEED = 1234
"""Of the questions shown before a question, as lm-eval has it."""


@dataclass(kw_only=True)
class EvaluateConfig(Evaluation):
    """What `conf/evaluate.yaml` holds."""

    model: str
    only: str | None = None
    """Names among the tasks, separated by commas; None: all."""
    held_out: str | None = None
    """A run, or the folder of its data, whose held-out text gives the minimal pairs; None: the
    model's own run."""
    runs: str = "runs"
    cache: str = ".cache/data"
    tokenizer: str | None = None
    device: str = "auto"
    to: str | None = None


@dataclass(frozen=True, kw_only=True)
class TaskScore(Score):
    """A score with what it rests on."""

    documents: list[dict[str, Any]] = field(repr=False)
    """Each document's id, hash, group and metrics: what `search.paired` compares."""

    def without_documents(self) -> Score:
        """What a record keeps."""
        return Score(**{f.name: getattr(self, f.name) for f in fields(Score)})


@verb("evaluate", EvaluateConfig)
def main(config: EvaluateConfig) -> None:
    """Score the model, print the table and keep what it rests on."""
    be_quiet()
    with one_line_errors():
        specs = chosen(config.tasks, config.only)
        tasks = build(specs, config.source, Path(config.package), lambda: held_out(config))
        folder = find_model(config.model, config.runs)
        lm = open_model(folder, config.cache, config.tokenizer, config.device)
    scores = []
    for spec, task in zip(specs, tasks, strict=True):
        with one_line_errors((ValueError,)):
            source = source_of(spec, config.source)
            scores.append(score(lm, task, source, config.limit, spec.group))
    print(table(scores))
    if config.to is not None:
        with one_line_errors((OSError,)):
            text = json.dumps([asdict(s) for s in scores], indent=1)
            write_atomically(Path(config.to), text + "\n")


def be_quiet() -> None:
    """lm-eval and datasets tell of each step of each task; their bars are for terminals alone."""
    logging.disable(logging.WARNING)
    if not sys.stderr.isatty():
        import tqdm  # its own switch is read when torch imports it

        os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
        tqdm.tqdm.__init__ = partialmethod(tqdm.tqdm.__init__, disable=True)


def find_model(model: str, runs: str | Path) -> Path:
    """The folder of a run's key, of a folder or of a hub id.

    Raises:
        ValueError: it is none of these, or cannot be downloaded.
    """
    from space.hf import find

    folder = Path(runs) / model
    return folder if (folder / "run.yaml").is_file() else find(model)


def open_model(
    folder: Path, cache: str | Path, tokenizer: str | None = None, device: str = "auto"
) -> Any:
    """The model of a run or a checkpoint behind lm-eval's interface.

    Raises:
        ValueError: as `space.hf.load` and `space.hf.run_tokenizer` do.
    """
    import torch

    from search.harness import DecoderLM
    from space.hf import load, load_tokenizer, run_tokenizer

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load(folder)
    if tokenizer is not None:
        return DecoderLM(model, load_tokenizer(tokenizer), device)
    return DecoderLM(model, run_tokenizer(folder, cache, model.arch), device)


def held_out(config: EvaluateConfig) -> list[str]:
    """The texts that minimal pairs are made of.

    Raises:
        ValueError: no run and no folder of data is named, or its data are not in the cache.
    """
    from search.data import held_out_documents, open_data
    from space.hf import run_data

    named = config.held_out or config.model
    run = Path(config.runs) / named
    if (run / "run.yaml").is_file():
        return held_out_documents(open_data(run_data(run, config.cache)))
    if (Path(named) / "manifest.json").is_file():
        return held_out_documents(open_data(named))
    raise ValueError(
        "held_out must name a run or the folder of its data, whose held-out text gives the "
        f"minimal pairs, but {named} is neither; set held_out=RUN_KEY"
    )


def score(
    lm: Any, task: Any, source: str, limit: int | None = None, group: str | None = None
) -> TaskScore:
    """Score one of lm-eval's tasks, whose documents are grouped by a column of theirs."""
    from lm_eval.evaluator import evaluate

    _keep_templates()
    started = time.perf_counter()
    task.set_fewshot_seed(SHOTS_SEED)
    tasks = {"tasks": {task.config.task: task}, "groups": {}}
    result = evaluate(lm, tasks, limit=limit, bootstrap_iters=0, log_samples=True)
    name = task.config.task
    documents = [_document(sample, task, group) for sample in result["samples"][name]]
    groups = [document["group"] for document in documents]
    values = {m: [d["values"][m] for d in documents] for m in documents[0]["values"]}
    errors = {m: standard_error(found, groups) for m, found in values.items()}
    return TaskScore(
        task=name,
        split=task.config.test_split or task.config.validation_split,
        source=source,
        limit=limit,
        n=len(documents),
        values={m: sum(found) / len(found) for m, found in values.items()},
        errors={m: error for m, error in errors.items() if math.isfinite(error)},
        seconds=time.perf_counter() - started,
        documents=documents,
    )


def _keep_templates() -> None:
    """lm-eval parses its templates anew for every document, which takes longer than scoring it."""
    from lm_eval.utils import env

    if not hasattr(env.from_string, "cache_info"):
        env.from_string = lru_cache(env.from_string)


def _document(sample: dict[str, Any], task: Any, group: str | None) -> dict[str, Any]:
    """A document's metrics: lm-eval's, and the continuous ones where it has choices."""
    values = {name: float(sample[name]) for name in sample["metrics"]}
    if task.config.output_type == "multiple_choice":
        inputs = task.multiple_input  # WinoGrande's choices are contexts, its target is a text
        right = task.doc_to_text(sample["doc"]) if inputs else sample["target"]
        values |= continuous(sample, int(right))
    owner = str(sample["doc_id"] if group is None else sample["doc"][group])
    return {
        "doc": sample["doc_id"],
        "hash": sample["doc_hash"],
        "group": hashlib.sha256(owner.encode()).hexdigest()[:16],
        "values": values,
    }


def continuous(sample: dict[str, Any], right: int) -> dict[str, float]:
    """`bpb` and `margin` of one multiple-choice document, in bits per byte of the answer's text.

    The space before it is not counted: for ASCII the margin is positive where `acc_norm` is one.
    """
    answers = [str(arguments[1]).strip() for arguments in sample["arguments"]]
    likelihoods = [float(response[0]) for response in sample["filtered_resps"]]
    bits = [
        -value / math.log(2) / max(1, len(answer.encode()))
        for value, answer in zip(likelihoods, answers, strict=True)
    ]
    wrong = [value for i, value in enumerate(bits) if i != right]
    return {"bpb": bits[right], "margin": min(wrong) - bits[right]}


def table(scores: list[TaskScore]) -> str:
    """A row a task: which split was scored, how many documents, each mean with its standard error;
    then the mean over tasks, each counting once, of the metrics that all of them have."""
    metrics = list(dict.fromkeys(m for s in scores for m in s.values))
    rows = [["task", "split", "n", *metrics, "seconds"]]
    for s in scores:
        cells = [
            _told(s.values[m], s.errors.get(m, math.nan)) if m in s.values else "" for m in metrics
        ]
        rows.append([s.task, f"{s.split} ({s.source})", str(s.n), *cells, f"{s.seconds:.1f}"])
    if len(scores) > 1:
        cells = [_average(scores, m) for m in metrics]
        seconds = sum(s.seconds for s in scores)
        rows.append(["average", "", str(sum(s.n for s in scores)), *cells, f"{seconds:.1f}"])
    return aligned(rows)


def _average(scores: list[TaskScore], metric: str) -> str:
    if not all(metric in s.values for s in scores):
        return ""
    mean = sum(s.values[metric] for s in scores) / len(scores)
    errors = [s.errors.get(metric, math.nan) for s in scores]  # of documents of their own
    return _told(mean, math.hypot(*errors) / len(scores))


def _told(mean: float, error: float) -> str:
    return f"{mean:.4f}" + ("" if math.isnan(error) else f" ± {error:.4f}")


if __name__ == "__main__":
    main()
