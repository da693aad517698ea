"""What the four verbs share: a Hydra app of `conf/<name>.yaml`, and what its overrides may be."""

import logging
import os
import re
import sys
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import wraps
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar, get_type_hints

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from space.cli import describe, fail, one_line_errors, reader_may_leave, speak_utf8
from space.compat import apart, child_nodes, flags_of, hide_group, hydra_flags, names_of
from space.constraints import as_override
from space.doors import Door, place_of
from space.experiments import require_own_experiment
from space.help import groups_of, help_text
from space.near import deeper_options, hint, no_option, require_assignments, require_known
from space.overrides import as_text, quoted, settle_places
from space.ranges import require_numbers
from space.several import Several, jobs_of, start, wants_law

CONF = str(Path(__file__).parent.parent / "conf")
GROUPS = tuple(sorted(path.name for path in Path(CONF).iterdir() if path.is_dir()))
PRINT_STYLE = str(Path(CONF) / "print.mplstyle")
"""Of matplotlib, for figures in files."""

CONFIGURING = (
    *(ValueError, OSError, HydraException, OmegaConfBaseException),
    *(TypeError, AttributeError, AssertionError, OverflowError, RecursionError, YAMLError),
)
"""What values may raise before they are a verb's configuration: Hydra has no kind of its own for
some that it has no use for."""
TALKATIVE = ("matplotlib", "fontTools")
"""Libraries that tell users of caches and glyphs."""
OWN = ("name", "options")
"""Fields of a door's group; what else stands there, in short, are options."""

T = TypeVar("T")

hide_group("device")  # `space.device` reads conf/device/, and commands have options of this name


def verb(
    name: str,
    schema: type[T],
    usual: Callable[[Sequence[str]], Sequence[str]] = lambda _: (),
    several: Several | None = None,
    flags: Mapping[str, str] = MappingProxyType({}),
) -> Callable[[Callable[[T], None]], Callable[[], None]]:
    """Decorator: `main(config: schema)` becomes the Hydra app of `conf/<name>.yaml`.

    `conf/quiet.yaml` keeps Hydra from making folders and logs of its own.

    `usual` may add overrides to those of the command line, which it is given. `several` says how
    the verb starts several times, as `-m` asks; without it that is refused.

    `flags` are short forms of options: `{"--watch": "watch=true"}`.

    A field of the schema whose class names a `door`, such as `sampler`, takes any implementation
    of that door: see `by_name`.

    The schema is stored as `<name>_schema`, which the YAML lists first in its `defaults`; `main`
    gets an instance of it.
    """
    ConfigStore.instance().store(name=f"{name}_schema", node=_thaw(OmegaConf.structured(schema)))

    def decorate(main: Callable[[T], None]) -> Callable[[], None]:
        trouble: list[Exception] = []

        @wraps(main)
        def with_objects(config: DictConfig) -> None:
            with one_line_errors(CONFIGURING):
                values = _objects(config, name, schema, sys.argv[1:])
            try:
                with reader_may_leave():  # here too, since Hydra prints what it raises
                    main(values)
            except Exception as error:  # Hydra would print the command line, passwords included
                trouble.append(error)

        app = hydra.main(config_path=CONF, config_name=name, version_base="1.3")(with_objects)

        @wraps(main)
        def run() -> None:
            speak_utf8()
            for library in TALKATIVE:
                logging.getLogger(library).setLevel(logging.WARNING)
            opening = (sys.modules[main.__module__].__doc__ or "").partition("\n")[0]
            os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here instead of being printed there
            trouble.clear()
            try:
                with one_line_errors(CONFIGURING):
                    sys.argv[1:] = [flags.get(word, word) for word in sys.argv[1:]]
                    hydras, given, known = _flags_and_options(sys.argv[1:], flags)
                    _require_folder(known.config_dir)
                    folders = [Path(CONF), *([Path(known.config_dir)] if known.config_dir else [])]
                    if several and not known.help and (known.multirun or wants_law(given, several)):
                        _require_flags_of_several(known)
                        raise SystemExit(_start(several, _module_of(main), given, folders))
                    _require_one_start(sys.argv[1:])
                    if known.help:
                        with reader_may_leave():
                            print(help_text(name, schema, opening, given, folders))
                        return
                    if not known.shell_completion:  # whose options are the shell's
                        require_own_experiment(given, schema, _module_of(main), folders)
                        _require_once(given)
                        given = as_meant(given, schema, name, folders)
                        sys.argv[1:] = [*hydras, *usual(given), *given]
                with one_line_errors(CONFIGURING), reader_may_leave():
                    app()
            except KeyboardInterrupt as stop:  # not while it trains, when signals stop workers
                print(str(stop) or "stopped", file=sys.stderr)
                raise SystemExit(130) from None
            if trouble:
                crash(trouble.pop(), _secrets(sys.argv[1:]))

        return run

    return decorate


