"""A model's zero-shot score in one of lm-eval's tasks.

Besides lm-eval's own metrics each multiple-choice task gets two continuous ones, which tell small
models apart where accuracy stays near chance: `bpb`, bits per byte of the right answer, and
`margin`, by how much the best wrong answer needs more.
"""

import hashlib
import logging
import math
import sys
import time
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from search.models import is_run, stored_run
from search.paired import standard_error
from search.record import Score
from search.train.placement import device_here
from space.compat import hide_progress_bars

SHOTS_SEED = 1234
"""Of the questions shown before a question, as lm-eval has it."""


@dataclass(frozen=True, kw_only=True)
class TaskScore(Score):
    """A score with what it rests on."""

    documents: list[dict[str, Any]] = field(repr=False)
    """Each document's id, hash, group and metrics: what `search.paired` compares."""

    def without_documents(self) -> Score:
        """What a record keeps."""
        return Score(**{f.name: getattr(self, f.name) for f in fields(Score)})


def be_quiet() -> None:
    """lm-eval and datasets tell of each step of each task; their bars are for terminals alone."""
    logging.disable(logging.WARNING)
    if not sys.stderr.isatty():
        hide_progress_bars()


def find_model(model: str, runs: str | Path) -> Path:
    """The folder of a run's key, of a folder or of a hub id.

    Raises:
        ValueError: it is none of these, or cannot be downloaded.
    """
    from space.hf import find

    folder = Path(runs) / model
    return folder if is_run(folder) else find(model)


def open_model(
    folder: Path, cache: str | Path, tokenizer: str | None = None, device: str = "auto"
) -> Any:
    """The model of a run or a checkpoint behind lm-eval's interface.

    Raises:
        ValueError: as `space.hf.load` does, there is no tokenizer, or no such device.
    """
    from search.evaluate.harness import DecoderLM
    from space.hf import load, load_tokenizer, open_tokenizer

    device = device_here(device, "device")
    run = stored_run(folder, cache) if is_run(folder) else None
    model = load(run or folder)
    if tokenizer is not None:
        return DecoderLM(model, load_tokenizer(tokenizer), device)
    own = run.tokenizer() if run else folder
    return DecoderLM(model, open_tokenizer(own, model.arch), device)


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
