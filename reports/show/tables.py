"""Tables of reports: their cells and formats, as HTML, Markdown, LaTeX and CSV."""

import math
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from reports.read.study import OTHER, is_number
from reports.show.figures import SERIES, mixed
from space import words
from space.near import hint
from space.tables import Column, in_markdown

MINUS, NONE = "\u2212", "\u2013"
LONG = (14, 48)
"""Letters of a cell beyond which a phone breaks it into lines, and longer ones."""


@dataclass(frozen=True)
class Cell:
    """One cell: its text, and its sort key."""

    text: str
    order: str
    numeric: bool
    hint: str = ""
    strong: bool = False
    """Set in bold: the best of its column."""

    @property
    def key(self) -> str | None:
        """What a page sorts by, numbers to nine digits; None where it is the text."""
        key = f"{float(self.order):.9g}" if self.numeric and self.order else self.order
        return None if key == self.text else key

    @property
    def kind(self) -> str:
        """For the style: nothing of numbers, `word`, and of what a phone has on several lines
        `word ends`, an interval, `word long` and `word longer`."""
        if self.numeric:
            return ""
        if re.fullmatch(r"\S+ to \S+", self.text):
            return "word ends"
        size = bisect_left(LONG, len(self.text))
        return ("word", "word long", "word longer")[size]


def decimals(digits: int) -> Callable[[Any], str]:
    """Formats numbers with that many decimals."""
    return lambda value: f"{value:,.{digits}f}".replace("-", MINUS)


def signed(digits: int) -> Callable[[Any], str]:
    """Formats differences: always with a sign."""
    return lambda value: f"{value:+,.{digits}f}".replace("-", MINUS)


def figures(digits: int) -> Callable[[Any], str]:
    """Formats numbers of any size with so many significant figures; whole ones in full."""

    def text(value: Any) -> str:
        whole = float(value).is_integer() and abs(value) < 1e9
        return (f"{value:,.0f}" if whole else f"{value:,.{digits}g}").replace("-", MINUS)

    return text


def places(values: "pd.Series[Any]") -> int:
    """How many decimals give five digits of the largest of some values: four of 1.9677."""
    largest = values.abs().max()
    return max(0, 4 - math.floor(math.log10(largest))) if largest > 0 else 4


def percent(digits: int, sign: bool = False) -> Callable[[Any], str]:
    """Formats a share as a percentage."""
    return lambda value: words.percent(value, digits, sign=sign).replace("-", MINUS)


def megas(value: Any) -> str:
    """1.94M."""
    return f"{value / 1e6:,.2f}M"


def probability(value: Any) -> str:
    """Three decimals; `<0.001` below that."""
    return decimals(3)(value) if value >= 0.001 else "<0.001"


whole = decimals(0)


def span(low: Any, high: Any, text: Callable[[Any], str]) -> str:
    """ "0.1 to 0.3", each end as `text` formats it."""
    return f"{text(low)} to {text(high)}"


def intervals(low: "pd.Series[Any]", high: "pd.Series[Any]", text: Callable[[Any], str]) -> Any:
    """The column of such spans; None for a missing interval."""
    spans = [
        span(*ends, text) if is_number(ends[0]) else None for ends in zip(low, high, strict=True)
    ]
    return pd.Series(spans, low.index, dtype=object)


def csv_text(frame: pd.DataFrame) -> str:
    """A frame as CSV at full precision, without its index."""
    return str(frame.to_csv(index=False, lineterminator="\n"))


def rate(value: Any) -> str:
    """A learning rate: 3e-3, 7.5e-4."""
    mantissa, exponent = f"{value:.3e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}".replace("-", MINUS)


def printed_rows(
    frame: pd.DataFrame, columns: Sequence[Column], hints: dict[str, str] | None = None
) -> tuple[list[Column], list[list[Cell]]]:
    """The columns that are not empty, and the cells of every row."""
    shown = [
        column for column in columns if column.name in frame and frame[column.name].notna().any()
    ]
    rows = [
        [
            _cell(column, row[column.name], row[(hints or {}).get(column.name, column.name)])
            for column in shown
        ]
        for row in frame.to_dict("records")
    ]
    return shown, rows


def _cell(column: Column, value: Any, hint: Any) -> Cell:
    absent = value is None or value != value
    text = NONE if absent else column.text(value)
    order = "" if absent else repr(float(value)) if column.numeric else str(value)
    return Cell(text, order, column.numeric, "" if hint is value or absent else str(hint))


def markdown_table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> str:
    """A table in GitHub's Markdown."""
    headings = [column.heading for column in columns]
    texts = ([_bold(one_line(c.text), "**{}**", c) for c in row] for row in rows)
    return in_markdown(headings, texts, [column.numeric for column in columns])


def latex_table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> str:
    """A tabular with the rules of booktabs."""
    form = "".join("r" if column.numeric else "l" for column in columns)
    return "\n".join(
        [
            f"\\begin{{tabular}}{{{form}}}",
            "\\toprule",
            _latex_line(escape(column.heading) for column in columns),
            "\\midrule",
            *(_latex_line(_bold(escape(c.text), "\\textbf{{{}}}", c) for c in row) for row in rows),
            "\\bottomrule",
            "\\end{tabular}",
        ]
    )


def _bold(text: str, form: str, cell: Cell) -> str:
    return form.format(text) if cell.strong else text


def best_in_bold(
    columns: Sequence[Column], rows: Sequence[list[Cell]], best: int | None, names: Sequence[str]
) -> None:
    """Sets the named cells of a row in bold; of none where nothing is best."""
    for place, column in enumerate(columns if best is not None else ()):
        if column.name in names:
            rows[best or 0][place] = replace(rows[best or 0][place], strong=True)


