"""`python -m search.evaluate model=RUN_KEY tasks=commonsense`: zero-shot scores of a model.

The model is a run, a folder or a hub id. `search.evaluate.score` says what is measured.
"""

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from search.config import Evaluation
from search.evaluate.score import TaskScore, be_quiet, find_model, open_model, score
from search.evaluate.tasks import build, chosen, source_of
from search.models import best_in_words, is_run, named, run_data
from search.train.placement import device_here
from space.app import verb
from space.cli import one_line_errors
from space.files import require_writable, write_atomically
from space.overrides import Place
from space.tables import in_columns


@dataclass(kw_only=True)
class EvaluateConfig(Evaluation):
    """What `conf/evaluate.yaml` holds."""

    model: Place
    study: str | None = None
    outputs: Place = "outputs"
    only: str | None = None
    """Names among the tasks, separated by commas; None: all."""
    held_out: Place | None = None
    """A run, or the folder of its data, whose held-out text gives the minimal pairs; None: the
    model's own run."""
    runs: Place = "runs"
    """Where runs are."""
    cache: Place = ".cache/data"
    tokenizer: Place | None = None
    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: CUDA where there is one."""
    to: Place | None = None


@verb("evaluate", EvaluateConfig)
def main(config: EvaluateConfig) -> None:
    """Score the model, print the table and keep what it rests on."""
    be_quiet()
    with one_line_errors():
        if config.to is not None:
            require_writable(Path(config.to), "to", "file", whole=True)
        device, study = device_here(config.device, "device"), config.study
        config = replace(config, model=named(config.model, study, config.outputs), study=None)
        specs = chosen(config.tasks, config.only)
        folder = find_model(config.model, config.runs)
        tasks = build(specs, config.source, Path(config.package), lambda: held_out(config))
        lm = open_model(folder, config.cache, config.tokenizer, device)
        if study is not None:
            print(best_in_words(study, config.outputs), flush=True)
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
        print(f"scores of every document: {config.to}")


def held_out(config: EvaluateConfig) -> list[str]:
    """The texts that minimal pairs are made of.

    Raises:
        ValueError: no run and no folder of data is named, or its data are not in the cache.
    """
    from search.data.cache import open_data
    from search.data.packed import held_out_documents

    source = config.held_out or config.model
    for run in (Path(config.runs) / source, Path(source)):
        if is_run(run):
            return held_out_documents(open_data(run_data(run, config.cache)))
    if (Path(source) / "manifest.json").is_file():
        return held_out_documents(open_data(source))
    raise ValueError(
        "held_out must name a run or the folder of its data, whose held-out text gives the "
        f"minimal pairs, but {source} is neither; set held_out=RUN_KEY"
    )


def table(scores: list[TaskScore]) -> str:
    """One row per task: the split, the number of documents, each mean with its standard error; then
    the unweighted mean over tasks of the metrics that all of them have."""
    metrics = list(dict.fromkeys(m for s in scores for m in s.values))
    rows = [["task", "split", "n", *metrics, "seconds"]]
    for s in scores:
        cells = [
            _with_error(s.values[m], s.errors.get(m, math.nan)) if m in s.values else ""
            for m in metrics
        ]
        rows.append([s.task, f"{s.split} ({s.source})", str(s.n), *cells, f"{s.seconds:.1f}"])
    if len(scores) > 1:
        cells = [_average(scores, m) for m in metrics]
        seconds = sum(s.seconds for s in scores)
        rows.append(["average", "", str(sum(s.n for s in scores)), *cells, f"{seconds:.1f}"])
    return in_columns(rows)


def _average(scores: list[TaskScore], metric: str) -> str:
    if not all(metric in s.values for s in scores):
        return ""
    mean = sum(s.values[metric] for s in scores) / len(scores)
    errors = [s.errors.get(metric, math.nan) for s in scores]  # of documents of their own
    return _with_error(mean, math.hypot(*errors) / len(scores))


def _with_error(mean: float, error: float) -> str:
    return f"{mean:.4f}" + ("" if math.isnan(error) else f" ± {error:.4f}")


if __name__ == "__main__":
    main()
