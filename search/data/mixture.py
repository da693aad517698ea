"""`data=mix`: several sources with weights, and the tokenizer that they have in common.

A mixture refers to the packed tokens of its sources, each prepared and cached as it would be alone:
other weights encode nothing anew.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import chain
from math import gcd, isfinite, lcm
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from search.data.hashes import digest_of, seal
from search.data.readers import limited
from search.data.split import content_hash, threshold
from search.data.stretches import checked
from search.data.tokenizer import TOKENIZER_TRAINING_BYTES, train_tokenizer
from space import device
from space.files import folder_atomically, umask
from space.overrides import settle_places
from space.seals import Damaged, read_json, write_json

if TYPE_CHECKING:
    from search.data.config import DataConfig
    from search.data.encode import Progress

T = TypeVar("T")

MIX = "mix"
"""`data.source` of a mixture."""
NAME = re.compile(r"(?!total$|[0-9a-f]{12}$)[A-Za-z][\w-]*", re.ASCII)
"""Of a source: it stands beside the total, and in names of columns, val_bpb@NAME, where 12 digits
are a file's hash."""
OF_ALL = ("vocab_size", "tokenizer", "end_token", "cache", "processes")
"""Options that all sources have in common: they are set for the mixture alone."""
HANDED_DOWN = (*OF_ALL, "validation_fraction", "validation_tokens")
"""Options of the mixture that a source has too, unless it sets its own."""


