"""Hugging Face in and out: a folder that `transformers` loads, and a decoder from one.

What leaves is a plain model: layers that share a block are written out, each with weights of its
own, and `config.json` keeps the layer map under `isoparam`. What comes in gets the sharing back,
once the copies are found equal. Nothing of a checkpoint is executed: safetensors only, and never
`trust_remote_code`.
"""

from space.hf.card import model_card
from space.hf.config import architecture_from_config, config_of
from space.hf.read import architecture_of, find, load
from space.hf.tokenizer import load_tokenizer, open_tokenizer
from space.hf.write import export, export_model

__all__ = [
    "architecture_from_config",
    "architecture_of",
    "config_of",
    "export",
    "export_model",
    "find",
    "load",
    "load_tokenizer",
    "model_card",
    "open_tokenizer",
]
