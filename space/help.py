"""What `--help` prints: the options of a verb with their meaning, and the groups that it has.

The meaning is what stands beside a key in `conf/`, or under its field in the dataclass. Hydra's own
help says no meanings, and lists the groups of all verbs.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from space.compat import yaml_loader
from space.near import dataclass_of, files_of

WIDTH, COLUMN = 110, 34
"""Of the text; and where meanings begin."""
GROUP = re.compile(r"\s*- (?P<name>[a-z_]+): (?P<file>\w+)\s*(?:#\s*(?P<note>.*))?")
"""A line of the list `defaults`: a group of files, and which of them is usual."""
KEY = re.compile(r"(?P<indent>\s*)(?P<name>\w+):(?P<value>[^#]*)(?:#\s*(?P<note>.*))?")
SHOWN = 14
"""Files of a group that are named."""


@dataclass(frozen=True)
class File:
    """What a file of `conf/` says: its values and the notes beside them, by dotted path."""

    values: Mapping[str, Any]
    notes: Mapping[str, str]

    @classmethod
    def read(cls, path: Path, at: str = "") -> "File":
        """The file as it stands at `at`, such as `sampler.`, unless it says that it is global."""
        text = path.read_text(encoding="utf-8")
        at = "" if "# @package _global_" in text else at
        content = yaml.load(text, Loader=yaml_loader()) or {}
        notes = {f"{at}{name}": note for name, note in _notes(text)}
        return cls(dict(_flat(content, at)), notes)


def groups_of(name: str, folder: Path) -> list[str]:
    """The groups of the verb of `<name>.yaml` in this folder of configurations."""
    return [group["name"] for group in _groups((folder / f"{name}.yaml").read_text("utf-8"))]


def _groups(text: str) -> list[dict[str, Any]]:
    """`name file note` of each group that a verb's file lists among its defaults."""
    return [match.groupdict() for match in map(GROUP.fullmatch, text.splitlines()) if match]


def help_text(
    name: str, schema: type[Any], opening: str, given: Sequence[str], folders: Sequence[Path]
) -> str:
    """The help of the verb of `conf/<name>.yaml`, whose module begins with `opening`, which names
    the command; `given` may choose files of groups, whose values are then shown."""
    text = (folders[0] / f"{name}.yaml").read_text(encoding="utf-8")
    chosen = dict(text.split("=", 1) for text in given if "=" in text)
    groups = _groups(text)
    for group in groups:
        group["file"] = chosen.get(group["name"], group["file"])
    own = File.read(folders[0] / f"{name}.yaml")
    of_groups = [part for group in groups for part in _parts(group, folders)]
    values = {key: value for part in [*of_groups, own] for key, value in part.values.items()}
    docs = dict(_options(schema))
    meanings = {key: note for part in of_groups for key, note in part.notes.items()}
    meanings |= {key: doc for key, (_, doc) in docs.items() if doc} | dict(own.notes)
    examples = [line.lstrip("# ") for line in text.partition("defaults:")[0].splitlines()]
    verb = re.match(r"`?(python -m [\w.]+)", opening)
    usage = f"usage: {verb[1]} OPTION=VALUE …" if verb else opening
    lines = [usage, "", *(f"  {line}" for line in examples if line)]
    if groups:
        lines += ["", "Groups, each a file of conf/GROUP/ (your own: --config-dir FOLDER):", ""]
        lines += [line for group in groups for line in _group(group, folders)]
    lines += ["", "Options:", ""]
    for key in sorted(docs, key=lambda key: key not in own.values):  # its own first
        lines += _line(f"{key}={_shown(values.get(key, docs[key][0]))}", meanings.get(key, ""))
        inner = [name for name in values if name.startswith(f"{key}.") and name in meanings]
        lines += [x for name in inner for x in _line(f"{name}={values[name]}", meanings[name])]
    lines += ["", "--cfg job prints the configuration, --hydra-help lists flags."]
    return "\n".join(lines)


def _parts(group: Mapping[str, Any], folders: Sequence[Path]) -> list[File]:
    paths = (folder / group["name"] / f"{group['file']}.yaml" for folder in folders)
    return [File.read(path, f"{group['name']}.") for path in paths if path.is_file()]


def _group(group: Mapping[str, Any], folders: Sequence[Path]) -> list[str]:
    files = files_of(group["name"], folders)
    more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
    note = re.sub(r"^conf/\w+/: ", "", group["note"] or "")
    names = f"{', '.join(files[:SHOWN])}{more}"
    return _line(f"{group['name']}={group['file']}", f"{note}: {names}" if note else names)


def _line(left: str, right: str) -> list[str]:
    """`left` and beside it `right`, wrapped; on a line of its own where `left` is long."""
    wrapped = textwrap.wrap(right, WIDTH - COLUMN, break_long_words=False) or [""]
    if len(left) + 4 > COLUMN:
        wrapped.insert(0, "")
    first, *others = wrapped
    lines = [f"  {left:<{COLUMN - 2}}{first}", *(f"{'':{COLUMN}}{line}" for line in others)]
    return [line.rstrip() for line in lines]


def _options(schema: type[Any], at: str = "") -> Iterator[tuple[str, tuple[Any, str]]]:
    """Each field of a schema by its dotted path, with its default and its docstring."""
    kinds, docs = get_type_hints(schema), dict(_docs(schema))
    for field in fields(schema):
        inner = dataclass_of(kinds[field.name])
        if inner is not None:
            yield from _options(inner, f"{at}{field.name}.")
        else:
            yield f"{at}{field.name}", (_default(field), docs.get(field.name, ""))


def _default(field: "Field[Any]") -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return "…" if field.default is MISSING else field.default


def _docs(schema: type[Any]) -> Iterator[tuple[str, str]]:
    """The string under each field, of base classes first."""
    for kind in reversed(schema.__mro__[:-1]):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
        except (OSError, TypeError):
            continue
        body = next(node for node in tree.body if isinstance(node, ast.ClassDef)).body
        for node, after in pairwise(body):
            if isinstance(node, ast.AnnAssign) and isinstance(after, ast.Expr):
                doc = ast.literal_eval(after.value) if isinstance(after.value, ast.Constant) else ""
                yield ast.unparse(node.target), " ".join(str(doc).split()).replace("`", "")


def _notes(text: str) -> Iterator[tuple[str, str]]:
    """Each comment beside a key, with the key's dotted path."""
    at: list[tuple[int, str]] = []
    for match in filter(None, map(KEY.fullmatch, text.splitlines())):
        indent = len(match["indent"])
        at = [(depth, name) for depth, name in at if depth < indent] + [(indent, match["name"])]
        if match["note"]:
            yield ".".join(name for _, name in at), match["note"].strip()


def _flat(content: Mapping[str, Any], at: str) -> Iterator[tuple[str, Any]]:
    """Every value by its dotted path, mappings as wholes too."""
    for name, value in content.items():
        yield f"{at}{name}", value
        if isinstance(value, dict):
            yield from _flat(value, f"{at}{name}.")


def _shown(value: Any) -> str:
    """As it is given on the command line."""
    if isinstance(value, str):
        return "…" if value == "???" else value
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n")
    text = text.strip()
    return text if len(text) <= COLUMN else "{…}" if isinstance(value, dict) else text
