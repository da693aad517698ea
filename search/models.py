"""The models of runs: their parts as `space.hf` takes them, and the data that they come from."""

import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from search.data.cache import find_data
from search.objectives import USUAL, Measure, in_digits, missed
from search.runs import WEIGHTS, read_asked
from search.show import progress
from search.states import Role, State
from search.study.plan import Attempt, best_runs
from space.app import option_of
from space.arch import Architecture
from space.near import hint
from space.seals import Damaged, read_json, require_digest, whole_json
from space.stored import Stored

RECORD, OUTPUTS = "record.json", "outputs"
BEST = "best"
"""Instead of a run's key: the best run of the best architecture of `study`."""


def named(source: str, study: str | None, outputs: str | Path) -> str:
    """`source`, or for `best` the folder of the best run of a study.

    Raises:
        ValueError: `best` without a study, a study without `best`, or a study without a result.
    """
    if source != BEST:
        if study is not None:
            raise ValueError(f"study must come with the model {BEST}, but got {source!r}")
        return source
    if study is None:
        raise ValueError(f"{BEST} must come with study=NAME, whose best run is meant")
    return str(best(study, outputs))


def best(study: str, outputs: str | Path) -> Path:
    """The folder of the best run of a study or table: of the best of the arms with the most seeds,
    whose weights `keep=best` keeps.

    Raises:
        ValueError: no such study, none of its runs has finished, or none keeps to its constraints.
    """
    content = described(study, outputs)
    ranked = _ranked(content)
    if not ranked:
        raise ValueError(f"study must have a finished run, but none of {study} has ended")
    first = ranked[0]
    if not first.feasible:
        raise ValueError(
            f"the best run must keep to the constraints of {study}, but none does: the best beyond "
            f"them misses {missed(first.excesses)}; give its key instead: {first.key}"
        )
    return Path(content["runs"]) / str(first.key)


def best_in_words(study: str, outputs: str | Path) -> str:
    """Which run is the best of a study or table, and its value.

    Raises:
        ValueError: as `best` does.
    """
    folder, content = best(study, outputs), described(study, outputs)
    first, metric = _ranked(content)[0], str(content.get("metric", USUAL))
    arch = Architecture.from_dict(read_asked(folder)["architecture"])
    what = progress.shape(
        {
            "layers": arch.num_layers,
            "width": arch.hidden_size,
            "named": progress.named(first.params),
            "seed": first.seed,
        }
    )
    assert first.value is not None, "it has finished"
    value = f"{in_digits(metric, first.value)} {Measure(metric).unit}"
    return (
        f"it is the best run of the architecture with the best mean in {study}, {first.key}: "
        f"{what}, {value}"
    )


def _ranked(content: Mapping[str, Any]) -> list[Attempt]:
    """The best finished run of each arm, the best first."""
    runs = [attempt_of(trial) for trial in content["trials"]]
    ended = [run for run in runs if run.state == State.COMPLETE and run.value is not None]
    return best_runs(ended, arms=len(ended), maximize=content.get("direction") == "maximize")


def instead(study: str, outputs: str | Path, able: Callable[[Architecture], bool]) -> str:
    """What to export in place of the best run of a study: the best one whose architecture is
    `able`, and where its weights were not kept what trains it again; nothing where there is
    none."""
    content = described(study, outputs)
    for run in _ranked(content):
        folder = Path(content["runs"]) / str(run.key)
        if not run.feasible or not (folder / "run.yaml").is_file():
            continue
        if able(Architecture.from_dict(read_asked(folder)["architecture"])):
            without = (
                "" if (folder / WEIGHTS).is_file() else f"; {without_weights(folder, outputs)}"
            )
            return f"the best run of {study} that can be is export={folder}{without}"
    return ""


def described(study: str, outputs: str | Path) -> dict[str, Any]:
    """The `study.json` of a study or table.

    Raises:
        ValueError: there is none of this name, or it is damaged.
    """
    for folder in (Path(outputs) / study, Path(outputs) / "tables" / study):
        if (folder / "study.json").is_file():
            remedy = "start the same command again"
            return dict(whole_json(folder / "study.json", "a study", remedy))
    known = sorted(path.parent.name for path in Path(outputs).glob("**/study.json"))
    raise ValueError(
        f"study must be one of {', '.join(known) or 'none, for there is none yet'}, but got "
        f"{study!r}{hint(study, known)}"
    )


