"""A study's tables: its trials and its architectures, for the page, as CSV, Markdown and LaTeX."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from reports.read.study import MOST_SHOWN, OTHER, Study
from reports.show.about import (
    Facts,
    facts_of,
    folded,
    in_a_sentence,
    in_columns,
    in_comments,
    in_list,
)
from reports.show.tables import (
    Cell,
    best_in_bold,
    chosen,
    csv_text,
    decimals,
    escape,
    figures,
    intervals,
    latex_float,
    latex_table,
    legend,
    markdown_table,
    meanings,
    megas,
    percent,
    places,
    printed_rows,
    probability,
    resolved,
    signed,
    slug,
    whole,
)
from reports.weigh.answer import Evidence, budget_words, nearest_runs, nothing_meets
from reports.weigh.table import data_words
from reports.weigh.worth import warning
from search.objectives import LOSSES, USUAL, WITHOUT_BYTES, hint_of
from space.tables import Column
from space.words import plain

TRIAL_COLUMNS = (
    Column("number", "trial", whole),
    Column("num_hidden_layers", "layers", whole, "layers executed"),
    Column("hidden_size", "width", whole, "hidden_size"),
    Column("seed", "seed", whole),
    Column(USUAL, "val bpb", decimals(4), "validation bits per byte; lower is better"),
    Column(WITHOUT_BYTES, "val loss", decimals(4), "validation nats per token"),
    Column("status", "state", str, numeric=False),
    Column("heads", "heads", str, "query heads / key-value heads", numeric=False),
    Column("head_dim", "head dim", whole),
    Column("intermediate_size", "FFN", whole, "intermediate_size"),
    Column("ffn_ratio", "FFN ratio", decimals(2), "intermediate_size / hidden_size"),
    Column("sharing", "sharing", str, "pattern × repeats", numeric=False),
    Column("tied", "embeddings", str, "tied or untied", numeric=False),
    Column("parameters", "parameters", whole, "distinct weights; a tied matrix counted once"),
    Column("budget_deviation", "off budget", percent(2, sign=True), "deviation from the budget"),
    Column("embedding_share", "embeddings’ share", percent(1), "share of all parameters"),
    Column("forward_flops_per_token", "FLOPs/token", megas, "one forward pass"),
    Column("kv_bytes_per_token", "KV B/token", whole, "bytes of key-value cache per token"),
    Column("decode_bytes_per_token", "decode B/token", megas, "bytes read to decode one token"),
    Column("tokens", "tokens", whole, "tokens trained on"),
    Column("train_s", "seconds", decimals(1), "seconds of training"),
    Column("tokens_per_s", "tokens/s", whole),
    Column("run", "run", str, "key of the run, its folder's name", numeric=False),
    Column("reason", "reason", str, numeric=False),
)

OF_SHAPE = (
    *("heads", "head_dim", "intermediate_size", "ffn_ratio", "sharing", "tied", "parameters"),
    *("budget_deviation", "embedding_share", "forward_flops_per_token", "kv_bytes_per_token"),
    "decode_bytes_per_token",
)
"""Those of `TRIAL_COLUMNS` that depend on the architecture alone."""

ARM_COLUMNS = (
    Column("depth", "layers", whole, "layers executed"),
    Column("width", "width", whole, "hidden_size"),
    Column("series", "other axes", str, numeric=False),
    Column("verdict", "verdict", str, "unresolved if the interval contains zero", numeric=False),
    Column("value", "mean", decimals(4), "over the n seeds; over the runs if n is empty"),
    Column("diff", "difference", signed(4), "from the baseline; negative is better"),
    Column("interval", "95% interval", str, "simultaneous over all differences", numeric=False),
    Column("tried", "runs", whole, "finished runs, including the exploring one"),
    Column("n", "n", whole, "seeds used for mean and interval"),
    Column("sd", "sd", decimals(4), "standard deviation over the n seeds"),
    Column("p_adjusted", "adj. p", probability, "adjusted for all differences"),
    Column(
        "mdd",
        "MDD",
        decimals(4),
        "minimum detectable difference: one of this size is resolved with 80% power",
    ),
    Column("p_best", "P(best)", probability, "probability that it is the best of these"),
    Column("regret", "regret", decimals(4), "expected loss to the best of these, if it is taken"),
)


def trial_rows(study: Study) -> tuple[list[Column], list[list[Cell]]]:
    """The page's table of trials: the columns that are not empty, and one row per trial."""
    frame = _with_shapes(study.trials)
    frame["run"] = frame.key.str[:8]
    frame = best_rows(frame, study.metric, study.lower_is_better)
    own, there = list(TRIAL_COLUMNS), {column.name for column in TRIAL_COLUMNS}
    place = 1 + next(i for i, column in enumerate(own) if column.name == "seed")
    own[place:place] = [
        Column(name, name.replace("_", " "), _figures(name), hint_of(measure))
        for name, measure in study.measures.items()
        if name not in there
    ]
    if study.constraints:
        frame["feasible"] = frame.feasible.map({True: "yes", False: "no"})
        hint = " and ".join(study.constraints)
        own.insert(place, Column("feasible", "feasible", str, hint, numeric=False))
    return printed_rows(frame, own, hints={"run": "key"})


