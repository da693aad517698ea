"""`table=quantization study=NAME`: what rounding weights and activations costs each arm of a study
or a table that was trained, and whether their order survives it.

Nothing is trained: it needs the weights of the runs, which `keep=all` leaves. What was measured is
kept in `measured.json`, run by run, and `reports.views.quantization` shows it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.questions.power import Untrained
from search.models import described, run_data, stored_run
from search.objectives import USUAL, WITHOUT_BYTES
from search.runs import WEIGHTS, usable_record
from search.states import State
from space.cli import one_line_errors
from space.seals import whole_json, write_json
from space.words import count

if TYPE_CHECKING:
    from ablations.config import AblationConfig

AT_ONCE = 16
"""Windows of text that are read together."""


class Quantization(Untrained):
    """Arms after quantisation without training."""

    asks = "What W8A8 and 4-bit weights cost each arm of a study, and whether their order survives."
    takes = "study, a search or a table whose runs kept their weights; nothing is trained"
    leaves = ("table.md", "table.csv", "pairs.csv", "cells.csv")
    view = "quantization"

    def measure(self, config: "AblationConfig") -> list[dict[str, Any]]:
        with one_line_errors():
            cells = cells_of(config)
        measure(cells, Path(config.outputs), Path(config.runs), config.data.cache, config.study)
        return cells


def cells_of(config: "AblationConfig") -> list[dict[str, Any]]:
    """`arm seed key` of each run of the study that finished and kept its weights.

    Raises:
        ValueError: no study is named, there is none, or fewer than two of its arms have a run that
            kept its weights: their order is what is asked.
    """
    if config.study is None:
        raise ValueError(
            "study must name the search or table whose runs are quantised, but got none; add "
            "study=NAME"
        )
    content = described(config.study, config.outputs)
    done = [t for t in content["trials"] if t["state"] == State.COMPLETE and t["value"] is not None]
    if "places" in content:  # of a table: runs that only chose a learning rate have no place in it
        names = placed(content["places"])
        done = [trial | {"arm": names[trial["key"]]} for trial in done if trial["key"] in names]
    cells = [{"arm": str(t["arm"]), "seed": t["seed"], "key": t["key"]} for t in done]
    kept = [c for c in cells if (Path(config.runs) / c["key"] / WEIGHTS).is_file()]
    if (arms := len({cell["arm"] for cell in kept})) < 2:
        verb = "have" if len(kept) > 1 else "has"
        have = f"{len(kept) or 'none'} of its {count(len(cells), 'finished run')} {verb}"
        raise ValueError(
            f"runs of at least two arms of study={config.study} must have kept their weights, but "
            f"{have}{', all of one arm' if arms and len(kept) > 1 else ''}; train it with keep=all "
            "under another name and in another runs folder"
        )
    if lost := len(cells) - len(kept):
        print(f"{lost} of {len(cells)} runs kept no weights and are left out")
    return kept


def placed(places: list[dict[str, Any]]) -> dict[str, str]:
    """The arm of each run that has a place in a table, by key: the first one where it has several.
    Panels may have arms of the same name, so that of several the name tells which."""
    several = len({place["panel"] for place in places}) > 1
    names: dict[str, str] = {}
    for place in places:
        arm = f"{place['panel']}: {place['arm']}" if several else str(place["arm"])
        names.setdefault(place["key"], arm)
    return names


def measure(
    cells: list[dict[str, Any]], outputs: Path, runs: Path, cache: str, study: str | None
) -> None:
    """Score each run in every form on the validation slice that it was trained with."""
    path = outputs / "tables" / "quantization" / "measured.json"
    with one_line_errors((ValueError,)):
        known = (
            whole_json(path, "measured runs", "remove it to measure anew") if path.is_file() else {}
        )
    before = {cell["key"]: cell for cell in known.get(study, [])}
    for number, cell in enumerate(cells, 1):
        if cell["key"] not in before:
            with one_line_errors((ValueError,)):
                before[cell["key"]] = cell | scored(runs / cell["key"], cache)
        wanted = [before[c["key"]] | c for c in cells if c["key"] in before]
        write_json(path, known | {study: wanted})
        print(f"{study}: run {number} of {len(cells)}", flush=True)


def scored(folder: Path, cache: str) -> dict[str, Any]:
    """Of one run the architecture's layers and parameters, and by form `bytes` and `value`: bits
    per byte, or nats per token where the data do not state their bytes.

    Raises:
        ValueError: its record or its data are not there.
    """
    import torch

    from search.data.cache import open_data
    from search.data.packed import losses_of, validation_spans, validation_windows
    from search.evaluate.quantised import FORMS, quantised, stored_bytes
    from space.hf import load
    from space.model import token_nll

    record = usable_record(folder)
    if record is None:
        raise ValueError(f"{folder} must hold a record, but does not; train it again")
    model, data = load(stored_run(folder, cache)), open_data(run_data(folder, cache))
    recipe = record.run.recipe
    slice_of = (data, recipe.seq_len, recipe.eval_tokens)
    (inputs, targets), spans = validation_windows(*slice_of), validation_spans(*slice_of)
    found = {}
    for form in FORMS:
        rounded, nll = quantised(model, form), [0.0] * len(spans)
        with torch.inference_mode():
            for i, start in ((i, at) for i, s in enumerate(spans) for at in _starts(s)):
                rows = slice(start, min(start + AT_ONCE, spans[i].stop))
                x, y = (torch.from_numpy(a[rows]) for a in (inputs, targets))
                hidden = rounded.hidden(x)
                each = token_nll(hidden, rounded.lm_head.weight, y, rounded.finish)
                nll[i] += float(each.double().sum())
        losses = losses_of(data, nll, targets, spans)
        loss, bpb = losses["val_loss"], losses["val_bpb"]
        found[form] = {"bytes": stored_bytes(model, form), "value": loss if bpb is None else bpb}
    return {
        "parameters": record.cost.parameters,
        "layers": record.run.architecture.num_layers,
        "metric": WITHOUT_BYTES if data.token_bytes is None else USUAL,
        "forms": found,
    }


def _starts(span: slice) -> range:
    return range(span.start, span.stop, AT_ONCE)


QUESTION = Quantization()