def configuration(
    name: str, schema: type[T], given: Sequence[str], folders: Sequence[Path] = (Path(CONF),)
) -> T:
    """What `main` of the verb `name` would get for these overrides, with configuration in these
    folders, `conf/` first: for notebooks and scripts. `--config-dir` may stand among the overrides
    and adds its folder.

    Raises:
        ValueError: what the command would refuse, in its words.
    """
    given, own = _apart_from_folder(given)
    folders = [*folders, *own]
    elsewhere = ",".join(quoted(f"file://{folder.resolve()}") for folder in folders[1:])
    searched = [f"hydra.searchpath=[{elsewhere}]"] if elsewhere else []
    try:
        with hydra.initialize_config_dir(CONF, version_base="1.3"):
            config = hydra.compose(name, [*as_meant(given, schema, name, folders), *searched])
        flags = [f"--config-dir={folder}" for folder in folders[1:]]
        return _objects(config, name, schema, [*flags, *given])
    except (HydraException, OmegaConfBaseException, RecursionError, YAMLError) as error:
        raise ValueError(describe(error)) from None


def _apart_from_folder(given: Sequence[str]) -> tuple[list[str], list[Path]]:
    """The overrides without `--config-dir FOLDER`, in one word or two, and its folder."""
    flag, words = "--config-dir", list(given)
    for place, word in enumerate(words):
        name, equals, folder = word.partition("=")
        if name == flag and (equals or words[place + 1 :]):
            folder = folder or words[place + 1]
            _require_folder(folder)
            return words[:place] + words[place + (1 if equals else 2) :], [Path(folder)]
    return words, []


def _objects(config: DictConfig, name: str, schema: type[T], given: Sequence[str]) -> T:
    _require_known_and_given(config, schema, given)
    require_numbers(OmegaConf.to_container(config, resolve=True), schema)
    settle_places(config, schema)
    values = OmegaConf.to_object(config)
    assert isinstance(values, schema), f"conf/{name}.yaml must begin with its schema"
    return values


def as_meant(
    given: Sequence[str], schema: type[Any], name: str, folders: Sequence[Path] = (Path(CONF),)
) -> list[str]:
    """Overrides as Hydra has to get them for the verb of `conf/<name>.yaml`: fields and files by
    their short forms written out, and names that look like numbers quoted.

    Raises:
        ValueError: a value that Hydra cannot read; the message shows how it is spelt. An option or
            a file of `folders` that is not there.
    """
    require_assignments(given, groups_of(name, Path(CONF)))
    full = by_name(in_full(given, schema), doors_of(schema))
    require_known(full, schema, groups_of(name, Path(CONF)), folders)
    return [as_text(text, schema) for text in full]


def _require_once(given: Sequence[str]) -> None:
    """Raises: ValueError for an option of a command that is given twice, of which Hydra would take
    the last. In Python the last is meant to stand."""
    seen: dict[str, str] = {}
    for text in given:
        option = option_of(text)
        if option in seen and not text.startswith("~"):
            raise ValueError(
                f"{option} must be given once, but got {seen[option]} and {text}; leave one out"
            )
        seen[option] = text


def doors_of(schema: type[Any]) -> dict[str, Door[Any]]:
    """The fields of a schema that are filled through a door, which their class names in `door`."""
    kinds = ((name, getattr(kind, "door", None)) for name, kind in get_type_hints(schema).items())
    return {name: door for name, door in kinds if isinstance(door, Door)}


def in_full(given: Sequence[str], schema: type[Any]) -> list[str]:
    """The overrides as Hydra reads them: `device.names=iphone_13` in place of `device=iphone_13`,
    for fields whose class says so by `given_as`, since Hydra takes the short form for a file of
    `conf/device/`; and comparisons in lists quoted, since Hydra's grammar has no `<` outside
    quotes. Constraints of a space are added to those of its file."""
    kinds = get_type_hints(schema)
    short = {name: kind.given_as for name, kind in kinds.items() if hasattr(kind, "given_as")}
    return [
        f"{option}.{short[option]}={value}" if option in short and said else _quoted(text)
        for text in map(as_override, given)
        for option, said, value in [text.partition("=")]
    ]


def _quoted(text: str) -> str:
    return re.sub(r"""(?<=[\[,])\s*([^][,'"]*[<>]=?[^][,'"]*)""", r"'\1'", text)


