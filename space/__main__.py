"""`python -m space`: the ladder of architectures on a budget, or one architecture taken apart."""

import csv
import io
import json
import logging
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from space import formats
from space.app import option_of, verb
from space.arch import Architecture, Size
from space.axes import Candidate, Space, SpaceConfig, describe_sharing
from space.budget import Unfit, ffn_multiple, ffn_target
from space.cli import one_line_errors
from space.cost import cost, num_norms, parts
from space.device import Use
from space.files import require_writable
from space.formats import NotHeld, export_as, held_in, holds
from space.overrides import Names, Place
from space.parts import part_fields
from space.ranges import AtLeast1
from space.stored import Stored
from space.tables import Column, aligned
from space.words import count, join, percent, prefixed

FORMATS = ("table", "markdown", "csv", "json")

SOURCES = ("export", "architecture_from", "architecture_file", "architecture")
"""Options of which one chooses what is exported or shown; without any it is the ladder."""
ONLY_WITH = {
    **dict.fromkeys(("to", "tokenizer", "precision"), ("export",)),
    "study": ("export", "architecture_from"),
    **dict.fromkeys(("budget", "space", "vocab_size"), ("",)),
    **dict.fromkeys(("seq_len", "dtype_bytes", "device"), ("", *SOURCES[1:])),
}
"""With which of them an option goes, the empty name being the ladder: elsewhere it would do
nothing. Places, such as `runs`, may stand anywhere."""

Row = dict[str, Any]
"""One architecture: its fields, its cost and what follows from them, each under its own name."""


@dataclass
class DeviceConfig:
    """Devices whose predictions are shown."""

    given_as: ClassVar[str] = "names"
    """`device=iphone_13` is `device.names=iphone_13`."""
    names: Names = None
    """One or a list of them: `iphone_13`, `[iphone_13, oneplus_12:8da4w]`."""


@dataclass
class Config:
    """What `conf/space.yaml` holds."""

    space: SpaceConfig
    architecture: dict[str, Any] | None = None
    """Fields that replace those of the file."""
    architecture_file: Place | None = None
    architecture_from: Place | None = None
    export: Place | None = None
    study: str | None = None
    outputs: Place = "outputs"
    to: Place | None = None
    models: str | None = None
    pages: str | None = None
    runs: Place = "runs"
    cache: Place = ".cache/data"
    tokenizer: Place | None = None
    budget: str = "125m"
    vocab_size: Size = 32000
    seq_len: AtLeast1 = 2048
    dtype_bytes: AtLeast1 = 2
    device: DeviceConfig = field(default_factory=DeviceConfig)
    format: str = "table"
    """Of what is printed; of an export one of `space.formats`, `hf` where none is given."""
    precision: str | None = None
    """Of an export's weights; None: the format's first."""


@verb("space", Config)
def main(config: Config) -> None:
    """Export a model, or print an architecture where one is asked for, and else the ladder."""
    with one_line_errors():
        _require_one_source(config, sys.argv[1:])
        if config.export is not None:
            return _export(config.export, config)
        if config.format not in FORMATS:
            known = config.format in formats.FORMATS.names()
            export = ", which goes with export=RUN to=FOLDER" if known else ""
            raise ValueError(
                f"format must be one of {', '.join(FORMATS)}, but got {config.format!r}{export}"
            )
        _devices(config)  # a wrong name is refused before the ladder is solved
        arch = _architecture(config)
        if arch is not None:
            text = show_architecture(arch, config)
        else:
            text = show_ladder(_space(config), config)
    print(text)


def _require_one_source(config: Config, given: Sequence[str]) -> None:
    """Raises: ValueError where options of the command contradict each other, of which one would do
    nothing."""
    chosen = {name: getattr(config, name) for name in SOURCES}
    sources = [name for name, value in chosen.items() if value is not None]
    if len(sources) > 1:
        raise ValueError(
            f"one of {', '.join(SOURCES)} says what is meant, but got {join(sources)}; leave out "
            "all but one"
        )
    source = sources[0] if sources else ""
    options = [option_of(word).partition(".")[0] for word in given if not word.endswith("=null")]
    for option in options:
        goes = ONLY_WITH.get(option, (source,))
        if source not in goes:
            others = " or ".join(f"{name}=…" for name in goes if name)
            got = f"but got it with {source}=…" if source else "but got it without"
            raise ValueError(
                f"{option} must go with {others or 'the ladder of a space'}, {got}; leave "
                f"{option} out{f', or {source}' if source else f', or add {others}'}"
            )


