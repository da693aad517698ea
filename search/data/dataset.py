"""Names as they were before this file was split."""

from search.data.cache import open_data, prepare
from search.data.config import DataConfig
from search.data.packed import Data, batch, held_out_documents, require_tokens, validation_windows
from search.data.tokenizer import train_tokenizer

__all__ = [
    "Data",
    "DataConfig",
    "batch",
    "held_out_documents",
    "open_data",
    "prepare",
    "require_tokens",
    "train_tokenizer",
    "validation_windows",
]
