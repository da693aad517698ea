"""Packed tokens, and the batches that training and validation cut from them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from search.data.mixture import place_in
from search.data.readers import Tokens
from search.data.tokenizer import load_tokenizer

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Data:
    """Packed tokens, ready to train on."""

    name: str
    folder: Path
    fingerprint: str
    """Hash of the packed tokens and of what they stand for: equal fingerprints train equally."""
    vocab_size: int
    end_token: int | None
    bytes_per_token: float | None
    """Of the validation split. None where the tokens' text is not known."""
    train: Array = field(repr=False)
    """Token ids (n,), memory-mapped: uint16, or uint32 where the vocabulary needs it."""
    validation: Array = field(repr=False)
    token_bytes: Array | None = field(repr=False)
    """Bytes of text that each token stands for (vocab_size,), 0 for special ones: those of the
    validation split add up to the text that it was made of. None where that is not known."""
    tokenizer: Path | None
    sources: tuple["Source", ...] = ()
    """Of a mixture, sorted by name. `train`, `validation` and `token_bytes` are then all of theirs,
    one behind the other, and the first's."""

    @property
    def weights(self) -> tuple[int, ...]:
        """Of the sources."""
        return tuple(source.weight for source in self.sources)

    def passes(self, tokens: float) -> dict[str, float]:
        """How often a run of so many tokens reads the training text, of a mixture that of each
        source, by name."""
        if not self.sources:
            return {self.name: tokens / len(self.train)}
        return {s.name: tokens * self.shares[s.name] / len(s.data.train) for s in self.sources}

    @property
    def shares(self) -> dict[str, float]:
        """Of the tokens of a run, by the name of the source; none where there is one."""
        return {source.name: source.weight / sum(self.weights) for source in self.sources}

    def score(self, nll: float, targets: Array) -> tuple[float, float | None]:
        """(loss in nats per token, bits per byte or None) of targets whose negative
        log-likelihoods add up to `nll` nats."""
        loss = nll / targets.size
        if self.token_bytes is None:
            return loss, None
        return loss, nll / math.log(2) / float(self.token_bytes[targets].sum())

    def describe(self) -> dict[str, Any]:
        """What a record says of its data."""
        of_sources = {
            s.name: {"share": self.shares[s.name], **s.data.describe()} for s in self.sources
        }
        return ({"sources": of_sources} if of_sources else {}) | {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "vocab_size": self.vocab_size,
            "bytes_per_token": self.bytes_per_token,
            "train_tokens": len(self.train),
            "validation_tokens": len(self.validation),
        }


@dataclass(frozen=True)
class Source:
    """One source of a mixture."""

    name: str
    weight: int
    """Its share of the windows is this beside the others'."""
    data: Data


def batch(
    data: Data,
    seed: int,
    step: int,
    batch_size: int,
    seq_len: int,
    rows: slice = slice(None),
) -> tuple[Tokens, Tokens]:
    """(inputs, targets) of one step, (batch_size, seq_len) each: a pure function of its arguments.
    With `rows` these of them alone are read.

    Windows of seq_len + 1 tokens lie seq_len apart, so that every token is a target once an epoch;
    each epoch has its own order. Of a mixture each source has its share of them, in the order that
    they have where it is alone.
    """
    position = np.arange(step * batch_size, (step + 1) * batch_size)[rows]
    if not data.sources:
        return _windows(data, seed, position, seq_len)
    weights = data.weights
    source, own = np.array([place_in(weights, p) for p in position.tolist()]).reshape(-1, 2).T
    ids = np.empty((len(position), seq_len + 1), np.int64)
    for number, each in enumerate(data.sources):
        inputs, targets = _windows(each.data, seed, own[source == number], seq_len, number)
        ids[source == number] = np.hstack([inputs, targets[:, -1:]])
    return ids[:, :-1], ids[:, 1:]


def _windows(
    data: Data, seed: int, position: Array, seq_len: int, number: int = 0
) -> tuple[Tokens, Tokens]:
    """(inputs, targets) at positions of the order of one source, the mixture's `number`-th."""
    n_windows = _n_windows(data.train, seq_len)
    windows = [
        window_at(n_windows, seed, epoch, place, number)
        for epoch, place in zip(*(a.tolist() for a in divmod(position, n_windows)), strict=True)
    ]
    return _cut(data.train, np.array(windows, dtype=np.int64), seq_len)


