"""Our decoder as lm-eval's `LM`: the same numbers as its `hf` model on the exported folder.

Answers to one question share its context, which is read once: their keys and values follow its
own in the cache. Contexts of one length go together, and answers are padded to the right, where
causal attention does not see it.
"""

# B requests, T positions, D hidden_size

from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Any

import torch
from lm_eval import utils
from lm_eval.api.model import TemplateLM
from torch import Tensor
from torch.nn import functional as F

from space.model import Decoder, KVCache

BATCH_TOKENS = 8192
"""Tokens of a batch, padding included: a bound on the memory of its logits."""
MAX_NEW_TOKENS = 256
"""Where a task does not say how long an answer may be, as lm-eval has it."""

Row = tuple[tuple[int, ...], tuple[int, ...]]
"""Tokens of a context, of which there is at least one, and of its continuation."""


class DecoderLM(TemplateLM):  # type: ignore[misc]
    """A decoder with its tokenizer, as lm-eval asks for models."""

    def __init__(
        self, model: Decoder, tokenizer: Any, device: str = "cpu", batch_tokens: int = BATCH_TOKENS
    ) -> None:
        super().__init__()
        self.model = model.eval().to(device)
        self.tokenizer = tokenizer
        self.place, self.batch_tokens = device, batch_tokens
        self.check: Callable[[], None] = lambda: None
        """Called before each batch; what it raises ends the evaluation."""
        self.max_length = model.arch.max_position_embeddings

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """Stands before a text without context."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids; special ones as the tokenizer would add them, but never twice."""
        bos = self.tokenizer.bos_token
        if add_special_tokens is None and bos and string.startswith(bos):
            add_special_tokens = False
        options = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer.encode(string, **options))

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """As lm-eval's; where the context's last token has swallowed the whole answer, that token
        and what follows is the answer, for none would be certain."""
        before, answer = super()._encode_pair(context, continuation)
        if answer:
            return before, answer
        whole = self.tok_encode(context + continuation)
        pairs = zip(whole, before, strict=False)
        same = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
        split = min(same, len(whole) - 1)
        return whole[:split] or [self.prefix_token_id], whole[split:]

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """As `TemplateLM`, without its bar."""
        return list(super().loglikelihood(requests, disable_tqdm=True))

    def _loglikelihood_tokens(
        self, requests: Sequence[Any], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, whether it is the greedy choice) of each continuation."""
        rows = [self._fitted(context, continuation) for _, context, continuation in requests]
        answers: list[tuple[float, bool]] = [(0.0, True)] * len(rows)
        for batch in self._batches(rows):
            self.check()
            for i, answer in zip(batch, self._read([rows[i] for i in batch]), strict=True):
                answers[i] = answer
        return answers

    def _fitted(self, context: Sequence[int], continuation: Sequence[int]) -> Row:
        """The pair as the model can see it: a long context loses its beginning."""
        room = self.max_length + 1 - len(continuation)
        if room < 1:
            raise ValueError(
                f"answers must have at most the model's {self.max_length} positions, but one has "
                f"{len(continuation)} tokens"
            )
        return tuple(context[-room:]), tuple(continuation)

    @torch.inference_mode()
    def _read(self, rows: Sequence[Row]) -> list[tuple[float, bool]]:
        """Answers to rows whose contexts have one length, each context being read once."""
        contexts = list(dict.fromkeys(context for context, _ in rows))
        number = {context: i for i, context in enumerate(contexts)}
        owners = torch.tensor([number[context] for context, _ in rows], device=self.place)  # (B,)
        lengths = [len(continuation) for _, continuation in rows]
        targets = torch.zeros(len(rows), max(lengths), dtype=torch.long)  # (B, T)
        for row, (_, continuation) in enumerate(rows):
            targets[row, : len(continuation)] = torch.tensor(continuation)
        targets = targets.to(self.place)
        cache = KVCache(self.model.arch.num_layers)
        hidden = self.model.hidden(torch.tensor(contexts, device=self.place), cache)
        hidden = hidden[owners, -1:]  # (B, 1, D)
        if max(lengths) > 1:
            cache.select(owners)
            hidden = torch.cat((hidden, self.model.hidden(targets[:, :-1], cache)), dim=1)
        real = (
            torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        )  # (B, T), without padding
        real = real.to(self.place)
        logits, wanted = self.model.logits(hidden[real]).float(), targets[real]
        nll = F.cross_entropy(logits, wanted, reduction="none")
        greedy = logits.argmax(-1) == wanted
        parts = zip(torch.split(nll, lengths), torch.split(greedy, lengths), strict=True)
        return [(-float(values.sum()), bool(hits.all())) for values, hits in parts]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood in nats of whole texts, in windows of the model's length."""
        windows, owners = [], []
        for number, request in enumerate(requests):
            for window in utils.get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                windows.append((None, *utils.make_disjoint_window(window)))
                owners.append(number)
        totals = [0.0] * len(requests)
        for owner, (value, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += value
        return totals

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations, cut before the first stop sequence; contexts of equal length go
        together and share one cache."""
        answers = [""] * len(requests)
        groups: dict[tuple[int, str], list[int]] = {}
        contexts = []
        for i, request in enumerate(requests):
            text, options = request.args
            if options.get("do_sample") or options.get("temperature", 0.0) > 0:
                raise ValueError("generation must be greedy, but the task asks for sampling")
            room = self.max_length - self._new_tokens(options)
            if room < 1:
                raise ValueError(
                    f"max_gen_toks must be below the model's {self.max_length} positions, but is "
                    f"{self._new_tokens(options)}"
                )
            contexts.append(self.tok_encode(text)[-room:])
            groups.setdefault((len(contexts[-1]), repr(options)), []).append(i)
        for (length, _), members in groups.items():
            size = max(1, self.batch_tokens // max(length, 1))
            for start in range(0, len(members), size):
                self.check()
                part = members[start : start + size]
                ids = torch.tensor([contexts[i] for i in part], device=self.place)
                for i, text in zip(
                    part, self._generate(ids, requests[part[0]].args[1]), strict=True
                ):
                    answers[i] = text
        return answers

    @torch.inference_mode()
    def _generate(self, ids: Tensor, options: dict[str, Any]) -> list[str]:
        """Texts that follow token ids (B, T)."""
        until = options.get("until") or []
        stops = [until] if isinstance(until, str) else list(until)
        stops.append(self.tokenizer.decode([self.eot_token_id]))
        cache = KVCache(self.model.arch.num_layers)
        made: list[list[int]] = [[] for _ in ids]
        done = [False] * len(ids)
        for _ in range(self._new_tokens(options)):
            ids = self.model(ids, cache)[:, -1].argmax(-1, keepdim=True)  # (B, 1)
            for row, token in enumerate(ids[:, 0].tolist()):
                if not done[row]:
                    made[row].append(token)
                    text = self.tokenizer.decode(made[row])
                    done[row] = any(stop in text for stop in stops)
            if all(done):
                break
        # The end token's own text may hold a stop sequence, which would leave the text before that.
        texts = [self.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in made]
        return [_cut(text, stops) for text in texts]

    def _new_tokens(self, options: dict[str, Any]) -> int:
        return int(options.get("max_gen_toks") or MAX_NEW_TOKENS)

    def _batches(self, rows: Sequence[Row]) -> Iterator[list[int]]:
        """Indices of rows whose contexts have one length, equal ones beside each other, the longest
        first. Rows without a continuation are left out."""
        group: list[int] = []
        longest = 0
        order = (i for i, (_, continuation) in enumerate(rows) if continuation)
        for i in sorted(order, key=lambda i: (-len(rows[i][0]), rows[i])):
            context, continuation = rows[i]
            tokens = len(context) + max(longest, len(continuation))
            same = group and len(rows[group[0]][0]) == len(context)
            if group and not (same and (len(group) + 1) * tokens <= self.batch_tokens):
                yield group
                group, longest = [], 0
            group.append(i)
            longest = max(longest, len(continuation))
        if group:
            yield group


def _cut(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.split(stop)[0] if stop else text
    return text
