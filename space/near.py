"""Names that are nearly right: did you mean …?"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from itertools import zip_longest
from pathlib import Path
from typing import Any, get_args, get_type_hints

from space.words import join

EXPERIMENT = "experiment"
"""The one group of files that fills no field of its own."""


VERBS = ("space", "search", "ablations", "reports")
DEPTH = ("num_blocks", "num_hidden_layers")
SYNONYMS = {
    **dict.fromkeys(("learning_rate", "max_lr"), ("lr",)),
    **dict.fromkeys(("batch", "bs"), ("batch_size",)),
    **dict.fromkeys(("seq_length", "context", "context_length", "block_size"), ("seq_len",)),
    **dict.fromkeys(("layers", "depth", "num_layers", "n_layers", "n_layer"), DEPTH),
    **dict.fromkeys(("width", "d_model", "n_embd", "dim"), ("hidden_size",)),
    **dict.fromkeys(("heads", "num_heads", "n_heads", "n_head"), ("num_attention_heads",)),
    **dict.fromkeys(("kv_heads", "num_kv_heads", "n_kv_heads"), ("num_key_value_heads",)),
    **dict.fromkeys(("ffn", "d_ff", "ffn_dim"), ("intermediate_size",)),
    **dict.fromkeys(("vocab", "vocabulary"), ("vocab_size",)),
    **dict.fromkeys(("steps", "max_steps", "epochs"), ("tokens",)),
    **dict.fromkeys(("trials", "num_trials"), ("n_trials",)),
    "name": ("called", "study"),
}
"""What other projects call an option, and its names here, of which the first that is there is
meant."""


NEAR_A_PART = 0.8
"""How much of a name must be that of a part of a known one: `widdth` of `depth_width`."""


def hint(name: str, known: Iterable[str], within: Iterable[str] = ()) -> str:
    """`; did you mean tpe?` where one of the known names, or one of those `within` them, is what
    other projects call so, or where one of the known names, or a word of one, is near; else
    nothing."""
    names = list(known)
    head, _, last = name.rpartition(".")
    usual = [f"{head}.{word}".lstrip(".") for word in SYNONYMS.get(last, ())]
    meant = [word for word in usual if word in names]
    for word in (*usual, last):
        meant += [deeper for deeper in within if deeper.endswith(f".{word}")]
    meant += get_close_matches(name, names, n=1)
    parts = {part: other for other in reversed(names) for part in other.split("_")}
    meant += [parts[part] for part in get_close_matches(name, parts, n=1, cutoff=NEAR_A_PART)]
    return f"; did you mean {meant[0]}?" if meant else ""


def require_known(
    given: Sequence[str], schema: type[Any], groups: Sequence[str], folders: Sequence[Path]
) -> None:
    """What Hydra says of misspelt options and groups, with the name that was probably meant.

    Raises:
        ValueError: an override of no field of the schema and no group, or of a group that has no
            such file in these folders of configurations.
    """
    for text in given:
        option, equals, value = text.partition("=")
        plain = equals and option[:1] not in "+~" and not set("@/") & set(option)
        if not plain or option.partition(".")[0] == "hydra":
            continue
        if option in groups and (files := files_of(option, folders)):
            _require_file(option, value.strip("'\""), files, folders)
        elif option != EXPERIMENT:
            _require_field(option, schema, folders[0])


def require_assignments(given: Sequence[str], groups: Sequence[str]) -> None:
    """Raises: ValueError where a word of the command line is no option with its value."""
    for text, following in zip_longest(given, given[1:], fillvalue=""):
        if "=" in text or text.startswith("~"):
            continue
        path = Path(text)
        if path.suffix in (".yaml", ".yml"):
            group = path.parent.name if path.parent.name in groups else "GROUP"
            folder = path.parent.parent if group != "GROUP" else "FOLDER"
            advice = f"a file of your own is given as --config-dir {folder} {group}={path.stem}"
        elif following and "=" not in following:
            advice = f"write {text}={following}"
        else:
            advice = "--help lists them"
        raise ValueError(f"options must be NAME=VALUE, but got {text!r}; {advice}")


def absent(option: str, given: str, names: Sequence[str]) -> ValueError:
    """The error for what is neither one of the names nor, given as a path, a file that is there."""
    if given.endswith((".yaml", ".yml")):
        return ValueError(
            f"{option} must be a file that is there, but {given} is not; check the spelling (it is "
            "relative to the current folder)"
        )
    if Path(given).is_file():
        return ValueError(f"{option} must be a name or a .yaml file, but {given} is another file")
    here = {path.stem: str(path) for path in sorted(Path().glob("*.yaml"))}
    near = get_close_matches(given, here, n=1)
    mine = f"; did you mean {here[near[0]]}?" if near else ""
    return ValueError(
        f"{option} must be one of {', '.join(names)}, or a path to a YAML file, but got "
        f"{given!r}{hint(given, names) or mine}"
    )


def files_of(group: str, folders: Iterable[Path]) -> list[str]:
    """The names that a group takes: its files in these folders of configurations."""
    paths = (path for folder in folders for path in (folder / group).glob("*.yaml"))
    return sorted({path.stem for path in paths}) if group else []


def _require_file(group: str, value: str, files: Sequence[str], folders: Sequence[Path]) -> None:
    if value in (*files, "null", "") or value.isdigit() or not set(value).isdisjoint("[{$"):
        return  # `space.overrides` says what is wrong with a number
    path = Path(value)
    if value.endswith((".yaml", ".yml")) or (path.suffix and path.is_file()):
        there = "is no name" if path.exists() else "is not there"
        raise ValueError(
            f"{group} must be the name of a file, but {value} {there}; a file of your own is "
            f"FOLDER/{group}/NAME.yaml: --config-dir FOLDER {group}=NAME"
        )
    mine = (folder / f"{value}.yaml" for folder in sorted(Path().glob(f"*/{group}")))
    own = next(filter(Path.is_file, mine), None)
    where = f"; for {own} add --config-dir {own.parent.parent}" if own else ""
    beside = [folder / f"{value}.yaml" for folder in folders[1:]]
    if not own and (misplaced := next(filter(Path.is_file, beside), None)):
        where = f"; {misplaced} must be in a folder {group}/ there"
    raise ValueError(
        f"{group} must be one of {', '.join(files)}, but got {value!r}{where or hint(value, files)}"
    )


def no_option(name: str, at: str, known: Iterable[str], within: Iterable[str] = ()) -> ValueError:
    """The error for `name` beside the known ones, all of them within `at`, such as `recipe.`;
    `within` are those that these have."""
    names = [f"{at}{other}" for other in known]
    said = hint(f"{at}{name}", names, within) or f"; known are {', '.join(sorted(names))}"
    return ValueError(f"{at}{name} must be an option of this command, but is none{said}")


def _require_field(option: str, schema: type[Any], folder: Path) -> None:
    """Each name on the way to a field, as far as dataclasses say which there are."""
    at, kind = "", schema
    for name in option.split("."):
        known = get_type_hints(kind)
        if name not in known:
            if at:
                raise no_option(name, at, known)
            last = option.rpartition(".")[2]
            here = [last] if last in known else []
            here += [deeper for deeper in deeper_options(schema) if deeper.endswith(f".{name}")]
            if verbs := _verbs_with(name, folder):
                meant = f"; did you mean {here[0]}?" if here else ""
                raise ValueError(
                    f"{option} must be an option of this command, but is one of "
                    f"{join(verbs)}{meant}"
                )
            raise no_option(name, at, [*known, EXPERIMENT], deeper_options(schema))
        inner = dataclass_of(known[name])
        if inner is None:
            return
        at, kind = f"{at}{name}.", inner


def _verbs_with(option: str, folder: Path) -> list[str]:
    """The commands whose files in this folder of configurations have an option."""
    line = re.compile(rf"^(  - )?{re.escape(option)}:", re.MULTILINE)
    texts = {name: (folder / f"{name}.yaml").read_text(encoding="utf-8") for name in VERBS}
    return [f"python -m {name}" for name, text in texts.items() if line.search(text)]


def deeper_options(schema: type[Any]) -> Iterator[str]:
    """`recipe.lr`: the options of a schema's groups."""
    kinds = {name: dataclass_of(kind) for name, kind in get_type_hints(schema).items()}
    return (f"{name}.{own}" for name, kind in kinds.items() if kind for own in get_type_hints(kind))


def dataclass_of(field: Any) -> type[Any] | None:
    """The dataclass that a field of this type holds, perhaps besides None; None where it holds
    another thing."""
    kinds = [kind for kind in (field, *get_args(field)) if is_dataclass(kind)]
    return kinds[0] if kinds and isinstance(kinds[0], type) else None
