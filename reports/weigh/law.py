"""A law over several budgets, from the records of one study each: read, checked and fitted.

`valley`, `growth` and `quality` beside it have the statistics. Within a law tokens per parameter
are fixed and all else of the recipe is the same, so that budgets differ in size alone.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reports.read.study import Open, Study, read_study
from reports.weigh.evaluation import OfRuns
from reports.weigh.forecast import JointLaw
from reports.weigh.growth import Growth, HeldOut, growth, held_out
from reports.weigh.joint_runs import cells as joint_cells
from reports.weigh.quality import Quality, quality
from reports.weigh.valley import DRAWS, Valley, valley
from search.law import FEWEST_DEPTHS, SHARE_TOLERANCE, TOKENS_TOLERANCE
from search.record import Record
from space.arch import Architecture
from space.budget import OF_WEIGHTS
from space.cost import cost
from space.meters import meter_of
from space.words import join

SEED = 20_402
"""Of the generators that intervals are drawn with: the same records give the same page."""
LONGEST_NAME = 100
"""Bytes of a default name of a law; a folder may have 255."""
LARGER = {"MobileLLM-125M": "mobilellm_125m", "MobileLLM-350M": "mobilellm_350m"}
"""Published architectures (arXiv:2402.14905) that the best depth is predicted for: 30 and 32
layers."""


@dataclass(frozen=True)
class Law:
    """All that the page knows."""

    studies: tuple[Study, ...]
    """By budget."""
    valleys: tuple[Valley, ...]
    growth: Growth | None
    held_out: HeldOut | None
    quality: Quality
    joined: JointLaw | None = None
    """The joint law of all runs; None where these are too few."""
    text: OfRuns | None = None
    """How far losses would be others on other held-out text; None where that is not known of all
    runs, or no loss is compared."""

    @property
    def kind(self) -> str:
        """Which parameters the variable counts."""
        return str(self.studies[0].facts["budget"]["kind"])

    @property
    def counted(self) -> str:
        """That in words."""
        return meter_of(self.kind).unit

    @property
    def counted_one(self) -> str:
        """One of them."""
        return self.counted.removesuffix("s")

    @property
    def ratio(self) -> float:
        """Tokens per parameter."""
        return float(np.mean([tokens_per_parameter(study) for study in self.studies]))

    @property
    def name(self) -> str:
        """Of its folder: `law_500k+1m` of law_500k and law_1m."""
        return name_of([study.name for study in self.studies])

    @cached_property
    def predicted(self) -> pd.DataFrame:
        """A row for each published architecture that a best depth is predicted for."""
        rows = []
        for name, file in LARGER.items():
            architecture = Architecture.from_yaml(file)
            size = float(getattr(cost(architecture), self.kind))
            row: dict[str, Any] = {"name": name, "size": size, "layers": architecture.num_layers}
            if self.growth is not None:
                low, high = self.growth.predicted(size)
                times = self.growth.reach(size)
                how = f"extrapolation, {times:.3g} ×" if times > 1 else "within"
                row |= {"times": times, "reach": how}
                row |= {"depth": float(self.growth.best(size)), "low": low, "high": high}
            rows.append(row)
        return pd.DataFrame(rows)


def name_of(studies: Sequence[str]) -> str:
    """A name for several studies: what their names have in common is said once. One that a folder
    could not have ends in a digest."""
    words = [study.split("_") for study in studies]
    shortest = min(map(len, words)) - 1
    head = next((n for n in range(shortest) if len({w[n] for w in words}) > 1), shortest)
    left = [w[head:] for w in words]
    shortest = min(map(len, left)) - 1
    tail = next((n for n in range(shortest) if len({w[-1 - n] for w in left}) > 1), shortest)
    own = "+".join("_".join(w[: len(w) - tail]) for w in left)
    name = "_".join([*words[0][:head], own, *left[0][len(left[0]) - tail :]])
    if len(name.encode()) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256("+".join(studies).encode()).hexdigest()[:8]
    return f"{name.encode()[: LONGEST_NAME - 9].decode(errors='ignore')}_{digest}"


def read_law(
    names: Sequence[str],
    outputs: str | Path,
    runs: str | None = None,
    besides: Sequence[str] = (),
) -> Law:
    """The law of these studies. `besides` are folders or archives of further records for the joint
    law, which may differ in tokens per parameter.

    Raises:
        ValueError: fewer than two, a study that is not there or not finished, studies that differ
            in more than budget and tokens, tokens per parameter or shares of embeddings that cannot
            be compared, too few depths, or further records that do not belong to them.
    """
    studies = [read_study(name, outputs, runs) for name in dict.fromkeys(names)]
    if len(studies) < 2:
        raise ValueError(
            "a law needs studies of at least two budgets, but got "
            f"{join(list(names)) or 'none'}; give study=[A,B,C]"
        )
    studies.sort(key=lambda study: int(study.facts["budget"]["value"]))
    for study in studies:
        _check(study)
    _check_together(studies)
    generator, metric = np.random.default_rng(SEED), studies[0].metric
    kept = [(s.where / k, s.records[k]) for s in studies for k in s.finished.key]
    text = OfRuns.read(kept, metric)
    drawn = None if text is None else text.drawn(np.random.default_rng(SEED), DRAWS)
    valleys = [
        valley(_cells(s), float(s.facts["budget"]["value"]), generator, text=drawn) for s in studies
    ]
    ratio = float(np.mean([tokens_per_parameter(study) for study in studies]))
    cells = joint_cells(studies, [Path(path) for path in besides])
    return Law(
        tuple(studies),
        tuple(valleys),
        growth(valleys),
        held_out(valleys),
        quality(valleys, generator, text=drawn),
        JointLaw.of(cells, studies, valleys, ratio, text),
        text,
    )


def _cells(study: Study) -> pd.DataFrame:
    columns = {"num_hidden_layers": "depth", "seed": "seed", study.metric: "value", "key": "key"}
    cells = study.finished[list(columns)].rename(columns=columns)
    return cells.astype({"depth": int})  # float where another trial has none


def _planned(study: Study) -> int:
    """Runs that it was to have."""
    facts = study.facts
    return int(facts.get("planned") or facts.get("n_trials") or len(study.trials))


def _check(study: Study) -> None:
    """That a study can be one of a law's."""
    if (kind := study.facts["budget"]["kind"]) not in OF_WEIGHTS:
        raise ValueError(
            f"study {study.name} must have a budget of {' or '.join(OF_WEIGHTS)} for a law, but "
            f"has one of {kind}"
        )
    busy = study.trials.status.isin([Open.RUNNING, Open.WAITING]).sum()
    if not study.facts.get("finished", True) or busy:
        raise ValueError(
            f"study {study.name} must be finished, but {len(study.finished)} of "
            f"{_planned(study)} runs are; start its search again"
        )
    done = study.finished
    depths = sorted(done.num_hidden_layers.astype(int).unique()) if len(done) else []
    if len(depths) < FEWEST_DEPTHS:
        raise ValueError(
            f"study {study.name} must have at least {FEWEST_DEPTHS} depths for a valley, "
            f"but has {len(depths)}{f' ({join(list(map(str, depths)))})' if depths else ''}; raise "
            "n_trials, or give more rungs"
        )
    arms = done.groupby("num_hidden_layers").arm.nunique()
    if (arms > 1).any():
        raise ValueError(
            f"study {study.name} must have one architecture a depth, but has {arms.max()} of "
            f"{arms.idxmax()} layers; take a study of space=depth_width"
        )