def _with_shapes(trials: pd.DataFrame) -> pd.DataFrame:
    """Trials with `heads`, `tied` and `sharing` in words."""
    frame = trials.copy()
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
    return frame


def _figures(name: str) -> Callable[[Any], str]:
    """Four decimals of a loss on a source of a mixture, as the total beside it has."""
    return decimals(4) if _is_loss_on_source(name) else figures(4)


def arm_rows(
    study: Study, evidence: Evidence, names: Sequence[str] | None = None
) -> tuple[list[Column], list[list[Cell]]]:
    """The table of architectures, a row each: the columns of these names, of those that hold
    anything. By default the comparison, and the objectives and columns that the study was asked
    for.

    Raises:
        ValueError: there is no such column.
    """
    frame = arms_shown(evidence).merge(_besides(study, evidence), "left", on="arm")
    digits = 4 if evidence.metric in LOSSES else places(frame.value)
    frame["interval"] = intervals(frame.diff_low, frame.diff_high, signed(digits))
    frame["series"] = frame.series.replace("", None)
    frame["diff"] = frame["diff"].where(frame.arm != evidence.baseline)
    frame["verdict"] = frame.verdict.where(frame.arm != evidence.baseline, "baseline")
    columns = ARM_COLUMNS if evidence.lower_is_better else [*map(_more_is_better, ARM_COLUMNS)]
    texts = dict.fromkeys(("value", "sd", "mdd", "regret"), decimals(digits)) | {
        "diff": signed(digits)
    }
    columns = [replace(c, text=texts.get(c.name, c.text)) for c in columns]
    place = 1 + [column.name for column in columns].index("interval")
    columns[place:place] = _columns_besides(study, everything=names is not None)
    shown, rows = printed_rows(frame, columns)
    best = None if evidence.best is None else list(frame.arm).index(evidence.best)
    best_in_bold(shown, rows, best, ("depth", "width", "series", "value"))
    if evidence.best is not None:
        _mark_means_of_few(shown, rows, frame.replicated)
    return chosen(shown, rows, names)


def _besides(study: Study, evidence: Evidence) -> pd.DataFrame:
    """Of each `arm` its shape and cost, and each further measure as its mean over the seeds that
    the metric's mean is over."""
    done, cells = _with_shapes(study.eligible), evidence.cells
    alone = ~done.arm.isin(cells.arm)
    counted = done[alone | done.seed.isin(cells.seed)]  # which all compared arms have in common
    others = [name for name in study.measures if name not in (study.metric, *OF_SHAPE)]
    means = counted[others].astype(float).groupby(counted.arm).mean().add_prefix(OTHER)
    shapes = done.drop_duplicates("arm").set_index("arm")
    shapes = shapes[[name for name in OF_SHAPE if name in shapes]]
    return shapes.join(means).reset_index()


def _columns_besides(study: Study, everything: bool) -> list[Column]:
    """Those of the measures that the study was asked for but its metric; with `everything` those
    of shapes and costs too, and losses on sources of a mixture, which have a table of their own."""
    found = [
        Column(
            f"{OTHER}{name}",
            name.replace("_", " "),
            _figures(name),
            f"{hint_of(measure)}; over the seeds of the mean",
        )
        for name, measure in study.measures.items()
        if name not in (study.metric, *OF_SHAPE) and (everything or not _is_loss_on_source(name))
    ]
    shapes = [column for column in TRIAL_COLUMNS if column.name in OF_SHAPE]
    return found + [c for c in shapes if everything or c.name in study.measures]