def by_name(given: Sequence[str], doors: Mapping[str, Door[Any]]) -> list[str]:
    """The overrides with `sampler.name=mine.py` in place of `sampler=mine.py`, and
    `++executor.options.nodes=4` in place of `executor.nodes=4` and `executor.options.nodes=4`.

    Hydra looks for `sampler=NAME` among the files of `conf/sampler/`, which users' own have none
    in: their options stand on the command line, `'+sampler.options={pace: 3}'`.

    Raises:
        ValueError: a file or module that is none.
    """
    return [_by_name(text, doors) for text in given]


def in_short(given: Sequence[str], schema: type[Any]) -> list[str]:
    """The overrides with `executor.nodes=4` in place of `++executor.options.nodes=4`, as people
    give them to a schema with such a door."""
    short = "|".join(name for name, door in doors_of(schema).items() if door.short)
    long = re.compile(rf"^\+\+({short})\.options\.(?=[\w.]+=)")
    return [long.sub(r"\1.", text) for text in given]


def _by_name(text: str, doors: Mapping[str, Door[Any]]) -> str:
    option, _, value = text.partition("=")
    group, _, own = option.lstrip("+").partition(".")
    if own and group in doors and doors[group].short and own not in OWN:
        return f"++{group}.options.{own.removeprefix('options.')}={value}"
    name = value.strip("'\"")
    if option not in doors or not name or (Path(CONF) / option / f"{name}.yaml").is_file():
        return text
    if "." not in name and not doors[option].knows(name):
        return text  # misspelt: Hydra lists the files
    doors[option].load(name, option=option)
    spelt = name if re.fullmatch(r"[\w./-]+", name) else quoted(name)
    return f"{option}.{doors[option].field}={spelt}"


def _require_known_and_given(config: DictConfig, schema: type[Any], given: Sequence[str]) -> None:
    """Hydra lets `+` add what no one reads, and says of what is missing that it is mandatory."""
    for name, at, known in _unknown(config, schema, ""):
        raise no_option(name, at, known, () if at else deeper_options(schema))
    if missing := sorted(OmegaConf.missing_keys(config)):
        group, _, name = missing[0].partition(".")
        chosen = [text.partition("=")[2] for text in given if option_of(text) == group]
        for path in files_of(given, group, chosen[-1]) if name and chosen else ():
            empty = "" if OmegaConf.load(path) else "it is empty and "
            raise ValueError(
                f"{path} must set {name}, but {empty}sets none; write it there, or add "
                f"{missing[0]}=…"
            )
        raise ValueError(
            f"{missing[0]} must be given, but is not; add {missing[0]}=… (--help lists choices)"
        )


def _unknown(
    node: DictConfig, schema: type[Any] | None, at: str
) -> Iterator[tuple[str, str, list[str]]]:
    """Each name that is no field of its dataclass, where that is, and its fields."""
    if is_dataclass(schema):
        known = [field.name for field in fields(schema)]
        yield from ((name, at, known) for name in names_of(node) if name not in known)
    for name, child in child_nodes(node):
        yield from _unknown(child, OmegaConf.get_type(child), f"{at}{name}.")


def _start(how: Several, module: str, given: Sequence[str], folders: Sequence[Path]) -> int:
    """The exit code of several starts. Raises: ValueError where one of them is wrong."""
    jobs = jobs_of(given, how, folders)
    flags = [word for folder in folders[1:] for word in ("--config-dir", str(folder))]
    trains = "train=false" not in given  # without runs there is no page of their law
    return start(module, flags, jobs, how.law is not None, trains and wants_law(given, how))


def _require_flags_of_several(known: Namespace) -> None:
    """Raises: ValueError where several starts are asked for with a flag that is for one."""
    ours = ("overrides", "multirun", "config_dir")
    for name, value in vars(known).items():
        if value and name not in ours:
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(
                f"several starts take no flags but --config-dir, but got {flag}; leave it out"
            )


def _require_one_start(given: Sequence[str]) -> None:
    several = [x for x in given if x == "-m" or x.startswith(("--multi", "hydra.mode="))]
    if several:
        raise ValueError(
            f"{several[0]} must be left out: a start has one configuration, but got several; start "
            "the command once for each, or let a search or a table vary it"
        )


def _module_of(main: Callable[..., Any]) -> str:
    """As in `python -m search`, where the module is then called `__main__`."""
    spec = getattr(sys.modules[main.__module__], "__spec__", None)
    return (spec.name if spec else main.__module__).removesuffix(".__main__")


