"""Tokenizers: the files that leave with a model, and how `transformers` reads them."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from space.arch import Architecture
from space.end_tokens import end_token_of
from space.hf.errors import first_line

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


def write_tokenizer(tokenizer: Any, folder: Path, arch: Architecture) -> dict[str, int]:
    """The tokenizer's files; the ids of its first and last token, as configurations name them."""
    if tokenizer is None:
        return {}
    if hasattr(tokenizer, "save_pretrained"):
        tokenizer.save_pretrained(folder)
    elif hasattr(tokenizer, "to_str"):
        _write_bare(tokenizer, folder, arch)
    elif (path := Path(tokenizer)).is_dir():
        _copy(path, folder, arch)
    else:
        _write_bare(_read_bare(path), folder, arch)
    written = load_tokenizer(folder)
    if (largest := max(written.get_vocab().values())) >= arch.vocab_size:
        raise ValueError(
            f"the tokenizer's ids must lie below the model's vocab_size, {arch.vocab_size}, but "
            f"one is {largest}; give the tokenizer that the model was trained with"
        )
    ends = {"bos_token_id": written.bos_token_id, "eos_token_id": written.eos_token_id}
    return {name: i for name, i in ends.items() if i is not None}


def _copy(source: Path, folder: Path, arch: Architecture) -> None:
    files = [source / name for name in TOKENIZER_FILES if (source / name).is_file()]
    if not any(path.name.startswith(("tokenizer.", "vocab.")) for path in files):
        raise ValueError(f"tokenizer must be a tokenizer.json or its folder, but {source} has none")
    if [path.name for path in files] == ["tokenizer.json"]:
        return _write_bare(_read_bare(files[0]), folder, arch)
    for path in files:
        shutil.copyfile(path, folder / path.name)


def _read_bare(path: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise ValueError(
            f"tokenizer must be a tokenizer.json, but {path} is not: {error}"
        ) from None


def _write_bare(tokenizer: Any, folder: Path, arch: Architecture) -> None:
    """A tokenizer.json, with what `transformers` needs to know besides: documents were packed one
    after another, so that the token after one is the token before the next."""
    tokenizer.save(str(folder / "tokenizer.json"))
    end = end_token_of(tokenizer)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": arch.max_position_embeddings,
        "clean_up_tokenization_spaces": False,
    }
    ends = {"bos_token": end, "eos_token": end, "unk_token": end} if end else {}
    write_json(folder / "tokenizer_config.json", config | ends)


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer in a folder, as `transformers` reads it.

    Raises:
        ValueError: there is none, or not one that can be read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # many kinds, from several libraries
        raise ValueError(
            f"{folder} must hold a tokenizer that transformers reads, but {first_line(error)}"
        ) from None


def open_tokenizer(source: Path, arch: Architecture) -> Any:
    """The tokenizer in a folder or a tokenizer.json, as `transformers` reads it from an export."""
    if source.is_dir():
        return load_tokenizer(source)
    with tempfile.TemporaryDirectory() as made:
        write_tokenizer(source, Path(made), arch)
        return load_tokenizer(made)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """As `transformers` writes its own."""
    path.write_text(json.dumps(values, indent=2) + "\n")
