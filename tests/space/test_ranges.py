"""Values of another kind than their option takes, and numbers that are not finite or out of range,
are refused wherever they are given."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import ConfigTypeError, OmegaConfBaseException, ValidationError

from ablations.config import AblationConfig
from reports.__main__ import ReportsConfig
from search.__main__ import SearchConfig
from search.coordinate_check import CoordinateCheckConfig
from search.evaluate.__main__ import EvaluateConfig
from search.paired import PairedConfig
from search.recipe import Recipe
from search.run import RunConfig
from space.__main__ import Config
from space.app import CONF, configuration
from space.arch import Architecture
from space.axes import Space
from space.cli import describe
from space.ranges import LARGEST, Range, number, ranges_of, require_numbers, settle_numbers

SCHEMAS = {
    "search": SearchConfig,
    "ablations": AblationConfig,
    "reports": ReportsConfig,
    "space": Config,
    "run": RunConfig,
    "evaluate": EvaluateConfig,
    "paired": PairedConfig,
    "coordinate_check": CoordinateCheckConfig,
}


def number_fields(schema: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every field of a schema that takes a number."""
    yield from ((*at, name) for name in ranges_of(schema))
    for name, hint in get_type_hints(schema).items():
        for kind in (hint, *get_args(hint)):
            if is_dataclass(kind):
                yield from number_fields(kind, (*at, name))


FIELDS = [
    pytest.param(schema, path, id=f"{verb}-{'.'.join(path)}")
    for verb, schema in SCHEMAS.items()
    for path in number_fields(schema)
]


def options_of(schema: Any, at: str = "") -> Iterator[str]:
    """The path of every field of a schema, and of those within."""
    for name, hint in get_type_hints(schema).items():
        yield f"{at}{name}"
        for kind in (hint, *get_args(hint)):
            if is_dataclass(kind):
                yield from options_of(kind, f"{at}{name}.")


@pytest.mark.parametrize("verb", SCHEMAS)
def test_a_value_of_another_kind_is_refused_in_the_words_of_its_option(verb: str) -> None:
    found = list(refused(SCHEMAS[verb]))
    assert len(found) > 5
    for option, line in found:
        assert re.fullmatch(rf"{option}\S* must be .*, but got .*; (--help|write) .*", line)


def refused(schema: Any) -> Iterator[tuple[str, str]]:
    """Each option with the line for each value that it does not take."""
    for values in (("ten", 5, [["x"]], None), ({"a": "x"},)):  # what holds a list takes no mapping
        node = OmegaConf.structured(schema)
        OmegaConf.set_readonly(node, False)
        for option in reversed(list(options_of(schema))):  # inner ones first
            for value in values:
                try:
                    OmegaConf.update(node, option, value, merge=True)
                except (ValidationError, ConfigTypeError) as error:
                    yield option, describe(error)
                except (OmegaConfBaseException, AttributeError, AssertionError):
                    pass  # such as a field within what is null


WRONG = {
    "n_trials=ten": "n_trials must be a whole number, but got 'ten'; --help",
    "recipe.lr=fast": "recipe.lr must be a number, but got 'fast'; --help",
    "report=maybe": "report must be true or false, but got 'maybe'; --help",
    "columns=5": "columns must be a list such as [a,b], but got '5'; --help",
    "replicates=5": "replicates must be given by its own options, but got 5; write replicates.NAME",
    "replicates=[5]": "replicates must be given by its own options, but got a list; write ",
    "objectives={a: 5}": "objectives must be a list such as [a,b], but got a mapping; --help",
    "recipe.horizons=[1,x]": "recipe.horizons[1] must be a number, but got 'x'; --help",
    "seed=null": "seed must be a whole number, but got null; --help",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_value_on_the_command_line_is_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(WRONG[text])}[^\n]*$"):
        configuration("search", SearchConfig, [text])


def test_a_wrong_value_in_a_file_is_named_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "proxy").mkdir()
    (tmp_path / "proxy" / "mine.yaml").write_text("# @package _global_\nrecipe: {lr: fast}\n")
    with initialize_config_dir(CONF, version_base="1.3"), pytest.raises(HydraException) as raised:
        compose("search", [f"hydra.searchpath=[file://{tmp_path}]", "proxy=mine"])
    assert describe(raised.value).startswith(
        "recipe.lr in proxy/mine.yaml must be a number, but got 'fast'; "
    )