def window_at(n_windows: int, seed: int, epoch: int, place: int, number: int = 0) -> int:
    """The window at a place of an epoch's order. Sources of another `number` push no order out of
    what is remembered."""
    if n_windows <= MOST_SORTED:
        return int(_cached_order(number)(n_windows, seed, epoch)[place])
    return walked(n_windows, _round_keys(seed, epoch), place)


MOST_SORTED = 2**24
"""So many windows are put in order by sorting, in 128 MB. Of more each place is worked out."""


def window_order(n_windows: int, seed: int, epoch: int) -> Tokens:
    """A permutation of the windows. Philox's raw stream, unlike numpy's shuffles, never changes
    between versions."""
    return np.argsort(_raw(seed, epoch, n_windows), kind="stable")


def walked(n: int, keys: tuple[int, ...], place: int) -> int:
    """Where a keyed permutation of range(n) takes a place, without the others.

    A Feistel network permutes the numbers of an even count of bits, up to four times n; it is
    walked until it comes back below n (Black and Rogaway, Ciphers with Arbitrary Finite Domains,
    2002).
    """
    half = ((n - 1).bit_length() + 1) // 2
    mask = (1 << half) - 1
    while True:
        left, right = place >> half, place & mask
        for key in keys:
            left, right = right, left ^ (_mix(right ^ key) & mask)
        place = left << half | right
        if place < n:
            return place


