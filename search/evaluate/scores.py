"""Zero-shot scores of runs: measured from their weights, kept in their records' last reading.

They are no part of a run's key. So they can be asked for at any time, without training anything
again, as long as the weights are there.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from search.config import Evaluation
from search.data.cache import open_data
from search.data.packed import Data, held_out_documents
from search.evaluate.score import be_quiet, open_model, score
from search.evaluate.tasks import TaskSpec, build, chosen, made_pairs, require, source_of
from search.record import Record, Score
from search.runs import WEIGHTS, write_record
from search.states import Status
from space.files import Fence, nothing


def require_answers(evaluation: Evaluation, data: Data | None = None) -> None:
    """Find what is missing before anything is trained.

    Raises:
        ValueError: an unknown task, documents that are not there, or data without a tokenizer.
    """
    specs = chosen(evaluation.tasks)
    require(specs, evaluation.source, Path(evaluation.package))
    if data is None or not specs:
        return
    if data.tokenizer is None:
        raise ValueError(
            f"zero-shot tasks are text, but {data.name} came as token ids without a tokenizer; set "
            "data.tokenizer=FILE"
        )
    if pairs := [spec for spec in specs if spec.pairs]:
        texts = held_out_documents(data)
        for spec in pairs:
            made_pairs(spec, texts)


def lacking(record: Record, evaluation: Evaluation) -> list[TaskSpec]:
    """The tasks that a record has no score of, as they are asked now."""
    if record.status != Status.FINISHED or not record.readings:
        return []
    have = {(s.task, s.source, s.limit) for s in record.readings[-1].scores}
    return [
        spec
        for spec in chosen(evaluation.tasks)
        if (spec.name, source_of(spec, evaluation.source), evaluation.limit) not in have
    ]


class Scorer:
    """Scores runs that were trained on the same data."""

    def __init__(
        self,
        evaluation: Evaluation,
        data: Path,
        check: Callable[[str | None], None] = lambda task: None,
    ) -> None:
        """`data`: the folder of the prepared data. `check` is called with the name of each task
        before it, and with None between batches; what it raises ends the scoring."""
        self.evaluation, self.data, self.check = evaluation, data, check

    def score(self, record: Record, folder: Path, fence: Fence = nothing) -> Record:
        """The record with the scores that it lacked, written to the run's folder task by task.
        `fence` is asked before each writing.

        Raises:
            ValueError: the run's weights were not kept, or a task cannot be asked.
        """
        wanted = lacking(record, self.evaluation)
        if not wanted:
            return record
        if not (folder / WEIGHTS).is_file():
            raise ValueError(
                f"{folder} must hold {WEIGHTS} to be scored, but its weights were not kept; train "
                f"with keep=all and evaluate=… in another runs folder"
            )
        be_quiet()
        lm = open_model(folder, self.data.parent)
        lm.check = lambda: self.check(None)
        for spec in wanted:
            self.check(spec.name)
            source = source_of(spec, self.evaluation.source)
            found = score(lm, self._tasks[spec.name], source, self.evaluation.limit, spec.group)
            record = _with(record, found.without_documents())
            write_record(folder, record, fence)
        return record

    @cached_property
    def _tasks(self) -> dict[str, Any]:
        """lm-eval's task objects by name."""
        specs = chosen(self.evaluation.tasks)
        package = Path(self.evaluation.package)
        built = build(
            specs, self.evaluation.source, package, lambda: held_out_documents(open_data(self.data))
        )
        return {spec.name: task for spec, task in zip(specs, built, strict=True)}


def _with(record: Record, score: Score) -> Record:
    """The record with a score in its last reading, in place of an earlier one of the task."""
    *earlier, last = record.readings
    others = tuple(s for s in last.scores if s.task != score.task)
    return replace(record, readings=(*earlier, replace(last, scores=(*others, score))))