LEVEL_OF_INTERVAL = re.compile(r"^[\d.]+% (?=interval$)")
"""Of a heading, which names the column at any level: further seeds change it."""


def chosen(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], names: Sequence[str] | None
) -> tuple[list[Column], list[list[Cell]]]:
    """A table with the columns of these names or headings, in their order; none given, with all.

    Raises:
        ValueError: there is no such column.
    """
    if names is None:
        return list(columns), [list(row) for row in rows]
    typed = [(column.heading, column.name.removeprefix(OTHER)) for column in columns]
    known = [*enumerate(typed), *((n, (column.name,)) for n, column in enumerate(columns))]
    places = {key: n for n, keys in reversed(known) for key in keys}
    names = [name if name in places else LEVEL_OF_INTERVAL.sub("", name) for name in names]
    for name in names:
        if name not in places:
            shown = ", ".join(head if head == own else f"{head} ({own})" for head, own in typed)
            near = hint(name, [key for keys in typed for key in keys])
            raise ValueError(f"columns must be among {shown}, but got {name!r}{near}")
    kept = [places[name] for name in names]
    return [columns[n] for n in kept], [[row[n] for n in kept] for row in rows]


def slug(text: str) -> str:
    """The text as part of a label: "equal-flops"."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def resolved(rows: pd.DataFrame, text: Callable[[Any], str]) -> str:
    """Which differences are resolved, in a sentence, by `label diff verdict`; `text` formats a
    difference."""
    said = []
    for verdict in ("better", "worse"):
        mine = rows[rows.verdict == verdict].itertuples()
        if names := [f"{row.label} ({text(row.diff)})" for row in mine]:
            said.append(f"{verdict}: {', '.join(names)}")
    if unresolved := [str(name) for name in rows.label[rows.verdict == "unresolved"]]:
        if not said:
            return "No difference is resolved."
        said.append(f"unresolved: {', '.join(unresolved)}")
    sentence = "; ".join(said)
    return f"{sentence[0].upper()}{sentence[1:]}." if said else ""


def latex_float(
    caption: str,
    tabular: str,
    comments: Sequence[str] = (),
    *,
    label: str,
    notes: Sequence[str] = (),
) -> list[str]:
    """The lines of a table that floats, with the label `tab:LABEL` and its notes below it; one that
    is wider than the line is scaled down to it."""
    below = ["\\par\\smallskip", "\\begin{minipage}{\\linewidth}\\footnotesize"]
    return [
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{escape(caption)}}}",
        f"\\label{{tab:{label}}}\\smallskip",
        "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%",
        tabular + "}",
        *comments,
        *([*below, *notes, "\\end{minipage}"] if notes else []),
        "\\end{table}",
        "",
    ]


def meanings(columns: Iterable[Column]) -> list[tuple[str, str]]:
    """What the headings of columns mean, of those that say it."""
    return [(column.heading, column.hint) for column in columns if column.hint]


def legend(columns: Sequence[Column]) -> list[str]:
    """What the headings of columns mean, a line of LaTeX each."""
    return [f"\\textbf{{{escape(head)}}}: {escape(hint)}." for head, hint in meanings(columns)]


def _latex_line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "<": "$<$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    ">": "$>$",
    "|": r"\textbar{}",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "→": r"$\to$",
    MINUS: "$-$",
    NONE: "--",
    "’": "'",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    "≈": r"$\approx$",
    "∞": r"$\infty$",
    "√": r"$\surd$",
    "µ": r"$\mu$",
    "°": r"$^\circ$",
    "†": r"$\dagger$",
    "²": "$^2$",
    "³": "$^3$",
}


def one_line(text: str) -> str:
    """The text without breaks, which would end a row of Markdown or a paragraph of LaTeX."""
    return " ".join(part.strip() for part in text.splitlines() if part.strip())


def escape(text: str) -> str:
    """Plain text for LaTeX, of letters that pdflatex has without further packages: others are named
    by their code."""
    return "".join(map(_escaped, one_line(text)))


def _escaped(letter: str) -> str:
    if letter in LATEX or letter.isascii() or letter in PLAIN:
        return LATEX.get(letter, letter)
    name = unicodedata.name(letter, "")
    greek = re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (?:FINAL )?(\w+)", name)
    if greek and (command := _greek(greek[2].lower(), greek[1] == "CAPITAL")):
        return f"${command}$"
    parts = unicodedata.normalize("NFD", letter)
    if len(parts) == 2 and parts[0].isascii() and parts[1] in ACCENTS:
        return letter
    return f"U+{ord(letter):04X}"


GREEK = (
    *("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"),
    *("lamda", "mu", "nu", "xi", "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi"),
    "omega",
)
LIKE_LATIN = {"alpha": "A", "beta": "B", "epsilon": "E", "zeta": "Z", "eta": "H", "iota": "I"}
LIKE_LATIN |= {"kappa": "K", "mu": "M", "nu": "N", "rho": "P", "tau": "T", "chi": "X"}
"""Capitals that LaTeX has no command for."""


def _greek(name: str, capital: bool) -> str | None:
    if name not in GREEK:
        return "o" if name == "omicron" and not capital else "O" if name == "omicron" else None
    if capital and name in LIKE_LATIN:
        return f"\\mathrm{{{LIKE_LATIN[name]}}}"
    command = name.replace("lamda", "lambda")
    return f"\\{command.capitalize() if capital else command}"


ACCENTS = "\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327"
PLAIN = "“”‘’–—…"


def fill(template: str, **values: Any) -> str:
    """A template of this folder with its values; HTML in them is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    light = [mixed(color, "#ffffff", 0.25) for color in SERIES]
    colors = {"series": SERIES, "light_series": light}
    return environment.get_template(template).render(**colors | values)