def weights_of(given: Mapping[str, Any]) -> dict[str, int]:
    """The weights of sources by name, as the smallest whole numbers of the same ratio: 0.7, 0.2 and
    0.1 are 7, 2 and 1, and so are 70, 20 and 10.

    Raises:
        ValueError: one is missing, or no positive number.
    """
    exact = {name: _weight(name, source) for name, source in sorted(given.items())}
    scale = lcm(*(weight.denominator for weight in exact.values()))
    whole = {name: int(weight * scale) for name, weight in exact.items()}
    return {name: weight // gcd(*whole.values()) for name, weight in whole.items()}


def _weight(name: str, source: Any) -> Fraction:
    given = source.get("weight") if isinstance(source, Mapping) else None
    number = isinstance(given, int | float) and not isinstance(given, bool) and isfinite(given)
    if not number or given <= 0:  # type: ignore[operator]  # it is a number
        raise ValueError(
            f"data.sources.{name}.weight must be a positive number, its share of the tokens beside "
            f"the others', but got {given!r}"
        )
    return Fraction(str(given))


def sources_of(config: "DataConfig") -> dict[str, "DataConfig"]:
    """The configuration of each source, sorted by name: with what the mixture hands down.

    Raises:
        ValueError: there are not several, or something is wrong with one; it is named.
    """
    if len(config.sources) < 2:
        raise ValueError(
            "data.sources must name two sources or more, such as {web: {source: text, path: web, "
            f"weight: 0.7}}, code: {{…}}}}, but names {len(config.sources)}"
        )
    if wrong := [name for name in config.sources if not _may_name(name)]:
        raise ValueError(
            "data.sources must have names of letters, digits, - and _ that begin with a letter and "
            "are not total, a device's or 12 hexadecimal digits, but got "
            f"{wrong[0]!r}; choose another"
        )
    weights_of(config.sources)
    made = {name: _source(config, name) for name in sorted(config.sources)}
    _require_one_vocabulary(config, made)
    return made


def _may_name(name: Any) -> bool:
    """Whether a source may be called so."""
    is_name = isinstance(name, str) and NAME.fullmatch(name) is not None
    return is_name and not device.is_known(name)


def _source(config: "DataConfig", name: str) -> "DataConfig":
    own = {key: value for key, value in config.sources[name].items() if key != "weight"}
    if common := sorted(set(own) & set(OF_ALL)):
        raise ValueError(
            f"data.sources.{name} must leave out {common[0]}, which all sources have in common; "
            f"set data.{common[0]}"
        )
    if "source" not in own:
        raise ValueError(
            f"data.sources.{name}.source must say what it is, such as text, hf or tokens, but is "
            "not given"
        )
    if own["source"] == MIX or "sources" in own:
        raise ValueError(f"data.sources.{name} must be a source, but is a mixture; name its own")
    given = {key: getattr(config, key) for key in HANDED_DOWN} | own
    try:
        schema = OmegaConf.structured(type(config))
        OmegaConf.set_readonly(schema, False)  # it is locked since the dataclass is frozen
        whole = OmegaConf.merge(schema, given)
        assert isinstance(whole, DictConfig), "as the schema is"
        settle_places(whole, type(config), "data.")
        made: DataConfig = OmegaConf.to_object(whole)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        said = str(error).splitlines()[0]
        raise ValueError(f"data.sources.{name}.{error.key or ''}: {said}") from None
    except ValueError as error:
        raise ValueError(f"data.sources.{name}: {error}") from None
    return made


def each_source(config: "DataConfig", make: "Callable[[DataConfig], T]") -> dict[str, T]:
    """What is made of each source, by name.

    Raises:
        ValueError: what is wrong with one; it is named.
    """
    made = {}
    for name, source in sources_of(config).items():
        try:
            made[name] = make(source)
        except (ValueError, FileNotFoundError) as error:
            raise ValueError(f"data.sources.{name}: {error}") from error
    return made


def _require_one_vocabulary(config: "DataConfig", sources: Mapping[str, "DataConfig"]) -> None:
    """Raises: ValueError where ids of one source need not mean what those of another do."""
    kinds = {name: source.corpus().kind for name, source in sources.items()}
    ids = [name for name, kind in kinds.items() if kind == "tokens"]
    if config.tokenizer is None and ids and len(ids) < len(kinds):
        raise ValueError(
            "data.tokenizer must be the one that the token ids of "
            f"data.sources.{ids[0]} were made with, since other sources are text, but is not "
            "given; set data.tokenizer=FILE"
        )


def common_tokenizer(
    config: "DataConfig", recipes: Mapping[str, Any], progress: "Progress"
) -> str | None:
    """The tokenizer.json of all sources: the one given, or one trained on text of all of them, as
    many bytes of each whatever their weights. None where all are token ids. It is kept in the cache
    under a key of `recipes`, what the sources' text follows from.

    Raises:
        ValueError, OSError: a source cannot be read, or has too little text.
    """
    sources = sources_of(config)
    if config.tokenizer or any(source.corpus().kind == "tokens" for source in sources.values()):
        return config.tokenizer
    folder = Path(config.cache) / f"tokenizer-{digest_of(recipes)}"
    kept = folder / "tokenizer.json"
    if not _is_whole(folder):
        progress(f"data: training a tokenizer of {config.vocab_size} tokens on all sources")
        most = TOKENIZER_TRAINING_BYTES // len(sources)
        texts = chain(*(limited(_training_texts(source), most) for source in sources.values()))
        made = train_tokenizer(texts, config.vocab_size)
        with folder_atomically(folder) as part:
            made.save(str(part / kept.name))
            write_json(part / SEAL, {kept.name: seal(part / kept.name)})
            part.chmod(0o777 & ~umask())
    return str(kept)


SEAL = "seal.json"


def _is_whole(folder: Path) -> bool:
    """Whether a tokenizer is there as it was written."""
    try:
        return all(seal(folder / name) == known for name, known in read_json(folder / SEAL).items())
    except (FileNotFoundError, Damaged, AttributeError):
        return False


def _training_texts(source: "DataConfig") -> Iterator[str]:
    """The documents that are not held out. The corpus is read once."""
    documents = checked(limited(source.corpus().documents(), source.max_bytes))
    first: list[tuple[str, bytes]] = []

    def hashes() -> Iterator[int]:
        for document in documents:
            first.append(document)
            yield content_hash(document[1])

    most = threshold(hashes(), source.validation_fraction, str(source.path or source.name))
    for text, content in chain(first, documents):
        if content_hash(content) > most:
            yield text


def fingerprint_of(sources: Sequence[tuple[str, str, int]]) -> str:
    """Of (name, fingerprint, weight) of each source. Names are part of it, since readings of runs
    have them."""
    return digest_of([MIX, *map(list, sources)])


def place_in(weights: Sequence[int], position: int) -> tuple[int, int]:
    """(source, how many windows it had before) of the window at a position of a run.

    The sources are halved again and again. Of a node's windows its first half has had their share,
    rounded, at every position; so a source's count is off its share by half a window for each
    halving at most, ceil(log2(sources)) / 2 in all. Nothing is drawn or remembered, and whole
    numbers make it the same everywhere.
    """
    first = 0
    while len(weights) > 1:
        half = len(weights) // 2
        part, whole = sum(weights[:half]), sum(weights)
        before, after = ((2 * p * part + whole) // (2 * whole) for p in (position, position + 1))
        if after > before:
            weights, position = weights[:half], before
        else:
            weights, position, first = weights[half:], position - before, first + half
    return first, position
