"""What every corpus must keep: `data.source` names one.

    pytest tests/contracts/test_corpus.py --implementation mine.py

A file whose CORPUS needs options also defines `example(folder, variant)`: it writes a small corpus
to the folder, another one for each variant, and returns the options that read it.
"""

import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contract_fixtures import failures_of
from study_fixtures import environment, overrides
from tokenizers import Tokenizer

from search.data.cache import prepare
from search.data.config import READING, SHARED, DataConfig
from search.data.corpora import CORPORA, Corpus, TokenDocument, corpus_named, embedded
from search.data.hashes import FileHashes

DOOR = CORPORA
SMALL = 300
"""A vocabulary that a few kilobytes support."""


def lines(variant: int) -> list[str]:
    """Documents of made-up words, all different."""
    rng = random.Random(variant)
    words = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 7))) for _ in range(200)]
    return [f"{i}: " + " ".join(rng.choices(words, k=100)) for i in range(60)]


def _text(folder: Path, variant: int) -> dict[str, Any]:
    (folder / "a.jsonl").write_text("".join(json.dumps({"t": x}) + "\n" for x in lines(variant)))
    return {"path": str(folder / "a.jsonl"), "text_key": "t"}


def _tokens(folder: Path, variant: int) -> dict[str, Any]:
    rng = random.Random(variant)
    ids = [[i + 1, *(rng.randrange(1, SMALL) for _ in range(50)), 0] for i in range(60)]
    np.array(ids, dtype="<u2").tofile(folder / "a.bin")
    return {"path": str(folder / "a.bin"), "end_token": 0}


def _hf(folder: Path, variant: int) -> dict[str, Any]:
    options = _text(folder, variant)
    return {"name": str(folder), "text_key": options["text_key"]}


def beginning(source: embedded.Source) -> embedded.Source:
    """A few documents of one package: all of them take half a minute."""
    return replace(source, read=lambda: islice(source.read(), 4))


EXAMPLES = {"embedded": lambda folder, variant: {}, "text": _text, "tokens": _tokens, "hf": _hf}


@pytest.fixture
def settings(
    implementation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, int], DataConfig]:
    """Its configuration in a folder of this name, for a variant of the content."""
    monkeypatch.setattr(embedded, "SOURCES", tuple(map(beginning, embedded.SOURCES)))
    if implementation in EXAMPLES:
        example = EXAMPLES[implementation]
    else:
        module = sys.modules[corpus_named(implementation).__module__]
        example = getattr(module, "example", lambda folder, variant: {})

    def made(name: str = "here", variant: int = 0) -> DataConfig:
        (tmp_path / name).mkdir(exist_ok=True)
        options = example(tmp_path / name, variant)
        shared = {key: value for key, value in options.items() if key in SHARED}
        own = {key: value for key, value in options.items() if key not in SHARED}
        cache = str(tmp_path / "cache")
        return DataConfig(
            source=implementation, **shared, options=own, cache=cache, vocab_size=SMALL
        )

    return made


def identity(config: DataConfig) -> Any:
    corpus = config.corpus()
    return json.loads(json.dumps(corpus.identity(FileHashes(Path(config.cache) / "hashes.json"))))


def test_it_says_what_it_is(implementation: str) -> None:
    corpus = corpus_named(implementation)
    assert corpus.__doc__
    assert not corpus.__doc__.startswith(f"{corpus.__name__}("), "dataclass' own is no docstring"


def test_its_documents_are_the_same_each_time(settings: Any) -> None:
    first, again = settings().corpus(), settings().corpus()
    documents = [content(document, first) for document in first.documents()]
    assert documents
    assert documents == [content(document, first) for document in first.documents()]
    assert documents == [content(document, again) for document in again.documents()]


def content(document: Any, corpus: Corpus) -> Any:
    """What can be compared of a document, of the kind that the corpus states."""
    if corpus.kind == "text":
        assert isinstance(document, str)
        return document
    assert isinstance(document, TokenDocument)
    ids = np.asarray(document.ids)
    assert ids.dtype.kind in "iu"
    assert ids.ndim == 1
    return (ids.tolist(), document.held_out)


def test_its_identity_follows_from_content_not_from_place(settings: Any) -> None:
    here, there = settings("here"), settings("there")
    assert identity(here) == identity(here) == identity(there)


def test_its_identity_changes_with_its_documents(settings: Any) -> None:
    one, other = settings("one", 0), settings("other", 1)
    documents = [
        [content(document, corpus) for document in corpus.documents()]
        for corpus in (one.corpus(), other.corpus())
    ]
    assert (identity(one) != identity(other)) == (documents[0] != documents[1])


def test_no_document_is_both_trained_on_and_held_out(settings: Any) -> None:
    config = settings()
    if config.corpus().kind == "text":
        config = replace(config, max_bytes=300_000)
    data = prepare(config, lambda message: None)
    if data.end_token is None:
        pytest.skip("where a document ends is not known")
    train, validation = (
        {part.tobytes() for part in np.split(tokens, np.flatnonzero(tokens == data.end_token) + 1)}
        - {b""}
        for tokens in (np.asarray(data.train), np.asarray(data.validation))
    )
    assert train
    assert validation
    assert not train & validation


def test_options_that_it_does_not_have_are_refused_by_name(
    implementation: str, settings: Any
) -> None:
    config = settings()
    with pytest.raises(ValueError, match=r"data\.options must be those of .* but got nonesuch"):
        replace(config, options={**config.options, "nonesuch": 1})
    own = {field.name for field in fields(corpus_named(implementation))}
    for name in set(READING) - own:
        with pytest.raises(ValueError, match=rf"data\.{name} must be left out with data\.source="):
            replace(config, **{name: "else"})


