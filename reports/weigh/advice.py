"""Which architecture a study's page advises, where it is not that of the best run."""

from pathlib import Path

from reports.read.study import read_study
from reports.weigh.answer import to_take, weigh


def besides_the_best(study: str, outputs: str | Path, best: str) -> str:
    """What the page advises and the run to export for it; empty where that is the architecture of
    the best run, of which this is the key, or nothing is advised: of a table, or where too few
    seeds were run."""
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
    run = ranked.key.iloc[0]
    return f"Its page advises another. {to_take(read, evidence)} Its best run is export={run}."