def _check_together(studies: Sequence[Study]) -> None:
    """That the studies differ in budget and tokens alone."""
    known: dict[str, tuple[str, Any]] = {}
    for study in studies:
        for key in study.finished.key:
            for name, value in _settings(study, study.records[key]).items():
                where, before = known.setdefault(name, (study.name, value))
                if before != value:
                    raise ValueError(
                        f"studies of a law must differ in budget and tokens alone, but {name} is "
                        f"{before} in {where} and {value} in {_also(study.name, where)}; take "
                        "studies of one recipe"
                    )
    values = [study.facts["budget"]["value"] for study in studies]
    if len(set(values)) < len(values):
        twice = max(values, key=values.count)
        raise ValueError(
            f"studies of a law must have different budgets, but two have {twice:,}; leave one out"
        )
    _check_close(
        {study.name: tokens_per_parameter(study) for study in studies},
        "tokens per parameter",
        lambda low, high: high / low - 1 <= TOKENS_TOLERANCE,
        f"{TOKENS_TOLERANCE:.0%} of each other",
        lambda ratio: f"{ratio:,.3f}",
        "start each with the same tokens_per_parameter, so large that whole steps hardly round it",
    )
    if studies[0].facts["budget"]["kind"] == "parameters":
        _check_close(
            {study.name: float(embedding_shares(study).mean()) for study in studies},
            "the embeddings’ mean share of all parameters",
            lambda low, high: high - low <= SHARE_TOLERANCE,
            f"{100 * SHARE_TOLERANCE:.0f} points of each other",
            lambda share: f"{share:.1%}",
            "use budget=non_embedding_parameters:…, or a vocabulary that grows with the budget",
        )


def _check_close(
    values: dict[str, float],
    what: str,
    close: Callable[[float, float], bool],
    within: str,
    text: Callable[[float], str],
    advice: str,
) -> None:
    low, high = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    if not close(values[low], values[high]):
        raise ValueError(
            f"{what} must lie within {within}, but got {text(values[low])} in {low} and "
            f"{text(values[high])} in {high}; {advice}"
        )


def _also(study: str, where: str) -> str:
    return "another run of it" if study == where else study


def _settings(study: Study, record: Record) -> dict[str, Any]:
    """What must be the same in all runs that have it, by its name in messages."""
    architecture = record.run.architecture
    recipe = {f"recipe.{name}": value for name, value in asdict(record.run.recipe).items()}
    del recipe["recipe.tokens"]
    return recipe | {
        "metric": study.metric,
        "the kind of budget": study.facts["budget"]["kind"],
        "data": record.data.get("name"),
        # a vocabulary of another size makes other tokens of the same text
        f"the data at a vocabulary of {architecture.vocab_size}": record.run.data_fingerprint,
        "sharing": architecture.sharing,
        "tie_word_embeddings": architecture.tie_word_embeddings,
    }


def tokens_per_parameter(study: Study) -> float:
    return float(study.finished.tokens.iloc[0]) / float(study.facts["budget"]["value"])


def embedding_shares(study: Study) -> pd.Series:
    """The embeddings' share of all parameters, an architecture each."""
    return study.finished.drop_duplicates("arm").embedding_share
