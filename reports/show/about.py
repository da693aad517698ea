"""What numbers are and where they come from: the same facts beside a table in every form."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from reports.show.tables import one_line

Facts = list[tuple[str, str]]
CODE = ("command", "commit")
"""Terms whose text is set as code."""
COLUMNS = "columns"
"""The term of columns that were chosen."""


def chosen_before(tex: Path) -> str:
    """The columns that were chosen for a table in LaTeX, as `in_comments` left them; empty where
    there is no such file or it has all."""
    try:
        found = re.search(rf"^% {COLUMNS}: (.*)$", tex.read_text(), re.M)
    except OSError:
        return ""
    return found[1] if found else ""


def facts_of(
    *,
    metric: str,
    direction: str,
    data: Iterable[object],
    tokens: str,
    command: str,
    commit: Iterable[object],
    looks: str = "",
    evaluation: str = "",
    worth: str = "",
    columns: Sequence[str] | None = None,
) -> Facts:
    """Those that are known, (term, text). Data and commits are those of each run; `worth` warns of
    numbers that mean nothing, and `columns` are those that were chosen."""
    found = {
        "worth": worth,
        "metric": metric,
        "direction": direction,
        "data": _each(data),
        "tokens": tokens,
    }
    found |= {"looks": looks, "evaluation": evaluation}
    found |= {"command": one_line(command), "commit": _each(commit)}
    found |= {COLUMNS: ", ".join(columns or ())}
    return [(term, text) for term, text in found.items() if text]


def _each(texts: Iterable[object]) -> str:
    known = pd.Series(list(texts), dtype=object).dropna().astype(str)
    return "; ".join(sorted(known[known != ""].unique()))


def in_list(facts: Facts) -> str:
    """The facts in GitHub's Markdown, an item each."""
    return "".join(f"- {term}: {_code(term, text)}\n" for term, text in facts)


def _code(term: str, text: str) -> str:
    return f"`{text}`" if term in CODE else text


def in_columns(facts: Facts) -> dict[str, str]:
    """The facts as columns of a CSV, the same in each row; tokens have a column of their own."""
    return {f"about_{term}": text for term, text in facts if term != "tokens"}


def in_comments(facts: Facts) -> list[str]:
    """The facts as comments of LaTeX, as they are, after the packages that a float needs."""
    said = [f"% {term}: {one_line(text)}" for term, text in facts]
    return ["% needs \\usepackage{booktabs,graphicx}", *said]


def in_a_sentence(facts: Facts) -> str:
    """What a caption says of the numbers: all but how to make them again."""
    known = dict(facts)
    warning = f"{known['worth']} " if "worth" in known else ""
    parts = [f"{warning}{known['metric']}, {known['direction']}"]
    data = re.sub(", fingerprint [0-9a-f]+", "", known.get("data", ""))
    known["data"] = data  # what a paper says of it
    parts += [f"{term}: {known[term]}" for term in ("data", "tokens", "looks") if known.get(term)]
    return f"{'; '.join(parts)}."


def folded(title: str, items: Sequence[tuple[str, str]]) -> str:
    """Details in GitHub's Markdown, which unfold at a click."""
    lines = "".join(f"- **{term}**: {text}\n" for term, text in items)
    return f"<details>\n<summary>{title}</summary>\n\n{lines}\n</details>\n"