def _is_loss_on_source(name: str) -> bool:
    base, at, _ = name.partition("@")
    return bool(at) and base in LOSSES


FEW = "†"
"""Beside means that are not over the n seeds."""


def _mark_means_of_few(
    columns: Sequence[Column], rows: Sequence[list[Cell]], replicated: "pd.Series[Any]"
) -> None:
    place = [column.name for column in columns].index("value")
    for row, compared in zip(rows, replicated, strict=True):
        if not compared:
            row[place] = replace(row[place], text=f"{row[place].text}{FEW}")


def of_few(rows: Sequence[Sequence[Cell]]) -> str:
    """What the mark beside means says, in a sentence; empty where no row has one."""
    if not any(cell.text.endswith(FEW) for row in rows for cell in row):
        return ""
    return (
        f"{FEW}: too few seeds to be compared. This mean is over the architecture's own runs, with "
        "the exploring one that selected architectures."
    )


NEAREST = (
    Column("label", "architecture", str, numeric=False),
    Column("misses", "misses", str, "what it is beyond, and by how much", numeric=False),
    Column("number", "trial", whole),
)
MOST_NEAREST = 10
"""Architectures that are named where none keeps to the constraints."""


def nearest_rows(study: Study) -> tuple[list[Column], list[list[Cell]]]:
    """The architectures that come nearest to constraints that none keeps to, nearest first; no
    rows where some keep to them or nothing has finished."""
    if study.finished.empty or len(study.eligible):
        return [], []
    digits = decimals(4) if study.metric in LOSSES else figures(4)
    heading = study.measures[study.metric]["title"]
    columns = [NEAREST[0], Column(study.metric, heading, digits), *NEAREST[1:]]
    return printed_rows(nearest_runs(study)[:MOST_NEAREST], columns)


def arms_of_rows(study: Study, evidence: Evidence) -> dict[str, list[str | None]]:
    """The arm of each row of the page's tables, for what is chosen together."""
    architectures = arms_shown(evidence).arm
    trials = best_rows(study.trials, study.metric, study.lower_is_better).arm
    known = trials.astype(object).where(trials.notna(), None)
    return {"architectures": architectures.tolist(), "trials": known.tolist()}


def arms_shown(evidence: Evidence) -> pd.DataFrame:
    """The architectures of the table: those with several seeds before single runs, of which the
    best are lucky too."""
    arms = evidence.arms
    repeated = arms.index[arms.replicated.astype(bool)] if len(arms) else arms.index
    return best_rows(arms, "value", evidence.lower_is_better, repeated)


def best_rows(
    frame: pd.DataFrame, metric: str, lower_is_better: bool, first: "pd.Index[Any] | None" = None
) -> pd.DataFrame:
    """The rows that a table shows, in their order: of more than `MOST_SHOWN` the best, those of
    `first` before others."""
    if len(frame) <= MOST_SHOWN:
        return frame
    best = frame[metric].sort_values(ascending=lower_is_better, kind="stable").index
    if first is not None:
        best = best[best.isin(first)].append(best[~best.isin(first)])
    return frame.loc[sorted(best[:MOST_SHOWN])]


def left_out(n: int, what: str) -> str:
    """What a table of `n` does not show, in a sentence; empty where it shows all."""
    if n <= MOST_SHOWN:
        return ""
    return f"The best {MOST_SHOWN:,} of {n:,} {what}; trials.csv has all."


def _more_is_better(column: Column) -> Column:
    return replace(column, hint=column.hint.replace("negative is better", "positive is better"))


def about(
    study: Study, evidence: Evidence | None = None, columns: Sequence[str] | None = None
) -> Facts:
    """What the numbers are, what intervals of the evidence hold, where they come from, and which
    columns were chosen, (term, text)."""
    records = study.records.values()
    data = {(str(r.data.get("name")), r.run.data_fingerprint): r for r in records}
    lengths = study.finished.tokens.unique() if len(study.finished) else ()
    return facts_of(
        metric=f"{study.metric_title} ({study.metric})",
        direction=f"{'lower' if study.lower_is_better else 'higher'} is better",
        data={data_words(record) for record in data.values()},
        tokens=f"{int(max(lengths)):,} per run" if len(lengths) else "",
        command=str(study.facts.get("command") or ""),
        commit={record.commit for record in records},
        evaluation=evidence.evaluation.in_words if evidence and evidence.evaluation else "",
        worth=warning(study),
        columns=columns,
    )