def _mix(x: int) -> int:
    """64 bits from 64 bits: the finaliser of SplitMix64."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    x = (x ^ x >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return x ^ x >> 31


def _raw(seed: int, epoch: int, n: int) -> Array:
    return np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)).random_raw(n)


@cache
def _cached_order(number: int) -> Callable[[int, int, int], Tokens]:
    """`window_order`, which remembers the last few of a source."""
    return lru_cache(maxsize=4)(window_order)


@lru_cache(maxsize=4)
def _round_keys(seed: int, epoch: int) -> tuple[int, ...]:
    return tuple(_raw(seed, epoch, 8).tolist())


def validation_windows(data: Data, seq_len: int, n_tokens: int) -> tuple[Tokens, Tokens]:
    """(inputs, targets) of the fixed validation slice, (windows, seq_len) each: about n_tokens
    targets, or all there are, spread evenly over the split; the same for every run. Of a mixture
    each source has an equal part of them, whatever its weight, one behind the other."""
    if data.sources:
        n_each = n_tokens // len(data.sources)
        each = [validation_windows(source.data, seq_len, n_each) for source in data.sources]
        return tuple(np.concatenate(part) for part in zip(*each, strict=True))  # type: ignore[return-value]
    available, wanted = _held_out_windows(data, seq_len, n_tokens)
    return _cut(data.validation, np.arange(wanted) * available // wanted, seq_len)


def validation_spans(data: Data, seq_len: int, n_tokens: int) -> list[slice]:
    """The rows of `validation_windows` that each source has; all where there is one."""
    n_each = n_tokens // max(1, len(data.sources))
    parts = [source.data for source in data.sources] or [data]
    rows = [_held_out_windows(part, seq_len, n_each)[1] for part in parts]
    ends = np.cumsum(rows).tolist()
    return [slice(end - n, end) for n, end in zip(rows, ends, strict=True)]


def _held_out_windows(data: Data, seq_len: int, n_tokens: int) -> tuple[int, int]:
    """How many there are in the validation split, and how many of them are looked at."""
    available = _n_windows(data.validation, seq_len)
    return available, max(1, min(available, n_tokens // seq_len))


def losses_of(
    data: Data, nll: Sequence[float], targets: Tokens, spans: Sequence[slice]
) -> dict[str, Any]:
    """`val_loss` in nats per token and `val_bpb`, where bytes are known, from the negative
    log-likelihoods of each span in nats.

    Of a mixture they are those of text mixed by its weights, and `sources` has those of each.
    """
    of_spans = list(zip(nll, (targets[span] for span in spans), strict=True))
    if not data.sources:
        return _losses(data, *of_spans[0])
    each = [
        {"source": source.name, **_losses(source.data, *of_span)}
        for source, of_span in zip(data.sources, of_spans, strict=True)
    ]
    shares = data.shares.values()
    loss = sum(share * own["val_loss"] for share, own in zip(shares, each, strict=True))
    return {"val_loss": loss, "val_bpb": _mixed_bpb(data, loss, targets, spans), "sources": each}


def text_and_weights(data: Data, targets: Tokens, spans: Sequence[slice]) -> tuple[Array, Array]:
    """Of each window of targets (W, T) its bytes of text (W,), NaN where they are not known, and
    its weight in the losses (W,): 1; in a mixture the share of its source over that of its windows.
    """
    text, weights = np.full(len(targets), np.nan), np.ones(len(targets))
    shares = data.shares or {data.name: 1.0}
    parts = [source.data for source in data.sources] or [data]
    for part, share, span in zip(parts, shares.values(), spans, strict=True):
        if part.token_bytes is not None:
            text[span] = part.token_bytes[targets[span]].sum(1)
        weights[span] = share * len(targets) / len(targets[span])
    return text, weights


def _losses(data: Data, nll: float, targets: Tokens) -> dict[str, Any]:
    loss, bpb = data.score(nll, targets)
    return {"val_loss": loss, "val_bpb": bpb}


def _mixed_bpb(data: Data, loss: float, targets: Tokens, spans: Sequence[slice]) -> float | None:
    """Bits of a token of the mixture over its bytes."""
    n_bytes = 0.0
    for source, span in zip(data.sources, spans, strict=True):
        if source.data.token_bytes is None:
            return None
        mean = float(source.data.token_bytes[targets[span]].mean())
        n_bytes += data.shares[source.name] * mean
    return loss / math.log(2) / n_bytes


def require_tokens(data: Data, seq_len: int, batch_size: int) -> None:
    """Raises: ValueError unless there is one batch to train on and one window to validate on; of
    each source of a mixture one window of both."""
    for source in data.sources:
        require_tokens(source.data, seq_len, 1)
    for split, tokens, windows in (
        ("training", data.train, batch_size),
        ("validation", data.validation, 1),
    ):
        if len(tokens) < windows * seq_len + 1:
            raise ValueError(
                f"the {split} split must hold {windows * seq_len + 1} tokens, {windows} windows of "
                f"{seq_len}, but {data.name} has {len(tokens)}; give more text, or a smaller "
                f"recipe.seq_len{' or recipe.batch_size' if split == 'training' else ''}"
            )


def held_out_documents(data: Data) -> list[str]:
    """The texts of the validation split.

    Raises:
        ValueError: the data came as tokens, without the tokenizer that made them.
    """
    if data.sources:
        return [text for source in data.sources for text in held_out_documents(source.data)]
    if data.tokenizer is None:
        raise ValueError(
            f"{data.folder} must have a tokenizer to give its text, but came as token ids without; "
            "prepare it with data.tokenizer=FILE"
        )
    tokenizer = load_tokenizer(data.tokenizer)
    ends = np.flatnonzero(data.validation == data.end_token)
    parts = np.split(data.validation, ends)
    ids = [part[1:] if i else part for i, part in enumerate(parts)]  # without the end token
    return [tokenizer.decode(part.tolist()) for part in ids if len(part)]


def _n_windows(tokens: Array, seq_len: int) -> int:
    n_windows = (len(tokens) - 1) // seq_len
    if n_windows < 1:
        raise ValueError(
            f"a split must hold {seq_len + 1} tokens for a window of {seq_len}, but has "
            f"{len(tokens)}; give more text, or a smaller seq_len"
        )
    return n_windows


def _cut(tokens: Array, windows: Tokens, seq_len: int) -> tuple[Tokens, Tokens]:
    rows = tokens[windows[:, None] * seq_len + np.arange(seq_len + 1)].astype(np.int64)
    return rows[:, :-1], rows[:, 1:]
