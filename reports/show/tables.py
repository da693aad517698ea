"""Tables: of the trials for the page and as CSV, of the architectures as Markdown and LaTeX."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from reports.read.study import Study, is_number
from reports.weigh.answer import Evidence, budget_words
from space.words import plain

MINUS, NONE = "\u2212", "\u2013"


@dataclass(frozen=True)
class Column:
    """A column of a printed table: where it comes from and how its cells read."""

    name: str
    heading: str
    text: Callable[[Any], str]
    hint: str = ""
    """What the heading means, for those who point at it."""
    numeric: bool = True


@dataclass(frozen=True)
class Cell:
    """One cell: what is read, and what it is sorted by."""

    text: str
    order: str
    numeric: bool
    hint: str = ""


def decimals(digits: int) -> Callable[[Any], str]:
    """Formats numbers with that many decimals."""
    return lambda value: f"{value:,.{digits}f}".replace("-", MINUS)


def signed(digits: int) -> Callable[[Any], str]:
    """Formats differences: always with a sign."""
    return lambda value: f"{value:+,.{digits}f}".replace("-", MINUS)


def percent(digits: int, sign: bool = False) -> Callable[[Any], str]:
    """Formats a share as a percentage."""
    return lambda value: (signed if sign else decimals)(digits)(100 * value) + "%"


def megas(value: Any) -> str:
    """1.94M."""
    return f"{value / 1e6:,.2f}M"


def probability(value: Any) -> str:
    """Three decimals, of which none is claimed below a thousandth."""
    return decimals(3)(value) if value >= 0.001 else "<0.001"


whole = decimals(0)


def span(low: Any, high: Any, text: Callable[[Any], str]) -> str:
    """ "0.1 to 0.3", each end as `text` formats it."""
    return f"{text(low)} to {text(high)}"


def intervals(low: "pd.Series[Any]", high: "pd.Series[Any]", text: Callable[[Any], str]) -> Any:
    """The column of such spans; None where there is none."""
    told = [
        span(*ends, text) if is_number(ends[0]) else None for ends in zip(low, high, strict=True)
    ]
    return pd.Series(told, low.index, dtype=object)


def csv_text(frame: pd.DataFrame) -> str:
    """A frame as CSV at full precision, without its index."""
    return str(frame.to_csv(index=False, lineterminator="\n"))


TRIAL_COLUMNS = (
    Column("number", "trial", whole),
    Column("num_hidden_layers", "layers", whole, "layers executed"),
    Column("hidden_size", "width", whole, "hidden_size"),
    Column("seed", "seed", whole),
    Column("val_bpb", "val bpb", decimals(4), "validation bits per byte; lower is better"),
    Column("val_loss", "val loss", decimals(4), "validation nats per token"),
    Column("status", "state", str, numeric=False),
    Column("heads", "heads", str, "query heads / key-value heads", numeric=False),
    Column("head_dim", "head dim", whole),
    Column("intermediate_size", "FFN", whole, "intermediate_size"),
    Column("ffn_ratio", "FFN ratio", decimals(2), "intermediate_size / hidden_size"),
    Column("sharing", "sharing", str, "pattern × repeats", numeric=False),
    Column("tied", "embeddings", str, "tied or untied", numeric=False),
    Column("parameters", "parameters", whole, "distinct weights, a tied matrix once"),
    Column("budget_deviation", "off budget", percent(2, sign=True), "deviation from the budget"),
    Column("embedding_share", "embeddings’ share", percent(1), "share of all parameters"),
    Column("forward_flops_per_token", "FLOPs/token", megas, "one forward pass"),
    Column("kv_bytes_per_token", "KV B/token", whole, "bytes of key-value cache a token"),
    Column("decode_bytes_per_token", "moved/token", megas, "bytes moved to decode one token"),
    Column("tokens", "tokens", whole, "tokens trained on"),
    Column("train_s", "seconds", decimals(1), "seconds of training"),
    Column("tokens_per_s", "tokens/s", whole),
    Column("run", "run", str, "key of the run, its folder's name", numeric=False),
    Column("reason", "reason", str, numeric=False),
)

ARM_COLUMNS = (
    Column("depth", "layers", whole, "layers executed"),
    Column("width", "width", whole, "hidden_size"),
    Column("series", "other axes", str, numeric=False),
    Column("tried", "runs", whole, "finished runs, the exploring one among them"),
    Column("n", "n", whole, "seeds that enter mean and interval"),
    Column("value", "mean", decimals(4), "of the n seeds; of the runs where n is empty"),
    Column("sd", "sd", decimals(4), "standard deviation over the n seeds"),
    Column("diff", "difference", signed(4), "to the baseline; negative is better"),
    Column("interval", "95% interval", str, "simultaneous over all differences", numeric=False),
    Column("p_adjusted", "adj. p", probability, "adjusted for all the differences"),
    Column(
        "mdd",
        "MDD",
        decimals(4),
        "a true difference as large gets a verdict with 80% power",
    ),
    Column("verdict", "verdict", str, numeric=False),
)


def trial_rows(study: Study) -> tuple[list[Column], list[list[Cell]]]:
    """The page's table of trials: columns that hold anything, and a row a trial."""
    frame = study.trials.copy()
    known = frame["num_hidden_layers"].notna() if "num_hidden_layers" in frame else None
    if known is not None and known.any():
        frame["heads"] = [
            f"{plain(q)}/{plain(kv)}" if ok else None
            for q, kv, ok in zip(
                frame.num_attention_heads, frame.num_key_value_heads, known, strict=True
            )
        ]
        frame["tied"] = frame.tie_word_embeddings.map({True: "tied", False: "untied"})
        shared = frame.sharing + " × " + frame.repeats.map(plain)
        frame["sharing"] = shared.where(frame.sharing.ne("none") | ~known, "none")
        if set(frame.sharing.dropna()) == {"none"}:
            frame["sharing"] = None
    frame["run"] = frame.key.str[:8]
    return printed_rows(frame, TRIAL_COLUMNS, hints={"run": "key"})


