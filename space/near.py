"""Names that are nearly right: did you mean …?"""

from collections.abc import Iterable, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from itertools import zip_longest
from pathlib import Path
from typing import Any, get_args, get_type_hints

EXPERIMENT = "experiment"
"""The one group of files that fills no field of its own."""


def hint(name: str, known: Iterable[str]) -> str:
    """`; did you mean tpe?` where one of the known names is near, else nothing."""
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


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
            _require_file(option, value.strip("'\""), files)
        elif option != EXPERIMENT:
            _require_field(option, schema)


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
    return ValueError(
        f"{option} must be one of {', '.join(names)}, or a path to a YAML file, but got "
        f"{given!r}{hint(given, names)}"
    )


def files_of(group: str, folders: Iterable[Path]) -> list[str]:
    """The names that a group takes: its files in these folders of configurations."""
    paths = (path for folder in folders for path in (folder / group).glob("*.yaml"))
    return sorted({path.stem for path in paths}) if group else []


def _require_file(group: str, value: str, files: Sequence[str]) -> None:
    if value in (*files, "null", "") or value.isdigit() or not set(value).isdisjoint("[{$"):
        return  # `space.overrides` says what is wrong with a number
    if value.endswith((".yaml", ".yml")):
        there = "is no name" if Path(value).exists() else "is not there"
        raise ValueError(
            f"{group} must be the name of a file, but {value} {there}; a file of your own is "
            f"FOLDER/{group}/NAME.yaml: --config-dir FOLDER {group}=NAME"
        )
    raise ValueError(
        f"{group} must be one of {', '.join(files)}, but got {value!r}{hint(value, files)}"
    )


def no_option(name: str, at: str, known: Iterable[str]) -> ValueError:
    """The error for `name` beside the known ones, all of them within `at`, such as `recipe.`."""
    names = [f"{at}{other}" for other in known]
    said = hint(f"{at}{name}", names) or f"; known are {', '.join(sorted(names))}"
    return ValueError(f"{at}{name} must be an option of this command, but is none{said}")


def _require_field(option: str, schema: type[Any]) -> None:
    """Each name on the way to a field, as far as dataclasses say which there are."""
    at, kind = "", schema
    for name in option.split("."):
        known = get_type_hints(kind)
        if name not in known:
            raise no_option(name, at, known if at else [*known, EXPERIMENT])
        inner = dataclass_of(known[name])
        if inner is None:
            return
        at, kind = f"{at}{name}.", inner


def dataclass_of(field: Any) -> type[Any] | None:
    """The dataclass that a field of this type holds, perhaps besides None; None where it holds
    another thing."""
    kinds = [kind for kind in (field, *get_args(field)) if is_dataclass(kind)]
    return kinds[0] if kinds and isinstance(kinds[0], type) else None