def differences(evidence: Evidence) -> str:
    """Which differences from the baseline are resolved, in a sentence; empty without a baseline."""
    if evidence.baseline is None:
        return ""
    digits = 4 if evidence.metric in LOSSES else places(evidence.arms.value)
    baseline = evidence.arm(evidence.baseline).label
    others = evidence.arms[evidence.arms.arm != evidence.baseline]
    return f"Against {baseline}. {resolved(others, signed(digits))}"


def no_differences(study: Study, evidence: Evidence) -> str:
    """Why there are none from the baseline, and which options give some."""
    arm, config = study.facts.get("baseline"), study.facts.get("config", {})
    if arm is None:
        return "No differences from a baseline: the study has none."
    labels = dict(evidence.arms[["arm", "label"]].to_numpy())
    if arm not in labels:
        return (
            "No differences from the baseline, the architecture of middle depth: it has no "
            "finished run that counts here."
        )
    said = (
        f"No differences from the baseline, {labels[arm]}: it does not have two seeds in common "
        "with another architecture."
    )
    if not study.facts.get("finished", True):
        return f"{said} Further seeds come last, and the study is not finished."
    if not (asked := config.get("replicates")):
        return said
    # At least what a comparison needs; and for seeds to be kept, more must be tried than get some.
    top, seeds = max(1, asked["top"]), max(3, asked["seeds"])
    trials = max(len(study.trials), top + 1) + (top + 1) * (seeds - 1)
    options = f"replicates.top={top} replicates.seeds={seeds} n_trials={trials}"
    return f"{said} The same command with {options} trains these."


def trials_csv(study: Study) -> str:
    """Every trial and every column at full precision, and in the last columns where they come
    from."""
    frame = study.trials.copy()
    for column in frame.select_dtypes("float"):
        if (frame[column].dropna() % 1 == 0).all():
            frame[column] = frame[column].astype("Int64")  # gaps made whole numbers float
    return csv_text(frame.assign(**in_columns(about(study))))


def markdown(study: Study, evidence: Evidence, names: Sequence[str] | None = None) -> str:
    """The table of architectures in GitHub's Markdown."""
    near = nearest_rows(study)
    if near[1]:
        return f"{nothing_meets(study)} Nearest:\n\n{markdown_table(*near)}"
    columns, rows = arm_rows(study, evidence, names)
    if not rows:
        return f"No finished trial in {study.name}.\n"
    note = left_out(len(evidence.arms), "architectures")
    return markdown_table(columns, rows) + (f"\n{note}\n" if note else "")


def document(study: Study, evidence: Evidence, names: Sequence[str] | None = None) -> str:
    """The table in Markdown with what it says, where it comes from, and what its columns mean."""
    table, said = markdown(study, evidence, names), differences(evidence)
    columns, rows = arm_rows(study, evidence, names)
    if not len(evidence.arms):
        return f"{table}\n{in_list(about(study))}" if len(study.finished) else table
    parts = [*([f"{said}\n"] if said else []), table]
    parts += [f"{few}\n"] if (few := of_few(rows)) else []
    return "\n".join(
        [*parts, in_list(about(study, evidence, names)), folded("Columns", meanings(columns))]
    )


def latex(study: Study, evidence: Evidence, names: Sequence[str] | None = None) -> str:
    """The table of architectures for LaTeX, a float of booktabs with the label `tab:STUDY`."""
    columns, rows = arm_rows(study, evidence, names)
    caption = f"Study {study.name}: {budget_words(study)}, {study.metric}."
    if not rows:
        why = nothing_meets(study) if len(study.finished) else "No finished trial."
        return f"% {escape(f'{caption} {why}')}\n"
    known = about(study, evidence, names)
    lines = in_comments(known)
    caption = f"{caption} {differences(evidence)} {in_a_sentence(known)}"
    notes = [*([escape(few)] if (few := of_few(rows)) else []), *legend(columns)]
    lines += latex_float(caption, latex_table(columns, rows), label=slug(study.name), notes=notes)
    return "\n".join(lines)
