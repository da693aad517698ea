"""What to train on: `conf/data/`."""

import json
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from search.data.corpora import CORPORA, Corpus, corpus_named
from search.data.mixture import MIX, sources_of
from search.data.readers import COMPRESSED, TEXT_KINDS, TOKEN_KINDS
from space.budget import SMALLEST_VOCABULARY
from space.doors import Door, label
from space.overrides import Place
from space.ranges import AtLeast1, Range, settle_numbers
from space.words import join

READING = ("path", "subset", "split", "revision", "text_key")
"""Options of a corpus that reads them; of another they are refused."""
ENDINGS = {*TEXT_KINDS, *TOKEN_KINDS, *COMPRESSED, ".json", ".ndjson"}
"""Of files, left out of names of studies."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What to train on, and how it becomes tokens."""

    door: ClassVar[Door[Corpus]] = CORPORA
    source: str = "embedded"
    """A corpus: a name in `search/data/corpora/`, a module, or a file such as mine.py; or `mix`."""
    path: Place | None = None
    """`text`, `tokens`: a file, a folder or a glob."""
    name: str | None = None
    """`hf`: the data set's name on the hub, or a local folder. Else what records call the data;
    default: the source, or the path with `_` for all but letters and digits."""
    subset: str | None = None
    """hf: which part of a data set that has several."""
    split: str = "train"
    """hf: which split is read."""
    revision: str | None = None
    """hf: a commit or tag of the data set; default: the newest."""
    text_key: str = "text"
    """The key (jsonl) or column (parquet, hf) that holds the text."""
    options: dict[str, Any] = field(default_factory=dict)
    """Other options of the corpus."""
    sources: dict[str, Any] = field(default_factory=dict)
    """`mix`: of each source, by a name for it, options as those of `data` and a `weight`, its share
    of the tokens that are trained on beside those of the others."""
    max_bytes: AtLeast1 | None = None
    """Bytes of text after which reading stops."""
    vocab_size: Annotated[int, Range(high=2**32)] = 4096
    """Size of the tokenizer to train, end token included; a tokenizer file brings its own. For
    token ids without a tokenizer: of the one that they were made with."""
    tokenizer: Place | None = None
    """A tokenizer.json to take instead of training one."""
    end_token: Annotated[int, Range(0, 2**32)] | None = None
    """Id of the token between documents. Default: the tokenizer's own."""
    validation_fraction: float = 0.05
    """Share of the documents that is held out. Which ones depends on their content alone, so that
    adding documents does not move others."""
    validation_tokens: AtLeast1 | None = None
    """At most so many are held out, for 5% of a large corpus are more than any reading takes; the
    other documents of that share are trained on. Default: no limit."""
    in_place: bool = False
    """`tokens`: whether training files stay where they lie, and are not packed into the cache. It
    takes .bin files, of which those named val… are held out."""
    cache: Place = ".cache/data"
    """Where prepared data are kept, for every study that uses them."""
    processes: AtLeast1 | None = None
    """That encode text. Default: one per core."""

    def __post_init__(self) -> None:
        settle_numbers(self, "data.")
        corpus = None if self.source == MIX else self.corpus()
        if self.vocab_size < SMALLEST_VOCABULARY:
            raise ValueError(
                f"data.vocab_size must be at least {SMALLEST_VOCABULARY} (every byte and the end "
                f"token), but got {self.vocab_size}; choose a larger one"
            )
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                "data.validation_fraction must lie between 0 and 1, "
                f"but got {self.validation_fraction}"
            )
        if corpus is None:
            self._check_mixture()
        else:
            self._check_options(corpus)
        if self.name is None:
            object.__setattr__(self, "name", self._usual_name)

    def _check_mixture(self) -> None:
        """Its sources and what is left to them."""
        of_sources = {*READING, "options", "max_bytes", "in_place"}
        for f in fields(self):
            if f.name in of_sources and getattr(self, f.name) not in (f.default, {}):
                raise ValueError(
                    f"data.{f.name} must be left out with data=mix, but is "
                    f"{getattr(self, f.name)!r}; set it for each source, data.sources.NAME.{f.name}"
                )
        if self.sources:
            sources_of(self)

    def _check_options(self, corpus: Corpus) -> None:
        """Of one source."""
        if self.sources:
            raise ValueError(
                f"data.sources must be left out with data.source={self.source}; data=mix has them"
            )
        if self.max_bytes is not None and corpus.kind != "text":
            raise ValueError(
                f"data.max_bytes must be left out with data.source={self.source}, whose documents "
                f"are {corpus.kind}, not text, but is {self.max_bytes}"
            )
        if self.in_place and not hasattr(corpus, "in_place"):
            raise ValueError(
                f"data.in_place must be left out with data.source={self.source}, whose documents "
                "must be made into tokens first, but is true; data=tokens has it"
            )

    @property
    def in_words(self) -> str:
        """What is read: `the text at books/*.txt`."""
        if self.sources:
            parts = (made.in_words.removeprefix("the ") for made in sources_of(self).values())
            return f"the {join(list(parts))}"
        what = "text" if self.corpus().kind == "text" else "token ids"
        return f"the {what} at {self.path}" if self.path else f"the {what} of {self.name}"

    @property
    def label(self) -> str:
        """The source in names of files and studies: of a file, its stem."""
        return label(self.source)

    @property
    def _usual_name(self) -> str:
        return _in_letters(self.path or self.label)

    @property
    def short(self) -> str:
        """The data in names of studies: their name where one was given, else the last folder or
        file of their path, as `books` of `data/books/*.txt`."""
        if self.name != self._usual_name:
            return _in_letters(str(self.name))
        plain = [part for part in Path(self.path or "").parts if not set("*?[") & set(part)]
        while plain and Path(plain[-1]).suffix in ENDINGS:
            plain[-1] = Path(plain[-1]).stem
        return (_in_letters(plain[-1]) if plain else "") or self.label

    def corpus(self) -> Corpus:
        """The corpus with its options.

        Raises:
            ValueError: there is no such corpus, or it does not take an option that is given.
        """
        kind = corpus_named(self.source)
        own = {f.name for f in fields(kind)}
        self._require_read(own)
        given = {name: getattr(self, name) for name in own & SHARED}
        return _made(kind, given | self._own_options(own), self.source)

    def _require_read(self, own: set[str]) -> None:
        """Raises: ValueError for an option of reading that the corpus does not have."""
        for f in fields(self):
            if f.name in READING and f.name not in own and getattr(self, f.name) != f.default:
                hint = "; did you mean data=text?" if f.name == "path" else ""
                raise ValueError(
                    f"data.{f.name} must be left out with data.source={self.source}, which does "
                    f"not read it, but is {getattr(self, f.name)!r}{hint}"
                )

    def _own_options(self, own: set[str]) -> dict[str, Any]:
        if shared := sorted(SHARED & set(self.options)):
            raise ValueError(f"data.options must not repeat data.{shared[0]}; set that")
        if unknown := sorted(set(self.options) - own):
            known = ", ".join(sorted(own - SHARED)) or "none"
            raise ValueError(
                f"data.options must be those of {self.source} ({known}), but got {unknown[0]}"
            )
        return dict(self.options)

    def outside_options(self) -> dict[str, Any]:
        """What a corpus from outside the project was given, as JSON holds it."""
        own = {f.name for f in fields(corpus_named(self.source))}
        shared = {name: getattr(self, name) for name in own & SHARED - {"path"}}
        options: dict[str, Any] = json.loads(json.dumps(shared | self.options, default=str))
        return options


def _in_letters(text: str) -> str:
    return re.sub(r"\W+", "_", text).strip("_")


SHARED = {f.name for f in fields(DataConfig)} - {"source", "options", "sources"}
"""A corpus may have fields of these names: `data.<name>` sets them."""


def _made(kind: type[Any], given: dict[str, Any], source: str) -> Corpus:
    """The dataclass with values of its fields' types, as any configuration has them."""
    try:
        schema = OmegaConf.structured(kind)
        OmegaConf.set_readonly(schema, False)  # it is locked where the dataclass is frozen
        config = OmegaConf.merge(schema, given)
        if missing := sorted(OmegaConf.missing_keys(config)):
            raise ValueError(f"data.options.{missing[0]} must be given with data.source={source}")
        return cast(Corpus, OmegaConf.to_object(config))
    except OmegaConfBaseException as error:
        option = f"data.{'' if error.key in SHARED else 'options.'}{error.key}"
        raise ValueError(f"{option} of {source}: {str(error).splitlines()[0]}") from None