def _space(config: Config) -> Space:
    """Raises: Unfit where nothing lies on the budget; a vocabulary that nobody gave is named."""
    try:
        return Space.from_config(config.space, config.budget, config.vocab_size)
    except Unfit as error:
        if config.vocab_size != Config.vocab_size:
            raise
        usual = f"vocab_size={config.vocab_size} is the default, give that of your data"
        raise Unfit(f"{error}; {usual}") from None


def _export(source: str, config: Config) -> None:
    logging.disable(logging.INFO)  # the hub's library tells of the temporary folder
    if config.to is None:
        raise ValueError("to must name the folder that the export goes to; add to=FOLDER")
    require_writable(Path(config.to), "to", whole=True)
    format = "hf" if config.format == "table" else config.format  # what no one has set
    model = _named(source, config)
    try:
        folder = export_as(format, model, config.to, config.tokenizer, config.precision)
    except NotHeld as error:
        if isinstance(model, Stored):
            raise _trained(error, format, model, config) from None
        raise
    print(f"exported: {folder}")
    if config.study is not None:
        _say_which(source, config.study, config)


def _say_which(source: str, study: str, config: Config) -> None:
    """Print which run the best one is, and what else the study's page advises."""
    models = import_module(str(config.models))
    if not hasattr(models, "best_in_words"):
        return
    print(models.best_in_words(study, config.outputs))
    if config.pages is not None:
        key = Path(models.named(source, study, config.outputs)).name
        pages = import_module(config.pages)
        if other := pages.besides_the_best(study, config.outputs, Path(config.runs), key):
            print(other)


def _trained(error: NotHeld, format: str, model: Stored, config: Config) -> ValueError:
    """The error for a trained model, which can leave nothing out: what can be exported instead."""
    arch = model.architecture
    kinds = [f"precision={name}" for name in held_in(format, arch)[:1]]
    kinds += [] if format == "hf" or not holds("hf", arch) else ["format=hf"]
    ways = [f"use {' or '.join(kinds)}"] if kinds else []
    find = getattr(import_module(str(config.models)), "instead", None)
    other, none = "", ""
    if config.study is not None and find is not None:
        able = partial(holds, format, precision=config.precision)
        other = find(config.study, config.outputs, able)
        none = "" if other else f" (no run of {config.study} can be exported so)"
    anew = f"train one with {error.options}" if error.options else "train one without it"
    ways.append(other or f"{anew}{none}")
    reason = str(error).partition("; ")[0]
    return ValueError(f"{reason}; {', or '.join(ways)}")


def _named(source: str, config: Config) -> str | Stored:
    """The model that the module `models` knows by this name; where it knows none, the name, of a
    folder or on the hub."""
    if config.models is None:
        return source
    try:
        models = import_module(config.models)
        stored, named = models.stored, getattr(models, "named", _as_it_is)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"models must be a module that defines stored(name, runs, cache, outputs), but {error}"
        ) from None
    source = named(source, config.study, config.outputs)
    found: Stored | None = stored(source, config.runs, config.cache, config.outputs)
    return found or source


def _as_it_is(source: str, study: str | None, outputs: str) -> str:
    return source


def _architecture(config: Config) -> Architecture | None:
    if config.architecture_from is not None:
        from space.hf import architecture_of

        return architecture_of(_named(config.architecture_from, config))
    if config.architecture_file is not None:
        return Architecture.from_yaml(config.architecture_file, "architecture_file")
    if config.architecture is not None:
        return Architecture.from_dict(config.architecture)
    return None


def show_ladder(space: Space, config: Config) -> str:
    """The architectures of a space, a row each."""
    rows = [_candidate_row(space, candidate, config) for candidate in space.candidates()]
    defaults = _defaults(space)
    rows = [row | {k: row.get(k, default) for k, default in defaults.items()} for row in rows]
    if config.format in ("csv", "json"):
        return f"[{', '.join(map(_json, rows))}]" if config.format == "json" else _csv(rows)
    shared = any(row["sharing"] != "none" for row in rows)
    columns = [c for c in LADDER if c.name != "sharing_pattern" or shared]
    columns += [Column(name, heading, _figures) for name, heading in _device_columns(config)]
    columns += [Column(name, name.replace("_", " "), _switch) for name in defaults]
    title = (
        f"{count(space.size, 'architecture')} of {space.budget}, space {space.name}, "
        f"vocabulary {space.vocab_size:,}.\nFLOPs, KV bytes and bytes moved: a token, "
        f"at {config.seq_len:,} tokens of context and {config.dtype_bytes} bytes a weight."
    )
    for said in (space.said_of_depths(), space.said_of_constraints()):
        title += f"\n{said[0].upper()}{said[1:]}." if said else ""
    title += "".join(f"\n{_of_device(use)}" for use in _devices(config))
    return f"{title}\n\n{aligned(columns, rows, config.format)}"


