"""The token between documents, by the names that tokenizers have for it."""

from typing import Any

END_TOKENS = ("<|end|>", "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>")
"""Ours first; of several the first counts."""


def end_token_of(tokenizer: Any) -> str | None:
    """The first of END_TOKENS that a `tokenizers.Tokenizer` has; None where it has none."""
    return next((name for name in END_TOKENS if tokenizer.token_to_id(name) is not None), None)
