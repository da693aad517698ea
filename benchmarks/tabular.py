"""Our tabular benchmark: every architecture of one space, trained over several seeds.

`load()` gives the table that is published in `benchmarks/results/`; `python -m benchmarks.samplers
--train` makes it, by the studies that everyone uses, and with `--table` one of another space. With
it, whatever decides which architecture to train next, or which run to stop, can be tried in seconds
(`benchmarks.samplers`).
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.show import RESULTS
from search.recipe import Recipe
from search.record import Record, architecture_id
from search.runs import read_record
from search.states import Status
from search.study.exploration import Option, options_of
from space.axes import Space
from space.budget import Budget
from space.files import file_atomically, write_atomically
from space.seals import read_json

TABLE = RESULTS / "tabular.csv.xz"
SEEDS = 3
SEARCH = (
    "space=tabular",
    "proxy=tabular",
    "budget=300k",
    "sampler=grid",
    "pruner=none",
    "study=tabular",
    "n_trials=1000",  # as many as there are: each architecture …
    "replicates.top=1000",  # … and not the best alone …
    f"replicates.seeds={SEEDS}",  # … over so many seeds
    "keep=none",
    "tracker=none",
    "report=false",
)
"""Of the command that trains it."""
COLUMNS = {
    "arm": "the architecture's id, the same for all seeds",
    "seed": "of data order and initial weights",
    "horizon": "share of the run's tokens at which the reading was taken; 1 is the end",
    "tokens": "of the trunk and the decay that led to the reading",
    "val_loss": "nats per token on the validation slice",
    "val_bpb": "bits per byte on it, the one to compare",
    "train_s": "wall seconds of training on one thread of a busy machine, branches aside",
    "branch_s": "seconds that the decay branches of its earlier readings took",
    "num_blocks": "distinct blocks; empty where it is no axis of the space, as in the next three",
    "heads_per_kv": "query heads a key/value head",
    "tie_word_embeddings": "whether one matrix embeds tokens and predicts them",
    "sharing": "which layers share weights",
    "num_hidden_layers": "layers executed",
    "hidden_size": "width",
    "intermediate_size": "width of the FFN",
    "parameters": "distinct weights",
    "train_flops_per_token": "useful ones, forward and back",
}
"""What the columns of the table mean; one row per reading. Further axes of its space follow."""


@dataclass(frozen=True)
class Tabular:
    """A table of finished runs: each architecture of a space, over the same seeds, to the same
    horizons."""

    frame: pd.DataFrame
    """The columns of `COLUMNS`."""
    space: Space
    recipe: Recipe
    origin: Mapping[str, Any]
    """Where it comes from: date, commit, versions, device, data, command."""

    def __post_init__(self) -> None:
        if missing := [name for name in COLUMNS if name not in self.frame]:
            raise ValueError(f"a table must have the column {missing[0]}, but has none")
        cells = self.frame.groupby(["arm", "seed", "horizon"]).size()
        arms, seeds, horizons = self.frame[["arm", "seed", "horizon"]].nunique()
        if len(cells) < arms * seeds * horizons or len(self.frame) > len(cells):
            raise ValueError(
                f"a table must have one reading for each of {arms} architectures × {seeds} seeds × "
                f"{horizons} horizons, but has {len(self.frame)} readings of {len(cells)} of them; "
                "start its command again"
            )
        if strange := {option.arm for option in self.options} ^ set(self.frame["arm"]):
            raise ValueError(
                f"a table must have the {self.space.size} architectures of its space and no other, "
                f"but {len(strange)} are in one of the two alone ({min(strange)})"
            )

    @cached_property
    def options(self) -> tuple[Option, ...]:
        """The architectures as a study plans them."""
        return options_of(self.space, self.recipe.seq_len)

    def arm(self, params: Mapping[str, Any]) -> str:
        """The id of the architecture with these values of the axes."""
        return self._arms[tuple(params.items())]

    @cached_property
    def _arms(self) -> dict[tuple[Any, ...], str]:
        return {tuple(option.params.items()): option.arm for option in self.options}

    @property
    def seeds(self) -> list[int]:
        return sorted(int(seed) for seed in self.frame["seed"].unique())

    @property
    def horizons(self) -> list[float]:
        """Shares of a run's tokens, the last 1."""
        return sorted(float(share) for share in self.frame["horizon"].unique())

    def ends(self, metric: str = "val_bpb") -> pd.DataFrame:
        """Results at the end: architectures × seeds."""
        last = self.frame[self.frame["horizon"] == self.horizons[-1]]
        return last.pivot(index="arm", columns="seed", values=metric)

    @property
    def agreement(self) -> dict[float, float]:
        """Spearman's correlation of what architectures have at each earlier horizon with what they
        have at the end, by their means over the seeds: pruners act on the former."""
        means = self.frame.pivot_table(index="arm", columns="horizon", values="val_bpb")
        *earlier, end = self.horizons
        return {share: float(means[share].corr(means[end], "spearman")) for share in earlier}

    def write(self, path: Path = TABLE) -> None:
        """The table as compressed CSV, and what it is as JSON beside it."""
        with file_atomically(path) as part:
            self.frame.to_csv(
                part, index=False, lineterminator="\n", float_format="%.7g", compression="xz"
            )
        about = {
            **self.origin,
            "space": self.space.to_dict(),
            "recipe": self.recipe.to_dict(),
            "columns": COLUMNS,
        }
        write_atomically(beside(path), json.dumps(about, indent=1) + "\n")


