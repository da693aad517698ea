"""How candidates are tried. From Python: `from search import run_study, train_run, load_records`
(docs/python.md); they are imported when they are asked for, since training needs torch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.notebook import StudyResult, run_study, train_run
    from search.runs import load_records

__all__ = ["StudyResult", "load_records", "run_study", "train_run"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'search' has no attribute {name!r}")
    from search import notebook

    return getattr(notebook, name)
