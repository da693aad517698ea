"""The description of one decoder-only architecture."""

from collections.abc import Collection, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cached_property, lru_cache, wraps
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self, TypeVar

from space.keys import without_defaults
from space.near import absent
from space.parts import Part, Setting, field_of, settings
from space.ranges import Count, Positive, Range, settle_numbers
from space.sharing import MOST_LAYERS, LayerMap, from_order, layer_map

ACTIVATIONS = ("silu", "relu", "gelu")
NORM_OWNERS = ("block", "layer")
Layers = Annotated[int, Range(0, MOST_LAYERS, positive=True)]
Size = Annotated[int, Range(0, 2**32, positive=True)]
"""Of one side of a matrix."""
SWITCHES = ("tie_word_embeddings", "qk_norm", "attention_bias")
ARCHITECTURES = Path(__file__).parent.parent / "conf" / "architecture"


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Rotary frequencies rescaled for contexts longer than those first trained on, as in Llama 3.1
    and 3.2. Names and meanings follow Hugging Face's `rope_scaling`.

    Waves shorter than `original_max_position_embeddings` / `high_freq_factor` positions stay as
    they are, those longer than … / `low_freq_factor` are `factor` times slower; between them the
    frequency goes over smoothly.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: Count
    rope_type: str = "llama3"

    def __post_init__(self) -> None:
        if self.rope_type != "llama3":
            raise ValueError(
                f"rope_type of rope_scaling must be llama3, but got {self.rope_type!r}; leave "
                "rope_scaling out where frequencies are not rescaled"
            )
        settle_numbers(self)
        if not (self.factor >= 1 and 0 < self.low_freq_factor < self.high_freq_factor):
            raise ValueError(
                "rope_scaling must have factor >= 1 and 0 < low_freq_factor < high_freq_factor, "
                f"but got {self.factor}, {self.low_freq_factor} and {self.high_freq_factor}"
            )

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """The scaling with these fields.

        Raises:
            ValueError: an unknown or a missing field, or values out of range.
        """
        try:
            return cls(**values)
        except TypeError:
            names = ", ".join(f.name for f in fields(cls))
            raise ValueError(f"rope_scaling must have {names}, but got {values!r}") from None


A = TypeVar("A")


def _with_fields_of_parts(kind: type[A]) -> type[A]:
    """Decorator: keywords that are not fields of the class are passed to its parts."""
    init, own = kind.__init__, kind.__dataclass_fields__  # type: ignore[attr-defined]

    @wraps(init)
    def take_all(self: A, **values: Any) -> None:
        parts = values.get("parts") or ()
        further = {name: values.pop(name) for name in [*values] if name not in own}
        if further or not all(isinstance(part, Setting) for part in parts):
            values["parts"] = settings(further, parts)
        init(self, **values)

    kind.__init__ = take_all  # type: ignore[method-assign, assignment]
    return kind


