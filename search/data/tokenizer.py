"""Tokenizers: trained, read, measured, applied."""

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from search.data.readers import limited
from space.end_tokens import END_TOKENS, end_token_of

TOKENIZER_TRAINING_BYTES = 256 << 20
"""Bytes of the training split that the tokenizer is trained on, at most: more text changes few
merges."""
ENCODING_BATCH_BYTES = 4 << 20


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE with GPT-2's split of words; its end token comes last.

    Raises:
        ValueError: the text has fewer different pairs than vocab_size asks for.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(limited(texts, TOKENIZER_TRAINING_BYTES), trainer)
    tokenizer.add_special_tokens(list(END_TOKENS[:1]))
    if (reached := vocab_size_of(tokenizer)) < vocab_size:
        raise ValueError(
            f"data.vocab_size must be supported by the text, but {vocab_size} was asked for and "
            f"the training split has pairs for {reached}; lower it to that, or give more text"
        )
    return tokenizer


def token_bytes(tokenizer: Tokenizer) -> np.ndarray[Any, np.dtype[Any]]:
    """Bytes of UTF-8 text that each token stands for (vocab_size,), 0 for special tokens and
    unused ids. For byte-level BPE they add up to the length of the text; for vocabularies in the
    manner of SentencePiece, to that of the text with the space put before it, and for WordPiece to
    that of its words."""
    size = np.zeros(vocab_size_of(tokenizer), dtype="<i8")
    parts = json.loads(tokenizer.to_str())
    byte_level = "ByteLevel" in json.dumps([parts["pre_tokenizer"], parts["decoder"]])
    inside = parts["model"].get("continuing_subword_prefix") or ""
    added = tokenizer.get_added_tokens_decoder()
    for token, i in tokenizer.get_vocab().items():
        if i in added and added[i].special:
            continue
        if byte_level:  # but added tokens are in the vocabulary as they are in the text
            size[i] = len(token.encode() if i in added else token)
        else:
            size[i] = _piece_bytes(token if i in added else token.removeprefix(inside))
    unknown = tokenizer.token_to_id(parts["model"].get("unk_token") or "")
    if unknown is not None:
        size[unknown] = 0  # its name is not the text
    return size


def _piece_bytes(token: str) -> int:
    """Length of a SentencePiece token's text: ▁ is a space, <0x0A> one byte."""
    is_byte = len(token) == 6 and token.startswith("<0x") and token.endswith(">")
    return 1 if is_byte else len(token.replace("▁", " ").encode())


def encoded(
    tokenizer: Tokenizer, texts: Iterable[str], end_token: int
) -> Iterator[tuple[list[int], list[int]]]:
    """(token ids, how many of them each text has) of some texts after the other, end tokens
    included. A special token's name within a text is text like any other."""
    tokenizer.encode_special_tokens = True
    for group in groups(texts, ENCODING_BATCH_BYTES):
        of_texts = [e.ids for e in tokenizer.encode_batch_fast(group, add_special_tokens=False)]
        for ids in of_texts:
            ids.append(end_token)
        yield list(chain.from_iterable(of_texts)), [len(ids) for ids in of_texts]


def groups(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    """Lists of consecutive texts, of at least `size` characters but for the last."""
    group: list[str] = []
    length = 0
    for text in texts:
        group.append(text)
        length += len(text)
        if length >= size:
            yield group
            group, length = [], 0
    if group:
        yield group


def vocab_size_of(tokenizer: Tokenizer) -> int:
    """One more than the largest id."""
    return max(tokenizer.get_vocab().values()) + 1


def tokenizer_file(tokenizer: str) -> Path:
    """The tokenizer.json that a file or its folder is.

    Raises:
        FileNotFoundError: it is neither.
    """
    path = Path(tokenizer)
    if path.is_file():
        return path
    if (path / "tokenizer.json").is_file():
        return path / "tokenizer.json"
    raise FileNotFoundError(
        f"data.tokenizer must be a tokenizer.json or its folder, but nothing is at {path}"
    )


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a tokenizer.json.

    Raises:
        ValueError: it is none.
    """
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"{path} must be a tokenizer.json, but is not: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def end_token_id(tokenizer: Tokenizer, wanted: int | None) -> int:
    """The id asked for, or that of the first of END_TOKENS.

    Raises:
        ValueError: the tokenizer has no such token.
    """
    if wanted is not None:
        if not 0 <= wanted < vocab_size_of(tokenizer):
            raise ValueError(
                f"data.end_token must lie in [0, {vocab_size_of(tokenizer)}), but got {wanted}"
            )
        return wanted
    if (name := end_token_of(tokenizer)) is not None:
        found: int = tokenizer.get_vocab()[name]
        return found
    raise ValueError(
        "the tokenizer must have a token to end documents with, but has none of "
        f"{', '.join(END_TOKENS)}; set data.end_token to its id"
    )
