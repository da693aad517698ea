"""What a result is worth: how long runs were trained, on how much text, and scored on how much."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import pandas as pd

from reports.read.study import Study
from reports.weigh.evaluation import Evaluation
from search.objectives import USUAL
from search.record import Record
from space.budget import OF_WEIGHTS
from space.meters import meter_of
from space.words import SMOKE_RUN, is_smoke, join

HELD_OUT_ERROR = 0.0016 * math.sqrt(65_536)
"""What the choice of held-out text adds to a difference, in bits per byte times the root of its
tokens: measured on 512 windows of 128 tokens (docs/how-sure.md)."""


@dataclass(frozen=True)
class Worth:
    """Of a comparison, by its run with the fewest tokens per parameter."""

    tokens: int
    ratio: float
    """Tokens per parameter."""
    passes: float | None
    """Over the training text, at most; None where records do not say how much there is."""
    held_out: int
    """Validation tokens on which it is scored."""
    metric: str
    variance: float
    """Of the choice of held-out text, of one token's: one over their number, of a mixture the
    sources' by the squares of their shares."""
    source: str
    """Of a mixture, that of which there are most passes; else empty."""
    measured: float | None = None
    """What the choice of held-out text adds to a difference at most, where runs show it."""
    counted: str = ""
    """Tokens per parameter of those that the budget counts, in words, where it does not count
    all."""

    @classmethod
    def of(cls, runs: pd.DataFrame, record: Record, metric: str) -> Self:
        """What runs with `tokens` and `parameters` are worth, by the recipe and data of one."""
        shortest = runs.iloc[int((runs.tokens / runs.parameters).argmin())]
        data, most = dict(record.data), float(runs.tokens.max())
        parts = data.get("sources") or {"": {**data, "share": 1.0}}
        passes = {
            name: most * part["share"] / part["train_tokens"]
            for name, part in parts.items()
            if part.get("train_tokens")
        }
        wanted = record.run.recipe.eval_tokens // len(parts)
        scored = [min(wanted, part.get("validation_tokens") or wanted) for part in parts.values()]
        squares = [part["share"] ** 2 for part in parts.values()]
        again = max(passes, key=lambda name: passes[name], default="")
        return cls(
            tokens=int(shortest.tokens),
            ratio=float(shortest.tokens / shortest.parameters),
            passes=passes.get(again),
            held_out=sum(scored),
            metric=metric,
            variance=sum(square / n for square, n in zip(squares, scored, strict=True)),
            source=again,
        )

    @property
    def is_smoke(self) -> bool:
        """Whether the numbers mean nothing."""
        return is_smoke(self.tokens, self.ratio)

    @property
    def held_out_error(self) -> float | None:
        """What the choice of held-out text adds to a difference; known of bits per byte only."""
        if self.measured is not None:
            return self.measured
        return HELD_OUT_ERROR * math.sqrt(self.variance) if self.metric == USUAL else None

    def in_words(self) -> list[str]:
        """What comes before any result, in sentences."""
        of = f" of {self.source}, the source read most often" if self.source else ""
        over = "" if self.passes is None else f", {_passes(self.passes)} over the text{of}"
        counted = f", {self.counted}" if self.counted else ""
        error = (
            f", whose choice adds about {self.held_out_error:.4f} bits per byte of error to a "
            "difference"
            if self.held_out_error is not None and self.metric == USUAL
            else ""
        )
        said = (
            f"Trained on {self.tokens:,} tokens ({_few(self.ratio)} per parameter{counted}{over}), "
            f"scored on {self.held_out:,} held-out tokens{error}."
        )
        return [self.warning, said] if self.is_smoke else [said]

    @property
    def warning(self) -> str:
        """What every form says that shows a number of it; empty where numbers mean something."""
        return SMOKE_RUN if self.is_smoke else ""


def worth_of(study: Study, evaluation: Evaluation | None = None) -> Worth | None:
    """What the results of a study are worth, and its differences by what is known of their
    evaluation; None where nothing has finished."""
    finished = study.finished
    if finished.empty or not (record := study.records.get(str(finished.key.iloc[0]))):
        return None
    worth = Worth.of(finished, record, study.metric)
    return replace(
        worth,
        measured=evaluation.largest if evaluation else None,
        counted=_per_counted(study.facts["budget"], worth.tokens),
    )


def _per_counted(budget: Mapping[str, Any], tokens: int) -> str:
    """Tokens per parameter of the kind that a budget counts, where that is not all of them."""
    kind = str(budget["kind"])
    if kind not in OF_WEIGHTS or kind == "parameters":
        return ""
    unit = meter_of(kind).unit.removesuffix("s")
    return f"{_few(tokens / float(budget['value']))} per {unit}"


def warning(study: Study) -> str:
    """What every form says that shows a number of a study; empty where numbers mean something."""
    worth = worth_of(study)
    return worth.warning if worth else ""


def smoke_line(runs: pd.DataFrame, by: str = "study", at: str = "in") -> list[str]:
    """The line that comes before what runs of several studies say: `tokens parameters`, and the
    column that names what they are of; nothing where none is so short that its numbers mean
    nothing."""
    ratios = runs.tokens / runs.parameters
    short = [is_smoke(*run) for run in zip(runs.tokens, ratios, strict=True)]
    names = runs[by][short].unique().tolist()
    if not names:
        return []
    where = "" if len(names) == runs[by].nunique() else f" {at} {join(names)}"
    return [f"Smoke runs{where}: ignore the numbers."]


def _passes(passes: float) -> str:
    if passes < 1:
        return f"{_few(100 * passes)}% of one pass"
    return f"{_few(passes)} passes"


def _few(value: float) -> str:
    """Two figures; of a hundred and more, all before the point."""
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.2g}"