def arm_rows(evidence: Evidence) -> tuple[list[Column], list[list[Cell]]]:
    """The table of architectures: columns that hold anything, and a row an architecture."""
    frame = evidence.arms.copy()
    frame["interval"] = intervals(frame.diff_low, frame.diff_high, signed(4))
    frame["series"] = frame.series.replace("", None)
    frame["diff"] = frame["diff"].where(frame.arm != evidence.baseline)
    frame["verdict"] = frame.verdict.where(frame.arm != evidence.baseline, "baseline")
    return printed_rows(frame, ARM_COLUMNS)


def rate(value: Any) -> str:
    """A learning rate: 3e-3, 7.5e-4."""
    mantissa, exponent = f"{value:.3e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}".replace("-", MINUS)


def printed_rows(
    frame: pd.DataFrame, columns: Sequence[Column], hints: dict[str, str] | None = None
) -> tuple[list[Column], list[list[Cell]]]:
    """The columns in which some row has something, and the cells of every row."""
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


def trials_csv(study: Study) -> str:
    """Every trial and every column at full precision."""
    frame = study.trials.copy()
    for column in frame.select_dtypes("float"):
        if frame[column].dropna().map(float.is_integer).all():
            frame[column] = frame[column].astype("Int64")  # gaps made whole numbers float
    return csv_text(frame)


def markdown(study: Study, evidence: Evidence) -> str:
    """The table of architectures in GitHub's Markdown."""
    columns, rows = arm_rows(evidence)
    return markdown_table(columns, rows) if rows else f"No finished trial in {study.name}.\n"


def markdown_table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> str:
    """A table in GitHub's Markdown."""
    rule = ["---:" if column.numeric else ":---" for column in columns]
    lines = [[column.heading for column in columns], rule]
    lines += [[cell.text.replace("|", "\\|") for cell in row] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def latex(study: Study, evidence: Evidence) -> str:
    """The table of architectures for LaTeX with booktabs."""
    columns, rows = arm_rows(evidence)
    caption = escape(f"Study {study.name}: {budget_words(study)}, {study.metric}.")
    if not rows:
        return f"% {caption} No finished trial.\n"
    needs = "% needs \\usepackage{booktabs}"
    return "\n".join([f"% {caption}", needs, latex_table(columns, rows), ""])


def latex_table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> str:
    """A tabular with the rules of booktabs."""
    form = "".join("r" if column.numeric else "l" for column in columns)
    return "\n".join(
        [
            f"\\begin{{tabular}}{{{form}}}",
            "\\toprule",
            _latex_line(escape(column.heading) for column in columns),
            "\\midrule",
            *(_latex_line(escape(cell.text) for cell in row) for row in rows),
            "\\bottomrule",
            "\\end{tabular}",
        ]
    )


def latex_float(caption: str, tabular: str, comments: Sequence[str] = ()) -> list[str]:
    """The lines of a table that floats, scaled to the line."""
    return [
        "\\begin{table}",
        f"\\caption{{{escape(caption)}}}",
        "\\resizebox{\\linewidth}{!}{%",
        tabular + "}",
        *comments,
        "\\end{table}",
        "",
    ]


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
}


def escape(text: str) -> str:
    """Plain text for LaTeX."""
    return "".join(LATEX.get(letter, letter) for letter in text)


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
    return environment.get_template(template).render(**values)