def attempt_of(trial: Mapping[str, Any]) -> Attempt:
    """A trial of `study.json`."""
    names = ("number", "state", "params", "key", "arm", "seed", "value")
    given: dict[str, Any] = {name: trial.get(name) for name in names}
    return Attempt(**given, role=Role(trial["role"]), excesses=trial.get("excesses") or {})


def stored(
    source: str | Path, runs: str | Path, cache: str | Path, outputs: str | Path = OUTPUTS
) -> Stored | None:
    """The model of a run, named by its key or its folder; None where there is no such run.

    Raises:
        ValueError: the run's weights were not kept.
    """
    for folder in (Path(runs) / source, Path(source)):
        if is_run(folder):
            return stored_run(folder, cache, outputs)
    return None


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's."""
    return (folder / "run.yaml").is_file()


def stored_run(folder: Path, cache: str | Path, outputs: str | Path = OUTPUTS) -> Stored:
    """The model of a run's folder.

    Raises:
        ValueError: its weights were not kept, or a file is damaged.
    """
    if not (folder / WEIGHTS).is_file():
        raise without_weights(folder, outputs)
    record, asked = _record(folder), read_asked(folder)
    if record is not None and record.get("key") != asked.get("key"):
        raise ValueError(f"{folder} must hold one run, but its record and run.yaml name two")
    try:
        require_digest(folder / WEIGHTS, (record or {}).get("files", {}).get(WEIGHTS))
    except Damaged as error:
        raise ValueError(f"{error}; remove {folder} and train the run again") from None
    return Stored(
        architecture=Architecture.from_dict(asked["architecture"]),
        weights=folder / WEIGHTS,
        tokenizer=partial(run_tokenizer, folder, cache),
        record=record,
    )


def without_weights(folder: Path, outputs: str | Path = OUTPUTS) -> ValueError:
    """The error for a run without weights: why it has none, and what trains this run alone again
    and keeps them."""
    must = f"{folder} must hold {WEIGHTS}, but "
    found = next((text for text in _commands(folder.name, outputs) if text), None)
    if not (folder / RECORD).is_file():
        start = f"`{keeping_all(found)}`" if found else "the same command that began it"
        return ValueError(f"{must}it has no record, as a run that has not ended; {start} goes on")
    start = (
        f"`{keeping_all(found)}`"
        if found
        else f"the command that trained it with keep=all (python -m search.whose run={folder.name} "
        "says which studies it is of)"
    )
    remove = shlex.join(["rm", str(folder / RECORD)])
    return ValueError(
        f"{must}its weights were not kept; this trains the run alone again and keeps them: "
        f"`{remove}`, then {start}"
    )


def _commands(key: str, outputs: str | Path) -> Iterator[str]:
    """What started the studies and tables that have a run, the latest first."""
    paths = sorted(Path(outputs).glob("**/study.json"))
    for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        with suppress(ValueError, OSError, LookupError, TypeError, AttributeError):  # damaged
            content = read_json(path)
            if any(trial.get("key") == key for trial in content["trials"]):
                yield str(content["command"])


def keeping_all(command: str) -> str:
    """The command of a study that trains and keeps all weights."""
    words = [word for word in shlex.split(command) if option_of(word) not in ("keep", "train")]
    return shlex.join([*words, "keep=all"])


def _record(folder: Path) -> dict[str, Any] | None:
    path = folder / RECORD
    try:
        values: dict[str, Any] = read_json(path)
        return values
    except FileNotFoundError:
        return None
    except Damaged as error:
        raise ValueError(
            f"{path} must hold a run's record, but {error}; the same command that trained the run "
            "trains it again"
        ) from None


def run_tokenizer(folder: Path, cache: str | Path) -> Path:
    """The tokenizer.json of a run, which is with its data.

    Raises:
        ValueError: the data are no longer in the cache, or have no tokenizer.
    """
    path = run_data(folder, cache) / "tokenizer.json"
    if not path.is_file():
        raise ValueError(
            f"the data of {folder} were token ids without a tokenizer; set tokenizer=FILE"
        )
    return path


def run_data(folder: Path, cache: str | Path) -> Path:
    """The folder of the cache with the data that a run was trained on.

    Raises:
        ValueError: they are no longer there.
    """
    wanted = read_asked(folder)["data_fingerprint"]
    if (found := find_data(cache, wanted)) is not None:
        return found
    raise ValueError(
        f"the data of {folder} (fingerprint {wanted}) must be in {os.fspath(cache)}, where its "
        "tokenizer is kept, but are not; set tokenizer=FILE, or cache=FOLDER"
    )