def beside(path: Path) -> Path:
    """The JSON that goes with a table."""
    return path.with_suffix("").with_suffix(".json")


def load(path: Path = TABLE) -> Tabular:
    """The table at a path, ours by default.

    Raises:
        ValueError: there is none, or it is not complete.
    """
    if not path.is_file() or not beside(path).is_file():
        raise ValueError(
            f"a table must have the files {path} and {beside(path).name}, but has not; "
            "`python -m benchmarks.samplers --train` makes ours"
        )
    try:
        about = json.loads(beside(path).read_text())
        described = about.pop("space")
        budget = Budget(**described.pop("budget"))
        space = Space.from_config(described, budget, described.pop("vocab_size"))
        recipe = Recipe(**about.pop("recipe"))
        frame = pd.read_csv(path, dtype={"arm": str})
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise ValueError(f"{path} must be as it was written, but is not: {error}") from None
    return Tabular(frame, space, recipe, about)


def gather(study: Path, runs: Path) -> Tabular:
    """The table of a study's finished runs.

    Raises:
        ValueError: no such study, or a record that is not there.
    """
    try:
        content = read_json(study / "study.json")
    except FileNotFoundError:
        raise ValueError(f"{study / 'study.json'} must be there, but is not; train first") from None
    records = [
        record
        for trial in content["trials"]
        if (record := read_record(runs / trial["key"])) and record.status == Status.FINISHED
    ]
    if not records:
        raise ValueError(f"study {study.name} must have finished runs, but has none")
    first = records[0]
    settings, data = content["config"], first.data
    space = Space.from_config(settings["space"], settings["budget"], int(data["vocab_size"]))
    origin = {
        "date": str(first.started)[:10],
        **{name: getattr(first, name) for name in ("commit", "versions", "device", "data")},
    }
    by_arm = {architecture_id(c.architecture): c.params for c in space.candidates()}
    rows = [row for record in records for row in rows_of(record, by_arm)]
    columns = [*COLUMNS, *(axis for axis in space.axes if axis not in COLUMNS)]
    frame = pd.DataFrame(rows, columns=columns).sort_values(["arm", "seed", "horizon"])
    return Tabular(frame.reset_index(drop=True), space, first.run.recipe, origin)


def rows_of(record: Record, params: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per reading, given the values of the axes of each arm."""
    arch, arm = record.run.architecture, architecture_id(record.run.architecture)
    fixed = {
        "arm": arm,
        "seed": record.run.seed,
        "train_s": record.train_s,
        "branch_s": record.branch_s,
        **params[arm],
        "num_hidden_layers": arch.num_layers,
        "hidden_size": arch.hidden_size,
        "intermediate_size": arch.intermediate_size,
        "parameters": record.cost.parameters,
        "train_flops_per_token": record.cost.train_flops_per_token,
    }
    shares = [*record.run.recipe.horizons, 1.0]
    return [
        {
            **fixed,
            "horizon": share,
            "tokens": reading.tokens,
            "val_loss": reading.val_loss,
            "val_bpb": reading.val_bpb,
        }
        for share, reading in zip(shares, record.readings, strict=True)
    ]


def train(arguments: Sequence[str] = (), path: Path = TABLE) -> Tabular:
    """Train what is missing of our table, as `python -m search` does, and write it.

    `arguments` are overrides of the search, besides or instead of `SEARCH`: `workers=1`. The same
    call goes on where an earlier one stopped.

    Raises:
        ValueError: an argument that is no override.
    """
    if strange := [text for text in arguments if "=" not in text]:
        raise ValueError(f"overrides must be NAME=VALUE, but got {strange[0]!r}")
    given = dict(text.split("=", 1) for text in (*SEARCH, *arguments))
    overrides = [f"{name}={value}" for name, value in given.items()]
    if code := subprocess.run([sys.executable, "-m", "search", *overrides]).returncode:
        raise SystemExit(code)
    outputs, runs = (Path(given.get(name, name)) for name in ("outputs", "runs"))
    table = gather(outputs / given["study"], runs)
    table.write(path)
    return table