@pytest.mark.parametrize(("schema", "path"), FIELDS)
def test_no_number_of_any_verb_may_be_endless_or_none(schema: Any, path: tuple[str, ...]) -> None:
    for value in (math.nan, math.inf, -math.inf, 1e300, -1e300, 10**30):
        given: Any = value
        for name in reversed(path):
            given = {name: given}
        with pytest.raises(ValueError, match=rf"^{re.escape('.'.join(path))} must"):
            require_numbers(given, schema)


@pytest.mark.parametrize("where", ["options", "axes", "fixed"])
def test_numbers_in_mappings_without_a_schema_are_checked(where: str) -> None:
    with pytest.raises(ValueError, match=rf"{where}\.a\[1\] must be a finite number, but got nan"):
        require_numbers({where: {"a": [1, math.nan]}})


def composed(override: str) -> None:
    config = configuration("search", SearchConfig, [override])
    Space.from_config(config.space, config.budget, 4096)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("recipe.embedding_lr_factor=-1", "recipe.embedding_lr_factor must not be negative"),
        ("recipe.lr=inf", "recipe.lr must be a finite number"),
        ("recipe.eps=inf", "recipe.eps must be a finite number"),
        ("recipe.weight_decay=inf", "recipe.weight_decay must be a finite number"),
        ("recipe.init_std=inf", "recipe.init_std must be a finite number"),
        ("placement.checkpoint_s=nan", "placement.checkpoint_s must be a finite number"),
        (f"placement.threads={10**30}", "placement.threads must be at most 4096"),
        ("budget=1e300", "a budget must be at most 1e[+]15"),
        ("data.max_bytes=-5", "data.max_bytes must be at least 1"),
        (f"seed={2**32}", "seed must be at most 4294967295"),
        ("space.axes.num_blocks=1..1000000000", "axis num_blocks must be at most 10000"),
        ("space.axes.num_blocks=[9,100000]", "axis num_blocks must be at most 10000"),
        ("++sampler.options.weight=nan", "sampler.options.weight must be a finite number"),
        ("constraints=['kv_bytes<=1e999']", "constraints must be such as"),
    ],
)
def test_an_option_out_of_range_is_named(override: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        composed(override)


@pytest.mark.parametrize(
    ("field", "value"), [("lr", math.inf), ("embedding_lr_factor", -1), ("tokens", 10**30)]
)
def test_recipes_made_in_python_are_checked_too(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{field} must"):
        Recipe(**{"tokens": 1000, field: value})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be at most 10000"),
        ({"vocab_size": 10**12}, "vocab_size must be at most 4294967296"),
        ({"num_blocks": 9999, "sharing": "cycle", "repeats": 9999}, "at most 10000 layers"),
        ({"rope_theta": math.inf}, "rope_theta must be a finite number"),
        ({"layer_map": [[0, 0], [10**12, 0]]}, "layer_map must use every attention block"),
        ({"layer_map": [0.5, 1]}, "layer_map must be a list of blocks"),
        ({"layer_map": 5}, "layer_map must be a list"),
    ],
)
def test_absurd_architectures_are_refused_before_memory_is_taken(
    fields: dict[str, Any], words: str
) -> None:
    usual = {"vocab_size": 512, "hidden_size": 64, "num_attention_heads": 4}
    with pytest.raises(ValueError, match=words):
        Architecture.from_dict(usual | {"intermediate_size": 128, "num_blocks": 2} | fields)


@dataclass
class Example:
    share: Annotated[float, Range(0, 1)] = 0.5
    count: Annotated[int, Range(1, 10)] | None = None
    any: float = 0.0


@given(st.floats(allow_nan=True, allow_infinity=True) | st.integers())
def test_a_number_is_taken_where_it_lies_in_its_range(value: float) -> None:
    for name, low, high, kind in (
        ("share", 0, 1, float),
        ("count", 1, 10, int),
        ("any", -LARGEST, LARGEST, float),
    ):
        fits = low <= value <= high and (kind is float or value == int(value))
        if not fits:
            with pytest.raises(ValueError, match=f"^{name} must"):
                settle_numbers(Example(**{name: value}))
        else:
            made = Example(**{name: value})
            settle_numbers(made)
            assert (getattr(made, name), type(getattr(made, name))) == (value, kind)


@pytest.mark.parametrize("value", [True, "3", None, [1]])
def test_what_is_no_number_is_none(value: Any) -> None:
    with pytest.raises(ValueError, match="must be a whole number"):
        number("n", value, int)