@_with_fields_of_parts
@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One decoder-only architecture. Names and meanings follow Hugging Face `LlamaConfig`.

    After construction every field is filled in: what was left `None` is derived. Fields of parts
    (`space.parts`) are keywords too: `Architecture(…, sliding_window=32)`.

    Raises:
        ValueError: fields that contradict each other or are out of range.
    """

    vocab_size: Size
    hidden_size: Size
    num_blocks: Layers | None = None
    """Distinct blocks: with scope `ffn` or `attention` the distinct halves of that kind. Default:
    as the layers give."""
    num_hidden_layers: Layers | None = None
    """Layers executed. Default: as blocks, repeats and the sharing pattern give."""
    num_attention_heads: Size
    num_key_value_heads: Size | None = None
    """Each serves a group of query heads. Default: as many as those, which is multi-head
    attention."""
    head_dim: Size | None = None
    """Free of the width. Default: hidden_size / num_attention_heads."""
    intermediate_size: Size
    hidden_act: str = "silu"
    """`silu`: SwiGLU, three matrices (arXiv:2002.05202). `relu`, `gelu`: the plain FFN of two
    matrices."""
    tie_word_embeddings: bool = True
    rope_theta: Positive = 10000.0
    rope_scaling: RopeScaling | None = None
    """Fields of a `RopeScaling` are understood too."""
    rms_norm_eps: Positive = 1e-5
    qk_norm: bool = False
    """RMSNorm over each query and key head, before RoPE (Qwen3)."""
    attention_bias: bool = False
    """Bias on the query, key and value projections, not on the output (Qwen2)."""
    max_position_embeddings: Count = 2048
    sharing: str = "none"
    """A pattern of `space.sharing.PATTERNS`, or `custom` with a layer map."""
    repeats: Layers = 1
    sharing_scope: str = "block"
    """What a pattern shares: `block` (attention, FFN and, as `norms` says, both norms), `ffn` or
    `attention`."""
    norms: str = "block"
    """`block`: norms are shared with their half, as in MobileLLM; `layer`: each layer has its own.
    The halves that a scope leaves alone, and both norms with them, are one per layer."""
    layer_map: LayerMap | None = None
    """(attention block, FFN block) of each layer; a plain list of blocks is understood too."""
    parts: tuple[Setting, ...] = ()
    """What it has besides. Names of parts from outside the project in a list are understood
    too."""

    def __post_init__(self) -> None:
        self._check_types()
        self._derive("num_key_value_heads", self.num_attention_heads)
        self._check_choice("hidden_act", ACTIVATIONS)
        self._check_choice("norms", NORM_OWNERS)
        self._derive_head_dim()
        self._derive_layer_map()
        if self.num_attention_heads % self.kv_heads:
            raise ValueError(
                "num_key_value_heads must divide num_attention_heads, but got "
                f"{self.kv_heads} and {self.num_attention_heads}; choose a divisor"
            )
        for part in self.active:
            part.check(self)
        self._check_ffn_widths()

    # The derived fields are never None after construction; these say so to readers and to mypy.

    @property
    def kv_heads(self) -> int:
        """`num_key_value_heads`."""
        assert self.num_key_value_heads is not None, "filled in by __post_init__"
        return self.num_key_value_heads

    @property
    def head_size(self) -> int:
        """`head_dim`."""
        assert self.head_dim is not None, "filled in by __post_init__"
        return self.head_dim

    @property
    def layers(self) -> LayerMap:
        """`layer_map`."""
        assert self.layer_map is not None, "filled in by __post_init__"
        return self.layer_map

    @property
    def num_layers(self) -> int:
        """`num_hidden_layers`: layers executed."""
        return len(self.layers)

    @cached_property
    def num_attention_blocks(self) -> int:
        """Distinct attention halves."""
        return max(a for a, _ in self.layers) + 1

    @cached_property
    def num_ffn_blocks(self) -> int:
        """Distinct FFN halves."""
        return max(f for _, f in self.layers) + 1

    @property
    def norms_per_layer(self) -> bool:
        """Whether every layer has its own norms, even if it shares other weights."""
        return self.norms == "layer" or self.sharing_scope != "block"

    @property
    def gated(self) -> bool:
        """Whether the FFN has a gate: three matrices instead of two."""
        return self.hidden_act == "silu"

    @property
    def ffn_matrices(self) -> int:
        """Of an FFN block."""
        return 3 if self.gated else 2

    @property
    def ffn_ratio(self) -> float:
        """`intermediate_size` / `hidden_size`."""
        return self.intermediate_size / self.hidden_size

    @property
    def shape(self) -> "Shape":
        """The sizes that the budget solver finds."""
        return Shape(
            self.hidden_size,
            self.num_attention_heads,
            self.kv_heads,
            self.head_size,
            self.intermediate_size,
        )

    @property
    def active(self) -> tuple[Part, ...]:
        """The parts themselves."""
        return tuple(setting.part for setting in self.parts)

    @property
    def ffn_widths(self) -> tuple[int, ...]:
        """Width of each FFN block; their mean is `intermediate_size`."""
        widths = [self.intermediate_size] * self.num_ffn_blocks
        for part in self.active:
            own = [part.ffn_width(self, block) for block in range(len(widths))]
            widths = [w if given is None else given for w, given in zip(widths, own, strict=True)]
        return tuple(widths)

    @property
    def spans(self) -> tuple[int | None, ...]:
        """Positions that a token attends to in each layer, its own included; None: all."""
        spans: list[int | None] = [None] * self.num_layers
        for part in self.active:
            own = [part.span(self, layer) for layer in range(len(spans))]
            spans = [_shorter(a, b) for a, b in zip(spans, own, strict=True)]
        return tuple(spans)

    def value(self, name: str) -> Any:
        """A field by its name, one of a part too.

        Raises:
            ValueError: neither has it.
        """
        if name in type(self).__dataclass_fields__:
            return getattr(self, name)
        held = dict(pair for setting in self.parts for pair in setting.values)
        if name in held:
            return held[name]
        return field_of(name, [setting.name for setting in self.parts]).default

    @classmethod
    def from_yaml(cls, name: str | Path, option: str = "architecture") -> Self:
        """The architecture of `conf/architecture/<name>.yaml`, or of a YAML file given by its path.

        Raises:
            ValueError: no such file, or one that does not describe an architecture; the message
                names the option that was given.
        """
        path = Path(name)
        if path.suffix not in (".yaml", ".yml"):
            path = ARCHITECTURES / f"{name}.yaml"
        if not path.is_file():
            known = sorted(p.stem for p in ARCHITECTURES.glob("*.yaml"))
            raise absent(option, str(name), known)
        values = read_mapping(path, "the fields of one architecture, a line each")
        if not set(values) & set(FIELDS):
            raise ValueError(
                f"{option} must be a file of one architecture, with fields such as hidden_size, "
                f"but {path} has {', '.join(map(str, values))}; conf/architecture/ has examples"
            )
        return cls.from_dict(values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The architecture with these fields, its own and those of parts.

        Raises:
            ValueError: an unknown or a missing field, or values that contradict each other.
        """
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"an architecture is incomplete: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """All fields, in plain types that YAML and JSON keep; those of parts where they are not at
        their default."""
        values = _plain({name: getattr(self, name) for name in FIELDS if name != "parts"})
        for setting in self.parts:
            values |= setting.values
        outside = {setting.name: setting.identity for setting in self.parts if setting.outside}
        return values | ({"parts": outside} if outside else {})

    def canonical(self) -> dict[str, Any]:
        """The fields that decide what is computed, in plain types: the layer map stands for the
        pattern that made it. Of fields that were added since the first version, those at their
        default are left out."""
        return _plain(dict(self.identity))

    @cached_property
    def identity(self) -> tuple[tuple[str, Any], ...]:
        """`canonical()` as a key: equal for architectures that compute the same."""
        own = {name: getattr(self, name) for name in DECISIVE}
        values = without_defaults(own, DEFAULTS, KEYED)
        values["norms"] = "layer" if self.norms_per_layer or self._unshared else "block"
        return tuple({**values, **self._canonical_parts()}.items())

    @property
    def _unshared(self) -> bool:
        return all(attention == ffn == i for i, (attention, ffn) in enumerate(self.layers))

    def _canonical_parts(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        outside: tuple[str, ...] = ()
        for setting in self.parts:
            own = setting.part.canonical(self)
            values |= own
            outside += (setting.identity,) if own and setting.outside else ()
        return values | ({"parts": outside} if outside else {})

    def _check_ffn_widths(self) -> None:
        if not self.parts:
            return
        widths = self.ffn_widths
        if min(widths) < 1 or sum(widths) != len(widths) * self.intermediate_size:
            raise ValueError(
                f"FFN widths must be positive, and their mean the intermediate_size of "
                f"{self.intermediate_size}, but got {list(widths)}"
            )

    def _derive(self, name: str, value: Any) -> None:
        if getattr(self, name) is None:
            object.__setattr__(self, name, value)

    def _check_types(self) -> None:
        """Counts are whole, 100000 and 100000.0 are the same theta, and "false" is no switch."""
        if not isinstance(self.rope_scaling, RopeScaling | None):
            object.__setattr__(self, "rope_scaling", RopeScaling.from_dict(self.rope_scaling))
        settle_numbers(self)
        for name in SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, but got {getattr(self, name)!r}")

    def _check_choice(self, name: str, choices: tuple[str, ...]) -> None:
        if getattr(self, name) not in choices:
            raise ValueError(
                f"{name} must be one of {', '.join(choices)}, but got {getattr(self, name)!r}"
            )

    def _derive_head_dim(self) -> None:
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                "num_attention_heads must divide hidden_size where head_dim is not given, but "
                f"got {self.num_attention_heads} and {self.hidden_size}; choose a divisor or set "
                "head_dim"
            )
        self._derive("head_dim", self.hidden_size // self.num_attention_heads)
        if self.head_size < 2 or self.head_size % 2:
            raise ValueError(
                f"head_dim must be even, because RoPE turns pairs, but got {self.head_size}"
            )

    def _derive_layer_map(self) -> None:
        if self.layer_map is not None:
            given = _pairs(self.layer_map, self.sharing_scope)
        elif self.sharing == "custom":
            raise ValueError(
                "sharing=custom needs layer_map, the block of each layer, but got none"
            )
        else:
            given = layer_map(
                self.sharing, self._blocks_of_pattern(), self.repeats, self.sharing_scope
            )
        if self.layer_map is not None and self.sharing not in ("none", "custom"):
            self._check_pattern_gives(given)
        object.__setattr__(self, "layer_map", _dense(given))
        if self.sharing == "none" and any(
            len(set(half)) < len(half) for half in zip(*given, strict=True)
        ):
            object.__setattr__(self, "sharing", "custom")
        self._settle("num_hidden_layers", len(given))
        shared = 1 if self.sharing_scope == "ffn" else 0
        self._settle("num_blocks", max(pair[shared] for pair in given) + 1)

    def _blocks_of_pattern(self) -> int:
        """`num_blocks`, or as many as make the layers asked for."""
        if self.num_blocks is not None:
            return self.num_blocks
        layers = self.num_hidden_layers
        if layers is None:
            raise ValueError("num_blocks or num_hidden_layers must be given, but got neither")
        for blocks in range(1, layers + 1):
            try:
                if len(layer_map(self.sharing, blocks, self.repeats)) == layers:
                    return blocks
            except ValueError:
                continue
        raise ValueError(
            f"num_hidden_layers={layers} cannot be made by sharing={self.sharing} with "
            f"repeats={self.repeats}; set num_blocks instead"
        )

    def _check_pattern_gives(self, given: LayerMap) -> None:
        blocks = self.num_blocks or max(max(pair) for pair in given) + 1
        if layer_map(self.sharing, blocks, self.repeats, self.sharing_scope) != given:
            raise ValueError(
                f"layer_map must be what sharing={self.sharing} with {blocks} blocks and "
                f"{self.repeats} repeats gives, but got {given}; leave one of them out"
            )

    def _settle(self, name: str, value: int) -> None:
        """Fill in a derived field, or check the given value against it."""
        self._derive(name, value)
        if getattr(self, name) != value:
            raise ValueError(
                f"{name} must be {value} for sharing={self.sharing}, scope {self.sharing_scope} "
                f"and {self.repeats} repeats, but got {getattr(self, name)}; leave it out or "
                "change the others"
            )


FIELDS = tuple(f.name for f in fields(Architecture))
DEFAULTS = {f.name: f.default for f in fields(Architecture) if f.default is not MISSING}
DESCRIBED = ("sharing", "repeats", "num_blocks", "num_hidden_layers", "sharing_scope", "parts")
"""Fields that say how the layer map came about, or what the parts' own fields say."""
DECISIVE = tuple(name for name in FIELDS if name not in DESCRIBED)
KEYED = (
    "vocab_size",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "hidden_act",
    "tie_word_embeddings",
    "rope_theta",
    "rms_norm_eps",
    "qk_norm",
    "attention_bias",
    "max_position_embeddings",
    "norms",
    "layer_map",
)
"""Fields of the first version, which are in every key. Never add to them: see `space.keys`."""