def _devices(config: Config) -> list[Use]:
    """The devices that are asked for: `iphone_13`, `[iphone_13, oneplus_12:8da4w]`.

    Raises:
        ValueError: one is no device.
    """
    names = config.device.names
    given = names if isinstance(names, list) else [names]
    return [Use.parse(str(text), config.seq_len) for text in given if text is not None]


def _predictions(arch: Architecture, config: Config) -> Row:
    """What each device takes, by the names that objectives and budgets have for it."""
    return {
        f"{quantity}@{use.short}": use.predict(quantity, arch)
        for use in _devices(config)
        for quantity in use.quantities
    }


def _device_columns(config: Config) -> list[tuple[str, str]]:
    """Name and heading of each column of `_predictions`; of several devices with their names."""
    uses = _devices(config)
    return [
        (
            f"{quantity}@{use.short}",
            quantity.replace("_", " ") + (f" {use.short}" if len(uses) > 1 else ""),
        )
        for use in uses
        for quantity in use.quantities
    ]


def _of_device(use: Use) -> str:
    """Where the columns of a device come from."""
    said = ", ".join(f"{quantity} at {use.precision_for(quantity)}" for quantity in use.quantities)
    return (
        f"Predicted for {use.device.name} at {count(use.length, 'token')}: {said}. It was "
        f"{use.reach}."
    )


def _defaults(space: Space) -> Row:
    """Of those fields of parts that some architecture of the space has: the others' rows lack
    them."""
    fields = part_fields(space.fixed.get("parts") or ())
    used = {name for arch in space.enumerate() for part in arch.parts for name, _ in part.values}
    return {name: field.default for name, field in fields.items() if name in used}


def show_architecture(arch: Architecture, config: Config) -> str:
    """One architecture: its parts, its cost and its layer map."""
    row = _row(arch, config)
    if config.format in ("csv", "json"):
        return _json(row) if config.format == "json" else _csv([row])
    costs = [*_cost_rows(row), *_device_rows(row, config)]
    context = f"{config.seq_len:,} tokens of context, {config.dtype_bytes} bytes a weight"
    pieces = [
        aligned(SHAPE, [row], config.format),
        aligned(PARTS, _part_rows(arch), config.format),
        f"Cost at {context}:",
        aligned(COST, costs, config.format),
        draw_layers(arch),
    ]
    return "\n\n".join(pieces)


def draw_layers(arch: Architecture) -> str:
    """The layer map: the block of every layer in turn, halves apart where they differ, and what
    else differs between layers."""
    attention, ffn = zip(*arch.layers, strict=True)
    drawn: dict[str, Sequence[Any]]
    drawn = {"blocks": attention} if attention == ffn else {"attention": attention, "FFN": ffn}
    widths = [arch.ffn_widths[block] for block in ffn]
    drawn |= {"FFN width": widths} if len(set(widths)) > 1 else {}
    drawn |= {"window": [span or "all" for span in arch.spans]} if any(arch.spans) else {}
    width = max(len(name) for name in drawn) + 2
    lines = [f"Layer map, {arch.num_layers} layers ({describe_sharing(arch)}):"]
    for name, values in drawn.items():
        first, rest = f"{name + ':':<{width}}", " " * width
        text = " ".join(map(str, values))
        lines.append(textwrap.fill(text, 100, initial_indent=first, subsequent_indent=rest))
    return "\n".join(lines)


def _row(arch: Architecture, config: Config) -> Row:
    counts = cost(arch, config.seq_len, config.dtype_bytes)
    values = arch.to_dict() | asdict(counts)
    values["embedding_share"] = counts.embedding_share
    values |= _predictions(arch, config)
    values["ffn_multiple"] = ffn_multiple(arch)
    values["ffn_drift"] = arch.ffn_ratio / ffn_target({"hidden_act": arch.hidden_act}) - 1
    return values


