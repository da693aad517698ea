"""An answer that the context's last token swallows is no certain one."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from search.evaluate.harness import DecoderLM
from space.arch import Architecture
from space.model import Decoder


@pytest.fixture
def lm(tmp_path: Path) -> DecoderLM:
    """A model whose tokenizer merges `a` and `b`, over spaces too."""
    vocab = {"</s>": 0, "a": 1, "b": 2, "c": 3, "ab": 4, " ": 5}
    tokenizer = Tokenizer(models.BPE(vocab, [("a", "b")]))
    arch = Architecture(
        vocab_size=6, hidden_size=16, num_blocks=2, num_attention_heads=2, intermediate_size=24
    )
    torch.manual_seed(0)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")
    return DecoderLM(Decoder(arch), wrapped)


def answers(lm: DecoderLM, *pairs: tuple[str, str]) -> Any:
    return lm.loglikelihood([SimpleNamespace(args=pair) for pair in pairs])


def log_likelihood(lm: DecoderLM, context: list[int], token: int) -> float:
    with torch.no_grad():
        return float(lm.model(torch.tensor([context]))[0, -1].log_softmax(0)[token])


@pytest.mark.parametrize(
    ("context", "ids", "token"), [("ca", [3], 4), ("a", [0], 4), ("cab c", None, None)]
)
def test_the_token_that_swallows_an_answer_is_the_answer(
    lm: DecoderLM, context: str, ids: list[int] | None, token: int | None
) -> None:
    ((value, _),) = answers(lm, (context, "b"))
    if ids is None or token is None:  # nothing is swallowed
        ids, token = lm.tok_encode(context), 2
    assert value == pytest.approx(log_likelihood(lm, ids, token), rel=1e-5)
    assert value < 0