def unknown_fields(arch: Architecture, known: Collection[str]) -> list[str]:
    """The fields of an architecture itself that decide what it computes, are not at their default,
    and are not among those that an engine or a format knows: it must refuse them. Parts say
    themselves who knows them."""
    return [name for name in arch.canonical() if name in DECISIVE and name not in known]


class Shape(NamedTuple):
    """The sizes that the budget solver finds. The names are `Architecture`'s."""

    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int

    @property
    def ffn_ratio(self) -> float:
        """`intermediate_size` / `hidden_size`."""
        return self.intermediate_size / self.hidden_size


def read_mapping(path: Path, holds: str) -> dict[str, Any]:
    """What a YAML file says, read as Hydra would: `6e-3` is a number, and no key stands twice.
    Names stay as they are written: `no:` is no switch.

    Raises:
        ValueError: it is no YAML, or no mapping; `holds` is what it should.
    """
    import yaml  # not needed to count candidates

    from space.compat import yaml_loader

    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml_loader())
    except RecursionError:
        raise ValueError(f"{path} must be YAML, but is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        what = " ".join(str(error).replace('in "<unicode string>", ', "").split())
        raise ValueError(f"{path} must be YAML, but is not: {what}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold {holds}, but holds {values!r}")
    return values


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """The values as YAML and JSON keep them."""
    plain = {**values, "layer_map": [list(pair) for pair in values["layer_map"]]}
    for name, value in values.items():
        if isinstance(value, RopeScaling):
            plain[name] = asdict(value)
        elif isinstance(value, tuple) and name != "layer_map":
            plain[name] = list(value)
    return plain


def _shorter(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else min(a, b)


def _pairs(given: Any, scope: str) -> LayerMap:
    """A layer map given as pairs, or as the shared block of each layer, in tuples."""
    if not isinstance(given, list | tuple) or len(given) > MOST_LAYERS:
        raise ValueError(
            f"layer_map must be a list of at most {MOST_LAYERS} layers, but got {given!r:.80}"
        )
    if not given:
        raise ValueError("layer_map must have at least one layer, but it is empty")
    if all(type(entry) is int for entry in given):
        return from_order(given, scope)
    try:
        pairs = [(attention, ffn) for attention, ffn in given]
    except (TypeError, ValueError):
        pairs = []
    if not pairs or any(type(block) is not int for pair in pairs for block in pair):
        raise ValueError(
            "layer_map must be a list of blocks or of (attention block, FFN block), "
            f"but got {given!r:.200}"
        )
    return tuple(pairs)


@lru_cache(maxsize=4096)
def _dense(given: LayerMap) -> LayerMap:
    """The layer map, the same object for equal ones: a study has thousands of architectures, and
    far fewer maps.

    Raises:
        ValueError: it leaves out blocks.
    """
    for half, blocks in zip(("attention", "FFN"), zip(*given, strict=True), strict=True):
        used = sorted(set(blocks))
        if used != list(range(len(used))):
            raise ValueError(f"layer_map must use every {half} block from 0 on, but got {used}")
    return given