def _candidate_row(space: Space, candidate: Candidate, config: Config) -> Row:
    values = _row(candidate.architecture, config)
    target = ffn_target({**space.fixed, **candidate.params})
    values["ffn_drift"] = candidate.architecture.ffn_ratio / target - 1
    values["deviation"] = space.budget.deviation(candidate.architecture)
    values["sharing_pattern"] = describe_sharing(candidate.architecture)
    return values


def _part_rows(arch: Architecture) -> list[Row]:
    """Each part: how large one is, how many there are, how often they are used."""
    part, layers = parts(arch), arch.num_layers
    total = cost(arch).parameters
    sizes = [
        ("embedding", part.embedding, 1, 1),
        ("attention", part.attention, arch.num_attention_blocks, layers),
        ("FFN", part.ffn, arch.num_ffn_blocks, layers),
        ("norms", part.norm, num_norms(arch) + 1, 2 * layers + 1),
        ("output", part.output, 0 if arch.tie_word_embeddings else 1, 1),
    ]
    sizes += [("other", part.stack, 1, 1)] if part.stack else []
    rows: list[Row] = [
        {"part": name, "one": one, "distinct": n, "uses": uses, "parameters": n * one}
        for name, one, n, uses in sizes
    ]
    if arch.tie_word_embeddings:
        rows[4] |= {"part": "output (the embedding)", "one": part.embedding}
    rows.append({"part": "all", "one": "", "distinct": "", "uses": "", "parameters": total})
    return [row | {"share": row["parameters"] / total} for row in rows]


def _cost_rows(row: Row) -> list[Row]:
    names = (
        "parameters",
        "embedding_parameters",
        "non_embedding_parameters",
        "weight_bytes",
        "forward_flops_per_token",
        "train_flops_per_token",
        "kv_bytes_per_token",
        "decode_bytes_per_token",
    )
    return [{"cost": name, "value": row[name]} for name in names]


def _device_rows(row: Row, config: Config) -> list[Row]:
    return [
        {"cost": f"{quantity}@{use.short}", "value": row[f"{quantity}@{use.short}"]}
        for use in _devices(config)
        for quantity in use.quantities
    ]


def _count(value: Any) -> str:
    if isinstance(value, float):
        return _figures(value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def _figures(value: float) -> str:
    """Four significant figures."""
    return f"{value:,.4g}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _switch(value: Any) -> str:
    """A field of a part, which may be on or off."""
    return _yes(value) if isinstance(value, bool) else str(value)


SHAPE = [
    Column("num_blocks", "blocks"),
    Column("num_hidden_layers", "layers"),
    Column("hidden_size", "width"),
    Column("num_attention_heads", "heads"),
    Column("num_key_value_heads", "kv"),
    Column("head_dim", "dim"),
    Column("intermediate_size", "FFN"),
    Column("ffn_multiple", "× of"),
    Column("ffn_drift", "drift", lambda v: f"{v:+.1%}"),
    Column("vocab_size", "vocabulary", _count),
    Column("tie_word_embeddings", "tied", _yes),
]
LADDER = [
    *(c for c in SHAPE if c.name != "vocab_size"),
    Column("sharing_pattern", "sharing"),
    Column("parameters", "parameters", _count),
    Column("deviation", "deviation", lambda v: f"{v:+.3%}"),
    Column("embedding_share", "embeddings", partial(percent, digits=1)),
    Column("forward_flops_per_token", "FLOPs", prefixed),
    Column("kv_bytes_per_token", "KV bytes", prefixed),
    Column("decode_bytes_per_token", "moved", prefixed),
]
PARTS = [
    Column("part", "part"),
    Column("one", "one has", _count),
    Column("distinct", "distinct"),
    Column("uses", "uses"),
    Column("parameters", "parameters", _count),
    Column("share", "share", partial(percent, digits=1)),
]
COST = [Column("cost", "cost"), Column("value", "value", _count)]


def _csv(rows: Sequence[Row]) -> str:
    """All values but mappings, unrounded, under their own names."""
    names = [name for name in rows[0] if name not in ("layer_map", "parts")]
    out = io.StringIO()
    writer = csv.DictWriter(out, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().rstrip()


def _json(row: Row) -> str:
    """An object of a line for each value: a layer map would take hundreds if indented."""
    lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in row.items()]
    return "{\n" + ",\n".join(lines) + "\n}"


if __name__ == "__main__":
    main()