def test_what_is_not_there_is_refused_in_one_line(settings: Any) -> None:
    config = settings()
    if config.path is None:
        pytest.skip("it reads no path")
    with pytest.raises((ValueError, OSError), match="nowhere") as caught:
        prepare(replace(config, path="nowhere"), lambda message: None)
    assert "\n" not in str(caught.value)


# --- One from outside -----------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "doors" / "corpus.md"
POEMS = "\n\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
"""The file that the documentation shows."""


@pytest.fixture
def poems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """mine.py and a folder of poems, in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(POEMS)
    (tmp_path / "poems").mkdir()
    for number, text in enumerate(lines(0)):
        (tmp_path / "poems" / f"{number}.poem").write_text(text)
    return tmp_path


def of_poems(**changes: Any) -> DataConfig:
    settings: dict[str, Any] = {"options": {"folder": "poems"}, "vocab_size": SMALL}
    return DataConfig(source="mine.py", cache="cache", **settings | changes)


def quietly(config: DataConfig) -> Any:
    return prepare(config, lambda message: None)


def test_a_file_of_the_users_is_prepared_under_a_key_of_its_own(poems: Path) -> None:
    data = quietly(of_poems())
    assert data.folder.name.startswith("mine-")
    assert data.name == "mine"
    assert quietly(of_poems()).folder == data.folder
    more = of_poems(options={"folder": "poems", "repeats": 2})
    assert quietly(more).folder != data.folder, "options are part of the key"
    (poems / "poems" / "0.poem").write_text("another")
    assert quietly(of_poems()).folder != data.folder, "content is part of the key"


def test_a_changed_source_file_is_another_corpus(poems: Path) -> None:
    before = quietly(of_poems()).folder
    (poems / "mine.py").write_text(POEMS.replace("number} {file", "number}. {file"))
    done = subprocess.run(
        [sys.executable, "-c", PREPARE], env=environment(), capture_output=True, text=True
    )
    assert done.stdout.strip().startswith("mine-"), done.stderr
    assert done.stdout.strip() != before.name


PREPARE = """
from search.data.cache import prepare
from search.data.config import DataConfig
config = DataConfig(source="mine.py", cache="cache", vocab_size=300, options={"folder": "poems"})
print(prepare(config, lambda message: None).folder.name)
"""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"options": {}}, r"data\.options\.folder must be given with data\.source=mine\.py"),
        (
            {"options": {"folder": "poems", "repeats": 0}},
            r"data\.options\.repeats must be at least",
        ),
        ({"options": {"folder": "poems", "repeats": "x"}}, r"data\.options\.repeats of mine\.py"),
        ({"options": {"folder": "poems", "path": "a"}}, r"must not repeat data\.path"),
        ({"options": {"folder": "poems", "author": "a"}}, r"\(folder, repeats\), but got author"),
        ({"path": "poems"}, r"data\.path must be left out with data\.source=mine\.py"),
    ],
)
def test_wrong_options_of_it_are_named(poems: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        of_poems(**changes)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("@dataclass\n", "", "CORPUS of .* must be a dataclass"),
        ('kind = "text"', 'kind = "poetry"', "CORPUS.kind of bad.py must be one of text, tokens"),
        ('kind = "text"', "", "must have kind, identity, documents, but lacks kind"),
        ("def documents", "def poems", "but lacks documents"),
        ("CORPUS =", "CORPORA =", "must define CORPUS"),
        ('yield f"{number} {file.read_text()}"', "yield 5", "must be str, but one is int"),
        ('kind = "text"', 'kind = "tokens"', "must be TokenDocument, but one is str"),
    ],
)
def test_a_bad_one_is_told_what_it_lacks(poems: Path, old: str, new: str, said: str) -> None:
    (poems / "bad.py").write_text(POEMS.replace(old, new))
    with pytest.raises(ValueError, match=said):
        quietly(replace(of_poems(), source="bad.py"))


@pytest.mark.slow
def test_the_suite_finds_that_an_identity_leaves_out_the_content(poems: Path) -> None:
    (poems / "blind.py").write_text(POEMS.replace("hashes.of(self.files())", "None"))
    failed = failures_of(Path(__file__), poems / "blind.py")
    assert failed == {"test_its_identity_changes_with_its_documents"}


@pytest.mark.slow
def test_a_search_trains_on_a_file_of_the_users(poems: Path) -> None:
    of_text = ("data=text", "data.path=x", "study=tiny")
    given = [text for text in overrides("n_trials=1", "replicates.seeds=1") if text not in of_text]
    mine = ["data=mine.py", "+data.options.folder=poems"]
    done = subprocess.run(
        [sys.executable, "-m", "search", *given, *mine],
        cwd=poems,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    [record] = (poems / "runs").glob("*/record.json")
    assert json.loads(record.read_text())["data"]["name"] == "mine"
    [folder] = (poems / ".cache" / "data").glob("mine-*/")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    train = np.memmap(folder / "train.bin", dtype=np.uint16)
    assert tokenizer.decode(train[:100].tolist()).startswith("0 ")


@pytest.mark.slow
def test_a_path_without_its_corpus_ends_the_command_in_one_line(poems: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "search", "data.path=book.txt"],
        cwd=poems,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert "data.path must be left out with data.source=embedded" in line
    assert "data=text" in line
