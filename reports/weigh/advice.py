"""Which architecture a study's page advises, where it is not that of the best run."""

from pathlib import Path

from reports.read.study import read_study
from reports.weigh.answer import to_take, weigh
from search.runs import WEIGHTS


def besides_the_best(study: str, outputs: str | Path, runs: Path, best: str) -> str:
    """What the page advises and the run to export for it, of those in `runs`; empty where that is
    the architecture of the best run, of which this is the key, or nothing is advised: of a table,
    or where too few seeds were run."""
    try:
        read = read_study(study, outputs)
    except ValueError:  # a table
        return ""
    evidence = weigh(read)
    if evidence.choice is None:
        return ""
    done = read.eligible
    of_arm = done[done.arm == evidence.choice.take.arm]
    if best in set(of_arm.key):
        return ""
    ranked = of_arm.sort_values(read.metric, ascending=read.lower_is_better)
    kept = [key for key in ranked.key if (runs / key / WEIGHTS).is_file()]
    if kept:
        run = f"Its best run with weights is export={kept[0]}."
    else:
        lost = ranked.key.iloc[0]
        run = f"Its best run kept no weights; export={lost} says how to train it again."
    return f"Its page advises another. {to_take(read, evidence)} {run}"