def _flags_and_options(
    given: Sequence[str], own: Iterable[str]
) -> tuple[list[str], list[str], Namespace]:
    """Hydra's flags, in whichever place they stand; the options; and what the flags say. Hydra's
    parser takes no options after flags that follow some, and answers with its whole usage. `own`
    are the verb's, which may be meant by another one."""
    parser = hydra_flags()
    parser.error = lambda message: fail(  # type: ignore[method-assign]
        f"flags must be Hydra's, but {message}; --hydra-help lists them"
    )
    flags, options = apart(parser, given)
    known, unknown = parser.parse_known_args(flags)
    if unknown:
        flag = unknown[0]
        raise ValueError(
            f"flags must be {''.join(f'{name}, or ' for name in own)}Hydra's, but got {flag}; "
            "--hydra-help lists these"
            f"{hint(flag, [*own, *flags_of(parser)]) or _without_dashes(flag, given)}"
        )
    return flags, options, known


def _require_folder(given: str | None) -> None:
    """Raises: ValueError where `--config-dir` is none: what was sought in it would be missed."""
    if given and not Path(given).is_dir():
        there = "is no folder" if Path(given).exists() else "is not there"
        raise ValueError(
            f"--config-dir must be a folder, but {given} {there}; check the spelling (it is "
            "relative to the current folder)"
        )
    if given and Path(given).name in GROUPS and any(Path(given).glob("*.yaml")):
        raise ValueError(
            f"--config-dir must be the folder that has {Path(given).name}/, but got {given}; give "
            f"{Path(given).parent}"
        )


def folder_flags(given: Sequence[str]) -> list[str]:
    """The flags of a command that say where its configuration lies besides `conf/`, for a command
    of another verb: `--config-dir my`. A `--config-name` is of its own verb, and flags that are not
    Hydra's, of a program that calls a verb's functions, say nothing of it."""
    parser = hydra_flags()
    known, _ = parser.parse_known_args(apart(parser, given)[0])
    named = {"--config-dir": known.config_dir, "--config-path": known.config_path}
    return [word for flag, folder in named.items() if folder for word in (flag, folder)]


def files_of(given: Sequence[str], group: str, name: str) -> list[str]:
    """The files of configuration that a group's values come from: of this name, or a path, and
    that of the experiment. `given` are the flags and options of the command."""
    folder = dict(pairwise(folder_flags(given))).get("--config-dir")
    folders = [Path(CONF), *([Path(folder)] if folder else [])]
    asked = [text.partition("=")[2] for text in given if option_of(text) == "experiment"]
    paths = [Path(name)] if name.endswith((".yaml", ".yml")) else []
    paths += [each / group / f"{name}.yaml" for each in folders]
    paths += [each / "experiment" / f"{last}.yaml" for each in folders for last in asked[-1:]]
    found = [path.resolve() for path in paths if path.is_file()]
    here = Path.cwd().resolve()
    return [str(path.relative_to(here) if path.is_relative_to(here) else path) for path in found]


def _without_dashes(flag: str, given: Sequence[str]) -> str:
    """How the option that is meant is written, its value perhaps being the word after it."""
    name = flag.lstrip("-")
    if "=" not in name:
        after = given[given.index(flag) + 1 :] if flag in given else []
        name += f"={after[0] if after and not set('-=') & set(after[0]) else '…'}"
    return f"; options have no dashes: {name}"


def _thaw(node: DictConfig) -> DictConfig:
    """The node, to be filled in by YAML and overrides: OmegaConf locks those of frozen
    dataclasses."""
    OmegaConf.set_readonly(node, None)
    for _, child in child_nodes(node):
        _thaw(child)
    return node


def _secrets(given: Sequence[str]) -> list[str]:
    """Passwords of URLs on the command line, which nothing may print."""
    return re.findall(r"://[^:/@\s]*:([^@\s]+)@", " ".join(given)) + re.findall(
        r"pass\w*=([^&\s'\"]+)", " ".join(given)
    )


def crash(error: Exception, secrets: Sequence[str]) -> NoReturn:
    """End the program with what went wrong, as Python does, but for secrets; where a file of the
    user's own went wrong, with one line that says where in it, and exit code 2."""
    if text := place_of(error):
        for secret in secrets:
            text = text.replace(secret, "***")
        fail(text)
    text = "".join(traceback.format_exception(error))
    if not any(secret in text for secret in secrets):
        raise error
    for secret in secrets:
        text = text.replace(secret, "***")
    print(text, file=sys.stderr, end="")
    raise SystemExit(1)


def option_of(override: str) -> str:
    """What an override sets, adds or takes out."""
    return override.partition("=")[0].strip().lstrip("+~")
